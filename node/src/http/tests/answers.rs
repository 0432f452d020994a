//! Every answer of the client API.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use kvasir_core::version::Life;

use super::*;

const KEY: &str = "/v1/kv/default/cart/42";

#[test]
fn the_first_session() {
    run(async {
        let bench = Bench::new();
        let missing = bench.get(KEY, "").await;
        assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"));
        assert!(!missing.headers.contains_key("x-kvasir-context"), "nothing was ever here");

        let first = bench.put(KEY, "Content-Type: text/plain\r\n", "milk").await;
        assert_eq!((first.status, first.text()), (204, ""));
        assert_eq!(
            first.header("x-kvasir-acks"),
            "owners=01010101-0101-0101-0101-010101010101,02020202-0202-0202-0202-020202020202; \
             standins=03030303-0303-0303-0303-030303030303; durability=group"
        );
        let read = bench.get(KEY, "").await;
        assert_eq!((read.status, read.text()), (200, "milk"));
        assert_eq!(read.header("content-type"), "text/plain");
        assert_eq!(read.header("x-kvasir-replicas"), "2/3");
        assert_eq!(read.header("last-modified"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(read.header("date"), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert!(read.header("etag").starts_with('"'));
        assert_eq!(read.header("x-kvasir-context"), first.header("x-kvasir-context"));

        assert_eq!(bench.put(KEY, &read.context(), "milk,eggs").await.status, 204);
        assert_eq!(bench.get(KEY, "").await.text(), "milk,eggs");
        assert_eq!(bench.put(KEY, "", "bread").await.status, 204);
        let conflict = bench.get(KEY, "").await;
        assert_eq!(conflict.status, 300);
        assert_eq!(conflict.json().as_array().unwrap().len(), 2);
        assert_eq!(bench.put(KEY, &conflict.context(), "all").await.status, 204);
        assert_eq!(bench.get(KEY, "").await.text(), "all");
    });
}

/// Two siblings; returns the read of both as JSON.
async fn conflict(bench: &Bench) -> Reply {
    bench.put(KEY, "Content-Type: text/plain\r\n", "old").await;
    bench.put(KEY, "", "new\r\n\0").await;
    bench.get(KEY, "").await
}

#[test]
fn siblings_by_accept() {
    run(async {
        let bench = Bench::new();
        let list = conflict(&bench).await;
        assert_eq!((list.status, list.header("content-type")), (300, "application/json"));
        let json = list.json();
        assert_eq!(json[0]["value_b64"], STANDARD.encode("new\r\n\0"));
        assert_eq!(json[0]["content_type"], json!(null));
        assert_eq!(json[1]["content_type"], "text/plain");
        assert_eq!(json[1]["modified"], "1994-11-06T08:49:37.000Z");
        assert_eq!(json[1]["tombstone"], false);

        let parts = bench.get(KEY, "Accept: multipart/mixed\r\n").await;
        assert_eq!(parts.status, 300);
        let boundary = parts.header("content-type").strip_prefix("multipart/mixed; boundary=");
        let delimiter = format!("--{}", boundary.unwrap());
        let text = parts.text();
        let pieces: Vec<&str> = text.split(&delimiter).collect();
        assert_eq!((pieces.len(), pieces[0], pieces[3]), (4, "", "--\r\n"));
        let (head, body) = pieces[1].split_once("\r\n\r\n").unwrap();
        assert_eq!(body, "new\r\n\0\r\n");
        assert!(head.contains("Content-Type: application/octet-stream"));
        assert!(head.contains(&format!("ETag: \"{}\"", json[0]["vtag"].as_str().unwrap())));
        assert!(pieces[2].ends_with("\r\n\r\nold\r\n"));

        let refused = bench.get(KEY, "Accept: application/octet-stream\r\n").await;
        assert_eq!((refused.status, refused.code().as_str()), (409, "siblings"));
        assert_eq!(refused.json()["siblings"], 2);
        for reply in [&parts, &refused] {
            assert_eq!(reply.header("x-kvasir-context"), list.header("x-kvasir-context"));
        }
        assert_eq!(bench.stats.conflicts_shown.load(std::sync::atomic::Ordering::Relaxed), 3);
    });
}

#[test]
fn a_boundary_never_occurs_in_a_value() {
    run(async {
        let bench = Bench::new();
        conflict(&bench).await;
        let first = bench.get(KEY, "Accept: multipart/mixed\r\n").await;
        let boundary = first.header("content-type").rsplit_once('=').unwrap().1.to_owned();
        // The tags of the first two siblings name the boundary; a third value contains it.
        bench.memory.count.set(0);
        let list = bench.get(KEY, "").await.json();
        let kept: Vec<_> = list.as_array().unwrap().iter().map(|s| s["vtag"].clone()).collect();
        let dot = Actor { tag: 1, serial: 9 }.dot(1);
        let late = Sibling::value(Stamp::from_millis(1), format!("x{boundary}x"));
        let delta = SiblingSet::delta(Context::new(), dot, late);
        let name = (Bytes::from("default"), Bytes::from("cart/42"));
        bench.memory.sets.borrow_mut().get_mut(&name).unwrap().merge_in(&delta);
        let second = bench.get(KEY, "Accept: multipart/mixed\r\n").await;
        assert_eq!(kept.len(), 2);
        assert_ne!(second.header("content-type").rsplit_once('=').unwrap().1, boundary);
    });
}

#[test]
fn one_sibling_by_vtag() {
    run(async {
        let bench = Bench::new();
        let list = conflict(&bench).await;
        let vtag = list.json()[1]["vtag"].as_str().unwrap().to_owned();
        let one = bench.get(&format!("{KEY}?vtag={vtag}"), "").await;
        assert_eq!((one.status, one.text()), (200, "old"));
        assert_eq!(one.header("x-kvasir-context"), list.header("x-kvasir-context"));
        assert_eq!(one.header("etag"), format!("\"{vtag}\""));
        let none = bench.get(&format!("{KEY}?vtag=0000000000000000"), "").await;
        assert_eq!((none.status, none.code().as_str()), (404, "no_such_sibling"));
    });
}

#[test]
fn a_blind_retry_shows_no_conflict_and_the_latest_wins_where_the_bucket_says_so() {
    run(async {
        let bench = Bench::new();
        bench.put(KEY, "", "same").await;
        bench.put(KEY, "", "same").await;
        let read = bench.get(KEY, "").await;
        assert_eq!((read.status, read.text()), (200, "same"));
        bench.put(KEY, "", "later").await;
        assert_eq!(bench.get(KEY, "").await.status, 300);
        bench.memory.showing.set(Showing::LastWriteWins);
        let read = bench.get(KEY, "").await;
        assert_eq!((read.status, read.text()), (200, "later"));
    });
}

#[test]
fn deleting_leaves_a_token() {
    run(async {
        let bench = Bench::new();
        let put = bench.put(KEY, "", "milk").await;
        let gone = bench.ask("DELETE", KEY, &put.context(), b"").await;
        assert_eq!(gone.status, 204);
        assert!(gone.header("x-kvasir-acks").ends_with("durability=group"));
        let read = bench.get(KEY, "").await;
        assert_eq!((read.status, read.code().as_str()), (404, "not_found"));
        assert_eq!(read.header("x-kvasir-context"), gone.header("x-kvasir-context"));
        assert_eq!(read.header("x-kvasir-replicas"), "2/3");
        let again = bench.ask("DELETE", "/v1/kv/b/never", "", b"").await;
        assert_eq!(again.status, 204, "whether or not something was there");
    });
}

#[test]
fn head_is_get_without_its_body() {
    run(async {
        let bench = Bench::new();
        bench.put(KEY, "", "milk").await;
        let (get, head) = (bench.get(KEY, "").await, bench.ask("HEAD", KEY, "", b"").await);
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers, get.headers);
        bench.put(KEY, "", "bread").await;
        let head = bench.ask("HEAD", KEY, "", b"").await;
        assert_eq!((head.status, head.body.len()), (300, 0));
        let head = bench.ask("HEAD", "/v1/kv/b/none", "", b"").await;
        assert_eq!((head.status, head.body.len()), (404, 0));
    });
}

#[test]
fn lives_are_shown_and_end() {
    run(async {
        let bench = Bench::new();
        bench.put(&format!("{KEY}?ttl=1500ms"), "", "milk").await;
        assert_eq!(bench.get(KEY, "").await.header("x-kvasir-ttl"), "2s");
        bench.memory.now_ms.set(NOW_MS + 1_500);
        let read = bench.get(KEY, "").await;
        assert_eq!(read.status, 404);
        assert!(!read.headers.contains_key("x-kvasir-ttl"));
        read.header("x-kvasir-context");
    });
}

#[test]
fn conditions() {
    run(async {
        let bench = Bench::new();
        let none = "If-None-Match: *\r\n";
        assert_eq!(bench.put(KEY, none, "1").await.status, 204);
        let refused = bench.put(KEY, none, "2").await;
        assert_eq!((refused.status, refused.code().as_str()), (412, "precondition_failed"));
        refused.header("x-kvasir-context");
        let tag = bench.get(KEY, "").await.header("etag").to_owned();
        let fresh = bench.get(KEY, &format!("If-None-Match: {tag}\r\n")).await;
        assert_eq!((fresh.status, fresh.body.len()), (304, 0));
        assert_eq!(fresh.header("etag"), tag);
        fresh.header("x-kvasir-context");
        assert_eq!(bench.get(KEY, "If-Match: \"other\"\r\n").await.status, 412);

        // Without a token of its own, a matched write supersedes what it matched.
        assert_eq!(bench.put(KEY, &format!("If-Match: {tag}\r\n"), "2").await.status, 204);
        assert_eq!(bench.get(KEY, "").await.text(), "2");
        assert_eq!(bench.put(KEY, &format!("If-Match: {tag}\r\n"), "3").await.status, 412);
        let gone = bench.ask("DELETE", KEY, &format!("If-Match: {tag}\r\n"), b"").await;
        assert_eq!(gone.status, 412);
        assert_eq!(bench.memory.puts.borrow().len(), 2, "refused writes reach no coordinator");
        assert!(bench.memory.deletes.borrow().is_empty());
    });
}

#[test]
fn the_new_value_on_request() {
    run(async {
        let bench = Bench::new();
        let target = format!("{KEY}?returnbody=true");
        let put = bench.put(&target, "", "milk").await;
        assert_eq!((put.status, put.text()), (200, "milk"));
        put.header("x-kvasir-acks");
        let accept = "Accept: application/octet-stream\r\n";
        let put = bench.put(&target, accept, "bread").await;
        assert_eq!(put.status, 300, "the write was applied: never 409");
        assert_eq!(bench.put(KEY, &put.context(), "both").await.status, 204);
        assert_eq!(bench.get(KEY, "").await.text(), "both", "the token covers all that was shown");
    });
}

#[test]
fn requests_reach_the_coordinator_whole() {
    run(async {
        let bench = Bench::new();
        let body = [0u8, 10, 255];
        let target = "/v1/kv/b%2F1/k%00?w=3&ttl=60s&sloppy=false&durability=each&timeout=2s";
        let before = tokio::time::Instant::now();
        let reply = bench.ask("PUT", target, "Content-Type: x/y\r\n", &body).await;
        assert_eq!(reply.status, 204);
        let put = bench.memory.puts.borrow()[0].clone();
        assert_eq!((&put.bucket[..], &put.key[..]), (&b"b/1"[..], &b"k\0"[..]));
        assert_eq!(&put.value[..], &body);
        assert_eq!(put.content_type.as_deref(), Some("x/y"));
        assert_eq!(put.w, Some("3".parse().unwrap()));
        assert_eq!((put.life, put.sloppy), (Some(Life::Lasts(60_000)), Some(false)));
        assert_eq!(put.durability, Some(Durability::Each));
        assert_eq!(put.deadline, before + Duration::from_secs(2));
        bench.get("/v1/kv/b/k?r=one", "").await;
        let get = bench.memory.gets.borrow()[0].clone();
        assert_eq!((get.r, get.sloppy), (Some("one".parse().unwrap()), None));
        assert_eq!(get.deadline, before + Duration::from_secs(5));
    });
}

#[test]
fn what_the_coordinator_cannot_do() {
    run(async {
        let bench = Bench::new();
        for (error, status, code, may_be_stored) in [
            (
                CoordinateError::QuorumNotReached {
                    acks: 1,
                    required: 2,
                    short: vec![],
                    may_be_stored: true,
                },
                503,
                "quorum_not_reached",
                true,
            ),
            (
                CoordinateError::Deadline {
                    acks: 0,
                    required: 2,
                    short: vec![],
                    may_be_stored: false,
                },
                504,
                "deadline",
                false,
            ),
            (CoordinateError::Overloaded { retry_after_ms: 1_200 }, 503, "overloaded", false),
            (CoordinateError::BadToken { reason: "foreign".to_owned() }, 400, "bad_context", false),
            (
                CoordinateError::ContextRefused { reason: "row".to_owned() },
                400,
                "context_refused",
                false,
            ),
            (
                CoordinateError::Level(kvasir_core::quorum::LevelError::NoReplicas),
                400,
                "bad_level",
                false,
            ),
            (
                CoordinateError::TooManySiblings { siblings: 100, limit: 100 },
                409,
                "too_many_siblings",
                false,
            ),
            (CoordinateError::DiskFull { may_be_stored: true }, 507, "disk_full", true),
            (
                CoordinateError::DiskFailed { reason: "EIO".to_owned(), may_be_stored: true },
                503,
                "disk_failed",
                true,
            ),
            (CoordinateError::StandInsFull, 503, "standins_full", false),
            (CoordinateError::NotFormed, 503, "not_formed", false),
            (
                CoordinateError::NotServing { reason: "draining".to_owned() },
                503,
                "not_serving",
                false,
            ),
        ] {
            *bench.memory.failure.borrow_mut() = Some(error.clone());
            let get = bench.get(KEY, "").await;
            assert_eq!((get.status, get.code().as_str()), (status, code));
            assert!(get.json().get("may_be_stored").is_none(), "reads store nothing");
            for reply in [bench.put(KEY, "", "x").await, bench.ask("DELETE", KEY, "", b"").await] {
                assert_eq!((reply.status, reply.code().as_str()), (status, code));
                assert_eq!(reply.json()["may_be_stored"], may_be_stored);
                match error {
                    CoordinateError::QuorumNotReached { .. } => {
                        assert_eq!(
                            (&reply.json()["acks"], &reply.json()["required"]),
                            (&1.into(), &2.into())
                        );
                    }
                    CoordinateError::Overloaded { .. } => {
                        assert_eq!(reply.header("retry-after"), "2")
                    }
                    _ => {}
                }
            }
        }
    });
}

#[test]
fn the_data_center_that_is_short_is_named() {
    run(async {
        let bench = Bench::new();
        let short = |datacenter: &str| kvasir_core::quorum::Shortage {
            datacenter: datacenter.to_owned(),
            acks: 1,
            required: 2,
        };
        let error = CoordinateError::QuorumNotReached {
            acks: 3,
            required: 6,
            short: vec![short("east"), short("west")],
            may_be_stored: true,
        };
        *bench.memory.failure.borrow_mut() = Some(error);
        let reply = bench.put(KEY, "", "x").await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "quorum_not_reached"));
        let body = reply.json();
        assert_eq!(body["data_centers"], serde_json::json!(["east", "west"]));
        let detail =
            "3 of 6 required replicas answered; data center east: 1 of 2; data center west: 1 of 2";
        assert_eq!(body["detail"], detail);
    });
}

