//! What changes rarely about a member: where it is, what it runs on, which start of it this is.
//!
//! A profile is named by a tag, so that lists need not carry it. Profiles of one node are ordered
//! by (boot, nonce, revision). The nonce is drawn at every start; it decides only between two
//! processes that claim the same boot of the same node, which means that a volume was copied.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::id::{ClusterId, NodeId};

/// Longest address or label, in bytes.
pub const TEXT_MAX_BYTES: usize = 255;
/// Longest version string, in bytes.
pub const VERSION_MAX_BYTES: usize = 64;

/// Where a node is reached, each as `host:port`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// The client API.
    pub http: String,
    /// Other nodes.
    pub peer: String,
    /// The admin API.
    pub admin: String,
}

/// What a node runs on, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Labels {
    /// Physical machine: two copies never share one.
    pub machine: String,
    /// Rack.
    pub rack: String,
    /// Zone.
    pub zone: String,
    /// Data center.
    pub datacenter: String,
    /// Share of the data that it should hold, relative to the others.
    pub weight: u32,
}

/// How far a member has come; of two, the larger is the newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Which start of the node.
    pub boot: u64,
    /// How often it answered "I am alive" to a suspicion in this start.
    pub refutation: u32,
    /// Raised every interval.
    pub counter: u64,
}

/// What changes rarely about a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Identity, written on its volume.
    pub id: NodeId,
    /// Which start of the node; raised and fsynced at each.
    pub boot: u64,
    /// Drawn at this start.
    pub nonce: u64,
    /// Raised when something here changes within one start.
    pub revision: u32,
    /// The cluster that it belongs to; nil before it belongs to one.
    pub cluster: ClusterId,
    /// The mark at this start, from which rows count.
    pub mark_at_boot: u64,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What it runs on.
    pub labels: Labels,
    /// Version of its program.
    pub version: String,
}

/// A profile with a text that is too long or a missing id. It was not taken; the same fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// The id is nil.
    #[error("a member needs a node id")]
    NilId,
    /// A text is over its bound.
    #[error("`{field}` of a member has {bytes} bytes, at most {bound} are taken")]
    TooLong {
        /// Which one.
        field: &'static str,
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        bound: usize,
    },
}

/// Six bytes that name a profile: a hash of all of it. Two of 4,096 profiles share one with a
/// chance of about 3 in 10^8; the later one would stay unknown until one of them changes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Tag(pub [u8; 6]);

impl std::fmt::Debug for Tag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl Profile {
    /// The tag that names this profile.
    pub fn tag(&self) -> Tag {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.cluster.as_bytes());
        for number in [self.boot, self.nonce, u64::from(self.revision), self.mark_at_boot] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.labels.weight.to_be_bytes());
        for (_, text, _) in self.texts() {
            bytes.extend_from_slice(&(text.len() as u64).to_be_bytes());
            bytes.extend_from_slice(text.as_bytes());
        }
        let [a, b, c, d, e, f, ..] = xxh3_64(&bytes).to_be_bytes();
        Tag([a, b, c, d, e, f])
    }

    /// Which of two profiles of one node is the newer one.
    pub fn age(&self) -> (u64, u64, u32) {
        (self.boot, self.nonce, self.revision)
    }

    /// Whether every text is within its bound.
    pub fn check(&self) -> Result<(), ProfileError> {
        if self.id.is_nil() {
            return Err(ProfileError::NilId);
        }
        for (field, text, bound) in self.texts() {
            if text.len() > bound {
                return Err(ProfileError::TooLong { field, bytes: text.len(), bound });
            }
        }
        Ok(())
    }

    /// An upper bound of its encoded size.
    pub(super) fn size_bound(&self) -> usize {
        // Ids, varints of at most 10 bytes and 2-byte lengths around the texts.
        112 + self.texts().iter().map(|(_, text, _)| text.len()).sum::<usize>()
    }

    fn texts(&self) -> [(&'static str, &str, usize); 8] {
        [
            ("http address", &self.addresses.http, TEXT_MAX_BYTES),
            ("peer address", &self.addresses.peer, TEXT_MAX_BYTES),
            ("admin address", &self.addresses.admin, TEXT_MAX_BYTES),
            ("machine", &self.labels.machine, TEXT_MAX_BYTES),
            ("rack", &self.labels.rack, TEXT_MAX_BYTES),
            ("zone", &self.labels.zone, TEXT_MAX_BYTES),
            ("datacenter", &self.labels.datacenter, TEXT_MAX_BYTES),
            ("version", &self.version, VERSION_MAX_BYTES),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        Profile {
            id: NodeId::from_bytes([1; 16]),
            boot: 3,
            nonce: 4,
            revision: 0,
            cluster: ClusterId::nil(),
            mark_at_boot: 10,
            addresses: Addresses::default(),
            labels: Labels::default(),
            version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn the_tag_names_all_of_it() {
        let base = profile();
        assert_eq!(base.tag(), profile().tag());
        let mut others = vec![profile(); 6];
        others[0].boot = 4;
        others[1].addresses.http = "a".to_owned();
        others[2].addresses.peer = "a".to_owned();
        others[3].labels.weight = 1;
        others[4].cluster = ClusterId::from_bytes([1; 16]);
        others[5].revision = 1;
        let mut tags: Vec<Tag> = others.iter().map(Profile::tag).chain([base.tag()]).collect();
        tags.sort_unstable();
        tags.dedup();
        assert_eq!(tags.len(), 7);
    }

    #[test]
    fn long_texts_and_nil_ids_are_refused() {
        let mut long = profile();
        long.labels.rack = "r".repeat(256);
        assert!(long.check().unwrap_err().to_string().contains("`rack`"));
        let mut nil = profile();
        nil.id = NodeId::nil();
        assert_eq!(nil.check(), Err(ProfileError::NilId));
    }

    #[test]
    fn heartbeats_compare_by_boot_then_refutation_then_counter() {
        let beat = |boot, refutation, counter| Heartbeat { boot, refutation, counter };
        assert!(beat(2, 0, 0) > beat(1, 9, 9));
        assert!(beat(1, 1, 0) > beat(1, 0, 9));
        assert!(beat(1, 1, 2) > beat(1, 1, 1));
    }
}
