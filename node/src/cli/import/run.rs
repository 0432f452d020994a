//! The loop of an import: read, send, note what was acknowledged, save the place.
//!
//! The first line that fails for good ends the reading; what is under way is waited for and the
//! place is saved, so that nothing acknowledged is lost and the import can go on after the cause is
//! gone. An interrupt ends it in the same way.

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::Method;
use tokio::time::{Instant, MissedTickBehavior};

use super::acks::{Acknowledged, AcksFile};
use super::line::{One, Pair};
use super::prefix::{Place, Prefix};
use super::report::{Progress, Report};
use super::source::{Line, Source, SourceError, full_key, weight};
use super::state::State;
use super::{Import, Siblings};
use crate::cli::client::{Ask, Client, Repeat};
use crate::cli::failure::{Exit, Failure};
use crate::cli::values::{Query, path};

/// Lines that may be read ahead of the first one that is not acknowledged.
const WINDOW_LINES: usize = 8 * 1024;
/// Bytes of keys and values under way at once.
const WINDOW_BYTES: usize = 64 * 1024 * 1024;
/// How often the place is saved and the progress shown.
const TICK: Duration = Duration::from_millis(250);
/// The place is saved at every so many ticks.
const SAVE_EVERY: u32 = 4;

/// A line that is done with, one way or the other.
struct Done {
    number: u64,
    end: u64,
    key: Bytes,
    weight: usize,
    value_bytes: usize,
    outcome: Result<Stored, Failure>,
}

/// A pair that was acknowledged.
struct Stored {
    retries: u32,
    /// Values that were left out because their life is over.
    expired: u64,
    said: Acknowledged,
}

type Sending = Pin<Box<dyn Future<Output = Done>>>;

/// How lines become requests.
struct Sender {
    client: Client,
    bucket: String,
    put: String,
    get: String,
    overwrite: bool,
    siblings: Siblings,
}

/// An import under way.
pub struct Run<'a> {
    arguments: &'a Import,
    source: Source,
    state_path: Option<PathBuf>,
    acks: Option<AcksFile>,
    sender: Rc<Sender>,
    prefix: Prefix,
    saved: Place,
    under_way: FuturesUnordered<Sending>,
    bytes_under_way: usize,
    /// Keys under way, where the order of writes to one key matters.
    keys: BTreeSet<Bytes>,
    /// A line that waits for an earlier one of the same key.
    waiting: Option<(Line, Pair, Bytes)>,
    reading: bool,
    failure: Option<(u64, Failure)>,
    report: Report,
    progress: Progress,
    started: Instant,
}

impl<'a> Run<'a> {
    /// An import of this source, which stands at this place of a file of `length` bytes.
    pub fn new(
        arguments: &'a Import,
        source: Source,
        state_path: Option<PathBuf>,
        place: Place,
        length: u64,
    ) -> Result<Self, Failure> {
        let client = arguments.target.client(arguments.timeout, true)?;
        let acks = arguments.acks.as_deref().map(AcksFile::open).transpose()?;
        let timeout = format!("{}ms", client.attempt().as_millis());
        let mut put = Query::default();
        put.add("timeout", Some(timeout.clone()));
        put.add("w", arguments.w.clone());
        put.add("sloppy", arguments.sloppy.map(|sloppy| sloppy.to_string()));
        put.add("durability", arguments.durability.clone());
        let mut get = Query::default();
        get.add("timeout", Some(timeout));
        let sender = Sender {
            client,
            bucket: arguments.bucket.clone(),
            put: put.text().to_owned(),
            get: get.text().to_owned(),
            overwrite: arguments.overwrite,
            siblings: arguments.siblings,
        };
        Ok(Self {
            arguments,
            source,
            state_path,
            acks,
            sender: Rc::new(sender),
            prefix: Prefix::at(place),
            saved: place,
            under_way: FuturesUnordered::new(),
            bytes_under_way: 0,
            keys: BTreeSet::new(),
            waiting: None,
            reading: true,
            failure: None,
            report: Report { resumed: place.pairs, ..Report::default() },
            progress: Progress::new(length),
            started: Instant::now(),
        })
    }

