//! etcd's client API over gRPC, its own protocol and the one that its clients use: unary `Put` and `Range`, each
//! a stream of HTTP/2 (RFC 9113), heads packed by the dynamic table (RFC 7541). The JSON gateway would be no fair
//! peer: it is a gRPC client inside the server, and costs a second request for each.
//!
//! Heads of answers are not read: a unary call that failed carries no message, and a message is checked.

use super::protocol::{Protocol, Reply, Request, is_value_of, key};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// What the server may send before it hears more: as much as the protocol allows.
const WINDOW: u32 = 0x7fff_ffff;
/// What a window is before anything was said.
const FIRST_WINDOW: u32 = 65_535;
/// Bytes taken before the server is told so.
const TELL_AFTER: u32 = 16 << 20;

/// One field of a head: name as an index of the static table or as text, and value.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field {
    name: Result<u8, &'static str>,
    value: &'static str,
}

const PUT_PATH: Field = Field { name: Ok(4), value: "/etcdserverpb.KV/Put" };
const RANGE_PATH: Field = Field { name: Ok(4), value: "/etcdserverpb.KV/Range" };
const OTHERS: [Field; 3] = [
    Field { name: Ok(1), value: "etcd" },
    Field { name: Ok(31), value: "application/grpc" },
    Field { name: Err("te"), value: "trailers" },
];

/// One call that is under way.
struct Call {
    stream: u32,
    request: Request,
    message: Vec<u8>,
}

/// One connection.
pub struct Grpc {
    value_bytes: usize,
    next: u32,
    calls: Vec<Call>,
    /// Fields in the server's dynamic table, oldest first.
    table: Vec<Field>,
    /// Bytes that may still be sent on this connection.
    may_send: i64,
    /// Bytes taken of which the server was not told.
    taken: u32,
}

impl Grpc {
    /// A connection whose values have this many bytes.
    pub fn new(value_bytes: usize) -> Self {
        let may_send = i64::from(FIRST_WINDOW);
        Self { value_bytes, next: 1, calls: Vec::new(), table: Vec::new(), may_send, taken: 0 }
    }

    fn head(&mut self, path: Field) -> Vec<u8> {
        // `:method: POST` and `:scheme: http` are entries 3 and 6 of the static table.
        let mut head = vec![0x83, 0x86];
        for field in std::iter::once(path).chain(OTHERS) {
            if let Some(at) = self.table.iter().position(|known| *known == field) {
                // The newest entry is 62; there are five at most, so one byte holds each.
                head.push(0x80 | (61 + self.table.len() - at) as u8);
                continue;
            }
            match field.name {
                Ok(index) => head.push(0x40 | index),
                Err(name) => {
                    head.extend_from_slice(&[0x40, name.len() as u8]);
                    head.extend_from_slice(name.as_bytes());
                }
            }
            head.push(field.value.len() as u8);
            head.extend_from_slice(field.value.as_bytes());
            self.table.push(field);
        }
        head
    }

    /// One frame of the server.
    fn frame(
        &mut self,
        (kind, flags, stream): (u8, u8, u32),
        payload: &[u8],
        out: &mut Vec<u8>,
        replies: &mut Vec<(u32, Reply)>,
    ) -> Result<(), String> {
        match kind {
            DATA => {
                self.tell_window(payload.len() as u32, out);
                let data = unpadded(flags, payload)?;
                if let Some(call) = self.calls.iter_mut().find(|call| call.stream == stream) {
                    call.message.extend_from_slice(data);
                }
            }
            SETTINGS if flags & ACK == 0 => frame(SETTINGS, ACK, 0, &[], out),
            PING if flags & ACK == 0 => frame(PING, ACK, 0, payload, out),
            WINDOW_UPDATE if stream == 0 => self.may_send += i64::from(number(payload)?),
            GOAWAY => return Err("the server ends the connection".into()),
            _ => {}
        }
        let ended = flags & END_STREAM != 0 && (kind == DATA || kind == HEADERS);
        if (ended || kind == RST_STREAM)
            && let Some(at) = self.calls.iter().position(|call| call.stream == stream)
        {
            let call = self.calls.swap_remove(at);
            let done = kind != RST_STREAM && self.is_right(&call);
            replies.push((stream, if done { Reply::Done } else { Reply::Failed }));
        }
        Ok(())
    }

