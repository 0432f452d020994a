//! What a node that takes copies over may do, and what may be done to it, in simulation: it is slow, it is
//! killed in the middle, its move is taken back at every step; and what a doubling costs.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use kvasir_core::ring::{Document, Partition, Slot, SlotState};
use kvasir_storage::disk::memory::Crash;
use kvasir_tests::check::{Demand, Evidence, History, Kind, Operation, Outcome, judge};
use kvasir_tests::load::http::Ask;
use kvasir_tests::load::run::Aim;
use kvasir_tests::load::{Clock, Plan, Recorder, drive_while, fill, settle};
use kvasir_tests::sim::{Conditions, Sim, run};
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// Longest virtual wait for what should happen soon.
const PATIENCE: Duration = Duration::from_secs(120);

/// Clients that write and read until they are told to end.
struct Load {
    plan: Plan,
    recorder: Recorder,
    going: Rc<Cell<bool>>,
    sessions: Vec<JoinHandle<()>>,
}

fn aim(sim: &Sim) -> Aim {
    Aim {
        servers: sim.servers()[..3].to_vec(),
        level: "quorum".to_string(),
        query: "timeout=4s&sloppy=false".to_string(),
        think_ms: 100,
    }
}

impl Load {
    async fn start(sim: &Sim, seed: u64, delete_percent: u32) -> Self {
        let plan = Plan {
            seed,
            clients: 6,
            operations: u32::MAX,
            keys: 120,
            read_percent: 40,
            delete_percent,
            token_percent: 60,
            padding: 200,
        };
        Self::by(sim, plan).await
    }

    async fn by(sim: &Sim, plan: Plan) -> Self {
        let (recorder, going) = (Recorder::new(Clock::start()), Rc::new(Cell::new(true)));
        fill(&plan, 0, &aim(sim), &sim.client(Duration::from_secs(5)), &recorder).await;
        let session = |client| {
            let (plan, aim, to) = (plan.clone(), aim(sim), recorder.clone());
            let (http, going) = (sim.client(Duration::from_secs(6)), going.clone());
            tokio::task::spawn_local(async move {
                drive_while(&plan, client, &aim, &http, &to, &|| going.get()).await;
            })
        };
        let sessions = (0..plan.clients).map(session).collect();
        Self { plan, recorder, going, sessions }
    }

    /// Ends it, reads everything once more, and judges: by the rules of strict quorums too.
    async fn judged(self, sim: &Sim, name: &str) -> History {
        self.going.set(false);
        for session in self.sessions {
            session.await.expect("a session ends");
        }
        sim.weather.set(Conditions::default());
        settle(&self.plan, &aim(sim), &sim.client(Duration::from_secs(5)), &self.recorder).await;
        let history = self.recorder.history();
        let demand = Demand { operations: 500, ok_percent: 99, settled_keys: 100 };
        let report = judge(&Evidence { strict: true, acks: 2, ..Evidence::of(&history, demand) });
        println!("{name}: ok/fail/unknown {:?}", report.outcomes);
        report.assert_good();
        history
    }
}

#[test]
fn a_joiner_a_hundred_times_slower_costs_no_write() {
    run(async {
        let sim = Sim::some_formed(1, (4, 3), None, &[]).await;
        sim.weather.set(Conditions { delay_ms: 8, ..Conditions::default() });
        let load = Load::start(&sim, 1, 5).await;
        let began = load.recorder.now_ms();
        sleep(Duration::from_secs(30)).await;
        // A hop takes 4 ms in the mean.
        sim.slow(3, Duration::from_millis(400));
        let node = sim.node_id(3).await;
        let body = json!({ "id": "j", "kind": "join", "node": node });
        assert_eq!(sim.post(0, body).await.0, 200);
        let slow = load.recorder.now_ms();
        sleep(Duration::from_secs(60)).await;
        let moving = sim.moves(3).expect("it runs").slots.0;
        assert!(moving > 0, "it waits for nothing: the test shows nothing");
        let fast = load.recorder.now_ms();
        sim.slow(3, Duration::ZERO);
        assert_eq!(sim.carried_out(0, "j").await["state"], "done");
        let ended = load.recorder.now_ms();
        let history = load.judged(&sim, "slow joiner").await;
        let failed = history.operations.iter().filter(|one| one.outcome != Outcome::Ok);
        let failed: Vec<String> = failed.map(Operation::failure).collect();
        println!("slow from {slow} to {fast}, ended {ended}");
        assert!(failed.is_empty(), "operations that did not succeed: {failed:#?}");
        let [calm, slow, moving] =
            [began..slow, slow..fast, fast..ended].map(|span| history.p99_ms(span));
        println!("operations and p99 in ms: calm {calm:?}, slow joiner {slow:?}, then {moving:?}");
        assert!(slow.0 > 300 && slow.1 <= calm.1 * 2, "clients wait for the slow joiner");
        assert!(moving.1 <= calm.1 * 2, "clients wait for the copies");
    });
}

