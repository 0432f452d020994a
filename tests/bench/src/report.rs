//! The figures of all runs as one text: ratios first, then what each engine needed.
//!
//! A ratio is Kvasir's rate divided by that of the better peer in the same run; the median, the least
//! and the greatest of these are given, so that a figure of one lucky run shows as one.

use crate::rows::Outcome;
use std::fmt::Write;

/// One outcome, of which engine and in which run.
#[derive(Debug, Clone)]
pub struct Entry<O = Outcome> {
    /// Number of the run.
    pub run: u32,
    /// Name of the engine.
    pub engine: String,
    /// What it measured.
    pub outcome: O,
}

/// Every figure of a run.
#[derive(Debug, Default)]
pub struct Report {
    entries: Vec<Entry>,
}

/// The engine that the others are held against.
const OURS: &str = "kvasir";

/// The middle figure, or the mean of the two in the middle.
pub fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len().checked_sub(1)? / 2;
    let (low, high) = (figures[middle], figures[figures.len() / 2]);
    Some((low + high) / 2.0)
}

/// `1234567.8` as `1,234,568`; below a hundred with decimals.
pub fn grouped(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.2}");
    }
    let digits = format!("{figure:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

impl Report {
    /// Adds an outcome.
    pub fn add(&mut self, entry: Entry) {
        self.entries.push(entry);
    }

    /// Rows in the order in which they first came.
    fn rows(&self) -> Vec<&str> {
        let mut rows: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !rows.contains(&entry.outcome.row.as_str()) {
                rows.push(&entry.outcome.row);
            }
        }
        rows
    }

    fn figures(&self, row: &str, engine: &str, of: impl Fn(&Outcome) -> f64) -> Vec<f64> {
        let mine = |e: &&Entry| e.outcome.row == row && e.engine == engine;
        self.entries.iter().filter(mine).map(|e| of(&e.outcome)).collect()
    }

    /// Ratios of a row, one for each run in which Kvasir and a peer were measured.
    fn ratios(&self, row: &str) -> Vec<f64> {
        let runs = self.entries.iter().map(|e| e.run).max().unwrap_or(0);
        let of_run = |run: u32| {
            let here = || self.entries.iter().filter(move |e| e.run == run && e.outcome.row == row);
            let ours = here().find(|e| e.engine == OURS)?.outcome.rate;
            let peers = here().filter(|e| e.engine != OURS).map(|e| e.outcome.rate);
            Some(ours / peers.max_by(f64::total_cmp)?)
        };
        (0..=runs).filter_map(of_run).collect()
    }

    /// The table in Markdown.
    pub fn markdown(&self, engines: &[String]) -> String {
        let mut out = String::new();
        self.rates(engines, &mut out);
        self.costs(engines, &mut out);
        out
    }

    fn rates(&self, engines: &[String], out: &mut String) {
        let heads: Vec<String> = engines.iter().map(|e| format!("{e}, op/s")).collect();
        let _ = writeln!(out, "| row | {} | ratio to the better peer |", heads.join(" | "));
        let _ = writeln!(out, "|---|{}---|", "---:|".repeat(engines.len()));
        for row in self.rows() {
            let rate = |engine: &String| {
                median(self.figures(row, engine, |o| o.rate)).map_or("-".into(), grouped)
            };
            let rates: Vec<String> = engines.iter().map(rate).collect();
            let ratios = self.ratios(row);
            let least = ratios.iter().copied().min_by(f64::total_cmp);
            let most = ratios.iter().copied().max_by(f64::total_cmp);
            let ratio = match (median(ratios), least, most) {
                (Some(middle), Some(least), Some(most)) => {
                    format!("{middle:.2} ({least:.2} to {most:.2})")
                }
                _ => "-".into(),
            };
            let _ = writeln!(out, "| {row} | {} | {ratio} |", rates.join(" | "));
        }
    }

    fn costs(&self, engines: &[String], out: &mut String) {
        let _ = writeln!(
            out,
            "\n| row | engine | p50 µs | p99 µs | p99.9 µs | CPU µs/op | RSS MB | disk MB | written/put |"
        );
        let _ = writeln!(out, "|---|---|---:|---:|---:|---:|---:|---:|---:|");
        for row in self.rows() {
            for engine in engines {
                let middle = |of: fn(&Outcome) -> f64| median(self.figures(row, engine, of));
                let Some(resident) = middle(|o| o.resident as f64 / 1e6) else { continue };
                let cell = |of: fn(&Outcome) -> f64| middle(of).unwrap_or(0.0);
                let (p50, p99) = (cell(|o| o.micros[0]), cell(|o| o.micros[1]));
                let (p999, cpu) = (cell(|o| o.micros[2]), cell(|o| o.cpu));
                let disk = cell(|o| o.disk as f64 / 1e6);
                let written = match cell(|o| o.amplification) {
                    0.0 => "-".to_string(),
                    figure => format!("{figure:.2}"),
                };
                let _ = writeln!(
                    out,
                    "| {row} | {engine} | {p50:.1} | {p99:.1} | {p999:.1} | {cpu:.2} | {resident:.0} | {disk:.0} | {written} |"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(run: u32, engine: &str, rate: f64) -> Entry {
        let outcome = Outcome {
            row: "s: get".into(),
            rate,
            micros: [1.0, 2.0, 3.0],
            resident: 5_000_000,
            disk: 7_000_000,
            amplification: 0.0,
            cpu: 0.5,
        };
        Entry { run, engine: engine.into(), outcome }
    }

    #[test]
    fn the_ratio_is_to_the_better_peer_of_the_same_run() {
        let mut report = Report::default();
        for (run, rates) in [[100.0, 50.0, 200.0], [300.0, 100.0, 20.0], [120.0, 100.0, 80.0]]
            .into_iter()
            .enumerate()
        {
            for (engine, rate) in ["kvasir", "rocksdb", "fjall"].into_iter().zip(rates) {
                report.add(entry(run as u32, engine, rate));
            }
        }
        assert_eq!(report.ratios("s: get"), [0.5, 3.0, 1.2]);
        let engines = ["kvasir", "rocksdb", "fjall"].map(String::from);
        let text = report.markdown(&engines);
        assert!(text.contains("| s: get | 120 | 100 | 80.00 | 1.20 (0.50 to 3.00) |"), "{text}");
        assert!(text.contains("| s: get | fjall | 1.0 | 2.0 | 3.0 | 0.50 | 5 | 7 | - |"), "{text}");
    }

    #[test]
    fn without_a_peer_there_is_no_ratio() {
        let mut report = Report::default();
        report.add(entry(0, "kvasir", 1_234_567.0));
        let text = report.markdown(&["kvasir".to_string()]);
        assert!(text.contains("| s: get | 1,234,567 | - |"), "{text}");
        assert_eq!((median(vec![]), median(vec![4.0, 1.0])), (None, Some(2.5)));
    }
}
