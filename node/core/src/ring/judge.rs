//! Which document may follow which. One pure function, asked by every acceptor before it promises
//! or accepts anything; what it refuses nobody can bring in, whoever proposes it.
//!
//! What is fixed for ever: cluster id and name, seed, token secret, N per data center, the mode of
//! the defaults and of a declared bucket, a finished operation. The table changes slot by slot
//! (`table`), as running operations plan (`operations`). A member may come in owning nothing, may go
//! once no slot names it, and may change its weight, rack and zone, never its data center.
//!
//! A machine changes only by a relocate that is recorded in the same epoch and changes nothing else
//! of its member. Since the first layout puts no two copies on one machine and the table is fixed,
//! this is the only way in which two copies can come to share one: the move happened, and a
//! document that denied it would hide the risk (`crate::admin_api::SharedMachine` shows it).

use super::check::InvalidDocument;
use super::document::{Document, Sealed};
use super::operation::{OperationKind, OperationRecord};
use crate::id::NodeId;

mod operations;
mod table;

/// Why a document may not follow its parent. Nothing was promised or accepted; the same child is
/// refused again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IllegalChange {
    /// The child is no document by itself.
    #[error("not a valid document: {0}")]
    Invalid(#[from] InvalidDocument),
    /// The epoch is not the parent's plus one.
    #[error("the epoch must be {expected}, not {found}")]
    Epoch {
        /// Parent's plus one.
        expected: u64,
        /// The child's.
        found: u64,
    },
    /// The child names another parent.
    #[error("the parent hash is not the hash of the document of the epoch before")]
    Parent,
    /// Cluster id, name, seed or token secret differ.
    #[error("`{0}` never changes")]
    Identity(&'static str),
    /// Copies per data center differ.
    #[error("`replication` is fixed when the cluster is formed")]
    Replication,
    /// The ring is cut differently.
    #[error(
        "`partitionBits` only rises by one, each half keeping the slots of the whole, while no \
         operation runs"
    )]
    PartitionBits,
    /// An entry differs by more than one arrow of one slot.
    #[error("partition {index} changed by more than one step of one slot")]
    Table {
        /// The first partition that differs so.
        index: usize,
    },
    /// No arrow leads there, or it rests on too little.
    #[error("the slot of partition {index} cannot take that step: {missing}")]
    Arrow {
        /// Which partition.
        index: usize,
        /// What is missing.
        missing: String,
    },
    /// No running operation says of the slot what the table does.
    #[error("partition {index} and the move that a running operation records of it disagree")]
    MoveRecord {
        /// Which partition.
        index: usize,
    },
    /// The new owner would stand on the machine of another copy.
    #[error("the new owner in partition {index} stands on the machine of another copy")]
    MachineShared {
        /// Which partition.
        index: usize,
    },
    /// A member that owns partitions is gone.
    #[error("member {0} still owns partitions and cannot leave")]
    MemberOwns(NodeId),
    /// A member stands in another data center.
    #[error("member {0} cannot change its data center")]
    MemberMoved(NodeId),
    /// A member stands on another machine, and no relocate in this epoch says so.
    #[error("member {0} changes its machine without a relocate that is recorded with it")]
    MachineChanged(NodeId),
    /// A relocate is recorded whose member is not as before but for its machine.
    #[error("operation {0} is a relocate: it changes the machine of one member and nothing else")]
    Relocate(String),
    /// A declared bucket's mode differs.
    #[error("the mode of bucket {0} was fixed when it was declared")]
    BucketMode(String),
    /// The mode of buckets without an entry differs.
    #[error("the mode of buckets without an entry was fixed when the cluster was formed")]
    DefaultsMode,
    /// A declared bucket is gone.
    #[error("bucket {0} was declared and cannot be undeclared")]
    BucketRemoved(String),
    /// A finished operation differs, or a younger one was forgotten before an older one.
    #[error("operation {0} is finished: its record never changes")]
    Operation(String),
    /// A running operation changed otherwise than by the arrows of its moves, or ended early.
    #[error("operation {0} runs: only its moves change, and it ends when they are over")]
    OperationStep(String),
}

