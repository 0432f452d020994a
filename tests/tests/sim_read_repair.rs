//! A read that finds a replica behind, while what would mend that replica is lost on the way: the owners
//! that the read did not ask help out, and the answer does not wait for its deadline.

use std::time::Duration;

use hyper::Method;
use kvasir_tests::load::http::Ask;
use kvasir_tests::sim::{Sim, run};
use tokio::time::Instant;

const KEYS: usize = 16;

#[test]
fn a_replica_that_is_silent_in_the_repair_does_not_hold_up_the_read() {
    run(async {
        let sim = Sim::formed(31, 3, 3, &[]).await;
        let server = sim.servers()[0].clone();
        let client = sim.client(Duration::from_secs(30));
        // Host 2 is asked and answers, but nothing with a value in it reaches it from host 0.
        sim.weather.narrow(0, 2, 4 << 10);
        for key in 0..KEYS {
            let mut put = Ask::new(Method::PUT, format!("/v1/kv/b/{key}?w=quorum"));
            put.body = vec![key as u8; 16 << 10].into();
            let answer = client.ask(&server, put).await.expect("an answer");
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
        let mut helped = 0;
        for key in 0..KEYS {
            let start = Instant::now();
            let get = Ask::new(Method::GET, format!("/v1/kv/b/{key}?r=quorum&timeout=20s"));
            let answer = client.ask(&server, get).await.expect("an answer");
            let took = start.elapsed();
            assert_eq!(answer.status, 200, "{key} after {took:?}: {}", answer.text());
            assert_eq!(answer.body.len(), 16 << 10);
            assert!(took < Duration::from_secs(1), "{key} took {took:?}");
            helped += usize::from(took >= Duration::from_millis(150));
        }
        assert!(helped > 0, "no read met the silent replica");
        println!("{helped} of {KEYS} reads were completed by an owner that they had not asked");
    });
}
