//! What an owner agreed to erase is offered to nobody, and only spent rows of other starts go.

use std::sync::Arc;

use bytes::Bytes;
use kvasir_core::merkle::{Answer, Node, Piece, Span};
use kvasir_core::version::{Actor, Context, Minter, Sibling, SiblingSet, Stamp};
use kvasir_storage::{Manual, MemoryDisk, Store, StoreOptions};

use super::*;
use crate::planted::Planted;
use crate::replica::Trees;
use crate::seam::Clock;

const ALL: Node = Node { depth: 0, index: 0 };
/// The tag of the start that the tests run in.
const TAG: u64 = 77;

struct Fixed;

impl Clock for Fixed {
    fn wall_ms(&self) -> u64 {
        1_800_000_000_000
    }
}

struct Owner {
    holder: Holder,
    work: Arc<Manual>,
}

impl Owner {
    fn start() -> Self {
        let trees = Arc::new(Trees::new(true, 16, Some([7; 32]), Planted::default()));
        let work = Manual::new();
        let options = StoreOptions::new("db");
        let disk = Arc::new(MemoryDisk::new());
        let store = Store::open(options, disk, work.clone(), trees.clone()).unwrap();
        let minter = Arc::new(Minter::new(TAG));
        let parts = (store, trees);
        let replica = Replica::new(parts, minter, Arc::new(Fixed), Planted::default());
        replica.generation().reached(1);
        Self { holder: Holder::new(Arc::new(replica), 1), work }
    }

    fn run<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..10_000 {
            if let std::task::Poll::Ready(out) = work.as_mut().poll(&mut context) {
                return out;
            }
            self.work.run_all();
        }
        panic!("it never ends");
    }

    fn replica(&self) -> &Replica {
        &self.holder.replica
    }

    fn merge(&self, key: &TableKey, set: SiblingSet) {
        let durability = kvasir_core::ring::Durability::Memory;
        self.run(self.replica().merge(key, set, 1, durability)).unwrap();
    }

    /// Keys that a comparison which begins here names, and sets that one which begins elsewhere is sent.
    fn offers(&self) -> (usize, usize) {
        let span = Span { node: ALL, from: Bytes::new(), to: Bytes::new() };
        let listed = self.run(self.replica().list(&[span], None, 100)).unwrap();
        let (from, to) = (Bytes::new(), Bytes::new());
        let piece = Piece { node: ALL, from, to, digests: Vec::new() };
        match self.run(self.replica().compare(&[piece], None)).unwrap() {
            Answer::Keys { sets, .. } => (listed[0].entries.len(), sets.len()),
            other => panic!("{other:?}"),
        }
    }
}

fn key(number: u8) -> TableKey {
    TableKey::new(u64::from(number) << 56, b"b", &[number])
}

/// A write over all of `seen`.
fn over(seen: &Context, tag: u64, sibling: Sibling) -> SiblingSet {
    let actor = Actor { tag, serial: 0 };
    SiblingSet::delta(seen.clone(), actor.dot(seen.highest(&actor) + 1), sibling)
}

#[test]
fn what_was_agreed_on_is_offered_to_nobody_while_it_is_still_that() {
    let owner = Owner::start();
    let set = over(&Context::new(), 1, Sibling::tombstone(Stamp(1)));
    owner.merge(&key(1), set.clone());
    owner.merge(&key(2), set.clone());
    assert_eq!(owner.offers(), (2, 2));
    let goes = Goes::Set(set.digest().0);
    assert!(owner.run(owner.holder.holds(key(1), goes.clone())));
    assert!(!owner.run(owner.holder.holds(key(1), Goes::Set([0; 16]))));
    assert!(owner.replica().leaving().add(key(1), goes));
    assert_eq!(owner.offers(), (1, 1));
    assert!(owner.run(owner.replica().read(&key(1))).unwrap().is_empty());
    // A new write is another set: it is offered, and not erased.
    let seen = set.context();
    owner.merge(&key(1), over(seen, 2, Sibling::value(Stamp(2), "new")));
    assert_eq!(owner.offers(), (2, 2));
    assert!(!owner.run(owner.holder.erase_one(&key(1), set.digest().0)).unwrap());
    // What was agreed on as rows is shown as before.
    assert!(owner.replica().leaving().add(key(2), Goes::Rows(Vec::new())));
    assert_eq!(owner.offers(), (2, 2));
    owner.work.drop_all();
}

