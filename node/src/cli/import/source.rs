//! Lines of a file one by one, each with its number and the place where it ends, in bounded memory.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use bytes::Bytes;
use kvasir_core::limits::{BUCKET_MAX_BYTES, KEY_MAX_BYTES, VALUE_HARD_MAX_BYTES};

use super::line::{Form, Pair};
use super::prefix::Place;

/// Longest line that is read: a value of the hard limit and a key, both written with escapes.
const LINE_MAX_BYTES: usize = 2 * VALUE_HARD_MAX_BYTES + 6 * (KEY_MAX_BYTES + BUCKET_MAX_BYTES);

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Counted from 0; people count from 1.
    pub number: u64,
    /// Bytes of the file up to its end, line feed included.
    pub end: u64,
    /// What it says; none when it is blank.
    pub pair: Option<Pair>,
}

/// Why there is no next line. The file is as it was; reading on makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The line cannot be understood. Correcting it and resuming helps.
    #[error("line {number}: {why}")]
    Malformed {
        /// Counted from 1.
        number: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The file cannot be read. Whether a retry helps depends on the disk.
    #[error("line {number}: the file cannot be read: {error}")]
    Unreadable {
        /// Counted from 1.
        number: u64,
        /// What the system said.
        error: std::io::Error,
    },
}

/// A file, read from a place on.
pub struct Source {
    reader: BufReader<File>,
    form: Option<Form>,
    lines: u64,
    bytes: u64,
    buffer: Vec<u8>,
}

impl Source {
    /// Opens a file at a place. A file that cannot seek can only begin at the start.
    pub fn open(path: &Path, form: Option<Form>, place: Place) -> std::io::Result<Self> {
        let mut file = File::open(path)?;
        if place.bytes > 0 {
            file.seek(SeekFrom::Start(place.bytes))?;
        }
        let reader = BufReader::with_capacity(256 * 1024, file);
        Ok(Self { reader, form, lines: place.lines, bytes: place.bytes, buffer: Vec::new() })
    }

    /// The form of the lines, once known.
    pub fn form(&self) -> Option<Form> {
        self.form
    }

    /// The next line; none at the end of the file.
    pub fn next_line(&mut self) -> Result<Option<Line>, SourceError> {
        self.buffer.clear();
        let number = self.lines;
        let limit = LINE_MAX_BYTES as u64 + 1;
        let read = (&mut self.reader)
            .take(limit)
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| SourceError::Unreadable { number: number + 1, error })?;
        if read == 0 {
            return Ok(None);
        }
        if read > LINE_MAX_BYTES {
            let why = format!("it is longer than {LINE_MAX_BYTES} bytes");
            return Err(SourceError::Malformed { number: number + 1, why });
        }
        self.lines += 1;
        self.bytes += read as u64;
        let text = self.buffer.strip_suffix(b"\n").unwrap_or(&self.buffer);
        let pair = if text.is_empty() || text == b"\r" {
            None
        } else {
            let form = *self.form.get_or_insert_with(|| Form::guess(text));
            let pair = form.parse(text);
            Some(pair.map_err(|why| SourceError::Malformed { number: number + 1, why })?)
        };
        // A single huge line must not keep its memory for the rest of the file.
        self.buffer.shrink_to(256 * 1024);
        Ok(Some(Line { number, end: self.bytes, pair }))
    }
}

/// What a pair weighs in memory while it is on its way.
pub fn weight(pair: &Pair) -> usize {
    pair.key.len() + pair.value_bytes() + 256
}

/// The key of a pair with its bucket, to tell whether two lines write the same key.
pub fn full_key(pair: &Pair, bucket: &str) -> Bytes {
    let bucket = pair.bucket.as_deref().unwrap_or(bucket);
    [bucket.as_bytes(), b"\0", &pair.key].concat().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(text: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    fn all(file: &Path, place: Place) -> Vec<(u64, u64, Option<Vec<u8>>)> {
        let mut source = Source::open(file, None, place).unwrap();
        let mut lines = Vec::new();
        while let Some(line) = source.next_line().unwrap() {
            lines.push((line.number, line.end, line.pair.map(|pair| pair.key.to_vec())));
        }
        lines
    }

    #[test]
    fn lines_have_numbers_and_ends_and_can_be_resumed() {
        let file = write(b"a\t1\n\nb\t22\nc\t");
        let whole = all(file.path(), Place::default());
        assert_eq!(
            whole,
            [
                (0, 4, Some(b"a".to_vec())),
                (1, 5, None),
                (2, 10, Some(b"b".to_vec())),
                (3, 12, Some(b"c".to_vec())),
            ]
        );
        for resumed in 0..3 {
            let (number, bytes, _) = whole[resumed];
            let place = Place { lines: number + 1, bytes, pairs: 0 };
            assert_eq!(all(file.path(), place), whole[resumed + 1..]);
        }
    }

    #[test]
    fn a_malformed_line_is_named_as_people_count() {
        let file = write(b"{\"key\":\"a\",\"value\":\"1\"}\n\nb\t2\n");
        let mut source = Source::open(file.path(), None, Place::default()).unwrap();
        source.next_line().unwrap();
        source.next_line().unwrap();
        let error = source.next_line().unwrap_err().to_string();
        assert!(error.starts_with("line 3: "), "{error}");
        assert_eq!(source.form(), Some(Form::Ndjson));
    }
}
