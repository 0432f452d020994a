//! The JSON on the wire, word for word: a change here breaks every client.

use std::collections::BTreeMap;

use serde_json::{from_value, json, to_value};

use super::*;
use crate::gossip::Labels;
use crate::id::{ClusterId, NodeId};
use crate::quorum::Level;
use crate::ring::fixtures::cluster;
use crate::ring::{
    Document, Durability, Member, MemberState, Mode, OperationRecord, Partition, Sealed,
};
use crate::version::{Actor, Context, Dot, Record, Sibling, SiblingSet, Stamp};

fn node(number: u8) -> NodeId {
    NodeId::from_bytes([number; 16])
}

const N1: &str = "01010101-0101-0101-0101-010101010101";

#[test]
fn init_request() {
    let json = json!({
        "clusterName": "prod",
        "replication": {"dc1": 3},
        "nodes": ["10.0.0.1:8099", N1],
        "defaults": {"r": "quorum", "w": "2", "durability": "group", "sloppy": false}
    });
    let request: InitRequest = from_value(json.clone()).unwrap();
    assert_eq!(request.replication, BTreeMap::from([("dc1".to_owned(), 3)]));
    assert_eq!(request.defaults.as_ref().unwrap().w, Some(Level::Exactly(2)));
    assert_eq!(request.partition_bits, None);
    assert_eq!(to_value(&request).unwrap(), json);
}

#[test]
fn requests_refuse_unknown_fields() {
    let misspelt = json!({"clusterName": "x", "replication": {}, "nodes": [], "partitionBit": 4});
    assert!(from_value::<InitRequest>(misspelt).unwrap_err().to_string().contains("partitionBit"));
    let misspelt =
        json!({"clusterName": "x", "replication": {}, "nodes": [], "defaults": {"n": 3}});
    assert!(from_value::<InitRequest>(misspelt).is_err());
    let misspelt = json!({"id": "a", "kind": "join", "node": N1, "rebalanced": false});
    assert!(from_value::<OperationRequest>(misspelt).is_err());
    assert!(from_value::<DocumentPut>(json!({"parentHash": "", "document": {}, "f": 1})).is_err());
    assert!(from_value::<RepairRequest>(json!({"buckets": "b"})).is_err());
}

#[test]
fn operation_request_and_status() {
    let request = OperationRequest {
        id: "join-1".to_owned(),
        kind: OperationKind::Join,
        node: Some(node(1)),
        replaces: None,
        machine: None,
        rebalance: Some(false),
    };
    let json = json!({"id": "join-1", "kind": "join", "node": N1, "rebalance": false});
    assert_eq!(to_value(&request).unwrap(), json);
    request.validate().unwrap();
    assert!(!request.moves_data());
    let status = OperationStatus {
        request,
        state: OperationState::Done,
        posted_epoch: 2,
        ended_epoch: Some(2),
        moves_total: 0,
        moves_done: 0,
        moved_bytes: 0,
        cancelling: false,
        message: None,
    };
    assert_eq!(
        to_value(&status).unwrap(),
        json!({
            "request": json, "state": "done", "postedEpoch": 2, "endedEpoch": 2,
            "movesTotal": 0, "movesDone": 0, "movedBytes": 0
        })
    );
}

