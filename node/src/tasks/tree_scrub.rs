//! Looks at the tree chunk by chunk: at once at what is in doubt, and at everything else once per interval,
//! by reading the data and comparing. A leaf that is wrong is counted, named and mended.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use kvasir_core::merkle::rest_ms;
use tokio::time::Instant;

use super::repairs::Repairs;
use crate::replica::{LookError, Replica};

/// Longest wait between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// A chunk that could not be read waits this long.
const AGAIN: Duration = Duration::from_secs(10);

/// The loop and what it works with.
pub struct TreeScrub {
    /// The local side.
    pub replica: Arc<Replica>,
    /// What admin and metrics see.
    pub repairs: Arc<Repairs>,
    /// Everything is looked at once in this time; zero: only what is in doubt.
    pub interval: Duration,
    /// Requests of clients that this node ever worked on.
    pub served: Rc<dyn Fn() -> u64>,
}

impl TreeScrub {
    /// Runs until the node stops.
    pub async fn run(self) {
        let trees = self.replica.trees();
        let chunks = trees.tree().chunk_count();
        let (mut routine, mut doubtful) = (0, 0);
        let mut next = Instant::now() + self.pause(chunks);
        loop {
            trees.doubt_lost(self.replica.store());
            if let (_, Some(chunk)) = trees.tree().doubtful(doubtful) {
                // A chunk that stays in doubt must not keep the others waiting.
                doubtful = (chunk + 1) % chunks;
                self.look(chunk).await;
                continue;
            }
            if doubtful != 0 {
                let stays = trees.tree().doubtful(0).1.is_some();
                doubtful = 0;
                if stays {
                    tokio::time::sleep(AGAIN).await;
                    continue;
                }
            }
            if self.interval.is_zero() || Instant::now() < next {
                tokio::time::sleep(LOOK.min(self.pause(chunks)).max(LOOK / 100)).await;
                continue;
            }
            next += self.pause(chunks);
            self.look(routine).await;
            routine = (routine + 1) % chunks;
        }
    }

    /// From one chunk to the next.
    fn pause(&self, chunks: u32) -> Duration {
        if self.interval.is_zero() { LOOK } else { self.interval / chunks }
    }

    async fn look(&self, chunk: u32) {
        let (trees, begun, served) = (self.replica.trees(), Instant::now(), (self.served)());
        let node = trees.tree().chunk_node(chunk);
        match trees.look(self.replica.store(), chunk).await {
            Ok(looked) if !looked.rebuilt && !looked.wrong.is_empty() => {
                let leaves: Vec<String> = looked
                    .wrong
                    .iter()
                    .map(|leaf| format!("{}/{}", leaf.depth, leaf.index))
                    .collect();
                let first = leaves[..leaves.len().min(8)].join(" ");
                tracing::warn!(
                    leaves = leaves.len(),
                    first,
                    "leaves of the hash tree were wrong and are mended"
                );
            }
            Ok(_) => {}
            Err(LookError::NoKey) => tokio::time::sleep(LOOK).await,
            Err(error) => {
                tracing::debug!(depth = node.depth, index = node.index, %error, "a part of the tree stays in doubt");
            }
        }
        let took_ms = begun.elapsed().as_millis() as u64;
        let rest = rest_ms(took_ms, (self.served)().wrapping_sub(served));
        // At least one turn for others, whatever the look took.
        tokio::time::sleep(Duration::from_millis(rest.max(1))).await;
    }
}
