//! Query parameters of requests: known, given once, and within their rule, or refused by name.
//!
//! Values are percent-decoded once; `+` is a plus sign. A parameter that belongs to another method
//! is refused like an unknown one, because ignoring `w=` on a read would hide a mistake.

use std::time::Duration;

use bytes::Bytes;
use kvasir_core::limits::KEY_MAX_BYTES;
use kvasir_core::quorum::Level;
use kvasir_core::version::{Life, Vtag};

use super::path::{Action, unescape};
use super::problem::{Code, Problem};
use crate::coordinator::request::Durability;

/// The last moment at which a value may end: that of the year 9999, in Unix milliseconds.
const EXPIRES_MAX_MS: u64 = 253_402_300_799_999;
/// Longest life of a value: one hundred years, in milliseconds.
const TTL_MAX_MS: u64 = 100 * 366 * 86_400_000;

/// What a query may say. Absent means the bucket's setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// `r`, for reads.
    pub r: Option<Level>,
    /// `w`, for writes.
    pub w: Option<Level>,
    /// `timeout`: how long the client waits.
    pub timeout: Option<Duration>,
    /// `ttl` or `expires_ms`, for puts.
    pub life: Option<Life>,
    /// `sloppy`.
    pub sloppy: Option<bool>,
    /// `durability`, for writes.
    pub durability: Option<Durability>,
    /// `returnbody`, for puts.
    pub returnbody: bool,
    /// `vtag`, for reads.
    pub vtag: Option<Vtag>,
    /// `prefix`, for lists; any bytes.
    pub prefix: Bytes,
    /// `cursor`, for lists.
    pub cursor: Option<String>,
    /// `limit`, for lists; at least 1.
    pub limit: Option<u64>,
    /// `values`, for lists.
    pub values: bool,
}

/// What a query belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A request for one key.
    Key(Action),
    /// A list.
    List,
    /// A batch.
    Batch,
}

impl From<Action> for Asked {
    fn from(action: Action) -> Self {
        Self::Key(action)
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    R,
    W,
    Timeout,
    Ttl,
    ExpiresMs,
    Sloppy,
    Durability,
    Returnbody,
    Vtag,
    Wait,
    Prefix,
    Cursor,
    Limit,
    Values,
}

const GET: Asked = Asked::Key(Action::Get);
const PUT: Asked = Asked::Key(Action::Put);
const DELETE: Asked = Asked::Key(Action::Delete);
const LIST: Asked = Asked::List;
const BATCH: Asked = Asked::Batch;

const NAMES: [(&str, Name, &[Asked]); 14] = [
    ("r", Name::R, &[GET, LIST, BATCH]),
    ("w", Name::W, &[PUT, DELETE, BATCH]),
    ("timeout", Name::Timeout, &[GET, PUT, DELETE, LIST, BATCH]),
    ("ttl", Name::Ttl, &[PUT]),
    ("expires_ms", Name::ExpiresMs, &[PUT]),
    ("sloppy", Name::Sloppy, &[GET, PUT, DELETE, LIST, BATCH]),
    ("durability", Name::Durability, &[PUT, DELETE, BATCH]),
    ("returnbody", Name::Returnbody, &[PUT]),
    ("vtag", Name::Vtag, &[GET]),
    ("wait", Name::Wait, &[GET]),
    ("prefix", Name::Prefix, &[LIST]),
    ("cursor", Name::Cursor, &[LIST]),
    ("limit", Name::Limit, &[LIST]),
    ("values", Name::Values, &[LIST]),
];

/// Reads the raw query of a request. `timeout_max` bounds `timeout`.
pub fn parse(
    raw: Option<&str>,
    asked: impl Into<Asked>,
    timeout_max: Duration,
) -> Result<Query, Problem> {
    let asked = asked.into();
    let mut query = Query::default();
    let mut seen: Vec<Name> = Vec::new();
    for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (text, name) = known(name, asked)?;
        if seen.contains(&name) {
            let detail = format!("`{text}` is given more than once");
            return Err(Problem::new(Code::RepeatedQuery, detail));
        }
        seen.push(name);
        if name == Name::Prefix {
            query.prefix = prefix(text, value)?;
            continue;
        }
        let value = unescape(value.as_bytes()).and_then(|v| String::from_utf8(v.into_owned()).ok());
        let value = value.ok_or_else(|| bad(text, "it is not percent-encoded UTF-8"))?;
        set(&mut query, (text, name), &value, timeout_max)?;
    }
    Ok(query)
}

