//! The cluster document as people, operators and peers send it, and the file that an acceptor keeps. One
//! that is taken has one canonical form and one hash; judging and placing by it never panics.

use std::collections::BTreeMap;

use kvasir_core::admin_api::DocumentPut;
use kvasir_core::consensus::AcceptorState;
use kvasir_core::id::{ClusterId, NodeId};
use kvasir_core::ring::{
    BucketSettings, Document, Member, MemberState, NewCluster, Ring, Sealed, TokenSecret,
    legal_child,
};
use kvasir_tests::fuzz::{Target, run};

fn first() -> Document {
    let member = |number: u8| Member {
        machine: format!("m{number}"),
        rack: String::new(),
        zone: format!("z{number}"),
        datacenter: String::from("dc1"),
        weight: 100,
        state: MemberState::Active,
    };
    let new = NewCluster {
        cluster_id: ClusterId::from_bytes([0xc1; 16]),
        cluster_name: String::from("test"),
        seed: 42,
        token_secret: TokenSecret([7; 32]),
        partition_bits: 2,
        members: (0..3).map(|n| (NodeId::from_bytes([n + 1; 16]), member(n))).collect(),
        replication: BTreeMap::from([(String::from("dc1"), 3)]),
        defaults: BucketSettings::default(),
    };
    Document::first(new).expect("three machines for three copies").0
}

fn fed(input: &[u8]) -> String {
    if let Ok(state) = AcceptorState::decode(input) {
        assert_eq!(AcceptorState::decode(&state.encode()).ok(), Some(state));
        return String::from("a state");
    }
    let document = match serde_json::from_slice::<DocumentPut>(input) {
        Ok(put) => match put.parse() {
            Ok((_, document)) => document,
            Err(problem) => {
                let text = format!("{problem:?}");
                return text.chars().filter(|c| c.is_alphabetic()).skip(40).take(50).collect();
            }
        },
        Err(error) => {
            let text = error.to_string();
            return text.chars().filter(|c| c.is_alphabetic()).take(24).collect();
        }
    };
    let again: Document = serde_json::from_slice(&document.canonical()).expect("its own form");
    assert_eq!((&again, again.hash()), (&document, document.hash()));
    let (parent, child) = (Sealed::new(first()), Sealed::new(document.clone()));
    let judged = legal_child(&parent, &child);
    let judged = judged.map_or_else(|why| why.code().to_string(), |()| String::from("legal"));
    let sound = match document.validate() {
        Ok(()) => {
            let ring = Ring::new(child);
            for key in 0..40u8 {
                let (_, partition) = ring.locate(b"bucket", &[key]);
                assert!(!ring.owners(partition).is_empty() && ring.version(partition).is_some());
                assert!(ring.walk(partition).count() <= document.members.len());
            }
            String::from("sound")
        }
        Err(why) => format!("{why:?}").chars().take_while(|c| c.is_alphabetic()).collect(),
    };
    format!("{sound} {judged}")
}

#[test]
fn documents() {
    let put = |document: &Document| {
        let document = serde_json::to_value(document).expect("JSON");
        let put = DocumentPut { parent_hash: first().hash().to_string(), document };
        serde_json::to_vec(&put).expect("JSON")
    };
    let child = first().child();
    let mut left = child.clone();
    left.members.pop_last();
    let mut doubled = child.clone();
    doubled.partition_bits += 1;
    let mut heavier = child.clone();
    heavier.members.values_mut().for_each(|member| member.weight = 7);
    let seeds = [&first(), &child, &left, &doubled, &heavier].map(put).to_vec();
    let words: &[&[u8]] = &[
        b"null",
        b"{}",
        b"[]",
        b"18446744073709551615",
        b"-1",
        b"1e9",
        b"\"leaving\"",
        b"\"all\"",
        b"\"dc2\"",
        b"\\u0000",
    ];
    let target = Target { name: "document", seeds, words, inputs: 5_000, mend: &|_| (), run: &fed };
    assert!(run(&target).outcomes.len() > 20);
}
