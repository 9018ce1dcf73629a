//! The access log: one JSON object a line for every request, written when its answer has gone out.
//!
//! Logging never holds up an answer: lines wait in a bounded queue for a thread of their own, and those
//! that find it full are counted instead.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// Lines that wait.
const QUEUE: usize = 16_384;

/// A log that is being written.
#[derive(Debug, Clone)]
pub struct AccessLog(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    lines: Mutex<Option<SyncSender<String>>>,
    writer: Mutex<Option<JoinHandle<()>>>,
    lost: Arc<AtomicU64>,
}

impl AccessLog {
    /// Appends to a file, or writes to standard error if it is `-`.
    ///
    /// # Errors
    /// If the file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let out: Box<dyn Write + Send> = match path.as_os_str() == "-" {
            true => Box::new(io::stderr()),
            false => {
                let file: File = OpenOptions::new().create(true).append(true).open(path)?;
                Box::new(BufWriter::new(file))
            }
        };
        let (sender, receiver) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let count = lost.clone();
        let writer = std::thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&receiver, out, &count))?;
        let (lines, writer) = (Mutex::new(Some(sender)), Mutex::new(Some(writer)));
        Ok(Self(Arc::new(Shared { lines, writer, lost })))
    }

    /// Queues a line.
    pub(crate) fn line(&self, line: &serde_json::Value) {
        let lines = self.0.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = lines.as_ref().map(|lines| lines.try_send(format!("{line}\n")));
        if !matches!(sent, Some(Ok(()))) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Lines that were not written.
    pub(crate) fn lost(&self) -> &AtomicU64 {
        &self.0.lost
    }

    /// Writes what waits; blocks. Nothing is logged any more.
    pub(crate) fn finish(&self) {
        drop(self.0.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if writer.is_some_and(|writer| writer.join().is_err()) {
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn write(lines: &Receiver<String>, mut out: Box<dyn Write + Send>, lost: &AtomicU64) {
    while let Ok(line) = lines.recv() {
        let mut written = out.write_all(line.as_bytes());
        // What waits is written at once, and then the file is up to date.
        while let Ok(line) = lines.try_recv() {
            written = written.and_then(|()| out.write_all(line.as_bytes()));
        }
        if written.and_then(|()| out.flush()).is_err() {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
