//! `tenpak unpack` mixes with nothing that lies in its folder, and goes on where an interrupted run stopped.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::Dtype;

use super::model::{Fill, Model, Tensor, bytes, read_tree};
use super::run::{Run, command, done, objects, pack, tenpak, text};

struct World {
    folder: tempfile::TempDir,
    store: PathBuf,
    model: PathBuf,
    out: PathBuf,
}

impl World {
    fn new(model: &Model, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (store, input, out) = (at("store"), at("model"), at("out"));
        model.write(&input);
        pack(&store, &input, "m", more);
        Self { folder, store, model: input, out }
    }

    fn small() -> Self {
        let tensor = Tensor::new("a", Dtype::BF16, &[64, 64], 1, Fill::Random);
        Self::new(&Model::of(vec![tensor]).with("sub/deep/notes.txt", b"notes"), &[])
    }

    fn arguments<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        let all = ["unpack", "m", "--store", text(&self.store), "--out", text(&self.out)];
        [&all[..], more].concat()
    }

    fn unpack(&self, more: &[&str]) -> Run {
        tenpak(&self.arguments(more))
    }

    /// What is refused, and says what is in the way; nothing is written.
    #[track_caller]
    fn refused(&self, what: &str) {
        let before = read_tree(&self.out);
        let run = self.unpack(&[]);
        assert_eq!(run.status, Some(1), "{what}: {}", run.error);
        let expected = format!(
            "{}: this folder holds something else: {what}; name another folder, or give --force to \
             replace the artifact's files and leave the rest",
            self.out.display()
        );
        assert_eq!(run.text("error"), expected);
        assert_eq!(read_tree(&self.out), before);
    }

    #[track_caller]
    fn is_right(&self) {
        assert_eq!(read_tree(&self.out), read_tree(&self.model));
    }
}

#[test]
fn a_folder_of_other_things_is_refused_and_named() {
    let world = World::small();
    let at = |name: &str| world.out.join(name);
    let fresh = || {
        fs::remove_dir_all(&world.out).ok();
        fs::create_dir(&world.out).unwrap();
    };
    for (name, said) in [
        ("photo.jpg", "photo.jpg is not of this artifact"),
        ("sub/other.txt", "sub/other.txt is not of this artifact"),
        (".hidden", ".hidden is not of this artifact"),
        ("config.json", "config.json differs from this artifact's"),
        ("sub/deep/notes.txt", "sub/deep/notes.txt differs from this artifact's"),
        ("sub/.tenpak-x.part", "sub/.tenpak-x.part is not of this artifact"),
    ] {
        fresh();
        fs::create_dir_all(at("sub/deep")).unwrap();
        fs::write(at(name), "other").unwrap();
        world.refused(said);
    }
    // Of the same length, too.
    fresh();
    fs::write(at("sub-other"), "x").unwrap();
    fs::create_dir_all(at("sub/deep")).unwrap();
    fs::write(at("sub/deep/notes.txt"), "other").unwrap();
    fs::write(at("README.md"), "other").unwrap();
    world.refused("sub-other is not of this artifact");
    fs::remove_file(at("sub-other")).unwrap();
    world.refused("README.md differs from this artifact's (and 1 more)");
    // Folders and links in the places of files, and an empty folder of another name.
    fresh();
    fs::create_dir(at("config.json")).unwrap();
    world.refused("config.json is not of this artifact");
    fresh();
    fs::write(world.folder.path().join("config.json"), "{}").unwrap();
    symlink("../config.json", at("config.json")).unwrap();
    world.refused("config.json is not of this artifact");
    fresh();
    fs::create_dir_all(at("checkpoints/1")).unwrap();
    fs::create_dir_all(at("sub/old")).unwrap();
    world.refused("checkpoints is not of this artifact (and 1 more)");
}

#[test]
fn a_store_is_not_unpacked_into() {
    let mut world = World::small();
    let before = objects(&world.store);
    world.out = world.store.clone();
    let run = world.unpack(&[]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("is not of this artifact (and "), "{}", run.error);
    assert_eq!(objects(&world.store), before);
}

