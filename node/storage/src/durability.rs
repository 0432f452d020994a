//! How much an acknowledged update survives (DESIGN section 6).

/// When an update counts as stored. All append to the log, in order, before memory. The ticket of the
/// update says when it does; what nobody asks about is written once enough has gathered, or at a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// In the process's log buffer: lost with the process.
    Memory,
    /// Written to the log file, synced every `periodic_sync_ms`: lost with the machine.
    Periodic,
    /// Synced, sharing one sync with others.
    Group,
    /// Synced without any delay for batching.
    Each,
}
