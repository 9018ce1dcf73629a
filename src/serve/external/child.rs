//! An engine that runs: its log with a prefix on standard error, signals for it, and its end.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::sync::watch;

use super::launch::Invocation;

/// A longer line of a log is cut into several.
const LINE: u64 = 16 << 10;
/// How long a log may go on when its engine has ended.
const LOGS: Duration = Duration::from_secs(5);
/// Lines of the log that an error repeats.
const LAST: usize = 5;

/// An engine that runs. Dropping it ends it, and whatever it has started.
#[derive(Debug)]
pub struct Child {
    lifeline: Mutex<ChildStdin>,
    ended: watch::Receiver<Option<u8>>,
    last: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts an engine below a supervisor, which is `tenpak supervise`. `remove` is a folder that goes with it.
    ///
    /// # Errors
    /// If no process can be started.
    pub fn start(
        tenpak: &Path,
        invocation: &Invocation,
        remove: Option<&Path>,
        prefix: &'static str,
    ) -> io::Result<Self> {
        let mut command = Command::new(tenpak);
        command.arg("supervise");
        if let Some(folder) = remove {
            command.arg("--remove").arg(folder);
        }
        command.arg("--").args(invocation.words.iter().map(|word| word.value()));
        for name in &invocation.unset {
            command.env_remove(name);
        }
        command.envs(invocation.set.iter().map(|(name, value)| (name, value.value())));
        // A group of its own: what a terminal sends to ours, we pass on.
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        let lifeline =
            child.stdin.take().ok_or_else(|| io::Error::other("no way to the supervisor"))?;
        let last = Arc::new(Mutex::new(VecDeque::new()));
        let (told, logs) = mpsc::channel::<()>();
        if let (Some(out), Some(error)) = (child.stdout.take(), child.stderr.take()) {
            follow(out, prefix, last.clone(), told.clone());
            follow(error, prefix, last.clone(), told);
        }
        let (end, ended) = watch::channel(None);
        std::thread::spawn(move || {
            let status = child.wait().ok().and_then(|status| status.code());
            // Until both logs have ended, unless some process holds them that nobody could end.
            logs.recv_timeout(LOGS).unwrap_or_default();
            let status = status.and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
            end.send_replace(Some(status));
        });
        Ok(Self { lifeline: Mutex::new(lifeline), ended, last })
    }

    /// Sends it a signal; one that has ended needs none.
    pub fn signal(&self, number: u8) {
        let mut lifeline = self.lifeline.lock().unwrap_or_else(PoisonError::into_inner);
        drop(lifeline.write_all(&[number]).and_then(|()| lifeline.flush()));
    }

    /// Its exit status, as shells have it, once it has ended and its log has been told.
    pub async fn ended(&self) -> u8 {
        match self.ended.clone().wait_for(Option::is_some).await {
            Ok(status) => status.unwrap_or(1),
            // The thread that waits for it is gone, which it never is before the end.
            Err(_) => 1,
        }
    }

    /// The last lines of its log, on one.
    pub fn last_words(&self) -> String {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.iter()
            .map(|line| line.trim())
            .filter(|line| !line.is_empty())
            .collect::<Vec<_>>()
            .join(" | ")
    }
}

/// Passes a log on, line by line; `told` goes when it has ended.
fn follow(
    stream: impl Read + Send + 'static,
    prefix: &'static str,
    last: Arc<Mutex<VecDeque<String>>>,
    told: mpsc::Sender<()>,
) {
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while let Ok(1..) = reader.by_ref().take(LINE).read_until(b'\n', &mut line) {
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end_matches(['\n', '\r']);
            // Nobody may be there to read it; the engine goes on.
            drop(writeln!(io::stderr().lock(), "{prefix}: {text}"));
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            if last.len() == LAST {
                last.pop_front();
            }
            last.push_back(text.to_owned());
            drop(last);
            line.clear();
        }
        drop(told);
    });
}
