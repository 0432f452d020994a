//! Whose turn it is at a key: the per-key lock of updates, which queues work and never a thread.
//!
//! Whoever finds a key idle and can answer from memory passes: it runs at once under the short lock of
//! the key's stripe, with nothing allocated and nothing queued. Whoever has to wait (for a reader, for
//! memory) holds the key's turn; whoever finds a key held leaves the work in its queue, and the holder
//! runs it next. Invariant: work of one key runs one after the other, in the order it entered. A turn
//! that is dropped unfinished (its job was thrown away, or it panicked) drops the queue too; the
//! tickets of that work then say "abandoned".

use crate::guard::lock;
use crate::key::TableKey;
use crate::stats::Count;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

/// Many more than threads, so that two keys rarely share a lock.
const STRIPES: usize = 512;

type Stripe<W> = Mutex<BTreeMap<TableKey, VecDeque<W>>>;

/// The queues of all busy keys.
pub(crate) struct Turns<W> {
    stripes: Vec<Stripe<W>>,
    waiting: Count,
    waiting_max: u64,
}

/// What became of entering.
pub(crate) enum Entered<W> {
    /// The key was idle: run the work, then ask the turn for the next.
    Run(Turn<W>, W),
    /// The holder of the turn will run it.
    Queued,
    /// Too much work waits; it is given back.
    Refused(W),
}

/// The lock under which an idle key is changed at once: nobody else runs work of it meanwhile.
pub(crate) struct Passing<'a, W> {
    turns: &'a Arc<Turns<W>>,
    stripe: MutexGuard<'a, BTreeMap<TableKey, VecDeque<W>>>,
}

impl<W> Passing<'_, W> {
    /// Takes the key's turn instead: the work has to wait for something.
    pub(crate) fn hold(mut self, key: &TableKey) -> Turn<W> {
        self.stripe.insert(key.clone(), VecDeque::new());
        Turn { turns: self.turns.clone(), key: key.clone(), finished: false }
    }
}

/// The right to run the work of a key.
pub(crate) struct Turn<W> {
    turns: Arc<Turns<W>>,
    key: TableKey,
    finished: bool,
}

impl<W> Turns<W> {
    pub(crate) fn new(waiting_max: usize) -> Arc<Self> {
        let stripes = (0..STRIPES).map(|_| Mutex::new(BTreeMap::new())).collect();
        Arc::new(Self { stripes, waiting: Count::default(), waiting_max: waiting_max as u64 })
    }

    fn stripe(&self, key: &TableKey) -> &Stripe<W> {
        &self.stripes[(key.hash() % STRIPES as u64) as usize]
    }

    /// The lock of the key, if it is idle. Hold it only while nothing waits.
    pub(crate) fn pass<'a>(self: &'a Arc<Self>, key: &TableKey) -> Option<Passing<'a, W>> {
        let stripe = lock(self.stripe(key));
        let idle = stripe.is_empty() || !stripe.contains_key(key);
        idle.then_some(Passing { turns: self, stripe })
    }

    pub(crate) fn enter(self: &Arc<Self>, key: &TableKey, work: W) -> Entered<W> {
        let mut stripe = lock(self.stripe(key));
        match stripe.get_mut(key) {
            Some(_) if self.waiting.get() >= self.waiting_max => Entered::Refused(work),
            Some(queue) => {
                self.waiting.add(1);
                queue.push_back(work);
                Entered::Queued
            }
            None => {
                stripe.insert(key.clone(), VecDeque::new());
                let turn = Turn { turns: self.clone(), key: key.clone(), finished: false };
                Entered::Run(turn, work)
            }
        }
    }

    /// Work that waits for its turn.
    pub(crate) fn waiting(&self) -> u64 {
        self.waiting.get()
    }
}

impl<W> Turn<W> {
    pub(crate) fn key(&self) -> &TableKey {
        &self.key
    }

    /// The next work of the key; `None` gives the turn back.
    pub(crate) fn next(&mut self) -> Option<W> {
        let mut stripe = lock(self.turns.stripe(&self.key));
        if let Some(work) = stripe.get_mut(&self.key).and_then(VecDeque::pop_front) {
            self.turns.waiting.sub(1);
            return Some(work);
        }
        stripe.remove(&self.key);
        self.finished = true;
        None
    }
}

impl<W> Drop for Turn<W> {
    fn drop(&mut self) {
        if !self.finished {
            let queue = lock(self.turns.stripe(&self.key)).remove(&self.key).unwrap_or_default();
            self.turns.waiting.sub(queue.len() as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> TableKey {
        TableKey::new(number, b"b", b"k")
    }

    #[test]
    fn work_of_a_key_waits_for_the_turn_and_other_keys_do_not() {
        let turns = Turns::new(2);
        let Entered::Run(mut turn, 1) = turns.enter(&key(1), 1) else { panic!("idle") };
        assert!(matches!(turns.enter(&key(1), 2), Entered::Queued));
        assert!(matches!(turns.enter(&key(513), 3), Entered::Run(_, 3)), "same stripe, other key");
        assert!(turns.pass(&key(1)).is_none() && turns.pass(&key(1025)).is_some());
        assert!(matches!(turns.enter(&key(1), 4), Entered::Queued));
        assert!(matches!(turns.enter(&key(1), 5), Entered::Refused(5)));
        assert_eq!(
            (turns.waiting(), turn.next(), turn.next(), turn.next()),
            (2, Some(2), Some(4), None)
        );
        assert!(matches!(turns.enter(&key(1), 6), Entered::Run(..)));
    }

    #[test]
    fn who_passes_may_hold_the_key_instead() {
        let turns = Turns::new(2);
        let mut turn = turns.pass(&key(1)).unwrap().hold(&key(1));
        assert!(
            turns.pass(&key(1)).is_none() && matches!(turns.enter(&key(1), 2), Entered::Queued)
        );
        assert_eq!((turn.next(), turn.next()), (Some(2), None));
        assert!(turns.pass(&key(1)).is_some());
    }

    #[test]
    fn a_dropped_turn_drops_its_queue() {
        let turns = Turns::new(9);
        let work = Arc::new(());
        let Entered::Run(turn, _) = turns.enter(&key(1), work.clone()) else { panic!("idle") };
        turns.enter(&key(1), work.clone());
        drop(turn);
        assert_eq!((turns.waiting(), Arc::strong_count(&work)), (0, 1));
        assert!(matches!(turns.enter(&key(1), work), Entered::Run(..)));
    }
}
