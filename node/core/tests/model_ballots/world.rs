//! A handful of nodes running the real `Acceptor`, `Proposer` and `Recovery`, and a network that
//! may delay every request for ever, deliver them in any order and lose every answer that comes too
//! late to matter.
//!
//! One step is: a request reaches its node (its answer goes straight back; a delayed answer is the
//! same as a later step of who waits for it), a node starts a round, starts again, is restored from
//! a backup, asks a peer for the mark it remembers, or starts to recover. State changes are stored
//! within the step, as the shell does it. A node's own acceptor is asked at once.
//!
//! The promise: no two different documents are ever learned to be chosen for one epoch, by anybody
//! at any time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::weak::Weak;
use super::words::{Move, Said, name};
use kvasir_core::consensus::{
    Acceptor, AcceptorState, AdoptError, Mark, Message, Outcome, Proposer, Readiness, Recovery,
    RecoveryOutcome, Term, Vote,
};
use kvasir_core::explore::Model;
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::{
    BucketSettings, Document, DocumentHash, Member, MemberState, NewCluster, Sealed, TokenSecret,
};

/// A rule left out, to see the search find the fork that it prevents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weakness {
    /// DESIGN's rules.
    None,
    /// Peers do not tell a member the mark they remember: a restored acceptor simply votes.
    NoMarks,
    /// Recovers from a majority that includes itself.
    CountsItself,
    /// Recovers by reading what the others accepted, without raising their promises.
    AsksWithoutRaising,
    /// Takes over the first accepted proposal it hears of, not that of the highest term.
    TakesOverAny,
    /// Uses and spreads what it accepted.
    UsesAccepted,
    /// A child is chosen by a majority of the members that it names, not of those before it.
    NewMembersChoose,
    /// What is sent to be accepted, or said to be chosen, carries no marks of those who promised.
    CarriesNoMarks,
}

/// What happens within the bounds of a search.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Nodes that are members at epoch 1.
    pub members: u8,
    /// Rounds started, over all proposers.
    pub rounds: u8,
    /// Nodes 0 to this - 1 propose.
    pub proposers: u8,
    /// Crashes of any node.
    pub crashes: u8,
    /// Restores of the last member from a backup.
    pub restores: u8,
    /// May the backup be taken at any time? Else it is of the very beginning: every vote is lost.
    pub late_backup: bool,
    /// Attempts to recover.
    pub recoveries: u8,
    /// Are others told what was chosen? Where not, they go on voting: the harder case for safety.
    pub told: bool,
    /// Members change: each document of epoch 2 swaps its proposer's right-hand neighbour for a
    /// newcomer, and the ballot for epoch 3 is among the members of epoch 2.
    pub swaps: bool,
    /// Documents after this epoch are not proposed.
    pub last_epoch: u64,
    /// Follow also runs in which a restored member heard only peers that never saw its last votes?
    pub uncovered: bool,
    /// What is left out.
    pub weakness: Weakness,
}

impl Bounds {
    /// Two proposers, one round each, nothing goes wrong.
    pub const CALM: Self = Self {
        members: 3,
        rounds: 2,
        proposers: 2,
        crashes: 0,
        restores: 0,
        late_backup: false,
        recoveries: 0,
        told: true,
        swaps: false,
        last_epoch: 2,
        uncovered: false,
        weakness: Weakness::None,
    };
}

/// Everything at one moment.
#[derive(Clone, Hash)]
pub struct World {
    nodes: Vec<Rc<Node>>,
    flight: Vec<Rc<Flight>>,
    rounds: u8,
    crashes: u8,
    restores: u8,
    recoveries: u8,
    /// Per epoch, what was learned to be chosen.
    learned: BTreeSet<(u64, DocumentHash)>,
    /// A restored member votes though nobody told it what it forgot.
    uncovered: bool,
    forked: bool,
    /// Kept for weaknesses alone.
    weak: Weak,
}

#[derive(Clone, Hash)]
struct Node {
    acceptor: Acceptor,
    proposer: Option<Proposer>,
    recovery: Option<Recovery>,
    outbid: Option<Term>,
    backup: Option<AcceptorState>,
    /// It was restored to before some of its votes and did not recover yet.
    forgot: bool,
}

