//! Reading a request body within its bounds.
//!
//! A body that says it is too large, or larger than what memory is left for bodies, is refused before one
//! byte of it is read; one that does not say is refused as soon as it is. Memory follows what arrived, never what was claimed, and all bodies
//! of a listener share one budget. A body that trickles in is given up: after a grace it must keep
//! up a minimal rate.

use std::cell::Cell;
use std::fmt::Display;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::CONTENT_LENGTH;
use tokio::time::{Instant, timeout_at};

use super::limits::HttpLimits;
use super::problem::{Code, Problem};
use super::stats::HttpStats;

/// Bytes of bodies that a listener may still take in.
#[derive(Debug, Clone)]
pub struct Budget {
    left: Rc<Cell<usize>>,
    stats: Arc<HttpStats>,
}

impl Budget {
    /// A budget of so many bytes; what is taken of it is shown in `stats`.
    pub fn new(bytes: usize, stats: Arc<HttpStats>) -> Self {
        Self { left: Rc::new(Cell::new(bytes)), stats }
    }

    /// Bytes left.
    pub fn left(&self) -> usize {
        self.left.get()
    }
}

/// Budget taken by one body, given back on drop.
#[derive(Debug)]
pub struct Taken {
    budget: Budget,
    bytes: usize,
}

impl Taken {
    fn take(&mut self, bytes: usize) -> Result<(), Problem> {
        let left = self.budget.left().checked_sub(bytes).ok_or_else(no_memory)?;
        self.budget.left.set(left);
        self.budget.stats.body_bytes.fetch_add(bytes as u64, Relaxed);
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.budget.left.set(self.budget.left() + self.bytes);
        self.budget.stats.body_bytes.fetch_sub(self.bytes as u64, Relaxed);
    }
}

/// Reads a whole body. The second part holds the budget until the request is over.
///
/// # Errors
/// 413 above the limit, 503 out of budget, 408 too slow, 504 past `deadline`, 400 cut off or badly
/// framed. All close the connection; nothing was applied.
pub async fn read<B>(
    body: B,
    headers: &HeaderMap,
    limits: &HttpLimits,
    budget: &Budget,
    deadline: Instant,
) -> Result<(Bytes, Taken), Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Display,
{
    let claimed = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let claimed = claimed.and_then(|text| text.parse::<u64>().ok());
    if claimed.is_some_and(|length| length > limits.value_max_bytes as u64) {
        return Err(too_large(limits));
    }
    if claimed.is_some_and(|length| length > budget.left() as u64) {
        return Err(no_memory());
    }
    let mut taken = Taken { budget: budget.clone(), bytes: 0 };
    let started = Instant::now();
    let mut body = pin!(body);
    let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
    loop {
        let received = first.len() + rest.len();
        let paced = started + limits.body_timeout + grace(received, limits);
        let Ok(frame) = timeout_at(paced.min(deadline), body.frame()).await else {
            return Err(too_slow(deadline <= paced, received));
        };
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| broken(received))?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limits.value_max_bytes - received {
            return Err(too_large(limits));
        }
        taken.take(data.len())?;
        if received == 0 {
            first = data;
        } else {
            if rest.is_empty() {
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&data);
        }
    }
    let whole = if rest.is_empty() { first } else { rest.freeze() };
    Ok((whole, taken))
}

/// Extra time for what has arrived.
fn grace(received: usize, limits: &HttpLimits) -> Duration {
    let rate = limits.body_bytes_per_second.max(1) as u64;
    Duration::from_millis(received as u64 * 1_000 / rate)
}

fn no_memory() -> Problem {
    let detail = "the bodies of other requests fill the memory meant for them";
    Problem::new(Code::Overloaded, detail)
        .with("may_be_stored", false)
        .retry_after_ms(1_000)
        .close()
}

