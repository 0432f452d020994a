//! What a posted operation that moves data does to the document: the planner says which slots move
//! where, and the operation takes that list in as what it is going to do.
//!
//! One operation moves data at a time, so that each is planned on a table that nobody else changes. A
//! replace may come in while another runs: a node can die at any time.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, PartitionEntry};
use super::operation::{Operation, OperationKind, OperationRefused, OperationState};
use super::partition::{MAX_PARTITION_BITS, Partition};
use super::planner::{Cluster, Goal, plan};
use super::progress::{MoveRecord, Progress};
use crate::id::NodeId;

/// Changes the members as the operation begins and says what its record begins with.
pub(super) fn begin(
    child: &mut Document,
    operation: &Operation,
    replaces: Option<NodeId>,
) -> Result<OperationState, OperationRefused> {
    let running = child.operations.iter().find(|(_, record)| record.is_running());
    let may_join_in = operation.kind == OperationKind::Replace;
    if let Some((id, _)) = running.filter(|_| !may_join_in) {
        return Err(OperationRefused::Busy(id.clone()));
    }
    if operation.kind == OperationKind::Double {
        return double(child);
    }
    let goal = goal(child, operation, replaces)?;
    let planned = plan(&Cluster::of(child), &goal)?;
    match &goal {
        Goal::Join(joining) => child.members.extend(joining.clone()),
        Goal::Replace { by, member, .. } => drop(child.members.insert(*by, member.clone())),
        Goal::Drain(nodes) => {
            let drained = |(id, _): &(&NodeId, &mut super::Member)| nodes.contains(id);
            child.members.iter_mut().filter(drained).for_each(|(_, member)| member.weight = 0);
        }
        _ => {}
    }
    let record = |one: &super::planner::Move| {
        let partition = Partition { k: child.partition_bits, index: one.partition };
        MoveRecord::waiting(partition, &one.datacenter, one.from, one.to)
    };
    let moves = planned.moves.iter().map(record).collect();
    Ok(OperationState::Running(Progress { replaces, cancelling: false, moves }))
}

fn goal(
    document: &Document,
    operation: &Operation,
    replaces: Option<NodeId>,
) -> Result<Goal, OperationRefused> {
    let malformed = OperationRefused::Malformed;
    let node = || operation.node.ok_or(malformed("this kind needs a node"));
    let member = || operation.member.clone().ok_or(malformed("this kind needs a member entry"));
    let known = |node: NodeId| match document.members.contains_key(&node) {
        true => Ok(BTreeSet::from([node])),
        false => Err(OperationRefused::NotAMember(node)),
    };
    Ok(match operation.kind {
        OperationKind::Join => Goal::Join(BTreeMap::from([(node()?, member()?)])),
        OperationKind::Leave => Goal::Leave(known(node()?)?),
        OperationKind::Drain => Goal::Drain(known(node()?)?),
        OperationKind::Rebalance => Goal::Rebalance,
        OperationKind::Replace => {
            let dead = replaces.ok_or(malformed("replace needs the node that it replaces"))?;
            Goal::Replace { dead, by: node()?, member: member()? }
        }
        kind => {
            return Err(OperationRefused::Unsupported { kind, rebalance: operation.rebalance });
        }
    })
}

/// Every partition is cut in two; each half keeps the slots of the whole.
fn double(child: &mut Document) -> Result<OperationState, OperationRefused> {
    if child.partition_bits >= MAX_PARTITION_BITS {
        return Err(OperationRefused::Malformed("the ring cannot be cut more finely"));
    }
    let halves = |entry: &PartitionEntry| {
        let half = PartitionEntry { version: child.epoch, ..entry.clone() };
        [half.clone(), half]
    };
    child.table = child.table.iter().flat_map(halves).collect();
    child.partition_bits += 1;
    Ok(OperationState::Done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::Sealed;
    use crate::ring::fixtures::{cluster, member, node};
    use crate::ring::operation::{Planned, plan_for};

    fn ask(kind: OperationKind, number: u8) -> Operation {
        let with = matches!(kind, OperationKind::Join | OperationKind::Replace);
        let about = !matches!(kind, OperationKind::Rebalance | OperationKind::Double);
        Operation {
            kind,
            node: about.then(|| node(number)),
            member: with.then(|| member(number)),
            rebalance: true,
        }
    }

    fn post(
        document: &Sealed,
        id: &str,
        operation: &Operation,
        replaces: Option<u8>,
    ) -> Result<Sealed, OperationRefused> {
        match plan_for(document, id, operation, replaces.map(node))? {
            Planned::Child(child) => Ok(Sealed::new(*child)),
            Planned::AlreadyRecorded(record) => panic!("{record:?}"),
        }
    }

    fn moves(document: &Document, id: &str) -> Vec<MoveRecord> {
        match &document.operations[id].state {
            OperationState::Running(progress) => progress.moves.clone(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_join_takes_its_share_into_the_plan() {
        let first = Sealed::new(cluster(4, 3));
        let joined = post(&first, "j", &ask(OperationKind::Join, 7), None).unwrap();
        let planned = moves(&joined, "j");
        assert!(joined.members.contains_key(&node(7)));
        assert_eq!(joined.table, first.table, "nothing moves yet");
        assert!(planned.iter().all(|one| one.to == node(7)));
        let share = first.table.len() * 3 / 5;
        assert!((share..=share + 1).contains(&planned.len()), "{}", planned.len());
        let busy = post(&joined, "k", &ask(OperationKind::Rebalance, 0), None);
        assert_eq!(busy.unwrap_err(), OperationRefused::Busy("j".into()));
        assert!(post(&joined, "r", &ask(OperationKind::Replace, 8), Some(0)).is_ok());
    }

    #[test]
    fn who_leaves_gives_everything_and_stays_until_it_did() {
        let first = Sealed::new(cluster(5, 3));
        let left = post(&first, "l", &ask(OperationKind::Leave, 0), None).unwrap();
        let owned = first.table.iter().filter(|entry| entry.names(node(0))).count();
        let planned = moves(&left, "l");
        assert_eq!(planned.len(), owned);
        assert!(planned.iter().all(|one| one.from == node(0)));
        assert!(left.members.contains_key(&node(0)));
        let drained = post(&first, "d", &ask(OperationKind::Drain, 0), None).unwrap();
        assert_eq!(drained.members[&node(0)].weight, 0);
        let few = post(&Sealed::new(cluster(3, 3)), "l", &ask(OperationKind::Leave, 0), None);
        assert!(matches!(few, Err(OperationRefused::NoPlan(_))), "{few:?}");
        let stranger = post(&first, "l", &ask(OperationKind::Leave, 9), None);
        assert_eq!(stranger.unwrap_err(), OperationRefused::NotAMember(node(9)));
    }

    #[test]
    fn a_doubling_is_done_in_the_epoch_that_records_it() {
        let first = Sealed::new(cluster(4, 3));
        let cut = post(&first, "c", &ask(OperationKind::Double, 0), None).unwrap();
        assert_eq!(cut.partition_bits, first.partition_bits + 1);
        assert_eq!(cut.operations["c"].state, OperationState::Done);
        let rebuilt = post(&first, "b", &ask(OperationKind::Rebuild, 0), None);
        assert!(matches!(rebuilt, Err(OperationRefused::Unsupported { .. })));
    }
}
