//! Names that never change: who a node is and which cluster it belongs to.
//!
//! A node id is drawn once, at the first start on an empty volume, and stays with that volume;
//! addresses and host names are looked up by it through gossip. A volume that lost its id is a new
//! node. The cluster id is born with the first cluster document. Both are UUIDs so that two of
//! them never meet by accident, and both print in the hyphenated form everywhere (JSON, logs,
//! headers).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The text was not a UUID. Nothing was changed; the same text fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: expected a UUID such as 6f1c2b9e-3d57-4c0a-9a51-0d6d6f3f8b11")]
pub struct InvalidId {
    what: &'static str,
    text: String,
}

macro_rules! uuid_name {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// Draws a new one (a version 4 UUID) from the given source of randomness.
            pub fn from_random<R: rand::Rng + ?Sized>(rng: &mut R) -> Self {
                let mut bytes = [0; 16];
                rng.fill_bytes(&mut bytes);
                Self(uuid::Builder::from_random_bytes(bytes).into_uuid())
            }

            /// All zeroes: names nobody, and is never drawn.
            pub const fn nil() -> Self {
                Self(Uuid::nil())
            }

            /// Whether this is [`Self::nil`].
            pub const fn is_nil(&self) -> bool {
                self.0.is_nil()
            }

            /// The 16 bytes, big-endian: equal order to `Ord`.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// The name with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0.hyphenated(), f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::try_parse(text)
                    .map(Self)
                    .map_err(|_| InvalidId { what: $what, text: text.chars().take(64).collect() })
            }
        }
    };
}

uuid_name!(
    /// Identity of a node: written on its volume at the first start, never reused.
    NodeId,
    "node id"
);
uuid_name!(
    /// Identity of a cluster: drawn when the cluster is formed, never changed.
    ClusterId,
    "cluster id"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_parses_hyphenated() {
        let id = NodeId::from_bytes(*b"0123456789abcdef");
        assert_eq!(id.to_string(), "30313233-3435-3637-3839-616263646566");
        assert_eq!(id.to_string().parse(), Ok(id));
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
    }

    #[test]
    fn a_bad_id_is_named_in_the_error() {
        let error = "node-7".parse::<ClusterId>().unwrap_err();
        assert!(error.to_string().contains("`node-7` is not a cluster id"));
    }

    #[test]
    fn nil_is_known() {
        assert!(NodeId::nil().is_nil());
        assert!(!NodeId::from_bytes([1; 16]).is_nil());
    }
}
