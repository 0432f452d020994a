//! Open loop: requests begin at their intended times, whatever became of those before, and each is timed from when
//! it was meant to begin.
//!
//! A generator that waits for answers before it asks on asks less of a server that stalls, and its figures leave
//! out those who would have waited ("coordinated omission", Gil Tene). Here a stall of a second shows as a second,
//! for every request that was due in it. What cannot be sent, because so many are under way that no client would
//! open a further connection, is counted as not sent, not put off.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use hyper::Method;
use tokio::time::{Instant, sleep_until};

use super::http::{Answer, Ask, HttpClient, NoAnswer};

/// How often, and for how long.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Requests in a second.
    pub per_s: f64,
    /// For so long.
    pub lasts: Duration,
}

/// What is asked. Keys of writes are each written once; reads are of the first `keys` of them.
#[derive(Clone, Debug)]
pub struct Volley {
    /// `host:port` of each server's client port, asked in turn.
    pub servers: Vec<String>,
    /// Share of reads in percent.
    pub read_percent: u64,
    /// Keys that are read; written before.
    pub keys: u64,
    /// Bytes of a value.
    pub bytes: usize,
    /// Query of every request, such as `timeout=2s`.
    pub query: String,
    /// Longest wait of a client that still counts as served.
    pub patience: Duration,
    /// Requests under way, beyond which none is sent.
    pub under_way_max: usize,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, within the patience of its client.
    Good,
    /// Done, too late.
    Late,
    /// Refused before it began: `overloaded`, with `Retry-After` and the word that nothing was applied.
    Refused,
    /// Failed in another way.
    Failed,
    /// Never sent.
    NotSent,
}

/// One request.
#[derive(Clone, Copy, Debug)]
pub struct Shot {
    /// When it was meant to begin, since the first of its volley.
    pub intended: Duration,
    /// From then to its answer.
    pub took: Duration,
    /// Whether it was a read.
    pub read: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// Clients that wait for their next request.
type Idle = Rc<RefCell<Vec<HttpClient>>>;

impl Volley {
    /// Writes the keys that are read.
    ///
    /// # Panics
    /// One was not written.
    pub async fn fill(&self, client: &HttpClient) {
        for key in 0..self.keys {
            let server = &self.servers[key as usize % self.servers.len()];
            let answer = client.ask(server, self.put(key)).await.expect("an answer");
            assert_eq!(answer.status, 204, "{}", answer.text());
        }
    }

    fn put(&self, key: u64) -> Ask {
        let path = format!("/v1/kv/open/key-{key}?w=quorum&{}", self.query);
        let mut ask = Ask::new(Method::PUT, path);
        ask.body = vec![b'v'; self.bytes].into();
        ask
    }

    /// Sends requests at a rate and waits for all of their answers. `first` numbers the first of them, so that
    /// later volleys write other keys. `client` makes a client with a connection of its own to each server.
    pub async fn fire(&self, first: u64, rate: Rate, client: impl Fn() -> HttpClient) -> Vec<Shot> {
        let begun = Instant::now();
        let (idle, under_way) = (Idle::default(), Rc::new(Cell::new(0_usize)));
        let shots: Rc<RefCell<Vec<Shot>>> = Rc::default();
        let mut tasks = Vec::new();
        for number in 0..(rate.per_s * rate.lasts.as_secs_f64()) as u64 {
            let intended = Duration::from_secs_f64(number as f64 / rate.per_s);
            if begun + intended > Instant::now() {
                sleep_until(begun + intended).await;
            }
            let read = (first + number) * 37 % 100 < self.read_percent;
            let at = Shot { intended, took: Duration::ZERO, read, outcome: Outcome::NotSent };
            if under_way.get() >= self.under_way_max {
                shots.borrow_mut().push(at);
                continue;
            }
            under_way.set(under_way.get() + 1);
            let (this, idle, under_way, shots) =
                (self.clone(), idle.clone(), under_way.clone(), shots.clone());
            let with = idle.borrow_mut().pop().unwrap_or_else(&client);
            tasks.push(tokio::task::spawn_local(async move {
                let outcome = this.shoot(&with, first + number, read).await;
                let took = begun.elapsed().saturating_sub(intended);
                let outcome = match outcome {
                    Outcome::Good if took > this.patience => Outcome::Late,
                    other => other,
                };
                shots.borrow_mut().push(Shot { took, outcome, ..at });
                idle.borrow_mut().push(with);
                under_way.set(under_way.get() - 1);
            }));
        }
        for task in tasks {
            task.await.expect("a request ends");
        }
        shots.take()
    }

    /// One request; whether it was served, however late.
    pub async fn one(&self, client: &HttpClient, number: u64) -> bool {
        let read = number * 37 % 100 < self.read_percent;
        self.shoot(client, number, read).await == Outcome::Good
    }

