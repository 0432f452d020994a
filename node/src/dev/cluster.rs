//! The processes of a local cluster together: start, form, wait until ready, stop.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use hyper::Method;
use kvasir_core::admin_api::{DocumentAnswer, Problem, Status, problem::code, routes};
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
/// A node that is not ready for so long may be one that has left.
const DOUBT: Duration = Duration::from_secs(5);
/// Pause between two looks at a node that is not ready.
const LOOK: Duration = Duration::from_millis(100);

/// File in the folder of a cluster that tells its shape.
const MARKER: &str = "kvasir-dev.json";

/// A local cluster.
pub struct Cluster {
    /// The nodes by number; those that left stay in their places and never run again.
    pub nodes: Vec<Node>,
    /// What it consists of.
    pub shape: Shape,
    plans: Vec<NodePlan>,
    base: u16,
    folder: PathBuf,
    settings: Vec<String>,
    /// Node ids by number, once all nodes have said theirs.
    ids: Vec<NodeId>,
    links: Links,
}

impl Cluster {
    /// A cluster of which nothing runs yet, with ports from `base` on.
    pub fn new(
        shape: Shape,
        base: u16,
        folder: &Path,
        settings: Vec<String>,
    ) -> Result<Self, Failure> {
        let plans = shape.plan(base, folder)?;
        let nodes = plans.iter().cloned().map(Node::new).collect();
        let (folder, ids) = (folder.to_path_buf(), vec![NodeId::nil(); plans.len()]);
        let links = Links::default();
        Ok(Self { nodes, shape, plans, base, folder, settings, ids, links })
    }

    /// The shape that a folder tells of, if there is one.
    pub fn shape_in(folder: &Path) -> Result<Option<Shape>, Failure> {
        let marker = folder.join(MARKER);
        let Ok(text) = std::fs::read(&marker) else { return Ok(None) };
        serde_json::from_slice(&text).map(Some).map_err(|error| {
            Failure::error(
                format!("{} cannot be read: {error}", marker.display()),
                "choose another folder with --keep DIR",
            )
        })
    }

    /// Writes the shape into the folder.
    pub fn save(&self) -> Result<(), Failure> {
        let marker = self.folder.join(MARKER);
        let text = serde_json::to_string_pretty(&self.shape).unwrap_or_default();
        std::fs::write(&marker, text).map_err(|error| {
            Failure::error(
                format!("{} cannot be written: {error}", marker.display()),
                "choose a folder that can be written with --keep DIR",
            )
        })
    }

    /// The numbers of the nodes that there are, running or not.
    pub fn numbers(&self) -> BTreeSet<usize> {
        let left = |number: &usize| self.shape.removed.contains(&(*number as u16));
        (0..self.nodes.len()).filter(|number| !left(number)).collect()
    }

    /// The plans of the nodes that there are.
    pub fn plans(&self) -> Vec<NodePlan> {
        self.numbers().into_iter().map(|number| self.plans[number].clone()).collect()
    }

    /// Starts all nodes, forms the cluster unless it was formed before, and waits for all.
    pub async fn bring_up(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + START;
        let numbers = self.numbers();
        for number in &numbers {
            self.start(*number).await?;
        }
        eprintln!("starting {} nodes ...", numbers.len());
        for number in &numbers {
            self.wait(*number, deadline, routes::STATUS).await?;
            self.ids[*number] = self.ask_id(*number).await?;
        }
        if !self.shape.formed {
            eprintln!("forming the cluster ...");
            self.form(deadline).await?;
            self.shape.formed = true;
            self.save()?;
        }
        for number in &numbers {
            self.ready_or_left(*number, deadline).await?;
        }
        self.wait_for_each_other(deadline).await
    }

    /// Waits until a node is ready, or finds that it has left: `kvasir dev` may have ended in the moment between
    /// that and the end of its process.
    async fn ready_or_left(&mut self, number: usize, deadline: Instant) -> Result<(), Failure> {
        loop {
            let soon = deadline.min(Instant::now() + DOUBT);
            match self.wait(number, soon, routes::READYZ).await {
                Err(_) if self.has_left(number).await => {
                    eprintln!("node {number} has left the cluster: it is not started any more");
                    return self.retire(number).await.map(drop);
                }
                Err(_) if soon < deadline && self.nodes[number].life() == Life::Running => {}
                other => return other,
            }
        }
    }

