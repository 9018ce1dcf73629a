//! The command: how it begins, how it ends, and that a mount can always be taken away.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use super::model::Model;
use super::run::{Run, command, done, fresh_folder};
use super::world::eventually;
use serde_json::Value;

/// A store in a folder, and a folder to mount on.
pub struct Place {
    store: String,
    at: PathBuf,
    pub right: Vec<u8>,
}

impl Place {
    fn new(name: &str) -> Self {
        Self::of(name, &Model::layers(4, 1024, 3))
    }

    pub fn of(name: &str, packed: &Model) -> Self {
        let folder = fresh_folder(name);
        let (model, store, at) = (folder.join("model"), folder.join("store"), folder.join("mnt"));
        packed.write(&model);
        fs::create_dir_all(&at).expect("a folder");
        let store = store.to_str().expect("UTF-8").to_owned();
        done(&["--store", &store, "pack", model.to_str().expect("UTF-8"), "--name", "org/m"]);
        let right = fs::read(model.join("model.safetensors")).expect("a file");
        Self { store, at, right }
    }

    fn at(&self) -> &str {
        self.at.to_str().expect("UTF-8")
    }

    pub fn weights(&self) -> PathBuf {
        self.at.join("model.safetensors")
    }

    pub fn mount(&self, more: &[&str]) -> Process {
        let all =
            [&["--json", "--store", &self.store, "mount"], more, &["org/m", self.at()]].concat();
        Process::of(command(&all))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Whatever a failed test has left.
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(&self.at).stderr(Stdio::null());
        umount.status().expect("umount");
    }
}

/// A mount in another process.
pub struct Process {
    child: Child,
    told: Value,
}

impl Process {
    #[track_caller]
    pub fn of(mut command: Command) -> Self {
        let mut child =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a process");
        let mut line = String::new();
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert!(
            told["mounted"].is_string(),
            "this needs /dev/fuse, and root or fusermount3: {told}"
        );
        Self { child, told }
    }

    pub fn signal(&self, signal: i32) {
        let id = i32::try_from(self.child.id()).expect("an id");
        // SAFETY: a child that was not waited for.
        assert_eq!(unsafe { libc::kill(id, signal) }, 0);
    }

    /// Its exit status and what it said.
    pub fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().expect("an end");
        let mut error = String::new();
        self.child.stderr.take().expect("its errors").read_to_string(&mut error).expect("text");
        (status.code(), error)
    }
}

pub fn is_mounted(at: &Path) -> bool {
    // A thread may have a tree of folders of its own.
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
    mounts.lines().any(|line| line.split(' ').nth(4) == at.to_str())
}

#[test]
fn signals_unmount_whoever_uses_it() {
    let place = Place::new("signals");
    for (signal, status, is_used) in
        [(libc::SIGTERM, 0, false), (libc::SIGINT, 130, false), (libc::SIGTERM, 0, true)]
    {
        let process = place.mount(&[]);
        assert_eq!(process.told["mounted"].as_str(), Some(place.at()));
        assert!(fs::read(place.weights()).expect("a file") == place.right);
        let open = is_used.then(|| fs::File::open(place.weights()).expect("a file"));
        process.signal(signal);
        assert_eq!(process.end(), (Some(status), String::new()));
        assert!(!is_mounted(&place.at));
        assert_eq!(fs::read_dir(&place.at).expect("the folder below").count(), 0);
        drop(open);
    }
}

#[test]
fn whoever_is_killed_leaves_an_error_and_the_next_mounts_over_it() {
    let place = Place::new("killed");
    let process = place.mount(&[]);
    let open = fs::File::open(place.weights()).expect("a file");
    process.signal(libc::SIGKILL);
    process.end();
    let error = fs::metadata(&place.at).expect_err("nobody answers");
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    assert!(open.read_at(&mut [0; 8], 5_000_000).is_err());
    let process = place.mount(&[]);
    assert!(fs::read(place.weights()).expect("a file") == place.right);
    process.signal(libc::SIGTERM);
    process.end();
    assert!(!is_mounted(&place.at), "the dead one is gone, too");
}

