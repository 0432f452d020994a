//! Request headers of key requests: the causal token, conditions, the content type, and what kinds
//! of body the client takes.

use hyper::HeaderMap;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName, IF_MATCH, IF_NONE_MATCH};
use kvasir_core::limits::{CONTENT_TYPE_MAX_BYTES, TOKEN_HEADER_MAX_BYTES};

use super::problem::{Code, Problem};

/// The causal token, in requests and answers.
pub const CONTEXT: HeaderName = HeaderName::from_static("x-kvasir-context");
/// `agreed/N` in answers to reads.
pub const REPLICAS: HeaderName = HeaderName::from_static("x-kvasir-replicas");
/// Life left of a value, with its unit, in answers to reads.
pub const TTL: HeaderName = HeaderName::from_static("x-kvasir-ttl");
/// The counted acknowledgements in answers to writes.
pub const ACKS: HeaderName = HeaderName::from_static("x-kvasir-acks");

/// The encoded token, if the request carries one.
pub fn token(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = single(headers, &CONTEXT, Code::BadContext)? else { return Ok(None) };
    if text.is_empty() {
        let next = "Leave the header out for a write without context.";
        return Err(Problem::new(Code::BadContext, "X-Kvasir-Context is empty").next(next));
    }
    if text.len() > TOKEN_HEADER_MAX_BYTES {
        let detail = format!(
            "X-Kvasir-Context has {} bytes; no token has more than {TOKEN_HEADER_MAX_BYTES}",
            text.len()
        );
        return Err(Problem::new(Code::BadContext, detail));
    }
    Ok(Some(text.to_owned()))
}

/// The content type to store, if the request names one.
pub fn content_type(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(text) = single(headers, &CONTENT_TYPE, Code::BadHeader)? else { return Ok(None) };
    if text.len() > CONTENT_TYPE_MAX_BYTES {
        let detail = format!("Content-Type has more than {CONTENT_TYPE_MAX_BYTES} bytes");
        return Err(Problem::new(Code::BadHeader, detail));
    }
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

/// The only value of a header as visible ASCII.
fn single<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    code: Code,
) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(first) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Problem::new(code, format!("{name} is given more than once")));
    }
    match first.to_str() {
        Ok(text) => Ok(Some(text.trim())),
        Err(_) => Err(Problem::new(code, format!("{name} is not visible ASCII"))),
    }
}

/// What `If-Match` or `If-None-Match` names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Tags {
    /// `*`: whatever is there.
    Any,
    /// Entity tags without their quotes; the flag says weak.
    Listed(Vec<(String, bool)>),
}

/// Conditions of a request. Best effort: another write may come between the look and the effect,
/// and is then kept as a sibling.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    if_match: Option<Tags>,
    if_none_match: Option<Tags>,
}

/// How conditions judge the present state of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They hold.
    Hold,
    /// `If-Match` does not: 412.
    MatchFailed,
    /// `If-None-Match` does not: 304 for reads, 412 for writes.
    NoneMatchFailed,
}