/// A delete without a token reads first, so its key may change hands between the read and the write.
#[test]
fn a_delete_that_reads_first_goes_where_its_key_went() {
    run(async {
        let sim = Sim::some_formed(6, (4, 3), None, &[]).await;
        sim.weather.set(Conditions { delay_ms: 150, ..Conditions::default() });
        let plan = Plan {
            seed: 6,
            clients: 40,
            operations: u32::MAX,
            keys: 120,
            read_percent: 10,
            delete_percent: 80,
            token_percent: 0,
            padding: 10,
        };
        let load = Load::by(&sim, plan).await;
        let node = sim.node_id(3).await;
        for kind in ["join", "leave"] {
            sim.done(0, json!({ "id": kind, "kind": kind, "node": node })).await;
        }
        let history = load.judged(&sim, "deletes").await;
        let deletes = history.operations.iter().filter(|one| one.op == Kind::Delete);
        assert!(deletes.count() > 1_000);
        let failed = history.operations.iter().filter(|one| one.outcome != Outcome::Ok);
        let failed: Vec<String> = failed.map(Operation::failure).collect();
        assert!(failed.is_empty(), "{} did not succeed: {:#?}", failed.len(), failed.first());
    });
}

async fn put_all(sim: &Sim, keys: usize, bytes: usize) {
    let (http, servers) = (sim.client(Duration::from_secs(10)), sim.servers());
    for key in 0..keys {
        let mut ask = Ask::new(Method::PUT, format!("/v1/kv/b/k{key}?w=all"));
        ask.body = vec![b'v'; bytes].into();
        let answer = http.ask(&servers[key % 3], ask).await.expect("an answer");
        assert_eq!(answer.status, 204, "{}", answer.text());
    }
}

/// Bytes of keys and sets that a host stores of what it owns.
async fn owned_bytes(sim: &Sim, host: usize) -> u64 {
    let (document, node) = (sim.document(host).expect("it runs"), sim.node_id(host).await);
    let mut bytes = 0;
    for (partition, entry) in Partition::all(document.partition_bits).zip(&document.table) {
        if entry.names(node) {
            bytes += sim.stored(host, partition).await.bytes;
        }
    }
    bytes
}

#[test]
fn a_joiner_that_is_killed_goes_on_where_it_was() {
    run(async {
        let mut sim = Sim::some_formed(2, (4, 3), Some(2), &["moves.rate=64KiB"]).await;
        put_all(&sim, 400, 4_000).await;
        let node = sim.node_id(3).await;
        let began = Instant::now();
        let body = json!({ "id": "j", "kind": "join", "node": node });
        assert_eq!(sim.post(0, body).await.0, 200);
        let mut taken = 0;
        // Kill it whenever another 300 KB came.
        for _ in 0..2 {
            let until = Instant::now() + PATIENCE;
            while sim.moves(3).is_none_or(|moves| moves.taken.0 < 300_000) {
                assert!(Instant::now() < until, "nothing comes");
                sleep(Duration::from_millis(50)).await;
            }
            let figures = sim.moves(3).expect("it runs");
            assert_eq!(figures.copied, 0, "no partition came whole: the kill is within one");
            taken += figures.taken.0;
            sim.crash(3, Crash::DropAll).await;
            sleep(Duration::from_secs(3)).await;
            sim.start(3);
        }
        let end = sim.carried_out(0, "j").await;
        assert_eq!(end["state"], "done", "{end}");
        taken += sim.moves(3).expect("it runs").taken.0;
        let (moved, optimum) = (end["movedBytes"].as_u64().unwrap(), owned_bytes(&sim, 3).await);
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "{moved} B moved for {optimum} B, {taken} B on the wire in {seconds:.0} s of which 6 dead"
        );
        assert!(moved * 100 <= optimum * 105 && moved >= optimum, "more than 1.05 of the optimum");
        // What came after the last note of how far it was, twice.
        assert!(taken <= moved + 2 * 100_000, "it began anew");
        // 64 KiB a second, and the pace of a burst at the beginning of each start.
        assert!(seconds >= moved as f64 / 65_536.0 * 0.8, "faster than it may");
    });
}

