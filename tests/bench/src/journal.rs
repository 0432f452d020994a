//! What was measured so far, kept in a file: runs take an hour of an idle machine, so they may be
//! interrupted and gone on with. One line for each outcome, written when an engine has gone through all
//! rows of a data set; a line cut off by an interruption is of an engine that is measured again.

use crate::report::Entry;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What one row measured, as a line.
pub trait Line: Clone {
    /// One line, its fields separated by tabs.
    fn line(&self) -> String;

    /// Reads such a line; `None` for any other text.
    fn parse(line: &str) -> Option<Self>;

    /// The name of the row: that of the data set, a colon, what was measured.
    fn row(&self) -> &str;
}

/// Marks that the lines of one engine and data set are complete.
const COMPLETE: &str = "complete";

/// The file and what it held at the start.
pub struct Journal<O> {
    path: PathBuf,
    /// Run, engine and data set of everything measured.
    done: Vec<(u32, String, String)>,
    entries: Vec<Entry<O>>,
}

impl<O: Line> Journal<O> {
    /// Reads the file; a missing one is empty.
    pub fn open(path: &Path) -> Result<Self, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        let mut journal = Self { path: path.into(), done: Vec::new(), entries: Vec::new() };
        let mut open = Vec::new();
        for line in text.lines() {
            let Some((run, engine, rest)) = fields(line) else { continue };
            if let Some(set) = rest.strip_prefix(COMPLETE) {
                journal.done.push((run, engine.clone(), set.trim().to_string()));
                let mine = |e: &Entry<O>| e.run == run && e.engine == engine;
                journal.entries.extend(open.extract_if(.., |e| mine(e)));
            } else if let Some(outcome) = O::parse(rest) {
                open.push(Entry { run, engine, outcome });
            }
        }
        Ok(journal)
    }

    /// What was measured of an engine, a run and a data set; none if it is still to be done.
    pub fn measured(&self, run: u32, engine: &str, set: &str) -> Option<Vec<Entry<O>>> {
        let key = (run, engine.to_string(), set.to_string());
        let head = format!("{set}: ");
        let mine = |e: &&Entry<O>| {
            e.run == run && e.engine == engine && e.outcome.row().starts_with(&head)
        };
        self.done.contains(&key).then(|| self.entries.iter().filter(mine).cloned().collect())
    }

    /// Adds what was just measured.
    pub fn add(&self, run: u32, engine: &str, set: &str, all: &[O]) -> Result<(), String> {
        let mut text = String::new();
        for outcome in all {
            text += &format!("{run}\t{engine}\t{}\n", outcome.line());
        }
        text += &format!("{run}\t{engine}\t{COMPLETE} {set}\n");
        let file = OpenOptions::new().create(true).append(true).open(&self.path);
        let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| format!("{}: {error}", self.path.display()))
    }
}

fn fields(line: &str) -> Option<(u32, String, &str)> {
    let (run, rest) = line.split_once('\t')?;
    let (engine, rest) = rest.split_once('\t')?;
    Some((run.parse().ok()?, engine.to_string(), rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::Outcome;

    #[test]
    fn what_is_complete_is_not_measured_again() {
        let path =
            std::env::temp_dir().join(format!("kvasir-bench-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let outcome = |row: &str| Outcome {
            row: row.into(),
            rate: 1.0,
            micros: [1.0; 3],
            resident: 1,
            disk: 1,
            amplification: 1.0,
            cpu: 1.0,
        };
        let journal = Journal::<Outcome>::open(&path).unwrap();
        assert!(journal.measured(0, "a", "x").is_none());
        journal.add(0, "a", "x", &[outcome("x: one"), outcome("x: two")]).unwrap();
        journal.add(0, "a", "x, LZ4", &[outcome("x, LZ4: one")]).unwrap();
        journal.add(1, "a", "x", &[outcome("x: one")]).unwrap();
        // The next was interrupted while it was written.
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, format!("{text}1\tb\t{}\n1\tb\tx: tw", outcome("x: one").line()))
            .unwrap();
        let journal = Journal::<Outcome>::open(&path).unwrap();
        let rows = |run, engine: &str, set: &str| {
            let measured = journal.measured(run, engine, set)?;
            Some(measured.into_iter().map(|e| e.outcome.row).collect::<Vec<_>>())
        };
        assert_eq!(rows(0, "a", "x").unwrap(), ["x: one", "x: two"]);
        assert_eq!(rows(0, "a", "x, LZ4").unwrap(), ["x, LZ4: one"]);
        assert_eq!(rows(1, "a", "x").unwrap(), ["x: one"]);
        assert!(rows(1, "b", "x").is_none() && rows(0, "b", "x").is_none());
        std::fs::remove_file(&path).unwrap();
    }
}
