//! Lists and batches over HTTP: forms, bounds, and what bad input is told.

use serde_json::{Value, json};

use super::*;
use crate::http::stats::Operation;

/// The status and the lines of a list that is asked for as lines.
async fn lines(bench: &Bench, target: &str) -> (String, Vec<Value>) {
    let (mut reader, mut writer) = tokio::io::split(bench.open());
    // HTTP/1.0 ends a body of unknown length by closing.
    let head = format!("GET {target} HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n");
    writer.write_all(head.as_bytes()).await.unwrap();
    let mut all = Vec::new();
    reader.read_to_end(&mut all).await.unwrap();
    let all = String::from_utf8(all).unwrap();
    let (head, body) = all.split_once("\r\n\r\n").unwrap();
    let lines = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (head.lines().next().unwrap().to_owned(), lines)
}

async fn filled(bench: &Bench, keys: usize) {
    for key in 0..keys {
        let target = format!("/v1/kv/b/k/{key:04}");
        assert_eq!(bench.put(&target, "", "milk").await.status, 204);
    }
}

#[test]
fn a_page_is_json_and_its_cursor_goes_on() {
    run(async {
        let bench = Bench::new();
        filled(&bench, 5).await;
        bench.put("/v1/kv/b/%00%ff", "", "raw").await;
        bench.put("/v1/kv/b/k/0001", "", "bread").await;
        bench.ask("DELETE", "/v1/kv/b/k/0002", "", b"").await;
        let first = bench.get("/v1/kv/b?limit=3&timeout=2s&r=one&sloppy=false", "").await;
        assert_eq!((first.status, first.header("content-type")), (200, "application/json"));
        assert_eq!(first.header("x-kvasir-replicas"), "2/3");
        let keys = json!([
            { "key_b64": "AP8=", "siblings": 1, "bytes": 3 },
            { "key": "k/0000", "siblings": 1, "bytes": 4 },
            { "key": "k/0001", "siblings": 2, "bytes": 9 },
        ]);
        assert_eq!(first.json()["keys"], keys);
        assert_eq!(first.json()["agreed"], 2);
        let next = first.json()["next"].as_str().unwrap().to_owned();
        let second = bench.get(&format!("/v1/kv/b?limit=3&cursor={next}"), "").await.json();
        assert_eq!((&second["next"], second["keys"].as_array().unwrap().len()), (&Value::Null, 2));
        let asked = bench.memory.lists.borrow();
        assert_eq!((asked[0].sloppy, asked[0].values), (Some(false), false));
        assert_eq!(asked[1].cursor.as_deref(), Some("3"));
        assert_eq!(
            bench.stats.of(Operation::List).by_class[1].load(std::sync::atomic::Ordering::Relaxed),
            2
        );
    });
}

#[test]
fn values_come_with_all_that_a_read_shows() {
    run(async {
        let bench = Bench::new();
        bench.put("/v1/kv/b/k?ttl=60s", "Content-Type: text/plain\r\n", "milk").await;
        bench.put("/v1/kv/b/k", "", "bread").await;
        let page = bench.get("/v1/kv/b?prefix=k&values=true", "").await.json();
        let values = page["keys"][0]["values"].as_array().unwrap();
        assert_eq!(values.len(), 2);
        let milk = values.iter().find(|value| value["value_b64"] == "bWlsaw==").unwrap();
        assert_eq!(
            (&milk["content_type"], milk["expires_ms"].is_u64()),
            (&json!("text/plain"), true)
        );
    });
}