/// A request on its way.
#[derive(Clone, Hash, PartialEq, Eq)]
struct Flight {
    to: u8,
    from: u8,
    message: Message,
}

impl Flight {
    fn order(&self) -> (u8, u8, u8, Option<Term>, Option<DocumentHash>) {
        let (kind, term, document) = match &self.message {
            Message::Prepare { term, .. } => (0, Some(*term), None),
            Message::Accept { term, document, .. } => (1, Some(*term), Some(document.hash())),
            Message::Chosen { document, .. } => (2, None, Some(document.hash())),
            _ => (3, None, None),
        };
        (self.to, self.from, kind, term, document)
    }
}

/// The model.
pub struct Ballots {
    /// Within which bounds.
    pub bounds: Bounds,
    first: Sealed,
    children: RefCell<BTreeMap<(DocumentHash, u8), Sealed>>,
}

/// Node number `number`.
pub fn id(number: u8) -> NodeId {
    NodeId::from_bytes([number + 1; 16])
}

/// The number of a node.
pub fn number(id: NodeId) -> u8 {
    id.as_bytes()[0] - 1
}

/// A member that owns nothing unless it is node 0: so any other may leave.
fn member(number: u8) -> Member {
    Member {
        machine: format!("machine{number}"),
        rack: String::new(),
        zone: String::new(),
        datacenter: "dc1".into(),
        weight: u32::from(number == 0),
        state: MemberState::Active,
    }
}

/// A first document for some nodes, told apart by `tag`.
pub fn first_document(named: impl Iterator<Item = u8>, tag: u8) -> Sealed {
    let mut members: BTreeMap<_, _> = named.map(|number| (id(number), member(number))).collect();
    if let Some(owner) = members.values_mut().next() {
        owner.weight = 1;
    }
    let cluster = NewCluster {
        cluster_id: ClusterId::from_bytes([tag + 1; 16]),
        cluster_name: "model".into(),
        seed: u64::from(tag),
        token_secret: TokenSecret([tag; 32]),
        partition_bits: 0,
        members,
        replication: BTreeMap::from([("dc1".into(), 1)]),
        defaults: BucketSettings::default(),
    };
    Sealed::new(Document::first(cluster).expect("one owner is enough").0)
}

impl Ballots {
    pub fn new(bounds: Bounds) -> Self {
        let first = first_document(0..bounds.members, 0);
        Self { bounds, first, children: RefCell::default() }
    }

    /// The child that a node proposes: told apart by a setting, and by members where they change.
    fn child(&self, parent: &Sealed, proposer: u8) -> Sealed {
        let make = || {
            let mut child = parent.child();
            child.defaults.ttl = Some(u64::from(proposer) + 1);
            if self.bounds.swaps && parent.epoch == 1 {
                let leaver = if proposer + 1 < self.bounds.members { proposer + 1 } else { 1 };
                child.members.remove(&id(leaver));
                let newcomer = self.bounds.members;
                child.members.insert(id(newcomer), member(newcomer));
            }
            Sealed::new(child)
        };
        let mut children = self.children.borrow_mut();
        children.entry((parent.hash(), proposer)).or_insert_with(make).clone()
    }

    fn restored(&self) -> u8 {
        self.bounds.members - 1
    }
}

impl World {
    /// Sends, and lets a node's own acceptor answer at once.
    fn send(&mut self, rules: &Ballots, from: u8, messages: Vec<(NodeId, Message)>) {
        for (to, message) in messages {
            let untold = !rules.bounds.told && matches!(message, Message::Chosen { .. });
            let flight = Flight { to: number(to), from, message };
            if flight.to == from {
                self.deliver(rules, flight);
            } else if usize::from(flight.to) < self.nodes.len() && !untold {
                let at = self.flight.partition_point(|other| other.order() < flight.order());
                if self.flight.get(at).is_none_or(|other| **other != flight) {
                    self.flight.insert(at, Rc::new(flight));
                }
            }
        }
    }

