//! The client side of the command line: everything that talks to a running cluster.
//!
//! A command builds its requests from the arguments, sends them through [`client::Client`], writes
//! the result to standard output and everything else to standard error. It decides nothing about
//! data: what is read, counted or merged is decided by the nodes.

pub mod buckets;
pub mod client;
pub mod cluster;
pub mod configuration;
pub mod export;
pub mod failure;
pub mod import;
pub mod ls;
pub mod output;
pub mod pages;
pub mod recover;
pub mod repair;
pub mod servers;
pub mod siblings;
pub mod simulate;
pub mod values;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};

use client::{Bounds, Client};
use failure::{Exit, Failure};
use output::Format;

/// HTTP port of `kvasir serve`, for server URLs that name none.
const HTTP_PORT: u16 = 8098;
/// Admin port of `kvasir serve`, for admin URLs that name none.
const ADMIN_PORT: u16 = 9098;

/// Commands that talk to a cluster.
#[derive(Debug, Subcommand)]
pub enum Word {
    /// Store a value under a key
    Put(values::Put),
    /// Read the value of a key
    Get(values::Get),
    /// Delete a key
    Del(values::Del),
    /// List the keys of a bucket
    Ls(ls::Ls),
    /// Store every line of a file
    Import(import::Import),
    /// Write every key of a bucket as a line that import reads
    Export(export::Export),
    /// Is my data safe now? Nodes, copies, operations
    Status(cluster::StatusArguments),
    /// Who owns how much of the ring
    Ring(Box<cluster::RingArguments>),
    /// Who owns a key, and what each replica holds of it
    Where(cluster::WhereArguments),
    /// Settings of buckets: list, show, set
    #[command(subcommand)]
    Bucket(buckets::BucketWord),
    /// Compare replicas now and mend what differs; how far it is
    #[command(subcommand)]
    Repair(repair::RepairWord),
}

/// Where client commands send their requests.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Servers, tried in order: http://HOST:PORT[,http://HOST:PORT...]
    #[arg(long, env = "KVASIR_URL", value_name = "URL[,URL]", default_value = servers::DEFAULT_SERVERS)]
    pub server: String,
    /// How the result is written
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub output: Format,
}

/// Where cluster commands send their requests.
#[derive(Debug, Clone, Args)]
pub struct AdminTarget {
    /// Admin servers, tried in order. Without it: the host of each --server at port 9098, and for
    /// a loopback host its own port + 200 as well (the layout of `kvasir dev`)
    #[arg(long, env = "KVASIR_ADMIN_URL", value_name = "URL[,URL]")]
    pub admin: Option<String>,
    /// Bearer token of the admin port; needed where it does not listen on loopback
    #[arg(long, env = "KVASIR_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Where client commands and the admin servers follow from
    #[command(flatten)]
    pub target: Target,
    /// Longest time for the whole command: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub timeout: Duration,
}

impl Target {
    /// A client whose requests may take `total` and that asks each server once, or as often as
    /// time allows where `persistent`.
    pub fn client(&self, total: Duration, persistent: bool) -> Result<Client, Failure> {
        let servers = servers::parse("--server", &self.server, HTTP_PORT)?;
        let bounds = bounds(total, servers.len(), persistent);
        Ok(Client::new("--server", servers, bounds))
    }
}

impl AdminTarget {
    /// A client of the admin ports.
    pub fn client(&self) -> Result<Client, Failure> {
        let servers = match &self.admin {
            Some(list) => servers::parse("--admin", list, ADMIN_PORT)?,
            None => {
                servers::derive_admin(&servers::parse("--server", &self.target.server, HTTP_PORT)?)
            }
        };
        let bounds = bounds(self.timeout, servers.len(), false);
        Ok(Client::new("--admin", servers, bounds).with_bearer(self.token.clone()))
    }
}

/// Splits the time of a request over the servers, at most three of them, so that one that hangs
/// leaves time for the next.
fn bounds(total: Duration, servers: usize, persistent: bool) -> Bounds {
    let parts = servers.clamp(1, 3) as u32;
    let attempt = if persistent { total.min(Duration::from_secs(5)) } else { total / parts };
    Bounds { total, attempt, tries: if persistent { 0 } else { servers as u32 } }
}

/// Reads a duration: a number and `ms`, `s`, `m` or `h`; a bare number is seconds.
pub fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 =
        number.parse().map_err(|_| "expected a number and ms, s, m or h".to_owned())?;
    let milliseconds = match unit {
        "ms" => Some(number),
        "" | "s" => number.checked_mul(1_000),
        "m" => number.checked_mul(60_000),
        "h" => number.checked_mul(3_600_000),
        _ => return Err(format!("`{unit}` is no unit of time: use ms, s, m or h")),
    };
    match milliseconds {
        Some(milliseconds) if milliseconds > 0 => Ok(Duration::from_millis(milliseconds)),
        _ => Err("expected a duration of at least 1ms that fits into 64 bits".to_owned()),
    }
}

/// Runs a command to its end.
pub fn run(word: &Word) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(dispatch(word)),
        Err(error) => Err(Failure::error(
            format!("the process cannot start: {error}"),
            "check the limits on open files and threads (`ulimit -a`)",
        )),
    };
    finish(outcome)
}

/// Turns the outcome of a command into the exit code, writing a failure to standard error.
pub fn finish(outcome: Result<Exit, Failure>) -> ExitCode {
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            failure.print();
            failure.exit.into()
        }
    }
}

async fn dispatch(word: &Word) -> Result<Exit, Failure> {
    match word {
        Word::Put(arguments) => values::put(arguments).await,
        Word::Get(arguments) => values::get(arguments).await,
        Word::Del(arguments) => values::del(arguments).await,
        Word::Ls(arguments) => ls::ls(arguments).await,
        Word::Import(arguments) => import::import(arguments).await,
        Word::Export(arguments) => export::export(arguments).await,
        Word::Status(arguments) => cluster::status(arguments).await,
        Word::Ring(arguments) => cluster::ring(arguments).await,
        Word::Where(arguments) => cluster::locate(arguments).await,
        Word::Bucket(word) => buckets::run(word).await,
        Word::Repair(word) => repair::run(word).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let read = |text| duration(text).map(|d| d.as_millis());
        assert_eq!(read("500ms"), Ok(500));
        assert_eq!(read("5"), Ok(5_000));
        assert_eq!(read("2m"), Ok(120_000));
        for bad in ["", "0s", "-1s", "1d", "s", "99999999999999999999s", "9999999999999999999h"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn one_hanging_server_leaves_time_for_the_next() {
        let bounds = bounds(Duration::from_secs(6), 3, false);
        assert_eq!((bounds.attempt, bounds.tries), (Duration::from_secs(2), 3));
    }
}
