//! The rules a history is judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::bounds::Measured;
use super::causality::Causality;
use super::history::{History, Kind, Operation, Outcome};
use super::{gone, replicas};

/// Operations that did not succeed of which a report tells.
const FAILED_SHOWN: usize = 20;

/// What a run must have done to count at all.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Fewest operations.
    pub operations: usize,
    /// Fewest acknowledged ones, in percent.
    pub ok_percent: usize,
    /// Fewest keys with a settled read.
    pub settled_keys: usize,
}

/// A broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// An acknowledged write that is neither there nor superseded (I1).
    Lost {
        /// The key.
        key: String,
        /// The put.
        id: u64,
    },
    /// A value that nobody wrote there, or whose write was refused (I2).
    Phantom {
        /// The key.
        key: String,
        /// The read that saw it.
        read: u64,
        /// The value id or the foreign body.
        value: String,
    },
    /// An acknowledged write on a key that no settled read looked at: the run proves nothing about it.
    Unread {
        /// The key.
        key: String,
    },
    /// The run did too little (I14).
    Vacuous(String),
    /// Two operations with one id: the history itself is broken.
    Duplicate(u64),
    /// A quorum read showed less than was acknowledged or shown before it began (I6, I7).
    Stale {
        /// The key.
        key: String,
        /// The read.
        read: u64,
        /// The value that it should have accounted for.
        id: u64,
    },
    /// A read showed what an acknowledged write or delete had superseded before (I3).
    Returned {
        /// The key.
        key: String,
        /// The read.
        read: u64,
        /// The value that was gone.
        id: u64,
        /// Who superseded it.
        by: u64,
    },
    /// A read showed two values one of which superseded the other (I4).
    FalseConflict {
        /// The key.
        key: String,
        /// The read.
        read: u64,
        /// The older value and the newer one.
        pair: (u64, u64),
    },
    /// A read showed several values though the last write wins.
    Several {
        /// The key.
        key: String,
        /// The read.
        read: u64,
    },
    /// Replicas hold different sets though everything was mended (I5).
    Diverged {
        /// The key.
        key: String,
        /// What each replica holds, by node.
        digests: Vec<(String, String)>,
    },
    /// One dot names two writes (I10).
    DotTwice {
        /// The key.
        key: String,
        /// The dot.
        dot: String,
    },
    /// One write is stored under several dots: somebody made it a second time (I10).
    Doubled {
        /// The key.
        key: String,
        /// The dots.
        dots: Vec<String>,
    },
    /// A write was acknowledged by fewer replicas than asked for, or one was counted twice (I9).
    Acks {
        /// The write.
        id: u64,
        /// The nodes named.
        named: Vec<String>,
    },
    /// An operation failed though everything was mended long before (I12).
    Refused {
        /// The operation.
        id: u64,
        /// Who was asked.
        server: String,
    },
    /// An operation did not succeed because another node had died, and should not have noticed.
    Noticed {
        /// The operation.
        id: u64,
        /// Who was asked.
        server: String,
        /// What it said.
        problem: Option<String>,
    },
    /// A node serves no data though everything was mended long before (I12).
    NotServing {
        /// Which.
        host: usize,
        /// Why its last start failed, if it did.
        why: Option<String>,
    },
    /// A node serves data though its volume was lost.
    ServesLost {
        /// Which.
        host: usize,
    },
    /// More is held than its cap allows (I11).
    Exceeded(Measured),
    /// Something that was asked for did not end though everything was mended long before (I12).
    Unfinished(String),
    /// A node, or the run itself, panicked.
    Panicked {
        /// Which node; the greatest number for the run itself.
        host: usize,
        /// What it said.
        what: String,
    },
}

