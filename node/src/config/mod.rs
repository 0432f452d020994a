//! Configuration of one node: plain data, validated once.
//!
//! Sources, later ones win: built-in defaults, a YAML file, environment variables
//! `KVASIR_SECTION__KEY`, `--set section.key=value`. Unknown fields are errors. What all nodes must
//! agree on is not here: it stands in the cluster document (DESIGN section 5).

mod check;
mod load;
mod units;

use std::path::PathBuf;

use kvasir_core::gossip::GossipConfig;
use kvasir_core::limits::VALUE_DEFAULT_MAX_BYTES;
use kvasir_storage::{Compression, StoreOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use load::{ConfigError, load, parse};
pub use units::{Duration, Size};

/// The annotated file with every default.
pub const EXAMPLE: &str = include_str!("../../config.example.yaml");

/// Everything a node can be told.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The node itself.
    pub node: NodeConfig,
    /// The client API.
    pub http: HttpConfig,
    /// Traffic between nodes.
    pub peer: PeerConfig,
    /// Probes, metrics, cluster administration.
    pub admin: AdminConfig,
    /// Who is there and who is up.
    pub gossip: GossipSection,
    /// The engine.
    pub storage: StorageConfig,
    /// Copies and notes kept for owners that are down.
    pub handoff: HandoffConfig,
    /// Copies of partitions that move.
    pub moves: MovesConfig,
    /// Comparing replicas and mending what differs.
    pub repair: RepairConfig,
    /// When what was deleted gives its space back.
    pub reclaim: ReclaimConfig,
    /// Threads that serve.
    pub workers: WorkersConfig,
    /// Logs, to standard error.
    pub log: LogConfig,
}

/// The node itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// Where the node keeps its data and its identity. One process at a time.
    pub data_dir: PathBuf,
    /// Peer addresses (`host:port`) to ask for the others; its own may be among them.
    pub seeds: Vec<String>,
    /// Host that others reach this node by; absent: the host that each port listens on.
    pub advertise: Option<String>,
    /// The physical machine: two copies of a key never share one. Empty: the host name.
    pub machine: String,
    /// Rack.
    pub rack: String,
    /// Zone.
    pub zone: String,
    /// Data center.
    pub datacenter: String,
    /// Share of the data relative to the other nodes, at least 1.
    pub weight: u32,
    /// How long a node that is told to stop goes on as before while `/readyz` says that it is not
    /// ready, so that load balancers send nothing more; comes before `grace`.
    pub drain_delay: Duration,
    /// How long a stop waits for requests in flight.
    pub grace: Duration,
}

impl Default for NodeConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("kvasir-data"),
            seeds: Vec::new(),
            advertise: None,
            machine: String::new(),
            rack: String::new(),
            zone: String::new(),
            datacenter: "dc1".to_string(),
            weight: 100,
            drain_delay: Duration::from_millis(0),
            grace: Duration::from_millis(10_000),
        }
    }
}

/// The client API.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// Largest value, at most 16 MiB.
    pub value_max_bytes: Size,
    /// Deadline of a request that names none.
    pub timeout: Duration,
    /// Largest deadline a request may name.
    pub timeout_max: Duration,
    /// Connections of each worker. At the bound, one that asked for nothing for longest makes room; where
    /// none has for a second, the newcomer is refused.
    pub connections_max: u32,
    /// Requests that each worker answers at once; more are refused with 503 `overloaded`.
    pub requests_max: u32,
    /// Request bodies held by each worker at once; more are refused with 503.
    pub bodies_max_bytes: Size,
    /// How long a client may take to send the head of a request, from its first byte on, or its first
    /// request at all.
    pub head_timeout: Duration,
    /// How long a connection is kept between two requests.
    pub idle_timeout: Duration,
    /// How long a body may take, beside one second for each 64 KiB of it.
    pub body_timeout: Duration,
    /// How long a client may leave an answer unread.
    pub write_timeout: Duration,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8098".to_string(),
            value_max_bytes: Size(VALUE_DEFAULT_MAX_BYTES as u64),
            timeout: Duration::from_millis(5_000),
            timeout_max: Duration::from_millis(60_000),
            connections_max: 4_096,
            requests_max: 1_024,
            bodies_max_bytes: Size(256 << 20),
            head_timeout: Duration::from_millis(10_000),
            idle_timeout: Duration::from_millis(75_000),
            body_timeout: Duration::from_millis(10_000),
            write_timeout: Duration::from_millis(30_000),
        }
    }
}

/// Traffic between nodes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PeerConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// Connections that each worker accepts; more are refused.
    pub connections_max: u32,
    /// Requests of other nodes for their clients that each worker has in work at once; beside them an eighth
    /// as many for each of hand-back, repair and copies that move. More are refused.
    pub requests_max: u32,
    /// Bytes of those requests.
    pub requests_max_bytes: Size,
    /// Requests of each worker that may wait for one other node, sent or not; more fail at once.
    pub queue_max: u32,
    /// Bytes of those requests.
    pub queue_max_bytes: Size,
}

