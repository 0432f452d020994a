//! One vote at a time: what is promised, accepted, refused and adopted.

use super::super::harness::{Members, child};
use super::*;
use crate::consensus::{Outcome, Proposer, StartError};
use crate::ring::fixtures::{cluster, member, node};

fn term(counter: u64, number: u8) -> Term {
    Term { counter, node: node(number) }
}

fn prepare(parent: &Sealed, term: Term) -> Message {
    let candidate = Some(child(parent, 7));
    Message::Prepare { epoch: parent.epoch + 1, parent: parent.hash(), term, candidate }
}

fn refusal(step: Step) -> Refusal {
    assert!(!step.persist, "a refusal changes nothing");
    match step.reply {
        Some(Message::Refuse { refusal, .. }) => refusal,
        other => panic!("no refusal: {other:?}"),
    }
}

#[test]
fn nobody_votes_before_enough_others_told_its_mark() {
    let first = Sealed::new(cluster(5, 1));
    let mut acceptor = Acceptor::start(AcceptorState::blank(node(0)));
    assert_eq!(acceptor.readiness(), Readiness::NotMember);
    acceptor.adopt(first.clone());
    assert_eq!(acceptor.readiness(), Readiness::Unheard(2));
    acceptor.hear_mark(node(0), None);
    acceptor.hear_mark(node(77), None);
    acceptor.hear_mark(node(1), None);
    acceptor.hear_mark(node(1), None);
    assert_eq!(acceptor.readiness(), Readiness::Unheard(1), "neither itself, strangers nor twice");
    let step = acceptor.handle(node(1), prepare(&first, term(1, 1)));
    assert_eq!(refusal(step), Refusal::NotReady);
    assert_eq!(acceptor.beat(), None, "the mark stands still until then");
    acceptor.hear_mark(node(2), None);
    assert_eq!(acceptor.readiness(), Readiness::Ready);
    assert_eq!(acceptor.beat(), Some(Mark { count: 1, epoch: 1 }));
    // A start forgets who was heard.
    let again = Acceptor::start(acceptor.state().clone());
    assert_eq!(again.readiness(), Readiness::Unheard(2));
    assert_eq!(again.state().boot, 2);
}

#[test]
fn every_vote_raises_the_mark_and_keeps_the_marks_of_others() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let step = members.at(0).handle(node(1), prepare(&first, term(1, 1)));
    assert!(step.persist);
    assert_eq!(members.at(0).state().own_mark(), Mark { count: 1, epoch: 1 });
    let told = |count| Mark { count, epoch: 1 };
    let marks = Marks::from([(node(0), told(50)), (node(2), told(9)), (node(66), told(3))]);
    let accept = Message::Accept { term: term(1, 1), document: child(&first, 1), marks };
    let step = members.at(0).handle(node(1), accept);
    assert!(step.persist && matches!(step.reply, Some(Message::Accepted { .. })));
    let state = members.at(0).state();
    assert_eq!(state.mark, 2);
    assert_eq!(state.peers, Marks::from([(node(2), told(9))]), "neither its own nor a stranger's");
    assert_eq!(members.at(0).newest(), Some(&first), "accepted is not chosen");
}

#[test]
fn promises_hold() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    members.at(0).handle(node(1), prepare(&first, term(5, 1)));
    for low in [term(5, 0), term(4, 2), term(5, 1)] {
        let step = members.at(0).handle(low.node, prepare(&first, low));
        assert_eq!(refusal(step), Refusal::Promised(term(5, 1)));
    }
    let accept = |term: Term, tag| Message::Accept {
        term,
        document: child(&first, tag),
        marks: Marks::new(),
    };
    let step = members.at(0).handle(node(0), accept(term(5, 0), 1));
    assert_eq!(refusal(step), Refusal::Promised(term(5, 1)));
    // Another node's accept needs no promise before, only none above it.
    assert!(members.at(0).handle(node(2), accept(term(5, 2), 1)).persist);
    assert!(members.at(0).handle(node(2), accept(term(5, 2), 1)).persist, "the same again");
    let step = members.at(0).handle(node(2), accept(term(5, 2), 2));
    assert_eq!(refusal(step), Refusal::Promised(term(5, 2)), "one term, one document");
    let step = members.at(0).handle(node(0), prepare(&first, term(6, 0)));
    let Some(Message::Promise { accepted, .. }) = step.reply else { panic!("{step:?}") };
    let accepted = accepted.expect("was accepted");
    assert_eq!((accepted.term, accepted.document), (term(5, 2), child(&first, 1)));
}

#[test]
fn an_illegal_child_is_refused_in_both_phases_and_nothing_is_promised() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let mut bad = first.child();
    bad.seed += 1;
    let bad = Sealed::new(bad);
    let (epoch, parent) = (2, first.hash());
    let before = members.at(0).clone();
    let candidate = Some(bad.clone());
    let asked = Message::Prepare { epoch, parent, term: term(1, 1), candidate };
    let told = Message::Accept { term: term(1, 1), document: bad.clone(), marks: Marks::new() };
    for message in [asked, told] {
        let step = members.at(0).handle(node(1), message);
        let Refusal::Illegal { code, .. } = refusal(step) else { panic!("not judged") };
        assert_eq!(code, "identity_changed");
    }
    assert_eq!(*members.at(0), before);
    let started = Proposer::start(members.at(0), bad, None);
    assert!(matches!(started, Err(StartError::Illegal(_))), "{started:?}");
    assert_eq!(*members.at(0), before);
}

