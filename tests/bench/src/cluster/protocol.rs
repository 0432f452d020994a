//! What a connection of the load generator must know of a protocol. Two speak it: HTTP/1.1 for Kvasir and
//! gRPC for etcd, both written for this one load, so that neither server is measured through a heavier client.

/// One operation on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// A put; else a get.
    pub put: bool,
    /// Number of the key.
    pub key: u64,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// A put was acknowledged, or a get brought the value of its key.
    Done,
    /// Anything else that the server said.
    Failed,
}

/// One connection's side of a protocol: bytes in, bytes out.
pub trait Protocol {
    /// What is sent before the first request.
    fn open(&mut self, out: &mut Vec<u8>);

    /// Adds a request and gives the tag under which its reply will come.
    fn ask(&mut self, request: Request, value: &[u8], out: &mut Vec<u8>) -> u32;

    /// Takes whole messages off the front of `input`: how many bytes, and which replies were among them. What
    /// the protocol itself must say goes to `out`. An error ends the connection.
    fn take(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        replies: &mut Vec<(u32, Reply)>,
    ) -> Result<usize, String>;
}

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// The key of a number: `k` and fifteen digits.
pub fn key(number: u64) -> [u8; KEY_BYTES] {
    let (mut key, mut rest) = ([b'0'; KEY_BYTES], number);
    key[0] = b'k';
    for digit in key[1..].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    key
}

/// Whether bytes are a value of this key: it begins with the number, and has the length of all values.
pub fn is_value_of(number: u64, length: usize, found: &[u8]) -> bool {
    found.len() == length && found.starts_with(&number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_one_length_and_values_are_known_again() {
        assert_eq!(&key(0), b"k000000000000000");
        assert_eq!(&key(1_234_567), b"k000000001234567");
        let value = [&77u64.to_be_bytes()[..], &[9; 4]].concat();
        assert!(is_value_of(77, 12, &value));
        assert!(!is_value_of(78, 12, &value) && !is_value_of(77, 13, &value));
    }
}
