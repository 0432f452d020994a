//! Leader election by a `Lease`: of several operator processes one writes.
//!
//! What the lease says about time is never compared with this machine's clock. A rival's lease is
//! over when it was seen unchanged for its whole duration, measured here; our own is over some
//! seconds before a rival could think so. Even so it is only a fence against needless work: the
//! real fence is the resourceVersion under which the journal is written.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, PostParams};

/// After this long without a renewal anyone may take the lease.
const DURATION: Duration = Duration::from_secs(15);
/// How long a renewal lets us write, from the moment it was asked for.
const HELD: Duration = Duration::from_secs(10);
/// Pause between two tries.
const PAUSE: Duration = Duration::from_secs(3);
/// Deadline of one try.
const TRY: Duration = Duration::from_secs(5);

/// Until when this process may write. Cheap to ask.
#[derive(Debug, Clone, Default)]
pub struct Held(Arc<Mutex<Option<Instant>>>);

impl Held {
    /// Whether it may write now.
    pub fn now(&self, now: Instant) -> bool {
        self.0.lock().is_ok_and(|until| until.is_some_and(|until| now < until))
    }

    fn until(&self, until: Option<Instant>) {
        if let Ok(mut held) = self.0.lock() {
            *held = until;
        }
    }
}

/// What to do about a lease that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Make it or take it over.
    Take,
    /// It is ours: renew it.
    Renew,
    /// It is another's.
    Wait,
}

/// What a candidate remembers of the lease: the last state that it saw, and since when.
#[derive(Debug, Default)]
pub struct Watched {
    last: Option<(String, Option<MicroTime>, Instant)>,
}

impl Watched {
    /// Judges the lease as it is now.
    pub fn decide(&mut self, lease: Option<&LeaseSpec>, me: &str, now: Instant) -> Decision {
        let Some(lease) = lease else { return Decision::Take };
        let holder = lease.holder_identity.clone().unwrap_or_default();
        if holder == me {
            return Decision::Renew;
        }
        if holder.is_empty() {
            return Decision::Take;
        }
        let seen = (holder, lease.renew_time.clone());
        match &self.last {
            Some((holder, renewed, since)) if (holder, renewed) == (&seen.0, &seen.1) => {
                let seconds = lease.lease_duration_seconds.and_then(|s| u64::try_from(s).ok());
                let lasts = seconds.map_or(DURATION, Duration::from_secs);
                if now.duration_since(*since) > lasts { Decision::Take } else { Decision::Wait }
            }
            _ => {
                self.last = Some((seen.0, seen.1, now));
                Decision::Wait
            }
        }
    }
}

/// A candidate for the lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    me: String,
    held: Held,
}

impl Candidate {
    /// A candidate under the name `me`, which no other process may bear.
    pub fn new(client: Client, namespace: &str, name: &str, me: &str) -> Self {
        let api = Api::namespaced(client, namespace);
        Self { api, name: name.to_owned(), me: me.to_owned(), held: Held::default() }
    }

    /// Whether it holds the lease.
    pub fn held(&self) -> Held {
        self.held.clone()
    }

    /// Waits until the lease is ours.
    pub async fn win(&self) {
        let mut watched = Watched::default();
        while !self.attempt(&mut watched).await {
            tokio::time::sleep(PAUSE).await;
        }
        tracing::info!(lease = %self.name, me = %self.me, "holds the lease");
    }

    /// Renews it and returns when it is lost: then the process ends, so that nothing of what it had
    /// in mind goes on.
    pub async fn keep(&self) {
        let mut watched = Watched::default();
        while self.held.now(Instant::now()) {
            tokio::time::sleep(PAUSE).await;
            self.attempt(&mut watched).await;
        }
        tracing::error!(lease = %self.name, "lost the lease");
    }

