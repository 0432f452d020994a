//! The admin port of a node: binds it, reads the bearer token, and serves on the control thread.
//!
//! The token file is read again every few seconds, since a Secret changes under the running pod. A
//! file that cannot be read, or is empty, leaves the last token in force.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::accept::Accepting;
use super::backend::Backend;
use super::node::{Shared, StartError};
use crate::admin::{Access, Admin};
use crate::http::server::Server;
use crate::http::stats::HttpStats;
use crate::seam::World;
use crate::tasks::Control;

/// Longest token file that is read, in bytes.
const TOKEN_MAX_BYTES: u64 = 4_096;
/// How long answers under way may take when the node stops.
const GRACE: Duration = Duration::from_secs(1);
/// How often the token file is read again.
const TOKEN_EVERY: Duration = Duration::from_secs(2);

/// Opens the port. The future serves until `stop` turns true, which is after clients and peers are
/// served no longer; it must run inside a `LocalSet`.
///
/// # Errors
/// The address is taken, or the token file is unreadable.
pub fn bind(
    shared: &Arc<Shared>,
    control: &Rc<Control>,
    world: &World,
    stop: watch::Receiver<bool>,
) -> Result<impl Future<Output = ()> + 'static, StartError> {
    let config = &shared.config.admin;
    let address = config.listen.clone();
    let token = config.token_file.as_deref().map(token).transpose()?;
    let listener =
        world.net.listen(&address).map_err(|error| StartError::Listen { address, error })?;
    shared.access.replace(token.as_deref().unwrap_or_default());
    let access = shared.access.on(is_loopback(&listener.address()));
    let backend = Rc::new(Backend { shared: shared.clone(), control: control.clone() });
    let clock = world.clock.clone();
    let server = Rc::new(Server::new(
        Rc::new(Admin::new(backend, access.clone())),
        Admin::<Backend>::limits(),
        Arc::new(HttpStats::default()),
        Rc::new(move || clock.wall_ms()),
    ));
    let file = config.token_file.clone();
    Ok(async move {
        let serve = server.run(Accepting(listener), stop, GRACE);
        match file {
            Some(file) => tokio::select! {
                () = serve => {}
                () = follow(file, &access) => {}
            },
            None => serve.await,
        }
    })
}

/// Puts a changed token in force, for ever.
async fn follow(path: PathBuf, access: &Access) {
    let mut told = false;
    loop {
        tokio::time::sleep(TOKEN_EVERY).await;
        let file = path.clone();
        let read = tokio::task::spawn_blocking(move || token(&file)).await;
        let failed = match read {
            Ok(Ok(token)) => {
                if access.replace(&token) {
                    tracing::info!(path = %path.display(), "the admin token changed");
                }
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed.as_ref().filter(|_| !told) {
            tracing::warn!(%error, "the last admin token stays in force");
        }
        told = failed.is_some();
    }
}

/// Whether only this machine can reach a listener. Real listeners know their numeric address; one
/// without (a simulated host) nobody else can reach.
pub(super) fn is_loopback(address: &str) -> bool {
    address.parse::<SocketAddr>().map_or(true, |a| a.ip().is_loopback())
}

fn token(path: &Path) -> Result<String, StartError> {
    let unreadable = |why: String| StartError::Token { path: path.display().to_string(), why };
    let about = std::fs::metadata(path).map_err(|e| unreadable(e.to_string()))?;
    if about.len() > TOKEN_MAX_BYTES {
        return Err(unreadable(format!("{} bytes are no token", about.len())));
    }
    let text = std::fs::read_to_string(path).map_err(|e| unreadable(e.to_string()))?;
    match text.trim() {
        "" => Err(unreadable("the file is empty".to_string())),
        token => Ok(token.to_string()),
    }
}
