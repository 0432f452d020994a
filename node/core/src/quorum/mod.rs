//! Quorums: when enough replicas answered, when they no longer can, and what to repair afterwards.
//!
//! A [`Level`] says how many acknowledgements a request wants, a [`Tally`] counts them for one
//! request, and [`repair`] compares what the replicas of a read answered. Tallies count per data
//! center from the first day: `each_quorum` wants a majority in every one of them, the `local_*`
//! levels look at one only, and the others count over all replicas.
//!
//! Everything here is a function of what it is told; whoever waits for replies owns the clock.

pub mod level;
pub mod repair;
pub mod speed;
pub mod tally;

pub use level::{Level, LevelError};
pub use repair::{Repair, Replies};
pub use speed::{Budget, Speeds};
pub use tally::{Progress, Shortage, Tally};
