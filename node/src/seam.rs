//! The one seam for the outside world: a node is a function over [`World`].
//!
//! Production passes sockets, the system clock, files and threads (`serve`); the simulation passes
//! pipes in memory, a paused clock, a disk that forgets what was not synced, and jobs in virtual time.
//! Monotonic time and sleeping are tokio's, which a simulation pauses. Nothing below `serve` opens a
//! socket, reads a clock, draws a random number or starts a thread by itself.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use kvasir_core::id::NodeId;
use kvasir_storage::disk::Disk;
use kvasir_storage::maintenance::Maintenance;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::planted::Planted;

/// A connected byte stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// A stream of any kind.
pub type BoxedStream = Box<dyn Stream>;

/// Takes connections.
pub trait Listener {
    /// The next connection and a name of the other end for logs.
    fn accept(&mut self) -> LocalBoxFuture<'_, io::Result<(BoxedStream, String)>>;

    /// Where it listens, `host:port` with the port filled in.
    fn address(&self) -> String;
}

/// Opens connections.
pub trait Net {
    /// Connects to `address` (`host:port`). The caller sets the deadline.
    fn dial<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, io::Result<BoxedStream>>;

    /// The addresses (`host:port`) behind a name that has several, such as a headless Service; the
    /// name itself where it has one, or none that is known now.
    fn resolve<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, Vec<String>> {
        Box::pin(async move { vec![address.to_string()] })
    }

    /// Listens on `address`. Several listeners of one process may share an address.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>>;

    /// What happens to a frame that `from` sends to `to`.
    fn fate(&self, from: NodeId, to: NodeId, bytes: usize) -> Fate {
        let _ = (from, to, bytes);
        Fate::Deliver
    }
}

/// What happens to one frame between nodes. Production delivers; faults are injected here because a
/// lost segment of a byte stream is a hang, not a lost message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It arrives.
    Deliver,
    /// It is lost.
    Drop,
    /// It arrives this much later; frames behind it are not held up.
    Delay(Duration),
    /// It arrives now and once more this much later.
    Twice(Duration),
}

/// The wall clock. Judges expiry and fills hybrid stamps; never decides order.
pub trait Clock: Send + Sync {
    /// Unix time in milliseconds.
    fn wall_ms(&self) -> u64;
}

/// Everything a node needs from outside.
#[derive(Clone)]
pub struct World {
    /// Connections, for the thread that holds this value.
    pub net: Rc<dyn Net>,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
    /// Seeds every random choice of this thread.
    pub seed: u64,
    /// Files.
    pub disk: Arc<dyn Disk>,
    /// Who runs work that may wait for the disk.
    pub maintenance: Arc<dyn Maintenance>,
    /// A mistake made on purpose; none but in tests.
    pub planted: Planted,
}
