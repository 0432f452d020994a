//! The state file of an export: how much of the output is whole, and where the list goes on.
//!
//! It is replaced atomically and only after the output was synced, so that the output holds at least what
//! it says. The cursor says itself to which cluster, bucket and prefix it belongs; a node refuses another.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::cli::failure::Failure;

/// Version of the state file.
const FORMAT: u32 = 1;

/// What a state file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    pub(super) format: u32,
    pub(super) bucket: String,
    pub(super) prefix: String,
    /// Where the list goes on; none at its beginning.
    pub cursor: Option<String>,
    /// Bytes of the output that belong to what lies before the cursor.
    pub bytes: u64,
    /// Keys in them.
    pub keys: u64,
}

impl State {
    /// The beginning of an export.
    pub fn new(bucket: &str, prefix: Option<&str>) -> Self {
        let (bucket, prefix) = (bucket.to_owned(), prefix.unwrap_or_default().to_owned());
        Self { format: FORMAT, bucket, prefix, cursor: None, bytes: 0, keys: 0 }
    }

    /// Reads a state file; none when there is none.
    pub fn load(path: &Path) -> Result<Option<Self>, Failure> {
        let text = match std::fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(path, &error.to_string())),
        };
        let state: Self =
            serde_json::from_slice(&text).map_err(|error| unusable(path, &error.to_string()))?;
        match state.format {
            FORMAT => Ok(Some(state)),
            other => Err(unusable(path, &format!("its format {other} is not known"))),
        }
    }

    /// Checks that this state belongs to an export of this bucket and prefix into this file.
    pub fn check(
        &self,
        path: &Path,
        bucket: &str,
        prefix: Option<&str>,
        out: &Path,
    ) -> Result<(), Failure> {
        if self.bucket != bucket || self.prefix != prefix.unwrap_or_default() {
            let (bucket, prefix) = (&self.bucket, &self.prefix);
            let why = format!("it is of an export of bucket `{bucket}` with prefix `{prefix}`");
            return Err(unusable(path, &why));
        }
        let length = std::fs::metadata(out).map_or(0, |file| file.len());
        if length < self.bytes {
            let why = format!(
                "{} has {length} bytes, fewer than the {} that it speaks of",
                out.display(),
                self.bytes
            );
            return Err(unusable(path, &why));
        }
        Ok(())
    }

    /// Replaces the state file.
    pub fn save(&self, path: &Path) -> Result<(), Failure> {
        self.replace(path).map_err(|error| {
            Failure::error(
                format!("the state file {} cannot be written: {error}", path.display()),
                "name one in a folder that can be written: --state FILE",
            )
        })
    }

    fn replace(&self, path: &Path) -> std::io::Result<()> {
        let mut beside = path.as_os_str().to_owned();
        beside.push(".new");
        let beside = PathBuf::from(beside);
        let mut file = File::create(&beside)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_data()?;
        std::fs::rename(&beside, path)
    }
}

/// Where the state file of an output is unless another is named: beside it.
pub fn default_path(out: &Path) -> PathBuf {
    let mut path = out.as_os_str().to_owned();
    path.push(".kvasir-export");
    PathBuf::from(path)
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::error(
        format!("the state file {} cannot be used: {why}", path.display()),
        "begin again with --restart, or keep both with another --out FILE",
    )
}
