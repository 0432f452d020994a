//! How a member that forgot votes earns them back.

use super::super::harness::{Members, child};
use super::*;
use crate::consensus::{Mark, Marks, Outcome, Proposer, Readiness};
use crate::ring::Sealed;
use crate::ring::fixtures::{member, node};

/// Node 2 promises and accepts `wanted` with node 0, whose proposer dies before it can tell what was
/// chosen; then node 2's volume is rolled back to before its votes.
fn rolled_back(members: &mut Members, wanted: &Sealed) {
    let backup = members.at(2).state().clone();
    let (mut dying, send) = Proposer::start(members.at(0), wanted.clone(), None).unwrap();
    let (reached, late): (Vec<_>, Vec<_>) = send.into_iter().partition(|(to, _)| *to == node(2));
    for (to, message) in reached.into_iter().chain(late) {
        let reply = members.ask(to, node(0), message).unwrap();
        for (to, accept) in dying.receive(to, reply).send {
            if to == node(0) || to == node(2) {
                members.ask(to, node(0), accept);
            }
        }
    }
    assert!(members.at(2).state().accepted.is_some());
    members.restart(2, backup, &[0]);
}

#[test]
fn a_rolled_back_member_takes_over_what_it_forgot() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    rolled_back(&mut members, &wanted);
    assert_eq!(members.at(2).readiness(), Readiness::Recovering);
    assert_eq!(members.recover(2), Some(RecoveryOutcome::Recovered));
    assert_eq!(members.at(2).readiness(), Readiness::Ready);
    let vote = members.at(2).state().accepted.clone().unwrap();
    assert_eq!(vote.document, wanted);
    let remembered = members.at(0).state().peers[&node(2)];
    assert!(members.at(2).state().mark > remembered.count);
    // With node 0 gone, the others finish what it began.
    members.cut_off.insert(node(0));
    let other = child(&members.first.clone(), 2);
    let above = members.at(2).state().promised;
    assert_eq!(members.round(1, &other, above), Outcome::Chosen(wanted));
}

#[test]
fn it_needs_half_of_the_members_besides_itself() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    rolled_back(&mut members, &wanted);
    members.cut_off.insert(node(1));
    assert_eq!(members.recover(2), None);
    assert_eq!(members.at(2).readiness(), Readiness::Recovering);
    members.cut_off.clear();
    // Somebody who recovers itself does not count.
    members.at(1).hear_mark(node(0), Some(Mark { count: 99, epoch: 1 }));
    assert_eq!(members.recover(2), None);
}

#[test]
fn the_others_are_raised() {
    let mut members = Members::new(5);
    let wanted = child(&members.first.clone(), 1);
    rolled_back(&mut members, &wanted);
    assert_eq!(members.recover(2), Some(RecoveryOutcome::Recovered));
    let term = members.at(2).state().promised;
    let raised = [0, 1, 3, 4].map(|number| members.at(number).state().promised);
    assert!(raised.iter().filter(|promised| **promised == term).count() >= 3, "{raised:?}");
}

#[test]
fn an_attempt_that_was_outbid_is_followed_by_a_higher_one() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    rolled_back(&mut members, &wanted);
    let high = Term { counter: 900, node: node(1) };
    let (epoch, parent) = (2, members.first.hash());
    let prepare = Message::Prepare { epoch, parent, term: high, candidate: None };
    members.ask(node(0), node(1), prepare);
    let (mut attempt, send) = Recovery::start(members.at(2), None).unwrap();
    let (to, message) = send[0].clone();
    let reply = members.ask(to, node(2), message).unwrap();
    let ended = attempt.receive(members.at(2), to, reply).outcome;
    assert_eq!(ended, Some(RecoveryOutcome::Again(Some(high))));
    let (next, _) = Recovery::start(members.at(2), None).unwrap();
    assert!(next.term() > high);
}

#[test]
fn a_newer_document_met_on_the_way_is_adopted_first() {
    let mut members = Members::new(3);
    let wanted = child(&members.first.clone(), 1);
    let backup = members.at(2).state().clone();
    members.round(0, &wanted, None);
    members.restart(2, backup, &[]);
    members.at(2).hear_mark(node(1), Some(Mark { count: 9, epoch: 1 }));
    assert_eq!(members.at(2).state().epoch(), 1);
    let (mut recovery, send) = Recovery::start(members.at(2), None).unwrap();
    let (to, message) = send[0].clone();
    let reply = members.ask(to, node(2), message).unwrap();
    let step = recovery.receive(members.at(2), to, reply);
    assert_eq!(step.acceptor.adopted, Some(wanted));
    assert_eq!(step.outcome, Some(RecoveryOutcome::Again(None)));
    assert_eq!(members.recover(2), Some(RecoveryOutcome::Recovered));
}

/// A member votes for epoch 3 among the members of epoch 2, is rolled back to epoch 1, and finds
/// only members of epoch 1 that never learned of epoch 2. Catching up with those for the decree of
/// epoch 2 says nothing about its vote for epoch 3: the epoch in its mark tells it so.
#[test]
fn a_mark_names_the_epoch_for_which_votes_may_be_forgotten() {
    let mut members = Members::with(4, 5);
    let first = members.first.clone();
    let backup = members.at(1).state().clone();
    // Epoch 2 replaces members 2 and 3 by node 4.
    let mut second = first.child();
    second.table.clone_from(&first.table);
    for gone in [2, 3] {
        if !first.owns_anything(node(gone)) {
            second.members.remove(&node(gone));
        }
    }
    second.members.insert(node(4), member(4));
    let second = Sealed::new(second);
    members.at(1).adopt(second.clone());
    let voted = Mark { count: 8, epoch: 2 };
    members.at(2).remember(&Marks::from([(node(1), voted)]));
    members.at(3).remember(&Marks::from([(node(1), voted)]));
    members.restart(1, backup, &[2, 3]);
    assert_eq!(members.at(1).readiness(), Readiness::Recovering);
    assert!(Recovery::start(members.at(1), None).is_none(), "epoch 2 has to come first");
    members.at(1).adopt(second);
    assert!(Recovery::start(members.at(1), None).is_some());
}