#[test]
fn what_is_there_and_the_same_is_kept() {
    let world = World::small();
    // An empty folder, and what a new file system has, are nothing.
    fs::create_dir_all(world.out.join("lost+found")).unwrap();
    let first = world.unpack(&[]);
    assert_eq!((first.status, first.number("kept_files")), (Some(0), 0), "{}", first.error);
    fs::remove_dir(world.out.join("lost+found")).unwrap();
    world.is_right();
    let times = || {
        let time = |path: &str| fs::metadata(world.out.join(path)).unwrap().modified().unwrap();
        ["config.json", "model.safetensors", "sub/deep/notes.txt"].map(time)
    };
    let before = times();
    let again = world.unpack(&[]);
    assert_eq!(again.status, Some(0), "{}", again.error);
    let counts = ["fetched_bytes", "requests", "kept_files"].map(|field| again.number(field));
    assert_eq!(counts, [0, 0, 4]);
    assert_eq!(again.number("kept_bytes"), again.number("raw_bytes"));
    assert_eq!(times(), before, "nothing was written");
    let shown = command(&world.arguments(&[])).output().unwrap();
    assert!(String::from_utf8(shown.stdout).unwrap().ends_with(" was there and right\n"));
    // One that is missing is fetched alone.
    fs::remove_file(world.out.join("config.json")).unwrap();
    let run = world.unpack(&[]);
    assert_eq!((run.status, run.number("kept_files")), (Some(0), 3), "{}", run.error);
    assert!(run.number("fetched_bytes") < 4096, "{}", run.json);
    world.is_right();
}

#[test]
fn by_force_only_the_artifacts_own_names_are_touched() {
    let world = World::small();
    let mine = ["photo.jpg", "sub/other.txt", "checkpoints/1/x.bin", "sub/.git/config"];
    for name in mine {
        let path = world.out.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    let outside = world.folder.path().join("outside");
    fs::write(&outside, "kept").unwrap();
    symlink(&outside, world.out.join("README.md")).unwrap();
    fs::write(world.out.join("config.json"), "{\"other\": true}").unwrap();
    fs::create_dir_all(world.out.join("sub/deep")).unwrap();
    fs::write(world.out.join("sub/deep/notes.txt"), "notes").unwrap();
    let run = world.unpack(&["--force"]);
    assert_eq!((run.status, run.number("kept_files")), (Some(0), 1), "{}", run.error);
    for name in mine {
        let path = world.out.join(name);
        assert_eq!(fs::read_to_string(&path).unwrap(), name);
        fs::remove_file(path).unwrap();
    }
    assert_eq!(fs::read_to_string(outside).unwrap(), "kept");
    world.is_right();
}

/// Starts to unpack, and kills when `now` says so; false if it was done before.
fn killed(world: &World, mut now: impl FnMut() -> bool) -> bool {
    let mut command = command(&world.arguments(&[]));
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while !now() {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// The bytes of files that are not complete.
fn partial(folder: &Path) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap());
    let partial =
        entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with(".tenpak-"));
    partial.map(|entry| entry.metadata().map_or(0, |metadata| metadata.len())).collect()
}

/// Many files: those that were complete are not fetched again.
#[test]
fn a_killed_run_goes_on_at_the_file_that_it_was_at() {
    let mut model = Model::default();
    for i in 0..24 {
        model = model.with(&format!("part-{i:02}.bin"), &bytes(4 << 20, i, Fill::Random));
    }
    let world = World::new(&model, &["--codec", "raw"]);
    let complete = || {
        let names = |i| world.out.join(format!("part-{i:02}.bin"));
        (0..24).take_while(|i| names(*i).exists()).count() as u64
    };
    assert!(killed(&world, || complete() >= 8), "it was done before");
    let kept = complete();
    assert!((8..24).contains(&kept));
    let run = world.unpack(&[]);
    assert_eq!((run.status, run.number("kept_files")), (Some(0), kept), "{}", run.error);
    // Exactly what is missing comes, and at most one file of it was begun.
    let (left, fetched) = ((24 - kept) << 22, run.number("fetched_bytes"));
    assert_eq!(run.number("kept_bytes") + fetched, 24 << 22, "{}", run.json);
    assert!(fetched <= left && fetched + (4 << 20) >= left, "{fetched} of {left}");
    assert!(partial(&world.out).is_empty());
    world.is_right();
}

