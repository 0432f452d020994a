//! Clients of real nodes that write and read until they are told to stop, each with a first server of its own,
//! and the judgement of what they saw.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Cluster, PATIENCE};
use crate::check::{Demand, Evidence, Report, judge};
use crate::load::run::Aim;
use crate::load::{
    Clock, HttpClient, Plan, Recorder, TcpDial, drive_at_home, fill, settle, settle_patiently,
    write_calmly,
};

/// The load: clients that keep to one node each, until told to stop.
pub struct Load {
    /// What they do.
    pub plan: Plan,
    /// Where, and how.
    pub aim: Aim,
    /// What they saw.
    pub recorder: Recorder,
    going: Rc<Cell<bool>>,
    sessions: Vec<tokio::task::JoinHandle<()>>,
}

fn client() -> HttpClient {
    HttpClient::new(Rc::new(TcpDial), Duration::from_secs(20))
}

impl Load {
    /// Writes every key once, then begins. Client i begins at server i, modulo their number.
    pub async fn start(plan: Plan, aim: Aim) -> Self {
        let recorder = Recorder::new(Clock::start());
        fill(&Plan { clients: 1, ..plan.clone() }, 0, &aim, &client(), &recorder).await;
        let mut load =
            Self { plan, aim, recorder, going: Rc::new(Cell::new(false)), sessions: Vec::new() };
        load.resume();
        load
    }

    /// Begins again after a stop, in the same history.
    pub fn resume(&mut self) {
        assert!(self.sessions.is_empty(), "the load goes on already");
        self.going = Rc::new(Cell::new(true));
        for number in 0..self.plan.clients {
            let (plan, mut aim, to) = (self.plan.clone(), self.aim.clone(), self.recorder.clone());
            let first = number as usize % aim.servers.len();
            aim.servers.rotate_left(first);
            let going = self.going.clone();
            self.sessions.push(tokio::task::spawn_local(async move {
                drive_at_home(&plan, number, &aim, &client(), &to, &|| going.get()).await;
            }));
        }
    }

    /// Waits until so many more operations have ended.
    pub async fn goes_on(&self, operations: usize) {
        let (from, until) = (self.recorder.ended(), Instant::now() + PATIENCE);
        while self.recorder.ended() < from + operations {
            assert!(Instant::now() < until, "the load stands still");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Has every session end with its present operation.
    pub async fn stop(&mut self) {
        self.going.set(false);
        for session in self.sessions.drain(..) {
            session.await.expect("a session ends");
        }
        // Sessions that begin again do something else.
        self.plan.seed = self.plan.seed.wrapping_add(1_000_003);
    }

    /// Reads every key once while nothing goes on, waiting for those that cannot be read yet, and judges the
    /// history up to here. These reads are no part of it: a later one shows later writes.
    pub async fn judged_so_far(&self) -> Report {
        let beside = self.recorder.beside();
        let (client, tries) = (client(), u32::MAX);
        let reads = settle_patiently(&self.plan, &self.aim, &client, &beside, tries);
        // What could not be read by then is missing in the history, and so found.
        let _ = tokio::time::timeout(PATIENCE, reads).await;
        let mut history = self.recorder.history();
        history.operations.extend(beside.history().operations);
        let demand = Demand { operations: 1, ok_percent: 1, settled_keys: self.plan.keys as usize };
        judge(&Evidence { strict: self.is_strict(), acks: 2, ..Evidence::of(&history, demand) })
    }

    fn is_strict(&self) -> bool {
        self.aim.query.contains("sloppy=false")
    }

    /// Writes every key once more in the calm, reads all of them everywhere, and judges the whole history and
    /// what the replicas hold in the end.
    pub async fn judged(&self, cluster: &Cluster, demand: Demand) -> Report {
        let earlier = cluster.held("check", self.plan.keys).await;
        let calm_from_ms = self.recorder.now_ms();
        write_calmly(&self.plan, &self.aim, &client(), &self.recorder).await;
        let all = Aim { level: "all".to_string(), ..self.aim.clone() };
        settle(&self.plan, &all, &client(), &self.recorder).await;
        let history = self.recorder.history();
        let last = cluster.held("check", self.plan.keys).await;
        let report = judge(&Evidence {
            strict: self.is_strict(),
            acks: 2,
            calm_from_ms: Some(calm_from_ms),
            earlier: &earlier,
            last: &last,
            ..Evidence::of(&history, demand)
        });
        println!("ok/refused/unknown {:?}, {} conflicts", report.outcomes, report.conflicts);
        report.failed.iter().for_each(|line| println!("not ok: {line}"));
        report
    }

    /// The longest that 99 of 100 operations took which began in this time, in milliseconds of the recorder.
    pub fn p99_ms(&self, from_ms: u64, to_ms: u64) -> u64 {
        self.recorder.history().p99_ms(from_ms..to_ms).1
    }
}
