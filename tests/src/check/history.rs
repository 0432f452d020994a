//! The history format: what a client asked, what it was told, and when.
//!
//! One JSON object a line, so that a history can be written while the run goes on and read by other tools.

use std::io::{self, BufRead, Write};
use std::ops::Range;

use serde::{Deserialize, Serialize};

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Store one value.
    Put,
    /// Read all siblings.
    Get,
    /// Store a tombstone.
    Delete,
}

/// What the client knows about the effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Acknowledged.
    Ok,
    /// Refused; the store promised that nothing was applied.
    Fail,
    /// Neither: time-out, lost connection, quorum not reached.
    Unknown,
}

/// One client operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Operation {
    /// Unique in the history; the id of the value when `op` is `put`.
    pub id: u64,
    /// The client session that asked.
    pub client: u32,
    /// What was asked.
    pub op: Kind,
    /// The key.
    pub key: String,
    /// The token sent along, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_sent: Option<String>,
    /// The token that came back, if any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_returned: Option<String>,
    /// Value ids that a `get` returned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<u64>,
    /// Returned bodies that are no value of this history at all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub foreign: Vec<String>,
    /// Node ids that were counted for a write, owners and stand-ins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub acks: Vec<String>,
    /// The level asked for, such as `quorum`.
    pub consistency: String,
    /// The node that was asked.
    pub server: String,
    /// Start in milliseconds of the run's clock.
    pub start_ms: u64,
    /// End in milliseconds of the run's clock.
    pub end_ms: u64,
    /// What the client knows about the effect.
    pub outcome: Outcome,
    /// Status, stable code and words of an answer that says that something went wrong, such as
    /// `503 quorum_not_reached: 1 of 2 required replicas answered`, or why no answer came; none where all went
    /// well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// A read made after faults were healed and repair had its time: the state to judge.
    #[serde(default)]
    pub settled: bool,
}

impl Operation {
    /// What was asked, when and where, and how it ended: for people who look for the cause.
    pub fn failure(&self) -> String {
        let Self { id, op, key, server, outcome, start_ms, .. } = self;
        let (took, token) = (self.end_ms.saturating_sub(*start_ms), self.token_sent.is_some());
        let with = if token { "with" } else { "without" };
        let problem = self.problem.as_deref().unwrap_or("it is not known why");
        format!(
            "{op:?} {id} of {key} {with} a token at {server}, at {start_ms} ms, {outcome:?} after {took} ms: {problem}"
        )
    }
}

/// A whole run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// In the order in which the operations ended.
    pub operations: Vec<Operation>,
}

impl History {
    /// How many operations began in a span of the run's clock, and within how many milliseconds 99 of 100 of
    /// them were answered.
    pub fn p99_ms(&self, span: Range<u64>) -> (usize, u64) {
        let within = self.operations.iter().filter(|one| span.contains(&one.start_ms));
        let mut took: Vec<u64> = within.map(|one| one.end_ms - one.start_ms).collect();
        took.sort_unstable();
        (took.len(), took.get(took.len() * 99 / 100).copied().unwrap_or(0))
    }

    /// Writes one line per operation.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        for operation in &self.operations {
            serde_json::to_writer(&mut *to, operation)?;
            to.write_all(b"\n")?;
        }
        Ok(())
    }

    /// Reads what [`History::write`] wrote.
    ///
    /// # Errors
    /// Those of the reader, and `InvalidData` naming the line that is not an operation.
    pub fn read(from: impl BufRead) -> io::Result<Self> {
        let mut operations = Vec::new();
        for (number, line) in from.lines().enumerate() {
            let line = line?;
            let operation = serde_json::from_str(&line).map_err(|e| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {}: {e}", number + 1))
            })?;
            operations.push(operation);
        }
        Ok(Self { operations })
    }
}

/// The body stored for value `id` under `key`: self-describing, so that a mangled or misplaced value is seen.
pub fn body(id: u64, key: &str, padding: usize) -> String {
    let sum = checksum(id, key);
    let mut text = format!("{id}:{key}:{sum:016x}:");
    text.extend(std::iter::repeat_n('.', padding));
    text
}

/// The value id in a body read under `key`, or nothing when the body was never written there.
pub fn value_id(key: &str, body: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(body).ok()?;
    let (id, rest) = text.split_once(':')?;
    let id: u64 = id.parse().ok()?;
    let rest = rest.strip_prefix(key)?.strip_prefix(':')?;
    let (sum, padding) = rest.split_once(':')?;
    let right = sum == format!("{:016x}", checksum(id, key)) && padding.bytes().all(|b| b == b'.');
    right.then_some(id)
}

/// FNV-1a over the id and the key (Fowler, Noll, Vo): enough to see a mangled body.
fn checksum(id: u64, key: &str) -> u64 {
    id.to_le_bytes().iter().chain(key.as_bytes()).fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_name_their_value_and_nothing_else_does() {
        let text = body(7, "a:b", 3);
        assert_eq!(value_id("a:b", text.as_bytes()), Some(7));
        assert_eq!(value_id("a", text.as_bytes()), None);
        assert_eq!(value_id("a:b", &text.as_bytes()[1..]), None);
        assert_eq!(value_id("a:b", format!("{text}x").as_bytes()), None);
        assert_eq!(value_id("a:b", b"\xff"), None);
    }

    #[test]
    fn histories_survive_a_file() {
        let operation = Operation {
            id: 1,
            client: 2,
            op: Kind::Get,
            key: "k".into(),
            token_sent: None,
            token_returned: Some("t".into()),
            values: vec![3],
            foreign: vec![],
            acks: vec![],
            consistency: "quorum".into(),
            server: "n0".into(),
            start_ms: 4,
            end_ms: 5,
            outcome: Outcome::Ok,
            problem: None,
            settled: true,
        };
        let history = History { operations: vec![operation] };
        let mut file = Vec::new();
        history.write(&mut file).unwrap();
        assert_eq!(History::read(file.as_slice()).unwrap().operations, history.operations);
        let broken = History::read(&b"{}\n"[..]).unwrap_err();
        assert!(broken.to_string().contains("line 1"));
    }
}
