//! The file of acknowledgements (`--acks`): which nodes said that they hold which key.
//!
//! A line is written once a pair is acknowledged and reaches the file when the place of the import is
//! saved, before it: so a resumed import has noted every pair that it skips. Pairs sent again after a
//! kill stand there twice.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Serialize;

use crate::cli::failure::Failure;

/// What one answer said.
#[derive(Debug, Clone)]
pub struct Acknowledged {
    /// The bucket of the pair.
    pub bucket: String,
    /// Its key.
    pub key: Bytes,
    /// The header `X-Kvasir-Acks` as it came.
    pub by: String,
}

#[derive(Serialize)]
struct Entry<'a> {
    line: u64,
    bucket: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_b64: Option<String>,
    acks: &'a str,
}

/// The open file.
pub struct AcksFile {
    path: PathBuf,
    file: BufWriter<File>,
}

impl AcksFile {
    /// Opens the file to add to its end.
    ///
    /// # Errors
    /// It cannot be written; nothing was sent yet.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = opened.map_err(|error| unwritable(path, &error))?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file) })
    }

    /// Notes one pair; `number` counts lines from 1.
    ///
    /// # Errors
    /// The file takes no more. The pair is stored all the same.
    pub fn note(&mut self, number: u64, said: &Acknowledged) -> Result<(), Failure> {
        let text = std::str::from_utf8(&said.key).ok();
        let key_b64 = text.is_none().then(|| STANDARD.encode(&said.key));
        let entry =
            Entry { line: number, bucket: &said.bucket, key: text, key_b64, acks: &said.by };
        serde_json::to_writer(&mut self.file, &entry)
            .map_err(std::io::Error::from)
            .and_then(|()| self.file.write_all(b"\n"))
            .map_err(|error| unwritable(&self.path, &error))
    }

    /// Hands what was noted to the system.
    ///
    /// # Errors
    /// The file takes no more.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.file.flush().map_err(|error| unwritable(&self.path, &error))
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::error(
        format!("{} cannot be written: {error}", path.display()),
        "name a file on a disk with room by --acks, or leave it out, and start the same command again",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_one_line_and_an_earlier_file_goes_on() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("acks");
        for (number, key) in [(1, &b"cat"[..]), (2, &b"\xff"[..])] {
            let mut file = AcksFile::open(&path).expect("opened");
            let key = Bytes::copy_from_slice(key);
            let said = Acknowledged { bucket: "b".into(), key, by: "owners=n".into() };
            file.note(number, &said).expect("noted");
            file.flush().expect("flushed");
        }
        assert_eq!(
            std::fs::read_to_string(&path).expect("a file"),
            "{\"line\":1,\"bucket\":\"b\",\"key\":\"cat\",\"acks\":\"owners=n\"}\n\
             {\"line\":2,\"bucket\":\"b\",\"key_b64\":\"/w==\",\"acks\":\"owners=n\"}\n"
        );
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let failure = AcksFile::open(Path::new("/proc/none/acks")).err().expect("refused");
        assert!(failure.message.starts_with("/proc/none/acks cannot be written"), "{failure:?}");
    }
}
