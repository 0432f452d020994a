//! Bucket settings over HTTP: what is read, what is changed, what is refused.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use kvasir_core::admin_api::{self, BucketAnswer, BucketList};
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::buckets::{Declared, declare};
use kvasir_core::ring::document::NewCluster;
use kvasir_core::ring::{
    BucketName, BucketSettings, Document, Member, MemberState, SettingsChange, TokenSecret,
};
use serde_json::json;

use super::{Bench, run};
use crate::http::buckets::{Buckets, SettingsError};

/// Settings in a document that needs no votes.
pub(super) struct Desk {
    document: RefCell<Document>,
    /// Whether the token is asked for.
    guarded: Cell<bool>,
    /// What every change fails with, if anything.
    failure: RefCell<Option<SettingsError>>,
}

impl Desk {
    pub(super) fn new() -> Self {
        let member = Member {
            machine: "m".into(),
            rack: String::new(),
            zone: String::new(),
            datacenter: "dc1".into(),
            weight: 100,
            state: MemberState::Active,
        };
        let (document, _) = Document::first(NewCluster {
            cluster_id: ClusterId::from_bytes([7; 16]),
            cluster_name: "test".into(),
            seed: 1,
            token_secret: TokenSecret([9; 32]),
            partition_bits: 0,
            members: BTreeMap::from([(NodeId::from_bytes([1; 16]), member)]),
            replication: BTreeMap::from([("dc1".to_owned(), 1)]),
            defaults: BucketSettings::default(),
        })
        .unwrap();
        let document = RefCell::new(document);
        Self { document, guarded: Cell::new(false), failure: RefCell::default() }
    }
}

impl Buckets for Desk {
    fn may_change(&self, headers: &HeaderMap) -> Result<(), Box<admin_api::Problem>> {
        use kvasir_core::admin_api::problem::code;
        let code = match headers.get(AUTHORIZATION) {
            _ if !self.guarded.get() => return Ok(()),
            Some(value) if value == "Bearer right" => return Ok(()),
            Some(_) => code::TOKEN_REFUSED,
            None => code::TOKEN_REQUIRED,
        };
        Err(Box::new(admin_api::Problem::new(code, "no")))
    }

    fn settings(&self, bucket: BucketName) -> Result<BucketAnswer, SettingsError> {
        Ok(BucketAnswer::of(&self.document.borrow(), bucket))
    }

    fn list(&self) -> Result<BucketList, SettingsError> {
        Ok(BucketList::of(&self.document.borrow()))
    }

    fn change(
        &self,
        bucket: BucketName,
        change: SettingsChange,
    ) -> LocalBoxFuture<'_, Result<BucketAnswer, SettingsError>> {
        async move {
            if let Some(failure) = self.failure.borrow().clone() {
                return Err(failure);
            }
            let declared = declare(&self.document.borrow(), &bucket, &change)?;
            if let Declared::Child(child) = declared {
                *self.document.borrow_mut() = *child;
            }
            self.settings(bucket)
        }
        .boxed_local()
    }
}

const CARTS: &str = "/v1/buckets/carts";

