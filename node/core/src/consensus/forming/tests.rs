//! Forming a cluster: all named accept, conflicts and interrupted attempts.

use super::*;
use crate::consensus::AcceptorState;
use crate::id::ClusterId;
use crate::ring::fixtures::{cluster, node};
use std::collections::BTreeMap;

type Nodes = BTreeMap<NodeId, Acceptor>;

fn blank(count: u8) -> Nodes {
    (0..count)
        .map(|number| (node(number), Acceptor::start(AcceptorState::blank(node(number)))))
        .collect()
}

/// Delivers to the nodes that are there, answers included.
fn run(
    nodes: &mut Nodes,
    (mut forming, send): (Forming, Vec<(NodeId, Message)>),
) -> Option<FormingOutcome> {
    let mut ended = None;
    let mut queue = send;
    while let Some((to, message)) = queue.pop() {
        let Some(acceptor) = nodes.get_mut(&to) else { continue };
        let Some(reply) = acceptor.handle(node(0), message).reply else { continue };
        let (send, outcome) = forming.receive(to, reply);
        queue.extend(send);
        ended = ended.or(outcome);
    }
    ended
}

fn document(count: u8, tag: u8) -> Sealed {
    let mut document = cluster(count, 1);
    document.cluster_id = ClusterId::from_bytes([tag; 16]);
    Sealed::new(document)
}

#[test]
fn all_of_the_named_form_a_cluster() {
    let mut nodes = blank(3);
    let first = document(3, 1);
    let formed = run(&mut nodes, Forming::start(first.clone()));
    assert_eq!(formed, Some(FormingOutcome::Formed(first.clone())));
    for acceptor in nodes.values() {
        assert_eq!(acceptor.newest(), Some(&first));
        assert_eq!(acceptor.state().init, None);
    }
    // Once formed, every other first document is answered with it.
    let other = run(&mut nodes, Forming::start(document(3, 2)));
    assert!(matches!(other, Some(FormingOutcome::Conflict { holds, .. }) if holds == first));
    let again = run(&mut nodes, Forming::start(first.clone()));
    assert_eq!(again, Some(FormingOutcome::Formed(first)));
}

#[test]
fn without_one_of_the_named_nothing_is_in_force() {
    let mut nodes = blank(2);
    let first = document(3, 1);
    assert_eq!(run(&mut nodes, Forming::start(first.clone())), None);
    assert!(nodes.values().all(|acceptor| acceptor.newest().is_none()));
    // Another first document finds the one that was accepted.
    let other = run(&mut nodes, Forming::start(document(2, 2)));
    assert!(matches!(other, Some(FormingOutcome::Conflict { holds, .. }) if holds == first));
    // The third node comes, and another than the first proposer finishes.
    nodes.append(&mut blank(3).split_off(&node(2)));
    assert!(Forming::resume(&nodes[&node(2)]).is_none());
    let resumed = Forming::resume(&nodes[&node(1)]).unwrap();
    assert_eq!(run(&mut nodes, resumed), Some(FormingOutcome::Formed(first)));
}

#[test]
fn an_accepted_first_document_survives_a_restart_and_is_not_used() {
    let mut nodes = blank(1);
    let first = document(2, 1);
    assert_eq!(run(&mut nodes, Forming::start(first.clone())), None);
    let state = nodes[&node(0)].state().clone();
    assert!(state.mark > 0);
    let acceptor = Acceptor::start(AcceptorState::decode(&state.encode()).unwrap());
    assert_eq!(acceptor.newest(), None);
    assert_eq!(Forming::resume(&acceptor).unwrap().0.document(), &first);
}

#[test]
fn an_unusable_first_document_is_refused() {
    let mut nodes = blank(3);
    let refused = |nodes: &mut Nodes, document| match run(nodes, Forming::start(document)) {
        Some(FormingOutcome::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    };
    let mut invalid = cluster(3, 1);
    invalid.table.clear();
    assert_eq!(refused(&mut nodes, Sealed::new(invalid)), "invalid_document");
    let second = Sealed::new(document(3, 1).child());
    assert_eq!(refused(&mut nodes, second), "wrong_epoch");
    let init = Message::Init { document: document(3, 1) };
    let mut unnamed = Acceptor::start(AcceptorState::blank(node(7)));
    let reply = unnamed.handle(node(0), init).reply;
    assert!(matches!(reply, Some(Message::InitRefused { code, .. }) if code == "not_listed"));
    assert!(nodes.values().all(|acceptor| acceptor.state().init.is_none()));
}

#[test]
fn a_formed_cluster_that_went_on_answers_with_its_newest() {
    let mut nodes = blank(2);
    let first = document(2, 1);
    run(&mut nodes, Forming::start(first.clone()));
    let second = Sealed::new(first.child());
    nodes.values_mut().for_each(|acceptor| drop(acceptor.adopt(second.clone())));
    let again = run(&mut nodes, Forming::start(first));
    assert_eq!(again, Some(FormingOutcome::AlreadyFormed(second)));
}
