//! A progress bar on a terminal, and nothing elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use super::output::Output;
use crate::pack;

/// Counts bytes, or steps.
pub(super) struct Bar(ProgressBar);

impl Bar {
    pub(super) fn new(output: &Output, doing: &'static str) -> Self {
        let bytes =
            "{msg} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
        Self::styled(output, doing, bytes)
    }

    /// A bar that counts steps.
    pub(super) fn of_steps(output: &Output, doing: &'static str) -> Self {
        Self::styled(output, doing, "{msg} {wide_bar} {pos}/{len} {eta}")
    }

    fn styled(output: &Output, doing: &'static str, template: &str) -> Self {
        if !output.shows_progress() {
            return Self(ProgressBar::hidden());
        }
        let style = ProgressStyle::with_template(template);
        let bar = ProgressBar::no_length();
        Self(
            bar.with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
                .with_message(doing),
        )
    }

    pub(super) fn begin(&self, bytes: u64) {
        self.0.set_length(bytes);
    }

    pub(super) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
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
