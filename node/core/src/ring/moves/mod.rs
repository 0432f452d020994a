//! How one slot of a partition passes from one holder to another while writes and reads go on.
//!
//! A slot stands in one of five places ([`Place`]); seven arrows lead from one to the next
//! ([`Arrow`]), each by a child document, so that each has a version of its own. One slot of a
//! partition moves at a time. C is the holder before, D the one after; D's tenure (`since`) is the
//! epoch in which its step 1 began.
//!
//! ```text
//! move              Stable C -Begin->   Copying C,D -Switch-> Switched C,D -Finish-> Stable D
//! replace, rebuild  any      -Replace-> Fencing D   -Admit->  Merging D    -Finish-> Stable D
//! cancel            Copying C,D or Fencing D (from C) -Cancel-> Stable C
//! ```
//!
//! | place | a write counts here when stored by | a read asks | a stand-in copy needs |
//! |---|---|---|---|
//! | `Stable` | the holder | the holder | the holder |
//! | `Copying` (step 1) | C and D, as one | C | C and D |
//! | `Switched` (step 2) | C and D, as one | D | C and D |
//! | `Fencing` (step 1) | nobody | nobody | later |
//! | `Merging` (step 2) | D | nobody | D |
//!
//! | arrow | proof that it needs |
//! |---|---|
//! | Begin, Cancel, Replace | none |
//! | Switch | D holds, fsynced, a snapshot of C taken after C was fenced at D's tenure |
//! | Finish of a move | C is fenced at step 2; or, C being dead, the barrier of others is |
//! | Admit | the barrier of others is fenced at D's tenure |
//! | Finish of a replace | the barrier is fenced at step 2, and D merged from a barrier of nodes, each fenced at D's tenure when it gave its copy |
//!
//! *Fenced at v*: the node persisted a version of the entry not below v and refuses older requests.
//! *Barrier*: ⌈N/2⌉ of the other slots' holders, for N the replicas of each tally that a level
//! offers: the slots of the moving slot's data center, and all slots ([`proof::barrier`]).
//!
//! Invariant: a write acknowledged by a majority of slots is met by every read of a majority that
//! begins later, each coordinator and each node at whatever version it happens to know. It is shown
//! by `node/core/tests/model_moves`, which calls the functions of this module over every
//! interleaving and finds each of them necessary. Smaller quorums are eventual while a slot moves.
//!
//! Everything here is a function of small plain values, generic in what names a node, so that the
//! model and the node run one rule. Source: the search described in the model; write-both with a
//! fence of the old holder alone is ours, compare Garage's layout transitions (quorums in the old
//! and the new set) and Cassandra's pending ranges.

pub mod copy;
pub mod place;
pub mod proof;

#[cfg(test)]
mod tests;

pub use copy::{Admission, Condition, Fate, LocalCopy, admit, fate};
pub use place::{Arrow, Holder, Place};
pub use proof::{Missing, Proof, Scope, Slots, cancels_on_suspicion, judge, missing};
