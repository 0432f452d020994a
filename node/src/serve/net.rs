//! The real network and the real clock.
//!
//! Every worker thread listens on the same address with `SO_REUSEPORT`, so the kernel spreads
//! connections over them and a request is served by the thread that accepted it. Streams carry many
//! small frames that are already coalesced (`TCP_NODELAY`), and a peer that vanished without a word
//! is noticed by keep-alive probes (DESIGN section 9).

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::LocalBoxFuture;
use kvasir_core::id::NodeId;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::time::timeout;

use super::node::StartError;
use crate::faults::Faults;
use crate::seam::{BoxedStream, Clock, Fate, Listener, Net};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;
/// Longest that a name is looked up.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// Silence after which the kernel begins to probe.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
/// Pause between two probes; the stream fails after [`KEEPALIVE_PROBES`] of them.
const KEEPALIVE_PAUSE: Duration = Duration::from_secs(5);
/// Probes without an answer.
const KEEPALIVE_PROBES: u32 = 3;

/// Written bytes that nobody acknowledged for this long end the stream: after a partition a new
/// one works at once, where the old one would wait for its slow retransmissions.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(10);

/// TCP of this machine.
#[derive(Debug, Clone, Default)]
pub struct TcpNet {
    /// What frames of this node meet: nothing, unless `kvasir dev` says so.
    pub faults: Faults,
}

impl Net for TcpNet {
    fn dial<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            tune(&stream)?;
            Ok(Box::new(stream) as BoxedStream)
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, Vec<String>> {
        Box::pin(async move {
            let found = timeout(RESOLVE_MAX, lookup_host(address)).await;
            let mut all: Vec<String> = match found {
                Ok(Ok(addresses)) => addresses.map(|a| a.to_string()).collect(),
                Ok(Err(_)) | Err(_) => Vec::new(),
            };
            all.sort();
            all.dedup();
            // One that stays a name is looked up again at every dial.
            if all.len() > 1 { all } else { vec![address.to_string()] }
        })
    }

    fn fate(&self, _from: NodeId, to: NodeId, _bytes: usize) -> Fate {
        self.faults.fate(to)
    }

    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let mut failed = io::Error::new(
            io::ErrorKind::AddrNotAvailable,
            format!("`{address}` names no address to listen on"),
        );
        for candidate in address.to_socket_addrs()? {
            match bind(candidate) {
                Ok(listener) => {
                    let local = listener.local_addr()?;
                    return Ok(Box::new(Tcp { listener, local }));
                }
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    #[cfg(unix)]
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_PAUSE)
        .with_retries(KEEPALIVE_PROBES);
    let socket = SockRef::from(stream);
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    socket.set_tcp_keepalive(&keepalive)
}

struct Tcp {
    listener: TcpListener,
    local: SocketAddr,
}

impl Listener for Tcp {
    fn accept(&mut self) -> LocalBoxFuture<'_, io::Result<(BoxedStream, String)>> {
        Box::pin(async move {
            loop {
                let (stream, remote) = self.listener.accept().await?;
                // Fails when the other side is gone already: not worth an error of the listener.
                if tune(&stream).is_ok() {
                    return Ok((Box::new(stream) as BoxedStream, remote.to_string()));
                }
            }
        })
    }

    fn address(&self) -> String {
        self.local.to_string()
    }
}

/// Makes sure that no other process listens on these addresses: sharing a port is for the threads of
/// one process only.
///
/// # Errors
/// [`StartError::Listen`], naming the first address that is taken or not of this machine.
pub fn alone(addresses: &[&str]) -> Result<(), StartError> {
    for address in addresses {
        let listen = |error| StartError::Listen { address: address.to_string(), error };
        let candidates = address.to_socket_addrs().map_err(listen)?;
        for candidate in candidates {
            let domain = Domain::for_address(candidate);
            let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).map_err(listen)?;
            // Without the port shared, binding fails while anybody listens; connections of an
            // earlier process that linger do not count.
            socket.set_reuse_address(true).map_err(listen)?;
            socket.bind(&candidate.into()).map_err(listen)?;
            socket.listen(1).map_err(listen)?;
        }
    }
    Ok(())
}

/// The machine's wall clock. Before 1970 it stands at 0.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn wall_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn two_listeners_share_a_port_and_streams_carry_bytes() {
        let mut first = TcpNet::default().listen("127.0.0.1:0").unwrap();
        let address = first.address();
        let second = TcpNet::default().listen(&address).unwrap();
        assert_eq!(second.address(), address);
        drop(second);
        let net = TcpNet::default();
        let (dialed, accepted) = tokio::join!(net.dial(&address), first.accept());
        let (mut dialed, mut accepted) = (dialed.unwrap(), accepted.unwrap().0);
        dialed.write_all(b"hello").await.unwrap();
        let mut got = [0; 5];
        accepted.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello");
    }

    #[tokio::test]
    async fn names_with_one_address_and_unknown_ones_stay_names() {
        for name in ["127.0.0.1:8099", "nobody.invalid:8099", "no address at all"] {
            assert_eq!(TcpNet::default().resolve(name).await, [name]);
        }
    }

    #[tokio::test]
    async fn an_address_that_is_none_is_an_error() {
        assert!(TcpNet::default().listen("127.0.0.1").is_err());
        assert!(TcpNet::default().dial("127.0.0.1:1").await.is_err());
    }
}
