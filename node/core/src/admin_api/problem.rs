//! Errors as `application/problem+json` (RFC 9457) with a stable `code`.
//!
//! `code` is what programs match on; `detail` is for people and may change; `hint` is the next
//! thing to try. Further facts (the newest document after a lost race, the acknowledgements of a
//! failed write) are fields of their own beside these.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// The media type of every error body.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// Stable error codes of the admin API. The number beside each is its HTTP status.
pub mod code {
    /// 400: the body is not the JSON that the route wants, or names an unknown field.
    pub const MALFORMED_BODY: &str = "malformed_body";
    /// 400: an unknown, repeated or unusable query parameter.
    pub const BAD_QUERY: &str = "bad_query";
    /// 400: a path that cannot be decoded, or an empty or over-long bucket, key or id.
    pub const BAD_PATH: &str = "bad_path";
    /// 400: well-formed, but no node could do it: a replication of 0, a missing field.
    pub const BAD_REQUEST: &str = "bad_request";
    /// 401: no bearer token, and the listener is not on loopback.
    pub const TOKEN_REQUIRED: &str = "token_required";
    /// 403: a bearer token that is not this node's.
    pub const TOKEN_REFUSED: &str = "token_refused";
    /// 404: no such route.
    pub const UNKNOWN_ROUTE: &str = "unknown_route";
    /// 404: no operation with this id.
    pub const UNKNOWN_OPERATION: &str = "unknown_operation";
    /// 404: a node that neither gossip nor the document knows.
    pub const UNKNOWN_NODE: &str = "unknown_node";
    /// 405: the route exists, the method does not; `Allow` names those that do.
    pub const METHOD_NOT_ALLOWED: &str = "method_not_allowed";
    /// 409: the node belongs to no cluster yet.
    pub const NOT_FORMED: &str = "not_formed";
    /// 409: the cluster was formed before; `newest` holds its document.
    pub const ALREADY_FORMED: &str = "already_formed";
    /// 409: the parent is no longer the newest document; `newest` holds the one that is.
    pub const STALE_PARENT: &str = "stale_parent";
    /// 409: another operation with this id says something else.
    pub const OPERATION_CONFLICT: &str = "operation_conflict";
    /// 409: the node keeps stand-in copies, which must be handed back before it leaves.
    pub const KEEPS_COPIES: &str = "keeps_copies";
    /// 409: the node says of itself another place than the operation does; `says` holds it.
    pub const PLACE_DIFFERS: &str = "place_differs";
    /// 409: the node to rebuild says that all its copies are whole.
    pub const NOTHING_TO_REBUILD: &str = "nothing_to_rebuild";
    /// 409: the operation is past the point where it can be cancelled.
    pub const NOT_CANCELLABLE: &str = "not_cancellable";
    /// 413: the body is larger than the route takes.
    pub const BODY_TOO_LARGE: &str = "body_too_large";
    /// 422: the document is no legal step from its parent; nothing was promised.
    pub const ILLEGAL_CHANGE: &str = "illegal_change";
    /// 500: a local read or write failed; nothing is said about what is stored.
    pub const STORAGE_FAILED: &str = "storage_failed";
    /// 500: a defect of the node.
    pub const INTERNAL: &str = "internal";
    /// 501: planned, but this version does not do it.
    pub const UNSUPPORTED_OPERATION: &str = "unsupported_operation";
    /// 503: no majority answered; the change may still be chosen (`mayBeChosen`): read the
    /// document before trying again.
    pub const NO_MAJORITY: &str = "no_majority";
    /// 503: a node named by `init` was not reached or is not blank; nothing was formed.
    pub const NODES_NOT_READY: &str = "nodes_not_ready";
    /// 503: starting, draining or overloaded; `Retry-After` says when to come back.
    pub const UNAVAILABLE: &str = "unavailable";

