//! Answers of the admin API as text. Pure: the same answer draws the same text.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kvasir_core::admin_api::{
    ActorName, DiskDamage, DocumentAnswer, Liveness, NodeStatus, OperationKind, OperationRequest,
    ReplicaRead, ReplicaSibling, Status, Verdict,
};
use kvasir_core::gossip::NotServing;
use kvasir_core::id::NodeId;

use super::Told;
use super::view::RingView;
use crate::cli::output::{age, bytes, grouped, preview, table};

/// Widest value that is shown, in characters.
const VALUE_WIDTH: usize = 40;

/// The first line that answers, a summary, one row per node, and what to do next.
pub fn status(status: &Status, colour: bool) -> String {
    let mut parts = vec![painted(&status.headline(), status.safety.verdict, colour)];
    parts.extend(status.summary().map(|summary| format!("  {summary}")));
    for operation in &status.operations {
        parts.push(format!(
            "  operation {} ({:?}): {:?}, {} of {} moves",
            operation.request.id,
            operation.request.kind,
            operation.state,
            operation.moves_done,
            operation.moves_total
        ));
        parts.extend(operation.message.iter().map(|why| format!("    {why}")));
    }
    for shared in &status.shared_machines {
        let nodes: Vec<String> = shared.nodes.iter().map(|node| short(*node)).collect();
        parts.push(format!(
            "  machine {} holds two copies of {} partitions: nodes {}",
            shared.machine,
            shared.partitions.len(),
            nodes.join(", ")
        ));
    }
    let kept =
        status.nodes.iter().filter_map(|node| Some((node, node.load.as_ref()?.handoff.as_ref()?)));
    for (node, kept) in kept {
        parts.push(format!(
            "  node {} keeps {} stand-in copies ({}) and {} hints ({}) for owners that were down",
            short(node.id),
            kept.stand_in_copies,
            bytes(kept.stand_in_bytes),
            kept.hints,
            bytes(kept.hint_bytes)
        ));
        if let Some(why) = &kept.failure {
            parts.push(format!(
                "  node {} stands in for nobody and hands nothing back: its standins/ cannot be read: {why}",
                short(node.id)
            ));
        }
    }
    for (node, why) in status.nodes.iter().filter_map(|node| Some((node, node.not_serving?))) {
        let why = match why {
            NotServing::NeedsRebuild => {
                "is to be rebuilt: its volume is older than what it did before, or lost its data"
            }
            NotServing::NotMember => "is no member",
        };
        parts.push(format!("  node {} runs and serves nothing: it {why}", short(node.id)));
    }
    let reclaim = status.nodes.iter().filter_map(|node| node.load.as_ref()?.reclaim.as_ref());
    for held in reclaim.flat_map(|reclaim| &reclaim.held_up_by) {
        parts.push(format!(
            "  deleted keys give no space back: held up by node {} ({})",
            short(held.node),
            held_up(&held.why)
        ));
    }
    if !status.nodes.is_empty() {
        let titles = [
            "ST", "NODE", "MACHINE", "ZONE", "DC", "OWNS", "LOAD", "HTTP", "ADMIN", "VERSION",
            "FOR",
        ];
        let rows = status.nodes.iter().map(node_row).collect();
        parts.push(format!("\n{}", table(&titles, &[5, 6], rows)));
    }
    parts.extend(next_step(status).map(|next| format!("\nnext: {next}")));
    parts.join("\n")
}

fn painted(line: &str, verdict: Verdict, colour: bool) -> String {
    let code = match verdict {
        _ if !colour => return line.to_owned(),
        Verdict::Safe => "32",
        Verdict::Degraded => "33",
        Verdict::Unavailable | Verdict::Missing | Verdict::Unformed => "31",
    };
    format!("\u{1b}[{code}m{line}\u{1b}[0m")
}

