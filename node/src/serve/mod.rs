//! One process: threads, start, drain, stop. The only room that opens sockets, reads the system clock
//! and starts threads.
//!
//! The main thread is the control thread: gossip, ballots, the admin port, ticks of the store and
//! signals. Each worker is a thread with a current-thread runtime of its own over the shared store.
//! Exit codes: 0 stopped in good order, 65 corrupt data, 74 the disk failed, 1 anything else.

pub mod accept;
pub mod admin;
pub mod backend;
mod bounds;
mod buckets;
pub mod dry_run;
pub mod forming;
pub mod handler;
pub mod logging;
pub mod net;
pub mod node;
pub mod operations;
mod repair;
mod repairs;
pub mod report;

use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use kvasir_storage::{OpenError, RealDisk, Threads};
use rand::TryRng;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, LocalSet};

use crate::config::Config;
use crate::faults::Faults;
use crate::planted::Planted;
use crate::seam::World;
use crate::tasks::IdentityError;
use net::{SystemClock, TcpNet};
use node::{Shared, StartError, Worker};

/// The data is damaged (`EX_DATAERR`).
pub const EXIT_DATA: u8 = 65;
/// The disk failed (`EX_IOERR`).
pub const EXIT_DISK: u8 = 74;
/// Threads that wait for reads.
const READERS: usize = 8;

/// Runs a node until it is told to stop. `faults` are shown to its peers.
pub fn run(config: Config, faults: Faults) -> ExitCode {
    if let Err(error) = logging::start(&config.log) {
        eprintln!("kvasir serve: {error}");
        return ExitCode::from(2);
    }
    match start(config, faults) {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(%error, "the node did not start");
            eprintln!("kvasir serve: {error}");
            ExitCode::from(code(&error))
        }
    }
}

/// What the process ends with when it does not start. A disk that has no room or fails is no damage: the same
/// volume may start later.
fn code(error: &StartError) -> u8 {
    use IdentityError::{Open, State, Tenures, Write};
    match error {
        StartError::Store(OpenError::Io(_))
        | StartError::Identity(Open(OpenError::Io(_)) | Write(_)) => EXIT_DISK,
        StartError::Store(OpenError::Damaged(_))
        | StartError::Identity(Open(_) | State(_) | Tenures) => EXIT_DATA,
        _ => 1,
    }
}

fn runtime() -> Result<Runtime, StartError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::Thread(error.to_string()))
}

/// Without a configured machine, its name is that of the host.
fn on_this_machine(mut config: Config) -> Config {
    if config.node.machine.is_empty() {
        config.node.machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
    }
    config
}

fn start(config: Config, faults: Faults) -> Result<ExitCode, StartError> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = config.workers.threads(cores);
    let config = Arc::new(bounds::fit(on_this_machine(config), workers as u64)?);
    let disk = Arc::new(RealDisk);
    let threads = Threads::start(READERS).map_err(|e| StartError::Thread(e.to_string()))?;
    let maintenance: Arc<Threads> = Arc::new(threads);
    let seed =
        rand::rngs::SysRng.try_next_u64().map_err(|e| StartError::Randomness(e.to_string()))?;
    let world = move |salt: u64| World {
        net: Rc::new(TcpNet { faults: faults.clone() }),
        clock: Arc::new(SystemClock),
        seed: seed.wrapping_add(salt.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
        disk: disk.clone(),
        maintenance: maintenance.clone(),
        planted: Planted::default(),
    };
    let (drain, draining) = watch::channel(false);
    let local = LocalSet::new();
    runtime()?.block_on(local.run_until(async {
        let own = world(0);
        let (shared, parts) = node::open(config.clone(), &own, draining)?;
        net::alone(&[&config.http.listen, &config.peer.listen, &config.admin.listen])?;
        let (control, inbox) = node::control(&shared, &own, parts)?;
        let (close_admin, closing) = watch::channel(false);
        let admin = admin::bind(&shared, &control, &own, closing)?;
        let mut running = Vec::new();
        for number in 0..workers {
            running.push(spawn_worker(number, shared.clone(), world.clone())?);
        }
        tokio::task::spawn_local(crate::tasks::control::run(control.clone(), inbox));
        tokio::task::spawn_local(admin);
        tracing::info!(
            http = config.http.listen,
            peer = config.peer.listen,
            admin = config.admin.listen,
            workers,
            "the node is up"
        );
        let mut signals = Signals::new()?;
        let tended = (shared.clone(), control.clone());
        let tending =
            tokio::task::spawn_local(async move { node::tend(&tended.0, &tended.1).await });
        let code = until_stopped(&mut signals, tending).await;
        leave_slowly(&shared, &mut signals, code).await;
        drain.send_replace(true);
        control.leave().await;
        join(running, config.node.grace.0).await;
        let code = close(&shared, code).await;
        // Probes and metrics answer to the end.
        close_admin.send_replace(true);
        Ok(code)
    }))
}

