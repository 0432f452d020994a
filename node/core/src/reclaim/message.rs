//! What the owners of a partition say to each other about tombstones and spent rows. Postcard; new variants
//! go to the end.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::version::Dot;

/// What may go from under a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Item {
    /// The bucket, 1 to 255 bytes.
    pub bucket: Bytes,
    /// The key, 1 to 4,096 bytes.
    pub key: Bytes,
    /// What.
    pub goes: Goes,
}

/// Either all that is stored under a key, or rows of its context.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Goes {
    /// The whole set: exactly the one with this digest.
    Set([u8; 16]),
    /// These rows, written one behind the other ([`crate::version::Context::row`]), each with exactly these
    /// dots, as long as they are spent ([`crate::version::SiblingSet::is_spent`]); the rest of the set may
    /// be anything.
    Rows(Vec<Dot>),
}

impl Item {
    /// Bytes that it takes in memory and in a message, about.
    pub fn cost(&self) -> usize {
        let rows = match &self.goes {
            Goes::Set(_) => 0,
            Goes::Rows(rows) => rows.len() * size_of::<Dot>(),
        };
        self.bucket.len() + self.key.len() + 64 + rows
    }
}

/// For how long a confirmation is good: until the next start, and until a table is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    /// Which start of the holder.
    pub boot: u64,
    /// How many tables it lost.
    pub lost: u64,
}

/// What the first owner of a partition asks of the others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// Which of these sets do you hold, exactly and durably?
    Confirm {
        /// Epoch of the document under which it is asked.
        document: u64,
        /// The sets.
        items: Vec<Item>,
    },
    /// All owners confirmed these: offer them to nobody any more.
    Agree {
        /// Epoch of the document under which they were confirmed.
        document: u64,
        /// What the receiver confirmed them under.
        term: Term,
        /// The generation from which they may be erased.
        from: u64,
        /// The sets.
        items: Vec<Item>,
    },
    /// All owners agreed: erase what is still exactly these.
    Erase {
        /// The sets.
        items: Vec<Item>,
    },
    /// Under which tag do you write now? Rows of it do not go.
    Tag,
}

/// What another owner answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Say {
    /// To [`Ask::Confirm`].
    Confirmed {
        /// Its generation, from before it looked.
        generation: u64,
        /// For how long this is good.
        term: Term,
        /// For each set whether it holds it.
        holds: Vec<bool>,
    },
    /// To [`Ask::Agree`]: for each set whether it is left alone from now on.
    Agreed {
        /// In the order of the question.
        agrees: Vec<bool>,
    },
    /// To [`Ask::Erase`].
    Erased {
        /// How many were erased now.
        erased: u64,
    },
    /// It does nothing of that kind at the moment.
    No(Why),
    /// To [`Ask::Tag`].
    Tag(u64),
}

/// Why an owner does not take part. Asking again later helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Why {
    /// It confirms nothing until its generation rose once since its start.
    Started,
    /// It knows another document.
    Document,
    /// It was started again, or lost a table, since it confirmed.
    Void,
    /// Its generation is too low.
    Early,
}
