//! Changes of bucket settings on the control thread: planned on the newest document, brought in by
//! ballot, planned anew when another change was faster.
//!
//! Workers hand them over through [`super::ControlHandle`]. A change runs in a task of its own: a client
//! that goes away must not stop a round half-way. Those that wait are bounded by the queue, and one runs
//! at a time, since they would only outbid each other.

use std::rc::Rc;

use kvasir_core::admin_api::BucketAnswer;
use kvasir_core::ring::buckets::{Declared, declare};
use kvasir_core::ring::{BucketName, BucketRefused, Sealed, SettingsChange};
use tokio::sync::{mpsc, oneshot};

use super::ballots::{self, ProposeError};
use super::control::Control;

/// How often a change is planned anew after another one was faster.
const RACES_MAX: u32 = 5;

/// Why settings did not change.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChangeError {
    /// No such settings can be. Nothing was changed; the same change is refused again.
    #[error(transparent)]
    Refused(#[from] BucketRefused),
    /// The ballot did not bring it in; the variant says whether it still may be.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// Other changes were faster so many times. Nothing was changed; a retry helps.
    #[error("other changes of the cluster were faster {0} times in a row")]
    Races(u32),
    /// Too many changes wait. Nothing was changed; a retry helps in a moment.
    #[error("too many changes of settings are waiting")]
    Busy,
    /// The node is stopping. Nothing was changed; another node can do it.
    #[error("the node is stopping")]
    Stopping,
}

/// A change on its way to the control thread.
pub struct Asked {
    bucket: BucketName,
    change: SettingsChange,
    reply: oneshot::Sender<Result<BucketAnswer, ChangeError>>,
}

/// Hands a change over and waits for what comes of it.
pub(super) async fn ask(
    queue: &mpsc::Sender<Asked>,
    bucket: BucketName,
    change: SettingsChange,
) -> Result<BucketAnswer, ChangeError> {
    let (reply, answer) = oneshot::channel();
    match queue.try_send(Asked { bucket, change, reply }) {
        Ok(()) => {
            answer.await.unwrap_or(Err(ProposeError::NoMajority { may_be_chosen: true }.into()))
        }
        Err(mpsc::error::TrySendError::Full(_)) => Err(ChangeError::Busy),
        Err(mpsc::error::TrySendError::Closed(_)) => Err(ChangeError::Stopping),
    }
}

/// Carries out changes, one after the other, until nobody can ask any more.
pub(super) async fn run(control: Rc<Control>, mut queue: mpsc::Receiver<Asked>) {
    while let Some(Asked { bucket, change, reply }) = queue.recv().await {
        let outcome = carry_out(&control, &bucket, &change).await;
        match &outcome {
            Ok(answer) => {
                tracing::info!(%bucket, epoch = answer.epoch, "bucket settings in force");
            }
            Err(error) => tracing::warn!(%bucket, %error, "bucket settings did not change"),
        }
        // Whoever asked may have gone.
        let _ = reply.send(outcome);
    }
}

async fn carry_out(
    control: &Rc<Control>,
    bucket: &BucketName,
    change: &SettingsChange,
) -> Result<BucketAnswer, ChangeError> {
    for _ in 0..RACES_MAX {
        let newest = control.newest().ok_or(ProposeError::NoCluster)?;
        let child = match declare(&newest, bucket, change)? {
            Declared::InForce => return Ok(BucketAnswer::of(&newest, bucket.clone())),
            Declared::Child(child) => child,
        };
        match ballots::propose(control, Sealed::new(*child)).await {
            Ok(chosen) => return Ok(BucketAnswer::of(&chosen, bucket.clone())),
            Err(ProposeError::Stale(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(ChangeError::Races(RACES_MAX))
}
