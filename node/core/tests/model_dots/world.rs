//! The protocol of dots and actors, small enough to be searched.
//!
//! A dot is a bit: node, then serial, then count. A fresh tag per start is modelled by serials that
//! never repeat on a node: `next_serial` survives every fault (unless serials are leased on the
//! volume, the weakened rule), and a start raises `floor`, below which serials are of earlier
//! starts. Siblings are kept by write, not by dot, so that two writes under one dot can be seen.

use std::fmt::Write as _;

use kvasir_core::explore::Model;

use crate::rules::{Bounds, CountOn, Refuse, Rules, Serials, TokenCovers};

const NODES: usize = 3;
const SERIALS: usize = 5;
const COUNTS: usize = 4;
const WRITES: usize = 6;
const TOKENS: usize = 2;

/// Durable copies that make a write acknowledged. No run has more than one fault that destroys a
/// copy.
const ACKNOWLEDGEMENTS: u32 = 2;

/// A set of dots.
pub(crate) type Context = u64;
/// A set of writes, by number.
pub(crate) type Writes = u8;

/// The model: rules within bounds.
pub struct Dots {
    pub rules: Rules,
    pub bounds: Bounds,
}

/// A sibling set: what it covers and which writes it holds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Set {
    pub(crate) context: Context,
    pub(crate) held: Writes,
}

/// A stored record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Record {
    pub(crate) set: Set,
    /// The serial that it counts on.
    counting: Option<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Node {
    pub(crate) memory: Record,
    pub(crate) disk: Record,
    /// An old copy of the volume, or an older file under a newer one, with the serials leased then.
    old: Option<(Record, u8)>,
    next_serial: u8,
    /// Serials below it are not valid for counting: of an earlier start, or ended by a fault.
    floor: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Write {
    pub(crate) dot: u8,
    /// The context that it was written with.
    seen: Context,
    /// Every write that its client had seen, directly or through what it saw.
    pub(crate) history: Writes,
    delete: bool,
    pub(crate) acknowledged: bool,
    pub(crate) erased: bool,
    /// Nodes that ever held it durably, for counting acknowledgements.
    holders: u8,
}

/// What a client was given: a context, and the writes that it has thereby seen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Token {
    pub(crate) context: Context,
    seen: Writes,
}

/// Something that must never be refused was.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Refusal {
    Token,
    ReplicaTraffic,
}

/// Everything at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct World {
    pub(crate) nodes: [Node; NODES],
    pub(crate) writes: [Write; WRITES],
    pub(crate) written: u8,
    tokens: [Token; TOKENS],
    crashes: u8,
    copies: u8,
    restores: u8,
    regains: u8,
    quarantines: u8,
    erases: u8,
    folds: u8,
    pub(crate) refused: Option<Refusal>,
}

/// One atomic step.
#[derive(Debug)]
#[allow(dead_code, reason = "the fields are read by Debug, in traces")]
pub enum Step {
    Write { write: usize, node: usize, token: Option<usize>, serial: usize, count: usize },
    Delete { write: usize, node: usize, token: Option<usize>, serial: usize, count: usize },
    RefuseToken { node: usize, token: Option<usize> },
    Read { node: usize, token: usize },
    Deliver { write: usize, node: usize },
    RefuseDelta { write: usize, node: usize },
    Repair { from: usize, to: usize },
    RefuseRepair { from: usize, to: usize },
    Sync { node: usize },
    CrashAndLoseTail { node: usize },
    CopyVolume { node: usize },
    RestoreVolume { node: usize },
    Quarantine { node: usize },
    LoseAndRegainPartition { node: usize },
    HandBackAndDelete { node: usize },
    EraseEverywhere,
    FoldEverywhere { node: usize, serial: usize },
}

pub(crate) fn bit(dot: u8) -> Context {
    1 << dot
}

fn members(writes: Writes) -> impl Iterator<Item = usize> {
    (0..WRITES).filter(move |write| writes >> write & 1 == 1)
}

/// The highest count covered of this actor.
fn highest(context: Context, node: usize, serial: usize) -> usize {
    let row = context >> ((node * SERIALS + serial) * COUNTS) & ((1 << COUNTS) - 1);
    (64 - row.leading_zeros()) as usize
}

impl World {
    fn dots(&self, held: Writes) -> Context {
        members(held).fold(0, |dots, write| dots | bit(self.writes[write].dot))
    }

