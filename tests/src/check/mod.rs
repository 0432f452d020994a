//! The history checker: one judge for simulation, process and Kubernetes tests alike.
//!
//! A history is a list of client operations ([`history::Operation`], one JSON object a line). From the
//! tokens that went back and forth the checker derives which write superseded which ([`causality`]), then
//! judges: no lost acknowledged write, no phantom, no false conflict, not vacuous ([`rules`], for any level);
//! nothing that was superseded shows in the end ([`gone`], for any level);
//! what a quorum read owes to what was acknowledged or shown before it, with strict quorums ([`regular`], and
//! [`last_write`] where the last write wins); no failure in the calm ([`calm`]); honest acknowledgements,
//! unique dots and equal replicas, from what answers name and replicas hold alone ([`replicas`]); caps
//! ([`bounds`]); what the death of one node may cost ([`death`]); that nodes did what a run is about
//! ([`work`]). [`judge()`] applies all that a run has evidence for. It knows nothing of how the store works
//! inside.

pub mod bounds;
pub mod calm;
pub mod causality;
pub mod death;
pub mod gone;
pub mod history;
pub mod judge;
pub mod last_write;
pub mod regular;
pub mod replicas;
pub mod rules;
pub mod work;

pub use bounds::Measured;
pub use history::{History, Kind, Operation, Outcome};
pub use judge::{Evidence, judge};
pub use rules::{Demand, Report, Violation, check};
pub use work::Work;
