//! `kvasir put`, `get` and `del`: one key at a time.
//!
//! `put` and `del` write the token of the new version to standard output, so that a shell can
//! chain writes; `get` writes the value as it is, without a newline of its own.

use std::io::Read;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use hyper::header::{CONTENT_TYPE, ETAG, LAST_MODIFIED};
use serde_json::json;

use kvasir_core::limits::VALUE_HARD_MAX_BYTES;

use super::client::{Ask, Repeat, Reply};
use super::failure::{Exit, Failure};
use super::output::{self, Format};
use super::{Target, siblings};

const CONTEXT: &str = "x-kvasir-context";
const ACKS: &str = "x-kvasir-acks";
const REPLICAS: &str = "x-kvasir-replicas";
const TTL: &str = "x-kvasir-ttl";

/// What every request for one key may say.
#[derive(Debug, Clone, Args)]
pub struct Key {
    /// Name of the bucket, 1 to 255 bytes; needs no declaration
    pub bucket: String,
    /// The key, 1 to 4096 bytes; may hold slashes
    pub key: String,
    /// Servers and form of the result
    #[command(flatten)]
    pub target: Target,
    /// Longest time for the request over all servers that are tried: 500ms, 5s, 1m
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = super::duration)]
    pub timeout: Duration,
    /// Whether stand-ins may answer for owners that are down; without it, as the bucket says
    #[arg(long, value_name = "true|false")]
    pub sloppy: Option<bool>,
}

/// What writes may say besides.
#[derive(Debug, Clone, Args)]
pub struct Write {
    /// Token of the version that this write follows, or @FILE that holds it; without it the write
    /// is blind and may become a sibling of what is stored
    #[arg(long, value_name = "TOKEN|@FILE")]
    pub context: Option<String>,
    /// Copies that must acknowledge: one, quorum, all, local_one, local_quorum, each_quorum or a
    /// number
    #[arg(short, value_name = "LEVEL")]
    pub w: Option<String>,
    /// How safe a copy is before it counts: memory, periodic, group or each
    #[arg(long, value_name = "MODE", value_parser = ["memory", "periodic", "group", "each"])]
    pub durability: Option<String>,
}

/// Arguments of `kvasir put`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir put default cart/42 milk
  kvasir put default photo - --content-type image/png < photo.png
  TOKEN=$(kvasir put default cart/42 milk)
  kvasir put default cart/42 milk,eggs --context \"$TOKEN\"

Without --context the write is blind: what it did not see stays beside it, and the next get shows
both. A put may be sent twice when a server does not answer; equal values are shown as one.")]
pub struct Put {
    /// Bucket and key
    #[command(flatten)]
    pub key: Key,
    /// The value; `-` or nothing reads standard input
    #[arg(value_name = "VALUE|-", allow_hyphen_values = true)]
    pub value: Option<String>,
    /// Context, copies and durability
    #[command(flatten)]
    pub write: Write,
    /// How long the value lives: 30s, 5m, 1h; without it, as the bucket says
    #[arg(long, value_name = "DURATION", value_parser = super::duration)]
    pub ttl: Option<Duration>,
    /// Media type kept with the value
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
}

/// Arguments of `kvasir get`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir get default cart/42
  kvasir get default cart/42 -r all -o json     with what is left of its life, if it ends
  kvasir get default cart/42 --context-to token && kvasir put default cart/42 tea --context @token

Exit code 3: nothing is stored. Exit code 5: the key holds several values; they are listed, and the
error says how to resolve them.")]
pub struct Get {
    /// Bucket and key
    #[command(flatten)]
    pub key: Key,
    /// Replicas that must answer: one, quorum, all, local_one, local_quorum, each_quorum or a
    /// number
    #[arg(short, value_name = "LEVEL")]
    pub r: Option<String>,
    /// Read only the sibling with this vtag
    #[arg(long, value_name = "VTAG")]
    pub vtag: Option<String>,
    /// Write the token of what was read to this file, for `--context @FILE`
    #[arg(long, value_name = "FILE")]
    pub context_to: Option<std::path::PathBuf>,
}

/// Arguments of `kvasir del`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir del default cart/42
  kvasir del default cart/42 --context @token

With --context only what the token covers is deleted; a value written in between stays. Without it
the node reads at quorum first and deletes what it sees. Deleting what is not there is no error.")]
pub struct Del {
    /// Bucket and key
    #[command(flatten)]
    pub key: Key,
    /// Context, copies and durability
    #[command(flatten)]
    pub write: Write,
}

