//! The proposer: one round for one child document.
//!
//! Prepare, take over what was accepted under the highest term, have it accepted, tell everybody.
//! A round that meets a newer document gives up with it; one that is outbid is started anew with a
//! higher term, after a pause drawn by the caller. Nothing here is stored: a proposer that dies
//! leaves a round that any other may finish.

use std::collections::{BTreeMap, BTreeSet};

use super::acceptor::{Acceptor, Readiness};
use super::majority;
use super::message::{Marks, Message, Refusal, Term, Vote};
use crate::id::NodeId;
use crate::ring::{DocumentHash, IllegalChange, Sealed, legal_child};

/// One round.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proposer {
    parent: Sealed,
    candidate: Sealed,
    term: Term,
    phase: Phase,
    promised: Marks,
    highest: Option<Vote>,
    accepted: Marks,
    refused: BTreeSet<NodeId>,
    brought_up: BTreeSet<NodeId>,
    outbid: Option<Term>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Preparing,
    /// With the document that was sent out to be accepted.
    Accepting(Sealed),
    Over,
}

/// What to do after a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProposerStep {
    /// Send these; those to the own node go to its acceptor.
    pub send: Vec<(NodeId, Message)>,
    /// The round is over.
    pub outcome: Option<Outcome>,
}

/// How a round ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A majority accepted this document. It may be another one's that was taken over: compare
    /// hashes. Then the candidate was not chosen and never will be. Feed the own acceptor its
    /// `Chosen` and store it before anybody is answered: the marks in it are what a voter that is
    /// rolled back now would learn it by.
    Chosen(Sealed),
    /// The decree was made before: this is the newest document. The candidate was not chosen by
    /// this round; had an earlier round of it won, the newest is it or a descendant.
    Stale(Sealed),
    /// An acceptor judges the candidate illegal. It was not chosen and cannot be.
    Illegal {
        /// Stable word.
        code: String,
        /// For people.
        detail: String,
    },
    /// Too many members refused. Start again above `outbid`, after a pause. If `may_be_chosen`, the
    /// document went out to be accepted and may still win.
    NoMajority {
        /// The highest term that was in the way.
        outbid: Option<Term>,
        /// The outcome of the candidate is unknown.
        may_be_chosen: bool,
    },
    /// A member holds another document under the parent's epoch. A person must look.
    Fork {
        /// Who.
        node: NodeId,
        /// What it holds.
        holds: DocumentHash,
    },
}

/// Why no round was started. Nothing was sent; nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// No cluster yet.
    #[error("this node belongs to no cluster yet")]
    NoCluster,
    /// The candidate is no child of the newest document, which is here.
    #[error("the document was made from an older one; epoch {} is in force", .0.epoch)]
    Stale(Sealed),
    /// Refused for ever.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
    /// This node cannot vote (yet), so it must not propose: its terms could repeat. Ask a member
    /// that can.
    #[error("this node may not propose now: {0:?}")]
    NotReady(Readiness),
}

impl Proposer {
    /// Starts a round for `candidate`. The acceptor's state must be stored before the messages
    /// leave. `above` is the term that outbid the round before, if there was one.
    pub fn start(
        acceptor: &mut Acceptor,
        candidate: Sealed,
        above: Option<Term>,
    ) -> Result<(Self, Vec<(NodeId, Message)>), StartError> {
        let parent = acceptor.newest().ok_or(StartError::NoCluster)?.clone();
        if candidate.parent_hash != Some(parent.hash()) {
            return Err(StartError::Stale(parent));
        }
        legal_child(&parent, &candidate)?;
        match acceptor.readiness() {
            Readiness::Ready => {}
            other => return Err(StartError::NotReady(other)),
        }
        let round = Self {
            term: acceptor.mint(above),
            parent,
            candidate,
            phase: Phase::Preparing,
            promised: BTreeMap::new(),
            highest: None,
            accepted: BTreeMap::new(),
            refused: BTreeSet::new(),
            brought_up: BTreeSet::new(),
            outbid: None,
        };
        let send = round.members().map(|member| (member, round.prepare())).collect();
        Ok((round, send))
    }

    /// The round's term.
    pub fn term(&self) -> Term {
        self.term
    }

    /// The document this round was started for.
    pub fn candidate(&self) -> &Sealed {
        &self.candidate
    }