    /// Every code with its HTTP status and a title.
    pub const ALL: [(&str, u16, &str); 26] = [
        (MALFORMED_BODY, 400, "The body cannot be read"),
        (BAD_QUERY, 400, "The query cannot be used"),
        (BAD_PATH, 400, "The path cannot be used"),
        (BAD_REQUEST, 400, "The request cannot be carried out"),
        (TOKEN_REQUIRED, 401, "A bearer token is required"),
        (TOKEN_REFUSED, 403, "The bearer token was refused"),
        (UNKNOWN_ROUTE, 404, "No such route"),
        (UNKNOWN_OPERATION, 404, "No such operation"),
        (UNKNOWN_NODE, 404, "No such node"),
        (METHOD_NOT_ALLOWED, 405, "Method not allowed"),
        (NOT_FORMED, 409, "The cluster is not formed"),
        (ALREADY_FORMED, 409, "The cluster is already formed"),
        (STALE_PARENT, 409, "The document has a newer parent"),
        (OPERATION_CONFLICT, 409, "The operation id is taken"),
        (KEEPS_COPIES, 409, "The node keeps stand-in copies"),
        (PLACE_DIFFERS, 409, "The node is in another place"),
        (NOTHING_TO_REBUILD, 409, "The node needs no rebuild"),
        (NOT_CANCELLABLE, 409, "The operation can no longer be cancelled"),
        (BODY_TOO_LARGE, 413, "The body is too large"),
        (ILLEGAL_CHANGE, 422, "The document is no legal step"),
        (STORAGE_FAILED, 500, "The store failed"),
        (INTERNAL, 500, "The node has a defect"),
        (UNSUPPORTED_OPERATION, 501, "This version does not do that"),
        (NO_MAJORITY, 503, "No majority answered"),
        (NODES_NOT_READY, 503, "Not every node is ready"),
        (UNAVAILABLE, 503, "Not available now"),
    ];
}

/// The body of an error answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// A URI of the kind of problem: always `about:blank`, since `code` says it.
    #[serde(rename = "type", default)]
    pub kind: AboutBlank,
    /// Short, the same for every problem of this code.
    pub title: Box<str>,
    /// The HTTP status, repeated.
    pub status: u16,
    /// What programs match on: one of [`code`].
    pub code: String,
    /// What happened, for people.
    pub detail: String,
    /// What to try next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Further facts, each a field of its own.
    #[serde(flatten)]
    pub facts: BTreeMap<String, Value>,
}

/// The one value of `type`. Any other that a peer might send is read as this one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AboutBlank;

impl Serialize for AboutBlank {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("about:blank")
    }
}

impl<'de> Deserialize<'de> for AboutBlank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|_| Self)
    }
}

impl Problem {
    /// A problem with one of the codes of [`code::ALL`]; its status and title come from there. A
    /// code of another list (the client API has its own) gets `status` 500 until
    /// [`Problem::with_status`] says otherwise.
    pub fn new(code: &str, detail: impl Into<String>) -> Self {
        let known = code::ALL.iter().find(|(known, _, _)| *known == code);
        let (status, title) = known.map_or((500, code), |&(_, status, title)| (status, title));
        Self {
            kind: AboutBlank,
            title: title.into(),
            status,
            code: code.to_owned(),
            detail: detail.into(),
            hint: None,
            facts: BTreeMap::new(),
        }
    }

    /// The same with another HTTP status and title, for codes of the client API.
    pub fn with_status(mut self, status: u16, title: impl Into<Box<str>>) -> Self {
        self.status = status;
        self.title = title.into();
        self
    }

    /// The same with what to try next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with one more fact. The names of the other fields are taken: such a fact is
    /// left out, as it would make the JSON ambiguous.
    pub fn fact(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !["type", "title", "status", "code", "detail", "hint"].contains(&name) {
            self.facts.insert(name.to_owned(), value.into());
        }
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({}): {}", self.title, self.code, self.detail)
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_titled() {
        for (index, (code, status, title)) in code::ALL.iter().enumerate() {
            assert!(code::ALL[..index].iter().all(|(other, _, _)| other != code), "{code} twice");
            assert!((400..600).contains(status) && !title.is_empty());
        }
    }

    #[test]
    fn facts_stand_beside_the_fixed_fields() {
        let problem = Problem::new(code::STALE_PARENT, "epoch 4 is the newest")
            .hint("read the document and try again")
            .fact("epoch", 4)
            .fact("code", "shadowed");
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(json["epoch"], 4);
        assert_eq!(json["code"], "stale_parent");
        assert_eq!(json["status"], 409);
        assert_eq!(serde_json::from_value::<Problem>(json).unwrap(), problem);
    }
}
