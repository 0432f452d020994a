//! The acceptor: one member's vote, and its knowledge of the newest document.
//!
//! Invariants: nothing is promised or accepted below a promise; no vote before the start rule is
//! met and never while votes are known to be forgotten; the newest document only ever moves
//! forward; what is merely accepted is shown to nobody but a proposer's first phase.
//!
//! Every method that says `persist` has changed the state: it must be on disk before the reply, or
//! anything said later, leaves the node. If it cannot be stored the node must stop.

use std::collections::BTreeSet;

use super::message::{Mark, Marks, Message, Refusal, Term, Vote};
use super::state::AcceptorState;
use super::{answers_to_recover, heard_before_voting};
use crate::id::{ClusterId, NodeId};
use crate::ring::{Document, DocumentHash, InvalidDocument, Sealed, legal_child};

/// One member's vote.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Acceptor {
    state: AcceptorState,
    /// Who has told its memory of this node's mark since the start. Not stored.
    heard: BTreeSet<NodeId>,
}

/// What came of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Fsync [`Acceptor::state`] before the reply leaves and before the document is used.
    pub persist: bool,
    /// To the sender.
    pub reply: Option<Message>,
    /// A newer document came into force here: use it and spread it, once stored.
    pub adopted: Option<Sealed>,
    /// A document said to be chosen was refused; a fork needs a person's attention.
    pub refused: Option<AdoptError>,
}

/// May this node vote?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// No cluster yet, or the newest document does not list this node.
    NotMember,
    /// This many more members must first say which mark they remember of it. Ask all of them and
    /// give all a moment to answer before feeding ballots: each that answers is one that could tell
    /// of forgotten votes.
    Unheard(usize),
    /// It forgot votes: run a [`super::Recovery`].
    Recovering,
}

/// A document that was said to be chosen and is not taken. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdoptError {
    /// A newer one is in force here.
    #[error("epoch {offered} is older than epoch {mine}")]
    Older {
        /// In force here.
        mine: u64,
        /// Of the document refused.
        offered: u64,
    },
    /// Two documents under one epoch: must never happen.
    #[error("two documents under epoch {epoch}: {mine} here, {theirs} offered")]
    Fork {
        /// Under which epoch.
        epoch: u64,
        /// In force here.
        mine: DocumentHash,
        /// Offered, or named as parent by what was offered.
        theirs: DocumentHash,
    },
    /// Another cluster's.
    #[error("the document is of cluster {0}")]
    Foreign(ClusterId),
    /// A node without a cluster takes only a document that lists it.
    #[error("the document does not list this node")]
    NotListed,
    /// No document at all.
    #[error("not a valid document: {0}")]
    Invalid(#[from] InvalidDocument),
}

impl Acceptor {
    /// Starts on what was stored (or on [`AcceptorState::blank`]). Raises the boot number: store
    /// the state before anything else.
    pub fn start(mut state: AcceptorState) -> Self {
        state.boot += 1;
        Self { state, heard: BTreeSet::new() }
    }

    /// Goes on above a start that others remember of this node. The state must be stored.
    pub fn raise_boot(&mut self, remembered: u64) {
        self.state.boot = self.state.boot.max(remembered.saturating_add(1));
    }

    /// What must be on disk.
    pub fn state(&self) -> &AcceptorState {
        &self.state
    }

    /// The newest document known to be chosen.
    pub fn newest(&self) -> Option<&Sealed> {
        self.state.chosen.as_ref()
    }

    /// May this node vote?
    pub fn readiness(&self) -> Readiness {
        let Some(document) = self.newest().filter(|document| self.lists_me(document)) else {
            return Readiness::NotMember;
        };
        if self.state.behind.is_some() {
            return Readiness::Recovering;
        }
        let heard = self.heard.iter().filter(|peer| document.members.contains_key(peer)).count();
        match heard_before_voting(document.members.len()).saturating_sub(heard) {
            0 => Readiness::Ready,
            missing => Readiness::Unheard(missing),
        }
    }

