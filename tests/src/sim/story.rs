//! One run: a cluster is formed, clients write and read while a script of faults goes on, everything is
//! mended, and the history is judged.
//!
//! Two phases, as in other simulators of this kind: safety under chaos, then liveness. After the faults
//! end, the cluster has `SETTLE` to be whole; from then on every operation must succeed. Then late frames
//! and anti-entropy have their time, and each replica is looked at alone.
//!
//! A wiped disk is a new node, which nobody asks in: it is left out. One that was emptied or put back is
//! rebuilt by itself, and must serve and agree with the others in the end.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use kvasir::planted::Planted;
use kvasir_storage::MemoryDisk;
use kvasir_storage::disk::memory::Crash;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::cluster::Sim;
use super::faults::Ended;
use super::moving::Operator;
use super::script::{Fault, LATE_MS, Script, Timed, Unsynced};
use super::weather::Conditions;
use crate::check::replicas::Held;
use crate::check::{Demand, Evidence, History, Measured, Violation, Work, judge};
use crate::load::run::Aim;
use crate::load::{Clock, Plan, Recorder, drive_while, fill, settle, write_calmly};

/// How long the cluster may take to be whole after everything was mended.
const SETTLE: Duration = Duration::from_secs(30);
/// How long anti-entropy may take to find and mend what differs.
const TREES_MEND: Duration = Duration::from_secs(20);
/// How long operations on the ring may take after everything was mended.
const MOVES_END: Duration = Duration::from_secs(300);
/// How often the state of the faults is brought up to date.
const STEP: Duration = Duration::from_millis(500);
/// A node that ended by itself is started again after so many steps, as a platform would.
const RESTART_STEPS: u32 = 4;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Story {
    /// Seed of every choice outside the script.
    pub seed: u64,
    /// The word by which `kvasir-soak` tells such a story; empty for those of [`Story::random`].
    pub word: &'static str,
    /// Nodes.
    pub hosts: usize,
    /// So many of them, the first, form the cluster; the others may join.
    pub members: usize,
    /// Whether nodes come and go.
    pub moves: bool,
    /// Data centers, to which the nodes are dealt out in turn.
    pub centers: usize,
    /// Copies of each key in each data center.
    pub copies: usize,
    /// The level of all requests.
    pub level: &'static str,
    /// How long faults and load go on, in milliseconds.
    pub chaos_ms: u64,
    /// What goes wrong.
    pub script: Script,
    /// Frames on a good day.
    pub conditions: Conditions,
    /// Whether only owners count, so that the rules of a regular register hold.
    pub strict: bool,
    /// Whether the last write wins in all buckets.
    pub last_write_wins: bool,
    /// Further `section.key=value` of all nodes.
    pub sets: &'static [&'static str],
    /// More query parameters of all requests.
    pub query: &'static str,
    /// Client sessions.
    pub clients: u32,
    /// Longest pause of a client between two operations, in milliseconds.
    pub think_ms: u64,
    /// Distinct keys.
    pub keys: u32,
    /// A mistake that all nodes make.
    pub planted: Planted,
    /// Share of deletes in percent.
    pub delete_percent: u32,
    /// A mistake of all disks: syncs of paths that end so do nothing.
    pub skip_sync: Option<&'static str>,
}

impl Story {
    /// Ten simulated minutes on five nodes, three copies, a random script.
    pub fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let conditions = Conditions {
            loss_permille: rng.random_range(0..20),
            twice_permille: rng.random_range(0..50),
            delay_ms: rng.random_range(0..10),
            ..Conditions::default()
        };
        let chaos_ms = 460_000;
        let script = Script::draw(&mut rng, 5, chaos_ms - 20_000);
        Self {
            seed,
            word: "",
            hosts: 5,
            centers: 1,
            members: usize::MAX,
            moves: false,
            copies: 3,
            level: "quorum",
            chaos_ms,
            script,
            conditions,
            strict: seed.is_multiple_of(2),
            last_write_wins: false,
            sets: &[],
            query: if seed.is_multiple_of(2) { "timeout=2s&sloppy=false" } else { "timeout=2s" },
            clients: 5,
            think_ms: 2_000,
            keys: 16,
            planted: Planted::default(),
            delete_percent: 4,
            skip_sync: None,
        }
    }

    /// A short run on three nodes with a random script, for finding planted bugs.
    pub fn short(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let chaos_ms = 50_000;
        let mut script = Script::draw(&mut rng, 3, chaos_ms - 10_000);
        script.0.retain(|t| !t.fault.spoils());
        let host = rng.random_range(0..3);
        script.0.push(Timed {
            at: rng.random_range(10_000..30_000),
            lasts: rng.random_range(500..5_000),
            fault: Fault::Crash(host, Unsynced::Dropped),
        });
        let (word, think_ms) = ("--short ", 500);
        Self { word, hosts: 3, chaos_ms, script, think_ms, keys: 8, ..Self::random(seed) }
    }
}

