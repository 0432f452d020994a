//! What a test does to hosts beside starting and crashing them: pause, slow down, set clocks wrong, cut
//! links, look at one replica from inside, notice a node that ended by itself.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvasir::http::server::LEAVING_MAX;
use kvasir::peer::memory_net::Cut;
use kvasir::pressure::Work as Kind;
use kvasir_core::admin_api::ReplicaRead;
use kvasir_storage::{Disk, Lane, MemoryDisk, StoreOptions, TableKey};

use super::cluster::Sim;
use crate::check::{Measured, Work};

/// A link, from one host to another.
pub type Link = (usize, usize);

/// How a node came to an end that nobody asked for.
#[derive(Debug)]
pub enum Ended {
    /// It stopped itself: its disk failed, or its volume did not open. What it said, if it did.
    Stopped(Option<String>),
    /// It panicked.
    Panicked(String),
}

impl Sim {
    /// Whether the host has a node that was started and not crashed.
    pub fn runs(&self, host: usize) -> bool {
        self.hosts[host].running.is_some()
    }

    /// Stops everything that a host does, or lets it go on with all that has arrived meanwhile.
    pub fn pause(&self, host: usize, on: bool) {
        self.hosts[host].gate.pause(on);
    }

    /// How long a host's node rests after each thing that it does.
    pub fn slow(&self, host: usize, rest: Duration) {
        self.hosts[host].gate.slow(rest);
    }

    /// How many times longer what a host's node does takes than on others, where it costs anything.
    pub fn times_slower(&self, host: usize, times: u64) {
        self.hosts[host].gate.times_slower(times);
    }

    /// By how much a host's wall clock is wrong from now on.
    pub fn clock_wrong_by(&self, host: usize, ms: i64) {
        self.hosts[host].wrong_by_ms.store(ms, Ordering::Relaxed);
    }

