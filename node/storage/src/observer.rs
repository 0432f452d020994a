//! Who is told of every change, in apply order, so that derived state (the hash trees of
//! anti-entropy) is never rebuilt after a crash.
//!
//! The engine calls [`Observer::changed`] under the lock of the key, right after the change became
//! visible, and again for every record that it replays. With each flush it stores
//! [`Observer::checkpoint`], taken at the same cut of the log as the memtable, atomically with the
//! table; at start it hands it back and replays only what came after.
//! Where a damaged table keeps the replay from knowing what a record replaced, the old value is given as
//! `None`: such a store has lost ranges, and state derived from it may be wrong there.

use crate::key::TableKey;

/// Told of changes. Calls for one key never overlap and come in apply order; calls for different
/// keys may come from several threads at once. Must not call back into the store.
pub trait Observer: Send + Sync + 'static {
    /// `key` went from `old` to `new`; `None` is "nothing stored".
    fn changed(&self, key: &TableKey, old: Option<&[u8]>, new: Option<&[u8]>);

    /// Every key from `from` up to and not including `to` (`None`: to the end) is gone. No change is
    /// told while this runs: what was told before lies before the drop, what comes after behind it.
    fn dropped(&self, from: &TableKey, to: Option<&TableKey>);

    /// Whether it looks at what the changes tell. If not, neither [`crate::Store::put`] nor a replay need
    /// look up the old value of each record in the tables, which is most of the time that a start after
    /// a crash takes; [`Observer::changed`] may then name no old value where there is one.
    fn looks(&self) -> bool {
        true
    }

    /// The state after every change told so far. No change is told while this runs, and writes
    /// wait for it: keep it short.
    fn checkpoint(&self) -> Vec<u8>;

    /// Called once at open, before the replay: the last stored checkpoint, or `None` for a store
    /// that never flushed.
    fn restore(&self, checkpoint: Option<&[u8]>);
}

/// An observer that keeps nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {
    fn changed(&self, _key: &TableKey, _old: Option<&[u8]>, _new: Option<&[u8]>) {}

    fn dropped(&self, _from: &TableKey, _to: Option<&TableKey>) {}

    fn looks(&self) -> bool {
        false
    }

    fn checkpoint(&self) -> Vec<u8> {
        Vec::new()
    }

    fn restore(&self, _checkpoint: Option<&[u8]>) {}
}
