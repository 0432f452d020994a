//! The admin port over a backend that answers from fixed values, and METRICS.md against the page.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::routes::{Access as By, ROUTES};
use kvasir_core::admin_api::{
    Check, DocumentAnswer, DocumentPut, HeldUp, InitRequest, OperationPlan, OperationRequest,
    OperationState, OperationStatus, PartitionHealth, PartitionName, Probe, Problem, ReclaimLoad,
    RepairRequest, RepairStatus, ReplicaRead, Risk, RiskLevel, Status,
};
use kvasir_core::gossip;
use kvasir_core::handoff::Cap;
use kvasir_core::id::NodeId;
use kvasir_core::quorum::Level;
use kvasir_core::ring::Partition;
use kvasir_storage::StoreStats;
use serde_json::{Value, json};

use super::*;
use crate::http::stats::{HttpStats, Operation};
use crate::peer::PeerStats;
use crate::replica::{MoveFigures, Shelves};
use crate::tasks::RepairFigures;

const NODE: NodeId = NodeId::from_bytes([1; 16]);
const N1: &str = "01010101-0101-0101-0101-010101010101";

#[derive(Default)]
struct Fixed {
    ready: Cell<bool>,
    hang: Cell<bool>,
    failure: RefCell<Option<Problem>>,
    /// What reached the backend, in order.
    calls: RefCell<Vec<String>>,
}

impl Fixed {
    fn note(&self, call: impl Into<String>) -> Answered<()> {
        self.calls.borrow_mut().push(call.into());
        self.failure.borrow().clone().map_or(Ok(()), |problem| Err(Box::new(problem)))
    }

    fn document_answer(&self) -> DocumentAnswer {
        let document = json!({"clusterName": "prod", "tokenSecret": "s3cr3t"});
        DocumentAnswer { epoch: 3, hash: "ab".to_owned(), document }
    }
}

fn operation_status(request: OperationRequest) -> OperationStatus {
    OperationStatus {
        request,
        state: OperationState::Done,
        posted_epoch: 2,
        ended_epoch: Some(2),
        moves_total: 0,
        moves_done: 0,
        moved_bytes: 0,
        cancelling: false,
        message: None,
    }
}

impl AdminBackend for Fixed {
    fn livez(&self) -> Probe {
        Probe::of(vec![Check::new("loops", true)])
    }

    fn readyz(&self) -> Probe {
        Probe::of(vec![Check::new("ring", self.ready.get()).detail("no document yet")])
    }

    fn startupz(&self) -> Probe {
        Probe::of(vec![])
    }

    fn figures(&self) -> Figures {
        figures()
    }

