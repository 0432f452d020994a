//! The processes of a local cluster together: start, form, wait until ready, stop.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use kvasir_core::admin_api::{Problem, Status, problem::code, routes};
use kvasir_core::id::NodeId;
use tokio::time::Instant;

use super::child::{Life, Node};
use super::links::Links;
use super::plan::{NodePlan, Shape, joined};
use crate::cli::client::{Ask, Bounds, Client, Repeat};
use crate::cli::failure::{Exit, Failure};
use crate::cli::{output, servers};

/// How long a cluster may take until it is ready.
const START: Duration = Duration::from_secs(60);
/// How long one node may take to stop by itself.
const STOP: Duration = Duration::from_secs(10);
/// Pause between two looks at a node that is not ready.
const LOOK: Duration = Duration::from_millis(100);

/// A local cluster.
pub struct Cluster {
    /// The nodes by number.
    pub nodes: Vec<Node>,
    plans: Vec<NodePlan>,
    settings: Vec<String>,
    /// Node ids by number, once all nodes have said theirs.
    ids: Vec<NodeId>,
    links: Links,
}

impl Cluster {
    /// A cluster of which nothing runs yet.
    pub fn new(plans: Vec<NodePlan>, settings: Vec<String>) -> Self {
        let nodes = plans.iter().cloned().map(Node::new).collect();
        Self { nodes, plans, settings, ids: Vec::new(), links: Links::default() }
    }