    /// The merge of the product, on dots; of two writes under one dot, one side's is lost.
    pub(crate) fn merge(&self, a: Set, b: Set) -> Set {
        let (dots_a, dots_b) = (self.dots(a.held), self.dots(b.held));
        let mut merged = Set { context: a.context | b.context, held: 0 };
        let mut taken = 0;
        for (side, other, other_dots) in [(a, b, dots_b), (b, a, dots_a)] {
            for write in members(side.held) {
                let dot = bit(self.writes[write].dot);
                let survives = other_dots & dot != 0 || other.context & dot == 0;
                if survives && taken & dot == 0 {
                    merged.held |= 1 << write;
                    taken |= dot;
                }
            }
        }
        merged
    }

    fn delta(&self, write: usize) -> Set {
        let Write { dot, seen, .. } = self.writes[write];
        Set { context: seen | bit(dot), held: 1 << write }
    }

    /// Merges into a node's memory and syncs: what repair and deltas do here.
    fn merge_durably(&mut self, node: usize, set: Set) {
        self.nodes[node].memory.set = self.merge(self.nodes[node].memory.set, set);
        self.nodes[node].disk = self.nodes[node].memory;
    }

    fn count_acknowledgements(&mut self) {
        for write in &mut self.writes[..self.written as usize] {
            for (number, node) in self.nodes.iter().enumerate() {
                if node.disk.set.context & bit(write.dot) != 0 {
                    write.holders |= 1 << number;
                }
            }
            write.acknowledged |= write.holders.count_ones() >= ACKNOWLEDGEMENTS;
        }
    }

    /// For the test that the model is not vacuous.
    pub fn wrote_after_an_erase(&self) -> bool {
        self.erases > 0 && self.writes[..self.written as usize].iter().any(|w| !w.erased)
    }
}

impl Node {
    fn forget(&mut self) {
        self.memory = Record::default();
        self.disk = Record::default();
    }

    /// The serial that the record names, if it is valid for counting.
    fn counting(&self) -> Option<usize> {
        self.memory.counting.filter(|&serial| serial >= self.floor).map(usize::from)
    }
}

impl Dots {
    /// Whether the node refuses a context.
    fn refuses(&self, node: &Node, number: usize, context: Context) -> bool {
        let own = node.memory.set.context;
        (0..SERIALS).filter(|&serial| highest(context, number, serial) > 0).any(|serial| {
            let not_taken = serial >= node.next_serial as usize;
            let minted = highest(own, number, serial);
            let above = highest(context, number, serial) > minted;
            match self.rules.refuse {
                Refuse::Nothing => false,
                Refuse::NeverMade => not_taken || node.counting() == Some(serial) && above,
                Refuse::AboveOwnRecord => not_taken || minted > 0 && above,
            }
        })
    }

    /// The serials on which the node may mint, by the rule in force.
    fn serials(&self, node: &Node, number: usize) -> Vec<usize> {
        let own_rows = || {
            let rows = node.floor as usize..SERIALS;
            rows.filter(|&serial| highest(node.memory.set.context, number, serial) > 0)
        };
        let mut serials: Vec<usize> = match self.rules.count_on {
            CountOn::AnyOwnRow => own_rows().collect(),
            CountOn::HighestOwnRow => own_rows().next_back().into_iter().collect(),
            CountOn::NamedByRecord => node.counting().into_iter().collect(),
        };
        if serials.is_empty() {
            serials.push(node.next_serial as usize);
        }
        serials
    }