    /// A request reaches its node and the answer goes back. Returns the answer, for traces.
    fn deliver(&mut self, rules: &Ballots, flight: Flight) -> Option<Said> {
        let Flight { to, from, mut message } = flight;
        if rules.bounds.weakness == Weakness::CarriesNoMarks {
            self.weak.strip(to, &mut message, id(rules.restored()));
        }
        let accepting = match &message {
            Message::Accept { document, .. } => Some(document.clone()),
            _ => None,
        };
        let step = self.node(to).acceptor.handle(id(from), message);
        if let Some(adopted) = step.adopted {
            self.learned.insert((adopted.epoch, adopted.hash()));
        }
        self.forked |= matches!(step.refused, Some(AdoptError::Fork { .. }));
        let mut answer = step.reply?;
        let said = Said::new(&answer);
        if let (Message::Accepted { .. }, Some(document)) = (&answer, accepting) {
            let chosen = match rules.bounds.weakness {
                Weakness::UsesAccepted => true,
                Weakness::NewMembersChoose => {
                    self.weak.accepted(to, rules.bounds.members, &document)
                }
                _ => false,
            };
            if chosen {
                self.learned.insert((document.epoch, document.hash()));
            }
        }
        if let (Message::Promise { accepted: Some(vote), .. }, Weakness::TakesOverAny) =
            (&mut answer, rules.bounds.weakness)
        {
            // All alike to the proposer: the first one heard stays.
            vote.term = Term { counter: 0, node: NodeId::nil() };
        }
        self.answer(rules, from, to, answer);
        Some(said)
    }

    fn answer(&mut self, rules: &Ballots, asker: u8, from: u8, answer: Message) {
        let node = Rc::make_mut(&mut self.nodes[usize::from(asker)]);
        let mut send = Vec::new();
        if let Some(recovery) = &mut node.recovery {
            let step = recovery.receive(&mut node.acceptor, id(from), answer.clone());
            if let Some(adopted) = step.acceptor.adopted {
                self.learned.insert((adopted.epoch, adopted.hash()));
            }
            match step.outcome {
                Some(RecoveryOutcome::Recovered) => {
                    (node.recovery, node.forgot, node.outbid) = (None, false, None);
                }
                Some(RecoveryOutcome::Again(above)) => {
                    node.recovery = None;
                    node.outbid = node.outbid.max(above);
                }
                None => {}
            }
        }
        if let Some(proposer) = &mut node.proposer {
            let step = proposer.receive(id(from), answer);
            send = step.send;
            if let Some(outcome) = step.outcome {
                node.proposer = None;
                match outcome {
                    Outcome::Chosen(document) => {
                        self.learned.insert((document.epoch, document.hash()));
                    }
                    Outcome::Stale(newest) => {
                        let step = node.acceptor.adopt(newest.clone());
                        self.forked |= matches!(step.refused, Some(AdoptError::Fork { .. }));
                        self.learned.insert((newest.epoch, newest.hash()));
                    }
                    Outcome::NoMajority { outbid, .. } => node.outbid = node.outbid.max(outbid),
                    Outcome::Fork { .. } => self.forked = true,
                    Outcome::Illegal { .. } => {}
                }
            }
        }
        self.send(rules, asker, send);
    }

    /// `node` asks `peer` for the mark it remembers.
    fn hear(&mut self, rules: &Ballots, node: u8, peer: u8) -> Option<u64> {
        let mark = self.nodes[usize::from(node)].acceptor.state().own_mark();
        let query = Message::MarkQuery { mark };
        let step = self.node(peer).acceptor.handle(id(node), query);
        let Some(Message::MarkAnswer { mut remembered, mark, newest }) = step.reply else {
            return None;
        };
        if rules.bounds.weakness == Weakness::NoMarks {
            remembered = None;
        }
        self.weak.asked(peer, self.nodes[usize::from(node)].acceptor.state().mark);
        let answer = Message::MarkAnswer { remembered, mark, newest };
        let asker = Rc::make_mut(&mut self.nodes[usize::from(node)]);
        let step = asker.acceptor.handle(id(peer), answer);
        if let Some(adopted) = step.adopted {
            self.learned.insert((adopted.epoch, adopted.hash()));
        }
        self.uncovered |= asker.forgot
            && rules.bounds.weakness != Weakness::NoMarks
            && !self.weak.should_know
            && asker.acceptor.readiness() == Readiness::Ready;
        remembered.map(|mark: Mark| mark.count)
    }

    fn node(&mut self, number: u8) -> &mut Node {
        Rc::make_mut(&mut self.nodes[usize::from(number)])
    }

