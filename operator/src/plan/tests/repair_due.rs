//! When copies are compared, and when that is over.

use super::*;

/// The snapshot in which every node says of itself how far the repair in the journal is.
fn told(snapshot: &Snapshot, done: u32, skipped: u32) -> Snapshot {
    let mut told = snapshot.clone();
    let journal = told.cluster.status.as_ref().and_then(|status| status.operation.clone()).unwrap();
    let record = OperationRecord {
        operation: RingOperation {
            kind: OperationKind::Repair,
            node: None,
            member: None,
            rebalance: false,
        },
        state: OperationState::Done,
        started: 2,
        finished: 2,
    };
    for pod in told.pods.values_mut() {
        let NodeSeen::Answered(answer) = &mut pod.node else { continue };
        let known = OperationStatus::of(&journal.id, &record);
        answer.operation = OperationSeen::Known(Box::new(known));
        answer.repair = Some(Box::new(RepairStatus {
            running: done + skipped < 8,
            comparisons_total: 8,
            comparisons_done: done,
            comparisons_skipped: skipped,
            operation: Some(journal.id.clone()),
            ..RepairStatus::default()
        }));
    }
    told
}

/// The snapshot some time later.
fn later(snapshot: &Snapshot, seconds: i64) -> Snapshot {
    let now = snapshot.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    Snapshot { now, ..snapshot.clone() }
}

#[test]
fn a_repair_is_due_by_schedule_and_over_when_every_member_compared_everything() {
    let calm = scene(3, 3).snapshot();
    assert_eq!(acts(&plan(&later(&calm, 86_399))), Vec::<&Step>::new());
    let day = later(&calm, 86_400);
    let asking = plan(&day);
    let [Step::Post { request, .. }] = acts(&asking)[..] else { panic!("{:?}", asking.steps) };
    assert_eq!((request.kind, request.node), (OperationKind::Repair, None));
    let half = plan(&told(&next(&day, &asking), 4, 0));
    let journal = half.status.operation.clone().unwrap();
    assert_eq!((journal.step, journal.progress_percent), (OperationStep::Posted, Some(50)));
    assert_eq!(half.status.repair, day.cluster.status.as_ref().unwrap().repair);
    let whole = plan(&told(&next(&day, &half), 8, 0));
    assert_eq!(whole.status.operation, None);
    let record = whole.status.repair.unwrap();
    assert_eq!((record.completed_at, record.attempted_at), (Some(Time(day.now)), None));
}

#[test]
fn a_repair_that_skipped_a_comparison_or_was_refused_is_asked_for_again_later() {
    let day = later(&scene(3, 3).snapshot(), 86_400);
    let asking = plan(&day);
    let step = acts(&asking)[0].clone();
    let skipped = plan(&told(&next(&day, &plan(&told(&next(&day, &asking), 4, 0))), 7, 1));
    let mut refused = next(&day, &asking);
    refused.failure = Some(Failure {
        step: step.words(),
        reason: "Refused".to_owned(),
        message: "this version does not".to_owned(),
        problem: Some(Box::new(Problem::new(code::UNSUPPORTED_OPERATION, "no"))),
    });
    for given_up in [skipped, plan(&refused)] {
        assert_eq!((given_up.status.operation.clone(), acts(&given_up)), (None, vec![]));
        let record = given_up.status.repair.clone().unwrap();
        assert_eq!(record.attempted_at, Some(Time(day.now)));
        let soon = next(&later(&day, 299), &given_up);
        assert_eq!(acts(&plan(&soon)), Vec::<&Step>::new());
        let again = plan(&next(&later(&day, 300), &given_up));
        assert_eq!(acts(&again).len(), 1, "{:?}", again.steps);
        assert_ne!(acts(&again)[0].words(), step.words(), "under an id of its own");
    }
}

#[test]
fn whatever_else_is_due_goes_before_a_repair_and_a_sick_ring_is_not_asked() {
    let day = later(&scene(3, 3).snapshot(), 86_400);
    let half = plan(&told(&next(&day, &plan(&day)), 4, 0));
    let mut newer = told(&next(&day, &half), 5, 0);
    newer.cluster.spec.image = "k:2".to_owned();
    let rolling = plan(&newer);
    assert!(matches!(acts(&rolling)[..], [Step::Evict(_)]), "{:?}", rolling.steps);
    assert!(rolling.status.repair.unwrap().attempted_at.is_some());
    let mut sick = scene(3, 3);
    sick.pods[1].running = false;
    let sick = plan(&later(&sick.snapshot(), 300_000));
    assert_eq!(acts(&sick), Vec::<&Step>::new());
    assert_eq!(holds(&sick, condition::REPAIR_OVERDUE), ("True", "Overdue"));
    assert_eq!(holds(&half, condition::REPAIR_OVERDUE), ("False", "InTime"));
}
