//! Sets against explicit causal histories.
//!
//! The oracle knows every write with the set of writes that its client had seen, and for every
//! replica the set of writes it knows of. What a replica must show is the maximal ones: those that
//! no other known write had seen. Random runs write with tokens of any age, merge replicas, deliver
//! deltas late and repeatedly, restart nodes with their unsynced tail lost, let records vanish
//! (hand-back, erase) or fall back to an older state (a quarantined file). Everything passes through
//! its bytes on the way.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::id::ClusterId;

const NODES: usize = 3;
const CLIENTS: usize = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A client writes through a node with the token it holds, or blindly.
    Write { node: usize, client: usize, blind: bool, delete: bool },
    /// A client reads one node and keeps the token.
    Read { node: usize, client: usize },
    /// A delta of any age arrives (again).
    Deliver { write: prop::sample::Index, node: usize },
    /// One node sends its whole set to another.
    Repair { from: usize, to: usize },
    /// What the node holds reaches its disk.
    Sync { node: usize },
    /// The node starts again with what its disk holds.
    Restart { node: usize },
    /// The record vanishes while the node runs on: handed back, or erased.
    Forget { node: usize },
    /// A file is quarantined while the node runs on: an older record shows again.
    Quarantine { node: usize },
}

fn any_step() -> impl Strategy<Value = Step> {
    let (node, client) = (0..NODES, 0..CLIENTS);
    prop_oneof![
        5 => (node.clone(), client.clone(), any::<bool>(), any::<bool>()).prop_map(
            |(node, client, blind, delete)| Step::Write { node, client, blind, delete }),
        3 => (node.clone(), client).prop_map(|(node, client)| Step::Read { node, client }),
        4 => (any::<prop::sample::Index>(), node.clone())
            .prop_map(|(write, node)| Step::Deliver { write, node }),
        2 => (node.clone(), node.clone()).prop_map(|(from, to)| Step::Repair { from, to }),
        1 => node.clone().prop_map(|node| Step::Sync { node }),
        1 => node.clone().prop_map(|node| Step::Restart { node }),
        1 => node.clone().prop_map(|node| Step::Forget { node }),
        1 => node.prop_map(|node| Step::Quarantine { node }),
    ]
}

/// Numbers of writes.
type Writes = BTreeSet<usize>;

struct Write {
    dot: Dot,
    delta: Vec<u8>,
    /// Itself and everything its client had seen, directly or through what it saw.
    history: Writes,
}

/// A stored record and the writes that the oracle says it knows of.
#[derive(Clone, Default)]
struct Stored {
    bytes: Option<Vec<u8>>,
    knows: Writes,
}

struct Node {
    minter: Minter,
    floor: SerialFloor,
    memory: Stored,
    disk: Stored,
}

#[derive(Clone, Default)]
struct Client {
    token: Option<String>,
    saw: Writes,
}

struct World {
    writes: Vec<Write>,
    nodes: Vec<Node>,
    clients: Vec<Client>,
    starts: u64,
}

fn token_of(context: &Context) -> Option<String> {
    Some(Token::encode(&TokenKey([1; 32]), ClusterId::nil(), 5, context).unwrap())
}

impl Stored {
    fn record(&self) -> Option<Record> {
        self.bytes.as_ref().map(|bytes| Record::decode(bytes).unwrap())
    }

    fn put(&mut self, record: &Record, learned: &Writes) {
        self.bytes = Some(record.encode());
        self.knows.extend(learned);
    }
}

