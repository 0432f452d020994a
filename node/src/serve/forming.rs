//! `POST /v1/cluster/init`: the first document, made from what the named nodes say of themselves.
//!
//! Refused before anything is promised: nodes that were not heard of, and a node that hears of a
//! cluster already. Whatever is refused later left votes that the same request finishes.

use std::collections::{BTreeMap, BTreeSet};

use kvasir_core::admin_api::problem::code;
use kvasir_core::admin_api::{DocumentAnswer, InitRequest, Problem};
use kvasir_core::consensus::FormingOutcome;
use kvasir_core::gossip::MemberView;
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::check::{MAX_DATACENTERS, MAX_REPLICATION};
use kvasir_core::ring::document::NewCluster;
use kvasir_core::ring::{Document, Member, Sealed, TokenSecret, layout};
use rand::Rng;

use super::backend::{ANSWER_WITHIN, Backend, json, member, problem};
use crate::admin::Answered;
use crate::tasks::ballots;

/// What to do about a node that is not blank.
const WRONG_VOLUME: &str = "start those nodes with empty data directories, or let this node join \
                            their cluster instead of forming one";

/// 503 `nodes_not_ready`, naming the nodes.
fn not_ready<T>(detail: String, nodes: Vec<String>, hint: &str) -> Answered<T> {
    let problem = Problem::new(code::NODES_NOT_READY, detail).hint(hint);
    Err(Box::new(problem.fact("nodes", nodes)))
}

impl Backend {
    pub(super) async fn form(&self, request: InitRequest) -> Answered<DocumentAnswer> {
        if let Some(newest) = self.control.newest() {
            let newest = DocumentAnswer::of(&newest, false);
            let problem = Problem::new(code::ALREADY_FORMED, "this node belongs to a cluster");
            return Err(Box::new(problem.fact("newest", json(&newest))));
        }
        if self.control.acceptor.lock().await.state().init.is_none() {
            self.nobody_belongs_elsewhere()?;
        }
        let cluster = self.first(&request)?;
        let (document, warnings) =
            Document::first(cluster).map_err(|e| Box::new(Problem::from(e)))?;
        for warning in warnings {
            tracing::warn!(%warning, "the first layout");
        }
        let (control, first) = (self.control.clone(), Sealed::new(document));
        let asked = first.clone();
        let attempt = tokio::task::spawn_local(async move { ballots::form(&control, first).await });
        let outcome = match tokio::time::timeout(ANSWER_WITHIN, attempt).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(ballots::FormError::Silent(Vec::new())),
        };
        match outcome {
            // Also when it was an earlier attempt at the same that was finished.
            Ok(formed) if same_wish(&asked, &formed) => Ok(DocumentAnswer::of(&formed, true)),
            Ok(formed) => {
                let detail = "an earlier init was in force or was finished instead of this one";
                let newest = DocumentAnswer::of(&formed, false);
                let problem = Problem::new(code::ALREADY_FORMED, detail);
                Err(Box::new(problem.fact("newest", json(&newest))))
            }
            Err(ballots::FormError::Outcome(FormingOutcome::Conflict { node, holds })) => {
                let detail = format!(
                    "node {node} holds a document of another cluster, {}; nothing was formed",
                    holds.cluster_id
                );
                not_ready(detail, vec![node.to_string()], WRONG_VOLUME)
            }
            Err(ballots::FormError::Outcome(FormingOutcome::Refused { node, detail, .. })) => {
                problem(code::BAD_REQUEST, format!("node {node}: {detail}"))
            }
            Err(ballots::FormError::Outcome(_)) => {
                problem(code::INTERNAL, "the attempt to form the cluster ended without a result")
            }
            Err(ballots::FormError::Silent(nodes)) => {
                let nodes = nodes.iter().map(ToString::to_string).collect();
                let hint = "see that every named node runs, then send the same request again";
                not_ready("not all named nodes answered".to_string(), nodes, hint)
            }
        }
    }

    fn first(&self, request: &InitRequest) -> Answered<NewCluster> {
        let members = self.named(request)?;
        copies_where_members_are(&members, &request.replication)?;
        let defaults = request.defaults.clone().unwrap_or_default().settings();
        let copies = request.replication.values().sum();
        let bits =
            request.partition_bits.unwrap_or_else(|| layout::suggest_bits(members.len(), copies));
        let mut rng = self.control.rng.borrow_mut();
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        Ok(NewCluster {
            cluster_id: ClusterId::from_random(&mut *rng),
            cluster_name: request.cluster_name.clone(),
            seed: rng.next_u64(),
            token_secret: TokenSecret(secret),
            partition_bits: bits,
            members,
            replication: request.replication.clone(),
            defaults,
        })
    }

    /// The nodes that an init names, by peer address or node id, as gossip knows them.
    fn named(&self, request: &InitRequest) -> Answered<BTreeMap<NodeId, Member>> {
        let now = self.control.now_ms();
        let known = self.control.gossip.borrow().members(now);
        let (mut members, mut unheard) = (BTreeMap::new(), Vec::new());
        for name in &request.nodes {
            let found =
                known.iter().find(|m| m.addresses.peer == *name || m.id.to_string() == *name);
            match found {
                Some(view) => members.insert(view.id, member(view)),
                None => {
                    unheard.push(name.clone());
                    None
                }
            };
        }
        if unheard.is_empty() {
            return Ok(members);
        }
        let hint = "see that they run and that the nodes name each other as seeds, then try again";
        not_ready("gossip has not heard of every named node yet".to_string(), unheard, hint)
    }

    /// A blank node must not form a second cluster beside one that it hears of: a volume of another
    /// cluster would block it for ever, and a node that lost its volume would split its own.
    fn nobody_belongs_elsewhere(&self) -> Answered<()> {
        let known = self.control.gossip.borrow().members(self.control.now_ms());
        let belongs = |m: &&MemberView| !m.cluster.is_nil() || m.document.is_some();
        let formed: Vec<&MemberView> =
            known.iter().filter(|m| !m.me && m.status.is_up()).filter(belongs).collect();
        if formed.is_empty() {
            return Ok(());
        }
        let nodes = formed.iter().map(|m| m.id.to_string()).collect();
        let clusters: BTreeSet<String> =
            formed.iter().filter(|m| !m.cluster.is_nil()).map(|m| m.cluster.to_string()).collect();
        let clusters = clusters.into_iter().collect::<Vec<_>>().join(", ");
        let detail =
            format!("nodes that this one hears of belong to a cluster already: {clusters}");
        not_ready(detail, nodes, WRONG_VOLUME)
    }
}