fn too_large(limits: &HttpLimits) -> Problem {
    let detail = format!("the body has more than {} bytes", limits.value_max_bytes);
    Problem::new(Code::ValueTooLarge, detail)
        .with("limit_bytes", limits.value_max_bytes as u64)
        .with("may_be_stored", false)
        .close()
}

fn too_slow(deadline: bool, received: usize) -> Problem {
    let (code, why) = if deadline {
        (Code::Deadline, "the deadline passed")
    } else {
        (Code::RequestTimeout, "the body came in too slowly")
    };
    let detail = format!("{why} after {received} bytes of the body");
    Problem::new(code, detail).with("may_be_stored", false).close()
}

fn broken(received: usize) -> Problem {
    let detail = format!("the body is cut off or badly framed after {received} bytes");
    Problem::new(Code::BadBody, detail).with("may_be_stored", false).close()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    type Pieces = Vec<Result<&'static [u8], &'static str>>;

    fn limits() -> HttpLimits {
        HttpLimits { value_max_bytes: 8, ..HttpLimits::default() }
    }

    fn budget(bytes: usize) -> Budget {
        Budget::new(bytes, Arc::default())
    }

    fn stream(pieces: Pieces) -> impl Body<Data = Bytes, Error = &'static str> {
        let frames = pieces.into_iter().map(|p| p.map(|b| Frame::data(Bytes::from_static(b))));
        StreamBody::new(futures_util::stream::iter(frames))
    }

    async fn run(pieces: Pieces, claimed: Option<&str>, budget: &Budget) -> Result<Bytes, Code> {
        let mut headers = HeaderMap::new();
        if let Some(claimed) = claimed {
            headers.insert(CONTENT_LENGTH, claimed.parse().unwrap());
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        let read = read(stream(pieces), &headers, &limits(), budget, deadline).await;
        read.map(|(bytes, _)| bytes).map_err(|problem| problem.code())
    }

    #[tokio::test]
    async fn a_body_within_the_limit_is_read_whole() {
        let budget = budget(8);
        assert_eq!(run(vec![], None, &budget).await.unwrap(), "");
        assert_eq!(run(vec![Ok(b"12345678")], Some("8"), &budget).await.unwrap(), "12345678");
        assert_eq!(run(vec![Ok(b"1"), Ok(b""), Ok(b"23")], None, &budget).await.unwrap(), "123");
        assert_eq!(budget.left(), 8, "the budget comes back");
    }

    #[tokio::test]
    async fn more_than_the_limit_is_refused_at_once() {
        let budget = budget(100);
        let never: Pieces = vec![Err("must not be read")];
        assert_eq!(run(never, Some("9"), &budget).await, Err(Code::ValueTooLarge));
        let pieces: Pieces = vec![Ok(b"12345678"), Ok(b"9"), Err("must not be read")];
        assert_eq!(run(pieces, None, &budget).await, Err(Code::ValueTooLarge));
        assert_eq!(budget.left(), 100);
    }

    #[tokio::test]
    async fn the_budget_and_broken_bodies() {
        let budget = budget(4);
        assert_eq!(run(vec![Ok(b"12345")], None, &budget).await, Err(Code::Overloaded));
        assert_eq!(run(vec![Ok(b"12"), Err("cut")], None, &budget).await, Err(Code::BadBody));
        assert_eq!(budget.left(), 4);
        let never: Pieces = vec![Err("must not be read")];
        assert_eq!(run(never, Some("5"), &budget).await, Err(Code::Overloaded));
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_is_given_up() {
        let trickle = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, &str>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let started = Instant::now();
        let limits = HttpLimits::default();
        let deadline = started + Duration::from_secs(60);
        let body = StreamBody::new(trickle);
        let read = read(body, &HeaderMap::new(), &limits, &budget(99), deadline).await;
        assert_eq!(read.unwrap_err().code(), Code::RequestTimeout);
        assert!(started.elapsed() <= Duration::from_millis(10_500));
    }
}
