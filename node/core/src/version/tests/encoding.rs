//! Canonical bytes: what is written is read back, whatever is read would be written just so, and
//! nothing else is taken.

use proptest::prelude::*;

use super::super::codec::SET_VERSION;
use super::super::record::RECORD_VERSION;
use super::*;
use crate::id::ClusterId;
use crate::limits::TOKEN_HEADER_MAX_BYTES;

fn any_wide_set() -> impl Strategy<Value = SiblingSet> {
    let dot = (any::<u64>(), prop_oneof![0..3u64, any::<u64>()], 1..u64::MAX);
    let dot = dot.prop_map(|(tag, serial, count)| Actor { tag, serial }.dot(count));
    let payload = prop_oneof![
        Just(Payload::Tombstone),
        (prop::collection::vec(any::<u8>(), 0..300), prop::option::of(".{0,20}"))
            .prop_map(|(bytes, content_type)| Payload::Value { bytes: bytes.into(), content_type }),
    ];
    let sibling = (any::<u64>(), prop::option::of(any::<u64>()), payload).prop_map(
        |(stamp, expires_ms, payload)| Sibling { stamp: Stamp(stamp), expires_ms, payload },
    );
    prop::collection::vec((dot, prop::option::of(sibling)), 0..6).prop_map(|dots| {
        let context = dots.iter().map(|(dot, _)| *dot).collect();
        let held = dots.into_iter().filter_map(|(dot, sibling)| Some((dot, sibling?)));
        SiblingSet::from_parts(context, held.collect()).unwrap()
    })
}

fn any_record() -> impl Strategy<Value = Record> {
    (prop_oneof![any_set(), any_wide_set()], any::<prop::sample::Index>(), any::<bool>()).prop_map(
        |(set, which, counts)| {
            let own: Vec<Actor> = set.context().vector().map(|(actor, _)| actor).collect();
            let counting = (counts && !own.is_empty()).then(|| own[which.index(own.len())]);
            Record { set, counting }
        },
    )
}

/// Either the bytes are refused, or they are exactly what would be written for what was read.
fn refused_or_canonical(bytes: &[u8]) {
    if let Ok(record) = Record::decode(bytes) {
        assert_eq!(record.encode(), bytes);
    }
    if let Ok(set) = SiblingSet::decode(bytes) {
        assert_eq!(set.encode(), bytes);
    }
    if let Ok(outline) = Outline::decode(bytes) {
        assert_eq!(outline.encode(), bytes);
    }
}

proptest! {
    #[test]
    fn records_come_back(record in any_record()) {
        let bytes = record.encode();
        prop_assert_eq!(&Record::decode(&bytes).unwrap(), &record);
        prop_assert_eq!(&Record::decode_shared(&bytes.into()).unwrap(), &record);
        let bytes = record.set.encode();
        prop_assert_eq!(&SiblingSet::decode(&bytes).unwrap(), &record.set);
        prop_assert_eq!(&SiblingSet::decode_shared(&bytes.into()).unwrap(), &record.set);
    }

    #[test]
    fn digests_tell_sets_apart(a in any_set(), b in any_set()) {
        prop_assert_eq!(a == b, a.digest() == b.digest());
    }

    #[test]
    fn every_truncation_is_refused(record in any_record()) {
        let bytes = record.encode();
        for length in 0..bytes.len() {
            prop_assert!(Record::decode(&bytes[..length]).is_err());
        }
    }

    #[test]
    fn mutations_never_panic_and_never_make_a_second_form(
        record in any_record(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6),
    ) {
        let mut bytes = record.encode();
        for (place, byte, kind) in edits {
            let place = place.index(bytes.len());
            match kind {
                0 => bytes[place] = byte,
                1 => bytes[place] ^= 1 << (byte % 8),
                2 => bytes.insert(place, byte),
                _ if bytes.len() > 1 => { bytes.remove(place); }
                _ => {}
            }
            refused_or_canonical(&bytes);
        }
    }

    #[test]
    fn garbage_never_panics(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        refused_or_canonical(&bytes);
        for start in [&[RECORD_VERSION, 0, SET_VERSION][..], &[RECORD_VERSION, 1], &[SET_VERSION]] {
            bytes.splice(..0, start.iter().copied());
            refused_or_canonical(&bytes);
        }
    }
}

