//! The settings of gossip, as plain data checked once.

/// How often, to how many, and when silence counts as death.
#[derive(Debug, Clone, PartialEq)]
pub struct GossipConfig {
    /// Milliseconds between two raises of the own counter; 50 to 10,000.
    pub interval_ms: u64,
    /// Members that get the list each interval; 1 to 16.
    pub fanout: usize,
    /// Phi from which a member is suspected.
    pub phi_suspect: f64,
    /// Phi from which a member is held for down; not below `phi_suspect`.
    pub phi_down: f64,
    /// Silence beyond the mean that is always accepted, in milliseconds.
    pub pause_ms: u64,
    /// The least standard deviation that phi reckons with, in milliseconds: without a floor a very
    /// regular link would be called dead after one late message.
    pub deviation_floor_ms: u64,
    /// Members through which a suspected one is asked before it is held for down; at most 16.
    pub probe_helpers: usize,
    /// Rows of other members in one periodic list; the whole list where that has no more. 64 to
    /// 32,768.
    pub rows_max: usize,
    /// A member that is down for this long and that no document names is forgotten.
    pub forget_after_ms: u64,
    /// Most members that are remembered; those that the document names are always taken.
    pub members_max: usize,
    /// Most bytes of one message: room for a row of every member, 12 bytes each, and 8 KiB.
    pub message_max_bytes: usize,
}

impl Default for GossipConfig {
    fn default() -> Self {
        Self {
            interval_ms: 1_000,
            fanout: 2,
            phi_suspect: 3.0,
            phi_down: 8.0,
            pause_ms: 2_500,
            deviation_floor_ms: 500,
            probe_helpers: 3,
            rows_max: 700,
            forget_after_ms: 3_600_000,
            members_max: 4_096,
            message_max_bytes: 64 * 1024,
        }
    }
}

/// A setting that cannot work. Nothing was built; the same settings fail again.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("gossip.{field}: {rule}")]
pub struct ConfigError {
    field: &'static str,
    rule: &'static str,
}

impl GossipConfig {
    /// Whether the settings can work together.
    pub fn check(&self) -> Result<(), ConfigError> {
        let rules = [
            ("interval_ms", "50 to 10000", (50..=10_000).contains(&self.interval_ms)),
            ("fanout", "1 to 16", (1..=16).contains(&self.fanout)),
            ("phi_suspect", "a number from 0.5 to 100", (0.5..=100.0).contains(&self.phi_suspect)),
            (
                "phi_down",
                "a number from phi_suspect to 100",
                (self.phi_suspect..=100.0).contains(&self.phi_down),
            ),
            ("pause_ms", "at most 600000", self.pause_ms <= 600_000),
            ("deviation_floor_ms", "10 to 60000", (10..=60_000).contains(&self.deviation_floor_ms)),
            ("probe_helpers", "at most 16", self.probe_helpers <= 16),
            ("rows_max", "64 to 32768", (64..=32_768).contains(&self.rows_max)),
            (
                "forget_after_ms",
                "at least 60 intervals",
                self.forget_after_ms >= 60 * self.interval_ms,
            ),
            ("members_max", "8 to 32768", (8..=32_768).contains(&self.members_max)),
            (
                "message_max_bytes",
                "at least 8192 and 12 for each of members_max, at most 1048576",
                (8_192 + 12 * self.members_max..=1_048_576).contains(&self.message_max_bytes),
            ),
        ];
        match rules.into_iter().find(|(_, _, holds)| !holds) {
            Some((field, rule, _)) => Err(ConfigError { field, rule }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_work_and_nonsense_is_named() {
        GossipConfig::default().check().unwrap();
        let bad = GossipConfig { fanout: 0, ..GossipConfig::default() };
        assert_eq!(bad.check().unwrap_err().to_string(), "gossip.fanout: 1 to 16");
        let bad = GossipConfig { phi_down: f64::NAN, ..GossipConfig::default() };
        assert!(bad.check().is_err());
        let bad = GossipConfig { phi_down: 1.0, ..GossipConfig::default() };
        assert!(bad.check().is_err());
    }
}
