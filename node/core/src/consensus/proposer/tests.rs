//! One round of a proposer: majorities, taking over, giving up.

use super::super::harness::{Members, child};
use super::*;
use crate::consensus::AcceptorState;
use crate::ring::fixtures::{member, node};
use proptest::prelude::*;

#[test]
fn of_two_children_of_one_parent_one_wins_and_the_other_learns_it() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let (mine, theirs) = (child(&first, 1), child(&first, 2));
    assert_eq!(members.round(0, &mine, None), Outcome::Chosen(mine.clone()));
    let late = Proposer::start(members.at(1), theirs.clone(), None);
    assert_eq!(late.err(), Some(StartError::Stale(mine.clone())));
    // A proposer that was not told yet learns it from whoever was.
    let mut members = Members::new(3);
    members.cut_off.insert(node(2));
    assert_eq!(members.round(0, &mine, None), Outcome::Chosen(mine.clone()));
    members.cut_off.clear();
    assert_eq!(members.round(2, &theirs, None), Outcome::Stale(mine));
}

#[test]
fn a_majority_is_enough_and_less_is_not() {
    let mut members = Members::new(5);
    let wanted = child(&members.first.clone(), 1);
    members.cut_off.extend([node(3), node(4)]);
    assert_eq!(members.round(0, &wanted, None), Outcome::Chosen(wanted));
    let mut members = Members::new(4);
    let wanted = child(&members.first.clone(), 1);
    members.cut_off.extend([node(2), node(3)]);
    let outcome = members.round(0, &wanted, None);
    assert_eq!(outcome, Outcome::NoMajority { outbid: None, may_be_chosen: false });
}

#[test]
fn what_was_accepted_before_is_taken_over() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let (mine, theirs) = (child(&first, 1), child(&first, 2));
    let (mut dying, send) = Proposer::start(members.at(0), mine.clone(), None).unwrap();
    let mut accepts = Vec::new();
    for (to, message) in send {
        let reply = members.ask(to, node(0), message).unwrap();
        accepts.extend(dying.receive(to, reply).send);
    }
    // One acceptance, then the proposer is gone.
    let (_, accept) = accepts.iter().find(|(to, _)| *to == node(1)).unwrap();
    members.ask(node(1), node(0), accept.clone());
    assert_eq!(members.at(1).newest(), Some(&first), "not in use");
    let above = Some(Term { counter: 1, node: node(0) });
    assert_eq!(members.round(2, &theirs, above), Outcome::Chosen(mine));
}

#[test]
fn who_is_outbid_wins_with_a_higher_term() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    for number in 1..3 {
        let (_, send) = Proposer::start(members.at(2), child(&first, 9), None).unwrap();
        let (to, prepare) = send[number].clone();
        members.ask(to, node(2), prepare);
    }
    let wanted = child(&first, 1);
    let outcome = members.round(0, &wanted, None);
    let Outcome::NoMajority { outbid, may_be_chosen: false } = outcome else {
        panic!("{outcome:?}")
    };
    assert!(outbid.is_some());
    assert_eq!(members.round(0, &wanted, outbid), Outcome::Chosen(wanted));
}

#[test]
fn a_member_that_missed_the_parent_is_brought_up() {
    let mut members = Members::new(3);
    let first = members.first.clone();
    let second = child(&first, 1);
    members.cut_off.insert(node(2));
    members.round(0, &second, None);
    members.cut_off = [node(1)].into();
    assert_eq!(members.at(2).newest(), Some(&first));
    let third = child(&second, 1);
    assert_eq!(members.round(0, &third, None), Outcome::Chosen(third.clone()));
    assert_eq!(members.at(2).newest(), Some(&third));
}

#[test]
fn new_members_are_told_and_vote_from_the_next_epoch() {
    let mut members = Members::with(3, 4);
    let first = members.first.clone();
    *members.at(3) = Acceptor::start(AcceptorState::blank(node(3)));
    let mut second = first.child();
    second.members.insert(node(3), member(3));
    let second = Sealed::new(second);
    assert_eq!(members.round(0, &second, None), Outcome::Chosen(second.clone()));
    assert_eq!(members.at(3).newest(), Some(&second));
    assert_eq!(members.at(3).readiness(), Readiness::Unheard(2));
    // Three of four must vote now; with one of the old cut off the newcomer is needed.
    members.cut_off.insert(node(1));
    let third = child(&second, 1);
    let outcome = members.round(0, &third, None);
    assert_eq!(outcome, Outcome::NoMajority { outbid: None, may_be_chosen: false });
    members.at(3).hear_mark(node(0), None);
    members.at(3).hear_mark(node(2), None);
    assert_eq!(members.round(0, &third, None), Outcome::Chosen(third));
}

#[test]
fn terms_are_never_used_twice_even_after_a_crash() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    let (round, _) = Proposer::start(members.at(0), wanted.clone(), None).unwrap();
    let stored = members.at(0).state().clone();
    members.restart(0, stored, &[1]);
    let (again, _) = Proposer::start(members.at(0), wanted, None).unwrap();
    assert!(again.term() > round.term());
}

#[test]
fn a_proposer_that_may_not_vote_may_not_propose() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    let stored = members.at(0).state().clone();
    members.restart(0, stored, &[]);
    let started = Proposer::start(members.at(0), wanted, None);
    assert_eq!(started.err(), Some(StartError::NotReady(Readiness::Unheard(1))));
}

#[test]
fn answers_of_strangers_and_of_other_rounds_do_not_count() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    let (mut round, _) = Proposer::start(members.at(0), wanted, None).unwrap();
    let promise = |counter| Message::Promise {
        epoch: 2,
        term: Term { counter, node: node(0) },
        accepted: None,
        mark: Default::default(),
    };
    let counter = round.term().counter;
    for (from, counter) in [(9, counter), (1, counter + 1), (1, counter), (1, counter)] {
        assert_eq!(round.receive(node(from), promise(counter)), ProposerStep::default());
    }
    assert_eq!(round.receive(node(2), promise(counter)).send.len(), 3, "the second member's");
}

proptest! {
    #[test]
    fn back_off_stays_in_its_span(attempt in 0u32..40, draw: u64) {
        let pause = back_off_ms(attempt, draw);
        prop_assert!((10..=1_280).contains(&pause), "{pause}");
    }
}