/// Starts a worker and waits until its ports are open, so that a taken port is an error of the start.
fn spawn_worker(
    number: usize,
    shared: Arc<Shared>,
    world: impl Fn(u64) -> World + Send + 'static,
) -> Result<thread::JoinHandle<()>, StartError> {
    let (ready, opened) = std::sync::mpsc::channel();
    let body = move || {
        let runtime = match runtime() {
            Ok(runtime) => runtime,
            Err(error) => {
                let _ = ready.send(Err(error));
                return;
            }
        };
        runtime.block_on(LocalSet::new().run_until(async move {
            match Worker::bind(&shared, world(1 + number as u64)) {
                Ok(worker) => {
                    let _ = ready.send(Ok(()));
                    worker.run().await;
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        }));
    };
    let handle = thread::Builder::new()
        .name(format!("worker-{number}"))
        .spawn(body)
        .map_err(|error| StartError::Thread(error.to_string()))?;
    opened.recv().map_err(|_| StartError::Thread("a worker ended at its start".to_string()))??;
    Ok(handle)
}

/// SIGTERM and Ctrl-C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> Result<Self, StartError> {
        let of = |kind| signal(kind).map_err(|error| StartError::Signals(error.to_string()));
        Ok(Self {
            terminate: of(SignalKind::terminate())?,
            interrupt: of(SignalKind::interrupt())?,
        })
    }

    /// Waits for either.
    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Waits until a signal comes (0) or the store is no longer tended because its disk failed (74). The
/// store is tended to the end of the process, also while the node drains.
async fn until_stopped(signals: &mut Signals, tending: JoinHandle<()>) -> u8 {
    tokio::select! {
        biased;
        () = signals.any() => 0,
        _ = tending => EXIT_DISK,
    }
}

/// Says by its readiness that the node stops, and goes on serving while others take note. A second
/// signal ends that at once.
async fn leave_slowly(shared: &Shared, signals: &mut Signals, code: u8) {
    shared.leaving.store(true, Relaxed);
    let delay = shared.config.node.drain_delay.0;
    if code == 0 && !delay.is_zero() {
        tracing::info!(?delay, "stopping: not ready any more, serving on until others took note");
        let _ = tokio::time::timeout(delay, signals.any()).await;
    }
    tracing::info!("stopping: no new work, finishing what is in flight");
}

async fn join(workers: Vec<thread::JoinHandle<()>>, grace: Duration) {
    let deadline = tokio::time::Instant::now() + grace + Duration::from_secs(1);
    for worker in workers {
        while !worker.is_finished() {
            if tokio::time::Instant::now() >= deadline {
                tracing::warn!("a worker did not finish within its grace");
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn close(shared: &Shared, code: u8) -> ExitCode {
    if code == 0 {
        let both = async {
            shared.standins.store().close().await?;
            shared.replica.store().close().await
        };
        match tokio::time::timeout(Duration::from_secs(30), both).await {
            Ok(Ok(())) => tracing::info!("stopped in good order"),
            Ok(Err(error)) => tracing::warn!(%error, "the store did not close in good order"),
            Err(_) => tracing::warn!(
                "the store did not close in time; the log is replayed at the next start"
            ),
        }
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasir_storage::{Damage, IoFailure};

    #[test]
    fn a_start_without_room_is_a_failure_of_the_disk_and_not_of_the_data() {
        let full =
            || IoFailure::new("member".as_ref(), "append", &std::io::ErrorKind::StorageFull.into());
        let damage = || Damage { path: "member".into(), offset: 40, detail: "rot".into() };
        let starts = [
            (StartError::Identity(full().into()), EXIT_DISK),
            (StartError::Identity(OpenError::Io(full()).into()), EXIT_DISK),
            (StartError::Store(full().into()), EXIT_DISK),
            (StartError::Identity(OpenError::Damaged(damage()).into()), EXIT_DATA),
            (StartError::Identity(IdentityError::Tenures), EXIT_DATA),
            (StartError::Store(damage().into()), EXIT_DATA),
            (StartError::Store(OpenError::Options("none".into())), 1),
        ];
        for (error, expected) in starts {
            assert_eq!(code(&error), expected, "{error}");
        }
    }
}
