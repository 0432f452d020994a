//! An operation of the nodes that ended without having done what it was asked for.

use kvasir_core::ring::Summary;

use super::*;

/// The snapshot in which the nodes tell of a leave of the last one that failed.
fn failed(calm: &Snapshot) -> Snapshot {
    let (kind, node) = (OperationKind::Leave, Some(id(2)));
    let record = OperationRecord {
        operation: RingOperation { kind, node, member: None, rebalance: true },
        state: OperationState::Failed(Summary { replaces: None, moves: 5, moved: 3, bytes: 9 }),
        started: 1,
        finished: 1,
    };
    let mut told = calm.clone();
    for pod in told.pods.values_mut() {
        let NodeSeen::Answered(answer) = &mut pod.node else { continue };
        answer.status.operations.push(OperationStatus::of("leave-3", &record));
    }
    told
}

#[test]
fn what_failed_stands_in_a_condition_with_the_reason_and_holds_nothing_up() {
    let calm = scene(3, 3).snapshot();
    let sick = plan(&failed(&calm));
    assert_eq!(holds(&sick, condition::DEGRADED), ("True", "OperationFailed"));
    let said = sick.status.conditions.iter().find(|one| one.type_ == condition::DEGRADED).unwrap();
    assert!(said.message.contains("leave-3 failed") && said.message.contains("2 of 5"), "{said:?}");
    assert_eq!(acts(&sick), Vec::<&Step>::new());
    // It is over: what is due goes on.
    let day = Snapshot {
        now: calm.now.checked_add(SignedDuration::from_secs(86_400)).unwrap(),
        ..failed(&calm)
    };
    assert!(matches!(acts(&plan(&day))[..], [Step::Post { .. }]));
}
