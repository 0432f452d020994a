//! Three owners, two nodes that may stand in, writes of one key, and the way of their copies back.
//!
//! A node holds a set of writes, in memory and synced; merging is their union (what supersedes what is the
//! matter of `model_dots`). Every message may be late, repeated or lost, any node that did not answer may be
//! given up at any time, and a node may crash. Who stands in, what is counted, what still fits and when a
//! copy goes is decided by [`Bench`], [`Tally`], [`Cap`] and [`HandBack`], as in a node.

use std::collections::BTreeMap;

use kvasir_core::explore::Model;
use kvasir_core::handoff::{Bench, Cap, HandBack};
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::quorum::{Level, Progress, Tally};
use kvasir_core::ring::{
    BucketSettings, Document, Member, MemberState, NewCluster, Partition, Ring, Sealed, TokenSecret,
};

use crate::rules::{Bounds, Weakness};

const OWNERS: usize = 3;
const NODES: usize = 5;
const STAND_INS: usize = NODES - OWNERS;
const WRITES: usize = 2;
/// Version and hash of the entry: it never changes here.
const ENTRY: (u64, u64) = (1, 1);
const DATACENTER: &str = "dc1";
/// Copies that an acknowledged write has.
const QUORUM: u32 = 2;

/// A set of writes.
type Writes = u8;
/// A set of nodes: the owners first, then those that stand in, as the bench names them.
type Nodes = u8;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Node {
    memory: Writes,
    disk: Writes,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
enum Phase {
    #[default]
    Ahead,
    Running,
    Acknowledged,
    /// Its coordinator crashed.
    Over,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Write {
    phase: Phase,
    coordinator: u8,
    /// Who was sent it.
    called: Nodes,
    /// Who was given up.
    given_up: Nodes,
    /// Who stored it durably at some time, so that an answer may be on its way.
    stored: Nodes,
    /// Whose answer arrived.
    answered: Nodes,
    /// Who was called to stand in, and for which owner, in order.
    seats: [Option<(u8, u8)>; STAND_INS],
}

/// What a stand-in knows of the way of its copy back. Gone with a crash.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Errand {
    /// The copy as it was read last.
    looked: Writes,
    /// What [`HandBack`] remembers.
    print: Writes,
    confirmed: Nodes,
}

/// Everything at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct World {
    nodes: [Node; NODES],
    writes: [Write; WRITES],
    errands: [Errand; STAND_INS],
    crashes: u8,
}

/// One atomic step.
#[derive(Debug)]
#[allow(dead_code, reason = "the fields are read by Debug, in traces")]
pub enum Step {
    Begin { write: usize, at: usize },
    Arrive { write: usize, at: usize },
    Full { write: usize, at: usize },
    Sync { node: usize },
    Answer { write: usize, from: usize },
    GiveUp { write: usize, node: usize },
    Look { stand_in: usize },
    HandOver { stand_in: usize, to: usize },
    Confirm { stand_in: usize, by: usize },
    Erase { stand_in: usize },
    Crash { node: usize },
}

type Out = Vec<(Step, World)>;

/// The model within its bounds.
pub struct StandIns {
    bounds: Bounds,
    ring: Ring,
    partition: Partition,
    /// Owners, then whoever the bench names.
    ids: Vec<NodeId>,
}

const fn bit(number: usize) -> u8 {
    1 << number
}

fn has(set: u8, number: usize) -> bool {
    set & bit(number) != 0
}

fn all(set: u8, of: u8) -> bool {
    set & of == of
}

const ALL_OWNERS: Nodes = bit(OWNERS) - 1;

impl StandIns {
    /// Five nodes on machines of their own, three copies.
    pub fn new(bounds: Bounds) -> Self {
        assert!(usize::from(bounds.writes) <= WRITES);
        let ring = Ring::new(Sealed::new(cluster()));
        let partition = Partition { k: ring.document().partition_bits, index: 0 };
        let mut ids: Vec<NodeId> = ring.owners(partition).iter().map(|o| o.node).collect();
        let mut bench = Bench::new(&ring, partition, |_| true);
        ids.extend(std::iter::from_fn(|| bench.take(DATACENTER)));
        assert_eq!(ids.len(), NODES, "three owners and two more");
        Self { bounds, ring, partition, ids }
    }

    fn weak(&self, weakness: Weakness) -> bool {
        self.bounds.weakness == weakness
    }

    fn number(&self, id: NodeId) -> usize {
        self.ids.iter().position(|other| *other == id).expect("one of the five")
    }

