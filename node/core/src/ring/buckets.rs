//! Declaring a bucket: from the settings that somebody asks for to the next document.
//!
//! A bucket needs no declaration; without an entry the document's defaults hold for it. The first change
//! makes its entry, from the defaults and what the change names; later ones change what they name and
//! leave the rest as it is, so that two people who change different settings do not undo each other's.
//! From then on the mode is fixed and the entry stays: what was written under one rule of reading must
//! not be read under another.
//!
//! Pure, and idempotent: a change that is in force already leads to no document.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use super::check::MAX_BUCKETS;
use super::document::{BucketSettings, Document, Durability, Mode};
use super::names::BucketName;
use crate::quorum::Level;

/// Longest life that a bucket may give its values, in seconds: one hundred years.
pub const TTL_MAX_SECONDS: u64 = 100 * 366 * 86_400;

/// Settings to change; what is absent stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SettingsChange {
    /// Read level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub r: Option<Level>,
    /// Write level.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub w: Option<Level>,
    /// `memory`, `periodic`, `group` or `each`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// Whether stand-ins count while owners are down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sloppy: Option<bool>,
    /// Seconds that a value without a ttl of its own lives; `null` for ever.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Option<u64>>,
    /// `siblings` or `lastWriteWins`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
}

/// A field that is there, be it `null`.
fn given<'de, D: Deserializer<'de>>(field: D) -> Result<Option<Option<u64>>, D::Error> {
    Option::<u64>::deserialize(field).map(Some)
}

impl SettingsChange {
    /// `before` with what this change names put over it.
    pub fn over(&self, before: &BucketSettings) -> BucketSettings {
        BucketSettings {
            r: self.r.unwrap_or(before.r),
            w: self.w.unwrap_or(before.w),
            durability: self.durability.unwrap_or(before.durability),
            sloppy: self.sloppy.unwrap_or(before.sloppy),
            ttl: self.ttl.unwrap_or(before.ttl),
            mode: self.mode.unwrap_or(before.mode),
        }
    }
}

/// What a change leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Declared {
    /// This document, once it is chosen.
    Child(Box<Document>),
    /// Nothing: it is in force already.
    InForce,
}

/// Why a bucket's settings do not change. Nothing was changed; the same request is refused again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BucketRefused {
    /// The bucket was declared with the other mode.
    #[error("the mode of bucket {bucket} was fixed when it was declared")]
    ModeFixed {
        /// Its name, escaped.
        bucket: String,
        /// Its mode.
        mode: Mode,
    },
    /// As many buckets are declared as may be.
    #[error(
        "{MAX_BUCKETS} buckets are declared, the most that there may be: every node holds all of them \
         in the cluster document"
    )]
    TooMany,
    /// A level asks for more copies than there are.
    #[error("`{field}` asks for {asked} copies, but every key has {copies}")]
    Unreachable {
        /// `r` or `w`.
        field: &'static str,
        /// What it asks for.
        asked: u32,
        /// All copies, over all data centers.
        copies: u32,
    },
    /// The life of values is out of bounds.
    #[error("`ttl` is {0} seconds; it must be from 1 to {TTL_MAX_SECONDS}, or null for ever")]
    Ttl(u64),
}

impl BucketSettings {
    /// Whether a cluster with these copies per data center can keep such a bucket.
    ///
    /// # Errors
    /// [`BucketRefused::Unreachable`], [`BucketRefused::Ttl`].
    pub fn fit(&self, replication: &BTreeMap<String, u32>) -> Result<(), BucketRefused> {
        let copies = replication.values().sum();
        for (field, level) in [("r", self.r), ("w", self.w)] {
            if let Level::Exactly(asked) = level
                && asked > copies
            {
                return Err(BucketRefused::Unreachable { field, asked, copies });
            }
        }
        match self.ttl {
            Some(ttl) if !(1..=TTL_MAX_SECONDS).contains(&ttl) => Err(BucketRefused::Ttl(ttl)),
            _ => Ok(()),
        }
    }
}

