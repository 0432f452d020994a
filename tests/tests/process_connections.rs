//! Ten thousand clients that connect and ask for nothing and a thousand that send a byte now and then, on one real
//! node with room for fewer: those that ask for something are answered all the time, on connections that they have
//! and on new ones; the bound is kept; and every one of the others is told why its connection ends.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::load::{HttpClient, TcpDial};
use kvasir_tests::process::{Cluster, run};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

const IDLE: usize = 10_000;
const SLOW: usize = 1_000;
/// Connections that the node takes.
const ROOM: u64 = 8_000;
/// Descriptors of the test beside those of its connections.
const OTHERS: u64 = 500;

/// As many connections as this process may open, at most what the test is for.
fn connections() -> (usize, usize) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Where it may not be raised there are fewer connections.
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let limit = if raised.is_ok() { maximum } else { current }.unwrap_or(u64::MAX);
    let possible = limit.saturating_sub(OTHERS) as usize;
    let idle = IDLE.min(possible / 11 * 10);
    (idle, SLOW.min(idle / 10))
}

/// Why each of the connections that ask for nothing ended.
type Ends = Rc<RefCell<BTreeMap<String, usize>>>;

/// Connects, sends what it has to send a byte at a time, and reads why it is over.
async fn ask_for_nothing(server: String, slow: bool, gate: Rc<Semaphore>) -> String {
    let permit = gate.acquire().await.expect("it is not closed");
    let Ok(Ok(stream)) = timeout(Duration::from_secs(10), TcpStream::connect(&server)).await else {
        return "no connection".to_string();
    };
    drop(permit);
    let (mut reader, mut writer) = stream.into_split();
    let sending = tokio::task::spawn_local(async move {
        for byte in b"GET /v1/kv/b/k HTTP/1.1\r\nHost: a-very-slow-client.example\r\n" {
            if !slow || writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(400)).await;
        }
        writer
    });
    let mut all = Vec::new();
    let read = timeout(Duration::from_secs(40), reader.read_to_end(&mut all)).await;
    sending.abort();
    let text = String::from_utf8_lossy(&all);
    let code = text.split("\"code\":\"").nth(1).and_then(|rest| rest.split('"').next());
    match (read, code) {
        (Err(_), _) => "never ended".to_string(),
        (_, Some(code)) => code.to_string(),
        (Ok(end), None) => format!("no reason: {end:?}"),
    }
}

/// Clients that ask for something all the time, on connections of their own.
struct Busy {
    going: Rc<Cell<bool>>,
    took: Rc<RefCell<Vec<Duration>>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Busy {
    fn start(server: &str, count: usize, fresh: bool) -> Self {
        let (going, took) = (Rc::new(Cell::new(true)), Rc::<RefCell<Vec<Duration>>>::default());
        let client = || HttpClient::new(Rc::new(TcpDial), Duration::from_secs(20));
        let task = |number: usize| {
            let (going, took, server) = (going.clone(), took.clone(), server.to_string());
            tokio::task::spawn_local(async move {
                let mut http = client();
                let mut writes = 0;
                while going.get() {
                    writes += 1;
                    if fresh {
                        http = client();
                    }
                    // A key of its own each time: writes that know nothing of each other are siblings.
                    let path = format!("/v1/kv/b/busy-{number}-{writes}?w=one");
                    let mut put = Ask::new(Method::PUT, path);
                    put.body = "v".into();
                    let begun = Instant::now();
                    // A newcomer may be refused while nobody has rested for a second, and a kept connection
                    // that was not used for one may make room: then the client connects anew.
                    let status = loop {
                        let answer = http.ask(&server, put.clone()).await;
                        let status = answer.map_or(0, |answer| answer.status);
                        if status == 204 || begun.elapsed() > Duration::from_secs(15) {
                            break status;
                        }
                        http = client();
                        sleep(Duration::from_millis(100)).await;
                    };
                    assert_eq!(status, 204, "client {number} of those that ask for something");
                    took.borrow_mut().push(begun.elapsed());
                    sleep(Duration::from_millis(if fresh { 200 } else { 50 })).await;
                }
            })
        };
        let tasks = (0..count).map(task).collect();
        Self { going, took, tasks }
    }

    async fn stop(self) -> Vec<Duration> {
        self.going.set(false);
        for task in self.tasks {
            task.await.expect("every one of them was answered");
        }
        let mut took = self.took.take();
        took.sort_unstable();
        took
    }
}

#[test]
fn ten_thousand_idle_and_a_thousand_slow_clients_leave_the_others_alone() {
    let (idle, slow) = connections();
    run(async {
        let room = format!("http.connections_max={ROOM}");
        // Descriptors that a lone node needs not leave to others are left to clients.
        let sets =
            [room.as_str(), "http.head_timeout=6s", "workers.count=1", "peer.connections_max=64"];
        let cluster = Cluster::formed(1, 1, &sets).await;
        let server = cluster.nodes[0].http.clone();
        let before = cluster.resident_bytes(0);
        let (kept, fresh) = (Busy::start(&server, 8, false), Busy::start(&server, 2, true));
        sleep(Duration::from_millis(500)).await;

        let (ends, gate) = (Ends::default(), Rc::new(Semaphore::new(128)));
        let begun = Instant::now();
        let tasks: Vec<_> = (0..idle + slow)
            .map(|number| {
                let (server, ends, gate) = (server.clone(), ends.clone(), gate.clone());
                tokio::task::spawn_local(async move {
                    let end = ask_for_nothing(server, number % 11 == 10, gate).await;
                    *ends.borrow_mut().entry(end).or_default() += 1;
                })
            })
            .collect();
        let (mut most, mut resident) = (0, 0);
        let all = async {
            for task in tasks {
                task.await.expect("a client ends");
            }
        };
        let mut all = std::pin::pin!(all);
        while timeout(Duration::from_millis(250), &mut all).await.is_err() {
            most = most.max(cluster.metric(0, "kvasir_connections").await as u64);
            resident = resident.max(cluster.resident_bytes(0));
        }
        let took = begun.elapsed();
        let (kept, fresh) = (kept.stop().await, fresh.stop().await);
        let ends = ends.take();
        println!(
            "{idle} idle and {slow} slow clients, room for {ROOM}: over in {took:.1?}; at most {most} at a time, \
             {:.1} KiB more memory for each; ended by {ends:?}",
            resident.saturating_sub(before) as f64 / 1_024.0 / most.max(1) as f64
        );
        let p99 = |took: &[Duration]| took[took.len() * 99 / 100];
        println!(
            "others: {} requests on kept connections, p99 {:.1?}; {} on new ones, p99 {:.1?}",
            kept.len(),
            p99(&kept),
            fresh.len(),
            p99(&fresh)
        );
        // 64 more while as many, told to leave, have not gone.
        assert!(most <= ROOM + 64, "{most}");
        let told = |code: &str| ends.get(code).copied().unwrap_or(0);
        assert_eq!(told("request_timeout") + told("too_many_connections"), idle + slow, "{ends:?}");
        assert!(told("request_timeout") >= 1_000.min(idle / 2), "{ends:?}");
        let (_, status) = cluster.json(0, Method::GET, "/v1/status", None).await;
        let pressure = &status["nodes"][0]["load"]["pressure"];
        assert_eq!(pressure["connectionsMax"], ROOM, "{pressure}");
        assert!(pressure["descriptorsMax"].as_u64() > Some(ROOM), "{pressure}");
    });
}
