//! The shell of the ballots: stores what the acceptor must not forget before anything leaves, carries
//! messages, and runs the rounds of forming, proposing and recovering.
//!
//! A member whose votes cannot be stored must not go on: the control thread says so and the node stops.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvasir_core::consensus::{
    Acceptor, Forming, FormingOutcome, Message, Outcome, Proposer, Recovery, RecoveryOutcome,
    StartError, Step, Term, back_off_ms,
};
use kvasir_core::gossip::DocumentId;
use kvasir_core::id::NodeId;
use kvasir_core::ring::Sealed;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::control::Control;
use super::small_files::SmallFileError;
use super::{gossip, handovers, identity, tenures};
use crate::peer::{Refusal, Reply, Request};
use crate::replica::Formed;

/// How long one phase may wait for answers.
const ROUND: Duration = Duration::from_secs(2);
/// How often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How long a change may try in all.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a change of the document failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ProposeError {
    /// Another document is in force under that parent. Make the change again from the newest.
    #[error("epoch {} is in force", .0.epoch)]
    Stale(Sealed),
    /// It is no legal step from its parent. Nothing was changed; no retry helps.
    #[error("{detail}")]
    Illegal {
        /// Stable word.
        code: String,
        /// For people.
        detail: String,
    },
    /// No majority answered in time. With `may_be_chosen` the change may still win.
    #[error("no majority of the members answered in time")]
    NoMajority {
        /// Whether the outcome is unknown.
        may_be_chosen: bool,
    },
    /// This node belongs to no cluster yet.
    #[error("this node belongs to no cluster yet")]
    NoCluster,
    /// Members hold different documents under one epoch. A person must look.
    #[error("node {0} holds another document under the parent's epoch")]
    Fork(NodeId),
}

/// Stores the acceptor's state. False: the node must stop, and nothing may leave.
pub(super) async fn store(control: &Control, acceptor: &Acceptor) -> bool {
    replace(control, identity::FILE, acceptor.state().encode()).await
}

/// Stores the marks alone. False: the node must stop, and nothing may leave.
pub(super) async fn store_marks(control: &Control, acceptor: &Acceptor) -> bool {
    replace(control, identity::MARKS_FILE, acceptor.state().encode_marks()).await
}

/// Replaces a small file without which the node must not go on. False: it must stop.
pub(super) async fn replace(control: &Control, file: &str, content: Vec<u8>) -> bool {
    loop {
        match control.files.replace(file, content.clone()).await {
            Ok(()) => return true,
            // Surely the old content is there: no vote or mark leaves until there is room again.
            Err(SmallFileError::Io(error)) if error.is_full() => {
                tracing::warn!(%error, "no room to store votes and marks: this member votes on nothing");
                control.look_at_room().await;
                tokio::time::sleep(FULL_PAUSE).await;
            }
            Err(error) => {
                tracing::error!(%error, "the ballot state could not be stored");
                *control.failed.borrow_mut() =
                    Some(format!("the ballot state could not be stored: {error}"));
                return false;
            }
        }
    }
}

/// Puts the stored document in force at the start.
pub(super) async fn restore(control: &Control) {
    let acceptor = control.acceptor.lock().await;
    control.gossip.borrow_mut().set_mark(acceptor.state().mark);
    if let Some(document) = acceptor.newest()
        && prepare(control, document).await
    {
        enforce(control, document.clone());
    }
}

/// Makes ready for a document that is stored as chosen. False: the node must stop.
async fn prepare(control: &Control, document: &Sealed) -> bool {
    tenures::prepare(control, document).await && handovers::note(control, document).await
}

/// Uses and spreads a document that is stored as chosen.
fn enforce(control: &Control, document: Sealed) {
    let id = DocumentId { epoch: document.epoch, hash: document.hash().0 };
    {
        let mut gossip = control.gossip.borrow_mut();
        gossip.set_cluster(document.cluster_id);
        gossip.pin(document.members.keys().copied().collect());
        gossip.set_document(Some(id));
    }
    control.me.set_document(document.cluster_id, document.epoch, document.hash().0);
    tracing::info!(epoch = document.epoch, hash = %document.hash(), "cluster document in force");
    // Before anybody can write a key of this cluster.
    control.replica.trees().know(&document.token_secret.0);
    *control.formed.borrow_mut() = Some(Arc::new(Formed::new(document)));
    control.closed.replace(Arc::default());
    control.enforced.notify_one();
    gossip::publish(control);
}

