//! The history checker: one black-box judge for simulation, process and Kubernetes tests alike.
//!
//! A history is a list of client operations ([`history::Operation`], one JSON object a line). From the
//! tokens that went back and forth the checker derives which write superseded which ([`causality`]), then
//! judges the rules of `reference` invariants I1, I2 and I14: no lost acknowledged write, no phantom, not
//! vacuous ([`rules`]). It knows nothing of how the store works inside.

pub mod causality;
pub mod history;
pub mod rules;

pub use history::{History, Kind, Operation, Outcome};
pub use rules::{Demand, Report, Violation, check};
