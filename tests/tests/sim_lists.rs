//! Lists in simulation: complete and without doubles while others write and delete and nodes die, honest
//! about who answered, refused where too few do.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::load::HttpClient;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Conditions, Sim, run};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::time::{Instant, sleep};

const PATIENCE: Duration = Duration::from_secs(60);

async fn ask(http: &HttpClient, server: &str, method: Method, path: &str, body: &str) -> Answer {
    let mut ask = Ask::new(method, path);
    ask.body = body.as_bytes().to_vec().into();
    http.ask(server, ask).await.expect("an answer")
}

/// Writes until it is acknowledged.
async fn put(http: &HttpClient, servers: &[String], path: &str, body: &str) {
    for server in servers.iter().cycle().take(60) {
        let mut put = Ask::new(Method::PUT, path);
        put.body = body.as_bytes().to_vec().into();
        if http.ask(server, put).await.is_ok_and(|answer| answer.status == 204) {
            return;
        }
        sleep(Duration::from_millis(200)).await;
    }
    panic!("{path} was not stored");
}

/// What a list came to.
#[derive(Debug, Default)]
struct Listed {
    /// Keys in the order in which they came, with their values where these were asked for.
    keys: Vec<(String, Vec<String>)>,
    pages: usize,
    retries: usize,
    /// The fewest replicas that agreed, over all pages.
    agreed: Option<u64>,
    standins: u64,
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|e| panic!("{e}: {}", answer.text()))
}

impl Listed {
    fn take(&mut self, page: &Value) {
        use base64::Engine;
        let value = |value: &Value| {
            let text = value["value_b64"].as_str().expect("a value");
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).expect("base64");
            String::from_utf8(bytes).expect("text")
        };
        for key in page["keys"].as_array().expect("keys") {
            let values = key["values"].as_array().cloned().unwrap_or_default();
            let name = key["key"].as_str().expect("a key").to_string();
            self.keys.push((name, values.iter().map(value).collect()));
        }
        self.pages += 1;
        let agreed = page["agreed"].as_u64().expect("a number");
        self.agreed = Some(self.agreed.map_or(agreed, |fewest| fewest.min(agreed)));
        self.standins = self.standins.max(page["standins"].as_u64().expect("a number"));
    }
}

/// Goes through a bucket to its end, one server after the other; pages that fail are asked for again.
async fn list(http: &HttpClient, servers: &[String], query: &str, pause: Duration) -> Listed {
    let (mut listed, mut cursor) = (Listed::default(), String::new());
    let mut turn = servers.iter().cycle();
    loop {
        let path = format!("/v1/kv/b?{query}{cursor}");
        let server = turn.next().expect("a server");
        let answer = http.ask(server, Ask::new(Method::GET, path)).await;
        match answer {
            Ok(answer) if answer.status == 200 => {
                let page = json(&answer);
                listed.take(&page);
                match page["next"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => return listed,
                }
            }
            other => {
                listed.retries += 1;
                assert!(listed.retries < 500, "the list does not end: {other:?}");
            }
        }
        sleep(pause).await;
    }
}

/// Keys that stay, keys that never are, and keys that come and go.
struct Bucket {
    stay: usize,
    churn: usize,
}

impl Bucket {
    async fn fill(&self, http: &HttpClient, servers: &[String]) {
        for key in 0..self.stay {
            put(http, servers, &format!("/v1/kv/b/stay/{key}?w=quorum"), &format!("v{key}")).await;
        }
        // Others around them, in buckets before and behind in the order of the store.
        for (bucket, key) in [("a", 0), ("a", 1), ("bb", 0), ("c", 7)] {
            put(http, servers, &format!("/v1/kv/{bucket}/stay/{key}?w=quorum"), "else").await;
        }
    }

    /// Writes and deletes until told to stop.
    async fn churn(
        &self,
        seed: u64,
        http: HttpClient,
        servers: Vec<String>,
        go: Rc<std::cell::Cell<bool>>,
    ) {
        let mut rng = SmallRng::seed_from_u64(seed);
        while go.get() {
            let server = &servers[rng.random_range(0..servers.len())];
            let key = rng.random_range(0..self.churn);
            let put = rng.random_range(0..2) == 0;
            let method = if put { Method::PUT } else { Method::DELETE };
            let mut ask = Ask::new(method, format!("/v1/kv/b/churn/{key}?timeout=2s"));
            ask.body = if put { "c".into() } else { Default::default() };
            // It may fail while a node is down: these keys may come or not.
            let _ = http.ask(server, ask).await;
            sleep(Duration::from_millis(rng.random_range(0..30))).await;
        }
    }

