//! Watches: a stream of what changed after a revision, as far as the lag lets it be seen.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::StreamBody;
use hyper::body::Frame;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::failure::Failure;
use super::selector;
use super::store::{Change, Store};
use super::verbs::Request;
use super::{Api, shown};

struct Watch {
    api: Arc<Api>,
    request: Request,
    metadata_only: bool,
    seen: u64,
    ends: Instant,
    over: bool,
}

/// The body of a watch's answer.
pub fn body(
    api: Arc<Api>,
    request: Request,
    metadata_only: bool,
) -> impl hyper::body::Body<Data = Bytes, Error = Infallible> + Send {
    let seconds = request.param("timeoutSeconds").parse().unwrap_or(290);
    let seen = request.param("resourceVersion").parse().unwrap_or(0);
    let ends = Instant::now() + Duration::from_secs(seconds);
    let watch = Watch { api, request, metadata_only, seen, ends, over: false };
    StreamBody::new(stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok(Frame::data(Bytes::from(lines))), watch))
    }))
}

impl Watch {
    /// The next events, one JSON text a line; none when the watch is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.over {
                return None;
            }
            let api = Arc::clone(&self.api);
            let changed = api.changed.notified();
            if let Some(lines) = self.take(&api.state().store) {
                return Some(lines);
            }
            if tokio::time::timeout_at(self.ends, changed).await.is_err() {
                return None;
            }
        }
    }

    fn take(&mut self, store: &Store) -> Option<String> {
        if self.seen < store.compacted() {
            self.over = true;
            let gone = Failure::new(410, "Expired", "too old resource version");
            return Some(line("ERROR", &gone.body()));
        }
        let mut lines = String::new();
        for change in store.changes(self.seen) {
            lines.push_str(&self.event(change).unwrap_or_default());
        }
        self.seen = self.seen.max(store.visible());
        (!lines.is_empty()).then_some(lines)
    }

    fn event(&self, change: &Change) -> Option<String> {
        let target = &self.request.target;
        let here = target.namespace.is_empty() || change.key.namespace == target.namespace;
        if change.key.kind != target.kind || !here {
            return None;
        }
        let (labels, names) =
            (self.request.param("labelSelector"), self.request.param("fieldSelector"));
        let fits = |object: &&Value| selector::matches(object, labels, names);
        let before = change.before.as_ref().filter(fits);
        let after = change.after.as_ref().filter(fits);
        let (kind, object) = match (before, after) {
            (None, Some(after)) => ("ADDED", after),
            (Some(_), Some(after)) => ("MODIFIED", after),
            (Some(before), None) => ("DELETED", before),
            (None, None) => return None,
        };
        Some(line(kind, &shown(object.clone(), self.metadata_only)))
    }
}

fn line(kind: &str, object: &Value) -> String {
    format!("{}\n", json!({"type": kind, "object": object}))
}
