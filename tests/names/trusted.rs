//! Under trusted keys the index counts only as a whole, as it was signed, and never an older one.

use ed25519_dalek::SigningKey;
use tenpak::format::name::NamePattern;
use tenpak::format::refs::{IndexBody, RootBody};
use tenpak::format::store as paths;
use tenpak::store::{Store, StoreError, unix_now};
use tenpak::transport::ObjectPath;
use tenpak::trust::{Envelope, SeenRefs, Signer, TrustError, TrustSet};

use super::library::runtime;
use super::run::{Run, command, done, pack, reader, text};
use super::{entry, listed, open, publish, root_of, write_index};

struct World {
    folder: tempfile::TempDir,
    store: Store,
    seen: SeenRefs,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn signer(seed: u8) -> [Signer; 1] {
    [Signer::Ed25519(key(seed))]
}

fn trust(seed: u8, names: Option<&[&str]>) -> TrustSet {
    let mut set = TrustSet::default();
    let names = names.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
    set.add_ed25519(key(seed).verifying_key(), names).expect("a key");
    set
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder.path().join("store"));
        let seen = SeenRefs::at(folder.path().join("seen"));
        Self { folder, store, seen }
    }

    fn ask(&self, trust: &TrustSet) -> Result<Vec<String>, StoreError> {
        let all = NamePattern::ALL;
        let listed = self.store.listed(&all, trust, Some(&self.seen));
        let listed = runtime().block_on(listed)?.expect("an index");
        Ok(listed.entries.iter().map(|entry| entry.name.to_string()).collect())
    }

    fn read(&self, path: &ObjectPath) -> Vec<u8> {
        std::fs::read(self.folder.path().join("store").join(path.as_str())).expect("an object")
    }

    fn write(&self, path: &ObjectPath, bytes: &[u8]) {
        let file = self.folder.path().join("store").join(path.as_str());
        std::fs::write(file, bytes).expect("written");
    }
}

macro_rules! refused {
    ($result:expr, $pattern:pat) => {
        match $result {
            Err(StoreError::Trust($pattern)) => {}
            other => panic!("{other:?}"),
        }
    };
}

#[test]
fn only_a_root_that_a_trusted_key_signed_counts() {
    let world = World::new();
    publish(&world.store, "a/one", &signer(1));
    publish(&world.store, "b/two", &signer(1));
    assert_eq!(world.ask(&trust(1, None)).expect("a listing"), ["a/one", "b/two"]);
    refused!(world.ask(&trust(2, None)), TrustError::UntrustedKey { .. });
    assert_eq!(world.ask(&trust(1, Some(&["b/*"]))).expect("a listing"), ["b/two"]);
    let good = world.read(&paths::index());
    let text = String::from_utf8(good.clone()).expect("text");
    let node = root_of(&world.store).body().node.to_hex();
    for (from, to) in [(node, "0".repeat(64)), ("\"expires\":1".into(), "\"expires\":2".into())] {
        assert!(text.contains(&from), "{text}");
        world.write(&paths::index(), text.replace(&from, &to).as_bytes());
        refused!(world.ask(&trust(1, None)), TrustError::WrongSignature { .. });
    }
    publish(&world.store, "c", &[]);
    refused!(world.ask(&trust(1, None)), TrustError::Unsigned { .. });
    let body = RootBody::new(root_of(&world.store).body().node, 1, unix_now());
    let mut late = Envelope::new(body).expect("a root");
    late.sign(&signer(1)[0]).expect("signed");
    world.write(&paths::index(), &late.to_bytes().expect("a root"));
    refused!(world.ask(&trust(1, None)), TrustError::Expired { .. });
}

#[test]
fn an_older_index_is_refused_in_either_form() {
    let world = World::new();
    let own = trust(1, None);
    let mut whole =
        Envelope::new(IndexBody::new(vec![entry("a", 1)], 5, unix_now() + 1000)).expect("an index");
    whole.sign(&signer(1)[0]).expect("signed");
    std::fs::create_dir_all(world.folder.path().join("store/refs")).expect("a folder");
    world.write(&paths::index(), &whole.to_bytes().expect("an index"));
    assert_eq!(world.ask(&own).expect("a listing"), ["a"]);
    publish(&world.store, "b", &signer(1));
    let first = world.read(&paths::index());
    assert_eq!(world.ask(&own).expect("a listing"), ["a", "b"]);
    publish(&world.store, "c", &signer(1));
    let second = world.read(&paths::index());
    assert_eq!(world.ask(&own).expect("a listing"), ["a", "b", "c"]);
    for old in [&whole.to_bytes().expect("an index"), &first] {
        world.write(&paths::index(), old);
        refused!(world.ask(&own), TrustError::RolledBack { .. });
    }
    // Its nodes are all there: without the memory of what was seen it would count.
    assert_eq!(listed(&world.store, "*"), ["a", "b"]);
    // The same version for another tree.
    let of = |bytes: &[u8]| Envelope::<RootBody>::parse(bytes).expect("a root").body().clone();
    let forked = RootBody::new(of(&first).node, of(&second).version, of(&second).expires);
    let mut forked = Envelope::new(forked).expect("a root");
    forked.sign(&signer(1)[0]).expect("signed");
    world.write(&paths::index(), &forked.to_bytes().expect("a root"));
    refused!(world.ask(&own), TrustError::TwoIndexes { .. });
    world.write(&paths::index(), &second);
    assert_eq!(world.ask(&own).expect("a listing"), ["a", "b", "c"]);
}

