//! The path of a request as a route: bytes in, bytes out.
//!
//! A path is cut at its slashes first and percent-decoded once afterwards, so `%2F` is a slash of a
//! bucket or key and never a cut. A key is the rest of the path, slashes included. Nothing is
//! normalised: `..`, `//` and letter case are bytes like others, and equal bytes are equal keys.

use std::borrow::Cow;

use bytes::Bytes;
use hyper::Method;
use hyper::header::ALLOW;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES};
use kvasir_core::ring::BucketName;

use super::problem::{Code, Problem};

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route {
    /// One key of one bucket.
    Key {
        /// 1 to 255 bytes.
        bucket: Bytes,
        /// 1 to 4,096 bytes.
        key: Bytes,
        /// What to do with it.
        action: Action,
    },
    /// The keys of a bucket.
    List {
        /// 1 to 255 bytes.
        bucket: Bytes,
    },
    /// Several requests in one.
    Batch,
    /// The settings of all buckets.
    Buckets,
    /// The settings of one bucket.
    Bucket {
        /// Which.
        bucket: BucketName,
        /// Whether they are to be changed.
        change: bool,
    },
}

/// What a request does with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    /// `GET` or `HEAD`; for the latter hyper leaves the body out.
    Get,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
}

const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";

/// The route of a method and a raw path.
pub fn route(method: &Method, path: &str) -> Result<Route, Problem> {
    let Some(rest) = path.strip_prefix("/v1/") else { return Err(unknown_route()) };
    if let Some(rest) = rest.strip_prefix("kv/") {
        return key_route(method, rest);
    }
    match rest.split('/').next().unwrap_or_default() {
        "kv" if rest == "kv" => Err(later(method, "GET", "Listing buckets")),
        "batch" if rest == "batch" => match *method {
            Method::POST => Ok(Route::Batch),
            _ => Err(method_not_allowed(method, "POST")),
        },
        "buckets" => bucket_route(method, &rest["buckets".len()..]),
        _ => Err(unknown_route()),
    }
}

/// `rest` is empty or begins with a slash. Names hold no plain slash, so that routes below a bucket stay free.
fn bucket_route(method: &Method, rest: &str) -> Result<Route, Problem> {
    let name = rest.trim_start_matches('/');
    if rest.len() <= 1 {
        return match method.as_str() {
            "GET" | "HEAD" => Ok(Route::Buckets),
            _ => Err(method_not_allowed(method, "GET, HEAD")),
        };
    }
    if name.contains('/') || name.len() + 1 != rest.len() {
        return Err(unknown_route());
    }
    let name = decode(name, "bucket")?;
    let bucket = BucketName::new(&name).ok_or_else(|| {
        let detail = format!("the bucket name has {} bytes; 1 to 255 are allowed", name.len());
        Problem::new(Code::BadBucket, detail)
    })?;
    match method.as_str() {
        "GET" | "HEAD" => Ok(Route::Bucket { bucket, change: false }),
        "PUT" => Ok(Route::Bucket { bucket, change: true }),
        _ => Err(method_not_allowed(method, "GET, HEAD, PUT")),
    }
}

fn key_route(method: &Method, rest: &str) -> Result<Route, Problem> {
    if rest.is_empty() {
        return Err(later(method, "GET", "Listing buckets"));
    }
    let (bucket, key) = match rest.split_once('/') {
        Some((bucket, key)) => (bucket, Some(key)),
        None => (rest, None),
    };
    let bucket = decode(bucket, "bucket")?;
    if bucket.is_empty() || bucket.len() > BUCKET_MAX_BYTES {
        let detail = format!("the bucket name has {} bytes; 1 to 255 are allowed", bucket.len());
        return Err(Problem::new(Code::BadBucket, detail));
    }
    let action = match method.as_str() {
        "GET" | "HEAD" => Action::Get,
        "PUT" => Action::Put,
        "DELETE" => Action::Delete,
        _ => return Err(method_not_allowed(method, KEY_METHODS)),
    };
    let Some(key) = key else {
        return match action {
            Action::Get => Ok(Route::List { bucket }),
            _ => Err(Problem::new(Code::EmptyKey, "the path names a bucket and no key")),
        };
    };
    let key = decode(key, "key")?;
    match key.len() {
        0 => Err(Problem::new(Code::EmptyKey, "nothing follows the slash after the bucket")),
        length if length > KEY_MAX_BYTES => {
            let detail = format!("the key has {length} bytes; at most {KEY_MAX_BYTES} are allowed");
            Err(Problem::new(Code::KeyTooLong, detail))
        }
        _ => Ok(Route::Key { bucket, key, action }),
    }
}

