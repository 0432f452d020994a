//! The nodes: processes in pods, identities on volumes, and one cluster document by the real rules.
//!
//! What a node decides here is decided by `kvasir_core`: the first layout, the children of a
//! document, how moves go on, what is legal, what a status says. Left out is what takes time: ballots
//! are won or lost at once by counting who runs, gossip tells everyone in one turn, and a node did what
//! a move asks of it by the next.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{
    Answering, DocumentAnswer, InitRequest, NodeLoad, OperationRequest, OperationStatus, Problem,
    RepairStatus,
};
use kvasir_core::gossip::{
    Addresses, DocumentId, Gossip, GossipConfig, Labels, Me, MemberView, Status,
};
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::driver::{Copied, Limits, Report, Seems, asked, next_child};
use kvasir_core::ring::moves::Holder;
use kvasir_core::ring::operation::{self, Planned};
use kvasir_core::ring::{
    Document, Member, MemberState, NewCluster, Partition, Ring, Sealed, SlotState, TokenSecret,
    layout, legal_child,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{kubelet, text};

/// What survives a pod.
#[derive(Debug, Clone)]
pub struct Volume {
    /// Written at the first start.
    pub id: NodeId,
    /// The newest document that the node has.
    pub document: Option<Sealed>,
}

/// A node that runs.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its pod.
    pub pod: String,
    /// The pod's uid.
    pub uid: String,
    /// The claim of its volume, by uid.
    pub volume: String,
    /// Where it is.
    pub labels: Labels,
    /// The image that it runs.
    pub image: String,
}

impl Started {
    /// The node in a pod.
    pub fn of(pod: &Value, volume: String) -> Self {
        let setting = |name: &str| {
            let mut all = pod["spec"]["containers"][0]["env"].as_array().into_iter().flatten();
            let name = format!("KVASIR_NODE__{name}");
            let found = all.find(|variable| variable["name"] == name.as_str());
            found.and_then(|found| found["value"].as_str()).unwrap_or_default().to_owned()
        };
        let or = |given: String, otherwise: &str| {
            if given.is_empty() { otherwise.to_owned() } else { given }
        };
        Self {
            pod: text(pod, "/metadata/name").to_owned(),
            uid: text(pod, "/metadata/uid").to_owned(),
            volume,
            labels: Labels {
                machine: text(pod, "/spec/nodeName").to_owned(),
                rack: setting("RACK"),
                zone: setting("ZONE"),
                datacenter: or(setting("DATACENTER"), "dc1"),
                weight: 100,
            },
            image: text(pod, "/spec/containers/0/image").to_owned(),
        }
    }
}

/// All nodes of the world.
#[derive(Debug, Clone, Default)]
pub struct Nodes {
    volumes: BTreeMap<String, Volume>,
    running: BTreeMap<String, Started>,
    /// Clusters formed so far: more than one is a disaster.
    pub formed: u8,
    /// Rounds of repair stay at half.
    pub repairs_stand: bool,
    /// The code by which every operation is refused.
    pub refuses: Option<&'static str>,
    /// Moves begin and get no further than their first step.
    pub moves_stand: bool,
    /// Nodes that keep stand-in copies.
    pub keeping: BTreeSet<NodeId>,
    /// What every store says that it holds.
    pub load: NodeLoad,
}

type Reply = (u16, Value);

impl Nodes {
    /// A process starts; nothing happens when it runs already.
    pub fn start(&mut self, node: Started) {
        let number = self.volumes.len() as u8 + 1;
        self.volumes
            .entry(node.volume.clone())
            .or_insert_with(|| Volume { id: NodeId::from_bytes([number; 16]), document: None });
        self.running.entry(node.uid.clone()).or_insert(node);
    }

    /// The process of a pod stops.
    pub fn stop(&mut self, uid: &str) {
        self.running.remove(uid);
    }