    async fn shoot(&self, client: &HttpClient, number: u64, read: bool) -> Outcome {
        let server = &self.servers[number as usize % self.servers.len()];
        let ask = if read {
            let path = format!("/v1/kv/open/key-{}?r=quorum&{}", number % self.keys, self.query);
            Ask::new(Method::GET, path)
        } else {
            self.put(self.keys + number)
        };
        match client.ask(server, ask).await {
            Ok(answer) if matches!(answer.status, 200 | 204) => Outcome::Good,
            Ok(answer) if is_refusal(&answer) => Outcome::Refused,
            Ok(_) | Err(NoAnswer::Lost(_)) => Outcome::Failed,
            Err(NoAnswer::NotSent(_)) => Outcome::NotSent,
        }
    }
}

/// Whether an answer says that the request was refused early and nothing was done.
fn is_refusal(answer: &Answer) -> bool {
    answer.status == 503
        && answer.header("retry-after").is_some()
        && answer.text().contains("\"code\":\"overloaded\"")
        && answer.text().contains("\"may_be_stored\":false")
}

/// Requests counted and timed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Requests that were meant to begin in a second.
    pub offered: f64,
    /// Of those, how many were served in time.
    pub good: f64,
    /// Served, but too late.
    pub late: u64,
    /// Refused early.
    pub refused: u64,
    /// Failed in another way.
    pub failed: u64,
    /// Not sent.
    pub not_sent: u64,
    /// Half of those served, in time or late, took at most so long.
    pub p50: Duration,
    /// 99 of 100.
    pub p99: Duration,
    /// 999 of 1,000.
    pub p999: Duration,
    /// The longest.
    pub max: Duration,
}

impl Figures {
    /// Over all shots that `which` takes and that were meant to begin in this time.
    pub fn of(
        shots: &[Shot],
        (from, to): (Duration, Duration),
        which: impl Fn(&Shot) -> bool,
    ) -> Self {
        let within: Vec<&Shot> =
            shots.iter().filter(|s| (from..to).contains(&s.intended) && which(s)).collect();
        let count = |outcome| within.iter().filter(|s| s.outcome == outcome).count() as u64;
        let seconds = (to - from).as_secs_f64();
        let served = |s: &&&Shot| matches!(s.outcome, Outcome::Good | Outcome::Late);
        let mut took: Vec<Duration> = within.iter().filter(served).map(|s| s.took).collect();
        took.sort_unstable();
        let share = |permille: usize| {
            let place = (took.len() * permille).div_ceil(1_000).saturating_sub(1);
            took.get(place).copied().unwrap_or_default()
        };
        Self {
            offered: within.len() as f64 / seconds,
            good: count(Outcome::Good) as f64 / seconds,
            late: count(Outcome::Late),
            refused: count(Outcome::Refused),
            failed: count(Outcome::Failed),
            not_sent: count(Outcome::NotSent),
            p50: share(500),
            p99: share(990),
            p999: share(999),
            max: share(1_000),
        }
    }

    /// Over all shots that were meant to begin in this time.
    pub fn all(shots: &[Shot], within: (Duration, Duration)) -> Self {
        Self::of(shots, within, |_| true)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offered, good, late, refused, failed, not_sent, p50, p99, p999, max } = self;
        write!(
            out,
            "offered {offered:.0}/s, good {good:.0}/s, late {late}, refused {refused}, failed {failed}, \
             not sent {not_sent}, p50 {p50:.1?}, p99 {p99:.1?}, p999 {p999:.1?}, max {max:.1?}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shot(at_ms: u64, took_ms: u64, outcome: Outcome) -> Shot {
        let ms = Duration::from_millis;
        Shot { intended: ms(at_ms), took: ms(took_ms), read: at_ms.is_multiple_of(2), outcome }
    }

    #[test]
    fn figures_count_what_was_meant_to_begin() {
        let mut shots: Vec<Shot> =
            (0..1_000).map(|n| shot(n, if n < 10 { 900 } else { 1 }, Outcome::Good)).collect();
        shots.push(shot(500, 5_000, Outcome::Late));
        shots.push(shot(501, 1, Outcome::Refused));
        shots.push(shot(1_000, 1, Outcome::Good));
        let second = (Duration::ZERO, Duration::from_secs(1));
        let all = Figures::all(&shots, second);
        assert_eq!((all.offered, all.good, all.late, all.refused), (1_002.0, 1_000.0, 1, 1));
        assert_eq!((all.p50.as_millis(), all.p99.as_millis()), (1, 900));
        assert_eq!(all.max, Duration::from_secs(5));
        let reads = Figures::of(&shots, second, |shot| shot.read);
        assert_eq!((reads.offered, reads.refused), (501.0, 0));
        assert_eq!(Figures::all(&[], second), Figures::default());
    }
}
