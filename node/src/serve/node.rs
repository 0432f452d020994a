//! Puts one node together over a [`World`]: opens the volume, and runs the control side and the
//! workers. Production and simulation call the same three functions.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use kvasir_core::gossip::{Addresses, Gossip, GossipConfig, Labels, Me as GossipMe};
use kvasir_core::handoff::{Cap, Pace};
use kvasir_core::merkle::Schedule;
use kvasir_core::ring::Handovers;
use kvasir_core::version::Minter;
use kvasir_storage::{NoObserver, OpenError, Store};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use super::admin::is_loopback;
use super::bounds;
use super::buckets::Settings;
use super::handler::Handler;
use super::report;
use crate::admin::Access;
use crate::config::Config;
use crate::coordinator::{Coordinate, Figures, Learned};
use crate::http::api::Api;
use crate::http::server::Server;
use crate::http::stats::HttpStats;
use crate::peer::{Hello, Me, PeerListener, PeerStats, Peers};
use crate::planted::Bug;
use crate::pressure::{Pressure, PressureStats};
use crate::replica::{Holder, Moving, Replica, StandIns, Trees, View, Views};
use crate::seam::World;
use crate::tasks::control::Inbox;
use crate::tasks::set_aside::{Finding, SetAside};
use crate::tasks::tenures::Tenures;
use crate::tasks::{
    AntiEntropy, Control, ControlHandle, Copying, HandingBack, Identity, IdentityError,
    ReclaimFigures, Reclaiming, Repairs, SmallFiles, TreeScrub, copying, generations, identity,
};

/// What every thread of a node shares.
pub struct Shared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Who this node is.
    pub identity: Identity,
    /// What it says of itself to peers.
    pub me: Me,
    /// The local side.
    pub replica: Arc<Replica>,
    /// What is kept for others.
    pub standins: Arc<StandIns>,
    /// What this node did for the moves of its partitions.
    pub moving: Arc<Moving>,
    /// How fast this node takes back what others kept for it.
    pace: Arc<std::sync::Mutex<Pace>>,
    /// This node as one of the owners that reclaim asks.
    pub holder: Arc<Holder>,
    /// What reclaim did and waits for.
    pub reclaim: Arc<ReclaimFigures>,
    /// One worker hands back and compares; the first to run.
    mending: AtomicBool,
    /// Anti-entropy.
    pub repairs: Arc<Repairs>,
    /// Requests that other nodes sent for their clients.
    pub served: Arc<AtomicU64>,
    /// Document and member list.
    pub views: Arc<Views>,
    /// The control thread.
    pub control: ControlHandle,
    /// Counters of the coordinators.
    pub coordination: Arc<Figures>,
    /// Counters of the client port.
    pub http_stats: Arc<HttpStats>,
    /// Counters between nodes.
    pub peer_stats: Arc<PeerStats>,
    /// What workers take on and refuse.
    pub pressure: Arc<PressureStats>,
    /// Turns true when the node drains: clients and peers are served no longer.
    pub drain: watch::Receiver<bool>,
    /// The node will stop: probes say so before anything else changes.
    pub leaving: AtomicBool,
    /// Whoever has the admin token; each listener has a rule of its own, made from this one.
    pub access: Access,
}

/// A disk that has not answered for so long makes a node not ready. Writes that wait for it are long answered by
/// the other owners or by their deadline.
const DISK_SILENT: Duration = Duration::from_secs(10);

impl Shared {
    /// Why one of the two stores takes no more writes, for good, if so.
    pub fn disk_failed(&self) -> Option<String> {
        self.replica.store().failed().or_else(|| self.standins.failed())
    }

    /// For how long the disk has not answered a write or a sync of one of the two stores, if clients should go
    /// elsewhere for it. It may answer yet: nothing is given up.
    pub fn disk_silent(&self) -> Option<Duration> {
        let stores = [self.replica.store(), self.standins.store()];
        let longest = stores.iter().map(|store| store.stats().log_job_ms).max();
        longest.map(Duration::from_millis).filter(|silent| *silent >= DISK_SILENT)
    }
}

