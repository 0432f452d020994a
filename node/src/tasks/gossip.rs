//! The gossip loop: ticks the member list, sends what it says, takes in what others say, pulls newer
//! documents, and publishes the view that requests are steered by.
//!
//! Never waits for the disk, so that a heartbeat is as regular as the clock.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use kvasir_core::gossip::{DocumentId, Event, Message, Send, Target};
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::Report;
use tokio::time::{Instant, timeout};

use super::ballots;
use super::control::Control;
use super::unfit::Unfit;
use crate::peer::{Reply, Request};
use crate::replica::{Member, View};

/// How long a fetch of a document may take.
const PULL_DEADLINE: Duration = Duration::from_secs(2);
/// How long one holder of a document may be silent before another is asked too.
const SILENT: Duration = Duration::from_millis(100);

/// Runs until the node stops.
pub(super) async fn run(control: Rc<Control>) {
    let interval = Duration::from_millis(control.gossip.borrow().config().interval_ms);
    loop {
        let now = control.now_ms();
        let sends = {
            let mut rng = control.rng.borrow_mut();
            control.gossip.borrow_mut().tick(now, &mut *rng)
        };
        send_all(&control, sends);
        settle(&control);
        tokio::time::sleep(interval).await;
    }
}

/// Takes in a message of another node.
pub(super) fn receive(control: &Rc<Control>, from: NodeId, body: &[u8]) {
    let message: Message = match postcard::from_bytes(body) {
        Ok(message) => message,
        Err(error) => {
            tracing::debug!(%from, %error, "an unreadable gossip message");
            return;
        }
    };
    let now = control.now_ms();
    let sends = control.gossip.borrow_mut().receive(now, from, message);
    send_all(control, sends);
    settle(control);
}

/// Tells the others that this node stops.
pub(super) fn leave(control: &Control) {
    let sends = {
        let mut rng = control.rng.borrow_mut();
        control.gossip.borrow_mut().leave(control.now_ms(), &mut *rng)
    };
    send_all(control, sends);
}

fn send_all(control: &Control, sends: Vec<Send>) {
    for Send { to, message } in sends {
        let (node, address) = match to {
            Target::Node(node) => {
                let address = control.gossip.borrow().peer_address(node).map(str::to_string);
                let Some(address) = address else { continue };
                (Some(node), address)
            }
            Target::Address(address) => (None, address),
        };
        match postcard::to_allocvec(&message) {
            Ok(body) => control.peers.notify(node, &address, Request::Gossip(Bytes::from(body))),
            Err(error) => tracing::error!(%error, "a gossip message does not encode"),
        }
    }
}

/// After every change: tell what happened, pull what is newer, publish the view.
fn settle(control: &Rc<Control>) {
    let events = control.gossip.borrow_mut().take_events();
    for event in events {
        tell(&event);
        if let Event::OwnIdInUse { boot, .. } = event {
            ballots::raise_boot(control, boot);
        }
    }
    pull_now(control);
    publish(control);
}

fn tell(event: &Event) {
    match event {
        Event::Joined(id) => tracing::info!(%id, "a member became known"),
        Event::Changed { id, from, to } => {
            tracing::info!(%id, from = from.name(), to = to.name(), "a member changed");
        }
        Event::Restarted { id, boot } => tracing::info!(%id, boot, "a member was started again"),
        Event::Forgotten(id) => tracing::info!(%id, "a member is forgotten"),
        Event::Refuted { accuser, refutation } => {
            tracing::info!(%accuser, refutation, "this node was believed to be down and said otherwise");
        }
        Event::Foreign { cluster, address } => {
            tracing::warn!(%cluster, address, "a node of another cluster talks to this one");
        }
        Event::Cloned { id, listed, other } => {
            tracing::error!(%id, ?listed, ?other, "two processes claim one node id: a volume was copied. \
                Stop one of them and start it with an empty data directory");
        }
        Event::OwnIdInUse { boot, address } => {
            tracing::error!(
                boot,
                address,
                "another process claims this node's id at this boot or a later \
                one: the volume was copied or put back. Stop the older one"
            );
        }
        Event::Twin { boot, address } => {
            tracing::error!(
                boot,
                address,
                "another process runs on a copy of this volume, and the others listen to that one: \
                 no data is served here. Stop it and start this one again, or start this one with \
                 an empty data directory"
            );
        }
        Event::MarkBehind { id, heard, remembered } => {
            tracing::error!(%id, heard, remembered, "the volume of a member was put back to an older state");
        }
    }
}

