//! The frame: how one message lies on the wire. Version 1 of the header, laid out by hand.
//!
//! All numbers are big-endian.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `KVF1` |
//! | 4 | 4 | length of everything behind offset 12 |
//! | 8 | 4 | CRC-32C of everything behind offset 12 |
//! | 12 | 1 | version of this header |
//! | 13 | 1 | kind ([`FrameKind`]) |
//! | 14 | 2 | flags: bit 0 = a partition is named; all others 0 |
//! | 16 | 1 | class ([`Class`]) |
//! | 17 | 1 | partition: k |
//! | 18 | 2 | 0 |
//! | 20 | 4 | partition: index |
//! | 24 | 8 | request id |
//! | 32 | 4 | deadline: milliseconds left when it was sent |
//! | 36 | 8 | version of the partition's entry in the cluster document |
//! | 44 | 8 | hash of that entry |
//! | 52 | 8 | generation G of the sender |
//! | 60 | | body |
//!
//! The deadline travels as time left because clocks need not agree. Magic, length, version, kind
//! and class are checked as soon as they are there, before anything is allocated for the body; what
//! does not check is loss of framing, after which no byte of the stream means anything. Canonical:
//! bytes that carry nothing must be 0.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use kvasir_core::limits::VALUE_HARD_MAX_BYTES;
use kvasir_core::ring::Partition;

/// First bytes of every frame.
pub const MAGIC: [u8; 4] = *b"KVF1";
/// Version of the header that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes before the part that length and checksum cover.
pub const PREFIX_BYTES: usize = 12;
/// Bytes before the body.
pub const HEADER_BYTES: usize = 60;
/// Longest body: a whole sibling set. Each coordinator keeps what its clients make of a set within the
/// largest value and 1 MiB; four of them may have grown one set at the same time.
pub const BODY_MAX_BYTES: usize = 4 * (VALUE_HARD_MAX_BYTES + 1024 * 1024);

const FLAG_ROUTE: u16 = 1;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// First frame of each side of a connection.
    Hello = 1,
    /// Last frame: why the connection ends.
    Goodbye = 2,
    /// Wants an answer.
    Request = 3,
    /// Answers a request.
    Reply = 4,
    /// Wants no answer (gossip).
    Notice = 5,
}

/// What a connection, and a frame on it, is for. Classes never share a connection, so that what
/// keeps the cluster together is never queued behind data.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[repr(u8)]
pub enum Class {
    /// Requests of clients.
    Data = 0,
    /// Gossip, ballots and the cluster document.
    Control = 1,
    /// Copies of partitions that move.
    Stream = 2,
}

impl Class {
    /// Every class.
    pub const ALL: [Self; 3] = [Self::Data, Self::Control, Self::Stream];

    /// A word for logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Control => "control",
            Self::Stream => "stream",
        }
    }
}

/// The entry of the cluster document's table by which a request was routed: a node that knows a
/// newer one refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Route {
    /// The partition of the key.
    pub partition: Partition,
    /// Version of its entry.
    pub version: u64,
    /// First 8 bytes of the hash of its entry.
    pub entry_hash: u64,
}

/// Everything of a header that says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the frame is.
    pub kind: FrameKind,
    /// What it is for.
    pub class: Class,
    /// Pairs a reply with its request; 0 where there is none.
    pub request_id: u64,
    /// Milliseconds that were left when it was sent; 0 where there is no deadline.
    pub deadline_left_ms: u32,
    /// How it was routed, where it was.
    pub route: Option<Route>,
    /// Generation of the sender from before the payload was read or minted.
    pub generation: u64,
}

impl Header {
    /// A header that carries nothing but its kind and class.
    pub fn plain(kind: FrameKind, class: Class) -> Self {
        Self { kind, class, request_id: 0, deadline_left_ms: 0, route: None, generation: 0 }
    }
}

/// One message as it came off the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body; the kind says what is in it.
    pub body: Bytes,
}

