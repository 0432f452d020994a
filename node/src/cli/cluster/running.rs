//! `kvasir ring status`: the changes of the ring that run and that ran, from the cluster document.

use std::collections::BTreeMap;

use clap::Args;
use kvasir_core::admin_api::{DocumentAnswer, OperationState, OperationStatus, Status, routes};
use kvasir_core::id::NodeId;
use kvasir_core::ring::operation::{self, OperationRecord};
use kvasir_core::ring::{MoveStage, Progress};
use serde::Serialize;

use super::ask;
use super::draw::short;
use super::operate::in_words;
use crate::cli::AdminTarget;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format, bytes, grouped, table};

/// Arguments of `kvasir ring status`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ring status
  kvasir ring status -o json

The cluster remembers the last 64 changes that ended.")]
pub struct RunningArguments {
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    #[serde(flatten)]
    status: OperationStatus,
    /// It was taken back and is not over yet.
    cancelling: bool,
    /// Who gives to whom; of one that runs.
    pairs: Vec<Pair>,
}

/// What goes from one node to another.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Pair {
    from: NodeId,
    to: NodeId,
    waiting: u64,
    moving: u64,
    moved: u64,
    dropped: u64,
    bytes: u64,
}

/// Asks for the document and shows its operations.
pub async fn running(arguments: &RunningArguments) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let answer: DocumentAnswer = ask(&client, routes::DOCUMENT).await?;
    // Who is waited for, gossip knows, not the document.
    let status: Status = ask(&client, routes::STATUS).await?;
    let mut shown = shown(&answer)?;
    for one in &mut shown {
        let known =
            status.operations.iter().find(|known| known.request.id == one.status.request.id);
        let told = known.and_then(|known| known.message.clone());
        one.status.message = told.or(one.status.message.take());
    }
    match arguments.admin.target.output {
        Format::Json => output::say_json(&shown)?,
        Format::Table => output::say(&draw(&shown))?,
    }
    Ok(Exit::Ok)
}

/// The operations of a document: those that run first, then the latest.
fn shown(answer: &DocumentAnswer) -> Result<Vec<Shown>, Failure> {
    let operations = answer.document["operations"].clone();
    let records: BTreeMap<String, OperationRecord> =
        serde_json::from_value(operations).map_err(|error| {
            Failure::error(
                format!("the operations of the document cannot be read: {error}"),
                "use `kvasir ring -o json`, and check that `kvasir version` fits the nodes",
            )
        })?;
    let mut all: Vec<Shown> = records
        .iter()
        .map(|(id, record)| {
            let progress = match &record.state {
                operation::OperationState::Running(progress) => Some(progress),
                _ => None,
            };
            Shown {
                status: OperationStatus::of(id, record),
                cancelling: progress.is_some_and(|progress| progress.cancelling),
                pairs: progress.map(pairs).unwrap_or_default(),
            }
        })
        .collect();
    all.sort_by_key(|one| {
        (one.status.ended_epoch.is_some(), std::cmp::Reverse(one.status.posted_epoch))
    });
    Ok(all)
}

fn pairs(progress: &Progress) -> Vec<Pair> {
    let mut pairs: BTreeMap<(NodeId, NodeId), Pair> = BTreeMap::new();
    for one in &progress.moves {
        let (from, to) = (one.from, one.to);
        let none = Pair { from, to, waiting: 0, moving: 0, moved: 0, dropped: 0, bytes: 0 };
        let pair = pairs.entry((from, to)).or_insert(none);
        let count = match one.stage {
            MoveStage::Waiting => &mut pair.waiting,
            MoveStage::Moving => &mut pair.moving,
            MoveStage::Moved => &mut pair.moved,
            MoveStage::Dropped => &mut pair.dropped,
        };
        *count += 1;
        pair.bytes += one.bytes;
    }
    pairs.into_values().collect()
}

fn draw(shown: &[Shown]) -> String {
    let (running, ended): (Vec<&Shown>, Vec<&Shown>) =
        shown.iter().partition(|one| one.status.ended_epoch.is_none());
    let mut parts: Vec<String> = running.iter().map(|one| draw_running(one)).collect();
    if running.is_empty() {
        parts.push("no change of the ring is running".to_owned());
    }
    if !ended.is_empty() {
        let rows = ended.iter().map(|one| {
            let status = &one.status;
            let state = match status.state {
                OperationState::Cancelled => "taken back",
                OperationState::Failed => "failed",
                _ => "done",
            };
            vec![
                status.request.id.clone(),
                in_words(&status.request),
                state.to_owned(),
                format!(
                    "{} of {}",
                    grouped(status.moves_done.into()),
                    grouped(status.moves_total.into())
                ),
                bytes(status.moved_bytes),
                format!("{}-{}", status.posted_epoch, status.ended_epoch.unwrap_or_default()),
            ]
        });
        let titles = ["ENDED", "WHAT", "STATE", "MOVED", "BYTES", "EPOCHS"];
        parts.push(table(&titles, &[3, 4, 5], rows.collect()));
        let failed = ended.iter().filter_map(|one| Some((one, one.status.message.as_ref()?)));
        parts.extend(failed.map(|(one, why)| format!("{} failed: {why}", one.status.request.id)));
    }
    parts.join("\n\n")
}