#[test]
fn a_bucket_is_declared_changed_and_listed() {
    run(async {
        let bench = Bench::new();
        let before = bench.get(CARTS, "").await;
        assert_eq!((before.status, before.header("content-type")), (200, "application/json"));
        let defaults = json!({"r": "quorum", "w": "quorum", "durability": "group", "sloppy": true,
            "ttl": null, "mode": "siblings"});
        let expected =
            json!({"bucket": "carts", "declared": false, "settings": defaults, "epoch": 1});
        assert_eq!(before.json(), expected);
        let put = bench.put(CARTS, "", r#" {"ttl": 60, "r": "one"} "#).await;
        assert_eq!((put.status, put.json()["settings"]["ttl"].as_u64()), (200, Some(60)));
        assert_eq!((&put.json()["declared"], &put.json()["epoch"]), (&json!(true), &json!(2)));
        let put = bench.put(CARTS, "", r#"{"ttl": null}"#).await;
        assert_eq!(put.json()["settings"]["r"], "one", "what is not named stays");
        assert_eq!(put.json()["settings"]["ttl"], json!(null));
        let again = bench.put(CARTS, "", r#"{"ttl": null}"#).await;
        assert_eq!((again.status, &again.json()["epoch"]), (200, &json!(3)), "nothing to change");
        let empty = bench.put("/v1/buckets/a%2Fb", "", "").await;
        assert_eq!((empty.status, &empty.json()["bucket"]), (200, &json!("a/b")));
        let list = bench.get("/v1/buckets", "").await.json();
        assert_eq!((&list["epoch"], &list["defaults"]), (&json!(4), &defaults));
        assert_eq!(list["buckets"]["a/b"], defaults);
        assert_eq!(list["buckets"]["carts"]["r"], "one");
        assert_eq!(list["buckets"].as_object().unwrap().len(), 2);
        assert_eq!(bench.ask("HEAD", CARTS, "", b"").await.status, 200);
    });
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    run(async {
        let bench = Bench::new();
        bench.put(CARTS, "", "{}").await;
        let long = format!("{{\"r\": \"{}\"}}", "x".repeat(5_000));
        for (target, body, status, code) in [
            (CARTS, r#"{"n": 3}"#, 400, "bad_settings"),
            (CARTS, r#"{"r": "most"}"#, 400, "bad_settings"),
            (CARTS, r#"{"ttl": "60s"}"#, 400, "bad_settings"),
            (CARTS, r#"["one"]"#, 400, "bad_settings"),
            (CARTS, r#"{"ttl": 60"#, 400, "bad_settings"),
            (CARTS, r#"{"ttl": 60} {}"#, 400, "bad_settings"),
            (CARTS, r#"{"mode": "lastWriteWins"}"#, 409, "bucket_mode_fixed"),
            (CARTS, r#"{"w": "2"}"#, 422, "impossible_settings"),
            (CARTS, r#"{"ttl": 0}"#, 422, "impossible_settings"),
            (CARTS, &long, 413, "value_too_large"),
            ("/v1/buckets/carts?ttl=60s", "{}", 400, "unknown_query"),
            ("/v1/buckets/carts?timeout=1s&timeout=1s", "{}", 400, "repeated_query"),
            ("/v1/buckets/carts?timeout=2h", "{}", 400, "bad_query_value"),
            ("/v1/buckets", "{}", 405, "method_not_allowed"),
            ("/v1/buckets/a/b", "{}", 404, "unknown_route"),
        ] {
            let reply = bench.put(target, "", body).await;
            assert_eq!((reply.status, reply.code().as_str()), (status, code), "{target} {body}");
        }
        let gone = bench.ask("DELETE", CARTS, "", b"").await;
        assert_eq!((gone.status, gone.header("allow")), (405, "GET, HEAD, PUT"));
        assert_eq!(bench.get("/v1/buckets?prefix=a", "").await.code(), "unknown_query");
        assert_eq!(bench.desk.document.borrow().epoch, 2, "nothing changed");
        let fixed = bench.put(CARTS, "", r#"{"mode": "lastWriteWins"}"#).await;
        assert_eq!(fixed.json()["mode"], "siblings");
    });
}

#[test]
fn failures_say_whether_the_change_may_still_come() {
    run(async {
        let bench = Bench::new();
        let no_majority = |may_be_chosen| SettingsError::NoMajority { may_be_chosen };
        for (failure, status, code, may_be_chosen) in [
            (no_majority(true), 503, "no_majority", json!(true)),
            (no_majority(false), 503, "no_majority", json!(false)),
            (SettingsError::Races(5), 503, "no_majority", json!(false)),
            (SettingsError::Busy, 503, "overloaded", json!(null)),
            (SettingsError::NotFormed, 503, "not_formed", json!(null)),
            (SettingsError::Stopping, 503, "not_serving", json!(null)),
            (SettingsError::Internal("forked".into()), 500, "internal", json!(null)),
        ] {
            *bench.desk.failure.borrow_mut() = Some(failure);
            let reply = bench.put(CARTS, "", "{}").await;
            assert_eq!((reply.status, reply.code().as_str()), (status, code));
            assert_eq!(reply.json()["may_be_chosen"], may_be_chosen);
        }
    });
}

#[test]
fn reading_is_open_and_changing_wants_the_token() {
    run(async {
        let bench = Bench::new();
        bench.desk.guarded.set(true);
        let without = bench.put(CARTS, "", "{}").await;
        assert_eq!((without.status, without.code().as_str()), (401, "token_required"));
        assert_eq!(without.header("www-authenticate"), "Bearer");
        let wrong = bench.put(CARTS, "Authorization: Bearer wrong\r\n", "{}").await;
        assert_eq!((wrong.status, wrong.code().as_str()), (403, "token_refused"));
        assert_eq!(bench.get(CARTS, "").await.json()["declared"], false);
        let right = bench.put(CARTS, "Authorization: Bearer right\r\n", "{}").await;
        assert_eq!(right.status, 200);
    });
}
