//! `kvasir ring plan`: what a change of the cluster would move, and what is at stake. A node plans
//! (`POST /v1/operations?dryRun=true`); this command asks and draws. Nothing is changed.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hyper::Method;
use kvasir_core::admin_api::{
    DocumentAnswer, FewestMachines, OperationKind, OperationPlan, OperationRequest, RiskLevel,
    Status, routes,
};
use kvasir_core::id::NodeId;
use serde_json::json;

use super::{ask, draw::short, operate};
use crate::cli::AdminTarget;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format, age, bytes, grouped, table};

/// Arguments of `kvasir ring plan`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ring plan join 7c1d66f0
  kvasir ring plan replace 0b3f6c1e --by 7c1d66f0
  kvasir ring plan rebuild 0b3f6c1e
  kvasir ring plan rebalance -o json

Nodes are named by their id or the first characters of it (`kvasir status` shows them). Sizes are
estimated: every partition replica counts as the mean of those on the node that answers. The time is
that of the node that has most to send or receive, at --rate; the nodes move more slowly where
requests need them.

-o json is the answer of the node, with `estimatedSeconds` beside it.")]
pub struct PlanArguments {
    /// What would be done
    #[command(flatten)]
    pub change: Change,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// A change of the ring, as it is written on the command line.
#[derive(Debug, Clone, Args)]
pub struct Change {
    /// What is done
    #[arg(value_enum)]
    pub kind: Kind,
    /// The node that joins, leaves, is drained, replaced or rebuilt
    #[arg(value_name = "NODE", required_if_eq_any([("kind", "join"), ("kind", "leave"), ("kind", "drain"), ("kind", "replace"), ("kind", "rebuild")]))]
    pub node: Option<String>,
    /// replace: the node that comes instead
    #[arg(long, value_name = "NODE", required_if_eq("kind", "replace"))]
    pub by: Option<String>,
    /// Mebibytes that a node sends or receives in a second, for the estimated time
    #[arg(long, value_name = "MIB", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub rate: u64,
}

/// What can be planned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A node takes its share
    Join,
    /// A node gives all that it owns to the others and goes
    Leave,
    /// A node gives all that it owns to the others and stays
    Drain,
    /// A node takes the place of another, which goes
    Replace,
    /// A node's own copies are made anew on it from the others: those that it says it lost
    Rebuild,
    /// Every node gets its share
    Rebalance,
    /// Every partition is cut in two, so that more nodes can share them evenly; no data moves
    Double,
}

/// Asks a node for the plan and shows it.
pub async fn plan(arguments: &PlanArguments) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let status: Status = ask(&client, routes::STATUS).await?;
    let request = request(&arguments.change, "dry-run".to_owned(), &status)?;
    let plan = planned(&client, &request).await?;
    let rate = arguments.change.rate;
    match arguments.admin.target.output {
        Format::Table => output::say(&drawn(&plan, &status, rate))?,
        Format::Json => {
            let mut value = json!(plan);
            value["estimatedSeconds"] = json!(time(&plan, rate).as_secs());
            output::say_json(&value)?;
        }
    }
    Ok(Exit::Ok)
}

/// What posting this would do.
pub(crate) async fn planned(
    client: &Client,
    request: &OperationRequest,
) -> Result<OperationPlan, Failure> {
    if request.kind == OperationKind::Double {
        let newest: DocumentAnswer = ask(client, routes::DOCUMENT).await?;
        return Ok(OperationPlan::without_moves(request.clone(), newest.epoch, None));
    }
    let target = format!("{}?dryRun=true", routes::OPERATIONS);
    operate::asked(client, Method::POST, target, Some(request)).await
}

/// The plan as text; `status` names the machines.
pub(super) fn drawn(plan: &OperationPlan, status: &Status, rate: u64) -> String {
    let machines = status.nodes.iter().map(|node| (node.id, node.machine.clone())).collect();
    draw(plan, &machines, rate)
}

/// The request under this id, with the nodes that the command line names by the beginning of their ids.
pub(super) fn request(
    change: &Change,
    id: String,
    status: &Status,
) -> Result<OperationRequest, Failure> {
    let nodes: Vec<NodeId> = status.nodes.iter().map(|node| node.id).collect();
    let named = |name: &Option<String>| name.as_ref().map(|name| find(name, &nodes)).transpose();
    let (node, by) = (named(&change.node)?, named(&change.by)?);
    let (kind, node, replaces) = match change.kind {
        Kind::Join => (OperationKind::Join, node, None),
        Kind::Leave => (OperationKind::Leave, node, None),
        Kind::Drain => (OperationKind::Drain, node, None),
        Kind::Replace => (OperationKind::Replace, by, node),
        Kind::Rebuild => (OperationKind::Rebuild, node, None),
        Kind::Rebalance | Kind::Double if node.is_some() => {
            return Err(Failure::usage("this is about all nodes", "name none"));
        }
        Kind::Rebalance => (OperationKind::Rebalance, None, None),
        Kind::Double => (OperationKind::Double, None, None),
    };
    if by.is_some() && kind != OperationKind::Replace {
        return Err(Failure::usage("--by goes with replace only", "leave it out"));
    }
    Ok(OperationRequest { id, kind, node, replaces, machine: None, rebalance: None })
}

