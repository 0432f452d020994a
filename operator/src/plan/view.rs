//! The ring as the nodes tell it, put together from one answer of each.
//!
//! Absence is never evidence: that a node is no member is concluded only from the newest document,
//! held by a majority of the members that it names and answered by them directly.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::{ClusterStatus, Liveness, NodeStatus, Status, Verdict};
use kvasir_core::id::NodeId;

use super::refusal::Refusal;
use crate::crd::condition;
use crate::snapshot::{PodSeen, Snapshot};

/// What is known of the ring.
#[derive(Debug)]
pub struct View<'a> {
    /// Pods whose nodes belong to this cluster, by node id.
    pub ours: BTreeMap<NodeId, Answer<'a>>,
    /// Pods whose nodes belong to no cluster yet, by node id.
    pub blank: BTreeMap<NodeId, Answer<'a>>,
    /// Pods whose nodes belong to another cluster, with its id.
    pub foreign: Vec<(&'a PodSeen, String)>,
    /// The identity of this cluster, once it has one.
    pub cluster_id: Option<String>,
    newest: Option<(&'a Status, &'a ClusterStatus)>,
}

/// A pod and what its node says.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The pod.
    pub pod: &'a PodSeen,
    /// The answer.
    pub status: &'a Status,
}

impl<'a> View<'a> {
    /// Puts the answers together. Volumes of several clusters, with no record of which is meant,
    /// are a refusal.
    pub fn of(seen: &'a Snapshot) -> (Self, Option<Refusal>) {
        let recorded = seen.cluster.status.as_ref().and_then(|status| status.cluster_id.clone());
        let answers: Vec<Answer<'a>> = seen
            .pods
            .values()
            .filter_map(|pod| Some(Answer { pod, status: pod.status()? }))
            .collect();
        let found: BTreeSet<String> = answers
            .iter()
            .filter_map(|answer| Some(answer.status.cluster.as_ref()?.cluster_id.to_string()))
            .collect();
        let (cluster_id, refusal) = match (recorded, found.len()) {
            (Some(recorded), _) => (Some(recorded), None),
            (None, 0 | 1) => (found.into_iter().next(), None),
            (None, _) => {
                let all: Vec<String> = found.into_iter().collect();
                (None, Some(Refusal::SeveralClusters(all.join(", "))))
            }
        };
        let mut view = Self {
            ours: BTreeMap::new(),
            blank: BTreeMap::new(),
            foreign: Vec::new(),
            cluster_id,
            newest: None,
        };
        for answer in answers {
            view.add(answer);
        }
        (view, refusal)
    }

    fn add(&mut self, answer: Answer<'a>) {
        let id = answer.status.answered_by;
        let Some(cluster) = &answer.status.cluster else {
            self.blank.insert(id, answer);
            return;
        };
        if self.cluster_id.as_deref() != Some(&cluster.cluster_id.to_string()) {
            self.foreign.push((answer.pod, cluster.cluster_id.to_string()));
            return;
        }
        if self.newest.is_none_or(|(_, newest)| cluster.epoch > newest.epoch) {
            self.newest = Some((answer.status, cluster));
        }
        self.ours.insert(id, answer);
    }

