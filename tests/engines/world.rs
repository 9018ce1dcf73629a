//! A store with models, stand-ins for engines, and servers that are started.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::model::{self, Tensor};
use super::run::{Run, command, fresh_folder, pack, python_command, text};

const TENSORS: &[Tensor<'_>] =
    &[("model.embed_tokens.weight", &[600, 512], 1), ("model.norm.weight", &[512], 2)];
const ENGINES: [&str; 4] = ["vllm", "sglang", "text-generation-launcher", "llama-server"];
/// More than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store with the model `org/m`, and a folder of stand-ins.
pub struct World {
    pub folder: PathBuf,
    pub store: PathBuf,
    pub model: PathBuf,
    pub bin: PathBuf,
}

impl World {
    pub fn new(name: &str) -> Self {
        let folder = fresh_folder(name);
        let model = model::write(&folder.join("m"), TENSORS);
        std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
        let (store, bin) = (folder.join("store"), folder.join("bin"));
        std::fs::create_dir(&bin).unwrap();
        pack(&store, &model, "org/m", &[]);
        let world = Self { folder, store, model, bin };
        let python = python_command().get_program().to_owned();
        let script = std::fs::read_to_string(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/engines/stand_in.py"),
        );
        let script = format!("#!{}\n{}", python.to_str().unwrap(), script.unwrap());
        for engine in ENGINES {
            world.script(engine, &script);
        }
        symlink("/bin/sh", world.bin.join("sh")).unwrap();
        world
    }

    /// A program on PATH.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.bin.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    pub fn record(&self) -> PathBuf {
        self.folder.join("record.json")
    }

    /// What the stand-in has noted.
    pub fn noted(&self) -> Value {
        serde_json::from_slice(&std::fs::read(self.record()).unwrap()).unwrap()
    }

    /// `tenpak --json serve ARGUMENTS`, not yet started. Nothing but stand-ins is on PATH.
    pub fn command(&self, told: Value, arguments: &[&str]) -> Command {
        let mut told = told;
        told["record"] = text(&self.record()).into();
        let serve = ["--json", "--store", text(&self.store), "serve"];
        let mut made = command(&[&serve, arguments].concat());
        made.env("PATH", &self.bin)
            .env("STAND_IN", told.to_string())
            .env("TMPDIR", self.temporary());
        made.env("XDG_CACHE_HOME", self.folder.join("cache"));
        // What must not reach an engine.
        made.env("HF_TOKEN", "the user's own")
            .env("HF_HUB_CACHE", "/nowhere")
            .env("HF_HUB_OFFLINE", "1");
        made.current_dir(&self.folder);
        made
    }

    /// The folder for temporary files.
    pub fn temporary(&self) -> PathBuf {
        let path = self.folder.join("tmp");
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// Runs it to its end.
    pub fn run(&self, told: Value, arguments: &[&str]) -> Run {
        Run::of(self.command(told, arguments).output().unwrap())
    }

    /// Starts it, and waits until it is ready.
    pub fn serve(&self, told: Value, arguments: &[&str]) -> Served {
        let mut process = self.start(told, arguments);
        let mut line = String::new();
        let mut out = BufReader::new(process.stdout.take().unwrap());
        out.read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        if ready.get("url").is_none() {
            let mut said = String::new();
            process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{line}{said}")
        }
        Served { process, ready }
    }

    pub fn start(&self, told: Value, arguments: &[&str]) -> Child {
        let all = [arguments, &["--listen", "127.0.0.1:0"]].concat();
        // Before what is the engine's own.
        let place = arguments.iter().position(|word| *word == "--");
        let all = match place {
            Some(at) => [&arguments[..at], &["--listen", "127.0.0.1:0"], &arguments[at..]].concat(),
            None => all,
        };
        let mut made = self.command(told, &all);
        made.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The digests of the model's files, by path.
    pub fn files(&self) -> Value {
        digests(&self.model)
    }

    /// The commit of `org/m`.
    pub fn commit(&self, artifact: &str) -> String {
        let run = super::run::done(&["inspect", artifact, "--store", text(&self.store)]);
        run.text("manifest")[..40].to_owned()
    }
}

/// The digests of the files of a folder, those in folders below apart.
pub fn digests(folder: &Path) -> Value {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let digest = Sha256::digest(std::fs::read(&path).unwrap());
        let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        found.insert(path.file_name().unwrap().to_str().unwrap().to_owned(), digest);
    }
    json!(found)
}

/// A server that is ready.
pub struct Served {
    pub process: Child,
    pub ready: Value,
}

impl Served {
    pub fn address(&self) -> String {
        self.ready["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned()
    }

    /// The status line of an answer; empty if there is none.
    pub fn ask(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_default();
        answer.lines().next().unwrap_or_default().to_owned()
    }

    pub fn signal(&self, name: &str) {
        signal(self.process.id(), name);
    }

    /// Its exit status, and what it said on standard error.
    pub fn end(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        let status = self.process.wait().unwrap();
        assert!(!said.contains("panicked"), "{said}");
        (status.code(), said)
    }
}

pub fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").args([format!("-{name}"), pid.to_string()]).status().unwrap();
    assert!(done.success());
}

/// Waits until something holds.
#[track_caller]
pub fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Whether a process is there, zombies apart.
pub fn lives(pid: &Value) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_u64().unwrap()));
    stat.is_ok_and(|stat| !stat.rsplit_once(')').unwrap().1.trim_start().starts_with('Z'))
}

/// Whether a folder has nothing in it.
pub fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}