impl Conditions {
    /// Reads both headers.
    pub fn parse(headers: &HeaderMap) -> Result<Self, Problem> {
        Ok(Self {
            if_match: tags(headers, &IF_MATCH)?,
            if_none_match: tags(headers, &IF_NONE_MATCH)?,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none()
    }

    /// Judges the entity tag that a read shows now; none where nothing is shown.
    pub fn judge(&self, shown: Option<&str>) -> Verdict {
        let named = |tags: &Tags, weak_counts: bool| match (tags, shown) {
            (_, None) => false,
            (Tags::Any, Some(_)) => true,
            (Tags::Listed(list), Some(shown)) => {
                list.iter().any(|(tag, weak)| tag == shown && (weak_counts || !weak))
            }
        };
        if self.if_match.as_ref().is_some_and(|tags| !named(tags, false)) {
            return Verdict::MatchFailed;
        }
        if self.if_none_match.as_ref().is_some_and(|tags| named(tags, true)) {
            return Verdict::NoneMatchFailed;
        }
        Verdict::Hold
    }
}

fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Tags>, Problem> {
    let mut list = Vec::new();
    let mut any = false;
    let broken =
        || Problem::new(Code::BadHeader, format!("{name} is neither * nor a list of quoted tags"));
    let mut lines = headers.get_all(name).iter().peekable();
    if lines.peek().is_none() {
        return Ok(None);
    }
    for line in lines {
        let mut rest = line.to_str().map_err(|_| broken())?.trim();
        if rest == "*" {
            any = true;
            continue;
        }
        while !rest.is_empty() {
            let (weak, quoted) = match rest.strip_prefix("W/") {
                Some(quoted) => (true, quoted),
                None => (false, rest),
            };
            let inner = quoted.strip_prefix('"').ok_or_else(broken)?;
            let (tag, after) = inner.split_once('"').ok_or_else(broken)?;
            list.push((tag.to_owned(), weak));
            rest = after.trim_start();
            if !rest.is_empty() {
                rest = rest.strip_prefix(',').ok_or_else(broken)?.trim_start();
            }
        }
    }
    match (any, list.is_empty()) {
        (true, true) => Ok(Some(Tags::Any)),
        (false, false) => Ok(Some(Tags::Listed(list))),
        _ => Err(broken()),
    }
}

/// How to show several siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SiblingForm {
    /// 300 with a JSON list.
    Json,
    /// 300 with every body in `multipart/mixed`.
    Multipart,
    /// 409 with a problem body: the client takes neither.
    Refuse,
}

/// Chooses the form by `Accept`: the higher quality wins, then the more specific range, then JSON.
/// Without the header, or where it cannot be read, JSON.
pub fn sibling_form(headers: &HeaderMap) -> SiblingForm {
    let mut json = (0, 0);
    let mut multipart = (0, 0);
    let mut seen = false;
    for line in headers.get_all(ACCEPT) {
        for range in line.to_str().unwrap_or("*/*").split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default().to_ascii_lowercase();
            if media.is_empty() {
                continue;
            }
            seen = true;
            let quality = parts.find_map(|part| part.strip_prefix("q=")).map_or(1_000, quality);
            let specific = match media.as_str() {
                "*/*" => 1,
                "application/*" | "multipart/*" => 2,
                _ => 3,
            };
            if matches!(media.as_str(), "*/*" | "application/*" | "application/json") {
                json = most_specific(json, (specific, quality));
            }
            if matches!(media.as_str(), "*/*" | "multipart/*" | "multipart/mixed") {
                multipart = most_specific(multipart, (specific, quality));
            }
        }
    }
    let rank = |(specific, quality): (u8, u32)| (quality, specific);
    match (json.1, multipart.1) {
        _ if !seen => SiblingForm::Json,
        (0, 0) => SiblingForm::Refuse,
        _ if rank(multipart) > rank(json) => SiblingForm::Multipart,
        _ => SiblingForm::Json,
    }
}

/// The range that decides about a type: the most specific one that names it.
fn most_specific(held: (u8, u32), new: (u8, u32)) -> (u8, u32) {
    if new.0 > held.0 { new } else { held }
}

