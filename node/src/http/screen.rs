//! Framing before parsing: which bytes of a connection may reach the HTTP parser.
//!
//! Requests are smuggled where two readers disagree about where one ends. The parser below accepts
//! more than one spelling (bare line feeds, Content-Length beside Transfer-Encoding, folded lines
//! in places), so this machine stands before it and passes only what has exactly one reading:
//! lines end in CRLF, no control bytes, one length *or* one chunked coding, plain digits. A head
//! is held back until it is whole and sound, so a broken one never reaches the parser; the body is
//! followed only to know where the next head begins. The first fault ends the connection.
//!
//! Pure: bytes in, "so many may pass" out. Source: RFC 9112 sections 2.2, 3, 5.2, 6.3 and 7.1.

use hyper::Uri;

use super::problem::Code;

/// Largest head: request line and all header fields. A 64 KiB token fits.
pub const HEAD_MAX_BYTES: usize = 96 * 1024;
/// Most header fields of one head.
pub const HEADERS_MAX: usize = 100;
/// Longest request target; a key of 4,096 escaped bytes has 12 KiB.
const TARGET_MAX_BYTES: usize = 60_000;
/// Longest chunk-size line and largest trailer section.
const CHUNK_LINE_MAX_BYTES: usize = 256;
const TRAILER_MAX_BYTES: usize = 8 * 1024;

/// Why a connection ends: a code for the answer and a detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The code of the answer.
    pub code: Code,
    /// What is wrong, without any byte of the request.
    pub detail: &'static str,
}

const fn malformed(detail: &'static str) -> Fault {
    Fault { code: Code::MalformedRequest, detail }
}

/// Where in the stream of one connection the next byte lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    /// In a head, of which nothing was passed yet.
    Head,
    /// In a body of known length with so many bytes left.
    Body(u64),
    /// In a line that begins a chunk; so many of its bytes were seen.
    ChunkLine {
        seen: usize,
        size: u64,
        digits: u8,
        extension: bool,
    },
    /// The line feed that ends the chunk line.
    ChunkLineEnd {
        size: u64,
    },
    /// In the data of a chunk.
    ChunkData(u64),
    /// The CR, then the LF after the data of a chunk.
    ChunkDataCr,
    ChunkDataLf,
    /// In the trailer section: bytes seen in all, bytes of this line, and whether a CR came last.
    Trailer {
        seen: usize,
        line: usize,
        cr: bool,
    },
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunked,
}

/// The machine. Feed it every byte of the connection in order.
#[derive(Debug)]
pub struct Screen {
    at: At,
    /// Bytes of the present head that were looked at for its end.
    scanned: usize,
}

impl Default for Screen {
    fn default() -> Self {
        Self::new()
    }
}

impl Screen {
    /// A fresh connection.
    pub fn new() -> Self {
        Self { at: At::Head, scanned: 0 }
    }

    /// Whether the next byte begins or continues a head, rather than a body.
    pub fn in_head(&self) -> bool {
        self.at == At::Head
    }

    /// Judges `bytes`, the not yet passed part of the stream. Returns how many of them may pass
    /// now; the rest is the beginning of a head and comes again, with more after it. A fault tells
    /// how many sound bytes precede it.
    pub fn judge(&mut self, bytes: &[u8]) -> (usize, Option<Fault>) {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            if rest.is_empty() {
                return (passed, None);
            }
            let step = if self.at == At::Head { self.head(rest) } else { self.body(rest) };
            match step {
                Ok(0) => return (passed, None),
                Ok(count) => passed += count,
                Err(fault) => return (passed, Some(fault)),
            }
        }
    }

    /// The length of the head that begins `bytes`, 0 if it is not whole yet.
    fn head(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let window = &bytes[..bytes.len().min(HEAD_MAX_BYTES)];
        let Some(end) = find_end(window, self.scanned)? else {
            if bytes.len() >= HEAD_MAX_BYTES {
                let detail = "the request line and headers together exceed 96 KiB";
                return Err(Fault { code: Code::HeaderTooLarge, detail });
            }
            self.scanned = bytes.len();
            return Ok(0);
        };
        let framing = examine(&bytes[..end])?;
        self.scanned = 0;
        self.at = match framing {
            Framing::Length(0) => At::Head,
            Framing::Length(length) => At::Body(length),
            Framing::Chunked => CHUNK_START,
        };
        Ok(end)
    }

    /// How many of `bytes` belong to the present part of a body; at least 1.
    fn body(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        match self.at {
            At::Body(left) => {
                let count = take(bytes, left);
                let left = left - count as u64;
                self.at = if left == 0 { At::Head } else { At::Body(left) };
                Ok(count)
            }
            At::ChunkData(left) => {
                let count = take(bytes, left);
                let left = left - count as u64;
                self.at = if left == 0 { At::ChunkDataCr } else { At::ChunkData(left) };
                Ok(count)
            }
            at => {
                self.at = chunk_byte(at, bytes[0])?;
                Ok(1)
            }
        }
    }
}

