//! A progress bar on a terminal, lines for a worker that runs the command as a job, and nothing elsewhere.

use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::output::Output;
use crate::pack;

/// Counts bytes, or steps.
pub(super) struct Bar {
    bar: ProgressBar,
    /// What a worker is told.
    report: Option<Report>,
}

/// Progress as lines of JSON, a few per second.
struct Report {
    phase: &'static str,
    unit: &'static str,
    total: AtomicU64,
    done: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// The least time between two lines.
const PAUSE: Duration = Duration::from_millis(300);

impl Report {
    /// Tells where it stands: always with `now`, else if the last time is long enough ago.
    fn tell(&self, now: bool) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if !now && told.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        *told = Some(Instant::now());
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let line = json!({"progress": {
            "phase": self.phase, "done": done.min(total), "total": total, "unit": self.unit,
        }});
        // Who no longer reads ends this process otherwise.
        drop(writeln!(std::io::stdout(), "{line}"));
    }
}

impl Bar {
    pub(super) fn new(output: &Output, doing: &'static str) -> Self {
        let bytes =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        Self::styled(output, (doing, "bytes"), bytes)
    }

    /// A bar that counts steps.
    pub(super) fn of_steps(output: &Output, doing: &'static str) -> Self {
        Self::styled(output, (doing, "steps"), "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    fn styled(
        output: &Output,
        (doing, unit): (&'static str, &'static str),
        template: &str,
    ) -> Self {
        if !output.shows_progress() {
            let report = output.reports().then(|| Report {
                phase: doing,
                unit,
                total: AtomicU64::new(0),
                done: AtomicU64::new(0),
                told: Mutex::new(None),
            });
            return Self { bar: ProgressBar::hidden(), report };
        }
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::no_length();
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        Self { bar: bar.with_style(style).with_message(doing), report: None }
    }

    pub(super) fn begin(&self, bytes: u64) {
        self.bar.set_length(bytes);
        if let Some(report) = &self.report {
            report.total.store(bytes, Ordering::Relaxed);
            report.tell(true);
        }
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.bar.inc(bytes);
        if let Some(report) = &self.report {
            report.done.fetch_add(bytes, Ordering::Relaxed);
            report.tell(false);
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        if let Some(report) = &self.report {
            report.tell(true);
        }
    }
}

impl pack::Progress for Bar {
    fn begin(&self, bytes: u64) {
        self.begin(bytes);
    }

    fn advance(&self, bytes: u64) {
        self.advance(bytes);
    }
}