/// What came out of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Broken rules; empty is good.
    pub violations: Vec<Violation>,
    /// How often each kind of fault happened.
    pub fired: BTreeMap<&'static str, u32>,
    /// Hash over all frames and all outcomes: equal for equal runs.
    pub trace: u64,
    /// Simulated time.
    pub simulated: Duration,
    /// Operations by outcome: ok, fail, unknown.
    pub outcomes: [usize; 3],
    /// Operations that overlapped a fault, in percent.
    pub overlapped: usize,
    /// Reads that showed several values.
    pub conflicts: usize,
    /// What the nodes did.
    pub work: Work,
    /// Sets that reclaim erased, on all hosts together, since their last start.
    pub erased: u64,
    /// Rows that reclaim dropped from contexts, in the same way.
    pub folded: u64,
    /// Pieces of copies that nodes took over, on all hosts together, since their last start.
    pub moved: u64,
    /// The history, for a closer look.
    pub history: History,
}

/// Runs a story to its end. Must be called inside [`super::run`].
pub async fn tell(story: &Story) -> Told {
    let begun = Instant::now();
    let mut stage = Stage::set(story).await;
    let plan = plan(story);
    let aim = Aim {
        servers: stage.sim.servers()[..story.members.min(story.hosts)].to_vec(),
        level: story.level.to_string(),
        query: story.query.to_string(),
        think_ms: story.think_ms,
    };
    let recorder = Recorder::new(Clock::start());
    fill(&plan, 0, &aim, &stage.client(), &recorder).await;
    let chaos_from = recorder.now_ms();
    let going = Rc::new(Cell::new(true));
    let mut sessions = Vec::new();
    for client in 0..plan.clients {
        let (plan, aim, to, going) = (plan.clone(), aim.clone(), recorder.clone(), going.clone());
        let http = stage.client();
        sessions.push(tokio::task::spawn_local(async move {
            drive_while(&plan, client, &aim, &http, &to, &|| going.get()).await;
        }));
    }
    let operator = story.moves.then(|| Operator::start(&stage.sim, story.seed));
    stage.play().await;
    going.set(false);
    for session in sessions {
        session.await.expect("a session ends");
    }
    stage.mend().await;
    if let Some(operator) = operator {
        stage.until_moved(&operator).await;
    }
    let held = stage.quiet(&plan, aim, &recorder).await;
    for host in 0..story.hosts {
        stage.look_inside(host);
    }
    let history = recorder.history();
    let report = judge(&Evidence {
        history: &history,
        demand: Demand {
            operations: (story.chaos_ms / 1_000) as usize,
            ok_percent: 50,
            settled_keys: story.keys as usize,
        },
        strict: story.strict,
        last_write_wins: story.last_write_wins,
        acks: story.majority(),
        calm_from_ms: Some(stage.calm_from_ms),
        earlier: &held.before,
        last: &held.after,
        measured: &stage.measured,
    });
    let mut told = Told {
        violations: report.violations,
        outcomes: report.outcomes,
        conflicts: report.conflicts,
        work: stage.work,
        ..Told::default()
    };
    told.violations.extend(stage.violations);
    told.overlapped = overlapped(story, &history, chaos_from);
    (told.erased, told.folded) = (stage.sim.erased(), stage.sim.folded());
    let moves = (0..story.hosts).filter_map(|host| stage.sim.moves(host));
    told.moved = moves.map(|moves| moves.taken.1).sum();
    told.fired = stage.fired;
    told.trace = trace(stage.sim.weather.trace(), &history);
    told.simulated = begun.elapsed();
    told.history = history;
    told
}

