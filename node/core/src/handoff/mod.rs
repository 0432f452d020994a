//! Temporary failure: who keeps a copy for an owner that is down, how much of it, and when it goes back.
//!
//! A **stand-in copy** counts towards W in the place of an owner: it is never dropped by age or cap,
//! and deleted only when every owner of one version of the partition's entry stored it
//! ([`HandBack`]). A **hint** is a note that an owner missed a write which was counted without it: an
//! optimisation, bounded and droppable. [`Bench`] says who stands in, [`Cap`] what is still taken,
//! [`Pace`] how fast a receiver wants things back, [`Throttle`] how fast data moves beside clients.
//!
//! Everything here is a function of what it is told. Source: Dynamo (DeCandia et al. 2007) section
//! 4.6; the rule for deleting is the one that the models did not refute: acknowledgements under two
//! versions of an entry never add up.

pub mod bench;
pub mod cap;
pub mod hand_back;
pub mod pace;
pub mod throttle;

pub use bench::Bench;
pub use cap::Cap;
pub use hand_back::HandBack;
pub use pace::Pace;
pub use throttle::Throttle;
