//! The ring: where a key lies and who owns it.
//!
//! A key hashes to a point (`hash`), the point lies in one of 2^k equal arcs (`partition`), and the
//! cluster document (`document`) names the owners of every arc.
//!
//! Everything here is a pure function of its arguments: same inputs, same bytes.

pub mod document;
pub mod hash;
pub mod names;
pub mod operation;
pub mod partition;

pub use document::{
    BucketSettings, Document, DocumentHash, Durability, Member, MemberState, Mode, Owner,
    PartitionEntry, Sealed, Slot, SlotState,
};
pub use hash::key_hash;
pub use names::{BucketName, TokenSecret};
pub use operation::{Operation, OperationKind, OperationRecord, OperationState};
pub use partition::Partition;
