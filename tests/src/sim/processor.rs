//! A processor of finite speed for every host: frames and bytes of clients cost its node time, in which it does
//! nothing else. Without costs, which is so unless a test sets them, a node does everything at once.
//!
//! Charged is what passes the node's doors: each frame at both of its ends, standing for all that it makes a node
//! do, and each piece that a client sends or is sent. A node pays after it was polled ([`super::gate`]), so its
//! timers, its answers and its gossip wait like everything else.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use kvasir::seam::{BoxedStream, Fate, Listener, Net};
use kvasir_core::id::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gate::Gate;
use crate::load::http::Local;

/// What things cost, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// A frame, for who sends it and for who receives it.
    pub frame_us: u64,
    /// A piece read from a client.
    pub read_us: u64,
    /// A piece written to a client.
    pub write_us: u64,
}

/// The network of a host whose clients cost it time.
pub(super) struct Metered {
    pub net: Rc<dyn Net>,
    pub gate: Gate,
    pub costs: Rc<Cell<Costs>>,
    /// Where clients connect.
    pub clients: String,
}

impl Net for Metered {
    fn dial<'a>(&'a self, address: &'a str) -> Local<'a, io::Result<BoxedStream>> {
        self.net.dial(address)
    }

    fn resolve<'a>(&'a self, address: &'a str) -> Local<'a, Vec<String>> {
        self.net.resolve(address)
    }

    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let listener = self.net.listen(address)?;
        if address != self.clients {
            return Ok(listener);
        }
        let (gate, costs) = (self.gate.clone(), self.costs.clone());
        Ok(Box::new(MeteredListener { listener, gate, costs }))
    }

    fn fate(&self, from: NodeId, to: NodeId, bytes: usize) -> Fate {
        self.net.fate(from, to, bytes)
    }
}

struct MeteredListener {
    listener: Box<dyn Listener>,
    gate: Gate,
    costs: Rc<Cell<Costs>>,
}

impl Listener for MeteredListener {
    fn accept(&mut self) -> Local<'_, io::Result<(BoxedStream, String)>> {
        Box::pin(async move {
            let (stream, name) = self.listener.accept().await?;
            let (gate, costs) = (self.gate.clone(), self.costs.clone());
            Ok((Box::new(MeteredStream { stream, gate, costs }) as BoxedStream, name))
        })
    }

    fn address(&self) -> String {
        self.listener.address()
    }
}

struct MeteredStream {
    stream: BoxedStream,
    gate: Gate,
    costs: Rc<Cell<Costs>>,
}

impl AsyncRead for MeteredStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.gate.charge(self.costs.get().read_us);
        }
        poll
    }
}

impl AsyncWrite for MeteredStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if matches!(poll, Poll::Ready(Ok(count)) if count > 0) {
            self.gate.charge(self.costs.get().write_us);
        }
        poll
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
