//! Puts together what `GET /v1/status` answers, from the document, gossip and the own store.

use std::collections::BTreeMap;

use crate::admin_api::{
    ClusterStatus, Liveness, NodeLoad, NodeStatus, OperationStatus, PartitionHealth, SharedMachine,
    Status,
};
use crate::gossip::MemberView;
use crate::id::NodeId;
use crate::quorum::Level;
use crate::ring::Ring;
use crate::ring::ending;
use crate::ring::{BucketSettings, Document, Member, OperationRecord};

/// What the answering node knows.
#[derive(Debug)]
pub struct Answering<'a> {
    /// Who it is.
    pub node: NodeId,
    /// Version of its program.
    pub server_version: &'a str,
    /// The ring that it uses; none before the cluster is formed.
    pub ring: Option<&'a Ring>,
    /// Everyone that gossip knows, itself included.
    pub members: &'a [MemberView],
    /// The clock that the members' times are on, in milliseconds.
    pub now_ms: u64,
    /// What its own store holds.
    pub load: Option<NodeLoad>,
}

impl Answering<'_> {
    /// The status.
    pub fn status(self) -> Status {
        let heard: BTreeMap<NodeId, &MemberView> =
            self.members.iter().map(|view| (view.id, view)).collect();
        let serves = |id: NodeId| heard.get(&id).is_some_and(|view| view.serves());
        let defaults = self.ring.map(|ring| &ring.document().defaults);
        let levels: (Level, Level) = match defaults {
            Some(BucketSettings { r, w, .. }) => (*r, *w),
            None => (Level::Quorum, Level::Quorum),
        };
        let member = self.ring.and_then(|ring| ring.document().members.get(&self.node));
        let local = match (member, heard.get(&self.node)) {
            (Some(member), _) => member.datacenter.as_str(),
            (None, Some(view)) => view.labels.datacenter.as_str(),
            (None, None) => "",
        };
        let partitions = self
            .ring
            .map_or_else(PartitionHealth::default, |ring| PartitionHealth::of(ring, serves, local));
        Status {
            safety: partitions.safety(levels),
            answered_by: self.node,
            server_version: self.server_version.to_owned(),
            cluster: self.ring.map(|ring| cluster(ring, &heard)),
            partitions,
            shared_machines: self
                .ring
                .map(|ring| SharedMachine::all(ring.document()))
                .unwrap_or_default(),
            nodes: self.rows(&heard),
            operations: self
                .ring
                .map(|ring| running(ring.document(), self.members))
                .unwrap_or_default(),
        }
    }

    fn rows(&self, heard: &BTreeMap<NodeId, &MemberView>) -> Vec<NodeStatus> {
        let members = self.ring.map(|ring| &ring.document().members);
        let owned = self.ring.map(owned).unwrap_or_default();
        let all: u32 = owned.values().sum();
        let named = members.into_iter().flat_map(|members| members.keys());
        let mut ids: Vec<NodeId> = named.chain(heard.keys()).copied().collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter()
            .map(|id| {
                let member = members.and_then(|members| members.get(&id));
                let mut row = row(id, member, heard.get(&id).copied(), self.now_ms);
                row.partitions = owned.get(&id).copied().unwrap_or(0);
                row.owned = f64::from(row.partitions) / f64::from(all.max(1));
                row.load = if id == self.node { self.load.clone() } else { None };
                row
            })
            .collect()
    }
}

fn cluster(ring: &Ring, heard: &BTreeMap<NodeId, &MemberView>) -> ClusterStatus {
    let document = ring.document();
    let up = || {
        let views = document.members.keys().filter_map(|id| heard.get(id));
        views.filter(|view| view.status.is_up())
    };
    let this = (ring.epoch(), ring.hash().0);
    let uses_this = |view: &&MemberView| {
        view.document.is_some_and(|document| (document.epoch, document.hash) == this)
    };
    ClusterStatus {
        cluster_id: document.cluster_id,
        cluster_name: document.cluster_name.clone(),
        epoch: document.epoch,
        document_hash: ring.hash().to_string(),
        settled: up().all(uses_this),
        members: document.members.len() as u32,
        members_up: up().count() as u32,
        replication: document.replication.clone(),
        partition_bits: document.partition_bits,
        defaults: (&document.defaults).into(),
    }
}