fn plan(story: &Story) -> Plan {
    Plan {
        seed: story.seed,
        clients: story.clients,
        operations: u32::MAX,
        keys: story.keys,
        read_percent: 40,
        delete_percent: story.delete_percent,
        token_percent: 60,
        padding: 100,
    }
}

/// Replicas looked at alone, before and after the last reads.
struct Looks {
    before: Vec<Held>,
    after: Vec<Held>,
}

fn overlapped(story: &Story, history: &History, chaos_from: u64) -> usize {
    let faults = &story.script.0;
    let hit = history.operations.iter().filter(|o| {
        let meets = |at: u64, lasts: u64| {
            o.start_ms <= chaos_from + at + lasts && o.end_ms >= chaos_from + at
        };
        faults.iter().any(|t| meets(t.at, t.lasts))
    });
    hit.count() * 100 / history.operations.len().max(1)
}

fn trace(frames: u64, history: &History) -> u64 {
    history.operations.iter().fold(frames, |trace, operation| {
        [operation.id, operation.start_ms, operation.end_ms, operation.outcome as u64]
            .iter()
            .fold(trace, |trace, part| (trace ^ part).wrapping_mul(0x0100_0000_01b3))
    })
}

/// The cluster under its script.
struct Stage<'a> {
    story: &'a Story,
    sim: Sim,
    /// Faults under way, by their place in the script.
    active: BTreeSet<usize>,
    /// Disks as they were when a fault of that place began.
    images: BTreeMap<usize, MemoryDisk>,
    /// Hosts whose volume was lost: new nodes that belong to no cluster.
    spoilt: BTreeSet<usize>,
    /// Steps since a node ended by itself.
    ended: BTreeMap<usize, u32>,
    fired: BTreeMap<&'static str, u32>,
    violations: Vec<Violation>,
    /// What nodes did in starts that are over.
    work: Work,
    /// What nodes held of things that have a cap.
    measured: Vec<Measured>,
    calm_from_ms: u64,
}

impl<'a> Stage<'a> {
    async fn set(story: &'a Story) -> Self {
        let always = [
            "storage.memtable_bytes=64KiB",
            "storage.log_segment_bytes=64KiB",
            "repair.interval=5s",
            "repair.tree_bits=16",
        ];
        let mut sim = Sim::new(story.seed, story.hosts, &[&always, story.sets].concat());
        sim.planted = story.planted;
        if story.last_write_wins {
            sim.defaults = serde_json::json!({ "mode": "lastWriteWins" });
        }
        sim.weather
            .set(Conditions { delay_ms: story.conditions.delay_ms, ..Conditions::default() });
        for host in 0..story.hosts {
            sim.set_datacenter(host, &format!("dc{}", host % story.centers + 1));
        }
        if story.moves {
            sim.form_some(story.members.min(story.hosts), None).await;
        } else {
            sim.form(story.copies).await;
        }
        let mut stage = Self {
            story,
            sim,
            active: BTreeSet::new(),
            images: BTreeMap::new(),
            spoilt: BTreeSet::new(),
            ended: BTreeMap::new(),
            fired: BTreeMap::new(),
            violations: Vec::new(),
            work: Work::default(),
            measured: Vec::new(),
            calm_from_ms: 0,
        };
        stage.apply(0);
        stage
    }

    fn client(&self) -> crate::load::HttpClient {
        self.sim.client(Duration::from_secs(5))
    }

    /// The faults, from the first to the last.
    async fn play(&mut self) {
        let begun = Instant::now();
        let mut past = BTreeSet::new();
        loop {
            let now = begun.elapsed().as_millis() as u64;
            for (place, timed) in self.story.script.0.iter().enumerate() {
                let over = now >= timed.at + timed.lasts;
                if now >= timed.at && !over && past.insert(place) {
                    self.begin(place, &timed.fault).await;
                }
                if over && self.active.contains(&place) {
                    self.end(place, &timed.fault).await;
                }
            }
            self.watch().await;
            self.measure();
            self.apply(now);
            if now >= self.story.chaos_ms {
                return;
            }
            sleep(STEP).await;
        }
    }

