//! Tools that copy only what is newer: after a tag moved to files of the same names and sizes, they have the new bytes.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::command::Served;
use super::model;
use super::run::{fresh_folder, pack, python_command, text};

const FIRST: &[model::Tensor<'_>] =
    &[("a.weight", &[512, 512], 1), ("b.weight", &[300, 100], 2), ("c.bias", &[64], 3)];
const SECOND: &[model::Tensor<'_>] =
    &[("a.weight", &[512, 512], 11), ("b.weight", &[300, 100], 12), ("c.bias", &[64], 13)];

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
    let second = model::write(&served.folder.join("second"), SECOND);
    let new = read(&second);
    assert!(new.len() == old.len() && new != old);
    // Times are told in seconds.
    let now = seconds();
    while seconds() <= now {
        std::thread::sleep(Duration::from_millis(20));
    }
    pack(&served.folder.join("store"), &second, "org/m", &[]);
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
            let source = format!(
                ":s3,provider=Other,list_version=2,region=us-east-1,endpoint='http://{}/s3':org/m",
                served.address
            );
            let config = ["--config", "/dev/null", "sync"];
            let mut command = program("rclone", &config);
            command.args(more).args([&source, text(out)]);
            run(command);
        });
    }
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
