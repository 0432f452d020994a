//! The part of the cluster document that the tables need, read leniently: a document of a later
//! version, or one without its secret, can still be drawn.

use std::collections::BTreeMap;

use kvasir_core::admin_api::DocumentAnswer;
use kvasir_core::id::NodeId;
use serde::Deserialize;

use crate::cli::failure::Failure;

/// Who owns what.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingView {
    /// Name of the cluster.
    pub cluster_name: String,
    /// log2 of the number of partitions.
    pub partition_bits: u8,
    /// Copies in each data center.
    pub replication: BTreeMap<String, u32>,
    /// The members.
    pub members: BTreeMap<NodeId, MemberView>,
    table: Vec<EntryView>,
}

/// One member.
#[derive(Debug, Clone, Deserialize)]
pub struct MemberView {
    /// Physical machine.
    pub machine: String,
    /// Rack.
    #[serde(default)]
    pub rack: String,
    /// Zone.
    #[serde(default)]
    pub zone: String,
    /// Data center.
    #[serde(default)]
    pub datacenter: String,
    /// Share relative to the others.
    pub weight: u32,
}

#[derive(Debug, Clone, Deserialize)]
struct EntryView {
    slots: BTreeMap<String, Vec<SlotView>>,
}

#[derive(Debug, Clone, Deserialize)]
struct SlotView {
    owner: NodeId,
}

impl RingView {
    /// Reads the document of an answer.
    pub fn of(answer: &DocumentAnswer) -> Result<Self, Failure> {
        serde_json::from_value(answer.document.clone()).map_err(|error| {
            Failure::error(
                format!("the cluster document cannot be read: {error}"),
                "use `kvasir ring -o json`, and check that `kvasir version` fits the nodes",
            )
        })
    }

    /// Owners of a partition, in order of preference within each data center.
    pub fn owners(&self, index: u32) -> Vec<NodeId> {
        let entry = self.table.get(index as usize);
        entry.into_iter().flat_map(|e| e.slots.values().flatten().map(|slot| slot.owner)).collect()
    }

    /// How many partitions there are.
    pub fn partitions(&self) -> u32 {
        self.table.len() as u32
    }

    /// Partition replicas by owner.
    pub fn counts(&self) -> BTreeMap<NodeId, u32> {
        let mut counts: BTreeMap<NodeId, u32> = self.members.keys().map(|id| (*id, 0)).collect();
        for index in 0..self.partitions() {
            for owner in self.owners(index) {
                *counts.entry(owner).or_default() += 1;
            }
        }
        counts
    }
}