    fn client_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        for node in 0..self.bounds.nodes {
            let tokens = (0..self.bounds.tokens).filter(|&t| world.tokens[t].context != 0);
            for token in tokens.map(Some).chain([None]) {
                self.write_steps(world, node, token, out);
            }
            let set = world.nodes[node].memory.set;
            if set.context == 0 {
                continue;
            }
            let histories = members(set.held).fold(0, |h, w| h | world.writes[w].history);
            let token = Token { context: set.context, seen: set.held | histories };
            for slot in (0..self.bounds.tokens).filter(|&slot| world.tokens[slot] != token) {
                let mut next = *world;
                next.tokens[slot] = token;
                out.push((Step::Read { node, token: slot }, next));
            }
        }
    }

    fn write_steps(
        &self,
        world: &World,
        number: usize,
        token: Option<usize>,
        out: &mut Vec<(Step, World)>,
    ) {
        if world.written as usize >= self.bounds.writes {
            return;
        }
        let Token { context: seen, seen: history } =
            token.map_or_else(Token::default, |token| world.tokens[token]);
        let node = &world.nodes[number];
        if self.refuses(node, number, seen) {
            let refused = World { refused: Some(Refusal::Token), ..*world };
            out.push((Step::RefuseToken { node: number, token }, refused));
            return;
        }
        for serial in self.serials(node, number) {
            let count = highest(node.memory.set.context, number, serial) + 1;
            if serial >= SERIALS || count > COUNTS {
                continue;
            }
            let write = world.written as usize;
            let dot = ((number * SERIALS + serial) * COUNTS + count - 1) as u8;
            for delete in [false, true].into_iter().take(1 + usize::from(self.bounds.erases > 0)) {
                let mut next = *world;
                next.written += 1;
                next.writes[write] = Write { dot, seen, history, delete, ..Write::default() };
                self.store_in_place(&mut next, number, write, serial);
                let covers = match self.rules.token_covers {
                    TokenCovers::SeenAndOwnDot => seen | bit(dot),
                    TokenCovers::CoordinatorContext => next.nodes[number].memory.set.context,
                };
                next.tokens[token.unwrap_or(0)] =
                    Token { context: covers, seen: history | 1 << write };
                out.push((
                    match delete {
                        false => Step::Write { write, node: number, token, serial, count },
                        true => Step::Delete { write, node: number, token, serial, count },
                    },
                    next,
                ));
            }
        }
    }

    /// The coordinator's own copy: drops what the client saw, adds the write and its dot.
    fn store_in_place(&self, world: &mut World, number: usize, write: usize, serial: usize) {
        let Write { dot, seen, .. } = world.writes[write];
        let old = world.nodes[number].memory.set;
        let kept = members(old.held).filter(|&w| seen & bit(world.writes[w].dot) == 0);
        let held = kept.fold(1 << write, |held: Writes, w| held | 1 << w);
        let joined = if self.rules.joins_client_context { seen } else { 0 };
        let node = &mut world.nodes[number];
        node.memory.set = Set { context: old.context | joined | bit(dot), held };
        node.memory.counting = Some(serial as u8);
        node.next_serial = node.next_serial.max(serial as u8 + 1);
    }

    /// Deltas, at any time and any number of times, and whole sets from replica to replica.
    fn replica_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        let mut arrive = |set: Set, to: usize, taken: Step, refused: Step| {
            let node = &world.nodes[to];
            if self.refuses(node, to, set.context) {
                out.push((refused, World { refused: Some(Refusal::ReplicaTraffic), ..*world }));
            } else if world.merge(node.memory.set, set) != node.memory.set {
                let mut next = *world;
                next.merge_durably(to, set);
                next.count_acknowledgements();
                out.push((taken, next));
            }
        };
        for to in 0..self.bounds.nodes {
            for write in (0..world.written as usize).filter(|&w| !world.writes[w].erased) {
                let refused = Step::RefuseDelta { write, node: to };
                arrive(world.delta(write), to, Step::Deliver { write, node: to }, refused);
            }
            for from in (0..self.bounds.nodes).filter(|&from| from != to) {
                let set = world.nodes[from].memory.set;
                if set.context != 0 {
                    let refused = Step::RefuseRepair { from, to };
                    arrive(set, to, Step::Repair { from, to }, refused);
                }
            }
        }
    }

    fn disk_steps(&self, world: &World, number: usize, out: &mut Vec<(Step, World)>) {
        let bounds = &self.bounds;
        let node = &world.nodes[number];
        if node.disk != node.memory {
            let mut next = *world;
            next.nodes[number].disk = node.memory;
            next.count_acknowledgements();
            out.push((Step::Sync { node: number }, next));
        }
        if world.crashes < bounds.crashes {
            let mut next = World { crashes: world.crashes + 1, ..*world };
            next.nodes[number].memory = node.disk;
            next.nodes[number].floor = node.next_serial;
            out.push((Step::CrashAndLoseTail { node: number }, next));
        }
        if world.copies < bounds.restores + bounds.quarantines && node.old.is_none() {
            let mut next = World { copies: world.copies + 1, ..*world };
            next.nodes[number].old = Some((node.disk, node.next_serial));
            out.push((Step::CopyVolume { node: number }, next));
        }
        let Some((record, leased)) = node.old else { return };
        let back = Node { memory: record, disk: record, old: None, ..*node };
        if world.restores < bounds.restores {
            let mut next = World { restores: world.restores + 1, ..*world };
            let next_serial = match self.rules.serials {
                Serials::FreshPerStart => node.next_serial,
                Serials::LeasedOnVolume => leased,
            };
            next.nodes[number] = Node { next_serial, floor: next_serial, ..back };
            out.push((Step::RestoreVolume { node: number }, next));
        }
        if world.quarantines < bounds.quarantines {
            let mut next = World { quarantines: world.quarantines + 1, ..*world };
            next.nodes[number] = back;
            if self.rules.quarantine_ends_counting {
                next.nodes[number].floor = node.next_serial;
            }
            out.push((Step::Quarantine { node: number }, next));
        }
    }

    /// A node loses its copy on purpose, once others hold all of it.
    fn giving_up_steps(&self, world: &World, number: usize, out: &mut Vec<(Step, World)>) {
        let set = world.nodes[number].memory.set;
        if set.context == 0 {
            return;
        }
        let has_it = |other: &Node| world.merge(other.disk.set, set) == other.disk.set;
        let held_elsewhere =
            (0..self.bounds.nodes).any(|other| other != number && has_it(&world.nodes[other]));
        if world.regains < self.bounds.regains && held_elsewhere {
            let mut next = World { regains: world.regains + 1, ..*world };
            next.nodes[number].forget();
            next.nodes[number].floor = next.nodes[number].next_serial;
            out.push((Step::LoseAndRegainPartition { node: number }, next));
        }
        if self.bounds.stand_in && number == NODES - 1 {
            let mut next = *world;
            (0..number).for_each(|owner| next.merge_durably(owner, set));
            next.nodes[number].forget();
            next.count_acknowledgements();
            out.push((Step::HandBackAndDelete { node: number }, next));
        }
    }

    /// An ideal reclaim: at least two hold the key, all the same, durably, tombstones only. It also
    /// ends old copies, as the rules of rebuilding do.
    fn erase_step(&self, world: &World, out: &mut Vec<(Step, World)>) {
        if world.erases >= self.bounds.erases {
            return;
        }
        let holders: Vec<&Node> =
            world.nodes.iter().filter(|node| node.memory.set.context != 0).collect();
        let Some(set) = holders.first().map(|node| node.memory.set) else { return };
        let agreed = holders.iter().all(|node| node.memory.set == set && node.disk.set == set);
        let deleted = members(set.held).all(|write| world.writes[write].delete);
        if holders.len() < 2 || !agreed || !deleted {
            return;
        }
        let mut next = World { erases: world.erases + 1, ..*world };
        for write in &mut next.writes[..world.written as usize] {
            write.erased |= set.context & bit(write.dot) != 0;
        }
        for node in &mut next.nodes {
            node.forget();
            node.old = None;
        }
        out.push((Step::EraseEverywhere, next));
    }
}

