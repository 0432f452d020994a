//! What is stored under a key: a causal context and the siblings that nothing has superseded.
//!
//! A write is named by a [`Dot`]: an [`Actor`] (one start of one node) and a count. A
//! [`SiblingSet`] holds the dots it has heard of, its [`Context`], and the siblings among them that
//! no write has seen and replaced. Sets from different replicas are merged without coordination and
//! in any order; the client gets the context back as an opaque [`Token`] and sends it with its next
//! write, which supersedes exactly what the client saw.
//!
//! Reading order: [`dot`] names writes, [`context`] collects names, [`stamp`] orders them for
//! people, [`sibling`] is one written value, [`set`] merges, [`view`] shows a set to a client,
//! [`lww`] is the reading rule of last-write-wins buckets. [`codec`] lays sets out as bytes,
//! [`record`] is what a replica stores, [`mint`] makes new dots and judges incoming contexts,
//! [`token`] carries a context through a client, [`shape`] is a set without its values, [`fold`] drops what
//! a context need not say any more.
//!
//! Theory: the dot kernel of delta-state CRDTs (Almeida, Shoker, Baquero, "Delta State Replicated
//! Data Types", 2018) used as a multi-value register, and dotted version vectors (Preguiça et al.,
//! 2012).

pub mod codec;
pub mod context;
pub mod dot;
pub mod fold;
pub mod lww;
pub mod mint;
pub mod outline;
pub mod record;
pub mod set;
pub mod shape;
pub mod sibling;
pub mod stamp;
pub mod token;
pub mod view;

pub use codec::{CodecError, Digest};
pub use context::Context;
pub use dot::{Actor, Dot};
pub use lww::Outranked;
pub use mint::{ContextRefused, Minted, Minter, OutlineRefused, SerialFloor};
pub use outline::{MissingPiece, Outline};
pub use record::Record;
pub use set::SiblingSet;
pub use shape::Shape;
pub use sibling::{Life, Payload, Sibling};
pub use stamp::{HybridClock, Stamp};
pub use token::{Token, TokenError, TokenKey};
pub use view::{Etag, Group, View, Vtag};

#[cfg(test)]
mod tests;
