//! What the driver of operations proposes next: from the newest document and what nodes report, the
//! child in which every move that can go a step further does.
//!
//! Pure. The driver asks the nodes that moves name for a [`Report`], asks [`next_child`] and proposes
//! what it says; acceptors judge it like any other child. A report is only ever believed for what its
//! sender did itself, so a second driver, or one that knows old reports, does no harm.
//!
//! - A move begins when the nodes it needs are up, none of its partition's owners is suspected, and
//!   both of its nodes have hands free ([`Limits`]). A copy of a node that a running replace gives up is made
//!   anew whoever is suspected, whichever operation planned it; a rebuild waits.
//! - A move that can come to nothing is dropped: its taker is no member any more, or stands beside a copy
//!   that stays, or too few of the others are left ([`super::ending`] says what follows).
//! - In step 1 it is taken back when the holder of another slot is suspected, and waits to begin anew;
//!   also when its operation was cancelled. From step 2 on it goes forward.
//! - Where the new holder says that its copy of this tenure is no good any more, the move is taken back
//!   too, and where there is no way back its step 1 begins again, in a new tenure.
//! - An operation whose moves are over ends in an epoch of its own; a member that left or was replaced
//!   goes in that epoch.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::document::{Document, PartitionEntry, Sealed};
use super::ending::ending;
use super::moves::{self, Arrow, Holder, Proof, Slots, cancels_on_suspicion};
use super::operation::{OperationKind, OperationState};
use super::outgoing;
use super::partition::Partition;
use super::progress::{MoveRecord, MoveStage};
use super::slot::Slot;
use crate::id::NodeId;

/// What a node says of itself and of what it did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    /// The epoch of the document that it persisted and under whose versions it refuses older
    /// requests, none of which is still at work in it.
    pub fenced: u64,
    /// Copies that it merged whole and synced.
    pub copied: Vec<Copied>,
    /// Its own copies that are not whole and must be made anew.
    pub lost: Vec<Lost>,
}

/// A copy that must be made anew: data of it is gone, or nobody knows what the node said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lost {
    /// Which partition.
    pub partition: Partition,
    /// The tenure of the node that says so.
    pub since: u64,
}

/// One copy of a partition that a node merged whole and synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Copied {
    /// Which partition.
    pub partition: Partition,
    /// The tenure of the node that merged it.
    pub since: u64,
    /// Whose copy it was.
    pub source: Holder<NodeId>,
    /// The version at which the source was fenced before it was read.
    pub fenced: u64,
    /// Bytes of keys and sets received.
    pub bytes: u64,
}

/// How many moves run at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Moves that one node is given at once.
    pub incoming: u32,
    /// Moves that one node gives at once.
    pub outgoing: u32,
    /// Moves in the whole cluster at once.
    pub total: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { incoming: 8, outgoing: 8, total: 256 }
    }
}

/// How a member seems to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seems {
    /// It answers.
    Up,
    /// It is suspected, down or unknown.
    Away,
}

/// The nodes whose reports the present document's moves wait for.
pub fn asked(document: &Document) -> BTreeSet<NodeId> {
    let moving = document.table.iter().filter(|entry| entry.moving().is_some());
    moving.flat_map(|entry| entry.slots.values().flatten().flat_map(|slot| slot.named())).collect()
}

