//! Refuses a configuration that cannot work, naming the first field that is wrong.

use std::path::PathBuf;
use std::time;

use kvasir_core::limits::VALUE_HARD_MAX_BYTES;
use kvasir_core::merkle::{BITS_MAX, BITS_MIN};

use super::{Config, ConfigError};

impl Config {
    /// Refuses what cannot work, naming the first field.
    ///
    /// # Errors
    /// The field and what to write instead.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let wrong =
            |field: &str, why: String| Err(ConfigError::Invalid { field: field.to_string(), why });
        for (field, address) in [
            ("http.listen", &self.http.listen),
            ("peer.listen", &self.peer.listen),
            ("admin.listen", &self.admin.listen),
        ] {
            if let Err(why) = host_and_port(address) {
                return wrong(field, why);
            }
        }
        self.validate_addresses()?;
        for seed in &self.node.seeds {
            if let Err(why) = host_and_port(seed) {
                return wrong("node.seeds", why);
            }
        }
        if self.node.weight == 0 {
            return wrong("node.weight", "must be at least 1".to_string());
        }
        if self.node.datacenter.is_empty() {
            return wrong("node.datacenter", "must not be empty".to_string());
        }
        if !(1..=VALUE_HARD_MAX_BYTES as u64).contains(&self.http.value_max_bytes.0) {
            return wrong("http.value_max_bytes", "must be between 1B and 16MiB".to_string());
        }
        if self.http.timeout.0.is_zero() || self.http.timeout > self.http.timeout_max {
            return wrong(
                "http.timeout",
                "must be above 0 and at most http.timeout_max".to_string(),
            );
        }
        if self.http.timeout_max.0 > time::Duration::from_secs(600) {
            return wrong("http.timeout_max", "must be at most 10m".to_string());
        }
        self.validate_bounds()?;
        if let Err(error) = tracing_subscriber::EnvFilter::try_new(&self.log.filter) {
            return wrong("log.filter", format!("{error}: write such as info,kvasir::peer=debug"));
        }
        if !(BITS_MIN..=BITS_MAX).contains(&self.repair.tree_bits) {
            return wrong("repair.tree_bits", format!("must be {BITS_MIN} to {BITS_MAX}"));
        }
        if self.repair.interval.0 < time::Duration::from_millis(100) {
            return wrong("repair.interval", "must be at least 100ms".to_string());
        }
        if let Err(error) = self.gossip.settings().check() {
            return wrong("gossip", error.to_string());
        }
        if !(1_000..=3_600_000).contains(&self.reclaim.generation.as_millis()) {
            return wrong("reclaim.generation", "must be between 1s and 1h".to_string());
        }
        if self.reclaim.pause.0.is_zero() {
            return wrong("reclaim.pause", "must be above 0".to_string());
        }
        if let Err(error) = self.storage.options(PathBuf::new()).check() {
            return wrong("storage", error.to_string());
        }
        Ok(())
    }
}

impl Config {
    /// Bounds that let nothing through, or never end anything, are mistakes.
    fn validate_bounds(&self) -> Result<(), ConfigError> {
        let (http, peer) = (&self.http, &self.peer);
        let least = |field: &str, value: u64, least: u64, text: &str| match value < least {
            true => Err(ConfigError::Invalid {
                field: field.to_string(),
                why: format!("must be at least {text}"),
            }),
            false => Ok(()),
        };
        for (field, value, at_least) in [
            ("http.connections_max", http.connections_max, 1),
            ("http.requests_max", http.requests_max, 1),
            ("peer.connections_max", peer.connections_max, 16),
            ("peer.requests_max", peer.requests_max, 16),
            ("peer.queue_max", peer.queue_max, 16),
        ] {
            least(field, value.into(), at_least, &at_least.to_string())?;
        }
        let one = 1 << 20;
        for (field, value) in [
            ("peer.requests_max_bytes", peer.requests_max_bytes),
            ("peer.queue_max_bytes", peer.queue_max_bytes),
        ] {
            least(field, value.0, one, "1MiB")?;
        }
        for (field, value) in [
            ("http.head_timeout", http.head_timeout),
            ("http.idle_timeout", http.idle_timeout),
            ("http.body_timeout", http.body_timeout),
            ("http.write_timeout", http.write_timeout),
            ("workers.late_max", self.workers.late_max),
        ] {
            least(field, value.as_millis(), 1, "1ms")?;
        }
        if self.workers.count > 1_024 {
            return Err(ConfigError::Invalid {
                field: "workers.count".to_string(),
                why: "must be at most 1024".to_string(),
            });
        }
        Ok(())
    }

    /// Listeners of one process share no address (with `SO_REUSEPORT` that would be no error of the
    /// kernel, and connections would land anywhere), and others can reach what they are told.
    fn validate_addresses(&self) -> Result<(), ConfigError> {
        let invalid = |field: &str, why: &str| {
            Err(ConfigError::Invalid { field: field.to_string(), why: why.to_string() })
        };
        let (http, peer, admin) = (&self.http.listen, &self.peer.listen, &self.admin.listen);
        if clash(http, peer) || clash(peer, admin) {
            return invalid(
                "peer.listen",
                "must not share its port with http.listen or admin.listen",
            );
        }
        if clash(http, admin) {
            return invalid("admin.listen", "must not share its port with http.listen");
        }
        match &self.node.advertise {
            None if is_wildcard(http) || is_wildcard(peer) || is_wildcard(admin) => invalid(
                "node.advertise",
                "must name the host that others reach this node by, because a port listens on all \
                 addresses",
            ),
            Some(host) if host.is_empty() || host.contains(['/', ' ']) => {
                invalid("node.advertise", "must be a host name or an address, without a port")
            }
            _ => Ok(()),
        }
    }
}

/// Whether two listeners would share a port on some address.
fn clash(one: &str, other: &str) -> bool {
    let port = |address: &str| address.rsplit_once(':').map(|(_, port)| port.to_string());
    port(one) == port(other) && (one == other || is_wildcard(one) || is_wildcard(other))
}

fn is_wildcard(address: &str) -> bool {
    matches!(address.rsplit_once(':'), Some(("0.0.0.0" | "[::]", _)))
}

fn host_and_port(address: &str) -> Result<(), String> {
    let form = || format!("`{address}` must be host:port, as in 127.0.0.1:8098");
    let (host, port) = address.rsplit_once(':').ok_or_else(form)?;
    let port: u16 = port.parse().map_err(|_| form())?;
    if host.is_empty() || port == 0 { Err(form()) } else { Ok(()) }
}
