//! What this node knows of the cluster at one instant: the newest chosen document and the member list.
//!
//! Written by the control tasks, read by every worker without a lock. Liveness steers requests,
//! never ownership (DESIGN section 5).

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use kvasir_core::gossip::Status;
use kvasir_core::id::NodeId;
use kvasir_core::reclaim::Report;
use kvasir_core::ring::{Ring, Sealed};
use kvasir_core::version::TokenKey;

/// A member as seen from here.
#[derive(Debug, Clone)]
pub struct Member {
    /// `host:port` of its peer listener.
    pub peer_address: String,
    /// Alive, suspect or down.
    pub status: Status,
    /// It did not say that it serves no data.
    pub serves: bool,
    /// What it told last of its generation, its document and its stand-in copies.
    pub report: Report,
}

/// The cluster as its newest chosen document says.
#[derive(Debug)]
pub struct Formed {
    /// The document, made ready for routing.
    pub ring: Ring,
    /// Signs and checks tokens.
    pub token_key: TokenKey,
}

impl Formed {
    /// Prepares a chosen document for requests.
    pub fn new(document: Sealed) -> Self {
        let token_key = TokenKey(document.token_secret.0);
        Self { ring: Ring::new(document), token_key }
    }
}

/// One instant.
#[derive(Debug, Clone)]
pub struct View {
    /// This node.
    pub me: NodeId,
    /// This node's data center.
    pub datacenter: String,
    /// Absent until the cluster is formed or this node has learnt of it.
    pub formed: Option<Arc<Formed>>,
    /// Every member heard of, this node too.
    pub members: BTreeMap<NodeId, Member>,
    /// Why this node serves no data at the moment, if so.
    pub retired: Option<String>,
    /// The generation of this node when this was the newest view, or one before: whatever is read or
    /// minted by this view is stamped with it.
    pub generation: u64,
}

impl View {
    /// The view of a node that has heard of nobody.
    pub fn blank(me: NodeId, datacenter: &str) -> Self {
        Self {
            me,
            datacenter: datacenter.to_string(),
            formed: None,
            members: BTreeMap::new(),
            retired: None,
            generation: 0,
        }
    }

    /// Where a member listens for peers, unless it is known to be down.
    pub fn reachable(&self, node: NodeId) -> Option<&str> {
        let member = self.members.get(&node)?;
        (member.status != Status::Down).then_some(member.peer_address.as_str())
    }

    /// Lower is better: alive, suspect, and last those that are down, unknown or said to serve nothing.
    pub fn rank(&self, node: NodeId) -> u8 {
        match self.members.get(&node).filter(|member| member.serves).map(|m| m.status) {
            Some(Status::Alive) => 0,
            Some(Status::Suspect) => 1,
            Some(Status::Down) | None => 2,
        }
    }
}

/// The current view, shared by all threads of a node.
#[derive(Debug)]
pub struct Views(ArcSwap<View>);

impl Views {
    /// Starts with a view.
    pub fn new(view: View) -> Self {
        Self(ArcSwap::from_pointee(view))
    }

    /// The newest view; stays valid while it is held.
    pub fn load(&self) -> Arc<View> {
        self.0.load_full()
    }

    /// Replaces the view. Only the control tasks call this.
    pub fn store(&self, view: View) {
        self.0.store(Arc::new(view));
    }
}
