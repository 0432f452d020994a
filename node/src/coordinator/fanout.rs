//! Sends one request to several owners and hands back what they say, in order of arrival.
//!
//! Each send is a task of its own that lives until its owner answered or the deadline passed, also
//! when the request was answered before: late acknowledgements still complete the write. The number
//! of tasks is bounded by the number of owners, their time by the deadline.

use std::rc::Rc;
use std::time::Duration;

use kvasir_core::id::NodeId;
use kvasir_core::version::{Digest, Outranked, SiblingSet};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::plan::Plan;
use super::request::{CoordinateError, Durability};
use super::{Coordinate, Figures};
use crate::peer::{Answer, Refusal, Reply, Request};
use crate::planted::Bug;
use crate::replica::{Pass, Views};

/// Before a node that is behind is asked again.
pub(super) const AGAIN: Duration = Duration::from_millis(20);

/// What one owner said.
pub type Said<T> = (NodeId, Result<T, Failure>);

/// What a node said when it had stored a write: what stands above it there, if anything does.
pub type Stored = Option<Outranked>;

/// What a node said that it holds under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// All of it; empty where there is nothing.
    Set(SiblingSet),
    /// The digest of it; none where there is nothing.
    Digest(Option<Digest>),
}

/// Why an owner did not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// Nothing was applied there.
    NotApplied(String),
    /// It owns nothing of the key by its document, which is of this epoch; nothing was applied.
    NotOwner(u64),
    /// It may have been applied.
    Unknown(String),
    /// Its disk takes no writes; nothing was applied.
    DiskFull,
    /// It keeps as many stand-in copies as it may; nothing was applied.
    StandInsFull,
    /// It knows a newer version of the partition's entry, of a document of this epoch; nothing was applied.
    Stale(u64),
    /// It has too much in flight and asks for a pause of so many milliseconds; nothing was applied.
    Overloaded(u64),
}

/// The one cause that all owners that failed have in common, where a client can act on it better than on
/// a number of missing acknowledgements. Overload is told only where nothing was applied anywhere, since
/// its answer promises that.
pub fn shared_cause(failures: &[Failure], may_be_stored: bool) -> Option<CoordinateError> {
    let pause = |failure: &Failure| match failure {
        Failure::Overloaded(pause_ms) => Some(*pause_ms),
        _ => None,
    };
    if failures.is_empty() {
        return None;
    }
    if failures.iter().all(|failure| *failure == Failure::DiskFull) {
        return Some(CoordinateError::DiskFull { may_be_stored });
    }
    if !may_be_stored && failures.iter().all(|failure| *failure == Failure::StandInsFull) {
        return Some(CoordinateError::StandInsFull);
    }
    let pauses: Option<Vec<u64>> = failures.iter().map(pause).collect();
    let retry_after_ms = pauses?.into_iter().max().filter(|_| !may_be_stored)?;
    Some(CoordinateError::Overloaded { retry_after_ms })
}

/// Asks nodes for one request, and brings what they say to its [`Answers`].
pub struct Asker<T> {
    sender: mpsc::UnboundedSender<Said<T>>,
    deadline: Instant,
}

impl<T> Clone for Asker<T> {
    fn clone(&self) -> Self {
        Self { sender: self.sender.clone(), deadline: self.deadline }
    }
}

impl<T: 'static> Asker<T> {
    /// When nobody is waited for any more.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Asks in a task of its own.
    pub fn ask(&self, node: NodeId, call: impl Future<Output = Result<T, Failure>> + 'static) {
        let asker = self.clone();
        tokio::task::spawn_local(async move {
            let said = match tokio::time::timeout_at(asker.deadline, call).await {
                Ok(said) => said,
                Err(_) => Err(Failure::Unknown("no answer before the deadline".to_string())),
            };
            asker.tell(node, said);
        });
    }

    /// Brings what a node said.
    pub fn tell(&self, node: NodeId, said: Result<T, Failure>) {
        // Nobody listens any more when the request was answered before.
        let _ = self.sender.send((node, said));
    }
}

/// Answers as they come.
pub struct Answers<T> {
    asker: Asker<T>,
    receiver: mpsc::UnboundedReceiver<Said<T>>,
}