/// One large file: what was written of it is not fetched again.
#[test]
fn a_killed_run_goes_on_within_a_file() {
    let world = World::new(&Model::layers(24, 2048, 3), &["--codec", "raw"]);
    let begun = || partial(&world.out).first().is_some_and(|size| *size > 40 << 20);
    assert!(killed(&world, begun), "it was done before");
    let size = partial(&world.out)[0];
    let run = world.unpack(&[]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    let (kept, raw) = (run.number("kept_bytes"), run.number("raw_bytes"));
    // All but the tensor that was on its way.
    assert!(kept <= size + 4096 && kept + (8 << 20) > size, "{kept} of {size}");
    assert!(run.number("fetched_bytes") <= raw - kept + 4096, "{}", run.json);
    assert!(partial(&world.out).is_empty());
    world.is_right();
    // A wrong beginning is of no use, and is not kept.
    fs::remove_file(world.out.join("model.safetensors")).unwrap();
    fs::write(world.out.join(".tenpak-1.part"), vec![7; 1 << 20]).unwrap();
    let run = world.unpack(&[]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert!(run.number("fetched_bytes") > 90 << 20, "{}", run.json);
    world.is_right();
}

/// A run that fails leaves what it had written to the next.
#[test]
fn a_run_that_failed_goes_on_too() {
    let world = World::new(&Model::layers(24, 2048, 3), &["--codec", "raw"]);
    let packs = world.store.join("packs");
    let packs = fs::read_dir(packs).unwrap().map(|entry| entry.unwrap().path());
    // The second pack: it is shorter.
    let pack = packs.min_by_key(|path| fs::metadata(path).unwrap().len()).unwrap();
    let good = fs::read(&pack).unwrap();
    let mut bad = good.clone();
    bad[1000] ^= 1;
    fs::write(&pack, bad).unwrap();
    let run = world.unpack(&[]);
    assert_eq!(run.status, Some(4), "{}", run.error);
    assert!(!world.out.join("model.safetensors").exists());
    fs::write(&pack, good).unwrap();
    let run = world.unpack(&[]);
    assert_eq!(run.status, Some(0), "{}", run.error);
    assert!(run.number("kept_bytes") > 16 << 20, "{}", run.json);
    assert!(partial(&world.out).is_empty());
    world.is_right();
}

#[test]
fn killed_at_any_moment_it_ends_with_the_right_files() {
    let model = Model::layers(6, 1024, 5)
        .with("a/x.bin", &bytes(3 << 20, 1, Fill::Sparse))
        .with("z.bin", &bytes(5 << 20, 2, Fill::Random));
    let world = World::new(&model, &[]);
    let start = Instant::now();
    assert_eq!(world.unpack(&[]).status, Some(0));
    let whole = start.elapsed();
    let mut random = StdRng::seed_from_u64(7);
    let (mut interrupted, mut saved) = (0, 0);
    for round in 0..30 {
        fs::remove_dir_all(&world.out).unwrap();
        for _ in 0..random.gen_range(1..4) {
            let time = whole.mul_f64(random.gen_range(0.1..1.0));
            let start = Instant::now();
            interrupted += u64::from(killed(&world, || {
                std::thread::sleep(Duration::from_micros(200));
                start.elapsed() > time
            }));
        }
        let run = world.unpack(&[]);
        assert_eq!(run.status, Some(0), "round {round}: {}", run.error);
        saved += u64::from(run.number("kept_bytes") > 0);
        world.is_right();
        assert!(partial(&world.out).is_empty() && partial(&world.out.join("a")).is_empty());
    }
    assert!(interrupted > 15 && saved > 5, "{interrupted} interrupted, {saved} of use");
}

/// Two at once write the same files; neither takes the other's away.
#[test]
fn two_runs_at_once_are_both_right() {
    let world = World::new(&Model::layers(8, 2048, 3), &[]);
    let children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = command(&world.arguments(&["--json"]));
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for child in children {
        let run = Run::of(child.wait_with_output().unwrap());
        assert_eq!(run.status, Some(0), "{}", run.error);
    }
    world.is_right();
    done(&world.arguments(&[]));
    world.is_right();
}
