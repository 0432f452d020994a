//! The cluster document: everything that all members must agree on, as one versioned value.
//!
//! It stands in these terms nowhere else, neither in a node's configuration nor in an operator's
//! memory. It changes only by ballot (`crate::consensus`), one legal step at a time
//! (`super::judge`). Its text form is JSON; the canonical form, over which [`Document::hash`] is
//! taken, is that JSON without spaces, fields in the order of the structs, maps in key order.
//! Unknown fields are refused: a node that does not know a field cannot agree on it.
//!
//! Derives are the plain ones of serde (no skipped or tagged fields), so that the same structs
//! travel in binary frames between nodes.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};

use super::layout::{PlanError, PlanWarning, plan_first};
use super::moves::Place;
use super::names::{BucketName, TokenSecret, from_hex, hex_u64, to_hex};
use super::operation::OperationRecord;
use super::partition::Partition;
use super::slot::Slot;
use crate::id::{ClusterId, NodeId};
use crate::quorum::Level;

/// What all members agree on. One value per epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Document {
    /// Born with the first document, never changed.
    pub cluster_id: ClusterId,
    /// For people; 1 to 63 bytes. Never changed.
    pub cluster_name: String,
    /// 1 for the document of `init`, one more for each child.
    pub epoch: u64,
    /// Hash of the document of the epoch before; none at epoch 1 only.
    pub parent_hash: Option<DocumentHash>,
    /// Seed of [`super::key_hash`]; 16 hexadecimal digits in JSON. Never changed.
    #[serde(with = "hex_u64")]
    pub seed: u64,
    /// Key that signs the tokens of this cluster. Never changed.
    pub token_secret: TokenSecret,
    /// The ring is cut into 2^this partitions.
    pub partition_bits: u8,
    /// The nodes of the cluster: the acceptors of the next epoch's ballot.
    pub members: BTreeMap<NodeId, Member>,
    /// Copies of every partition per data center (N). Fixed at creation.
    pub replication: BTreeMap<String, u32>,
    /// Settings of every bucket that has no entry of its own.
    pub defaults: BucketSettings,
    /// Buckets with settings of their own.
    pub buckets: BTreeMap<BucketName, BucketSettings>,
    /// Owners of each partition, by index: exactly 2^`partition_bits` entries.
    pub table: Vec<PartitionEntry>,
    /// Changes of the cluster that were asked for, by the id given by whoever asked.
    pub operations: BTreeMap<String, OperationRecord>,
}

/// A node of the cluster and where it stands. Addresses are not here: gossip looks them up by id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Member {
    /// The physical machine: two copies of one partition never share it.
    pub machine: String,
    /// Failure domain above the machine; empty when not known.
    pub rack: String,
    /// Failure domain above the rack; empty when not known.
    pub zone: String,
    /// Data center, a key of the document's `replication` where the member may own anything.
    pub datacenter: String,
    /// Share of the ring in its data center, relative to the other members' weights; 0 owns nothing.
    pub weight: u32,
    /// What the cluster expects of the member.
    pub state: MemberState,
}

/// What the cluster expects of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MemberState {
    /// A full member: votes, owns what the table names it for, stands in.
    Active,
}

/// Settings of a bucket: what a request means that does not say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BucketSettings {
    /// Replicas that must answer a read.
    pub r: Level,
    /// Copies that must be stored before a write is confirmed.
    pub w: Level,
    /// How safe a counted copy is on its replica's disk.
    pub durability: Durability,
    /// May stand-ins count while owners are down?
    pub sloppy: bool,
    /// Seconds after which a write without its own ttl expires; none for never.
    pub ttl: Option<u64>,
    /// How concurrent writes are resolved. Fixed once the bucket is declared.
    pub mode: Mode,
}

impl Default for BucketSettings {
    /// Majorities, `group`, sloppy, no expiry, siblings.
    fn default() -> Self {
        Self {
            r: Level::Quorum,
            w: Level::Quorum,
            durability: Durability::Group,
            sloppy: true,
            ttl: None,
            mode: Mode::Siblings,
        }
    }
}

