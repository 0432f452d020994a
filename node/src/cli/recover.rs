//! `kvasir recover`: makes a store open again that refuses to, on a node that does not run.
//!
//! It asks no server: it works on the files of a data directory and holds its lock meanwhile. What it
//! decides stands in the engine (`salvage`); here are the arguments and what is said about the outcome.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use kvasir_storage::{OpenError, RealDisk, SalvageError, Salvaged, salvage};

use super::failure::{Exit, Failure};
use super::output;

/// Arguments of `kvasir recover`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Examples:
  kvasir recover --quarantine /var/lib/kvasir
  kvasir recover --quarantine /var/lib/kvasir --accept-loss

Stop the node first. Damaged files get a name in DIR/store/quarantine; every sound record is kept. What
may be missing is marked: reads there answer an error, so that other replicas answer, until the range is
rebuilt. With --accept-loss nothing is marked: only where no other replica has the data.")]
pub struct Recover {
    /// The data directory of the node (node.data_dir)
    #[arg(long, value_name = "DIR")]
    pub quarantine: PathBuf,
    /// Serve what is left as if nothing were missing
    #[arg(long)]
    pub accept_loss: bool,
}

/// Runs `kvasir recover`.
///
/// # Errors
/// The directory holds no store, is in use, or the disk failed.
pub fn run(arguments: &Recover) -> Result<Exit, Failure> {
    let dir = &arguments.quarantine;
    if !dir.join("store").join("MANIFEST").exists() {
        return Err(Failure::new(
            Exit::Error,
            format!("{} holds no store of a node", dir.display()),
            "name the directory that node.data_dir names",
        ));
    }
    // Owned data, and beside it what is kept for other nodes.
    for store in ["store", "standins"].map(|name| dir.join(name)) {
        if !store.join("MANIFEST").exists() {
            continue;
        }
        let told = salvage(&store, Arc::new(RealDisk), arguments.accept_loss);
        output::say(&report(&store, &told.map_err(|error| failed(&error))?))?;
    }
    Ok(Exit::Ok)
}

fn failed(error: &SalvageError) -> Failure {
    let next = match error {
        SalvageError::Open(OpenError::Locked(_)) => "stop the node that uses the directory",
        SalvageError::Open(OpenError::NewerVersion { .. } | OpenError::TooManyLevels { .. }) => {
            "use the version that wrote it"
        }
        SalvageError::Open(OpenError::Damaged(_)) => {
            "this file cannot be done without: move the directory aside and replace the node"
        }
        _ => "mend what the disk complains of and run it again; that is safe",
    };
    Failure::new(Exit::Error, error.to_string(), next)
}

/// What was found and done, a fact a line.
fn report(store: &Path, told: &Salvaged) -> String {
    if told.damages.is_empty() && told.missing == 0 {
        return format!("{}: nothing is damaged", store.display());
    }
    let mut lines: Vec<String> = told.damages.iter().map(|damage| format!("{damage}")).collect();
    lines.extend(told.set_aside.iter().map(|path| format!("kept aside: {}", path.display())));
    lines.push(format!("log records kept: {}, missing: {}", told.records, told.missing));
    lines.push(match told.lost_ranges {
        0 => "nothing is marked as lost".to_string(),
        ranges => format!(
            "{ranges} key ranges are marked as lost: reads there fail on this node until it is repaired"
        ),
    });
    lines.join("\n")
}