#[test]
fn only_members_vote_and_are_voted_for() {
    let mut members = Members::with(3, 4);
    let first = members.first.clone();
    let step = members.at(0).handle(node(3), prepare(&first, term(1, 3)));
    assert_eq!(refusal(step), Refusal::NotMember);
    let step = members.at(0).handle(node(2), prepare(&first, term(1, 1)));
    assert_eq!(refusal(step), Refusal::NotMember, "another's term");
    let started = Proposer::start(&mut Acceptor::start(AcceptorState::blank(node(9))), first, None);
    assert_eq!(started.err(), Some(StartError::NoCluster));
}

#[test]
fn epochs_that_do_not_meet_are_told_apart() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let second = child(&first, 1);
    let step = members.at(0).handle(node(1), prepare(&second, term(1, 1)));
    assert_eq!(refusal(step), Refusal::Behind(1));
    members.at(0).adopt(second.clone());
    let step = members.at(0).handle(node(1), prepare(&first, term(1, 1)));
    assert_eq!(refusal(step), Refusal::Newer(second.clone()));
    let step = members.at(0).handle(node(1), prepare(&child(&first, 2), term(1, 1)));
    assert_eq!(refusal(step), Refusal::Fork(second.hash()));
}

#[test]
fn the_newest_document_only_moves_forward() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let second = child(&first, 1);
    let third = child(&second, 1);
    assert_eq!(members.at(0).adopt(first.clone()), Step::default(), "known");
    let step = members.at(0).adopt(third.clone());
    assert!(step.persist && step.adopted == Some(third.clone()), "gaps are fine");
    let older = AdoptError::Older { mine: 3, offered: 2 };
    assert_eq!(members.at(0).adopt(second.clone()).refused, Some(older));
    let other = child(&second, 2);
    let fork = AdoptError::Fork { epoch: 3, mine: third.hash(), theirs: other.hash() };
    assert_eq!(members.at(0).adopt(other.clone()).refused, Some(fork));
    let orphan = child(&other, 1);
    let step = members.at(0).adopt(orphan);
    assert!(matches!(step.refused, Some(AdoptError::Fork { .. })), "{step:?}");
    let mut foreign = cluster(3, 1);
    foreign.cluster_id = ClusterId::from_bytes([9; 16]);
    let step = members.at(0).adopt(Sealed::new(foreign));
    assert!(matches!(step.refused, Some(AdoptError::Foreign(_))));
    assert_eq!(members.at(0).newest(), Some(&third));
}

#[test]
fn a_blank_node_takes_only_a_document_that_lists_it() {
    let first = Sealed::new(cluster(3, 1));
    let mut stranger = Acceptor::start(AcceptorState::blank(node(3)));
    assert_eq!(stranger.adopt(first.clone()).refused, Some(AdoptError::NotListed));
    let mut second = first.child();
    second.members.insert(node(3), member(3));
    let second = Sealed::new(second);
    assert!(stranger.adopt(second.clone()).persist);
    // Once in, it learns also that it is out.
    let mut third = second.child();
    third.members.remove(&node(3));
    assert!(stranger.adopt(Sealed::new(third)).persist);
    assert_eq!(stranger.readiness(), Readiness::NotMember);
}

#[test]
fn a_newer_document_opens_a_new_decree() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let second = child(&first, 1);
    assert_eq!(members.round(0, &second, None), Outcome::Chosen(second.clone()));
    for number in 0..3 {
        let state = members.at(number).state();
        assert_eq!(state.chosen, Some(second.clone()), "everybody was told");
        assert_eq!((state.promised, &state.accepted), (None, &None));
    }
}

#[test]
fn a_mark_heard_above_its_own_stops_a_member_at_once() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    assert!(members.at(0).hear_mark(node(1), Some(Mark { count: 4, epoch: 1 })));
    assert_eq!(members.at(0).readiness(), Readiness::Recovering);
    assert_eq!(members.at(0).beat(), None);
    let step = members.at(0).handle(node(1), prepare(&first, term(1, 1)));
    assert_eq!(refusal(step), Refusal::NotReady);
    let again = Acceptor::start(members.at(0).state().clone());
    assert_eq!(again.readiness(), Readiness::Recovering, "a restart does not help");
    assert!(!members.at(1).hear_mark(node(2), Some(Mark { count: 0, epoch: 1 })));
    assert_eq!(members.at(1).readiness(), Readiness::Ready);
}

#[test]
fn marks_are_told_before_one_may_vote_and_never_lowered() {
    let mut members = Members::new(3);
    let mark = |count| Mark { count, epoch: 1 };
    members.at(1).remember(&Marks::from([(node(0), mark(9))]));
    let mut unready = Acceptor::start(members.at(1).state().clone());
    let step = unready.handle(node(0), Message::MarkQuery { mark: mark(2) });
    let Some(Message::MarkAnswer { remembered, .. }) = step.reply else { panic!("{step:?}") };
    assert_eq!(remembered, Some(mark(9)));
    assert!(!step.persist);
    assert_eq!(unready.state().peers[&node(0)], mark(9));
}