fn known(name: &str, asked: Asked) -> Result<(&'static str, Name), Problem> {
    let row = NAMES.iter().find(|(known, ..)| *known == name);
    match row {
        Some((_, Name::Wait, of)) if of.contains(&asked) => {
            let detail = "waiting for a change (`wait`) is not part of this version";
            Err(Problem::new(Code::UnsupportedOperation, detail))
        }
        Some(&(text, name, of)) if of.contains(&asked) => Ok((text, name)),
        _ => {
            let fitting =
                NAMES.iter().filter(|(_, name, of)| of.contains(&asked) && *name != Name::Wait);
            let fitting: Vec<&str> = fitting.map(|(text, ..)| *text).collect();
            let shown: String = name.chars().take(64).collect();
            let detail =
                format!("`{shown}` is not a parameter of this request; {} are", fitting.join(", "));
            Err(Problem::new(Code::UnknownQuery, detail))
        }
    }
}

fn set(
    query: &mut Query,
    (text, name): (&str, Name),
    value: &str,
    timeout_max: Duration,
) -> Result<(), Problem> {
    match name {
        Name::R => query.r = Some(level(text, value)?),
        Name::W => query.w = Some(level(text, value)?),
        Name::Timeout => {
            query.timeout = Some(self::timeout(value, timeout_max)?);
        }
        Name::Ttl | Name::ExpiresMs if query.life.is_some() => {
            return Err(bad(text, "a value has a `ttl` or an `expires_ms`, not both"));
        }
        Name::Ttl => query.life = Some(Life::Lasts(duration(text, value, TTL_MAX_MS)?)),
        Name::ExpiresMs => query.life = Some(Life::Ends(moment(text, value)?)),
        Name::Sloppy => query.sloppy = Some(truth(text, value)?),
        Name::Returnbody => query.returnbody = truth(text, value)?,
        Name::Durability => {
            query.durability = Some(match value {
                "memory" => Durability::Memory,
                "periodic" => Durability::Periodic,
                "group" => Durability::Group,
                "each" => Durability::Each,
                _ => return Err(bad(text, "it must be memory, periodic, group or each")),
            });
        }
        Name::Vtag => {
            let rule = "it must be a vtag from the list of siblings: 16 hexadecimal digits";
            query.vtag = Some(value.parse().map_err(|_| bad(text, rule))?);
        }
        Name::Cursor => query.cursor = Some(value.to_owned()),
        Name::Limit => {
            let limit = value.parse().ok().filter(|limit| *limit > 0 && !value.starts_with('+'));
            query.limit = Some(limit.ok_or_else(|| bad(text, "it must be a number from 1"))?);
        }
        Name::Values => query.values = truth(text, value)?,
        // Read before it is taken for text, and refused before it is read.
        Name::Prefix | Name::Wait => {}
    }
    Ok(())
}

fn prefix(name: &str, value: &str) -> Result<Bytes, Problem> {
    let bytes = unescape(value.as_bytes()).ok_or_else(|| bad(name, "it is not percent-encoded"))?;
    match bytes.len() {
        length if length > KEY_MAX_BYTES => {
            let rule = format!("it has {length} bytes; at most {KEY_MAX_BYTES} are allowed");
            Err(bad(name, &rule))
        }
        _ => Ok(bytes.into_owned().into()),
    }
}

/// A life in milliseconds, written as in a query.
///
/// # Errors
/// It is no duration, or longer than a value may live.
pub fn ttl(value: &str) -> Result<u64, Problem> {
    duration("ttl", value, TTL_MAX_MS)
}

