//! What one owner does locally: read, mint and merge the record of a key through the engine.
//!
//! The engine runs the closures of this room under the lock of the key, so that reading the old
//! record, merging or minting, appending to the log and inserting into memory are one step
//! (DESIGN section 4). Nothing here waits for the network; waiting for the disk is a ticket.
//!
//! Absent on purpose: quorums and peers (`coordinator`), who owns what (`ring` in the core; the
//! newest document and the member list arrive here as a [`view::View`]).

pub mod compare;
pub mod generation;
pub mod holder;
pub mod local;
pub mod move_tally;
pub mod moving;
pub mod scan;
pub mod shelves;
pub mod standins;
pub mod trees;
pub mod view;

pub use generation::Generation;
pub use holder::Holder;
pub use local::{LocalError, Minted, Order, Replica};
pub use move_tally::MoveFigures;
pub use moving::Moving;
pub use shelves::{Shelf, Shelves};
pub use standins::StandIns;
pub use trees::{LookError, Trees};
pub use view::{Formed, Member, OtherVersion, Pass, View, Views};
