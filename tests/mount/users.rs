//! Whoever mounts: a user without root through `fusermount3`, and the system through `/etc/fstab` and `mount.tenpak`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::command::{Process, is_mounted};
use super::model::Model;
use super::run::{command, done, fresh_folder};
use super::world::eventually;

/// The user without rights.
const NOBODY: u32 = 65_534;

/// A folder that any user may enter, with a store and a place to mount on; gone at the end.
struct Shared {
    folder: tempfile::TempDir,
    right: Vec<u8>,
}

impl Shared {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let model = folder.path().join("model");
        Model::layers(3, 1024, 5).write(&model);
        let (store, model_text) = (folder.path().join("store"), model.to_str().expect("UTF-8"));
        let store = store.to_str().expect("UTF-8");
        done(&["--store", store, "pack", model_text, "--name", "org/m"]);
        let right = fs::read(model.join("model.safetensors")).expect("a file");
        for name in ["mnt", "home"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
            if is_root() {
                chown(folder.path().join(name), Some(NOBODY), Some(NOBODY)).expect("its own");
            }
        }
        let open = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path(), open).expect("open to all");
        Self { folder, right }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Whatever a failed test has left.
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(self.path("mnt")).stderr(Stdio::null());
        umount.status().expect("umount");
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Gives this thread, and what it starts, a tree of folders in which /dev/fuse is open to all, as it is where udev runs.
fn with_device(place: &Shared) {
    let mode = fs::metadata("/dev/fuse").expect("this needs /dev/fuse").permissions().mode();
    if mode & 0o006 == 0o006 || !is_root() {
        return;
    }
    // SAFETY: this thread shares no working folder afterwards; nothing else changes.
    let own = unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) };
    assert_eq!(own, 0, "{}", std::io::Error::last_os_error());
    let script = "mount --make-rprivate / && mknod \"$0\" c 10 229 && chmod 666 \"$0\" && mount --bind \"$0\" /dev/fuse";
    let made = Command::new("sh").args(["-c", script]).arg(place.path("fuse")).output();
    let made = made.expect("a shell");
    assert!(made.status.success(), "{made:?}");
}

/// A program as a user without root; it is found although that user may not enter the folder that it lies in.
fn as_user(program: &str, arguments: &[&str]) -> Command {
    if !is_root() {
        let mut own = Command::new(program);
        own.args(arguments);
        return own;
    }
    let mut own = Command::new("sh");
    let script = "exec 3< \"$1\"; shift; exec setpriv --reuid 65534 --regid 65534 --clear-groups \
                  -- /proc/self/fd/3 \"$@\"";
    own.args(["-c", script, "sh", program]).args(arguments);
    own
}

/// The output of a program of the system, as that user.
fn said(program: &str, arguments: &[&str]) -> std::process::Output {
    let script = Command::new("sh")
        .args(["-c", "command -v \"$0\"", program])
        .output()
        .expect("a shell")
        .stdout;
    let path = String::from_utf8(script).expect("UTF-8");
    as_user(path.trim(), arguments).output().expect("a process")
}

#[test]
fn a_user_without_root_mounts_reads_and_unmounts() {
    let place = Shared::new();
    with_device(&place);
    let mount = |more: &[&str]| {
        let at = place.text("mnt");
        let (store, all) = (place.text("store"), [more, &["org/m", &at]].concat());
        let words = [&["--json", "--store", &store, "mount"], &all[..]].concat();
        let mut command = as_user(env!("CARGO_BIN_EXE_tenpak"), &words);
        command.env("HOME", place.path("home")).env_remove("XDG_STATE_HOME");
        command.stdin(Stdio::null());
        command
    };
    let file = place.text("mnt/model.safetensors");
    let sum = |path: &str| said("sha256sum", &[path]).stdout;
    let right = Command::new("sha256sum").arg(place.path("model/model.safetensors")).output();
    let right = right.expect("a sum").stdout[..64].to_vec();

    // It ends when it is told to, and when its user unmounts.
    for by_signal in [true, false] {
        let process = Process::of(mount(&[]));
        assert_eq!(sum(&file).get(..64), Some(&right[..]));
        if is_root() {
            let refused = fs::read(&file).expect_err("it is that user's alone");
            assert_eq!(refused.raw_os_error(), Some(libc::EACCES));
        }
        match by_signal {
            true => process.signal(libc::SIGTERM),
            false => {
                let gone = said("fusermount3", &["-u", &place.text("mnt")]);
                assert!(gone.status.success(), "{gone:?}");
            }
        }
        assert_eq!(process.end(), (Some(0), String::new()));
        assert!(!is_mounted(&place.path("mnt")));
    }

    // Killed, it leaves a folder that nobody can enter; the same user mounts over it.
    let process = Process::of(mount(&[]));
    process.signal(libc::SIGKILL);
    process.end();
    let process = Process::of(mount(&[]));
    assert_eq!(sum(&file).get(..64), Some(&right[..]));
    process.signal(libc::SIGTERM);
    assert_eq!(process.end().0, Some(0));
    assert!(!is_mounted(&place.path("mnt")), "the dead one is gone, too");
    assert!(!place.right.is_empty());
}