fn node_row(node: &NodeStatus) -> Vec<String> {
    let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let load = node.load.as_ref();
    vec![
        state(node),
        short(node.id),
        dash(&node.machine),
        dash(&node.zone),
        dash(&node.datacenter),
        format!("{:.1}%", node.owned * 100.0),
        load.map_or("-".into(), |load| bytes(load.disk_bytes + load.memory_bytes)),
        dash(&node.http),
        dash(&node.admin),
        dash(&node.version),
        node.for_ms.map_or("-".into(), |ms| age(Duration::from_millis(ms))),
    ]
}

/// Why a member holds reclaim up.
fn held_up(why: &str) -> &str {
    match why {
        "generation" => "it is down or does not go on",
        "copies" => "it keeps stand-in copies that their owners do not have yet",
        "document" => "it has another cluster document",
        "unheard" => "it was never heard",
        other => other,
    }
}

/// Two letters: liveness (`N` is up and serves nothing), then membership.
fn state(node: &NodeStatus) -> String {
    let first = match node.liveness {
        Liveness::Alive | Liveness::Suspect if node.not_serving.is_some() => 'N',
        Liveness::Alive => 'U',
        Liveness::Suspect => 'S',
        Liveness::Down => 'D',
        Liveness::Unheard => '?',
    };
    format!("{first}{}", if node.member.is_some() { 'M' } else { '-' })
}

fn next_step(status: &Status) -> Option<String> {
    if status.safety.verdict == Verdict::Unformed {
        return Some("form a cluster: POST /v1/cluster/init on the admin port".to_owned());
    }
    if let Some((node, why)) =
        status.nodes.iter().find_map(|node| Some((node, node.load.as_ref()?.failure.as_ref()?)))
    {
        return Some(format!("node {} refuses writes: {why}", short(node.id)));
    }
    if let Some((node, damage)) =
        status.nodes.iter().find_map(|node| Some((node, node.load.as_ref()?.damage?)))
    {
        return Some(damaged(node, damage));
    }
    let needs = |node: &&NodeStatus| node.not_serving == Some(NotServing::NeedsRebuild);
    if let Some(node) = status.nodes.iter().find(needs) {
        return Some(to_rebuild(status, node));
    }
    let is_gone = |node: &&NodeStatus| {
        node.member.is_some() && matches!(node.liveness, Liveness::Down | Liveness::Unheard)
    };
    let Some(gone) = status.nodes.iter().find(is_gone) else {
        let shared = status.shared_machines.first()?;
        let (node, machine) = (short(*shared.nodes.last()?), &shared.machine);
        return Some(format!("start node {node} on a machine of its own instead of {machine}"));
    };
    let since =
        gone.for_ms.map_or(String::new(), |ms| format!(" for {}", age(Duration::from_millis(ms))));
    let machine = if gone.machine.is_empty() { "its machine" } else { &gone.machine };
    Some(format!("node {} is down{since}: start it again on {machine}", short(gone.id)))
}

/// What a node asks for whose data is set aside: nothing while it is rebuilt.
fn to_rebuild(status: &Status, node: &NodeStatus) -> String {
    let rebuilds = |request: &OperationRequest| {
        request.kind == OperationKind::Rebuild && request.node == Some(node.id)
    };
    let running = status.operations.iter().find(|operation| rebuilds(&operation.request));
    let name = short(node.id);
    match running {
        Some(operation) => format!(
            "node {name} is being rebuilt, {} of {} copies so far: its other owners must be up",
            operation.moves_done, operation.moves_total
        ),
        None => format!(
            "node {name} begins to be rebuilt by itself once it hears the others (`repair.rebuild`); else post \
             a `rebuild` of it, or a `replace`"
        ),
    }
}