    /// Feeds an answer. Answers to other rounds, and all answers once the round is over, are
    /// ignored.
    pub fn receive(&mut self, from: NodeId, message: Message) -> ProposerStep {
        if self.phase == Phase::Over || !self.parent.members.contains_key(&from) {
            return ProposerStep::default();
        }
        let decree = (self.candidate.epoch, self.term);
        match message {
            Message::Promise { epoch, term, accepted, mark } if (epoch, term) == decree => {
                if self.phase != Phase::Preparing {
                    return ProposerStep::default();
                }
                self.promised.insert(from, mark);
                let higher = |vote: &Vote| {
                    self.highest.as_ref().is_none_or(|highest| vote.term > highest.term)
                };
                if let Some(vote) = accepted.filter(higher) {
                    self.highest = Some(vote);
                }
                self.propose_if_promised()
            }
            Message::Accepted { epoch, term, mark } if (epoch, term) == decree => {
                self.accepted.insert(from, mark);
                self.choose_if_accepted()
            }
            Message::Refuse { epoch, term, refusal } if (epoch, term) == decree => {
                self.refuse(from, refusal)
            }
            _ => ProposerStep::default(),
        }
    }

    /// What the caller may say when it waits no longer.
    pub fn give_up(&mut self) -> Outcome {
        let may_be_chosen = matches!(self.phase, Phase::Accepting(_));
        self.phase = Phase::Over;
        Outcome::NoMajority { outbid: self.outbid, may_be_chosen }
    }

    fn propose_if_promised(&mut self) -> ProposerStep {
        if self.promised.len() < self.needed() {
            return ProposerStep::default();
        }
        let document = self.highest.as_ref().map_or(&self.candidate, |vote| &vote.document).clone();
        self.phase = Phase::Accepting(document);
        self.refused.clear();
        let send = self.members().filter_map(|member| Some((member, self.accept()?))).collect();
        ProposerStep { send, outcome: None }
    }

    fn choose_if_accepted(&mut self) -> ProposerStep {
        if self.accepted.len() < self.needed() {
            return ProposerStep::default();
        }
        let Phase::Accepting(document) = std::mem::replace(&mut self.phase, Phase::Over) else {
            return ProposerStep::default();
        };
        let mut marks = self.promised.clone();
        for (member, mark) in &self.accepted {
            marks.entry(*member).or_default().raise_to(*mark);
        }
        let listeners: BTreeSet<_> =
            self.members().chain(document.members.keys().copied()).collect();
        let chosen = Message::Chosen { document: document.clone(), marks };
        let send = listeners.into_iter().map(|node| (node, chosen.clone())).collect();
        ProposerStep { send, outcome: Some(Outcome::Chosen(document)) }
    }

    fn refuse(&mut self, from: NodeId, refusal: Refusal) -> ProposerStep {
        let over = |round: &mut Self, outcome| {
            round.phase = Phase::Over;
            ProposerStep { send: Vec::new(), outcome: Some(outcome) }
        };
        match refusal {
            Refusal::Newer(newest) => return over(self, Outcome::Stale(newest)),
            Refusal::Illegal { code, detail } => {
                return over(self, Outcome::Illegal { code, detail });
            }
            Refusal::Fork(holds) => return over(self, Outcome::Fork { node: from, holds }),
            Refusal::Behind(epoch) if epoch < self.parent.epoch && self.brought_up.insert(from) => {
                let parent = Message::Chosen { document: self.parent.clone(), marks: Marks::new() };
                let again = self.accept().unwrap_or_else(|| self.prepare());
                return ProposerStep { send: vec![(from, parent), (from, again)], outcome: None };
            }
            Refusal::Promised(term) => self.outbid = self.outbid.max(Some(term)),
            Refusal::Behind(_) | Refusal::NotReady | Refusal::NotMember => {}
        }
        self.refused.insert(from);
        if self.parent.members.len() - self.refused.len() < self.needed() {
            let outcome = self.give_up();
            return over(self, outcome);
        }
        ProposerStep::default()
    }

    fn members(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.parent.members.keys().copied()
    }

    fn needed(&self) -> usize {
        majority(self.parent.members.len())
    }

    fn prepare(&self) -> Message {
        Message::Prepare {
            epoch: self.candidate.epoch,
            parent: self.parent.hash(),
            term: self.term,
            candidate: Some(self.candidate.clone()),
        }
    }

    fn accept(&self) -> Option<Message> {
        let Phase::Accepting(document) = &self.phase else { return None };
        let (document, marks) = (document.clone(), self.promised.clone());
        Some(Message::Accept { term: self.term, document, marks })
    }
}

/// How long to wait before round number `attempt` (from 1), so that two proposers do not outbid
/// each other for ever: a random part of a span that doubles from 20 ms to 1.28 s. `draw` is
/// uniform over all of u64.
pub fn back_off_ms(attempt: u32, draw: u64) -> u64 {
    let span = 20u64 << attempt.saturating_sub(1).min(6);
    span / 2 + draw % (span / 2 + 1)
}

#[cfg(test)]
mod tests;
