//! Compaction: keeping reads bounded and dropping what was superseded.
//!
//! [`choose`] decides what to merge next, as a pure function of the levels; carrying it out is `run`'s
//! work.

pub mod choose;
pub(crate) mod run;