impl World {
    fn new() -> Self {
        let node = |tag| Node {
            minter: Minter::new(tag),
            floor: SerialFloor::default(),
            memory: Stored::default(),
            disk: Stored::default(),
        };
        Self {
            writes: vec![],
            nodes: (0..NODES as u64).map(node).collect(),
            clients: vec![Client::default(); CLIENTS],
            starts: NODES as u64,
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Write { node, client, blind, delete } => self.write(node, client, blind, delete),
            Step::Read { node, client } => {
                let memory = &self.nodes[node].memory;
                if let Some(record) = memory.record() {
                    let token = token_of(record.set.context());
                    self.clients[client] = Client { token, saw: memory.knows.clone() };
                }
            }
            Step::Deliver { write, node } => {
                if !self.writes.is_empty() {
                    let write = &self.writes[write.index(self.writes.len())];
                    let delta = SiblingSet::decode(&write.delta).unwrap();
                    let history = write.history.clone();
                    self.merge(node, &delta, &history);
                }
            }
            Step::Repair { from, to } => {
                let source = self.nodes[from].memory.clone();
                if let Some(record) = source.record() {
                    self.merge(to, &record.set, &source.knows);
                }
            }
            Step::Sync { node } => self.nodes[node].disk = self.nodes[node].memory.clone(),
            Step::Restart { node } => {
                let node = &mut self.nodes[node];
                node.memory = node.disk.clone();
                node.minter = Minter::new(self.starts);
                node.floor = SerialFloor::default();
                self.starts += 1;
            }
            Step::Forget { node } => {
                self.nodes[node].memory = Stored::default();
                self.nodes[node].disk = Stored::default();
            }
            Step::Quarantine { node } => {
                let node = &mut self.nodes[node];
                node.memory = node.disk.clone();
                node.floor = node.minter.floor();
            }
        }
    }

    fn write(&mut self, node: usize, client: usize, blind: bool, delete: bool) {
        let number = self.writes.len();
        let client = &mut self.clients[client];
        if blind {
            *client = Client::default();
        }
        let seen = client.token.as_ref().map_or_else(Context::new, |token| {
            Token::decode(&TokenKey([1; 32]), ClusterId::nil(), 5, token).unwrap()
        });
        let stamp = Stamp(number as u64);
        let sibling = match delete {
            true => Sibling::tombstone(stamp),
            false => Sibling::value(stamp, number.to_string()),
        };
        let node = &mut self.nodes[node];
        let minted = node.minter.mint(node.memory.record(), node.floor, &seen, sibling);
        let minted = minted.expect("a token that was issued is taken");
        client.saw.insert(number);
        client.token = token_of(minted.delta.context());
        let history = client.saw.clone();
        node.memory.put(&minted.record, &history);
        self.writes.push(Write { dot: minted.dot, delta: minted.delta.encode(), history });
    }

    fn merge(&mut self, to: usize, incoming: &SiblingSet, learned: &Writes) {
        let node = &mut self.nodes[to];
        let accepted = node.minter.accept(node.memory.record(), node.floor, incoming);
        let (record, _) = accepted.expect("replica traffic is taken");
        node.memory.put(&record, learned);
    }

    /// Every replica shows exactly the maximal writes it knows of.
    fn check(&self) {
        let dots: BTreeSet<Dot> = self.writes.iter().map(|write| write.dot).collect();
        assert_eq!(dots.len(), self.writes.len(), "a dot was given out twice");
        for node in &self.nodes {
            let set = node.memory.record().unwrap_or_default().set;
            let knows = &node.memory.knows;
            let known: Context = knows.iter().map(|&w| self.writes[w].dot).collect();
            assert_eq!(set.context(), &known);
            let superseded =
                |w: usize| knows.iter().any(|&x| x != w && self.writes[x].history.contains(&w));
            let maximal: BTreeSet<Dot> =
                knows.iter().filter(|&&w| !superseded(w)).map(|&w| self.writes[w].dot).collect();
            let held: BTreeSet<Dot> = set.siblings().keys().copied().collect();
            assert_eq!(held, maximal);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn replicas_show_the_maximal_writes_they_know_of(
        steps in prop::collection::vec(any_step(), 1..60)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
            world.check();
        }
        // Repair both ways round, and all agree.
        for _ in 0..2 {
            for from in 0..NODES {
                world.take(&Step::Repair { from, to: (from + 1) % NODES });
            }
        }
        world.check();
        let sets: BTreeSet<_> =
            world.nodes.iter().map(|node| node.memory.record().map(|r| r.set)).collect();
        prop_assert_eq!(sets.len(), 1);
    }
}