/// A moment in Unix milliseconds.
fn moment(name: &str, value: &str) -> Result<u64, Problem> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let at_ms = value.parse().ok().filter(|at_ms| digits && (1..=EXPIRES_MAX_MS).contains(at_ms));
    at_ms.ok_or_else(|| bad(name, "it must be a moment in Unix milliseconds, like 1798761600000"))
}

/// A `timeout` of a request that takes no other parameter, at most `max`.
pub(super) fn timeout(value: &str, max: Duration) -> Result<Duration, Problem> {
    let max = u64::try_from(max.as_millis()).unwrap_or(u64::MAX);
    duration("timeout", value, max).map(Duration::from_millis)
}

fn bad(name: &str, rule: &str) -> Problem {
    Problem::new(Code::BadQueryValue, format!("`{name}`: {rule}"))
}

fn level(name: &str, value: &str) -> Result<Level, Problem> {
    value.parse().map_err(|error: kvasir_core::quorum::LevelError| bad(name, &error.to_string()))
}

fn truth(name: &str, value: &str) -> Result<bool, Problem> {
    match value {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad(name, "it must be true or false")),
    }
}

/// Milliseconds of a whole number with a unit, from 1 to `max`.
fn duration(name: &str, value: &str, max: u64) -> Result<u64, Problem> {
    let digits = value.bytes().take_while(u8::is_ascii_digit).count();
    let (count, unit) = value.split_at(digits);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => 0,
    };
    if digits == 0 || unit_ms == 0 {
        return Err(bad(name, "it must be a whole number with a unit: ms, s, m, h or d, like 60s"));
    }
    let ms = count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit_ms));
    match ms {
        Some(ms) if (1..=max).contains(&ms) => Ok(ms),
        _ => Err(bad(name, &format!("it must be from 1ms to {}", shown(max)))),
    }
}

