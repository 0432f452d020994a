//! Sets and contexts as bytes, version 1. Canonical: one value, one encoding.
//!
//! Canonical bytes matter because trees and digests compare hashes of them, and because whatever
//! decodes must mean the same on every node. The decoder therefore refuses any byte string that the
//! encoder would not have written, and checks every length against what is left before it keeps
//! anything, so hostile input costs no more memory than it has bytes.
//!
//! ```text
//! set      = version(1) context count sibling*            siblings by rising dot
//! context  = count (actor count)* count dot*              vector by rising actor, cloud by rising dot
//! actor    = tag(8, big-endian) serial
//! dot      = actor count
//! sibling  = dot stamp(8, big-endian) flags(1) [expires] [length type] [length value]
//! flags      1 value (else tombstone), 2 content type follows, 4 expiry follows
//! ```
//! Numbers not given a width are LEB128 in their shortest form.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::context::Context;
use super::dot::{Actor, Dot};
use super::set::SiblingSet;
use super::sibling::{Payload, Sibling};
use super::stamp::Stamp;

/// Version of the set layout above.
pub const SET_VERSION: u8 = 1;

const FLAG_VALUE: u8 = 1;
const FLAG_CONTENT_TYPE: u8 = 2;
const FLAG_EXPIRES: u8 = 4;

/// Fewest bytes that an actor with a count can take.
const ROW_MIN_BYTES: usize = 10;
/// Fewest bytes that a sibling can take: a tombstone.
const SIBLING_MIN_BYTES: usize = ROW_MIN_BYTES + 9;

/// The bytes are not what this version of Kvasir writes. Nothing was changed; the same bytes fail
/// again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Written by another version of Kvasir, or not by Kvasir at all. Upgrading this node may help.
    #[error("{what} has version {found}, but only version {known} is known here")]
    UnknownVersion {
        /// Which layout.
        what: &'static str,
        /// The version byte found.
        found: u8,
        /// The version that can be read.
        known: u8,
    },
    /// The bytes end in the middle of something.
    #[error("the bytes end before {0}")]
    Truncated(&'static str),
    /// The bytes could be read, but are not the one form in which this value is written.
    #[error("not in canonical form: {0}")]
    NotCanonical(&'static str),
}

/// Hash of a set's canonical bytes: the first 16 bytes of SHA-256. Equal digests mean equal sets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(pub [u8; 16]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl SiblingSet {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let values: usize = self.siblings().values().map(Sibling::weight).sum();
        let mut out = Vec::with_capacity(64 + values);
        self.encode_into(&mut out);
        out
    }

    /// Appends the canonical bytes.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        out.push(SET_VERSION);
        put_context(out, self.context());
        put_number(out, self.siblings().len() as u64);
        for (dot, sibling) in self.siblings() {
            put_dot(out, dot);
            put_sibling(out, sibling);
        }
    }

    /// Reads canonical bytes, copying the values.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not exactly what [`Self::encode`] writes for some set.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::read(Reader::new(bytes))
    }

    /// Reads canonical bytes; the values share the memory of `bytes`.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_shared(bytes: &Bytes) -> Result<Self, CodecError> {
        Self::read(Reader::shared(bytes))
    }

    /// Hash of the canonical bytes.
    pub fn digest(&self) -> Digest {
        let mut digest = [0; 16];
        digest.copy_from_slice(&Sha256::digest(self.encode())[..16]);
        Digest(digest)
    }

    /// Reads a set that ends where the reader ends.
    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, CodecError> {
        reader.version("set", SET_VERSION)?;
        let context = reader.context()?;
        let count = reader.count("siblings", SIBLING_MIN_BYTES)?;
        let mut siblings = BTreeMap::new();
        for _ in 0..count {
            let dot = reader.dot()?;
            if siblings.last_key_value().is_some_and(|(last, _)| *last >= dot) {
                return Err(CodecError::NotCanonical("siblings are not in order"));
            }
            siblings.insert(dot, reader.sibling()?);
        }
        reader.end()?;
        let uncovered = CodecError::NotCanonical("a sibling's dot is not in the context");
        Self::from_parts(context, siblings).ok_or(uncovered)
    }
}