impl IllegalChange {
    /// Stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Invalid(_) => "invalid_document",
            Self::Epoch { .. } => "wrong_epoch",
            Self::Parent => "wrong_parent",
            Self::Identity(_) => "identity_changed",
            Self::Replication => "replication_changed",
            Self::PartitionBits => "partition_bits_changed",
            Self::Table { .. } => "table_changed",
            Self::Arrow { .. } => "arrow_refused",
            Self::MoveRecord { .. } => "move_not_recorded",
            Self::MachineShared { .. } => "machine_shared",
            Self::MemberOwns(_) => "member_owns_partitions",
            Self::MemberMoved(_) => "member_moved",
            Self::MachineChanged(_) => "machine_changed",
            Self::Relocate(_) => "relocate_changes_more",
            Self::BucketMode(_) => "bucket_mode_changed",
            Self::DefaultsMode => "defaults_mode_changed",
            Self::BucketRemoved(_) => "bucket_removed",
            Self::Operation(_) => "finished_operation_changed",
            Self::OperationStep(_) => "running_operation_changed",
        }
    }
}

/// May `child` follow `parent`? The first reason found is the answer.
pub fn legal_child(parent: &Sealed, child: &Sealed) -> Result<(), IllegalChange> {
    let expected = parent.epoch + 1;
    if child.epoch != expected {
        return Err(IllegalChange::Epoch { expected, found: child.epoch });
    }
    if child.parent_hash != Some(parent.hash()) {
        return Err(IllegalChange::Parent);
    }
    judge_identity(parent, child)?;
    judge_members(parent, child)?;
    child.validate()?;
    table::judge_table(parent, child)?;
    judge_buckets(parent, child)?;
    operations::judge_operations(parent, child)
}

fn judge_identity(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let fixed = [
        ("clusterId", parent.cluster_id == child.cluster_id),
        ("clusterName", parent.cluster_name == child.cluster_name),
        ("seed", parent.seed == child.seed),
        ("tokenSecret", parent.token_secret == child.token_secret),
    ];
    if let Some((field, _)) = fixed.into_iter().find(|(_, same)| !same) {
        return Err(IllegalChange::Identity(field));
    }
    if parent.replication != child.replication {
        return Err(IllegalChange::Replication);
    }
    Ok(())
}

fn judge_members(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    for (&id, before) in &parent.members {
        match child.members.get(&id) {
            None if parent.owns_anything(id) => return Err(IllegalChange::MemberOwns(id)),
            Some(after) if after.datacenter != before.datacenter => {
                return Err(IllegalChange::MemberMoved(id));
            }
            Some(after) if after.machine != before.machine && !relocates(parent, child, id) => {
                return Err(IllegalChange::MachineChanged(id));
            }
            _ => {}
        }
    }
    judge_relocates(parent, child)
}

/// The records that are in the child and not in its parent.
fn new_records<'a>(
    parent: &'a Document,
    child: &'a Document,
) -> impl Iterator<Item = (&'a String, &'a OperationRecord)> {
    child.operations.iter().filter(|(id, _)| !parent.operations.contains_key(*id))
}

/// Does the child record a relocate of this node?
fn relocates(parent: &Document, child: &Document, node: NodeId) -> bool {
    let is = |record: &OperationRecord| {
        record.operation.kind == OperationKind::Relocate && record.operation.node == Some(node)
    };
    new_records(parent, child).any(|(_, record)| is(record))
}

/// Every new relocate says of its member what the child says, and that is what the parent said
/// but for the machine.
fn judge_relocates(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    for (id, record) in new_records(parent, child) {
        let operation = &record.operation;
        if operation.kind != OperationKind::Relocate {
            continue;
        }
        let entry =
            |document: &Document| operation.node.and_then(|n| document.members.get(&n).cloned());
        let expected = entry(parent)
            .zip(operation.member.as_ref())
            .map(|(before, told)| super::Member { machine: told.machine.clone(), ..before });
        if expected.is_none() || expected != entry(child) || expected != operation.member {
            return Err(IllegalChange::Relocate(id.clone()));
        }
    }
    Ok(())
}

fn judge_buckets(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    if child.defaults.mode != parent.defaults.mode {
        return Err(IllegalChange::DefaultsMode);
    }
    for (name, before) in &parent.buckets {
        match child.buckets.get(name) {
            None => return Err(IllegalChange::BucketRemoved(name.to_string())),
            Some(after) if after.mode != before.mode => {
                return Err(IllegalChange::BucketMode(name.to_string()));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