    /// What a volume holds, by the uid of its claim.
    pub fn volume(&self, claim: &str) -> Option<&Volume> {
        self.volumes.get(claim)
    }

    /// The node id in a pod that runs.
    pub fn id_in(&self, pod: &str) -> Option<NodeId> {
        let node = self.running.values().find(|node| node.pod == pod)?;
        Some(self.volumes[&node.volume].id)
    }

    /// The newest document anywhere.
    pub fn document(&self) -> Option<&Sealed> {
        let documents = self.volumes.values().filter_map(|volume| volume.document.as_ref());
        documents.max_by_key(|document| document.epoch)
    }

    /// Does the document that the node in this pod has name it?
    pub fn is_member(&self, uid: &str) -> bool {
        self.running.get(uid).is_some_and(|node| {
            let volume = &self.volumes[&node.volume];
            let document = volume.document.as_ref();
            document.is_some_and(|document| document.members.contains_key(&volume.id))
        })
    }

    /// Every member that runs hears of the newest document; says whether that was news to one.
    pub fn gossip(&mut self) -> bool {
        let Some(newest) = self.document().cloned() else { return false };
        let mut news = false;
        let running: Vec<String> = self.running.values().map(|node| node.volume.clone()).collect();
        for claim in running {
            let Some(volume) = self.volumes.get_mut(&claim) else { continue };
            let epoch = volume.document.as_ref().map_or(0, |document| document.epoch);
            let concerned = epoch > 0 || newest.members.contains_key(&volume.id);
            if concerned && epoch < newest.epoch {
                volume.document = Some(newest.clone());
                news = true;
            }
        }
        news
    }

    /// Every move goes on by what the nodes that run did for it; says whether one did.
    pub fn drive(&mut self) -> bool {
        let Some(document) = self.document().cloned() else { return false };
        let up = self.running_ids();
        let mut voters = document.members.keys().filter(|id| up.contains(id));
        let driver = voters.next().copied();
        let Some(driver) = driver.filter(|_| (voters.count() + 1) * 2 > document.members.len())
        else {
            return false;
        };
        let told = if self.moves_stand { BTreeMap::new() } else { reports(&document, &up) };
        let seems = |node: NodeId| if up.contains(&node) { Seems::Up } else { Seems::Away };
        let limits = Limits { incoming: 64, outgoing: 64, total: 256 };
        let Some(child) = next_child(&document, &told, seems, &limits) else { return false };
        let child = Sealed::new(child);
        legal_child(&document, &child).expect("the driver proposes what is legal");
        for volume in self.volumes.values_mut().filter(|volume| volume.id == driver) {
            volume.document = Some(child.clone());
        }
        true
    }

    /// Stops what runs in none of these pods: their objects are gone.
    pub fn keep_only(&mut self, uids: &BTreeSet<String>) {
        self.running.retain(|uid, _| uids.contains(uid));
    }

    /// Is every member running and of one mind?
    pub fn healthy(&self) -> bool {
        let Some(newest) = self.document() else { return true };
        let up: Vec<NodeId> = self.running_ids();
        newest.members.keys().all(|id| up.contains(id))
    }

    /// Ids of all that run.
    pub fn running_ids(&self) -> Vec<NodeId> {
        self.running.values().map(|node| self.volumes[&node.volume].id).collect()
    }

    /// The node that is reached under this host: a pod's name (alone or as the first label of its
    /// DNS name), or its address.
    fn reached(&self, host: &str) -> Option<&Started> {
        let first = host.split('.').next().unwrap_or(host);
        self.running.values().find(|node| node.pod == first || kubelet::address(&node.uid) == host)
    }