/// The next child, or none when nothing can go further now.
pub fn next_child(
    document: &Sealed,
    reports: &BTreeMap<NodeId, Report>,
    seems: impl Fn(NodeId) -> Seems,
    limits: &Limits,
) -> Option<Document> {
    let mut child = document.child();
    let (running, given_up) = (Running::of(document), Vec::new());
    let (lost, open) = (outgoing::given_up(document), open_moves(document));
    let mut round =
        Round { document, reports, seems: &seems, limits, lost, open, running, given_up };
    let mut changed = false;
    // Entries that took their arrow in this epoch already.
    let mut taken = BTreeSet::new();
    let ids: Vec<String> = document.operations.keys().cloned().collect();
    for id in ids {
        let Some(mut record) = child.operations.get(&id).cloned() else { continue };
        let (kind, node) = (record.operation.kind, record.operation.node);
        // What another operation took over in this epoch ends in a later one.
        let ending = ending(document, &id);
        let OperationState::Running(progress) = &mut record.state else { continue };
        if let Some(ending) = ending {
            let goes = match (kind, &ending) {
                (OperationKind::Leave, OperationState::Finished(_)) => node,
                (OperationKind::Replace, OperationState::Finished(_)) => progress.replaces,
                _ => None,
            };
            (record.state, record.finished) = (ending, child.epoch);
            if let Some(node) = goes.filter(|node| !document.owns_anything(*node)) {
                child.members.remove(&node);
            }
            changed = true;
        } else {
            for one in &mut progress.moves {
                let step = round.step(one, progress.cancelling);
                changed |= round.take(step, one, &mut child, &mut taken);
            }
            let given_up = std::mem::take(&mut round.given_up);
            for (_, other) in child.operations.iter_mut().filter(|(other, _)| **other != id) {
                other.moves_mut().iter_mut().for_each(|one| drop_if(one, &given_up));
            }
        }
        child.operations.insert(id, record);
    }
    changed.then_some(child)
}

/// From whom to whom copies of each partition are to go or go already.
fn open_moves(document: &Document) -> OpenMoves {
    let mut open = OpenMoves::new();
    let moves = outgoing::onward(document).flat_map(|(_, progress)| &progress.moves);
    for one in moves.filter(|one| !one.is_over()) {
        open.entry(one.partition).or_default().push((one.from, one.to));
    }
    open
}

/// Ends a move that another took over.
fn drop_if(one: &mut MoveRecord, given_up: &[(Partition, NodeId, NodeId)]) {
    let this = (one.partition, one.from, one.to);
    if one.stage == MoveStage::Moving && given_up.contains(&this) {
        one.stage = MoveStage::Dropped;
    }
}

/// What happens to one move in this epoch.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Nothing,
    /// A move that never began is given up.
    Drop,
    Begin,
    Replace,
    /// The arrow forward, by these proofs.
    Forward(Vec<Proof<NodeId>>, u64),
    /// Back, to begin anew or for good.
    Back {
        for_good: bool,
    },
    /// Step 1 of a replace or rebuild once more, in a new tenure.
    Again,
}

type OpenMoves = BTreeMap<Partition, Vec<(NodeId, NodeId)>>;

struct Round<'a, F> {
    document: &'a Sealed,
    reports: &'a BTreeMap<NodeId, Report>,
    seems: &'a F,
    limits: &'a Limits,
    /// Whose copies are made anew from the others.
    lost: BTreeSet<NodeId>,
    open: OpenMoves,
    running: Running,
    /// Moves under way that a replace takes over: partition, from, to.
    given_up: Vec<(Partition, NodeId, NodeId)>,
}