/// The bytes are no frame. Framing is lost: the only thing left to do is to close the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The first bytes are not the magic: no Kvasir node speaks here.
    #[error("not a frame of the peer protocol")]
    Magic,
    /// The length is below the header's or above the longest frame's.
    #[error("a frame of {0} bytes; it has {min} to {max}", min = HEADER_BYTES - PREFIX_BYTES, max = HEADER_BYTES - PREFIX_BYTES + BODY_MAX_BYTES)]
    Length(u32),
    /// The checksum does not match: bytes were damaged on their way.
    #[error("the checksum of a frame does not match")]
    Checksum,
    /// A header version that is not spoken here.
    #[error("frame version {0} is not spoken here; version {VERSION} is")]
    Version(u8),
    /// A kind that does not exist.
    #[error("frame kind {0} does not exist")]
    Kind(u8),
    /// A class that does not exist.
    #[error("frame class {0} does not exist")]
    Class(u8),
    /// Flags that do not exist, bytes that must be 0 and are not, or a partition that cannot be.
    #[error("the header of a frame is not canonical")]
    NotCanonical,
}

impl FrameError {
    /// A stable word for metrics.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Magic => "magic",
            Self::Length(_) => "length",
            Self::Checksum => "checksum",
            Self::Version(_) => "version",
            Self::Kind(_) => "kind",
            Self::Class(_) => "class",
            Self::NotCanonical => "not_canonical",
        }
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// The frame as bytes. `None`: the body is longer than [`BODY_MAX_BYTES`].
pub fn encode(header: &Header, body: &[u8]) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len().min(BODY_MAX_BYTES));
    append(header, body, &mut out).then(|| out.freeze())
}

/// Appends the frame to a buffer. `false`: the body is longer than [`BODY_MAX_BYTES`], and nothing
/// was appended.
pub fn append(header: &Header, body: &[u8], out: &mut BytesMut) -> bool {
    if body.len() > BODY_MAX_BYTES {
        return false;
    }
    let start = out.len();
    out.reserve(HEADER_BYTES + body.len());
    out.put_slice(&MAGIC);
    out.put_u32((HEADER_BYTES - PREFIX_BYTES + body.len()) as u32);
    out.put_u32(0);
    out.put_u8(VERSION);
    out.put_u8(header.kind as u8);
    out.put_u16(if header.route.is_some() { FLAG_ROUTE } else { 0 });
    out.put_u8(header.class as u8);
    out.put_u8(header.route.map_or(0, |r| r.partition.k));
    out.put_u16(0);
    out.put_u32(header.route.map_or(0, |r| r.partition.index));
    out.put_u64(header.request_id);
    out.put_u32(header.deadline_left_ms);
    out.put_u64(header.route.map_or(0, |r| r.version));
    out.put_u64(header.route.map_or(0, |r| r.entry_hash));
    out.put_u64(header.generation);
    out.put_slice(body);
    let sum = checksum(&out[start + PREFIX_BYTES..]);
    out[start + 8..start + PREFIX_BYTES].copy_from_slice(&sum.to_be_bytes());
    true
}

/// Takes one frame off the front of `buffer`. `Ok(None)`: more bytes are needed, and what is there
/// may still become a frame. Never allocates.
///
/// # Errors
/// [`FrameError`]: close the connection; what is left in the buffer means nothing.
pub fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let known = buffer.len().min(MAGIC.len());
    if buffer[..known] != MAGIC[..known] {
        return Err(FrameError::Magic);
    }
    if buffer.len() < PREFIX_BYTES {
        return Ok(None);
    }
    let mut prefix = &buffer[MAGIC.len()..PREFIX_BYTES];
    let (length, sum) = (prefix.get_u32(), prefix.get_u32());
    let body_length = (length as usize).checked_sub(HEADER_BYTES - PREFIX_BYTES);
    if body_length.is_none_or(|body| body > BODY_MAX_BYTES) {
        return Err(FrameError::Length(length));
    }
    check_first_bytes(&buffer[PREFIX_BYTES..])?;
    let total = PREFIX_BYTES + length as usize;
    if buffer.len() < total {
        return Ok(None);
    }
    if checksum(&buffer[PREFIX_BYTES..total]) != sum {
        return Err(FrameError::Checksum);
    }
    let header = parse_header(&buffer[PREFIX_BYTES..HEADER_BYTES])?;
    let mut frame = buffer.split_to(total).freeze();
    frame.advance(HEADER_BYTES);
    Ok(Some(Frame { header, body: frame }))
}

