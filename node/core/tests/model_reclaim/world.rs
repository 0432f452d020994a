//! The protocol of reclaim, small enough to be searched.
//!
//! One key, two or three holders and one other member, which relays, stands in, leaves or joins. Three
//! writes: a value, the tombstone that covers it, and perhaps a newer value by a client that knows of
//! no delete. Where rows are folded the tombstone stands for a value that covers the first: the row of
//! the first goes, while its successors stay and new ones come. Carriers are never used up: each may arrive at any time and any number of times. What
//! gossip says is true or older, and an older generation is only more careful, so that the search may
//! take the truth; but of a member that was put back others may still believe what it was.

use std::fmt::Write as _;

use kvasir_core::explore::Model;
use kvasir_core::reclaim::{Held, Report};

use crate::rules::{Bounds, RelayStamp, Rules};

pub(crate) const HOLDERS: usize = 3;
/// The member that holds no copy of the key.
pub(crate) const OTHER: usize = 3;
const NODES: usize = 4;
const CARRIERS: usize = 3;

pub(crate) const VALUE: u8 = 1;
pub(crate) const TOMBSTONE: u8 = 2;
pub(crate) const NEWER: u8 = 4;
/// What each write covers: itself and what its client had seen.
const WRITES: [Set; 3] = [
    Set { context: VALUE, held: VALUE },
    Set { context: VALUE | TOMBSTONE, held: TOMBSTONE },
    Set { context: VALUE | NEWER, held: NEWER },
];

/// The model: rules within bounds.
pub struct Reclaim {
    pub rules: Rules,
    pub bounds: Bounds,
}

/// A sibling set: the writes that it covers and those that it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub(crate) struct Set {
    pub(crate) context: u8,
    pub(crate) held: u8,
}

impl Set {
    pub(crate) fn merge(self, other: Self) -> Self {
        let held = self.held & other.held | self.held & !other.context | other.held & !self.context;
        Self { context: self.context | other.context, held }
    }

    fn is_tombstone(self) -> bool {
        self.held == TOMBSTONE
    }

    /// The row of the value is there, and nothing of its writes is left.
    fn has_spent_row(self) -> bool {
        self.context & VALUE != 0 && self.held & VALUE == 0
    }
}

/// Stored data on its way to a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub(crate) struct Carrier {
    pub(crate) to: u8,
    pub(crate) stamp: u8,
    pub(crate) set: Set,
    pub(crate) from_other: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Confirmation {
    generation: u8,
    set: Set,
    boot: u8,
    document: u8,
}

/// What the other member told of its copies, kept by whoever wants to erase.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    generation: u8,
    lowest: Option<u8>,
    document: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Holder {
    pub(crate) memory: Set,
    pub(crate) disk: Set,
    confirmed: Option<Confirmation>,
    boot: u8,
    started_at: u8,
    backup: Option<(u8, Set)>,
    /// Its data was set aside; it serves nothing until it was made anew from another holder.
    pub(crate) rebuilding: bool,
    pub(crate) erased: bool,
}

/// Everything at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct World {
    /// 0: it has none yet.
    pub(crate) generation: [u8; NODES],
    /// The highest that was ever told of each.
    reached: [u8; NODES],
    /// 1, or 2 once it knows that the other member left or joined.
    pub(crate) document: [u8; NODES],
    /// The generation in which it came to know.
    learned_at: [u8; NODES],
    pub(crate) holders: [Holder; HOLDERS],
    pub(crate) copy: Option<(u8, Set)>,
    held: Held,
    told: Option<Told>,
    carriers: [Carrier; CARRIERS],
    sent: u8,
    written: u8,
    relayed: Option<(u8, Set)>,
    crashes: u8,
    backups: u8,
    restores: u8,
    quarantines: u8,
    pub(crate) newer_stored: bool,
}