#[test]
fn a_relocate_is_recorded_as_it_was_posted() {
    let posted = json!({"id": "r-1", "kind": "relocate", "node": N1, "machine": "w4"});
    let request: OperationRequest = from_value(posted.clone()).unwrap();
    assert!(!request.moves_data());
    let present = Member {
        machine: "w1".to_owned(),
        rack: "r".to_owned(),
        zone: "a".to_owned(),
        datacenter: "dc1".to_owned(),
        weight: 70,
        state: MemberState::Active,
    };
    let says = Labels {
        machine: "w4".to_owned(),
        rack: "r".to_owned(),
        zone: "a".to_owned(),
        datacenter: "dc1".to_owned(),
        weight: 100,
    };
    let place = request.relocated(&present, &says).unwrap();
    assert_eq!(place, Member { machine: "w4".to_owned(), ..present.clone() }, "weight stays");
    let operation = request.operation(Some(place));
    let state = crate::ring::OperationState::Done;
    let record = OperationRecord { operation, state, started: 3, finished: 3 };
    let status = OperationStatus::of("r-1", &record);
    assert_eq!(to_value(&status.request).unwrap(), posted);
    assert!(request.is_same(&status.request));
    let other = OperationRequest { machine: Some("w5".to_owned()), ..request.clone() };
    assert!(!other.is_same(&status.request));
    let elsewhere: [fn(&mut Labels); 4] = [
        |says| says.machine = "w1".to_owned(),
        |says| says.rack = "s".to_owned(),
        |says| says.zone = "b".to_owned(),
        |says| says.datacenter = "dc2".to_owned(),
    ];
    for change in elsewhere {
        let mut says = says.clone();
        change(&mut says);
        let problem = request.relocated(&present, &says).unwrap_err();
        assert_eq!((problem.code.as_str(), problem.status), ("place_differs", 409));
        assert_eq!(problem.facts["says"]["zone"], says.zone);
    }
}

#[test]
fn operation_fields_fit_their_kind() {
    let check = |json: serde_json::Value| from_value::<OperationRequest>(json).unwrap().validate();
    check(json!({"id": "a", "kind": "leave", "node": N1})).unwrap();
    check(json!({"id": "a", "kind": "rebalance"})).unwrap();
    check(json!({"id": "a", "kind": "repair"})).unwrap();
    check(json!({"id": "a", "kind": "repair", "node": N1})).unwrap();
    check(json!({"id": "a", "kind": "relocate", "node": N1, "machine": "w4"})).unwrap();
    check(json!({"id": "a", "kind": "replace", "node": N1, "replaces": N1})).unwrap();
    for (bad, names) in [
        (json!({"id": "", "kind": "rebalance"}), "`id`"),
        (json!({"id": "Ä", "kind": "rebalance"}), "`id`"),
        (json!({"id": "a", "kind": "join"}), "`node`"),
        (json!({"id": "a", "kind": "double", "node": N1}), "`node`"),
        (json!({"id": "a", "kind": "replace", "node": N1}), "`replaces`"),
        (json!({"id": "a", "kind": "join", "node": N1, "machine": "m"}), "`machine`"),
        (json!({"id": "a", "kind": "drain", "node": N1, "rebalance": true}), "`rebalance`"),
    ] {
        let problem = check(bad).unwrap_err();
        assert_eq!((problem.code.as_str(), problem.status), ("bad_request", 400));
        assert!(problem.detail.contains(names), "{problem}");
    }
}

#[test]
fn plan() {
    let plan = OperationPlan {
        request: from_value(json!({"id": "a", "kind": "join", "node": N1})).unwrap(),
        base_epoch: 1,
        moves: vec![PlannedMove {
            partition: PartitionName { bits: 6, index: 3 },
            datacenter: "dc1".to_owned(),
            from: None,
            to: node(1),
            bytes: 10,
        }],
        total_bytes: 10,
        nodes: vec![NodePlan {
            node: node(1),
            partitions_before: 0,
            partitions_after: 1,
            in_bytes: 10,
            out_bytes: 0,
        }],
        risk: Risk { level: RiskLevel::Low, reasons: vec![], machines: None },
    };
    assert_eq!(
        to_value(plan).unwrap(),
        json!({
            "request": {"id": "a", "kind": "join", "node": N1},
            "baseEpoch": 1,
            "moves": [{
                "partition": {"bits": 6, "index": 3}, "datacenter": "dc1", "to": N1, "bytes": 10
            }],
            "totalBytes": 10,
            "nodes": [{
                "node": N1, "partitionsBefore": 0, "partitionsAfter": 1,
                "inBytes": 10, "outBytes": 0
            }],
            "risk": {"level": "low", "reasons": []}
        })
    );
}