fn draw_running(one: &Shown) -> String {
    let status = &one.status;
    let taken_back = if one.cancelling { ", taken back" } else { "" };
    let mut text = format!(
        "{} runs{taken_back}: {} of {} replicas moved, {} (operation {}, since epoch {})",
        in_words(&status.request),
        grouped(status.moves_done.into()),
        grouped(status.moves_total.into()),
        bytes(status.moved_bytes),
        status.request.id,
        status.posted_epoch
    );
    if let Some(why) = &status.message {
        text += &format!("\nit waits: {why}");
    }
    let rows = one.pairs.iter().map(|pair| {
        let mut row = vec![short(pair.from), short(pair.to)];
        row.extend([pair.waiting, pair.moving, pair.moved, pair.dropped].map(grouped));
        row.push(bytes(pair.bytes));
        row
    });
    let titles = ["GIVES", "GETS", "WAITING", "MOVING", "MOVED", "DROPPED", "BYTES"];
    if !one.pairs.is_empty() {
        text += &format!("\n{}", table(&titles, &[2, 3, 4, 5, 6], rows.collect()));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvasir_core::ring::operation::Operation;
    use kvasir_core::ring::{MoveRecord, OperationKind, Partition, Summary};

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    fn record(state: operation::OperationState, started: u64, finished: u64) -> OperationRecord {
        let (kind, node) = (OperationKind::Leave, Some(node(3)));
        let operation = Operation { kind, node, member: None, rebalance: true };
        OperationRecord { operation, state, started, finished }
    }

    #[test]
    fn what_failed_says_why() {
        let summary = Summary { replaces: None, moves: 4, moved: 3, bytes: 1_024 };
        let failed = record(operation::OperationState::Failed(summary), 2, 6);
        let answer = DocumentAnswer {
            epoch: 8,
            hash: String::new(),
            document: serde_json::json!({ "operations": { "a": failed } }),
        };
        let text = draw(&shown(&answer).unwrap());
        assert!(text.contains("a      leave 03030303  failed  3 of 4  1.0 KiB     2-6"), "{text}");
        let why = "a failed: node 03030303-0303-0303-0303-030303030303 still holds copies: 1 of 4";
        assert!(text.contains(why), "{text}");
    }

    #[test]
    fn what_runs_comes_first_with_who_gives_to_whom() {
        let one = |index, stage, bytes| {
            let partition = Partition { k: 4, index };
            let waiting = MoveRecord::waiting(partition, "dc1", node(3), node(1));
            MoveRecord { stage, bytes, ..waiting }
        };
        let moves = vec![one(1, MoveStage::Moved, 2_048), one(2, MoveStage::Moving, 0)];
        let progress = Progress { replaces: None, cancelling: true, moves };
        let summary = Summary { replaces: None, moves: 4, moved: 4, bytes: 1_024 };
        let records = BTreeMap::from([
            ("a".to_owned(), record(operation::OperationState::Finished(summary), 2, 6)),
            ("b".to_owned(), record(operation::OperationState::Running(progress), 7, 0)),
        ]);
        let answer = DocumentAnswer {
            epoch: 8,
            hash: String::new(),
            document: serde_json::json!({ "operations": records }),
        };
        let expected = "\
leave 03030303 runs, taken back: 1 of 2 replicas moved, 2.0 KiB (operation b, since epoch 7)
GIVES     GETS      WAITING  MOVING  MOVED  DROPPED    BYTES
03030303  01010101        0       1      1        0  2.0 KiB

ENDED  WHAT            STATE   MOVED    BYTES  EPOCHS
a      leave 03030303  done   4 of 4  1.0 KiB     2-6";
        let mut told = shown(&answer).unwrap();
        assert_eq!(draw(&told), expected);
        told[0].status.message = Some("2 moves wait for node 7".to_owned());
        assert!(draw(&told).contains("epoch 7)\nit waits: 2 moves wait for node 7\nGIVES"));
        assert_eq!(draw(&[]), "no change of the ring is running");
    }
}
