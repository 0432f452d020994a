//! Data where it should be: every member with its share, and no two copies on one machine.
//!
//! Members that join, leave or are replaced take that along. What is left is a change that was taken
//! back, a member that moved to the worker of another, a node that joined without data. The nodes plan
//! what can be had; where they come out with the same table, it is not asked for again until the
//! members, their machines or what they own are different.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvasir_core::admin_api::NodeStatus as Row;

use super::journal::{Doing, blank};
use super::membership::too_many;
use super::refusal::Refusal;
use super::repair::fnv;
use super::view::View;
use super::{moves, replace};
use crate::crd::{Operation, OperationStep, OperationType};
use crate::snapshot::{PodSeen, Snapshot};

/// How long a pod that is made anew may take until data is given out without it.
const COMING: Duration = Duration::from_secs(120);

/// A rebalance that is due; what stands against it.
pub fn due(seen: &Snapshot, view: &View) -> Result<Option<Operation>, Refusal> {
    let layout = layout(view);
    let old = seen.cluster.status.as_ref().and_then(|status| status.ring.as_ref());
    let tried = old.is_some_and(|ring| ring.balanced == layout);
    let coming = |pod: &PodSeen| !view.has_member(pod) && pod.trouble.is_none() && pod.age < COMING;
    if tried || !crooked(view) || seen.pods.values().any(coming) {
        return Ok(None);
    }
    let operation = Operation {
        id: format!("rebalance-{}-{layout}", view.epoch()),
        base_epoch: view.epoch(),
        ..blank(seen, OperationType::Rebalance)
    };
    let operation = moves::due(view, operation)?;
    if operation.step == OperationStep::Requested {
        view.healthy().map_err(Refusal::ChangeWaits)?;
    }
    Ok(Some(operation))
}

/// Is something not where it should be, and could the nodes mend it?
fn crooked(view: &View) -> bool {
    let apart = |copies: u32, datacenter: &str| {
        let here = owners(view).filter(|row| row.datacenter == datacenter);
        let machines: BTreeSet<&str> = here.map(|row| row.machine.as_str()).collect();
        machines.len() >= usize::try_from(copies).unwrap_or(usize::MAX)
    };
    let shared = view.newest().is_some_and(|status| !status.shared_machines.is_empty());
    let copies = view.cluster().map(|cluster| &cluster.replication);
    let enough = copies.is_some_and(|all| all.iter().all(|(center, n)| apart(*n, center)));
    enough && (shared || idle(view) > 0 || uneven(view))
}

/// Members that could own something.
fn owners<'a>(view: &View<'a>) -> impl Iterator<Item = &'a Row> + use<'a> {
    view.members().filter(|row| row.weight > 0)
}

/// How many members own nothing though they could.
pub fn idle(view: &View) -> usize {
    let copies = view.cluster().map(|cluster| &cluster.replication);
    let kept = |row: &&Row| copies.is_some_and(|copies| copies.contains_key(&row.datacenter));
    owners(view).filter(kept).filter(|row| row.partitions == 0).count()
}

/// Do members of one weight in one data center own more than one copy more than others?
fn uneven(view: &View) -> bool {
    let mut least_and_most: BTreeMap<(&str, u32), (u32, u32)> = BTreeMap::new();
    for row in owners(view) {
        let held = least_and_most.entry((row.datacenter.as_str(), row.weight));
        let (least, most) = held.or_insert((row.partitions, row.partitions));
        (*least, *most) = ((*least).min(row.partitions), (*most).max(row.partitions));
    }
    least_and_most.into_values().any(|(least, most)| most > least + 1)
}

/// Hash of the members, their machines and how much each owns.
pub fn layout(view: &View) -> String {
    let row = |row: &Row| format!("{}@{}={};", row.id, row.machine, row.partitions);
    let mut rows: Vec<String> = view.members().map(row).collect();
    rows.sort();
    fnv(&rows.concat())
}

/// Goes on with a rebalance. It is taken back when members are to leave: what it would give them
/// would move twice.
pub fn go_on(seen: &Snapshot, view: &View, operation: &Operation) -> Doing {
    let unwanted = too_many(seen, view) || replace::due(seen, view).is_some();
    match moves::told(view, operation) {
        Some(status) if moves::runs(status) => moves::go_on(view, operation, status, unwanted),
        Some(status) => moves::end(view, operation, status),
        None if unwanted || operation.step == OperationStep::Cancelling || !crooked(view) => {
            Doing::Over
        }
        None => moves::post(view, operation),
    }
}