/// Stores what a step changed, then lets its effects out.
async fn complete(control: &Control, acceptor: &Acceptor, step: Step) -> Option<Message> {
    if let Some(refused) = &step.refused {
        tracing::warn!(%refused, "a cluster document was not taken");
    }
    if step.persist && !store(control, acceptor).await {
        return None;
    }
    if step.persist {
        control.gossip.borrow_mut().set_mark(acceptor.state().mark);
    }
    if let Some(document) = step.adopted {
        if !prepare(control, &document).await {
            return None;
        }
        enforce(control, document);
    }
    step.reply
}

/// Feeds a message to this node's acceptor.
pub(super) async fn feed(control: &Control, from: NodeId, message: Message) -> Option<Message> {
    let mut acceptor = control.acceptor.lock().await;
    let step = acceptor.handle(from, message);
    complete(control, &acceptor, step).await
}

/// Takes in a document said to be chosen. True when it, or a newer one, is in force here.
pub(super) async fn adopt(control: &Control, document: Sealed) -> bool {
    let epoch = document.epoch;
    let mut acceptor = control.acceptor.lock().await;
    let step = acceptor.adopt(document);
    complete(control, &acceptor, step).await;
    drop(acceptor);
    control.epoch() >= epoch
}

/// Answers another node's ballot message.
pub(super) async fn answer(control: &Control, from: NodeId, body: &[u8]) -> Reply {
    match serde_json::from_slice::<Message>(body) {
        Ok(message) => match feed(control, from, message).await {
            Some(reply) => Reply::Message(encode(&reply)),
            None => Reply::Message(Bytes::new()),
        },
        Err(error) => Reply::Refused(Refusal::Malformed(format!("ballot: {error}"))),
    }
}

fn encode(message: &Message) -> Bytes {
    serde_json::to_vec(message).expect("messages are plain data with string keys").into()
}

/// Sends messages, each in a task of its own, and yields the answers as they come. Messages to this
/// node go to its own acceptor.
pub(super) fn exchange(
    control: &Rc<Control>,
    send: Vec<(NodeId, Message)>,
) -> mpsc::UnboundedReceiver<(NodeId, Message)> {
    let (answers, receiver) = mpsc::unbounded_channel();
    dispatch(control, send, &answers);
    receiver
}

fn dispatch(
    control: &Rc<Control>,
    send: Vec<(NodeId, Message)>,
    answers: &mpsc::UnboundedSender<(NodeId, Message)>,
) {
    for (node, message) in send {
        let (control, answers) = (control.clone(), answers.clone());
        tokio::task::spawn_local(async move {
            if let Some(reply) = carry(&control, node, message).await {
                // The round may be over.
                let _ = answers.send((node, reply));
            }
        });
    }
}

async fn carry(control: &Control, node: NodeId, message: Message) -> Option<Message> {
    if node == control.identity.node {
        return feed(control, node, message).await;
    }
    let address = control.gossip.borrow().peer_address(node).map(str::to_string)?;
    let deadline = Instant::now() + ROUND;
    let request = Request::Ballot(encode(&message));
    match control.peers.call(Some(node), &address, None, request, deadline).await {
        Ok(Reply::Message(body)) if !body.is_empty() => serde_json::from_slice(&body).ok(),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%node, %error, "a ballot message got no answer");
            None
        }
    }
}

/// Why a cluster was not formed.
#[derive(Debug, Clone)]
pub enum FormError {
    /// The outcome that prevented it.
    Outcome(FormingOutcome),
    /// These nodes did not answer in time; empty where that is not known. The same document may be
    /// tried again.
    Silent(Vec<NodeId>),
}

/// Forms a cluster with a first document, or finishes what this node accepted before.
///
/// # Errors
/// See [`FormError`].
pub async fn form(control: &Rc<Control>, document: Sealed) -> Result<Sealed, FormError> {
    let held = Forming::resume(&*control.acceptor.lock().await);
    let (mut forming, send) = held.unwrap_or_else(|| Forming::start(document));
    let (sender, mut answers) = mpsc::unbounded_channel();
    dispatch(control, send, &sender);
    let deadline = Instant::now() + PATIENCE;
    while let Ok(Some((from, message))) = tokio::time::timeout_at(deadline, answers.recv()).await {
        let (send, outcome) = forming.receive(from, message);
        dispatch(control, send, &sender);
        match outcome {
            Some(FormingOutcome::Formed(document) | FormingOutcome::AlreadyFormed(document)) => {
                adopt(control, document.clone()).await;
                return Ok(document);
            }
            Some(other) => return Err(FormError::Outcome(other)),
            None => {}
        }
    }
    Err(FormError::Silent(forming.silent()))
}