/// A number of milliseconds in its largest whole unit.
fn shown(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    match units.iter().find(|(unit, _)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((unit, name)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(raw: &str) -> Result<Query, Code> {
        parse(Some(raw), Action::Get, Duration::from_secs(60)).map_err(|p| p.code())
    }

    fn put(raw: &str) -> Result<Query, Code> {
        parse(Some(raw), Action::Put, Duration::from_secs(60)).map_err(|p| p.code())
    }

    fn list(raw: &str) -> Result<Query, Code> {
        parse(Some(raw), Asked::List, Duration::from_secs(60)).map_err(|p| p.code())
    }

    #[test]
    fn queries_of_lists_and_batches() {
        let query = list("prefix=%ff%00a%2Fb+&limit=7&cursor=AQ&values=true&r=one").unwrap();
        assert_eq!(&query.prefix[..], b"\xff\0a/b+");
        assert_eq!(
            (query.limit, query.values, query.cursor.as_deref()),
            (Some(7), true, Some("AQ"))
        );
        let edge = "a".repeat(4_096);
        assert_eq!(list(&format!("prefix={edge}")).unwrap().prefix.len(), 4_096);
        for raw in [
            &format!("prefix=a{edge}"),
            "prefix=%f",
            "limit=0",
            "limit=-1",
            "limit=+1",
            "limit=x",
            "values=1",
        ] {
            assert_eq!(list(raw), Err(Code::BadQueryValue), "{raw}");
        }
        for raw in ["start=a", "reverse=true", "w=1", "ttl=1s", "vtag=0123456789abcdef", "wait=1s"]
        {
            assert_eq!(list(raw), Err(Code::UnknownQuery), "{raw}");
        }
        assert_eq!(list("prefix=a&prefix=a"), Err(Code::RepeatedQuery));
        let batch = |raw| parse(Some(raw), Asked::Batch, Duration::from_secs(60));
        assert!(batch("r=2&w=2&sloppy=false&durability=each&timeout=9s").is_ok());
        assert_eq!(batch("limit=1").unwrap_err().code(), Code::UnknownQuery);
    }

    #[test]
    fn everything_that_is_known_is_read() {
        let query = get("r=2&timeout=500ms&sloppy=false&vtag=0123456789abcdef").unwrap();
        assert_eq!(query.r, Some(Level::Exactly(2)));
        assert_eq!(query.timeout, Some(Duration::from_millis(500)));
        assert_eq!(query.sloppy, Some(false));
        assert_eq!(query.vtag.unwrap().to_string(), "0123456789abcdef");
        let query = put("w=each_quorum&ttl=2d&durability=each&returnbody=true").unwrap();
        assert_eq!(query.w, Some(Level::EachQuorum));
        assert_eq!(query.life, Some(Life::Lasts(172_800_000)));
        assert_eq!(query.durability, Some(Durability::Each));
        assert!(query.returnbody);
        assert_eq!(get(""), Ok(Query::default()));
        assert_eq!(get("&&r=%71uorum&").unwrap().r, Some(Level::Quorum));
    }

    #[test]
    fn unknown_and_foreign_and_repeated_names_are_refused() {
        for raw in ["n=3", "R=2", "w=2", "ttl=1s", "=", "=2", "r%3D=2", "durability=group", "é=1"]
        {
            assert_eq!(get(raw), Err(Code::UnknownQuery), "{raw}");
        }
        for raw in ["r=1", "vtag=0123456789abcdef", "wait=1s"] {
            assert_eq!(put(raw), Err(Code::UnknownQuery), "{raw}");
        }
        assert_eq!(get("r=2&r=2"), Err(Code::RepeatedQuery));
        assert_eq!(put("w=2&sloppy=true&w=3"), Err(Code::RepeatedQuery));
        assert_eq!(get("wait=30s"), Err(Code::UnsupportedOperation));
    }

    #[test]
    fn values_outside_their_rule_are_refused() {
        for value in ["", "0", "-1", "+2", "1e400", "NaN", "two", "4294967296", "2.0", "%ff", "%"] {
            assert_eq!(get(&format!("r={value}")), Err(Code::BadQueryValue), "{value}");
        }
        for value in ["0", "0s", "-1", "-1s", "1", "", "s", "18446744073709551616s", "1e9s", "NaN"]
        {
            assert_eq!(put(&format!("ttl={value}")), Err(Code::BadQueryValue), "{value}");
        }
        for value in ["9223372036854775807s", "18446744073709551615ms", "36601d", " 1s", "1S"] {
            assert_eq!(put(&format!("ttl={value}")), Err(Code::BadQueryValue), "{value}");
        }
        let life = |raw: &str| put(raw).unwrap().life;
        assert_eq!(life("ttl=1ms"), Some(Life::Lasts(1)));
        assert_eq!(life("ttl=2147483648s"), Some(Life::Lasts(2_147_483_648_000)));
        for value in ["", "0", "-1", "+1", "1s", "1.5", "253402300800000", "18446744073709551616"] {
            assert_eq!(put(&format!("expires_ms={value}")), Err(Code::BadQueryValue), "{value}");
        }
        assert_eq!(life("expires_ms=253402300799999"), Some(Life::Ends(253_402_300_799_999)));
        for raw in ["ttl=1s&expires_ms=5", "expires_ms=5&ttl=1s"] {
            assert_eq!(put(raw), Err(Code::BadQueryValue), "{raw}");
        }
        for raw in ["timeout=61s", "timeout=0ms", "sloppy=1", "sloppy", "sloppy=TRUE", "vtag=x"] {
            assert_eq!(get(raw), Err(Code::BadQueryValue), "{raw}");
        }
        for raw in ["durability=none", "returnbody=yes"] {
            assert_eq!(put(raw), Err(Code::BadQueryValue), "{raw}");
        }
    }

    #[test]
    fn the_detail_names_the_parameter_and_the_rule() {
        let problem = parse(Some("timeout=61s"), Action::Get, Duration::from_secs(60)).unwrap_err();
        let shown = format!("{problem:?}");
        assert!(shown.contains("`timeout`: it must be from 1ms to 1m"), "{shown}");
    }

    proptest! {
        #[test]
        fn random_queries_never_panic(raw in ".{0,200}", name in 0usize..13, value in ".{0,40}") {
            let _ = get(&raw);
            let _ = put(&format!("{}={value}", NAMES[name].0));
            let _ = list(&format!("{}={value}", NAMES[name].0));
        }
    }
}
