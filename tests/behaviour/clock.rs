//! A clock that is wrong publishes nothing that is dead: it is compared with what is in the store, and with what
//! the store's host says. Times are shown as dates.
//!
//! The clock is set by libfaketime, for the command alone.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::model::Model;
use super::run::{Run, command, done, fresh_folder, names, objects, pack, tenpak, text};
use super::s3::S3Server;

/// The library that sets the clock, from Debian.
fn library() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let found = folders.map(|folder| folder.join("faketime/libfaketime.so.1"));
    found.into_iter().find(|path| path.exists()).expect("libfaketime: run tests/setup.sh")
}

/// The command at another time: `-2h`, `+3d`, or `@2001-01-01 00:00:00`.
fn at(time: &str, arguments: &[&str]) -> Command {
    let mut command = command(&[&["--json"], arguments].concat());
    command.env("LD_PRELOAD", library()).env("FAKETIME", time).env("TZ", "UTC");
    // What waits goes by another clock.
    command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("DONT_FAKE_MONOTONIC", "1");
    command
}

fn run_at(time: &str, arguments: &[&str]) -> Run {
    Run::of(at(time, arguments).output().expect("a process"))
}

const LONG_AGO: &str = "@2001-01-01 00:00:00";

struct World {
    folder: PathBuf,
    store: PathBuf,
    model: PathBuf,
    key: PathBuf,
}

impl World {
    /// A store with a signed name that is valid.
    fn new(name: &str) -> Self {
        let folder = fresh_folder(name);
        let (store, model, key) = (folder.join("store"), folder.join("model"), folder.join("key"));
        Model::of(Vec::new()).write(&model);
        done(&["keygen", text(&key)]);
        pack(&store, &model, "m", &["--sign", text(&key)]);
        Self { folder, store, model, key }
    }

    fn loads(&self, name: &str, store: &Path) -> Run {
        let public = format!("{}.pub", self.key.display());
        tenpak(&["load", name, "--store", text(store), "--trust", &public])
    }

    fn refs(&self) -> Vec<(String, blake3::Hash)> {
        objects(&self.store).into_iter().filter(|(path, _)| path.starts_with("refs/")).collect()
    }
}