/// What only the control thread needs.
pub struct ControlParts {
    acceptor: kvasir_core::consensus::Acceptor,
    files: SmallFiles,
    inbox: Inbox,
    nonce: u64,
    finding: Option<Finding>,
    tenures: Tenures,
    handovers: Handovers,
}

/// Why a node did not start. The volume is as it was, but for a higher boot number.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store did not open.
    #[error("{0}")]
    Store(#[from] OpenError),
    /// The identity could not be established.
    #[error("{0}")]
    Identity(#[from] IdentityError),
    /// The data directory could not be made.
    #[error("cannot create {path}: {error}")]
    Directory {
        /// Which.
        path: String,
        /// Why.
        error: std::io::Error,
    },
    /// A port could not be opened.
    #[error("cannot listen on {address}: {error}. try: another port, or stop who holds it")]
    Listen {
        /// Which.
        address: String,
        /// Why.
        error: std::io::Error,
    },
    /// The gossip settings contradict each other.
    #[error("gossip: {0}")]
    Gossip(String),
    /// The bearer token of the admin port could not be read.
    #[error("admin.token_file {path}: {why}")]
    Token {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// The process may open too few files.
    #[error(
        "this process may open {limit} files and needs {needed}. try: ulimit -n {needed}, or fewer \
         workers.count"
    )]
    Descriptors {
        /// How many it may open.
        limit: u64,
        /// How many a node needs at least.
        needed: u64,
    },
    /// The machine gives no randomness.
    #[error("no randomness: {0}")]
    Randomness(String),
    /// The machine takes no signal handlers.
    #[error("no signal handlers: {0}")]
    Signals(String),
    /// The machine refused a thread.
    #[error("cannot start a thread: {0}")]
    Thread(String),
}

/// Opens the volume. Blocks on the disk.
///
/// # Errors
/// See [`StartError`].
pub fn open(
    config: Arc<Config>,
    world: &World,
    drain: watch::Receiver<bool>,
) -> Result<(Arc<Shared>, ControlParts), StartError> {
    let dir = &config.node.data_dir;
    // The name of the directory must survive too: an identity that vanishes with its directory is a
    // node that never was.
    let parent = dir.parent().unwrap_or(Path::new(""));
    let made = world.disk.create_dir(dir).and_then(|()| world.disk.sync_dir(parent));
    made.map_err(|error| StartError::Directory { path: dir.display().to_string(), error })?;
    let files = SmallFiles::new(world.disk.clone(), world.maintenance.clone(), dir);
    identity::look_for_loss(&files, &*world.disk, &dir.join("store"))?;
    let secret = identity::cluster_secret(&files)?;
    let (repair, datacenter) = (&config.repair, &config.node.datacenter);
    let trees = Arc::new(Trees::new(repair.enabled, repair.tree_bits, secret, world.planted));
    let options = config.storage.options(dir.join("store"));
    // The store takes the lock of the directory: from here on this process is alone with it.
    let store = Store::open(options, world.disk.clone(), world.maintenance.clone(), trees.clone())?;
    let kept = config.handoff.options(dir.join("standins"), &config.storage);
    let kept =
        Store::open(kept, world.disk.clone(), world.maintenance.clone(), Arc::new(NoObserver))?;
    let mut rng = SmallRng::seed_from_u64(world.seed);
    let (identity, acceptor) = identity::establish(&files, &mut rng)?;
    let (finding, generation) = (identity::found(&files)?, generations::load(&files)?);
    let (tenures, handovers) = (identity::tenures(&files)?, identity::handovers(&files)?);
    let (mut tag, nonce) = (rng.next_u64(), rng.next_u64());
    if world.planted.is(Bug::SameTag) {
        tag =
            u64::from_be_bytes(identity.node.as_bytes().first_chunk().copied().unwrap_or_default());
    }
    let minter = Arc::new(Minter::new(tag));
    let (control, inbox) = ControlHandle::new();
    let schedule =
        Schedule::new(repair.interval.as_millis(), config.handoff.hints_max_age.as_millis());
    let repairs = Arc::new(Repairs::new(schedule, trees.clone()));
    let replica =
        Arc::new(Replica::new((store, trees), minter, world.clock.clone(), world.planted));
    replica.generation().start(generation);
    let cap = |size: crate::config::Size| Cap { max_bytes: size.0 };
    let (copies, hints) =
        (cap(config.handoff.standins_max_bytes), cap(config.handoff.hints_max_bytes));
    let shared = Shared {
        coordination: Arc::default(),
        identity,
        me: Me::new(Hello::blank(identity.node, nonce, identity.boot)),
        standins: Arc::new(StandIns::new(kept, replica.clone(), copies, hints)),
        pace: Arc::new(std::sync::Mutex::new(Pace::new(config.handoff.rate.0))),
        holder: Arc::new(Holder::new(replica.clone(), identity.boot)),
        reclaim: Arc::default(),
        mending: AtomicBool::new(false),
        repairs,
        served: Arc::default(),
        moving: moving(&config, &files),
        replica,
        views: Arc::new(Views::new(View::blank(identity.node, datacenter))),
        control,
        http_stats: Arc::default(),
        peer_stats: Arc::default(),
        pressure: Arc::default(),
        drain,
        leaving: AtomicBool::new(false),
        access: Access::new(false, None),
        config,
    };
    tracing::info!(node = %identity.node, boot = identity.boot, "the volume is open");
    let parts = ControlParts { acceptor, files, inbox, nonce, finding, tenures, handovers };
    Ok((Arc::new(shared), parts))
}

