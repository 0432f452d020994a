//! Blocks against a sorted map, and damaged ones.

use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BTreeMap;

type Oracle = BTreeMap<(Vec<u8>, Reverse<u64>), Option<Vec<u8>>>;

fn oracle() -> impl Strategy<Value = Oracle> {
    let key = prop_oneof![
        prop::collection::vec(0u8..3, 0..6),
        // Longer than a head, alike in it or far apart.
        (any::<bool>(), prop::collection::vec(0u8..3, 0..4)).prop_map(|(same, rest)| {
            let head = if same { [1; 8] } else { [rest.len() as u8 * 80; 8] };
            [&head[..], &rest].concat()
        }),
    ];
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
    prop::collection::btree_map((key, (0u64..6).prop_map(Reverse)), value, 1..80)
}

fn build(entries: &Oracle) -> Block {
    let mut builder = BlockBuilder::default();
    for ((key, seq), value) in entries {
        builder.add(key, seq.0, value.as_deref());
    }
    let expected = builder.len();
    let content = builder.finish();
    assert_eq!(content.len(), expected);
    Block::parse(content.into()).unwrap()
}

proptest! {
    #[test]
    fn search_and_walk_agree_with_a_sorted_map(
        entries in oracle(),
        probes in prop::collection::vec((prop::collection::vec(0u8..3, 0..12), 0u64..7), 1..30),
    ) {
        let block = build(&entries);
        prop_assert!(block.is_sound());
        let mut cursor = BlockCursor::first(block.clone()).unwrap();
        for ((key, seq), value) in &entries {
            prop_assert!(cursor.valid());
            prop_assert_eq!(cursor.key(), key.as_slice());
            prop_assert_eq!(cursor.seq(), seq.0);
            prop_assert_eq!(cursor.value_slice(), value.as_deref());
            cursor.advance().unwrap();
        }
        prop_assert!(!cursor.valid());
        for (key, seq) in probes {
            let wanted = entries.range((key.clone(), Reverse(seq))..).next();
            let hit = block.lower_bound(&key, seq).unwrap();
            let cursor = BlockCursor::seek(block.clone(), &key, seq).unwrap();
            prop_assert_eq!(hit.is_some(), wanted.is_some());
            prop_assert_eq!(cursor.valid(), wanted.is_some());
            if let (Some(hit), Some(((k, s), value))) = (hit, wanted) {
                prop_assert_eq!(hit.exact, k == &key);
                prop_assert_eq!(hit.seq, s.0);
                prop_assert_eq!(block.value_of(&hit), value.as_deref());
                prop_assert_eq!(&block.clone().into_value(&hit).map(|v| v.to_vec()), value);
                prop_assert_eq!(cursor.shared_key(), k);
                prop_assert_eq!(cursor.key(), k.as_slice());
                prop_assert_eq!(cursor.seq(), s.0);
                prop_assert_eq!(&cursor.value().map(|v| v.to_vec()), value);
            }
        }
    }

    #[test]
    fn any_bytes_are_read_without_panic(content in prop::collection::vec(any::<u8>(), 0..200)) {
        walk(content);
    }

    #[test]
    fn a_damaged_block_is_read_without_panic(
        entries in oracle(), at: prop::sample::Index, byte: u8,
    ) {
        let mut content = build(&entries).content.to_vec();
        let at = at.index(content.len());
        content[at] = byte;
        walk(content);
    }
}

#[test]
fn many_entries_and_a_long_block_are_found_alike() {
    let value = vec![7; 700];
    for count in [64u64, 65, 5000] {
        let mut builder = BlockBuilder::default();
        let key = |i: u64| (i * 0x3333_3333_3333).to_be_bytes();
        for i in 0..count {
            builder.add(&key(i * 2), i, (i % 3 > 0).then_some(&value));
        }
        let wide = count > 65;
        let block = Block::parse(builder.finish().into()).unwrap();
        assert_eq!((block.wide, block.is_sound()), (wide, true));
        for i in 0..count * 2 {
            let hit = block.lower_bound(&key(i), u64::MAX).unwrap();
            let found = hit.map(|hit| (hit.exact, hit.seq, block.value_of(&hit).is_some()));
            let at = i.div_ceil(2);
            assert_eq!(found, (at < count).then_some((i % 2 == 0, at, at % 3 > 0)), "{i}");
        }
    }
}

#[test]
fn a_wrong_hint_or_place_is_not_sound() {
    let mut builder = BlockBuilder::default();
    (0..9u64).for_each(|i| builder.add(&(i << 40).to_be_bytes(), 1, Some(b"v")));
    let content = builder.finish();
    let lists = content.len() - TAIL_BYTES - 9 * 4;
    for at in lists..content.len() {
        let mut wrong = content.clone();
        wrong[at] ^= 1;
        let block = Block::parse(wrong.into());
        assert!(!block.is_ok_and(|block| block.is_sound()), "byte {at}");
    }
}

fn walk(content: Vec<u8>) {
    let Ok(block) = Block::parse(content.into()) else { return };
    let _ = block.is_sound();
    let _ = block.lower_bound(&[1, 1], 3);
    let _ = BlockCursor::seek(block.clone(), &[1, 1], 3);
    if let Ok(mut cursor) = BlockCursor::first(block) {
        while cursor.valid() && cursor.advance().is_ok() {
            let _ = (cursor.key(), cursor.value());
        }
    }
}
