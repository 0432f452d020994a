//! Operations: changes of the cluster that somebody asked for, idempotent by the id they gave.
//!
//! A posted operation becomes one child document (`plan`); its record stands in the document, so a
//! second post of the same id finds it there whoever receives it. What moves no data is done in the
//! epoch that records it; what does takes its plan along (`super::posting`) and runs until its moves
//! are over (`super::driver`).

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::document::{Document, Member, Sealed};
use super::judge::{IllegalChange, legal_child};
use super::partition::Partition;
use super::planner::PlanRefused;
use super::posting;
use super::progress::{MoveRecord, Progress, Summary};
use crate::id::NodeId;

/// What became of a posted operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Planned {
    /// Propose this child of the document.
    Child(Box<Document>),
    /// The document already holds the operation under its id.
    AlreadyRecorded(Box<OperationRecord>),
}

/// Why an operation cannot be done. Nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OperationRefused {
    /// It would move data, or is of a kind that is not built. Asking again is no use.
    #[error("{kind:?} is not supported{}", if *.rebalance { " with rebalancing" } else { "" })]
    Unsupported {
        /// What was asked for.
        kind: OperationKind,
        /// Whether data would have moved.
        rebalance: bool,
    },
    /// The id is taken by another operation. Use a new id.
    #[error("operation {0} was recorded before with other contents")]
    IdReused(String),
    /// A field that this kind needs is missing, or one is there that it does not take.
    #[error("{0}")]
    Malformed(&'static str),
    /// A join names a member that stands in the document with another place.
    #[error("node {0} is a member already, with another place")]
    MemberExists(NodeId),
    /// A relocate names a node that is no member.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// A relocate would change more of the member than its machine.
    #[error("node {0} would change more than its machine")]
    PlaceDiffers(NodeId),
    /// Another operation moves data. Try again when it has ended.
    #[error("operation {0} still moves data")]
    Busy(String),
    /// There is no table that the operation could lead to.
    #[error(transparent)]
    NoPlan(#[from] PlanRefused),
    /// The node says that all its copies are whole. Nothing is to be done.
    #[error("node {0} has no copy that is to be made anew")]
    NothingToRebuild(NodeId),
    /// There is no other copy from which one could be made anew: restore the data, or give it up.
    #[error("partition {0} has no other copy to rebuild from")]
    NoSurvivor(Partition),
    /// Of every copy of the node so few others are left that nobody gave up that none can be made anew.
    /// Start one of those that are lost, if its disk is not.
    #[error("of partition {0} too few copies are left to make the one of this node anew")]
    TooFewCopies(Partition),
    /// There is no such operation, or it has ended.
    #[error("operation {0} does not run")]
    NotRunning(String),
    /// The child would not be a legal step.
    #[error(transparent)]
    Illegal(#[from] IllegalChange),
}

/// [`plan_for`] an operation that replaces nobody.
///
/// # Errors
/// See [`OperationRefused`].
pub fn plan(parent: &Sealed, id: &str, operation: &Operation) -> Result<Planned, OperationRefused> {
    plan_for(parent, id, operation, None)
}

/// Turns a posted operation into the next document. The same id and contents again find the record;
/// a join of a member that is there, and a leave of a node that is not, are recorded as done where no
/// data is to move. `replaces` is the dead member of a replace.
///
/// # Errors
/// See [`OperationRefused`].
pub fn plan_for(
    parent: &Sealed,
    id: &str,
    operation: &Operation,
    replaces: Option<NodeId>,
) -> Result<Planned, OperationRefused> {
    if let Some(recorded) = recorded(parent, id, operation, replaces)? {
        return Ok(recorded);
    }
    let mut child = begun(parent);
    let mut state = OperationState::Done;
    match operation.kind {
        _ if operation.rebalance => state = posting::begin(&mut child, operation, replaces)?,
        OperationKind::Join => join(&mut child, operation)?,
        OperationKind::Leave => leave(&mut child, operation)?,
        OperationKind::Relocate => relocate(&mut child, operation)?,
        OperationKind::Repair => repair(&child, operation)?,
        _ => return Err(unsupported(operation)),
    }
    record(parent, child, id, operation, state)
}

/// Turns a posted rebuild of a node into the next document: its copies of the partitions that it says to
/// have `lost` are made anew on itself. The same id and node again find the record, whatever is lost by
/// then.
///
/// # Errors
/// See [`OperationRefused`].
pub fn plan_rebuild(
    parent: &Sealed,
    id: &str,
    node: NodeId,
    lost: &BTreeSet<Partition>,
) -> Result<Planned, OperationRefused> {
    let kind = OperationKind::Rebuild;
    let operation = Operation { kind, node: Some(node), member: None, rebalance: true };
    if let Some(recorded) = recorded(parent, id, &operation, None)? {
        return Ok(recorded);
    }
    let state = posting::rebuild(parent, node, lost)?;
    record(parent, begun(parent), id, &operation, state)
}

/// The record that the id stands for, if it is of this very operation.
fn recorded(
    parent: &Document,
    id: &str,
    operation: &Operation,
    replaces: Option<NodeId>,
) -> Result<Option<Planned>, OperationRefused> {
    let Some(record) = parent.operations.get(id) else { return Ok(None) };
    if record.operation == *operation && record.replaces() == replaces {
        Ok(Some(Planned::AlreadyRecorded(Box::new(record.clone()))))
    } else {
        Err(OperationRefused::IdReused(id.to_owned()))
    }
}

fn begun(parent: &Sealed) -> Document {
    let (epoch, parent_hash) = (parent.epoch + 1, Some(parent.hash()));
    Document { epoch, parent_hash, ..Document::clone(parent) }
}

/// The child with the operation's record in it, judged.
fn record(
    parent: &Sealed,
    mut child: Document,
    id: &str,
    operation: &Operation,
    state: OperationState,
) -> Result<Planned, OperationRefused> {
    while child.operations.len() >= KEPT_OPERATIONS {
        let ended = child.operations.iter().filter(|(_, record)| !record.is_running());
        let oldest = ended.min_by_key(|(id, record)| (record.finished, *id));
        let Some(oldest) = oldest.map(|(id, _)| id.clone()) else { break };
        child.operations.remove(&oldest);
    }
    let record = OperationRecord {
        operation: operation.clone(),
        finished: if state == OperationState::Done { child.epoch } else { 0 },
        state,
        started: child.epoch,
    };
    child.operations.insert(id.to_owned(), record);
    let child = Sealed::new(child);
    legal_child(parent, &child)?;
    Ok(Planned::Child(Box::new(Document::clone(&child))))
}

/// The document in which a running operation is taken back: what has not reached its second step is
/// undone, the rest goes forward. None if it was taken back before.
///
/// # Errors
/// [`OperationRefused::NotRunning`].
pub fn cancel(parent: &Sealed, id: &str) -> Result<Option<Document>, OperationRefused> {
    let mut child = parent.child();
    let record = child.operations.get_mut(id);
    match record.map(|record| &mut record.state) {
        Some(OperationState::Running(progress)) if progress.cancelling => Ok(None),
        Some(OperationState::Running(progress)) => {
            progress.cancelling = true;
            Ok(Some(child))
        }
        _ => Err(OperationRefused::NotRunning(id.to_owned())),
    }
}

fn unsupported(operation: &Operation) -> OperationRefused {
    OperationRefused::Unsupported { kind: operation.kind, rebalance: operation.rebalance }
}

fn join(child: &mut Document, operation: &Operation) -> Result<(), OperationRefused> {
    let (Some(node), Some(member)) = (operation.node, &operation.member) else {
        return Err(OperationRefused::Malformed("join needs a node and its member entry"));
    };
    match child.members.get(&node) {
        Some(present) if present != member => Err(OperationRefused::MemberExists(node)),
        _ => {
            child.members.insert(node, member.clone());
            Ok(())
        }
    }
}

fn leave(child: &mut Document, operation: &Operation) -> Result<(), OperationRefused> {
    let Some(node) = operation.node else {
        return Err(OperationRefused::Malformed("leave needs a node"));
    };
    if operation.member.is_some() {
        return Err(OperationRefused::Malformed("leave takes no member entry"));
    }
    child.members.remove(&node);
    Ok(())
}

/// The member stands on another machine now; all else of it stays. That two copies share the
/// machine afterwards is no reason to refuse: they do already.
fn relocate(child: &mut Document, operation: &Operation) -> Result<(), OperationRefused> {
    let (Some(node), Some(place)) = (operation.node, &operation.member) else {
        return Err(OperationRefused::Malformed("relocate needs a node and its member entry"));
    };
    let Some(present) = child.members.get_mut(&node) else {
        return Err(OperationRefused::NotAMember(node));
    };
    present.machine.clone_from(&place.machine);
    if present == place { Ok(()) } else { Err(OperationRefused::PlaceDiffers(node)) }
}

/// The record is all there is: whoever it names begins to compare when the document reaches it. It tells
/// by itself how far it is.
fn repair(document: &Document, operation: &Operation) -> Result<(), OperationRefused> {
    if operation.member.is_some() {
        return Err(OperationRefused::Malformed("repair takes no member entry"));
    }
    match operation.node {
        Some(node) if !document.members.contains_key(&node) => {
            Err(OperationRefused::NotAMember(node))
        }
        _ => Ok(()),
    }
}

/// How many finished records a document keeps; the oldest go first.
pub const KEPT_OPERATIONS: usize = 64;

/// What an operation asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OperationKind {
    /// A node becomes a member.
    Join,
    /// A member gives up all it owns and goes.
    Leave,
    /// A dead member's copies are made anew on another.
    Replace,
    /// A member's own copies are made anew on itself.
    Rebuild,
    /// A member came up on another machine.
    Relocate,
    /// The table is made even again.
    Rebalance,
    /// Every partition is cut in two.
    Double,
    /// A member gives up all it owns and stays.
    Drain,
    /// All copies are compared.
    Repair,
}

/// What somebody asks for. The id is theirs: the same id again is the same operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// What to do.
    pub kind: OperationKind,
    /// To which node.
    pub node: Option<NodeId>,
    /// For a join and a relocate: where the node stands afterwards.
    pub member: Option<Member>,
    /// May data move? `false`: a joining member owns nothing, a leaving one must own nothing.
    pub rebalance: bool,
}