/// One atomic step.
#[derive(Debug)]
#[allow(dead_code, reason = "the fields are read by Debug, in traces")]
pub enum Step {
    Write { write: usize, at: usize, stand_in: bool },
    Deliver { to: usize, stamp: u8 },
    Repair { from: usize, to: usize },
    Relay { from: usize, to: usize },
    RelayReads { from: usize },
    RelaySends,
    HandBack { to: usize },
    DropCopy,
    Rise { node: usize },
    SetAside { node: usize },
    Rebuild { node: usize, from: usize },
    Sync { node: usize },
    Crash { node: usize },
    Backup { node: usize },
    Restore { node: usize },
    Quarantine { node: usize },
    Confirm { node: usize },
    Tell,
    LearnDocument { node: usize },
    Join { generation: u8 },
    Erase { node: usize },
}

impl World {
    /// All members at generation 1, nothing written.
    pub(crate) fn begin() -> Self {
        Self {
            generation: [1; NODES],
            reached: [1; NODES],
            document: [1; NODES],
            ..Self::default()
        }
    }

    pub(crate) fn set_generation(&mut self, node: usize, generation: u8) {
        (self.generation[node], self.reached[node]) = (generation, generation);
    }

    /// Marks these writes as done.
    pub(crate) fn wrote(&mut self, writes: u8) {
        self.written |= writes;
    }

    /// As after the steps that led to a start in the middle.
    pub(crate) fn begin_noting(&mut self) {
        self.note();
    }

    /// Sends a carrier; false when no more may be sent.
    pub(crate) fn send(&mut self, carrier: Carrier, bound: usize) -> bool {
        let sent = &self.carriers[..self.sent as usize];
        if sent.contains(&carrier) {
            return true;
        }
        if sent.len() >= bound {
            return false;
        }
        self.carriers[self.sent as usize] = carrier;
        self.sent += 1;
        self.carriers[..self.sent as usize].sort_unstable();
        true
    }

    /// The copy of the other member, which grows by a set stamped so.
    pub(crate) fn keep_copy(&mut self, stamp: u8, set: Set) {
        self.copy = Some(match self.copy {
            None => (stamp, set),
            Some((old, copy)) => (old.min(stamp), copy.merge(set)),
        });
    }

    fn highest(&self) -> u8 {
        self.generation.into_iter().max().unwrap_or(0)
    }

    /// What gossip may still say of a node to those under a document: its generation, and the document
    /// that it knew there. Under the first document others may not have heard yet that it knows more.
    fn seen(&self, node: usize, document: u8) -> (u8, u8) {
        match self.document[node] > document && self.learned_at[node] > 0 {
            true => (self.learned_at[node], document),
            false => (self.reached[node], self.document[node]),
        }
    }

    /// What the other member's copies are noted as, after every step.
    fn note(&mut self) {
        let lowest = self.copy.map(|(stamp, _)| u64::from(stamp));
        self.held.note(self.generation[OTHER].into(), lowest);
    }
}

impl Reclaim {
    /// Whom a node takes for members.
    fn members(&self, document: u8) -> impl Iterator<Item = usize> {
        let other = match document {
            1 => !self.bounds.joins,
            _ => !self.bounds.leaves,
        };
        (0..self.bounds.holders).chain(other.then_some(OTHER))
    }

    /// Every holder knows that the other member left: nobody talks to it any more.
    fn is_gone(&self, world: &World) -> bool {
        self.bounds.leaves && (0..self.bounds.holders).all(|h| world.document[h] == 2)
    }