#[test]
fn lines_end_with_a_cursor_or_with_the_bucket() {
    run(async {
        let bench = Bench::new();
        filled(&bench, 2_500).await;
        let (status, all) = lines(&bench, "/v1/kv/b?prefix=k%2F").await;
        assert!(status.ends_with("200 OK"), "{status}");
        let keys: Vec<&str> = all.iter().filter_map(|line| line["key"].as_str()).collect();
        assert_eq!(keys.len(), 2_500);
        assert!(keys.is_sorted_by(|a, b| a < b));
        let closes = all.iter().filter(|line| line.get("next").is_some()).count();
        assert_eq!((closes, &all[all.len() - 1]["next"]), (3, &Value::Null));
        let (_, some) = lines(&bench, "/v1/kv/b?limit=1500").await;
        assert_eq!(some.len(), 1_502);
        assert_eq!(some[1_501]["next"], "1500");
        let stats = bench.stats.of(Operation::ListStream);
        assert_eq!(stats.by_class[1].load(std::sync::atomic::Ordering::Relaxed), 2);
        // A failure after the head is a line of its own, the last one.
        let failing = async {
            tokio::time::sleep(Duration::from_millis(150)).await;
            *bench.memory.failure.borrow_mut() = Some(CoordinateError::QuorumNotReached {
                acks: 1,
                required: 2,
                short: vec![],
                may_be_stored: false,
            });
        };
        bench.memory.delay.set(Duration::from_millis(100));
        let ((_, broken), ()) = tokio::join!(lines(&bench, "/v1/kv/b"), failing);
        let last = &broken[broken.len() - 1]["error"];
        assert_eq!((&last["code"], &last["status"]), (&json!("quorum_not_reached"), &json!(503)));
        assert_eq!(broken[broken.len() - 2]["next"], "1000");
        let (status, first) = lines(&bench, "/v1/kv/b").await;
        assert!(status.contains(" 503 ") && first[0]["code"] == "quorum_not_reached", "{status}");
    });
}

#[test]
fn a_client_that_goes_away_ends_the_list() {
    run(async {
        let bench = Bench::new();
        filled(&bench, 5_000).await;
        let (mut reader, mut writer) = tokio::io::split(bench.open());
        let head = "GET /v1/kv/b HTTP/1.1\r\nHost: x\r\nAccept: application/x-ndjson\r\n\r\n";
        writer.write_all(head.as_bytes()).await.unwrap();
        let mut some = [0; 100];
        reader.read_exact(&mut some).await.unwrap();
        let before = bench.memory.lists.borrow().len();
        drop((reader, writer));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(bench.memory.lists.borrow().len() <= before + 2, "pages nobody reads are not made");
        // Its place is free again.
        assert_eq!(lines(&bench, "/v1/kv/b?limit=1").await.1.len(), 2);
    });
}

#[test]
fn lists_have_a_bound_of_their_own() {
    run(async {
        let bench = Bench::new();
        bench.memory.delay.set(Duration::from_secs(1));
        let many = (0..20).map(|_| bench.get("/v1/kv/b", ""));
        let answers = futures_util::future::join_all(many).await;
        let refused: Vec<&Reply> = answers.iter().filter(|answer| answer.status == 503).collect();
        assert_eq!(refused.len(), 4);
        assert_eq!(
            (refused[0].code().as_str(), refused[0].header("retry-after")),
            ("overloaded", "1")
        );
    });
}

#[test]
fn bad_lists_are_told_what_is_wrong() {
    run(async {
        let bench = Bench::new();
        let long = "p".repeat(4_097);
        for (query, status, code) in [
            ("limit=10001", 400, "bad_query_value"),
            ("limit=0", 400, "bad_query_value"),
            (&*format!("prefix={long}"), 400, "bad_query_value"),
            ("prefix=%zz", 400, "bad_query_value"),
            ("values=yes", 400, "bad_query_value"),
            ("start=a", 400, "unknown_query"),
            ("reverse=true", 400, "unknown_query"),
            ("cursor=x&cursor=y", 400, "repeated_query"),
            ("cursor=milk", 400, "bad_cursor"),
        ] {
            let answer = bench.get(&format!("/v1/kv/b?{query}"), "").await;
            assert_eq!((answer.status, &*answer.code()), (status, code), "{query}");
        }
        assert_eq!(bench.put("/v1/kv/b", "", "v").await.code(), "empty_key");
        let name = "b".repeat(256);
        assert_eq!(bench.get(&format!("/v1/kv/{name}"), "").await.code(), "bad_bucket");
    });
}

async fn batch(bench: &Bench, query: &str, body: &str) -> Reply {
    bench.ask("POST", &format!("/v1/batch{query}"), "", body.as_bytes()).await
}

