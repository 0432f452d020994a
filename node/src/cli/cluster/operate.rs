//! Operations from the outside: post one, take one back, watch one until it is over. For `kvasir ring` and for
//! `kvasir dev`; the nodes decide everything.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use hyper::Method;
use kvasir_core::admin_api::{
    OperationKind, OperationRequest, OperationState, OperationStatus, routes,
};
use kvasir_core::id::NodeId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::ask;
use super::draw::short;
use crate::cli::client::{Ask, Client, Repeat};
use crate::cli::failure::{Exit, Failure};

/// From one look at an operation to the next.
const LOOK: Duration = Duration::from_millis(500);
/// So long a node may not know an operation that another one took.
const UNHEARD: Duration = Duration::from_secs(15);

/// An id that says what it is about: `join-7c1d66f0-1796058000`.
pub fn id_for(kind: OperationKind, node: Option<NodeId>) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let node = node.map(|node| format!("-{}", short(node))).unwrap_or_default();
    format!("{kind:?}{node}-{seconds}").to_lowercase()
}

/// `join 7c1d66f0`, `replace 0b3f6c1e by 7c1d66f0`.
pub fn in_words(request: &OperationRequest) -> String {
    let node =
        |node: Option<NodeId>| node.map(|node| format!(" {}", short(node))).unwrap_or_default();
    match (request.kind, request.replaces) {
        (OperationKind::Replace, Some(dead)) => {
            format!("replace {} by{}", short(dead), node(request.node))
        }
        (kind, _) => format!("{kind:?}{}", node(request.node)).to_lowercase(),
    }
}

/// Posts an operation. The same id twice is one operation, so this may be repeated.
///
/// # Errors
/// What the node said, or that none answered; the operation may stand all the same in the latter case.
pub async fn post(client: &Client, request: &OperationRequest) -> Result<OperationStatus, Failure> {
    asked(client, Method::POST, routes::OPERATIONS.to_owned(), Some(request)).await
}

/// Takes an operation back.
///
/// # Errors
/// It has ended, is not known, or no node answered.
pub async fn take_back(client: &Client, id: &str) -> Result<OperationStatus, Failure> {
    let target = routes::fill(routes::OPERATION, &[id.as_bytes()]);
    asked::<(), _>(client, Method::DELETE, target, None).await
}

/// Looks at an operation until it is over or the time is up, and shows each look.
///
/// # Errors
/// The time is up, or the nodes do not know it. The operation goes on in any case.
pub async fn watch(
    client: &Client,
    id: &str,
    patience: Duration,
    mut show: impl FnMut(&OperationStatus),
) -> Result<OperationStatus, Failure> {
    let (begun, target) = (Instant::now(), routes::fill(routes::OPERATION, &[id.as_bytes()]));
    loop {
        let seen: Result<OperationStatus, Failure> = ask(client, &target).await;
        let elapsed = begun.elapsed();
        let trouble = match seen {
            Ok(status) => {
                show(&status);
                if is_over(status.state) {
                    return Ok(status);
                }
                String::new()
            }
            // The node that answered last may be the one that goes, and the next may be an epoch behind.
            Err(failure) if failure.exit == Exit::Unavailable => failure.message,
            Err(failure) if failure.exit == Exit::NotFound && elapsed < UNHEARD => failure.message,
            Err(failure) => return Err(failure),
        };
        if elapsed >= patience {
            let why = if trouble.is_empty() { String::new() } else { format!(": {trouble}") };
            return Err(Failure::new(
                Exit::Unavailable,
                format!("operation {id} is not over after {} s{why}", patience.as_secs()),
                format!("it goes on by itself: `kvasir ring status`, or `kvasir ring cancel {id}`"),
            ));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Whether an operation has ended, one way or another.
pub fn is_over(state: OperationState) -> bool {
    !matches!(state, OperationState::Planned | OperationState::Running)
}

/// One request with a JSON answer of 200.
pub(super) async fn asked<B: Serialize, T: DeserializeOwned>(
    client: &Client,
    method: Method,
    target: String,
    body: Option<&B>,
) -> Result<T, Failure> {
    let (mut headers, mut bytes) = (Vec::new(), Bytes::new());
    if let Some(body) = body {
        headers.push(("content-type", "application/json".to_owned()));
        bytes = Bytes::from(serde_json::to_vec(body).map_err(|error| {
            Failure::error(format!("the request has no JSON form: {error}"), "name other nodes")
        })?);
    }
    let reply =
        client.ask(&Ask { method, target, headers, body: bytes, repeat: Repeat::Always }).await?;
    if reply.status != 200 {
        return Err(reply.failure());
    }
    serde_json::from_slice(&reply.body).map_err(|error| {
        Failure::error(
            format!("the answer of {} cannot be read: {error}", reply.server),
            "check that `kvasir version` fits the nodes",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_named_by_what_they_do() {
        let node = |byte| NodeId::from_bytes([byte; 16]);
        let request = OperationRequest {
            id: id_for(OperationKind::Join, Some(node(0x7c))),
            kind: OperationKind::Join,
            node: Some(node(0x7c)),
            replaces: None,
            machine: None,
            rebalance: None,
        };
        assert!(request.id.starts_with("join-7c7c7c7c-"), "{}", request.id);
        request.validate().unwrap();
        assert_eq!(in_words(&request), "join 7c7c7c7c");
        let replace = OperationRequest {
            kind: OperationKind::Replace,
            replaces: Some(node(0x0b)),
            ..request
        };
        assert_eq!(in_words(&replace), "replace 0b0b0b0b by 7c7c7c7c");
        assert!(id_for(OperationKind::Rebalance, None).starts_with("rebalance-"));
    }
}
