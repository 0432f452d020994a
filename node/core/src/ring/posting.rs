//! What a posted operation that moves data does to the document: the planner says which slots move
//! where, and the operation takes that list in as what it is going to do.
//!
//! One operation moves data at a time, so that each is planned on a table that nobody else changes. A
//! replace or a rebuild may come in while another runs: a node can die, and a disk fail, at any time. A
//! replace is planned on what will be once the others are over, and changes their plans where these name the
//! node that is lost (`super::takeover`). One rebuild of a node runs at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::document::{Document, PartitionEntry};
use super::operation::{
    Operation, OperationKind, OperationRecord, OperationRefused, OperationState,
};
use super::outgoing::{given_up, too_few_left};
use super::partition::{MAX_PARTITION_BITS, Partition};
use super::planner::{Cluster, Goal, plan};
use super::progress::{MAX_RUNNING, MoveRecord, Progress};
use super::slot::{Slot, SlotState};
use super::takeover::take_over;
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
    let planned = plan(&Cluster::ahead(child), &goal)?;
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
    let moves = match &goal {
        Goal::Replace { dead, .. } => {
            may_be_made_anew(child, *dead)?;
            take_over(child, &planned.target, *dead)
        }
        _ => planned.moves.iter().map(record).collect(),
    };
    Ok(OperationState::Running(Progress { replaces, cancelling: false, moves }))
}

/// Refuses a replace that could make no copy of the node anew, so few others being left. One that can make
/// some does what it can.
fn may_be_made_anew(document: &Document, dead: NodeId) -> Result<(), OperationRefused> {
    let mut given_up = given_up(document);
    given_up.insert(dead);
    let mut hopeless = None;
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        let slots = entry.slots.values().flatten();
        for slot in slots.filter(|slot| slot.last().node == dead) {
            if !too_few_left(entry, slot, &given_up) {
                return Ok(());
            }
            hopeless = hopeless.or(Some(partition));
        }
    }
    hopeless.map_or(Ok(()), |partition| Err(OperationRefused::TooFewCopies(partition)))
}

/// What the record of a rebuild begins with: one move for each slot of which the node held the copy
/// last, in the partitions that it says to have `lost`.
pub(super) fn rebuild(
    document: &Document,
    node: NodeId,
    lost: &BTreeSet<Partition>,
) -> Result<OperationState, OperationRefused> {
    if !document.members.contains_key(&node) {
        return Err(OperationRefused::NotAMember(node));
    }
    let running = document.operations.iter().filter(|(_, record)| record.is_running());
    let of_it = |record: &OperationRecord| {
        record.operation.kind == OperationKind::Rebuild && record.operation.node == Some(node)
    };
    let full = running.clone().count() >= MAX_RUNNING;
    if let Some((id, _)) = running.clone().find(|(_, record)| full || of_it(record)) {
        return Err(OperationRefused::Busy(id.clone()));
    }
    let mut moves = Vec::new();
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        if !lost.contains(&partition) {
            continue;
        }
        let slots = entry.slots.iter().flat_map(|(dc, slots)| slots.iter().map(move |s| (dc, s)));
        let Some((datacenter, _)) = slots.clone().find(|(_, slot)| is_rebuilt(slot, node)) else {
            continue;
        };
        if slots.count() == 1 {
            return Err(OperationRefused::NoSurvivor(partition));
        }
        moves.push(MoveRecord::waiting(partition, datacenter, node, node));
    }
    match moves.is_empty() {
        true => Err(OperationRefused::NothingToRebuild(node)),
        false => Ok(OperationState::Running(Progress { replaces: None, cancelling: false, moves })),
    }
}

