//! Bucket settings as the client port of one worker sees them: read from the view, changed through the
//! control thread, by whoever the admin port would let change the cluster.

use std::sync::Arc;

use futures_util::future::LocalBoxFuture;
use hyper::HeaderMap;
use kvasir_core::admin_api::{BucketAnswer, BucketList, Problem};
use kvasir_core::ring::{BucketName, SettingsChange};

use crate::admin::Access;
use crate::http::buckets::{Buckets, SettingsError};
use crate::replica::{Formed, Views};
use crate::tasks::ballots::ProposeError;
use crate::tasks::{ChangeError, ControlHandle};

/// The settings of all buckets, for one worker.
pub struct Settings {
    /// Document and member list.
    pub views: Arc<Views>,
    /// The control thread.
    pub control: ControlHandle,
    /// Who may change settings on this worker's listener.
    pub access: Access,
}

impl Settings {
    fn formed(&self) -> Result<Arc<Formed>, SettingsError> {
        self.views.load().formed.clone().ok_or(SettingsError::NotFormed)
    }
}

impl Buckets for Settings {
    fn may_change(&self, headers: &HeaderMap) -> Result<(), Box<Problem>> {
        self.access.check(headers)
    }

    fn settings(&self, bucket: BucketName) -> Result<BucketAnswer, SettingsError> {
        Ok(BucketAnswer::of(self.formed()?.ring.document(), bucket))
    }

    fn list(&self) -> Result<BucketList, SettingsError> {
        Ok(BucketList::of(self.formed()?.ring.document()))
    }

    fn change(
        &self,
        bucket: BucketName,
        change: SettingsChange,
    ) -> LocalBoxFuture<'_, Result<BucketAnswer, SettingsError>> {
        Box::pin(async move { self.control.change(bucket, change).await.map_err(told) })
    }
}

/// What the client is told of a failed change.
fn told(error: ChangeError) -> SettingsError {
    match error {
        ChangeError::Refused(refused) => SettingsError::Refused(refused),
        ChangeError::Races(times) => SettingsError::Races(times),
        ChangeError::Busy => SettingsError::Busy,
        ChangeError::Stopping => SettingsError::Stopping,
        ChangeError::Propose(ProposeError::NoCluster) => SettingsError::NotFormed,
        ChangeError::Propose(ProposeError::NoMajority { may_be_chosen }) => {
            SettingsError::NoMajority { may_be_chosen }
        }
        ChangeError::Propose(ProposeError::Illegal { code, detail }) => {
            SettingsError::Illegal { rule: code, detail }
        }
        ChangeError::Propose(ProposeError::Stale(_)) => SettingsError::Races(1),
        ChangeError::Propose(error @ ProposeError::Fork(_)) => {
            SettingsError::Internal(error.to_string())
        }
    }
}
