//! `kvasir ring apply` and `cancel`: carry a change out, or take one back, and watch it to its end.
//!
//! The plan is shown before anything is posted. What is posted is planned again by the node that takes it, on
//! the newest document: where the cluster changed in between, the command says so.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use clap::Args;
use kvasir_core::admin_api::{OperationState, OperationStatus, RiskLevel, Status, routes};

use super::plan::{Change, drawn, planned, request};
use super::progress::{Progress, sentence};
use super::{ask, operate};
use crate::cli::AdminTarget;
use crate::cli::client::Client;
use crate::cli::failure::{Exit, Failure};
use crate::cli::output::{self, Format};

/// Arguments of `kvasir ring apply`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ring apply join 7c1d66f0
  kvasir ring apply leave 0b3f6c1e --yes
  kvasir ring apply replace 0b3f6c1e --by 7c1d66f0 --no-wait
  kvasir ring apply rebuild 0b3f6c1e

The plan is shown first, as by `kvasir ring plan`, and nothing is done before you say yes. One change
moves data at a time; while it runs the next is refused, but for a replace or a rebuild. Ctrl-C ends the
watching, not the change.

Exit code 0: it is done (with --no-wait: it is posted). 1: it was refused, failed, taken back or not wanted.
4: it is not over after --wait, or no node answers; it goes on by itself.")]
pub struct ApplyArguments {
    /// What is done
    #[command(flatten)]
    pub change: Change,
    /// Do not ask
    #[arg(long, short)]
    pub yes: bool,
    /// Name of the change, for `cancel`; the same name again is the same change
    #[arg(long, value_name = "ID")]
    pub id: Option<String>,
    /// How it is watched
    #[command(flatten)]
    pub watching: Watching,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// Arguments of `kvasir ring cancel`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir ring cancel
  kvasir ring cancel join-7c1d66f0-1796058000

Replicas whose new holder answers reads already go on to it; the others stay where they are. Then the
change is over. One that has ended is not taken back: apply the opposite.")]
pub struct CancelArguments {
    /// Name of the change [default: the one that runs]
    #[arg(value_name = "ID")]
    pub id: Option<String>,
    /// How it is watched
    #[command(flatten)]
    pub watching: Watching,
    /// Admin servers and form of the result
    #[command(flatten)]
    pub admin: AdminTarget,
}

/// How long a change is watched.
#[derive(Debug, Clone, Args)]
pub struct Watching {
    /// Do not watch it
    #[arg(long, conflicts_with = "wait")]
    pub no_wait: bool,
    /// Longest time to watch it: 30s, 5m, 2h
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = crate::cli::duration)]
    pub wait: Duration,
}

/// Shows the plan, asks, posts and watches.
pub async fn apply(arguments: &ApplyArguments) -> Result<Exit, Failure> {
    let (client, change) = (arguments.admin.client()?, &arguments.change);
    let status: Status = ask(&client, routes::STATUS).await?;
    let mut request = request(change, String::new(), &status)?;
    request.id = match &arguments.id {
        Some(id) => id.clone(),
        None => operate::id_for(request.kind, request.node),
    };
    request.validate().map_err(|problem| Failure::usage(problem.detail, "choose another --id"))?;
    let plan = planned(&client, &request).await?;
    let text = drawn(&plan, &status, change.rate);
    match arguments.admin.target.output {
        Format::Table => output::say(&text)?,
        Format::Json if !arguments.yes => eprintln!("{text}"),
        Format::Json => {}
    }
    if !arguments.yes && !agreed(plan.risk.level)? {
        eprintln!("nothing was changed");
        return Ok(Exit::Error);
    }
    let posted = operate::post(&client, &request).await?;
    if !operate::is_over(posted.state) && posted.moves_total as usize != plan.moves.len() {
        eprintln!(
            "the cluster changed since the plan was made: {} replicas move instead of {}",
            posted.moves_total,
            plan.moves.len()
        );
    }
    let ended = watched(&client, posted, &arguments.watching).await?;
    say(&arguments.admin, &ended)?;
    Ok(match ended.state {
        OperationState::Cancelled | OperationState::Failed => Exit::Error,
        _ => Exit::Ok,
    })
}

