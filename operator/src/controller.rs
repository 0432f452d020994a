//! When to look: watches, retries with backoff, and the end.
//!
//! Watches carry metadata only and decide nothing; every pass reads live. A cluster is looked at
//! when it or anything with its label changes, when its plan said so, and after a failure with a
//! growing pause. The same cluster is never in two passes at once.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{Api, PartialObjectMeta};
use kube::runtime::controller::{Action, Config, Controller};
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher;
use kube::{Client, Resource, ResourceExt};
use tracing::Instrument;

use crate::apply::UNKNOWN_KIND;
use crate::crd::KVCluster;
use crate::pass::{Operator, PassError};
use crate::render::names;
use crate::snapshot::Failure;

/// First pause after a failure; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_secs(60);
/// Pause after a pass in which only the PodMonitor could not be made.
const MONITORING: Duration = Duration::from_secs(5);
/// Changes that come this close together are looked at once.
const DEBOUNCE: Duration = Duration::from_millis(300);
/// Clusters in a pass at once.
const CONCURRENCY: u16 = 8;

/// What is remembered of a cluster between passes: hints only.
#[derive(Default)]
struct Trouble {
    failures: u32,
    last: Option<Failure>,
}

struct Context {
    operator: Operator,
    troubles: Mutex<HashMap<(String, String), Trouble>>,
    store: Store<KVCluster>,
}

/// The APIs of a kind in one namespace or in all.
fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Looks after every cluster of a namespace, or of all, until `stop`.
pub async fn run(
    operator: Operator,
    namespace: Option<String>,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let client = operator.hands.client.clone();
    let namespace = namespace.as_deref();
    let mut controller =
        Controller::new(api::<KVCluster>(&client, namespace), watcher::Config::default())
            .with_config(Config::default().debounce(DEBOUNCE).concurrency(CONCURRENCY));
    controller = watch::<Pod>(controller, &client, namespace);
    controller = watch::<PersistentVolumeClaim>(controller, &client, namespace);
    controller = watch::<StatefulSet>(controller, &client, namespace);
    controller = watch::<Service>(controller, &client, namespace);
    controller = watch::<ConfigMap>(controller, &client, namespace);
    controller = watch::<ServiceAccount>(controller, &client, namespace);
    controller = watch::<NetworkPolicy>(controller, &client, namespace);
    controller = watch::<PodDisruptionBudget>(controller, &client, namespace);
    let store = controller.store();
    let context = Context { operator, troubles: Mutex::default(), store };
    let passes = controller.graceful_shutdown_on(stop).run(reconcile, retry, Arc::new(context));
    passes
        .for_each(|passed| async move {
            // Passes that fail tell it themselves; this is the watches' trouble.
            if let Err(error @ kube::runtime::controller::Error::QueueError(_)) = passed {
                tracing::warn!(%error, "a watch was interrupted");
            }
        })
        .await;
}

/// Whatever carries a cluster's label makes that cluster be looked at.
fn watch<K>(
    controller: Controller<KVCluster>,
    client: &Client,
    namespace: Option<&str>,
) -> Controller<KVCluster>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Send
        + Sync
        + 'static,
{
    let objects: Api<PartialObjectMeta<K>> = api(client, namespace);
    let labelled = watcher::Config::default().labels(names::CLUSTER);
    controller.watches(objects, labelled, |object| {
        let cluster = object.labels().get(names::CLUSTER)?.clone();
        Some(ObjectRef::new(&cluster).within(&object.namespace()?))
    })
}

async fn reconcile(cluster: Arc<KVCluster>, context: Arc<Context>) -> Result<Action, PassError> {
    let name = cluster.name_any();
    let namespace = cluster.namespace().unwrap_or_default();
    let key = (namespace.clone(), name.clone());
    let journal = cluster.status.as_ref().and_then(|status| status.operation.as_ref());
    let span = tracing::info_span!(
        "pass", %namespace, cluster = %name,
        generation = cluster.metadata.generation.unwrap_or(0),
        operation = journal.map_or("", |operation| &operation.id),
    );
    let failure = context.troubles.lock().ok().and_then(|all| all.get(&key)?.last.clone());
    let operator = &context.operator;
    operator.metrics.set_clusters(context.store.len());
    let began = Instant::now();
    let passed = operator.pass(&namespace, &name, failure).instrument(span.clone()).await;
    let reason = passed.as_ref().err().map(|error| error.reason().to_owned());
    operator.metrics.passed(began.elapsed(), reason.as_deref());
    match passed {
        Ok(again) => {
            if let Ok(mut troubles) = context.troubles.lock() {
                troubles.remove(&key);
            }
            Ok(again.map_or_else(Action::await_change, Action::requeue))
        }
        Err(error) => {
            span.in_scope(|| tracing::warn!(%error, reason, "the pass ended early"));
            Err(error)
        }
    }
}

/// When to try again. Something that changed under our eyes is looked at again at once.
fn retry(cluster: Arc<KVCluster>, error: &PassError, context: Arc<Context>) -> Action {
    let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
    let Ok(mut troubles) = context.troubles.lock() else { return Action::requeue(LONGEST) };
    let trouble = troubles.entry(key).or_default();
    trouble.failures = trouble.failures.saturating_add(1);
    if let PassError::Step(failure) = error {
        trouble.last = Some((**failure).clone());
    }
    Action::requeue(match error {
        // All else was done; only the monitoring of the cluster waits for somebody.
        PassError::Step(failure) if failure.reason == UNKNOWN_KIND => MONITORING,
        _ => pause(trouble.failures),
    })
}

fn pause(failures: u32) -> Duration {
    let doubled = FIRST.saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_bound() {
        let seconds: Vec<u64> = (1..=8).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause(u32::MAX), LONGEST);
    }
}