impl<F: Fn(NodeId) -> Seems> Round<'_, F> {
    fn away(&self, node: NodeId) -> bool {
        (self.seems)(node) == Seems::Away
    }

    fn step(&self, one: &MoveRecord, cancelling: bool) -> Step {
        let Some(entry) = self.document.entry(one.partition) else { return Step::Nothing };
        match one.stage {
            MoveStage::Moved | MoveStage::Dropped => Step::Nothing,
            MoveStage::Waiting if cancelling => Step::Drop,
            MoveStage::Waiting => self.begin(entry, one),
            MoveStage::Moving => self.go_on(entry, one, cancelling),
        }
    }

    /// Whether two nodes may not hold copies of one partition.
    fn conflicts(&self, one: NodeId, other: NodeId) -> bool {
        let machine = |node: NodeId| self.document.members.get(&node).map(|m| &m.machine);
        one == other || machine(one) == machine(other)
    }

    /// Whether a node that stands in the way of another's copy is on its way to make room.
    fn makes_room(&self, partition: Partition, node: NodeId, comes: NodeId) -> bool {
        let mut open = self.open.get(&partition).into_iter().flatten();
        open.any(|(from, to)| *from == node && *to != node && !self.conflicts(*to, comes))
    }

    fn begin(&self, entry: &PartitionEntry, one: &MoveRecord) -> Step {
        if !self.document.members.contains_key(&one.to) {
            return Step::Drop;
        }
        // What a replace moves besides goes from holders that are well, and counts meanwhile.
        let (stays, lost) = (one.from == one.to, self.lost.contains(&one.from));
        let replaces = stays || lost;
        if stays && lost {
            return Step::Drop;
        }
        let mut slots = entry.slots.get(&one.datacenter).into_iter().flatten();
        let Some(slot) = slots.find(|slot| slot.last().node == one.from) else {
            // It will never hold the slot again by this plan.
            return if entry.names(one.from) { Step::Nothing } else { Step::Drop };
        };
        let others = entry.slots.values().flatten().filter(|other| *other != slot);
        // Who is rebuilt stands where it stood.
        let in_the_way = |other: &NodeId| !stays && self.conflicts(*other, one.to);
        let mut in_the_way = others.flat_map(Slot::named).filter(in_the_way).peekable();
        if in_the_way.peek().is_some() {
            // Planned on another table: the new owner holds, or stands beside, another copy by now.
            let waits = in_the_way.all(|other| self.makes_room(one.partition, other, one.to));
            return if waits { Step::Nothing } else { Step::Drop };
        }
        let gives_up = replaces && slot.state.moves();
        if (entry.moving().is_some() && !gives_up) || self.away(one.to) {
            return Step::Nothing;
        }
        let suspected = entry.slots.values().flatten().any(|slot| self.away(slot.owner));
        if replaces && !stays && outgoing::too_few_left(entry, slot, &self.lost) {
            return Step::Drop;
        }
        if replaces {
            // A copy that is made anew may have taken writes until now: not while another is away.
            let waits = stays && suspected;
            return if !waits && self.running.room_in(one.to, self.limits) {
                Step::Replace
            } else {
                Step::Nothing
            };
        }
        let room = self.running.room_in(one.to, self.limits)
            && self.running.room_out(one.from, self.limits);
        if suspected || !room { Step::Nothing } else { Step::Begin }
    }

    fn go_on(&self, entry: &PartitionEntry, one: &MoveRecord, cancelling: bool) -> Step {
        let places = entry.places();
        let Some(moving) = entry.moving_number() else { return Step::Nothing };
        let slots = Slots { version: entry.version, slots: &places, moving };
        let back = slots.place().cancel().is_some();
        if back && cancelling {
            return Step::Back { for_good: true };
        }
        if self.lost_by_successor(&slots, one) {
            return if back { Step::Back { for_good: false } } else { Step::Again };
        }
        let (proofs, bytes) = self.proofs(&slots, one);
        if moves::missing(&slots, &proofs).is_ok() {
            return Step::Forward(proofs, bytes);
        }
        // The others were given up too: nothing will make this copy anew.
        let fences = matches!(slots.place(), moves::Place::Fencing { .. });
        if back && fences && slots.short(|holder| !self.lost.contains(&holder.node)).is_some() {
            return Step::Back { for_good: true };
        }
        match back && cancels_on_suspicion(&slots, |node| self.away(node)) {
            true => Step::Back { for_good: false },
            false => Step::Nothing,
        }
    }

    /// Whether the node that comes in says that its copy of this very tenure is no good.
    fn lost_by_successor(&self, slots: &Slots<'_, NodeId, &str>, one: &MoveRecord) -> bool {
        let Some(to) = slots.place().coming() else { return false };
        let lost = Lost { partition: one.partition, since: to.since };
        // In step 2 of a move the successor is an owner like any other: it is rebuilt afterwards.
        !matches!(slots.place(), moves::Place::Switched { .. })
            && self.reports.get(&to.node).is_some_and(|report| report.lost.contains(&lost))
    }

    /// What the record names already, and what the reports add to it.
    fn proofs(
        &self,
        slots: &Slots<'_, NodeId, &str>,
        one: &MoveRecord,
    ) -> (Vec<Proof<NodeId>>, u64) {
        let (mut proofs, mut bytes) = (one.proofs.clone(), one.bytes);
        let mut add = |proof| {
            if !proofs.contains(&proof) {
                proofs.push(proof);
            }
        };
        let Some(to) = slots.place().coming() else { return (proofs, bytes) };
        let at = slots.version;
        let named = slots.others().map(|(_, holder)| holder.node).chain([one.from]);
        for node in named {
            if self.reports.get(&node).is_some_and(|report| report.fenced >= at) {
                add(Proof::Fenced { node, version: at });
            }
        }
        let copies = self.reports.get(&to.node).into_iter().flat_map(|report| &report.copied);
        let streams = matches!(slots.place(), moves::Place::Copying { .. });
        for copy in copies.filter(|c| c.partition == one.partition && c.since == to.since) {
            let (source, fenced) = (copy.source, copy.fenced);
            add(match streams {
                true => Proof::Streamed { to, source, fenced },
                false => Proof::Merged { to, source, fenced },
            });
            bytes = bytes.max(copy.bytes);
        }
        (proofs, bytes)
    }

    /// Writes a step down. False if nothing changed.
    fn take(
        &mut self,
        step: Step,
        one: &mut MoveRecord,
        child: &mut Document,
        taken: &mut BTreeSet<Partition>,
    ) -> bool {
        if step == Step::Drop {
            one.stage = MoveStage::Dropped;
            return true;
        }
        if step == Step::Nothing || !taken.insert(one.partition) {
            return false;
        }
        let epoch = child.epoch;
        let Some(entry) = child.table.get_mut(one.partition.index as usize) else { return false };
        let mut slots = entry.slots.get_mut(&one.datacenter).into_iter().flatten();
        let begins = matches!(step, Step::Begin | Step::Replace);
        let held = |slot: &Slot| if begins { slot.last().node } else { slot.owner };
        let Some(slot) = slots.find(|slot| held(slot) == one.from) else { return false };
        let place = slot.place();
        if step == Step::Replace
            && let Some(next) = slot.state.successor()
        {
            self.given_up.push((one.partition, slot.owner, next.node));
        }
        let (after, stage) = match &step {
            Step::Begin => (place.begin(one.to, epoch), MoveStage::Moving),
            Step::Replace | Step::Again => (Some(place.replace(one.to, epoch)), MoveStage::Moving),
            Step::Forward(..) => match place.forward() {
                Some((Arrow::Finish, after)) => (Some(after), MoveStage::Moved),
                forward => (forward.map(|(_, after)| after), MoveStage::Moving),
            },
            Step::Back { for_good: true } => (place.cancel(), MoveStage::Dropped),
            _ => (place.cancel(), MoveStage::Waiting),
        };
        // After step 2 of a replace the slot is the successor's: a rebuild of it goes on from there.
        let Some(after) = after
            .map(|after| slot.at(after))
            .filter(|after| step != Step::Again || after.owner == one.from)
        else {
            return false;
        };
        *slot = after;
        entry.version = epoch;
        match step {
            Step::Begin | Step::Replace => self.running.start(one.from, one.to),
            Step::Forward(proofs, bytes) => (one.proofs, one.bytes) = (proofs, bytes),
            Step::Back { for_good: false } => *one = one.anew(),
            _ => {}
        }
        one.stage = stage;
        true
    }
}

/// Moves under way, per node.
#[derive(Debug, Default)]
struct Running {
    incoming: BTreeMap<NodeId, u32>,
    outgoing: BTreeMap<NodeId, u32>,
    total: u32,
}

impl Running {
    fn of(document: &Document) -> Self {
        let mut running = Self::default();
        for (_, slot) in document.table.iter().filter_map(PartitionEntry::moving) {
            if let Some(next) = slot.state.successor() {
                running.start(slot.owner, next.node);
            }
        }
        running
    }

    fn start(&mut self, from: NodeId, to: NodeId) {
        *self.outgoing.entry(from).or_default() += 1;
        *self.incoming.entry(to).or_default() += 1;
        self.total += 1;
    }

    fn room_in(&self, node: NodeId, limits: &Limits) -> bool {
        let now = self.incoming.get(&node).copied().unwrap_or(0);
        now < limits.incoming && self.total < limits.total
    }

    fn room_out(&self, node: NodeId, limits: &Limits) -> bool {
        self.outgoing.get(&node).copied().unwrap_or(0) < limits.outgoing
    }
}

#[cfg(test)]
mod tests;
