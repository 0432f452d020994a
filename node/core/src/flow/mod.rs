//! Taking on only as much work as can be done in time: how far a worker is behind, and how much of each
//! kind it has in work.
//!
//! What is refused early costs little and says so; what is queued for too long costs as much as what
//! succeeds, and nobody waits for it any more. So every kind of work has a share of its own
//! ([`Admission`]), and a worker that is behind ([`Backlog`]) takes on nothing new of its clients and next
//! to nothing of what can wait.
//!
//! Everything here is a function of what it is told.

pub mod admission;
pub mod backlog;

pub use admission::{Admission, Full, Share, Shares, Work};
pub use backlog::Backlog;