#[test]
fn whoever_is_stopped_goes_on_later() {
    let place = Place::new("stopped");
    let process = place.mount(&[]);
    process.signal(libc::SIGSTOP);
    let (told, read) = mpsc::channel();
    let path = place.weights();
    std::thread::spawn(move || told.send(fs::read(path)));
    assert!(read.recv_timeout(Duration::from_millis(300)).is_err(), "nobody answers yet");
    process.signal(libc::SIGCONT);
    let bytes = read.recv_timeout(Duration::from_secs(30)).expect("an answer").expect("a file");
    assert!(bytes == place.right);
    process.signal(libc::SIGTERM);
    assert_eq!(process.end().0, Some(0));
}

#[test]
fn whoever_else_unmounts_ends_the_process() {
    let place = Place::new("umount");
    let process = place.mount(&[]);
    assert!(Command::new("umount").arg(&place.at).status().expect("umount").success());
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn a_daemon_returns_when_files_can_be_read_and_the_helper_is_one() {
    let place = Place::new("daemon");
    let own = fresh_folder("helper").join("mount.tenpak");
    symlink(env!("CARGO_BIN_EXE_tenpak"), &own).expect("a link");
    let daemon =
        command(&["--json", "--store", &place.store, "mount", "org/m", place.at(), "--daemon"]);
    let mut helper = command(&[]);
    let options = "ro,_netdev,x-systemd.automount,artifact=org/m,memory=64M";
    helper = {
        let mut call = Command::new(own);
        call.args([&place.store, place.at(), "-o", options]);
        helper.get_envs().for_each(|(name, value)| {
            match value {
                Some(value) => call.env(name, value),
                None => call.env_remove(name),
            };
        });
        call
    };
    for mut call in [daemon, helper] {
        let output = call.output().expect("a process");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(fs::read(place.weights()).expect("a file") == place.right);
        assert!(Command::new("umount").arg(&place.at).status().expect("umount").success());
        eventually("it is gone", || !is_mounted(&place.at));
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_done_without() {
    let place = Place::new("full");
    let cache = fresh_folder("full-cache");
    // No file may have more than 8 KiB, as on a disk that is full.
    let inner = command(&[
        "--json",
        "--store",
        &place.store,
        "mount",
        "--cache",
        cache.to_str().expect("UTF-8"),
        "org/m",
        place.at(),
    ]);
    let mut limited = Command::new("sh");
    limited.args(["-c", "trap '' XFSZ; ulimit -f 16; exec \"$@\"", "sh"]);
    limited.arg(inner.get_program()).args(inner.get_args());
    inner.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    });
    let process = Process::of(limited);
    assert!(fs::read(place.weights()).expect("a file") == place.right);
    process.signal(libc::SIGTERM);
    assert_eq!(process.end(), (Some(0), String::new()));
}

#[test]
fn what_cannot_be_mounted_is_said() {
    let place = Place::new("wrong");
    let failed = |arguments: &[&str]| {
        let all = [&["--json", "--store", &place.store, "mount"], arguments].concat();
        let run = Run::of(command(&all).output().expect("a process"));
        (run.status, run.error)
    };
    let missing = place.at.join("missing");
    let missing = missing.to_str().expect("UTF-8");
    for (arguments, status, word) in [
        (&["org/x", place.at()][..], 3, "org/x"),
        (&["org/m", missing], 3, "cannot mount on"),
        (&["org/m", missing, "--daemon"], 3, "cannot mount on"),
        (&["a b", place.at()], 2, "no artifact"),
        (&["/nowhere/store", place.at()], 2, "which one"),
        (&["org/m", "@0123456789ab", place.at()], 2, "mounted alone"),
        (&[], 2, "ARTIFACT"),
    ] {
        let (found, error) = failed(arguments);
        assert_eq!((found, error.contains(word)), (Some(status), true), "{arguments:?}: {error}");
    }
    let run = Run::of(
        command(&["--json", "mount", "./nowhere", place.at()]).output().expect("a process"),
    );
    assert_eq!(run.status, Some(3), "{}", run.error);
    assert!(!is_mounted(&place.at));
}
