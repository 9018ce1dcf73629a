//! Where an engine's program is, and which version it has.
//!
//! A Python is asked for the versions of its packages, which imports nothing; any other program is run to tell its
//! own.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::engine::External;
use super::launch::Program;
use super::version;

/// How long a program may take to tell its version: some import everything first.
const PATIENCE: Duration = Duration::from_secs(180);
/// So much of what a program says is read.
const MOST: u64 = 64 << 10;

/// Prints the versions of packages as JSON; null where one is missing.
const ASK: &str = "\
import importlib.metadata as m, json, sys
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return None
print(json.dumps({name: version(name) for name in sys.argv[1:]}))
";

/// An engine that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// How it is started.
    pub program: Program,
    /// Its version, as it says it.
    pub version: String,
}

/// Why an engine cannot be started: what is missing or old, and how one comes to have it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotInstalled(pub String);

/// How the engine would be started, without a look at whether it is there.
pub fn program(engine: External, python: Option<&Path>, bin: Option<&Path>) -> Program {
    match (python, bin) {
        (Some(python), _) => Program::Python(python.display().to_string()),
        (None, Some(bin)) => Program::Bin(bin.display().to_string()),
        (None, None) => Program::Bin(engine.program().to_owned()),
    }
}

/// Finds the engine, and asks for its version and for the packages that it needs beside itself.
///
/// # Errors
/// If it is not there, too old, or lacks one of `needs`.
pub fn find(
    engine: External,
    python: Option<&Path>,
    bin: Option<&Path>,
    needs: &[(String, String)],
) -> Result<Installed, NotInstalled> {
    let missing = |what: String| {
        NotInstalled(format!("{what}: {} is not installed; {}", engine.title(), engine.install()))
    };
    let program = program(engine, python, bin);
    let (program, asked) = match program {
        Program::Python(python) => {
            let path = located(OsStr::new(&python)).ok_or_else(|| {
                NotInstalled(format!("there is no Python at {python}; name another with --python"))
            })?;
            let path = path.display().to_string();
            (Program::Python(path.clone()), Some(path))
        }
        Program::Bin(bin) => {
            let path = located(OsStr::new(&bin)).ok_or_else(|| match bin.contains('/') {
                true => missing(format!("there is no program {bin}")),
                false => missing(format!("no {bin} on PATH")),
            })?;
            let python = interpreter(&path).filter(|_| !engine.packages().is_empty());
            (Program::Bin(path.display().to_string()), python)
        }
    };
    let mut version = None;
    if let Some(python) = &asked {
        let names =
            engine.packages().iter().copied().chain(needs.iter().map(|(name, _)| name.as_str()));
        let found =
            packages(python, names).map_err(|why| NotInstalled(format!("{python}: {why}")))?;
        version = engine.packages().iter().find_map(|name| found.get(*name).cloned().flatten());
        if version.is_none() && matches!(program, Program::Python(_)) {
            return Err(missing(python.clone()));
        }
        let lacks = |(name, _): &&(String, String)| {
            version.is_some() && found.get(name).cloned().flatten().is_none()
        };
        if let Some((name, tried)) = needs.iter().find(lacks) {
            return Err(NotInstalled(format!(
                "{} needs {name} for this checkpoint, and {python} has none; `{python} -m pip install {name}=={tried}`",
                engine.title()
            )));
        }
    }
    let version = match (version, &program) {
        (Some(version), _) => version,
        (None, Program::Bin(bin) | Program::Python(bin)) => {
            let mut command = Command::new(bin);
            command.args(engine.version_arguments());
            let (right, said) =
                said(command).map_err(|error| missing(format!("{bin}: {error}")))?;
            if !right {
                let line = said.lines().last().unwrap_or_default();
                return Err(missing(format!("{bin} tells no version: {line}")));
            }
            let line = said.lines().find(|line| version::numbers(line).is_some());
            line.or(said.lines().next()).unwrap_or_default().trim().to_owned()
        }
    };
    match version::too_old(engine, &version) {
        Some(why) => Err(NotInstalled(why)),
        None => Ok(Installed { program, version }),
    }
}

