//! Watches nodes while they are harmed: a process that answers `/livez` and says by `/readyz` that it should get
//! requests, but serves nothing, is a zombie. A platform sends requests to it and never starts it anew.
//!
//! A node serves if it answers a read of a key that it owns at `r=one`, or takes a write of it at `w=one`: for
//! both it needs nobody else. A node whose disk is full still reads, and one that others cannot reach does both.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hyper::Method;

use crate::load::http::Ask;
use crate::load::{HttpClient, TcpDial};

/// So long may a node be ready and serve nothing: a load that comes and goes has no longer breaks, and probes of
/// Kubernetes do not look more often.
const GRACE: Duration = Duration::from_secs(8);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// One node to look at.
#[derive(Clone, Debug)]
pub struct Watched {
    /// Its number.
    pub node: usize,
    /// `host:port` of its client API.
    pub http: String,
    /// `host:port` of its admin API.
    pub admin: String,
    /// A key of the bucket `probe` that it owns.
    pub key: String,
}

/// What one look showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Look {
    at: Duration,
    live: bool,
    ready: bool,
    serves: bool,
}

/// Watchers that look until they are told to stop.
pub struct Watch {
    going: Rc<Cell<bool>>,
    watchers: Vec<Watcher>,
}

struct Watcher {
    node: usize,
    looks: Rc<RefCell<Vec<Look>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Watch {
    /// Looks at each of these again and again. Must run inside a `LocalSet`.
    pub fn start(nodes: Vec<Watched>) -> Self {
        let going = Rc::new(Cell::new(true));
        let start = Instant::now();
        let watcher = |watched: Watched| {
            let (node, looks) = (watched.node, Rc::new(RefCell::new(Vec::new())));
            let (to, going) = (looks.clone(), going.clone());
            let task = tokio::task::spawn_local(async move {
                let client = HttpClient::new(Rc::new(TcpDial), Duration::from_secs(2));
                while going.get() {
                    let look = look(&client, &watched, start).await;
                    to.borrow_mut().push(look);
                    tokio::time::sleep(PAUSE).await;
                }
            });
            Watcher { node, looks, task }
        };
        let watchers = nodes.into_iter().map(watcher).collect();
        Self { going, watchers }
    }

    /// Ends it, and says which nodes were zombies, and for how long.
    pub async fn stop(self) -> Vec<String> {
        self.going.set(false);
        let mut found = Vec::new();
        for Watcher { node, looks, task } in self.watchers {
            task.await.expect("a watcher ends");
            let longest = longest(&looks.borrow());
            if longest > GRACE {
                found.push(format!(
                    "zombie: node {node} was live and ready and served nothing for {longest:?}"
                ));
            }
        }
        found
    }
}

async fn look(client: &HttpClient, watched: &Watched, start: Instant) -> Look {
    let yes = async |path: &str| {
        let answer = client.ask(&watched.admin, Ask::new(Method::GET, path)).await;
        answer.is_ok_and(|answer| answer.status == 200)
    };
    let at = start.elapsed();
    let live = yes("/livez").await;
    let ready = live && yes("/readyz").await;
    let served = async |method: Method, level: &str| {
        let path = format!("/v1/kv/probe/{}?{level}=one&timeout=1s", watched.key);
        let mut ask = Ask::new(method, path);
        ask.body = "probe".into();
        let answer = client.ask(&watched.http, ask).await;
        answer.is_ok_and(|answer| matches!(answer.status, 200 | 204 | 300 | 404))
    };
    let serves = ready && (served(Method::GET, "r").await || served(Method::PUT, "w").await);
    Look { at, live, ready, serves }
}

/// The longest time in which every look showed a node that is ready and serves nothing.
fn longest(looks: &[Look]) -> Duration {
    let (mut longest, mut since) = (Duration::ZERO, None);
    for look in looks {
        if look.live && look.ready && !look.serves {
            let since = *since.get_or_insert(look.at);
            longest = longest.max(look.at - since);
        } else {
            since = None;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_node_that_says_it_is_ready_and_serves_nothing_is_a_zombie() {
        let looks = |shown: &[(bool, bool, bool)]| {
            let look = |(i, (live, ready, serves)): (usize, &(bool, bool, bool))| Look {
                at: Duration::from_secs(i as u64),
                live: *live,
                ready: *ready,
                serves: *serves,
            };
            shown.iter().enumerate().map(look).collect::<Vec<_>>()
        };
        let (well, dead) = ((true, true, true), (false, false, false));
        let (honest, zombie) = ((true, false, false), (true, true, false));
        assert_eq!(longest(&looks(&[well, dead, dead, honest, honest, well])), Duration::ZERO);
        assert_eq!(longest(&looks(&[zombie, zombie, well, zombie])), Duration::from_secs(1));
        assert_eq!(longest(&looks(&[dead, zombie, zombie, zombie])), Duration::from_secs(2));
    }
}
