//! `kvasir bucket`: the settings of buckets, listed, shown and changed.
//!
//! Settings are read from any node; a change is accepted by a majority of them. The node judges what can
//! be changed; these commands ask and draw.

use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use hyper::Method;
use kvasir_core::admin_api::routes::fill;
use kvasir_core::admin_api::{BucketAnswer, BucketList};
use kvasir_core::quorum::Level;
use kvasir_core::ring::{BucketSettings, Durability, Mode, SettingsChange};
use serde::de::DeserializeOwned;

use super::Target;
use super::client::{Ask, Client, Repeat, Reply};
use super::failure::{Exit, Failure};
use super::output::{self, Format};

/// Settings of buckets.
#[derive(Debug, Clone, Subcommand)]
pub enum BucketWord {
    /// List the buckets that have settings of their own, and the defaults of all others
    List(List),
    /// Show what holds for a bucket
    Show(Show),
    /// Change settings of a bucket; the first change declares it
    Set(Set),
}

/// Where bucket commands send their requests.
#[derive(Debug, Clone, Args)]
pub struct Asked {
    /// Servers and form of the result
    #[command(flatten)]
    pub target: Target,
    /// Longest time for the request over all servers that are tried: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "15s", value_parser = super::duration)]
    pub timeout: Duration,
}

/// Arguments of `kvasir bucket list`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir bucket list
  kvasir bucket list -o json

A bucket needs no declaration: one that is not listed is as the first row says.")]
pub struct List {
    /// Servers, time, form
    #[command(flatten)]
    pub asked: Asked,
}

/// Arguments of `kvasir bucket show`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir bucket show sessions
  kvasir bucket show sessions -o json")]
pub struct Show {
    /// Name of the bucket, 1 to 255 bytes
    pub bucket: String,
    /// Servers, time, form
    #[command(flatten)]
    pub asked: Asked,
}

/// Arguments of `kvasir bucket set`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir bucket set sessions --ttl 30m --durability periodic
  kvasir bucket set accounts -w all --sloppy false
  kvasir bucket set sessions --ttl none

What is not named stays as it is. The first change makes an entry from the defaults of the cluster; from
then on the bucket's mode is fixed and the entry stays. Where the servers do not listen on loopback, the
token of the admin port is needed (--token).")]
pub struct Set {
    /// Name of the bucket, 1 to 255 bytes
    pub bucket: String,
    /// Replicas that must answer a read: one, quorum, all, local_one, local_quorum, each_quorum or a
    /// number
    #[arg(short, value_name = "LEVEL")]
    pub r: Option<Level>,
    /// Copies that must acknowledge a write: as for -r
    #[arg(short, value_name = "LEVEL")]
    pub w: Option<Level>,
    /// How safe a copy is before it counts: memory, periodic, group or each
    #[arg(long, value_name = "MODE", value_parser = durability)]
    pub durability: Option<Durability>,
    /// Whether stand-ins count while owners are down
    #[arg(long, value_name = "true|false")]
    pub sloppy: Option<bool>,
    /// How long values live that are written without a ttl: 30s, 5m, 1h, in whole seconds; `none`
    /// for ever
    #[arg(long, value_name = "DURATION|none", value_parser = ttl)]
    pub ttl: Option<Ttl>,
    /// How concurrent writes are resolved, fixed once the bucket is declared: siblings or
    /// lastWriteWins
    #[arg(long, value_name = "MODE", value_parser = mode)]
    pub mode: Option<Mode>,
    /// Bearer token of the admin port; needed where the servers do not listen on loopback
    #[arg(long, env = "KVASIR_ADMIN_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// Servers, time, form
    #[command(flatten)]
    pub asked: Asked,
}

/// A life in seconds, or none for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(pub Option<u64>);

fn ttl(text: &str) -> Result<Ttl, String> {
    if text == "none" {
        return Ok(Ttl(None));
    }
    let life = super::duration(text)?;
    match life.subsec_nanos() {
        0 => Ok(Ttl(Some(life.as_secs()))),
        _ => Err("a bucket's ttl has whole seconds".to_owned()),
    }
}

/// A word of the settings, as their JSON spells it.
fn word<T: DeserializeOwned>(text: &str, all: &str) -> Result<T, String> {
    serde_json::from_value(text.into()).map_err(|_| format!("expected {all}"))
}

fn durability(text: &str) -> Result<Durability, String> {
    word(text, "memory, periodic, group or each")
}

fn mode(text: &str) -> Result<Mode, String> {
    word(text, "siblings or lastWriteWins")
}

/// Runs one of the bucket commands.
pub async fn run(word: &BucketWord) -> Result<Exit, Failure> {
    match word {
        BucketWord::List(arguments) => list(arguments).await,
        BucketWord::Show(arguments) => show(arguments).await,
        BucketWord::Set(arguments) => set(arguments).await,
    }
}

async fn list(arguments: &List) -> Result<Exit, Failure> {
    let client = arguments.asked.client()?;
    let list: BucketList = read(&client.ask(&Ask::get("/v1/buckets")).await?)?;
    if arguments.asked.target.output == Format::Json {
        output::say_json(&list)?;
        return Ok(Exit::Ok);
    }
    let mut rows = vec![row("(all others)".to_owned(), &list.defaults, "defaults")];
    rows.extend(list.buckets.iter().map(|(name, own)| row(name.to_string(), own, "its own")));
    draw(rows)
}

