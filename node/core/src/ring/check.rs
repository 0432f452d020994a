//! Is this a document at all? What must hold of every document by itself, whatever its parent.
//!
//! Bounds come first, so that no later step works on something huge; then the table: one entry per
//! partition, N slots in every data center, each owner and successor a member of that data center, no
//! member in two slots, at most one slot of a partition changing hands. The first document puts no two copies on one machine; later ones may come to it by a
//! relocate, which `super::judge` rules on.

use std::collections::BTreeSet;

use super::document::{Document, PartitionEntry, Sealed};
use super::operation::{KEPT_OPERATIONS, OperationState};
use super::partition::{self, MAX_PARTITION_BITS};
use super::progress::{MAX_MOVES, MAX_PROOFS, MAX_RUNNING, MoveStage, Progress};
use super::slot::{Slot, SlotState};
use crate::quorum::Level;

/// Most members of a cluster.
pub const MAX_MEMBERS: usize = 2_048;
/// Most data centers.
pub const MAX_DATACENTERS: usize = 16;
/// Most copies in one data center (N).
pub const MAX_REPLICATION: u32 = 16;
/// Most buckets with settings of their own: some 150 bytes each, in a document that is sent, stored and
/// hashed whole.
pub const MAX_BUCKETS: usize = 1_024;
/// Longest label, cluster name or operation id, in bytes.
pub const MAX_NAME_BYTES: usize = 128;
/// Largest weight of a member.
pub const MAX_WEIGHT: u32 = 1_000_000;
/// Largest canonical form of a document, in bytes.
pub const DOCUMENT_MAX_BYTES: usize = 16 * 1024 * 1024;

/// Something that no document may be. The document is refused as a whole; the same document is
/// refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct InvalidDocument {
    /// Where in the document, as a path of JSON names.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> InvalidDocument {
    InvalidDocument { field: field.into(), problem: problem.into() }
}

fn require(holds: bool, field: &str, problem: &str) -> Result<(), InvalidDocument> {
    if holds { Ok(()) } else { Err(wrong(field, problem)) }
}

impl Sealed {
    /// [`Document::validate`], and the bound on the canonical form.
    pub fn validate(&self) -> Result<(), InvalidDocument> {
        require(self.size() <= DOCUMENT_MAX_BYTES, "document", "larger than 16 MiB")?;
        Document::validate(self)
    }
}

impl Document {
    /// Checks everything that must hold of a document by itself; the first problem found is the
    /// answer.
    pub fn validate(&self) -> Result<(), InvalidDocument> {
        self.validate_identity()?;
        self.validate_members()?;
        self.validate_buckets()?;
        self.validate_operations()?;
        let expected = partition::count(self.partition_bits) as usize;
        if self.table.len() != expected {
            let found = self.table.len();
            return Err(wrong("table", format!("has {found} entries instead of {expected}")));
        }
        self.table
            .iter()
            .enumerate()
            .try_for_each(|(index, entry)| self.validate_entry(index, entry))?;
        self.validate_moves()
    }

    fn validate_identity(&self) -> Result<(), InvalidDocument> {
        require(!self.cluster_id.is_nil(), "clusterId", "is nil")?;
        require(is_name(&self.cluster_name), "clusterName", "must be 1 to 128 printable bytes")?;
        require(self.epoch >= 1, "epoch", "starts at 1")?;
        require(
            self.parent_hash.is_none() == (self.epoch == 1),
            "parentHash",
            "is absent at epoch 1 and only there",
        )?;
        require(self.partition_bits <= MAX_PARTITION_BITS, "partitionBits", "is at most 16")?;
        let centers = self.replication.len();
        require(
            (1..=MAX_DATACENTERS).contains(&centers),
            "replication",
            "names 1 to 16 data centers",
        )?;
        for (datacenter, copies) in &self.replication {
            require(is_name(datacenter), "replication", "has an empty or overlong name")?;
            require(
                (1..=MAX_REPLICATION).contains(copies),
                "replication",
                "is 1 to 16 copies in each data center",
            )?;
        }
        Ok(())
    }

    fn validate_members(&self) -> Result<(), InvalidDocument> {
        let count = self.members.len();
        require((1..=MAX_MEMBERS).contains(&count), "members", "are 1 to 2048")?;
        for (id, member) in &self.members {
            let problem = if id.is_nil() {
                "has a nil id"
            } else if !is_name(&member.machine) || !is_name(&member.datacenter) {
                "needs a machine and a datacenter of 1 to 128 printable bytes"
            } else if [&member.rack, &member.zone].iter().any(|l| !l.is_empty() && !is_name(l)) {
                "has a rack or zone that is not 0 to 128 printable bytes"
            } else if member.weight > MAX_WEIGHT {
                "has a weight above 1000000"
            } else {
                continue;
            };
            return Err(wrong(format!("members.{id}"), problem));
        }
        Ok(())
    }

