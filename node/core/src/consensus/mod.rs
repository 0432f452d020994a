//! How members agree on the next cluster document.
//!
//! For each epoch the members of the epoch before are the acceptors of one single-decree Paxos
//! (Lamport, "Paxos Made Simple", 2001): a proposer gathers promises of a majority for its term,
//! takes over the proposal accepted under the highest term if there is one, and has a majority
//! accept. The decree of epoch e+1 is a child of the document of epoch e, judged by every acceptor
//! (`crate::ring::judge`). Epoch 1 has no members before it: all nodes that it names must accept
//! it, each blank.
//!
//! A volume may be rolled back by whoever owns the disks. What Paxos needs of stable storage is
//! then gone, so every vote raises a *mark* that peers remember: a member whose mark is behind what
//! a peer remembers has forgotten votes, and votes again only after it has caught up with enough
//! others (`Recovery`). Not covered: a volume rolled back while nobody who saw its last votes can
//! be reached.
//!
//! Everything here is a state machine fed with messages. The shell sends what it is told to send
//! and, where a step says so, fsyncs [`Acceptor::state`] before anything leaves. The node's own
//! acceptor is asked by the same messages as everybody else's. `tests/model_ballots.rs` searches
//! these very machines for forks.

pub mod acceptor;
pub mod forming;
#[cfg(test)]
mod harness;
pub mod message;
pub mod proposer;
pub mod recovery;
pub mod state;

pub use acceptor::{Acceptor, AdoptError, Readiness, Step};
pub use forming::{Forming, FormingOutcome};
pub use message::{Mark, Marks, Message, Refusal, Term, Vote};
pub use proposer::{Outcome, Proposer, ProposerStep, StartError, back_off_ms};
pub use recovery::{Recovery, RecoveryOutcome, RecoveryStep};
pub use state::{AcceptorState, StateError};

/// Votes that choose a document among `members` acceptors.
pub const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// Other members that must have told a member the mark they remember of it, after every start,
/// before it votes.
pub const fn heard_before_voting(members: usize) -> usize {
    members / 2
}

/// Other members, none of them recovering itself, from which a member that forgot votes catches up.
/// Any majority that it voted in holds at least one of them: M/2 rounded up and M/2 rounded down
/// are together more than the M - 1 others.
pub const fn answers_to_recover(members: usize) -> usize {
    members.div_ceil(2)
}