    /// Runs until every line is acknowledged, one failed for good, or the user interrupts.
    pub async fn finish(mut self) -> (Report, Option<Failure>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut interrupts = 0;
        let mut tick = 0;
        loop {
            self.read_ahead();
            if self.under_way.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                _ = tokio::signal::ctrl_c() => {
                    interrupts += 1;
                    self.stop(u64::MAX, Failure::error(
                        "the import was interrupted",
                        "start the same command again: it goes on where it was",
                    ));
                    if interrupts > 1 {
                        break;
                    }
                }
                _ = ticks.tick() => {
                    tick += 1;
                    self.progress.show(self.prefix.place().bytes, &self.report, self.started.elapsed());
                    if tick % SAVE_EVERY == 0 {
                        self.save();
                    }
                }
                Some(done) = self.under_way.next() => self.note(done),
            }
        }
        self.progress.end();
        self.save();
        let failure = self.failure.take().map(|(_, failure)| failure);
        self.report.complete = failure.is_none();
        if let (None, Some(path)) = (&failure, &self.state_path) {
            // All is stored; a place to go on from has no meaning any more.
            std::fs::remove_file(path).ok();
        }
        (self.report.at(self.started.elapsed()), failure)
    }

    /// Reads and sends lines while there is room.
    fn read_ahead(&mut self) {
        while self.has_room() {
            let (line, pair, key) = match self.waiting.take() {
                Some(waiting) => waiting,
                None => match self.source.next_line() {
                    Ok(None) => return self.reading = false,
                    Ok(Some(Line { number, end, pair: None })) => {
                        self.prefix.done(number, end, false);
                        continue;
                    }
                    Ok(Some(mut line)) => {
                        let Some(pair) = line.pair.take() else { continue };
                        let key = full_key(&pair, &self.sender.bucket);
                        (line, pair, key)
                    }
                    Err(error) => return self.stop_reading(&error),
                },
            };
            if self.sender.overwrite && !self.keys.insert(key.clone()) {
                self.waiting = Some((line, pair, key));
                return;
            }
            self.bytes_under_way += weight(&pair);
            self.under_way.push(Box::pin(self.sender.clone().send(line, pair, key)));
        }
    }

    fn has_room(&self) -> bool {
        self.reading
            && self.under_way.len() < self.arguments.concurrency as usize
            && self.prefix.beyond() < WINDOW_LINES
            && self.bytes_under_way < WINDOW_BYTES
    }

    fn stop_reading(&mut self, error: &SourceError) {
        let next = match error {
            SourceError::Malformed { .. } => {
                "correct the line and start again with --restart; what was imported is stored twice \
                 without harm"
            }
            SourceError::Unreadable { .. } => "check the disk, then start the same command again",
        };
        let number = match error {
            SourceError::Malformed { number, .. } | SourceError::Unreadable { number, .. } => {
                *number
            }
        };
        let message = format!("{}, {error}", self.arguments.file.display());
        self.report.failed += 1;
        self.stop(number, Failure::error(message, next));
    }

    /// Reads no further; the failure of the earliest line is the one that is told.
    fn stop(&mut self, number: u64, failure: Failure) {
        self.reading = false;
        if self.failure.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
            self.failure = Some((number, failure));
        }
    }

    fn note(&mut self, done: Done) {
        self.bytes_under_way -= done.weight;
        self.keys.remove(&done.key);
        match done.outcome {
            Ok(Stored { retries, expired, said }) => {
                self.report.expired += expired;
                self.report.stored += 1;
                self.report.retries += u64::from(retries);
                let noted = self.acks.as_mut().map(|file| file.note(done.number + 1, &said));
                if let Some(Err(failure)) = noted {
                    self.stop(u64::MAX, failure);
                }
                self.report.value_bytes += done.value_bytes as u64;
                self.prefix.done(done.number, done.end, true);
            }
            Err(mut failure) => {
                self.report.failed += 1;
                let number = done.number + 1;
                let file = self.arguments.file.display();
                failure.message = format!("{file}, line {number}: {}", failure.message);
                if failure.exit == Exit::Unavailable {
                    failure.next += "; the same import command goes on where it was";
                }
                self.stop(number, failure);
            }
        }
    }

    /// Saves the place where it moved. A state file that cannot be written ends the import.
    fn save(&mut self) {
        let place = self.prefix.place();
        if let Some(Err(failure)) = self.acks.as_mut().map(AcksFile::flush) {
            return self.stop(u64::MAX, failure);
        }
        let Some(path) = &self.state_path else { return };
        if place == self.saved {
            return;
        }
        let Import { file, bucket, .. } = self.arguments;
        let saved = State::of(file, bucket, self.source.form(), place)
            .map_err(|error| {
                Failure::error(
                    format!("{} can no longer be read: {error}", file.display()),
                    "bring the file back and start the same command again",
                )
            })
            .and_then(|state| state.save(path));
        match saved {
            Ok(()) => self.saved = place,
            Err(failure) => self.stop(u64::MAX, failure),
        }
    }
}

