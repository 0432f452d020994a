//! What a plan is for, and why there may be none.

use std::collections::{BTreeMap, BTreeSet};

use super::Cluster;
use crate::id::NodeId;
use crate::ring::document::Member;

/// What a plan is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Goal {
    /// These nodes take their share. A node that is a member already must stand in the same place.
    Join(BTreeMap<NodeId, Member>),
    /// These members give all that they own to the others and go.
    Leave(BTreeSet<NodeId>),
    /// These members give all that they own to the others and stay, with weight 0.
    Drain(BTreeSet<NodeId>),
    /// `by` takes the place of `dead`, which goes.
    Replace {
        /// The member whose copies are made anew.
        dead: NodeId,
        /// The node that comes instead; a member already, or not.
        by: NodeId,
        /// Where it stands.
        member: Member,
    },
    /// Everybody gets the share of the weight that it has.
    Rebalance,
    /// These members get new weights, and everybody the share that follows.
    Weigh(BTreeMap<NodeId, u32>),
}

/// Why there is no plan. Nothing was changed; the same goal is refused again until the cluster is
/// another.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefused {
    /// Copies of one partition must lie on distinct machines.
    #[error(
        "data center {datacenter} would have {machines} machines with weight, but {copies} copies \
         need {copies} distinct machines (it has {before} today)"
    )]
    TooFewMachines {
        /// Where.
        datacenter: String,
        /// Machines that could own something afterwards.
        machines: usize,
        /// Machines that may own something today.
        before: usize,
        /// Copies of each partition (N).
        copies: u32,
    },
    /// A node that is no member can neither leave nor be drained, replaced or weighed.
    #[error("node {0} is no member")]
    NotAMember(NodeId),
    /// A joining node is a member already, in another place or with another weight.
    #[error("node {0} is a member already, with another place or weight")]
    MemberExists(NodeId),
    /// No copies are kept in the data center of a joining node.
    #[error(
        "no copies are kept in data center {datacenter}, so that node {node} would own nothing"
    )]
    NoReplication {
        /// The node.
        node: NodeId,
        /// Where it stands.
        datacenter: String,
    },
    /// A node would take the place of one in another data center, or of itself.
    #[error(
        "node {by} cannot take the place of node {dead}: it is the same, or in another data center"
    )]
    NoSubstitute {
        /// Whose place.
        dead: NodeId,
        /// Who would take it.
        by: NodeId,
    },
    /// The table lacks a slot, or names an owner that is no member of the slot's data center, or
    /// one owner twice.
    #[error("partition {partition} of the present table is no sound entry")]
    BrokenTable {
        /// The first such partition.
        partition: u32,
    },
    /// The rules leave no table. A defect of the planner: shares are chosen so that some table has
    /// them.
    #[error("no table of data center {datacenter} keeps the rules")]
    NoTable {
        /// Where.
        datacenter: String,
    },
}

impl PlanRefused {
    /// Stable word for machines.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooFewMachines { .. } => "too_few_machines",
            Self::NotAMember(_) => "not_a_member",
            Self::MemberExists(_) => "member_exists",
            Self::NoReplication { .. } => "no_replication",
            Self::NoSubstitute { .. } => "no_substitute",
            Self::BrokenTable { .. } => "broken_table",
            Self::NoTable { .. } => "no_table",
        }
    }
}

/// The members that a goal is planned with.
pub(super) struct Aim {
    /// All of today and of afterwards, with the weights of afterwards.
    pub members: BTreeMap<NodeId, Member>,
    /// Those that own nothing afterwards.
    pub leaving: BTreeSet<NodeId>,
    /// Who would best take over slot for slot from whom.
    pub substitute: Option<(NodeId, NodeId)>,
    /// Whether those that own nothing stay members.
    stay: bool,
}

impl Aim {
    /// The members afterwards.
    pub fn remaining(&self) -> BTreeMap<NodeId, Member> {
        let mut members = self.members.clone();
        for node in &self.leaving {
            match members.get_mut(node) {
                Some(member) if self.stay => member.weight = 0,
                _ => drop(members.remove(node)),
            }
        }
        members
    }

    /// The refusal where a data center has only this many machines left.
    pub fn too_few(
        &self,
        cluster: &Cluster,
        datacenter: &str,
        copies: u32,
        machines: usize,
    ) -> PlanRefused {
        let weighing =
            cluster.members.values().filter(|m| m.datacenter == datacenter && m.weight > 0);
        let before = weighing.map(|member| &member.machine).collect::<BTreeSet<_>>().len();
        PlanRefused::TooFewMachines { datacenter: datacenter.to_owned(), machines, before, copies }
    }
}

impl Goal {
    /// The members that the goal is planned with.
    pub(super) fn aim(&self, cluster: &Cluster) -> Result<Aim, PlanRefused> {
        let mut members = cluster.members.clone();
        let (mut leaving, mut stay, mut substitute) = (BTreeSet::new(), false, None);
        let known = |node: &NodeId| cluster.members.contains_key(node);
        let stranger =
            |nodes: &mut dyn Iterator<Item = &NodeId>| nodes.copied().find(|n| !known(n));
        match self {
            Self::Join(joining) => {
                for (node, member) in joining {
                    join(cluster, &mut members, *node, member)?;
                }
            }
            Self::Leave(nodes) | Self::Drain(nodes) => {
                if let Some(node) = stranger(&mut nodes.iter()) {
                    return Err(PlanRefused::NotAMember(node));
                }
                leaving.clone_from(nodes);
                stay = matches!(self, Self::Drain(_));
            }
            Self::Replace { dead, by, member } => {
                let Some(gone) = members.get(dead) else {
                    return Err(PlanRefused::NotAMember(*dead));
                };
                if dead == by || gone.datacenter != member.datacenter {
                    return Err(PlanRefused::NoSubstitute { dead: *dead, by: *by });
                }
                join(cluster, &mut members, *by, member)?;
                leaving.insert(*dead);
                substitute = Some((*dead, *by));
            }
            Self::Rebalance => {}
            Self::Weigh(weights) => {
                for (node, &weight) in weights {
                    let member = members.get_mut(node).ok_or(PlanRefused::NotAMember(*node))?;
                    member.weight = weight;
                }
            }
        }
        Ok(Aim { members, leaving, substitute, stay })
    }
}

fn join(
    cluster: &Cluster,
    members: &mut BTreeMap<NodeId, Member>,
    node: NodeId,
    member: &Member,
) -> Result<(), PlanRefused> {
    if !cluster.replication.contains_key(&member.datacenter) {
        let datacenter = member.datacenter.clone();
        return Err(PlanRefused::NoReplication { node, datacenter });
    }
    match members.insert(node, member.clone()) {
        Some(present) if present != *member => Err(PlanRefused::MemberExists(node)),
        _ => Ok(()),
    }
}