/// The child of a document in which the bucket has an entry with the change in it.
///
/// # Errors
/// See [`BucketRefused`].
pub fn declare(
    document: &Document,
    bucket: &BucketName,
    change: &SettingsChange,
) -> Result<Declared, BucketRefused> {
    let entry = document.buckets.get(bucket);
    let wanted = change.over(entry.unwrap_or(&document.defaults));
    if let Some(before) = entry
        && wanted.mode != before.mode
    {
        return Err(BucketRefused::ModeFixed { bucket: bucket.to_string(), mode: before.mode });
    }
    wanted.fit(&document.replication)?;
    if entry == Some(&wanted) {
        return Ok(Declared::InForce);
    }
    if entry.is_none() && document.buckets.len() >= MAX_BUCKETS {
        return Err(BucketRefused::TooMany);
    }
    let mut child = document.child();
    child.buckets.insert(bucket.clone(), wanted);
    Ok(Declared::Child(Box::new(child)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::cluster;
    use crate::ring::{Sealed, legal_child};

    fn name(text: &str) -> BucketName {
        BucketName::new(text.as_bytes()).unwrap()
    }

    fn child(document: &Document, bucket: &str, change: &SettingsChange) -> Document {
        match declare(document, &name(bucket), change).unwrap() {
            Declared::Child(child) => *child,
            Declared::InForce => panic!("in force already"),
        }
    }

    fn read(json: &str) -> SettingsChange {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn an_entry_is_the_defaults_with_the_change_over_them() {
        let first = cluster(3, 3);
        let declared = child(&first, "b", &read(r#"{"w":"all","ttl":60}"#));
        let expected = BucketSettings { w: Level::All, ttl: Some(60), ..first.defaults.clone() };
        assert_eq!(declared.settings(b"b"), &expected);
        assert_eq!(declared.settings(b"other"), &first.defaults);
        assert!(legal_child(&Sealed::new(first), &Sealed::new(declared)).is_ok());
    }

    #[test]
    fn a_later_change_leaves_what_it_does_not_name() {
        let first = child(&cluster(3, 3), "b", &read(r#"{"r":"one","ttl":60}"#));
        let second = child(&first, "b", &read(r#"{"sloppy":false}"#));
        assert_eq!(second.settings(b"b").ttl, Some(60));
        assert_eq!(second.settings(b"b").r, Level::One);
        let third = child(&second, "b", &read(r#"{"ttl":null}"#));
        assert_eq!(third.settings(b"b").ttl, None, "null is a value, absent is not");
        assert!(legal_child(&Sealed::new(second), &Sealed::new(third)).is_ok());
    }

    #[test]
    fn the_same_change_twice_is_one() {
        let empty = SettingsChange::default();
        let first = child(&cluster(3, 3), "b", &empty);
        assert_eq!(first.buckets.len(), 1, "an empty change declares");
        for again in [empty, read(r#"{"mode":"siblings","durability":"group"}"#)] {
            assert_eq!(declare(&first, &name("b"), &again), Ok(Declared::InForce));
        }
    }

    #[test]
    fn the_mode_is_free_until_the_bucket_is_declared() {
        let wins = read(r#"{"mode":"lastWriteWins"}"#);
        let first = child(&cluster(3, 3), "b", &wins);
        assert_eq!(declare(&first, &name("b"), &wins), Ok(Declared::InForce));
        let back = declare(&first, &name("b"), &read(r#"{"mode":"siblings"}"#));
        let fixed = BucketRefused::ModeFixed { bucket: "b".into(), mode: Mode::LastWriteWins };
        assert_eq!(back, Err(fixed));
    }

    #[test]
    fn what_no_cluster_of_this_kind_can_keep_is_refused() {
        let first = cluster(3, 3);
        for (json, refused) in [
            (r#"{"r":"4"}"#, BucketRefused::Unreachable { field: "r", asked: 4, copies: 3 }),
            (r#"{"w":"9"}"#, BucketRefused::Unreachable { field: "w", asked: 9, copies: 3 }),
            (r#"{"ttl":0}"#, BucketRefused::Ttl(0)),
            (r#"{"ttl":18446744073709551615}"#, BucketRefused::Ttl(u64::MAX)),
        ] {
            assert_eq!(declare(&first, &name("b"), &read(json)), Err(refused), "{json}");
        }
        let edge = read(&format!(r#"{{"r":"3","ttl":{TTL_MAX_SECONDS}}}"#));
        let declared = child(&first, "b", &edge);
        assert!(legal_child(&Sealed::new(first), &Sealed::new(declared)).is_ok());
    }

    #[test]
    fn unknown_settings_and_wrong_types_are_errors() {
        for json in [
            r#"{"n":3}"#,
            r#"{"R":"one"}"#,
            r#"{"r":"most"}"#,
            r#"{"r":"0"}"#,
            r#"{"ttl":"60s"}"#,
            r#"{"ttl":-1}"#,
            r#"{"sloppy":"yes"}"#,
            r#"{"mode":"last"}"#,
            r#"{"r":"one","r":"all"}"#,
        ] {
            assert!(serde_json::from_str::<SettingsChange>(json).is_err(), "{json}");
        }
    }

    #[test]
    fn the_number_of_entries_is_bounded() {
        let mut full = cluster(3, 3);
        for number in 0..MAX_BUCKETS {
            full.buckets.insert(name(&format!("b{number}")), full.defaults.clone());
        }
        assert_eq!(full.validate(), Ok(()));
        let change = read(r#"{"ttl":1}"#);
        assert_eq!(declare(&full, &name("one-more"), &change), Err(BucketRefused::TooMany));
        assert_eq!(child(&full, "b7", &change).settings(b"b7").ttl, Some(1));
    }
}
