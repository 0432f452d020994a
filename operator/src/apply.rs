//! The hands: carries out one step. Nothing else in the operator writes to the API server or to a
//! node, except the lease and events.
//!
//! Whatever takes something away reads it live first and names its UID in the request, so that a
//! step planned on what is no longer true does nothing and ends in [`ApplyError::Changed`].

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Secret};
use k8s_openapi::api::policy::v1::Eviction;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{self as meta, DeleteOptions, ObjectMeta};
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, ResourceExt};
use kvasir_core::admin_api::Problem;
use serde_json::{Value, json};

use crate::crd::{KVCluster, KVClusterStatus};
use crate::node_admin::{AskError, NodeAdmin};
use crate::observe::{resource, runs};
use crate::plan::{PodTarget, Step};
use crate::render::{self, KINDS, names};
use crate::snapshot::{Failure, ObjectName};

/// Reason of a failure that is the absence of a kind.
pub const UNKNOWN_KIND: &str = "UnknownKind";

/// Why a step was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// What the step is about is not what was seen. Nothing was done; the next pass sees it anew.
    #[error("{0} has changed since it was looked at")]
    Changed(String),
    /// The disruption budget does not let the pod go now. Nothing was done; it is tried again.
    #[error("the disruption budget does not let pod {pod} go: {why}")]
    Budget {
        /// The pod.
        pod: String,
        /// What the API server says.
        why: String,
    },
    /// The API server does not know the kind. Nothing was done.
    #[error(
        "the API server has no {0}: install the CRDs of the Prometheus operator, or set \
         spec.monitoring.podMonitor to false"
    )]
    UnknownKind(String),
    /// The API server refused for good: it will refuse the same again.
    #[error("the API server refused to {step}: {why}")]
    Refused {
        /// What was tried.
        step: String,
        /// What it says.
        why: String,
    },
    /// The API server did not answer, or not now. Whether it was done is not known; every step may
    /// be done again.
    #[error("the API server failed to {step}: {why}")]
    Api {
        /// What was tried.
        step: String,
        /// What happened.
        why: String,
    },
    /// A node refused or did not answer.
    #[error(transparent)]
    Node(#[from] AskError),
    /// A step that must never be planned. Nothing was done: a defect of the operator.
    #[error("the operator planned to {0}, which it must never do; please report this")]
    Defect(String),
}

impl ApplyError {
    /// The reason of the condition and of the event; the label of the metric.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Changed(_) => "Changed",
            Self::Budget { .. } => "DisruptionBudget",
            Self::UnknownKind(_) => UNKNOWN_KIND,
            Self::Refused { .. } => "RefusedByApiServer",
            Self::Api { .. } => "ApiServerFailed",
            Self::Node(AskError::Silent { .. }) => "NodeSilent",
            Self::Node(AskError::Refused { .. }) => "NodeRefused",
            Self::Node(AskError::Unreadable { .. }) => "NodeUnreadable",
            Self::Defect(_) => "Defect",
        }
    }

    /// As the next snapshot carries it.
    pub fn failure(&self, step: &str) -> Failure {
        let problem: Option<Box<Problem>> = match self {
            Self::Node(AskError::Refused { problem, .. }) => Some(problem.clone()),
            _ => None,
        };
        let (step, reason) = (step.to_owned(), self.reason().to_owned());
        Failure { step, reason, message: self.to_string(), problem }
    }
}

/// Draws an admin token: random, and enough of it.
pub type Draw = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// What steps are carried out with.
#[derive(Clone)]
pub struct Hands {
    /// The API server.
    pub client: Client,
    /// The nodes.
    pub nodes: NodeAdmin,
    /// For a new token.
    pub draw: Draw,
}

impl Hands {
    /// Writes the status, if the resource still is the one that was read. The journal is in there:
    /// of two operators, one gets [`ApplyError::Changed`] and does nothing.
    pub async fn write_status(
        &self,
        cluster: &KVCluster,
        status: &KVClusterStatus,
    ) -> Result<KVCluster, ApplyError> {
        let api: Api<KVCluster> = Api::namespaced(self.client.clone(), &space(cluster));
        let mut object = cluster.clone();
        object.status = Some(status.clone());
        object.metadata.managed_fields = None;
        let params = PostParams { field_manager: Some(names::MANAGER.to_owned()), dry_run: false };
        let written = api.replace_status(&cluster.name_any(), &params, &object).await;
        written.map_err(|error| of(error, "write the status", &cluster.name_any()))
    }

