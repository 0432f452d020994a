//! Which document may follow which. One pure function, asked by every acceptor before it promises
//! or accepts anything; what it refuses nobody can bring in, whoever proposes it.
//!
//! What is fixed for ever: cluster id and name, seed, token secret, N per data center, the mode of
//! a declared bucket, a finished operation. What is fixed until moves are built: the table and how
//! finely the ring is cut. A member may come in owning nothing, may go once no slot names it, and
//! may change its weight and the labels of its place, never its data center.

use super::check::InvalidDocument;
use super::document::{Document, Sealed};
use super::operation::KEPT_OPERATIONS;
use crate::id::NodeId;

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
    #[error("`partitionBits` cannot change: doubling the partitions is not supported")]
    PartitionBits,
    /// The table differs.
    #[error("partition {index} changed: moving partitions is not supported")]
    Table {
        /// The first partition that differs.
        index: usize,
    },
    /// A member that owns partitions is gone.
    #[error("member {0} still owns partitions and cannot leave")]
    MemberOwns(NodeId),
    /// A member stands in another data center.
    #[error("member {0} cannot change its data center")]
    MemberMoved(NodeId),
    /// A declared bucket's mode differs.
    #[error("the mode of bucket {0} was fixed when it was declared")]
    BucketMode(String),
    /// A declared bucket is gone.
    #[error("bucket {0} was declared and cannot be undeclared")]
    BucketRemoved(String),
    /// A finished operation differs, or a younger one was forgotten before an older one.
    #[error("operation {0} is finished: its record never changes")]
    Operation(String),
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
            Self::MemberOwns(_) => "member_owns_partitions",
            Self::MemberMoved(_) => "member_moved",
            Self::BucketMode(_) => "bucket_mode_changed",
            Self::BucketRemoved(_) => "bucket_removed",
            Self::Operation(_) => "finished_operation_changed",
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
    judge_table(parent, child)?;
    judge_buckets(parent, child)?;
    judge_operations(parent, child)
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
    if parent.partition_bits != child.partition_bits {
        return Err(IllegalChange::PartitionBits);
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
            _ => {}
        }
    }
    Ok(())
}

fn judge_table(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let differs = parent.table.iter().zip(&child.table).position(|(before, after)| before != after);
    differs.map_or(Ok(()), |index| Err(IllegalChange::Table { index }))
}

fn judge_buckets(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
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

/// Finished records stay as they are. Only the oldest may be forgotten, and only where the new ones
/// would not fit beside it: `operation::plan` forgets in the same order.
fn judge_operations(parent: &Document, child: &Document) -> Result<(), IllegalChange> {
    let mut kept_oldest = None;
    for (id, before) in &parent.operations {
        if let Some(after) = child.operations.get(id) {
            if after != before {
                return Err(IllegalChange::Operation(id.clone()));
            }
            let age = (before.finished, id);
            kept_oldest = kept_oldest.min(Some(age)).or(Some(age));
        }
    }
    for (id, record) in &child.operations {
        let new = !parent.operations.contains_key(id);
        if new && (record.started, record.finished) != (child.epoch, child.epoch) {
            return Err(IllegalChange::Operation(id.clone()));
        }
    }
    let full = child.operations.len() >= KEPT_OPERATIONS;
    for (id, before) in
        parent.operations.iter().filter(|(id, _)| !child.operations.contains_key(*id))
    {
        let younger = kept_oldest.is_some_and(|oldest| (before.finished, id) > oldest);
        if younger || !full {
            return Err(IllegalChange::Operation(id.clone()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