/// Stores a value.
pub async fn put(arguments: &Put) -> Result<Exit, Failure> {
    let value = value_of(arguments.value.as_deref())?;
    let client = arguments.key.target.client(arguments.key.timeout, false)?;
    let mut query = arguments.key.query(client.attempt());
    query.add_write(&arguments.write);
    query.add("ttl", arguments.ttl.map(|ttl| format!("{}ms", ttl.as_millis())));
    let mut headers = arguments.write.headers()?;
    headers.extend(arguments.content_type.clone().map(|kind| ("content-type", kind)));
    let target = query.target(&arguments.key);
    let ask = Ask { method: Method::PUT, target, headers, body: value, repeat: Repeat::Always };
    written(&arguments.key, client.ask(&ask).await?)
}

/// Deletes a key.
pub async fn del(arguments: &Del) -> Result<Exit, Failure> {
    let client = arguments.key.target.client(arguments.key.timeout, false)?;
    let mut query = arguments.key.query(client.attempt());
    query.add_write(&arguments.write);
    let headers = arguments.write.headers()?;
    // Without a token a second try would delete what others wrote after the first.
    let repeat = if headers.is_empty() { Repeat::UnlessSent } else { Repeat::Always };
    let target = query.target(&arguments.key);
    let ask = Ask { method: Method::DELETE, target, headers, body: Bytes::new(), repeat };
    written(&arguments.key, client.ask(&ask).await?)
}

/// Reads a value.
pub async fn get(arguments: &Get) -> Result<Exit, Failure> {
    let client = arguments.key.target.client(arguments.key.timeout, false)?;
    let mut query = arguments.key.query(client.attempt());
    query.add("r", arguments.r.clone());
    query.add("vtag", arguments.vtag.clone());
    let reply = client.ask(&Ask::get(query.target(&arguments.key))).await?;
    if let (Some(path), Some(token)) = (&arguments.context_to, reply.header(CONTEXT)) {
        save(path, token)?;
    }
    match reply.status {
        200 => found(arguments, &reply),
        300 => conflict(arguments, &reply),
        404 if arguments.vtag.is_none() => {
            let Key { bucket, key, .. } = &arguments.key;
            Err(Failure::new(
                Exit::NotFound,
                format!("nothing is stored under {bucket}/{key}"),
                format!(
                    "check the name, or what each replica holds: kvasir where {} {}",
                    siblings::quoted(bucket),
                    siblings::quoted(key)
                ),
            ))
        }
        _ => Err(reply.failure()),
    }
}

fn found(arguments: &Get, reply: &Reply) -> Result<Exit, Failure> {
    if arguments.key.target.output == Format::Table {
        output::write_out(&reply.body)?;
        return Ok(Exit::Ok);
    }
    output::say_json(&json!({
        "bucket": arguments.key.bucket,
        "key": arguments.key.key,
        "value_b64": encoded(&reply.body),
        "content_type": reply.header(CONTENT_TYPE.as_str()),
        "etag": reply.header(ETAG.as_str()),
        "modified": reply.header(LAST_MODIFIED.as_str()),
        "ttl": reply.header(TTL),
        "context": reply.header(CONTEXT),
        "replicas": reply.header(REPLICAS),
        "server": reply.server,
    }))?;
    Ok(Exit::Ok)
}

fn conflict(arguments: &Get, reply: &Reply) -> Result<Exit, Failure> {
    let Key { bucket, key, target, .. } = &arguments.key;
    let siblings = siblings::parse(&reply.body)?;
    match target.output {
        Format::Table => output::say(&siblings::show(&siblings))?,
        Format::Json => output::say_json(&json!({
            "bucket": bucket,
            "key": key,
            "siblings": siblings,
            "context": reply.header(CONTEXT),
            "replicas": reply.header(REPLICAS),
            "server": reply.server,
        }))?,
    }
    Err(siblings::conflict(bucket, key, siblings.len(), reply.header(CONTEXT)))
}

fn written(key: &Key, reply: Reply) -> Result<Exit, Failure> {
    if !matches!(reply.status, 200 | 204) {
        return Err(reply.failure());
    }
    let token = reply.header(CONTEXT);
    match key.target.output {
        Format::Table => output::say(token.unwrap_or_default())?,
        Format::Json => output::say_json(&json!({
            "bucket": key.bucket,
            "key": key.key,
            "context": token,
            "acks": reply.header(ACKS),
            "server": reply.server,
            "retries": reply.retries,
        }))?,
    }
    Ok(Exit::Ok)
}

fn encoded(value: &[u8]) -> String {
    use base64::Engine;
    base64::prelude::BASE64_STANDARD.encode(value)
}

