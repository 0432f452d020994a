//! Maintenance in virtual time: jobs of a node run as scheduled events, so that a crash can fall
//! between an append and its sync.
//!
//! One local task per lane takes the jobs in order; before each it sleeps as long as the node's disk
//! says a job of that lane takes. Dropping the tasks (a crash) drops the jobs.

use kvasir_storage::MemoryDisk;
use kvasir_storage::maintenance::{Job, Lane, Maintenance};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Jobs by lane, on their way to the tasks that run them.
pub struct Lanes {
    senders: Vec<(Lane, UnboundedSender<Job>)>,
}

impl Lanes {
    /// Starts the tasks on the current `LocalSet`.
    pub fn start(disk: &MemoryDisk) -> Self {
        let mut senders = Vec::new();
        for lane in Lane::ALL {
            let (sender, receiver) = unbounded_channel();
            tokio::task::spawn_local(run(lane, disk.clone(), receiver));
            senders.push((lane, sender));
        }
        Self { senders }
    }
}

impl Maintenance for Lanes {
    fn submit(&self, lane: Lane, job: Job) {
        if let Some((_, sender)) = self.senders.iter().find(|(l, _)| *l == lane) {
            // Closed only when the node has crashed: then the job is lost with it.
            drop(sender.send(job));
        }
    }
}

async fn run(lane: Lane, disk: MemoryDisk, mut jobs: UnboundedReceiver<Job>) {
    while let Some(job) = jobs.recv().await {
        let pause = Duration::from_millis(disk.latency_ms(lane));
        if lane == Lane::Read {
            tokio::task::spawn_local(async move {
                tokio::time::sleep(pause).await;
                job();
            });
        } else {
            tokio::time::sleep(pause).await;
            job();
        }
    }
}