/// The program of this name: on PATH, or where a path leads.
fn located(name: &OsStr) -> Option<PathBuf> {
    let executable = |path: &PathBuf| {
        use std::os::unix::fs::PermissionsExt;
        path.metadata()
            .is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    if Path::new(name).components().count() > 1 {
        return Some(PathBuf::from(name)).filter(executable);
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(executable)
}

/// The Python that runs a script, by its first lines as pip writes them.
fn interpreter(script: &Path) -> Option<String> {
    let mut head = Vec::new();
    std::fs::File::open(script).ok()?.take(4096).read_to_end(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.lines();
    let first = lines.next()?.strip_prefix("#!")?.trim();
    let mut words = first.split_whitespace();
    let program = match words.next()? {
        // A path that is too long for the first line.
        "/bin/sh" => lines
            .next()?
            .strip_prefix("'''exec' ")?
            .split('"')
            .find(|word| !word.trim().is_empty())?
            .trim(),
        env if env.ends_with("/env") => words.next()?,
        program => program,
    };
    let program = program.split(" \"").next()?.trim_matches('\'');
    let name = Path::new(program).file_name()?.to_str()?;
    (name.starts_with("python")).then(|| program.to_owned())
}

/// Versions of packages.
fn packages<'a>(
    python: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<BTreeMap<String, Option<String>>, String> {
    let mut command = Command::new(python);
    command.args(["-c", ASK]).args(names);
    let (_, said) = said(command).map_err(|error| error.to_string())?;
    let line = said.lines().last().unwrap_or_default();
    serde_json::from_str(line)
        .map_err(|_| format!("it is no Python that tells its packages: {line}"))
}

/// What a program says, on either stream, and whether it ends well.
fn said(mut command: Command) -> io::Result<(bool, String)> {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (sender, receiver) = mpsc::channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stderr.take().map(|stream| Box::new(stream) as _),
        child.stdout.take().map(|stream| Box::new(stream) as _),
    ];
    for (place, stream) in streams.into_iter().enumerate() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            // What cannot be read was not said.
            let read = stream.map(|mut stream| {
                let kept = stream.by_ref().take(MOST).read_to_end(&mut bytes);
                kept.and_then(|_| io::copy(&mut stream, &mut io::sink()))
            });
            drop(read);
            drop(sender.send((place, bytes)));
        });
    }
    let mut parts = [Vec::new(), Vec::new()];
    for _ in 0..2 {
        let Ok((place, bytes)) = receiver.recv_timeout(PATIENCE) else {
            child.kill()?;
            child.wait()?;
            let why = format!("it said nothing for {} s", PATIENCE.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        };
        if let Some(part) = parts.get_mut(place) {
            *part = bytes;
        }
    }
    let right = child.wait()?.success();
    let [mut all, out] = parts;
    all.push(b'\n');
    all.extend(out);
    Ok((right, String::from_utf8_lossy(&all).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn script(folder: &Path, name: &str, text: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn the_python_of_a_script_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let of = |text: &str| interpreter(&script(folder.path(), "s", text));
        assert_eq!(
            of("#!/opt/v/bin/python3.11\nimport x").as_deref(),
            Some("/opt/v/bin/python3.11")
        );
        assert_eq!(of("#!/usr/bin/env python3\n").as_deref(), Some("python3"));
        assert_eq!(
            of("#!/bin/sh\n'''exec' \"/a b/python\" \"$0\" \"$@\"\n").as_deref(),
            Some("/a b/python")
        );
        assert_eq!(
            of("#!/bin/sh\n'''exec' /a/python \"$0\" \"$@\"\n").as_deref(),
            Some("/a/python")
        );
        for other in ["#!/bin/sh\necho\n", "#!/bin/bash\n", "", "\u{7f}ELF", "#!"] {
            assert_eq!(of(other), None, "{other:?}");
        }
    }

    #[test]
    fn programs_tell_their_version_or_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let find = |text: &str| {
            let bin = script(folder.path(), "llama-server", text);
            find(External::LlamaCpp, None, Some(&bin), &[])
        };
        let found =
            find("#!/bin/sh\necho 'built with cc' >&2\necho 'version: 6123 (abc)' >&2\n").unwrap();
        assert_eq!(found.version, "version: 6123 (abc)");
        for (text, says) in [
            ("#!/bin/sh\necho 'version: 12 (a)'\n", "too old"),
            ("#!/bin/sh\necho broken; exit 3\n", "broken"),
            ("#!/no/such/interpreter\n", "not installed"),
        ] {
            let error = find(text).unwrap_err().to_string();
            assert!(error.contains(says) && error.contains("github.com/ggml-org"), "{error}");
        }
        let none = super::find(External::Vllm, None, Some(Path::new("/none/vllm")), &[]);
        assert!(none.unwrap_err().to_string().contains("pip install vllm"));
        let none = super::find(External::Vllm, Some(Path::new("/none/python")), None, &[]);
        assert!(none.unwrap_err().to_string().contains("--python"));
    }
}
