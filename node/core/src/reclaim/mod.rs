//! When a tombstone may go: the only judge of it in the product (DESIGN section 7, Reclaim).
//!
//! A tombstone that is erased while an older value can still arrive from anywhere brings that value
//! back. Time proves nothing about messages, so reclaim counts **generations**: all members reach a
//! generation before any begins the next, and everything that carries stored data is stamped with the
//! generation of who read it. [`Margins`] is the rule, [`next`] how a member comes by its generation,
//! [`Held`] what it tells of the stand-in copies that it keeps, [`Batch`] the way of some sets of one
//! partition from confirmation to erasure. Rows of contexts whose writes were all superseded go by the same
//! evidence: they keep the same carriers out as a tombstone does. `node/core/tests/model_reclaim` searches the rule on these very functions and
//! refutes what is weaker.

pub mod batch;
pub mod begin;
pub mod held;
pub mod message;
pub mod rule;

pub use batch::{Batch, Due, Hold};
pub use begin::{Next, Seen, next, rejoin};
pub use held::Held;
pub use message::{Ask, Goes, Item, Say, Term, Why};
pub use rule::{Margins, Report, Wait};