#[test]
fn a_user_may_not_mount_where_others_write_nor_for_others() {
    let place = Shared::new();
    with_device(&place);
    let allowed = fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let may = allowed.lines().any(|line| line.trim() == "user_allow_other");
    let store = place.text("store");
    let at = place.text("mnt");
    let mut cases = vec![];
    if is_root() {
        // The user does not own it.
        fs::create_dir(place.path("other")).expect("a folder");
        cases.push((vec!["org/m".to_owned(), place.text("other")], "cannot mount on"));
    }
    if !may {
        cases.push((vec!["--allow-other".to_owned(), "org/m".into(), at], "user_allow_other"));
    }
    for (arguments, word) in cases {
        let mut words = vec!["--json", "--store", &store, "mount"];
        words.extend(arguments.iter().map(String::as_str));
        let mut command = as_user(env!("CARGO_BIN_EXE_tenpak"), &words);
        command.env("HOME", place.path("home")).stdin(Stdio::null());
        let output = command.output().expect("a process");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{arguments:?}: {error}");
        assert!(error.contains(word), "{arguments:?}: {error}");
    }
}

/// `mount(8)` in a tree of folders of its own, in which our helper is the only one.
fn mount_by_fstab(line: &str, at: &Path, then: &str) -> std::process::Output {
    let folder = fresh_folder("fstab");
    let (helpers, table) = (folder.join("sbin"), folder.join("fstab"));
    fs::create_dir(&helpers).expect("a folder");
    symlink(env!("CARGO_BIN_EXE_tenpak"), helpers.join("mount.tenpak")).expect("a link");
    fs::write(&table, format!("{line}\n")).expect("a file");
    let script = "set -e\n\
        PATH=/usr/bin:/bin\n\
        mount --bind \"$0\" \"$(readlink -f /sbin)\"\n\
        mount -T \"$1\" \"$2\"\n\
        cd \"$2\"\n\
        eval \"$3\"\n\
        cd /\n\
        umount \"$2\"\n";
    let mut own = Command::new("unshare");
    match is_root() {
        true => own.arg("--mount"),
        false => own.args(["--user", "--map-root-user", "--mount"]),
    };
    own.args(["--propagation", "private", "--", "sh", "-c", script]);
    own.arg(&helpers).arg(&table).arg(at).arg(then);
    let outer = command(&[]);
    outer.get_envs().for_each(|(name, value)| {
        match value {
            Some(value) => own.env(name, value),
            None => own.env_remove(name),
        };
    });
    own.stdin(Stdio::null()).output().expect("unshare, of util-linux")
}

#[test]
fn a_line_in_fstab_mounts_an_artifact_or_a_store() {
    let place = Shared::new();
    let key = place.text("key");
    done(&["keygen", &key]);
    done(&["--store", &place.text("store"), "sign", "org/m", "--key", &key]);
    let cache = place.text("cache");
    let trust = format!("trust={key}.pub,cache={cache},cache_size=64M,memory=64M,retries=1");
    let right = Command::new("sha256sum").arg(place.path("model/model.safetensors")).output();
    let right = String::from_utf8(right.expect("a sum").stdout).expect("text")[..64].to_owned();
    for (options, path) in [
        (format!("ro,_netdev,nofail,noatime,x-systemd.automount,artifact=org/m,{trust}"), "."),
        (format!("defaults,user,async,allow_other,fresh=1,{trust}"), "org/m/latest"),
    ] {
        let line = format!("{} {} tenpak {options} 0 0", place.text("store"), place.text("mnt"));
        let output = mount_by_fstab(
            &line,
            &place.path("mnt"),
            &format!("sha256sum {path}/model.safetensors"),
        );
        let (out, error) = (
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        );
        assert!(output.status.success(), "{line}: {error}");
        assert!(out.contains(&right), "{line}: {out}");
        assert!(fs::read_dir(&cache).expect("the cache").count() > 0, "{line}");
        eventually("nothing is left of it", || !is_mounted(&place.path("mnt")));
    }
    // An option that nobody knows is named.
    let line = format!("{} {} tenpak ro,colour=blue 0 0", place.text("store"), place.text("mnt"));
    let output = mount_by_fstab(&line, &place.path("mnt"), "true");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && error.contains("--colour"), "{error}");
}
