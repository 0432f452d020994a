//! The state file of an import: where to resume, and in which file.
//!
//! It is replaced atomically (a new file, synced, renamed over the old one), so that it is whole
//! at any moment the process is killed. It names the input by length and by two digests, one of the
//! beginning and one of the bytes just before the place, so that another file of the same name, or
//! one that was edited, is refused instead of being continued in the middle.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::line::Form;
use super::prefix::Place;
use crate::cli::failure::Failure;

/// Version of the state file.
const FORMAT: u32 = 1;
/// How many bytes each digest is taken over, at most.
const WINDOW: u64 = 64 * 1024;

/// What a state file holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// Bucket of the command.
    pub bucket: String,
    /// `ndjson` or `tsv`; none before the first line was read.
    form: Option<String>,
    /// Length of the input in bytes.
    length: u64,
    /// Digest of the beginning of the input.
    beginning: String,
    /// Digest of the bytes before the place.
    before: String,
    /// Where to resume.
    pub place: Place,
}

impl State {
    /// The state of an import of `input` that has come to `place`.
    pub fn of(
        input: &Path,
        bucket: &str,
        form: Option<Form>,
        place: Place,
    ) -> std::io::Result<Self> {
        let mut file = File::open(input)?;
        let length = file.metadata()?.len();
        Ok(Self {
            format: FORMAT,
            bucket: bucket.to_owned(),
            form: form.map(|form| form_name(form).to_owned()),
            length,
            beginning: digest(&mut file, 0, length.min(WINDOW))?,
            before: digest(&mut file, place.bytes.saturating_sub(WINDOW), place.bytes.min(WINDOW))?,
            place,
        })
    }

    /// The form of the lines, once known.
    pub fn form(&self) -> Option<Form> {
        [Form::Ndjson, Form::Tsv]
            .into_iter()
            .find(|form| Some(form_name(*form)) == self.form.as_deref())
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
        if state.format != FORMAT {
            return Err(unusable(path, &format!("its format {} is not known", state.format)));
        }
        Ok(Some(state))
    }

    /// Checks that this state belongs to an import of this file into this bucket.
    pub fn check(&self, path: &Path, input: &Path, bucket: &str) -> Result<(), Failure> {
        if self.bucket != bucket {
            let why = format!("it is of an import into bucket `{}`, not `{bucket}`", self.bucket);
            return Err(unusable(path, &why));
        }
        let now = Self::of(input, bucket, self.form(), self.place)
            .map_err(|error| unusable(path, &format!("{}: {error}", input.display())))?;
        if now != *self {
            return Err(unusable(path, &format!("{} has changed since", input.display())));
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

/// Where the state file of an input is unless another is named: beside it.
pub fn default_path(input: &Path) -> PathBuf {
    let mut path = input.as_os_str().to_owned();
    path.push(".kvasir-import");
    PathBuf::from(path)
}

fn form_name(form: Form) -> &'static str {
    match form {
        Form::Ndjson => "ndjson",
        Form::Tsv => "tsv",
    }
}

fn digest(file: &mut File, from: u64, count: u64) -> std::io::Result<String> {
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(count).read_to_end(&mut bytes)?;
    Ok(Sha256::digest(&bytes).iter().fold(String::new(), |out, byte| out + &format!("{byte:02x}")))
}

fn unusable(path: &Path, why: &str) -> Failure {
    Failure::error(
        format!("the state file {} cannot be used: {why}", path.display()),
        "begin again with --restart, or keep both with another --state FILE",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(lines: u64, bytes: u64) -> Place {
        Place { lines, bytes, pairs: lines }
    }

    #[test]
    fn a_state_is_saved_found_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("words");
        let path = default_path(&input);
        std::fs::write(&input, "a\t1\nb\t2\n").unwrap();
        assert_eq!(State::load(&path).unwrap(), None);
        let state = State::of(&input, "default", Some(Form::Tsv), place(1, 4)).unwrap();
        state.save(&path).unwrap();
        let read = State::load(&path).unwrap().unwrap();
        assert_eq!((&read, read.form()), (&state, Some(Form::Tsv)));
        read.check(&path, &input, "default").unwrap();
        assert!(read.check(&path, &input, "other").unwrap_err().message.contains("bucket"));
        for edited in ["a\t1\nb\t2\nc\t3\n", "a\t9\nb\t2\n"] {
            std::fs::write(&input, edited).unwrap();
            let failure = read.check(&path, &input, "default").unwrap_err();
            assert!(failure.message.contains("has changed"), "{failure}");
            assert!(failure.next.contains("--restart"));
        }
    }

    #[test]
    fn a_state_of_another_version_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        for text in ["", "{}", "not json"] {
            std::fs::write(&path, text).unwrap();
            assert!(State::load(&path).is_err(), "{text}");
        }
        let input = dir.path().join("words");
        std::fs::write(&input, "").unwrap();
        let mut state = State::of(&input, "b", None, Place::default()).unwrap();
        state.format = 2;
        state.save(&path).unwrap();
        assert!(State::load(&path).unwrap_err().message.contains("format 2"));
    }
}
