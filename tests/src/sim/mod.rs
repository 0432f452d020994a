//! The simulation: production nodes in one thread and in virtual time, over a network, disks and
//! maintenance that fail as told.
//!
//! [`cluster`] makes and breaks nodes, [`lanes`] runs their background work as events, [`weather`]
//! decides the fate of every frame from one seed and keeps a hash of all of it: the same seed twice
//! gives the same hash.

pub mod cluster;
pub mod lanes;
pub mod weather;

pub use cluster::{Sim, run};
pub use weather::{Conditions, Weather};