/// What a damaged disk asks for. A node that is down is named in its row; this one looks well there.
fn damaged(node: &NodeStatus, damage: DiskDamage) -> String {
    let DiskDamage { quarantined_tables, damaged_tables, lost_ranges } = damage;
    let tables = quarantined_tables + damaged_tables;
    format!(
        "check the disk of node {}: {tables} damaged tables since it started, {lost_ranges} key ranges lost \
         there (its log and quarantine/ say which); other copies answer for them, and a rebuild makes them anew",
        short(node.id)
    )
}

/// The ring: the document in a line, one row per member, and the partitions if they are wanted.
pub fn ring(
    answer: &DocumentAnswer,
    view: &RingView,
    nodes: &[NodeStatus],
    partitions: bool,
) -> String {
    let copies: Vec<String> =
        view.replication.iter().map(|(name, copies)| format!("{name}:{copies}")).collect();
    let mut parts = vec![format!(
        "{}  epoch {}  {} partitions (2^{})  copies {}  document {}",
        view.cluster_name,
        answer.epoch,
        grouped(view.partitions().into()),
        view.partition_bits,
        copies.join(" "),
        answer.hash.get(..12).unwrap_or(&answer.hash),
    )];
    let counts = view.counts();
    let total: u32 = counts.values().sum();
    let rows = counts.iter().map(|(id, count)| {
        let member = view.members.get(id);
        let text = |pick: fn(&super::view::MemberView) -> &str| {
            member.map(pick).filter(|text| !text.is_empty()).unwrap_or("-").to_owned()
        };
        let state = nodes.iter().find(|node| node.id == *id).map_or("??".into(), state);
        let share = if total == 0 { 0.0 } else { f64::from(*count) * 100.0 / f64::from(total) };
        vec![
            state,
            short(*id),
            text(|member| &member.machine),
            text(|member| &member.rack),
            text(|member| &member.zone),
            text(|member| &member.datacenter),
            member.map_or("-".into(), |member| member.weight.to_string()),
            grouped(u64::from(*count)),
            format!("{share:.1}%"),
        ]
    });
    let titles = ["ST", "NODE", "MACHINE", "RACK", "ZONE", "DC", "WEIGHT", "PARTITIONS", "OWNS"];
    parts.push(format!("\n{}", table(&titles, &[6, 7, 8], rows.collect())));
    if partitions {
        let rows = (0..view.partitions()).map(|index| {
            let owners: Vec<String> = view.owners(index).into_iter().map(short).collect();
            vec![index.to_string(), owners.join(" ")]
        });
        parts.push(format!("\n{}", table(&["PARTITION", "OWNERS"], &[0], rows.collect())));
    }
    parts.join("\n")
}

/// A key: where it lies, and the siblings of every replica side by side.
pub fn replicas(
    name: &str,
    first: &ReplicaRead,
    owners: &[NodeId],
    told: &BTreeMap<NodeId, Told>,
    nodes: &[NodeStatus],
) -> String {
    let names: Vec<String> = owners.iter().map(|owner| short(*owner)).collect();
    let mut parts = vec![format!(
        "{name}  hash {}  partition {} of 2^{}  owners {}",
        first.key_hash,
        first.partition.index,
        first.partition.bits,
        names.join(" ")
    )];
    // Owners in their order, then any other node that holds something.
    let others = told
        .iter()
        .filter(|(id, told)| !owners.contains(id) && told.as_ref().is_ok_and(|read| read.found));
    let shown = owners.iter().copied().chain(others.map(|(id, _)| *id));
    let mut rows = Vec::new();
    for id in shown {
        let state = nodes.iter().find(|node| node.id == id).map_or("??".into(), state);
        let role = if owners.contains(&id) { "owner" } else { "other" };
        let head = vec![state, short(id), role.to_owned()];
        match told.get(&id) {
            Some(Ok(read)) => replica_rows(&head, read, &mut rows),
            Some(Err(why)) => rows.push(row(&head, ["-", "-", "-", "-", &format!("({why})")])),
            None => rows.push(row(&head, ["-", "-", "-", "-", "(not known to gossip)"])),
        }
    }
    let titles = ["ST", "NODE", "ROLE", "DIGEST", "DOT", "WRITTEN MS", "BYTES", "VALUE"];
    parts.push(format!("\n{}", table(&titles, &[5, 6], rows)));
    parts.push(format!("\n{}", agreement(owners, told)));
    parts.join("\n")
}