#[test]
fn the_layout_of_version_1_stays_as_it_is() {
    let dot = Actor { tag: 0x0102_0304_0506_0708, serial: 300 }.dot(2);
    let lonely = Actor { tag: 9, serial: 0 }.dot(4);
    let sibling = Sibling {
        stamp: Stamp(0x1122),
        expires_ms: Some(128),
        payload: Payload::Value { bytes: "abc".into(), content_type: Some("t/p".into()) },
    };
    let mut context = Context::from_iter([dot.actor.dot(1), dot, lonely]);
    context.insert(lonely);
    let set = SiblingSet::from_parts(context, BTreeMap::from([(dot, sibling)])).unwrap();
    let record = Record { set, counting: Some(dot.actor) };
    let expected = [
        &[1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0xac, 2][..], // record 1, counting on tag.300
        &[1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0xac, 2, 2],  // set 1, one vector row: tag.300 up to 2
        &[1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 4],           // one cloud dot: 9.0:4
        &[1, 1, 2, 3, 4, 5, 6, 7, 8, 0xac, 2, 2],     // one sibling: tag.300:2
        &[0, 0, 0, 0, 0, 0, 0x11, 0x22, 7, 0x80, 1],  // stamp, all flags, expiry 128
        &[3, b't', b'/', b'p', 3, b'a', b'b', b'c'],
    ]
    .concat();
    assert_eq!(record.encode(), expected);
}

/// Changes one byte of a record with one dot of an actor and one sibling.
fn edited(place: usize, byte: u8) -> Result<Record, CodecError> {
    let dot = actor(1).dot(1);
    let set = SiblingSet::delta(Context::new(), dot, Sibling::value(Stamp(1), "abc"));
    let mut bytes = Record { set, counting: None }.encode();
    bytes[place] = byte;
    Record::decode(&bytes)
}

#[test]
fn refusals_say_what_is_wrong() {
    assert!(edited(0, RECORD_VERSION).is_ok());
    let unknown = edited(0, 7).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "stored record has version 7, but only version 1 is known here"
    );
    let unknown = edited(2, 2).unwrap_err();
    assert_eq!(unknown, CodecError::UnknownVersion { what: "set", found: 2, known: 1 });
    assert_eq!(edited(1, 2), Err(CodecError::NotCanonical("a record has unknown flags")));
    assert_eq!(edited(3, 100), Err(CodecError::Truncated("the vector")));
    assert_eq!(edited(3, 0), Err(CodecError::NotCanonical("bytes follow the end")));
    assert_eq!(
        Record::decode(&[]),
        Err(CodecError::Truncated("stored record")),
        "nothing is not an empty record"
    );
}

