//! How far an operation is, on standard error: a bar on a terminal, now and then a line elsewhere.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kvasir_core::admin_api::{OperationState, OperationStatus};
use tokio::time::Instant;

use super::operate::{in_words, is_over};
use crate::cli::output::{self, age, bytes, grouped};

/// Off a terminal a line of progress is written this often.
const EVERY: Duration = Duration::from_secs(5);

/// What is shown of one operation.
pub struct Progress {
    bar: Option<ProgressBar>,
    begun: Instant,
    last_line: Option<Instant>,
    /// How far it was when it was looked at first.
    first: Option<(u32, u64)>,
}

impl Progress {
    /// Nothing was shown yet.
    pub fn begin() -> Self {
        let bar = output::lively_stderr().then(|| {
            let bar = ProgressBar::with_draw_target(Some(1), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template("[{bar:30}] {percent:>3} %  {msg}");
            bar.set_style(
                style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("#>."),
            );
            bar
        });
        Self { bar, begun: Instant::now(), last_line: None, first: None }
    }

    /// Shows a look at it.
    pub fn show(&mut self, status: &OperationStatus) {
        let first = *self.first.get_or_insert((status.moves_done, status.moved_bytes));
        let line = line(status, first, self.begun.elapsed());
        if let Some(bar) = &self.bar {
            bar.set_length(u64::from(status.moves_total).max(1));
            let done = if status.moves_total == 0 { 1 } else { u64::from(status.moves_done) };
            bar.set_position(done);
            bar.set_message(line);
            if is_over(status.state) {
                bar.finish_and_clear();
            }
            return;
        }
        if is_over(status.state) || self.last_line.is_some_and(|last| last.elapsed() < EVERY) {
            return;
        }
        self.last_line = Some(Instant::now());
        eprintln!("{}: {line}", status.request.id);
    }
}

/// `12 of 40 replicas moved, 1.2 GiB, 35.0 MiB/s, about 1 m left`; `first` is how far it was at the beginning
/// of this time.
fn line(status: &OperationStatus, first: (u32, u64), elapsed: Duration) -> String {
    let mut line = format!(
        "{} of {} replicas moved, {}",
        grouped(status.moves_done.into()),
        grouped(status.moves_total.into()),
        bytes(status.moved_bytes)
    );
    let seconds = elapsed.as_secs_f64();
    let moved = status.moved_bytes.saturating_sub(first.1);
    if seconds >= 1.0 && moved > 0 {
        line += &format!(", {}/s", bytes((moved as f64 / seconds) as u64));
    }
    let done = status.moves_done.saturating_sub(first.0);
    let left = status.moves_total.saturating_sub(status.moves_done);
    if seconds >= 1.0 && done > 0 && left > 0 {
        let time = seconds * f64::from(left) / f64::from(done);
        line += &format!(", about {} left", age(Duration::from_secs_f64(time)));
    }
    line
}

/// How it ended, in a sentence.
pub fn sentence(status: &OperationStatus) -> String {
    let state = match status.state {
        OperationState::Done => "done",
        OperationState::Cancelled => "taken back",
        OperationState::Failed => "failed",
        OperationState::Planned | OperationState::Running => "running",
    };
    let moved = match status.moves_total {
        0 => "no data moved".to_owned(),
        total => format!(
            "{} of {} replicas moved, {}",
            grouped(status.moves_done.into()),
            grouped(total.into()),
            bytes(status.moved_bytes)
        ),
    };
    let why = status.message.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    let (what, id) = (in_words(&status.request), &status.request.id);
    format!("{what} is {state}{why}; {moved} (operation {id})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn status(state: &str, done: u32) -> OperationStatus {
        serde_json::from_value(json!({
            "request": {"id": "j", "kind": "join", "node": "0b0b0b0b-0b0b-0b0b-0b0b-0b0b0b0b0b0b"},
            "state": state, "postedEpoch": 4, "movesTotal": 40, "movesDone": done,
            "movedBytes": u64::from(done) << 20,
        }))
        .unwrap()
    }

    #[test]
    fn progress_says_how_fast_and_how_long() {
        let now = status("running", 10);
        assert_eq!(line(&now, (10, 10 << 20), Duration::ZERO), "10 of 40 replicas moved, 10.0 MiB");
        assert_eq!(
            line(&now, (0, 0), Duration::from_secs(5)),
            "10 of 40 replicas moved, 10.0 MiB, 2.0 MiB/s, about 15 s left"
        );
    }

    #[test]
    fn the_end_is_a_sentence() {
        assert_eq!(
            sentence(&status("done", 40)),
            "join 0b0b0b0b is done; 40 of 40 replicas moved, 40.0 MiB (operation j)"
        );
        assert!(sentence(&status("cancelled", 2)).contains("taken back; 2 of 40"));
    }
}