/// How far an operation came. A record changes only while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OperationState {
    /// Finished in the epoch that recorded it: it moved no data.
    Done,
    /// It moves data.
    Running(Progress),
    /// It moved data and ended; moves that another operation took over did not happen.
    Finished(Summary),
    /// It was taken back; what had reached its second step went forward all the same.
    Cancelled(Summary),
    /// Its moves are over, and what it was asked for is not so (`ring::ending`).
    Failed(Summary),
}

/// An operation as the document remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperationRecord {
    /// What was asked for.
    pub operation: Operation,
    /// How far it came.
    pub state: OperationState,
    /// The epoch in which it was recorded.
    pub started: u64,
    /// The epoch in which it was finished; 0 while it runs.
    pub finished: u64,
}

impl OperationRecord {
    /// The moves of a running operation; none of another.
    pub fn moves_mut(&mut self) -> &mut [MoveRecord] {
        match &mut self.state {
            OperationState::Running(progress) => &mut progress.moves,
            _ => &mut [],
        }
    }

    /// The moves of one that runs.
    pub fn moves(&self) -> &[MoveRecord] {
        match &self.state {
            OperationState::Running(progress) => &progress.moves,
            _ => &[],
        }
    }

    /// The member that a replace makes anew.
    pub fn replaces(&self) -> Option<NodeId> {
        match &self.state {
            OperationState::Done => None,
            OperationState::Running(progress) => progress.replaces,
            OperationState::Finished(summary)
            | OperationState::Cancelled(summary)
            | OperationState::Failed(summary) => summary.replaces,
        }
    }