impl Sender {
    async fn send(self: Rc<Self>, line: Line, pair: Pair, key: Bytes) -> Done {
        let (weight, value_bytes) = (weight(&pair), pair.value_bytes());
        let outcome = self.store(line.number, pair).await;
        Done { number: line.number, end: line.end, key, weight, value_bytes, outcome }
    }

    /// Stores one pair; says how often it was tried again.
    async fn store(&self, number: u64, pair: Pair) -> Result<Stored, Failure> {
        if pair.values.len() > 1 && self.siblings == Siblings::Refuse {
            return Err(Failure::error(
                format!("the key has {} concurrent values", pair.values.len()),
                "store them all beside each other with --siblings keep, or leave one in the line",
            ));
        }
        let bucket = pair.bucket.as_deref().unwrap_or(&self.bucket);
        let path = path(bucket.as_bytes(), &pair.key);
        // Lines are spread over the servers, so that each coordinates its share.
        let first = number as usize % self.client.len().max(1);
        let mut headers = Vec::new();
        let mut retries = 0;
        if self.overwrite {
            let reply =
                self.client.ask_from(first, &Ask::get(format!("{path}{}", self.get))).await?;
            if !matches!(reply.status, 200 | 300 | 404) {
                return Err(reply.failure());
            }
            retries += reply.retries;
            let token = reply.header("x-kvasir-context").map(str::to_owned);
            headers.extend(token.map(|token| ("x-kvasir-context", token)));
        }
        // Each follows what was read, and none the one before it: so they stand beside each other.
        let (mut expired, mut by) = (0, String::new());
        for value in pair.values {
            let Some(ask) = self.ask(&path, &headers, value) else {
                expired += 1;
                continue;
            };
            let reply = self.client.ask_from(first, &ask).await?;
            if !matches!(reply.status, 200 | 204) {
                return Err(reply.failure());
            }
            retries += reply.retries;
            by = reply.header("x-kvasir-acks").unwrap_or_default().to_owned();
        }
        let said = Acknowledged { bucket: bucket.to_owned(), key: pair.key.clone(), by };
        Ok(Stored { retries, expired, said })
    }

    /// The request that stores a value; none if its life is over.
    fn ask(&self, path: &str, headers: &[(&'static str, String)], value: One) -> Option<Ask> {
        let mut target = format!("{path}{}", self.put);
        if let Some(expires_ms) = value.expires_ms {
            if expires_ms <= now_ms() {
                return None;
            }
            // There is a query before it: every put says its timeout.
            target += &format!("&expires_ms={expires_ms}");
        }
        let mut headers = headers.to_vec();
        headers.extend(value.content_type.map(|kind| ("content-type", kind)));
        let (method, repeat) = (Method::PUT, Repeat::Always);
        Some(Ask { method, target, headers, body: value.bytes, repeat })
    }
}

/// Unix milliseconds by this machine's clock.
#[allow(clippy::disallowed_methods)]
fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