impl Violation {
    /// The rule by its name, for comparing two runs.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Phantom { .. } => "phantom",
            Self::Unread { .. } => "unread",
            Self::Vacuous(_) => "vacuous",
            Self::Duplicate(_) => "broken history",
            Self::Stale { .. } => "stale",
            Self::Returned { .. } => "returned",
            Self::FalseConflict { .. } => "false conflict",
            Self::Several { .. } => "several",
            Self::Diverged { .. } => "diverged",
            Self::DotTwice { .. } => "dot twice",
            Self::Doubled { .. } => "doubled",
            Self::Acks { .. } => "acks",
            Self::Refused { .. } => "refused",
            Self::Noticed { .. } => "noticed",
            Self::NotServing { .. } => "not serving",
            Self::ServesLost { .. } => "serves lost",
            Self::Exceeded(_) => "exceeded",
            Self::Unfinished(_) => "unfinished",
            Self::Panicked { .. } => "panicked",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { key, id } => write!(f, "lost: acknowledged put {id} of key {key} is gone"),
            Self::Phantom { key, read, value } => {
                write!(
                    f,
                    "phantom: read {read} of key {key} returned {value}, which was not written there"
                )
            }
            Self::Unread { key } => {
                write!(f, "unread: key {key} has acknowledged writes and no settled read")
            }
            Self::Vacuous(why) => write!(f, "vacuous: {why}"),
            Self::Unfinished(what) => write!(f, "unfinished: {what}"),
            Self::Duplicate(id) => write!(f, "broken history: operation id {id} twice"),
            Self::Stale { key, read, id } => {
                write!(f, "stale: read {read} of key {key} does not account for value {id}")
            }
            Self::Returned { key, read, id, by } => {
                write!(
                    f,
                    "returned: read {read} of key {key} shows value {id}, which {by} superseded"
                )
            }
            Self::FalseConflict { key, read, pair: (old, new) } => write!(
                f,
                "false conflict: read {read} of key {key} shows {old} beside {new}, which superseded it"
            ),
            Self::Several { key, read } => {
                write!(f, "several: read {read} of key {key} shows more than the last write")
            }
            Self::Diverged { key, digests } => {
                write!(f, "diverged: replicas of key {key} hold {digests:?}")
            }
            Self::DotTwice { key, dot } => {
                write!(f, "dot twice: {dot} of key {key} names two writes")
            }
            Self::Doubled { key, dots } => {
                write!(f, "doubled: one write of key {key} is stored as {}", dots.join(" and "))
            }
            Self::Acks { id, named } => {
                write!(f, "acks: write {id} was acknowledged by {named:?} only")
            }
            Self::Refused { id, server } => {
                write!(f, "refused: operation {id} at {server} did not succeed in the calm")
            }
            Self::Noticed { id, server, problem } => {
                write!(f, "noticed: operation {id} at {server} did not succeed: {problem:?}")
            }
            Self::NotServing { host, why } => {
                write!(f, "not serving: host {host} in the calm; its last start: {why:?}")
            }
            Self::ServesLost { host } => {
                write!(f, "serves lost: host {host} serves data though its volume was lost")
            }
            Self::Exceeded(Measured { host: usize::MAX, what, held, cap }) => {
                write!(f, "exceeded: {held} {what}, where at most {cap} may be")
            }
            Self::Exceeded(Measured { host, what, held, cap }) => {
                write!(f, "exceeded: host {host} held {held} {what}, where at most {cap} may be")
            }
            Self::Panicked { host, what } => write!(f, "panicked: host {host}: {what}"),
        }
    }
}

/// The judgement.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Broken rules; empty is good.
    pub violations: Vec<Violation>,
    /// Operations by outcome: ok, fail, unknown.
    pub outcomes: [usize; 3],
    /// Reads that returned more than one value.
    pub conflicts: usize,
    /// The last operations that did not succeed, each in one line.
    pub failed: Vec<String>,
}

impl Report {
    /// Panics with the first violations when there are any.
    pub fn assert_good(&self) {
        let shown: Vec<String> = self.violations.iter().take(10).map(ToString::to_string).collect();
        assert!(
            self.violations.is_empty(),
            "{} violations, outcomes ok/fail/unknown {:?}:\n  {}\nnot ok:\n  {}",
            self.violations.len(),
            self.outcomes,
            shown.join("\n  "),
            self.failed.join("\n  ")
        );
    }
}

/// Judges a history.
pub fn check(history: &History, demand: Demand) -> Report {
    let mut report = Report::default();
    let mut ids = BTreeSet::new();
    for operation in &history.operations {
        report.outcomes[operation.outcome as usize] += 1;
        report.conflicts += usize::from(operation.values.len() > 1);
        if !ids.insert(operation.id) {
            report.violations.push(Violation::Duplicate(operation.id));
        }
    }
    let failed = history.operations.iter().filter(|operation| operation.outcome != Outcome::Ok);
    report.failed = failed.rev().take(FAILED_SHOWN).map(Operation::failure).collect();
    report.failed.reverse();
    vacuous(history, demand, &mut report);
    phantoms(history, &mut report);
    lost(history, &mut report);
    report.violations.extend(gone::settled(history));
    report.violations.extend(replicas::false_conflicts(history));
    report.violations.extend(replicas::honest(history, 0));
    report
}

