//! `tenpak job`: a command as a worker runs it. Not for people.
//!
//! Standard output has one object per line: `{"progress": ...}`, `{"gate": true}`, and last `{"result": ...}` or
//! `{"error": ..., "status": ...}`. At the gate, right before a ref moves, it waits for a line on standard input:
//! only after `publish` does the ref move. The end of standard input is the end of the worker, and ends the job.

use std::io::{BufRead, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use super::error::Failure;
use crate::pack::Gate;

/// The exit status of a job whose worker is gone.
const ORPHANED: i32 = 143;

#[derive(Debug, clap::Args)]
pub(super) struct Job {
    /// A server (HOST:PORT) that the job may read from, wherever it is (repeatable)
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) allow_private: Vec<String>,
    /// The command and its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(super) command: Vec<String>,
}

/// Follows standard input to its end; gives the gate that its lines open.
pub(super) fn gate() -> Result<Gate, Failure> {
    let (answers, answered) = channel();
    let follow = move || follow(&answers);
    std::thread::Builder::new()
        .name("worker's word".to_owned())
        .spawn(follow)
        .map_err(Failure::failed)?;
    let answered = Arc::new(Mutex::new(answered));
    Ok(Gate::new(move || {
        let answered = answered.clone();
        async move {
            let asking = tokio::task::spawn_blocking(move || ask(&answered));
            asking.await.unwrap_or_else(|error| Err(error.to_string()))
        }
    }))
}

fn follow(answers: &Sender<String>) {
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if answers.send(line).is_err() {
            break;
        }
    }
    std::process::exit(ORPHANED);
}

fn ask(answered: &Mutex<Receiver<String>>) -> Result<(), String> {
    let answered = answered.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(std::io::stdout(), "{{\"gate\":true}}").map_err(|error| error.to_string())?;
    match answered.recv() {
        Ok(line) if line == "publish" => Ok(()),
        Ok(_) => Err("the job is another worker's, or is to end".to_owned()),
        Err(_) => Err("the worker is gone".to_owned()),
    }
}
