//! What the configuration bounds, for all workers together, and the file descriptors that it takes.
//!
//! A process may have fewer descriptors than its connections and tables would take. Then connections are
//! given up, not tables: the limit of the process is raised as far as it may be, a quarter of it is left to
//! files, and what connections may take of the rest is shared out. Too few for anything is an error of the
//! start, not of a bad moment later.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::READERS;
use super::node::StartError;
use crate::admin::Bounds;
use crate::config::Config;
use crate::http::limits::HttpLimits;
use crate::http::screen::HEAD_MAX_BYTES;
use crate::http::server::{LEAVING_MAX, REFUSALS_MAX};
use crate::peer::{ListenerLimits, PoolLimits};
use crate::pressure::{Share, Shares, Work};

/// Descriptors that a process has for other things than client connections, peers and tables: the admin
/// port, logs, small files, runtimes.
const OTHERS: u64 = 128;
/// Descriptors left to the files of the stores, beside a quarter of all.
const FILES_MIN: u64 = 128;
/// Connections of each kind and worker below which a node is of no use.
const USEFUL: u64 = 16;

/// The client port's bounds, as the HTTP room takes them.
pub(super) fn http(config: &Config) -> HttpLimits {
    let http = &config.http;
    HttpLimits {
        value_max_bytes: http.value_max_bytes.bytes(),
        timeout_default: http.timeout.0,
        timeout_max: http.timeout_max.0,
        connections_max: http.connections_max as usize,
        bodies_max_bytes: http.bodies_max_bytes.bytes(),
        head_timeout: http.head_timeout.0,
        idle_timeout: http.idle_timeout.0,
        body_timeout: http.body_timeout.0,
        write_timeout: http.write_timeout.0,
        ..HttpLimits::default()
    }
}

/// The bounds of connections that others open.
pub(super) fn listener(config: &Config) -> ListenerLimits {
    let connections = config.peer.connections_max as usize;
    ListenerLimits { connections, ..ListenerLimits::default() }
}

/// The bounds of connections that this node opens.
pub(super) fn pool(config: &Config) -> PoolLimits {
    let peer = &config.peer;
    PoolLimits {
        queue_count: peer.queue_max as usize,
        // The largest message always fits an empty queue.
        queue_bytes: peer.queue_max_bytes.bytes(),
        ..PoolLimits::default()
    }
}

/// What one worker takes on.
pub(super) fn shares(config: &Config) -> Shares {
    let clients = Share { count: config.http.requests_max as usize, bytes: usize::MAX };
    let peer = &config.peer;
    let others =
        Share { count: peer.requests_max as usize, bytes: peer.requests_max_bytes.bytes() };
    Shares::new(clients, others)
}

/// All bounds of a process with so many workers.
pub(super) fn all(config: &Config, workers: u64) -> Bounds {
    let shares = shares(config);
    let each = |count: u32| workers * u64::from(count);
    let engine = config.storage.options("".into()).memory_bytes(READERS);
    let kept = config.handoff.options("".into(), &config.storage).memory_bytes(READERS);
    let requests: u64 = Work::ALL[1..].iter().map(|work| shares.of(*work).bytes as u64).sum();
    let tree = if config.repair.enabled { 8 << config.repair.tree_bits } else { 0 };
    Bounds {
        connections: each(config.http.connections_max),
        body_bytes: workers * config.http.bodies_max_bytes.0,
        work: Work::ALL.map(|work| workers * shares.of(work).count as u64),
        descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX),
        memory: [
            ("engine", engine),
            ("stand_ins", kept),
            ("tree", tree),
            ("bodies", workers * config.http.bodies_max_bytes.0),
            ("heads", each(config.http.connections_max) * HEAD_MAX_BYTES as u64),
            ("peer_requests", workers * requests),
        ],
    }
}

/// Raises the limit of descriptors as far as it may be, and gives up connections that do not fit it.
///
/// # Errors
/// [`StartError::Descriptors`]: too few for a node to be of use.
pub(super) fn fit(config: Config, workers: u64) -> Result<Config, StartError> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: maximum, maximum };
    let limit = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => maximum,
        // Some systems name a maximum that they do not grant.
        Err(_) => current,
    };
    fitted(config, workers, limit.unwrap_or(u64::MAX))
}

fn fitted(mut config: Config, workers: u64, limit: u64) -> Result<Config, StartError> {
    let files = (limit / 4).max(FILES_MIN);
    let fixed = OTHERS + workers * (REFUSALS_MAX + LEAVING_MAX) as u64;
    let left = limit.saturating_sub(files + fixed) / workers.max(1);
    let (http, peer) = (&mut config.http.connections_max, &mut config.peer.connections_max);
    // Connections to others are about as many as those from them.
    if u64::from(*http) + 2 * u64::from(*peer) <= left {
        return Ok(config);
    }
    let clients = (left / 2).min(u64::from(*http));
    let nodes = ((left - clients) / 2).min(u64::from(*peer));
    if clients < USEFUL || nodes < USEFUL {
        let needed = files + fixed + workers * 4 * USEFUL;
        return Err(StartError::Descriptors { limit, needed });
    }
    tracing::warn!(
        limit,
        http_connections = clients,
        peer_connections = nodes,
        "this process may not open enough files for the connections that it is configured for; \
         raise its limit of open files (`ulimit -n`)"
    );
    (*http, *peer) = (clients as u32, nodes as u32);
    Ok(config)
}

#[cfg(test)]
mod tests {
    use kvasir_core::limits::VALUE_HARD_MAX_BYTES;

    use super::*;
    use crate::config::Size;

    #[test]
    fn connections_are_given_up_where_descriptors_are_few() {
        let fitted = |limit| fitted(Config::default(), 2, limit);
        let plenty = fitted(1 << 20).unwrap();
        assert_eq!((plenty.http.connections_max, plenty.peer.connections_max), (4_096, 4_096));
        let few = fitted(4_096).unwrap();
        let (http, peer) = (few.http.connections_max, few.peer.connections_max);
        assert!(http < 4_096 && peer < 4_096, "{http} {peer}");
        let all = 2 * (u64::from(http) + 2 * u64::from(peer))
            + OTHERS
            + 2 * (REFUSALS_MAX + LEAVING_MAX) as u64
            + 1_024;
        assert!((4_000..=4_096).contains(&all), "{all} of 4,096 are used");
        let error = fitted(256).unwrap_err().to_string();
        assert!(error.contains("256") && error.contains("ulimit -n"), "{error}");
    }

    #[test]
    fn bounds_follow_the_configuration() {
        let mut config = Config::default();
        let before = all(&config, 2);
        assert_eq!(before.work[0], 2 * 1_024);
        assert_eq!(before.connections, 2 * 4_096);
        config.http.bodies_max_bytes = Size(1 << 20);
        config.repair.enabled = false;
        let after = all(&config, 2);
        let less = before.memory_bytes() - after.memory_bytes();
        assert_eq!(less, 2 * (255 << 20) + (8 << 20));
    }

    #[test]
    fn the_largest_value_fits_every_queue() {
        assert!(Config::default().peer.queue_max_bytes.0 > VALUE_HARD_MAX_BYTES as u64);
    }
}
