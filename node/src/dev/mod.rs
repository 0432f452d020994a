//! `kvasir dev`: a whole cluster on one machine, made of real nodes.
//!
//! Each node is a process of this very program, with its own ports, folder and machine name, so
//! that killing or pausing one shows what a failure does. Nothing here is a second way to run a
//! node: what `kvasir dev` does, `kvasir serve` and the admin API can do by hand.

mod child;
mod cluster;
mod console;
pub mod leash;
mod lesson;
mod links;
mod plan;
mod scale;

use std::collections::BTreeSet;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cli::cluster::{StatusArguments, status};
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::Format;
use crate::cli::{AdminTarget, Target, servers};
use child::Life;
use cluster::Cluster;
use console::{Command, Lesson};
use links::Links;
use plan::{NodePlan, Shape, joined};

/// How long a node that is started again may take.
const RESTART: Duration = Duration::from_secs(30);

/// Arguments of `kvasir dev`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir dev
  kvasir dev --nodes 5 --zones 3 --set storage.memtable_bytes=4MiB
  kvasir dev --nodes 6 --datacenters 2       three copies in each of dc1 and dc2
  kvasir dev --keep ./cluster        start it again later with the same command
  kvasir dev --exec 'kvasir import words.tsv && kvasir status'

Node i listens on base+i for clients, base+100+i for other nodes and base+200+i for the admin API, on
127.0.0.1 only. While it runs it takes: kill N, start N, pause N, resume N, partition 0 | 1,2, slow N 200ms,
heal, add, remove N, lesson siblings, status, help, quit.")]
pub struct Dev {
    /// Number of nodes [default: 3]
    #[arg(long)]
    pub nodes: Option<u16>,
    /// Copies of everything in each data center [default: 3, or the number of nodes if there are fewer]
    #[arg(long)]
    pub n: Option<u16>,
    /// Spread the nodes of each data center over this many zones
    #[arg(long)]
    pub zones: Option<u16>,
    /// Deal the nodes out to this many data centers in turn: node 0 to dc1, node 1 to dc2 [default: 1]
    #[arg(long)]
    pub datacenters: Option<u16>,
    /// HTTP port of node 0
    #[arg(long, default_value_t = 8100)]
    pub base_port: u16,
    /// Setting handed to every node; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub settings: Vec<String>,
    /// Keep data and logs in this folder; a cluster that is there already is started again
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Run this shell command against the ready cluster, with KVASIR_URL and KVASIR_ADMIN_URL set,
    /// stop, and exit with its status
    #[arg(long, value_name = "COMMAND")]
    pub exec: Option<String>,
}

/// Runs a local cluster to its end.
pub fn run(arguments: &Dev) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(live(arguments)),
        Err(error) => Err(Failure::error(
            format!("the process cannot start: {error}"),
            "check the limits on open files and threads (`ulimit -a`)",
        )),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(failure) => crate::cli::finish(Err(failure)),
    }
}

/// The folder of a cluster; a temporary one is removed when this is dropped.
enum Folder {
    Kept(PathBuf),
    Temporary(tempfile::TempDir),
}

