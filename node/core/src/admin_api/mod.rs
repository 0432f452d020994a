//! The admin API in types: what a node, the command line and the operator say to each other.
//!
//! The node answers these on its admin port; `node/ADMIN_API.md` is the same in prose, and a test
//! holds the two together. JSON fields are camelCase. Requests refuse unknown fields, so that a
//! misspelt option is an error instead of a silent default; answers may grow fields, and readers
//! ignore those that they do not know. Every error is a [`Problem`] with a stable `code`.
//!
//! Durations and times are milliseconds in fields that end in `Ms`; sizes are bytes in fields that
//! end in `Bytes`; digests and tags are lower-case hexadecimal strings, since JSON readers that
//! hold numbers as floats would garble 64 bits.

pub mod assemble;
pub mod buckets;
pub mod cluster;
pub mod health;
pub mod operations;
pub mod planned;
pub mod probes;
pub mod problem;
pub mod repair;
pub mod replica;
pub mod routes;
pub mod sharing;
pub mod status;

pub use assemble::Answering;
pub use buckets::{BucketAnswer, BucketList};
pub use cluster::{BucketDefaults, DocumentAnswer, DocumentPut, InitRequest};
pub use health::{PartitionHealth, Safety, Verdict};
pub use operations::{
    NodePlan, OperationKind, OperationPlan, OperationRequest, OperationState, OperationStatus,
    PartitionName, PlannedMove, Risk, RiskLevel,
};
pub use planned::{FewestMachines, MachineRisk};
pub use probes::{Check, Probe, ProbeStatus};
pub use problem::Problem;
pub use repair::{
    ComparedFirst, Comparison, ComparisonCause, RepairAction, RepairRequest, RepairStatus,
    TreeStatus,
};
pub use replica::{ActorName, DotName, ReplicaRead, ReplicaSibling, VersionRow};
pub use sharing::SharedMachine;
pub use status::{
    ClusterStatus, DefaultsStatus, DiskDamage, HandoffLoad, HeldUp, Liveness, NodeLoad, NodeStatus,
    PressureLoad, ReclaimLoad, Status,
};

#[cfg(test)]
mod tests;
