//! Frames between nodes. However the bytes are cut by the network, the same frames come out and the same
//! error ends them; what is read can be written and read again.

use bytes::BytesMut;
use kvasir::peer::frame::{
    Class, Frame, FrameKind, HEADER_BYTES, Header, PREFIX_BYTES, encode, take,
};
use kvasir::peer::{Goodbye, Hello, Reply, Request};
use kvasir_core::id::NodeId;
use kvasir_tests::fuzz::{Target, crc32c, run};

fn mend(input: &mut [u8]) {
    let mut at = 0;
    while input.len() >= at + HEADER_BYTES {
        let claimed =
            u32::from_be_bytes([input[at + 4], input[at + 5], input[at + 6], input[at + 7]]);
        let rest = input.len() - at - PREFIX_BYTES;
        let length = match claimed as usize {
            fits @ 48.. if fits <= rest => fits,
            _ => rest,
        };
        input[at..at + 4].copy_from_slice(b"KVF1");
        input[at + 4..at + 8].copy_from_slice(&(length as u32).to_be_bytes());
        let sum = crc32c::of(&input[at + PREFIX_BYTES..at + PREFIX_BYTES + length]);
        input[at + 8..at + 12].copy_from_slice(&sum.to_be_bytes());
        at += PREFIX_BYTES + length;
    }
}

fn all(input: &[u8], piece: usize) -> (Vec<Frame>, String) {
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for part in input.chunks(piece) {
        buffer.extend_from_slice(part);
        loop {
            match take(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, error.code().to_string()),
            }
        }
    }
    (frames, String::from("more"))
}

fn read(frame: &Frame) -> String {
    let again = encode(&frame.header, &frame.body).expect("what was read can be written");
    let taken = take(&mut BytesMut::from(&again[..]));
    assert_eq!(taken, Ok(Some(frame.clone())));
    match frame.header.kind {
        FrameKind::Hello | FrameKind::Goodbye => match Hello::parse(frame) {
            Ok(hello) => {
                let again = take(&mut BytesMut::from(&hello.frame(hello.class)[..]));
                assert_eq!(Hello::parse(&again.expect("a frame").expect("a whole one")), Ok(hello));
                String::from("hello")
            }
            Err(goodbye) => goodbye.code().to_string(),
        },
        FrameKind::Request | FrameKind::Notice => match Request::decode(&frame.body) {
            Ok(request) => {
                assert_eq!(Request::decode(&request.encode()).as_ref(), Ok(&request));
                request.name().to_string()
            }
            Err(_) => String::from("no request"),
        },
        FrameKind::Reply => match Reply::decode(&frame.body) {
            Ok(reply) => {
                assert_eq!(Reply::decode(&reply.encode()).as_ref(), Ok(&reply));
                reply.name().to_string()
            }
            Err(_) => String::from("no reply"),
        },
    }
}

fn fed(input: &[u8]) -> String {
    let (frames, end) = all(input, usize::MAX);
    for piece in [1, 7, 61] {
        assert_eq!(all(input, piece), (frames.clone(), end.clone()), "in pieces of {piece}");
    }
    let told: Vec<String> = frames.iter().take(3).map(read).collect();
    format!("{} {end}", told.join(" "))
}

#[test]
fn frames_in_any_pieces() {
    let header =
        |kind| Header { request_id: 7, deadline_left_ms: 900, ..Header::plain(kind, Class::Data) };
    let request = Request::FetchDocument { have_epoch: 3 }.encode();
    let hello = Hello::blank(NodeId::from_bytes([3; 16]), 4, 5).frame(Class::Control);
    let apply = Request::Apply {
        bucket: bytes::Bytes::from_static(b"bucket"),
        key: bytes::Bytes::from_static(b"key"),
        delta: bytes::Bytes::from_static(b"delta"),
        durability: kvasir_core::ring::Durability::Group,
    };
    let seeds = vec![
        hello.to_vec(),
        Goodbye::Busy.frame(Class::Data).to_vec(),
        encode(&header(FrameKind::Request), &request).unwrap().to_vec(),
        encode(&header(FrameKind::Request), &apply.encode()).unwrap().to_vec(),
        [hello, encode(&header(FrameKind::Reply), &Reply::Applied.encode()).unwrap()].concat(),
    ];
    let target =
        Target { name: "frames", seeds, words: &[b"KVF1"], inputs: 12_000, mend: &mend, run: &fed };
    assert!(run(&target).outcomes.len() > 25);
}