    /// Every rule of a list, over what one came to.
    fn judge(&self, seed: u64, listed: &Listed, values: bool) {
        let mut times: BTreeMap<&str, usize> = BTreeMap::new();
        for (key, _) in &listed.keys {
            *times.entry(key).or_default() += 1;
        }
        let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
        assert!(twice.is_empty(), "seed {seed}: twice: {twice:?}");
        let missed: Vec<_> = (0..self.stay)
            .map(|k| format!("stay/{k}"))
            .filter(|k| !times.contains_key(&**k))
            .collect();
        assert!(missed.is_empty(), "seed {seed}: missed: {missed:?}");
        let known: BTreeSet<String> = (0..self.stay)
            .map(|key| format!("stay/{key}"))
            .chain((0..self.churn).map(|key| format!("churn/{key}")))
            .collect();
        let foreign: Vec<_> = times.keys().filter(|key| !known.contains(**key)).collect();
        assert!(foreign.is_empty(), "seed {seed}: never there: {foreign:?}");
        for (key, found) in listed.keys.iter().filter(|(key, _)| key.starts_with("stay/")) {
            let expected = if values { vec![key.replace("stay/", "v")] } else { Vec::new() };
            assert_eq!(*found, expected, "seed {seed}: {key}");
        }
    }
}

/// One list during writes, deletes, the kill of a node in the middle, and its return.
async fn tell(seed: u64) -> Listed {
    let mut rng = SmallRng::seed_from_u64(seed);
    // Small memtables: keys lie in memory and in tables.
    let sets = ["storage.memtable_bytes=64KiB"];
    let mut sim = Sim::new(seed, 5, &sets);
    sim.weather.set(Conditions {
        loss_permille: rng.random_range(0..10),
        twice_permille: rng.random_range(0..30),
        delay_ms: rng.random_range(0..10),
        ..Conditions::default()
    });
    sim.form(3).await;
    let bucket = Bucket { stay: 150, churn: 60 };
    let (http, servers) = (sim.client(Duration::from_secs(8)), sim.servers());
    bucket.fill(&http, &servers).await;
    let going = Rc::new(std::cell::Cell::new(true));
    let churning = {
        let (going, http, servers) =
            (going.clone(), sim.client(Duration::from_secs(8)), servers.clone());
        let churn = Bucket { ..bucket };
        tokio::task::spawn_local(async move { churn.churn(seed, http, servers, going).await })
    };
    let values = seed.is_multiple_of(2);
    let limit = rng.random_range(1..40);
    let query = format!("limit={limit}&timeout=4s&values={values}&r=quorum");
    let listing = {
        let (http, servers) = (sim.client(Duration::from_secs(8)), servers.clone());
        let pause = Duration::from_millis(rng.random_range(20..200));
        tokio::task::spawn_local(async move { list(&http, &servers, &query, pause).await })
    };
    sleep(Duration::from_millis(rng.random_range(0..1_500))).await;
    let victim = rng.random_range(0..5);
    sim.crash(victim, Crash::DropAll).await;
    sleep(Duration::from_millis(rng.random_range(500..15_000))).await;
    sim.start(victim);
    let listed = listing.await.expect("the list ends");
    going.set(false);
    churning.await.expect("the writers end");
    bucket.judge(seed, &listed, values);
    // What was written stays listed once all is quiet, by any node alone.
    sim.until_ready(victim).await;
    let calm = list(
        &http,
        &servers[victim..=victim],
        "limit=1000&timeout=20s&prefix=stay%2F&values=true",
        Duration::ZERO,
    )
    .await;
    assert_eq!(calm.keys.len(), bucket.stay, "seed {seed}");
    bucket.judge(seed, &calm, true);
    listed
}