    /// Whether the document of another node does not name this one.
    async fn has_left(&self, number: usize) -> bool {
        let asked = async {
            let client = self.admin_beside(number, Duration::from_secs(5)).ok()?;
            let reply = client.ask(&Ask::get(routes::DOCUMENT)).await.ok()?;
            let answer = serde_json::from_slice::<DocumentAnswer>(&reply.body).ok()?;
            let members = answer.document["members"].as_object()?.clone();
            Some(!members.contains_key(&self.ids[number].to_string()))
        };
        asked.await.unwrap_or(false)
    }

    /// Stops a node that has left, for good. True when it stopped by itself.
    pub async fn retire(&mut self, number: usize) -> Result<bool, Failure> {
        self.shape.removed.insert(number as u16);
        self.save()?;
        Ok(self.nodes[number].stop(STOP).await)
    }

    /// Makes a place for one more node, which does not run yet. Its number.
    pub fn grow(&mut self) -> Result<usize, Failure> {
        let shape = Shape { nodes: self.shape.nodes + 1, ..self.shape.clone() };
        shape.check()?;
        let plans = shape.plan(self.base, &self.folder)?;
        let number = self.nodes.len();
        self.nodes.push(Node::new(plans[number].clone()));
        (self.plans, self.shape) = (plans, shape);
        self.ids.push(NodeId::nil());
        Ok(number)
    }

    /// Takes the place of the last node back, which has joined nothing.
    pub async fn shrink(&mut self) {
        if let Some(mut node) = self.nodes.pop() {
            node.kill().await;
            self.shape.nodes -= 1;
            self.plans.pop();
            self.ids.pop();
        }
    }

    /// Starts one node, with the links that it has now.
    pub async fn start(&mut self, number: usize) -> Result<(), Failure> {
        self.nodes[number].start(&self.plans, &self.settings)?;
        let orders = self.links.orders(number, &self.ids);
        self.nodes[number].order(&orders).await;
        Ok(())
    }

    /// Asks a node that answers its admin port for its id, and remembers it.
    pub async fn meet(&mut self, number: usize) -> Result<NodeId, Failure> {
        self.ids[number] = self.ask_id(number).await?;
        Ok(self.ids[number])
    }

    async fn ask_id(&self, number: usize) -> Result<NodeId, Failure> {
        let client = admin(&self.plans[number..=number], Duration::from_secs(5))?;
        let reply = client.ask(&Ask::get(routes::STATUS)).await?;
        let status = serde_json::from_slice::<Status>(&reply.body).map_err(|error| {
            let what = format!("the status of node {number} cannot be read: {error}");
            Failure::error(what, "report this")
        })?;
        Ok(status.answered_by)
    }

    /// The id of a node.
    pub fn id_of(&self, number: usize) -> NodeId {
        self.ids[number]
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

    async fn form(&self, deadline: Instant) -> Result<(), Failure> {
        let client = admin(&self.plans[..1], Duration::from_secs(15))?;
        let body = serde_json::to_vec(&self.shape.init(&self.plans)).map_err(|error| {
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

    /// A client of the admin ports of the nodes that run, but for one; `total` is the time for one question.
    pub fn admin_beside(&self, number: usize, total: Duration) -> Result<Client, Failure> {
        let others = self
            .nodes
            .iter()
            .filter(|node| node.life() == Life::Running && usize::from(node.plan.number) != number);
        let plans: Vec<NodePlan> = others.map(|node| node.plan.clone()).collect();
        let servers = servers::parse("--admin", &joined(&plans, NodePlan::admin_url), 0)?;
        let tries = servers.len() as u32;
        let bounds = Bounds { total, attempt: total / 3, tries };
        Ok(Client::new("--admin", servers, bounds))
    }

    /// The nodes as a table.
    pub fn table(&self) -> String {
        let numbers = self.numbers();
        let rows = numbers.iter().map(|number| {
            let node = &self.nodes[*number];
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

fn admin(plans: &[NodePlan], total: Duration) -> Result<Client, Failure> {
    let servers = servers::parse("--admin", &joined(plans, NodePlan::admin_url), 0)?;
    Ok(Client::new("--admin", servers, Bounds { total, attempt: total, tries: 1 }))
}