    fn restart(&mut self, node: u8, state: AcceptorState) {
        let node = self.node(node);
        node.acceptor = Acceptor::start(state);
        node.proposer = None;
        node.recovery = None;
        node.outbid = None;
    }
}

impl Model for Ballots {
    type State = World;
    type Step = Move;

    fn initial(&self) -> Vec<World> {
        let total = self.bounds.members + u8::from(self.bounds.swaps);
        let start = |number| {
            let mut acceptor = Acceptor::start(AcceptorState::blank(id(number)));
            acceptor.adopt(self.first.clone());
            let backup = Some(acceptor.state().clone());
            let backup = backup.filter(|_| number == self.restored() && !self.bounds.late_backup);
            for peer in 0..total {
                acceptor.hear_mark(id(peer), None);
            }
            let (proposer, recovery, outbid, forgot) = (None, None, None, false);
            Rc::new(Node { acceptor, proposer, recovery, outbid, backup, forgot })
        };
        vec![World {
            nodes: (0..total).map(start).collect(),
            flight: Vec::new(),
            rounds: 0,
            crashes: 0,
            restores: 0,
            recoveries: 0,
            learned: BTreeSet::new(),
            uncovered: false,
            forked: false,
            weak: Weak::default(),
        }]
    }

    fn steps(&self, world: &World, out: &mut Vec<(Move, World)>) {
        if world.uncovered && !self.bounds.uncovered {
            return;
        }
        self.deliveries(world, out);
        self.proposals(world, out);
        self.troubles(world, out);
        self.recoveries(world, out);
    }

    fn broken(&self, world: &World) -> Option<String> {
        let mut epochs = world.learned.iter().map(|(epoch, _)| epoch);
        let mut before = epochs.next();
        for epoch in epochs {
            if before == Some(epoch) {
                return Some(format!("two documents learned to be chosen for epoch {epoch}"));
            }
            before = Some(epoch);
        }
        world.forked.then(|| "a node was told of two documents of one epoch".into())
    }

    fn show(&self, world: &World) -> String {
        let node = |(number, node): (usize, &Rc<Node>)| {
            let state = node.acceptor.state();
            let promised = state.promised.map_or(0, |term| term.counter);
            let vote = state.accepted.as_ref().map_or("-".into(), |vote: &Vote| {
                format!("{}@{}", name(&vote.document), vote.term.counter)
            });
            let ready = match node.acceptor.readiness() {
                Readiness::Ready => "",
                Readiness::NotMember => " outside",
                Readiness::Unheard(_) => " unheard",
                Readiness::Recovering => " recovering",
            };
            let (epoch, mark) = (state.epoch(), state.mark);
            format!(
                "{number}: epoch {epoch} promised {promised} accepted {vote} mark {mark}{ready}"
            )
        };
        world.nodes.iter().enumerate().map(node).collect::<Vec<_>>().join(" | ")
    }
}

impl Ballots {
    fn deliveries(&self, world: &World, out: &mut Vec<(Move, World)>) {
        for at in 0..world.flight.len() {
            let mut next = world.clone();
            let flight = next.flight.remove(at);
            let (to, from, what) = (flight.to, flight.from, Said::new(&flight.message));
            let answer = next.deliver(self, Flight::clone(&flight));
            out.push((Move::Delivered { to, from, what, answer }, next));
        }
    }

    fn proposals(&self, world: &World, out: &mut Vec<(Move, World)>) {
        if world.rounds >= self.bounds.rounds {
            return;
        }
        for node in 0..self.bounds.proposers {
            let place = &world.nodes[usize::from(node)];
            let parent = place.acceptor.newest().filter(|d| d.epoch < self.bounds.last_epoch);
            let (None, Some(parent)) = (&place.proposer, parent) else { continue };
            let candidate = self.child(parent, node);
            let mut next = world.clone();
            let place = next.node(node);
            let started = Proposer::start(&mut place.acceptor, candidate, place.outbid);
            let Ok((proposer, send)) = started else { continue };
            place.proposer = Some(proposer);
            next.rounds += 1;
            next.send(self, node, send);
            out.push((Move::Proposes { node }, next));
        }
    }