    /// Ends every fault and starts whoever does not run.
    async fn mend(&mut self) {
        let story = self.story;
        for place in self.active.clone() {
            self.end(place, &story.script.0[place].fault).await;
        }
        self.apply(story.chaos_ms);
        self.sim.weather.set(Conditions { delay_ms: 2, ..Conditions::default() });
        for _ in 0..SETTLE.as_millis() / STEP.as_millis() {
            self.watch().await;
            sleep(STEP).await;
        }
    }

    /// Waits until all that was asked of the ring has ended.
    async fn until_moved(&mut self, operator: &JoinHandle<()>) {
        for _ in 0..MOVES_END.as_millis() / STEP.as_millis() {
            if operator.is_finished() {
                return;
            }
            self.watch().await;
            sleep(STEP).await;
        }
        operator.abort();
        let what = self.sim.document(0).map(|document| format!("{:?}", document.operations));
        self.violations.push(Violation::Unfinished(what.unwrap_or_default()));
    }

    async fn begin(&mut self, place: usize, fault: &Fault) {
        self.active.insert(place);
        let hosts = match fault {
            Fault::Crash(host, unsynced) => match self.crash(*host, *unsynced).await {
                true => vec![],
                false => return,
            },
            Fault::Wipe(host) => {
                self.spoilt.insert(*host);
                vec![*host]
            }
            Fault::Empty(host) => vec![*host],
            Fault::Swap(one, other) => vec![*one, *other],
            Fault::Rewind(host) => {
                let image = self.sim.disk(*host).image(Crash::KeepAll, 0);
                self.images.insert(place, image);
                vec![]
            }
            _ => vec![],
        };
        for host in hosts {
            self.crash(host, Unsynced::Kept).await;
        }
        if let Fault::Wipe(host) = fault {
            self.sim.replace_disk(*host, MemoryDisk::new());
        }
        if let Fault::Empty(host) = fault {
            self.sim.empty_store(*host);
        }
        *self.fired.entry(fault.kind()).or_default() += 1;
    }

    async fn end(&mut self, place: usize, fault: &Fault) {
        self.active.remove(&place);
        match fault {
            Fault::Swap(one, other) => {
                self.sim.swap_disks(*one, *other);
                let was = (self.spoilt.contains(one), self.spoilt.contains(other));
                for (host, spoilt) in [(*other, was.0), (*one, was.1)] {
                    self.spoilt.remove(&host);
                    if spoilt {
                        self.spoilt.insert(host);
                    }
                }
                self.start(*one);
                self.start(*other);
            }
            Fault::Rewind(host) => {
                self.crash(*host, Unsynced::Kept).await;
                if let Some(image) = self.images.remove(&place) {
                    self.sim.replace_disk(*host, image);
                }
                self.start(*host);
            }
            Fault::Crash(host, _) | Fault::Wipe(host) | Fault::Empty(host) => self.start(*host),
            _ => {}
        }
    }

    /// Notes what a node did since it was started, and what it holds.
    fn look_inside(&mut self, host: usize) {
        if let Some((work, measured)) = self.sim.inside(host) {
            self.work.add(&work);
            self.measured.extend(measured);
        }
    }

    /// Whether it ran until now.
    async fn crash(&mut self, host: usize, unsynced: Unsynced) -> bool {
        self.ended.remove(&host);
        if !self.sim.runs(host) {
            return false;
        }
        self.look_inside(host);
        let crash = match unsynced {
            Unsynced::Kept => Crash::Process,
            Unsynced::Dropped => Crash::DropAll,
            Unsynced::Sectors => Crash::Subset(512),
            Unsynced::Torn => Crash::Torn(512),
        };
        self.sim.crash(host, crash).await;
        true
    }

    /// Starts a host unless it runs or a fault keeps it down.
    fn start(&mut self, host: usize) {
        let kept = self.active.iter().any(|p| self.story.script.0[*p].fault.keeps_down(host));
        if !kept && !self.sim.runs(host) {
            self.sim.disk(host).skip_sync(self.story.skip_sync);
            self.sim.start(host);
        }
    }