/// Fetches the newest document that gossip named, at once.
fn pull_now(control: &Rc<Control>) {
    let newest = control.gossip.borrow().newest_document();
    if let Some((newest, holders)) = newest
        && newest.epoch > control.epoch()
        && control.passed_over.get() != Some(newest)
    {
        pull(control, newest, holders);
    }
}

/// Fetches the document of an epoch from a node that showed to know it, at once, whatever gossip says.
pub(super) fn pull_from(control: &Rc<Control>, holder: NodeId, epoch: u64) {
    if epoch <= control.epoch() {
        return;
    }
    let control = control.clone();
    tokio::task::spawn_local(async move {
        if let Some(document) = fetch(&control, holder).await {
            control.learn(&document).await;
        }
    });
}

/// A node's document, if it is newer than the one here. Nothing while the same node is being asked already.
async fn fetch(control: &Control, holder: NodeId) -> Option<Bytes> {
    let address = control.gossip.borrow().peer_address(holder).map(str::to_string)?;
    if !control.fetching.borrow_mut().insert(holder) {
        return None;
    }
    let _asking = Asking(control, holder);
    let deadline = Instant::now() + PULL_DEADLINE;
    let ask = Request::FetchDocument { have_epoch: control.epoch() };
    let reply = control.peers.call(Some(holder), &address, None, ask, deadline).await;
    match reply {
        Ok(Reply::Document(document)) => document,
        _ => None,
    }
}

/// A node is being asked for its document until this is dropped.
struct Asking<'a>(&'a Control, NodeId);

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetching.borrow_mut().remove(&self.1);
    }
}

/// Asks holders of a newer document for it, one after the other, the next one also while those before it are
/// silent.
fn pull(control: &Rc<Control>, newest: DocumentId, holders: Vec<NodeId>) {
    if control.pulling.replace(true) {
        return;
    }
    let control = control.clone();
    tokio::task::spawn_local(async move {
        let mut asked = FuturesUnordered::new();
        let mut found = None;
        for holder in holders.into_iter().filter(|holder| *holder != control.identity.node) {
            asked.push(fetch(&control, holder));
            if let Ok(Some(Some(document))) = timeout(SILENT, asked.next()).await {
                found = Some(document);
                break;
            }
        }
        while found.is_none()
            && let Some(document) = asked.next().await
        {
            found = document;
        }
        if let Some(document) = found {
            // A node that is no member yet need not ask for the same one every second.
            let taken = control.learn(&document).await;
            control.passed_over.set((!taken).then_some(newest));
        }
        tracing::debug!(
            epoch = newest.epoch,
            have = control.epoch(),
            "fetched the cluster document"
        );
        control.pulling.set(false);
    });
}

/// Hands the present member list and document to the workers.
pub(super) fn publish(control: &Control) {
    let now = control.now_ms();
    let members: BTreeMap<NodeId, Member> = control
        .gossip
        .borrow()
        .members(now)
        .into_iter()
        .map(|m| {
            let document = m.document.map_or(0, |d| d.epoch);
            let report = Report { generation: m.generation, document, held: m.held };
            let (serves, status) = (m.not_serving.is_none(), m.status);
            let (peer_address, process) = (m.addresses.peer, (m.heartbeat.boot, m.nonce));
            (m.id, Member { peer_address, status, serves, report, process })
        })
        .collect();
    let unfit = Unfit::of(control);
    let above = control.set_aside.floor().filter(|_| Unfit::of_all(control).is_none());
    if *control.unfit.borrow() != unfit {
        match &unfit {
            Some(Unfit::Starting | Unfit::NoGeneration) => {}
            Some(reason) => tracing::error!(code = reason.code(), %reason, "no data is served"),
            None => tracing::info!("data is served"),
        }
        control.unfit.replace(unfit.clone());
    }
    {
        let mut gossip = control.gossip.borrow_mut();
        gossip.set_not_serving(unfit.as_ref().and_then(Unfit::told));
        gossip.set_keeps_copies(control.standins.shelves().may_hold_copies());
    }
    let formed = control.formed.borrow().clone();
    // A member is where the document says, whatever its configuration has become since.
    let listed = formed.as_ref().map(|formed| &formed.ring.document().members);
    let listed = listed.and_then(|members| members.get(&control.identity.node));
    let datacenter = listed.map_or(&control.datacenter, |member| &member.datacenter).clone();
    control.views.store(View {
        me: control.identity.node,
        datacenter,
        formed,
        members,
        retired: unfit.map(|reason| reason.to_string()),
        above,
        closed: control.closed.borrow().clone(),
        generation: control.replica.generation().now(),
    });
}
