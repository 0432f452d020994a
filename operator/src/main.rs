//! Entry point of `kvasir-operator`: reads the command line, wins the lease, looks after clusters.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use clap::Parser;
use hyper::header::{HeaderValue, USER_AGENT};
use k8s_openapi::jiff::Timestamp;
use kube::runtime::events::{Recorder, Reporter};
use kube::{Client, Config};
use kvasir_operator::apply::Hands;
use kvasir_operator::lease::Candidate;
use kvasir_operator::metrics::Metrics;
use kvasir_operator::node_admin::{NodeAdmin, Tcp};
use kvasir_operator::pass::Operator;
use kvasir_operator::render::names;
use kvasir_operator::snapshot::Surroundings;
use kvasir_operator::{controller, server};
use rand::TryRng;
use rand::rngs::SysRng;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Turns KVCluster resources into running rings.
#[derive(Debug, Parser)]
#[command(
    name = "kvasir-operator",
    version,
    after_help = "\
Runs in a pod with a service account, or elsewhere with a KUBECONFIG. Looks after the KVClusters of
its own namespace; with --all-namespaces of every one, which needs a ClusterRole.

Exit codes: 0 stopped by a signal, 1 error or lease lost, 2 usage."
)]
struct Arguments {
    /// Look after the clusters of every namespace
    #[arg(long, env = "KVASIR_OPERATOR_ALL_NAMESPACES")]
    all_namespaces: bool,
    /// The namespace to look after, and of the lease; the pod's own when left out
    #[arg(long, env = "POD_NAMESPACE")]
    namespace: Option<String>,
    /// Name of this process in the lease; must be its own
    #[arg(long, env = "POD_NAME", default_value_t = format!("pid-{}", std::process::id()))]
    identity: String,
    /// Name of the lease by which one of several operators leads
    #[arg(long, env = "KVASIR_OPERATOR_LEASE", default_value = "kvasir-operator")]
    lease: String,
    /// Where probes and metrics are served
    #[arg(long, env = "KVASIR_OPERATOR_LISTEN", default_value = "0.0.0.0:8080")]
    listen: String,
    /// What is logged, such as info or info,kvasir_operator=debug
    #[arg(long, env = "KVASIR_OPERATOR_LOG", default_value = "info")]
    log: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = match EnvFilter::try_new(&arguments.log) {
        Ok(filter) => filter,
        Err(error) => {
            eprintln!("--log: {error}. try: info, or info,kvasir_operator=debug");
            return ExitCode::from(2);
        }
    };
    let lines = tracing_subscriber::fmt().json().with_span_list(false);
    lines.with_env_filter(filter).with_writer(std::io::stderr).init();
    // One thread is enough for what waits on others' answers, and the smallest in memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ended = runtime
        .map_err(|error| format!("no runtime: {error}"))
        .and_then(|runtime| runtime.block_on(run(arguments)));
    match ended {
        Ok(code) => code,
        Err(error) => {
            tracing::error!(error, "cannot run");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, String> {
    let client = client().await.map_err(|error| {
        format!("no API server: {error}. Run in a pod with a service account, or set KUBECONFIG")
    })?;
    let own = arguments.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let metrics = Arc::new(Metrics::new().map_err(|error| error.to_string())?);
    let reached = Arc::new(AtomicBool::new(false));
    let health = server::Health { reached: reached.clone(), metrics: metrics.clone() };
    let listener = TcpListener::bind(&arguments.listen).await.map_err(|error| {
        format!("cannot listen on {}: {error}. Choose another with --listen", arguments.listen)
    })?;
    tokio::spawn(server::serve(listener, health));
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;

    let version = client.apiserver_version().await;
    let version = version.map_err(|error| format!("the API server does not answer: {error}"))?;
    reached.store(true, Ordering::Relaxed);
    tracing::info!(kubernetes = version.git_version, namespace = own, "started");
    let lease = Candidate::new(client.clone(), &own, &arguments.lease, &arguments.identity);
    tokio::select! {
        () = lease.win() => {}
        _ = terminate.recv() => return Ok(ExitCode::SUCCESS),
        _ = interrupt.recv() => return Ok(ExitCode::SUCCESS),
    }
    metrics.set_leader(true);

    let namespace = (!arguments.all_namespaces).then(|| own.clone());
    let operator = operator(&client, &lease, &own, arguments.identity.clone(), metrics);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let passes = controller::run(operator, namespace, async { drop(stopped.await) });
    tokio::pin!(passes);
    let signalled = tokio::select! {
        () = lease.keep() => false,
        () = &mut passes => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    if !signalled {
        // Whatever was under way ends with the process; the next one reads how far it came.
        return Ok(ExitCode::FAILURE);
    }
    drop(stop);
    tokio::select! {
        () = passes => {}
        () = lease.keep() => {}
    }
    lease.release().await;
    tracing::info!("stopped");
    Ok(ExitCode::SUCCESS)
}

/// A client that says who it is, so that the API server's audit log can.
async fn client() -> Result<Client, Box<dyn std::error::Error>> {
    let mut config = Config::infer().await?;
    let agent = concat!("kvasir-operator/", env!("CARGO_PKG_VERSION"));
    config.headers.push((USER_AGENT, HeaderValue::from_static(agent)));
    Ok(Client::try_from(config)?)
}

fn operator(
    client: &Client,
    lease: &Candidate,
    namespace: &str,
    identity: String,
    metrics: Arc<Metrics>,
) -> Operator {
    let held = lease.held();
    let reporter = Reporter { controller: names::MANAGER.to_owned(), instance: Some(identity) };
    Operator {
        hands: Hands {
            client: client.clone(),
            nodes: NodeAdmin::new(Arc::new(Tcp), names::ADMIN),
            draw: Arc::new(draw_token),
        },
        surroundings: Surroundings { operator_namespace: namespace.to_owned() },
        clock: Arc::new(Timestamp::now),
        may_write: Arc::new(move || held.now(Instant::now())),
        recorder: Some(Recorder::new(client.clone(), reporter)),
        metrics,
    }
}

/// 256 random bits in hexadecimal.
fn draw_token() -> Result<String, String> {
    let mut bytes = [0; 32];
    SysRng.try_fill_bytes(&mut bytes).map_err(|error| format!("no randomness: {error}"))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
