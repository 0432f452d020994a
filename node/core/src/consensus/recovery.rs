//! How a member that forgot votes earns the right to vote again.
//!
//! It runs the first phase of a new term, above all it hears, among the *other* members. Half of
//! all members, rounded up, must promise, none of them recovering itself. Every majority that this
//! member voted in holds one of them; so whatever may have been chosen with its vote was accepted
//! by one of those who now promise (and is taken over), or can no longer be accepted by them under
//! the old term. Reading their votes without raising them would not do: an old ballot could still
//! reach them afterwards. Counting itself among the answers would not do either.
//!
//! The decree asked about is that of the newest document; it must be at least as new as the newest
//! one that peers remember this member to have known, or votes cast under that would stay
//! forgotten.
//!
//! Of three members two that recover at once wait for each other for ever, since neither may answer
//! the other: what both forgot nobody can know, and a person has to decide.

use std::collections::BTreeMap;

use super::acceptor::{Acceptor, Step};
use super::message::{Message, Refusal, Term, Vote};
use crate::id::NodeId;
use crate::ring::DocumentHash;

/// One attempt to catch up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recovery {
    epoch: u64,
    parent: DocumentHash,
    term: Term,
    needed: usize,
    others: Vec<NodeId>,
    promised: BTreeMap<NodeId, Option<Vote>>,
    outbid: Option<Term>,
}

/// What came of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryStep {
    /// The acceptor's state changed, as after [`Acceptor::handle`].
    pub acceptor: Step,
    /// The attempt is over.
    pub outcome: Option<RecoveryOutcome>,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryOutcome {
    /// The member may vote again, once its state is stored.
    Recovered,
    /// Somebody has promised this term or more, or a newer document came: start again, above it.
    Again(Option<Term>),
}

impl Recovery {
    /// Starts an attempt, with a term above `above` (what ended the attempt before). None if
    /// nothing was forgotten or the document that peers remember is not here yet. The acceptor's
    /// state must be stored before the messages leave.
    pub fn start(
        acceptor: &mut Acceptor,
        above: Option<Term>,
    ) -> Option<(Self, Vec<(NodeId, Message)>)> {
        let (epoch, parent, others, needed) = acceptor.recovery_needs()?;
        let term = acceptor.mint(above);
        let prepare = Message::Prepare { epoch, parent, term, candidate: None };
        let send = others.iter().map(|other| (*other, prepare.clone())).collect();
        let promised = BTreeMap::new();
        Some((Self { epoch, parent, term, needed, others, promised, outbid: None }, send))
    }

    /// The attempt's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// Feeds an answer of another member; `acceptor` is the recovering member's own.
    pub fn receive(
        &mut self,
        acceptor: &mut Acceptor,
        from: NodeId,
        message: Message,
    ) -> RecoveryStep {
        let still = acceptor.recovery_needs().map(|(epoch, parent, ..)| (epoch, parent));
        if still != Some((self.epoch, self.parent)) {
            // Nothing left to recover, or another document came in between.
            let outcome = still.map(|_| RecoveryOutcome::Again(self.outbid));
            return RecoveryStep { outcome, ..RecoveryStep::default() };
        }
        let decree = (self.epoch, self.term);
        match message {
            Message::Promise { epoch, term, accepted, .. }
                if (epoch, term) == decree && self.others.contains(&from) =>
            {
                self.promised.insert(from, accepted);
            }
            Message::Refuse { epoch, term, refusal } if (epoch, term) == decree => {
                return self.refuse(acceptor, refusal);
            }
            _ => return RecoveryStep::default(),
        }
        if self.promised.len() < self.needed {
            return RecoveryStep::default();
        }
        let votes = std::mem::take(&mut self.promised).into_values().flatten();
        acceptor.recovered(self.term, votes.max_by_key(|vote| vote.term));
        RecoveryStep {
            acceptor: Step { persist: true, ..Step::default() },
            outcome: Some(RecoveryOutcome::Recovered),
        }
    }

    fn refuse(&mut self, acceptor: &mut Acceptor, refusal: Refusal) -> RecoveryStep {
        match refusal {
            Refusal::Promised(term) => {
                self.outbid = self.outbid.max(Some(term));
                acceptor.outbid(term);
                let outcome = Some(RecoveryOutcome::Again(self.outbid));
                RecoveryStep { outcome, ..RecoveryStep::default() }
            }
            Refusal::Newer(newest) => {
                let acceptor = acceptor.adopt(newest);
                let outcome = Some(RecoveryOutcome::Again(self.outbid));
                RecoveryStep { acceptor, outcome }
            }
            _ => RecoveryStep::default(),
        }
    }
}

#[cfg(test)]
mod tests;