impl Dots {
    /// An ideal fold: at least two hold the key, all have this very row durably and no sibling of it. It also
    /// ends old copies.
    fn fold_steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        if world.folds >= self.bounds.folds {
            return;
        }
        for (number, serial) in (0..NODES * SERIALS).map(|n| (n / SERIALS, n % SERIALS)) {
            let shift = (number * SERIALS + serial) * COUNTS;
            let mask: Context = ((1 << COUNTS) - 1) << shift;
            let holders = || world.nodes.iter().filter(|node| node.memory.set.context != 0);
            let row = holders().next().map_or(0, |node| node.memory.set.context & mask);
            let whole = row != 0 && (row >> shift) & ((row >> shift) + 1) == 0;
            let spent = |set: Set| set.context & mask == row && world.dots(set.held) & mask == 0;
            let agreed = holders().all(|node| spent(node.memory.set) && spent(node.disk.set));
            let own = serial >= world.nodes[number].floor as usize && self.rules.keeps_own_rows;
            if !whole || !agreed || own || holders().count() < 2 {
                continue;
            }
            let mut next = World { folds: world.folds + 1, ..*world };
            for write in &mut next.writes[..world.written as usize] {
                write.erased |= row & bit(write.dot) != 0;
            }
            for node in &mut next.nodes {
                node.memory.set.context &= !mask;
                node.disk.set.context &= !mask;
                node.old = None;
            }
            out.push((Step::FoldEverywhere { node: number, serial }, next));
        }
    }
}

impl Model for Dots {
    type State = World;
    type Step = Step;

    fn initial(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn steps(&self, world: &World, out: &mut Vec<(Step, World)>) {
        self.client_steps(world, out);
        self.replica_steps(world, out);
        for number in 0..self.bounds.nodes {
            self.disk_steps(world, number, out);
            self.giving_up_steps(world, number, out);
        }
        self.erase_step(world, out);
        self.fold_steps(world, out);
    }

    fn broken(&self, world: &World) -> Option<String> {
        world.broken_promise()
    }

    fn show(&self, world: &World) -> String {
        let mut text = String::new();
        for (number, node) in world.nodes.iter().enumerate().take(self.bounds.nodes) {
            let Set { context, held } = node.memory.set;
            let held: Vec<usize> = members(held).collect();
            let _ = write!(text, "{number}: writes {held:?} of");
            for dot in (0..NODES * SERIALS * COUNTS).filter(|&dot| context >> dot & 1 == 1) {
                let (actor, count) = (dot / COUNTS, dot % COUNTS + 1);
                let _ = write!(text, " {}.{}:{count}", actor / SERIALS, actor % SERIALS);
            }
            let unsynced = if node.disk == node.memory { "" } else { " unsynced" };
            let _ = write!(text, "{unsynced}; ");
        }
        text
    }
}