/// The node whose id begins so.
fn find(name: &str, nodes: &[NodeId]) -> Result<NodeId, Failure> {
    let begins = |node: &&NodeId| node.to_string().starts_with(&name.to_ascii_lowercase());
    let found: Vec<&NodeId> = nodes.iter().filter(begins).collect();
    match found[..] {
        [node] => Ok(*node),
        [] => match name.parse() {
            Ok(node) => Ok(node),
            Err(_) => Err(Failure::usage(
                format!("no node has an id that begins with `{name}`"),
                "see the ids in `kvasir status`",
            )),
        },
        _ => Err(Failure::usage(
            format!("{} nodes have an id that begins with `{name}`", found.len()),
            "give more characters of it",
        )),
    }
}

/// How long the node takes that has most to send or receive, at so many MiB in a second.
fn time(plan: &OperationPlan, rate: u64) -> Duration {
    let most = plan.nodes.iter().map(|node| node.in_bytes.max(node.out_bytes)).max().unwrap_or(0);
    Duration::from_secs_f64(most as f64 / (rate << 20) as f64)
}

/// A summary, who gives what to whom, what it means for each node, and the risk.
fn draw(plan: &OperationPlan, machines: &BTreeMap<NodeId, String>, rate: u64) -> String {
    let machine = |node: NodeId| machines.get(&node).cloned().unwrap_or_default();
    let mut parts = vec![summary(plan, rate)];
    let mut pairs: BTreeMap<(Option<NodeId>, NodeId), (u64, u64)> = BTreeMap::new();
    for planned in &plan.moves {
        let pair = pairs.entry((planned.from, planned.to)).or_default();
        *pair = (pair.0 + 1, pair.1 + planned.bytes);
    }
    if !pairs.is_empty() {
        let rows = pairs.into_iter().map(|((from, to), (replicas, size))| {
            // A copy that is made anew where it is comes from the other owners.
            let giver = from.filter(|from| *from != to).map_or("-".to_owned(), short);
            vec![giver, short(to), grouped(replicas), bytes(size)]
        });
        parts.push(table(&["GIVES", "GETS", "REPLICAS", "BYTES"], &[2, 3], rows.collect()));
        let rows = plan.nodes.iter().map(|node| {
            vec![
                short(node.node),
                machine(node.node),
                grouped(u64::from(node.partitions_before)),
                grouped(u64::from(node.partitions_after)),
                bytes(node.in_bytes),
                bytes(node.out_bytes),
            ]
        });
        let titles = ["NODE", "MACHINE", "REPLICAS", "AFTERWARDS", "IN", "OUT"];
        parts.push(table(&titles, &[2, 3, 4, 5], rows.collect()));
    }
    parts.push(stakes(plan));
    parts.join("\n\n")
}

fn summary(plan: &OperationPlan, rate: u64) -> String {
    let what = operate::in_words(&plan.request);
    if plan.moves.is_empty() {
        return format!("{what}: nothing to move (epoch {})", plan.base_epoch);
    }
    let done = match plan.request.kind {
        OperationKind::Rebuild => "are made anew",
        _ => "move",
    };
    format!(
        "{what}: {} partition replicas {done}, about {}, about {} at {rate} MiB/s per node (epoch {})",
        grouped(plan.moves.len() as u64),
        bytes(plan.total_bytes),
        age(time(plan, rate)),
        plan.base_epoch
    )
}

/// The risk in words: level, reasons, and how few machines cost a quorum when.
fn stakes(plan: &OperationPlan) -> String {
    let level = match plan.risk.level {
        RiskLevel::None => "none, nothing moves",
        RiskLevel::Low => "low, copies and failure domains stay as they are",
        RiskLevel::Reduced => {
            "reduced, some partition has fewer copies or failure domains than wished"
        }
        RiskLevel::High => "high, some partition loses its quorum with one more machine",
    };
    let mut lines = vec![format!("risk: {level}")];
    lines.extend(plan.risk.reasons.iter().map(|reason| format!("  {reason}")));
    let machines = plan.risk.machines.iter().flat_map(|machines| {
        [
            ("as it is", &machines.before),
            ("while it runs", &machines.during),
            ("afterwards", &machines.after),
        ]
    });
    let rows: Vec<Vec<String>> =
        machines.filter_map(|(when, fewest)| Some(fewest_row(when, fewest.as_ref()?))).collect();
    if !rows.is_empty() {
        let titles = ["MACHINES THAT COST A QUORUM", "FEWEST", "FOR EXAMPLE", "PARTITION"];
        lines.push(table(&titles, &[1], rows));
    }
    lines.join("\n")
}