impl Sibling {
    /// Roughly the bytes it takes when encoded.
    fn weight(&self) -> usize {
        match &self.payload {
            Payload::Tombstone => 32,
            Payload::Value { bytes, content_type } => {
                48 + bytes.len() + content_type.as_ref().map_or(0, String::len)
            }
        }
    }
}

/// Appends a number in LEB128.
pub(super) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends an actor.
pub(super) fn put_actor(out: &mut Vec<u8>, actor: &Actor) {
    out.extend_from_slice(&actor.tag.to_be_bytes());
    put_number(out, actor.serial);
}

/// Appends a dot.
pub(super) fn put_dot(out: &mut Vec<u8>, dot: &Dot) {
    put_actor(out, &dot.actor);
    put_number(out, dot.count);
}

/// Appends a context.
pub(super) fn put_context(out: &mut Vec<u8>, context: &Context) {
    put_number(out, context.vector().len() as u64);
    for (actor, count) in context.vector() {
        put_dot(out, &actor.dot(count));
    }
    put_number(out, context.cloud().len() as u64);
    for dot in context.cloud() {
        put_dot(out, &dot);
    }
}

fn put_sibling(out: &mut Vec<u8>, sibling: &Sibling) {
    out.extend_from_slice(&sibling.stamp.0.to_be_bytes());
    let mut flags = 0;
    if sibling.expires_ms.is_some() {
        flags |= FLAG_EXPIRES;
    }
    if let Payload::Value { content_type, .. } = &sibling.payload {
        flags |= FLAG_VALUE;
        if content_type.is_some() {
            flags |= FLAG_CONTENT_TYPE;
        }
    }
    out.push(flags);
    if let Some(at) = sibling.expires_ms {
        put_number(out, at);
    }
    if let Payload::Value { bytes, content_type } = &sibling.payload {
        if let Some(content_type) = content_type {
            put_number(out, content_type.len() as u64);
            out.extend_from_slice(content_type.as_bytes());
        }
        put_number(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Reads canonical forms from the front of a slice.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    shared: Option<&'a Bytes>,
}

impl<'a> Reader<'a> {
    /// Values will be copied out of `bytes`.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, shared: None }
    }

    /// Values will share the memory of `bytes`.
    pub(super) fn shared(bytes: &'a Bytes) -> Self {
        Self { rest: bytes, shared: Some(bytes) }
    }

    /// Takes `length` bytes, which are there or an error says so.
    pub(super) fn take(
        &mut self,
        length: usize,
        what: &'static str,
    ) -> Result<&'a [u8], CodecError> {
        let (taken, rest) =
            self.rest.split_at_checked(length).ok_or(CodecError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Takes one byte.
    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, CodecError> {
        Ok(self.take(1, what)?[0])
    }

    /// Takes the version byte, which must be `known`.
    pub(super) fn version(&mut self, what: &'static str, known: u8) -> Result<(), CodecError> {
        match self.byte(what)? {
            found if found == known => Ok(()),
            found => Err(CodecError::UnknownVersion { what, found, known }),
        }
    }

    /// Fails unless everything was read.
    pub(super) fn end(&self) -> Result<(), CodecError> {
        match self.rest {
            [] => Ok(()),
            _ => Err(CodecError::NotCanonical("bytes follow the end")),
        }
    }

    fn fixed(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8, what)?);
        Ok(u64::from_be_bytes(bytes))
    }

    fn number(&mut self, what: &'static str) -> Result<u64, CodecError> {
        let mut number = 0;
        for position in 0..10 {
            let byte = self.byte(what)?;
            if position == 9 && byte > 1 {
                break;
            }
            number |= u64::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                if byte == 0 && position > 0 {
                    return Err(CodecError::NotCanonical("a number is longer than it needs to be"));
                }
                return Ok(number);
            }
        }
        Err(CodecError::NotCanonical("a number exceeds 64 bits"))
    }

    /// A number of items of at least `least` bytes each, which must fit into what is left.
    fn count(&mut self, what: &'static str, least: usize) -> Result<usize, CodecError> {
        let count = self.number(what)?;
        let most = (self.rest.len() / least) as u64;
        if count > most {
            return Err(CodecError::Truncated(what));
        }
        Ok(count as usize)
    }

    /// An actor.
    pub(super) fn actor(&mut self) -> Result<Actor, CodecError> {
        Ok(Actor { tag: self.fixed("an actor")?, serial: self.number("an actor's serial")? })
    }

    fn dot(&mut self) -> Result<Dot, CodecError> {
        Ok(Dot { actor: self.actor()?, count: self.number("a count")? })
    }

    /// Dots in rising order.
    pub(super) fn dots(&mut self, what: &'static str) -> Result<BTreeSet<Dot>, CodecError> {
        let mut dots = BTreeSet::new();
        for _ in 0..self.count(what, ROW_MIN_BYTES)? {
            let dot = self.dot()?;
            if dots.last().is_some_and(|last| *last >= dot) {
                return Err(CodecError::NotCanonical("dots are not in order"));
            }
            dots.insert(dot);
        }
        Ok(dots)
    }

    /// A context.
    pub(super) fn context(&mut self) -> Result<Context, CodecError> {
        let count = self.count("the vector", ROW_MIN_BYTES)?;
        let mut vector = BTreeMap::new();
        for _ in 0..count {
            let Dot { actor, count } = self.dot()?;
            if vector.last_key_value().is_some_and(|(last, _)| *last >= actor) {
                return Err(CodecError::NotCanonical("the vector is not in order"));
            }
            vector.insert(actor, count);
        }
        let cloud = self.dots("the cloud")?;
        let unfolded = CodecError::NotCanonical("the cloud holds what belongs to the vector");
        Context::from_canonical(vector, cloud).ok_or(unfolded)
    }

    fn sibling(&mut self) -> Result<Sibling, CodecError> {
        let stamp = Stamp(self.fixed("a stamp")?);
        let flags = self.byte("a sibling's flags")?;
        let known = match flags & FLAG_VALUE {
            0 => FLAG_EXPIRES,
            _ => FLAG_VALUE | FLAG_CONTENT_TYPE | FLAG_EXPIRES,
        };
        if flags & !known != 0 {
            return Err(CodecError::NotCanonical("a sibling has unknown flags"));
        }
        let expires_ms = match flags & FLAG_EXPIRES {
            0 => None,
            _ => Some(self.number("an expiry")?),
        };
        if flags & FLAG_VALUE == 0 {
            return Ok(Sibling { stamp, expires_ms, payload: Payload::Tombstone });
        }
        let content_type = match flags & FLAG_CONTENT_TYPE {
            0 => None,
            _ => Some(self.text("a content type")?),
        };
        let bytes = self.value("a value")?;
        Ok(Sibling { stamp, expires_ms, payload: Payload::Value { bytes, content_type } })
    }

    fn text(&mut self, what: &'static str) -> Result<String, CodecError> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?;
        let text = std::str::from_utf8(bytes);
        Ok(text.map_err(|_| CodecError::NotCanonical("a content type is not UTF-8"))?.to_owned())
    }

    fn value(&mut self, what: &'static str) -> Result<Bytes, CodecError> {
        let length = self.count(what, 1)?;
        let bytes = self.take(length, what)?;
        Ok(match self.shared {
            Some(shared) => shared.slice_ref(bytes),
            None => Bytes::copy_from_slice(bytes),
        })
    }
}