#[test]
fn nothing_is_published_by_a_clock_that_is_behind() {
    let world = World::new("behind");
    let (store, key) = (text(&world.store), text(&world.key));
    let before = world.refs();
    std::fs::write(world.model.join("new.txt"), "more").unwrap();
    let packed = names(&world.store, "packs/");
    let publishing: [&[&str]; 6] = [
        &["pack", text(&world.model), "--name", "m", "--sign", key],
        &["pack", text(&world.model), "--name", "other"],
        &["tag", "m", "n"],
        &["tag", "m", "m:v2", "--sign", key],
        &["sign", "m", "--key", key],
        &["rm", "m"],
    ];
    for arguments in publishing {
        for (time, said) in [(LONG_AGO, "2001-01-01T00:00:0"), ("-2h", "20")] {
            let run = run_at(time, &[arguments, &["--store", store]].concat());
            assert_eq!(run.status, Some(1), "{arguments:?} {time}: {}", run.error);
            let error = run.text("error");
            let begin = format!("{store}: this machine's clock says that it is {said}");
            assert!(error.starts_with(&begin), "{error}");
            let end = "Z: what it publishes would expire too early; set the clock, or give \
                       --trust-clock if it is right";
            assert!(error.contains("but its newest name was published at 20"), "{error}");
            assert!(error.ends_with(end), "{error}");
        }
    }
    assert_eq!(world.refs(), before);
    assert_eq!(names(&world.store, "packs/"), packed, "it is refused before the work");
    assert_eq!(world.loads("m", &world.store).status, Some(0));
    // A copy into a store that is newer, too.
    let old = world.folder.join("old");
    let model = text(&world.model);
    let run = run_at(LONG_AGO, &["pack", model, "--store", text(&old), "--name", "x"]);
    assert_eq!(run.status, Some(0), "an empty store tells no time: {}", run.error);
    let run = run_at(LONG_AGO, &["cp", "x", "--store", text(&old), "--to", store]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert_eq!(world.refs(), before);
    // A little behind is as good as right.
    let run = run_at("-10m", &[publishing[0], &["--store", store]].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(world.loads("m", &world.store).status, Some(0));
}

/// Somebody published with a clock that was ahead: whoever knows better says so.
#[test]
fn a_clock_that_was_ahead_keeps_nobody_out() {
    let world = World::new("ahead");
    let (store, key) = (text(&world.store), text(&world.key));
    let sign = ["sign", "m", "--key", key, "--store", store];
    let ahead = run_at("+3000d", &sign);
    assert_eq!(ahead.status, Some(0), "{}", ahead.error);
    let run = tenpak(&sign);
    assert_eq!(run.status, Some(1), "{}", run.error);
    let run = tenpak(&[&sign[..], &["--trust-clock"]].concat());
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert_eq!(run.number("version"), ahead.number("version") + 1);
    assert_eq!(world.loads("m", &world.store).status, Some(0));
    // With a damaged index the ref alone tells.
    std::fs::write(world.store.join("refs/index"), "damaged").unwrap();
    let pack = ["pack", text(&world.model), "--store", store, "--name", "m", "--sign", key];
    let run = tenpak(&pack);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("clock says"), "{}", run.error);
}

/// In a folder nobody may have published for years, but no signature lives longer than ten.
#[test]
fn nothing_is_published_by_a_clock_that_is_ahead() {
    let world = World::new("beyond");
    let (store, key) = (text(&world.store), text(&world.key));
    let before = world.refs();
    let publishing: [&[&str]; 4] = [
        &["pack", text(&world.model), "--name", "other"],
        &["tag", "m", "n"],
        &["sign", "m", "--key", key],
        &["rm", "m"],
    ];
    for arguments in publishing {
        let run = run_at("@2099-01-01 00:00:00", &[arguments, &["--store", store]].concat());
        assert_eq!(run.status, Some(1), "{arguments:?}: {}", run.error);
        let error = run.text("error");
        let begin = format!("{store}: this machine's clock says that it is 2099-01-01T00:00:0");
        let end = "Z: after it nobody whose clock is right could publish; set the clock, or give \
                   --trust-clock if it is right";
        assert!(error.starts_with(&begin) && error.ends_with(end), "{error}");
        assert!(error.contains("but its newest name was published at 20"), "{error}");
    }
    assert_eq!(world.refs(), before);
    // A name that is old does not count where another is new: the first stays as it is for ever.
    let tag = ["tag", "m", "old", "--store", store, "--trust-clock"];
    assert_eq!(run_at("@2002-01-01 00:00:00", &tag).status, Some(0));
    let again = tenpak(&tag[..5]);
    assert_eq!(again.status, Some(0), "{}", again.error);
}

/// A bucket says what time it is: an empty one is enough to tell, and a name of the future does not count.
#[test]
fn the_host_of_a_bucket_decides() {
    let server = S3Server::start();
    server.create_bucket("bucket");
    let world = World::new("host");
    let run_with = |time: &str, store: &str, name: &str, more: &[&str]| {
        let arguments = ["pack", text(&world.model), "--store", store, "--name", name];
        let arguments = [&arguments, more].concat();
        let mut command = match time {
            "" => command(&[&["--json"], &arguments[..]].concat()),
            time => at(time, &arguments),
        };
        Run::of(command.envs(server.environment()).output().expect("a process"))
    };
    let run = |time: &str, store: &str, name: &str| run_with(time, store, name, &[]);
    let behind = run(LONG_AGO, "s3://bucket/a", "m");
    assert_eq!(behind.status, Some(1), "{}", behind.error);
    assert!(behind.text("error").contains(", but its host says that it is 20"), "{}", behind.error);
    assert_eq!(run("", "s3://bucket/a", "m").status, Some(0));
    for time in ["+20m", "+3650d"] {
        let ahead = run(time, "s3://bucket/a", "m");
        assert_eq!(ahead.status, Some(1), "{}", ahead.error);
        let error = ahead.text("error");
        assert!(error.contains(", but its host says that it is 20"), "{error}");
        assert!(
            error.contains("Z: after it nobody whose clock is right could publish;"),
            "{error}"
        );
    }
    assert_eq!(run("+10m", "s3://bucket/a", "m").status, Some(0));
    let ahead = run_with("+3650d", "s3://bucket/a", "m", &["--trust-clock"]);
    assert_eq!(ahead.status, Some(0), "{}", ahead.error);
    let right = run("", "s3://bucket/a", "m");
    assert_eq!(right.status, Some(0), "{}", right.error);
    assert_eq!(right.number("version"), ahead.number("version") + 1);
}

/// `2026-11-29T09:46:37Z`, with or without thousandths.
fn is_date(text: &str) -> bool {
    let shape = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect::<String>();
    ["0000-00-00T00:00:00Z", "0000-00-00T00:00:00.000Z"].contains(&shape.as_str())
}

#[test]
fn times_are_shown_as_dates_and_versions_with_theirs() {
    let world = World::new("dates");
    let (store, key) = (text(&world.store), text(&world.key));
    let shown = |arguments: &[&str]| {
        let output = command(&[arguments, &["--store", store]].concat()).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let number = done(&["inspect", "m", "--store", store]).number("version");
    let line = shown(&["inspect", "m"]);
    let line = line.lines().find(|line| line.starts_with("name")).unwrap();
    let begin = format!("name       m:latest, version {number} (");
    let (date, rest) = line.strip_prefix(&begin).expect(line).split_once("), signed by ").unwrap();
    assert!(is_date(date), "{line}");
    let (_, rest) = rest.split_once(", expires on ").expect(line);
    let (date, rest) = rest.split_once(", in ").expect(line);
    assert!(is_date(date) && ["89 days", "90 days"].contains(&rest), "{line}");
    let renewed = shown(&["sign", "m", "--key", key, "--expires", "1"]);
    let (_, date) = renewed.trim().split_once("renewed as version ").expect(&renewed);
    assert!(date.split_once(" (").is_some_and(|(_, date)| is_date(date.trim_end_matches(')'))));
    // Three days later.
    let public = format!("{key}.pub");
    let load = ["load", "m", "--store", store, "--trust", &public];
    let run = run_at("+3d", &load);
    assert_eq!(run.status, Some(4), "{}", run.error);
    let error = run.text("error");
    let (_, rest) = error.split_once("ref m:latest expired on ").expect(&error);
    let (date, rest) = rest.split_once(" (it is ").expect(&error);
    let (now, _) = rest.split_once(" now)").expect(&error);
    assert!(is_date(date) && is_date(now), "{error}");
    let inspect = at("+3d", &["inspect", "m", "--store", store]).output().unwrap();
    assert_eq!(inspect.status.code(), Some(0));
    // What was seen before was newer.
    assert_eq!(tenpak(&load).status, Some(0));
    let seen = std::fs::read(world.store.join("refs/m/@latest")).unwrap();
    done(&["sign", "m", "--key", key, "--store", store]);
    assert_eq!(tenpak(&load).status, Some(0));
    std::fs::write(world.store.join("refs/m/@latest"), seen).unwrap();
    let error = tenpak(&load).text("error");
    let versions: Vec<_> =
        error.split(" (").skip(1).filter_map(|rest| rest.split_once(')')).collect();
    assert!(error.contains("was rolled back: version "), "{error}");
    assert!(versions.iter().filter(|(date, _)| is_date(date)).count() == 2, "{error}");
}
