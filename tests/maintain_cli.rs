//! The maintenance commands through the binary: exit statuses, JSON, and kill -9 at any moment.

#![cfg(feature = "cli")]

#[path = "support/safetensors.rs"]
mod model;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use model::SMALL;
use rand::{Rng, SeedableRng, rngs::StdRng};

fn tenpak(home: &Path, store: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenpak"));
    command.env("HOME", home).env_remove("XDG_CONFIG_HOME").env_remove("XDG_DATA_HOME");
    command.env_remove("TENPAK_STORE").arg("--store").arg(store).arg("--json").args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn run(home: &Path, store: &Path, args: &[&str]) -> (i32, serde_json::Value, String) {
    let Output { status, stdout, stderr } =
        tenpak(home, store, args).output().expect("the binary runs");
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    let last = stdout.lines().last().unwrap_or("null");
    let json = serde_json::from_str(last).unwrap_or(serde_json::Value::Null);
    (status.code().unwrap_or(-1), json, String::from_utf8_lossy(&stderr).into_owned())
}

/// Runs what must succeed.
fn ok(home: &Path, store: &Path, args: &[&str]) -> serde_json::Value {
    let (status, json, stderr) = run(home, store, args);
    assert_eq!(status, 0, "{args:?}: {stderr}");
    json
}

#[test]
fn exit_statuses_and_json_are_what_scripts_rely_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (home, store) = (dir.path(), dir.path().join("store"));
    let folder = model::write(&home.join("m"), SMALL);
    let path = folder.to_str().expect("UTF-8");
    ok(home, &store, &["pack", path, "--name", "a"]);
    ok(home, &store, &["pack", path, "--name", "b"]);
    let right = ok(home, &store, &["verify", "a"]);
    assert_eq!(right["ok"], true);
    assert_eq!(right["damaged"].as_array().map(Vec::len), Some(0));
    assert_eq!(ok(home, &store, &["verify"])["artifacts"].as_array().map(Vec::len), Some(1));
    assert_eq!(run(home, &store, &["verify", "none"]).0, 3);
    let id = format!("@{}", "0".repeat(64));
    assert_eq!(run(home, &store, &["verify", &id]).0, 3);
    assert_eq!(run(home, &store, &["gc", "--grace", "soon"]).0, 2);
    assert_eq!(ok(home, &store, &["gc", "--dry-run"])["freed"]["objects"], 0);
    assert_eq!(ok(home, &store, &["diff", "a", "b"])["same"], true);
    let seen = ok(home, &store, &["inspect", "a"]);
    assert_eq!(seen["tensors"].as_array().map(Vec::len), Some(SMALL.len()));
    assert_eq!(seen["files"].as_array().map(Vec::len), Some(3));
    assert_eq!(seen["tensors"][0]["dtype"], "BF16");
    assert!(ok(home, &store, &["du"])["artifacts"].is_array());
    assert_eq!(
        ok(home, &store, &["du", "a"])["unique_bytes"].as_u64(),
        ok(home, &store, &["du", "a"])["stored_bytes"].as_u64()
    );
    assert_eq!(ok(home, &store, &["repack"])["artifacts"][0]["rewritten"], false);
    let to = home.join("copy");
    let copied = ok(home, &store, &["cp", "a", "--to", to.to_str().expect("UTF-8")]);
    assert_eq!(copied["skipped_bytes"], 0);
    assert_eq!(ok(home, &to, &["verify", "a"])["ok"], true);
    // A damaged pack: 4, and the object is the whole of what is printed.
    let pack = std::fs::read_dir(to.join("packs")).expect("packs").next().expect("one");
    let pack = pack.expect("an entry").path();
    let mut bytes = std::fs::read(&pack).expect("a pack");
    bytes[1000] ^= 1;
    std::fs::write(&pack, &bytes).expect("written");
    let (status, json, stderr) = run(home, &to, &["verify", "a"]);
    assert_eq!((status, &json["ok"]), (4, &serde_json::Value::Bool(false)), "{stderr}");
    assert_eq!(json["damaged"].as_array().map(Vec::len), Some(1), "{json}");
    std::fs::remove_file(&pack).expect("removed");
    assert_eq!(run(home, &to, &["verify", "a"]).0, 4);
    // A stranger's key: refused, nothing is copied.
    ok(home, &store, &["keygen", home.join("key").to_str().expect("UTF-8")]);
    let public = home.join("key.pub");
    let public = public.to_str().expect("UTF-8");
    let third = home.join("third");
    let args = ["cp", "a", "--to", third.to_str().expect("UTF-8"), "--trust", public];
    assert_eq!(run(home, &store, &args).0, 4);
    assert!(!third.exists());
    assert_eq!(run(home, &store, &["verify", "a", "--trust", public]).0, 4);
}