impl Folder {
    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

async fn live(arguments: &Dev) -> Result<u8, Failure> {
    let folder = folder(arguments)?;
    let shape = shape(arguments, folder.path())?;
    shape.check()?;
    let (base, settings) = (arguments.base_port, arguments.settings.clone());
    let mut cluster = Cluster::new(shape, base, folder.path(), settings)?;
    cluster.save()?;
    let mut stopping = Stopping::new()?;
    let up = tokio::select! {
        up = cluster.bring_up() => Some(up),
        () = stopping.asked() => None,
    };
    let outcome = match up {
        None => Ok(Exit::Error.code()),
        Some(Err(failure)) => Err(failure),
        Some(Ok(())) => match &arguments.exec {
            Some(command) => execute(command, &cluster.plans(), &mut stopping).await,
            None => {
                greet(&folder, &cluster);
                converse(&mut cluster, &mut stopping).await;
                Ok(Exit::Ok.code())
            }
        },
    };
    let forced = cluster.stop().await;
    if forced > 0 {
        eprintln!("{forced} nodes did not stop in time and were killed");
    }
    outcome
}

fn folder(arguments: &Dev) -> Result<Folder, Failure> {
    let made = match &arguments.keep {
        Some(path) => {
            std::fs::create_dir_all(path).and_then(|()| path.canonicalize()).map(Folder::Kept)
        }
        None => tempfile::Builder::new().prefix("kvasir-dev-").tempdir().map(Folder::Temporary),
    };
    made.map_err(|error| {
        Failure::error(
            format!("the folder for the nodes cannot be made: {error}"),
            "choose one that can be written: kvasir dev --keep DIR",
        )
    })
}

/// The shape asked for, or that of the cluster which is in the folder already.
fn shape(arguments: &Dev, folder: &Path) -> Result<Shape, Failure> {
    let Some(shape) = Cluster::shape_in(folder)? else {
        let nodes = arguments.nodes.unwrap_or(3);
        let datacenters = arguments.datacenters.unwrap_or(1);
        let each = nodes / datacenters.max(1);
        let n = arguments.n.unwrap_or(each.min(3));
        let (zones, removed) = (arguments.zones.unwrap_or(0), BTreeSet::new());
        return Ok(Shape { nodes, n, zones, datacenters, formed: false, removed });
    };
    let (nodes, &Shape { n, zones, datacenters, .. }) = (shape.present(), &shape);
    let asked = [
        (arguments.nodes, nodes),
        (arguments.n, n),
        (arguments.zones, zones),
        (arguments.datacenters, datacenters),
    ];
    if asked.iter().any(|(asked, is)| asked.is_some_and(|asked| asked != *is)) {
        let centers = match datacenters {
            1 => String::new(),
            centers => format!(", in {centers} data centers"),
        };
        return Err(Failure::usage(
            format!(
                "the cluster in that folder has {nodes} nodes, n={n} and {zones} zones{centers}"
            ),
            "leave out what gives its shape, or choose another folder with --keep DIR",
        ));
    }
    Ok(shape)
}

fn greet(folder: &Folder, cluster: &Cluster) {
    let kept = match folder {
        Folder::Kept(path) => format!("kept in {}", path.display()),
        Folder::Temporary(folder) => format!("in {}, removed at exit", folder.path().display()),
    };
    let (plans, n) = (cluster.plans(), cluster.shape.n);
    let last = plans.last().map_or(String::new(), NodePlan::http_url);
    let first = plans.first().map_or(String::new(), NodePlan::http_url);
    let each = match cluster.shape.datacenters {
        1 => String::new(),
        centers => format!(" in each of {centers} data centers"),
    };
    let nodes = plans.len();
    tell(&format!("kvasir dev: {nodes} nodes are ready, n={n}{each}, data {kept}\n"));
    tell(&format!("{}\n", cluster.table()));
    tell(&format!("  curl -i -X PUT {first}/v1/kv/default/cart/42 -d milk"));
    tell(&format!("  curl -i {last}/v1/kv/default/cart/42"));
    tell(&format!("{}\n", exports(&plans)));
    tell("type `help` for what can be done to the nodes, `quit` to stop them");
}

/// What points the command line at the nodes.
fn exports(plans: &[NodePlan]) -> String {
    let (http, admin) = (joined(plans, NodePlan::http_url), joined(plans, NodePlan::admin_url));
    format!("  export KVASIR_URL={http}\n  export KVASIR_ADMIN_URL={admin}")
}

/// Signals that end everything.
struct Stopping {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stopping {
    fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::error(format!("signals cannot be received: {error}"), "start it again")
            })
        };
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: listen(interrupt)?, terminate: listen(terminate)? })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Runs a shell command against the cluster; its status is the answer, 128 + n after signal n.
async fn execute(command: &str, plans: &[NodePlan], stop: &mut Stopping) -> Result<u8, Failure> {
    use std::os::unix::process::ExitStatusExt;
    let failed = |error: std::io::Error| {
        Failure::error(format!("`{command}` cannot be run: {error}"), "check that `sh` is there")
    };
    let mut child = tokio::process::Command::new("sh")
        .arg("-c")
        .arg(command)
        .env("KVASIR_URL", joined(plans, NodePlan::http_url))
        .env("KVASIR_ADMIN_URL", joined(plans, NodePlan::admin_url))
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let status = tokio::select! {
        status = child.wait() => status.map_err(failed)?,
        () = stop.asked() => {
            // From a terminal the command got the interrupt too; a moment to end in its own way.
            tokio::time::timeout(Duration::from_secs(5), child.wait()).await.ok();
            return Ok(130);
        }
    };
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(u8::try_from(code).unwrap_or(1))
}