    /// Feeds one message. Messages meant for proposers are ignored.
    pub fn handle(&mut self, from: NodeId, message: Message) -> Step {
        match message {
            Message::Prepare { epoch, parent, term, candidate } => {
                match self.prepare(from, epoch, parent, term, candidate.as_ref()) {
                    Ok(reply) => Step { persist: true, reply: Some(reply), ..Step::default() },
                    Err(refusal) => refuse(epoch, term, refusal),
                }
            }
            Message::Accept { term, document, marks } => {
                let epoch = document.epoch;
                match self.accept(from, term, document, &marks) {
                    Ok(reply) => Step { persist: true, reply: Some(reply), ..Step::default() },
                    Err(refusal) => refuse(epoch, term, refusal),
                }
            }
            Message::Chosen { document, marks } => {
                let mut step = self.adopt(document);
                step.persist |= self.remember(&marks);
                step
            }
            Message::Init { document } => self.init(document),
            Message::MarkQuery { mark } => self.answer_mark(from, mark),
            Message::MarkAnswer { remembered, mark, newest } => {
                let mut step = newest.map_or_else(Step::default, |newest| self.adopt(newest));
                step.persist |= self.hear_mark(from, remembered);
                step.persist |= self.remember(&Marks::from([(from, mark)]));
                step
            }
            Message::Promise { .. }
            | Message::Accepted { .. }
            | Message::Refuse { .. }
            | Message::InitAccepted { .. }
            | Message::InitHeld { .. }
            | Message::InitRefused { .. } => Step::default(),
        }
    }

    fn prepare(
        &mut self,
        from: NodeId,
        epoch: u64,
        parent: DocumentHash,
        term: Term,
        candidate: Option<&Sealed>,
    ) -> Result<Message, Refusal> {
        self.may_vote(from, epoch, parent, term)?;
        if let Some(candidate) = candidate {
            self.judge(candidate)?;
        }
        // Not even the same term twice: a proposer rolled back to before it used the term would
        // otherwise use it for something else.
        if let Some(promised) = self.state.promised.filter(|promised| *promised >= term) {
            return Err(Refusal::Promised(promised));
        }
        self.state.promised = Some(term);
        self.state.mark += 1;
        let (accepted, mark) = (self.state.accepted.clone(), self.state.own_mark());
        Ok(Message::Promise { epoch, term, accepted, mark })
    }

    fn accept(
        &mut self,
        from: NodeId,
        term: Term,
        document: Sealed,
        marks: &Marks,
    ) -> Result<Message, Refusal> {
        let epoch = document.epoch;
        self.may_vote(from, epoch, document.parent_hash.unwrap_or(document.hash()), term)?;
        self.judge(&document)?;
        if let Some(promised) = self.state.promised.filter(|promised| *promised > term) {
            return Err(Refusal::Promised(promised));
        }
        let vote = Vote { term, document };
        if self.state.accepted.as_ref().is_some_and(|held| held.term == term && *held != vote) {
            return Err(Refusal::Promised(term));
        }
        self.remember(marks);
        self.state.promised = Some(term);
        self.state.accepted = Some(vote);
        self.state.mark += 1;
        Ok(Message::Accepted { epoch, term, mark: self.state.own_mark() })
    }

    /// What both phases ask first.
    fn may_vote(
        &self,
        from: NodeId,
        epoch: u64,
        parent: DocumentHash,
        term: Term,
    ) -> Result<(), Refusal> {
        let newest = self.newest().ok_or(Refusal::Behind(0))?;
        if epoch <= newest.epoch {
            return Err(Refusal::Newer(newest.clone()));
        }
        if epoch > newest.epoch + 1 {
            return Err(Refusal::Behind(newest.epoch));
        }
        if parent != newest.hash() {
            return Err(Refusal::Fork(newest.hash()));
        }
        if term.node != from || !newest.members.contains_key(&from) {
            return Err(Refusal::NotMember);
        }
        match self.readiness() {
            Readiness::Ready => Ok(()),
            Readiness::NotMember => Err(Refusal::NotMember),
            Readiness::Unheard(_) | Readiness::Recovering => Err(Refusal::NotReady),
        }
    }