#[test]
fn rows_go_if_they_are_spent_agreed_on_and_of_another_start() {
    let owner = Owner::start();
    let mut set = over(&Context::new(), 1, Sibling::value(Stamp(1), "1"));
    for tag in [2, TAG, 3] {
        if tag == TAG {
            // A serial of this start has to be taken before its rows are believed.
            owner
                .holder
                .replica
                .minter()
                .mint(
                    None,
                    Default::default(),
                    &Context::new(),
                    Sibling::value(Stamp(1), "elsewhere"),
                )
                .unwrap();
        }
        let value = Sibling::value(Stamp(tag), tag.to_string());
        set = set.merge(&over(&set.context().clone(), tag, value));
    }
    owner.merge(&key(1), set.clone());
    let row = |tag| Actor { tag, serial: 0 }.dot(1);
    let spent: Vec<Dot> = set.spent_rows().flatten().collect();
    assert_eq!(spent, [row(1), row(2), row(TAG)]);
    let holds = |rows: Vec<Dot>| owner.run(owner.holder.holds(key(1), Goes::Rows(rows)));
    assert!(holds(vec![row(1), row(2)]));
    assert!(!holds(vec![row(1), row(TAG)]), "its own");
    assert!(!holds(vec![row(3)]), "its sibling lives");
    assert!(!holds(vec![row(9)]), "it never heard of it");
    let rows = vec![row(1), row(2)];
    let fold = |rows: Vec<Dot>| owner.run(owner.holder.fold_one(&key(1), rows)).unwrap();
    assert!(!fold(rows.clone()), "nobody agreed");
    assert!(owner.replica().leaving().add(key(1), Goes::Rows(rows.clone())));
    assert!(!fold(vec![row(1)]), "something else was agreed on");
    // A write in between does not matter: the rows are spent all the same.
    let value = Sibling::value(Stamp(9), "newer");
    owner.merge(&key(1), over(set.context(), 4, value.clone()));
    assert!(fold(rows.clone()));
    let left = owner.run(owner.replica().read(&key(1))).unwrap();
    assert!(left.siblings().values().eq([&value]));
    let left: Vec<u64> = left.context().vector().map(|(actor, _)| actor.tag).collect();
    assert_eq!(left, [3, 4, TAG]);
    assert!(!fold(rows), "they are gone");
    owner.work.drop_all();
}

/// A row of which a write never came to any owner goes as what it is; an owner that hears of that write in time
/// has another row, and keeps it.
#[test]
fn a_row_with_a_hole_goes_as_exactly_the_dots_that_it_has() {
    let owner = Owner::start();
    let ended = Actor { tag: 1, serial: 0 };
    let second = SiblingSet::delta(Context::new(), ended.dot(2), Sibling::value(Stamp(1), "2"));
    let set = over(second.context(), 2, Sibling::value(Stamp(2), "over it"));
    owner.merge(&key(1), set.clone());
    owner.merge(&key(2), set.clone());
    let rows: Vec<Dot> = set.spent_rows().flatten().collect();
    assert_eq!(rows, [ended.dot(0), ended.dot(2)]);
    let holds =
        |of: u8, rows: &[Dot]| owner.run(owner.holder.holds(key(of), Goes::Rows(rows.to_vec())));
    assert!(holds(1, &rows) && holds(2, &rows));
    assert!(!holds(1, &rows[1..]), "all up to the second would be another row");
    for of in [1, 2] {
        assert!(owner.replica().leaving().add(key(of), Goes::Rows(rows.clone())));
    }
    // The first write comes to light: nothing superseded it, and it stays.
    let first = SiblingSet::delta(Context::new(), ended.dot(1), Sibling::value(Stamp(1), "1"));
    owner.merge(&key(2), first);
    let fold = |of| owner.run(owner.holder.fold_one(&key(of), rows.clone())).unwrap();
    assert_eq!([fold(1), fold(2)], [true, false]);
    let left = |of| owner.run(owner.replica().read(&key(of))).unwrap();
    assert_eq!((left(1).siblings().len(), left(2).siblings().len()), (1, 2));
    assert!(left(1).context().rows().all(|(actor, _)| actor != ended));
    assert_eq!(left(2).context().contiguous(&ended), 2);
    owner.work.drop_all();
}
