//! Stories that `kvasir dev` tells by doing them: each step is a request that anyone can send again.

use std::collections::BTreeSet;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use hyper::Method;

use super::child::Life;
use super::cluster::Cluster;
use super::{heal, part, tell};
use crate::cli::client::{Ask, Bounds, Client, Repeat, Reply};
use crate::cli::failure::{Exit, Failure};
use crate::cli::{servers, siblings as listed};

/// Where the story takes place.
const CART: &str = "/v1/kv/lessons/cart";
/// Longest that one request may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Header of the token.
const CONTEXT: &str = "x-kvasir-context";

/// A partition, writes on both sides, the conflict shown and resolved.
pub(super) async fn siblings(cluster: &mut Cluster) -> Result<(), Failure> {
    if !cluster.links().are_whole() {
        return Err(Failure::usage("the links are cut or slow already", "type `heal` first"));
    }
    all_run(cluster, "lesson siblings")?;
    let told = tell_of_siblings(cluster).await;
    if !cluster.links().are_whole() {
        heal(cluster).await?;
    }
    told
}

/// Refuses what needs every node while one does not run.
pub(super) fn all_run(cluster: &Cluster, then: &str) -> Result<(), Failure> {
    let stands = |number: &usize| cluster.nodes[*number].life() != Life::Running;
    match cluster.numbers().into_iter().find(stands) {
        None => Ok(()),
        Some(number) => Err(Failure::usage(
            format!("node {number} does not run"),
            format!("`start {number}` or `resume {number}`, then `{then}`"),
        )),
    }
}

async fn tell_of_siblings(cluster: &mut Cluster) -> Result<(), Failure> {
    // The node with the lowest number may have been removed.
    let first = cluster.numbers().into_iter().next().expect("a cluster has a node");
    tell("1. Everyone agrees on what is in the cart.\n");
    let old = ask(cluster, first, Method::GET, "r=all", None, "").await?;
    let reply = ask(cluster, first, Method::PUT, "w=all", old.header(CONTEXT), "milk").await?;
    let reply = expect(reply, 204)?;
    let (token, owners) = (reply.header(CONTEXT).map(str::to_owned), owners(cluster, &reply));
    let &[one, other, ..] = owners.as_slice() else {
        return Err(Failure::usage(
            "this cluster keeps one copy, so nobody can disagree",
            "kvasir dev --nodes 3",
        ));
    };
    tell("\n2. The network breaks. Both sides go on, each with what it has (w=1).\n");
    let mut rest = cluster.numbers();
    rest.remove(&one);
    part(cluster, &[BTreeSet::from([one]), rest]).await;
    let token = token.as_deref();
    expect(ask(cluster, one, Method::PUT, "w=1", token, "milk, bread").await?, 204)?;
    expect(ask(cluster, other, Method::PUT, "w=1", token, "milk, eggs").await?, 204)?;
    tell("\n   Each side reads its own.\n");
    expect(ask(cluster, one, Method::GET, "r=1", None, "").await?, 200)?;
    expect(ask(cluster, other, Method::GET, "r=1", None, "").await?, 200)?;
    tell("\n3. The network heals. Neither write saw the other, so neither is thrown away:");
    tell("   the cart has two siblings, and the client is given both.\n");
    heal(cluster).await?;
    let conflict = expect(ask(cluster, other, Method::GET, "r=all", None, "").await?, 300)?;
    tell("\n4. The client merges them and writes the result with the token of what it read.\n");
    let merged = "milk, bread, eggs";
    let token = conflict.header(CONTEXT);
    expect(ask(cluster, one, Method::PUT, "w=all", token, merged).await?, 204)?;
    expect(ask(cluster, other, Method::GET, "r=all", None, "").await?, 200)?;
    tell("\nThe token says what a write has seen: those values it replaces, all others it leaves.");
    Ok(())
}

/// Sends a request to one node, shows it as a command and its answer as a few words.
async fn ask(
    cluster: &Cluster,
    number: usize,
    method: Method,
    query: &str,
    token: Option<&str>,
    body: &'static str,
) -> Result<Reply, Failure> {
    let url = cluster.nodes[number].plan.http_url();
    let target = format!("{CART}?{query}");
    let with = token.map_or("", |_| " -H \"X-Kvasir-Context: $TOKEN\"");
    tell(&match method {
        Method::PUT => format!("   $ curl -X PUT '{url}{target}'{with} -d '{body}'"),
        _ => format!("   $ curl '{url}{target}'"),
    });
    let bounds = Bounds { total: PATIENCE, attempt: PATIENCE, tries: 1 };
    let client = Client::new("--server", servers::parse("--server", &url, 0)?, bounds);
    let headers = token.map(|token| (CONTEXT, token.to_owned())).into_iter().collect();
    let body = Bytes::from_static(body.as_bytes());
    let reply = client.ask(&Ask { method, target, headers, body, repeat: Repeat::Always }).await?;
    tell(&format!("   {}", in_words(cluster, &reply)));
    Ok(reply)
}

fn in_words(cluster: &Cluster, reply: &Reply) -> String {
    match reply.status {
        200 => format!("200: {}", String::from_utf8_lossy(&reply.body)),
        204 => {
            let nodes: Vec<String> =
                owners(cluster, reply).iter().map(|number| format!("node {number}")).collect();
            format!("204, stored by {}", nodes.join(", "))
        }
        300 => {
            let values = listed::parse(&reply.body).unwrap_or_default();
            let text = |sibling: &listed::Sibling| {
                let bytes = BASE64_STANDARD.decode(sibling.value_b64.as_ref()?).ok()?;
                Some(format!("`{}`", String::from_utf8_lossy(&bytes)))
            };
            let values: Vec<String> = values.iter().filter_map(text).collect();
            format!("300, {} values: {}", values.len(), values.join(" and "))
        }
        404 => "404: nothing yet".to_owned(),
        status => format!("{status}: {}", String::from_utf8_lossy(&reply.body).trim()),
    }
}

/// The numbers of the owners that acknowledged a write.
fn owners(cluster: &Cluster, reply: &Reply) -> Vec<usize> {
    let acks = reply.header("x-kvasir-acks").unwrap_or_default();
    let owners = acks.split(';').find_map(|part| part.trim().strip_prefix("owners="));
    let known = owners.unwrap_or_default().split(',').filter_map(|id| cluster.number_of(id));
    known.collect::<BTreeSet<_>>().into_iter().collect()
}

fn expect(reply: Reply, status: u16) -> Result<Reply, Failure> {
    if reply.status == status {
        return Ok(reply);
    }
    let failure = reply.failure();
    Err(Failure::new(
        Exit::Error,
        format!("expected {status}: {}", failure.message),
        "look at `status`; the story can be told again",
    ))
}
