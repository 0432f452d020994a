//! Kvasir's client API over HTTP/1.1: one request at a time on a kept connection, as most HTTP clients do it.

use super::protocol::{Protocol, Reply, Request, is_value_of, key};

/// The bucket of all keys.
const BUCKET: &str = "bench";
/// Longest head that is waited for.
const HEAD_MAX: usize = 64 << 10;

/// One connection.
pub struct Http1 {
    value_bytes: usize,
    asked: Option<Request>,
    turn: u32,
}

impl Http1 {
    /// A connection whose values have this many bytes.
    pub fn new(value_bytes: usize) -> Self {
        Self { value_bytes, asked: None, turn: 0 }
    }
}

impl Protocol for Http1 {
    fn open(&mut self, _: &mut Vec<u8>) {}

    fn ask(&mut self, request: Request, value: &[u8], out: &mut Vec<u8>) -> u32 {
        out.extend_from_slice(if request.put { b"PUT" } else { b"GET" });
        out.extend_from_slice(b" /v1/kv/");
        out.extend_from_slice(BUCKET.as_bytes());
        out.push(b'/');
        out.extend_from_slice(&key(request.key));
        out.extend_from_slice(b" HTTP/1.1\r\nhost: kvasir\r\n");
        if request.put {
            out.extend_from_slice(b"content-type: application/octet-stream\r\ncontent-length: ");
            out.extend_from_slice(value.len().to_string().as_bytes());
            out.extend_from_slice(b"\r\n\r\n");
            out.extend_from_slice(value);
        } else {
            out.extend_from_slice(b"\r\n");
        }
        self.asked = Some(request);
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    fn take(
        &mut self,
        input: &[u8],
        _: &mut Vec<u8>,
        replies: &mut Vec<(u32, Reply)>,
    ) -> Result<usize, String> {
        let Some(end) = input.windows(4).position(|four| four == b"\r\n\r\n") else {
            let fits = input.len() <= HEAD_MAX;
            return if fits { Ok(0) } else { Err("a head without an end".into()) };
        };
        let head = std::str::from_utf8(&input[..end]).map_err(|_| "a head that is no text")?;
        let (status, length) = parts(head)?;
        let whole = end + 4 + length;
        if input.len() < whole {
            return Ok(0);
        }
        let request = self.asked.take().ok_or("an answer that nobody asked for")?;
        let done = match status {
            200..=299 if request.put => true,
            200 => is_value_of(request.key, self.value_bytes, &input[end + 4..whole]),
            _ => false,
        };
        replies.push((self.turn, if done { Reply::Done } else { Reply::Failed }));
        Ok(whole)
    }
}

/// Status and length of the body.
fn parts(head: &str) -> Result<(u16, usize), String> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("no status: {head}"))?;
    let mut length = None;
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().ok();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err("an answer in chunks: no answer to these requests needs them".into());
        }
    }
    match (status, length) {
        (204 | 304, _) => Ok((status, 0)),
        (_, Some(length)) => Ok((status, length)),
        _ => Err(format!("an answer of unknown length: {head}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(protocol: &mut Http1, input: &[u8]) -> (Result<usize, String>, Vec<Reply>) {
        let mut replies = Vec::new();
        let taken = protocol.take(input, &mut Vec::new(), &mut replies);
        (taken, replies.into_iter().map(|(_, reply)| reply).collect())
    }

    #[test]
    fn a_put_is_written_as_http_and_its_answer_is_taken_whole() {
        let (mut protocol, mut out) = (Http1::new(3), Vec::new());
        protocol.ask(Request { put: true, key: 7 }, b"abc", &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("PUT /v1/kv/bench/k000000000000007 HTTP/1.1\r\nhost: "), "{text}");
        assert!(text.ends_with("content-length: 3\r\n\r\nabc"), "{text}");
        let answer = b"HTTP/1.1 204 No Content\r\nx-kvasir-acks: owners=a\r\n\r\n";
        let (part, none) = taken(&mut protocol, &answer[..answer.len() - 1]);
        assert_eq!((part.unwrap(), none.len()), (0, 0));
        let (whole, replies) = taken(&mut protocol, answer);
        assert_eq!((whole.unwrap(), replies), (answer.len(), vec![Reply::Done]));
    }

    #[test]
    fn a_get_is_done_only_with_the_value_of_its_key() {
        let mut protocol = Http1::new(9);
        let answer = |status: &str, value: &[u8]| {
            let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", value.len());
            [head.as_bytes(), value].concat()
        };
        let mine = [&5u64.to_be_bytes()[..], b"x"].concat();
        let other = [&6u64.to_be_bytes()[..], b"x"].concat();
        for (status, value, expected) in [
            ("200 OK", &mine, Reply::Done),
            ("200 OK", &other, Reply::Failed),
            ("404 Not Found", &mine, Reply::Failed),
            ("503 Service Unavailable", &mine, Reply::Failed),
        ] {
            protocol.ask(Request { put: false, key: 5 }, b"", &mut Vec::new());
            let (_, replies) = taken(&mut protocol, &answer(status, value));
            assert_eq!(replies, [expected], "{status}");
        }
        assert!(taken(&mut protocol, &answer("200 OK", &mine)).0.is_err(), "nobody asked");
    }
}