    fn status(&self) -> LocalBoxFuture<'_, Answered<Status>> {
        let levels = (Level::Quorum, Level::Quorum);
        let partitions = PartitionHealth::default();
        let status = Status {
            safety: partitions.safety(levels),
            answered_by: NODE,
            server_version: "0.1.0".to_owned(),
            cluster: None,
            partitions,
            shared_machines: vec![],
            nodes: vec![],
            operations: vec![],
        };
        async move {
            if self.hang.get() {
                std::future::pending::<()>().await;
            }
            self.note("status").map(|()| status)
        }
        .boxed_local()
    }

    fn repair_status(&self) -> RepairStatus {
        RepairStatus { comparisons_total: 7, ..RepairStatus::default() }
    }

    fn post_repair(&self, request: RepairRequest) -> Answered<RepairStatus> {
        request.validate(6).map_err(Box::new)?;
        self.note("repair").map(|()| self.repair_status())
    }

    fn document(&self) -> Answered<DocumentAnswer> {
        self.note("document").map(|()| self.document_answer())
    }

    fn put_document(&self, put: DocumentPut) -> LocalBoxFuture<'_, Answered<DocumentAnswer>> {
        let noted = self.note(format!("put {}", put.parent_hash));
        async move { noted.map(|()| self.document_answer()) }.boxed_local()
    }

    fn init(&self, request: InitRequest) -> LocalBoxFuture<'_, Answered<DocumentAnswer>> {
        let noted = self.note(format!("init {}", request.cluster_name));
        async move { noted.map(|()| self.document_answer()) }.boxed_local()
    }

    fn post_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationStatus>> {
        let noted = self.note(format!("post {}", request.id));
        async move { noted.map(|()| operation_status(request)) }.boxed_local()
    }

    fn plan_operation(
        &self,
        request: OperationRequest,
    ) -> LocalBoxFuture<'_, Answered<OperationPlan>> {
        Box::pin(async move {
            self.note(format!("plan {}", request.id))?;
            let risk = Risk { level: RiskLevel::None, reasons: vec![], machines: None };
            let (moves, nodes) = (vec![], vec![]);
            Ok(OperationPlan { request, base_epoch: 3, moves, total_bytes: 0, nodes, risk })
        })
    }

    fn operation(&self, id: &str) -> Answered<OperationStatus> {
        self.note(format!("operation {id}"))?;
        Err(Box::new(Problem::new(code::UNKNOWN_OPERATION, "no such id")))
    }

    fn cancel_operation(&self, id: String) -> LocalBoxFuture<'_, Answered<OperationStatus>> {
        let noted = self.note(format!("cancel {id}"));
        let problem = Problem::new(code::NOT_CANCELLABLE, "it has ended");
        Box::pin(async move { noted.and(Err(Box::new(problem))) })
    }

    fn replica_read(&self, bucket: Bytes, key: Bytes) -> LocalBoxFuture<'_, Answered<ReplicaRead>> {
        let noted = self.note(format!("replica {bucket:?} {key:?}"));
        let read = ReplicaRead {
            node: NODE,
            partition: PartitionName { bits: 6, index: 9 },
            key_hash: "00".to_owned(),
            owner: true,
            found: false,
            digest: None,
            counting: None,
            context: vec![],
            cloud: vec![],
            siblings: vec![],
        };
        async move { noted.map(|()| read) }.boxed_local()
    }
}

struct Bench {
    backend: Rc<Fixed>,
    admin: Admin<Fixed>,
}

impl Bench {
    fn new(access: Access) -> Self {
        let backend = Rc::new(Fixed::default());
        Self { backend: backend.clone(), admin: Admin::new(backend, access) }
    }

    fn loopback() -> Self {
        Self::new(Access::new(true, None))
    }

    async fn ask(&self, method: &str, target: &str, token: &str, body: &str) -> Reply {
        let mut request = Request::builder().method(method).uri(target);
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let answer = self.admin.answer(request).await;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        Reply { status, headers, text: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, target: &str) -> Reply {
        self.ask("GET", target, "", "").await
    }

    fn calls(&self) -> Vec<String> {
        self.backend.calls.take()
    }
}

struct Reply {
    status: u16,
    headers: hyper::HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|e| panic!("{e}: {}", self.text))
    }

    fn problem(&self) -> (u16, String) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{}", self.text);
        let problem: Problem = serde_json::from_str(&self.text).unwrap();
        assert_eq!(problem.status, self.status);
        (problem.status, problem.code)
    }
}

/// A target that fits a route's pattern.
fn target(pattern: &str) -> String {
    pattern.replace("{id}", "op-1").replace("{bucket}", "b").replace("{key}", "a/k")
}

#[tokio::test]
async fn probes_plain_and_verbose() {
    let bench = Bench::loopback();
    let live = bench.get("/livez").await;
    assert_eq!((live.status, live.text.as_str()), (200, "ok\n"));
    let ready = bench.get("/readyz").await;
    assert_eq!((ready.status, ready.text.as_str()), (503, "ring: no document yet\n"));
    bench.backend.ready.set(true);
    assert_eq!(bench.get("/readyz?verbose").await.json()["status"], "ok");
    assert_eq!(bench.get("/readyz?verbose=false").await.text, "ok\n");
    assert_eq!(bench.ask("HEAD", "/startupz", "", "").await.status, 200);
    assert_eq!(bench.get("/livez?verbose&verbose").await.problem(), (400, "bad_query".into()));
    assert_eq!(bench.get("/livez?v").await.problem(), (400, "bad_query".into()));
}