    fn troubles(&self, world: &World, out: &mut Vec<(Move, World)>) {
        let total = world.nodes.len() as u8;
        for node in (0..total).filter(|_| world.crashes < self.bounds.crashes) {
            let mut next = world.clone();
            next.crashes += 1;
            next.restart(node, world.nodes[usize::from(node)].acceptor.state().clone());
            out.push((Move::Crashes { node }, next));
        }
        let node = self.restored();
        let place = &world.nodes[usize::from(node)];
        if self.bounds.late_backup && place.backup.is_none() {
            let mut next = world.clone();
            next.node(node).backup = Some(place.acceptor.state().clone());
            out.push((Move::BackedUp { node }, next));
        }
        let Some(backup) = &place.backup else { return };
        let forgets = backup.mark < place.acceptor.state().mark;
        if world.restores < self.bounds.restores && forgets {
            let mut next = world.clone();
            next.restores += 1;
            next.restart(node, backup.clone());
            next.node(node).forgot = true;
            out.push((Move::RestoredFromBackup { node }, next));
        }
    }

    fn recoveries(&self, world: &World, out: &mut Vec<(Move, World)>) {
        let total = world.nodes.len() as u8;
        for node in 0..total {
            let place = &world.nodes[usize::from(node)];
            match place.acceptor.readiness() {
                Readiness::Ready | Readiness::NotMember => continue,
                Readiness::Unheard(_) => {}
                Readiness::Recovering if place.recovery.is_none() => {
                    self.recovery_starts(world, node, out);
                }
                Readiness::Recovering => {}
            }
            for from in (0..total).filter(|peer| *peer != node) {
                let mut next = world.clone();
                let remembered = next.hear(self, node, from);
                // Whoever recovers has heard enough: only news changes anything.
                let after = &next.nodes[usize::from(node)].acceptor;
                let waits = place.acceptor.readiness() != Readiness::Recovering;
                if after.state() != place.acceptor.state() || waits && *after != place.acceptor {
                    out.push((Move::HearsItsMark { node, from, remembered }, next));
                }
            }
        }
    }

    fn recovery_starts(&self, world: &World, node: u8, out: &mut Vec<(Move, World)>) {
        if world.recoveries >= self.bounds.recoveries {
            return;
        }
        let mut next = world.clone();
        next.recoveries += 1;
        let place = next.node(node);
        let Some((recovery, send)) = Recovery::start(&mut place.acceptor, place.outbid) else {
            return;
        };
        let members = self.bounds.members;
        match self.bounds.weakness {
            Weakness::CountsItself => {
                for from in others(node, members, usize::from(members) / 2) {
                    let weak = self.recover_from(next.clone(), &recovery, &from, &send);
                    out.push((Move::Recovers { node, from }, weak));
                }
            }
            Weakness::AsksWithoutRaising => {
                for from in others(node, members, usize::from(members - 1)) {
                    let weak = self.recover_from(next.clone(), &recovery, &from, &[]);
                    out.push((Move::Recovers { node, from }, weak));
                }
            }
            _ => {
                place.recovery = Some(recovery);
                next.send(self, node, send);
                out.push((Move::StartsToRecover { node }, next));
            }
        }
    }

    /// A weak recovery: at once, from these; raising them if there is something to send.
    fn recover_from(
        &self,
        mut next: World,
        recovery: &Recovery,
        from: &[u8],
        send: &[(NodeId, Message)],
    ) -> World {
        let node = number(recovery.term().node);
        let (mut highest, mut term): (Option<Vote>, _) =
            (None, Term { counter: 0, node: id(node) });
        for peer in from {
            let acceptor = &mut next.node(*peer).acceptor;
            if let Some((_, prepare)) = send.iter().find(|(to, _)| number(*to) == *peer) {
                acceptor.handle(id(node), prepare.clone());
            }
            let state = acceptor.state();
            term = term.max(state.promised.unwrap_or(term));
            let votes = [highest, state.accepted.clone()];
            highest = votes.into_iter().flatten().max_by_key(|vote| vote.term);
        }
        let place = next.node(node);
        place.acceptor.recovered(term, highest);
        place.forgot = false;
        next
    }
}

/// All sets of `count` nodes out of `total` without `node`.
fn others(node: u8, total: u8, count: usize) -> Vec<Vec<u8>> {
    let all = 0..1u32 << total;
    all.filter(|set| set.count_ones() as usize == count && set >> node & 1 == 0)
        .map(|set| (0..total).filter(|peer| set >> peer & 1 == 1).collect())
        .collect()
}
