//! The tree against a plain map of keys.

use crate::merkle::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Op {
    Put(u16, u64),
    Erase(u16),
    /// From a prefix up to another, in sixteenths of the ring.
    Drop(u8, u8),
    /// A drop that begins in the middle of a leaf.
    Ragged(u16),
    Checkpoint,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (any::<u16>(), 1..u64::MAX).prop_map(|(k, v)| Op::Put(k, v)),
        2 => any::<u16>().prop_map(Op::Erase),
        1 => (0..16_u8, 0..=16_u8).prop_map(|(a, b)| Op::Drop(a, b)),
        1 => any::<u16>().prop_map(Op::Ragged),
        1 => Just(Op::Checkpoint),
    ]
}

/// Spread over the ring, several to a leaf at times.
fn hash(key: u16) -> u64 {
    (u64::from(key % 1_024) << 54) | u64::from(key)
}

fn model(keys: &BTreeMap<u64, u64>, node: Node) -> u64 {
    let (first, last) = node.range();
    keys.range(first..=last).fold(0, |sum, (_, value)| sum ^ value)
}

fn settle_all(tree: &Tree, keys: &BTreeMap<u64, u64>) -> usize {
    let (mut wrong, mut next) = (0, tree.doubtful(0).1);
    while let Some(chunk) = next {
        let (cut, mut found) = (tree.cut(chunk), [0; CHUNK_LEAVES]);
        let (first, last) = tree.chunk_node(chunk).range();
        for (hash, value) in keys.range(first..=last) {
            found[cut.leaf_of(tree, *hash)] ^= value;
        }
        wrong += tree.settle(&cut, &found).unwrap().len();
        next = tree.doubtful(chunk).1;
    }
    wrong
}

proptest! {
    /// After any history every subtree sums up what is there, once what is in doubt was looked at; and a
    /// subtree that the tree vouches for does so at once.
    #[test]
    fn sums_are_those_of_the_keys(ops in prop::collection::vec(op(), 0..200), deeper in 0..3_u8) {
        let (mut tree, mut keys) = (Tree::new(BITS_MIN + deeper), BTreeMap::new());
        for op in ops {
            match op {
                Op::Put(key, value) => {
                    let old = keys.insert(hash(key), value).unwrap_or(0);
                    tree.toggle(hash(key), old ^ value);
                }
                Op::Erase(key) => tree.toggle(hash(key), keys.remove(&hash(key)).unwrap_or(0)),
                Op::Drop(from, to) => {
                    let edge = |part: u8| Edge { hash: u64::from(part) << 60, before_all: true };
                    let (from, to) = (edge(from), (to < 16).then(|| edge(to)));
                    keys.retain(|hash, _| *hash < from.hash || to.is_some_and(|to| *hash >= to.hash));
                    tree.drop_range(from, to);
                }
                Op::Ragged(key) => {
                    keys.retain(|other, _| *other < hash(key));
                    tree.drop_range(Edge { hash: hash(key), before_all: true }, None);
                }
                Op::Checkpoint => {
                    let next = Tree::new(BITS_MIN + deeper);
                    prop_assert_eq!(next.restore(Some(&tree.encode(7)), 7), Restored::Whole);
                    tree = next;
                }
            }
        }
        let parts: Vec<Node> = (0..16).map(|index| Node { depth: 4, index }).collect();
        for node in parts.iter().filter(|node| tree.vouches(**node)) {
            prop_assert_eq!(tree.sum(*node), model(&keys, *node));
        }
        settle_all(&tree, &keys);
        for node in parts.iter().flat_map(|node| node.below(2)) {
            prop_assert!(tree.vouches(node));
            prop_assert_eq!(tree.sum(node), model(&keys, node));
        }
        for hash in keys.keys() {
            let index = (hash >> (64 - u32::from(tree.bits()))) as u32;
            let leaf = Node { depth: tree.bits(), index };
            prop_assert_eq!(tree.sum(leaf), model(&keys, leaf));
        }
        prop_assert!(tree.memory_bytes() <= Tree::memory_limit(tree.bits()));
    }

    /// A deeper state folds into a shallower tree; a cut or changed one is never taken for whole where it is not.
    #[test]
    fn a_state_folds_and_a_broken_one_is_in_doubt(
        values in prop::collection::btree_map(any::<u64>(), 1..u64::MAX, 0..600), at in any::<prop::sample::Index>(),
    ) {
        let deep = Tree::new(BITS_MIN + 2);
        values.iter().for_each(|(hash, value)| deep.toggle(*hash, *value));
        deep.doubt(Node { depth: 4, index: 3 });
        let stored = deep.encode(1);
        let shallow = Tree::new(BITS_MIN);
        prop_assert_eq!(shallow.restore(Some(&stored), 1), Restored::Whole);
        for node in (Node { depth: 0, index: 0 }).below(4) {
            prop_assert_eq!(shallow.sum(node), model(&values, node));
            prop_assert_eq!(shallow.vouches(node), node.index != 3);
        }
        let all = Node { depth: 0, index: 0 };
        let cut = &stored[..at.index(stored.len())];
        for (bytes, key, bits) in [(cut, 1, BITS_MIN), (&stored[..], 2, BITS_MIN), (&stored[..], 1, BITS_MIN + 3)] {
            let tree = Tree::new(bits);
            prop_assert_eq!(tree.restore(Some(bytes), key), Restored::Unknown);
            prop_assert!(!tree.vouches(all));
            settle_all(&tree, &values);
            prop_assert!(tree.vouches(all));
            prop_assert_eq!(tree.sum(all), model(&values, all));
        }
    }

    #[test]
    fn any_bytes_restore_or_are_in_doubt(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let tree = Tree::new(BITS_MIN);
        let restored = tree.restore(Some(&bytes), 1);
        prop_assert_eq!(restored == Restored::Whole, tree.doubtful(0).0 < tree.chunk_count() as usize);
    }
}

