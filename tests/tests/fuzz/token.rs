//! Tokens and the sets that they speak of. A token that is taken is one that was issued, byte for byte;
//! a set that is read is written the same again, and merging it with itself changes nothing.

use bytes::Bytes;
use kvasir_core::id::ClusterId;
use kvasir_core::version::{
    Actor, Context, Payload, Record, Sibling, SiblingSet, Stamp, Token, TokenKey,
};
use kvasir_tests::fuzz::{Target, run};

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
const SECRET: TokenKey = TokenKey([9; 32]);
const HASH: u64 = 11;

fn contexts() -> Vec<Context> {
    let actor = |tag| Actor { tag, serial: 3 };
    let mut some = Context::default();
    some.insert(actor(1).dot(1));
    let mut holes = some.clone();
    holes.insert(actor(2).dot(5));
    holes.insert(actor(2).dot(9));
    vec![Context::default(), some, holes]
}

fn issued() -> Vec<String> {
    let token = |context: &Context| Token::encode(&SECRET, CLUSTER, HASH, context).expect("short");
    contexts().iter().map(token).collect()
}

fn taken(input: &[u8]) -> String {
    let Ok(text) = std::str::from_utf8(input) else { return String::from("no text") };
    match Token::decode(&SECRET, CLUSTER, HASH, text) {
        Ok(context) => {
            let again = Token::encode(&SECRET, CLUSTER, HASH, &context).expect("it was one");
            assert!(again == text && issued().contains(&again), "forged: {text}");
            String::from("taken")
        }
        Err(error) => format!("{error:?}").chars().take(9).collect(),
    }
}

#[test]
fn tokens() {
    let mut seeds: Vec<Vec<u8>> = issued().into_iter().map(String::into_bytes).collect();
    let other = Token::encode(&TokenKey([8; 32]), CLUSTER, HASH, &contexts()[2]).unwrap();
    seeds.push(other.into_bytes());
    seeds.push(Token::encode(&SECRET, CLUSTER, 12, &contexts()[1]).unwrap().into_bytes());
    let words: &[&[u8]] = &[b"=", b"-_", b"AAAA"];
    let target = Target { name: "token", seeds, words, inputs: 20_000, mend: &|_| (), run: &taken };
    assert!(run(&target).outcomes.len() >= 6);
}

fn set(input: &[u8]) -> String {
    let shared = Bytes::copy_from_slice(input);
    let record = Record::decode(input).ok();
    assert_eq!(record, Record::decode_shared(&shared).ok());
    if let Some(record) = record {
        assert_eq!(Record::decode(&record.encode()), Ok(record));
    }
    match SiblingSet::decode(input) {
        Ok(set) => {
            assert_eq!(SiblingSet::decode_shared(&shared).as_ref(), Ok(&set));
            assert_eq!(SiblingSet::decode(&set.encode()).as_ref(), Ok(&set));
            assert_eq!(set.merge(&set), set);
            format!("{} {}", set.siblings().len().min(5), set.context().rows().count().min(5))
        }
        Err(error) => format!("{error:?}").chars().take(16).collect(),
    }
}

#[test]
fn sets() {
    let sibling = |payload| Sibling { stamp: Stamp(5 << 16), expires_ms: Some(9), payload };
    let value = Payload::Value {
        bytes: Bytes::from_static(b"value"),
        content_type: Some(String::from("text/plain")),
    };
    let dot = |tag| Actor { tag, serial: 1 }.dot(4);
    let [_, some, holes] = &contexts()[..] else { panic!("three contexts") };
    let one = SiblingSet::delta(some.clone(), dot(8), sibling(value));
    let two = SiblingSet::delta(holes.clone(), dot(9), sibling(Payload::Tombstone));
    let both = one.merge(&two);
    let seeds =
        vec![one.encode(), two.encode(), both.encode(), Record::merged(both).encode(), Vec::new()];
    let target =
        Target { name: "set", seeds, words: &[], inputs: 20_000, mend: &|_| (), run: &set };
    assert!(run(&target).outcomes.len() >= 6);
}
