//! The JSON on the wire, word for word: a change here breaks every client.

use std::collections::BTreeMap;

use serde_json::{from_value, json, to_value};

use super::*;
use crate::id::{ClusterId, NodeId};
use crate::quorum::Level;

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
    assert!(from_value::<RepairRequest>(json!({"bucket": "b"})).is_err());
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
fn operation_fields_fit_their_kind() {
    let check = |json: serde_json::Value| from_value::<OperationRequest>(json).unwrap().validate();
    check(json!({"id": "a", "kind": "leave", "node": N1})).unwrap();
    check(json!({"id": "a", "kind": "rebalance"})).unwrap();
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
        risk: Risk { level: RiskLevel::Low, reasons: vec![] },
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
                durability: "group".to_owned(),
                mode: "siblings".to_owned(),
            },
        }),
        partitions,
        nodes: vec![NodeStatus {
            id: node(1),
            liveness: Liveness::Alive,
            for_ms: Some(1500),
            member: Some("active".to_owned()),
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
            "unreadable": 0, "unwritable": 0, "moving": 1, "byCopies": {"2": 2}
        },
        "nodes": [{
            "id": N1, "liveness": "alive", "forMs": 1500, "member": "active",
            "http": "127.0.0.1:8100", "peer": "127.0.0.1:8200", "admin": "127.0.0.1:8300",
            "machine": "m1", "rack": "r1", "zone": "z1", "datacenter": "dc1", "weight": 100,
            "partitions": 2, "owned": 0.5, "epoch": 4, "boot": 1, "mark": 17, "phi": 0.25,
            "version": "0.1.0",
            "load": {"diskBytes": 1, "memoryBytes": 0, "freeBytes": 0, "records": 0}
        }],
        "operations": []
    });
    assert_eq!(to_value(&status).unwrap(), golden);
    let mut newer = golden;
    newer["fieldOfALaterVersion"] = json!(1);
    assert_eq!(from_value::<Status>(newer).unwrap(), status);
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
