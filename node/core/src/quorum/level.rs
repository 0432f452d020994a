//! How many acknowledgements a request asks for, as text and as a value.
//!
//! The text forms are those of the query parameters `r` and `w` and of the bucket settings:
//! `one`, `quorum`, `all`, `local_one`, `local_quorum`, `each_quorum`, or a count from 1 upwards.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::id::NodeId;

/// Acknowledgements wanted by one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// This many replicas, wherever they are; at least 1.
    Exactly(u32),
    /// Any one replica.
    One,
    /// A majority of all replicas, over all data centers.
    Quorum,
    /// Every replica.
    All,
    /// One replica of the coordinator's data center.
    LocalOne,
    /// A majority of the replicas of the coordinator's data center.
    LocalQuorum,
    /// A majority in every data center that holds replicas.
    EachQuorum,
}

/// A level that cannot be used, or a tally asked about a node that is none of its replicas.
/// Nothing was changed in any case; the same call fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// The text names no level.
    #[error(
        "`{text}` is not a consistency level: expected one, quorum, all, local_one, local_quorum, \
         each_quorum or a count from 1"
    )]
    Unparsable {
        /// The text, cut to 64 characters.
        text: String,
    },
    /// A count of nothing would be confirmed before anything was done.
    #[error("a consistency level of 0 would confirm nothing: ask for at least 1")]
    Zero,
    /// More acknowledgements than there are replicas.
    #[error("{asked} acknowledgements were asked for, but the key has only {replicas} replicas")]
    MoreThanReplicas {
        /// What the level wants.
        asked: u32,
        /// How many replicas there are.
        replicas: u32,
    },
    /// The key has no replica at all: the caller routed with an unusable document.
    #[error("the key has no replicas")]
    NoReplicas,
    /// A local level in a data center that holds no replica of the key.
    #[error("`{level}` needs a replica in data center `{datacenter}`, which holds none of the key")]
    NoLocalReplica {
        /// The level asked for.
        level: Level,
        /// The coordinator's data center.
        datacenter: String,
    },
    /// The same node was named as two replicas: it would count twice.
    #[error("node {0} is named as two replicas of one key")]
    ReplicaTwice(NodeId),
    /// An answer came from a node that the tally does not count. It was ignored.
    #[error("node {0} is no replica that this request counts")]
    NotCounted(NodeId),
}

impl Level {
    /// Majority of `replicas`.
    pub const fn majority(replicas: u32) -> u32 {
        replicas / 2 + 1
    }

    /// Whether the level looks only at the coordinator's data center.
    pub const fn is_local(self) -> bool {
        matches!(self, Self::LocalOne | Self::LocalQuorum)
    }

    /// Whether it may want more of one data center than a majority of that one.
    pub const fn adds_up(self) -> bool {
        matches!(self, Self::Exactly(_) | Self::Quorum | Self::All)
    }

    /// The quorum over the same replicas: what a delete without a token reads at, so that it covers what
    /// was written at this level's quorum.
    pub const fn quorum(self) -> Self {
        match self {
            Self::LocalOne | Self::LocalQuorum => Self::LocalQuorum,
            Self::EachQuorum => Self::EachQuorum,
            Self::Exactly(_) | Self::One | Self::Quorum | Self::All => Self::Quorum,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exactly(count) => return write!(f, "{count}"),
            Self::One => "one",
            Self::Quorum => "quorum",
            Self::All => "all",
            Self::LocalOne => "local_one",
            Self::LocalQuorum => "local_quorum",
            Self::EachQuorum => "each_quorum",
        })
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(text: &str) -> Result<Self, LevelError> {
        Ok(match text {
            "one" => Self::One,
            "quorum" => Self::Quorum,
            "all" => Self::All,
            "local_one" => Self::LocalOne,
            "local_quorum" => Self::LocalQuorum,
            "each_quorum" => Self::EachQuorum,
            count => return parse_count(count),
        })
    }
}

/// Digits only (no sign, no leading zero), so that every count has one spelling.
fn parse_count(text: &str) -> Result<Level, LevelError> {
    if !text.is_empty() && text.bytes().all(|byte| byte == b'0') {
        return Err(LevelError::Zero);
    }
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    match text.parse::<u32>() {
        Ok(count) if plain => Ok(Level::Exactly(count)),
        _ => Err(LevelError::Unparsable { text: text.chars().take(64).collect() }),
    }
}

impl Serialize for Level {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Level {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_prints_as_it_parses() {
        for text in ["one", "quorum", "all", "local_one", "local_quorum", "each_quorum", "3"] {
            let level: Level = text.parse().unwrap();
            assert_eq!(level.to_string(), text);
            let json = serde_json::to_string(&level).unwrap();
            assert_eq!(serde_json::from_str::<Level>(&json).unwrap(), level);
        }
    }

    #[test]
    fn other_texts_are_refused_with_a_reason() {
        assert_eq!("0".parse::<Level>(), Err(LevelError::Zero));
        for text in ["", "Quorum", "+2", "02", "-1", "2.0", " 2", "4294967296", "two"] {
            let error = text.parse::<Level>().unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{text}` is not")), "{error}");
        }
    }
}