    /// Gives it up, so that a successor need not wait.
    pub async fn release(&self) {
        self.held.until(None);
        let Ok(Ok(Some(mut lease))) = tokio::time::timeout(TRY, self.api.get_opt(&self.name)).await
        else {
            return;
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() == Some(&self.me) {
            spec.holder_identity = Some(String::new());
            let params = PostParams::default();
            let released = self.api.replace(&self.name, &params, &lease);
            if let Ok(Err(error)) = tokio::time::timeout(TRY, released).await {
                tracing::warn!(%error, "the lease was not given up: it runs out by itself");
            }
        }
    }

    async fn attempt(&self, watched: &mut Watched) -> bool {
        let began = Instant::now();
        match tokio::time::timeout(TRY, self.try_once(watched)).await {
            Ok(Ok(true)) => {
                self.held.until(Some(began + HELD));
                return true;
            }
            Ok(Ok(false)) => self.held.until(None),
            Ok(Err(error)) => {
                tracing::warn!(%error, lease = %self.name, "the lease was not renewed")
            }
            Err(_) => {
                tracing::warn!(lease = %self.name, "the API server is slow to renew the lease")
            }
        }
        false
    }

    /// Whether the lease is ours afterwards. Another's write in between is a conflict: not ours.
    async fn try_once(&self, watched: &mut Watched) -> Result<bool, kube::Error> {
        let lease = self.api.get_opt(&self.name).await?;
        let spec = lease.as_ref().and_then(|lease| lease.spec.as_ref());
        let decision = watched.decide(spec, &self.me, Instant::now());
        if decision == Decision::Wait {
            return Ok(false);
        }
        let now = MicroTime(Timestamp::now());
        let taken = decision == Decision::Take;
        let old = spec.cloned().unwrap_or_default();
        let spec = LeaseSpec {
            holder_identity: Some(self.me.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            renew_time: Some(now.clone()),
            acquire_time: if taken { Some(now) } else { old.acquire_time },
            lease_transitions: Some(old.lease_transitions.unwrap_or(0) + i32::from(taken)),
            ..LeaseSpec::default()
        };
        let written = match lease {
            Some(mut lease) => {
                lease.spec = Some(spec);
                self.api.replace(&self.name, &PostParams::default(), &lease).await
            }
            None => {
                let name = Some(self.name.clone());
                let metadata = ObjectMeta { name, ..ObjectMeta::default() };
                let lease = Lease { metadata, spec: Some(spec) };
                self.api.create(&PostParams::default(), &lease).await
            }
        };
        match written {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            renew_time: Timestamp::from_second(renewed).ok().map(MicroTime),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_free_lease_is_taken_and_our_own_is_renewed() {
        let now = Instant::now();
        let mut watched = Watched::default();
        assert_eq!(watched.decide(None, "me", now), Decision::Take);
        assert_eq!(watched.decide(Some(&lease("", 0)), "me", now), Decision::Take);
        assert_eq!(watched.decide(Some(&lease("me", 0)), "me", now), Decision::Renew);
    }

    #[test]
    fn a_rival_is_given_its_whole_time_whatever_its_clock_says() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut watched = Watched::default();
        // Renewed in 1970 as far as its clock says: that does not make it over.
        assert_eq!(watched.decide(Some(&lease("rival", 1)), "me", at(0)), Decision::Wait);
        assert_eq!(watched.decide(Some(&lease("rival", 1)), "me", at(14)), Decision::Wait);
        assert_eq!(watched.decide(Some(&lease("rival", 2)), "me", at(15)), Decision::Wait);
        assert_eq!(watched.decide(Some(&lease("rival", 2)), "me", at(29)), Decision::Wait);
        assert_eq!(watched.decide(Some(&lease("other", 2)), "me", at(31)), Decision::Wait);
        assert_eq!(watched.decide(Some(&lease("other", 2)), "me", at(47)), Decision::Take);
    }

    #[test]
    fn we_stop_before_a_rival_may_begin() {
        assert!(HELD + TRY <= DURATION);
        let held = Held::default();
        let now = Instant::now();
        assert!(!held.now(now));
        held.until(Some(now + HELD));
        assert!(held.now(now) && !held.now(now + HELD));
    }
}