const CHUNK_START: At = At::ChunkLine { seen: 0, size: 0, digits: 0, extension: false };

fn take(bytes: &[u8], left: u64) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

/// One byte of chunked framing.
fn chunk_byte(at: At, byte: u8) -> Result<At, Fault> {
    let broken = malformed("the chunked coding of the body is broken");
    match (at, byte) {
        (At::ChunkLine { digits: 1.., size, .. }, b'\r') => Ok(At::ChunkLineEnd { size }),
        (At::ChunkLine { seen, size, digits, extension }, byte) => {
            let seen = seen + 1;
            if seen > CHUNK_LINE_MAX_BYTES {
                return Err(broken);
            }
            if extension || (byte == b';' && digits > 0) {
                let sound = byte == b'\t' || (0x20..0x7f).contains(&byte);
                let at = At::ChunkLine { seen, size, digits, extension: true };
                return sound.then_some(at).ok_or(broken);
            }
            let digit = char::from(byte).to_digit(16).ok_or(broken)?;
            if digits == 16 {
                return Err(broken);
            }
            let size = size << 4 | u64::from(digit);
            Ok(At::ChunkLine { seen, size, digits: digits + 1, extension })
        }
        (At::ChunkLineEnd { size: 0 }, b'\n') => Ok(At::Trailer { seen: 0, line: 0, cr: false }),
        (At::ChunkLineEnd { size }, b'\n') => Ok(At::ChunkData(size)),
        (At::ChunkDataCr, b'\r') => Ok(At::ChunkDataLf),
        (At::ChunkDataLf, b'\n') => Ok(CHUNK_START),
        (At::Trailer { line: 0, cr: true, .. }, b'\n') => Ok(At::Head),
        (At::Trailer { seen, cr: true, .. }, b'\n') => {
            Ok(At::Trailer { seen: seen + 1, line: 0, cr: false })
        }
        (At::Trailer { seen, line, cr: false }, byte) if seen < TRAILER_MAX_BYTES => match byte {
            b'\r' => Ok(At::Trailer { seen: seen + 1, line, cr: true }),
            b'\t' | 0x20..=0x7e | 0x80.. => {
                Ok(At::Trailer { seen: seen + 1, line: line + 1, cr: false })
            }
            _ => Err(broken),
        },
        _ => Err(broken),
    }
}

/// The length of the head up to and with its empty line, looking only at bytes not scanned before.
/// Control bytes are refused as soon as they are seen.
fn find_end(bytes: &[u8], scanned: usize) -> Result<Option<usize>, Fault> {
    // The last three bytes scanned may be the beginning of the end.
    let from = scanned.saturating_sub(3);
    for (index, &byte) in bytes.iter().enumerate().skip(from) {
        match byte {
            b'\n' => {
                if index == 0 || bytes[index - 1] != b'\r' {
                    return Err(malformed("a line ends in a bare line feed"));
                }
                if index < 2 {
                    return Err(malformed("an empty line stands before the request line"));
                }
                if index >= 3 && bytes[index - 2] == b'\n' {
                    return Ok(Some(index + 1));
                }
            }
            _ if index > 0 && bytes[index - 1] == b'\r' => {
                return Err(malformed("a line holds a bare carriage return"));
            }
            b'\r' | b'\t' | 0x20..=0x7e | 0x80.. => {}
            _ => return Err(malformed("the head holds a control byte")),
        }
    }
    Ok(None)
}