#[test]
fn a_second_form_of_the_same_set_is_refused() {
    let row = |count: u8| [0, 0, 0, 0, 0, 0, 0, 1, 0, count];
    let bytes = |vector: &[[u8; 10]], cloud: &[[u8; 10]]| {
        let mut out = vec![SET_VERSION, vector.len() as u8];
        out.extend(vector.concat());
        out.push(cloud.len() as u8);
        out.extend(cloud.concat());
        out.push(0);
        out
    };
    let refused = |vector: &[[u8; 10]], cloud: &[[u8; 10]]| {
        let result = SiblingSet::decode(&bytes(vector, cloud));
        assert!(matches!(result, Err(CodecError::NotCanonical(_))), "{result:?}");
    };
    assert!(SiblingSet::decode(&bytes(&[row(2)], &[row(4), row(5)])).is_ok());
    refused(&[row(0)], &[]);
    refused(&[row(2), row(2)], &[]);
    refused(&[row(2)], &[row(3)]);
    refused(&[row(2)], &[row(2)]);
    refused(&[], &[row(1)]);
    refused(&[], &[row(0)]);
    refused(&[], &[row(5), row(4)]);
    let mut trailing = bytes(&[], &[]);
    trailing.push(0);
    assert!(matches!(SiblingSet::decode(&trailing), Err(CodecError::NotCanonical(_))));
    let long_zero = [SET_VERSION, 0x80, 0, 0, 0];
    assert!(matches!(SiblingSet::decode(&long_zero), Err(CodecError::NotCanonical(_))));
    let huge = [&[SET_VERSION][..], &[0xff; 9], &[2, 0, 0]].concat();
    assert!(matches!(SiblingSet::decode(&huge), Err(CodecError::NotCanonical(_))));
}

const KEY: TokenKey = TokenKey([7; 32]);

fn cluster() -> ClusterId {
    ClusterId::from_bytes([3; 16])
}

fn token_of(context: &Context) -> String {
    Token::encode(&KEY, cluster(), 42, context).unwrap()
}

fn taken(token: &str) -> Result<Context, TokenError> {
    Token::decode(&KEY, cluster(), 42, token)
}

proptest! {
    #[test]
    fn tokens_come_back(context in prop_oneof![
        any_context(),
        any_wide_set().prop_map(|set| set.context().clone()),
    ]) {
        prop_assert_eq!(taken(&token_of(&context)), Ok(context));
    }

    #[test]
    fn every_changed_token_is_refused(context in any_context()) {
        let token = token_of(&context);
        for place in 0..token.len() {
            prop_assert!(taken(&token[..place]).is_err(), "cut at {}", place);
            for other in b"Aa0-_=Zz9 " {
                let mut bytes = token.clone().into_bytes();
                bytes[place] = *other;
                let altered = String::from_utf8(bytes).unwrap();
                prop_assert!(altered == token || taken(&altered).is_err(), "{}", altered);
            }
        }
        for more in ["A", "="] {
            prop_assert!(taken(&(token.clone() + more)).is_err());
        }
    }
}

#[test]
fn a_token_says_why_it_is_refused() {
    let token = token_of(&Context::from_iter([actor(1).dot(1)]));
    let elsewhere = ClusterId::from_bytes([4; 16]);
    assert_eq!(Token::decode(&KEY, elsewhere, 42, &token), Err(TokenError::Foreign));
    assert_eq!(Token::decode(&KEY, cluster(), 43, &token), Err(TokenError::WrongKey));
    let other_secret = TokenKey([8; 32]);
    assert_eq!(Token::decode(&other_secret, cluster(), 42, &token), Err(TokenError::BadMac));
    assert_eq!(taken("not a token"), Err(TokenError::Malformed));
    assert_eq!(taken(""), Err(TokenError::Malformed));
    assert_eq!(taken("AQ"), Err(TokenError::Malformed));
    assert_eq!(taken("Ag"), Err(TokenError::UnknownVersion(2)));
    let long = "A".repeat(TOKEN_HEADER_MAX_BYTES + 1);
    assert_eq!(taken(&long), Err(TokenError::TooLarge(long.len())));
    assert_eq!(format!("{KEY:?}"), "TokenKey(..)");
}

#[test]
fn a_token_too_large_for_its_header_is_not_issued() {
    let rows = |count: u64| (0..count).map(|tag| Actor { tag, serial: 1 }.dot(1)).collect();
    assert!(Token::encode(&KEY, cluster(), 1, &rows(4_900)).is_ok());
    let refused = Token::encode(&KEY, cluster(), 1, &rows(5_000));
    assert!(matches!(refused, Err(TokenError::TooLarge(_))), "{refused:?}");
}
