//! The planner's answer in the terms of the admin API: who would give what to whom, and what is at
//! stake meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::admin_api::operations::{
    NodePlan, OperationKind, OperationPlan, OperationRequest, PartitionName, PlannedMove, Risk,
    RiskLevel,
};
use crate::admin_api::problem::{Problem, code};
use crate::id::NodeId;
use crate::ring::operation::{self, Planned, plan_rebuild};
use crate::ring::planner::{
    Cluster, Goal, PlaceKind, Plan, PlanRefused, PlanWarning, Weakest, plan, risk,
};
use crate::ring::{Document, Member, Partition, Sealed, takeover};

/// The fewest machines whose failure costs a quorum of some partition, in the course of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineRisk {
    /// As it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<FewestMachines>,
    /// The worst while slots move; a slot that moves needs both its nodes. Left out where none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub during: Option<FewestMachines>,
    /// Once all moves are over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<FewestMachines>,
}

/// How few machines, beside those that are down, and an example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FewestMachines {
    /// How many; 0 where the quorum is lost as it is.
    pub count: u32,
    /// Machines of an example.
    pub machines: Vec<String>,
    /// The partition of the example.
    pub partition: PartitionName,
    /// The data center that loses its majority; left out where the copies of all together do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datacenter: Option<String>,
}

/// What the answering node knows beside the document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// Where a joining or replacing node stands.
    pub member: Option<Member>,
    /// Nodes that are held for down.
    pub down: BTreeSet<NodeId>,
    /// Bytes of one partition replica, in the mean of those that the answering node has.
    pub replica_bytes: u64,
}

impl OperationRequest {
    /// What the planner is asked for; none for kinds that it does not plan.
    fn goal(&self, member: Option<Member>) -> Option<Goal> {
        let node = self.node;
        Some(match self.kind {
            OperationKind::Join => Goal::Join(BTreeMap::from([(node?, member?)])),
            OperationKind::Leave => Goal::Leave(BTreeSet::from([node?])),
            OperationKind::Drain => Goal::Drain(BTreeSet::from([node?])),
            OperationKind::Replace => {
                Goal::Replace { dead: self.replaces?, by: node?, member: member? }
            }
            OperationKind::Rebalance => Goal::Rebalance,
            _ => return None,
        })
    }
}

impl OperationPlan {
    /// Whether operations of this kind can be planned though they move data.
    pub fn is_planned(kind: OperationKind) -> bool {
        use OperationKind::{Drain, Join, Leave, Rebalance, Rebuild, Replace};
        matches!(kind, Join | Leave | Drain | Replace | Rebalance | Rebuild)
    }

    /// Plans an operation that moves data on a document.
    ///
    /// # Errors
    /// A problem with the planner's reason: there is no such plan, or none of this kind.
    pub fn moving(
        request: OperationRequest,
        document: &Document,
        known: Known,
    ) -> Result<Self, Problem> {
        let Some(goal) = request.goal(known.member) else {
            let detail = format!("{:?} is not planned", request.kind);
            return Err(Problem::new(code::UNSUPPORTED_OPERATION, detail));
        };
        let ahead = Cluster::ahead(document);
        let plan = plan(&ahead, &goal)?;
        let mut down = known.down;
        down.extend(request.replaces);
        let moves: Vec<(PartitionName, String, NodeId, NodeId)> = match request.replaces {
            Some(dead) => takeover::own_moves(document, &plan.target, dead)
                .into_iter()
                .map(|one| (one.partition.into(), one.datacenter, one.from, one.to))
                .collect(),
            None => {
                let bits = document.partition_bits;
                let moves = plan.moves.iter().map(|planned| {
                    let partition = PartitionName { bits, index: planned.partition };
                    (partition, planned.datacenter.clone(), planned.from, planned.to)
                });
                moves.collect()
            }
        };
        let bytes = known.replica_bytes;
        let moves: Vec<PlannedMove> = moves
            .into_iter()
            .map(|(partition, datacenter, from, to)| PlannedMove {
                partition,
                datacenter,
                from: Some(from),
                to,
                bytes,
            })
            .collect();
        Ok(Self {
            base_epoch: document.epoch,
            total_bytes: moves.iter().map(|planned| planned.bytes).sum(),
            nodes: node_plans(&ahead, &moves),
            risk: stakes(document.partition_bits, &Cluster::of(document), &plan, &down),
            moves,
            request,
        })
    }
}