fn row(head: &[String], rest: [&str; 5]) -> Vec<String> {
    head.iter().cloned().chain(rest.map(str::to_owned)).collect()
}

fn replica_rows(head: &[String], read: &ReplicaRead, rows: &mut Vec<Vec<String>>) {
    let digest = read.digest.as_deref().unwrap_or("-");
    let digest = digest.get(..8).unwrap_or(digest);
    if read.siblings.is_empty() {
        let what = if read.found { "(no sibling)" } else { "(nothing)" };
        rows.push(row(head, [digest, "-", "-", "-", what]));
    }
    for sibling in &read.siblings {
        let value = sibling.value_base64.as_ref().and_then(|t| BASE64_STANDARD.decode(t).ok());
        let size = value.as_ref().map_or("-".into(), |value| grouped(value.len() as u64));
        let dot = format!("{}:{}", actor(&sibling.dot.actor), sibling.dot.count);
        let written = sibling.written_ms.to_string();
        let shown = shown(sibling, value.as_deref());
        rows.push(row(head, [digest, &dot, &written, &size, &shown]));
    }
}

fn shown(sibling: &ReplicaSibling, value: Option<&[u8]>) -> String {
    let text = match value {
        _ if sibling.tombstone => "(deleted)".to_owned(),
        Some(value) => preview(value, VALUE_WIDTH),
        None => "(no value in the answer)".to_owned(),
    };
    match sibling.expires_ms {
        Some(at) => format!("{text} (expires at {at} ms)"),
        None => text,
    }
}

fn actor(actor: &ActorName) -> String {
    format!("{}.{}", actor.tag.get(..6).unwrap_or(&actor.tag), actor.serial)
}

/// Whether the owners that answered hold the same set.
fn agreement(owners: &[NodeId], told: &BTreeMap<NodeId, Told>) -> String {
    let answered: Vec<&ReplicaRead> =
        owners.iter().filter_map(|owner| told.get(owner)?.as_ref().ok()).collect();
    let (count, all) = (answered.len(), owners.len());
    match answered.split_first() {
        None => "no owner answered".to_owned(),
        Some((one, rest)) if rest.iter().all(|read| read.digest == one.digest) => {
            format!("{count} of {all} owners answered, all with the same set")
        }
        Some(_) => format!(
            "{count} of {all} owners answered, with different sets; a read at r=all repairs them"
        ),
    }
}

