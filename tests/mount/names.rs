//! Names as folders: what is published appears, and what is open stays.

use std::fs;
use std::io::{Read, Seek};
use std::path::Path;
use std::time::Duration;

use super::model::{Fill, Model, Tensor};
use super::world::{World, eventually};
use safetensors::Dtype;
use tenpak::format::name::Tag;
use tenpak::mount::{MountError, Shown};
use tenpak::store::Lifetime;
use tenpak::trust::TrustSet;

fn model(seed: u64) -> Model {
    let tensor = Tensor::new("w", Dtype::BF16, &[600, 1024], seed, Fill::Random);
    Model::of(vec![tensor]).with("seed.txt", seed.to_string().as_bytes())
}

fn list(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_new_tag_appears_and_open_files_keep_their_manifest() {
    let world = World::new("tags");
    let (_, first) = world.pack("org/a", &model(1));
    world.pack("b", &model(2));
    let mut options = world.options();
    options.names.fresh = Duration::from_millis(50);
    let mount = world.mount_with(options, Shown::Store);
    let at = mount.folder();
    assert_eq!(list(at), ["b", "org"]);
    assert_eq!(
        (list(&at.join("org")), list(&at.join("b"))),
        (vec!["a".into()], vec!["latest".into()])
    );
    let own = at.join("org/a/latest");
    assert_eq!(list(&own), ["README.md", "config.json", "model.safetensors", "seed.txt"]);
    assert!(own.join("seed.txt").exists() && at.join("org/a/main/seed.txt").exists());
    for missing in ["x", "org/x", "org/a/x", ".git", "org/a/latest/x", "org/a/@x"] {
        let error = fs::metadata(at.join(missing)).expect_err(missing);
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{missing}");
    }

    let mut open = fs::File::open(own.join("seed.txt")).expect("a file");
    let mut text = String::new();
    open.read_to_string(&mut text).expect("bytes");
    // The tag moves, and another one is made of what it was.
    let (name, tag) = ("org/a".parse().expect("a name"), "v1".parse::<Tag>().expect("a tag"));
    let publish = world.store.publish(&name, &tag, first.id, &[], Lifetime::default());
    world.runtime.block_on(publish).expect("published");
    world.pack("org/a", &model(3));
    eventually("the new tag appears", || list(&at.join("org/a")) == ["latest", "v1"]);
    eventually("the tag means another one", || {
        fs::read_to_string(own.join("seed.txt")).expect("a file") == "3"
    });
    assert_eq!(fs::read_to_string(at.join("org/a/v1/seed.txt")).expect("a file"), "1");
    open.rewind().expect("a file");
    text.clear();
    open.read_to_string(&mut text).expect("bytes");
    assert_eq!(text, "1");
    assert_eq!(mount.stats().errors, 0, "{:?}", world.told);
}

#[test]
fn a_few_names_stand_alone() {
    let world = World::new("few");
    for (seed, name) in (1..).zip(["org/a", "org/b", "c"]) {
        world.pack(name, &model(seed));
    }
    let names = ["org/b", "c:latest"].map(|text| text.parse().expect("an artifact"));
    let mount = world.mount(Shown::Names(names.into()));
    let at = mount.folder();
    assert_eq!(
        (list(at), list(&at.join("org"))),
        (vec!["c".into(), "org".into()], vec!["b".into()])
    );
    assert!(at.join("c/latest/seed.txt").exists() && !at.join("org/a").exists());
}

#[test]
fn what_nobody_trusted_signed_is_not_mounted() {
    let world = World::new("trust");
    world.pack("org/a", &model(1));
    let key = world.folder.join("key");
    super::run::done(&["keygen", key.to_str().expect("UTF-8")]);
    let public = format!("{}.pub", key.display());
    let trusting = || {
        let mut options = world.options();
        options.trust = TrustSet::load(std::slice::from_ref(&public)).expect("a key");
        options
    };
    let at = world.at("mnt");
    let refused =
        world.try_mount(trusting(), super::world::one("org/a"), &at).expect_err("unsigned");
    assert!(
        matches!(&refused, MountError::Store(error) if error.to_string().contains("sign")),
        "{refused}"
    );
    assert!(list(&at).is_empty());
    // In a store's mount it is not listed, and an error by its name.
    let mount = world.mount_with(trusting(), Shown::Store);
    assert!(list(mount.folder()).is_empty());
    assert!(fs::metadata(mount.folder().join("org/a/latest/seed.txt")).is_err());
    assert_eq!(world.packs_read(), 0);
}