    /// Carries out one step.
    pub async fn take(&self, cluster: &KVCluster, step: &Step) -> Result<(), ApplyError> {
        let words = step.words();
        match step {
            Step::Apply(object) => self.apply(cluster, object, &words).await,
            Step::CreateToken(secret) => self.create_token(cluster, secret, &words).await,
            Step::Delete { object, uid } => self.delete(cluster, object, uid, &words).await,
            Step::Form { pod, request } => {
                self.live(cluster, pod, true).await?;
                let token = self.token(cluster).await?;
                self.nodes.init(&pod.ip, &token, request).await?;
                Ok(())
            }
            Step::Post { pod, request } => {
                self.live(cluster, pod, true).await?;
                let token = self.token(cluster).await?;
                self.nodes.post(&pod.ip, &token, request).await?;
                Ok(())
            }
            Step::Cancel { pod, id } => {
                self.live(cluster, pod, true).await?;
                let token = self.token(cluster).await?;
                self.nodes.cancel(&pod.ip, &token, id).await?;
                Ok(())
            }
            Step::Evict(pod) => self.evict(cluster, pod, &words).await,
            Step::DeletePod(pod) => self.delete_idle(cluster, pod, &words).await,
            Step::Shrink { object, uid, resource_version, pod } => {
                self.shrink(cluster, object, (uid, resource_version), pod, &words).await
            }
            Step::GrowVolume { name, uid, size } => {
                let grown = json!({"resources": {"requests": {"storage": size}}});
                let patch = json!({"metadata": {"uid": uid}, "spec": grown});
                self.claim(cluster, name, "size", patch, &words).await
            }
            Step::OwnVolume { name, uid, owned } => {
                let mut patch = json!({"metadata": {"uid": uid}});
                if *owned {
                    let mut owner = render::owner(cluster);
                    owner["controller"] = json!(false);
                    patch["metadata"]["ownerReferences"] = json!([owner]);
                }
                self.claim(cluster, name, "owner", patch, &words).await
            }
            Step::DeleteVolume { name, uid } => {
                let claims: Api<PersistentVolumeClaim> = self.api(cluster);
                let deleted = claims.delete(name, &only(uid)).await.map(drop);
                gone_is_fine(deleted, &words, name)
            }
        }
    }

