//! Why something that the spec asks for is not done. Each refusal stands in the condition that it
//! concerns, with a stable reason and a message that says what to do.

use crate::crd::condition;

/// A refusal. Nothing was changed because of it; what lifts it stands in its message.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// The spec cannot be rendered.
    #[error("{0}")]
    Unusable(String),
    /// The cluster that the volumes hold has another name.
    #[error(
        "the volumes hold the cluster `{found}`, the spec names `{wanted}`: set clusterName to \
         `{found}`, or use a KVCluster of another name"
    )]
    OtherName {
        /// In the document.
        found: String,
        /// In the spec.
        wanted: String,
    },
    /// The document has other copies than the spec.
    #[error(
        "the cluster was formed with the copies {found}, the spec says {wanted}: they are fixed \
         when a cluster is formed; set replication.factors back"
    )]
    OtherReplication {
        /// In the document.
        found: String,
        /// In the spec.
        wanted: String,
    },
    /// A rack has members in another place than the spec says.
    #[error(
        "rack {rack} still has nodes in {found}, the spec puts it in {wanted}: nodes do not move with \
         it; set it back, or give the rack in the spec another name"
    )]
    RackElsewhere {
        /// The rack.
        rack: String,
        /// Where its members are.
        found: String,
        /// Where the spec puts it.
        wanted: String,
    },
    /// Pods hold volumes of different clusters.
    #[error(
        "the volumes hold different clusters ({0}): which one is meant cannot be told; remove the \
         volumes that do not belong here"
    )]
    SeveralClusters(String),
    /// A pod holds a volume of another cluster.
    #[error(
        "the volume of pod {pod} belongs to the cluster {found}: it is never joined; delete the \
         claim {claim} and the pod to start it on an empty volume"
    )]
    ForeignVolume {
        /// The pod.
        pod: String,
        /// Its claim.
        claim: String,
        /// The cluster that the volume belongs to.
        found: String,
    },
    /// The cluster was formed before, and no volume holds it any more.
    #[error(
        "the cluster {0} was formed before, but every node that answers is blank: it is never \
         formed a second time; bring its volumes back, or delete the KVCluster and create it anew"
    )]
    VolumesLost(String),
    /// An object of the same name belongs to someone else.
    #[error("{0} exists and belongs to another owner: remove it or choose another name")]
    NameTaken(String),
    /// Forming waits for nodes.
    #[error("forming waits for {0}")]
    NotFormable(String),
    /// The copies need more machines than there are.
    #[error(
        "data center {datacenter} has pods on {workers} workers, but {copies} copies need \
         {copies}: add workers, or create the cluster with fewer copies"
    )]
    TooFewWorkers {
        /// Where.
        datacenter: String,
        /// Distinct workers there.
        workers: usize,
        /// Copies there.
        copies: i32,
    },
    /// Without the node that would leave there are too few machines for the copies.
    #[error(
        "{pod} cannot leave: the nodes that stay in data center {datacenter} run on {machines} \
         workers, and {copies} copies need {copies}; set nodes back, or add a worker and let one of \
         them move there"
    )]
    TooFewMachines {
        /// The pod that would go.
        pod: String,
        /// Where.
        datacenter: String,
        /// Distinct workers of the members that stay there.
        machines: usize,
        /// Copies there.
        copies: i32,
    },
    /// What the leaving node holds does not fit on the others.
    #[error(
        "{pod} cannot leave: it holds {bytes} bytes, and the volumes of the others in its data \
         center have {free} bytes free; enlarge storage.size or delete data, or set nodes back"
    )]
    TooLittleSpace {
        /// The pod that would go.
        pod: String,
        /// What its store holds.
        bytes: u64,
        /// What is free on all others together.
        free: u64,
    },
    /// Nodes of one rack wait for those that come for them in another.
    #[error("no node leaves rack {rack} before another one has come for it: {why}")]
    RackWaits {
        /// The rack that has too many nodes.
        rack: String,
        /// What is not there yet.
        why: String,
    },
    /// A change of the topology waits for the nodes.
    #[error("the change waits: {0}")]
    ChangeWaits(String),
    /// It is not known which node stands behind the pod that would go.
    #[error("which node runs in {0} is not known while it does not answer: it is not removed")]
    Unidentified(String),
    /// A majority of the members must answer before the topology changes.
    #[error("the topology waits for the nodes: {0}")]
    NoMajority(String),
    /// The rollout waits for the ring.
    #[error("the rollout waits: {0}")]
    RingNotHealthy(String),
    /// A member is not up.
    #[error("{0}")]
    MembersDown(String),
    /// A pod came up on an empty volume, and the member that it held is gone.
    #[error(
        "pod {pod} came up on an empty volume (claim {claim}): the copies that node {node} held \
         there are lost, and those on other nodes serve; a new node takes its place, and its copies \
         are made anew from theirs"
    )]
    LostVolume {
        /// The pod.
        pod: String,
        /// The member.
        node: String,
        /// The claim.
        claim: String,
    },
    /// The nodes refused an operation for good.
    #[error("the nodes refuse the operation {id}: {why}")]
    OperationRefused {
        /// Its id.
        id: String,
        /// What they say.
        why: String,
    },
    /// An operation of the nodes ended without having done what it was asked for.
    #[error("operation {id} failed: {why}")]
    OperationFailed {
        /// Its id.
        id: String,
        /// What they say.
        why: String,
    },
    /// Copies of the same partitions share a machine.
    #[error(
        "{0}: the loss of it would take several copies at once; they are moved apart as soon as \
         there are workers enough, so add or free one"
    )]
    SharedMachine(String),
}