/// The value from the arguments or from standard input.
fn value_of(argument: Option<&str>) -> Result<Bytes, Failure> {
    let value = match argument {
        Some(text) if text != "-" => Bytes::copy_from_slice(text.as_bytes()),
        _ => {
            let mut value = Vec::new();
            let limit = VALUE_HARD_MAX_BYTES as u64 + 1;
            std::io::stdin().lock().take(limit).read_to_end(&mut value).map_err(|error| {
                Failure::error(
                    format!("standard input cannot be read: {error}"),
                    "give the value as an argument: kvasir put BUCKET KEY VALUE",
                )
            })?;
            Bytes::from(value)
        }
    };
    if value.len() > VALUE_HARD_MAX_BYTES {
        return Err(Failure::usage(
            format!("the value is longer than {VALUE_HARD_MAX_BYTES} bytes, the most there can be"),
            "store it in parts, each under its own key",
        ));
    }
    Ok(value)
}

fn save(path: &Path, token: &str) -> Result<(), Failure> {
    std::fs::write(path, token).map_err(|error| {
        Failure::error(
            format!("the token cannot be written to {}: {error}", path.display()),
            "name a file in a folder that can be written",
        )
    })
}

impl Key {
    /// The query that every request for a key begins with.
    pub fn query(&self, attempt: Duration) -> Query {
        let mut query = Query::default();
        query.add("timeout", Some(format!("{}ms", attempt.as_millis().clamp(1, 30_000))));
        query.add("sloppy", self.sloppy.map(|sloppy| sloppy.to_string()));
        query
    }
}

impl Write {
    /// The headers of a write: its token, if there is one.
    pub fn headers(&self) -> Result<Vec<(&'static str, String)>, Failure> {
        let Some(context) = &self.context else { return Ok(Vec::new()) };
        let token = match context.strip_prefix('@') {
            None => context.clone(),
            Some(path) => std::fs::read_to_string(path).map_err(|error| {
                Failure::usage(
                    format!("the token cannot be read from {path}: {error}"),
                    "write it with `kvasir get BUCKET KEY --context-to FILE`",
                )
            })?,
        };
        let token = token.trim().to_owned();
        if token.is_empty() {
            return Err(Failure::usage(
                "the token is empty",
                "leave --context out for a blind write, or take the token of a get or put",
            ));
        }
        Ok(vec![(CONTEXT, token)])
    }
}

/// A query string in the making.
#[derive(Debug, Default)]
pub struct Query {
    text: String,
}

impl Query {
    /// Adds a parameter if it has a value.
    pub fn add(&mut self, name: &str, value: Option<String>) {
        let Some(value) = value else { return };
        self.text.push(if self.text.is_empty() { '?' } else { '&' });
        self.text.push_str(name);
        self.text.push('=');
        self.text.extend(percent_encoding::utf8_percent_encode(
            &value,
            percent_encoding::NON_ALPHANUMERIC,
        ));
    }

    /// Adds what writes may say.
    pub fn add_write(&mut self, write: &Write) {
        self.add("w", write.w.clone());
        self.add("durability", write.durability.clone());
    }

    /// Path and query of a key.
    pub fn target(&self, key: &Key) -> String {
        path(key.bucket.as_bytes(), key.key.as_bytes()) + &self.text
    }

    /// The query alone, with its question mark; empty when nothing was added.
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// The path of a key in the client API.
pub fn path(bucket: &[u8], key: &[u8]) -> String {
    kvasir_core::admin_api::routes::fill("/v1/kv/{bucket}/{key}", &[bucket, key])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        let target = Target { server: "http://a:1".into(), output: Format::Table };
        let (bucket, key) = ("b u".into(), "cart/4 2".into());
        Key { bucket, key, target, timeout: Duration::from_secs(1), sloppy: Some(false) }
    }

    #[test]
    fn a_target_is_encoded_once() {
        let mut query = key().query(Duration::from_millis(500));
        let w = Some("each_quorum".to_owned());
        query.add_write(&Write { context: None, w, durability: None });
        assert_eq!(
            query.target(&key()),
            "/v1/kv/b%20u/cart/4%202?timeout=500ms&sloppy=false&w=each%5Fquorum"
        );
    }

    #[test]
    fn a_token_comes_from_the_argument_or_a_file() {
        let write =
            |context: &str| Write { context: Some(context.to_owned()), w: None, durability: None };
        assert_eq!(write("abc").headers().unwrap(), [(CONTEXT, "abc".to_owned())]);
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "from-file\n").unwrap();
        let context = format!("@{}", file.path().display());
        assert_eq!(write(&context).headers().unwrap(), [(CONTEXT, "from-file".to_owned())]);
        assert_eq!(write("@/does/not/exist").headers().unwrap_err().exit, Exit::Usage);
        assert_eq!(write(" ").headers().unwrap_err().exit, Exit::Usage);
    }

    #[test]
    fn a_value_comes_from_the_argument() {
        assert_eq!(value_of(Some("-5")).unwrap(), "-5");
        assert_eq!(value_of(Some("")).unwrap(), "");
    }
}
