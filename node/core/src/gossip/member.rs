//! One member in the list of a node: what was heard, and what is believed.

use std::sync::Arc;

use crate::gossip::config::GossipConfig;
use crate::gossip::message::{Entry, Pulse};
use crate::gossip::phi::Arrivals;
use crate::gossip::probe::ANSWER_INTERVALS;
use crate::gossip::profile::{Profile, Tag};
use crate::gossip::view::Status;

/// Superseded tags that are remembered, so that they are not asked for again.
pub(super) const RETIRED_TAGS_MAX: usize = 4;

/// A process that still claims an older boot of a node: perhaps a message that was late, perhaps a
/// copy of its volume.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ghost {
    pub process: (u64, u64),
    pub counter: u64,
    pub first_ms: u64,
}

#[derive(Debug)]
pub(super) struct Member {
    pub profile: Arc<Profile>,
    pub tag: Tag,
    pub pulse: Pulse,
    pub arrivals: Arrivals,
    pub status: Status,
    pub since_ms: u64,
    /// When something about it changed that everybody must learn: it became known, its profile was
    /// replaced, or another thing is believed of it. On the lived clock.
    pub news_ms: u64,
    /// Since when it is asked itself and through others, on the lived clock; none while it is heard.
    pub probed_ms: Option<u64>,
    pub retired: Vec<Tag>,
    pub ghost: Option<Ghost>,
    /// Whether a copy of its volume was told of in this start.
    pub clone_told: bool,
    /// Whether a mark behind the remembered one was told of in this start.
    pub mark_told: bool,
}

impl Member {
    /// A member just heard of. `lived_ms` is the time that suspicion reckons in, `now_ms` that of
    /// the caller's clock.
    pub fn new(entry: Entry, tag: Tag, lived_ms: u64, now_ms: u64, interval_ms: u64) -> Self {
        let status = if entry.pulse.leaving { Status::Down } else { Status::Alive };
        Self {
            profile: entry.profile,
            tag,
            pulse: entry.pulse,
            arrivals: Arrivals::new(lived_ms, interval_ms),
            status,
            since_ms: now_ms,
            news_ms: lived_ms,
            probed_ms: None,
            retired: Vec::new(),
            ghost: None,
            clone_told: false,
            mark_told: false,
        }
    }

    /// What its silence up to `lived_ms` says. Nobody is down who was not asked in vain before.
    pub fn assess(&self, lived_ms: u64, config: &GossipConfig, pause_ms: u64) -> Status {
        // Only a heartbeat brings back who is down; doubt that came later does not.
        if self.pulse.leaving || self.status == Status::Down {
            return Status::Down;
        }
        let phi = self.arrivals.phi(lived_ms, config, pause_ms);
        let patience = ANSWER_INTERVALS * config.interval_ms;
        let asked = |since: u64| lived_ms.saturating_sub(since) >= patience;
        if phi >= config.phi_down && self.probed_ms.is_some_and(asked) {
            Status::Down
        } else if phi >= config.phi_suspect {
            Status::Suspect
        } else {
            Status::Alive
        }
    }

    /// Takes a newer pulse of the same process; the caller has compared their ages.
    pub fn advance(&mut self, pulse: Pulse, lived_ms: u64) {
        self.arrivals.heard(lived_ms, self.status.is_up());
        self.probed_ms = None;
        self.pulse = pulse;
    }

    /// Which process of the node this is.
    pub fn process(&self) -> (u64, u64) {
        (self.profile.boot, self.profile.nonce)
    }
}