/// Refuses copies that no document may ask for, and a member in a data center without any: it would own
/// nothing, most likely by a slip in its settings.
fn copies_where_members_are(
    members: &BTreeMap<NodeId, Member>,
    replication: &BTreeMap<String, u32>,
) -> Answered<()> {
    if !(1..=MAX_DATACENTERS).contains(&replication.len()) {
        let detail = format!("`replication` names {} data centers", replication.len());
        let hint = format!("name 1 to {MAX_DATACENTERS}, each with the copies that it keeps");
        return Err(Box::new(Problem::new(code::BAD_REQUEST, detail).hint(hint)));
    }
    let wrong = replication.iter().find(|(_, copies)| !(1..=MAX_REPLICATION).contains(copies));
    if let Some((datacenter, copies)) = wrong {
        let detail = format!("`replication` asks for {copies} copies in data center {datacenter}");
        let hint = format!("a data center keeps 1 to {MAX_REPLICATION} copies");
        return Err(Box::new(Problem::new(code::BAD_REQUEST, detail).hint(hint)));
    }
    let elsewhere = members.iter().find(|(_, m)| !replication.contains_key(&m.datacenter));
    let Some((node, member)) = elsewhere else { return Ok(()) };
    let named = replication.keys().cloned().collect::<Vec<_>>().join(", ");
    let detail = format!(
        "node {node} is in data center {}, and `replication` keeps copies in {named} alone",
        member.datacenter
    );
    let hint = "say in `replication` how many copies its data center keeps, or correct \
                node.datacenter of that node";
    Err(Box::new(Problem::new(code::BAD_REQUEST, detail).hint(hint)))
}

/// Whether two first documents were made from the same request.
fn same_wish(asked: &Document, formed: &Document) -> bool {
    asked.cluster_name == formed.cluster_name
        && asked.replication == formed.replication
        && asked.partition_bits == formed.partition_bits
        && asked.defaults == formed.defaults
        && asked.members.keys().eq(formed.members.keys())
}