/// What an earlier start stored of copies on their way; where it cannot be read, they begin anew.
fn moving(config: &Config, files: &SmallFiles) -> Arc<Moving> {
    let cursors = files.load(copying::FILE).ok().flatten();
    Arc::new(Moving::new(config.moves.rate.0, cursors.as_deref()))
}

/// Builds the control side on the thread that will run it.
///
/// # Errors
/// The gossip settings contradict each other.
pub fn control(
    shared: &Arc<Shared>,
    world: &World,
    parts: ControlParts,
) -> Result<(Rc<Control>, Inbox), StartError> {
    let config = &shared.config;
    let mark = parts.acceptor.state().mark;
    let me = GossipMe {
        id: shared.identity.node,
        boot: shared.identity.boot,
        nonce: parts.nonce,
        mark,
        cluster: kvasir_core::id::ClusterId::nil(),
        addresses: addresses(config),
        labels: labels(config),
        version: env!("CARGO_PKG_VERSION").to_string(),
        document: None,
        generation: shared.replica.generation().now(),
    };
    let settings: GossipConfig = config.gossip.settings();
    let gossip = Gossip::new(me, config.node.seeds.clone(), settings)
        .map_err(|e| StartError::Gossip(e.to_string()))?;
    let control = Control {
        identity: shared.identity,
        datacenter: config.node.datacenter.clone(),
        gossip: RefCell::new(gossip),
        acceptor: Mutex::new(parts.acceptor),
        files: parts.files,
        peers: Rc::new(peers(shared, world)),
        me: shared.me.clone(),
        views: shared.views.clone(),
        replica: shared.replica.clone(),
        standins: shared.standins.clone(),
        tenures: RefCell::new(parts.tenures),
        handovers: RefCell::new(parts.handovers),
        moving: shared.moving.clone(),
        formed: RefCell::new(None),
        net: world.net.clone(),
        configured_seeds: config.node.seeds.clone(),
        seeds: RefCell::new(config.node.seeds.clone()),
        unfit: RefCell::new(None),
        starting: Cell::new(true),
        set_aside: SetAside::new(parts.finding),
        closed: RefCell::default(),
        rebuilds: config.repair.rebuild,
        enforced: tokio::sync::Notify::new(),
        generation_interval: config.reclaim.generation.0,
        held_up_by: RefCell::default(),
        disk_free: Cell::new(None),
        boot_raised: Cell::new(false),
        failed: RefCell::new(None),
        pulling: Cell::new(false),
        fetching: RefCell::default(),
        passed_over: Cell::new(None),
        rng: RefCell::new(SmallRng::seed_from_u64(world.seed ^ 0xc0)),
        started: Instant::now(),
    };
    Ok((Rc::new(control), parts.inbox))
}