    fn api<K>(&self, cluster: &KVCluster) -> Api<K>
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &space(cluster))
    }

    fn kind(&self, cluster: &KVCluster, kind: &str) -> Result<Api<DynamicObject>, ApplyError> {
        let known = KINDS.iter().find(|(_, known)| *known == kind);
        let Some((api_version, kind)) = known else {
            return Err(ApplyError::Defect(format!("write a {kind}")));
        };
        let resource = resource(api_version, kind);
        Ok(Api::namespaced_with(self.client.clone(), &space(cluster), &resource))
    }

    async fn apply(
        &self,
        cluster: &KVCluster,
        object: &Value,
        words: &str,
    ) -> Result<(), ApplyError> {
        let name = ObjectName::of(object);
        let api = self.kind(cluster, &name.kind)?;
        if name.kind != "StatefulSet" {
            return self.patch(&api, &name, object, words).await;
        }
        let live = api.get_opt(&name.name).await.map_err(|e| of(e, words, &name.name))?;
        let Some(live) = live else { return self.patch(&api, &name, object, words).await };
        let there = live.data["spec"]["replicas"].as_i64().unwrap_or(0);
        if object["spec"]["replicas"].as_i64().unwrap_or(1) < there {
            return Err(ApplyError::Defect(format!("{words} with fewer pods")));
        }
        // The version that was judged goes along: this very request may arrive after the lease is
        // lost and a successor has made the set larger, and would then take members their pods.
        let mut object = object.clone();
        object["metadata"]["uid"] = json!(live.uid());
        object["metadata"]["resourceVersion"] = json!(live.resource_version());
        self.patch(&api, &name, &object, words).await
    }

    async fn patch(
        &self,
        api: &Api<DynamicObject>,
        name: &ObjectName,
        object: &Value,
        words: &str,
    ) -> Result<(), ApplyError> {
        let params = PatchParams::apply(names::MANAGER).force();
        match api.patch(&name.name, &params, &Patch::Apply(object)).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if name.kind == "PodMonitor" && status.code == 404 => {
                Err(ApplyError::UnknownKind(name.kind.clone()))
            }
            Err(error) => Err(of(error, words, &name.name)),
        }
    }

    async fn create_token(
        &self,
        cluster: &KVCluster,
        secret: &Value,
        words: &str,
    ) -> Result<(), ApplyError> {
        let failed = |why: String| ApplyError::Api { step: words.to_owned(), why };
        let mut secret: Secret =
            serde_json::from_value(secret.clone()).map_err(|error| failed(error.to_string()))?;
        let token = (self.draw)().map_err(failed)?;
        secret.string_data = Some([(names::TOKEN.to_owned(), token)].into());
        let params = PostParams { field_manager: Some(names::MANAGER.to_owned()), dry_run: false };
        match self.api::<Secret>(cluster).create(&params, &secret).await {
            Ok(_) => Ok(()),
            // Whoever made it drew a token as good as ours.
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            Err(error) => Err(of(error, words, &secret.name_any())),
        }
    }

    async fn token(&self, cluster: &KVCluster) -> Result<String, ApplyError> {
        let name = names::token_secret(cluster);
        let read = self.api::<Secret>(cluster).get(&name).await;
        let secret = read.map_err(|error| of(error, "read the admin token", &name))?;
        let token = secret.data.and_then(|mut data| data.remove(names::TOKEN));
        let token = token.and_then(|token| String::from_utf8(token.0).ok());
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        token.ok_or_else(|| ApplyError::Refused {
            step: "read the admin token".to_owned(),
            why: format!("Secret {name} has no {}: delete it, and it is made anew", names::TOKEN),
        })
    }

    /// Whether the pod still is the one that was seen.
    async fn live(
        &self,
        cluster: &KVCluster,
        pod: &PodTarget,
        address: bool,
    ) -> Result<(), ApplyError> {
        let read = self.api::<Pod>(cluster).get_opt(&pod.name).await;
        let there = read.map_err(|error| of(error, "read a pod", &pod.name))?;
        let same = there.is_some_and(|there| {
            let ip = there.status.as_ref().and_then(|status| status.pod_ip.as_deref());
            there.uid().as_deref() == Some(&pod.uid) && (!address || ip == Some(&pod.ip))
        });
        same.then_some(()).ok_or_else(|| ApplyError::Changed(format!("pod {}", pod.name)))
    }

    /// Deletes a pod whose container does not run. The version at which it did not run goes along:
    /// a pod that came up meanwhile stays.
    async fn delete_idle(
        &self,
        cluster: &KVCluster,
        pod: &PodTarget,
        words: &str,
    ) -> Result<(), ApplyError> {
        let pods: Api<Pod> = self.api(cluster);
        let read = pods.get_opt(&pod.name).await.map_err(|error| of(error, words, &pod.name))?;
        let idle = |there: &Pod| there.uid().as_deref() == Some(&pod.uid) && !runs(there);
        let Some(there) = read.filter(idle) else {
            return Err(ApplyError::Changed(format!("pod {}", pod.name)));
        };
        let preconditions =
            Preconditions { uid: there.uid(), resource_version: there.resource_version() };
        let params = DeleteParams::default().preconditions(preconditions);
        let deleted = pods.delete(&pod.name, &params).await.map(drop);
        gone_is_fine(deleted, words, &pod.name)
    }

    async fn evict(
        &self,
        cluster: &KVCluster,
        pod: &PodTarget,
        words: &str,
    ) -> Result<(), ApplyError> {
        self.live(cluster, pod, false).await?;
        // Not `Api::evict` of kube 5.0: it spells the options `delete_options`, which the API server
        // does not know, and so evicts whatever has the name.
        let eviction = Eviction {
            metadata: ObjectMeta { name: Some(pod.name.clone()), ..ObjectMeta::default() },
            delete_options: Some(DeleteOptions {
                preconditions: Some(meta::Preconditions {
                    uid: Some(pod.uid.clone()),
                    resource_version: None,
                }),
                ..DeleteOptions::default()
            }),
        };
        let pods = self.api::<Pod>(cluster);
        let params = PostParams::default();
        let sent: kube::Result<Value> =
            pods.create_subresource("eviction", &pod.name, &params, &eviction).await;
        match sent {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 429 => {
                Err(ApplyError::Budget { pod: pod.name.clone(), why: status.message })
            }
            Err(error) => gone_is_fine(Err(error), words, &pod.name),
        }
    }

    async fn shrink(
        &self,
        cluster: &KVCluster,
        object: &Value,
        (uid, resource_version): (&str, &str),
        pod: &PodTarget,
        words: &str,
    ) -> Result<(), ApplyError> {
        let read = self.api::<Pod>(cluster).get_opt(&pod.name).await;
        let there = read.map_err(|error| of(error, words, &pod.name))?;
        if there.is_some_and(|there| there.uid().as_deref() != Some(&pod.uid)) {
            return Err(ApplyError::Changed(format!("pod {}", pod.name)));
        }
        let mut object = object.clone();
        let name = ObjectName::of(&object);
        let last = object["spec"]["replicas"].as_i64().unwrap_or(-1);
        if name.kind != "StatefulSet" || pod.name != format!("{}-{last}", name.name) {
            return Err(ApplyError::Defect(words.to_owned()));
        }
        object["metadata"]["uid"] = json!(uid);
        object["metadata"]["resourceVersion"] = json!(resource_version);
        self.patch(&self.kind(cluster, &name.kind)?, &name, &object, words).await
    }

    async fn delete(
        &self,
        cluster: &KVCluster,
        object: &ObjectName,
        uid: &str,
        words: &str,
    ) -> Result<(), ApplyError> {
        // Pods and volumes have steps of their own, and a StatefulSet is never deleted.
        let may = ["ConfigMap", "NetworkPolicy", "PodDisruptionBudget", "PodMonitor"];
        if !may.contains(&object.kind.as_str()) {
            return Err(ApplyError::Defect(words.to_owned()));
        }
        let api = self.kind(cluster, &object.kind)?;
        let deleted = api.delete(&object.name, &only(uid)).await.map(drop);
        gone_is_fine(deleted, words, &object.name)
    }

    /// Applies one field of a claim, under a manager of its own: what it leaves out goes.
    async fn claim(
        &self,
        cluster: &KVCluster,
        name: &str,
        part: &str,
        mut patch: Value,
        words: &str,
    ) -> Result<(), ApplyError> {
        patch["apiVersion"] = json!("v1");
        patch["kind"] = json!("PersistentVolumeClaim");
        let params = PatchParams::apply(&format!("{}-{part}", names::MANAGER)).force();
        let claims: Api<PersistentVolumeClaim> = self.api(cluster);
        // Apply makes what is not there: a claim without a pod must not come back.
        let read = claims.get_opt(name).await.map_err(|error| of(error, words, name))?;
        let uid = patch["metadata"]["uid"].as_str();
        if read.is_none_or(|claim| claim.uid().as_deref() != uid) {
            return Err(ApplyError::Changed(format!("claim {name}")));
        }
        let applied = claims.patch(name, &params, &Patch::Apply(&patch)).await;
        applied.map(drop).map_err(|error| of(error, words, name))
    }
}

fn space(cluster: &KVCluster) -> String {
    cluster.namespace().unwrap_or_default()
}

fn only(uid: &str) -> DeleteParams {
    let preconditions = Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams::default().preconditions(preconditions)
}

fn gone_is_fine(done: Result<(), kube::Error>, words: &str, name: &str) -> Result<(), ApplyError> {
    match done {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        done => done.map_err(|error| of(error, words, name)),
    }
}

fn of(error: kube::Error, step: &str, name: &str) -> ApplyError {
    let step = step.to_owned();
    match error {
        kube::Error::Api(status) => match status.code {
            409 => ApplyError::Changed(name.to_owned()),
            400 | 401 | 403 | 404 | 405 | 422 => {
                ApplyError::Refused { step, why: format!("{} ({})", status.message, status.reason) }
            }
            _ => ApplyError::Api { step, why: status.message },
        },
        other => ApplyError::Api { step, why: other.to_string() },
    }
}