/// A slot of an entry by its number.
fn slots(document: &Document) -> BTreeMap<(usize, usize), Slot> {
    let entries = document.table.iter().enumerate();
    let slots = entries.flat_map(|(index, entry)| {
        let slots = entry.slots.values().flatten().cloned().enumerate();
        slots.map(move |(number, slot)| ((index, number), slot))
    });
    slots.collect()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Waiting,
    Copying,
    Switched,
    /// Some of its slots have their new owner.
    Moved,
}

/// Posts a join and takes it back when one of its slots stands so. What had not come to its second step is
/// with its old owner afterwards, in the same tenure; the rest is with the new one.
async fn taken_back(sim: &Sim, id: &str, at: At) {
    let (node, before) = (sim.node_id(3).await, slots(&sim.document(0).expect("it runs")));
    let body = json!({ "id": id, "kind": "join", "node": node });
    let (status, answer) = sim.post(0, body).await;
    assert_eq!(status, 200, "{answer}");
    let until = Instant::now() + PATIENCE;
    let stands = |slot: &Slot| match at {
        At::Waiting => true,
        At::Copying => matches!(slot.state, SlotState::Copying(_)),
        At::Switched => matches!(slot.state, SlotState::Switched(_)),
        At::Moved => slot.owner == node && !before.values().any(|old| old == slot),
    };
    while !slots(&sim.document(0).expect("it runs")).values().any(stands) {
        assert!(Instant::now() < until, "no slot is {at:?}");
        sleep(Duration::from_millis(10)).await;
    }
    let (status, answer) = sim.take_back(0, id).await;
    assert_eq!(status, 200, "{answer}");
    // No later child than this one brings another slot to its second step.
    let when = slots(&sim.document(0).expect("it runs"));
    let end = sim.carried_out(0, id).await;
    assert_eq!(end["state"], "cancelled", "{end}");
    let after = slots(&sim.document(0).expect("it runs"));
    let (mut returned, mut gone_on) = (0, 0);
    for (place, then) in &when {
        let now = &after[place];
        match then.state {
            SlotState::Copying(_) => {
                assert_eq!((now.owner, now.since), (then.owner, then.since), "{place:?}");
                returned += 1;
            }
            SlotState::Switched(next) => {
                assert_eq!((now.owner, now.since), (next.node, next.since), "{place:?}");
                gone_on += 1;
            }
            _ => assert_eq!(now, then, "{place:?}"),
        }
        assert_eq!(now.state, SlotState::Stable, "{place:?}");
    }
    println!("taken back {at:?}: {returned} slots returned, {gone_on} went on, {end}");
    if at == At::Waiting {
        assert_eq!(after, before, "nothing had begun");
    }
    let (status, refused) = sim.take_back(0, id).await;
    assert_eq!((status, &refused["code"]), (409, &json!("not_cancellable")), "{refused}");
    let detail = refused["detail"].as_str().expect("a reason");
    assert!(detail.contains(id) && detail.contains("does not run"), "{detail}");
}

#[test]
fn a_join_can_be_taken_back_at_every_step_before_its_second() {
    run(async {
        let sim = Sim::some_formed(3, (4, 3), None, &[]).await;
        let load = Load::start(&sim, 3, 5).await;
        for (number, at) in
            [At::Waiting, At::Copying, At::Switched, At::Moved].into_iter().enumerate()
        {
            taken_back(&sim, &format!("j{number}"), at).await;
        }
        let node = sim.node_id(3).await;
        sim.done(0, json!({ "id": "j", "kind": "join", "node": node })).await;
        load.judged(&sim, "taken back").await;
    });
}

#[test]
fn a_doubling_moves_no_byte_of_data() {
    run(async {
        let sim = Sim::some_formed(4, (4, 4), None, &[]).await;
        let load = Load::start(&sim, 4, 5).await;
        let partitions = sim.document(0).expect("it runs").table.len();
        for id in ["d1", "d2"] {
            sleep(Duration::from_secs(5)).await;
            sim.done(0, json!({ "id": id, "kind": "double" })).await;
        }
        sleep(Duration::from_secs(5)).await;
        assert_eq!(sim.document(0).expect("it runs").table.len(), partitions * 4);
        for host in 0..4 {
            let moves = sim.moves(host).expect("it runs");
            assert_eq!((moves.taken, moves.given, moves.removed), ((0, 0), (0, 0), 0));
        }
        let history = load.judged(&sim, "doubled").await;
        let writes = history.operations.iter().filter(|one| one.op != Kind::Get);
        assert!(writes.clone().count() > 100);
        assert!(writes.clone().all(|one| one.outcome == Outcome::Ok), "a write did not succeed");
    });
}