fn status() -> Status {
    let levels = (Level::Quorum, Level::Quorum);
    let owners = [(node(1), "dc1"), (node(2), "dc1"), (node(3), "dc1")];
    let partitions = PartitionHealth::count(
        [(&owners[..], false), (&owners[..], true)],
        |id| id != node(3),
        levels,
        "dc1",
    );
    Status {
        safety: partitions.safety(levels),
        answered_by: node(1),
        server_version: "0.1.0".to_owned(),
        cluster: Some(ClusterStatus {
            cluster_id: ClusterId::from_bytes([9; 16]),
            cluster_name: "prod".to_owned(),
            epoch: 4,
            document_hash: "ab".to_owned(),
            settled: true,
            members: 3,
            members_up: 2,
            replication: BTreeMap::from([("dc1".to_owned(), 3)]),
            partition_bits: 1,
            defaults: DefaultsStatus {
                r: Level::Quorum,
                w: Level::Quorum,
                sloppy: true,
                durability: Durability::Group,
                mode: Mode::Siblings,
            },
        }),
        partitions,
        shared_machines: vec![],
        nodes: vec![NodeStatus {
            id: node(1),
            liveness: Liveness::Alive,
            for_ms: Some(1500),
            member: Some(MemberState::Active),
            http: "127.0.0.1:8100".to_owned(),
            peer: "127.0.0.1:8200".to_owned(),
            admin: "127.0.0.1:8300".to_owned(),
            machine: "m1".to_owned(),
            rack: "r1".to_owned(),
            zone: "z1".to_owned(),
            datacenter: "dc1".to_owned(),
            weight: 100,
            partitions: 2,
            owned: 0.5,
            epoch: Some(4),
            boot: Some(1),
            mark: Some(17),
            phi: Some(0.25),
            version: "0.1.0".to_owned(),
            not_serving: None,
            keeps_copies: false,
            load: Some(NodeLoad { disk_bytes: 1, ..NodeLoad::default() }),
        }],
        operations: vec![],
    }
}

#[test]
fn status_answers_the_first_question_first() {
    let status = status();
    let headline = status.headline();
    assert!(headline.starts_with("prod  DEGRADED  all data readable at r=quorum"), "{headline}");
    assert_eq!(
        status.summary().unwrap(),
        "nodes 3 (2 up)   n/r/w 3/quorum/quorum   ring epoch 4 settled   partitions 2 \
         (2 under-replicated, 0 without quorum, 1 moving)"
    );
}

#[test]
fn status_json() {
    let status = status();
    let sentence = status.safety.sentence.clone();
    let golden = json!({
        "safety": {"verdict": "degraded", "sentence": sentence},
        "answeredBy": N1,
        "serverVersion": "0.1.0",
        "cluster": {
            "clusterId": "09090909-0909-0909-0909-090909090909",
            "clusterName": "prod",
            "epoch": 4,
            "documentHash": "ab",
            "settled": true,
            "members": 3,
            "membersUp": 2,
            "replication": {"dc1": 3},
            "partitionBits": 1,
            "defaults": {
                "r": "quorum", "w": "quorum", "sloppy": true, "durability": "group",
                "mode": "siblings"
            }
        },
        "partitions": {
            "total": 2, "whole": 0, "underReplicated": 2, "noQuorum": 0, "noOwner": 0,
            "unreadable": 0, "unwritable": 0, "moving": 1, "sharedMachine": 0,
            "byCopies": {"2": 2}
        },
        "nodes": [{
            "id": N1, "liveness": "alive", "forMs": 1500, "member": "active",
            "http": "127.0.0.1:8100", "peer": "127.0.0.1:8200", "admin": "127.0.0.1:8300",
            "machine": "m1", "rack": "r1", "zone": "z1", "datacenter": "dc1", "weight": 100,
            "partitions": 2, "owned": 0.5, "epoch": 4, "boot": 1, "mark": 17, "phi": 0.25,
            "version": "0.1.0",
            "load": {"diskBytes": 1, "memoryBytes": 0}
        }],
        "operations": []
    });
    assert_eq!(to_value(&status).unwrap(), golden);
    let mut newer = golden.clone();
    newer["fieldOfALaterVersion"] = json!(1);
    assert_eq!(from_value::<Status>(newer).unwrap(), status);
    let sharing = SharedMachine {
        machine: "m1".to_owned(),
        datacenter: "dc1".to_owned(),
        nodes: vec![node(1), node(2)],
        bits: 1,
        partitions: vec![0, 1],
    };
    let shared = Status { shared_machines: vec![sharing], ..status };
    assert_eq!(
        to_value(&shared).unwrap()["sharedMachines"],
        json!([{
            "machine": "m1", "datacenter": "dc1", "bits": 1, "partitions": [0, 1],
            "nodes": [N1, "02020202-0202-0202-0202-020202020202"]
        }])
    );
}

