//! A few acceptors in one place, for the unit tests of this room: messages arrive at once and in
//! order, except at nodes that are cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::id::NodeId;
use crate::ring::Sealed;
use crate::ring::fixtures::{cluster, node};

/// Members of one cluster, all started and ready.
pub(super) struct Members {
    pub(super) acceptors: BTreeMap<NodeId, Acceptor>,
    pub(super) cut_off: BTreeSet<NodeId>,
    pub(super) first: Sealed,
}

impl Members {
    /// `count` members at epoch 1 that have heard each other's marks.
    pub(super) fn new(count: u8) -> Self {
        Self::with(count, count)
    }

    /// The same, and nodes up to `all` that are started and no members.
    pub(super) fn with(count: u8, all: u8) -> Self {
        let first = Sealed::new(cluster(count, 1));
        let start = |number| {
            let mut acceptor = Acceptor::start(AcceptorState::blank(node(number)));
            acceptor.adopt(first.clone());
            (0..all).for_each(|peer| {
                acceptor.hear_mark(node(peer), None);
            });
            (node(number), acceptor)
        };
        let acceptors = (0..all).map(start).collect();
        Self { acceptors, cut_off: BTreeSet::new(), first }
    }

    pub(super) fn at(&mut self, number: u8) -> &mut Acceptor {
        self.acceptors.get_mut(&node(number)).expect("a node of this test")
    }

    pub(super) fn ask(&mut self, to: NodeId, from: NodeId, message: Message) -> Option<Message> {
        if self.cut_off.contains(&to) || self.cut_off.contains(&from) && to != from {
            return None;
        }
        self.acceptors.get_mut(&to)?.handle(from, message).reply
    }

    /// Runs a round started by node `number` to its end, or until no message is left.
    pub(super) fn round(&mut self, number: u8, candidate: &Sealed, above: Option<Term>) -> Outcome {
        let started = Proposer::start(self.at(number), candidate.clone(), above);
        let (mut proposer, send) = started.expect("may propose");
        let mut queue: VecDeque<_> = send.into();
        let mut outcome = None;
        while let Some((to, message)) = queue.pop_front() {
            let Some(reply) = self.ask(to, node(number), message) else { continue };
            let step = proposer.receive(to, reply);
            queue.extend(step.send);
            outcome = outcome.or(step.outcome);
        }
        outcome.unwrap_or_else(|| proposer.give_up())
    }

    /// Node `number` starts again on a stored state and hears the marks that `peers` remember.
    pub(super) fn restart(&mut self, number: u8, state: AcceptorState, peers: &[u8]) {
        *self.at(number) = Acceptor::start(state);
        for &peer in peers {
            let mark = self.at(number).state().own_mark();
            let query = Message::MarkQuery { mark };
            let answer = self.at(peer).handle(node(number), query).reply.expect("always answered");
            self.at(number).handle(node(peer), answer);
        }
    }

    /// Node `number` tries to recover until nobody outbids it.
    pub(super) fn recover(&mut self, number: u8) -> Option<RecoveryOutcome> {
        let mut above = None;
        loop {
            let (mut recovery, send) = Recovery::start(self.at(number), above)?;
            let mut ended = None;
            for (to, message) in send {
                let Some(reply) = self.ask(to, node(number), message) else { continue };
                let step = recovery.receive(self.at(number), to, reply);
                ended = ended.or(step.outcome);
            }
            match ended {
                Some(RecoveryOutcome::Again(term)) if term > above => above = term,
                other => return other,
            }
        }
    }
}

/// A child of a document, told apart from others by its default ttl.
pub(super) fn child(parent: &Sealed, tag: u64) -> Sealed {
    let mut child = parent.child();
    child.defaults.ttl = Some(tag);
    Sealed::new(child)
}
