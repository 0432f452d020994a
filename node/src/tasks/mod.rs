//! The long-running loops of a node. On the control thread: gossip, ballots, marks, ticks of the store;
//! the driver of operations, rebuilds of this node, the removal of copies that were handed over; workers reach
//! them through a [`ControlHandle`] and read what they publish
//! from [`crate::replica::Views`]. On one of the workers: [`hand_back`], [`copying`],
//! [`anti_entropy`], [`tree_scrub`] and [`reclaim`].

pub mod anti_entropy;
pub mod ballots;
mod buckets;
pub mod control;
pub mod copying;
pub mod driver;
pub mod generations;
pub mod gossip;
pub mod hand_back;
mod handovers;
pub mod identity;
pub mod marks;
mod rebuilds;
pub mod reclaim;
pub mod repairs;
mod seeds;
pub mod set_aside;
pub mod small_files;
pub mod tenures;
pub mod tree_scrub;
pub mod unfit;

pub use anti_entropy::AntiEntropy;
pub use buckets::ChangeError;
pub use control::{Control, ControlHandle};
pub use copying::Copying;
pub use hand_back::HandingBack;
pub use identity::{Identity, IdentityError};
pub use reclaim::{ReclaimFigures, Reclaiming};
pub use repairs::{RepairFigures, Repairs, TreeFigures};
pub use small_files::{SmallFileError, SmallFiles};
pub use tree_scrub::TreeScrub;
pub use unfit::Unfit;
