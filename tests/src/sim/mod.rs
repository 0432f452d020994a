//! The simulation: production nodes in one thread and in virtual time, over a network, disks and
//! maintenance that fail as told.
//!
//! [`cluster`] makes and breaks nodes, [`faults`] and [`gate`] hold them up, [`processor`] gives them a speed,
//! [`lanes`] runs their background work as events, [`weather`] decides the fate of every frame from one seed and
//! keeps a hash of all of it: the same seed twice gives the same hash. [`script`] is faults as data, `stage` lets
//! them happen, [`story`] runs one under load and judges it, [`hunt`] tells many and shrinks what fails. [`ring`]
//! posts operations and looks at what moved.

mod apart;
mod centers;
pub mod cluster;
pub mod faults;
pub mod gate;
pub mod hunt;
pub mod lanes;
mod moving;
pub mod processor;
mod reclaiming;
pub mod ring;
pub mod script;
mod stage;
pub mod story;
mod trees;
pub mod weather;

pub use cluster::{Sim, run};
pub use processor::Costs;
pub use ring::{Stored, owned};
pub use script::{Fault, Script, Timed, Unsynced};
pub use story::{Story, Told};
pub use weather::{Conditions, Weather};
