//! Who may call the routes that change something or show stored data.
//!
//! On a loopback listener everyone who is on the machine may. Elsewhere the caller shows the bearer
//! token of this node. Only its hash is kept, and hashes are compared in constant time, so neither
//! a memory dump nor the time of a refusal tells it. The token may be replaced while the node
//! runs; clones of one [`Access`] share it, and so do the rules of other listeners made from it.

use std::sync::{Arc, Mutex, PoisonError};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use kvasir_core::admin_api::Problem;
use kvasir_core::admin_api::problem::code;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The rule of one listener.
#[derive(Clone)]
pub struct Access {
    loopback: bool,
    token_hash: Arc<Mutex<Option<[u8; 32]>>>,
}

impl Access {
    /// `token` is the configured one without surrounding blanks; an empty one counts as none.
    /// Without a token the guarded routes work on loopback only.
    pub fn new(loopback: bool, token: Option<&str>) -> Self {
        let access = Self { loopback, token_hash: Arc::default() };
        access.replace(token.unwrap_or_default());
        access
    }

    /// The rule of another listener of this node, with the same token.
    pub fn on(&self, loopback: bool) -> Self {
        Self { loopback, token_hash: self.token_hash.clone() }
    }

    fn held(&self) -> Option<[u8; 32]> {
        *self.token_hash.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes this token from now on, without surrounding blanks; an empty one changes nothing. True
    /// when it is another than before.
    pub fn replace(&self, token: &str) -> bool {
        let token = token.trim();
        if token.is_empty() {
            return false;
        }
        let hash = Some(Sha256::digest(token).into());
        let mut held = self.token_hash.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *held, hash) != hash
    }

    /// Whether the caller may use guarded routes.
    ///
    /// # Errors
    /// 401 `token_required` without a token, 403 `token_refused` with a wrong one.
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Box<Problem>> {
        if self.loopback {
            return Ok(());
        }
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let Some(header) = given.next() else {
            let detail = "this route needs a bearer token on a listener that is not loopback";
            let hint = "send `Authorization: Bearer TOKEN` with the token of admin.token_file";
            return Err(Box::new(Problem::new(code::TOKEN_REQUIRED, detail).hint(hint)));
        };
        let bytes = header.as_bytes();
        let scheme = bytes.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
        let shown: [u8; 32] = Sha256::digest(bytes.get(7..).unwrap_or_default()).into();
        let equal = self.held().is_some_and(|held| held.ct_eq(&shown).into());
        if scheme && equal && given.next().is_none() {
            return Ok(());
        }
        let detail = match self.held() {
            None => "this node has no token configured, so the route works on loopback only",
            Some(_) => "the token is not this node's",
        };
        let hint = "use the token of admin.token_file, or the loopback listener of the node";
        Err(Box::new(Problem::new(code::TOKEN_REFUSED, detail).hint(hint)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(access: &Access, authorization: &[&str]) -> Result<(), u16> {
        let mut headers = HeaderMap::new();
        for value in authorization {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        access.check(&headers).map_err(|problem| problem.status)
    }

    #[test]
    fn loopback_is_open_and_elsewhere_the_token_decides() {
        assert_eq!(ask(&Access::new(true, None), &[]), Ok(()));
        assert_eq!(ask(&Access::new(true, Some("secret")), &["Bearer wrong"]), Ok(()));
        let guarded = Access::new(false, Some(" secret\n"));
        assert_eq!(ask(&guarded, &[]), Err(401));
        assert_eq!(ask(&guarded, &["Bearer secret"]), Ok(()));
        assert_eq!(ask(&guarded, &["bearer secret"]), Ok(()));
        for wrong in
            ["Bearer secre", "Bearer secret2", "Bearer ", "Bearer", "Basic secret", "secret"]
        {
            assert_eq!(ask(&guarded, &[wrong]), Err(403), "{wrong}");
        }
        assert_eq!(ask(&guarded, &["Bearer secret", "Bearer secret"]), Err(403));
    }

    #[test]
    fn a_token_is_replaced_for_all_clones_and_never_by_nothing() {
        let access = Access::new(false, Some("old"));
        let clone = access.clone();
        assert!(!access.replace(" \n") && !access.replace("old\n"));
        assert_eq!(ask(&clone, &["Bearer old"]), Ok(()));
        assert!(access.replace("new\n"));
        assert_eq!(ask(&clone, &["Bearer new"]), Ok(()));
        assert_eq!(ask(&clone, &["Bearer old"]), Err(403));
        assert_eq!(ask(&access.on(true), &[]), Ok(()), "another listener, on loopback");
        assert_eq!(ask(&access.on(true).on(false), &["Bearer new"]), Ok(()));
    }

    #[test]
    fn without_a_configured_token_nothing_opens_it() {
        for token in [None, Some(""), Some(" \n")] {
            let closed = Access::new(false, token);
            assert_eq!(ask(&closed, &[]), Err(401));
            assert_eq!(ask(&closed, &["Bearer "]), Err(403));
        }
    }
}
