//! The cluster of a story under its script: begins and ends faults as their time comes, starts again who ended
//! by itself as a platform would, and looks at the replicas when all is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kvasir_storage::MemoryDisk;
use kvasir_storage::disk::memory::Crash;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use super::cluster::Sim;
use super::faults::Ended;
use super::script::{Fault, LATE_MS, Unsynced};
use super::story::Story;
use super::weather::Conditions;
use crate::check::replicas::Held;
use crate::check::{Measured, Violation, Work};
use crate::load::run::Aim;
use crate::load::{Plan, Recorder, settle, write_calmly};

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

/// Replicas looked at alone, before and after the last reads.
pub(super) struct Looks {
    pub before: Vec<Held>,
    pub after: Vec<Held>,
}

/// The cluster under its script.
pub(super) struct Stage<'a> {
    story: &'a Story,
    pub sim: Sim,
    /// Faults under way, by their place in the script.
    active: BTreeSet<usize>,
    /// Disks as they were when a fault of that place began.
    images: BTreeMap<usize, MemoryDisk>,
    /// Hosts whose volume was lost: new nodes that belong to no cluster.
    spoilt: BTreeSet<usize>,
    /// Steps since a node ended by itself.
    ended: BTreeMap<usize, u32>,
    pub fired: BTreeMap<&'static str, u32>,
    pub violations: Vec<Violation>,
    /// What nodes did in starts that are over.
    pub work: Work,
    /// What nodes held of things that have a cap.
    pub measured: Vec<Measured>,
    pub calm_from_ms: u64,
}

impl<'a> Stage<'a> {
    pub async fn set(story: &'a Story) -> Self {
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

    pub fn client(&self) -> crate::load::HttpClient {
        self.sim.client(Duration::from_secs(5))
    }

    /// The faults, from the first to the last.
    pub async fn play(&mut self) {
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
    pub async fn mend(&mut self) {
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
    pub async fn until_moved(&mut self, operator: &JoinHandle<()>) {
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
    pub fn look_inside(&mut self, host: usize) {
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
    pub async fn quiet(&mut self, plan: &Plan, mut aim: Aim, recorder: &Recorder) -> Looks {
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