/// Refuses a version, kind or class as soon as its byte arrived, before the body does.
fn check_first_bytes(rest: &[u8]) -> Result<(), FrameError> {
    match rest.first() {
        Some(version) if *version != VERSION => return Err(FrameError::Version(*version)),
        _ => {}
    }
    if let Some(byte) = rest.get(1) {
        kind(*byte)?;
    }
    if let Some(byte) = rest.get(4) {
        class(*byte)?;
    }
    Ok(())
}

fn kind(byte: u8) -> Result<FrameKind, FrameError> {
    Ok(match byte {
        1 => FrameKind::Hello,
        2 => FrameKind::Goodbye,
        3 => FrameKind::Request,
        4 => FrameKind::Reply,
        5 => FrameKind::Notice,
        other => return Err(FrameError::Kind(other)),
    })
}

fn class(byte: u8) -> Result<Class, FrameError> {
    Ok(match byte {
        0 => Class::Data,
        1 => Class::Control,
        2 => Class::Stream,
        other => return Err(FrameError::Class(other)),
    })
}

/// Reads the header behind its prefix; `bytes` has its exact length and a good checksum.
fn parse_header(mut bytes: &[u8]) -> Result<Header, FrameError> {
    let version = bytes.get_u8();
    if version != VERSION {
        return Err(FrameError::Version(version));
    }
    let kind = kind(bytes.get_u8())?;
    let flags = bytes.get_u16();
    let class = class(bytes.get_u8())?;
    let k = bytes.get_u8();
    let zero = bytes.get_u16();
    let index = bytes.get_u32();
    let request_id = bytes.get_u64();
    let deadline_left_ms = bytes.get_u32();
    let (version, entry_hash) = (bytes.get_u64(), bytes.get_u64());
    let generation = bytes.get_u64();
    let partition = Partition { k, index };
    let route = match flags {
        FLAG_ROUTE if partition.is_valid() => Some(Route { partition, version, entry_hash }),
        0 if (k, index, version, entry_hash) == (0, 0, 0, 0) => None,
        _ => return Err(FrameError::NotCanonical),
    };
    if zero != 0 {
        return Err(FrameError::NotCanonical);
    }
    Ok(Header { kind, class, request_id, deadline_left_ms, route, generation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(k: u8, id: u64) -> Header {
        let partition = Partition { k, index: 0 };
        Header {
            request_id: id,
            deadline_left_ms: 1_500,
            route: Some(Route { partition, version: 3, entry_hash: 0xfeed }),
            generation: 7,
            ..Header::plain(FrameKind::Request, Class::Data)
        }
    }

    fn wire(header: &Header, body: &[u8]) -> BytesMut {
        BytesMut::from(&encode(header, body).unwrap()[..])
    }

    /// A frame with these bytes changed and its checksum made good again.
    fn patched(at: usize, value: u8) -> BytesMut {
        let mut bytes = wire(&header(4, 9), b"body");
        bytes[at] = value;
        let sum = checksum(&bytes[PREFIX_BYTES..]);
        bytes[8..12].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    #[test]
    fn the_layout_of_version_1_is_this() {
        let bytes = wire(&header(4, 0x0102), b"xyz");
        assert_eq!(&bytes[..8], b"KVF1\0\0\0\x33");
        assert_eq!(&bytes[12..24], &[1, 3, 0, 1, 0, 4, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[24..36], &[0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 5, 0xdc]);
        assert_eq!(&bytes[36..44], &[0, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!(&bytes[44..60], &[0, 0, 0, 0, 0, 0, 0xfe, 0xed, 0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(&bytes[60..], b"xyz");
        // The check value of CRC-32C in its specification.
        assert_eq!(checksum(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_wrong_byte_has_its_error() {
        let mut good = wire(&header(4, 9), b"body");
        assert_eq!(take(&mut good).unwrap().unwrap().header, header(4, 9));
        for (at, value, error) in [
            (0, b'G', FrameError::Magic),
            (12, 2, FrameError::Version(2)),
            (12, 0, FrameError::Version(0)),
            (13, 9, FrameError::Kind(9)),
            (14, 0x80, FrameError::NotCanonical),
            (15, 0, FrameError::NotCanonical),
            (16, 3, FrameError::Class(3)),
            (17, 17, FrameError::NotCanonical),
            (18, 1, FrameError::NotCanonical),
            (20, 1, FrameError::NotCanonical),
        ] {
            assert_eq!(take(&mut patched(at, value)), Err(error), "byte {at}");
        }
        let mut flipped = wire(&header(4, 9), b"body");
        flipped[HEADER_BYTES] ^= 1;
        assert_eq!(take(&mut flipped), Err(FrameError::Checksum));
    }

    #[test]
    fn a_claimed_length_is_checked_before_anything_is_allocated() {
        for length in [0, 47, (HEADER_BYTES - PREFIX_BYTES + BODY_MAX_BYTES + 1) as u32, u32::MAX] {
            let mut bytes = BytesMut::from(&MAGIC[..]);
            bytes.put_u32(length);
            bytes.put_u32(0);
            let before = bytes.capacity();
            assert_eq!(take(&mut bytes), Err(FrameError::Length(length)));
            assert_eq!(bytes.capacity(), before);
        }
        assert!(encode(&header(1, 1), &vec![0; BODY_MAX_BYTES + 1]).is_none());
        let longest = wire(&header(1, 1), &vec![0; BODY_MAX_BYTES]);
        assert_eq!(take(&mut longest.clone()).unwrap().unwrap().body.len(), BODY_MAX_BYTES);
    }

    #[test]
    fn a_wrong_start_is_noticed_at_its_first_byte() {
        assert_eq!(take(&mut BytesMut::from(&b"GET / HTTP/1.1"[..])), Err(FrameError::Magic));
        assert_eq!(take(&mut BytesMut::from(&b"X"[..])), Err(FrameError::Magic));
        assert_eq!(take(&mut BytesMut::from(&b"KV"[..])), Ok(None));
        let early = &patched(12, 5)[..13];
        assert_eq!(take(&mut BytesMut::from(early)), Err(FrameError::Version(5)));
    }

    proptest! {
        #[test]
        fn frames_round_trip_however_the_stream_is_cut(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 1..6),
            cut in 1usize..97,
        ) {
            let mut stream = BytesMut::new();
            for (id, body) in bodies.iter().enumerate() {
                prop_assert!(append(&header(3, id as u64), body, &mut stream));
            }
            let (mut buffer, mut got) = (BytesMut::new(), Vec::new());
            for piece in stream.chunks(cut) {
                buffer.extend_from_slice(piece);
                while let Some(frame) = take(&mut buffer).unwrap() {
                    prop_assert_eq!(frame.header, header(3, got.len() as u64));
                    got.push(frame.body.to_vec());
                }
            }
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn garbage_at_any_position_never_panics_and_never_passes_as_another_frame(
            at in 0usize..80, garbage in proptest::collection::vec(any::<u8>(), 1..40),
        ) {
            let clean = wire(&header(5, 77), &[9; 40]);
            let mut bytes = clean.clone();
            let end = (at + garbage.len()).min(bytes.len());
            if at < end {
                bytes[at..end].copy_from_slice(&garbage[..end - at]);
            }
            let unchanged = bytes == clean;
            if let Ok(Some(frame)) = take(&mut bytes) {
                prop_assert!(unchanged, "damaged bytes passed as {:?}", frame);
            }
        }

        #[test]
        fn any_bytes_are_a_frame_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut with_magic = BytesMut::from(&MAGIC[..]);
            with_magic.extend_from_slice(&bytes);
            let _ = take(&mut with_magic);
            let _ = take(&mut BytesMut::from(&bytes[..]));
        }
    }
}
