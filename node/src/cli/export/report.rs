//! What an export tells while it runs and at the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::output;
use crate::cli::pages::Listed;

/// Off a terminal a line of progress is written this often.
const EVERY: Duration = Duration::from_secs(5);
/// Steps of the bar.
const STEPS: u64 = 10_000;

/// How an export went.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Keys written in this run.
    pub exported: u64,
    /// Keys that an earlier run had written.
    pub resumed: u64,
    /// Keys of this run with several concurrent values.
    pub with_siblings: u64,
    /// Bytes of values written in this run.
    pub value_bytes: u64,
    /// Bytes of lines written in this run.
    pub line_bytes: u64,
    /// How long this run took, in seconds.
    pub seconds: f64,
    /// Keys per second in this run.
    pub per_second: f64,
    /// Whether the list came to its end.
    pub complete: bool,
}

impl Report {
    /// Counts a key.
    pub fn note(&mut self, listed: &Listed, line_bytes: usize) {
        self.exported += 1;
        self.with_siblings += u64::from(listed.siblings > 1);
        self.value_bytes += listed.bytes;
        self.line_bytes += line_bytes as u64;
    }

    /// The report after this time.
    pub fn at(&self, elapsed: Duration) -> Self {
        let seconds = elapsed.as_secs_f64();
        let per_second = if seconds > 0.0 { self.exported as f64 / seconds } else { 0.0 };
        Self { seconds, per_second, ..self.clone() }
    }

    /// The report in one line.
    pub fn sentence(&self) -> String {
        let resumed = match self.resumed {
            0 => String::new(),
            count => format!(" after {} of earlier runs", output::grouped(count)),
        };
        let siblings = match self.with_siblings {
            0 => String::new(),
            count => format!(", {} with several values", output::grouped(count)),
        };
        format!(
            "exported {} keys{resumed} in {:.1} s ({}/s), {} of values{siblings}",
            output::grouped(self.exported),
            self.seconds,
            output::grouped(self.per_second as u64),
            output::bytes(self.value_bytes),
        )
    }
}

/// Progress on standard error: a bar on a terminal, now and then a line elsewhere.
pub struct Progress {
    bar: Option<ProgressBar>,
    last_line: Duration,
}

impl Progress {
    /// Nothing is shown yet.
    pub fn new() -> Self {
        let bar = output::lively_stderr().then(|| {
            let bar = ProgressBar::with_draw_target(Some(STEPS), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}");
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "),
            );
            bar
        });
        Self { bar, last_line: Duration::ZERO }
    }

    /// Shows how much of the ring is behind the export: 0 to 1.
    pub fn show(&mut self, share: f64, report: &Report, elapsed: Duration) {
        let now = report.at(elapsed);
        let keys = output::grouped(now.exported + now.resumed);
        let text = format!("{keys} keys, {}/s", output::grouped(now.per_second as u64));
        match &self.bar {
            Some(bar) => {
                bar.set_position((share * STEPS as f64) as u64);
                bar.set_message(text);
            }
            None if elapsed >= self.last_line + EVERY => {
                self.last_line = elapsed;
                eprintln!("{} %: {text}", (share * 100.0) as u64);
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
