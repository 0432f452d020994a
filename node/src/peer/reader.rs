//! The receiving side of one connection: bytes to frames, with a deadline on every wait.
//!
//! The buffer grows with what arrived, never with what a header claims: whoever claims 17 MiB must
//! send them. Between frames a connection may be silent for the idle time; inside a frame each read
//! must make progress within the stall time.

use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::{Instant, timeout, timeout_at};

use super::frame::{self, Frame, FrameError};
use super::stats::{PeerStats, add};

/// Room that is made before each read.
const READ_BYTES: usize = 16 * 1024;

/// Why no further frame comes.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadEnd {
    /// The other side closed between two frames.
    #[error("the other side closed the connection")]
    Closed,
    /// The stream broke, or ended inside a frame.
    #[error("the connection broke: {0}")]
    Broken(#[from] io::Error),
    /// The bytes are no frame.
    #[error("{0}")]
    NoFrame(#[from] FrameError),
    /// Nothing came for the idle time.
    #[error("the connection was idle")]
    Idle,
    /// A frame began and did not end, or the first one did not come in time.
    #[error("the other side stopped in the middle of a frame")]
    Stalled,
}

/// Reads frames off a stream.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::new() }
    }

    /// The first frame of a connection, which must be whole by the deadline however it trickles in,
    /// and no longer than a hello may be.
    pub async fn first(
        &mut self,
        deadline: Instant,
        body_max: usize,
        stats: &PeerStats,
    ) -> Result<Frame, ReadEnd> {
        loop {
            if let Some(frame) = self.take(stats)? {
                return Ok(frame);
            }
            if self.buffer.len() > frame::HEADER_BYTES + body_max {
                return Err(FrameError::Length(self.buffer.len() as u32).into());
            }
            let read = timeout_at(deadline, self.read(stats)).await;
            read.map_err(|_| ReadEnd::Stalled)??;
        }
    }

    /// The next frame.
    pub async fn next(
        &mut self,
        idle: Duration,
        stall: Duration,
        stats: &PeerStats,
    ) -> Result<Frame, ReadEnd> {
        loop {
            if let Some(frame) = self.take(stats)? {
                return Ok(frame);
            }
            let (wait, late) = match self.buffer.is_empty() {
                true => (idle, ReadEnd::Idle),
                false => (stall, ReadEnd::Stalled),
            };
            timeout(wait, self.read(stats)).await.map_err(|_| late)??;
        }
    }

    fn take(&mut self, stats: &PeerStats) -> Result<Option<Frame>, FrameError> {
        let frame = frame::take(&mut self.buffer)?;
        add(&stats.frames_in, usize::from(frame.is_some()));
        Ok(frame)
    }

    async fn read(&mut self, stats: &PeerStats) -> Result<(), ReadEnd> {
        self.buffer.reserve(READ_BYTES);
        let count = self.stream.read_buf(&mut self.buffer).await?;
        add(&stats.bytes_in, count);
        match (count, self.buffer.is_empty()) {
            (0, true) => Err(ReadEnd::Closed),
            (0, false) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}