    fn judge(&self, child: &Sealed) -> Result<(), Refusal> {
        let parent = self.newest().ok_or(Refusal::Behind(0))?;
        legal_child(parent, child).map_err(|illegal| Refusal::Illegal {
            code: illegal.code().to_owned(),
            detail: illegal.to_string(),
        })
    }

    /// Takes a document that is known to be chosen: told so by its proposer, or pulled from a peer.
    pub fn adopt(&mut self, document: Sealed) -> Step {
        match self.check_newer(&document) {
            Err(error) => Step { refused: Some(error), ..Step::default() },
            Ok(false) => Step::default(),
            Ok(true) => {
                // Votes belong to the child of the document before; this one's child is a new
                // decree.
                self.state.promised = None;
                self.state.accepted = None;
                self.state.init = None;
                self.state.peers.retain(|peer, _| document.members.contains_key(peer));
                self.state.chosen = Some(document.clone());
                Step { persist: true, adopted: Some(document), ..Step::default() }
            }
        }
    }

    fn check_newer(&self, offered: &Sealed) -> Result<bool, AdoptError> {
        let known = self.newest().or(self.state.init.as_ref());
        if known.is_some_and(|known| known.cluster_id != offered.cluster_id) {
            return Err(AdoptError::Foreign(offered.cluster_id));
        }
        let Some(mine) = self.newest() else {
            offered.validate()?;
            return if self.lists_me(offered) { Ok(true) } else { Err(AdoptError::NotListed) };
        };
        let fork = |theirs| AdoptError::Fork { epoch: mine.epoch, mine: mine.hash(), theirs };
        if offered.epoch < mine.epoch {
            return Err(AdoptError::Older { mine: mine.epoch, offered: offered.epoch });
        }
        if offered.epoch == mine.epoch {
            return if offered == mine { Ok(false) } else { Err(fork(offered.hash())) };
        }
        offered.validate()?;
        match offered.parent_hash {
            Some(parent) if offered.epoch == mine.epoch + 1 && parent != mine.hash() => {
                Err(fork(parent))
            }
            _ => Ok(true),
        }
    }

    fn init(&mut self, document: Sealed) -> Step {
        let reply = |message| Step { reply: Some(message), ..Step::default() };
        if let Some(chosen) = self.newest() {
            return reply(Message::InitHeld { document: chosen.clone(), chosen: true });
        }
        if let Some(held) = self.state.init.as_ref().filter(|held| **held != document) {
            return reply(Message::InitHeld { document: held.clone(), chosen: false });
        }
        let refused = |code: &str, detail: String| {
            reply(Message::InitRefused { code: code.to_owned(), detail })
        };
        if let Err(invalid) = document.validate() {
            return refused("invalid_document", invalid.to_string());
        }
        if document.epoch != 1 {
            return refused("wrong_epoch", "a cluster is formed with epoch 1".to_owned());
        }
        if !self.lists_me(&document) {
            return refused("not_listed", format!("node {} is not listed", self.state.node));
        }
        let hash = document.hash();
        let persist = self.state.init.is_none();
        if persist {
            self.state.init = Some(document);
            self.state.mark += 1;
        }
        Step { persist, ..reply(Message::InitAccepted { hash }) }
    }

    fn answer_mark(&mut self, from: NodeId, mark: Mark) -> Step {
        let remembered = self.state.peers.get(&from).copied();
        let newest = self.newest().filter(|newest| newest.epoch > mark.epoch).cloned();
        let answer = Message::MarkAnswer { remembered, mark: self.state.own_mark(), newest };
        let persist = self.remember(&Marks::from([(from, mark)]));
        Step { persist, reply: Some(answer), ..Step::default() }
    }