#[test]
fn leaves_that_are_wrong_are_named_and_mended_beside_writers() {
    let (tree, mut keys) = (Tree::new(BITS_MIN), BTreeMap::new());
    for key in 0..2_000_u16 {
        keys.insert(hash(key), u64::from(key) + 1);
        tree.toggle(hash(key), u64::from(key) + 1);
    }
    tree.toggle(hash(5), 99);
    let chunk = (hash(5) >> 56) as u32;
    let (cut, before) = (tree.cut(chunk), keys.clone());
    // A writer goes on after the snapshot.
    tree.toggle(hash(5), 6 ^ 1_000);
    keys.insert(hash(5), 1_000);
    let mut found = [0; CHUNK_LEAVES];
    let (first, last) = tree.chunk_node(chunk).range();
    for (hash, value) in before.range(first..=last) {
        found[cut.leaf_of(&tree, *hash)] ^= value;
    }
    let wrong = tree.settle(&cut, &found).unwrap();
    assert_eq!(wrong, [Node { depth: BITS_MIN, index: (hash(5) >> 48) as u32 }]);
    assert_eq!(tree.sum(Node { depth: 0, index: 0 }), model(&keys, Node { depth: 0, index: 0 }));
    let cut = tree.cut(chunk);
    tree.drop_range(Edge { hash: 1 << 63, before_all: true }, None);
    assert_eq!(tree.settle(&cut, &found), Err(Stale));
}

#[test]
fn memory_is_that_of_the_owned_share() {
    let (tree, whole) = (Tree::new(20), Tree::memory_limit(20));
    assert!(tree.memory_bytes() < whole / 50, "{} of {whole}", tree.memory_bytes());
    for hash in 0..1 << 16 {
        tree.toggle(hash << 45, 1);
    }
    println!("an eighth of the ring: {} of at most {whole} bytes", tree.memory_bytes());
    assert!(tree.memory_bytes() < whole / 6);
}
