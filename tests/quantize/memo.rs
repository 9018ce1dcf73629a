//! What was produced is not produced again: on one's own word, or on that of a trusted key.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use super::model::{llama, values, write};
use super::quantized;
use super::run::{Run, command, done, fresh_folder, names, objects, text};

const ALL: u64 = 12;

fn counts(run: &Run) -> (u64, u64) {
    (run.number("tensors_computed"), run.number("tensors_linked"))
}

/// Quantizes as a user whose home this is.
#[track_caller]
fn as_user(home: &Path, store: &Path, source: &str, name: &str, more: &[&str]) -> Run {
    let all = [
        "--json",
        "quantize",
        source,
        "--store",
        text(store),
        "--name",
        name,
        "--preset",
        "nf4_double",
    ];
    let mut command = command(&[&all[..], more].concat());
    let run = Run::of(command.env("HOME", home).output().unwrap());
    assert_eq!(run.status, Some(0), "{}", run.error);
    run
}

#[test]
fn a_second_run_computes_nothing_and_a_fine_tune_only_what_changed() {
    let folder = fresh_folder("second");
    let (model, store, home) = (folder.join("model"), folder.join("store"), folder.join("home"));
    let mut tensors = llama(2, 64);
    write(&model, &tensors);
    let first = as_user(&home, &store, text(&model), "q", &[]);
    assert_eq!(counts(&first), (ALL, 0));
    let second = as_user(&home, &store, text(&model), "q2", &[]);
    assert_eq!(counts(&second), (0, ALL));
    assert_eq!(first.json["manifest"], second.json["manifest"]);

    let changed = tensors
        .iter()
        .position(|(name, _, _)| name.ends_with("1.self_attn.v_proj.weight"))
        .unwrap();
    tensors[changed].2 = values(77, 64 * 64);
    write(&model, &tensors);
    let tuned = as_user(&home, &store, text(&model), "tuned", &[]);
    assert_eq!(counts(&tuned), (1, ALL - 1));
    // As if nothing had been known.
    let alone = as_user(&folder.join("other"), &folder.join("fresh"), text(&model), "tuned", &[]);
    assert_eq!((counts(&alone), &alone.json["manifest"]), ((ALL, 0), &tuned.json["manifest"]));
    // Another name is the same product, another recipe another one.
    let other = as_user(&home, &store, text(&model), "nf4", &[]);
    assert_eq!(counts(&other), (0, ALL));
    let other = quantized(&store, text(&model), "i8", &["--preset", "bnb_int8"]);
    assert_eq!(counts(&other), (ALL, 0));
}

/// Whoever can write to the store cannot choose what another signs: products of artifacts that no
/// trusted key signed are computed again.
#[test]
fn only_trusted_artifacts_are_linked() {
    let folder = fresh_folder("trusted");
    let (model, store) = (write(&folder.join("model"), &llama(2, 64)), folder.join("store"));
    let key = |name: &str| {
        let path = folder.join(name);
        done(&["keygen", text(&path)]);
        path
    };
    let (ours, theirs) = (key("ours"), key("theirs"));
    let homes = ["a", "b", "c", "d", "e"].map(|name| folder.join(name));
    let source = text(&model);
    assert_eq!(counts(&as_user(&homes[0], &store, source, "unsigned", &[])), (ALL, 0));
    let signed = |home: &Path, key: &Path, name: &str| {
        counts(&as_user(home, &store, source, name, &["--sign", text(key)]))
    };
    assert_eq!(signed(&homes[1], &ours, "first"), (ALL, 0), "nobody trusted has it");
    assert_eq!(signed(&homes[2], &theirs, "theirs"), (ALL, 0), "ours is not theirs");
    assert_eq!(signed(&homes[3], &ours, "second"), (0, ALL), "ours is there");
    let public = format!("{}.pub", text(&ours));
    let run = as_user(&homes[4], &store, source, "third", &["--trust", &public]);
    assert_eq!(counts(&run), (0, ALL), "it is trusted without signing");
}

/// A product that is no longer there as it was is computed again, and the result is the same.
#[test]
fn what_is_gone_is_computed_again() {
    let folder = fresh_folder("gone");
    let (model, store, home) = (folder.join("model"), folder.join("store"), folder.join("home"));
    write(&model, &llama(2, 64));
    let first = as_user(&home, &store, text(&model), "q", &[]);
    std::fs::remove_dir_all(store.join("manifests")).unwrap();
    std::fs::remove_dir_all(store.join("refs")).unwrap();
    let again = as_user(&home, &store, text(&model), "q", &[]);
    assert_eq!((counts(&again), &again.json["manifest"]), ((ALL, 0), &first.json["manifest"]));
    // Half a line, and lines of nothing.
    let record = std::fs::read_dir(home.join(".local/state/tenpak/produced")).unwrap().next();
    std::fs::write(record.unwrap().unwrap().path(), b"{\"manifest\":\"0\"}\n\xff\n{\"key\":")
        .unwrap();
    let again = as_user(&home, &store, text(&model), "q", &[]);
    assert_eq!(counts(&again), (ALL, 0));
}

/// Killed in the middle, the next run goes on from the weights whose packs were stored.
#[test]
fn an_interrupted_run_goes_on_at_the_tensor() {
    let folder = fresh_folder("interrupted");
    let (model, home) = (folder.join("model"), folder.join("home"));
    write(&model, &llama(3, 1024));
    let arguments = |store: &Path| {
        let all = [
            "--json",
            "quantize",
            text(&model),
            "--store",
            text(store),
            "--name",
            "q",
            "--preset",
            "bnb_int8",
        ];
        let mut command = command(&all);
        command.env("HOME", &home).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    // A run that was over before the kill reached it shows nothing: it is begun again elsewhere.
    let is_killed = |store: &PathBuf| {
        let mut child = arguments(store).spawn().unwrap();
        while names(store, "packs/").is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap().signal().is_some()
    };
    let mut stores = (0..20).map(|number| folder.join(format!("store{number}")));
    let store = stores.find(is_killed).expect("a run that is killed in its middle");
    assert!(names(&store, "refs/").is_empty(), "nothing is published");
    let run = Run::of(arguments(&store).output().unwrap());
    assert_eq!(run.status, Some(0), "{}", run.error);
    let (computed, linked) = counts(&run);
    assert!(linked > 0 && computed + linked == 18, "{computed} computed, {linked} linked");
    let other = folder.join("other");
    let whole = Run::of(arguments(&other).env("HOME", &other).output().unwrap());
    assert_eq!((counts(&whole), &whole.json["manifest"]), ((18, 0), &run.json["manifest"]));
    assert!(objects(&store).len() >= objects(&other).len());
}
