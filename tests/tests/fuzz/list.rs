//! Cursors of lists and bodies of batches. A cursor that is taken is one that was issued for the list; a
//! batch is items that can each be used or refused.

use std::time::Duration;

use kvasir::coordinator::batch::Item;
use kvasir::http::batch::{Terms, items};
use kvasir::http::query::Query;
use kvasir_core::id::ClusterId;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use kvasir_core::list::{Cursor, Place};
use kvasir_core::version::TokenKey;
use kvasir_tests::fuzz::{Target, run};
use tokio::time::Instant;

const SECRET: TokenKey = TokenKey([9; 32]);

fn list(bucket: &'static [u8], prefix: &'static [u8]) -> Cursor<'static> {
    Cursor { key: &SECRET, cluster: ClusterId::from_bytes([7; 16]), bucket, prefix }
}

fn issued() -> Vec<String> {
    let places = [Place::START, Place::of(5, b"cart/42").after(), Place::at_hash(u64::MAX)];
    places.iter().map(|place| list(b"b", b"cart/").encode(place)).collect()
}

fn taken(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return String::from("no text") };
    match list(b"b", b"cart/").decode(text) {
        Ok(place) => {
            let again = list(b"b", b"cart/").encode(&place);
            assert!(again == text && issued().contains(&again), "forged: {text}");
            String::from("taken")
        }
        Err(error) => format!("{error:?}").chars().take(9).collect(),
    }
}

#[test]
fn cursors() {
    let mut seeds: Vec<Vec<u8>> = issued().into_iter().map(String::into_bytes).collect();
    seeds.push(list(b"c", b"cart/").encode(&Place::of(1, b"k")).into_bytes());
    let elsewhere = Cursor { cluster: ClusterId::from_bytes([8; 16]), ..list(b"b", b"cart/") };
    seeds.push(elsewhere.encode(&Place::of(1, b"k")).into_bytes());
    let words: &[&[u8]] = &[b"=", b"-_", b"AAAA"];
    let target =
        Target { name: "cursor", seeds, words, inputs: 20_000, mend: &|_| (), run: &taken };
    assert!(run(&target).outcomes.len() >= 6);
}

fn batch(input: &[u8]) -> String {
    let (form, items) = match items(input) {
        Ok(items) => items,
        Err(problem) => return problem.code().name().to_string(),
    };
    let deadline = Instant::now() + Duration::from_secs(5);
    let terms = Terms { query: Query::default(), value_max_bytes: 64, deadline };
    let mut outcome = format!("{form:?}");
    for item in items.into_iter().take(2) {
        outcome += match item.read(&terms) {
            Ok(item) => {
                let (bucket, key) = match &item {
                    Item::Get(get) => (&get.bucket, &get.key),
                    Item::Put(put) => (&put.bucket, &put.key),
                    Item::Delete(delete) => (&delete.bucket, &delete.key),
                };
                assert!((1..=BUCKET_MAX_BYTES).contains(&bucket.len()));
                assert!((1..=KEY_MAX_BYTES).contains(&key.len()));
                " used"
            }
            Err(problem) => problem.code().name(),
        };
    }
    outcome
}

#[test]
fn batches() {
    let seeds = [
        &br#"[{"op":"get","bucket":"b","key":"k"},{"op":"delete","bucket":"b","key_b64":"AP8="}]"#[..],
        br#"{"op":"put","bucket":"b","key":"k","value":"v","ttl":"60s","content_type":"a/b"}"#,
        b"{\"op\":\"put\",\"bucket\":\"b\",\"key\":\"k\",\"value_b64\":\"AAE=\",\"context\":\"t\"}\n{}\n",
        br#"[{"op":"incr","bucket":"","key":""}, 7, null, []]"#,
    ];
    let words: &[&[u8]] = &[
        b"\"op\":",
        b"\"key\":",
        b"\"key_b64\":",
        b"\"value\":",
        b"\"n\":1",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b"\n",
        b"\\u0000",
        b"\\ud800",
        b"1e999",
        b"null",
        b"\"0s\"",
        b"\"\"",
    ];
    let seeds = seeds.iter().map(|seed| seed.to_vec()).collect();
    let target = Target { name: "batch", seeds, words, inputs: 20_000, mend: &|_| (), run: &batch };
    assert!(run(&target).outcomes.len() >= 6);
}