/// The operations that are not over, and those that failed at what is still to be done.
fn running(document: &Document, members: &[MemberView]) -> Vec<OperationStatus> {
    let told = |(_, record): &(&String, &OperationRecord)| {
        record.is_running() || ending::is_left_undone(document, record)
    };
    let running = document.operations.iter().filter(told);
    let status = |(id, record): (&String, &OperationRecord)| {
        OperationStatus::of(id, record).told(document, members)
    };
    running.map(status).collect()
}

/// Partition replicas by owner.
fn owned(ring: &Ring) -> BTreeMap<NodeId, u32> {
    let mut owned = BTreeMap::new();
    for slot in ring.document().table.iter().flat_map(|entry| entry.slots.values().flatten()) {
        *owned.entry(slot.owner).or_default() += 1;
    }
    owned
}

/// One node: its place as the document says it, or else as the node itself says.
fn row(id: NodeId, member: Option<&Member>, view: Option<&MemberView>, now_ms: u64) -> NodeStatus {
    let labels = view.map(|view| view.labels.clone()).unwrap_or_default();
    let addresses = view.map(|view| view.addresses.clone()).unwrap_or_default();
    let place = member.map_or(
        (labels.machine, labels.rack, labels.zone, labels.datacenter, labels.weight),
        |member| {
            let Member { machine, rack, zone, datacenter, weight, .. } = member.clone();
            (machine, rack, zone, datacenter, weight)
        },
    );
    let (machine, rack, zone, datacenter, weight) = place;
    NodeStatus {
        id,
        liveness: view.map_or(Liveness::Unheard, |view| view.status.into()),
        for_ms: view.map(|view| now_ms.saturating_sub(view.since_ms)),
        member: member.map(|member| member.state),
        http: addresses.http,
        peer: addresses.peer,
        admin: addresses.admin,
        machine,
        rack,
        zone,
        datacenter,
        weight,
        partitions: 0,
        owned: 0.0,
        epoch: view.and_then(|view| view.document).map(|document| document.epoch),
        boot: view.map(|view| view.heartbeat.boot),
        mark: view.map(|view| view.mark),
        phi: view.map(|view| (view.phi * 100.0).round() / 100.0),
        version: view.map(|view| view.version.clone()).unwrap_or_default(),
        not_serving: view.and_then(|view| view.not_serving),
        keeps_copies: view.is_some_and(|view| view.keeps_copies),
        load: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin_api::Verdict;
    use crate::gossip::{DocumentId, Gossip, GossipConfig, Me, NotServing, Status as Belief};
    use crate::id::ClusterId;
    use crate::ring::Sealed;
    use crate::ring::fixtures::{cluster, node};

    fn view(number: u8, status: Belief, document: Option<DocumentId>) -> MemberView {
        let me = Me {
            id: node(number),
            boot: 3,
            nonce: 0,
            cluster: ClusterId::nil(),
            addresses: crate::gossip::Addresses {
                peer: format!("n{number}:8099"),
                ..Default::default()
            },
            labels: Default::default(),
            version: "0.1.0".to_owned(),
            mark: 7,
            document,
            generation: 0,
        };
        let gossip = Gossip::new(me, vec![], GossipConfig::default()).unwrap();
        MemberView { status, since_ms: 500, ..gossip.members(0).remove(0) }
    }

    #[test]
    fn the_status_of_a_cluster_with_one_node_down_one_unheard_and_one_stranger() {
        let ring = Ring::new(Sealed::new(cluster(4, 3)));
        let document = Some(DocumentId { epoch: 1, hash: ring.hash().0 });
        let members = [
            view(0, Belief::Alive, document),
            view(1, Belief::Suspect, document),
            view(2, Belief::Down, None),
            view(7, Belief::Alive, None),
        ];
        let answering = Answering {
            node: node(0),
            server_version: "0.1.0",
            ring: Some(&ring),
            members: &members,
            now_ms: 2_000,
            load: Some(NodeLoad { disk_bytes: 5, ..NodeLoad::default() }),
        };
        let status = answering.status();
        let about = status.cluster.as_ref().unwrap();
        assert_eq!((about.members, about.members_up, about.settled), (4, 2, true));
        assert_eq!(status.nodes.len(), 5);
        let by_id = |number: u8| status.nodes.iter().find(|row| row.id == node(number)).unwrap();
        assert_eq!(by_id(0).load.as_ref().unwrap().disk_bytes, 5);
        assert_eq!((by_id(2).liveness, by_id(2).for_ms), (Liveness::Down, Some(1_500)));
        assert_eq!((by_id(3).liveness, by_id(3).for_ms), (Liveness::Unheard, None));
        assert_eq!(by_id(3).machine, "machine3");
        assert_eq!((by_id(7).member, by_id(7).partitions), (None, 0));
        assert_eq!(by_id(1).peer, "n1:8099");
        let shares: f64 = status.nodes.iter().map(|row| row.owned).sum();
        assert!((shares - 1.0).abs() < 1e-9);
        // Two of four are up and each partition has three of the four: some have one copy up.
        assert_eq!(status.safety.verdict, Verdict::Unavailable);
        assert!(status.headline().starts_with("test  UNAVAILABLE"), "{}", status.headline());
    }

    #[test]
    fn an_older_document_at_a_member_that_is_up_is_not_settled() {
        let ring = Ring::new(Sealed::new(cluster(3, 3)));
        let document = Some(DocumentId { epoch: 1, hash: ring.hash().0 });
        let members = [
            view(0, Belief::Alive, document),
            view(1, Belief::Alive, document),
            view(2, Belief::Alive, Some(DocumentId { epoch: 1, hash: [0; 32] })),
        ];
        let answering = |members| Answering {
            node: node(0),
            server_version: "0.1.0",
            ring: Some(&ring),
            members,
            now_ms: 0,
            load: None,
        };
        let status = answering(&members).status();
        assert_eq!(status.safety.verdict, Verdict::Safe);
        assert!(!status.cluster.unwrap().settled);
        assert!(answering(&members[..2]).status().cluster.unwrap().settled);
    }

    #[test]
    fn a_member_that_runs_and_serves_nothing_holds_no_copy() {
        let ring = Ring::new(Sealed::new(cluster(3, 3)));
        let mut members = [0, 1, 2].map(|number| view(number, Belief::Alive, None));
        members[1].not_serving = Some(NotServing::NeedsRebuild);
        let answering = Answering {
            node: node(0),
            server_version: "0.1.0",
            ring: Some(&ring),
            members: &members,
            now_ms: 0,
            load: None,
        };
        let status = answering.status();
        assert_eq!(status.safety.verdict, Verdict::Degraded);
        assert_eq!(status.partitions.under_replicated, status.partitions.total);
        assert_eq!(status.cluster.as_ref().unwrap().members_up, 3, "it is up all the same");
        let row = status.nodes.iter().find(|row| row.id == node(1)).unwrap();
        assert_eq!(row.not_serving, Some(NotServing::NeedsRebuild));
        let json = serde_json::to_value(row).unwrap();
        assert_eq!(
            (&json["notServing"], &json["liveness"]),
            (&"needsRebuild".into(), &"alive".into())
        );
    }

    #[test]
    fn before_the_cluster_is_formed() {
        let members = [view(0, Belief::Alive, None)];
        let answering = Answering {
            node: node(0),
            server_version: "0.1.0",
            ring: None,
            members: &members,
            now_ms: 0,
            load: None,
        };
        let status = answering.status();
        assert_eq!(status.headline(), "NOT FORMED  this node belongs to no cluster yet");
        assert_eq!((status.summary(), status.nodes.len()), (None, 1));
    }
}
