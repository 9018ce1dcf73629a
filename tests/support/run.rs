//! Running the `tenpak` binary and the independent reader, and looking at stores.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// A home without trust files and without traces of other tests.
fn home() -> &'static Path {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| fresh_folder("home"))
}

/// A folder of this test program, emptied of what an earlier run left.
pub fn fresh_folder(name: &str) -> PathBuf {
    let path = own_folder().join(name);
    if path.exists() {
        std::fs::remove_dir_all(&path).expect("an old folder to go");
    }
    std::fs::create_dir_all(&path).expect("a folder");
    path
}

/// A folder that no other process of this test has while this one runs.
fn own_folder() -> &'static Path {
    static OWN: OnceLock<(PathBuf, File)> = OnceLock::new();
    let (path, _) = OWN.get_or_init(|| {
        let all = Path::new(env!("CARGO_TARGET_TMPDIR")).join(env!("CARGO_CRATE_NAME"));
        std::fs::create_dir_all(&all).expect("a folder");
        let mut numbers = 0_u32..;
        let own = numbers.find_map(|number| {
            let lock = File::create(all.join(format!("{number}.lock"))).expect("a lock file");
            lock.try_lock().is_ok().then(|| (all.join(number.to_string()), lock))
        });
        own.expect("a number that is free")
    });
    path
}

/// The command, in an environment of its own.
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenpak"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "TENPAK_STORE"] {
        command.env_remove(name);
    }
    command.env("HOME", home());
    command
}

/// What a run gave.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub json: Value,
    pub error: String,
}

impl Run {
    pub fn of(output: Output) -> Self {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!error.contains("panicked"), "{error}");
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let json = out.lines().last().map_or(Value::Null, |line| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {out}"))
        });
        Self { status: output.status.code(), json, error }
    }

    /// A number of the result.
    #[track_caller]
    pub fn number(&self, field: &str) -> u64 {
        self.json[field].as_u64().unwrap_or_else(|| panic!("no {field}: {}", self.json))
    }

    /// A text of the result.
    #[track_caller]
    pub fn text(&self, field: &str) -> String {
        self.json[field].as_str().unwrap_or_else(|| panic!("no {field}: {}", self.json)).to_owned()
    }
}

/// Runs `tenpak --json ARGUMENTS` to its end.
pub fn tenpak(arguments: &[&str]) -> Run {
    let all = [&["--json"], arguments].concat();
    Run::of(command(&all).output().expect("a process"))
}

/// The same, which must succeed.
#[track_caller]
pub fn done(arguments: &[&str]) -> Run {
    let run = tenpak(arguments);
    assert_eq!(run.status, Some(0), "{arguments:?}: {}", run.error);
    run
}

/// Runs a command that may write no file beyond so many KiB: as on a full disk.
pub fn limited(inner: &Command, kib: u32) -> Run {
    Run::of(limit(inner, kib).output().expect("a process"))
}

/// The same, to be started.
pub fn limit(inner: &Command, kib: u32) -> Command {
    let script = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", kib * 2);
    let mut outer = Command::new("sh");
    outer.args(["-c", &script, "sh"]).arg(inner.get_program()).args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    outer
}

/// `tenpak pack`, which must succeed.
#[track_caller]
pub fn pack(store: &Path, model: &Path, name: &str, more: &[&str]) -> Run {
    let all = [&["pack", text(model), "--store", text(store), "--name", name], more].concat();
    done(&all)
}

pub fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn python() -> PathBuf {
    let chosen = std::env::var_os("TENPAK_TEST_PYTHON").map(PathBuf::from);
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let python = chosen.unwrap_or(own);
    assert!(python.exists(), "{} is missing: run tests/setup.sh", python.display());
    python
}

/// A Python process of the test environment.
pub fn python_command() -> Command {
    Command::new(python())
}

/// Runs the independent reader; gives its status and what it said.
pub fn reader(arguments: &[&str]) -> (i32, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("format-spec/reader.py");
    let output = python_command().arg("-B").arg(script).args(arguments).output().expect("python");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!error.contains("Traceback"), "{arguments:?}: {error}");
    (output.status.code().expect("an exit status"), error)
}

/// The independent reader finds nothing wrong with the artifact, and unpacks it into `out`.
#[track_caller]
pub fn reader_agrees(store: &Path, artifact: &str, out: &Path) {
    for arguments in
        [&["verify", text(store), artifact][..], &["unpack", text(store), artifact, text(out)]]
    {
        let (status, error) = reader(arguments);
        assert_eq!(status, 0, "{arguments:?}: {error}");
    }
}

/// Every object of a store in a directory, by path; temporary files and locks are none.
pub fn objects(store: &Path) -> BTreeMap<String, blake3::Hash> {
    fn walk(folder: &Path, prefix: &str, out: &mut BTreeMap<String, blake3::Hash>) {
        let Ok(entries) = std::fs::read_dir(folder) else { return };
        for entry in entries {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            if name.starts_with('.') {
                continue;
            }
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                walk(&path, &format!("{name}/"), out);
            } else {
                let data = std::fs::read(&path).expect("an object");
                out.insert(name, blake3::hash(&data));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(store, "", &mut out);
    out
}

/// The names of the objects below `prefix`.
pub fn names(store: &Path, prefix: &str) -> Vec<String> {
    objects(store).into_keys().filter(|name| name.starts_with(prefix)).collect()
}
