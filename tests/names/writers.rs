//! Many writers at once, and writers that end early.

use std::sync::Arc;

use tenpak::store::Store;
use tenpak::transport::TransportErrorKind;
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::{Action, Fault, FaultBackend};

use super::library::runtime;
use super::run::{Run, command, text};
use super::s3::S3Server;
use super::{listed, open, publish, remove};

const WRITERS: usize = 16;

fn names(each: usize) -> Vec<String> {
    (0..WRITERS).flat_map(|w| (0..each).map(move |i| format!("org/writer-{w:02}-{i}"))).collect()
}

/// Each writer publishes its names and takes every third away again, all at once.
fn together(open: impl Fn() -> Store) {
    let work = |writer: usize, store: Store| async move {
        for i in 0..6 {
            let name = format!("org/writer-{writer:02}-{i}").parse().expect("a name");
            let id = tenpak::ManifestId::of(b"m");
            let tag = Default::default();
            store.publish(&name, &tag, id, &[], Default::default()).await.expect("published");
            if i % 3 == 2 {
                store.unpublish(&name, &tag, &[], Default::default()).await.expect("removed");
            }
        }
    };
    runtime().block_on(async {
        let tasks: Vec<_> = (0..WRITERS).map(|w| tokio::spawn(work(w, open()))).collect();
        for task in tasks {
            task.await.expect("a writer");
        }
    });
    let expected: Vec<_> =
        names(6).into_iter().filter(|name| !name.ends_with(['2', '5'])).collect();
    assert_eq!(listed(&open(), "*"), expected);
}

#[test]
fn sixteen_writers_in_a_directory_lose_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    // A lock that two of one process share would tell nothing: each has its own.
    together(|| open(folder.path()));
    let store = open(folder.path());
    let refs = runtime().block_on(super::library::check_index(&store));
    assert_eq!(refs.len(), WRITERS * 4);
}

#[test]
fn sixteen_writers_in_a_bucket_lose_nothing() {
    let server = S3Server::start();
    server.create_bucket("bucket");
    let env = server.environment();
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("model");
    std::fs::create_dir(&model).expect("a folder");
    std::fs::write(model.join("config.json"), "{}\n").expect("a file");
    let run = |arguments: &[&str]| {
        let all = [&["--json", "--store", "s3://bucket/names"], arguments].concat();
        let mut command = command(&all);
        command.envs(env).stdout(std::process::Stdio::piped());
        command.stderr(std::process::Stdio::piped()).spawn().expect("a process")
    };
    let done = |child: std::process::Child| {
        let run = Run::of(child.wait_with_output().expect("an end"));
        assert_eq!(run.status, Some(0), "{}", run.error);
        run
    };
    done(run(&["pack", text(&model), "--name", "first"]));
    let mut expected: Vec<_> = names(1);
    let children: Vec<_> = expected.iter().map(|name| run(&["tag", "first", name])).collect();
    children.into_iter().for_each(|child| drop(done(child)));
    // The index alone tells of names that begin alike.
    let names = |pattern: &str| {
        let run = done(run(&["ls", pattern]));
        let artifacts = run.json["artifacts"].as_array().expect("artifacts").clone();
        let name = |a: &serde_json::Value| a["name"].as_str().expect("a name").to_owned();
        artifacts.iter().map(name).collect::<Vec<_>>()
    };
    assert_eq!(names("org/*"), expected);
    assert_eq!(names("org/writer-03*"), ["org/writer-03-0"]);
    expected.push("first".to_owned());
    expected.sort();
    assert_eq!(names("*"), expected);
}

/// Every request of a publish fails once: the listing is the old one or the new one.
#[test]
fn a_writer_that_ends_between_nodes_and_root_leaves_the_old_listing() {
    let folder = tempfile::tempdir().expect("a folder");
    let sound = open(folder.path());
    (0..60).for_each(|i| publish(&sound, &format!("org/old-{i:02}"), &[]));
    let old = listed(&sound, "*");
    let mut kept = [0, 0];
    for prefix in ["refs/index", "names/", "refs/org/new", "tombstones/names/"] {
        for nth in 0..8 {
            let fault = Fault::nth(prefix, nth, Action::Fail(TransportErrorKind::Io));
            let inner = Arc::new(DirBackend::new(folder.path().to_owned()));
            let faulty = Store::new(Arc::new(FaultBackend::new(inner, vec![fault])));
            let name = "org/new".parse().expect("a name");
            let (id, tag) = (tenpak::ManifestId::of(b"m"), Default::default());
            let published = faulty.publish(&name, &tag, id, &[], Default::default());
            let failed = runtime().block_on(published).is_err();
            let now = listed(&sound, "*");
            let is_old = now == old;
            assert!(is_old || now.len() == old.len() + 1 && now.contains(&"org/new".to_owned()));
            assert!(failed || !is_old, "{prefix} {nth}: done, and not listed");
            kept[usize::from(failed)] += usize::from(is_old);
            publish(&sound, "org/new", &[]);
            assert_eq!(listed(&sound, "*").len(), old.len() + 1, "{prefix} {nth}");
            remove(&sound, "org/new");
            assert_eq!(listed(&sound, "*"), old, "{prefix} {nth}");
        }
    }
    assert!(kept[0] == 0 && kept[1] >= 6, "{kept:?}");
}

/// A writer whose ref another has replaced meanwhile leaves that one's entry.
#[test]
fn a_newer_entry_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(folder.path());
    let newer = super::entry("org/m", 1 << 52);
    super::write_index(&store, vec![newer.clone(), super::entry("org/n", 1)], &[]);
    let before = super::root_of(&store).body().node;
    publish(&store, "org/m", &[]);
    assert_eq!(super::root_of(&store).body().node, before);
    publish(&store, "org/n", &[]);
    assert_ne!(super::root_of(&store).body().node, before);
    // The same of one whose ref was removed before another named it again.
    remove(&store, "org/m");
    assert_eq!(listed(&store, "*"), ["org/m", "org/n"]);
    remove(&store, "org/n");
    assert_eq!(listed(&store, "*"), ["org/m"]);
}