impl<T: 'static> Answers<T> {
    /// Nobody was asked yet.
    pub fn until(deadline: Instant) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        Self { asker: Asker { sender, deadline }, receiver }
    }

    /// Whoever asks for this request beside its own task.
    pub fn asker(&self) -> Asker<T> {
        self.asker.clone()
    }

    /// Asks in a task of its own.
    pub fn ask(&self, node: NodeId, call: impl Future<Output = Result<T, Failure>> + 'static) {
        self.asker.ask(node, call);
    }

    /// As [`Self::next`]; or the epoch that somebody knows and this node did not, once its document is in
    /// force here.
    ///
    /// # Errors
    /// The epoch.
    pub async fn next_by(
        &mut self,
        until: Instant,
        views: &Views,
        newer: Option<u64>,
    ) -> Result<Option<Said<T>>, u64> {
        let Some(epoch) = newer else { return Ok(self.next(until).await) };
        tokio::select! {
            biased;
            said = self.next(until) => Ok(said),
            true = views.reach(epoch, until) => Err(epoch),
        }
    }

    /// The next answer, or nothing at the given time.
    pub async fn next(&mut self, until: Instant) -> Option<Said<T>> {
        tokio::time::timeout_at(until, self.receiver.recv()).await.ok().flatten()
    }
}

impl Coordinate {
    /// Has an owner merge what a client wrote. If that fails for another reason than that the owner
    /// refused, a hint says that it missed the write; only an owner writes hints, since what they point
    /// at is its own record.
    pub fn send_write(
        &self,
        plan: &Rc<Plan>,
        node: NodeId,
        delta: &Rc<SiblingSet>,
        durability: Durability,
        to: &Asker<Stored>,
    ) {
        let (this, plan, delta) = (self.clone(), plan.clone(), delta.clone());
        let deadline = to.deadline;
        to.ask(node, async move {
            this.count_crossing(&plan, node);
            let asked = Instant::now();
            let call = this.merge_there(&plan, node, &delta, durability, deadline);
            let said = match tokio::time::timeout_at(deadline, call).await {
                Ok(said) => said,
                Err(_) => Err(Failure::Unknown("no answer before the deadline".to_string())),
            };
            if node != plan.view.me {
                this.learned.note_task(node, asked.elapsed());
            }
            if let Err(why) = &said {
                this.missed(&plan, node, why);
            }
            said
        });
    }

    /// Leaves a hint for an owner to which a write did not get through.
    pub(super) fn missed(&self, plan: &Plan, node: NodeId, why: &Failure) {
        let missed =
            matches!(why, Failure::NotApplied(_) | Failure::NotOwner(_) | Failure::Unknown(_));
        if missed && plan.owns() && !self.planted.leaves_it_to_trees() {
            self.standins.hint(node, &plan.table_key);
        }
    }

    /// Counts a frame that takes a write to another data center.
    pub(super) fn count_crossing(&self, plan: &Plan, node: NodeId) {
        if plan.is_far(node) && plan.view.reachable(node).is_some() {
            Figures::count(&self.learned.figures.crossings);
        }
    }

    /// Leave to work on this node's own copy under the version that was planned with.
    ///
    /// # Errors
    /// [`Failure::Stale`].
    pub(super) fn enter(&self, plan: &Plan) -> Result<Pass, Failure> {
        let route = plan.route;
        let entered = self.views.enter(route.partition, route.version, route.entry_hash);
        entered.map_err(|other| Failure::Stale(other.epoch))
    }

    /// The epoch of the document in force here, if by it the entry is another than that of the plan.
    pub(super) fn overtaken(&self, plan: &Plan) -> Option<u64> {
        let route = plan.route;
        self.views.overtook(route.partition, route.version, route.entry_hash)
    }

    /// The plan once the document of an epoch is known here: for a request that met a newer version.
    ///
    /// # Errors
    /// As [`Plan::new`]; or the document did not come in time.
    pub(super) async fn newer(
        &self,
        plan: &Plan,
        epoch: u64,
        until: Instant,
    ) -> Result<Rc<Plan>, CoordinateError> {
        // The refusal is news to this node, and whoever sent it was asked for the document at once.
        if !self.views.reach(epoch, until).await {
            let reason = "a newer cluster document did not arrive in time".to_string();
            return Err(CoordinateError::NotServing { reason });
        }
        Ok(Rc::new(plan.anew(self.views.load())?))
    }

