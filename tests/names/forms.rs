//! An index in the whole form is read, and the first change makes a tree of it; without an index, the refs
//! themselves do.

use std::path::Path;

use tenpak::format::refs::IndexBody;
use tenpak::format::store as paths;
use tenpak::store::{Store, unix_now};
use tenpak::trust::Envelope;

use super::library::{Counted, runtime};
use super::run::{done, reader_agrees, text};
use super::{entry, listed, open, publish, remove, root_of};

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for found in std::fs::read_dir(from).expect("a folder") {
        let found = found.expect("an entry").path();
        let target = to.join(found.file_name().expect("a name"));
        match found.is_dir() {
            true => copy(&found, &target),
            false => drop(std::fs::copy(&found, &target).expect("copied")),
        }
    }
}

fn write_whole(store: &Store, count: usize, version: u64) {
    let entries = (0..count).map(|i| entry(&format!("org/m{i:04}"), 7)).collect();
    let whole = Envelope::new(IndexBody::new(entries, version, unix_now() + 1000));
    let bytes = whole.expect("an index").to_bytes().expect("an index");
    let path = paths::index();
    let put = store.transport().put(&path, vec![bytes.into()]);
    runtime().block_on(put).expect("written");
}

#[test]
fn the_golden_store_is_listed_and_then_changed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("store");
    copy(&golden.join("store"), &path);
    let store = open(&path);
    assert_eq!(listed(&store, "demo/*"), ["demo/tiny"]);
    let (public, secret) = (golden.join("key.pub"), golden.join("key"));
    let trust = ["--trust", text(&public)];
    let ls = |more: &[&str]| {
        let run = done(&[&["ls", "--store", text(&path)], &trust[..], more].concat());
        run.json["artifacts"].as_array().expect("artifacts").len()
    };
    assert_eq!((ls(&[]), ls(&["demo/"]), ls(&["demo/tiny"]), ls(&["x*"])), (1, 1, 1, 0));
    let tag = ["tag", "demo/tiny", "demo/again", "--sign", text(&secret)];
    done(&[&["--store", text(&path)], &tag[..]].concat());
    assert_eq!((ls(&[]), ls(&["demo/"]), ls(&["demo/again"])), (2, 2, 1));
    assert!(root_of(&store).body().version > 1_767_225_600_000);
    reader_agrees(&path, "demo/again", &folder.path().join("out"));
}

#[test]
fn a_change_takes_every_entry_over_in_one_step() {
    let counted = Counted::memory();
    write_whole(&counted.store, 1000, 5);
    assert_eq!(listed(&counted.store, "*").len(), 1000);
    // A writer that only loses to a newer entry leaves the form as it is.
    publish(&counted.store, "org/new", &[]);
    assert_eq!(listed(&counted.store, "*").len(), 1001);
    assert_eq!(listed(&counted.store, "org/new"), ["org/new"]);
    remove(&counted.store, "org/new");
    assert_eq!(listed(&counted.store, "*").len(), 1000);
    // The same tree as one that never was in another form.
    let other = Counted::memory();
    let entries = (0..1000).map(|i| entry(&format!("org/m{i:04}"), 7)).collect();
    super::write_index(&other.store, entries, &[]);
    assert_eq!(root_of(&counted.store).body().node, root_of(&other.store).body().node);
}

#[test]
fn without_an_index_it_is_built_from_the_refs() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    (0..40).for_each(|i| publish(&store, &format!("org/m{i:02}"), &[]));
    let node = root_of(&store).body().node;
    std::fs::remove_file(folder.path().join("refs/index")).expect("gone");
    std::fs::remove_dir_all(folder.path().join("names")).expect("gone");
    // One that cannot be read is no name.
    std::fs::create_dir_all(folder.path().join("refs/bad")).expect("a folder");
    std::fs::write(folder.path().join("refs/bad/@latest"), "{}").expect("written");
    publish(&store, "zzz", &[]);
    assert_eq!(listed(&store, "*").len(), 41);
    remove(&store, "zzz");
    assert_eq!(root_of(&store).body().node, node);
}