#[test]
fn replica_read_json() {
    let actor = ActorName { tag: "00000000000000ff".to_owned(), serial: 2 };
    let read = ReplicaRead {
        node: node(1),
        partition: PartitionName { bits: 6, index: 9 },
        key_hash: "24aa000000000000".to_owned(),
        owner: true,
        found: true,
        digest: Some("d1".to_owned()),
        counting: Some(actor.clone()),
        context: vec![VersionRow { actor: actor.clone(), count: 3 }],
        cloud: vec![DotName { actor: actor.clone(), count: 5 }],
        siblings: vec![ReplicaSibling {
            dot: DotName { actor, count: 3 },
            written_ms: 1000,
            written_logical: 1,
            tombstone: false,
            expires_ms: None,
            content_type: Some("text/plain".to_owned()),
            value_base64: Some("bWlsaw==".to_owned()),
        }],
    };
    let actor = json!({"tag": "00000000000000ff", "serial": 2});
    assert_eq!(
        to_value(read).unwrap(),
        json!({
            "node": N1, "partition": {"bits": 6, "index": 9}, "keyHash": "24aa000000000000",
            "owner": true, "found": true, "digest": "d1", "counting": actor,
            "context": [{"actor": actor, "count": 3}],
            "cloud": [{"actor": actor, "count": 5}],
            "siblings": [{
                "dot": {"actor": actor, "count": 3}, "writtenMs": 1000, "writtenLogical": 1,
                "tombstone": false, "contentType": "text/plain", "valueBase64": "bWlsaw=="
            }]
        })
    );
}

#[test]
fn probes() {
    let probe = Probe::of(vec![
        Check::new(probes::CHECK_STORAGE, true),
        Check::new(probes::CHECK_RING, false).detail("no document yet"),
    ]);
    assert_eq!((probe.http_status(), probe.plain().as_str()), (503, "ring: no document yet\n"));
    assert_eq!(
        to_value(&probe).unwrap(),
        json!({"status": "failing", "checks": [
            {"name": "storage", "ok": true},
            {"name": "ring", "ok": false, "detail": "no document yet"}
        ]})
    );
    let fine = Probe::of(vec![Check::new(probes::CHECK_LOOPS, true)]);
    assert_eq!((fine.http_status(), fine.plain().as_str()), (200, "ok\n"));
}

#[test]
fn a_document_travels_whole_and_its_secret_only_to_who_may_see_it() {
    let sealed = Sealed::new(cluster(3, 3));
    let answer = DocumentAnswer::of(&sealed, true);
    assert_eq!((answer.epoch, answer.hash.as_str()), (1, sealed.hash().to_string().as_str()));
    let put = DocumentPut { parent_hash: answer.hash.clone(), document: answer.document };
    let json = to_value(&put).unwrap();
    let (parent, document) = from_value::<DocumentPut>(json).unwrap().parse().unwrap();
    assert_eq!((parent, &document), (sealed.hash(), &Document::clone(&sealed)));
    let hidden = DocumentAnswer::of(&sealed, false);
    assert_eq!(hidden.document["tokenSecret"], "");
    assert_eq!(hidden.hash, sealed.hash().to_string());
    assert_eq!(hidden.parse().unwrap_err().code, "malformed_body", "it cannot be put back");
}

#[test]
fn a_document_that_cannot_be_read_is_named() {
    let mut document = DocumentAnswer::of(&Sealed::new(cluster(3, 3)), true).document;
    document["surprise"] = json!(1);
    let put = DocumentPut { parent_hash: "00".repeat(32), document: document.clone() };
    let problem = put.parse().unwrap_err();
    assert_eq!((problem.code.as_str(), problem.status), ("malformed_body", 400));
    assert!(problem.detail.contains("surprise"), "{problem}");
    let put = DocumentPut { parent_hash: "abc".to_owned(), document };
    assert!(put.parse().unwrap_err().detail.contains("parentHash"));
}