    /// The count of a write as its coordinator has it.
    fn tally(&self, write: &Write) -> Tally {
        let owners: Vec<_> = self.ids[..OWNERS].iter().map(|id| (*id, DATACENTER)).collect();
        let mut tally = Tally::new(Level::Quorum, &owners, DATACENTER).expect("three owners");
        let known = "everybody who was called has a place";
        for owner in (0..OWNERS).filter(|owner| has(write.given_up, *owner)) {
            tally.fail(self.ids[owner]).expect(known);
        }
        for (stand_in, owner) in write.seats.iter().flatten() {
            let (stand_in, owner) = (usize::from(*stand_in), usize::from(*owner));
            tally.stand_in(self.ids[owner], self.ids[stand_in]).expect("the seat is free");
            if has(write.given_up, stand_in) {
                tally.fail(self.ids[stand_in]).expect(known);
            }
        }
        for node in (0..NODES).filter(|node| has(write.answered, *node)) {
            tally.ack(self.ids[node]).expect(known);
        }
        tally
    }

    fn acknowledged(&self, write: &Write) -> bool {
        let tally = self.tally(write);
        let given_up = (write.given_up & ALL_OWNERS & !write.answered).count_ones();
        let owners = (write.answered & ALL_OWNERS).count_ones();
        let stood_in = write.answered & !ALL_OWNERS != 0;
        match self.bounds.weakness {
            Weakness::CountsHints => tally.counted() + given_up >= QUORUM && owners > 0,
            Weakness::CountsOneForAll => owners + u32::from(stood_in) * given_up >= QUORUM,
            _ => tally.progress() == Progress::Done,
        }
    }

    /// Acknowledges a write that is counted, and forgets what matters to its coordinator alone.
    fn conclude(&self, write: &mut Write) {
        if self.acknowledged(write) {
            let Write { called, answered, .. } = *write;
            let answered = answered & !ALL_OWNERS;
            *write = Write { phase: Phase::Acknowledged, called, answered, ..Write::default() };
        }
    }

    /// Calls upon stand-ins, as many as the count needs now.
    fn call(&self, write: &mut Write) {
        while self.tally(write).progress() == Progress::Failed {
            let seated = |owner: usize| {
                let sits = |(who, of): &(u8, u8)| {
                    usize::from(*of) == owner && !has(write.given_up, usize::from(*who))
                };
                write.seats.iter().flatten().any(sits)
            };
            let open = (0..OWNERS).find(|owner| {
                has(write.given_up, *owner) && !has(write.answered, *owner) && !seated(*owner)
            });
            let mut bench = Bench::new(&self.ring, self.partition, |_| true);
            for (stand_in, _) in write.seats.iter().flatten() {
                bench.remove(self.ids[usize::from(*stand_in)]);
            }
            let (Some(owner), Some(next)) = (open, bench.take(DATACENTER)) else { return };
            let stand_in = self.number(next);
            let free = write.seats.iter_mut().find(|seat| seat.is_none());
            *free.expect("as many seats as stand-ins") = Some((stand_in as u8, owner as u8));
            write.called |= bit(stand_in);
        }
    }

    /// Whether a copy may grow by a write.
    fn fits(&self, world: &World, write: usize, at: usize) -> bool {
        let before = u64::from(world.nodes[at].memory.count_ones());
        let after = u64::from((world.nodes[at].memory | bit(write)).count_ones());
        Cap { max_bytes: self.bounds.cap }.takes(before, before, after)
    }

    fn begin(&self, world: &World, out: &mut Out) {
        let next = world.writes.iter().position(|write| write.phase == Phase::Ahead);
        let Some(write) = next.filter(|write| *write < usize::from(self.bounds.writes)) else {
            return;
        };
        let running = world.writes.iter().any(|write| write.phase == Phase::Running);
        if self.bounds.patient && running {
            return;
        }
        let bench = Bench::new(&self.ring, self.partition, |_| true);
        let others = bench.coordinators(DATACENTER).into_iter().map(|id| self.number(id));
        let down = self.bounds.down;
        // Where no owner is reached the first of the others coordinates, in the place of an owner.
        for at in (0..OWNERS).chain(others.take(1)) {
            if has(down, at) || at >= OWNERS && !self.fits(world, write, at) {
                continue;
            }
            let mut next = *world;
            let begun = &mut next.writes[write];
            begun.phase = Phase::Running;
            begun.coordinator = at as u8;
            begun.called = ALL_OWNERS & !down | bit(at);
            begun.given_up = down;
            if at >= OWNERS {
                begun.seats[0] = Some((at as u8, 0));
            }
            self.call(begun);
            next.nodes[at].memory |= bit(write);
            out.push((Step::Begin { write, at }, next));
        }
    }

