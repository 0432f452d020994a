//! What one replica stores under a key: the set, and a note for itself. Version 1.
//!
//! The note names the actor on which this replica may go on counting under the key. It is local: a
//! mint sets it, nothing that comes from outside ever does, and it is gone when the record is.
//!
//! ```text
//! record = version(1) flags(1) [actor] set        flags: 1 an actor follows
//! ```

use bytes::Bytes;

use super::codec::{CodecError, Reader, put_actor};
use super::dot::Actor;
use super::set::SiblingSet;

/// Version of the record layout above.
pub const RECORD_VERSION: u8 = 1;

const FLAG_COUNTING: u8 = 1;

/// The value that a replica keeps in its store under a key.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Record {
    /// What is known about the key.
    pub set: SiblingSet,
    /// The actor of this replica's last mint under the key. Only [`super::mint`] reads or sets it;
    /// it may be outdated, which the minter judges.
    pub counting: Option<Actor>,
}

impl Record {
    /// A record that was never minted in: what a replica starts from when it only merges.
    pub fn merged(set: SiblingSet) -> Self {
        Self { set, counting: None }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![RECORD_VERSION, 0];
        if let Some(actor) = &self.counting {
            out[1] = FLAG_COUNTING;
            put_actor(&mut out, actor);
        }
        self.set.encode_into(&mut out);
        out
    }

    /// Reads canonical bytes, copying the values.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not exactly what [`Self::encode`] writes for some record. An
    /// unreadable record is an error for its caller, never an absent one.
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

    /// The canonical bytes of the set in a stored record, as they stand there: what digests are made of. None
    /// if these are not the first bytes of a record.
    pub fn set_bytes(record: &[u8]) -> Option<&[u8]> {
        let (head, rest) = record.split_first_chunk()?;
        match head {
            [RECORD_VERSION, 0] => Some(rest),
            [RECORD_VERSION, FLAG_COUNTING] => {
                let (_tag, serial) = rest.split_first_chunk::<8>()?;
                let end = serial.iter().position(|byte| byte & 0x80 == 0)?;
                serial.get(end + 1..)
            }
            _ => None,
        }
    }

    fn read(mut reader: Reader<'_>) -> Result<Self, CodecError> {
        reader.version("stored record", RECORD_VERSION)?;
        let counting = match reader.byte("a record's flags")? {
            0 => None,
            FLAG_COUNTING => Some(reader.actor()?),
            _ => return Err(CodecError::NotCanonical("a record has unknown flags")),
        };
        let set = SiblingSet::read(reader)?;
        if counting.is_some_and(|actor| set.context().contiguous(&actor) == 0) {
            return Err(CodecError::NotCanonical(
                "a record counts on an actor that it has no dot of",
            ));
        }
        Ok(Self { set, counting })
    }
}