fn fewest_row(when: &str, fewest: &FewestMachines) -> Vec<String> {
    let machines =
        if fewest.machines.is_empty() { "-".to_owned() } else { fewest.machines.join(", ") };
    let partition = format!("{}/{}", fewest.partition.bits, fewest.partition.index);
    vec![when.to_owned(), fewest.count.to_string(), machines, partition]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(byte: u8) -> NodeId {
        NodeId::from_bytes([byte; 16])
    }

    fn plan() -> OperationPlan {
        serde_json::from_value(json!({
            "request": {"id": "dry-run", "kind": "join", "node": node(3)},
            "baseEpoch": 7,
            "moves": [
                {"partition": {"bits": 4, "index": 1}, "datacenter": "dc1", "from": node(1),
                 "to": node(3), "bytes": 104_857_600},
                {"partition": {"bits": 4, "index": 2}, "datacenter": "dc1", "from": node(1),
                 "to": node(3), "bytes": 104_857_600},
            ],
            "totalBytes": 209_715_200,
            "nodes": [
                {"node": node(1), "partitionsBefore": 16, "partitionsAfter": 14, "inBytes": 0,
                 "outBytes": 209_715_200},
                {"node": node(3), "partitionsBefore": 0, "partitionsAfter": 2,
                 "inBytes": 209_715_200, "outBytes": 0},
            ],
            "risk": {"level": "low", "reasons": [], "machines": {
                "before": {"count": 2, "machines": ["m1", "m2"], "partition": {"bits": 4, "index": 0}}
            }},
        }))
        .unwrap()
    }

    #[test]
    fn a_plan_is_readable() {
        let machines = [(node(1), "m1".to_owned()), (node(3), "m3".to_owned())].into();
        let text = draw(&plan(), &machines, 50);
        let expected = "\
join 03030303: 2 partition replicas move, about 200.0 MiB, about 4 s at 50 MiB/s per node (epoch 7)

GIVES     GETS      REPLICAS      BYTES
01010101  03030303         2  200.0 MiB

NODE      MACHINE  REPLICAS  AFTERWARDS         IN        OUT
01010101  m1             16          14        0 B  200.0 MiB
03030303  m3              0           2  200.0 MiB        0 B

risk: low, copies and failure domains stay as they are
MACHINES THAT COST A QUORUM  FEWEST  FOR EXAMPLE  PARTITION
as it is                          2  m1, m2       4/0";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_plan_of_a_rebuild_says_what_is_made_anew() {
        let rebuild: OperationPlan = serde_json::from_value(json!({
            "request": {"id": "dry-run", "kind": "rebuild", "node": node(3)},
            "baseEpoch": 7,
            "moves": [{"partition": {"bits": 4, "index": 1}, "datacenter": "dc1", "from": node(3),
                       "to": node(3), "bytes": 1_048_576}],
            "totalBytes": 1_048_576,
            "nodes": [{"node": node(3), "partitionsBefore": 12, "partitionsAfter": 12,
                       "inBytes": 1_048_576, "outBytes": 0}],
            "risk": {"level": "reduced",
                     "reasons": ["1 partitions have one copy less until they are over"]},
        }))
        .unwrap();
        let text = draw(&rebuild, &[(node(3), "m3".to_owned())].into(), 50);
        let expected = "\
rebuild 03030303: 1 partition replicas are made anew, about 1.0 MiB, about 20 ms at 50 MiB/s per node (epoch 7)

GIVES  GETS      REPLICAS    BYTES
-      03030303         1  1.0 MiB

NODE      MACHINE  REPLICAS  AFTERWARDS       IN  OUT
03030303  m3             12          12  1.0 MiB  0 B

risk: reduced, some partition has fewer copies or failure domains than wished
  1 partitions have one copy less until they are over";
        assert_eq!(text, expected);
    }

    #[test]
    fn nodes_are_named_by_their_beginning() {
        let nodes = [node(0x0a), node(0x0b), node(0xc1)];
        assert_eq!(find("c", &nodes).unwrap(), node(0xc1));
        assert_eq!(find("0B0", &nodes).unwrap(), node(0x0b));
        assert!(find("0", &nodes).unwrap_err().message.contains("2 nodes"));
        assert!(find("9", &nodes).unwrap_err().message.contains("no node"));
        let stranger = node(0x77);
        assert_eq!(find(&stranger.to_string(), &nodes).unwrap(), stranger);
    }
}
