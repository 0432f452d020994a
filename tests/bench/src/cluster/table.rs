//! The figures of all runs as one text: ratios to the better peer first, then what each system needed.
//!
//! Ratios are taken within each run, and the median, the least and the greatest of them are given.

use super::rows::Outcome;
use crate::report::{Entry, grouped, median};
use std::fmt::Write;

/// The system that the others are held against.
const OURS: &str = "kvasir";

/// Rows in the order in which they first came.
fn rows(entries: &[Entry<Outcome>]) -> Vec<&str> {
    let mut rows: Vec<&str> = Vec::new();
    for entry in entries {
        if !rows.contains(&entry.outcome.row.as_str()) {
            rows.push(&entry.outcome.row);
        }
    }
    rows
}

/// Which of two figures is better.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Better {
    Higher,
    Lower,
}

/// How many times better Kvasir was than the best peer, once for each run that has both.
fn ratios(
    entries: &[Entry<Outcome>],
    row: &str,
    better: Better,
    of: fn(&Outcome) -> f64,
) -> Vec<f64> {
    let runs = entries.iter().map(|e| e.run).max().unwrap_or(0);
    let of_run = |run: u32| {
        let here = || entries.iter().filter(move |e| e.run == run && e.outcome.row == row);
        let ours = here().find(|e| e.engine == OURS).map(|e| of(&e.outcome))?;
        let peers = here().filter(|e| e.engine != OURS).map(|e| of(&e.outcome));
        let (high, low) = match better {
            Better::Higher => (ours, peers.max_by(f64::total_cmp)?),
            Better::Lower => (peers.min_by(f64::total_cmp)?, ours),
        };
        (high > 0.0 && low > 0.0).then_some(high / low)
    };
    (0..=runs).filter_map(of_run).collect()
}

/// `median (least to greatest)`.
fn spread(ratios: Vec<f64>) -> String {
    let least = ratios.iter().copied().min_by(f64::total_cmp);
    let most = ratios.iter().copied().max_by(f64::total_cmp);
    match (median(ratios), least, most) {
        (Some(middle), Some(least), Some(most)) => {
            format!("{middle:.2} ({least:.2} to {most:.2})")
        }
        _ => "-".into(),
    }
}

/// Both tables in Markdown.
pub fn markdown(entries: &[Entry<Outcome>], systems: &[&str]) -> String {
    let mut out = String::new();
    let heads: Vec<String> = systems.iter().map(|name| format!("{name}, op/s")).collect();
    let _ = writeln!(
        out,
        "| row | {} | op/s: times the better peer | p99: times lower | CPU: times less |",
        heads.join(" | ")
    );
    let _ = writeln!(out, "|---|{}---|---|---|", "---:|".repeat(systems.len()));
    for row in rows(entries) {
        let rate = |name: &&str| {
            median(figures(entries, row, name, |o| o.rate)).map_or("-".into(), grouped)
        };
        let rates: Vec<String> = systems.iter().map(rate).collect();
        let of = |better, of| spread(ratios(entries, row, better, of));
        let _ = writeln!(
            out,
            "| {row} | {} | {} | {} | {} |",
            rates.join(" | "),
            of(Better::Higher, |o| o.rate),
            of(Better::Lower, |o| o.micros[1]),
            of(Better::Lower, |o| o.cpu),
        );
    }
    costs(entries, systems, &mut out);
    out
}

fn figures(
    entries: &[Entry<Outcome>],
    row: &str,
    system: &str,
    of: fn(&Outcome) -> f64,
) -> Vec<f64> {
    let mine = |e: &&Entry<Outcome>| e.outcome.row == row && e.engine == system;
    entries.iter().filter(mine).map(|e| of(&e.outcome)).collect()
}

/// A figure, and how many decimals it is shown with.
type Column = (fn(&Outcome) -> f64, usize);

fn costs(entries: &[Entry<Outcome>], systems: &[&str], out: &mut String) {
    let _ = writeln!(
        out,
        "\n| row | system | p50 ms | p99 ms | p99.9 ms | CPU s/100,000 | RSS MB | written B/op | waits/op | \
         failed | unsent | s with failed | s with slow |"
    );
    let _ = writeln!(out, "|---|---|{}", "---:|".repeat(11));
    let columns: [Column; 11] = [
        (|o| o.micros[0] / 1e3, 2),
        (|o| o.micros[1] / 1e3, 2),
        (|o| o.micros[2] / 1e3, 2),
        (|o| o.cpu, 2),
        (|o| o.resident / 1e6, 0),
        (|o| o.written, 0),
        (|o| o.waits, 1),
        (|o| o.failed, 0),
        (|o| o.unsent, 0),
        (|o| o.failed_seconds, 1),
        (|o| o.slow_seconds, 1),
    ];
    for row in rows(entries) {
        for system in systems {
            let cell = |(of, digits): &Column| {
                median(figures(entries, row, system, *of))
                    .map(|figure| format!("{figure:.digits$}"))
            };
            let Some(cells) = columns.iter().map(cell).collect::<Option<Vec<_>>>() else {
                continue;
            };
            let _ = writeln!(out, "| {row} | {system} | {} |", cells.join(" | "));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::Line;

    fn entry(run: u32, engine: &str, rate: f64, p99: f64) -> Entry<Outcome> {
        let line = format!("s: puts\t{rate}\t1000\t{p99}\t9000\t2\t5000000\t250\t3\t0\t0\t0\t0.5");
        Entry { run, engine: engine.into(), outcome: Outcome::parse(&line).unwrap() }
    }

    #[test]
    fn ratios_are_to_the_better_peer_of_the_same_run() {
        let mut entries = Vec::new();
        for (run, ours) in [(0, 400.0), (1, 600.0), (2, 500.0)] {
            entries.push(entry(run, "kvasir", ours, 2_000.0));
            entries.push(entry(run, "etcd", 100.0, 4_000.0));
            entries.push(entry(run, "etcd-leader", 200.0, 8_000.0));
        }
        let text = markdown(&entries, &["kvasir", "etcd", "etcd-leader"]);
        let first = "| s: puts | 500 | 100 | 200 | 2.50 (2.00 to 3.00) | 2.00 (2.00 to 2.00) | 1.00 (1.00 to 1.00) |";
        assert!(text.contains(first), "{text}");
        let second =
            "| s: puts | etcd | 1.00 | 4.00 | 9.00 | 2.00 | 5 | 250 | 3.0 | 0 | 0 | 0.0 | 0.5 |";
        assert!(text.contains(second), "{text}");
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let text = markdown(&[entry(0, "kvasir", 1_234.0, 1.0)], &["kvasir", "etcd"]);
        assert!(text.contains("| s: puts | 1,234 | - | - | - | - |"), "{text}");
    }
}