/// Takes a change back and watches it to its end.
pub async fn cancel(arguments: &CancelArguments) -> Result<Exit, Failure> {
    let client = arguments.admin.client()?;
    let id = match &arguments.id {
        Some(id) => id.clone(),
        None => only_one(&ask(&client, routes::STATUS).await?)?,
    };
    let told = operate::take_back(&client, &id).await?;
    let ended = watched(&client, told, &arguments.watching).await?;
    say(&arguments.admin, &ended)?;
    // It may have reached its end in the moment before.
    let taken_back = ended.state == OperationState::Cancelled || !operate::is_over(ended.state);
    Ok(if taken_back { Exit::Ok } else { Exit::Error })
}

/// The change that runs, if it is one.
fn only_one(status: &Status) -> Result<String, Failure> {
    let all = status.operations.iter();
    let running: Vec<_> = all.filter(|one| !operate::is_over(one.state)).collect();
    match &running[..] {
        [running] => Ok(running.request.id.clone()),
        [] => Err(Failure::new(
            Exit::NotFound,
            "no change of the ring is running",
            "`kvasir ring status` shows those that ran",
        )),
        several => {
            let ids: Vec<&str> = several.iter().map(|one| one.request.id.as_str()).collect();
            Err(Failure::usage(format!("{} changes run", several.len()), ids.join(" or ")))
        }
    }
}

/// Watches until it is over, unless that is not wanted. An interrupt ends the watching alone.
async fn watched(
    client: &Client,
    posted: OperationStatus,
    watching: &Watching,
) -> Result<OperationStatus, Failure> {
    if watching.no_wait || operate::is_over(posted.state) {
        return Ok(posted);
    }
    let id = posted.request.id;
    let mut progress = Progress::begin();
    let ended = operate::watch(client, &id, watching.wait, |status| progress.show(status));
    tokio::select! {
        ended = ended => ended,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(
            Exit::Unavailable,
            format!("the change goes on: operation {id}"),
            format!("`kvasir ring status` shows it, `kvasir ring cancel {id}` takes it back"),
        )),
    }
}

fn say(admin: &AdminTarget, status: &OperationStatus) -> Result<(), Failure> {
    match admin.target.output {
        Format::Json => output::say_json(status),
        Format::Table => output::say(&format!("\n{}", sentence(status))),
    }
}

/// Asks whoever sits at the terminal.
fn agreed(risk: RiskLevel) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::usage(
            "nobody is there to be asked, and nothing was changed",
            "add --yes if this is what you want",
        ));
    }
    let careful = if risk == RiskLevel::High { "the risk is HIGH. " } else { "" };
    eprint!("\n{careful}carry this out? [y/N] ");
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    Ok(read.is_ok() && matches!(line.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        apply: ApplyArguments,
    }

    #[test]
    fn the_command_line_of_a_change() {
        let read = |line: &str| Line::try_parse_from(line.split(' ')).map(|line| line.apply);
        let leave = read("apply leave 0b3f --yes --wait 5m").unwrap();
        assert!(leave.yes && leave.watching.wait == Duration::from_secs(300));
        assert_eq!(leave.change.node.as_deref(), Some("0b3f"));
        let replace = read("apply replace 0b --by 7c --no-wait").unwrap();
        assert!(replace.watching.no_wait && replace.change.by.as_deref() == Some("7c"));
        let rebuild = read("apply rebuild 0b").unwrap();
        assert_eq!(rebuild.change.kind, super::super::plan::Kind::Rebuild);
        for wrong in ["apply", "apply join", "apply replace 0b", "apply rebuild", "apply grow 1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
