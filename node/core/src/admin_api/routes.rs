//! The routes of the admin port, in one table.
//!
//! `node/ADMIN_API.md` lists each of them (a test compares), the node's router matches on the
//! constants, and clients fill in the names in braces with [`fill`].

/// Liveness of the process; never depends on peers.
pub const LIVEZ: &str = "/livez";
/// Whether this node should get requests; `?verbose` names each check.
pub const READYZ: &str = "/readyz";
/// Whether the start is over (recovery, first look for a newer document); `?verbose`.
pub const STARTUPZ: &str = "/startupz";
/// Prometheus text.
pub const METRICS: &str = "/metrics";
/// The cluster as this node sees it.
pub const STATUS: &str = "/v1/status";
/// The cluster document: read it, or propose the next one.
pub const DOCUMENT: &str = "/v1/cluster/document";
/// Forms the cluster, once.
pub const INIT: &str = "/v1/cluster/init";
/// Posts an operation; `?dryRun=true` returns the plan.
pub const OPERATIONS: &str = "/v1/operations";
/// One operation: how far it is, or cancel it.
pub const OPERATION: &str = "/v1/operations/{id}";
/// Anti-entropy: how far it is, or start it now.
pub const REPAIR: &str = "/v1/repair";
/// What this replica alone holds under a key.
pub const REPLICA: &str = "/v1/replica/{bucket}/{key}";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone who reaches the port.
    Open,
    /// `Authorization: Bearer TOKEN`, unless the listener is bound to a loopback address.
    Token,
}

/// One method on one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// HTTP method.
    pub method: &'static str,
    /// Path; a name in braces stands for any one segment, `{key}` for the rest.
    pub path: &'static str,
    /// Who may call it.
    pub access: Access,
    /// Whether it answers; what is not built answers 501 `unsupported_operation`.
    pub built: bool,
}

const fn route(method: &'static str, path: &'static str, access: Access, built: bool) -> Route {
    Route { method, path, access, built }
}

/// Every route of the admin port. `POST /v1/operations` is built for `join` and `leave` with
/// `"rebalance": false`; other kinds answer 501.
pub const ROUTES: [Route; 14] = [
    route("GET", LIVEZ, Access::Open, true),
    route("GET", READYZ, Access::Open, true),
    route("GET", STARTUPZ, Access::Open, true),
    route("GET", METRICS, Access::Open, true),
    route("GET", STATUS, Access::Open, true),
    route("GET", DOCUMENT, Access::Open, true),
    route("PUT", DOCUMENT, Access::Token, true),
    route("POST", INIT, Access::Token, true),
    route("POST", OPERATIONS, Access::Token, true),
    route("GET", OPERATION, Access::Open, true),
    route("DELETE", OPERATION, Access::Token, true),
    route("GET", REPAIR, Access::Open, true),
    route("POST", REPAIR, Access::Token, true),
    route("GET", REPLICA, Access::Token, true),
];

/// A path with its names in braces filled in, in order, each percent-encoded so that it stays one
/// segment; `/` is kept in the last one, as keys may hold it.
pub fn fill(path: &str, values: &[&[u8]]) -> String {
    let mut out = String::with_capacity(path.len() + 32);
    let (mut rest, mut next) = (path, values.iter().enumerate());
    while let Some((before, (_, after))) =
        rest.split_once('{').and_then(|(before, tail)| Some((before, tail.split_once('}')?)))
    {
        out.push_str(before);
        if let Some((index, value)) = next.next() {
            push_encoded(&mut out, value, index + 1 == values.len());
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

fn push_encoded(out: &mut String, value: &[u8], keep_slash: bool) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    // A segment of dots only would be folded away by URL parsers.
    let dots = value == b"." || value == b"..";
    for &byte in value {
        let plain = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~');
        if plain || (byte == b'.' && !dots) || (byte == b'/' && keep_slash) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(DIGITS[usize::from(byte >> 4)]));
            out.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_braces_are_filled_and_encoded() {
        assert_eq!(fill(STATUS, &[]), "/v1/status");
        assert_eq!(fill(OPERATION, &[b"join-1"]), "/v1/operations/join-1");
        assert_eq!(fill(REPLICA, &[b"a/b c", b"k/1\xff"]), "/v1/replica/a%2Fb%20c/k/1%FF");
        assert_eq!(fill(REPLICA, &[b"..", b"x"]), "/v1/replica/%2E%2E/x");
    }

    #[test]
    fn whatever_changes_something_wants_a_token() {
        for route in ROUTES {
            if route.method != "GET" || route.path == REPLICA {
                assert_eq!(route.access, Access::Token, "{} {}", route.method, route.path);
            }
        }
    }
}