fn vacuous(history: &History, demand: Demand, report: &mut Report) {
    let all = history.operations.len();
    let ok = report.outcomes[Outcome::Ok as usize];
    let keys: BTreeSet<&str> =
        history.operations.iter().filter(|o| settled(o)).map(|o| o.key.as_str()).collect();
    if all < demand.operations {
        let why = format!("{all} operations, {} demanded", demand.operations);
        report.violations.push(Violation::Vacuous(why));
    }
    if ok * 100 < all * demand.ok_percent {
        let why = format!("{ok} of {all} ok, {} % demanded", demand.ok_percent);
        report.violations.push(Violation::Vacuous(why));
    }
    if keys.len() < demand.settled_keys {
        let why =
            format!("{} keys read after settling, {} demanded", keys.len(), demand.settled_keys);
        report.violations.push(Violation::Vacuous(why));
    }
}

fn settled(operation: &Operation) -> bool {
    operation.settled && operation.op == Kind::Get && operation.outcome == Outcome::Ok
}

fn phantoms(history: &History, report: &mut Report) {
    let written: BTreeMap<u64, &Operation> = history
        .operations
        .iter()
        .filter(|o| o.op == Kind::Put && o.outcome != Outcome::Fail)
        .map(|o| (o.id, o))
        .collect();
    for read in history.operations.iter().filter(|o| o.op == Kind::Get) {
        let wrong = read.values.iter().filter(|v| {
            written.get(v).is_none_or(|w| w.key != read.key || w.start_ms > read.end_ms)
        });
        for value in wrong.map(ToString::to_string).chain(read.foreign.iter().cloned()) {
            let (key, read) = (read.key.clone(), read.id);
            report.violations.push(Violation::Phantom { key, read, value });
        }
    }
}

/// What stands under one key in the end, and who may have put an end to other values.
#[derive(Default)]
struct Key<'a> {
    puts: Vec<&'a Operation>,
    deletes: Vec<&'a Operation>,
    /// What each settled read showed: every one of them must account for every acknowledged write.
    settled: Vec<BTreeSet<u64>>,
}

fn lost(history: &History, report: &mut Report) {
    let causality = Causality::of(history);
    let mut keys: BTreeMap<&str, Key<'_>> = BTreeMap::new();
    for operation in &history.operations {
        let key = keys.entry(&operation.key).or_default();
        match operation.op {
            Kind::Get if settled(operation) => {
                key.settled.push(operation.values.iter().copied().collect());
            }
            Kind::Put if operation.outcome != Outcome::Fail => key.puts.push(operation),
            Kind::Delete if operation.outcome != Outcome::Fail => key.deletes.push(operation),
            Kind::Get | Kind::Put | Kind::Delete => {}
        }
    }
    for (name, key) in keys {
        let acknowledged: Vec<&&Operation> =
            key.puts.iter().filter(|p| p.outcome == Outcome::Ok).collect();
        if key.settled.is_empty() && !acknowledged.is_empty() {
            report.violations.push(Violation::Unread { key: name.to_string() });
        }
        for put in acknowledged {
            let accounted = |shown: &BTreeSet<u64>| {
                shown.contains(&put.id)
                    || shown.iter().any(|v| causality.superseded(*v).any(|id| id == put.id))
            };
            let deleted = || key.deletes.iter().any(|d| may_have_deleted(&causality, d, put));
            if !key.settled.iter().all(accounted) && !deleted() {
                report.violations.push(Violation::Lost { key: name.to_string(), id: put.id });
            }
        }
    }
}