/// How often the store is told the time and its health is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Ticks from one look for damaged tables to the next.
const DAMAGE_EVERY: u64 = 10;

/// Tells the store the time until the disk fails in a way that the node must not survive.
pub async fn tend(shared: &Shared, control: &Control) {
    let mut tick = tokio::time::interval(TICK);
    let mut told = None;
    for number in 0_u64.. {
        tick.tick().await;
        let store = shared.replica.store();
        store.tick(control.now_ms());
        shared.standins.store().tick(control.now_ms());
        if number % DAMAGE_EVERY == 0 {
            report::tell_damage(shared, &mut told);
        }
        let failed = shared.disk_failed().or_else(|| control.failed.borrow().clone());
        if let Some(reason) = failed {
            tracing::error!(reason, "the disk failed: the node stops");
            return;
        }
    }
}

fn peers(shared: &Shared, world: &World) -> Peers {
    let (net, me, limits) = (world.net.clone(), shared.me.clone(), bounds::pool(&shared.config));
    Peers::new(net, me, limits, shared.peer_stats.clone(), world.seed ^ 0x9ee5)
}

/// Where others reach this node: what is advertised, else where it listens.
pub fn addresses(config: &Config) -> Addresses {
    let at = |listen: &str| match &config.node.advertise {
        Some(host) => {
            let port = listen.rsplit(':').next().unwrap_or(listen);
            format!("{host}:{port}")
        }
        None => listen.to_string(),
    };
    Addresses {
        http: at(&config.http.listen),
        peer: at(&config.peer.listen),
        admin: at(&config.admin.listen),
    }
}

/// What this node runs on, as its configuration says.
pub fn labels(config: &Config) -> Labels {
    Labels {
        machine: config.node.machine.clone(),
        rack: config.node.rack.clone(),
        zone: config.node.zone.clone(),
        datacenter: config.node.datacenter.clone(),
        weight: config.node.weight,
    }
}

/// One worker: its client and peer listeners, its connections, its coordinator.
pub struct Worker {
    http: Box<dyn crate::seam::Listener>,
    peer: Box<dyn crate::seam::Listener>,
    shared: Arc<Shared>,
    world: World,
}

impl Worker {
    /// Opens the ports. Workers of one process share them.
    ///
    /// # Errors
    /// [`StartError::Listen`].
    pub fn bind(shared: &Arc<Shared>, world: World) -> Result<Self, StartError> {
        let listen = |address: &str| {
            world
                .net
                .listen(address)
                .map_err(|error| StartError::Listen { address: address.to_string(), error })
        };
        let http = listen(&shared.config.http.listen)?;
        let peer = listen(&shared.config.peer.listen)?;
        Ok(Self { http, peer, shared: shared.clone(), world })
    }

