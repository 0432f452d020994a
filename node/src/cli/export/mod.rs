//! `kvasir export`: a bucket into lines that `kvasir import` reads.
//!
//! Pages are asked for one after the other and written as they come. With `--out` the file and a state
//! file beside it are synced together now and then, so that an export that was stopped or killed goes on
//! where the state says: what the file holds beyond that is cut off and written again.

mod line;
mod report;
mod state;

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::client::Client;
use super::failure::{Exit, Failure};
use super::output::{self, Format};
use super::pages::{Wanted, page};
use super::{Target, duration};
use report::{Progress, Report};
use state::State;

/// How often the file is synced and the place saved.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// Arguments of `kvasir export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir export orders --out orders.ndjson
  kvasir import orders.ndjson --bucket orders-again
  kvasir export orders --prefix 2026/ | gzip > orders-2026.gz

Each key is a line {\"key\":\"k\",\"value\":\"v\"}: key_b64 and value_b64 where they are no text, content_type
and expires_ms where the value has them. A key with several concurrent values is one line
{\"key\":\"k\",\"siblings\":[{\"value\":\"a\"},{\"value\":\"b\"}]}, which `kvasir import` refuses unless it is told
--siblings keep.

An export is no snapshot: a key that is there from its beginning to its end is in it once, one that is
written meanwhile with its old or its new value. An export with --out that was stopped or killed goes on
where it was when it is started again: FILE.kvasir-export holds the place and is removed at the end.")]
pub struct Export {
    /// Name of the bucket, 1 to 255 bytes
    pub bucket: String,
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// The file to write; without it, standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Replicas that must answer for each part of the ring: one, quorum, all, local_one, local_quorum,
    /// each_quorum or a number
    #[arg(short, value_name = "LEVEL")]
    pub r: Option<String>,
    /// Whether stand-ins may answer for owners that are down; without it, as the bucket says
    #[arg(long, value_name = "true|false")]
    pub sloppy: Option<bool>,
    /// Keys that one request asks for; a page also ends at 4 MiB of values
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub page: u64,
    /// The state file; without it FILE.kvasir-export
    #[arg(long, value_name = "FILE", requires = "out")]
    pub state: Option<PathBuf>,
    /// Begin anew, over what the file holds
    #[arg(long)]
    pub restart: bool,
    /// How long one page is tried for before the export gives up
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub timeout: Duration,
    /// Servers and form of the report
    #[command(flatten)]
    pub target: Target,
}

/// Exports a bucket.
pub async fn export(arguments: &Export) -> Result<Exit, Failure> {
    let client = arguments.target.client(arguments.timeout, true)?;
    let (mut out, earlier) = Out::open(arguments)?;
    if earlier.keys > 0 {
        let keys = output::grouped(earlier.keys);
        eprintln!("going on after {keys} keys, where the export before this one was");
    }
    let mut report = Report { resumed: earlier.keys, ..Report::default() };
    let started = Instant::now();
    let outcome = run(arguments, &client, &mut out, (earlier, &mut report), started).await;
    let outcome = outcome.and_then(|()| out.finish());
    report.complete = outcome.is_ok();
    let report = report.at(started.elapsed());
    match (arguments.target.output, &arguments.out) {
        // Standard output holds the lines.
        (_, None) => eprintln!("{}", report.sentence()),
        (Format::Table, Some(_)) => output::say(&report.sentence())?,
        (Format::Json, Some(_)) => output::say_json(&report)?,
    }
    outcome.map(|()| Exit::Ok)
}

async fn run(
    arguments: &Export,
    client: &Client,
    out: &mut Out,
    (mut state, report): (State, &mut Report),
    started: Instant,
) -> Result<(), Failure> {
    let wanted = Wanted {
        bucket: arguments.bucket.clone(),
        prefix: arguments.prefix.clone(),
        r: arguments.r.clone(),
        sloppy: arguments.sloppy,
        values: true,
    };
    let mut progress = Progress::new();
    let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        let asked = page(client, &wanted, state.cursor.as_deref(), arguments.page);
        let page = tokio::select! {
            biased;
            _ = &mut interrupt => Err(Failure::error(
                "the export was interrupted",
                "start the same command again: it goes on where it was",
            )),
            page = asked => page,
        };
        let page = match page {
            Ok(page) => page,
            Err(mut failure) => {
                out.save(&state)?;
                if failure.exit == Exit::Unavailable && arguments.out.is_some() {
                    failure.next += "; the same export command goes on where it was";
                }
                return Err(failure);
            }
        };
        for listed in &page.keys {
            let line = line::of(listed)?;
            report.note(listed, line.len());
            if !out.write(&line)? {
                return Ok(());
            }
        }
        state.keys += page.keys.len() as u64;
        progress.show(page.progress, report, started.elapsed());
        let Some(next) = page.next else {
            progress.end();
            return Ok(());
        };
        state.cursor = Some(next);
        out.save_if_due(&state)?;
    }
}

/// Where lines go.
enum Out {
    Stdout(std::io::Stdout),
    File { file: BufWriter<File>, path: PathBuf, state: PathBuf, saved: Instant },
}

impl Out {
    /// Opens the output, at the place where an earlier export came to.
    fn open(arguments: &Export) -> Result<(Self, State), Failure> {
        let fresh = State::new(&arguments.bucket, arguments.prefix.as_deref());
        let Some(path) = &arguments.out else {
            return Ok((Self::Stdout(std::io::stdout()), fresh));
        };
        let state_path = arguments.state.clone().unwrap_or_else(|| state::default_path(path));
        let earlier = if arguments.restart { None } else { State::load(&state_path)? };
        let has_data = std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.len() > 0);
        if earlier.is_none() && has_data && !arguments.restart {
            return Err(Failure::usage(
                format!("{} is not empty, and no export of it was stopped", path.display()),
                "name another file, or write over this one with --restart",
            ));
        }
        let state = earlier.unwrap_or(fresh);
        state.check(&state_path, &arguments.bucket, arguments.prefix.as_deref(), path)?;
        let open = || -> std::io::Result<File> {
            let mut file =
                OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
            if file.metadata()?.is_file() {
                file.set_len(state.bytes)?;
                file.seek(SeekFrom::Start(state.bytes))?;
            }
            Ok(file)
        };
        let file = open().map_err(|error| unwritable(path, &error))?;
        let file = BufWriter::with_capacity(256 * 1024, file);
        let (path, saved) = (path.clone(), Instant::now());
        Ok((Self::File { file, path, state: state_path, saved }, state))
    }

    /// Writes a line; false if whoever read standard output is gone.
    fn write(&mut self, line: &[u8]) -> Result<bool, Failure> {
        match self {
            Self::Stdout(out) => match out.lock().write_all(line) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
                Err(error) => Err(unwritable(Path::new("standard output"), &error)),
            },
            Self::File { file, path, .. } => {
                file.write_all(line).map_err(|error| unwritable(path, &error))?;
                Ok(true)
            }
        }
    }

    fn save_if_due(&mut self, state: &State) -> Result<(), Failure> {
        match self {
            Self::File { saved, .. } if saved.elapsed() >= SAVE_EVERY => self.save(state),
            _ => Ok(()),
        }
    }

    /// Syncs what was written, then the place: the place is never ahead of the file.
    fn save(&mut self, at: &State) -> Result<(), Failure> {
        let Self::File { file, path, state, saved } = self else { return Ok(()) };
        let bytes = sync(file).map_err(|error| unwritable(path, &error))?;
        State { bytes, ..at.clone() }.save(state)?;
        *saved = Instant::now();
        Ok(())
    }

    /// Everything is written: there is no place to go on from any more.
    fn finish(self) -> Result<(), Failure> {
        match self {
            Self::Stdout(out) => match out.lock().flush() {
                Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                    Err(unwritable(Path::new("standard output"), &error))
                }
                _ => Ok(()),
            },
            Self::File { mut file, path, state, .. } => {
                sync(&mut file).map_err(|error| unwritable(&path, &error))?;
                std::fs::remove_file(state).ok();
                Ok(())
            }
        }
    }
}

/// Syncs a file and says how long it is. A pipe has no length and nothing to sync.
fn sync(file: &mut BufWriter<File>) -> std::io::Result<u64> {
    file.flush()?;
    let file = file.get_mut();
    if !file.metadata()?.is_file() {
        return Ok(0);
    }
    file.sync_data()?;
    file.stream_position()
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(
        format!("{} cannot be written: {error}", path.display()),
        "check the folder and the room on its disk, then start the same command again",
    )
}

#[cfg(test)]
mod tests;
