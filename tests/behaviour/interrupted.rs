//! `tenpak pack` killed at any moment leaves a valid store, and the next run goes on from there.
//!
//! TENPAK_SOAK=N runs N kills instead of 40.

use std::path::Path;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tenpak::store::Store;
use tenpak::transport::dir::DirBackend;

use super::library::check_store;
use super::model::{Fill, Model};
use super::run::{Run, command, names, pack, reader_agrees, text};

fn open(store: &Path) -> Store {
    Store::new(std::sync::Arc::new(DirBackend::new(store.to_owned())))
}

/// Packs and kills after `time`; the result, if it was done before.
fn pack_and_kill(store: &Path, model: &Path, codec: &str, time: Duration) -> Option<Run> {
    let arguments = ["--json", "pack", text(model), "--store", text(store), "--name", "org/model"];
    let mut command = command(&arguments);
    command.args(["--codec", codec]);
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let start = Instant::now();
    // The wait is the moment of the kill; it is random on purpose.
    while start.elapsed() < time {
        if child.try_wait().unwrap().is_some() {
            break;
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    child.kill().unwrap();
    let run = Run::of(child.wait_with_output().unwrap());
    match run.status {
        None => None,
        Some(0) => Some(run),
        status => panic!("{status:?}: {}", run.error),
    }
}

/// Stores that the second reader looks at too, which takes it minutes.
const READERS: u32 = 10;

#[test]
fn killed_at_any_moment_it_goes_on_from_there() {
    let soak = std::env::var("TENPAK_SOAK").ok().map(|n| n.parse::<usize>().expect("a number"));
    let rounds = soak.unwrap_or(40);
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("model");
    // Four packs: there is a before, a between and an after.
    let model =
        Model::layers(24, 2048, 3).with("x.bin", &super::model::bytes(8 << 20, 1, Fill::Sparse));
    model.write(&input);
    let undisturbed = folder.path().join("undisturbed");
    let start = Instant::now();
    let expected = pack(&undisturbed, &input, "org/model", &["--codec", "auto"]);
    let whole_time = start.elapsed();
    let expected_packs = names(&undisturbed, "packs/");
    assert!(expected_packs.len() >= 3);

    let mut rng = StdRng::seed_from_u64(2);
    let (mut killed, mut finished, mut resumed, mut agreed) = (0, 0, 0, 0);
    while killed < rounds {
        let store = tempfile::tempdir_in(folder.path()).unwrap();
        let store = store.path();
        // Killed again and again until it is done.
        let last = loop {
            let had_packs = names(store, "packs/").len();
            let time = whole_time.mul_f64(rng.gen_range(0.0..1.1));
            let run = pack_and_kill(store, &input, "auto", time);
            let refs = check_store(&open(store));
            if let Some(run) = run {
                finished += 1;
                break (run, had_packs);
            }
            killed += 1;
            assert!(refs <= 1);
            if killed % 8 == 0 {
                break (pack(store, &input, "org/model", &["--codec", "auto"]), had_packs);
            }
        };
        let (run, _) = last;
        assert_eq!(run.json["manifest"], expected.json["manifest"]);
        assert_eq!(run.json["stored_bytes"], expected.json["stored_bytes"]);
        let packs = names(store, "packs/").len() as u64;
        let new = run.number("new_bytes");
        let fresh = expected.number("new_bytes");
        // Whatever an earlier run had stored is not stored again.
        if new + (16 << 20) < fresh {
            resumed += 1;
        }
        assert!(new <= fresh, "{new} new bytes, {fresh} in an undisturbed run");
        assert!(packs <= expected_packs.len() as u64 + 8, "{packs} packs");
        assert_eq!(check_store(&open(store)), 1);
        if agreed < READERS {
            let out = tempfile::tempdir_in(folder.path()).unwrap();
            reader_agrees(store, "org/model", out.path());
            agreed += 1;
        }
    }
    eprintln!("{killed} killed, {finished} finished before, {resumed} resumed");
    assert!(resumed > 0, "no run found what another had left");
}

/// With one pack stored before the kill, exactly the rest is written.
#[test]
fn the_rerun_writes_only_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (input, store) = (folder.path().join("model"), folder.path().join("store"));
    Model::layers(40, 2048, 3).write(&input);
    for codec in ["raw", "zstd"] {
        std::fs::remove_dir_all(&store).ok();
        // Killed as soon as there is a pack, which is long before the end.
        let arguments = [
            "--json",
            "pack",
            text(&input),
            "--store",
            text(&store),
            "--name",
            "m",
            "--codec",
            codec,
        ];
        let mut child = command(&arguments)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        while names_in(&store.join("packs")) < 2 {
            assert!(child.try_wait().unwrap().is_none(), "done before there were two packs");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(check_store(&open(&store)), 0, "a ref before the end");
        let left: u64 = std::fs::read_dir(store.join("packs"))
            .unwrap()
            .map(|entry| entry.unwrap().metadata().unwrap().len())
            .sum();
        let run = pack(&store, &input, "m", &["--codec", codec]);
        let (new, stored) = (run.number("new_bytes"), run.number("stored_bytes"));
        assert!(new < stored - left + (256 << 10), "{new} new, {stored} stored, {left} were there");
        reader_agrees(&store, "m", &folder.path().join(codec));
    }
}

fn names_in(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, |entries| entries.count())
}