    /// What the node at `host` answers on its admin port; none when nothing listens there.
    pub fn call(&mut self, host: &str, method: &str, path: &str, body: &Value) -> Option<Reply> {
        let node = self.reached(host)?.clone();
        let path = path.split('?').next().unwrap_or(path);
        Some(match (method, path) {
            ("GET", "/livez" | "/startupz") => (200, json!("ok")),
            ("GET", "/readyz") if self.is_member(&node.uid) => (200, json!("ok")),
            ("GET", "/readyz") => (503, json!("no document names this node")),
            ("GET", "/v1/status") => (200, self.status(&node)),
            ("GET", "/v1/repair") => (200, self.repair(&node)),
            ("GET", "/v1/cluster/document") => self.newest(&node),
            ("POST", "/v1/cluster/init") => {
                self.answer(body, |nodes, asked| nodes.init(&node, asked))
            }
            ("POST", "/v1/operations") => {
                self.answer(body, |nodes, asked| nodes.post(&node, asked))
            }
            ("GET", path) if path.starts_with("/v1/operations/") => {
                self.operation(&node, &path["/v1/operations/".len()..])
            }
            ("DELETE", path) if path.starts_with("/v1/operations/") => {
                self.cancel(&node, &path["/v1/operations/".len()..])
            }
            _ => refused(&Problem::new(code::UNKNOWN_ROUTE, path)),
        })
    }

    fn answer<T: DeserializeOwned>(
        &mut self,
        body: &Value,
        act: impl FnOnce(&mut Self, T) -> Result<Value, Box<Problem>>,
    ) -> Reply {
        match serde_json::from_value(body.clone()) {
            Err(error) => refused(&Problem::new(code::MALFORMED_BODY, error.to_string())),
            Ok(asked) => match act(self, asked) {
                Ok(answer) => (200, answer),
                Err(problem) => refused(&problem),
            },
        }
    }

    fn newest(&self, node: &Started) -> Reply {
        match &self.volumes[&node.volume].document {
            Some(document) => (200, json!(DocumentAnswer::of(document, false))),
            None => refused(&Problem::new(code::NOT_FORMED, "no document yet")),
        }
    }

    fn status(&self, node: &Started) -> Value {
        let volume = &self.volumes[&node.volume];
        let ring = volume.document.clone().map(Ring::new);
        let members = self.views();
        let answering = Answering {
            node: volume.id,
            server_version: version(&node.image),
            ring: ring.as_ref(),
            members: &members,
            now_ms: 60_000,
            load: Some(self.load.clone()),
        };
        json!(answering.status())
    }

    /// The last round that the document asked this node for, done unless rounds stand.
    fn repair(&self, node: &Started) -> Value {
        let document = self.volumes[&node.volume].document.as_ref();
        let operations = document.into_iter().flat_map(|document| &document.operations);
        let me = self.volumes[&node.volume].id;
        let asked = operations
            .filter(|(_, record)| {
                let asked = &record.operation;
                let repairs = asked.kind == operation::OperationKind::Repair;
                repairs && asked.node.is_none_or(|node| node == me)
            })
            .max_by_key(|(_, record)| record.finished);
        json!(RepairStatus {
            running: asked.is_some() && self.repairs_stand,
            comparisons_total: 8,
            comparisons_done: if self.repairs_stand { 4 } else { 8 },
            operation: asked.map(|(id, _)| id.clone()),
            ..RepairStatus::default()
        })
    }

    /// Everyone that gossip knows: all volumes that ever ran, those that do not run being down.
    fn views(&self) -> Vec<MemberView> {
        self.volumes
            .iter()
            .map(|(claim, volume)| {
                let node = self.running.values().find(|node| node.volume == *claim);
                let status = if node.is_some() { Status::Alive } else { Status::Down };
                let keeps_copies = self.keeping.contains(&volume.id);
                MemberView { keeps_copies, ..view(volume, node, status) }
            })
            .collect()
    }