/// When a counted copy is on disk, relative to its acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// Appended to the process's buffer only.
    Memory,
    /// Handed to the operating system; synced every few milliseconds, after the answer.
    Periodic,
    /// Synced before the answer, in a batch with others.
    Group,
    /// Synced before the answer, without waiting for a batch.
    Each,
}

/// How a bucket treats concurrent writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Mode {
    /// All of them are kept and the client resolves.
    Siblings,
    /// The highest stamp is shown, the others are covered.
    LastWriteWins,
}

/// Who owns one partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PartitionEntry {
    /// The epoch that last changed this entry. Requests carry it.
    pub version: u64,
    /// Per data center, in order of preference.
    pub slots: BTreeMap<String, Vec<Slot>>,
}

/// One owner of a partition, with the data center in which its acknowledgement counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub datacenter: String,
}

/// What whoever forms a cluster decides about it; everything else follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewCluster {
    /// Drawn at random by whoever forms the cluster.
    pub cluster_id: ClusterId,
    /// For people.
    pub cluster_name: String,
    /// Drawn at random.
    pub seed: u64,
    /// Drawn at random.
    pub token_secret: TokenSecret,
    /// See [`super::layout::suggest_bits`].
    pub partition_bits: u8,
    /// The first members; all of them must accept.
    pub members: BTreeMap<NodeId, Member>,
    /// Copies per data center.
    pub replication: BTreeMap<String, u32>,
    /// Settings of buckets without an entry.
    pub defaults: BucketSettings,
}

impl Document {
    /// The document of epoch 1: plans the first layout. The warnings say which wishes about racks
    /// and zones the members' places do not allow.
    pub fn first(cluster: NewCluster) -> Result<(Self, Vec<PlanWarning>), PlanError> {
        let plan = plan_first(&cluster.members, &cluster.replication, cluster.partition_bits)?;
        let document = Self {
            cluster_id: cluster.cluster_id,
            cluster_name: cluster.cluster_name,
            epoch: 1,
            parent_hash: None,
            seed: cluster.seed,
            token_secret: cluster.token_secret,
            partition_bits: cluster.partition_bits,
            members: cluster.members,
            replication: cluster.replication,
            defaults: cluster.defaults,
            buckets: BTreeMap::new(),
            table: plan.table,
            operations: BTreeMap::new(),
        };
        Ok((document, plan.warnings))
    }

    /// A child that differs only in what makes it one: the next epoch, and this one's hash.
    pub fn child(&self) -> Self {
        Self { epoch: self.epoch + 1, parent_hash: Some(self.hash()), ..self.clone() }
    }

    /// The canonical bytes: compact JSON.
    pub fn canonical(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain structs with string keys always have a JSON form")
    }

    /// SHA-256 of the canonical bytes. Costs a pass over the whole document: see [`Sealed`].
    pub fn hash(&self) -> DocumentHash {
        DocumentHash::of(&self.canonical())
    }

    /// The partition of this ring in which a hash lies.
    pub fn partition_of(&self, hash: u64) -> Partition {
        Partition::of(hash, self.partition_bits)
    }

    /// The entry of a partition; none when the partition is cut by another k or out of range.
    pub fn entry(&self, partition: Partition) -> Option<&PartitionEntry> {
        (partition.k == self.partition_bits)
            .then(|| self.table.get(partition.index as usize))
            .flatten()
    }

    /// Owners of a partition ([`PartitionEntry::owners`]). Empty for a partition that this ring does
    /// not have.
    pub fn owners(&self, partition: Partition) -> Vec<Owner> {
        let entry = self.entry(partition);
        entry.into_iter().flat_map(|entry| entry.owners()).collect()
    }

    /// Settings that hold for a bucket.
    pub fn settings(&self, bucket: &[u8]) -> &BucketSettings {
        BucketName::new(bucket).and_then(|name| self.buckets.get(&name)).unwrap_or(&self.defaults)
    }

    /// Does any slot of the table name this node?
    pub fn owns_anything(&self, node: NodeId) -> bool {
        self.table.iter().any(|entry| entry.names(node))
    }
}