    /// Serves until the node drains, then finishes what is in flight. Must run inside a `LocalSet`.
    pub async fn run(self) {
        let Self { http, peer, shared, world } = self;
        let coordinate = Rc::new(Coordinate {
            replica: shared.replica.clone(),
            standins: shared.standins.clone(),
            views: shared.views.clone(),
            peers: Rc::new(peers(&shared, &world)),
            learned: Learned::new(shared.coordination.clone()),
            fetch: {
                let control = shared.control.clone();
                Rc::new(move |holder, epoch| control.pull(holder, epoch))
            },
            planted: world.planted,
        });
        let handler = Rc::new(Handler {
            coordinate: coordinate.clone(),
            control: shared.control.clone(),
            holder: shared.holder.clone(),
            moving: shared.moving.clone(),
            http: shared.http_stats.clone(),
            pace: shared.pace.clone(),
            started: Instant::now(),
            served: shared.served.clone(),
        });
        let mending = mend(&shared, &world, &coordinate);
        let (config, stats) = (shared.config.clone(), shared.peer_stats.clone());
        let late_max = config.workers.late_max.0;
        let pressure = Pressure::new(bounds::shares(&config), late_max, shared.pressure.clone());
        let (net, me, limits) = (world.net.clone(), shared.me.clone(), bounds::listener(&config));
        let listener = PeerListener::new(net, me, handler, limits, stats, pressure.clone());
        let accepting = listener.clone();
        let peers_task = tokio::task::spawn_local(async move { accepting.run(peer).await });
        let settings = Rc::new(Settings {
            views: shared.views.clone(),
            control: shared.control.clone(),
            access: shared.access.on(is_loopback(&http.address())),
        });
        let (limits, stats) = (bounds::http(&config), shared.http_stats.clone());
        let api = Api::new(coordinate, settings, limits.clone(), stats.clone(), pressure.clone());
        let feeling = tokio::task::spawn_local(async move { pressure.run().await });
        let clock = world.clock.clone();
        let wall_ms = Rc::new(move || clock.wall_ms());
        let server = Rc::new(Server::new(Rc::new(api), limits, stats, wall_ms));
        let grace = shared.config.node.grace.0;
        server.run(super::accept::Accepting(http), shared.drain.clone(), grace).await;
        listener.drain(Instant::now() + grace).await;
        peers_task.abort();
        feeling.abort();
        mending.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

fn taking_over(shared: &Arc<Shared>, world: &World, coordinate: &Coordinate) -> Copying {
    let (dir, http) = (&shared.config.node.data_dir, shared.http_stats.clone());
    Copying {
        replica: coordinate.replica.clone(),
        views: coordinate.views.clone(),
        peers: coordinate.peers.clone(),
        moving: shared.moving.clone(),
        files: SmallFiles::new(world.disk.clone(), world.maintenance.clone(), dir),
        stored: Cell::new(None),
        felt: Rc::new(move || http.waited()),
    }
}

/// Starts what mends replicas, on the first worker that asks: hand-back, the copies of partitions that move
/// here, anti-entropy, the scrub of its tree.
fn mend(
    shared: &Arc<Shared>,
    world: &World,
    coordinate: &Coordinate,
) -> Vec<tokio::task::JoinHandle<()>> {
    if shared.mending.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let mut tasks = vec![tokio::task::spawn_local(taking_over(shared, world, coordinate).run())];
    let handing_back = HandingBack {
        replica: coordinate.replica.clone(),
        standins: coordinate.standins.clone(),
        views: coordinate.views.clone(),
        peers: coordinate.peers.clone(),
        hints_max_age: shared.config.handoff.hints_max_age.0,
    };
    tasks.push(tokio::task::spawn_local(handing_back.run()));
    if coordinate.replica.trees().is_on() {
        let (http, peers) = (shared.http_stats.clone(), shared.served.clone());
        let served: Rc<dyn Fn() -> u64> =
            Rc::new(move || http.answered_ever() + peers.load(Ordering::Relaxed));
        let scrub = TreeScrub {
            replica: coordinate.replica.clone(),
            repairs: shared.repairs.clone(),
            interval: shared.config.repair.scrub_interval.0,
            served: served.clone(),
        };
        let comparing = AntiEntropy {
            replica: coordinate.replica.clone(),
            standins: coordinate.standins.clone(),
            views: coordinate.views.clone(),
            peers: coordinate.peers.clone(),
            repairs: shared.repairs.clone(),
            pace: shared.pace.clone(),
            served,
        };
        tasks.push(tokio::task::spawn_local(scrub.run()));
        tasks.push(tokio::task::spawn_local(comparing.run()));
    }
    let config = &shared.config.reclaim;
    let reclaiming = Reclaiming {
        replica: coordinate.replica.clone(),
        holder: shared.holder.clone(),
        views: coordinate.views.clone(),
        peers: coordinate.peers.clone(),
        figures: shared.reclaim.clone(),
        min_age: config.min_age.0,
        pause: config.pause.0,
        rate: config.rate.0,
        planted: coordinate.planted,
    };
    tasks.push(tokio::task::spawn_local(reclaiming.run()));
    tasks
}
