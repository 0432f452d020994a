//! The ring: where a key lies and who owns it.
//!
//! A key hashes to a point (`hash`), the point lies in one of 2^k equal arcs (`partition`), and the
//! cluster document (`document`, valid by itself if `check` says so) names the owners of every arc
//! (`slot`). `layout` plans the first table and `planner` every later one, `judge` says which document
//! may follow which, `operation` turns a posted operation into the next document and `buckets` the
//! change of a bucket's settings, `moves` says who counts while a slot passes from one holder to
//! another, `progress` how far that is, `driver` what comes next, `waiting` why nothing does, `ending` how
//! an operation ends, `outgoing` who is on its way out, `takeover` what a replace changes in plans that name
//! the node it replaces, `handover` when a copy that was given away may be removed, `piece` the checksum of
//! what travels, and `placement` is the view that requests are routed with. `places` holds what both planners
//! know of machines, racks and zones.
//!
//! Everything here is a pure function of its arguments: same inputs, same bytes.

pub mod buckets;
pub mod check;
pub mod document;
mod draw;
pub mod driver;
pub mod ending;
pub mod handover;
pub mod hash;
pub mod judge;
pub mod layout;
pub mod moves;
pub mod names;
pub mod operation;
pub mod outgoing;
pub mod partition;
mod partners;
pub mod piece;
pub mod placement;
mod places;
pub mod planner;
mod posting;
pub mod progress;
pub mod slot;
pub mod takeover;
pub mod waiting;

#[cfg(test)]
pub(crate) mod fixtures;

pub use buckets::{BucketRefused, SettingsChange};
pub use check::InvalidDocument;
pub use document::{
    BucketSettings, Document, DocumentHash, Durability, Member, MemberState, Mode, NewCluster,
    Owner, PartitionEntry, Sealed,
};
pub use handover::{Handover, Handovers};
pub use hash::key_hash;
pub use judge::{IllegalChange, legal_child};
pub use names::{BucketName, TokenSecret};
pub use operation::{Operation, OperationKind, OperationRecord, OperationState};
pub use partition::Partition;
pub use placement::{Ring, Seat};
pub use progress::{MoveRecord, MoveStage, Progress, Summary};
pub use slot::{Slot, SlotState, Successor};
