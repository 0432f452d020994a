//! How much is kept for others: by kind for the caps, and by the first bits of the hash, so that a
//! hand-back looks only where something is.
//!
//! Invariants: the sums are those of the store's entries once [`Shelves::counted`] was told what was
//! there at the start; no growth passes a cap, because the check and the sum are one step. Nothing is
//! taken before the count.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvasir_core::handoff::Cap;
use kvasir_core::reclaim::Held as HeldUntil;
use kvasir_storage::TableKey;

use super::generation::Generation;
use super::local::LocalError;

/// A 65,536th of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shelf(u16);

impl Shelf {
    /// Where a key lies.
    pub fn of(key: &TableKey) -> Self {
        Self((key.hash() >> 48) as u16)
    }

    /// Its keys: from the first to before the second, or to the end.
    pub fn range(self) -> (TableKey, Option<TableKey>) {
        let first = |number: u16| TableKey::first_of(u64::from(number) << 48);
        (first(self.0), self.0.checked_add(1).map(first))
    }
}

/// What one shelf holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    entries: u64,
    /// Rises with everything that is put there, and is never the same again once the shelf was empty:
    /// whoever compares it with what it was must not take a new entry for one that it has seen.
    pub puts: u64,
}

/// Entries of one kind and their bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kind {
    /// How many.
    pub entries: u64,
    /// How many bytes, keys and a fixed part for each included.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct Books {
    copies: Kind,
    hints: Kind,
    shelves: BTreeMap<Shelf, Held>,
    /// Everything that was ever put on any of them.
    puts: u64,
    /// Copies by the generation that they are stamped with.
    stamps: BTreeMap<u64, u64>,
    /// Until when copies of which stamps were held; absent before the count.
    until: Option<HeldUntil>,
}

/// The books of everything that is kept for others.
#[derive(Debug)]
pub struct Shelves {
    books: Mutex<Books>,
    counted: AtomicBool,
    /// Why the last attempt to count failed.
    uncountable: Mutex<Option<String>>,
    copies_cap: Cap,
    hints_cap: Cap,
    generation: Arc<Generation>,
    /// Stand-in copies refused at the cap.
    pub copies_refused: AtomicU64,
    /// Hints dropped at the cap.
    pub hints_overflowed: AtomicU64,
    /// Hints dropped because they were too old.
    pub hints_expired: AtomicU64,
    /// Stand-in copies that every owner stored.
    pub copies_handed_back: AtomicU64,
    /// Hints whose owner caught up.
    pub hints_handed_back: AtomicU64,
    /// Sets that others handed back to this node.
    pub taken_back: AtomicU64,
}

