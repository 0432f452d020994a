//! Compaction: keeping reads bounded and dropping what was superseded.
//!
//! [`choose`] decides what to merge next, as a pure function of the levels; carrying it out is `run`'s
//! work, and [`pace`] says when it should let others go first.

pub mod choose;
pub mod pace;
pub(crate) mod run;
