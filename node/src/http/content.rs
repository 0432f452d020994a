//! The body of an answer: whole, or in pieces that are made while the client reads.
//!
//! Pieces pass through a channel of one, so that whoever makes them waits for the client, and stops when
//! the client is gone. A body that ends early looks like one that ends: what is sent in pieces says
//! itself whether it is complete.

use std::any::Any;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// The body of an answer.
pub enum Content {
    /// All of it is there.
    Whole(Full<Bytes>),
    /// It comes while it is read.
    Pieces {
        /// The next pieces.
        next: mpsc::Receiver<Bytes>,
        /// What lives until the last piece was sent.
        held: Vec<Box<dyn Any>>,
    },
}

impl Content {
    /// A body in pieces, and where they are put in. Putting fails once the client is gone.
    pub fn pieces() -> (mpsc::Sender<Bytes>, Self) {
        let (sender, next) = mpsc::channel(1);
        (sender, Self::Pieces { next, held: Vec::new() })
    }

    /// Keeps something alive until the body was sent. A whole body is as good as sent.
    pub fn hold(&mut self, guard: impl Any) {
        if let Self::Pieces { held, .. } = self {
            held.push(Box::new(guard));
        }
    }

    /// Whether it comes in pieces.
    pub fn is_in_pieces(&self) -> bool {
        matches!(self, Self::Pieces { .. })
    }
}

impl Default for Content {
    fn default() -> Self {
        Self::Whole(Full::default())
    }
}

impl<T: Into<Bytes>> From<T> for Content {
    fn from(bytes: T) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(whole) => Pin::new(whole).poll_frame(cx),
            Self::Pieces { next, .. } => {
                next.poll_recv(cx).map(|piece| Some(Ok(Frame::data(piece?))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(whole) => whole.is_end_stream(),
            Self::Pieces { .. } => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(whole) => whole.size_hint(),
            Self::Pieces { .. } => SizeHint::default(),
        }
    }
}