    fn init(&mut self, node: &Started, asked: InitRequest) -> Result<Value, Box<Problem>> {
        if let Some(document) = &self.volumes[&node.volume].document {
            let newest = json!(DocumentAnswer::of(document, false));
            return problem(code::ALREADY_FORMED, "this node belongs to a cluster", Some(newest));
        }
        let mut members = BTreeMap::new();
        for name in &asked.nodes {
            let found = self.running.values().find(|node| {
                let volume = &self.volumes[&node.volume];
                let host = name.rsplit_once(':').map_or(name.as_str(), |(host, _)| host);
                volume.id.to_string() == *name
                    || self.reached(host).is_some_and(|reached| reached.uid == node.uid)
            });
            let Some(found) = found else {
                return problem(code::NODES_NOT_READY, name, None);
            };
            let volume = &self.volumes[&found.volume];
            if let Some(document) = &volume.document {
                let newest = json!(DocumentAnswer::of(document, false));
                return problem(code::ALREADY_FORMED, name, Some(newest));
            }
            members.insert(volume.id, member(&found.labels));
        }
        let copies = asked.replication.values().sum();
        let bits = asked.partition_bits;
        let new = NewCluster {
            cluster_id: ClusterId::from_bytes([0xc0 + self.formed; 16]),
            cluster_name: asked.cluster_name,
            seed: 42,
            token_secret: TokenSecret([7; 32]),
            partition_bits: bits.unwrap_or_else(|| layout::suggest_bits(members.len(), copies)),
            members,
            replication: asked.replication,
            defaults: asked.defaults.unwrap_or_default().settings(),
        };
        let (document, _) = Document::first(new).map_err(|error| Box::new(Problem::from(error)))?;
        let document = Sealed::new(document);
        self.formed += 1;
        for volume in self.volumes.values_mut() {
            if document.members.contains_key(&volume.id) {
                volume.document = Some(document.clone());
            }
        }
        Ok(json!(DocumentAnswer::of(&document, true)))
    }

    fn post(&mut self, node: &Started, asked: OperationRequest) -> Result<Value, Box<Problem>> {
        asked.validate().map_err(Box::new)?;
        if let Some(code) = self.refuses {
            return problem(code, "refused by the test", None);
        }
        let Some(parent) = self.volumes[&node.volume].document.clone() else {
            return problem(code::NOT_FORMED, "no document yet", None);
        };
        let up = self.running_ids();
        let voters = parent.members.keys().filter(|id| up.contains(id)).count();
        if voters * 2 <= parent.members.len() {
            return problem(code::NO_MAJORITY, "too few members run", None);
        }
        let joins = matches!(
            asked.kind,
            operation::OperationKind::Join | operation::OperationKind::Replace
        );
        let place = self
            .running
            .values()
            .find(|node| asked.node.is_some_and(|id| self.volumes[&node.volume].id == id));
        if joins && place.is_none() {
            return problem(code::UNKNOWN_NODE, "gossip does not know it", None);
        }
        let place = match &asked.machine {
            Some(machine) => {
                let present = asked.node.and_then(|id| parent.members.get(&id)).cloned();
                present.map(|present| Member { machine: machine.clone(), ..present })
            }
            None => place.filter(|_| joins).map(|node| member(&node.labels)),
        };
        let wanted = asked.operation(place);
        let planned = operation::plan_for(&parent, &asked.id, &wanted, asked.replaces)
            .map_err(|refused| Box::new(Problem::from(refused)))?;
        let record = match planned {
            Planned::AlreadyRecorded(record) => *record,
            Planned::Child(child) => {
                let record = child.operations[&asked.id].clone();
                let child = Sealed::new(*child);
                let claim = node.volume.clone();
                if let Some(volume) = self.volumes.get_mut(&claim) {
                    volume.document = Some(child);
                }
                self.gossip();
                record
            }
        };
        Ok(json!(OperationStatus::of(&asked.id, &record)))
    }

    fn cancel(&mut self, node: &Started, id: &str) -> Reply {
        let claim = node.volume.clone();
        let Some(document) = self.volumes[&claim].document.clone() else {
            return refused(&Problem::new(code::NOT_FORMED, "no document yet"));
        };
        match operation::cancel(&document, id) {
            Err(error) => return refused(&Problem::from(error)),
            Ok(None) => {}
            Ok(Some(child)) => {
                if let Some(volume) = self.volumes.get_mut(&claim) {
                    volume.document = Some(Sealed::new(child));
                }
                self.gossip();
            }
        }
        self.operation(node, id)
    }