impl Refusal {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unusable(_) => "Unusable",
            Self::OtherName { .. } => "ClusterNameDiffers",
            Self::OtherReplication { .. } => "ReplicationDiffers",
            Self::RackElsewhere { .. } => "RackElsewhere",
            Self::SeveralClusters(_) => "SeveralClusters",
            Self::ForeignVolume { .. } => "ForeignVolume",
            Self::VolumesLost(_) => "VolumesLost",
            Self::NameTaken(_) => "NameTaken",
            Self::NotFormable(_) => "WaitingForNodes",
            Self::TooFewWorkers { .. } => "TooFewWorkers",
            Self::TooFewMachines { .. } => "TooFewMachines",
            Self::TooLittleSpace { .. } => "TooLittleSpace",
            Self::RackWaits { .. } => "RackWaits",
            Self::ChangeWaits(_) => "ChangeWaits",
            Self::Unidentified(_) => "NodeUnknown",
            Self::NoMajority(_) => "NoMajority",
            Self::RingNotHealthy(_) => "RingNotHealthy",
            Self::MembersDown(_) => "MembersDown",
            Self::LostVolume { .. } => "LostVolume",
            Self::OperationRefused { .. } => "OperationRefused",
            Self::OperationFailed { .. } => "OperationFailed",
            Self::SharedMachine(_) => "SharedMachine",
        }
    }

    /// The condition that it stands in.
    pub fn condition(&self) -> &'static str {
        match self {
            Self::Unusable(_)
            | Self::OtherName { .. }
            | Self::OtherReplication { .. }
            | Self::RackElsewhere { .. } => condition::VALID,
            Self::SeveralClusters(_)
            | Self::ForeignVolume { .. }
            | Self::VolumesLost(_)
            | Self::NameTaken(_)
            | Self::TooFewWorkers { .. }
            | Self::MembersDown(_)
            | Self::LostVolume { .. }
            | Self::OperationRefused { .. }
            | Self::OperationFailed { .. }
            | Self::SharedMachine(_) => condition::DEGRADED,
            Self::NotFormable(_)
            | Self::TooFewMachines { .. }
            | Self::TooLittleSpace { .. }
            | Self::RackWaits { .. }
            | Self::ChangeWaits(_)
            | Self::Unidentified(_)
            | Self::NoMajority(_)
            | Self::RingNotHealthy(_) => condition::PROGRESSING,
        }
    }

    /// Whether only a change of the spec lifts it: nothing is under way on its account.
    pub fn needs_the_user(&self) -> bool {
        matches!(self, Self::TooFewMachines { .. } | Self::TooLittleSpace { .. })
    }

    /// Whether nothing at all may be changed while it stands.
    pub fn stops_everything(&self) -> bool {
        self.condition() == condition::VALID || matches!(self, Self::SeveralClusters(_))
    }
}