    /// The window of a stream is as large as can be and its answer small; that of the connection is used up.
    fn tell_window(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.taken += bytes;
        if self.taken >= TELL_AFTER {
            frame(WINDOW_UPDATE, 0, 0, &self.taken.to_be_bytes(), out);
            self.taken = 0;
        }
    }

    fn is_right(&self, call: &Call) -> bool {
        // A byte that says whether it is compressed, four of length, the message.
        let Some((prefix, message)) = call.message.split_first_chunk::<5>() else { return false };
        let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]);
        if prefix[0] != 0 || length as usize != message.len() {
            return false;
        }
        if call.request.put {
            // `PutResponse.header`, which every answer to a put has.
            return bytes_of(message, 1).is_some();
        }
        // `RangeResponse.kvs`, and in it `KeyValue.value`.
        let value = bytes_of(message, 2).and_then(|kv| bytes_of(kv, 5));
        value.is_some_and(|value| is_value_of(call.request.key, self.value_bytes, value))
    }
}

impl Protocol for Grpc {
    fn open(&mut self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // No pushes (2), and the largest window for each stream (4).
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend_from_slice(&WINDOW.to_be_bytes());
        frame(SETTINGS, 0, 0, &settings, out);
        frame(WINDOW_UPDATE, 0, 0, &(WINDOW - FIRST_WINDOW).to_be_bytes(), out);
    }

    fn ask(&mut self, request: Request, value: &[u8], out: &mut Vec<u8>) -> u32 {
        let stream = self.next;
        self.next += 2;
        let head = self.head(if request.put { PUT_PATH } else { RANGE_PATH });
        frame(HEADERS, END_HEADERS, stream, &head, out);
        let mut message = vec![0; 5];
        add_bytes(1, &key(request.key), &mut message);
        if request.put {
            add_bytes(2, value, &mut message);
        }
        let length = (message.len() - 5) as u32;
        message[1..5].copy_from_slice(&length.to_be_bytes());
        frame(DATA, END_STREAM, stream, &message, out);
        self.may_send -= message.len() as i64;
        self.calls.push(Call { stream, request, message: Vec::new() });
        stream
    }

    fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        replies: &mut Vec<(u32, Reply)>,
    ) -> Result<usize, String> {
        let mut at = 0;
        while let Some((head, rest)) = input[at..].split_first_chunk::<9>() {
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            if rest.len() < length {
                break;
            }
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW;
            self.frame((head[3], head[4], stream), &rest[..length], out, replies)?;
            at += 9 + length;
        }
        // Requests are small and answered one by one, so the server tells of its window long before.
        if self.may_send < 0 {
            return Err("more was sent than the server allowed".into());
        }
        Ok(at)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn unpadded(flags: u8, payload: &[u8]) -> Result<&[u8], String> {
    if flags & PADDED == 0 {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or("a padded frame without padding")?;
    rest.len()
        .checked_sub(usize::from(*padding))
        .map(|end| &rest[..end])
        .ok_or_else(|| "more padding than frame".into())
}

fn number(payload: &[u8]) -> Result<u32, String> {
    let bytes = payload.first_chunk().ok_or("a window without a size")?;
    Ok(u32::from_be_bytes(*bytes) & WINDOW)
}

fn add_varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field of bytes in the encoding of protocol buffers.
fn add_bytes(field: u64, bytes: &[u8], out: &mut Vec<u8>) {
    add_varint(field << 3 | 2, out);
    add_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn varint(message: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    for (at, byte) in message.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * at as u32)?;
        if byte & 0x80 == 0 {
            return Some((number, &message[at + 1..]));
        }
    }
    None
}

/// The first field of bytes with this number.
fn bytes_of(mut message: &[u8], wanted: u64) -> Option<&[u8]> {
    while !message.is_empty() {
        let (tag, rest) = varint(message)?;
        message = match tag & 7 {
            0 => varint(rest)?.1,
            1 => rest.get(8..)?,
            2 => {
                let (length, rest) = varint(rest)?;
                let (bytes, rest) = rest.split_at_checked(usize::try_from(length).ok()?)?;
                if tag >> 3 == wanted {
                    return Some(bytes);
                }
                rest
            }
            5 => rest.get(4..)?,
            _ => return None,
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stream: u32, message: &[u8], out: &mut Vec<u8>) {
        let prefix = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
        frame(HEADERS, END_HEADERS, stream, &[0x88], out);
        frame(DATA, 0, stream, &[&prefix, message].concat(), out);
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x80], out);
    }

    fn range(value: &[u8]) -> Vec<u8> {
        let (mut kv, mut message) = (Vec::new(), Vec::new());
        add_bytes(1, b"k", &mut kv);
        // `mod_revision`, a number.
        kv.extend_from_slice(&[3 << 3, 0x81, 0x02]);
        add_bytes(5, value, &mut kv);
        add_bytes(1, b"header", &mut message);
        add_bytes(2, &kv, &mut message);
        message
    }

    #[test]
    fn heads_are_sent_in_full_once_and_by_index_afterwards() {
        let mut grpc = Grpc::new(9);
        assert!(grpc.head(PUT_PATH).len() > 50);
        assert_eq!(grpc.head(PUT_PATH), [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        let range = grpc.head(RANGE_PATH);
        assert_eq!(range[2], 0x44);
        assert_eq!(grpc.head(RANGE_PATH)[2..4], [0x80 | 62, 0x80 | 65]);
        assert_eq!(grpc.head(PUT_PATH)[2..], [0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63]);
    }

    #[test]
    fn answers_are_told_apart_by_their_streams_and_checked() {
        let (mut grpc, mut out) = (Grpc::new(9), Vec::new());
        let get = |key| Request { put: false, key };
        let tags = [grpc.ask(get(5), b"", &mut out), grpc.ask(get(6), b"", &mut out)];
        let put = grpc.ask(Request { put: true, key: 7 }, b"value", &mut out);
        let value = [&5u64.to_be_bytes()[..], b"x"].concat();
        let mut input = Vec::new();
        frame(SETTINGS, 0, 0, &[], &mut input);
        answer(tags[1], &range(&value), &mut input);
        answer(tags[0], &range(&value), &mut input);
        // An error: a head that ends the stream, without a message.
        frame(HEADERS, END_HEADERS | END_STREAM, put, &[0x80], &mut input);
        frame(PING, 0, 0, &[7; 8], &mut input);
        let (mut said, mut replies) = (Vec::new(), Vec::new());
        let cut = input.len() - 3;
        let taken = grpc.take(&input[..cut], &mut said, &mut replies).unwrap();
        assert_eq!(replies, [(3, Reply::Failed), (1, Reply::Done), (5, Reply::Failed)]);
        assert_eq!(input.len() - taken, 17, "the ping is not whole yet");
        grpc.take(&input[taken..], &mut said, &mut replies).unwrap();
        let mut expected = Vec::new();
        frame(SETTINGS, ACK, 0, &[], &mut expected);
        frame(PING, ACK, 0, &[7; 8], &mut expected);
        assert_eq!(said, expected);
    }

    #[test]
    fn a_put_is_done_with_its_message_and_not_when_the_stream_is_reset() {
        let (mut grpc, mut replies) = (Grpc::new(9), Vec::new());
        let put = Request { put: true, key: 7 };
        for reset in [false, true] {
            let (stream, mut input) = (grpc.ask(put, b"value", &mut Vec::new()), Vec::new());
            match reset {
                false => answer(stream, &[0x0a, 2, 8, 1], &mut input),
                true => frame(RST_STREAM, 0, stream, &[0; 4], &mut input),
            }
            grpc.take(&input, &mut Vec::new(), &mut replies).unwrap();
        }
        assert_eq!(replies, [(1, Reply::Done), (3, Reply::Failed)]);
        let mut input = Vec::new();
        frame(GOAWAY, 0, 0, &[0; 8], &mut input);
        assert!(grpc.take(&input, &mut Vec::new(), &mut replies).is_err());
    }

    #[test]
    fn numbers_of_any_length_are_read_back() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            add_varint(number, &mut out);
            assert_eq!(varint(&out), Some((number, &[][..])));
            assert_eq!(varint(&out[..out.len() - 1]), None);
        }
    }
}
