//! Sends one request to several owners and hands back what they say, in order of arrival.
//!
//! Each send is a task of its own that lives until its owner answered or the deadline passed, also
//! when the request was answered before: late acknowledgements still complete the write. The number
//! of tasks is bounded by the number of owners, their time by the deadline.

use std::rc::Rc;

use kvasir_core::id::NodeId;
use kvasir_core::version::SiblingSet;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Coordinate;
use super::plan::Plan;
use super::request::Durability;
use crate::peer::{Refusal, Reply, Request};

/// What one owner said.
pub type Said<T> = (NodeId, Result<T, Failure>);

/// Why an owner did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was applied there.
    NotApplied(String),
    /// It may have been applied.
    Unknown(String),
    /// Its disk takes no writes; nothing was applied.
    DiskFull,
}

/// Answers as they come.
pub struct Answers<T> {
    sender: mpsc::UnboundedSender<Said<T>>,
    receiver: mpsc::UnboundedReceiver<Said<T>>,
    deadline: Instant,
}

impl<T: 'static> Answers<T> {
    /// Nobody was asked yet.
    pub fn until(deadline: Instant) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { sender, receiver, deadline }
    }

    /// Asks in a task of its own.
    pub fn ask(&self, node: NodeId, call: impl Future<Output = Result<T, Failure>> + 'static) {
        let sender = self.sender.clone();
        let deadline = self.deadline;
        tokio::task::spawn_local(async move {
            let said = match tokio::time::timeout_at(deadline, call).await {
                Ok(said) => said,
                Err(_) => Err(Failure::Unknown("no answer before the deadline".to_string())),
            };
            // Nobody listens any more when the request was answered before.
            let _ = sender.send((node, said));
        });
    }

    /// The next answer, or nothing at the given time.
    pub async fn next(&mut self, until: Instant) -> Option<Said<T>> {
        tokio::time::timeout_at(until, self.receiver.recv()).await.ok().flatten()
    }
}

impl Coordinate {
    /// Has an owner merge a set.
    pub fn send_merge(
        &self,
        plan: &Rc<Plan>,
        node: NodeId,
        set: &Rc<SiblingSet>,
        durability: Durability,
        answers: &Answers<()>,
    ) {
        let (this, plan, set) = (self.clone(), plan.clone(), set.clone());
        let deadline = answers.deadline;
        answers.ask(node, async move {
            if node == plan.view.me {
                return this.merge_here(&plan, &set, durability).await;
            }
            let request = Request::Apply {
                bucket: plan.bucket.clone(),
                key: plan.key.clone(),
                delta: set.encode().into(),
                durability,
            };
            match this.call(&plan, node, request, deadline).await? {
                Reply::Applied => Ok(()),
                other => Err(Failure::Unknown(format!("unexpected answer {}", other.name()))),
            }
        });
    }

    async fn merge_here(
        &self,
        plan: &Plan,
        set: &SiblingSet,
        durability: Durability,
    ) -> Result<(), Failure> {
        let merged = self.replica.merge(&plan.table_key, set.clone(), durability).await;
        let applied = merged.map_err(|e| Failure::NotApplied(e.to_string()))?;
        applied.durable.await.map_err(|e| Failure::Unknown(e.to_string()))
    }

    /// Asks an owner for its set.
    pub fn send_read(&self, plan: &Rc<Plan>, node: NodeId, answers: &Answers<SiblingSet>) {
        let (this, plan) = (self.clone(), plan.clone());
        let deadline = answers.deadline;
        answers.ask(node, async move {
            if node == plan.view.me {
                let read = this.replica.read(&plan.table_key).await;
                return read.map_err(|e| Failure::NotApplied(e.to_string()));
            }
            let request = Request::Read { bucket: plan.bucket.clone(), key: plan.key.clone() };
            match this.call(&plan, node, request, deadline).await? {
                Reply::Set(bytes) => SiblingSet::decode(&bytes)
                    .map_err(|e| Failure::NotApplied(format!("an unreadable set: {e}"))),
                other => Err(Failure::NotApplied(format!("unexpected answer {}", other.name()))),
            }
        });
    }

    /// One call to another node, its refusals sorted into [`Failure`].
    pub(super) async fn call(
        &self,
        plan: &Plan,
        node: NodeId,
        request: Request,
        deadline: Instant,
    ) -> Result<Reply, Failure> {
        let Some(address) = plan.view.reachable(node) else {
            return Err(Failure::NotApplied("the node is down".to_string()));
        };
        let reply = self.peers.call(node, address, plan.route, request, deadline).await;
        match reply {
            Ok(Reply::Refused(Refusal::DiskFull)) => Err(Failure::DiskFull),
            Ok(Reply::Refused(why)) if why.not_applied() => {
                Err(Failure::NotApplied(why.to_string()))
            }
            Ok(Reply::Refused(why)) => Err(Failure::Unknown(why.to_string())),
            Ok(reply) => Ok(reply),
            Err(error) if error.not_applied() => Err(Failure::NotApplied(error.to_string())),
            Err(error) => Err(Failure::Unknown(error.to_string())),
        }
    }
}
