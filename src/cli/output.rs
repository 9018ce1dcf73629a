//! What a command prints.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;

use serde_json::{Value, json};

use super::error::{FAILED, Failure};
use crate::store::Store;

/// How results are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Output {
    json: bool,
    quiet: bool,
    /// Whether a worker reads each line, as an object that names what it is.
    reports: bool,
}

impl Output {
    pub(super) fn new(json: bool, quiet: bool) -> Self {
        Self { json, quiet, reports: false }
    }

    /// For a command that is a worker's job.
    pub(super) const fn reporting() -> Self {
        Self { json: true, quiet: false, reports: true }
    }

    /// Whether a worker follows the progress.
    pub(super) const fn reports(&self) -> bool {
        self.reports
    }

    /// Whether a progress bar makes sense.
    pub(super) fn shows_progress(&self) -> bool {
        !self.quiet && !self.reports && io::stderr().is_terminal()
    }

    /// Whether people watch: a table that changes makes sense.
    pub(super) fn shows_board(&self) -> bool {
        !self.json && self.shows_progress()
    }

    /// Whether lines about the progress are wanted beside the result: a worker keeps them.
    pub(super) const fn tells(&self) -> bool {
        !self.quiet && (self.reports || !self.json)
    }

    /// Prints the result: `object` under `--json`, else `text`, which is only made then.
    pub(super) fn result(
        &self,
        object: Value,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let object = if self.reports { json!({"result": object}) } else { object };
        let mut line = if self.json { object.to_string() } else { text() };
        if !line.ends_with('\n') && !line.is_empty() {
            line.push('\n');
        }
        let mut out = io::stdout().lock();
        match out.write_all(line.as_bytes()).and_then(|()| out.flush()) {
            // Whoever reads has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.map_err(|e| Failure::new(FAILED, format!("standard output: {e}"))),
        }
    }

    /// Tells a worker of something that happened; nobody else.
    pub(super) fn event(&self, kind: &str, data: &Value) {
        if self.reports {
            // Who no longer reads ends this process otherwise.
            drop(writeln!(io::stdout(), "{}", json!({"event": kind, "data": data})));
        }
    }

    /// A message for people, beside the result.
    pub(super) fn note(&self, message: impl std::fmt::Display) {
        if !self.quiet {
            eprintln!("tenpak: {message}");
        }
    }

    /// Says that the store that was written was made for it, if so: a mistyped address is noticed.
    pub(super) fn made(&self, store: &Store) {
        if store.was_made() {
            self.note(format_args!("there was no store at {}; it was made", store.location()));
        }
    }

    /// Prints why the command failed and gives its status.
    pub(super) fn fail(&self, failure: &Failure) -> ExitCode {
        eprintln!("tenpak: {}", failure.message);
        // A worker reads why, also where the result was told.
        if self.json && (self.reports || !failure.told) {
            let object = json!({"error": failure.message, "status": failure.status});
            // The status tells as well, if nobody reads this.
            drop(writeln!(io::stdout(), "{object}"));
        }
        ExitCode::from(failure.status)
    }
}
