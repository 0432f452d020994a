//! Sibling sets that clients let grow: large values, values that expire, deletes that are repeated. What
//! was acknowledged stays readable at quorum and can be resolved.

use std::time::Duration;

use hyper::Method;
use kvasir_tests::load::http::{Answer, Ask};
use kvasir_tests::sim::{Sim, run};

async fn ask(sim: &Sim, server: &str, ask: Ask) -> Answer {
    sim.client(Duration::from_secs(30)).ask(server, ask).await.expect("an answer")
}

fn put(path: &str, body: Vec<u8>) -> Ask {
    let mut ask = Ask::new(Method::PUT, path);
    ask.body = body.into();
    ask
}

#[test]
fn blind_writes_of_large_values_end_before_the_set_cannot_travel() {
    run(async {
        let sim = Sim::formed(21, 3, 3, &[]).await;
        let servers = sim.servers();
        let mut stored = 0_u8;
        for number in 0..24_u8 {
            let path = "/v1/kv/b/large?w=quorum&timeout=20s";
            let server = &servers[usize::from(number) % 3];
            let answer = ask(&sim, server, put(path, vec![number; 1 << 20])).await;
            if answer.status == 204 {
                stored += 1;
            } else {
                assert_eq!(answer.status, 409, "{}", answer.text());
            }
        }
        assert!((16..24).contains(&stored), "{stored} of 24 blind writes of 1 MiB were taken");
        let read = Ask::new(Method::GET, "/v1/kv/b/large?r=quorum&timeout=20s");
        let answer = ask(&sim, &servers[1], read).await;
        assert_eq!(answer.status, 300, "{}", &answer.text()[..200.min(answer.body.len())]);
        let list: Vec<serde_json::Value> = serde_json::from_slice(&answer.body).expect("JSON");
        assert_eq!(list.len(), usize::from(stored), "every acknowledged value is there");
        let mut resolve = put("/v1/kv/b/large?w=quorum", b"one".to_vec());
        let token = answer.header("x-kvasir-context").expect("a token").to_string();
        resolve.headers.push(("x-kvasir-context", token));
        assert_eq!(ask(&sim, &servers[2], resolve).await.status, 204);
        let answer = ask(&sim, &servers[0], Ask::new(Method::GET, "/v1/kv/b/large?r=quorum")).await;
        assert_eq!((answer.status, answer.text()), (200, "one".to_string()));
    });
}

#[test]
fn expired_values_do_not_grow_a_record_without_end() {
    run(async {
        let sim = Sim::formed(22, 3, 3, &[]).await;
        let server = &sim.servers()[0];
        let mut refused = 0;
        for number in 0..120 {
            let ask_put = put("/v1/kv/b/session?w=quorum&ttl=1s", format!("{number}").into());
            refused += usize::from(ask(&sim, server, ask_put).await.status == 409);
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
        assert_eq!(refused, 20, "the hundredth sibling is the last, expired or not");
        let gone = ask(&sim, server, Ask::new(Method::GET, "/v1/kv/b/session?r=quorum")).await;
        assert_eq!(gone.status, 404, "{}", gone.text());
        let mut resolve = put("/v1/kv/b/session?w=quorum", b"new".to_vec());
        let token = gone.header("x-kvasir-context").expect("a token, though 404").to_string();
        resolve.headers.push(("x-kvasir-context", token));
        assert_eq!(ask(&sim, server, resolve).await.status, 204);
    });
}