#[test]
fn requests_that_are_refused_before_the_coordinator() {
    run(async {
        let bench = Bench::new();
        let long = "k".repeat(4_097);
        for (method, target, headers, status, code) in [
            ("GET", "/v1/kv/b/", "", 400, "empty_key"),
            ("GET", &format!("/v1/kv/b/{long}"), "", 400, "key_too_long"),
            ("GET", "/v1/kv//k", "", 400, "bad_bucket"),
            ("GET", "/v1/kv/b/%zz", "", 400, "bad_percent_encoding"),
            ("GET", "/v1/kv/b/k?n=3", "", 400, "unknown_query"),
            ("GET", "/v1/kv/b/k?r=1&r=1", "", 400, "repeated_query"),
            ("GET", "/v1/kv/b/k?r=0", "", 400, "bad_query_value"),
            ("PUT", "/v1/kv/b/k?ttl=1h&ttl=1h", "", 400, "repeated_query"),
            ("PUT", "/v1/kv/b/k", "X-Kvasir-Context: !!\r\n", 400, "bad_context"),
            ("PUT", "/v1/kv/b/k", "If-Match: x\r\n", 400, "bad_header"),
            ("GET", "/nothing", "", 404, "unknown_route"),
            ("GET", "/.fault", "", 404, "unknown_route"),
            ("POST", "/v1/kv/b/k", "", 405, "method_not_allowed"),
            ("BREW", "/v1/kv/b/k", "", 405, "method_not_allowed"),
            ("GET", "/v1/kv/b?start=k", "", 400, "unknown_query"),
            ("GET", "/v1/kv", "", 501, "unsupported_operation"),
            ("POST", "/v1/batch", "", 400, "bad_batch"),
            ("PUT", "/v1/batch", "", 405, "method_not_allowed"),
            ("GET", "/v1/kv/b/k?wait=30s", "", 501, "unsupported_operation"),
        ] {
            let reply = bench.ask(method, target, headers, b"").await;
            assert_eq!((reply.status, reply.code().as_str()), (status, code), "{method} {target}");
        }
        assert_eq!(bench.ask("BREW", KEY, "", b"").await.header("allow"), "GET, HEAD, PUT, DELETE");
        assert!(bench.memory.sets.borrow().is_empty(), "nothing changed");
        assert!(bench.memory.gets.borrow().is_empty());
    });
}

#[test]
fn keys_are_bytes() {
    run(async {
        let bench = Bench::new();
        for byte in 0..=255u8 {
            let target = format!("/v1/kv/b/%{byte:02X}");
            assert_eq!(bench.put(&target, "", &byte.to_string()).await.status, 204);
        }
        for byte in 0..=255u8 {
            let read = bench.get(&format!("/v1/kv/b/%{byte:02x}"), "").await;
            assert_eq!((read.status, read.text()), (200, byte.to_string().as_str()));
        }
        let long = format!("/v1/kv/b/{}", "%ff".repeat(4_096));
        assert_eq!(bench.put(&long, "", "x").await.status, 204);
    });
}