#[test]
fn a_move_that_waits_says_for_whom() {
    run(async {
        let mut sim = Sim::some_formed(5, (4, 3), Some(3), &["moves.rate=64KiB"]).await;
        put_all(&sim, 200, 4_000).await;
        let node = sim.node_id(3).await;
        let body = json!({ "id": "j", "kind": "join", "node": node });
        assert_eq!(sim.post(0, body).await.0, 200);
        sleep(Duration::from_secs(3)).await;
        assert!(sim.operation(0, "j").await["message"].is_null(), "it goes on");
        sim.crash(3, Crash::Process).await;
        sleep(Duration::from_secs(20)).await;
        let waits = sim.operation(0, "j").await;
        let message = waits["message"].as_str().expect("a reason");
        println!("{message}");
        assert!(message.contains(&node.to_string()) && message.contains("does not answer"));
        sim.start(3);
        assert_eq!(sim.carried_out(0, "j").await["state"], "done");
        assert!(sim.operation(0, "j").await["message"].is_null(), "it is over");
    });
}

/// The host that takes copies over while another is lost.
const TAKER: usize = 4;

/// Waits until a host took over so many bytes.
async fn until_taken(sim: &Sim, host: usize, bytes: u64) {
    let until = Instant::now() + PATIENCE;
    while sim.moves(host).is_none_or(|moves| moves.taken.0 < bytes) {
        assert!(Instant::now() < until, "nothing comes");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Posts an operation, kills a host for good once [`TAKER`] took some bytes over, and replaces it by another. Everything comes to its end, and nobody who was lost is a member.
async fn lost_in_the_middle(sim: &mut Sim, posted: serde_json::Value, lost: usize, by: usize) {
    let id = posted["id"].as_str().expect("an id").to_string();
    let (status, answer) = sim.post(0, posted).await;
    assert_eq!(status, 200, "{answer}");
    until_taken(sim, TAKER, 100_000).await;
    let gone = sim.node_id(lost).await;
    sim.crash(lost, Crash::DropAll).await;
    sleep(Duration::from_secs(20)).await;
    let waits = sim.operation(0, &id).await;
    assert_eq!(waits["state"], "running", "{waits}");
    assert!(
        waits["message"].as_str().is_some_and(|why| why.contains(&gone.to_string())),
        "{waits}"
    );
    let new = sim.node_id(by).await;
    let replace = json!({ "id": "second", "kind": "replace", "node": new, "replaces": gone });
    let end = sim.done(0, replace).await;
    println!("{id}, then host {lost} is lost: {end}");
    let first = sim.carried_out(0, &id).await;
    assert_eq!(first["state"], "done", "{first}");
    let now = sim.document(0).expect("it runs");
    assert!(!now.members.contains_key(&gone) && now.members.contains_key(&new));
    assert!(slots(&now).values().all(|slot| slot.state == SlotState::Stable));
}

#[test]
fn a_second_replace_beside_a_lost_successor_comes_to_its_end() {
    run(async {
        let sets = &["moves.rate=64KiB"][..];
        let mut sim = Sim::some_formed(6, (6, 4), Some(4), sets).await;
        put_all(&sim, 300, 4_000).await;
        let load = Load::start(&sim, 6, 5).await;
        let (dead, new) = (sim.node_id(3).await, sim.node_id(4).await);
        sim.crash(3, Crash::DropAll).await;
        sleep(Duration::from_secs(20)).await;
        let replace = json!({ "id": "first", "kind": "replace", "node": new, "replaces": dead });
        lost_in_the_middle(&mut sim, replace, TAKER, 5).await;
        assert!(!sim.document(0).expect("it runs").members.contains_key(&dead));
        load.judged(&sim, "a successor is lost").await;
    });
}

#[test]
fn a_join_whose_giver_is_lost_goes_on_beside_its_replace() {
    run(async {
        let sets = &["moves.rate=64KiB"][..];
        let mut sim = Sim::some_formed(7, (6, 4), Some(4), sets).await;
        put_all(&sim, 300, 4_000).await;
        let load = Load::start(&sim, 7, 5).await;
        let join = json!({ "id": "first", "kind": "join", "node": sim.node_id(4).await });
        lost_in_the_middle(&mut sim, join, 3, 5).await;
        load.judged(&sim, "a giver is lost").await;
    });
}
