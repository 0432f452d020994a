//! Every operation taken back after every number of epochs: what had not reached its second step is with
//! its old holder afterwards, in the same tenure, the rest goes on; then it is refused.

use super::*;
use crate::ring::operation::cancel;

/// The holder to whom a slot belongs once its operation was taken back: the one that a cancel returns to, or
/// the one that comes in where there is no way back.
fn afterwards(slot: &Slot) -> Holder<NodeId> {
    let place = slot.place();
    match (place.cancel(), place.coming()) {
        (Some(back), _) => back.reader().unwrap(),
        (None, Some(to)) => to,
        (None, None) => Holder { node: slot.owner, since: slot.since },
    }
}

fn slots(document: &Document) -> Vec<Slot> {
    document.table.iter().flat_map(|entry| entry.slots.values().flatten().cloned()).collect()
}

/// Takes the operation back after so many epochs. How many slots returned and went on; none where the
/// operation was over by then.
fn taken_back_after(begun: &Sealed, away: &[NodeId], epochs: usize) -> Option<(usize, usize)> {
    let mut document = begun.clone();
    go(&mut document, away, epochs);
    if !document.operations["op"].is_running() {
        let refused = cancel(&document, "op");
        assert_eq!(refused, Err(OperationRefused::NotRunning("op".into())));
        return None;
    }
    let when = slots(&document);
    let child = Sealed::new(cancel(&document, "op").unwrap().expect("it was not taken back yet"));
    assert_eq!(legal_child(&document, &child), Ok(()));
    document = child;
    assert_eq!(cancel(&document, "op"), Ok(None), "once is enough");
    drive(&mut document, away);
    let record = &document.operations["op"];
    assert!(matches!(record.state, OperationState::Cancelled(_)), "{epochs}: {:?}", record.state);
    let mut counts = (0, 0);
    for (then, now) in when.iter().zip(slots(&document)) {
        let holder = afterwards(then);
        assert_eq!(now, Slot::stable(holder.node, holder.since), "{epochs}: it was {then:?}");
        match then.place().cancel() {
            _ if !then.state.moves() => {}
            Some(_) => counts.0 += 1,
            None => counts.1 += 1,
        }
    }
    let refused = cancel(&document, "op");
    assert_eq!(refused, Err(OperationRefused::NotRunning("op".into())));
    assert!(refused.unwrap_err().to_string().contains("op does not run"), "with the reason");
    Some(counts)
}

#[test]
fn every_operation_can_be_taken_back_at_every_step() {
    let even = Sealed::new(cluster(5, 3));
    let (dead, uneven) = ([node(0)], uneven());
    let nobody: &[NodeId] = &[];
    // A replace and a rebuild find nothing to return to once they fence; a rebuild never does.
    for (kind, first, about, replaces, away, returns) in [
        (OperationKind::Join, &even, Some(7), None, nobody, true),
        (OperationKind::Leave, &even, Some(0), None, nobody, true),
        (OperationKind::Drain, &even, Some(0), None, nobody, true),
        (OperationKind::Rebalance, &uneven, None, None, nobody, true),
        (OperationKind::Replace, &even, Some(7), Some(0), &dead[..], true),
        (OperationKind::Rebuild, &even, Some(0), None, nobody, false),
    ] {
        let begun = post(first, "op", kind, about, replaces).unwrap();
        let mut all = (0, 0);
        let mut steps = 0;
        while let Some((returned, went_on)) = taken_back_after(&begun, away, steps) {
            (all.0, all.1) = (all.0 + returned, all.1 + went_on);
            steps += 1;
            assert!(steps < 200, "no end in sight");
        }
        assert!(steps > 3 && all.1 > 0 && (all.0 > 0) == returns, "{kind:?}: {steps} {all:?}");
    }
}

#[test]
fn a_doubling_is_over_before_it_could_be_taken_back() {
    let doubled = post(&Sealed::new(cluster(5, 3)), "op", OperationKind::Double, None, None);
    assert_eq!(cancel(&doubled.unwrap(), "op"), Err(OperationRefused::NotRunning("op".into())));
}