impl Default for PeerConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:8099".to_string(),
            connections_max: 4_096,
            requests_max: 4_096,
            requests_max_bytes: Size(128 << 20),
            queue_max: 4_096,
            queue_max_bytes: Size(32 << 20),
        }
    }
}

/// Probes, metrics, cluster administration.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminConfig {
    /// `host:port` to listen on.
    pub listen: String,
    /// File with the bearer token that mutating and replica-read routes need; without one these routes
    /// work on a loopback listener only.
    pub token_file: Option<PathBuf>,
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9098".to_string(), token_file: None }
    }
}

/// Who is there and who is up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GossipSection {
    /// How often the heartbeat counter rises and the list is sent.
    pub interval: Duration,
    /// Members that the list is sent to each time.
    pub fanout: u32,
    /// Suspicion (phi) at which a member is suspected.
    pub phi_suspect: f64,
    /// Suspicion (phi) at which a member is held for down.
    pub phi_down: f64,
    /// Members through which a suspected one is asked before it is held for down; at most 16, 0: none.
    pub probe_helpers: u32,
    /// Members named in one list; a larger cluster is told of in parts. 64 to 32,768.
    pub rows_max: u32,
}

impl Default for GossipSection {
    fn default() -> Self {
        let built_in = GossipConfig::default();
        Self {
            interval: Duration::from_millis(built_in.interval_ms),
            fanout: built_in.fanout as u32,
            phi_suspect: built_in.phi_suspect,
            phi_down: built_in.phi_down,
            probe_helpers: built_in.probe_helpers as u32,
            rows_max: built_in.rows_max as u32,
        }
    }
}

impl GossipSection {
    /// As the gossip core takes them.
    pub fn settings(&self) -> GossipConfig {
        GossipConfig {
            interval_ms: self.interval.as_millis(),
            fanout: self.fanout as usize,
            phi_suspect: self.phi_suspect,
            phi_down: self.phi_down,
            probe_helpers: self.probe_helpers as usize,
            rows_max: self.rows_max as usize,
            ..GossipConfig::default()
        }
    }
}

/// The engine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageConfig {
    /// A memtable of this size is flushed to a table.
    pub memtable_bytes: Size,
    /// A memtable this old is flushed whatever its size.
    pub flush_age: Duration,
    /// Bound of the block cache.
    pub cache_bytes: Size,
    /// Bound of the indexes and filters kept in memory besides the cache.
    pub resident_bytes: Size,
    /// How blocks of tables are written; old tables are read whatever it says.
    pub compression: CompressionName,
    /// A log segment of this size is closed and the next one begun.
    pub log_segment_bytes: Size,
    /// How often writes at durability `periodic` are synced.
    pub periodic_sync: Duration,
    /// Target size of a table below level 0.
    pub table_bytes: Size,
    /// How often everything is read again to find rot; 0: never.
    pub scrub_interval: Duration,
    /// How many bytes that reads in a second.
    pub scrub_rate: Size,
}

impl Default for StorageConfig {
    fn default() -> Self {
        let built_in = StoreOptions::new("");
        Self {
            memtable_bytes: Size(built_in.memtable_bytes as u64),
            flush_age: Duration::from_millis(built_in.flush_age_ms),
            cache_bytes: Size(built_in.cache_bytes as u64),
            resident_bytes: Size(built_in.resident_bytes as u64),
            compression: CompressionName::from(built_in.compression),
            log_segment_bytes: Size(built_in.log_segment_bytes),
            periodic_sync: Duration::from_millis(built_in.periodic_sync_ms),
            table_bytes: Size(built_in.table_bytes),
            scrub_interval: Duration::from_millis(built_in.scrub_interval_ms),
            scrub_rate: Size(built_in.scrub_bytes_per_s),
        }
    }
}

impl StorageConfig {
    /// As the engine takes them, for a directory.
    pub fn options(&self, dir: PathBuf) -> StoreOptions {
        StoreOptions {
            memtable_bytes: self.memtable_bytes.bytes(),
            flush_age_ms: self.flush_age.as_millis(),
            cache_bytes: self.cache_bytes.bytes(),
            resident_bytes: self.resident_bytes.bytes(),
            compression: self.compression.into(),
            log_segment_bytes: self.log_segment_bytes.0,
            periodic_sync_ms: self.periodic_sync.as_millis(),
            table_bytes: self.table_bytes.0,
            scrub_interval_ms: self.scrub_interval.as_millis(),
            scrub_bytes_per_s: self.scrub_rate.0,
            ..StoreOptions::new(dir)
        }
    }
}

/// Copies and notes kept for owners that are down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HandoffConfig {
    /// Bytes of stand-in copies that this node keeps for others; beyond that it refuses to stand in.
    pub standins_max_bytes: Size,
    /// Bytes of hints; beyond that, further ones are dropped and counted.
    pub hints_max_bytes: Size,
    /// A hint this old is dropped.
    pub hints_max_age: Duration,
    /// How many bytes a second this node takes back from all others together.
    pub rate: Size,
}