impl PartitionEntry {
    /// Owners of the partition, data centers in name order, slots in their order: whoever stores
    /// its writes. Both of a slot that moves, and not the one that a slot under replacement lost.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.slots.iter().flat_map(|(datacenter, slots)| {
            let writers = slots.iter().flat_map(Slot::writers);
            writers.map(|node| Owner { node, datacenter: datacenter.clone() })
        })
    }

    /// Does a slot of this entry name the node, as owner or as successor?
    pub fn names(&self, node: NodeId) -> bool {
        self.slots.values().flatten().any(|slot| slot.named().any(|named| named == node))
    }

    /// The slot that changes hands, with its data center; at most one does.
    pub fn moving(&self) -> Option<(&str, &Slot)> {
        let all = self.slots.iter().flat_map(|(dc, slots)| slots.iter().map(move |s| (&**dc, s)));
        all.into_iter().find(|(_, slot)| slot.state.moves())
    }

    /// The number of that slot, counted over all data centers.
    pub fn moving_number(&self) -> Option<usize> {
        self.slots.values().flatten().position(|slot| slot.state.moves())
    }

    /// Every slot with its data center, as the rules of moves see it.
    pub fn places(&self) -> Vec<(&str, Place<NodeId>)> {
        let all = self.slots.iter().flat_map(|(dc, slots)| slots.iter().map(move |s| (dc, s)));
        all.map(|(dc, slot)| (dc.as_str(), slot.place())).collect()
    }

    /// The tenure under which this node holds data of the partition, or comes to hold it.
    pub fn tenure(&self, node: NodeId) -> Option<u64> {
        self.slots.values().flatten().find_map(|slot| slot.tenure(node))
    }

    /// Hash of the entry's canonical JSON (xxh3-64): with (partition, version) it tells two rings
    /// apart that must not be mixed. A check against accidents, not against forgery.
    pub fn entry_hash(&self) -> u64 {
        let bytes = serde_json::to_vec(self).expect("plain structs always have a JSON form");
        xxhash_rust::xxh3::xxh3_64(&bytes)
    }
}

/// SHA-256 of a document's canonical form; 64 hexadecimal digits in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentHash(pub [u8; 32]);

impl DocumentHash {
    fn of(canonical: &[u8]) -> Self {
        Self(Sha256::digest(canonical).into())
    }
}

impl fmt::Display for DocumentHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for DocumentHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&to_hex(&self.0[..4]))
    }
}

impl std::str::FromStr for DocumentHash {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        from_hex(text).map(Self).ok_or("a document hash has 64 lower-case hexadecimal digits")
    }
}

impl Serialize for DocumentHash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for DocumentHash {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A document that will not change any more, with its hash taken once. Cheap to clone; compares,
/// orders and hashes by the document's hash. Travels as the document alone: the reader takes the
/// hash itself and trusts nobody's.
#[derive(Clone)]
pub struct Sealed {
    document: Arc<Document>,
    hash: DocumentHash,
    size: usize,
}

impl Sealed {
    /// Takes the document's hash.
    pub fn new(document: Document) -> Self {
        let canonical = document.canonical();
        let hash = DocumentHash::of(&canonical);
        Self { document: Arc::new(document), hash, size: canonical.len() }
    }

    /// Length of the canonical form in bytes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The document's hash.
    pub fn hash(&self) -> DocumentHash {
        self.hash
    }

    /// The document, shared.
    pub fn share(&self) -> Arc<Document> {
        Arc::clone(&self.document)
    }
}

impl std::ops::Deref for Sealed {
    type Target = Document;

    fn deref(&self) -> &Document {
        &self.document
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "epoch {} ({:?})", self.epoch, self.hash)
    }
}

impl PartialEq for Sealed {
    fn eq(&self, other: &Self) -> bool {
        self.hash == other.hash
    }
}

impl Eq for Sealed {}

impl PartialOrd for Sealed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sealed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.hash.cmp(&other.hash)
    }
}

impl std::hash::Hash for Sealed {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.hash.hash(state);
    }
}

impl Serialize for Sealed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.document.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sealed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Document::deserialize(deserializer).map(Self::new)
    }
}
