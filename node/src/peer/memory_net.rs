//! A network in memory, for simulation and tests: hosts that dial and listen through pipes of one
//! thread, in whatever time the runtime keeps.
//!
//! Decided from outside while nodes run: which hosts reach which (dialing across a cut fails or
//! hangs; open streams carry on, as frames are what faults are made of), and the fate of each frame.
//! Deterministic: no randomness, no clock, ordered maps.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::io;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use kvasir_core::id::NodeId;
use tokio::io::duplex;
use tokio::sync::mpsc;

use crate::seam::{BoxedStream, Fate, Listener, Net};

/// Bytes that one direction of a stream holds before its writer waits.
const PIPE_BYTES: usize = 64 * 1024;
/// Streams that may wait to be accepted.
const BACKLOG: usize = 1024;

/// Decides the fate of a frame: from, to, bytes.
pub type Fates = Rc<dyn Fn(NodeId, NodeId, usize) -> Fate>;

/// What happens to a dial between two hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It fails at once.
    Refused,
    /// It hangs until the dialer gives up.
    Silent,
}

type Accepting = (u64, mpsc::Sender<(BoxedStream, String)>);

#[derive(Default)]
struct Wires {
    listeners: BTreeMap<String, Vec<Accepting>>,
    cuts: BTreeMap<(String, String), Cut>,
    fates: Option<Fates>,
    next_number: u64,
    next_port: u16,
    dials: u64,
    /// Names that stand for several addresses.
    names: BTreeMap<String, Vec<String>>,
}

/// The network that hosts are plugged into. Cheap to clone.
#[derive(Clone, Default)]
pub struct MemoryNet(Rc<RefCell<Wires>>);

/// The network as one host sees it. Addresses are `host:port`.
#[derive(Clone)]
pub struct MemoryHost {
    name: String,
    wires: Rc<RefCell<Wires>>,
}

impl MemoryNet {
    /// A network without hosts.
    pub fn new() -> Self {
        Self::default()
    }

    /// The network as the host of this name sees it.
    pub fn host(&self, name: &str) -> Rc<MemoryHost> {
        Rc::new(MemoryHost { name: name.to_string(), wires: self.0.clone() })
    }

    /// Decides the fate of every frame from now on; `None` delivers all.
    pub fn set_fates(&self, fates: Option<Fates>) {
        self.0.borrow_mut().fates = fates;
    }

    /// What happens to dials from one host to another (one direction); `None` heals.
    pub fn set_cut(&self, from: &str, to: &str, cut: Option<Cut>) {
        let pair = (from.to_string(), to.to_string());
        match cut {
            Some(cut) => self.0.borrow_mut().cuts.insert(pair, cut),
            None => self.0.borrow_mut().cuts.remove(&pair),
        };
    }

    /// Lets a name (`host:port`) stand for several addresses from now on. Whoever dials the name
    /// and is behind it reaches itself, as real resolvers may have it; others reach the first.
    pub fn set_name(&self, name: &str, addresses: &[String]) {
        self.0.borrow_mut().names.insert(name.to_string(), addresses.to_vec());
    }

    /// Dials so far.
    pub fn dials(&self) -> u64 {
        self.0.borrow().dials
    }
}

impl Wires {
    /// Where a dial of `address` by a host ends up.
    fn behind(&self, address: &str, dialer: &str) -> String {
        let Some(addresses) = self.names.get(address) else { return address.to_string() };
        let own = addresses.iter().find(|a| a.rsplit_once(':').is_some_and(|(h, _)| h == dialer));
        own.or(addresses.first()).map_or(address, String::as_str).to_string()
    }

    /// The next listener of an address, in turn.
    fn next_listener(&mut self, address: &str) -> Option<mpsc::Sender<(BoxedStream, String)>> {
        let listeners = self.listeners.get_mut(address)?;
        if listeners.is_empty() {
            return None;
        }
        listeners.rotate_left(1);
        listeners.last().map(|(_, sender)| sender.clone())
    }
}

fn refused(address: &str) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address}"))
}

impl Net for MemoryHost {
    fn dial<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, io::Result<BoxedStream>> {
        Box::pin(async move {
            let address = &self.wires.borrow().behind(address, &self.name);
            let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
            let (cut, listener) = {
                let mut wires = self.wires.borrow_mut();
                wires.dials += 1;
                let cut = wires.cuts.get(&(self.name.clone(), host.to_string())).copied();
                (cut, wires.next_listener(address))
            };
            match cut {
                Some(Cut::Refused) => return Err(refused(address)),
                Some(Cut::Silent) => return pending().await,
                None => {}
            }
            let listener = listener.ok_or_else(|| refused(address))?;
            let (here, there) = duplex(PIPE_BYTES);
            let accepted = (Box::new(there) as BoxedStream, format!("{}:0", self.name));
            listener.try_send(accepted).map_err(|_| refused(address))?;
            Ok(Box::new(here) as BoxedStream)
        })
    }

    fn resolve<'a>(&'a self, address: &'a str) -> LocalBoxFuture<'a, Vec<String>> {
        let behind = self.wires.borrow().names.get(address).cloned();
        Box::pin(async move { behind.unwrap_or_else(|| vec![address.to_string()]) })
    }

    fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        let mut wires = self.wires.borrow_mut();
        wires.next_number += 1;
        let number = wires.next_number;
        let address = match address.strip_suffix(":0") {
            Some(host) => {
                wires.next_port += 1;
                format!("{host}:{}", 40_000 + u32::from(wires.next_port))
            }
            None => address.to_string(),
        };
        wires.listeners.entry(address.clone()).or_default().push((number, sender));
        Ok(Box::new(MemoryListener { number, address, receiver, wires: self.wires.clone() }))
    }

    fn fate(&self, from: NodeId, to: NodeId, bytes: usize) -> Fate {
        let fates = self.wires.borrow().fates.clone();
        fates.map_or(Fate::Deliver, |fates| fates(from, to, bytes))
    }
}

struct MemoryListener {
    number: u64,
    address: String,
    receiver: mpsc::Receiver<(BoxedStream, String)>,
    wires: Rc<RefCell<Wires>>,
}

impl Listener for MemoryListener {
    fn accept(&mut self) -> LocalBoxFuture<'_, io::Result<(BoxedStream, String)>> {
        Box::pin(async move {
            let closed = || io::Error::from(io::ErrorKind::NotConnected);
            self.receiver.recv().await.ok_or_else(closed)
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Drop for MemoryListener {
    fn drop(&mut self) {
        if let Some(listeners) = self.wires.borrow_mut().listeners.get_mut(&self.address) {
            listeners.retain(|(number, _)| *number != self.number);
        }
    }
}
