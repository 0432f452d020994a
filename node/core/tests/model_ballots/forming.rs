//! Two first documents compete for overlapping sets of nodes; whoever formed one may die, and a
//! node that accepted may take it up again. The real `Forming` and `Acceptor`, over every pair of
//! overlapping sets of three nodes (four at a larger scale; deaths and take-overs then only among
//! three).
//!
//! The promise: no two clusters that name a common node are both formed. Left out to see it break:
//! all of the named (instead a majority of them).

use std::collections::BTreeSet;

use kvasir_core::consensus::{Acceptor, AcceptorState, Forming, FormingOutcome, Message};
use kvasir_core::explore::{Model, Verdict, search};
use kvasir_core::ring::{DocumentHash, Sealed};

use super::world::{first_document, id};

#[derive(Clone, Hash)]
struct World {
    nodes: Vec<Acceptor>,
    attempts: Vec<Attempt>,
    formed: BTreeSet<DocumentHash>,
}

/// One attempt, whether whoever runs it still lives, and whom its request did not reach yet.
#[derive(Clone, Hash)]
struct Attempt {
    forming: Forming,
    lives: bool,
    unasked: BTreeSet<u8>,
    accepted: usize,
}

#[derive(Debug)]
#[allow(dead_code, reason = "printed by Debug only")]
enum Move {
    Asks { attempt: usize, node: u8, answer: &'static str },
    Dies { attempt: usize },
    TakenUpBy { node: u8 },
}

struct Rivals {
    documents: [Sealed; 2],
    /// May whoever forms a cluster die, and another take it up?
    deaths: bool,
    majority_is_enough: bool,
}

impl Attempt {
    fn new(document: Sealed) -> Self {
        let unasked = (0..4).filter(|node| document.members.contains_key(&id(*node))).collect();
        Self { forming: Forming::start(document).0, lives: true, unasked, accepted: 0 }
    }
}

impl Model for Rivals {
    type State = World;
    type Step = Move;

    fn initial(&self) -> Vec<World> {
        let blank = |number| Acceptor::start(AcceptorState::blank(id(number)));
        let attempts = self.documents.iter().cloned().map(Attempt::new).collect();
        vec![World { nodes: (0..4).map(blank).collect(), attempts, formed: BTreeSet::new() }]
    }

    fn steps(&self, world: &World, out: &mut Vec<(Move, World)>) {
        for (number, attempt) in world.attempts.iter().enumerate() {
            for &node in &attempt.unasked {
                let mut next = world.clone();
                let answer = self.ask(&mut next, number, node);
                out.push((Move::Asks { attempt: number, node, answer }, next));
            }
            if self.deaths && attempt.lives && number < 2 {
                let mut next = world.clone();
                next.attempts[number].lives = false;
                out.push((Move::Dies { attempt: number }, next));
            }
        }
        if self.deaths && world.attempts.len() == 2 {
            for node in 0..4 {
                let resumed = Forming::resume(&world.nodes[usize::from(node)]);
                let Some((forming, _)) = resumed else { continue };
                let mut next = world.clone();
                next.attempts.push(Attempt::new(forming.document().clone()));
                out.push((Move::TakenUpBy { node }, next));
            }
        }
    }

    fn broken(&self, world: &World) -> Option<String> {
        (world.formed.len() > 1).then(|| "two clusters share a node".into())
    }

    fn show(&self, world: &World) -> String {
        let held = |acceptor: &Acceptor| {
            let state = acceptor.state();
            let document = state.chosen.as_ref().or(state.init.as_ref());
            let which = document.map_or("-", |held| match *held == self.documents[0] {
                true => "A",
                false => "B",
            });
            format!("{which}{}", if state.chosen.is_some() { " in force" } else { "" })
        };
        world.nodes.iter().map(held).collect::<Vec<_>>().join(" | ")
    }
}

impl Rivals {
    fn ask(&self, world: &mut World, number: usize, node: u8) -> &'static str {
        let attempt = &mut world.attempts[number];
        attempt.unasked.remove(&node);
        let document = attempt.forming.document().clone();
        let init = Message::Init { document: document.clone() };
        let Some(answer) = world.nodes[usize::from(node)].handle(id(node), init).reply else {
            return "nothing";
        };
        if !attempt.lives {
            return "heard by nobody";
        }
        let accepted = matches!(answer, Message::InitAccepted { .. });
        attempt.accepted += usize::from(accepted);
        let (mut send, outcome) = attempt.forming.receive(id(node), answer);
        if let Some(FormingOutcome::Formed(formed)) = outcome {
            world.formed.insert(formed.hash());
        }
        if self.majority_is_enough && attempt.accepted > document.members.len() / 2 {
            world.formed.insert(document.hash());
        }
        for (to, message) in send.drain(..) {
            world.nodes[usize::from(to.as_bytes()[0] - 1)].handle(id(node), message);
        }
        if accepted { "accepted" } else { "holds another" }
    }
}

/// Searches every pair of overlapping sets of `total` nodes: states seen by the complete searches,
/// and what the others found.
fn every_pair(total: u8, deaths: bool, majority_is_enough: bool) -> (usize, Vec<Verdict>) {
    let mut states = 0;
    let mut others = Vec::new();
    let sets = 1u8..1 << total;
    for (a, b) in sets.clone().flat_map(|a| (a..1 << total).map(move |b| (a, b))) {
        if a & b == 0 {
            continue;
        }
        let named = |set: u8| (0..4).filter(move |node| set >> node & 1 == 1);
        let documents = [first_document(named(a), 1), first_document(named(b), 2)];
        match search(&Rivals { documents, deaths, majority_is_enough }, 1_000_000) {
            Verdict::Complete { states: seen, .. } => states += seen,
            other => others.push(other),
        }
    }
    (states, others)
}

#[test]
fn two_first_documents_never_share_a_node() {
    let mut slices = vec![(3, true), (4, false)];
    if super::scale() > 1 {
        slices.push((4, true));
    }
    for (total, deaths) in slices {
        let (states, others) = every_pair(total, deaths, false);
        let bounded = others.len();
        println!(
            "forming, {total} nodes, deaths {deaths}: {states} states, {bounded} pairs bounded"
        );
        let broken = others.iter().find(|verdict| !verdict.holds());
        assert_eq!(broken.map(ToString::to_string), None);
    }
}

#[test]
fn refuted_a_majority_of_the_named_is_enough() {
    let (_, mut others) = every_pair(3, false, true);
    others.retain(|verdict| !verdict.holds());
    others.sort_by_key(Verdict::broken_in);
    println!("forming by a majority: {} pairs break, the shortest:", others.len());
    println!("{}", others.first().expect("refuted"));
}
