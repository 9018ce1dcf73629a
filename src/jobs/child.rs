//! The child process of a job: started in a process group of its own, read line by line, and ended.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

/// Bytes of a line; what is longer is cut.
const LINE: u64 = 256 << 10;

/// What a child says.
#[derive(Debug)]
pub(super) enum Said {
    /// How far it is.
    Progress(Value),
    /// It asks whether it may publish.
    Gate,
    /// Something about its work.
    Event(String, Value),
    /// It is done.
    Result(Value),
    /// It is not, and why, with the command's exit status.
    Error(String, i64),
    /// A line for people.
    Log(String),
    /// One of its two outputs is closed.
    Closed,
}

impl Said {
    /// A line of standard output.
    fn of(line: &str) -> Self {
        let Ok(Value::Object(mut object)) = serde_json::from_str(line) else {
            return Self::Log(line.to_owned());
        };
        if let Some(progress) = object.remove("progress") {
            return Self::Progress(progress);
        }
        if let Some(result) = object.remove("result") {
            return Self::Result(result);
        }
        if object.contains_key("gate") {
            return Self::Gate;
        }
        let kind = object.get("event").and_then(Value::as_str).map(str::to_owned);
        if let (Some(kind), Some(data)) = (kind, object.remove("data")) {
            return Self::Event(kind, data);
        }
        let status = object.get("status").and_then(Value::as_i64);
        match (object.get("error").and_then(Value::as_str), status) {
            (Some(error), Some(status)) => Self::Error(error.to_owned(), status),
            _ => Self::Log(line.to_owned()),
        }
    }
}

/// A running child.
pub(super) struct Child {
    child: std::process::Child,
    stdin: Option<ChildStdin>,
    pub(super) said: Receiver<Said>,
}

impl Child {
    pub(super) fn start(
        program: &PathBuf,
        arguments: &[String],
        environment: &[(String, Option<String>)],
    ) -> std::io::Result<Self> {
        let mut command = Command::new(program);
        for (name, value) in environment {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Whatever it starts ends with it.
            .process_group(0)
            .spawn()?;
        let (tell, said) = channel();
        let (out, errors) = (child.stdout.take(), child.stderr.take());
        let telling = tell.clone();
        let spawn = |work: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new().name("job's output".to_owned()).spawn(work).map(drop)
        };
        spawn(Box::new(move || read(out, &telling, Said::of)))?;
        spawn(Box::new(move || read(errors, &tell, |line| Said::Log(line.to_owned()))))?;
        let stdin = child.stdin.take();
        Ok(Self { child, stdin, said })
    }

    /// Answers a question. A child that is gone does not hear it.
    pub(super) fn answer(&mut self, word: &str) {
        if let Some(stdin) = &mut self.stdin {
            drop(stdin.write_all(format!("{word}\n").as_bytes()).and_then(|()| stdin.flush()));
        }
    }

    /// Sends a signal to the child and all that it started.
    pub(super) fn signal(&self, signal: Signal) {
        let group = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        if let Some(group) = group {
            // One that is gone needs none.
            kill_process_group(group, signal).unwrap_or_default();
        }
    }

    pub(super) fn wait(&mut self) -> std::io::Result<ExitStatus> {
        self.stdin = None;
        self.child.wait()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Nobody follows it any more.
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::KILL);
            drop(self.child.wait());
        }
    }
}

/// How a process ended, in words.
pub(super) fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with status {code}"),
        (None, Some(9)) => "it was killed, perhaps because memory ran out".to_owned(),
        (None, signal) => format!("it was ended by signal {}", signal.unwrap_or_default()),
    }
}

/// Tells each line of an output, and then that it is closed.
fn read(output: Option<impl Read>, tell: &Sender<Said>, meaning: impl Fn(&str) -> Said) {
    let Some(output) = output else { return };
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    let mut whole = true;
    loop {
        line.clear();
        match (&mut output).take(LINE).read_until(b'\n', &mut line) {
            Err(_) | Ok(0) => break,
            Ok(_) => {}
        }
        let ends = line.last() == Some(&b'\n');
        // The rest of a line that was cut is nothing.
        if whole {
            let text = String::from_utf8_lossy(&line);
            if tell.send(meaning(text.trim_end())).is_err() {
                break;
            }
        }
        whole = ends;
    }
    drop(tell.send(Said::Closed));
}