    /// Starts all nodes, forms the cluster unless it was formed before, and waits for all.
    pub async fn bring_up(&mut self, shape: &mut Shape, marker: &Path) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        for number in 0..self.nodes.len() {
            self.start(number).await?;
        }
        eprintln!("starting {} nodes ...", self.nodes.len());
        for number in 0..self.nodes.len() {
            self.wait(number, deadline, routes::STATUS).await?;
        }
        if !shape.formed {
            eprintln!("forming the cluster ...");
            self.form(shape, deadline).await?;
            shape.formed = true;
            save(shape, marker)?;
        }
        for number in 0..self.nodes.len() {
            self.wait(number, deadline, routes::READYZ).await?;
        }
        self.ids = self.ask_ids().await?;
        self.wait_for_each_other(deadline).await
    }

    /// Starts one node, with the links that it has now.
    pub async fn start(&mut self, number: usize) -> Result<(), Failure> {
        self.nodes[number].start(&self.plans, &self.settings)?;
        let orders = self.links.orders(number, &self.ids);
        self.nodes[number].order(&orders).await;
        Ok(())
    }

    async fn ask_ids(&self) -> Result<Vec<NodeId>, Failure> {
        let mut ids = Vec::new();
        for plan in &self.plans {
            let client = admin(std::slice::from_ref(plan), Duration::from_secs(5))?;
            let reply = client.ask(&Ask::get(routes::STATUS)).await?;
            let status = serde_json::from_slice::<Status>(&reply.body).map_err(|error| {
                let what = format!("the status of node {} cannot be read: {error}", plan.number);
                Failure::error(what, "report this")
            })?;
            ids.push(status.answered_by);
        }
        Ok(ids)
    }

    /// The number of a node by its id.
    pub fn number_of(&self, id: &str) -> Option<usize> {
        self.ids.iter().position(|known| known.to_string() == id)
    }

    /// The links as they are.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Makes the links so, on every node that runs.
    pub async fn link(&mut self, links: Links) {
        self.links = links;
        for number in 0..self.nodes.len() {
            let orders = self.links.orders(number, &self.ids);
            self.nodes[number].order(&orders).await;
        }
    }

    /// Waits until a node answers a path of its admin port with 200.
    pub async fn wait(
        &mut self,
        number: usize,
        deadline: Instant,
        path: &str,
    ) -> Result<(), Failure> {
        let client = admin(&self.plans[number..=number], Duration::from_secs(2))?;
        let mut last = String::from("it never answered");
        while Instant::now() < deadline {
            if let Some(status) = self.nodes[number].ended() {
                return Err(self.died(number, &format!("ended with {status}")));
            }
            match client.ask(&Ask::get(path)).await {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => last = String::from_utf8_lossy(&reply.body).trim().to_owned(),
                Err(failure) => last = failure.message,
            }
            tokio::time::sleep(LOOK).await;
        }
        Err(self.died(number, &format!("is not ready after {}: {last}", output::age(START))))
    }

    fn died(&self, number: usize, what: &str) -> Failure {
        let node = &self.nodes[number];
        Failure::error(
            format!("node {number} {what}\n{}", node.last_words().trim_end()),
            format!("`kvasir dev --keep DIR` keeps the whole log in DIR/node-{number}/log"),
        )
    }

    async fn form(&self, shape: &Shape, deadline: Instant) -> Result<(), Failure> {
        let client = admin(&self.plans[..1], Duration::from_secs(15))?;
        let body = serde_json::to_vec(&shape.init(&self.plans)).map_err(|error| {
            Failure::error(format!("the init request has no JSON form: {error}"), "report this")
        })?;
        let ask = Ask {
            method: Method::POST,
            target: routes::INIT.to_owned(),
            headers: vec![("content-type", "application/json".to_owned())],
            body: Bytes::from(body),
            repeat: Repeat::Always,
        };
        loop {
            let failure = match client.ask(&ask).await {
                Ok(reply) if reply.status == 200 => return Ok(()),
                Ok(reply) => {
                    let problem = serde_json::from_slice::<Problem>(&reply.body).ok();
                    if problem.is_some_and(|problem| problem.code == code::ALREADY_FORMED) {
                        return Ok(());
                    }
                    reply.failure()
                }
                Err(failure) => failure,
            };
            // The other nodes may not be listening yet, or not have heard of each other.
            if failure.exit != Exit::Unavailable || Instant::now() + LOOK >= deadline {
                return Err(failure);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until every node that runs sees every other one that runs and that it can reach: a node that has just started
    /// is ready before it heard of the others, and would find no quorum.
    pub async fn wait_for_each_other(&self, deadline: Instant) -> Result<(), Failure> {
        let running = self.nodes.iter().filter(|node| node.life() == Life::Running);
        let running: Vec<&NodePlan> = running.map(|node| &node.plan).collect();
        loop {
            let mut complete = true;
            for plan in &running {
                let linked = |other: &&&NodePlan| {
                    self.links.connect(usize::from(plan.number), usize::from(other.number))
                };
                let expected = running.iter().filter(linked).count();
                let client = admin(std::slice::from_ref(*plan), Duration::from_secs(2))?;
                let reply = client.ask(&Ask::get(routes::STATUS)).await.ok();
                let status = reply.and_then(|r| serde_json::from_slice::<Status>(&r.body).ok());
                let up = |s: &Status| s.nodes.iter().filter(|node| node.liveness.is_up()).count();
                complete &= status.is_some_and(|status| up(&status) >= expected);
            }
            if complete {
                return Ok(());
            }
            if Instant::now() + LOOK >= deadline {
                return Err(Failure::new(
                    Exit::Unavailable,
                    "the nodes run, but do not see each other by gossip",
                    "run `kvasir dev --keep DIR` and read DIR/node-0/log",
                ));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Nodes that ended by themselves since the last call, with how.
    pub fn ended(&mut self) -> Vec<(usize, String)> {
        let mut ended = Vec::new();
        for (number, node) in self.nodes.iter_mut().enumerate() {
            if let Some(status) = node.ended() {
                ended.push((number, status.to_string()));
            }
        }
        ended
    }

    /// Stops all nodes, those that do not stop in time by force. Says how many needed force.
    pub async fn stop(&mut self) -> usize {
        let stopping = self.nodes.iter_mut().map(|node| node.stop(STOP));
        join_all(stopping).await.into_iter().filter(|stopped| !stopped).count()
    }

    /// Admin URLs of the nodes that run, for commands that ask any of them.
    pub fn admin_urls(&self) -> String {
        let running = self.nodes.iter().filter(|node| node.life() == Life::Running);
        let plans: Vec<NodePlan> = running.map(|node| node.plan.clone()).collect();
        joined(&plans, NodePlan::admin_url)
    }

    /// The nodes as a table.
    pub fn table(&self) -> String {
        let rows = self.nodes.iter().map(|node| {
            let plan = &node.plan;
            let state = match node.life() {
                Life::Running => "running",
                Life::Paused => "paused",
                Life::Gone => "gone",
            };
            let zone = if plan.zone.is_empty() { "-" } else { &plan.zone };
            vec![
                plan.number.to_string(),
                state.to_owned(),
                plan.http_url(),
                plan.admin_url(),
                plan.peer_address(),
                zone.to_owned(),
                plan.datacenter.clone(),
                node.pid().map_or("-".into(), |pid| pid.to_string()),
                plan.log().display().to_string(),
            ]
        });
        let titles = ["NODE", "STATE", "HTTP", "ADMIN", "PEERS", "ZONE", "DC", "PID", "LOG"];
        let mut text = output::table(&titles, &[0, 7], rows.collect());
        for line in self.links.describe() {
            text.push('\n');
            text.push_str(&line);
        }
        text
    }
}

/// Writes the shape of a cluster into its folder.
pub fn save(shape: &Shape, marker: &Path) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(shape).unwrap_or_default();
    std::fs::write(marker, text).map_err(|error| {
        Failure::error(
            format!("{} cannot be written: {error}", marker.display()),
            "choose a folder that can be written with --keep DIR",
        )
    })
}

fn admin(plans: &[NodePlan], total: Duration) -> Result<Client, Failure> {
    let servers = servers::parse("--admin", &joined(plans, NodePlan::admin_url), 0)?;
    Ok(Client::new("--admin", servers, Bounds { total, attempt: total, tries: 1 }))
}
