//! The long-running loops of a node. On the control thread: gossip, ballots, marks, ticks of the store;
//! workers reach them through a [`ControlHandle`] and read what they publish from
//! [`crate::replica::Views`]. On one of the workers: [`hand_back`].

pub mod ballots;
mod buckets;
pub mod control;
pub mod gossip;
pub mod hand_back;
pub mod identity;
pub mod marks;
mod seeds;
pub mod small_files;
pub mod unfit;

pub use buckets::ChangeError;
pub use control::{Control, ControlHandle};
pub use hand_back::HandingBack;
pub use identity::{Identity, IdentityError};
pub use small_files::{SmallFileError, SmallFiles};
pub use unfit::Unfit;