/// Whoever trusts somebody reads nothing that they did not sign, by any command; and what the store
/// lacks is read from a mirror.
#[test]
fn every_command_that_reads_checks_trust_and_knows_mirrors() {
    let dir = tempfile::tempdir().expect("a folder");
    let (home, store) = (dir.path(), dir.path().join("store"));
    let at = |name: &str| home.join(name).to_str().expect("UTF-8").to_owned();
    let folder = model::write(&home.join("m"), SMALL);
    ok(home, &store, &["pack", folder.to_str().expect("UTF-8"), "--name", "a"]);
    ok(home, &store, &["keygen", &at("key")]);
    let (public, mirror, out, to) = (at("key.pub"), at("store"), at("out"), at("copy"));
    let reading: [&[&str]; 6] = [
        &["load", "a"],
        &["unpack", "a", "--out", &out],
        &["inspect", "a"],
        &["du", "a"],
        &["diff", "a", "a"],
        &["cp", "a", "--to", &to],
    ];
    for args in reading.into_iter().chain([&["verify", "a"][..], &["tag", "a", "b"]]) {
        let (status, _, stderr) = run(home, &store, &[args, &["--trust", &public]].concat());
        assert_eq!(status, 4, "{args:?}: {stderr}");
    }
    assert!(!Path::new(&out).exists() && !Path::new(&to).exists());
    for args in reading {
        let (status, _, stderr) = run(home, &home.join("empty"), args);
        assert_eq!(status, 3, "{args:?}: {stderr}");
        ok(home, &home.join("empty"), &[args, &["--mirror", &mirror]].concat());
    }
}

/// Starts the command, kills it after a random while, and returns whether it was done by then.
fn killed(mut command: Command, longest: Duration, random: &mut StdRng) -> bool {
    let mut child =
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary runs");
    std::thread::sleep(Duration::from_micros(random.gen_range(0..longest.as_micros() as u64)));
    // Kill is signal 9; a child that ended meanwhile is no error.
    child.kill().expect("killed");
    child.wait().expect("waited").success()
}

/// Rounds in the usual run, unless the environment asks for more.
fn rounds() -> u64 {
    let asked = std::env::var("TENPAK_KILL_ROUNDS").ok().and_then(|text| text.parse().ok());
    asked.unwrap_or(30)
}

fn timed(command: &mut Command) -> Duration {
    let start = std::time::Instant::now();
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    start.elapsed()
}

#[test]
fn killed_copies_leave_a_sound_store_and_the_next_goes_on() {
    let dir = tempfile::tempdir().expect("a folder");
    let (home, store) = (dir.path(), dir.path().join("store"));
    let folder = model::write(&home.join("m"), SMALL);
    ok(home, &store, &["pack", folder.to_str().expect("UTF-8"), "--name", "a"]);
    let first = home.join("first");
    let whole =
        timed(&mut tenpak(home, &store, &["cp", "a", "--to", first.to_str().expect("UTF-8")]));
    let mut random = StdRng::seed_from_u64(11);
    let mut interrupted = 0;
    for round in 0..rounds() {
        let to = home.join(format!("to{round}"));
        let text = to.to_str().expect("UTF-8");
        let copy = tenpak(home, &store, &["cp", "a", "--to", text]);
        interrupted += u64::from(!killed(copy, whole * 5 / 4, &mut random));
        // Whatever is named is complete.
        if to.join("tenpak.json").exists() {
            assert_eq!(ok(home, &to, &["verify"])["ok"], true, "round {round}");
        }
        ok(home, &store, &["cp", "a", "--to", text]);
        assert_eq!(ok(home, &to, &["verify", "a"])["chunks"].as_u64().map(|n| n > 0), Some(true));
        std::fs::remove_dir_all(&to).expect("removed");
    }
    assert!(interrupted > rounds() / 4, "only {interrupted} were interrupted");
}

#[test]
fn killed_collections_leave_a_sound_store_and_the_next_completes() {
    let dir = tempfile::tempdir().expect("a folder");
    let (home, store) = (dir.path(), dir.path().join("store"));
    let kept = model::write(&home.join("kept"), SMALL);
    ok(home, &store, &["pack", kept.to_str().expect("UTF-8"), "--name", "kept"]);
    let whole = timed(&mut tenpak(home, &store, &["gc", "--grace", "0s"]));
    let mut random = StdRng::seed_from_u64(12);
    let mut interrupted = 0;
    for round in 0..rounds() {
        let tensors: Vec<_> =
            SMALL[1..4].iter().map(|(name, shape, _)| (*name, *shape, 1000 + round)).collect();
        let model = model::write(&home.join("gone"), &tensors);
        ok(home, &store, &["pack", model.to_str().expect("UTF-8"), "--name", "gone"]);
        ok(home, &store, &["rm", "gone"]);
        for _ in 0..3 {
            let gc = tenpak(home, &store, &["gc", "--grace", "0s"]);
            interrupted += u64::from(!killed(gc, whole * 5 / 4, &mut random));
            assert_eq!(ok(home, &store, &["verify"])["ok"], true, "round {round}");
        }
        ok(home, &store, &["gc", "--grace", "0s"]);
        ok(home, &store, &["gc", "--grace", "0s"]);
        assert_eq!(std::fs::read_dir(store.join("manifests")).expect("manifests").count(), 1);
        assert_eq!(std::fs::read_dir(store.join("packs")).expect("packs").count(), 1);
    }
    assert!(interrupted > rounds() / 4, "only {interrupted} were interrupted");
}

/// Hundreds of rounds, for the long run: `make soak`.
#[test]
#[ignore = "takes minutes"]
fn soak_kills() {
    let own = std::env::current_exe().expect("this test");
    for test in ["killed_copies", "killed_collections"] {
        let rounds = std::env::var("TENPAK_KILL_ROUNDS").unwrap_or_else(|_| "300".to_owned());
        let status =
            Command::new(&own).arg(test).env("TENPAK_KILL_ROUNDS", rounds).status().expect("run");
        assert!(status.success(), "{test}");
    }
}
