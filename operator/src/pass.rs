//! One pass over one cluster: read it, observe, plan, write the status, take the steps, say what
//! changed. The order is the safety: the journal in the status is written before anything is done,
//! under the version that was read, so of two operators one stops here.
//!
//! A pass keeps nothing. What it did not finish is seen by the next one.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use kube::api::Api;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Resource, ResourceExt};

use crate::apply::{ApplyError, Hands};
use crate::crd::KVCluster;
use crate::events;
use crate::metrics::Metrics;
use crate::observe::{Eyes, observe};
use crate::plan::{Plan, Step, plan};
use crate::snapshot::{Failure, Surroundings};

/// Why a pass ended early. The next one begins anew.
#[derive(Debug, thiserror::Error)]
pub enum PassError {
    /// The API server did not answer a read. Nothing was done.
    #[error("the API server did not answer: {0}")]
    Read(#[from] kube::Error),
    /// The status could not be written, so nothing was done.
    #[error("nothing was done: {0}")]
    Status(ApplyError),
    /// A step failed; those before it are done, those after it are not.
    #[error("{}", .0.message)]
    Step(Box<Failure>),
    /// This process may not write any more: another one holds the lease.
    #[error("the lease was lost: another operator goes on from here")]
    LeaseLost,
}

impl PassError {
    /// Label of the metric.
    pub fn reason(&self) -> &str {
        match self {
            Self::Read(_) => "ReadFailed",
            Self::Status(error) => error.reason(),
            Self::Step(failure) => &failure.reason,
            Self::LeaseLost => "LeaseLost",
        }
    }
}

/// Everything a pass works with.
pub struct Operator {
    /// What it writes with; it reads with the same client.
    pub hands: Hands,
    /// Where it runs.
    pub surroundings: Surroundings,
    /// The time of day.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// Whether this process may write now: asked before every write.
    pub may_write: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Where events go; without it there are none.
    pub recorder: Option<Recorder>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

impl Operator {
    /// One pass. `failure` is what the last pass over this cluster failed with. The answer is when
    /// to look again; none when the cluster is gone.
    pub async fn pass(
        &self,
        namespace: &str,
        name: &str,
        failure: Option<Failure>,
    ) -> Result<Option<Duration>, PassError> {
        let api: Api<KVCluster> = Api::namespaced(self.hands.client.clone(), namespace);
        let Some(mut cluster) = api.get_opt(name).await? else { return Ok(None) };
        if cluster.metadata.deletion_timestamp.is_some() {
            // Everything that goes with it is owned by it: the garbage collector sees to that.
            return Ok(None);
        }
        cluster.metadata.managed_fields = None;
        let before = failure.clone();
        let eyes = Eyes {
            client: &self.hands.client,
            nodes: &self.hands.nodes,
            surroundings: &self.surroundings,
        };
        let seen = observe(eyes, cluster, (self.clock)(), failure).await?;
        let planned = plan(&seen);
        let cluster = self.record(seen.cluster, &planned).await?;
        let done = self.take_all(&cluster, &planned.steps).await;
        if let Err(PassError::Step(failure)) = &done
            && before.as_ref().is_none_or(|before| before.reason != failure.reason)
        {
            let note = events::Note::failed(&failure.reason, &failure.message);
            self.say(&cluster, &[note]).await;
        }
        done.map(|()| Some(planned.requeue))
    }

    /// Writes the status if it says something new, and tells what changed.
    async fn record(&self, cluster: KVCluster, planned: &Plan) -> Result<KVCluster, PassError> {
        let old = cluster.status.clone();
        if old.as_ref() == Some(&planned.status) {
            return Ok(cluster);
        }
        self.allowed()?;
        self.metrics.wrote("status");
        let written = self.hands.write_status(&cluster, &planned.status).await;
        let mut written = written.map_err(PassError::Status)?;
        written.metadata.managed_fields = None;
        self.say(&written, &events::notes(old.as_ref(), &planned.status)).await;
        Ok(written)
    }

    async fn take_all(&self, cluster: &KVCluster, steps: &[Step]) -> Result<(), PassError> {
        // The planner plans nothing for a paused cluster; this is the second lock on that door.
        let steps = if cluster.spec.paused { &[][..] } else { steps };
        let mut missing = None;
        for step in steps {
            self.allowed()?;
            let words = step.words();
            let taken = self.hands.take(cluster, step).await;
            self.metrics.took(step.name(), taken.as_ref().err().map(ApplyError::reason));
            match taken {
                Ok(()) => tracing::info!(step = %words, "done"),
                // Monitoring that cannot be had must not keep the rest from being done.
                Err(error @ ApplyError::UnknownKind(_)) => missing = Some(error.failure(&words)),
                Err(error) => return Err(PassError::Step(Box::new(error.failure(&words)))),
            }
        }
        missing.map_or(Ok(()), |failure| Err(PassError::Step(Box::new(failure))))
    }

    fn allowed(&self) -> Result<(), PassError> {
        if (self.may_write)() { Ok(()) } else { Err(PassError::LeaseLost) }
    }

    /// Publishes events. One that is lost is lost: conditions say the same.
    async fn say(&self, cluster: &KVCluster, notes: &[events::Note]) {
        let Some(recorder) = &self.recorder else { return };
        let about = cluster.object_ref(&());
        for note in notes {
            let type_ = if note.warning { EventType::Warning } else { EventType::Normal };
            let event = Event {
                type_,
                reason: note.reason.clone(),
                note: Some(note.message.clone()),
                action: note.action.clone(),
                secondary: None,
            };
            if let Err(error) = recorder.publish(&event, &about).await {
                tracing::warn!(%error, cluster = %cluster.name_any(), "an event was not published");
            }
        }
    }
}