/// Decodes percent escapes once. Fails on `%` without two hexadecimal digits.
fn decode(text: &str, part: &str) -> Result<Bytes, Problem> {
    match unescape(text.as_bytes()) {
        Some(bytes) => Ok(Bytes::from(bytes.into_owned())),
        None => {
            let detail = format!("the {part} holds a % that two hexadecimal digits do not follow");
            Err(Problem::new(Code::BadPercentEncoding, detail))
        }
    }
}

/// The bytes that a percent-encoded text stands for; none where an escape is broken.
pub fn unescape(text: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !text.contains(&b'%') {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => hex_digit(rest.next()?)? << 4 | hex_digit(rest.next()?)?,
            _ => byte,
        });
    }
    Some(Cow::Owned(bytes))
}

fn hex_digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn unknown_route() -> Problem {
    Problem::new(Code::UnknownRoute, "no route of the client API has this path")
}

/// The answer to a method that a route does not take.
pub fn method_not_allowed(method: &Method, allowed: &str) -> Problem {
    let method: String = method.as_str().chars().take(32).collect();
    let detail = format!("{method} is not one of {allowed}");
    Problem::new(Code::MethodNotAllowed, detail).header(ALLOW, allowed)
}

/// The answer of a route whose effect is not built.
fn later(method: &Method, allowed: &str, what: &str) -> Problem {
    let taken = method == Method::HEAD && allowed.contains("GET");
    if !taken && !allowed.split(", ").any(|name| name == method.as_str()) {
        return method_not_allowed(method, allowed);
    }
    Problem::new(Code::UnsupportedOperation, format!("{what} is not part of this version"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(path: &str) -> Result<(Vec<u8>, Vec<u8>), Code> {
        match route(&Method::GET, path).map_err(|problem| problem.code())? {
            Route::Key { bucket, key, .. } => Ok((bucket.to_vec(), key.to_vec())),
            Route::List { bucket } => Ok((bucket.to_vec(), Vec::new())),
            other => panic!("{path} is {other:?}"),
        }
    }

    #[test]
    fn keys_are_the_rest_of_the_path_byte_for_byte() {
        for (path, bucket, key) in [
            ("/v1/kv/b/k", &b"b"[..], &b"k"[..]),
            ("/v1/kv/b/cart/42", b"b", b"cart/42"),
            ("/v1/kv/b/cart%2F42", b"b", b"cart/42"),
            ("/v1/kv/a%2Fb/k", b"a/b", b"k"),
            ("/v1/kv/b//", b"b", b"/"),
            ("/v1/kv/b/../x", b"b", b"../x"),
            ("/v1/kv/b/%2e%2E", b"b", b".."),
            ("/v1/kv/b/%00%0a%FF", b"b", b"\0\n\xff"),
            ("/v1/kv/b/%2500", b"b", b"%00"),
            ("/v1/kv/b/a+b", b"b", b"a+b"),
            ("/v1/kv/b/%F0%9F%8D%AF", b"b", "\u{1F36F}".as_bytes()),
            ("/v1/kv/b/\u{1F36F}", b"b", "\u{1F36F}".as_bytes()),
            ("/v1/kv/b/a?b", b"b", b"a?b"),
        ] {
            assert_eq!(get(path), Ok((bucket.to_vec(), key.to_vec())), "{path}");
        }
        assert_ne!(get("/v1/kv/b/e%CC%81"), get("/v1/kv/b/%C3%A9"), "no Unicode normalisation");
    }

    #[test]
    fn limits_hold_at_their_edge() {
        let long = |n: usize| "k".repeat(n);
        assert!(get(&format!("/v1/kv/b/{}", long(4_096))).is_ok());
        assert_eq!(get(&format!("/v1/kv/b/{}", long(4_097))), Err(Code::KeyTooLong));
        assert!(get(&format!("/v1/kv/b/{}", "%41".repeat(4_096))).is_ok());
        assert!(get(&format!("/v1/kv/{}/k", long(255))).is_ok());
        assert_eq!(get(&format!("/v1/kv/{}/k", long(256))), Err(Code::BadBucket));
        assert_eq!(get("/v1/kv//k"), Err(Code::BadBucket));
        assert_eq!(get("/v1/kv/b/"), Err(Code::EmptyKey));
    }

    #[test]
    fn broken_escapes_are_refused_in_bucket_and_key() {
        for path in ["/v1/kv/b/%", "/v1/kv/b/%4", "/v1/kv/b/%zz", "/v1/kv/b/%+1", "/v1/kv/%g0/k"] {
            assert_eq!(get(path), Err(Code::BadPercentEncoding), "{path}");
        }
    }

    #[test]
    fn what_is_not_built_and_what_does_not_exist() {
        let code = |method: Method, path: &str| route(&method, path).unwrap_err().code();
        for path in ["/v1/kv", "/v1/kv/"] {
            assert_eq!(code(Method::GET, path), Code::UnsupportedOperation, "{path}");
        }
        assert_eq!(route(&Method::POST, "/v1/batch"), Ok(Route::Batch));
        let bucket = Bytes::from_static(b"a/b");
        assert_eq!(route(&Method::GET, "/v1/kv/a%2Fb"), Ok(Route::List { bucket }));
        assert_eq!(code(Method::DELETE, "/v1/kv/b"), Code::EmptyKey);
        assert_eq!(code(Method::GET, "/v1/batch"), Code::MethodNotAllowed);
        assert_eq!(code(Method::POST, "/v1/kv/b/k"), Code::MethodNotAllowed);
        assert_eq!(code(Method::PUT, "/v1/kv/b"), Code::EmptyKey);
        for path in ["/", "/v1", "/v1/", "/v2/kv/b/k", "/v1/kvx/b/k", "/v1/batch/x", "", "*"] {
            assert_eq!(code(Method::GET, path), Code::UnknownRoute, "{path}");
        }
        let refused = route(&Method::PATCH, "/v1/kv/b/k").unwrap_err().answer();
        assert_eq!(refused.headers()["allow"], KEY_METHODS);
    }

    #[test]
    fn buckets_are_named_by_one_segment() {
        let of = |method: Method, path: &str| route(&method, path).map_err(|p| p.code());
        for path in ["/v1/buckets", "/v1/buckets/"] {
            assert_eq!(of(Method::GET, path), Ok(Route::Buckets), "{path}");
            assert_eq!(of(Method::PUT, path), Err(Code::MethodNotAllowed), "{path}");
        }
        let bucket = BucketName::new(b"a/b\xff").unwrap();
        for (method, change) in [(Method::GET, false), (Method::HEAD, false), (Method::PUT, true)] {
            let found = of(method, "/v1/buckets/a%2fb%FF");
            assert_eq!(found, Ok(Route::Bucket { bucket: bucket.clone(), change }));
        }
        assert_eq!(of(Method::DELETE, "/v1/buckets/b"), Err(Code::MethodNotAllowed));
        for path in ["/v1/buckets/a/b", "/v1/buckets//", "/v1/buckets//b", "/v1/bucketsx"] {
            assert_eq!(of(Method::GET, path), Err(Code::UnknownRoute), "{path}");
        }
        let long = format!("/v1/buckets/{}", "b".repeat(256));
        assert_eq!(of(Method::GET, &long), Err(Code::BadBucket));
        assert_eq!(of(Method::PUT, "/v1/buckets/%g0"), Err(Code::BadPercentEncoding));
    }

    proptest! {
        #[test]
        fn every_key_has_an_encoding_that_finds_it(key in prop::collection::vec(any::<u8>(), 1..200)) {
            let path: String = key.iter().map(|b| format!("%{b:02x}")).collect();
            prop_assert_eq!(get(&format!("/v1/kv/b/{path}")), Ok((b"b".to_vec(), key)));
        }

        #[test]
        fn random_paths_never_panic(path in ".{0,200}") {
            let _ = route(&Method::GET, &path);
            let _ = route(&Method::PUT, &format!("/v1/kv/{path}"));
        }
    }
}