/// Checks a whole head line by line; returns how its body is framed.
fn examine(head: &[u8]) -> Result<Framing, Fault> {
    let mut lines = head.split(|&byte| byte == b'\n').map(|line| &line[..line.len().max(1) - 1]);
    let version_minor = request_line(lines.next().unwrap_or_default())?;
    let (mut length, mut chunked, mut hosts, mut count) = (None, false, 0, 0);
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = field(line)?;
        count += 1;
        if count > HEADERS_MAX {
            let detail = "the request has more than 100 header fields";
            return Err(Fault { code: Code::HeaderTooLarge, detail });
        }
        if name.eq_ignore_ascii_case(b"content-length") {
            if length.replace(content_length(value)?).is_some() {
                return Err(malformed("Content-Length is given more than once"));
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            if chunked || !value.eq_ignore_ascii_case(b"chunked") || version_minor == 0 {
                return Err(malformed(
                    "Transfer-Encoding is not exactly one `chunked` in HTTP/1.1",
                ));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case(b"host") {
            hosts += 1;
        }
    }
    match (length, chunked) {
        _ if hosts > 1 => Err(malformed("Host is given more than once")),
        (Some(_), true) => Err(malformed("Content-Length and Transfer-Encoding are both given")),
        (None, true) => Ok(Framing::Chunked),
        (length, false) => Ok(Framing::Length(length.unwrap_or(0))),
    }
}

/// `METHOD SP target SP HTTP/1.x` with single spaces; returns x.
fn request_line(line: &[u8]) -> Result<u8, Fault> {
    let shape = malformed("the request line is not `METHOD target HTTP/1.1`");
    let mut parts = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(shape);
    };
    if method.is_empty() || !method.iter().all(|&byte| is_token(byte)) || target.is_empty() {
        return Err(shape);
    }
    if target.len() > TARGET_MAX_BYTES {
        let detail = "the request target has more than 60,000 bytes";
        return Err(Fault { code: Code::UriTooLong, detail });
    }
    if target.contains(&b'#') {
        return Err(malformed("the request target holds a `#`; in a key it is written %23"));
    }
    let plain =
        |&byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%/?&=:@!$'()*+,;".contains(&byte);
    if (target[0] != b'/' || !target.iter().all(plain)) && Uri::try_from(target).is_err() {
        return Err(malformed("the request target holds bytes that must be percent-encoded"));
    }
    match version {
        b"HTTP/1.1" => Ok(1),
        b"HTTP/1.0" => Ok(0),
        _ => Err(malformed("the version is not HTTP/1.1 or HTTP/1.0")),
    }
}

/// Name and trimmed value of a header line.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if line[0] == b' ' || line[0] == b'\t' {
        return Err(malformed("a header is folded over two lines"));
    }
    let colon = line.iter().position(|&byte| byte == b':');
    let colon = colon.ok_or(malformed("a header line has no colon"))?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|&byte| is_token(byte)) {
        return Err(malformed("a header name holds bytes that names may not hold"));
    }
    let blank = |byte: &u8| *byte == b' ' || *byte == b'\t';
    let start = value.iter().position(|byte| !blank(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    Ok((name, &value[start..end]))
}

fn content_length(value: &[u8]) -> Result<u64, Fault> {
    let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = if digits { std::str::from_utf8(value).ok() } else { None };
    let length = text.and_then(|text| text.parse().ok());
    length.ok_or(malformed("Content-Length is not a plain number of bytes"))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds in pieces; returns what passed and the first fault.
    fn feed(bytes: &[u8], piece: usize) -> (Vec<u8>, Option<Fault>) {
        let mut screen = Screen::new();
        let (mut held, mut passed) = (Vec::new(), Vec::new());
        for part in bytes.chunks(piece.max(1)) {
            held.extend_from_slice(part);
            let (count, fault) = screen.judge(&held);
            passed.extend(held.drain(..count));
            if fault.is_some() {
                return (passed, fault);
            }
        }
        (passed, None)
    }

    fn fault(bytes: &[u8]) -> Option<Fault> {
        let (_, whole) = feed(bytes, bytes.len());
        let (_, drip) = feed(bytes, 1);
        assert_eq!(whole, drip, "the cut of the stream must not matter");
        whole
    }

    #[test]
    fn sound_requests_pass_whole_in_any_cut() {
        for request in [
            &b"GET /v1/kv/b/k HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"GET / HTTP/1.0\r\n\r\n",
            b"PUT /k HTTP/1.1\r\nContent-Length: 3\r\n\r\na\n\0GET / HTTP/1.1\r\n\r\n",
            b"PUT /k HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
              5;a=b\r\nhello\r\n0A\r\n0123456789\r\n0\r\nX: y\r\n\r\nGET / HTTP/1.1\r\n\r\n",
            b"GET /%00 HTTP/1.1\r\nX:\t y \t\r\nZ:\r\n\r\n",
            "GET /v1/kv/b/\u{1F36F} HTTP/1.1\r\n\r\n".as_bytes(),
            b"OPTIONS * HTTP/1.1\r\n\r\n",
            b"GET http://x/v1/kv/b/k HTTP/1.1\r\n\r\n",
        ] {
            for piece in [1, 2, 3, 7, request.len()] {
                let (passed, fault) = feed(request, piece);
                assert_eq!((passed.as_slice(), fault), (request, None));
            }
        }
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let put = |headers: &str| format!("PUT /k HTTP/1.1\r\n{headers}\r\n\r\n0\r\n\r\n");
        for headers in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 5",
            "Content-Length: 5\r\nContent-Length: 6",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: +5",
            "Content-Length: -5",
            "Content-Length: 0x5",
            "Content-Length: 5 5",
            "Content-Length:",
            "Content-Length: 18446744073709551616",
            "Content-Length : 5",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \"chunked\"",
            "X: a\r\n b",
            "X: a\n",
            "X: a\0b",
            "X: a\x7fb",
            "X: a\rb",
            "X a",
            ": a",
            "X\u{e9}: a",
            "Host: a\r\nHost: b",
        ] {
            let fault = fault(put(headers).as_bytes()).unwrap_or_else(|| panic!("{headers:?}"));
            assert_eq!(fault.code, Code::MalformedRequest, "{headers:?}");
        }
        let old = b"PUT /k HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert!(fault(old).is_some(), "HTTP/1.0 has no chunked coding");
    }

    #[test]
    fn broken_request_lines_are_refused() {
        for line in [
            "",
            "GET",
            "GET /",
            "GET  / HTTP/1.1",
            "GET / HTTP/1.1 ",
            " GET / HTTP/1.1",
            "GET /a b HTTP/1.1",
            "GET / HTTP/2.0",
            "GET / http/1.1",
            "G\u{e9}T / HTTP/1.1",
            "GET /a#b HTTP/1.1",
            "GET /\t HTTP/1.1",
            "GET a/b HTTP/1.1",
            "GET a/b HTTP/1.1",
            "GET /<> HTTP/1.1",
        ] {
            let bytes = format!("{line}\r\nHost: x\r\n\r\n");
            assert!(fault(bytes.as_bytes()).is_some(), "{line:?}");
        }
        assert!(fault(b"GET /\xff HTTP/1.1\r\n\r\n").is_some());
        assert!(fault(b"GET / HTTP/1.1\n\n").is_some());
        assert!(fault(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").is_some());
    }

    #[test]
    fn broken_chunks_are_refused() {
        for body in [
            "5\nhello\r\n0\r\n\r\n",
            "g\r\n",
            "\r\n",
            " 5\r\nhello\r\n",
            "5 \r\nhello\r\n",
            "-5\r\n",
            "0x5\r\n",
            "10000000000000000\r\n",
            "5\r\nhelloX\r\n",
            "5\r\nhello\n",
            "5;a\0\r\n",
            "0\r\nX: \0\r\n\r\n",
            "0\r\n\n",
            "0\r\nX\n\r\n",
            "5\r\nhello\rX",
        ] {
            let bytes = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(fault(bytes.as_bytes()).is_some(), "{body:?}");
        }
        let long = "a".repeat(CHUNK_LINE_MAX_BYTES);
        for body in [format!("5;{long}\r\n"), format!("0\r\n{}", "X: y\r\n".repeat(2_000))] {
            let bytes = format!("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
            assert!(fault(bytes.as_bytes()).is_some());
        }
    }

    #[test]
    fn heads_have_bounds() {
        let token = "a".repeat(64 * 1024);
        let head = format!("GET / HTTP/1.1\r\nX-Kvasir-Context: {token}\r\n\r\n");
        assert_eq!(fault(head.as_bytes()), None);
        let head = format!("GET / HTTP/1.1\r\nX: {token}\r\nY: {token}\r\n\r\n");
        assert_eq!(fault(head.as_bytes()).unwrap().code, Code::HeaderTooLarge);
        let head = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(fault(head.as_bytes()).unwrap().code, Code::HeaderTooLarge);
        let head = format!("GET /{} HTTP/1.1\r\n\r\n", "k".repeat(TARGET_MAX_BYTES));
        assert_eq!(fault(head.as_bytes()).unwrap().code, Code::UriTooLong);
        let endless = vec![b'a'; HEAD_MAX_BYTES];
        assert_eq!(feed(&endless, 4_096).1.unwrap().code, Code::HeaderTooLarge);
    }

    #[test]
    fn what_precedes_a_fault_passes() {
        let first = b"GET / HTTP/1.1\r\n\r\n";
        let bytes = [&first[..], b"GET / HTTP/9\r\n\r\n"].concat();
        let (passed, fault) = feed(&bytes, bytes.len());
        assert_eq!(passed, first);
        assert!(fault.is_some());
    }

    fn lines() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"PUT /k HTTP/1.1\r\n".to_vec()),
            Just(b"Content-Length: 4\r\n".to_vec()),
            Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"4\r\nabcd\r\n".to_vec()),
            Just(b"0\r\n\r\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..20).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn the_cut_never_matters_and_nothing_panics(bytes in lines(), piece in 1usize..20) {
            let (whole, fault) = feed(&bytes, bytes.len());
            let (cut, cut_fault) = feed(&bytes, piece);
            prop_assert!(bytes.starts_with(&whole));
            prop_assert_eq!((whole, fault), (cut, cut_fault));
        }
    }
}