#[tokio::test]
async fn every_route_has_its_rule() {
    let bench = Bench::new(Access::new(false, Some("t0ken")));
    for route in ROUTES {
        let target = target(route.path);
        let none = bench.ask(route.method, &target, "", "{}").await;
        let wrong = bench.ask(route.method, &target, "t0ken2", "{}").await;
        let right = bench.ask(route.method, &target, "t0ken", "{}").await;
        let name = format!("{} {target}", route.method);
        if route.access == By::Token {
            assert_eq!(none.problem(), (401, "token_required".into()), "{name}");
            assert_eq!(none.headers["www-authenticate"], "Bearer");
            assert_eq!(wrong.problem(), (403, "token_refused".into()), "{name}");
        } else {
            assert!(none.status != 401 && wrong.status != 403, "{name}");
        }
        assert!(right.status != 401 && right.status != 403, "{name}");
        let built = right.status != 501;
        assert_eq!(built, route.built, "{name}: {}", right.text);
        if !route.built {
            assert_eq!(right.problem().1, "unsupported_operation");
        }
    }
}

#[tokio::test]
async fn what_does_not_exist() {
    let bench = Bench::loopback();
    for path in ["/", "/livez/", "/v1", "/v1/operations/", "/v1/operations/a/b", "/v1/replica/b"] {
        assert_eq!(bench.get(path).await.problem(), (404, "unknown_route".into()), "{path}");
    }
    let refused = bench.ask("POST", "/v1/cluster/document", "", "").await;
    assert_eq!(refused.problem(), (405, "method_not_allowed".into()));
    assert_eq!(refused.headers["allow"], "GET, PUT");
    assert_eq!(bench.get("/v1/status?x=1").await.problem(), (400, "bad_query".into()));
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn the_document_hides_its_secret_from_strangers() {
    let bench = Bench::new(Access::new(false, Some("t0ken")));
    let target = "/v1/cluster/document";
    assert_eq!(bench.get(target).await.json()["document"]["tokenSecret"], "");
    let owner = bench.ask("GET", target, "t0ken", "").await.json();
    assert_eq!(owner["document"]["tokenSecret"], "s3cr3t");
    assert_eq!((&owner["epoch"], &owner["hash"]), (&json!(3), &json!("ab")));
    let local = Bench::loopback().get(target).await.json();
    assert_eq!(local["document"]["tokenSecret"], "s3cr3t");
}

#[tokio::test]
async fn bodies_are_checked_before_the_backend() {
    let bench = Bench::loopback();
    for (method, target, body) in [
        ("POST", "/v1/cluster/init", ""),
        ("POST", "/v1/cluster/init", "{"),
        ("POST", "/v1/cluster/init", "\u{feff}{}"),
        ("PUT", "/v1/cluster/document", r#"{"parentHash":"a","document":{},"x":1}"#),
        ("POST", "/v1/operations", r#"{"id":"a","id":"b","kind":"leave"}"#),
        ("POST", "/v1/operations", r#"{"id":"a","kind":"explode"}"#),
        ("POST", "/v1/repair", r#"{"action":"stop"}"#),
        ("POST", "/v1/repair", r#"{"node":"a"}"#),
        ("POST", "/v1/repair", r#"{"partitions":[3]}"#),
    ] {
        let reply = bench.ask(method, target, "", body).await;
        assert_eq!(reply.problem(), (400, "malformed_body".into()), "{body}");
    }
    let deep =
        format!(r#"{{"parentHash":"a","document":{}1{}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    let reply = bench.ask("PUT", "/v1/cluster/document", "", &deep).await;
    assert_eq!(reply.problem(), (400, "malformed_body".into()));
    let big = " ".repeat((16 << 20) + 1);
    let reply = bench.ask("POST", "/v1/cluster/init", "", &big).await;
    assert_eq!(reply.problem(), (413, "body_too_large".into()));
    assert!(bench.calls().is_empty(), "nothing changed");
}

#[tokio::test]
async fn changes_reach_the_backend() {
    let bench = Bench::loopback();
    let init = r#"{"clusterName":"prod","replication":{"dc1":3},"nodes":[]}"#;
    assert_eq!(bench.ask("POST", "/v1/cluster/init", "", init).await.json()["epoch"], 3);
    let put = r#"{"parentHash":"ab","document":{}}"#;
    assert_eq!(bench.ask("PUT", "/v1/cluster/document", "", put).await.status, 200);
    assert_eq!(bench.calls(), ["init prod", "put ab"]);
    let newest = Problem::new(code::STALE_PARENT, "epoch 4 is newer").fact("newest", json!({}));
    bench.backend.failure.replace(Some(newest));
    let reply = bench.ask("PUT", "/v1/cluster/document", "", put).await;
    assert_eq!(reply.problem(), (409, "stale_parent".into()));
    assert_eq!(reply.json()["newest"], json!({}));
    bench.backend.failure.replace(Some(Problem::new(code::NO_MAJORITY, "1 of 3")));
    let reply = bench.ask("POST", "/v1/cluster/init", "", init).await;
    assert_eq!(reply.problem(), (503, "no_majority".into()));
    assert_eq!(reply.headers["retry-after"], "1");
}

#[tokio::test]
async fn operations() {
    let bench = Bench::loopback();
    let join = format!(r#"{{"id":"op-1","kind":"join","node":"{N1}","rebalance":false}}"#);
    let done = bench.ask("POST", "/v1/operations", "", &join).await.json();
    assert_eq!((&done["state"], &done["request"]["id"]), (&json!("done"), &json!("op-1")));
    let plan = bench.ask("POST", "/v1/operations?dryRun=true", "", &join).await.json();
    assert_eq!(plan["risk"]["level"], "none");
    assert_eq!(bench.get("/v1/operations/op-1").await.problem(), (404, "unknown_operation".into()));
    assert_eq!(bench.calls(), ["post op-1", "plan op-1", "operation op-1"]);
    let relocate = format!(r#"{{"id":"op-2","kind":"relocate","node":"{N1}","machine":"w4"}}"#);
    assert_eq!(bench.ask("POST", "/v1/operations", "", &relocate).await.status, 200);
    assert_eq!(bench.ask("POST", "/v1/operations?dryRun", "", &relocate).await.status, 200);
    let repair = r#"{"id":"op-3","kind":"repair"}"#;
    assert_eq!(bench.ask("POST", "/v1/operations", "", repair).await.status, 200);
    assert_eq!(bench.calls(), ["post op-2", "plan op-2", "post op-3"]);
    let other_place = relocate.replace("\"machine\"", "\"zone\"");
    let refused = bench.ask("POST", "/v1/operations", "", &other_place).await;
    assert_eq!(refused.problem(), (400, "malformed_body".into()));
    let nowhere = relocate.replace(",\"machine\":\"w4\"", "");
    let refused = bench.ask("POST", "/v1/operations", "", &nowhere).await;
    assert_eq!(refused.problem(), (400, "bad_request".into()));
    assert!(bench.calls().is_empty());
    let back = bench.ask("DELETE", "/v1/operations/op-1", "", "").await;
    assert_eq!(back.problem(), (409, "not_cancellable".into()));
    assert_eq!(bench.calls(), ["cancel op-1"]);
    let moving = join.replace(",\"rebalance\":false", "");
    let rebuild = format!(r#"{{"id":"a","kind":"rebuild","node":"{N1}"}}"#);
    for target in ["/v1/operations", "/v1/operations?dryRun=true"] {
        assert_eq!(bench.ask("POST", target, "", &rebuild).await.status, 200);
    }
    assert_eq!(bench.calls(), ["post a", "plan a"]);
    let nobody = bench.ask("POST", "/v1/operations", "", r#"{"id":"a","kind":"rebuild"}"#).await;
    assert_eq!(nobody.problem(), (400, "bad_request".into()));
    let double = r#"{"id":"a","kind":"double"}"#;
    let reply = bench.ask("POST", "/v1/operations?dryRun=true", "", double).await;
    assert_eq!(reply.problem(), (501, "unsupported_operation".into()));
    assert_eq!(bench.ask("POST", "/v1/operations?dryRun=true", "", &moving).await.status, 200);
    assert_eq!(bench.calls(), ["plan op-1"]);
    let reply = bench.ask("POST", "/v1/operations", "", r#"{"id":"A","kind":"double"}"#).await;
    assert_eq!(reply.problem(), (400, "bad_request".into()));
    assert_eq!(bench.ask("POST", "/v1/operations?dryrun", "", &join).await.problem().0, 400);
    assert!(bench.calls().is_empty());
}

#[tokio::test]
async fn replica_reads_take_any_bytes() {
    let bench = Bench::loopback();
    assert_eq!(bench.get("/v1/replica/b%2F1/a/k%00%FF").await.json()["node"], N1);
    assert_eq!(bench.calls(), [r#"replica b"b/1" b"a/k\0\xff""#]);
    let long = format!("/v1/replica/b/{}", "k".repeat(4_097));
    for target in ["/v1/replica/b/", "/v1/replica/b/%zz", long.as_str()] {
        assert_eq!(bench.get(target).await.problem(), (400, "bad_path".into()), "{target}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_does_not_hang_the_client() {
    let bench = Bench::loopback();
    bench.backend.hang.set(true);
    let started = tokio::time::Instant::now();
    assert_eq!(bench.get("/v1/status").await.problem(), (503, "unavailable".into()));
    assert!(started.elapsed() <= Duration::from_secs(31));
    assert_eq!(bench.get("/livez").await.status, 200);
}

fn figures() -> Figures {
    let http = Arc::new(HttpStats::default());
    http.answered(Operation::Get, 200, Duration::from_millis(3), 10);
    http.answered(Operation::Get, 503, Duration::from_secs(30), 10);
    http.problem(crate::http::problem::Code::QuorumNotReached);
    Figures {
        node: NODE,
        version: "0.1.0".to_owned(),
        rack: "r\"1".to_owned(),
        zone: "z1".to_owned(),
        datacenter: "dc1".to_owned(),
        http,
        pressure: Arc::default(),
        bounds: Bounds {
            connections: 8_192,
            body_bytes: 1 << 29,
            work: [2_048, 8_192, 1_024, 1_024, 1_024],
            descriptors: 65_536,
            memory: ["engine", "stand_ins", "tree", "bodies", "heads", "peer_requests"]
                .map(|part| (part, 1 << 20)),
        },
        peers: Arc::new(PeerStats::default()),
        store: StoreStats { tables_by_level: vec![2, 1], flushes: 7, ..StoreStats::default() },
        repair: RepairFigures {
            mended: 4,
            ages: BTreeMap::from([(Partition { k: 6, index: 3 }, 1_500)]),
            ..RepairFigures::default()
        },
        shelves: Arc::new(Shelves::new(Cap { max_bytes: 1 }, Cap { max_bytes: 1 }, Arc::default())),
        reclaim: ReclaimLoad {
            generation: 7,
            held_up_by: vec![HeldUp { node: NODE, why: "copies".to_owned() }],
            ..ReclaimLoad::default()
        },
        moves: MoveFigures { taken: (5, 1), ..MoveFigures::default() },
        operations: OperationFigures {
            failed: 1,
            rebuilt: [3, 2, 1],
            ..OperationFigures::default()
        },
        reclaim_void: 0,
        coordination: Arc::default(),
        stamps_ahead: 0,
        stamps_lead_ms: 0,
        store_failed: false,
        unfit: Some("other_cluster"),
        disk_free_bytes: Some(1 << 40),
        members: MemberFigures { alive: 2, suspect: 0, down: 1 },
        gossip: GossipFigures {
            counters: gossip::Counters {
                pings: 5,
                alarms: BTreeMap::from([(gossip::Alarm::Twin, 1)]),
                ..gossip::Counters::default()
            },
            doubt: 2,
        },
        ring: RingFigures { epoch: 3, members: 3, ..RingFigures::default() },
    }
}

#[tokio::test]
async fn the_page_says_what_was_counted() {
    let reply = Bench::loopback().get("/metrics").await;
    assert_eq!(reply.headers["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        r#"kvasir_requests_total{api="http",op="get",class="2xx"} 1"#,
        r#"kvasir_requests_total{api="http",op="get",class="5xx"} 1"#,
        r#"kvasir_request_duration_seconds_bucket{api="http",op="get",le="0.0025"} 0"#,
        r#"kvasir_request_duration_seconds_bucket{api="http",op="get",le="0.005"} 1"#,
        r#"kvasir_request_duration_seconds_bucket{api="http",op="get",le="+Inf"} 2"#,
        r#"kvasir_request_duration_seconds_count{api="http",op="get"} 2"#,
        r#"kvasir_request_duration_seconds_sum{api="http",op="get"} 30.003"#,
        r#"kvasir_problems_total{api="http",code="quorum_not_reached"} 1"#,
        r#"kvasir_gossip_members{state="down"} 1"#,
        "kvasir_gossip_pings_total 5",
        "kvasir_gossip_doubt 2",
        r#"kvasir_gossip_alarms_total{reason="twin"} 1"#,
        r#"kvasir_gossip_refused_total{reason="superseded"} 0"#,
        r#"kvasir_storage_tables{level="0"} 2"#,
        "kvasir_storage_flushes_total 7",
        "kvasir_ring_epoch 3",
        "kvasir_repair_keys_total 4",
        r#"kvasir_repair_comparisons_total{result="through"} 0"#,
        "kvasir_disk_free_bytes 1099511627776",
        r#"kvasir_node_unfit{reason="other_cluster"} 1"#,
        r#"kvasir_node_unfit{reason="put_back"} 0"#,
    ] {
        assert!(reply.text.lines().any(|l| l == line), "no `{line}` in:\n{}", reply.text);
    }
    assert!(reply.text.contains(r#"rack="r\"1""#), "labels are escaped");
}

/// Name -> (type, labels) of every family on the page.
fn families(page: &str) -> BTreeMap<String, (String, String)> {
    let mut found = BTreeMap::new();
    let mut current = (String::new(), String::new());
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            current = (name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let labels = line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}'));
            let labels = labels.map_or("", |(labels, _)| labels).split("\",");
            let names = labels.filter_map(|pair| pair.split_once('=')).map(|(name, _)| name);
            let names: Vec<&str> = names.filter(|name| *name != "le").collect();
            let row = (current.1.clone(), names.join(", "));
            found.insert(current.0.clone(), row);
        }
    }
    found.retain(|name, _| name.starts_with("kvasir_"));
    found
}

#[test]
fn a_fresh_node_has_a_page() {
    let fresh = Figures { store: StoreStats::default(), disk_free_bytes: None, ..figures() };
    let page = metrics::page(&fresh).unwrap();
    assert!(page.contains("kvasir_storage_flushes_total 0"));
    assert!(page.contains("kvasir_storage_tables{level=\"0\"} 0"), "level 0 is always there");
}

#[test]
fn every_metric_is_in_metrics_md_and_the_other_way_round() {
    let page = metrics::page(&figures()).unwrap();
    let text = include_str!("../../METRICS.md");
    let listed: BTreeMap<String, (String, String)> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `kvasir_"))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let name = format!("kvasir_{}", cells[0].trim_end_matches('`'));
            assert!(!cells[3].is_empty(), "{name} has no meaning");
            (name, (cells[1].to_owned(), cells[2].replace('`', "")))
        })
        .collect();
    let on_page = families(&page);
    assert_eq!(listed, on_page, "left: METRICS.md, right: the page");
    for (name, (kind, _)) in &on_page {
        assert_eq!(name.ends_with("_total"), kind == "counter", "{name}");
        assert!(!name.contains("_ms") && !name.ends_with("_count"), "{name}");
    }
}