/// A delete with a token covers what the token covers; one without read at quorum whatever had begun by then.
/// One whose client gave up may have been read and done at any later time, by a node that stood still.
pub(super) fn may_have_deleted(causality: &Causality, delete: &Operation, put: &Operation) -> bool {
    match delete.token_sent {
        Some(_) => causality.superseded(delete.id).any(|id| id == put.id),
        None => delete.outcome == Outcome::Unknown || put.start_ms <= delete.end_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand { operations: 1, ok_percent: 50, settled_keys: 1 };

    struct Story(History);

    impl Story {
        fn push(
            &mut self,
            op: Kind,
            sent: Option<&str>,
            back: Option<&str>,
            outcome: Outcome,
        ) -> u64 {
            let id = self.0.operations.len() as u64 + 1;
            self.0.operations.push(Operation {
                id,
                client: 0,
                op,
                key: "k".into(),
                token_sent: sent.map(Into::into),
                token_returned: back.map(Into::into),
                values: vec![],
                foreign: vec![],
                acks: vec![],
                consistency: "quorum".into(),
                server: "n".into(),
                start_ms: id * 10,
                end_ms: id * 10 + 5,
                outcome,
                problem: None,
                settled: false,
            });
            id
        }

        fn put(&mut self, sent: Option<&str>, back: &str, outcome: Outcome) -> u64 {
            self.push(Kind::Put, sent, Some(back), outcome)
        }

        fn read(&mut self, values: &[u64], back: &str, settled: bool) {
            self.push(Kind::Get, None, Some(back), Outcome::Ok);
            let read = self.0.operations.last_mut().expect("just pushed");
            read.values = values.to_vec();
            read.settled = settled;
        }

        fn violations(&self) -> Vec<Violation> {
            check(&self.0, DEMAND).violations
        }
    }

    fn story() -> Story {
        Story(History::default())
    }

    #[test]
    fn a_write_that_is_there_is_fine_and_one_that_is_gone_is_lost() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        s.read(&[a], "t2", true);
        assert_eq!(s.violations(), vec![]);
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        s.read(&[], "t2", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: a }]);
    }

    #[test]
    fn a_blind_write_supersedes_nothing() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        let b = s.put(None, "t2", Outcome::Ok);
        s.read(&[b], "t3", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: a }]);
    }

    #[test]
    fn a_token_supersedes_what_it_was_read_with_through_a_chain() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        s.read(&[a], "t2", false);
        let b = s.put(Some("t2"), "t3", Outcome::Ok);
        let c = s.put(Some("t3"), "t4", Outcome::Ok);
        s.read(&[c], "t5", true);
        assert_eq!(s.violations(), vec![]);
        assert!(a < b);
    }

    #[test]
    fn operations_of_no_duration_keep_their_order() {
        let mut s = story();
        s.put(None, "t1", Outcome::Ok);
        let b = s.put(Some("t1"), "t2", Outcome::Ok);
        let c = s.put(Some("t2"), "t3", Outcome::Ok);
        s.read(&[c], "t4", true);
        for operation in &mut s.0.operations {
            (operation.start_ms, operation.end_ms) = (10, 10);
        }
        assert_eq!(s.violations(), vec![], "{b}");
    }

    #[test]
    fn a_token_of_a_write_does_not_cover_what_its_writer_did_not_see() {
        let mut s = story();
        s.put(None, "t1", Outcome::Ok);
        let other = s.put(None, "t2", Outcome::Ok);
        let chained = s.put(Some("t1"), "t3", Outcome::Ok);
        s.read(&[chained], "t4", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: other }]);
    }

    #[test]
    fn an_unknown_write_explains_a_loss_only_by_being_there() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        s.put(Some("t1"), "t2", Outcome::Unknown);
        s.read(&[], "t3", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: a }]);
        let mut s = story();
        s.put(None, "t1", Outcome::Ok);
        let b = s.put(Some("t1"), "t2", Outcome::Unknown);
        s.read(&[b], "t3", true);
        assert_eq!(s.violations(), vec![]);
    }

    #[test]
    fn each_settled_read_accounts_for_itself() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Ok);
        let b = s.put(Some("t1"), "t2", Outcome::Unknown);
        s.read(&[a], "t3", true);
        s.read(&[b], "t4", true);
        assert_eq!(s.violations(), vec![]);
        s.read(&[], "t5", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: a }]);
    }

    #[test]
    fn refused_and_foreign_values_are_phantoms() {
        let mut s = story();
        let a = s.put(None, "t1", Outcome::Fail);
        s.put(None, "t1", Outcome::Ok);
        s.read(&[a, 2], "t2", true);
        s.0.operations.last_mut().unwrap().foreign.push("junk".into());
        let kinds = s.violations();
        assert_eq!(kinds.len(), 2, "{kinds:?}");
        assert!(kinds.iter().all(|v| matches!(v, Violation::Phantom { .. })));
    }

    #[test]
    fn deletes_explain_what_they_saw() {
        let mut s = story();
        s.put(None, "t1", Outcome::Ok);
        s.push(Kind::Delete, Some("t1"), None, Outcome::Ok);
        s.read(&[], "t3", true);
        assert_eq!(s.violations(), vec![]);
        let late = s.put(None, "t4", Outcome::Ok);
        s.read(&[], "t5", true);
        assert_eq!(s.violations(), vec![Violation::Lost { key: "k".into(), id: late }]);
    }

    #[test]
    fn a_delete_whose_client_gave_up_may_come_late() {
        for (outcome, lost) in [(Outcome::Unknown, 0), (Outcome::Ok, 1)] {
            let mut s = story();
            s.push(Kind::Delete, None, None, outcome);
            s.put(None, "t1", Outcome::Ok);
            s.read(&[], "t2", true);
            assert_eq!(s.violations().len(), lost);
        }
    }

    #[test]
    fn an_empty_or_unread_run_proves_nothing() {
        let s = story();
        assert!(s.violations().iter().all(|v| matches!(v, Violation::Vacuous(_))));
        assert_eq!(s.violations().len(), 2);
        let mut s = story();
        s.put(None, "t1", Outcome::Ok);
        assert!(s.violations().contains(&Violation::Unread { key: "k".into() }));
    }
}