#[test]
fn a_list_is_complete_and_without_doubles_while_all_changes() {
    let seeds: u64 = std::env::var("KVASIR_SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(12);
    let mut all = Listed::default();
    for seed in 0..seeds {
        let listed = run(tell(seed));
        all.pages += listed.pages;
        all.retries += listed.retries;
        all.standins = all.standins.max(listed.standins);
        all.keys.extend(listed.keys);
    }
    println!(
        "{seeds} lists during writes, deletes and a kill: {} keys on {} pages, {} pages asked for again, \
         up to {} stand-ins",
        all.keys.len(),
        all.pages,
        all.retries,
        all.standins
    );
}

/// Waits until a host holds so many others for down.
async fn until_down(sim: &Sim, host: usize, count: usize) {
    let until = Instant::now() + PATIENCE;
    loop {
        let answer = sim.admin(host, Method::GET, "/v1/status", None).await.expect("an answer");
        let nodes = json(&answer)["nodes"].as_array().cloned().unwrap_or_default();
        let down = nodes.iter().filter(|node| node["liveness"] == "down").count();
        if down == count {
            return;
        }
        assert!(Instant::now() < until, "host {host} holds {down} nodes for down, not {count}");
        sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn deleted_and_expired_keys_are_left_out_and_siblings_are_counted() {
    run(async {
        let sim = Sim::formed(61, 3, 3, &[]).await;
        let (http, servers) = (sim.client(Duration::from_secs(20)), sim.servers());
        put(&http, &servers, "/v1/kv/b/kept", "milk").await;
        put(&http, &servers, "/v1/kv/b/kept", "bread").await;
        put(&http, &servers, "/v1/kv/b/twice", "same").await;
        put(&http, &servers, "/v1/kv/b/twice", "same").await;
        put(&http, &servers, "/v1/kv/b/short?ttl=5s", "gone").await;
        put(&http, &servers, "/v1/kv/b/deleted", "gone").await;
        let delete = ask(&http, &servers[1], Method::DELETE, "/v1/kv/b/deleted", "").await;
        assert_eq!(delete.status, 204);
        let count = |page: &Value, key: &str| {
            let keys = page["keys"].as_array().expect("keys").clone();
            let found = keys.into_iter().find(|k| k["key"] == key)?;
            Some((found["siblings"].as_u64()?, found["bytes"].as_u64()?))
        };
        let page = json(&ask(&http, &servers[2], Method::GET, "/v1/kv/b", "").await);
        assert_eq!(count(&page, "kept"), Some((2, 9)));
        assert_eq!(count(&page, "twice"), Some((1, 4)), "equal values are shown as one");
        assert_eq!(count(&page, "short"), Some((1, 4)));
        assert_eq!((count(&page, "deleted"), &page["next"]), (None, &Value::Null));
        sleep(Duration::from_secs(6)).await;
        let page = json(&ask(&http, &servers[2], Method::GET, "/v1/kv/b?values=true", "").await);
        assert_eq!(count(&page, "short"), None);
        assert_eq!(page["keys"].as_array().expect("keys").len(), 2);
        assert_eq!((&page["agreed"], &page["replicas"]), (&2.into(), &3.into()));
    });
}

#[test]
fn values_that_one_replica_missed_are_listed_and_differing_ones_are_read() {
    run(async {
        let sim = Sim::formed(62, 3, 3, &[]).await;
        let (http, servers) = (sim.client(Duration::from_secs(20)), sim.servers());
        // Values do not reach host 0, which answers the list and would be asked for its sets.
        sim.weather.narrow(1, 0, 1 << 10);
        sim.weather.narrow(2, 0, 1 << 10);
        let large = "x".repeat(4 << 10);
        for key in 0..20 {
            put(&http, &servers[1..2], &format!("/v1/kv/b/{key}?w=quorum"), &large).await;
        }
        sim.heal();
        let keys = list(&http, &servers[..1], "limit=7", Duration::ZERO).await;
        assert_eq!(keys.keys.len(), 20);
        assert_eq!(keys.agreed, Some(1), "only one of the two that were asked held them");
        let values = list(&http, &servers[..1], "limit=7&values=true", Duration::ZERO).await;
        assert_eq!(values.keys.len(), 20);
        assert!(values.keys.iter().all(|(_, values)| *values == [large.clone()]));
        // Reading them repaired them.
        let again = list(&http, &servers[..1], "limit=7", Duration::ZERO).await;
        assert_eq!(again.agreed, Some(2));
    });
}

#[test]
fn too_few_replicas_are_an_error_and_stand_ins_are_named() {
    run(async {
        let mut sim = Sim::formed(63, 5, 3, &[]).await;
        let (http, servers) = (sim.client(Duration::from_secs(30)), sim.servers());
        for key in 0..40 {
            put(&http, &servers, &format!("/v1/kv/b/{key}?w=all"), "v").await;
        }
        for host in [3, 4] {
            sim.crash(host, Crash::DropAll).await;
        }
        until_down(&sim, 0, 2).await;
        for key in 40..60 {
            put(&http, &servers[..1], &format!("/v1/kv/b/{key}?w=quorum"), "v").await;
        }
        let sloppy = list(&http, &servers[..1], "limit=9&timeout=20s", Duration::ZERO).await;
        let keys: BTreeSet<&String> = sloppy.keys.iter().map(|(key, _)| key).collect();
        assert_eq!((keys.len(), sloppy.keys.len()), (60, 60), "what stand-ins keep is listed too");
        assert!(sloppy.standins >= 1, "some partition lost two owners of three");
        // Some partition has one owner left: a strict list says so, once it has come there.
        let (mut cursor, mut pages) = (String::new(), 0);
        let refused = loop {
            let path = format!("/v1/kv/b?limit=9&timeout=5s&sloppy=false{cursor}");
            let answer = ask(&http, &servers[0], Method::GET, &path, "").await;
            if answer.status != 200 {
                break answer;
            }
            pages += 1;
            let next =
                json(&answer)["next"].as_str().expect("it cannot come to the end").to_string();
            assert!(pages < 60, "a strict list goes on without the owners");
            cursor = format!("&cursor={next}");
        };
        assert_eq!(refused.status, 503, "{}", refused.text());
        assert_eq!(json(&refused)["code"], "quorum_not_reached");
        let all =
            list(&http, &servers[..1], "limit=9&timeout=20s&r=one&sloppy=false", Duration::ZERO)
                .await;
        assert!(all.keys.len() >= 40, "one owner of each partition is left");
    });
}

#[test]
fn cursors_of_other_lists_are_refused_and_lines_come_to_the_end() {
    run(async {
        let sim = Sim::formed(64, 3, 3, &[]).await;
        let (http, servers) = (sim.client(Duration::from_secs(30)), sim.servers());
        for key in 0..50 {
            put(&http, &servers, &format!("/v1/kv/b/{key}"), "v").await;
        }
        let page = json(&ask(&http, &servers[0], Method::GET, "/v1/kv/b?limit=10", "").await);
        let cursor = page["next"].as_str().expect("a cursor");
        for path in [
            format!("/v1/kv/c?cursor={cursor}"),
            format!("/v1/kv/b?prefix=1&cursor={cursor}"),
            format!("/v1/kv/b?cursor={}", &cursor[1..]),
            "/v1/kv/b?cursor=AQ".to_string(),
        ] {
            let refused = ask(&http, &servers[1], Method::GET, &path, "").await;
            assert_eq!(
                (refused.status, &json(&refused)["code"]),
                (400, &"bad_cursor".into()),
                "{path}"
            );
        }
        let mut lines = Ask::new(Method::GET, "/v1/kv/b?prefix=4");
        lines.headers.push(("accept", "application/x-ndjson".to_string()));
        let answer = http.ask(&servers[2], lines).await.expect("an answer");
        let lines: Vec<Value> =
            answer.text().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let keys = lines.iter().filter(|line| line.get("key").is_some()).count();
        assert_eq!(keys, 11, "4 and 40 to 49");
        assert_eq!(lines[lines.len() - 1]["next"], Value::Null);
        // Another cluster has another secret.
        let other = Sim::formed(65, 3, 3, &[]).await;
        let http = other.client(Duration::from_secs(30));
        let foreign = format!("/v1/kv/b?cursor={cursor}");
        let refused = ask(&http, &servers[0], Method::GET, &foreign, "").await;
        assert_eq!((refused.status, &json(&refused)["code"]), (400, &"bad_cursor".into()));
    });
}

#[test]
fn a_batch_goes_to_many_keys_and_each_item_answers() {
    run(async {
        let sim = Sim::formed(66, 5, 3, &[]).await;
        let (http, servers) = (sim.client(Duration::from_secs(30)), sim.servers());
        let put = |key: usize| serde_json::json!({"op":"put","bucket":"b","key":key.to_string(),"value":"v"});
        let get = |key: usize| serde_json::json!({"op":"get","bucket":"b","key":key.to_string()});
        let statuses = |answer: &Answer| -> Vec<u64> {
            let results = json(answer).as_array().expect("results").clone();
            results.iter().map(|result| result["status"].as_u64().expect("a status")).collect()
        };
        let puts = Value::from_iter((0..300).map(put)).to_string();
        let stored = ask(&http, &servers[0], Method::POST, "/v1/batch?w=quorum", &puts).await;
        assert_eq!(statuses(&stored), [204; 300]);
        let gets = Value::from_iter((150..450).map(get)).to_string();
        let read = ask(&http, &servers[4], Method::POST, "/v1/batch?r=quorum", &gets).await;
        let expected: Vec<u64> = (150..450).map(|key| if key < 300 { 200 } else { 404 }).collect();
        assert_eq!(statuses(&read), expected);
        let page = json(&ask(&http, &servers[2], Method::GET, "/v1/kv/b?limit=1000", "").await);
        assert_eq!(page["keys"].as_array().expect("keys").len(), 300);
    });
}