    fn validate_buckets(&self) -> Result<(), InvalidDocument> {
        require(self.buckets.len() <= MAX_BUCKETS, "buckets", "are at most 1024")?;
        let replicas = self.replication.values().sum::<u32>();
        let all = self.buckets.values().chain([&self.defaults]);
        for settings in all {
            let reachable =
                |level| !matches!(level, Level::Exactly(count) if count == 0 || count > replicas);
            require(
                reachable(settings.r) && reachable(settings.w),
                "buckets",
                "have an r or w that their replicas cannot reach",
            )?;
            require(settings.ttl != Some(0), "buckets", "have no ttl or one of at least 1 second")?;
        }
        Ok(())
    }

    fn validate_operations(&self) -> Result<(), InvalidDocument> {
        require(self.operations.len() <= KEPT_OPERATIONS, "operations", "are at most 64")?;
        for (id, record) in &self.operations {
            let problem = if !is_name(id) {
                "has an id that is not 1 to 128 printable bytes"
            } else if record.started == 0 || record.started > self.epoch {
                "was not started between epoch 1 and this one"
            } else if match record.is_running() {
                true => record.finished != 0,
                false => record.finished < record.started || record.finished > self.epoch,
            } {
                "was not finished between its start and this epoch"
            } else {
                match &record.state {
                    OperationState::Running(progress) => self.progress_problem(progress),
                    _ => None,
                }
                .unwrap_or_default()
            };
            if !problem.is_empty() {
                return Err(wrong(format!("operations.{id}"), problem));
            }
        }
        let running = self.operations.values().filter(|record| record.is_running()).count();
        require(running <= MAX_RUNNING, "operations", "run 8 at once at the most")
    }

    fn progress_problem(&self, progress: &Progress) -> Option<&'static str> {
        if progress.moves.len() > MAX_MOVES {
            return Some("has more than 65536 moves");
        }
        progress.moves.iter().find_map(|one| {
            if one.partition.k != self.partition_bits || self.entry(one.partition).is_none() {
                Some("moves a partition that the ring does not have")
            } else if !self.replication.contains_key(&one.datacenter) {
                Some("moves a slot of an unknown data center")
            } else if one.proofs.len() > MAX_PROOFS {
                Some("has a move with more than 1024 proofs")
            } else {
                None
            }
        })
    }

    /// Every slot that changes hands is the move under way of exactly one running operation, and
    /// every move under way has its slot.
    fn validate_moves(&self) -> Result<(), InvalidDocument> {
        let running = self.operations.values().filter_map(|record| match &record.state {
            OperationState::Running(progress) => Some(progress),
            _ => None,
        });
        let mut recorded: Vec<_> = running
            .flat_map(|progress| &progress.moves)
            .filter(|one| one.stage == MoveStage::Moving)
            .map(|one| (one.partition.index, one.datacenter.as_str(), one.from, one.to))
            .collect();
        recorded.sort_unstable();
        let moving = (0..).zip(&self.table).filter_map(|(index, entry)| {
            let (datacenter, slot) = entry.moving()?;
            Some((index, datacenter, slot.owner, slot.state.successor()?.node))
        });
        require(moving.eq(recorded), "operations", "and the slots that change hands disagree")
    }

    fn validate_entry(&self, index: usize, entry: &PartitionEntry) -> Result<(), InvalidDocument> {
        let at = |problem: &str| Err(wrong(format!("table.{index}"), problem));
        if entry.version == 0 || entry.version > self.epoch {
            return at("has a version outside 1 to the epoch");
        }
        if !entry.slots.keys().eq(self.replication.keys()) {
            return at("does not name exactly the data centers of the replication");
        }
        for (slots, copies) in entry.slots.values().zip(self.replication.values()) {
            if slots.len() != *copies as usize {
                return at("has more or fewer slots than the replication asks for");
            }
        }
        if entry.slots.values().flatten().filter(|slot| slot.state.moves()).count() > 1 {
            return at("has more than one slot that changes hands");
        }
        for (datacenter, slots) in &entry.slots {
            let (mut owners, mut machines) = (BTreeSet::new(), BTreeSet::new());
            for slot in slots {
                self.validate_tenures(entry, slot).or_else(at)?;
                for node in slot.named().collect::<BTreeSet<_>>() {
                    match self.members.get(&node) {
                        None => return at("names an owner that is no member"),
                        Some(member) if member.datacenter != *datacenter => {
                            return at("names an owner of another data center");
                        }
                        Some(_) if !owners.insert(node) => return at("names one owner twice"),
                        Some(member) if !machines.insert(&member.machine) && self.epoch == 1 => {
                            return at("puts two copies on one machine");
                        }
                        Some(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Tenures begin one after the other and not after the entry's version; nothing moves at first.
    fn validate_tenures(&self, entry: &PartitionEntry, slot: &Slot) -> Result<(), &'static str> {
        if slot.since == 0 || slot.since > entry.version {
            return Err("has a slot gained outside epoch 1 to the entry's version");
        }
        let Some(next) = slot.state.successor() else { return Ok(()) };
        if next.since <= slot.since || next.since > entry.version {
            return Err("has a successor whose tenure does not begin after the owner's");
        }
        let live = matches!(slot.state, SlotState::Copying(_) | SlotState::Switched(_));
        if live && next.node == slot.owner {
            return Err("moves a slot from a node to itself");
        }
        Ok(())
    }
}

/// 1 to 128 bytes without control characters.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME_BYTES).contains(&text.len()) && !text.chars().any(char::is_control)
}