/// Takes commands until `quit`, a signal, or the end of a terminal's input.
async fn converse(cluster: &mut Cluster, stopping: &mut Stopping) {
    let mut lines = stdin_lines();
    let mut open = true;
    let mut ticks = tokio::time::interval(Duration::from_millis(500));
    loop {
        tokio::select! {
            () = stopping.asked() => return,
            line = lines.recv(), if open => match line {
                None if std::io::stdin().is_terminal() => return,
                None => open = false,
                Some(line) => match console::parse(&line, &cluster.numbers()) {
                    Ok(Some(Command::Quit)) => return,
                    Ok(Some(command)) => tokio::select! {
                        done = obey(cluster, &command) => if let Err(failure) = done {
                            failure.print();
                        },
                        () = stopping.asked() => return,
                    },
                    Ok(None) => {}
                    Err(why) => eprintln!("{why}"),
                },
            },
            _ = ticks.tick() => for (number, how) in cluster.ended() {
                let log = cluster.nodes[number].plan.log();
                eprintln!("node {number} ended with {how}; see {}", log.display());
            },
        }
    }
}

/// Lines of standard input. The thread that reads cannot be stopped; it ends with the process.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn obey(cluster: &mut Cluster, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Partition(sides) => part(cluster, sides).await,
        Command::Slow(number, late) => slow(cluster, *number, *late).await,
        Command::Heal => heal(cluster).await?,
        Command::Add => scale::add(cluster).await?,
        Command::Remove(number) => scale::remove(cluster, *number).await?,
        Command::Lesson(Lesson::Siblings) => lesson::siblings(cluster).await?,
        Command::Status => {
            tell(&format!("{}\n", cluster.table()));
            let asked = cluster.nodes.iter().find(|node| node.life() == Life::Running);
            if let Some(node) = asked.filter(|_| !cluster.links().are_whole()) {
                tell(&format!("as node {} sees it:", node.plan.number));
            }
            status(&status_arguments(cluster)).await?;
        }
        Command::Help => tell(console::HELP),
        Command::Quit => {}
        Command::Kill(number)
        | Command::Start(number)
        | Command::Pause(number)
        | Command::Resume(number) => change_life(cluster, command, *number).await?,
    }
    Ok(())
}

/// Kills, starts, pauses or resumes a node.
async fn change_life(
    cluster: &mut Cluster,
    command: &Command,
    number: usize,
) -> Result<(), Failure> {
    match (command, cluster.nodes[number].life()) {
        (Command::Kill(_), Life::Gone) => tell(&format!("node {number} does not run")),
        (Command::Kill(_), _) => {
            cluster.nodes[number].kill().await;
            tell(&format!("node {number} is killed"));
        }
        (Command::Start(_), Life::Gone) => {
            cluster.start(number).await?;
            let deadline = Instant::now() + RESTART;
            cluster.wait(number, deadline, kvasir_core::admin_api::routes::READYZ).await?;
            cluster.wait_for_each_other(deadline).await?;
            tell(&format!("node {number} is ready"));
        }
        (Command::Start(_), _) => tell(&format!("node {number} runs already")),
        (Command::Pause(_), Life::Running) => {
            cluster.nodes[number].signal(Signal::STOP);
            tell(&format!("node {number} is paused"));
        }
        (Command::Pause(_), _) => tell(&format!("node {number} is not running")),
        (Command::Resume(_), Life::Paused) => {
            cluster.nodes[number].signal(Signal::CONT);
            tell(&format!("node {number} goes on"));
        }
        (Command::Resume(_), _) => tell(&format!("node {number} is not paused")),
        _ => {}
    }
    Ok(())
}

async fn part(cluster: &mut Cluster, sides: &[BTreeSet<usize>]) {
    let mut links = cluster.links().clone();
    links.part(sides.to_vec());
    cluster.link(links).await;
    let shown = links::show(sides);
    tell(&format!("the network is cut: {shown}; clients still reach every node; heal ends it"));
}

async fn slow(cluster: &mut Cluster, number: usize, late: Duration) {
    let mut links = cluster.links().clone();
    links.slow(number, late);
    cluster.link(links).await;
    tell(&match late.as_millis() {
        0 => format!("node {number} is as fast as the others"),
        late => format!("what node {number} sends to other nodes is {late} ms late"),
    });
}

/// Makes the links whole and waits until the nodes have noticed.
async fn heal(cluster: &mut Cluster) -> Result<(), Failure> {
    cluster.link(Links::default()).await;
    cluster.wait_for_each_other(Instant::now() + RESTART).await?;
    tell("the network is whole, and every node sees every other that runs");
    Ok(())
}

/// Writes a line to standard output; a reader that went away does not end the cluster.
fn tell(text: &str) {
    crate::cli::output::say(text).ok();
}

fn status_arguments(cluster: &Cluster) -> StatusArguments {
    let target = Target { server: servers::DEFAULT_SERVERS.to_owned(), output: Format::Table };
    let (admin, timeout) = (Some(cluster.admin_urls()), Duration::from_secs(5));
    StatusArguments { admin: AdminTarget { admin, token: None, target, timeout } }
}