    /// Has a stand-in keep a set.
    pub fn send_stand_in(
        &self,
        plan: &Rc<Plan>,
        node: NodeId,
        set: &Rc<SiblingSet>,
        durability: Durability,
        answers: &Answers<Stored>,
    ) {
        let (this, plan, set) = (self.clone(), plan.clone(), set.clone());
        let deadline = answers.asker.deadline;
        answers.ask(node, async move {
            let request = Request::StandIn {
                bucket: plan.bucket.clone(),
                key: plan.key.clone(),
                delta: set.encode().into(),
                durability,
            };
            this.count_crossing(&plan, node);
            stored(this.call(&plan, node, request, deadline).await?)
        });
    }

    /// Asks a stand-in, which may be this node, for what it keeps.
    pub fn send_stand_in_read(&self, plan: &Rc<Plan>, node: NodeId, answers: &Answers<Held>) {
        let (this, plan) = (self.clone(), plan.clone());
        let deadline = answers.asker.deadline;
        answers.ask(node, async move {
            if node == plan.view.me {
                let read = this.standins.read(&plan.table_key).await;
                return read.map(Held::Set).map_err(|e| Failure::NotApplied(e.to_string()));
            }
            let (bucket, key) = (plan.bucket.clone(), plan.key.clone());
            let request = Request::ReadStandIn { bucket, key };
            set_of(this.call(&plan, node, request, deadline).await?).map(Held::Set)
        });
    }

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
        let deadline = answers.asker.deadline;
        answers.ask(node, async move {
            if node == plan.view.me {
                return this.merge_here(&plan, &set, durability).await;
            }
            this.merge_there(&plan, node, &set, durability, deadline).await.map(drop)
        });
    }

    async fn merge_there(
        &self,
        plan: &Plan,
        node: NodeId,
        set: &SiblingSet,
        durability: Durability,
        deadline: Instant,
    ) -> Result<Stored, Failure> {
        let request = Request::Apply {
            bucket: plan.bucket.clone(),
            key: plan.key.clone(),
            delta: set.encode().into(),
            durability,
        };
        stored(self.call(plan, node, request, deadline).await?)
    }

    pub(super) async fn merge_here(
        &self,
        plan: &Plan,
        set: &SiblingSet,
        durability: Durability,
    ) -> Result<(), Failure> {
        let pass = self.enter(plan)?;
        let merged = self.replica.merge(&plan.table_key, set.clone(), plan.stamp, durability).await;
        drop(pass);
        let applied = merged.map_err(|e| Failure::NotApplied(e.to_string()))?;
        applied.durable.await.map_err(|e| Failure::Unknown(e.to_string()))
    }

    /// Asks an owner for its set or, if not `whole`, for the digest of it. This node's own is always whole:
    /// it costs no bytes on the wire.
    pub fn send_read(&self, plan: &Rc<Plan>, node: NodeId, whole: bool, answers: &Answers<Held>) {
        let (this, plan) = (self.clone(), plan.clone());
        let deadline = answers.asker.deadline;
        answers.ask(node, async move {
            if node == plan.view.me {
                let _pass = this.enter(&plan)?;
                let read = this.replica.read(&plan.table_key).await;
                return read.map(Held::Set).map_err(|e| Failure::NotApplied(e.to_string()));
            }
            let (bucket, key) = (plan.bucket.clone(), plan.key.clone());
            let request = match whole {
                true => Request::Read { bucket, key },
                false => Request::ReadDigest { bucket, key },
            };
            let asked = Instant::now();
            let reply = this.call(&plan, node, request, deadline).await;
            this.learned.note(node, asked.elapsed());
            match reply? {
                Reply::Digest(digest) => Ok(Held::Digest(digest.map(Digest))),
                reply => set_of(reply).map(Held::Set),
            }
        });
    }

    /// One call to another node, its refusals sorted into [`Failure`]. One that has not heard of the newest
    /// document yet, though it waited for it a little, is asked again: it applied nothing, and in a partition
    /// that moves nobody may be left to be counted in its place. One that knows a newer document is asked for
    /// it.
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
        let head = (Some(plan.route), plan.stamp);
        let answer = loop {
            let asked =
                self.peers.call_stamped(node, address, head, request.clone(), deadline).await;
            let known = plan.view.epoch();
            let behind = |answer: &Answer| match answer.reply {
                Reply::Refused(Refusal::BehindSender { .. }) => true,
                Reply::Refused(Refusal::StaleEntry { epoch, .. }) => epoch < known,
                _ => false,
            };
            if !asked.as_ref().is_ok_and(behind) || Instant::now() + AGAIN >= deadline {
                break asked;
            }
            tokio::time::sleep(AGAIN).await;
        };
        match answer.map(|answer| self.in_time(answer)) {
            Ok(Reply::Refused(why)) => {
                tracing::debug!(%node, %why, "refused");
                if let Refusal::StaleEntry { epoch, .. } | Refusal::NotOwner { epoch } = &why
                    && *epoch > self.views.load().epoch()
                {
                    (self.fetch)(node, *epoch);
                }
                Err(refused(why))
            }
            Ok(reply) => Ok(reply),
            Err(error) if error.not_applied() => Err(Failure::NotApplied(error.to_string())),
            Err(error) => Err(Failure::Unknown(error.to_string())),
        }
    }
}

