//! Query parameters of key requests: known, given once, and within their rule, or refused by name.
//!
//! Values are percent-decoded once; `+` is a plus sign. A parameter that belongs to another method
//! is refused like an unknown one, because ignoring `w=` on a read would hide a mistake.

use std::time::Duration;

use kvasir_core::quorum::Level;
use kvasir_core::version::Vtag;

use super::path::{Action, unescape};
use super::problem::{Code, Problem};
use crate::coordinator::request::Durability;

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
    /// `ttl` in milliseconds, for puts.
    pub ttl_ms: Option<u64>,
    /// `sloppy`.
    pub sloppy: Option<bool>,
    /// `durability`, for writes.
    pub durability: Option<Durability>,
    /// `returnbody`, for puts.
    pub returnbody: bool,
    /// `vtag`, for reads.
    pub vtag: Option<Vtag>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Name {
    R,
    W,
    Timeout,
    Ttl,
    Sloppy,
    Durability,
    Returnbody,
    Vtag,
    Wait,
}

use Action::{Delete, Get, Put};

const NAMES: [(&str, Name, &[Action]); 9] = [
    ("r", Name::R, &[Get]),
    ("w", Name::W, &[Put, Delete]),
    ("timeout", Name::Timeout, &[Get, Put, Delete]),
    ("ttl", Name::Ttl, &[Put]),
    ("sloppy", Name::Sloppy, &[Get, Put, Delete]),
    ("durability", Name::Durability, &[Put, Delete]),
    ("returnbody", Name::Returnbody, &[Put]),
    ("vtag", Name::Vtag, &[Get]),
    ("wait", Name::Wait, &[Get]),
];

/// Reads the raw query of a key request. `timeout_max` bounds `timeout`.
pub fn parse(raw: Option<&str>, action: Action, timeout_max: Duration) -> Result<Query, Problem> {
    let mut query = Query::default();
    let mut seen: Vec<Name> = Vec::new();
    for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (text, name) = known(name, action)?;
        if seen.contains(&name) {
            let detail = format!("`{text}` is given more than once");
            return Err(Problem::new(Code::RepeatedQuery, detail));
        }
        seen.push(name);
        let value = unescape(value.as_bytes()).and_then(|v| String::from_utf8(v.into_owned()).ok());
        let value = value.ok_or_else(|| bad(text, "it is not percent-encoded UTF-8"))?;
        set(&mut query, (text, name), &value, timeout_max)?;
    }
    Ok(query)
}

fn known(name: &str, action: Action) -> Result<(&'static str, Name), Problem> {
    let row = NAMES.iter().find(|(known, ..)| *known == name);
    match row {
        Some((_, Name::Wait, actions)) if actions.contains(&action) => {
            let detail = "waiting for a change (`wait`) is not part of this version";
            Err(Problem::new(Code::UnsupportedOperation, detail))
        }
        Some(&(text, name, actions)) if actions.contains(&action) => Ok((text, name)),
        _ => {
            let fitting = NAMES
                .iter()
                .filter(|(_, name, actions)| actions.contains(&action) && *name != Name::Wait);
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
            let max = u64::try_from(timeout_max.as_millis()).unwrap_or(u64::MAX);
            query.timeout = Some(Duration::from_millis(duration(text, value, max)?));
        }
        Name::Ttl => query.ttl_ms = Some(duration(text, value, TTL_MAX_MS)?),
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
        Name::Wait => {}
    }
    Ok(())
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
        parse(Some(raw), Get, Duration::from_secs(60)).map_err(|p| p.code())
    }

    fn put(raw: &str) -> Result<Query, Code> {
        parse(Some(raw), Put, Duration::from_secs(60)).map_err(|p| p.code())
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
        assert_eq!(query.ttl_ms, Some(172_800_000));
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
        assert_eq!(put("ttl=1ms").unwrap().ttl_ms, Some(1));
        assert_eq!(put("ttl=2147483648s").unwrap().ttl_ms, Some(2_147_483_648_000));
        for raw in ["timeout=61s", "timeout=0ms", "sloppy=1", "sloppy", "sloppy=TRUE", "vtag=x"] {
            assert_eq!(get(raw), Err(Code::BadQueryValue), "{raw}");
        }
        for raw in ["durability=none", "returnbody=yes"] {
            assert_eq!(put(raw), Err(Code::BadQueryValue), "{raw}");
        }
    }

    #[test]
    fn the_detail_names_the_parameter_and_the_rule() {
        let problem = parse(Some("timeout=61s"), Get, Duration::from_secs(60)).unwrap_err();
        let shown = format!("{problem:?}");
        assert!(shown.contains("`timeout`: it must be from 1ms to 1m"), "{shown}");
    }

    proptest! {
        #[test]
        fn random_queries_never_panic(raw in ".{0,200}", name in 0usize..9, value in ".{0,40}") {
            let _ = get(&raw);
            let _ = put(&format!("{}={value}", NAMES[name].0));
        }
    }
}