/// The first block of an id: enough to tell the nodes of one cluster apart.
pub fn short(id: NodeId) -> String {
    id.to_string().chars().take(8).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const N: [&str; 3] = [
        "aaaaaaaa-0000-4000-8000-000000000001",
        "bbbbbbbb-0000-4000-8000-000000000002",
        "cccccccc-0000-4000-8000-000000000003",
    ];

    fn id(at: usize) -> NodeId {
        N[at].parse().unwrap()
    }

    #[test]
    fn damage_is_said_with_its_figures() {
        let mut node = node(0, "alive");
        let damage = DiskDamage { quarantined_tables: 2, damaged_tables: 1, lost_ranges: 4 };
        node.load.as_mut().unwrap().damage = Some(damage);
        let told = damaged(&node, damage);
        assert!(told.contains("3 damaged tables") && told.contains("4 key ranges lost"), "{told}");
        let again: NodeStatus =
            serde_json::from_value(serde_json::to_value(&node).unwrap()).unwrap();
        assert_eq!(again.load.unwrap().damage, Some(damage));
    }

    #[test]
    fn a_node_that_runs_and_serves_nothing_is_marked() {
        let mut node = node(1, "alive");
        assert_eq!(state(&node), "UM");
        node.not_serving = Some(NotServing::NeedsRebuild);
        assert_eq!(state(&node), "NM");
    }

    fn node(at: usize, liveness: &str) -> NodeStatus {
        serde_json::from_value(json!({
            "id": N[at], "liveness": liveness, "forMs": 61_000, "member": "active",
            "http": format!("127.0.0.1:810{at}"), "peer": "", "admin": format!("127.0.0.1:830{at}"),
            "machine": format!("dev-{at}"), "rack": "", "zone": "z", "datacenter": "dc1",
            "weight": 100, "partitions": 2, "owned": 1.0 / 3.0, "version": "0.1.0",
            "load": (at == 0).then(|| json!({
                "diskBytes": 2048, "memoryBytes": 0, "freeBytes": 0, "records": 1
            })),
        }))
        .unwrap()
    }

    fn answer() -> DocumentAnswer {
        let entry = json!({"slots": {"dc1": N.map(|id| json!({"owner": id}))}});
        let member = |at: usize| {
            json!({
                "machine": format!("dev-{at}"), "rack": "", "zone": "z", "datacenter": "dc1",
                "weight": 100, "state": "active"
            })
        };
        serde_json::from_value(json!({
            "epoch": 1, "hash": "0123456789abcdef", "document": {
                "clusterName": "dev", "partitionBits": 1, "replication": {"dc1": 3},
                "members": {N[0]: member(0), N[1]: member(1), N[2]: member(2)},
                "table": [entry, entry], "tokenSecret": "", "laterField": 1
            }
        }))
        .unwrap()
    }

    fn replica(at: usize, digest: &str, siblings: serde_json::Value) -> ReplicaRead {
        serde_json::from_value(json!({
            "node": N[at], "partition": {"bits": 1, "index": 0}, "keyHash": "24aa000000000000",
            "owner": true, "found": siblings != json!([]), "digest": digest, "context": [],
            "cloud": [], "siblings": siblings
        }))
        .unwrap()
    }

    fn sibling(serial: u32, value: Option<&str>) -> serde_json::Value {
        json!({
            "dot": {"actor": {"tag": "00000000000000ff", "serial": serial}, "count": 1},
            "writtenMs": 1000, "writtenLogical": 0, "tombstone": value.is_none(),
            "valueBase64": value
        })
    }

    #[test]
    fn status_answers_first_and_ends_with_the_next_step() {
        let status: Status = serde_json::from_value(json!({
            "safety": {"verdict": "degraded", "sentence": "all data readable"},
            "answeredBy": N[0], "serverVersion": "0.1.0",
            "partitions": {"total": 2, "whole": 0, "underReplicated": 2, "noQuorum": 0,
                "noOwner": 0, "unreadable": 0, "unwritable": 0, "moving": 0, "byCopies": {"2": 2}},
            "nodes": [node(0, "alive"), node(1, "suspect"), node(2, "down")],
        }))
        .unwrap();
        assert_eq!(
            super::status(&status, false),
            "\
DEGRADED  all data readable

ST  NODE      MACHINE  ZONE  DC    OWNS     LOAD  HTTP            ADMIN           VERSION  FOR
UM  aaaaaaaa  dev-0    z     dc1  33.3%  2.0 KiB  127.0.0.1:8100  127.0.0.1:8300  0.1.0    1 m
SM  bbbbbbbb  dev-1    z     dc1  33.3%        -  127.0.0.1:8101  127.0.0.1:8301  0.1.0    1 m
DM  cccccccc  dev-2    z     dc1  33.3%        -  127.0.0.1:8102  127.0.0.1:8302  0.1.0    1 m

next: node cccccccc is down for 1 m: start it again on dev-2"
        );
        assert!(super::status(&status, true).starts_with("\u{1b}[33mDEGRADED"));
    }

    #[test]
    fn status_names_copies_that_share_a_machine() {
        let status: Status = serde_json::from_value(json!({
            "safety": {"verdict": "safe", "sentence": "every copy is up"},
            "answeredBy": N[0], "serverVersion": "0.1.0",
            "partitions": {"total": 2, "whole": 2, "underReplicated": 0, "noQuorum": 0,
                "noOwner": 0, "unreadable": 0, "unwritable": 0, "moving": 0, "byCopies": {"3": 2}},
            "sharedMachines": [{"machine": "w1", "datacenter": "dc1", "nodes": [N[0], N[1]],
                "bits": 1, "partitions": [0, 1]}],
            "nodes": [node(0, "alive"), node(1, "alive"), node(2, "alive")],
        }))
        .unwrap();
        let text = super::status(&status, false);
        let (a, b) = (short(id(0)), short(id(1)));
        let line = format!("  machine w1 holds two copies of 2 partitions: nodes {a}, {b}");
        assert_eq!(text.lines().nth(1), Some(line.as_str()), "{text}");
        let next = format!("next: start node {b} on a machine of its own instead of w1");
        assert_eq!(text.lines().last(), Some(next.as_str()), "{text}");
    }

    #[test]
    fn ring_shows_shares_and_partitions() {
        let view = RingView::of(&answer()).unwrap();
        assert_eq!(
            ring(&answer(), &view, &[node(0, "alive"), node(1, "alive")], true),
            "\
dev  epoch 1  2 partitions (2^1)  copies dc1:3  document 0123456789ab

ST  NODE      MACHINE  RACK  ZONE  DC   WEIGHT  PARTITIONS   OWNS
UM  aaaaaaaa  dev-0    -     z     dc1     100           2  33.3%
UM  bbbbbbbb  dev-1    -     z     dc1     100           2  33.3%
??  cccccccc  dev-2    -     z     dc1     100           2  33.3%

PARTITION  OWNERS
        0  aaaaaaaa bbbbbbbb cccccccc
        1  aaaaaaaa bbbbbbbb cccccccc"
        );
    }

    #[test]
    fn where_shows_siblings_of_every_replica() {
        let both = json!([sibling(1, Some("bWlsaw==")), sibling(2, None)]);
        let told = BTreeMap::from([
            (id(0), Ok(replica(0, "d1d1d1d1d1", both))),
            (id(1), Ok(replica(1, "d2", json!([sibling(1, Some("bWlsaw=="))])))),
            (id(2), Err("no server answered".to_owned())),
        ]);
        let first = told[&id(0)].clone().unwrap();
        let nodes = [node(0, "alive"), node(1, "alive"), node(2, "down")];
        assert_eq!(
            replicas("default/cart", &first, &[id(0), id(1), id(2)], &told, &nodes),
            "\
default/cart  hash 24aa000000000000  partition 0 of 2^1  owners aaaaaaaa bbbbbbbb cccccccc

ST  NODE      ROLE   DIGEST    DOT         WRITTEN MS  BYTES  VALUE
UM  aaaaaaaa  owner  d1d1d1d1  000000.1:1        1000      4  milk
UM  aaaaaaaa  owner  d1d1d1d1  000000.2:1        1000      -  (deleted)
UM  bbbbbbbb  owner  d2        000000.1:1        1000      4  milk
DM  cccccccc  owner  -         -                    -      -  (no server answered)

2 of 3 owners answered, with different sets; a read at r=all repairs them"
        );
        let told = BTreeMap::from([(id(0), Ok(replica(0, "d", json!([]))))]);
        let text = replicas("b/k", &told[&id(0)].clone().unwrap(), &[id(0)], &told, &nodes);
        assert!(text.ends_with("1 of 1 owners answered, all with the same set"), "{text}");
        assert!(text.contains("(nothing)"), "{text}");
    }
}