    fn deliver(&self, world: &World, out: &mut Out) {
        for (number, write) in world.writes.iter().enumerate() {
            for at in (0..NODES).filter(|at| has(write.called, *at)) {
                if has(world.nodes[at].memory, number) {
                    continue;
                }
                let mut next = *world;
                if at < OWNERS || self.fits(world, number, at) {
                    next.nodes[at].memory |= bit(number);
                    out.push((Step::Arrive { write: number, at }, next));
                } else if self.weak(Weakness::DropsAtCap) && write.phase == Phase::Running {
                    next.writes[number].stored |= bit(at);
                    out.push((Step::Full { write: number, at }, next));
                } else if write.phase == Phase::Running && !has(write.given_up, at) {
                    next.writes[number].given_up |= bit(at);
                    self.call(&mut next.writes[number]);
                    out.push((Step::Full { write: number, at }, next));
                }
            }
        }
    }

    fn answer(&self, world: &World, out: &mut Out) {
        for (number, write) in world.writes.iter().enumerate() {
            if write.phase != Phase::Running {
                continue;
            }
            for node in (0..NODES).filter(|node| has(write.called & !write.answered, *node)) {
                let early =
                    self.weak(Weakness::AnswersBeforeSync) && has(world.nodes[node].memory, number);
                if has(write.stored, node) || early {
                    let mut next = *world;
                    next.writes[number].answered |= bit(node);
                    self.conclude(&mut next.writes[number]);
                    out.push((Step::Answer { write: number, from: node }, next));
                }
                let another = node != usize::from(write.coordinator);
                if another && !has(write.given_up, node) && !self.bounds.patient {
                    let mut next = *world;
                    next.writes[number].given_up |= bit(node);
                    self.call(&mut next.writes[number]);
                    self.conclude(&mut next.writes[number]);
                    out.push((Step::GiveUp { write: number, node }, next));
                }
            }
        }
    }

    fn hand_back(&self, errand: &Errand) -> HandBack {
        let mut back = HandBack::default();
        back.missing(ENTRY, errand.print.into(), &self.ids[..OWNERS]);
        for owner in (0..OWNERS).filter(|owner| has(errand.confirmed, *owner)) {
            back.stored(self.ids[owner]);
        }
        back
    }

    fn print(&self, copy: Writes) -> Writes {
        if self.weak(Weakness::ConfirmationsOutliveGrowth) { 0 } else { copy }
    }

    fn bring_back(&self, world: &World, out: &mut Out) {
        for (number, errand) in world.errands.iter().enumerate() {
            let stand_in = OWNERS + number;
            let copy = world.nodes[stand_in].memory;
            if copy != 0 && copy != errand.looked {
                let mut next = *world;
                let mut back = self.hand_back(errand);
                let print = self.print(copy);
                let missing = back.missing(ENTRY, print.into(), &self.ids[..OWNERS]);
                let missing = missing.into_iter().map(|id| bit(self.number(id)));
                let confirmed = missing.fold(ALL_OWNERS, |all, one| all & !one);
                next.errands[number] = Errand { looked: copy, print, confirmed };
                out.push((Step::Look { stand_in }, next));
            }
            if errand.looked != 0 {
                self.hand_over(world, (number, errand), out);
            }
        }
    }

    fn hand_over(&self, world: &World, (number, errand): (usize, &Errand), out: &mut Out) {
        let stand_in = OWNERS + number;
        for owner in (0..OWNERS).filter(|owner| !has(errand.confirmed, *owner)) {
            let Node { memory, disk } = world.nodes[owner];
            let kept = if self.weak(Weakness::Overwrites) { 0 } else { memory };
            if kept | errand.looked != memory {
                let mut next = *world;
                next.nodes[owner].memory = kept | errand.looked;
                out.push((Step::HandOver { stand_in, to: owner }, next));
            }
            // Handing over what is there already changes nothing but that it is confirmed.
            let early = self.weak(Weakness::ConfirmsBeforeSync);
            if all(if early { memory } else { disk }, errand.looked) {
                let mut next = *world;
                next.errands[number].confirmed |= bit(owner);
                out.push((Step::Confirm { stand_in, by: owner }, next));
            }
        }
        let back = self.hand_back(errand);
        let print = self.print(errand.looked).into();
        let complete = back.complete(ENTRY, print, &self.ids[..OWNERS])
            || self.weak(Weakness::GoesAfterOne) && errand.confirmed != 0;
        let copy = world.nodes[stand_in].memory;
        let same = copy == errand.looked || self.weak(Weakness::GoesThoughItGrew);
        if complete && copy != 0 && same {
            let mut next = *world;
            next.nodes[stand_in].memory = 0;
            next.errands[number] = Errand::default();
            out.push((Step::Erase { stand_in }, next));
        }
    }