/// What a refusal means for a request.
pub(super) fn refused(why: Refusal) -> Failure {
    match why {
        Refusal::DiskFull => Failure::DiskFull,
        Refusal::StandInsFull => Failure::StandInsFull,
        Refusal::Overloaded { retry_after_ms } => Failure::Overloaded(retry_after_ms),
        Refusal::StaleEntry { epoch, .. } => Failure::Stale(epoch),
        Refusal::NotOwner { epoch } => Failure::NotOwner(epoch),
        why if why.not_applied() => Failure::NotApplied(why.to_string()),
        why => Failure::Unknown(why.to_string()),
    }
}

/// What the answer to a write says.
fn stored(reply: Reply) -> Result<Stored, Failure> {
    match reply {
        Reply::Applied => Ok(None),
        Reply::Outranked { dots, stamp } => Ok(Some(Outranked { dots, stamp })),
        other => Err(Failure::Unknown(format!("unexpected answer {}", other.name()))),
    }
}

impl Coordinate {
    /// The reply, unless it carries what was read too long ago.
    fn in_time(&self, Answer { reply, generation }: Answer) -> Reply {
        let own = self.replica.generation();
        let carries = matches!(reply, Reply::Set(_) | Reply::Digest(_));
        match carries && !own.takes(generation) && !self.planted.is(Bug::TakeLate) {
            true => Reply::Refused(Refusal::OldGeneration { generation: own.now() }),
            false => reply,
        }
    }
}

/// The set in the answer to a read.
fn set_of(reply: Reply) -> Result<SiblingSet, Failure> {
    match reply {
        Reply::Set(bytes) => SiblingSet::decode(&bytes)
            .map_err(|e| Failure::NotApplied(format!("an unreadable set: {e}"))),
        other => Err(Failure::NotApplied(format!("unexpected answer {}", other.name()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_only_when_all_failures_share_it() {
        let (busy, busier) = (Failure::Overloaded(100), Failure::Overloaded(300));
        let both = [busy.clone(), busier];
        let pause = CoordinateError::Overloaded { retry_after_ms: 300 };
        assert_eq!(shared_cause(&both, false), Some(pause));
        assert_eq!(shared_cause(&both, true), None, "the write may be stored");
        assert_eq!(shared_cause(&[busy, Failure::DiskFull], false), None);
        let full = CoordinateError::DiskFull { may_be_stored: true };
        assert_eq!(shared_cause(&[Failure::DiskFull, Failure::DiskFull], true), Some(full));
        let cap = [Failure::StandInsFull];
        assert_eq!(shared_cause(&cap, false), Some(CoordinateError::StandInsFull));
        assert_eq!(shared_cause(&cap, true), None, "the write may be stored");
        assert_eq!(shared_cause(&[], false), None);
    }
}