    /// Cuts exactly these links, for frames and for dials.
    pub fn cut_only(&self, links: BTreeSet<Link>) {
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                let cut = links.contains(&(from, to)).then_some(Cut::Silent);
                self.net.set_cut(&format!("n{from}"), &format!("n{to}"), cut);
            }
        }
        self.weather.cut_only(links);
    }

    /// How long writing, syncing and reading take on a host's disk.
    pub fn disk_takes(&self, host: usize, ms: u64) {
        for lane in [Lane::Sync, Lane::Flush, Lane::Read, Lane::Meta] {
            self.hosts[host].disk.set_latency_ms(lane, ms);
        }
    }

    /// Exchanges the disks of two hosts that do not run.
    pub fn swap_disks(&mut self, one: usize, other: usize) {
        assert!(!self.runs(one) && !self.runs(other), "hosts {one} and {other} must not run");
        let disk: MemoryDisk = self.hosts[one].disk.clone();
        self.hosts[one].disk = std::mem::replace(&mut self.hosts[other].disk, disk);
    }

    /// Removes the data of a host that does not run; its identity and its votes stay.
    pub fn empty_store(&self, host: usize) {
        assert!(!self.runs(host), "host {host} runs");
        let disk = &self.hosts[host].disk;
        for path in disk.paths().iter().filter(|path| path.starts_with("data/store")) {
            let parent = path.parent().expect("a file stands in a directory");
            disk.remove(path).and_then(|()| disk.sync_dir(parent)).expect("a file that is there");
        }
    }

    /// How the host's node ended by itself, if it did; it no longer counts as running then.
    pub async fn ended(&mut self, host: usize) -> Option<Ended> {
        let running = self.hosts[host].running.take_if(|running| running.is_finished())?;
        Some(match running.await {
            Ok(()) => Ended::Stopped(self.hosts[host].refused.borrow().clone()),
            Err(error) => Ended::Panicked(panic_text(error)),
        })
    }

    /// What this host alone holds under a key, as its admin port would show it; nothing where it does not
    /// run or serves no data.
    pub async fn replica(&self, host: usize, bucket: &str, key: &str) -> Option<ReplicaRead> {
        let shared = self.hosts[host].inside.borrow().upgrade()?;
        let view = shared.views.load();
        let formed = view.formed.clone().filter(|_| view.retired.is_none())?;
        let (hash, partition) = formed.ring.locate(bucket.as_bytes(), key.as_bytes());
        let table_key = TableKey::new(hash, bucket.as_bytes(), key.as_bytes());
        let owner = formed.ring.is_owner(partition, view.me);
        let record = shared.replica.record(&table_key).await.ok()?;
        Some(ReplicaRead::of(view.me, (hash, partition), owner, record.as_ref()))
    }

    /// What a host's node did since it was started, and what it holds of things that have a cap; nothing
    /// where none runs.
    pub fn inside(&self, host: usize) -> Option<(Work, Vec<Measured>)> {
        let shared = self.hosts[host].inside.borrow().upgrade()?;
        let (store, kept) = (shared.replica.store().stats(), shared.standins.store().stats());
        let (shelves, figures) = (shared.standins.shelves(), &shared.coordination);
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let work = Work::of([
            ("flushes", store.flushes),
            ("compactions", store.compactions + store.table_moves),
            ("copies handed back", count(&shelves.copies_handed_back)),
            ("hints handed back", count(&shelves.hints_handed_back)),
            ("read repairs", count(&figures.repairs)),
            ("keys mended by trees", count(&shared.repairs.mended)),
            ("hedged reads", count(&figures.hedged)),
            ("forwarded requests", count(&figures.forwarded)),
        ]);
        let (copies, hints) = shelves.held();
        let (config, built_in) = (&shared.config, StoreOptions::new(""));
        let measured = |what, held, cap| Measured { host, what, held, cap };
        let mut all = vec![
            measured("bytes of stand-in copies", copies.bytes, config.handoff.standins_max_bytes.0),
            measured("bytes of hints", hints.bytes, config.handoff.hints_max_bytes.0),
        ];
        for stats in [&store, &kept] {
            let (updates, reads) = (built_in.waiting_updates_max, built_in.waiting_reads_max);
            all.push(measured("waiting updates", stats.waiting_updates, updates as u64));
            all.push(measured("waiting reads", stats.waiting_reads, reads as u64));
            let frozen = built_in.immutable_memtables_max as u64;
            all.push(measured("frozen memtables", stats.immutable_memtables, frozen));
        }
        all.push(measured("bytes of cache", store.cache_bytes, config.storage.cache_bytes.0));
        all.extend(pressure(host, &shared));
        Some((work, all))
    }

    /// Requests that other nodes sent to the host's node for their clients, since it was started.
    pub fn served(&self, host: usize) -> u64 {
        let shared = self.hosts[host].inside.borrow().upgrade();
        shared.map_or(0, |shared| shared.served.load(Ordering::Relaxed))
    }

    /// Sets that reclaim erased, on all running hosts together, since their last start.
    pub fn erased(&self) -> u64 {
        let inside = self.hosts.iter().filter_map(|host| host.inside.borrow().upgrade());
        inside.map(|shared| shared.holder.erased.load(Ordering::Relaxed)).sum()
    }

    /// Rows that reclaim dropped from contexts, counted as [`Self::erased`] is.
    pub fn folded(&self) -> u64 {
        let inside = self.hosts.iter().filter_map(|host| host.inside.borrow().upgrade());
        inside.map(|shared| shared.holder.folded.load(Ordering::Relaxed)).sum()
    }

    /// Whether the host's node serves data.
    pub fn serves(&self, host: usize) -> bool {
        let shared = self.hosts[host].inside.borrow().upgrade();
        shared.is_some_and(|shared| {
            let view = shared.views.load();
            view.formed.is_some() && view.retired.is_none()
        })
    }
}

/// What a node has taken on, and what waits for others.
fn pressure(host: usize, shared: &kvasir::serve::node::Shared) -> Vec<Measured> {
    let (http, peer) = (&shared.config.http, &shared.config.peer);
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    // Every member has a queue for each class of frames.
    let others = 3 * shared.views.load().members.len() as u64;
    let bounds = [
        ("requests of clients", shared.pressure.held(Kind::Client).0, http.requests_max.into()),
        ("requests of others", shared.pressure.held(Kind::Replica).0, peer.requests_max.into()),
        (
            "bytes of requests of others",
            shared.pressure.held(Kind::Replica).1,
            peer.requests_max_bytes.0,
        ),
        (
            "connections",
            count(&shared.http_stats.connections),
            u64::from(http.connections_max) + LEAVING_MAX as u64,
        ),
        ("bytes of bodies", count(&shared.http_stats.body_bytes), http.bodies_max_bytes.0),
        (
            "calls that wait",
            count(&shared.peer_stats.calls_open),
            others * u64::from(peer.queue_max),
        ),
        (
            "bytes of calls that wait",
            count(&shared.peer_stats.calls_open_bytes),
            others * peer.queue_max_bytes.0,
        ),
    ];
    bounds.map(|(what, held, cap)| Measured { host, what, held, cap }).to_vec()
}

fn panic_text(error: tokio::task::JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => super::hunt::said(&*panic),
        Err(error) => error.to_string(),
    }
}
