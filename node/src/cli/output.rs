//! Tables, colours and the small ways of writing numbers that every command shares.
//!
//! Results go to standard output, progress to standard error. Colour and bars appear only on a
//! terminal and only without `NO_COLOR`; tables are plain ASCII, so that they survive any font.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use clap::ValueEnum;
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;

use super::failure::{Exit, Failure};

/// How a result is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: one JSON value, stable field names.
    Json,
}

/// Whether standard error may carry bars and colour.
pub fn lively_stderr() -> bool {
    std::io::stderr().is_terminal() && no_color_is_unset()
}

/// Whether standard output may carry colour.
pub fn colour_stdout() -> bool {
    std::io::stdout().is_terminal() && no_color_is_unset()
}

fn no_color_is_unset() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A table with these column titles; the columns in `right` are aligned to the right.
pub fn table(titles: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(titles.to_vec()).add_rows(rows);
    let last = titles.len().saturating_sub(1);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if index == last { 0 } else { 2 }));
        if right.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// Writes a result and a newline to standard output.
pub fn say(text: &str) -> Result<(), Failure> {
    write_out(format!("{text}\n").as_bytes())
}

/// Writes bytes to standard output as they are. A reader that went away is no failure.
pub fn write_out(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            Exit::Error,
            format!("standard output cannot be written: {error}"),
            "check what the output is redirected to, and whether its disk is full",
        )),
        _ => Ok(()),
    }
}

/// Writes a result as JSON and a newline to standard output.
pub fn say_json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(|error| {
        Failure::error(format!("the result has no JSON form: {error}"), "use `-o table`")
    })?;
    say(&text)
}

/// `12345` as `12,345`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes with a binary unit and one decimal.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let (mut value, mut unit) = (count as f64 / 1024.0, 0);
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration in its largest fitting unit.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3600 => format!("{} m", seconds / 60),
        3600..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Bytes of a key or value on one line: text where it is printable text, else `0x` and hex; cut
/// after `width` characters.
pub fn preview(value: &[u8], width: usize) -> String {
    let text = match std::str::from_utf8(value) {
        Ok(text) if !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t') => {
            text.replace('\n', "\\n").replace('\t', "\\t")
        }
        _ => {
            let shown = &value[..value.len().min(width)];
            shown.iter().fold("0x".to_owned(), |out, byte| out + &format!("{byte:02x}"))
        }
    };
    if text.chars().count() <= width {
        return text;
    }
    let cut: String = text.chars().take(width.saturating_sub(3)).collect();
    format!("{cut}...")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_plain_and_aligned() {
        let rows = vec![
            vec!["a".to_owned(), "1,234".to_owned(), "x y".to_owned()],
            vec!["bcd".to_owned(), "5".to_owned(), String::new()],
        ];
        assert_eq!(
            table(&["NAME", "COUNT", "WHAT"], &[1], rows),
            "NAME  COUNT  WHAT\na     1,234  x y\nbcd       5"
        );
    }

    #[test]
    fn numbers_for_people() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(5 << 30), "5.0 GiB");
        let ages = [900, 59_000, 61_000, 7_200_000, 200_000_000].map(Duration::from_millis);
        assert_eq!(ages.map(age), ["900 ms", "59 s", "1 m", "2 h", "2 d"]);
    }

    #[test]
    fn values_are_shown_on_one_line() {
        assert_eq!(preview(b"milk", 10), "milk");
        assert_eq!(preview(b"milk\n", 10), "milk\\n");
        assert_eq!(preview(b"a long value", 8), "a lon...");
        assert_eq!(preview(&[0, 255], 10), "0x00ff");
        assert_eq!(preview("\u{1b}[31m".as_bytes(), 20), "0x1b5b33316d");
    }
}