async fn show(arguments: &Show) -> Result<Exit, Failure> {
    let client = arguments.asked.client()?;
    shown(&arguments.asked, &client.ask(&Ask::get(path(&arguments.bucket))).await?)
}

async fn set(arguments: &Set) -> Result<Exit, Failure> {
    let change = arguments.change();
    if change == SettingsChange::default() {
        return Err(Failure::usage(
            "no setting is named",
            "name one, like `--ttl 30m`; `kvasir help bucket set` lists them",
        ));
    }
    let body = serde_json::to_vec(&change).map_err(|error| {
        Failure::error(format!("the change has no JSON form: {error}"), "report this as a defect")
    })?;
    let client = arguments.asked.client()?.with_bearer(arguments.token.clone());
    let target =
        format!("{}?timeout={}ms", path(&arguments.bucket), client.attempt().as_millis().max(1));
    // The same change again is the same change.
    let ask = Ask {
        method: Method::PUT,
        target,
        headers: vec![("content-type", "application/json".to_owned())],
        body: Bytes::from(body),
        repeat: Repeat::Always,
    };
    shown(&arguments.asked, &client.ask(&ask).await?)
}

impl Asked {
    fn client(&self) -> Result<Client, Failure> {
        self.target.client(self.timeout, false)
    }
}

impl Set {
    fn change(&self) -> SettingsChange {
        let Self { r, w, durability, sloppy, ttl, mode, .. } = *self;
        SettingsChange { r, w, durability, sloppy, ttl: ttl.map(|ttl| ttl.0), mode }
    }
}

fn path(bucket: &str) -> String {
    // Slashes are kept in the last name alone, and that is an empty one here.
    fill("/v1/buckets/{bucket}{end}", &[bucket.as_bytes(), b""])
}

fn shown(asked: &Asked, reply: &Reply) -> Result<Exit, Failure> {
    let answer: BucketAnswer = read(reply)?;
    if asked.target.output == Format::Json {
        output::say_json(&answer)?;
        return Ok(Exit::Ok);
    }
    let from = if answer.declared { "its own" } else { "defaults" };
    draw(vec![row(answer.bucket.to_string(), &answer.settings, from)])
}

fn read<T: DeserializeOwned>(reply: &Reply) -> Result<T, Failure> {
    if reply.status != 200 {
        return Err(reply.failure());
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        Failure::error(
            format!("the answer of {} cannot be read: {error}", reply.server),
            "check that it is a client port, and that `kvasir version` fits the nodes",
        )
    })
}

fn row(name: String, settings: &BucketSettings, from: &str) -> Vec<String> {
    let BucketSettings { r, w, durability, sloppy, ttl, mode } = settings;
    let ttl = ttl.map_or("none".to_owned(), |seconds| {
        let whole = |unit: u64| seconds >= unit && seconds.is_multiple_of(unit);
        match seconds {
            _ if whole(3_600) => format!("{}h", seconds / 3_600),
            _ if whole(60) => format!("{}m", seconds / 60),
            _ => format!("{seconds}s"),
        }
    });
    let spelt = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let durability = spelt(serde_json::to_value(durability).unwrap_or_default());
    let mode = spelt(serde_json::to_value(mode).unwrap_or_default());
    let (r, w, sloppy) = (r.to_string(), w.to_string(), sloppy.to_string());
    vec![name, r, w, durability, sloppy, ttl, mode, from.to_owned()]
}

fn draw(rows: Vec<Vec<String>>) -> Result<Exit, Failure> {
    let titles = ["BUCKET", "R", "W", "DURABILITY", "SLOPPY", "TTL", "MODE", "SETTINGS"];
    output::say(&output::table(&titles, &[], rows))?;
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_whole_seconds_or_none() {
        assert_eq!(ttl("30m"), Ok(Ttl(Some(1_800))));
        assert_eq!(ttl("none"), Ok(Ttl(None)));
        for bad in ["500ms", "0s", "", "never", "1d"] {
            assert!(ttl(bad).is_err(), "{bad}");
        }
        assert_eq!(mode("lastWriteWins"), Ok(Mode::LastWriteWins));
        assert_eq!(durability("each"), Ok(Durability::Each));
        assert!(mode("lww").unwrap_err().contains("siblings or lastWriteWins"));
    }

    #[test]
    fn a_name_stays_one_segment() {
        assert_eq!(path("a/b c"), "/v1/buckets/a%2Fb%20c");
        assert_eq!(path(".."), "/v1/buckets/%2E%2E");
    }

    #[test]
    fn a_row_says_everything() {
        let life = |ttl| BucketSettings { ttl, ..BucketSettings::default() };
        let shown = |ttl| row("b".to_owned(), &life(ttl), "its own")[5].clone();
        assert_eq!(
            [None, Some(59), Some(120), Some(7_200)].map(shown),
            ["none", "59s", "2m", "2h"]
        );
        let row = row("b".to_owned(), &life(None), "defaults");
        assert_eq!(row, ["b", "quorum", "quorum", "group", "true", "none", "siblings", "defaults"]);
    }
}
