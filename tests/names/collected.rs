//! Collections keep the nodes that the index leads to, and for a while those that it led to before.

use std::time::{Duration, SystemTime};

use tenpak::format::id::NodeId;
use tenpak::format::store::{self as paths, Tombstone};
use tenpak::maintain::{CollectOptions, Collected, collect};
use tenpak::store::{Store, unix_now};

use super::library::runtime;
use super::run::names;
use super::{listed, open, remove, root_of};

struct World {
    folder: tempfile::TempDir,
    store: Store,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(folder.path());
        Self { folder, store }
    }

    /// Names that lead to an artifact that is there: an empty one.
    fn publish(&self, name: &str) {
        let model = self.folder.path().join(".model");
        std::fs::create_dir_all(&model).expect("a folder");
        super::library::packed(&self.store, &model, name, Default::default());
    }

    fn collect(&self, grace: u64) -> Collected {
        let mut options = CollectOptions::default();
        options.grace = Duration::from_secs(grace);
        runtime().block_on(collect(&self.store, options)).expect("collected")
    }

    fn nodes(&self) -> Vec<String> {
        names(self.folder.path(), "names/")
    }

    fn top(&self) -> NodeId {
        root_of(&self.store).body().node
    }
}

#[test]
fn nodes_of_before_wait_for_the_grace_period() {
    let world = World::new();
    (0..5).for_each(|i| world.publish(&format!("org/m{i}")));
    let old = std::fs::read(world.folder.path().join("refs/index")).expect("an index");
    let expected = listed(&world.store, "*");
    (5..8).for_each(|i| world.publish(&format!("org/m{i}")));
    let before = world.nodes();
    assert!(before.len() > 7, "{before:?}");
    world.collect(3600);
    world.collect(3600);
    assert_eq!(world.nodes(), before);
    // A reader that began with the older root still finds everything.
    let new = std::fs::read(world.folder.path().join("refs/index")).expect("an index");
    std::fs::write(world.folder.path().join("refs/index"), &old).expect("written");
    assert_eq!(listed(&world.store, "*"), expected);
    std::fs::write(world.folder.path().join("refs/index"), &new).expect("written");
    let freed = world.collect(0).freed;
    assert!(freed.iter().any(|object| object.path.as_str().starts_with("names/")), "{freed:?}");
    let left = world.nodes();
    assert!(left.len() < before.len() && left.contains(&format!("names/{}", world.top())));
    assert_eq!(listed(&world.store, "*").len(), 8);
    std::fs::write(world.folder.path().join("refs/index"), &old).expect("written");
    let wanted = "*".parse().expect("a pattern");
    let error = runtime().block_on(world.store.listed(&wanted, &Default::default(), None));
    let error = error.expect_err("a node is gone").to_string();
    assert!(error.contains("is missing, though refs/index names it"), "{error}");
}

#[test]
fn a_tree_that_was_before_gets_its_nodes_back() {
    let world = World::new();
    world.publish("org/a");
    let first = world.top();
    let tombstone = format!("tombstones/names/{first}");
    world.publish("org/b");
    world.collect(0);
    assert!(names(world.folder.path(), "tombstones/").contains(&tombstone));
    remove(&world.store, "org/b");
    assert_eq!(world.top(), first);
    assert!(!names(world.folder.path(), "tombstones/").contains(&tombstone), "it is still marked");
    world.collect(0);
    world.collect(0);
    assert_eq!(listed(&world.store, "*"), ["org/a"]);
}

/// A collection that decided before a writer needed the node again.
#[test]
fn a_node_written_since_it_was_marked_stays() {
    let world = World::new();
    world.publish("org/a");
    let dead = paths::node(world.top());
    world.publish("org/b");
    world.collect(0);
    let age = |path: &str, seconds: u64| {
        let file = std::fs::File::options().write(true).open(world.folder.path().join(path));
        let time = SystemTime::now() - Duration::from_secs(seconds);
        file.expect("a file").set_modified(time).expect("a time");
    };
    let tombstone = format!("tombstones/{dead}");
    let marked = Tombstone::new(unix_now() - 1000).to_bytes().expect("a tombstone");
    let old = |path: &str| {
        std::fs::write(world.folder.path().join(path), &marked).expect("written");
        age(path, 1000);
    };
    old(&tombstone);
    age(dead.as_str(), 500);
    let collected = world.collect(10);
    assert!(collected.decision.free.iter().any(|(object, _)| object.path == dead));
    assert!(collected.freed.iter().all(|object| object.path != dead), "it was deleted");
    old(&tombstone);
    age(dead.as_str(), 2000);
    let collected = world.collect(10);
    assert!(collected.freed.iter().any(|object| object.path == dead), "it never goes");
}