impl OperationPlan {
    /// What a rebuild of a node would do that says to have `lost` its copies of these partitions.
    ///
    /// # Errors
    /// The problem for which the rebuild itself would be refused.
    pub fn rebuilding(
        request: OperationRequest,
        document: &Sealed,
        lost: &BTreeSet<Partition>,
        replica_bytes: u64,
    ) -> Result<Self, Problem> {
        let missing = || Problem::new(code::BAD_REQUEST, "`node` is missing");
        let node = request.node.ok_or_else(missing)?;
        let Planned::Child(child) = plan_rebuild(document, &request.id, node, lost)? else {
            return Ok(Self::without_moves(request, document.epoch, None));
        };
        let planned = child.operations.get(&request.id).map(|record| &record.state);
        let Some(operation::OperationState::Running(progress)) = planned else {
            return Ok(Self::without_moves(request, document.epoch, None));
        };
        let moves: Vec<PlannedMove> = progress
            .moves
            .iter()
            .map(|one| PlannedMove {
                partition: one.partition.into(),
                datacenter: one.datacenter.clone(),
                from: Some(one.from),
                to: one.to,
                bytes: replica_bytes,
            })
            .collect();
        let owned = document.table.iter().filter(|entry| entry.names(node)).count() as u32;
        let total_bytes = moves.iter().map(|one| one.bytes).sum();
        let one_less = format!("{} partitions have one copy less until they are over", moves.len());
        Ok(Self {
            base_epoch: document.epoch,
            total_bytes,
            nodes: vec![NodePlan {
                node,
                partitions_before: owned,
                partitions_after: owned,
                in_bytes: total_bytes,
                out_bytes: 0,
            }],
            risk: Risk { level: RiskLevel::Reduced, reasons: vec![one_less], machines: None },
            moves,
            request,
        })
    }
}

fn node_plans(cluster: &Cluster, moves: &[PlannedMove]) -> Vec<NodePlan> {
    let mut owned: BTreeMap<NodeId, u32> = BTreeMap::new();
    let heirs = cluster.table.iter().flat_map(|row| row.values().flatten()).map(|seat| seat.heir());
    heirs.for_each(|node| *owned.entry(node).or_default() += 1);
    let mut plans: BTreeMap<NodeId, NodePlan> = BTreeMap::new();
    let mut about = |node: NodeId, change: &dyn Fn(&mut NodePlan)| {
        let before = owned.get(&node).copied().unwrap_or(0);
        change(plans.entry(node).or_insert(NodePlan {
            node,
            partitions_before: before,
            partitions_after: before,
            in_bytes: 0,
            out_bytes: 0,
        }));
    };
    for planned in moves {
        about(planned.to, &|node| {
            node.partitions_after += 1;
            node.in_bytes += planned.bytes;
        });
        if let Some(from) = planned.from {
            about(from, &|node| {
                node.partitions_after = node.partitions_after.saturating_sub(1);
                node.out_bytes += planned.bytes;
            });
        }
    }
    plans.into_values().collect()
}

/// How bad it can get, and why.
fn stakes(bits: u8, cluster: &Cluster, plan: &Plan, down: &BTreeSet<NodeId>) -> Risk {
    let course = risk(cluster, plan, down, PlaceKind::Machine);
    let worst = [&course.before, &course.during].into_iter().flatten().min_by_key(|w| w.failures);
    let alone = worst.filter(|weakest| weakest.failures <= 1);
    let shared = |warning: &PlanWarning| {
        matches!(warning, PlanWarning::SharedZone { .. } | PlanWarning::SharedRack { .. })
    };
    let mut reasons: Vec<String> = plan.warnings.iter().map(ToString::to_string).collect();
    if let (Some(weakest), false) = (alone, plan.moves.is_empty()) {
        let names = weakest.names.join(", ");
        reasons.push(match weakest.failures {
            0 => format!("partition {bits}/{} has no quorum as it is", weakest.partition),
            _ => format!("partition {bits}/{} loses its quorum with {names}", weakest.partition),
        });
    }
    let level = match () {
        () if plan.moves.is_empty() => RiskLevel::None,
        () if alone.is_some() => RiskLevel::High,
        () if plan.warnings.iter().any(shared) => RiskLevel::Reduced,
        () => RiskLevel::Low,
    };
    let fewest = |weakest: Option<Weakest>| {
        weakest.map(|weakest| FewestMachines {
            count: weakest.failures,
            machines: weakest.names,
            partition: PartitionName { bits, index: weakest.partition },
            datacenter: weakest.datacenter,
        })
    };
    let machines = MachineRisk {
        before: fewest(course.before),
        during: fewest(course.during),
        after: fewest(course.after),
    };
    Risk { level, reasons, machines: Some(machines) }
}