    fn sync_and_crash(&self, world: &World, out: &mut Out) {
        for node in 0..NODES {
            let Node { memory, disk } = world.nodes[node];
            if memory != disk {
                let mut next = *world;
                next.nodes[node].disk = memory;
                for write in 0..WRITES {
                    let running = next.writes[write].phase == Phase::Running;
                    if running && has(memory, write) && has(next.writes[write].called, node) {
                        next.writes[write].stored |= bit(node);
                    }
                }
                out.push((Step::Sync { node }, next));
            }
            let forgets = node >= OWNERS && world.errands[node - OWNERS] != Errand::default();
            let leads = world.writes.iter().any(|write| {
                write.phase == Phase::Running && usize::from(write.coordinator) == node
            });
            if world.crashes < self.bounds.crashes && (memory != disk || forgets || leads) {
                let mut next = *world;
                next.crashes += 1;
                next.nodes[node].memory = disk;
                if node >= OWNERS {
                    next.errands[node - OWNERS] = Errand::default();
                }
                for write in &mut next.writes {
                    if write.phase == Phase::Running && usize::from(write.coordinator) == node {
                        let called = write.called;
                        *write = Write { phase: Phase::Over, called, ..Write::default() };
                    }
                }
                out.push((Step::Crash { node }, next));
            }
        }
    }

    /// A write that two stand-ins were counted for has come home to every owner.
    pub fn came_home(world: &World) -> bool {
        let write = &world.writes[0];
        let copies = world.nodes[OWNERS..].iter().any(|node| (node.memory | node.disk) != 0);
        write.phase == Phase::Acknowledged
            && (write.answered & !ALL_OWNERS).count_ones() == 2
            && !copies
            && world.nodes[..OWNERS].iter().all(|node| has(node.disk, 0))
    }
}

impl Model for StandIns {
    type State = World;
    type Step = Step;

    fn initial(&self) -> Vec<World> {
        vec![World::default()]
    }

    fn steps(&self, world: &World, out: &mut Out) {
        self.begin(world, out);
        self.deliver(world, out);
        self.answer(world, out);
        self.bring_back(world, out);
        self.sync_and_crash(world, out);
    }

    fn broken(&self, world: &World) -> Option<String> {
        let (owners, others) = world.nodes.split_at(OWNERS);
        if others.iter().any(|node| u64::from(node.memory.count_ones()) > self.bounds.cap) {
            return Some("a stand-in keeps more than its cap".into());
        }
        for (number, write) in world.writes.iter().enumerate() {
            if write.phase != Phase::Acknowledged {
                continue;
            }
            let copies = world.nodes.iter().filter(|node| has(node.disk, number)).count();
            if copies < QUORUM as usize {
                return Some(format!("acknowledged write {number} is on {copies} disks"));
            }
            let stood_in = write.answered & !ALL_OWNERS != 0;
            let kept = others.iter().any(|node| has(node.memory | node.disk, number));
            if stood_in && !kept && !owners.iter().all(|node| has(node.disk, number)) {
                return Some(format!(
                    "no stand-in keeps write {number} any more, and not every owner has it"
                ));
            }
        }
        None
    }

    fn show(&self, world: &World) -> String {
        let held = |(number, node): (usize, &Node)| {
            format!("{number}:{:02b}/{:02b}", node.memory, node.disk)
        };
        let nodes: Vec<String> = world.nodes.iter().enumerate().map(held).collect();
        let writes: Vec<String> = world.writes[..usize::from(self.bounds.writes)]
            .iter()
            .map(|write| format!("{:?} answered {:05b}", write.phase, write.answered))
            .collect();
        format!("memory/disk {}  {}", nodes.join(" "), writes.join(", "))
    }
}

fn cluster() -> Document {
    let member = |number: u8| Member {
        machine: format!("machine{number}"),
        rack: String::new(),
        zone: String::new(),
        datacenter: DATACENTER.into(),
        weight: 1,
        state: MemberState::Active,
    };
    let new = NewCluster {
        cluster_id: ClusterId::from_bytes([1; 16]),
        cluster_name: "model".into(),
        seed: 1,
        token_secret: TokenSecret([1; 32]),
        partition_bits: 4,
        members: (1..=NODES as u8)
            .map(|number| (NodeId::from_bytes([number; 16]), member(number)))
            .collect::<BTreeMap<_, _>>(),
        replication: BTreeMap::from([(DATACENTER.into(), OWNERS as u32)]),
        defaults: BucketSettings::default(),
    };
    Document::first(new).expect("five machines are enough for three copies").0
}