    fn client_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        for (write, delta) in WRITES.into_iter().enumerate() {
            let bit = 1 << write;
            let early = write > 0 && world.written & VALUE == 0;
            if world.written & bit != 0 || early || bit == NEWER && !self.bounds.rewrite {
                continue;
            }
            for at in (0..self.bounds.holders).chain([OTHER]) {
                let serves = at == OTHER || !world.holders[at].rebuilding;
                if !serves || world.generation[at] == 0 {
                    continue;
                }
                for stand_in in
                    [false, true].into_iter().take(1 + usize::from(self.bounds.stand_in))
                {
                    let next = World { written: world.written | bit, ..*world };
                    if let Some(next) = self.write(next, at, delta, stand_in) {
                        out.push((Step::Write { write, at, stand_in }, next));
                    }
                }
            }
        }
    }

    /// A coordinator stores what it minted and sends it to the others.
    fn write(&self, mut world: World, at: usize, delta: Set, stand_in: bool) -> Option<World> {
        let stamp = world.generation[at];
        let from_other = at == OTHER && self.bounds.leaves;
        let mut sent = true;
        if at == OTHER && stand_in {
            world.keep_copy(stamp, delta);
        } else if at == OTHER {
            let carrier = Carrier { to: 0, stamp, set: delta, from_other };
            sent &= world.send(carrier, self.bounds.carriers);
        } else {
            world.holders[at].memory = world.holders[at].memory.merge(delta);
            if stand_in {
                let carrier = Carrier { to: OTHER as u8, stamp, set: delta, from_other };
                sent &= world.send(carrier, self.bounds.carriers);
            }
        }
        let others = (0..self.bounds.holders).filter(|h| *h != at && !(at == OTHER && *h == 0));
        for to in others.take(1) {
            let carrier = Carrier { to: to as u8, stamp, set: delta, from_other };
            sent &= world.send(carrier, self.bounds.carriers);
        }
        sent.then_some(world)
    }

    fn takes(&self, world: &World, carrier: Carrier) -> bool {
        let (to, own) = (carrier.to as usize, world.generation[carrier.to as usize]);
        let unlisted = carrier.from_other && world.document[to] == 2 && to != OTHER;
        let early = own == 0 && self.rules.joiner_waits;
        !(early || self.rules.refuses_unlisted && unlisted)
            && self.rules.margins.takes(own.into(), carrier.stamp.into())
    }

    fn carrier_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        for carrier in world.carriers[..world.sent as usize].iter().copied() {
            let (to, stamp) = (carrier.to as usize, carrier.stamp);
            if !self.takes(world, carrier) {
                continue;
            }
            let mut next = *world;
            if to == OTHER {
                next.keep_copy(stamp, carrier.set);
            } else {
                next.holders[to].memory = world.holders[to].memory.merge(carrier.set);
            }
            out.push((Step::Deliver { to, stamp }, next));
        }
    }

    /// Whole sets that holders, a relay and the stand-in send.
    fn repair_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        let bound = self.bounds.carriers;
        let mut send = |step: Step, carrier: Carrier| {
            let mut next = *world;
            if next.send(carrier, bound) {
                out.push((step, next));
            }
        };
        let from_other = self.bounds.leaves;
        let own = world.generation[OTHER];
        for from in 0..self.bounds.holders {
            let set = world.holders[from].memory;
            let stamp = world.generation[from];
            let reads = self.bounds.relay
                && own > 0
                && (!self.rules.refuses_old_replies
                    || self.rules.margins.takes(own.into(), stamp.into()));
            for to in (0..self.bounds.holders).filter(|to| *to != from && set.context != 0) {
                let carrier = Carrier { to: to as u8, stamp, set, from_other: false };
                send(Step::Repair { from, to }, carrier);
                if reads && self.rules.relay_stamp == RelayStamp::BeforeReading {
                    let carrier = Carrier { to: to as u8, stamp: own, set, from_other };
                    send(Step::Relay { from, to }, carrier);
                }
            }
        }
        if let Some((to, set)) = world.relayed {
            send(Step::RelaySends, Carrier { to, stamp: own, set, from_other });
        }
        if let Some((_, set)) = world.copy {
            for to in 0..self.bounds.holders {
                let carrier = Carrier { to: to as u8, stamp: own, set, from_other };
                send(Step::HandBack { to }, carrier);
            }
            out.push((Step::DropCopy, World { copy: None, ..*world }));
        }
        let late = self.bounds.relay && self.rules.relay_stamp == RelayStamp::WhenSending;
        for from in (0..self.bounds.holders).filter(|_| late && world.relayed.is_none()) {
            let set = world.holders[from].memory;
            let to = (from + 1) % self.bounds.holders;
            if set.context != 0 {
                let relayed = Some((to as u8, set));
                out.push((Step::RelayReads { from }, World { relayed, ..*world }));
            }
        }
    }

    fn generation_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        for node in (0..self.bounds.holders).chain([OTHER]) {
            let own = world.generation[node];
            if own == 0 || own >= self.bounds.generations {
                continue;
            }
            let margins = self.rules.margins;
            let highest = world.highest();
            if self.rules.sets_aside
                && node != OTHER
                && margins.is_behind(own.into(), highest.into())
            {
                let mut next = *world;
                next.generation[node] = highest;
                let Holder { boot, started_at, .. } = next.holders[node];
                next.holders[node] =
                    Holder { boot, started_at, rebuilding: true, ..Holder::default() };
                out.push((Step::SetAside { node }, next));
                continue;
            }
            let document = world.document[node];
            let seen = self.members(document).map(|member| {
                let (reached, theirs) = world.seen(member, document);
                // What a newer document would hold back, the weaker rule takes from anybody.
                let live = (world.reached[member], document);
                let seen = if self.rules.rises_by_document { (reached, theirs) } else { live };
                (seen.0.into(), seen.1.into())
            });
            if margins.rises(own.into(), document.into(), seen) {
                let mut next = *world;
                next.generation[node] = own + 1;
                next.reached[node] = next.reached[node].max(own + 1);
                out.push((Step::Rise { node }, next));
            }
        }
    }

    fn document_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        if !(self.bounds.leaves || self.bounds.joins) {
            return;
        }
        for node in (0..self.bounds.holders).filter(|node| world.document[*node] == 1) {
            let mut next = *world;
            next.document[node] = 2;
            next.learned_at[node] = world.generation[node];
            out.push((Step::LearnDocument { node }, next));
        }
        let knows = |node: &usize| world.document[*node] == 2;
        let heard = (0..self.bounds.holders).filter(knows).count();
        let needed = self.bounds.holders / 2 + 1;
        if self.bounds.joins && world.generation[OTHER] == 0 && heard >= needed {
            // It may have heard any of them, as long as they are enough.
            let mut heard: Vec<u8> =
                (0..self.bounds.holders).filter(knows).map(|n| world.generation[n]).collect();
            heard.sort_unstable();
            heard.dedup();
            let all = (0..self.bounds.holders).filter(knows).count();
            for generation in heard {
                let up_to = (0..self.bounds.holders)
                    .filter(knows)
                    .filter(|n| world.generation[*n] <= generation);
                if up_to.count() >= needed && all >= needed {
                    let mut next = *world;
                    next.generation[OTHER] = generation;
                    next.reached[OTHER] = generation;
                    next.document[OTHER] = 2;
                    out.push((Step::Join { generation }, next));
                }
            }
        }
    }

    fn disk_steps(&self, world: &World, node: usize, out: &mut Vec<(Step, World)>) {
        let Holder { memory, disk, backup, boot, .. } = world.holders[node];
        let generation = world.generation[node];
        let mut push = |step: Step, world: World, change: &dyn Fn(&mut Holder)| {
            let mut next = world;
            change(&mut next.holders[node]);
            out.push((step, next));
        };
        if disk != memory {
            push(Step::Sync { node }, *world, &|h| h.disk = memory);
        }
        if world.crashes < self.bounds.crashes {
            let next = World { crashes: world.crashes + 1, ..*world };
            push(Step::Crash { node }, next, &|h| {
                h.memory = disk;
                h.boot = boot + 1;
                h.started_at = generation;
            });
        }
        if world.backups < self.bounds.restores && backup.is_none() {
            let next = World { backups: world.backups + 1, ..*world };
            push(Step::Backup { node }, next, &|h| h.backup = Some((generation, disk)));
        }
        if let Some((old, set)) = backup {
            let mut next = World { restores: world.restores + 1, ..*world };
            next.generation[node] = old;
            push(Step::Restore { node }, next, &|h| {
                h.backup = None;
                (h.memory, h.disk) = (set, set);
                h.boot = boot + 1;
                h.started_at = old;
            });
        }
        if world.quarantines < self.bounds.quarantines && memory.context != 0 {
            // What an older file under the damaged one holds is not shown: it is made anew.
            let next = World { quarantines: world.quarantines + 1, ..*world };
            push(Step::Quarantine { node }, next, &|h| {
                (h.memory, h.disk) = (Set::default(), Set::default());
                h.rebuilding = true;
                h.boot = boot + 1;
                h.started_at = generation;
            });
        }
    }

    fn holder_steps(&self, world: &World, node: usize, out: &mut Vec<(Step, World)>) {
        let holder = world.holders[node];
        if holder.rebuilding {
            for from in (0..self.bounds.holders).filter(|from| *from != node) {
                if world.holders[from].rebuilding {
                    continue;
                }
                let mut next = *world;
                let set = holder.memory.merge(world.holders[from].memory);
                next.holders[node] = Holder { memory: set, disk: set, rebuilding: false, ..holder };
                out.push((Step::Rebuild { node, from }, next));
            }
            return;
        }
        self.disk_steps(world, node, out);
        if let Some(confirmation) = self.confirmation(world, node)
            && holder.confirmed != Some(confirmation)
        {
            let mut next = *world;
            next.holders[node].confirmed = Some(confirmation);
            out.push((Step::Confirm { node }, next));
        }
        if self.erases(world, node) {
            let mut next = *world;
            let holder = &mut next.holders[node];
            let left = match self.bounds.folds {
                true => Set { context: holder.memory.context & !VALUE, ..holder.memory },
                false => Set::default(),
            };
            (holder.memory, holder.disk) = (left, left);
            holder.erased = true;
            out.push((Step::Erase { node }, next));
        }
    }

    /// What a holder confirms now, if it does.
    fn confirmation(&self, world: &World, node: usize) -> Option<Confirmation> {
        let holder = world.holders[node];
        let generation = world.generation[node];
        let synced = !self.rules.syncs_before_confirming || holder.disk == holder.memory;
        let confirms = match self.bounds.folds {
            false => holder.memory.is_tombstone(),
            true if self.rules.needs_the_row => holder.memory.has_spent_row(),
            true => holder.memory.held & VALUE == 0,
        };
        if !confirms || !synced || generation > self.bounds.confirm_until {
            return None;
        }
        // Whatever else is stored, it is the same row that all confirm.
        let row = Set { context: VALUE, held: 0 };
        let set = if self.bounds.folds { row } else { holder.memory };
        // A boot number tells starts apart; before the first restart there is none to wait after.
        let restarted = self.rules.waits_after_start && holder.boot > 0;
        let started_at = if restarted { holder.started_at } else { 0 };
        let highest = world.highest();
        let margins = self.rules.margins;
        margins.confirms(generation.into(), started_at.into(), highest.into()).then_some(
            Confirmation { generation, set, boot: holder.boot, document: world.document[node] },
        )
    }

    /// Whether a holder erases now. Confirmations of an earlier start are void where the holder's
    /// generation rose since then: those who would erase hear of both together.
    fn erases(&self, world: &World, node: usize) -> bool {
        let own = world.holders[node];
        let Some(mine) = own.confirmed else { return false };
        let (mut confirmations, mut lowest, mut highest) = (0, u8::MAX, 0);
        for (number, holder) in world.holders[..self.bounds.holders].iter().enumerate() {
            let Some(theirs) = holder.confirmed else { continue };
            let rose = world.generation[number] > holder.started_at;
            let restarted = theirs.boot != holder.boot && rose;
            let void = self.rules.start_voids && restarted
                || theirs.document != mine.document
                || theirs.document != world.document[node]
                || theirs.set != mine.set;
            if !void {
                confirmations += 1;
                lowest = lowest.min(theirs.generation);
                highest = highest.max(theirs.generation);
            }
        }
        let needed = self.bounds.holders - usize::from(!self.rules.needs_all_holders);
        let equal = match self.bounds.folds {
            true => own.memory.has_spent_row(),
            false => own.memory == mine.set || !self.rules.erases_equal && own.memory.context != 0,
        };
        if confirmations < needed || !equal {
            return false;
        }
        let confirmed = if self.rules.highest_confirmation { highest } else { lowest };
        let document = world.document[node];
        let Some(reports) = self.reports(world, document) else { return false };
        let from =
            self.rules.margins.erases_from(confirmed.into(), document.into(), reports.into_iter());
        from.is_ok_and(|from| u64::from(world.generation[node]) >= from)
    }

    /// What a holder was told by all members, none while one is missing.
    fn reports(&self, world: &World, document: u8) -> Option<Vec<Report>> {
        let report = |member: usize| {
            let seen = world.seen(member, document);
            let (generation, theirs) = if member == OTHER {
                // Where it never keeps a copy, what it told of them is left out.
                let none = (world.generation[OTHER], world.document[OTHER]);
                if self.bounds.stand_in {
                    world.told.map(|t| (t.generation, t.document))?
                } else {
                    none
                }
            } else {
                seen
            };
            let held = if member == OTHER { self.held(world) } else { Held::default() };
            Some(Report { generation: generation.into(), document: theirs.into(), held })
        };
        self.members(document).map(report).collect()
    }

    /// What the other member told of its copies.
    fn held(&self, world: &World) -> Held {
        let Some(told) = world.told else { return Held::default() };
        let mut held = if self.rules.counts_hand_backs { world.held } else { Held::default() };
        held.note(told.generation.into(), told.lowest.map(u64::from));
        held
    }

    fn tell_step(&self, world: &World, out: &mut Vec<(Step, World)>) {
        let told = Some(Told {
            generation: world.generation[OTHER],
            lowest: world.copy.map(|(stamp, _)| stamp),
            document: world.document[OTHER],
        });
        let has = world.generation[OTHER] > 0 && !self.is_gone(world);
        if self.bounds.stand_in && has && world.told != told {
            out.push((Step::Tell, World { told, ..*world }));
        }
    }
}

