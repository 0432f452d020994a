//! What an import tells while it runs and at the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::output;

/// Off a terminal a line of progress is written this often.
const EVERY: Duration = Duration::from_secs(5);

/// How an import went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Pairs acknowledged in this run.
    pub stored: u64,
    /// Pairs that an earlier run had acknowledged.
    pub resumed: u64,
    /// Values that were skipped because their life is over.
    pub expired: u64,
    /// Pairs that were refused or not acknowledged in time.
    pub failed: u64,
    /// Tries beyond the first, over all pairs.
    pub retries: u64,
    /// Bytes of values acknowledged in this run.
    pub value_bytes: u64,
    /// How long this run took, in seconds.
    pub seconds: f64,
    /// Pairs acknowledged per second in this run.
    pub per_second: f64,
    /// Whether every line of the file is acknowledged.
    pub complete: bool,
}

impl Report {
    /// The report after this time.
    pub fn at(&self, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let per_second = if seconds > 0.0 { self.stored as f64 / seconds } else { 0.0 };
        Self { seconds, per_second, ..self.clone() }
    }

    /// The report in one line.
    pub fn sentence(&self) -> String {
        let resumed = match self.resumed {
            0 => String::new(),
            count => format!(" after {} of earlier runs", output::grouped(count)),
        };
        let expired = match self.expired {
            0 => String::new(),
            count => format!(", {} expired", output::grouped(count)),
        };
        format!(
            "imported {} pairs{resumed} in {:.1} s ({}/s), {} of values, {} retries, {} failed{expired}",
            output::grouped(self.stored),
            self.seconds,
            output::grouped(self.per_second as u64),
            output::bytes(self.value_bytes),
            output::grouped(self.retries),
            output::grouped(self.failed),
        )
    }
}

/// Progress on standard error: a bar on a terminal, now and then a line elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    total_bytes: u64,
    last_line: Duration,
}

impl Progress {
    /// Progress through a file of this length.
    pub fn new(total_bytes: u64) -> Self {
        let bar = output::lively_stderr().then(|| {
            let bar =
                ProgressBar::with_draw_target(Some(total_bytes), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}");
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            bar
        });
        Self { bar, total_bytes, last_line: Duration::ZERO }
    }

    /// Shows how far the import is.
    pub fn show(&mut self, bytes: u64, report: &Report, elapsed: Duration) {
        let now = report.at(elapsed);
        let text = format!(
            "{} pairs, {}/s, {} retries",
            output::grouped(now.stored + now.resumed),
            output::grouped(now.per_second as u64),
            output::grouped(now.retries)
        );
        match &self.bar {
            Some(bar) => {
                bar.set_position(bytes);
                bar.set_message(text);
            }
            None if elapsed >= self.last_line + EVERY => {
                self.last_line = elapsed;
                let percent = (bytes * 100).checked_div(self.total_bytes).unwrap_or(100);
                eprintln!("{percent} %: {text}");
            }
            None => {}
        }
    }

    /// Takes the bar away.
    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_in_one_line() {
        let report = Report { stored: 12_345, retries: 3, value_bytes: 2048, ..Report::default() };
        assert_eq!(
            report.at(Duration::from_secs(10)).sentence(),
            "imported 12,345 pairs in 10.0 s (1,234/s), 2.0 KiB of values, 3 retries, 0 failed"
        );
        let resumed = Report { resumed: 1_000, ..report };
        assert!(
            resumed.sentence().starts_with("imported 12,345 pairs after 1,000 of earlier runs")
        );
    }
}