#[test]
fn each_item_of_a_batch_answers_for_itself() {
    run(async {
        let bench = Bench::new();
        bench.put("/v1/kv/b/old", "", "milk").await;
        let body = json!([
            { "op": "put", "bucket": "b", "key": "new", "value": "bread", "content_type": "text/plain" },
            { "op": "get", "bucket": "b", "key": "old" },
            { "op": "get", "bucket": "b", "key": "absent" },
            { "op": "incr", "bucket": "b", "key": "old" },
            { "op": "put", "bucket": "b", "key": "old", "value": "x", "context": "forged" },
            { "op": "delete", "bucket": "b", "key_b64": "b2xk" },
        ]);
        let answer = batch(&bench, "?w=2&timeout=2s", &body.to_string()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let results = answer.json();
        let statuses: Vec<u64> =
            results.as_array().unwrap().iter().map(|r| r["status"].as_u64().unwrap()).collect();
        assert_eq!(statuses, [204, 200, 404, 400, 400, 204]);
        assert!(results[0]["context"].is_string());
        assert!(results[0]["acks"].as_str().unwrap().contains("durability=group"));
        assert_eq!(results[1]["siblings"][0]["value_b64"], "bWlsaw==");
        assert_eq!(results[1]["replicas"], "2/3");
        assert_eq!(results[2]["code"], "not_found");
        assert_eq!(
            (&results[3]["code"], &results[3]["may_be_stored"]),
            (&json!("bad_item"), &json!(false))
        );
        assert_eq!(results[4]["code"], "bad_context");
        assert_eq!(bench.get("/v1/kv/b/new", "").await.text(), "bread");
        assert_eq!(bench.get("/v1/kv/b/old", "").await.status, 404);
        assert_eq!(
            bench.memory.puts.borrow().last().unwrap().w,
            Some(kvasir_core::quorum::Level::Exactly(2))
        );
    });
}

#[test]
fn a_batch_in_lines_is_answered_in_lines_and_runs_side_by_side() {
    run(async {
        let bench = Bench::new();
        bench.memory.delay.set(Duration::from_millis(100));
        let line = |key: usize| {
            format!("{}\n", json!({"op":"put","bucket":"b","key":key.to_string(),"value":"v"}))
        };
        let body: String = (0..160).map(line).collect();
        let started = tokio::time::Instant::now();
        let answer = batch(&bench, "", &body).await;
        assert_eq!(started.elapsed(), Duration::from_millis(1_000), "16 at a time");
        assert_eq!(answer.header("content-type"), "application/x-ndjson");
        assert_eq!(answer.text().lines().count(), 160);
        assert_eq!(bench.memory.sets.borrow().len(), 160);
    });
}

#[test]
fn a_batch_that_is_none_does_nothing() {
    run(async {
        let bench = Bench::new();
        let put = r#"{"op":"put","bucket":"b","key":"k","value":"v"}"#;
        let many = vec![put; 1_001].join("\n");
        for (query, body, status, code) in [
            ("", "", 400, "bad_batch"),
            ("", "milk", 400, "bad_batch"),
            ("", &format!("[{put}"), 400, "bad_batch"),
            ("", &format!("{put}\nmilk"), 400, "bad_batch"),
            ("", &*many, 413, "batch_too_large"),
            ("?n=3", put, 400, "unknown_query"),
            ("?w=0", put, 400, "bad_query_value"),
        ] {
            let answer = batch(&bench, query, body).await;
            assert_eq!((answer.status, &*answer.code()), (status, code), "{query} {}", body.len());
        }
        let head = "Content-Length: 8388609\r\n";
        let claimed =
            bench.exchange(format!("POST /v1/batch HTTP/1.1\r\nHost: x\r\n{head}\r\n")).await;
        assert_eq!((claimed[0].status, &*claimed[0].code()), (413, "batch_too_large"));
        assert_eq!(bench.get("/v1/batch", "").await.code(), "method_not_allowed");
        assert!(bench.memory.puts.borrow().is_empty());
    });
}