impl Shelves {
    /// Empty, and not counted yet.
    pub fn new(copies_cap: Cap, hints_cap: Cap, generation: Arc<Generation>) -> Self {
        Self {
            generation,
            books: Mutex::default(),
            counted: AtomicBool::new(false),
            uncountable: Mutex::default(),
            copies_cap,
            hints_cap,
            copies_refused: AtomicU64::new(0),
            hints_overflowed: AtomicU64::new(0),
            hints_expired: AtomicU64::new(0),
            copies_handed_back: AtomicU64::new(0),
            hints_handed_back: AtomicU64::new(0),
            taken_back: AtomicU64::new(0),
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the count of what an earlier start left is done.
    pub fn is_counted(&self) -> bool {
        self.counted.load(Relaxed)
    }

    /// What an earlier start left could not be counted. It is tried again.
    pub fn not_counted(&self, why: String) {
        *self.uncountable.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// Why it could not be, if that is so now.
    pub fn uncountable(&self) -> Option<String> {
        self.uncountable.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether stand-in copies may be held here: some are, or their count failed.
    pub fn may_hold_copies(&self) -> bool {
        self.held().0.entries > 0 || self.uncountable().is_some()
    }

    /// Takes over what an earlier start left: where it lies, the stamp unless it is a hint, its bytes.
    pub fn counted(&self, found: Vec<(Shelf, Option<u64>, u64)>) {
        let mut books = self.books();
        for (shelf, stamp, bytes) in found {
            match stamp {
                Some(stamp) => {
                    books.copies.add(0, bytes);
                    *books.stamps.entry(stamp).or_default() += 1;
                }
                None => books.hints.add(0, bytes),
            }
            books.put(shelf, true);
        }
        let generation = self.generation.now();
        books.until = Some(HeldUntil::unknown(generation));
        books.note(generation);
        drop(books);
        *self.uncountable.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.counted.store(true, Relaxed);
    }

    /// Everything that was kept is gone. Copies may have been held until now.
    pub fn emptied(&self) {
        let generation = self.generation.now();
        let mut books = self.books();
        let until = books.until.map(|_| HeldUntil::unknown(generation));
        *books = Books { until, puts: books.puts, ..Books::default() };
    }

    /// Stand-in copies and hints that are held.
    pub fn held(&self) -> (Kind, Kind) {
        let books = self.books();
        (books.copies, books.hints)
    }

    /// Every shelf that holds something.
    pub fn filled(&self) -> Vec<(Shelf, Held)> {
        self.books().shelves.iter().map(|(shelf, held)| (*shelf, *held)).collect()
    }

    /// What this node tells of its copies now. Before the count it may hold anything.
    pub fn told(&self) -> HeldUntil {
        let mut books = self.books();
        let generation = self.generation.now();
        books.note(generation);
        books.until.unwrap_or_else(|| HeldUntil::anything(generation))
    }

    /// Makes room for a copy that is to be `after` bytes long and was `before` (0: not there), and was
    /// stamped `old` before. `stamp` is that of what is added; none for what is minted here. The answer
    /// is the stamp of the copy. The generation is judged and the copy counted in one step, so that
    /// [`Self::told`] never misses one.
    ///
    /// # Errors
    /// [`LocalError::OldGeneration`]; at the cap [`LocalError::StandInsFull`], counted.
    pub fn grow_copy(
        &self,
        shelf: Shelf,
        (before, after): (u64, u64),
        (old, stamp): (Option<u64>, Option<u64>),
    ) -> Result<u64, LocalError> {
        let mut books = self.books();
        let own = self.generation.now();
        let stamp = stamp.unwrap_or(own);
        if !self.generation.takes(stamp) {
            return Err(LocalError::OldGeneration { stamp, own });
        }
        if !self.copies_cap.takes(books.copies.bytes, before, after) {
            self.copies_refused.fetch_add(1, Relaxed);
            return Err(LocalError::StandInsFull);
        }
        let stamp = old.map_or(stamp, |old| old.min(stamp));
        books.copies.add(before, after);
        books.put(shelf, before == 0);
        *books.stamps.entry(stamp).or_default() += 1;
        if let Some(old) = old {
            books.unstamp(old);
        }
        books.note(own);
        Ok(stamp)
    }

    /// As [`Self::grow_copy`], for a hint.
    pub fn grow_hint(&self, shelf: Shelf, before: u64, after: u64) -> bool {
        let mut books = self.books();
        let taken = self.hints_cap.takes(books.hints.bytes, before, after);
        if taken {
            books.hints.add(before, after);
            books.put(shelf, before == 0);
        } else {
            self.overflowed();
        }
        taken
    }

    /// A hint was dropped for want of room.
    pub fn overflowed(&self) {
        self.hints_overflowed.fetch_add(1, Relaxed);
    }

    /// A copy of so many bytes with this stamp is gone.
    pub fn shrink_copy(&self, shelf: Shelf, bytes: u64, stamp: u64) {
        let mut books = self.books();
        let generation = self.generation.now();
        // It was held until now.
        books.note(generation);
        books.copies.remove(bytes);
        books.take(shelf);
        books.unstamp(stamp);
        books.note(generation);
    }

    /// A hint of so many bytes is gone.
    pub fn shrink_hint(&self, shelf: Shelf, bytes: u64) {
        let mut books = self.books();
        books.hints.remove(bytes);
        books.take(shelf);
    }
}

impl Kind {
    fn add(&mut self, before: u64, after: u64) {
        self.entries += u64::from(before == 0);
        self.bytes = self.bytes.saturating_sub(before) + after;
    }

    fn remove(&mut self, bytes: u64) {
        self.entries = self.entries.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Books {
    fn unstamp(&mut self, stamp: u64) {
        if let Some(count) = self.stamps.get_mut(&stamp) {
            *count -= 1;
            if *count == 0 {
                self.stamps.remove(&stamp);
            }
        }
    }

    fn note(&mut self, generation: u64) {
        let lowest = self.stamps.keys().next().copied();
        if let Some(until) = &mut self.until {
            until.note(generation, lowest);
        }
    }

    fn put(&mut self, shelf: Shelf, new: bool) {
        self.puts += 1;
        let held = self.shelves.entry(shelf).or_default();
        held.entries += u64::from(new);
        held.puts = self.puts;
    }

    fn take(&mut self, shelf: Shelf) {
        if let Some(held) = self.shelves.get_mut(&shelf) {
            held.entries = held.entries.saturating_sub(1);
            if held.entries == 0 {
                self.shelves.remove(&shelf);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_past_a_cap_is_refused_and_counted_and_a_shelf_empties() {
        let generation: Arc<Generation> = Arc::default();
        generation.reached(5);
        let caps = (Cap { max_bytes: 100 }, Cap { max_bytes: 10 });
        let shelves = Shelves::new(caps.0, caps.1, generation.clone());
        let shelf = Shelf::of(&TableKey::first_of(7 << 48));
        assert!(!shelves.is_counted() && !shelves.may_hold_copies());
        shelves.not_counted("a lost range".to_string());
        assert!(shelves.may_hold_copies() && shelves.uncountable().is_some());
        assert!(shelves.told().holds(0), "anything may be there");
        shelves.counted(vec![(shelf, Some(3), 60)]);
        assert!(shelves.is_counted() && shelves.uncountable().is_none());
        let grown = |sizes, stamps| shelves.grow_copy(shelf, sizes, stamps).ok();
        assert_eq!(grown((60, 70), (Some(3), Some(5))), Some(3), "there is room");
        assert_eq!(grown((0, 31), (None, Some(5))), None, "there is none");
        assert_eq!(grown((0, 30), (None, Some(3))), None, "that is too old");
        assert_eq!(grown((0, 30), (None, None)), Some(5));
        assert!(shelves.grow_hint(shelf, 0, 10));
        assert!(!shelves.grow_hint(shelf, 0, 1));
        let counts = (&shelves.copies_refused, &shelves.hints_overflowed);
        assert_eq!((counts.0.load(Relaxed), counts.1.load(Relaxed)), (1, 1));
        let (copies, hints) = shelves.held();
        assert_eq!(copies, Kind { entries: 2, bytes: 100 });
        assert_eq!(hints, Kind { entries: 1, bytes: 10 });
        assert_eq!(shelves.filled()[0].1.puts, 4);
        assert!(shelves.told().holds(3));
        shelves.shrink_copy(shelf, 70, 3);
        generation.reached(6);
        let told = shelves.told();
        assert_eq!((told.holds(4), told.holds(5)), (false, true));
        assert_eq!((told.until(4), told.until(5)), (5, 6));
        shelves.shrink_copy(shelf, 30, 5);
        assert_eq!(shelves.filled().len(), 1, "the hint is left");
        shelves.shrink_hint(shelf, 10);
        assert_eq!((shelves.held(), shelves.filled().len()), Default::default());
        assert_eq!(grown((0, 30), (None, None)), Some(6));
        shelves.emptied();
        assert_eq!((shelves.held(), shelves.filled().len()), Default::default());
        let told = shelves.told();
        assert_eq!((told.holds(6), told.until(5)), (false, 6), "it may have held any");
    }

    #[test]
    fn a_shelf_that_was_empty_is_not_taken_for_what_it_was() {
        let cap = Cap { max_bytes: 100 };
        let shelves = Shelves::new(cap, cap, Arc::default());
        shelves.counted(Vec::new());
        let shelf = Shelf::of(&TableKey::first_of(7 << 48));
        assert!(shelves.grow_hint(shelf, 0, 10));
        let before = shelves.filled();
        shelves.shrink_hint(shelf, 10);
        assert!(shelves.grow_hint(shelf, 0, 10));
        assert_ne!(shelves.filled(), before, "it would never be looked at again");
        let before = shelves.filled();
        shelves.emptied();
        assert!(shelves.grow_hint(shelf, 0, 10));
        assert_ne!(shelves.filled(), before);
    }

    #[test]
    fn the_shelves_cover_the_ring_without_gaps() {
        let (first, end) = Shelf(3).range();
        assert_eq!(end, Some(Shelf(4).range().0));
        assert_eq!(Shelf::of(&first), Shelf(3));
        assert_eq!(Shelf(u16::MAX).range().1, None);
        assert_eq!(Shelf::of(&TableKey::first_of(u64::MAX)), Shelf(u16::MAX));
    }
}
