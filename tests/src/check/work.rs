//! Not vacuous (I14): a run in which nothing was flushed, merged, handed back or repaired says nothing about
//! flushing, merging, handing back and repairing.

use std::collections::BTreeMap;
use std::fmt;

use super::rules::Violation;

/// What nodes did, by name, summed over nodes and starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Work(BTreeMap<&'static str, u64>);

impl Work {
    /// What was counted.
    pub fn of(counts: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        let mut work = Self::default();
        counts.into_iter().for_each(|(what, count)| *work.0.entry(what).or_default() += count);
        work
    }

    /// How much of one thing was done; 0 where it has no such name.
    pub fn done(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds what was done elsewhere or before.
    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    /// What of it never happened.
    pub fn missing(&self) -> Vec<Violation> {
        let never = self.0.iter().filter(|(_, count)| **count == 0);
        never.map(|(what, _)| Violation::Vacuous(format!("no {what} in the whole run"))).collect()
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> =
            self.0.iter().map(|(what, count)| format!("{what} {count}")).collect();
        f.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_never_happened_is_named() {
        let mut work = Work::of([("flush", 0), ("repair", 2), ("repair", 1)]);
        assert_eq!(work.missing(), vec![Violation::Vacuous("no flush in the whole run".into())]);
        work.add(&Work::of([("flush", 1)]));
        assert_eq!((work.done("repair"), work.done("flush"), work.done("else")), (3, 1, 0));
        assert_eq!((work.missing(), work.to_string()), (vec![], "flush 1, repair 3".to_string()));
    }
}