impl Model for Reclaim {
    type State = World;
    type Step = Step;

    fn initial(&self) -> Vec<World> {
        crate::starts::starts(&self.bounds)
    }

    fn steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        self.client_steps(world, out);
        self.carrier_steps(world, out);
        self.repair_steps(world, out);
        self.generation_steps(world, out);
        self.document_steps(world, out);
        self.tell_step(world, out);
        for node in 0..self.bounds.holders {
            self.holder_steps(world, node, out);
        }
        for (_, next) in out.iter_mut() {
            next.note();
            for holder in &mut next.holders[..self.bounds.holders] {
                next.newer_stored |= holder.memory.held & NEWER != 0;
                if !self.bounds.lagging_disks {
                    holder.disk = holder.memory;
                }
            }
        }
    }

    fn broken(&self, world: &World) -> Option<String> {
        crate::promises::broken(self, world)
    }

    fn show(&self, world: &World) -> String {
        let name = |set: Set| match (set.context, set.held) {
            (0, _) => "-".to_owned(),
            (context, held) => format!("{context:03b}/{held:03b}"),
        };
        let mut text = format!("G{:?} doc{:?}", world.generation, world.document);
        for holder in &world.holders[..self.bounds.holders] {
            let mark = if holder.rebuilding { "*" } else { "" };
            let _ = write!(text, " {}{mark}", name(holder.memory));
        }
        if let Some((stamp, copy)) = world.copy {
            let _ = write!(text, " copy@{stamp} {}", name(copy));
        }
        for carrier in &world.carriers[..world.sent as usize] {
            let _ = write!(text, " ~{}>{}@{}", name(carrier.set), carrier.to, carrier.stamp);
        }
        text
    }
}
