//! `kvasir ls`: the keys of a bucket, one a line, in the order of their hashes.

use std::io::Write;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use serde::Serialize;

use super::failure::{Exit, Failure};
use super::output::{self, Format};
use super::pages::{Listed, Wanted, page};
use super::{Target, duration};

/// Keys that one request asks for.
const PAGE: u64 = 1_000;
/// Widest key that the table shows, in characters.
const KEY_WIDTH: usize = 200;

/// Arguments of `kvasir ls`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ls default
  kvasir ls default --prefix cart/ --limit 20
  kvasir ls default -o json | jq -r .key

Keys come in the order of their hashes, which looks like none. A key that is there from the beginning of
the list to its end comes once; one that is written or deleted meanwhile may come or not. With -o json
each key is an object on a line of its own, with key_b64 for keys that are no text.

A list reads what lies between the keys of the bucket too: it costs what all data costs, not what the
bucket holds.")]
pub struct Ls {
    /// Name of the bucket, 1 to 255 bytes
    pub bucket: String,
    /// Only keys that begin so
    #[arg(long, value_name = "PREFIX")]
    pub prefix: Option<String>,
    /// Most keys; without it, all
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: Option<u64>,
    /// Replicas that must answer for each part of the ring: one, quorum, all, local_one, local_quorum,
    /// each_quorum or a number
    #[arg(short, value_name = "LEVEL")]
    pub r: Option<String>,
    /// Whether stand-ins may answer for owners that are down; without it, as the bucket says
    #[arg(long, value_name = "true|false")]
    pub sloppy: Option<bool>,
    /// Longest time for each thousand keys, over all servers that are tried
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
    /// Servers and form of the result
    #[command(flatten)]
    pub target: Target,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    siblings: u64,
    bytes: u64,
}

/// Lists keys.
pub async fn ls(arguments: &Ls) -> Result<Exit, Failure> {
    let client = arguments.target.client(arguments.timeout, false)?;
    let wanted = Wanted {
        bucket: arguments.bucket.clone(),
        prefix: arguments.prefix.clone(),
        r: arguments.r.clone(),
        sloppy: arguments.sloppy,
        values: false,
    };
    let (mut left, mut cursor) = (arguments.limit.unwrap_or(u64::MAX), None);
    let mut titled = false;
    loop {
        let page = page(&client, &wanted, cursor.as_deref(), left.min(PAGE)).await?;
        left = left.saturating_sub(page.keys.len() as u64);
        let mut text = String::new();
        if arguments.target.output == Format::Table && !page.keys.is_empty() && !titled {
            titled = true;
            text += &format!("{:>8}  {:>14}  KEY\n", "SIBLINGS", "BYTES");
        }
        for key in &page.keys {
            text += &line(key, arguments.target.output)?;
        }
        if !write(&text)? {
            return Ok(Exit::Ok);
        }
        cursor = page.next;
        if cursor.is_none() || left == 0 {
            return Ok(Exit::Ok);
        }
    }
}

fn line(listed: &Listed, format: Format) -> Result<String, Failure> {
    let (key, siblings, bytes) = (listed.key()?, listed.siblings, listed.bytes);
    if format == Format::Table {
        let shown = output::preview(&key, KEY_WIDTH);
        return Ok(format!("{siblings:>8}  {:>14}  {shown}\n", output::grouped(bytes)));
    }
    let text = std::str::from_utf8(&key).ok();
    let key_b64 = text.is_none().then(|| BASE64_STANDARD.encode(&key));
    let row = serde_json::to_string(&Row { key: text, key_b64, siblings, bytes });
    let row = row.map_err(|e| Failure::error(format!("no JSON: {e}"), "use `-o table`"))?;
    Ok(row + "\n")
}

/// Writes to standard output; false if whoever read it is gone.
fn write(text: &str) -> Result<bool, Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::error(
            format!("standard output cannot be written: {error}"),
            "check what the output is redirected to, and whether its disk is full",
        )),
    }
}