/// `0` to `1` with up to three decimals, in thousandths; anything else counts as 1.
fn quality(text: &str) -> u32 {
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = decimals.len() <= 3 && decimals.bytes().all(|b| b.is_ascii_digit());
    match whole {
        "0" if digits => format!("{decimals:0<3}").parse().unwrap_or(1_000),
        _ => 1_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;
    use proptest::prelude::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    #[test]
    fn one_token_or_none() {
        assert_eq!(token(&headers(&[])), Ok(None));
        assert_eq!(token(&headers(&[("x-kvasir-context", "abc")])), Ok(Some("abc".to_owned())));
        let long = "a".repeat(TOKEN_HEADER_MAX_BYTES);
        assert_eq!(token(&headers(&[("x-kvasir-context", &long)])), Ok(Some(long.clone())));
        for bad in [
            headers(&[("x-kvasir-context", "")]),
            headers(&[("x-kvasir-context", "a"), ("x-kvasir-context", "a")]),
            headers(&[("x-kvasir-context", &format!("{long}a"))]),
            headers(&[("x-kvasir-context", "\u{e9}")]),
        ] {
            assert_eq!(token(&bad).unwrap_err().code(), Code::BadContext);
        }
    }

    #[test]
    fn a_content_type_is_one_short_text() {
        assert_eq!(
            content_type(&headers(&[("content-type", "text/plain")])),
            Ok(Some("text/plain".to_owned()))
        );
        assert_eq!(content_type(&headers(&[("content-type", "")])), Ok(None));
        let twice = headers(&[("content-type", "a/b"), ("content-type", "a/b")]);
        assert_eq!(content_type(&twice).unwrap_err().code(), Code::BadHeader);
        let long = headers(&[("content-type", &"a".repeat(256))]);
        assert_eq!(content_type(&long).unwrap_err().code(), Code::BadHeader);
    }

    #[test]
    fn conditions_judge() {
        let judge = |name: &'static str, value: &str, shown: Option<&str>| {
            Conditions::parse(&headers(&[(name, value)])).unwrap().judge(shown)
        };
        assert_eq!(judge("if-match", "\"a\"", Some("a")), Verdict::Hold);
        assert_eq!(judge("if-match", "\"b\", \"a\"", Some("a")), Verdict::Hold);
        assert_eq!(judge("if-match", "W/\"a\"", Some("a")), Verdict::MatchFailed);
        assert_eq!(judge("if-match", "\"b\"", Some("a")), Verdict::MatchFailed);
        assert_eq!(judge("if-match", "*", Some("a")), Verdict::Hold);
        assert_eq!(judge("if-match", "*", None), Verdict::MatchFailed);
        assert_eq!(judge("if-none-match", "*", None), Verdict::Hold);
        assert_eq!(judge("if-none-match", "*", Some("a")), Verdict::NoneMatchFailed);
        assert_eq!(judge("if-none-match", "W/\"a\"", Some("a")), Verdict::NoneMatchFailed);
        assert_eq!(judge("if-none-match", "\"b\"", Some("a")), Verdict::Hold);
        assert!(Conditions::parse(&headers(&[])).unwrap().is_empty());
        for bad in ["a", "", "\"a", "\"a\" \"b\"", "*, \"a\"", "w/\"a\""] {
            let error = Conditions::parse(&headers(&[("if-match", bad)])).unwrap_err();
            assert_eq!(error.code(), Code::BadHeader, "{bad}");
        }
    }

    #[test]
    fn accept_chooses_the_form() {
        for (accept, form) in [
            ("*/*", SiblingForm::Json),
            ("application/json", SiblingForm::Json),
            ("application/json, multipart/mixed", SiblingForm::Json),
            ("multipart/mixed", SiblingForm::Multipart),
            ("multipart/mixed, */*", SiblingForm::Multipart),
            ("multipart/mixed;q=0.5, application/json;q=0.4", SiblingForm::Multipart),
            ("multipart/mixed;q=0.5, application/json", SiblingForm::Json),
            ("multipart/mixed;q=0, */*", SiblingForm::Json),
            ("application/json;q=0, */*;q=0.1", SiblingForm::Multipart),
            ("application/octet-stream", SiblingForm::Refuse),
            ("text/html", SiblingForm::Refuse),
            ("application/json;q=0", SiblingForm::Refuse),
            ("", SiblingForm::Json),
        ] {
            assert_eq!(sibling_form(&headers(&[("accept", accept)])), form, "{accept}");
        }
        assert_eq!(sibling_form(&headers(&[])), SiblingForm::Json);
    }

    proptest! {
        #[test]
        fn random_values_never_panic(value in prop::collection::vec(32u8..=255, 0..100)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let mut map = HeaderMap::new();
            for name in [CONTEXT, IF_MATCH, IF_NONE_MATCH, ACCEPT, CONTENT_TYPE] {
                map.insert(name, value.clone());
            }
            let _ = (token(&map), content_type(&map), sibling_form(&map));
            let _ = Conditions::parse(&map).map(|conditions| conditions.judge(Some("a")));
        }
    }
}