#[test]
fn defaults_left_out_are_the_built_in_ones() {
    let settings = BucketDefaults { w: Some(Level::All), ..BucketDefaults::default() }.settings();
    assert_eq!((settings.r, settings.w, settings.sloppy), (Level::Quorum, Level::All, true));
    assert_eq!((settings.durability, settings.mode), (Durability::Group, Mode::Siblings));
    let json = json!({"durability": "each", "mode": "lastWriteWins", "ttl": 60});
    let settings = from_value::<BucketDefaults>(json).unwrap().settings();
    assert_eq!((settings.durability, settings.mode), (Durability::Each, Mode::LastWriteWins));
    assert_eq!(settings.ttl, Some(60));
}

#[test]
fn a_recorded_operation_reads_back_as_it_was_posted() {
    use crate::ring::fixtures::member;
    use crate::ring::operation::{Planned, plan};
    let first = Sealed::new(cluster(3, 3));
    let request: OperationRequest = from_value(json!({
        "id": "join-1", "kind": "join", "node": N1, "rebalance": false
    }))
    .unwrap();
    let wanted = OperationRequest { node: Some(crate::ring::fixtures::node(3)), ..request };
    let planned = plan(&first, &wanted.id, &wanted.operation(Some(member(3)))).unwrap();
    let Planned::Child(child) = planned else { panic!("recorded already") };
    let status = OperationStatus::of(&wanted.id, &child.operations[&wanted.id]);
    assert_eq!(status.request, wanted);
    assert_eq!((status.state, status.ended_epoch), (OperationState::Done, Some(2)));
    let moving = OperationRequest { rebalance: None, ..wanted.clone() };
    let planned = plan(&first, "x", &moving.operation(Some(member(3)))).unwrap();
    let Planned::Child(running) = planned else { panic!("recorded already") };
    let status = OperationStatus::of("x", &running.operations["x"]);
    assert_eq!((status.state, status.ended_epoch), (OperationState::Running, None));
    assert!(status.moves_total > 0 && status.moves_done == 0);
    let rebuild = OperationRequest { kind: OperationKind::Rebuild, ..moving };
    let refused = plan(&first, "y", &rebuild.operation(None)).unwrap_err();
    let problem = Problem::from(refused);
    assert_eq!((problem.code.as_str(), problem.status), ("unsupported_operation", 501));
    let refused = plan(&Sealed::new(*child), "join-1", &wanted.operation(None)).unwrap_err();
    assert_eq!(Problem::from(refused).code, "operation_conflict");
    let illegal = crate::ring::judge::IllegalChange::Replication;
    let problem = Problem::from(illegal);
    assert_eq!((problem.status, &problem.facts["rule"]), (422, &json!("replication_changed")));
}

#[test]
fn a_stored_record_is_shown_with_its_dots() {
    let actor = Actor { tag: 255, serial: 2 };
    let dot = Dot { actor, count: 3 };
    let mut seen = Context::default();
    (1..=2).for_each(|count| seen.insert(Dot { actor, count }));
    seen.insert(Dot { actor: Actor { tag: 1, serial: 0 }, count: 4 });
    let sibling = Sibling::value(Stamp(1_000 << 16 | 7), b"milk".to_vec());
    let record = Record { set: SiblingSet::delta(seen, dot, sibling), counting: Some(actor) };
    let place = (0x24aa_u64 << 48, Partition { k: 6, index: 9 });
    let read = ReplicaRead::of(node(1), place, true, Some(&record));
    assert_eq!(read.key_hash, "24aa000000000000");
    assert_eq!(read.digest, Some(record.set.digest().to_string()));
    assert_eq!((read.context.len(), read.context[0].count), (1, 3));
    assert_eq!((read.cloud.len(), read.cloud[0].count), (1, 4));
    let shown = &read.siblings[0];
    assert_eq!((shown.written_ms, shown.written_logical, shown.tombstone), (1_000, 7, false));
    assert_eq!(shown.value_base64.as_deref(), Some("bWlsaw=="));
    let absent = ReplicaRead::of(node(1), place, false, None);
    assert!(!absent.found && absent.siblings.is_empty() && absent.digest.is_none());
}