/// Whether a node's copy of a slot is made anew by a rebuild: it held it last, and nobody else's is being
/// made anew in its place.
fn is_rebuilt(slot: &Slot, node: NodeId) -> bool {
    let given_up = matches!(slot.state, SlotState::Fencing(next) | SlotState::FencingOnly(next)
        if next.node != node);
    slot.last().node == node && !given_up
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
            let by = node()?;
            if let Some(id) = leads_out(document, by) {
                return Err(OperationRefused::Busy(id.clone()));
            }
            Goal::Replace { dead, by, member: member()? }
        }
        kind => {
            return Err(OperationRefused::Unsupported { kind, rebalance: operation.rebalance });
        }
    })
}

/// The running operation after which the node owns nothing, so that it cannot take another's place.
fn leads_out(document: &Document, node: NodeId) -> Option<&String> {
    let leads = |record: &OperationRecord| {
        let leaves = matches!(record.operation.kind, OperationKind::Leave | OperationKind::Drain);
        record.replaces() == Some(node) || (leaves && record.operation.node == Some(node))
    };
    let mut running = document.operations.iter().filter(|(_, record)| record.is_running());
    running.find(|(_, record)| leads(record)).map(|(id, _)| id)
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
    use crate::ring::operation::{Planned, plan_for, plan_rebuild};

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
    }

    #[test]
    fn a_rebuild_names_the_lost_copies_of_its_node_and_no_others() {
        let first = Sealed::new(cluster(4, 3));
        let owned: Vec<Partition> = Partition::all(first.partition_bits)
            .filter(|p| first.entry(*p).unwrap().names(node(0)))
            .collect();
        let lost: BTreeSet<Partition> = owned[..3].iter().copied().collect();
        let rebuild = |document: &Sealed, id: &str, number, lost: &BTreeSet<Partition>| {
            let planned = plan_rebuild(document, id, node(number), lost);
            planned.map(|planned| match planned {
                Planned::Child(child) => Sealed::new(*child),
                Planned::AlreadyRecorded(record) => panic!("{record:?}"),
            })
        };
        let posted = rebuild(&first, "b", 0, &lost).unwrap();
        let planned = moves(&posted, "b");
        assert_eq!(planned.iter().map(|one| one.partition).collect::<BTreeSet<_>>(), lost);
        assert!(planned.iter().all(|one| (one.from, one.to) == (node(0), node(0))));
        assert_eq!(posted.table, first.table, "nothing moves yet");
        let again = plan_rebuild(&posted, "b", node(0), &BTreeSet::new()).unwrap();
        assert!(matches!(again, Planned::AlreadyRecorded(_)), "the same id is the same rebuild");
        // One of a node at a time; another node's, and a replace, may come in.
        let busy = rebuild(&posted, "c", 0, &lost).unwrap_err();
        assert_eq!(busy, OperationRefused::Busy("b".into()));
        let others: BTreeSet<_> = Partition::all(first.partition_bits).collect();
        let second = rebuild(&posted, "c", 1, &others).unwrap();
        assert_eq!(moves(&second, "c").len(), {
            let named = |entry: &&PartitionEntry| entry.names(node(1));
            first.table.iter().filter(named).count()
        });
        assert!(post(&second, "r", &ask(OperationKind::Replace, 8), Some(2)).is_ok());
        let join = post(&posted, "j", &ask(OperationKind::Join, 7), None);
        assert_eq!(join.unwrap_err(), OperationRefused::Busy("b".into()));
    }

    #[test]
    fn what_cannot_be_rebuilt_is_refused() {
        let first = Sealed::new(cluster(4, 3));
        let all: BTreeSet<Partition> = Partition::all(first.partition_bits).collect();
        let refused = |document: &Sealed, number, lost: &BTreeSet<Partition>| {
            plan_rebuild(document, "b", node(number), lost).unwrap_err()
        };
        let whole = refused(&first, 0, &BTreeSet::new());
        assert_eq!(whole, OperationRefused::NothingToRebuild(node(0)));
        assert_eq!(refused(&first, 9, &all), OperationRefused::NotAMember(node(9)));
        let alone = Sealed::new(cluster(3, 1));
        assert!(matches!(refused(&alone, 0, &all), OperationRefused::NoSurvivor(_)));
    }
}
