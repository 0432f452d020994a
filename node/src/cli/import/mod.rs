//! `kvasir import`: every line of a file becomes a key, whatever happens to single nodes meanwhile.
//!
//! Lines are sent concurrently, each to one server after another until one acknowledges it or its
//! time is over. The state file beside the input holds the acknowledged prefix, so that an import
//! that was killed goes on there. Memory is bounded by the window of lines that may be sent ahead
//! of the first one that is not acknowledged, and by their bytes.

mod acks;
mod line;
mod prefix;
mod report;
mod run;
mod source;
mod state;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::failure::{Exit, Failure};
use super::output::{self, Format};
use super::{Target, duration};
use line::Form;
use prefix::Place;
use state::State;

/// Arguments of `kvasir import`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir import words.tsv
  kvasir import orders.ndjson --bucket orders -w all --concurrency 64
  awk '{print $0 \"\\t\" NR}' /usr/share/dict/words > words.tsv && kvasir import words.tsv

Lines are `key<TAB>value` or JSON objects {\"key\":\"k\",\"value\":\"v\"}, with \"key_b64\" and \"value_b64\"
instead for bytes and \"bucket\" where it differs. Blank lines are skipped. \"content_type\" is kept with the
value; \"expires_ms\" (Unix milliseconds) ends its life, and a value whose life is over is skipped. That is
what `kvasir export` writes. A key that it wrote with several values is refused, or kept with all of them
by --siblings keep. A value with an end that is sent twice may show twice: --overwrite avoids it.

An import that was stopped or killed goes on where it was when it is started again: FILE.kvasir-import
holds the acknowledged prefix and is removed when all is stored. Some lines are then sent twice, which
leaves no siblings, since equal values are shown as one.

Writes are blind: a key that already holds another value then holds both. --overwrite reads each key
first and replaces what it sees, in the order of the file.

--acks FILE notes for each stored line its number, bucket, key and the X-Kvasir-Acks of its answer, as
{\"line\":1,\"bucket\":\"b\",\"key\":\"k\",\"acks\":\"owners=...\"} with \"key_b64\" for keys that are no text.

Exit code 0: every line is acknowledged. Otherwise the first line that is not is named.")]
pub struct Import {
    /// The file to read
    pub file: PathBuf,
    /// Bucket of the lines that name none
    #[arg(long, default_value = "default")]
    pub bucket: String,
    /// How lines are written; without it, as the first one looks
    #[arg(long, value_enum)]
    pub format: Option<Form>,
    /// Writes under way at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub concurrency: u32,
    /// Copies that must acknowledge: one, quorum, all, local_one, local_quorum, each_quorum or a
    /// number
    #[arg(short, value_name = "LEVEL")]
    pub w: Option<String>,
    /// Whether stand-ins count for owners that are down; without it, as the bucket says
    #[arg(long, value_name = "true|false")]
    pub sloppy: Option<bool>,
    /// How safe a copy is before it counts: memory, periodic, group or each
    #[arg(long, value_name = "MODE", value_parser = ["memory", "periodic", "group", "each"])]
    pub durability: Option<String>,
    /// Read each key first and replace what is there
    #[arg(long)]
    pub overwrite: bool,
    /// What to do with a line that holds several values: stop there, or store them all beside each other
    #[arg(long, value_enum, default_value_t = Siblings::Refuse)]
    pub siblings: Siblings,
    /// The state file; without it FILE.kvasir-import
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Note in this file which nodes acknowledged each key: one JSON object a line, added at its end
    #[arg(long, value_name = "FILE")]
    pub acks: Option<PathBuf>,
    /// Forget how far an earlier import came
    #[arg(long)]
    pub restart: bool,
    /// How long one line is tried for before the import gives up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Servers and form of the result
    #[command(flatten)]
    pub target: Target,
}

/// What becomes of a line that holds several values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Siblings {
    /// The import ends there.
    Refuse,
    /// All of them are stored, each beside the others.
    Keep,
}

/// Imports a file.
pub async fn import(arguments: &Import) -> Result<Exit, Failure> {
    let state_path =
        arguments.state.clone().unwrap_or_else(|| state::default_path(&arguments.file));
    let unreadable = |error: std::io::Error| {
        Failure::usage(
            format!("{} cannot be read: {error}", arguments.file.display()),
            "name a file of `key<TAB>value` lines or JSON objects: kvasir import FILE",
        )
    };
    let metadata = std::fs::metadata(&arguments.file).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(unreadable(std::io::Error::other("it is a folder")));
    }
    // Only a regular file can be resumed: a pipe cannot be read again.
    let state_path = metadata.is_file().then_some(state_path);
    let earlier = match &state_path {
        Some(path) if !arguments.restart => State::load(path)?,
        _ => None,
    };
    if let (Some(state), Some(path)) = (&earlier, &state_path) {
        state.check(path, &arguments.file, &arguments.bucket)?;
    }
    let place = earlier.as_ref().map_or(Place::default(), |state| state.place);
    if place.lines > 0 {
        let lines = output::grouped(place.lines);
        eprintln!("going on after line {lines}, where the import before this one was");
    }
    let form = arguments.format.or_else(|| earlier.as_ref().and_then(State::form));
    let source = source::Source::open(&arguments.file, form, place).map_err(unreadable)?;
    let run = run::Run::new(arguments, source, state_path, place, metadata.len())?;
    let (report, failure) = run.finish().await;
    match arguments.target.output {
        Format::Table => output::say(&report.sentence())?,
        Format::Json => output::say_json(&report)?,
    }
    failure.map_or(Ok(Exit::Ok), Err)
}

#[cfg(test)]
mod tests;