    /// A peer said which mark it remembers of this node, in an answer or by gossip. Returns whether
    /// the state must be stored: this node has forgotten votes if the peer remembers more than it
    /// does itself.
    pub fn hear_mark(&mut self, from: NodeId, remembered: Option<Mark>) -> bool {
        if from != self.state.node {
            self.heard.insert(from);
        }
        match remembered {
            Some(mark) if mark.count > self.state.mark => {
                self.state.behind.get_or_insert_default().raise_to(mark)
            }
            _ => false,
        }
    }

    /// Keeps marks told by or about other members. Returns whether the state must be stored; marks
    /// that came by gossip may wait for the next beat.
    pub fn remember(&mut self, marks: &Marks) -> bool {
        let Some(document) = &self.state.chosen else { return false };
        let mut changed = false;
        for (peer, mark) in marks {
            if *peer != self.state.node && document.members.contains_key(peer) {
                changed |= self.state.peers.entry(*peer).or_default().raise_to(*mark);
            }
        }
        changed
    }

    /// Once a second: raises the own mark, which is gossiped once it is stored. Not before the
    /// start rule is met and not while recovering: a mark that climbs by time alone would soon hide
    /// that it was rolled back. `AcceptorState::encode_marks` is enough to store.
    pub fn beat(&mut self) -> Option<Mark> {
        (self.readiness() == Readiness::Ready).then(|| {
            self.state.mark += 1;
            self.state.own_mark()
        })
    }

    /// A term of this node's own above `above` and above every one it used or promised. The state
    /// must be stored before the term is used.
    pub(super) fn mint(&mut self, above: Option<Term>) -> Term {
        let promised = self.state.promised.max(above).map_or(0, |term| term.counter);
        self.state.minted = self.state.minted.max(promised) + 1;
        Term { counter: self.state.minted, node: self.state.node }
    }

    /// The next term of this node's own will be above this one.
    pub(super) fn outbid(&mut self, by: Term) {
        self.state.minted = self.state.minted.max(by.counter);
    }

    /// Ends a recovery: `term` was promised by enough others, none of whom had promised more, and
    /// `highest` is the vote of the highest term among them. Only [`super::Recovery`] calls this,
    /// and the models that show what happens when it is called too early.
    pub fn recovered(&mut self, term: Term, highest: Option<Vote>) {
        let mine = self.state.accepted.take();
        self.state.accepted = [mine, highest].into_iter().flatten().max_by_key(|vote| vote.term);
        self.state.promised = self.state.promised.max(Some(term));
        let behind = self.state.behind.take().unwrap_or_default();
        self.state.mark = self.state.mark.max(behind.count) + 1;
    }

    /// The decree that a recovery asks about: epoch, parent, the other members, how many of them
    /// must answer. None while nothing was forgotten, or while the newest document known here is
    /// older than one this node already knew when it voted: pull that first.
    pub(super) fn recovery_needs(&self) -> Option<(u64, DocumentHash, Vec<NodeId>, usize)> {
        let behind = self.state.behind?;
        let newest = self.newest().filter(|newest| self.lists_me(newest))?;
        let me = self.state.node;
        let others = newest.members.keys().copied().filter(|id| *id != me).collect();
        let needed = answers_to_recover(newest.members.len());
        (newest.epoch >= behind.epoch).then(|| (newest.epoch + 1, newest.hash(), others, needed))
    }

    fn lists_me(&self, document: &Document) -> bool {
        document.members.contains_key(&self.state.node)
    }
}

fn refuse(epoch: u64, term: Term, refusal: Refusal) -> Step {
    Step { reply: Some(Message::Refuse { epoch, term, refusal }), ..Step::default() }
}

#[cfg(test)]
mod tests;
