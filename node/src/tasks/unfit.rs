//! Why a node serves no data though it runs. One place decides, so that probes, metrics, clients and
//! peers are told the same.

use kvasir_core::gossip::NotServing;
use kvasir_core::id::{ClusterId, NodeId};

use super::control::Control;

/// The reason, the gravest first. Nothing stored is changed by any of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Another process runs on a copy of this volume, and the cluster listens to that one. Final for
    /// this start.
    #[error(
        "another process at {address} runs on a copy of this volume (boot {boot}), and the others \
         listen to that one. try: stop it and start this node again, or start this one with an \
         empty data directory"
    )]
    Twin {
        /// The boot of the other.
        boot: u64,
        /// Its peer address.
        address: String,
    },
    /// The volume was put back to an older state, say, and copies on it that count were not made anew yet.
    /// Passes when they are.
    #[error("{0}")]
    PutBack(String),
    /// The volume belongs to another cluster than the nodes that it was told to ask. Passes when a
    /// member of its own cluster is heard, or at the next start with other seeds.
    #[error(
        "the volume belongs to cluster {own}, but the seed {seed} belongs to cluster {other}. try: \
         the seeds of its own cluster, or an empty data directory to join the other"
    )]
    OtherCluster {
        /// That of the volume.
        own: ClusterId,
        /// That of the seed.
        other: ClusterId,
        /// Which seed answered so.
        seed: String,
    },
    /// The newest document does not name the node. Passes when it joins.
    #[error("node {node} is no member as of epoch {epoch}")]
    NotMember {
        /// This node.
        node: NodeId,
        /// Of the document.
        epoch: u64,
    },
    /// It has no generation yet: a majority of the members was not heard. Passes when it is.
    #[error(
        "this member has no generation yet: a majority of the others was not heard. try: again in 2 s"
    )]
    NoGeneration,
    /// The others have not been asked yet. Passes within seconds.
    #[error("starting: asking the other members what they remember. try: again in 2 s")]
    Starting,
}

impl Unfit {
    /// Every stable code.
    pub const CODES: [&'static str; 6] =
        ["twin", "put_back", "other_cluster", "not_member", "starting", "no_generation"];

    /// A stable word for metrics.
    pub fn code(&self) -> &'static str {
        let number = match self {
            Self::Twin { .. } => 0,
            Self::PutBack(_) => 1,
            Self::OtherCluster { .. } => 2,
            Self::NotMember { .. } => 3,
            Self::Starting => 4,
            Self::NoGeneration => 5,
        };
        Self::CODES[number]
    }

    /// What the others are told of it. A twin and a node of another cluster are not heard, and a start is
    /// over within seconds.
    pub fn told(&self) -> Option<NotServing> {
        match self {
            Self::PutBack(_) => Some(NotServing::NeedsRebuild),
            Self::NotMember { .. } => Some(NotServing::NotMember),
            Self::Twin { .. } | Self::OtherCluster { .. } | Self::Starting | Self::NoGeneration => {
                None
            }
        }
    }

    /// Why this node serves no data now; none when it does, and before it belongs to a cluster.
    pub fn of(control: &Control) -> Option<Self> {
        let formed = control.formed.borrow().clone();
        let document = formed.as_ref().map(|formed| formed.ring.document());
        let aside = control.set_aside.reason(document, control.identity.node);
        let twin = Self::twin(control);
        twin.or_else(|| aside.map(Self::PutBack)).or_else(|| Self::of_all(control))
    }

    fn twin(control: &Control) -> Option<Self> {
        let gossip = control.gossip.borrow();
        let (boot, address) = gossip.twin()?;
        Some(Self::Twin { boot, address: address.to_string() })
    }

    /// Why not even those copies are used that were made anew since the others were set aside.
    pub fn of_all(control: &Control) -> Option<Self> {
        if let Some(twin) = Self::twin(control) {
            return Some(twin);
        }
        let formed = control.formed.borrow().clone()?;
        let (document, node) = (formed.ring.document(), control.identity.node);
        let member = document.members.contains_key(&node);
        other_cluster(control, document.cluster_id)
            .or_else(|| (!member).then_some(Self::NotMember { node, epoch: document.epoch }))
            .or_else(|| control.starting.get().then_some(Self::Starting))
            .or_else(|| (control.replica.generation().now() == 0).then_some(Self::NoGeneration))
    }
}

/// A seed refused this node as one of another cluster, and no node of its own is up. While one is,
/// a seed that leads elsewhere is only a wrong address, which metrics and the log tell of.
fn other_cluster(control: &Control, own: ClusterId) -> Option<Unfit> {
    let foreign = |seed: &String| Some((seed.clone(), control.peers.other_cluster(seed)?));
    let (seed, other) = control.seeds.borrow().iter().find_map(foreign)?;
    let known = control.gossip.borrow().members(control.now_ms());
    let alone = !known.iter().any(|m| !m.me && m.cluster == own && m.status.is_up());
    alone.then_some(Unfit::OtherCluster { own, other, seed })
}