/// Proposes a child of the newest document and waits for the outcome.
///
/// # Errors
/// See [`ProposeError`].
pub async fn propose(control: &Rc<Control>, candidate: Sealed) -> Result<Sealed, ProposeError> {
    let deadline = Instant::now() + PATIENCE;
    let (mut above, mut unknown) = (None, false);
    for attempt in 1.. {
        match round(control, &candidate, above).await? {
            Outcome::Chosen(document) => {
                adopt(control, document.clone()).await;
                let ours = document.hash() == candidate.hash();
                return if ours { Ok(document) } else { Err(ProposeError::Stale(document)) };
            }
            Outcome::Stale(newest) => {
                adopt(control, newest.clone()).await;
                let ours = newest.hash() == candidate.hash();
                return if ours { Ok(newest) } else { Err(ProposeError::Stale(newest)) };
            }
            Outcome::Illegal { code, detail } => {
                return Err(ProposeError::Illegal { code, detail });
            }
            Outcome::Fork { node, .. } => return Err(ProposeError::Fork(node)),
            Outcome::NoMajority { outbid, may_be_chosen } => {
                above = above.max(outbid);
                unknown |= may_be_chosen;
            }
        }
        let draw = control.rng.borrow_mut().next_u64();
        let pause = Instant::now() + Duration::from_millis(back_off_ms(attempt, draw));
        if pause >= deadline {
            break;
        }
        tokio::time::sleep_until(pause).await;
    }
    Err(ProposeError::NoMajority { may_be_chosen: unknown })
}

async fn round(
    control: &Rc<Control>,
    candidate: &Sealed,
    above: Option<Term>,
) -> Result<Outcome, ProposeError> {
    let started = {
        let mut acceptor = control.acceptor.lock().await;
        let started = Proposer::start(&mut acceptor, candidate.clone(), above);
        if started.is_ok() && !store(control, &acceptor).await {
            return Err(ProposeError::NoMajority { may_be_chosen: false });
        }
        started
    };
    let (mut proposer, send) = match started {
        Ok(started) => started,
        Err(StartError::NoCluster) => return Err(ProposeError::NoCluster),
        Err(StartError::Stale(newest)) => return Ok(Outcome::Stale(newest)),
        Err(StartError::Illegal(illegal)) => {
            let code = illegal.code().to_string();
            return Ok(Outcome::Illegal { code, detail: illegal.to_string() });
        }
        Err(StartError::NotReady(_)) => {
            return Ok(Outcome::NoMajority { outbid: None, may_be_chosen: false });
        }
    };
    let (sender, mut answers) = mpsc::unbounded_channel();
    dispatch(control, send, &sender);
    let deadline = Instant::now() + ROUND;
    while let Ok(Some((from, message))) = tokio::time::timeout_at(deadline, answers.recv()).await {
        let step = proposer.receive(from, message);
        dispatch(control, step.send, &sender);
        if let Some(outcome) = step.outcome {
            return Ok(outcome);
        }
    }
    Ok(proposer.give_up())
}

/// Others remember a later start of this node: goes on above it, once. If it happens again, another
/// process lives on a copy of the volume, and a person must stop one of them.
pub(super) fn raise_boot(control: &Rc<Control>, heard: u64) {
    if control.boot_raised.replace(true) {
        return;
    }
    let control = control.clone();
    tokio::task::spawn_local(async move {
        let mut acceptor = control.acceptor.lock().await;
        acceptor.raise_boot(heard);
        let boot = acceptor.state().boot;
        if store(&control, &acceptor).await {
            control.gossip.borrow_mut().adopt_boot(boot);
            tracing::warn!(boot, "going on above a start that others remember");
        }
    });
}

/// One attempt of a member that forgot votes to earn them back; tried again at the next beat.
pub(super) async fn recover(control: &Rc<Control>) {
    let (mut recovery, send) = {
        let mut acceptor = control.acceptor.lock().await;
        let Some(started) = Recovery::start(&mut acceptor, None) else { return };
        if !store(control, &acceptor).await {
            return;
        }
        started
    };
    tracing::warn!(term = ?recovery.term(), "this volume was put back: recovering its votes");
    let mut answers = exchange(control, send);
    while let Some((from, message)) = answers.recv().await {
        let mut acceptor = control.acceptor.lock().await;
        let step = recovery.receive(&mut acceptor, from, message);
        complete(control, &acceptor, step.acceptor).await;
        match step.outcome {
            Some(RecoveryOutcome::Recovered) => {
                tracing::info!("votes are recovered");
                return;
            }
            Some(RecoveryOutcome::Again(_)) => return,
            None => {}
        }
    }
}