impl Default for HandoffConfig {
    fn default() -> Self {
        Self {
            standins_max_bytes: Size(4 << 30),
            hints_max_bytes: Size(64 << 20),
            hints_max_age: Duration::from_millis(3 * 3_600_000),
            rate: Size(32 << 20),
        }
    }
}

impl HandoffConfig {
    /// Options of the store that keeps them: small, since it is empty while all nodes are up.
    pub fn options(&self, dir: PathBuf, storage: &StorageConfig) -> StoreOptions {
        let built_in = StoreOptions::new(dir);
        StoreOptions {
            memtable_bytes: built_in.memtable_bytes.min(4 << 20),
            cache_bytes: 4 << 20,
            resident_bytes: 2 << 20,
            log_segment_bytes: 4 << 20,
            table_bytes: 8 << 20,
            level1_bytes: 32 << 20,
            periodic_sync_ms: storage.periodic_sync.as_millis(),
            scrub_interval_ms: storage.scrub_interval.as_millis(),
            scrub_bytes_per_s: storage.scrub_rate.0,
            ..built_in
        }
    }
}

/// Copies of partitions that move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MovesConfig {
    /// How many bytes a second this node takes over, and gives, at most. Less while its clients wait longer
    /// than they did lately, but never less than an eighth of it.
    pub rate: Size,
}

impl Default for MovesConfig {
    fn default() -> Self {
        Self { rate: Size(32 << 20) }
    }
}

/// Comparing replicas and mending what differs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RepairConfig {
    /// Whether this node keeps a hash tree of its data and compares it with others. Switched on again, the
    /// tree is read from the data first.
    pub enabled: bool,
    /// How often this node compares with each node that shares partitions with it.
    pub interval: Duration,
    /// Depth of the tree, 16 to 26: at most 8 bytes * 2^tree_bits in memory, of which a node takes the
    /// share of the ring that it owns.
    pub tree_bits: u8,
    /// In how much time the whole tree is compared with the data; 0: only what is in doubt.
    pub scrub_interval: Duration,
    /// Whether this node has what it lost made anew by itself: copies on a volume that was put back, emptied
    /// or left behind, and those of which a damaged table held a part. Else somebody posts a `rebuild`.
    pub rebuild: bool,
}

impl Default for RepairConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: Duration::from_millis(60_000),
            tree_bits: 20,
            scrub_interval: Duration::from_millis(7 * 24 * 3_600_000),
            rebuild: true,
        }
    }
}

/// When what was deleted gives its space back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ReclaimConfig {
    /// Shortest time between two generations. Data that is on its way for two of them is refused, and a
    /// tombstone is erased three after all owners confirmed it. The same on all nodes.
    pub generation: Duration,
    /// A tombstone younger than this stays.
    pub min_age: Duration,
    /// Pause between two looks at all partitions that this node leads.
    pub pause: Duration,
    /// How many bytes a second are read in search of tombstones; 0: tombstones stay for ever.
    pub rate: Size,
}

impl Default for ReclaimConfig {
    fn default() -> Self {
        Self {
            generation: Duration::from_millis(60_000),
            min_age: Duration::from_millis(3_600_000),
            pause: Duration::from_millis(600_000),
            rate: Size(8 << 20),
        }
    }
}

/// How blocks of tables are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CompressionName {
    /// As they are.
    None,
    /// LZ4 where it saves at least an eighth.
    Lz4,
}

impl From<Compression> for CompressionName {
    fn from(compression: Compression) -> Self {
        match compression {
            Compression::None => Self::None,
            Compression::Lz4 => Self::Lz4,
        }
    }
}

impl From<CompressionName> for Compression {
    fn from(name: CompressionName) -> Self {
        match name {
            CompressionName::None => Self::None,
            CompressionName::Lz4 => Self::Lz4,
        }
    }
}

/// Threads that serve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersConfig {
    /// How many; 0: one for each core.
    pub count: u32,
    /// A worker at which everything has waited longer than this for its turn, for a tenth of a second, takes
    /// on no further requests of clients until it caught up.
    pub late_max: Duration,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        Self { count: 0, late_max: Duration::from_millis(300) }
    }
}

impl WorkersConfig {
    /// How many, given the cores of the machine.
    pub fn threads(&self, cores: usize) -> usize {
        if self.count == 0 { cores.max(1) } else { self.count as usize }
    }
}

/// Logs, to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Their form.
    pub format: LogFormat,
    /// What is logged, such as `info` or `info,kvasir::peer=debug`.
    pub filter: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Auto, filter: "info".to_string() }
    }
}

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    /// One JSON object a line.
    Json,
    /// Lines for people.
    Text,
}

#[cfg(test)]
mod tests;