impl From<PlanRefused> for Problem {
    fn from(refused: PlanRefused) -> Self {
        let code = match refused {
            PlanRefused::NotAMember(_) => code::UNKNOWN_NODE,
            PlanRefused::MemberExists(_) => code::OPERATION_CONFLICT,
            PlanRefused::BrokenTable { .. } | PlanRefused::NoTable { .. } => code::INTERNAL,
            PlanRefused::TooFewMachines { .. }
            | PlanRefused::NoReplication { .. }
            | PlanRefused::NoSubstitute { .. } => code::BAD_REQUEST,
        };
        Self::new(code, refused.to_string()).fact("rule", refused.code())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::fixtures::{cluster, member, node};

    fn ask(kind: OperationKind, number: Option<u8>) -> OperationRequest {
        let (replaces, machine, rebalance) = (None, None, None);
        let id = "op".to_owned();
        OperationRequest { id, kind, node: number.map(node), replaces, machine, rebalance }
    }

    fn known(number: u8) -> Known {
        Known { member: Some(member(number)), replica_bytes: 1_000, ..Known::default() }
    }

    #[test]
    fn a_join_says_who_gives_what_to_whom() {
        let document = cluster(4, 3);
        let plan =
            OperationPlan::moving(ask(OperationKind::Join, Some(4)), &document, known(4)).unwrap();
        let replicas = document.table.len() as u64 * 3;
        let got = plan.moves.len() as u64;
        assert!((replicas / 5..=replicas.div_ceil(5)).contains(&got), "{got} of {replicas}");
        assert!(plan.moves.iter().all(|one| one.to == node(4) && one.from.is_some()));
        assert_eq!(plan.total_bytes, got * 1_000);
        let sums = plan.nodes.iter().fold((0, 0), |(i, o), n| (i + n.in_bytes, o + n.out_bytes));
        assert_eq!(sums, (plan.total_bytes, plan.total_bytes));
        let joined = plan.nodes.iter().find(|one| one.node == node(4)).unwrap();
        assert_eq!((joined.partitions_before, u64::from(joined.partitions_after)), (0, got));
        assert_eq!((plan.risk.level, plan.risk.reasons.len()), (RiskLevel::Low, 0));
        let machines = plan.risk.machines.unwrap();
        let counts = [machines.before, machines.during, machines.after];
        assert!(
            counts.iter().flatten().all(|fewest| fewest.count == 2 && fewest.machines.len() == 2)
        );
        assert_eq!(counts.iter().flatten().count(), 3);
    }

    #[test]
    fn while_a_dead_node_is_replaced_one_more_costs_a_quorum() {
        let request =
            OperationRequest { replaces: Some(node(1)), ..ask(OperationKind::Replace, Some(4)) };
        let plan = OperationPlan::moving(request, &cluster(4, 3), known(4)).unwrap();
        assert_eq!(plan.risk.level, RiskLevel::High);
        let machines = plan.risk.machines.unwrap();
        assert_eq!((machines.before.unwrap().count, machines.after.unwrap().count), (1, 2));
        assert!(plan.moves.iter().all(|one| one.from == Some(node(1)) && one.to == node(4)));
    }

    #[test]
    fn what_cannot_be_planned_says_why() {
        let document = cluster(3, 3);
        let problem =
            OperationPlan::moving(ask(OperationKind::Leave, Some(0)), &document, known(0));
        let problem = problem.unwrap_err();
        assert_eq!((problem.status, &*problem.code), (400, "bad_request"));
        assert_eq!(problem.facts["rule"], "too_few_machines");
        let stranger =
            OperationPlan::moving(ask(OperationKind::Drain, Some(9)), &document, known(9));
        assert_eq!(stranger.unwrap_err().code, "unknown_node");
        let double = OperationPlan::moving(ask(OperationKind::Double, None), &document, known(0));
        assert_eq!(double.unwrap_err().status, 501);
    }

    #[test]
    fn a_rebuild_says_which_copies_it_makes_anew() {
        let document = Sealed::new(cluster(4, 3));
        let owned = Partition::all(document.partition_bits)
            .filter(|p| document.entry(*p).unwrap().names(node(1)));
        let lost: BTreeSet<Partition> = owned.take(2).collect();
        let request = ask(OperationKind::Rebuild, Some(1));
        let plan = OperationPlan::rebuilding(request.clone(), &document, &lost, 1_000).unwrap();
        assert_eq!((plan.moves.len(), plan.total_bytes), (2, 2_000));
        assert!(plan.moves.iter().all(|one| one.to == node(1) && one.from == Some(node(1))));
        assert_eq!((plan.risk.level, plan.nodes[0].in_bytes), (RiskLevel::Reduced, 2_000));
        let whole = OperationPlan::rebuilding(request, &document, &BTreeSet::new(), 1_000);
        assert_eq!(whole.unwrap_err().code, "nothing_to_rebuild");
        let stranger = ask(OperationKind::Rebuild, Some(9));
        let stranger = OperationPlan::rebuilding(stranger, &document, &lost, 1_000);
        assert_eq!(stranger.unwrap_err().code, "unknown_node");
    }

    #[test]
    fn a_balanced_cluster_has_no_risk_to_speak_of() {
        let plan =
            OperationPlan::moving(ask(OperationKind::Rebalance, None), &cluster(5, 3), known(0));
        let plan = plan.unwrap();
        assert_eq!((plan.moves.len(), plan.risk.level), (0, RiskLevel::None));
    }
}