    /// Keeps what is above a cap now; what is below proves nothing.
    fn measure(&mut self) {
        for host in 0..self.story.hosts {
            let measured = self.sim.inside(host).into_iter().flat_map(|(_, measured)| measured);
            self.measured.extend(measured.filter(|one| one.held > one.cap));
        }
    }

    /// Notices nodes that ended by themselves and starts them again.
    async fn watch(&mut self) {
        for host in 0..self.story.hosts {
            match self.sim.ended(host).await {
                Some(Ended::Panicked(what)) => {
                    self.violations.push(Violation::Panicked { host, what });
                    self.ended.insert(host, 0);
                }
                Some(Ended::Stopped(_)) => {
                    *self.fired.entry("stopped by itself").or_default() += 1;
                    self.ended.insert(host, 0);
                }
                None => {}
            }
            let Some(steps) = self.ended.get_mut(&host) else { continue };
            *steps += 1;
            if *steps > RESTART_STEPS {
                self.ended.remove(&host);
                self.start(host);
            }
        }
    }

    /// Brings links, frames, hosts, clocks and disks into the state that the active faults make.
    fn apply(&mut self, now: u64) {
        let (story, hosts) = (self.story, self.story.hosts);
        let active: Vec<_> = self.active.iter().map(|p| &story.script.0[*p]).collect();
        let mut conditions = story.conditions;
        let mut links = BTreeSet::new();
        for timed in &active {
            conditions = conditions.worse(timed.fault.conditions());
            let share = now.saturating_sub(timed.at) * 100 / timed.lasts.max(1);
            links.extend(timed.fault.cuts(hosts, share.min(99)));
        }
        self.sim.cut_only(links);
        self.sim.weather.set(conditions);
        for host in 0..hosts {
            let (mut paused, mut rest, mut disk, mut full, mut wrong) = (false, 0, 1, false, 0);
            for timed in &active {
                match &timed.fault {
                    Fault::Pause(h) if *h == host => paused = true,
                    Fault::Slow(h, ms) if *h == host => rest = rest.max(*ms),
                    Fault::Disk(h, ms) if *h == host => disk = disk.max(*ms),
                    Fault::Full(h) if *h == host => full = true,
                    Fault::Clock(h, ms) if *h == host => wrong += *ms,
                    _ => {}
                }
            }
            self.sim.pause(host, paused);
            self.sim.slow(host, Duration::from_millis(rest));
            self.sim.clock_wrong_by(host, wrong);
            self.sim.disk_takes(host, disk);
            self.sim.disk(host).set_capacity(full.then_some(0));
            self.sim.disk(host).skip_sync(story.skip_sync);
        }
    }

    /// Everything that happens after the faults: all must work, then all is read.
    async fn quiet(&mut self, plan: &Plan, mut aim: Aim, recorder: &Recorder) -> Looks {
        let mut serving = Vec::new();
        for host in 0..self.story.hosts {
            if self.spoilt.contains(&host) && self.sim.serves(host) {
                self.violations.push(Violation::ServesLost { host });
            }
            if self.sim.serves(host) {
                serving.push(host);
            } else if !self.spoilt.contains(&host) && self.sim.is_member(host) {
                let refused = self.sim.hosts[host].refused.borrow().clone();
                self.violations.push(Violation::NotServing { host, why: refused });
            }
        }
        aim.servers = serving.iter().map(|h| self.sim.servers()[*h].clone()).collect();
        self.calm_from_ms = recorder.now_ms();
        write_calmly(plan, &aim, &self.client(), recorder).await;
        // Frames that are still under way from the worst hour.
        sleep(Duration::from_millis(LATE_MS.max(self.story.conditions.late_ms))).await;
        let before = self.look(plan, &serving).await;
        settle(plan, &aim, &self.client(), recorder).await;
        sleep(TREES_MEND).await;
        let after = self.look(plan, &serving).await;
        Looks { before, after }
    }

    /// What each replica alone holds.
    async fn look(&self, plan: &Plan, serving: &[usize]) -> Vec<Held> {
        let mut held = Vec::new();
        for number in 0..plan.keys {
            let key = format!("key-{number}");
            for host in serving {
                if let Some(read) = self.sim.replica(*host, "check", &key).await {
                    held.push(Held { key: key.clone(), read });
                }
            }
        }
        held
    }
}
