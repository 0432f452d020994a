//! The cursor that carries a place of a list through a client.
//!
//! Opaque to clients, bound to the cluster, the bucket and the prefix of the list that it came from, and
//! protected by a keyed MAC: a cursor of another list would leave out keys unseen. Cursors do not expire.
//!
//! ```text
//! cursor = base64url( version(1) cluster id(16) list(8) hash(8) key mac(16) )
//! list   = xxh3-64 over (length of the bucket(1), bucket, prefix)
//! mac    = first 16 bytes of HMAC-SHA256 over the words "kvasir list" and everything before it
//! ```
//! The secret is that of the tokens; the words in front keep a cursor from passing as a token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use xxhash_rust::xxh3::Xxh3;

use super::place::Place;
use crate::id::ClusterId;
use crate::limits::KEY_MAX_BYTES;
use crate::version::TokenKey;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 16 + 8 + 8;
const MAC_BYTES: usize = 16;
const WORDS: &[u8] = b"kvasir list";
/// Longest cursor in bytes of text.
pub const CURSOR_MAX_BYTES: usize = (HEADER_BYTES + KEY_MAX_BYTES + 1 + MAC_BYTES).div_ceil(3) * 4;

/// A cursor was not taken. Nothing was read; the same cursor fails again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Not a cursor at all, or cut off.
    #[error("the cursor is not one that a Kvasir cluster issued: send it back exactly as received")]
    Malformed,
    /// Issued by a later version of Kvasir. Another node of the cluster may be able to read it.
    #[error("the cursor has version {0}, which this node does not know")]
    UnknownVersion(u8),
    /// Issued by another cluster.
    #[error("the cursor was issued by another cluster")]
    Foreign,
    /// Issued for another bucket or prefix.
    #[error("the cursor was issued for a list of another bucket or prefix")]
    OtherList,
    /// Altered since it was issued.
    #[error("the cursor was altered: send it back exactly as received")]
    BadMac,
}

/// Which list a cursor belongs to, and the secret that protects it.
#[derive(Debug, Clone, Copy)]
pub struct Cursor<'a> {
    /// The cluster's secret.
    pub key: &'a TokenKey,
    /// The cluster.
    pub cluster: ClusterId,
    /// The bucket, 1 to 255 bytes.
    pub bucket: &'a [u8],
    /// The prefix of the keys that are listed; may be empty.
    pub prefix: &'a [u8],
}

impl Cursor<'_> {
    /// The cursor of a place in this list.
    pub fn encode(&self, place: &Place) -> String {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + place.key.len() + MAC_BYTES);
        bytes.push(VERSION);
        bytes.extend_from_slice(self.cluster.as_bytes());
        bytes.extend_from_slice(&self.list());
        bytes.extend_from_slice(&place.hash.to_be_bytes());
        bytes.extend_from_slice(&place.key);
        let mac = self.keyed(&bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac[..MAC_BYTES]);
        URL_SAFE_NO_PAD.encode(&bytes)
    }

    /// The place that a cursor of this list stands for.
    ///
    /// # Errors
    /// [`CursorError`].
    pub fn decode(&self, cursor: &str) -> Result<Place, CursorError> {
        if cursor.len() > CURSOR_MAX_BYTES {
            return Err(CursorError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| CursorError::Malformed)?;
        match bytes.first() {
            None => return Err(CursorError::Malformed),
            Some(&VERSION) => {}
            Some(&version) => return Err(CursorError::UnknownVersion(version)),
        }
        let body = bytes.len().checked_sub(MAC_BYTES).filter(|&body| body >= HEADER_BYTES);
        let (body, mac) = bytes.split_at(body.ok_or(CursorError::Malformed)?);
        let (header, key) = body.split_at(HEADER_BYTES);
        if header[1..17] != *self.cluster.as_bytes() {
            return Err(CursorError::Foreign);
        }
        self.keyed(body).verify_truncated_left(mac).map_err(|_| CursorError::BadMac)?;
        if header[17..25] != self.list() {
            return Err(CursorError::OtherList);
        }
        let mut hash = [0; 8];
        hash.copy_from_slice(&header[25..]);
        Ok(Place::of(u64::from_be_bytes(hash), key))
    }

    fn list(&self) -> [u8; 8] {
        let mut hash = Xxh3::new();
        hash.update(&[self.bucket.len() as u8]);
        hash.update(self.bucket);
        hash.update(self.prefix);
        hash.digest().to_be_bytes()
    }

    fn keyed(&self, bytes: &[u8]) -> Hmac<Sha256> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(&self.key.0).expect("HMAC takes keys of any length");
        mac.update(WORDS);
        mac.update(bytes);
        mac
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::{Context, Token};
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([7; 16]);
    const SECRET: TokenKey = TokenKey([9; 32]);

    fn list<'a>(bucket: &'a [u8], prefix: &'a [u8]) -> Cursor<'a> {
        Cursor { key: &SECRET, cluster: CLUSTER, bucket, prefix }
    }

    #[test]
    fn a_cursor_is_taken_by_its_own_list_only() {
        let own = list(b"b", b"cart/");
        let text = own.encode(&Place::of(5, b"cart/42"));
        assert_eq!(own.decode(&text), Ok(Place::of(5, b"cart/42")));
        for other in
            [list(b"c", b"cart/"), list(b"b", b"cart"), list(b"b", b""), list(b"bcart/", b"")]
        {
            assert_eq!(other.decode(&text), Err(CursorError::OtherList));
        }
        let elsewhere = Cursor { cluster: ClusterId::from_bytes([8; 16]), ..own };
        assert_eq!(elsewhere.decode(&text), Err(CursorError::Foreign));
        let impostor = Cursor { key: &TokenKey([8; 32]), ..own };
        assert_eq!(impostor.decode(&text), Err(CursorError::BadMac));
    }

    #[test]
    fn what_is_no_cursor_is_said() {
        let own = list(b"b", b"");
        for text in ["", "AA", "%", "milk", &"A".repeat(CURSOR_MAX_BYTES + 1)] {
            let error = own.decode(text).unwrap_err();
            assert!(
                matches!(error, CursorError::Malformed | CursorError::UnknownVersion(_)),
                "{text}"
            );
        }
        let mut later = URL_SAFE_NO_PAD.decode(own.encode(&Place::START)).unwrap();
        later[0] = 2;
        let later = URL_SAFE_NO_PAD.encode(&later);
        assert_eq!(own.decode(&later), Err(CursorError::UnknownVersion(2)));
        let token = Token::encode(&SECRET, CLUSTER, 0, &Context::new()).unwrap();
        assert!(own.decode(&token).is_err());
        let longest = Place::of(u64::MAX, &[0; KEY_MAX_BYTES]).after();
        assert_eq!(own.decode(&own.encode(&longest)), Ok(longest));
    }

    proptest! {
        #[test]
        fn an_altered_cursor_is_refused(hash: u64, key in prop::collection::vec(any::<u8>(), 0..40),
                                        at in 0usize..200, flip in 1u8..=255) {
            let own = list(b"b", b"k");
            let mut bytes = URL_SAFE_NO_PAD.decode(own.encode(&Place::of(hash, &key))).unwrap();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(own.decode(&URL_SAFE_NO_PAD.encode(&bytes)).is_err());
        }
    }
}
