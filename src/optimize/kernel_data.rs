//! Times of AIConfigurator's measured kernels, in place of the table of this program: a child process of Python asks its
//! documented interface, `aiconfigurator.cli.api.cli_estimate`. What it has no data of is modelled as without it.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use super::latency::{Asked, Steps};

/// Answers each line with a line. What it and what it imports print goes to standard error.
const SCRIPT: &str = r#"
import json, sys
out, sys.stdout = sys.stdout, sys.stderr
def tell(what):
    print(json.dumps(what), file=out, flush=True)
try:
    from aiconfigurator.cli.api import cli_estimate
    import importlib.metadata
    try:
        version = importlib.metadata.version("aiconfigurator")
    except importlib.metadata.PackageNotFoundError:
        version = "of no version"
except ImportError as error:
    tell({"error": str(error)})
    sys.exit(1)
tell({"version": version})
for line in sys.stdin:
    asked = json.loads(line)
    try:
        found = cli_estimate(asked.pop("model"), asked.pop("system"), mode="static", **asked)
        tell({"ttft": float(found.ttft), "tpot": float(found.tpot)})
    except BaseException as error:
        tell({"error": f"{type(error).__name__}: {error}"})
"#;
/// How long it may take to answer: the first time it reads its tables.
const PATIENCE: Duration = Duration::from_secs(300);
/// What its figures are off by, as it states no error of its own: what it was off by where its makers compare it with
/// engines.
const BAND: f64 = 1.25;
/// The longest reason that is repeated.
const WORDS: usize = 200;

/// The child, and what it said.
pub(super) struct KernelData {
    child: Mutex<Asking>,
    /// The folder with the model's `config.json`.
    model: Folder,
    version: String,
}

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(std::io::Error::other)?;
        let name = format!("tenpak-config-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

struct Asking {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
    known: HashMap<String, Result<(f64, f64), String>>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Asking {
    fn answer(&self) -> Result<Value, String> {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.map_err(|_| "Python ended, or does not answer".to_owned())?;
        let value: Value = serde_json::from_str(&line).map_err(|error| error.to_string())?;
        match value.get("error").and_then(Value::as_str) {
            Some(why) => Err(why.lines().next().unwrap_or(why).chars().take(WORDS).collect()),
            None => Ok(value),
        }
    }

    fn ask(&mut self, asked: &Value) -> Result<(f64, f64), String> {
        let key = asked.to_string();
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        let sent = writeln!(self.stdin, "{key}").and_then(|()| self.stdin.flush());
        let found = sent.map_err(|error| error.to_string()).and_then(|()| {
            let value = self.answer()?;
            let time = |field: &str| {
                let own = value.get(field).and_then(Value::as_f64);
                own.filter(|own| own.is_finite() && *own > 0.0).ok_or("it says no time".to_owned())
            };
            Ok((time("ttft")?, time("tpot")?))
        });
        self.known.insert(key, found.clone());
        found
    }
}

impl KernelData {
    /// Starts a Python that has AIConfigurator, for a model of this configuration.
    ///
    /// # Errors
    /// If it cannot be started, or has none: in words.
    pub(super) fn open(python: &Path, config: &Value) -> Result<Self, String> {
        let told = |error: std::io::Error| format!("{}: {error}", python.display());
        let model = Folder::new().map_err(told)?;
        std::fs::write(model.0.join("config.json"), config.to_string()).map_err(told)?;
        let mut command = Command::new(python);
        command.args(["-c", SCRIPT]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::null()).spawn().map_err(told)?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            return Err(format!("{}: no pipe", python.display()));
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    break;
                }
            }
        });
        let asking = Asking { child, stdin, lines, known: HashMap::new() };
        let about = asking.answer().map_err(|why| {
            format!("{}: {why}: it needs `pip install aiconfigurator==0.12.0`", python.display())
        })?;
        let version = about.get("version").and_then(Value::as_str).unwrap_or_default().to_owned();
        Ok(Self { child: Mutex::new(asking), model, version })
    }

    /// What it says of a prompt and of a step.
    ///
    /// # Errors
    /// If it has no data: why, in words.
    pub(super) fn steps(&self, asked: &Asked<'_>) -> Result<Steps, String> {
        let system = match asked.device {
            "a100" => "a100_sxm",
            "h100" => "h100_sxm",
            "h200" => "h200_sxm",
            own @ ("l4" | "l40s") => own,
            own => return Err(format!("AIConfigurator has no {own}")),
        };
        let kernels = match asked.weights {
            "16" => "bfloat16",
            "fp8" => "fp8",
            "int4" => "int4_wo",
            "int8w" => "int8_wo",
            own => return Err(format!("AIConfigurator has no kernels for {own}")),
        };
        let whole = |value: f64| value.round().max(1.0) as u64;
        let question = |batch: f64| {
            json!({
                "model": self.model.0, "system": system, "backend_name": asked.engine,
                "isl": whole(asked.input), "osl": whole(asked.output).max(2), "batch_size": whole(batch),
                "tp_size": whole(asked.count), "gemm_quant_mode": kernels,
            })
        };
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let none = |why: String| format!("AIConfigurator has no data: {why}");
        let (first, _) = child.ask(&question(1.0)).map_err(none)?;
        let (_, next) = child.ask(&question(asked.running)).map_err(none)?;
        Ok(Steps {
            prefill: first / 1e3,
            decode: next / 1e3,
            band: BAND,
            source: format!("AIConfigurator {}'s kernels of {system}", self.version),
        })
    }
}
