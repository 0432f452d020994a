//! The token that carries a context through a client.
//!
//! Opaque to clients, bound to the cluster and the key it was issued for, and protected by a keyed
//! MAC: a context decides what a write supersedes, so a forged one could delete values that its
//! sender never saw. Tokens do not expire; one that this cluster issued is always taken.
//!
//! ```text
//! token = base64url( version(1) cluster id(16) key hash(8, big-endian) context mac(16) )
//! mac   = first 16 bytes of HMAC-SHA256 over everything before it
//! ```
//! The context is laid out as in [`super::codec`].

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::codec::{Reader, put_context};
use super::context::Context;
use crate::id::ClusterId;
use crate::limits::TOKEN_HEADER_MAX_BYTES;

const VERSION: u8 = 1;
const HEADER_BYTES: usize = 1 + 16 + 8;
const MAC_BYTES: usize = 16;

/// The cluster's secret for tokens; part of the cluster document. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenKey(pub [u8; 32]);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(..)")
    }
}

/// A token was not taken, or could not be issued. Nothing was changed; the same token fails again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not a token at all, or cut off.
    #[error(
        "the context is not one that a Kvasir cluster issued: send it back exactly as received"
    )]
    Malformed,
    /// Issued by a later version of Kvasir. Another node of the cluster may be able to read it.
    #[error("the context has version {0}, which this node does not know")]
    UnknownVersion(u8),
    /// Issued by another cluster.
    #[error("the context was issued by another cluster")]
    Foreign,
    /// Issued for another bucket or key.
    #[error("the context was issued for another key")]
    WrongKey,
    /// Altered since it was issued.
    #[error("the context was altered: send it back exactly as received")]
    BadMac,
    /// Longer than a header may be. Writing with it is not possible; a delete without a token
    /// supersedes what it reads.
    #[error("the context has {0} bytes, more than the {TOKEN_HEADER_MAX_BYTES} allowed")]
    TooLarge(usize),
}

/// Issues and takes tokens.
pub struct Token;

impl Token {
    /// The token for `context` under the key with this hash.
    ///
    /// # Errors
    /// [`TokenError::TooLarge`] if it would not fit into its header.
    pub fn encode(
        key: &TokenKey,
        cluster: ClusterId,
        key_hash: u64,
        context: &Context,
    ) -> Result<String, TokenError> {
        let mut bytes = Vec::with_capacity(96);
        bytes.push(VERSION);
        bytes.extend_from_slice(cluster.as_bytes());
        bytes.extend_from_slice(&key_hash.to_be_bytes());
        put_context(&mut bytes, context);
        let mac = keyed(key, &bytes).finalize().into_bytes();
        bytes.extend_from_slice(&mac[..MAC_BYTES]);
        let token = URL_SAFE_NO_PAD.encode(&bytes);
        if token.len() > TOKEN_HEADER_MAX_BYTES {
            return Err(TokenError::TooLarge(token.len()));
        }
        Ok(token)
    }

    /// The context in `token`, if this cluster issued it for the key with this hash.
    ///
    /// # Errors
    /// The first of [`TokenError`] that applies; an altered token may be told apart from a foreign
    /// one only as far as its cluster id is intact.
    pub fn decode(
        key: &TokenKey,
        cluster: ClusterId,
        key_hash: u64,
        token: &str,
    ) -> Result<Context, TokenError> {
        if token.len() > TOKEN_HEADER_MAX_BYTES {
            return Err(TokenError::TooLarge(token.len()));
        }
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| TokenError::Malformed)?;
        match bytes.first() {
            None => return Err(TokenError::Malformed),
            Some(&VERSION) => {}
            Some(&version) => return Err(TokenError::UnknownVersion(version)),
        }
        let body = bytes.len().checked_sub(MAC_BYTES).filter(|&body| body >= HEADER_BYTES);
        let (body, mac) = bytes.split_at(body.ok_or(TokenError::Malformed)?);
        let (header, context) = body.split_at(HEADER_BYTES);
        if header[1..17] != *cluster.as_bytes() {
            return Err(TokenError::Foreign);
        }
        keyed(key, body).verify_truncated_left(mac).map_err(|_| TokenError::BadMac)?;
        if header[17..] != key_hash.to_be_bytes() {
            return Err(TokenError::WrongKey);
        }
        let mut reader = Reader::new(context);
        let context = reader.context().map_err(|_| TokenError::Malformed)?;
        reader.end().map_err(|_| TokenError::Malformed)?;
        Ok(context)
    }
}

fn keyed(key: &TokenKey, bytes: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).expect("HMAC takes keys of any length");
    mac.update(bytes);
    mac
}