/// A node of another time in the place of one that the root leads to.
#[test]
fn old_nodes_do_not_mix_with_a_new_root() {
    let world = World::new();
    let own = trust(1, None);
    let many = (0..300).map(|i| entry(&format!("org/m{i:03}"), 1));
    write_index(&world.store, many.collect(), &signer(1));
    let nodes = || super::run::names(&world.folder.path().join("store"), "names/");
    let before = nodes();
    assert_eq!(world.ask(&own).expect("a listing").len(), 300);
    publish(&world.store, "org/m100", &signer(1));
    assert_eq!(world.ask(&own).expect("a listing").len(), 300);
    let new: Vec<_> = nodes().into_iter().filter(|node| !before.contains(node)).collect();
    // One leaf, one node above, and perhaps a top.
    assert!((2..=4).contains(&new.len()), "{new:?}");
    for node in new {
        let path = ObjectPath::new(node).expect("a path");
        let good = world.read(&path);
        for old in &before {
            world.write(&path, &world.read(&ObjectPath::new(old.clone()).expect("a path")));
            let error = world.ask(&own).expect_err("a node of before was taken").to_string();
            assert!(error.contains(path.as_str()) && error.contains("digest"), "{error}");
        }
        std::fs::remove_file(world.folder.path().join("store").join(path.as_str())).expect("gone");
        let error = world.ask(&own).expect_err("a node is missing").to_string();
        assert!(error.contains(path.as_str()) && error.contains("names it"), "{error}");
        world.write(&path, &good);
    }
    assert_eq!(world.ask(&own).expect("a listing").len(), 300);
}

/// The second reader finds a ref in the tree, and refuses one that is older than the tree says.
#[test]
fn the_second_reader_knows_the_tree() {
    let world = World::new();
    let folder = world.folder.path();
    let (store, key, public) = (folder.join("store"), folder.join("key"), folder.join("key.pub"));
    let model = folder.join("model");
    std::fs::create_dir(&model).expect("a folder");
    std::fs::write(model.join("config.json"), "{}\n").expect("a file");
    done(&["keygen", text(&key)]);
    let sign = ["--sign", text(&key)];
    (0..40).for_each(|i| publish(&world.store, &format!("org/m{i:02}"), &[]));
    pack(&store, &model, "org/own", &sign);
    let old = world.read(&ObjectPath::new("refs/org/own/@latest").expect("a path"));
    pack(&store, &model, "org/own", &sign);
    let verify = || reader(&["verify", text(&store), "org/own", "--trust", text(&public)]);
    assert_eq!(verify().0, 0, "{}", verify().1);
    world.write(&ObjectPath::new("refs/org/own/@latest").expect("a path"), &old);
    let (status, said) = verify();
    assert!(status == 4 && said.contains("older than the index says"), "{said}");
    // Every node is where the second reading of the format has it.
    assert_eq!(reader(&["names", text(&store)]).0, 0);
    let top = paths::node(root_of(&world.store).body().node);
    let good = world.read(&top);
    world.write(&top, &good[..good.len() - 1]);
    let (status, said) = reader(&["names", text(&store)]);
    assert!(status == 4 && said.contains("digest differs"), "{said}");
}

/// `ls` remembers the index of each store, whatever its address looks like from where it is asked.
#[test]
fn ls_refuses_an_older_index_of_the_same_store_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (key, public) = (folder.path().join("key"), folder.path().join("key.pub"));
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    std::fs::write(model.join("config.json"), "{}\n").expect("a file");
    done(&["keygen", text(&key)]);
    let place = |which: &str| folder.path().join(which);
    for which in ["older", "newer"] {
        pack(&place(which).join("store"), &model, "org/m", &["--sign", text(&key)]);
    }
    let ls = |which: &str| {
        let arguments = ["--json", "--store", "store", "--trust", text(&public), "ls"];
        let output = command(&arguments).current_dir(place(which)).output();
        Run::of(output.expect("a process"))
    };
    for which in ["newer", "older"] {
        let run = ls(which);
        assert_eq!(run.status, Some(0), "{which}: {}", run.error);
    }
    let index = place("newer").join("store/refs/index");
    let old = std::fs::read(&index).expect("an index");
    pack(&place("newer").join("store"), &model, "org/n", &["--sign", text(&key)]);
    assert_eq!(ls("newer").status, Some(0));
    std::fs::write(&index, old).expect("written");
    let run = ls("newer");
    assert_eq!(run.status, Some(4), "{}", run.error);
    assert!(run.error.contains("rolled back"), "{}", run.error);
}