    /// The newest document's facts, if any node of this cluster answers.
    pub fn cluster(&self) -> Option<&'a ClusterStatus> {
        self.newest.map(|(_, cluster)| cluster)
    }

    /// The answer that shows the newest document.
    pub fn newest(&self) -> Option<&'a Status> {
        self.newest.map(|(status, _)| status)
    }

    /// Number of the newest document; 0 before there is one.
    pub fn epoch(&self) -> i64 {
        self.cluster().map_or(0, |cluster| i64::try_from(cluster.epoch).unwrap_or(i64::MAX))
    }

    /// The members that the newest document names.
    pub fn members(&self) -> impl Iterator<Item = &'a NodeStatus> + use<'a> {
        let rows = self.newest.map(|(status, _)| &status.nodes);
        rows.into_iter().flatten().filter(|row| row.member.is_some())
    }

    /// The member with this id.
    pub fn member(&self, id: NodeId) -> Option<&'a NodeStatus> {
        self.members().find(|row| row.id == id)
    }

    /// The same by the text of its id.
    pub fn member_named(&self, id: &str) -> Option<&'a NodeStatus> {
        self.members().find(|row| row.id.to_string() == id)
    }

    /// The pod that shows an identity, member or not.
    pub fn pod_of(&self, id: NodeId) -> Option<&'a PodSeen> {
        self.ours.get(&id).or_else(|| self.blank.get(&id)).map(|answer| answer.pod)
    }

    /// The identity that a pod shows.
    pub fn id_in(&self, pod: &PodSeen) -> Option<NodeId> {
        let all = self.ours.iter().chain(&self.blank);
        all.filter(|(_, answer)| answer.pod.uid == pod.uid).map(|(id, _)| *id).next()
    }

    /// Does the pod show the identity of a member?
    pub fn has_member(&self, pod: &PodSeen) -> bool {
        self.id_in(pod).is_some_and(|id| self.member(id).is_some())
    }

    /// Does a pod show this identity, by the text of its id?
    pub fn runs_named(&self, id: &str) -> bool {
        self.ours.keys().chain(self.blank.keys()).any(|there| there.to_string() == id)
    }

    /// Members that answered and have the newest document.
    fn agreeing(&self) -> usize {
        let Some(cluster) = self.cluster() else { return 0 };
        let holds = |answer: &Answer| {
            answer.status.cluster.as_ref().is_some_and(|held| {
                held.epoch == cluster.epoch && held.document_hash == cluster.document_hash
            })
        };
        self.members().filter(|row| self.ours.get(&row.id).is_some_and(holds)).count()
    }

    /// Do a majority of the members hold the newest document that was seen, each by its own word?
    /// Why not, otherwise.
    pub fn majority(&self) -> Result<(), String> {
        let all = self.members().count();
        let agreeing = self.agreeing();
        if all > 0 && agreeing * 2 > all {
            return Ok(());
        }
        Err(format!("{agreeing} of {all} members answer with the newest document"))
    }

    /// Does everyone who should know the newest document know it?
    pub fn settled(&self) -> bool {
        let all_agree = self.agreeing() == self.members().count();
        all_agree && self.cluster().is_some_and(|cluster| cluster.settled)
    }

    /// Has every partition all its copies on members that are up and of one mind? Why not,
    /// otherwise.
    pub fn healthy(&self) -> Result<(), String> {
        if self.cluster().is_none() {
            return Err("no node of the cluster answers".to_owned());
        }
        if let Some(row) = self.members().find(|row| row.liveness != Liveness::Alive) {
            return Err(format!("node {} is not up", row.id));
        }
        let unsafe_ = self.ours.values().find(|answer| {
            let member = self.member(answer.status.answered_by).is_some();
            member && answer.status.safety.verdict != Verdict::Safe
        });
        if let Some(answer) = unsafe_ {
            return Err(format!("{} says: {}", answer.pod.name, answer.status.safety.sentence));
        }
        if !self.settled() {
            return Err("not every member has the newest document".to_owned());
        }
        Ok(())
    }

    /// A member that answers, to post through: the first by pod name.
    pub fn speaker(&self) -> Option<&'a PodSeen> {
        let members = self.ours.iter().filter(|(id, _)| self.member(**id).is_some());
        members.map(|(_, answer)| answer.pod).min_by(|a, b| a.name.cmp(&b.name))
    }
}

/// Was the cluster formed, as far as was ever seen?
pub fn initialized(seen: &Snapshot) -> bool {
    let Some(status) = &seen.cluster.status else { return false };
    let mut conditions = status.conditions.iter();
    status.cluster_id.is_some()
        || conditions.any(|held| held.type_ == condition::INITIALIZED && held.status == "True")
}