    fn operation(&self, node: &Started, id: &str) -> Reply {
        let document = self.volumes[&node.volume].document.as_ref();
        match document.map(|document| document.operations.get(id)) {
            None => refused(&Problem::new(code::NOT_FORMED, "no document yet")),
            Some(None) => refused(&Problem::new(code::UNKNOWN_OPERATION, id)),
            Some(Some(record)) => (200, json!(OperationStatus::of(id, record))),
        }
    }
}

/// What nodes that run say of the moves in a document: all that was asked of them.
fn reports(document: &Document, up: &[NodeId]) -> BTreeMap<NodeId, Report> {
    let there = asked(document).into_iter().filter(|node| up.contains(node));
    let mut reports: BTreeMap<NodeId, Report> =
        there.map(|node| (node, Report { fenced: document.epoch, ..Report::default() })).collect();
    for (index, entry) in (0..).zip(&document.table) {
        let Some((_, slot)) = entry.moving() else { continue };
        let Some(next) = slot.state.successor() else { continue };
        let others = entry.slots.values().flatten().filter(|slot| !slot.state.moves());
        let sources: Vec<Holder<NodeId>> = match slot.state {
            SlotState::Copying(_) => vec![Holder { node: slot.owner, since: slot.since }],
            _ => others.map(|slot| Holder { node: slot.owner, since: slot.since }).collect(),
        };
        let copied = sources.into_iter().filter(|source| up.contains(&source.node)).map(|source| {
            let partition = Partition { k: document.partition_bits, index };
            Copied { partition, since: next.since, source, fenced: entry.version, bytes: 100 }
        });
        if let Some(report) = reports.get_mut(&next.node) {
            report.copied.extend(copied);
        }
    }
    reports
}

/// The tag of an image: what a node of this world says its version is.
fn version(image: &str) -> &str {
    image.rsplit_once(':').map_or("0.0.0", |(_, tag)| tag)
}

fn member(labels: &Labels) -> Member {
    Member {
        machine: labels.machine.clone(),
        rack: labels.rack.clone(),
        zone: labels.zone.clone(),
        datacenter: labels.datacenter.clone(),
        weight: labels.weight,
        state: MemberState::Active,
    }
}

fn view(volume: &Volume, node: Option<&Started>, status: Status) -> MemberView {
    let host = node.map_or_else(|| "gone".to_owned(), |node| kubelet::address(&node.uid));
    let document = volume.document.as_ref();
    let me = Me {
        id: volume.id,
        boot: 1,
        nonce: 0,
        cluster: document.map_or(ClusterId::nil(), |document| document.cluster_id),
        addresses: Addresses {
            peer: format!("{host}:8099"),
            http: format!("{host}:8098"),
            admin: format!("{host}:9098"),
        },
        labels: node.map_or_else(Labels::default, |node| node.labels.clone()),
        version: node.map_or("", |node| version(&node.image)).to_owned(),
        mark: 1,
        document: document
            .map(|document| DocumentId { epoch: document.epoch, hash: document.hash().0 }),
        generation: 0,
    };
    let gossip = Gossip::new(me, vec![], GossipConfig::default()).expect("a plain profile");
    MemberView { status, since_ms: 0, ..gossip.members(0).remove(0) }
}

fn problem<T>(code: &str, detail: &str, newest: Option<Value>) -> Result<T, Box<Problem>> {
    let problem = Problem::new(code, detail);
    Err(Box::new(match newest {
        Some(newest) => problem.fact("newest", newest),
        None => problem,
    }))
}

fn refused(problem: &Problem) -> Reply {
    (problem.status, json!(problem))
}
