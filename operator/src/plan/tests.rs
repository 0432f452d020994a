//! The planner on snapshots written by hand, and on random ones.

mod failed;
mod repair_due;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{
    Answering, Liveness, OperationKind, OperationStatus, Problem, RepairStatus, Status,
};
use kvasir_core::gossip::{DocumentId, Status as Belief};
use kvasir_core::gossip::{Gossip, GossipConfig, Labels, Me, MemberView};
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::{
    BucketSettings, Document, Member, MemberState, NewCluster, Operation as RingOperation,
    OperationRecord, OperationState, Ring, Sealed, TokenSecret,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::view::View;
use super::{Plan, Step, plan, repair};
use crate::crd::{
    KVCluster, KVClusterStatus, OperationStep, OperationType, RepairRecord, condition,
};
use crate::render::{inputs, racks};
use crate::snapshot::{
    Failure, NodeAnswer, NodeSeen, OperationSeen, PodSeen, SetSeen, Snapshot, Surroundings,
    VolumeSeen,
};

/// A cluster in terms of what matters to the planner.
#[derive(Debug, Clone)]
struct Scene {
    nodes: i32,
    image: &'static str,
    paused: bool,
    /// Pods by ordinal.
    pods: Vec<PodScene>,
    /// Members of the document, the first so many pods; 0 before forming. The first three own data.
    members: u8,
    formed_before: bool,
}

#[derive(Debug, Clone)]
struct PodScene {
    image: &'static str,
    running: bool,
    ready: bool,
    answers: bool,
    worker: String,
}

fn pod(number: usize) -> PodScene {
    let worker = format!("w{number}");
    PodScene { image: "k:1", running: true, ready: true, answers: true, worker }
}

fn scene(nodes: i32, members: u8) -> Scene {
    let pods = (0..usize::try_from(nodes).unwrap()).map(pod).collect();
    Scene { nodes, image: "k:1", paused: false, pods, members, formed_before: members > 0 }
}

fn id(number: usize) -> NodeId {
    NodeId::from_bytes([u8::try_from(number).unwrap() + 1; 16])
}

fn cluster(nodes: i32, image: &str, paused: bool) -> KVCluster {
    serde_json::from_value(json!({
        "apiVersion": "kvasir.dev/v1alpha1", "kind": "KVCluster",
        "metadata": {"name": "demo", "namespace": "ns", "uid": "u", "generation": 4,
            "resourceVersion": "9"},
        "spec": {"nodes": nodes, "clusterName": "demo", "image": image, "paused": paused,
            "storage": {"size": "1Gi"}},
    }))
    .unwrap()
}

fn document(members: u8) -> Sealed {
    let place = |number: usize| Member {
        machine: format!("w{number}"),
        rack: "default".into(),
        zone: String::new(),
        datacenter: "dc1".into(),
        weight: 100,
        state: MemberState::Active,
    };
    let new = NewCluster {
        cluster_id: ClusterId::from_bytes([9; 16]),
        cluster_name: "demo".into(),
        seed: 1,
        token_secret: TokenSecret([7; 32]),
        partition_bits: 4,
        members: (0..3).map(|number| (id(number), place(number))).collect(),
        replication: BTreeMap::from([("dc1".to_owned(), 3)]),
        defaults: BucketSettings::default(),
    };
    let (first, _) = Document::first(new).unwrap();
    let mut newest = Document { ..first };
    for number in 3..usize::from(members) {
        newest.members.insert(id(number), place(number));
    }
    Sealed::new(newest)
}

impl Scene {
    fn status_of(&self, number: usize) -> Status {
        let sealed = (self.members > 0 && number < usize::from(self.members))
            .then(|| document(self.members));
        let views: Vec<MemberView> = (0..self.pods.len()).map(|n| self.view(n)).collect();
        let ring = sealed.map(Ring::new);
        let answering = Answering {
            node: id(number),
            server_version: "1",
            ring: ring.as_ref(),
            members: &views,
            now_ms: 0,
            load: None,
        };
        answering.status()
    }

    fn view(&self, number: usize) -> MemberView {
        let member = number < usize::from(self.members);
        let sealed = member.then(|| document(self.members));
        let me = Me {
            id: id(number),
            boot: 1,
            nonce: 0,
            cluster: sealed.as_ref().map_or(ClusterId::nil(), |held| held.cluster_id),
            addresses: Default::default(),
            labels: Labels { machine: self.pods[number].worker.clone(), ..Labels::default() },
            version: "1".into(),
            mark: 1,
            document: sealed.map(|held| DocumentId { epoch: held.epoch, hash: held.hash().0 }),
            generation: 0,
        };
        let me = Me {
            addresses: kvasir_core::gossip::Addresses {
                peer: format!("p{number}:1"),
                ..me.addresses
            },
            ..me
        };
        let gossip = Gossip::new(me, vec![], GossipConfig::default()).unwrap();
        let up = self.pods[number].running;
        let status = if up { Belief::Alive } else { Belief::Down };
        MemberView { status, ..gossip.members(0).remove(0) }
    }

    fn pod(&self, number: usize) -> PodSeen {
        let scene = &self.pods[number];
        let spec = cluster(self.nodes, scene.image, false).spec;
        let answer = || {
            NodeSeen::Answered(Box::new(NodeAnswer {
                status: self.status_of(number),
                operation: OperationSeen::Unasked,
                repair: None,
            }))
        };
        PodSeen {
            name: format!("demo-default-{number}"),
            uid: format!("pod-{number}-{}", scene.image),
            rack: "default".into(),
            ordinal: i32::try_from(number).unwrap(),
            age: Duration::from_secs(100),
            ready_for: (scene.ready && scene.running).then_some(Duration::from_secs(60)),
            running: scene.running,
            trouble: (!scene.running).then(|| "ImagePullBackOff".to_owned()),
            deleting: false,
            ip: Some(format!("10.0.0.{number}")),
            worker: scene.worker.clone(),
            inputs: inputs(&spec, &racks::of(&spec)[0]),
            config_map: String::new(),
            volume: format!("data-demo-default-{number}"),
            node: if scene.answers && scene.running { answer() } else { NodeSeen::Unasked },
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut cluster = cluster(self.nodes, self.image, self.paused);
        if self.formed_before {
            let text = ClusterId::from_bytes([9; 16]).to_string();
            cluster.status =
                Some(KVClusterStatus { cluster_id: Some(text), ..KVClusterStatus::default() });
        }
        let count = self.pods.len();
        let set = SetSeen {
            name: "demo-default".into(),
            uid: "set".into(),
            resource_version: "5".into(),
            replicas: i32::try_from(count).unwrap(),
            ours: true,
            deleting: false,
        };
        let volume = |number: usize| VolumeSeen {
            name: format!("data-demo-default-{number}"),
            uid: format!("volume-{number}"),
            resource_version: "1".into(),
            rack: "default".into(),
            ordinal: i32::try_from(number).unwrap(),
            requested: Quantity("1Gi".into()),
            capacity: None,
            owned: false,
            deleting: false,
        };
        let volumes = (0..count).map(volume).map(|volume| (volume.name.clone(), volume));
        let pods = (0..count).map(|number| self.pod(number)).map(|pod| (pod.name.clone(), pod));
        let snapshot = Snapshot {
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
            cluster,
            sets: BTreeMap::from([("default".to_owned(), set)]),
            pods: pods.collect(),
            volumes: volumes.collect(),
            objects: BTreeMap::new(),
            surroundings: Surroundings::default(),
            failure: None,
        };
        compared(snapshot)
    }
}

/// The snapshot after a complete repair, so that none is due.
fn compared(mut snapshot: Snapshot) -> Snapshot {
    let layout = repair::layout(&View::of(&snapshot).0);
    if let Some(status) = &mut snapshot.cluster.status {
        let completed_at = Some(Time(snapshot.now));
        status.repair = Some(RepairRecord { layout, completed_at, attempted_at: None });
    }
    snapshot
}

/// The plan without the objects around it.
fn acts(plan: &Plan) -> Vec<&Step> {
    let upkeep = |step: &&Step| !matches!(step, Step::Apply(_) | Step::CreateToken(_));
    plan.steps.iter().filter(upkeep).collect()
}

fn holds<'a>(plan: &'a Plan, kind: &str) -> (&'a str, &'a str) {
    let found = plan.status.conditions.iter().find(|held| held.type_ == kind).unwrap();
    (&found.status, &found.reason)
}

/// The next snapshot, when nothing happened but what the plan wrote down.
fn next(snapshot: &Snapshot, plan: &Plan) -> Snapshot {
    let mut next = snapshot.clone();
    next.cluster.status = Some(plan.status.clone());
    next
}

#[test]
fn a_cluster_is_formed_by_all_its_nodes_once_all_of_them_answer() {
    let mut waiting = scene(3, 0);
    waiting.pods[2].answers = false;
    let plan_now = plan(&waiting.snapshot());
    assert_eq!(acts(&plan_now), Vec::<&Step>::new());
    assert_eq!(holds(&plan_now, condition::PROGRESSING).0, "True");
    let snapshot = scene(3, 0).snapshot();
    let forming = plan(&snapshot);
    let [Step::Form { pod, request }] = acts(&forming)[..] else { panic!("{:?}", forming.steps) };
    assert_eq!((pod.name.as_str(), request.nodes.len()), ("demo-default-0", 3));
    let journal = forming.status.operation.as_ref().unwrap();
    assert_eq!((journal.kind, journal.step), (OperationType::Form, OperationStep::Requested));
    let again = plan(&next(&snapshot, &forming));
    assert_eq!(acts(&again), acts(&forming), "a crash in between asks for the same");
}

#[test]
fn two_pods_on_one_worker_do_not_form_three_copies() {
    let mut crowded = scene(3, 0);
    crowded.pods[2].worker = "w1".to_owned();
    let plan = plan(&crowded.snapshot());
    assert_eq!(acts(&plan), Vec::<&Step>::new());
    assert_eq!(holds(&plan, condition::DEGRADED), ("True", "TooFewWorkers"));
}

#[test]
fn what_was_formed_once_is_never_formed_again() {
    let blank = Scene { formed_before: true, ..scene(3, 0) };
    let plan = plan(&blank.snapshot());
    assert_eq!(acts(&plan), Vec::<&Step>::new());
    assert_eq!(holds(&plan, condition::DEGRADED), ("True", "VolumesLost"));
    assert_eq!(holds(&plan, condition::INITIALIZED).0, "True");
}

#[test]
fn a_newcomer_joins_through_a_member_and_takes_its_share() {
    let snapshot = scene(4, 3).snapshot();
    let joining = plan(&snapshot);
    let [Step::Post { pod, request }] = acts(&joining)[..] else { panic!("{:?}", joining.steps) };
    assert_eq!(pod.name, "demo-default-0");
    assert_eq!((request.kind, request.rebalance), (OperationKind::Join, None));
    assert_eq!(request.node, Some(id(3)));
    assert_eq!(request.id, joining.status.operation.as_ref().unwrap().id);
    let done = Snapshot { cluster: next(&snapshot, &joining).cluster, ..scene(4, 4).snapshot() };
    let over = plan(&done);
    assert_eq!((over.status.operation.clone(), acts(&over)), (None, vec![]));
    // Whatever made it a member did not give it any data: everybody is given their share.
    assert_eq!(holds(&over, condition::REBALANCE_PENDING), ("True", "MembersIdle"));
    let after = plan(&next(&done, &over));
    let [Step::Post { request, .. }] = acts(&after)[..] else { panic!("{:?}", after.steps) };
    assert_eq!((request.kind, request.node), (OperationKind::Rebalance, None));
    let mut refused = next(&done, &after);
    let failure = Failure {
        step: acts(&after)[0].words(),
        reason: "Refused".to_owned(),
        message: "there is no such table".to_owned(),
        problem: Some(Box::new(Problem::new(code::BAD_REQUEST, "no"))),
    };
    refused.failure = Some(failure);
    let given_up = plan(&refused);
    assert_eq!(given_up.status.operation, None, "until something is different");
    let calm = plan(&next(&done, &given_up));
    let [Step::Post { request, .. }] = acts(&calm)[..] else { panic!("{:?}", calm.steps) };
    assert_eq!(request.kind, OperationKind::Repair, "after every change");
}

#[test]
fn nodes_that_come_together_join_without_data_but_for_the_last() {
    let joining = plan(&scene(5, 3).snapshot());
    let [Step::Post { request, .. }] = acts(&joining)[..] else { panic!("{:?}", joining.steps) };
    assert_eq!((request.node, request.rebalance), (Some(id(3)), Some(false)));
    assert!(joining.status.operation.as_ref().unwrap().without_data);
    let last = plan(&scene(5, 4).snapshot());
    let [Step::Post { request, .. }] = acts(&last)[..] else { panic!("{:?}", last.steps) };
    assert_eq!((request.node, request.rebalance), (Some(id(4)), None));
}

#[test]
fn a_blank_node_in_the_pod_of_a_member_that_is_not_heard_takes_its_place() {
    let calm = scene(4, 4).snapshot();
    let mut known = next(&calm, &plan(&calm));
    known.cluster.status.as_mut().unwrap().operation = None;
    let row = &known.cluster.status.as_ref().unwrap().node_statuses[3];
    assert_eq!((row.node_id.as_str(), row.pod.as_str()), (&*id(3).to_string(), "demo-default-3"));
    // The node in the pod of the fourth is another one now, and gossip says that the old one is down.
    let mut lost = known.clone();
    for pod in lost.pods.values_mut() {
        let NodeSeen::Answered(answer) = &mut pod.node else { continue };
        let mut new = answer.status.nodes.iter().find(|row| row.id == id(3)).unwrap().clone();
        (new.id, new.member) = (id(7), None);
        for row in answer.status.nodes.iter_mut().filter(|row| row.id == id(3)) {
            row.liveness = Liveness::Down;
        }
        answer.status.nodes.push(new);
        if answer.status.answered_by == id(3) {
            (answer.status.answered_by, answer.status.cluster) = (id(7), None);
        }
    }
    let replacing = plan(&lost);
    let [Step::Post { request, .. }] = acts(&replacing)[..] else {
        panic!("{:?}", replacing.steps)
    };
    assert_eq!(request.kind, OperationKind::Replace);
    assert_eq!((request.node, request.replaces), (Some(id(7)), Some(id(3))));
    request.validate().unwrap();
    assert_eq!(holds(&replacing, condition::DEGRADED), ("True", "LostVolume"));
    // A member that is still heard is not lost, whoever has its pod.
    let mut heard = lost.clone();
    for pod in heard.pods.values_mut() {
        let NodeSeen::Answered(answer) = &mut pod.node else { continue };
        for row in answer.status.nodes.iter_mut().filter(|row| row.id == id(3)) {
            row.liveness = Liveness::Suspect;
        }
    }
    let waits = plan(&heard);
    assert!(
        acts(&waits).iter().all(|step| !matches!(step, Step::Post { request, .. }
            if matches!(request.kind, OperationKind::Replace | OperationKind::Join))),
        "{:?}",
        waits.steps
    );
}

#[test]
fn only_a_node_that_owns_nothing_leaves_and_its_pod_goes_after_it() {
    let four = Scene { nodes: 3, ..scene(4, 4) };
    let snapshot = four.snapshot();
    let leaving = plan(&snapshot);
    let [Step::Post { request, .. }] = acts(&leaving)[..] else { panic!("{:?}", leaving.steps) };
    assert_eq!((request.kind, request.node), (OperationKind::Leave, Some(id(3))));
    let mut left = Scene { members: 3, ..four }.snapshot();
    left.cluster.status = Some(leaving.status.clone());
    let shrinking = plan(&left);
    let [Step::Shrink { uid, pod, object, .. }] = acts(&shrinking)[..] else {
        panic!("{:?}", shrinking.steps)
    };
    assert_eq!((uid.as_str(), pod.uid.as_str()), ("set", "pod-3-k:1"));
    assert_eq!(object["spec"]["replicas"], 3);
    assert!(shrinking.status.operation.as_ref().unwrap().done_epoch.is_some());
    let mut silent = left.clone();
    for pod in silent.pods.values_mut().take(2) {
        pod.node = NodeSeen::Silent("no answer".to_owned());
    }
    assert_eq!(acts(&plan(&silent)), Vec::<&Step>::new(), "absence is no evidence");
    let owner = plan(&Scene { nodes: 2, ..scene(3, 3) }.snapshot());
    assert_eq!(acts(&owner), Vec::<&Step>::new());
}

#[test]
fn pods_are_replaced_one_at_a_time_and_only_while_all_copies_are_up() {
    let newer = Scene { image: "k:2", ..scene(3, 3) };
    let snapshot = newer.snapshot();
    let rolling = plan(&snapshot);
    let [Step::Evict(pod)] = acts(&rolling)[..] else { panic!("{:?}", rolling.steps) };
    assert_eq!((pod.name.as_str(), pod.uid.as_str()), ("demo-default-2", "pod-2-k:1"));
    let mut one_down = newer.clone();
    one_down.pods[0].running = false;
    one_down.pods[0].image = "k:2";
    let waiting = plan(&one_down.snapshot());
    assert_eq!(acts(&waiting), Vec::<&Step>::new());
    assert_eq!(holds(&waiting, condition::PROGRESSING), ("True", "RingNotHealthy"));
    one_down.pods[0].image = "k:1";
    let mended = plan(&one_down.snapshot());
    let [Step::DeletePod(pod)] = acts(&mended)[..] else { panic!("{:?}", mended.steps) };
    assert_eq!(pod.name, "demo-default-0", "what does not run goes first");
}

#[test]
fn a_member_on_another_worker_is_relocated_before_anything_else() {
    let mut moved = Scene { image: "k:2", ..scene(4, 3) };
    moved.pods[1].worker = "w9".to_owned();
    moved.pods[1].image = "k:2";
    let plan = plan(&moved.snapshot());
    let [Step::Post { request, .. }] = acts(&plan)[..] else { panic!("{:?}", plan.steps) };
    assert_eq!(request.kind, OperationKind::Relocate);
    assert_eq!((request.node, request.machine.as_deref()), (Some(id(1)), Some("w9")));
    request.validate().unwrap();
}

#[test]
fn a_volume_that_is_too_small_grows_and_none_shrinks() {
    let mut snapshot = scene(3, 3).snapshot();
    snapshot.volumes.get_mut("data-demo-default-1").unwrap().requested = Quantity("512Mi".into());
    snapshot.volumes.get_mut("data-demo-default-2").unwrap().requested = Quantity("2Gi".into());
    let plan = plan(&snapshot);
    let [Step::GrowVolume { name, uid, size }] = acts(&plan)[..] else {
        panic!("{:?}", plan.steps)
    };
    let wanted = ("data-demo-default-1", "volume-1", "1Gi");
    assert_eq!((name.as_str(), uid.as_str(), size.as_str()), wanted);
}

#[test]
fn another_name_in_the_document_stops_everything() {
    let mut snapshot = scene(3, 3).snapshot();
    snapshot.cluster.spec.cluster_name = "other".to_owned();
    let plan = plan(&snapshot);
    assert_eq!(plan.steps, Vec::<Step>::new());
    assert_eq!(holds(&plan, condition::VALID), ("False", "ClusterNameDiffers"));
    assert_eq!(holds(&plan, condition::READY).0, "False");
}

fn any_pod(number: usize) -> impl Strategy<Value = PodScene> {
    let image = prop_oneof![Just("k:1"), Just("k:2")];
    let worker = prop_oneof![4 => Just(format!("w{number}")), 1 => Just("w9".to_owned())];
    (image, any::<bool>(), any::<bool>(), any::<bool>(), worker).prop_map(
        |(image, running, ready, answers, worker)| PodScene {
            image,
            running,
            ready,
            answers,
            worker,
        },
    )
}

fn any_scene() -> impl Strategy<Value = Scene> {
    let pods = prop::collection::vec(any::<u8>(), 3..=6).prop_flat_map(|all| {
        let pods: Vec<_> = (0..all.len()).map(any_pod).collect();
        pods
    });
    let image = prop_oneof![Just("k:1"), Just("k:2")];
    (pods, 3..=6i32, image, prop_oneof![Just(0u8), 3..=6u8], any::<bool>(), any::<bool>()).prop_map(
        |(pods, nodes, image, members, paused, before)| {
            let members = members.min(u8::try_from(pods.len()).unwrap());
            let formed_before = before || members > 0;
            Scene { nodes, image, paused, pods, members, formed_before }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever was seen: the same plan twice; at most one act; nothing while paused; nothing
    /// formed twice; a running pod goes only while every member is up; a journal for every act.
    #[test]
    fn no_plan_does_harm(scene in any_scene()) {
        let snapshot = scene.snapshot();
        let planned = plan(&snapshot);
        prop_assert_eq!(&planned, &plan(&snapshot));
        let acts = acts(&planned);
        prop_assert!(acts.len() <= 1, "{:?}", acts);
        prop_assert!(!scene.paused || planned.steps.is_empty());
        prop_assert!(acts.is_empty() || planned.status.operation.is_some());
        let all_up = (0..usize::from(scene.members))
            .all(|member| scene.pods[member].running && scene.pods[member].ready);
        match acts.first() {
            Some(Step::Form { .. }) => {
                prop_assert!(!scene.formed_before);
                prop_assert!(scene.pods.iter().all(|pod| pod.running && pod.answers));
            }
            Some(Step::Evict(pod)) => {
                let number: usize = pod.name.rsplit('-').next().unwrap().parse().unwrap();
                prop_assert!(all_up || scene.members == 0 || number >= usize::from(scene.members)
                    || (0..usize::from(scene.members)).all(|member| scene.pods[member].running));
                prop_assert!(scene.pods[number].image != scene.image);
            }
            Some(Step::DeletePod(pod)) => {
                let number: usize = pod.name.rsplit('-').next().unwrap().parse().unwrap();
                prop_assert!(!scene.pods[number].running);
                prop_assert!(scene.pods[number].image != scene.image);
            }
            Some(Step::Post { request, .. }) if request.kind == OperationKind::Leave => {
                let leaver = request.node.unwrap();
                prop_assert!((0..3).all(|owner| id(owner) != leaver));
            }
            _ => {}
        }
        for held in &planned.status.conditions {
            prop_assert_eq!(held.observed_generation, Some(4));
        }
        if holds(&planned, condition::READY).0 == "True" {
            prop_assert_eq!(scene.nodes as usize, scene.pods.len());
            let all = scene.pods.iter().all(|pod| {
                pod.running && pod.ready && pod.answers && pod.image == scene.image
            });
            prop_assert!(all);
            prop_assert_eq!(usize::from(scene.members), scene.pods.len());
        }
        let text = serde_json::to_value(&planned.status).unwrap();
        prop_assert!(text["conditions"].as_array().map_or(0, Vec::len) == condition::ALL.len());
        prop_assert!(text != Value::Null);
    }
}