    /// Whether it runs and none of its moves waits or is under way.
    pub fn is_over(&self) -> bool {
        matches!(&self.state, OperationState::Running(progress) if progress.is_over())
    }

    /// Whether it still moves data.
    pub fn is_running(&self) -> bool {
        matches!(self.state, OperationState::Running(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, member, node};

    fn ask(kind: OperationKind, number: u8) -> Operation {
        let member = (kind == OperationKind::Join).then(|| member(number));
        Operation { kind, node: Some(node(number)), member, rebalance: false }
    }

    fn child(planned: Planned) -> Sealed {
        match planned {
            Planned::Child(child) => Sealed::new(*child),
            Planned::AlreadyRecorded(record) => panic!("recorded: {record:?}"),
        }
    }

    #[test]
    fn a_join_adds_a_member_that_owns_nothing_and_a_leave_removes_it() {
        let first = Sealed::new(cluster(3, 3));
        let joined = child(plan(&first, "j", &ask(OperationKind::Join, 3)).unwrap());
        assert!(joined.members.contains_key(&node(3)));
        assert!(!joined.owns_anything(node(3)));
        assert_eq!(joined.operations["j"].finished, 2);
        let left = child(plan(&joined, "l", &ask(OperationKind::Leave, 3)).unwrap());
        assert_eq!(left.members, first.members);
        assert_eq!(left.table, first.table);
    }

    #[test]
    fn the_same_id_is_the_same_operation() {
        let first = Sealed::new(cluster(3, 3));
        let joined = child(plan(&first, "j", &ask(OperationKind::Join, 3)).unwrap());
        let again = plan(&joined, "j", &ask(OperationKind::Join, 3)).unwrap();
        assert!(matches!(again, Planned::AlreadyRecorded(record) if record.finished == 2));
        let other = plan(&joined, "j", &ask(OperationKind::Join, 4));
        assert_eq!(other, Err(OperationRefused::IdReused("j".into())));
    }

    #[test]
    fn what_is_not_built_is_refused() {
        let first = Sealed::new(cluster(3, 3));
        for kind in [OperationKind::Drain, OperationKind::Rebuild, OperationKind::Replace] {
            let refused = plan(&first, "x", &ask(kind, 0));
            assert!(matches!(refused, Err(OperationRefused::Unsupported { .. })));
        }
        let moving = Operation { rebalance: true, ..ask(OperationKind::Rebuild, 0) };
        let refused = plan(&first, "x", &moving).unwrap_err();
        assert_eq!(refused.to_string(), "Rebuild is not supported with rebalancing");
        // What runs is taken back once; what does not cannot be.
        let moving = Operation { rebalance: true, ..ask(OperationKind::Join, 3) };
        let running = child(plan(&first, "j", &moving).unwrap());
        let back = Sealed::new(cancel(&running, "j").unwrap().unwrap());
        assert_eq!(legal_child(&running, &back), Ok(()));
        assert_eq!(cancel(&back, "j"), Ok(None));
        assert_eq!(cancel(&back, "k"), Err(OperationRefused::NotRunning("k".into())));
    }

    #[test]
    fn an_owner_cannot_leave() {
        let first = Sealed::new(cluster(3, 3));
        let refused = plan(&first, "x", &ask(OperationKind::Leave, 0));
        let illegal = OperationRefused::Illegal(IllegalChange::MemberOwns(node(0)));
        assert_eq!(refused, Err(illegal));
        let elsewhere = Operation { node: None, ..ask(OperationKind::Leave, 0) };
        assert!(matches!(plan(&first, "x", &elsewhere), Err(OperationRefused::Malformed(_))));
    }

    #[test]
    fn a_member_joins_once_with_one_place() {
        let first = Sealed::new(cluster(3, 3));
        let same = plan(&first, "x", &ask(OperationKind::Join, 0)).unwrap();
        assert_eq!(child(same).members, first.members);
        let mut moved = ask(OperationKind::Join, 0);
        moved.member = Some(member(9));
        assert_eq!(plan(&first, "x", &moved), Err(OperationRefused::MemberExists(node(0))));
    }

    /// A relocate of node `number` to a machine.
    fn to(number: u8, machine: &str) -> Operation {
        let place = Member { machine: machine.into(), ..member(number) };
        Operation { member: Some(place), ..ask(OperationKind::Relocate, number) }
    }

    #[test]
    fn a_relocate_changes_the_machine_of_one_member_even_where_copies_then_share_it() {
        let first = Sealed::new(cluster(3, 3));
        let moved = child(plan(&first, "r1", &to(0, "machine1")).unwrap());
        assert_eq!(moved.members[&node(0)].machine, "machine1");
        let others = |document: &Document| {
            let mut members = document.members.clone();
            members.remove(&node(0));
            members
        };
        assert_eq!((others(&moved), &moved.table), (others(&first), &first.table));
        let again = plan(&moved, "r1", &to(0, "machine1")).unwrap();
        assert!(matches!(again, Planned::AlreadyRecorded(record) if record.finished == 2));
        let reused = plan(&moved, "r1", &to(0, "machine2"));
        assert_eq!(reused, Err(OperationRefused::IdReused("r1".into())));
        // Away again, and once more to where it is: recorded, and nothing else differs.
        let away = child(plan(&moved, "r2", &to(0, "machine9")).unwrap());
        assert_eq!(away.members[&node(0)].machine, "machine9");
        let same = child(plan(&away, "r3", &to(0, "machine9")).unwrap());
        assert_eq!(same.members, away.members);
    }

    #[test]
    fn a_relocate_changes_nothing_but_the_machine() {
        let first = Sealed::new(cluster(3, 3));
        let elsewhere: [fn(&mut Member); 4] = [
            |place| place.zone = "other".into(),
            |place| place.rack = String::new(),
            |place| place.datacenter = "dc2".into(),
            |place| place.weight += 1,
        ];
        for change in elsewhere {
            let mut operation = to(0, "machine9");
            operation.member.as_mut().map(change).unwrap();
            let refused = plan(&first, "r", &operation);
            assert_eq!(refused, Err(OperationRefused::PlaceDiffers(node(0))));
        }
        let stranger = plan(&first, "r", &to(7, "machine9"));
        assert_eq!(stranger, Err(OperationRefused::NotAMember(node(7))));
        let bare = plan(&first, "r", &ask(OperationKind::Relocate, 0));
        assert!(matches!(bare, Err(OperationRefused::Malformed(_))));
    }

    #[test]
    fn a_repair_is_recorded_and_changes_nothing_else() {
        let first = Sealed::new(cluster(3, 3));
        let all = Operation { node: None, ..ask(OperationKind::Repair, 0) };
        let asked = child(plan(&first, "a", &all).unwrap());
        assert_eq!(asked.operations["a"].operation, all);
        assert_eq!((&asked.members, &asked.table), (&first.members, &first.table));
        let one = child(plan(&asked, "b", &ask(OperationKind::Repair, 1)).unwrap());
        assert_eq!(one.operations.len(), 2);
        let stranger = plan(&one, "c", &ask(OperationKind::Repair, 7));
        assert_eq!(stranger, Err(OperationRefused::NotAMember(node(7))));
        let odd = Operation { member: Some(member(1)), ..ask(OperationKind::Repair, 1) };
        assert!(matches!(plan(&one, "d", &odd), Err(OperationRefused::Malformed(_))));
    }

    #[test]
    fn only_the_oldest_records_are_forgotten() {
        let mut document = Sealed::new(cluster(3, 3));
        for number in 0..KEPT_OPERATIONS + 5 {
            let kind = if number % 2 == 0 { OperationKind::Join } else { OperationKind::Leave };
            document = child(plan(&document, &format!("op{number}"), &ask(kind, 3)).unwrap());
        }
        assert_eq!(document.operations.len(), KEPT_OPERATIONS);
        assert!(!document.operations.contains_key("op4"));
        assert!(document.operations.contains_key("op5"));
    }
}
