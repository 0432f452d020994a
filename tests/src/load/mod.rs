//! The load generator: bounded in clients, operations and time; writes a history for [`crate::check`].
//!
//! [`open`] sends requests at a rate whatever becomes of them, for figures of speed and overload; the rest is
//! for histories. [`plan`] decides what each client does next (pure, seeded), [`http`] speaks to a node over any byte
//! stream, [`run`] joins the two and records what happened. The same generator drives simulated nodes in
//! virtual time and real processes on loopback.

pub mod http;
pub mod open;
pub mod plan;
pub mod run;

pub use http::{Dial, HttpClient, TcpDial};
pub use open::{Figures, Rate, Volley};
pub use plan::{Plan, Session, Step};
pub use run::{
    Clock, Recorder, drive, drive_at_home, drive_while, fill, settle, settle_patiently,
    write_calmly,
};
