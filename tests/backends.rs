//! One contract, every backend: what a store may rely on holds for directories, memory and S3.

#![cfg(feature = "cli")]

#[path = "support/peculiar.rs"]
mod peculiar;
#[path = "support/s3.rs"]
mod s3;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::FaultBackend;
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{
    Expected, ObjectPath, ReadRange, Transport, TransportError, TransportErrorKind, Version, url,
};

fn path(text: &str) -> ObjectPath {
    ObjectPath::new(text).expect("a path")
}

fn pattern(length: usize) -> Bytes {
    (0..length).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// Reads in steps of at most `step` bytes into spare capacity that must not move.
async fn read(
    backend: &dyn Transport,
    at: &ObjectPath,
    range: ReadRange,
    step: usize,
) -> Result<(Bytes, Option<Version>), TransportError> {
    let mut reader = backend.open(at, range).await?;
    let length = usize::try_from(reader.range.end - reader.range.start).expect("a small object");
    let mut out = BytesMut::with_capacity(length + step);
    let place = out.as_ptr().addr();
    loop {
        let before = out.len();
        let n = reader.body.append(&mut out, step).await?;
        assert_eq!(out.len(), before + n);
        assert!(n <= step);
        if n == 0 {
            break;
        }
    }
    assert_eq!(out.as_ptr().addr(), place, "the buffer was reallocated");
    assert_eq!(out.len(), length);
    assert_eq!(reader.body.append(&mut out, step).await?, 0, "the end is not lasting");
    Ok((out.freeze(), reader.version))
}

fn kind<T: std::fmt::Debug>(result: Result<T, TransportError>) -> TransportErrorKind {
    result.expect_err("an error").kind
}

async fn conforms(backend: Arc<dyn Transport>) {
    let b = backend.as_ref();
    reads_what_was_written(b).await;
    ranges_are_exact(b).await;
    missing_objects_are_told(b).await;
    conditional_writes_lose_no_update(&backend).await;
    lists_are_sorted_and_complete(b).await;
    writers_and_readers_at_once(&backend).await;
}

async fn reads_what_was_written(b: &dyn Transport) {
    let big = pattern(3_000_001);
    let parts: Vec<Bytes> = (0..big.len())
        .step_by(40_000)
        .map(|at| big.slice(at..big.len().min(at + 40_000)))
        .collect();
    for (name, parts, content) in [
        ("packs/big", parts, big),
        ("packs/empty", vec![], Bytes::new()),
        ("packs/parts", vec!["".into(), "a".into(), "".into(), "bc".into()], "abc".into()),
        ("refs/org/model/@v 1+2", vec!["x".into()], "x".into()),
    ] {
        b.put(&path(name), parts).await.expect("a write");
        for step in [1 << 20, 65_537] {
            let read = read(b, &path(name), ReadRange::Full, step).await.expect("a read");
            assert!(read.0 == content, "{name} reads differently");
        }
        let info = b.head(&path(name)).await.expect("a head").expect("an object");
        assert_eq!((info.path, info.size), (path(name), content.len() as u64));
    }
    b.put(&path("packs/parts"), vec!["new".into()]).await.expect("a write");
    let (now, _) = read(b, &path("packs/parts"), ReadRange::Full, 9).await.expect("a read");
    assert_eq!(now, "new");
}

async fn ranges_are_exact(b: &dyn Transport) {
    let at = path("packs/ranges");
    let object = pattern(100_000);
    b.put(&at, vec![object.clone()]).await.expect("a write");
    for (range, start, end) in [
        (ReadRange::Bounded(0..1), 0, 1),
        (ReadRange::Bounded(5..70_000), 5, 70_000),
        (ReadRange::Bounded(99_999..100_000), 99_999, 100_000),
        (ReadRange::Bounded(0..100_000), 0, 100_000),
        (ReadRange::Suffix(1), 99_999, 100_000),
        (ReadRange::Suffix(100_000), 0, 100_000),
        (ReadRange::Suffix(u64::MAX), 0, 100_000),
    ] {
        let got = read(b, &at, range.clone(), 4096).await.expect("a read");
        assert!(got.0 == object.slice(start..end), "{range:?}");
    }
    for range in [0..100_001, 99_999..100_001, 100_000..100_001, 200_000..200_001] {
        let got = b.open(&at, ReadRange::Bounded(range.clone())).await;
        assert_eq!(kind(got), TransportErrorKind::OutOfRange, "{range:?}");
    }
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake to be refused")]
    for range in [ReadRange::Bounded(5..5), ReadRange::Bounded(9..3), ReadRange::Suffix(0)] {
        assert_eq!(kind(b.open(&at, range).await), TransportErrorKind::Invalid);
    }
    let empty = path("packs/nothing");
    b.put(&empty, vec![]).await.expect("a write");
    let (got, _) = read(b, &empty, ReadRange::Suffix(10), 10).await.expect("a read");
    assert_eq!(got, "");
    let got = b.open(&empty, ReadRange::Bounded(0..1)).await;
    assert_eq!(kind(got), TransportErrorKind::OutOfRange);
}

async fn missing_objects_are_told(b: &dyn Transport) {
    let at = path("packs/missing");
    for range in [ReadRange::Full, ReadRange::Bounded(0..1), ReadRange::Suffix(1)] {
        assert_eq!(kind(b.open(&at, range).await), TransportErrorKind::NotFound);
    }
    assert_eq!(b.head(&at).await.expect("a head"), None);
    b.delete(&at).await.expect("a deletion of nothing");
    b.put(&at, vec!["x".into()]).await.expect("a write");
    b.delete(&at).await.expect("a deletion");
    assert_eq!(b.head(&at).await.expect("a head"), None);
    // A directory of that name is no object.
    assert_eq!(b.head(&path("packs")).await.expect("a head"), None);
    assert_eq!(kind(b.open(&path("packs"), ReadRange::Full).await), TransportErrorKind::NotFound);
}

async fn conditional_writes_lose_no_update(backend: &Arc<dyn Transport>) {
    let b = backend.as_ref();
    let at = path("refs/m/@latest");
    let absent = || Expected::Absent;
    let stale = || {
        let tag = "\"0123456789abcdef0123456789abcdef\"".to_owned();
        Expected::Version(Version { tag, generation: Some("9999999".to_owned()) })
    };
    assert_eq!(kind(b.put_if(&at, stale(), "0".into()).await), TransportErrorKind::Conflict);
    assert_eq!(b.head(&at).await.expect("a head"), None);
    b.put_if(&at, absent(), "1".into()).await.expect("a first write");
    assert_eq!(kind(b.put_if(&at, absent(), "2".into()).await), TransportErrorKind::Conflict);
    assert_eq!(kind(b.put_if(&at, stale(), "2".into()).await), TransportErrorKind::Conflict);
    let (now, version) = read(b, &at, ReadRange::Full, 9).await.expect("a read");
    assert_eq!(now, "1");
    let first = Expected::Version(version.expect("a version"));
    b.put_if(&at, first.clone(), "2".into()).await.expect("a second write");
    assert_eq!(kind(b.put_if(&at, first, "3".into()).await), TransportErrorKind::Conflict);
    let (now, _) = read(b, &at, ReadRange::Full, 9).await.expect("a read");
    assert_eq!(now, "2");

    // Six tasks count to five each: no increment is lost.
    let at = path("refs/m/@count");
    b.put(&at, vec!["0".into()]).await.expect("a write");
    let count = |backend: Arc<dyn Transport>, at: ObjectPath| async move {
        let mut done = 0;
        while done < 5 {
            let whole = ReadRange::Full;
            let (now, version) = read(backend.as_ref(), &at, whole, 99).await.expect("a read");
            let now: u32 = String::from_utf8_lossy(&now).parse().expect("a number");
            let expected = Expected::Version(version.expect("a version"));
            let next = Bytes::from((now + 1).to_string());
            match backend.put_if(&at, expected, next).await {
                Ok(()) => done += 1,
                Err(e) => assert_eq!(e.kind, TransportErrorKind::Conflict, "{e}"),
            }
        }
    };
    let tasks: Vec<_> = (0..6).map(|_| tokio::spawn(count(backend.clone(), at.clone()))).collect();
    for task in tasks {
        task.await.expect("a counting task");
    }
    let (now, _) = read(b, &at, ReadRange::Full, 99).await.expect("a read");
    assert_eq!(now, "30");
}

async fn lists_are_sorted_and_complete(b: &dyn Transport) {
    let names = ["list/a.b", "list/a/b", "list/a/c/d", "list/b", "lists/other"];
    for name in names.iter().rev() {
        b.put(&path(name), vec![Bytes::from(name.to_string())]).await.expect("a write");
    }
    let found = b.list("list/").await.expect("a list");
    let listed: Vec<_> = found.iter().map(|info| info.path.as_str()).collect();
    assert_eq!(listed, &names[..4]);
    for info in &found {
        assert_eq!(info.size, info.path.as_str().len() as u64);
        let age = info.modified.elapsed().unwrap_or_default();
        assert!(age.as_secs() < 600, "{} is {age:?} old", info.path);
    }
    assert_eq!(b.list("no/such/folder/").await.expect("a list"), []);
    let all = b.list("").await.expect("a list");
    assert!(all.len() > names.len());
    assert!(all.is_sorted_by(|a, b| a.path < b.path));
}

async fn writers_and_readers_at_once(backend: &Arc<dyn Transport>) {
    let at = path("packs/contended");
    let version = |n: u8| Bytes::from(vec![n; 300_000]);
    backend.put(&at, vec![version(0)]).await.expect("a write");
    let mut tasks = Vec::new();
    for n in 1..=3 {
        let (b, at) = (backend.clone(), path("packs/contended"));
        tasks.push(tokio::spawn(async move {
            for _ in 0..4 {
                b.put(&at, vec![version(n)]).await.expect("a write");
            }
        }));
        let (b, at) = (backend.clone(), path("packs/contended"));
        tasks.push(tokio::spawn(async move {
            for _ in 0..4 {
                let whole = ReadRange::Full;
                let (now, _) = read(b.as_ref(), &at, whole, 50_000).await.expect("a read");
                assert_eq!(now.len(), 300_000);
                assert!(now.iter().all(|byte| *byte == now[0]), "two writes were mixed");
            }
        }));
    }
    for task in tasks {
        task.await.expect("a task");
    }
}

fn temp_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_conforms() {
    let dir = temp_dir();
    // Made by the first write.
    let root = dir.path().join("new/store");
    conforms(Arc::new(DirBackend::new(root.clone()))).await;
    let left = std::fs::read_dir(root.join(".tmp")).expect("a folder").count();
    assert_eq!(left, 0, "temporary files stay");
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_conforms() {
    conforms(url::open("memory://").expect("a store")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_with_the_ways_of_azure_and_gcs_conforms() {
    let bucket = Arc::new(peculiar::Peculiar::default());
    conforms(Arc::new(ObjectBackend::from_store("memory://", bucket))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrapped_backend_conforms_and_counts() {
    let counted = Arc::new(FaultBackend::counting(Arc::new(ObjectBackend::memory())));
    conforms(counted.clone()).await;
    counted.reset_stats();
    let at = path("packs/ranges");
    let read = read(counted.as_ref(), &at, ReadRange::Bounded(7..1007), 100).await;
    assert_eq!(read.expect("a read").0.len(), 1000);
    let stats = counted.stats();
    assert_eq!((stats.total().reads, stats.below("packs/").bytes_read), (1, 1000));
    assert_eq!(stats.ranges, [("packs/ranges".to_owned(), ReadRange::Bounded(7..1007))]);
}

/// The address is taken from the environment, which a process of its own has: see below.
#[test]
fn s3_conforms() {
    let server = s3::S3Server::start();
    server.create_bucket("models");
    let me = std::env::current_exe().expect("this test");
    let status = std::process::Command::new(me)
        .args(["--exact", "s3_conforms_in_its_environment", "--ignored", "--nocapture"])
        .envs(server.environment())
        .status()
        .expect("a test process");
    assert!(status.success());
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by s3_conforms, which starts the server"]
async fn s3_conforms_in_its_environment() {
    conforms(url::open("s3://models").expect("a store")).await;
    conforms(url::open("s3://models/a/prefix/").expect("a store")).await;
    let outside = url::open("s3://models/a").expect("a store");
    assert!(outside.list("").await.expect("a list").len() > 5);
    let missing = url::open("s3://no-such-bucket").expect("a store");
    let whole = ReadRange::Full;
    assert_eq!(kind(missing.open(&path("a"), whole).await), TransportErrorKind::NotFound);
}

#[tokio::test]
async fn a_directory_hides_what_is_not_the_stores() {
    let dir = temp_dir();
    let b = DirBackend::new(dir.path().to_owned());
    b.put(&path("packs/a"), vec!["x".into()]).await.expect("a write");
    std::fs::write(dir.path().join("packs/.hidden"), "x").expect("a file");
    std::fs::create_dir(dir.path().join(".git")).expect("a folder");
    std::fs::write(dir.path().join(".git/config"), "x").expect("a file");
    let outside = temp_dir();
    std::fs::write(outside.path().join("secret"), "x").expect("a file");
    std::os::unix::fs::symlink(outside.path(), dir.path().join("linked")).expect("a link");
    std::os::unix::fs::symlink("a", dir.path().join("packs/link")).expect("a link");
    std::os::unix::fs::symlink("nowhere", dir.path().join("packs/dead")).expect("a link");
    let listed = b.list("").await.expect("a list");
    let listed: Vec<_> = listed.iter().map(|info| info.path.as_str()).collect();
    assert_eq!(listed, ["packs/a", "packs/link"]);
    assert_eq!(b.list("linked/").await.expect("a list"), []);
    for name in ["linked/secret", ".git/config", "packs/.hidden"] {
        let got = b.open(&path(name), ReadRange::Full).await;
        assert_eq!(kind(got), TransportErrorKind::Invalid, "{name}");
        let put = b.put(&path(name), vec!["y".into()]).await;
        assert_eq!(kind(put), TransportErrorKind::Invalid, "{name}");
    }
    let secret = std::fs::read_to_string(outside.path().join("secret"));
    assert_eq!(secret.expect("a file"), "x");
}

#[tokio::test]
async fn a_failed_write_leaves_nothing() {
    let dir = temp_dir();
    let b = DirBackend::new(dir.path().to_owned());
    b.put(&path("packs/a"), vec!["x".into()]).await.expect("a write");
    // A file where a folder should be, and a folder where a file should be.
    for name in ["packs/a/b", "packs"] {
        b.put(&path(name), vec!["y".into()]).await.expect_err("a failure");
    }
    assert_eq!(std::fs::read_dir(dir.path().join(".tmp")).expect("a folder").count(), 0);
    assert_eq!(b.list("").await.expect("a list").len(), 1);
}

#[tokio::test]
async fn only_stale_temporary_files_are_swept() {
    let dir = temp_dir();
    let b = DirBackend::new(dir.path().to_owned());
    b.put(&path("packs/a"), vec!["x".into()]).await.expect("a write");
    let (old, new) = (dir.path().join(".tmp/old"), dir.path().join(".tmp/new"));
    std::fs::write(&new, "x").expect("a file");
    let file = std::fs::File::create(&old).expect("a file");
    let age = tenpak::transport::dir::STALE_AGE + std::time::Duration::from_secs(60);
    file.set_modified(std::time::SystemTime::now() - age).expect("a time");
    assert_eq!(b.sweep(tenpak::transport::dir::STALE_AGE).await.expect("a sweep"), 1);
    assert!(new.exists() && !old.exists());
}

#[tokio::test]
async fn files_honour_the_umask() {
    use std::os::unix::fs::PermissionsExt;
    let dir = temp_dir();
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "x").expect("a file");
    let b = DirBackend::new(dir.path().join("store"));
    b.put(&path("packs/a"), vec!["x".into()]).await.expect("a write");
    let mode = |file| std::fs::metadata(file).expect("a file").permissions().mode();
    assert_eq!(mode(dir.path().join("store/packs/a")), mode(plain));
}

#[tokio::test]
async fn small_reads_are_limited() {
    let b = ObjectBackend::memory();
    let at = path("refs/a");
    b.put(&at, vec![pattern(1000)]).await.expect("a write");
    let policy = RetryPolicy::default();
    for (range, limit, length) in [
        (ReadRange::Full, 1000, Some(1000)),
        (ReadRange::Full, 999, None),
        (ReadRange::Bounded(10..20), 10, Some(10)),
        (ReadRange::Bounded(10..21), 10, None),
        (ReadRange::Suffix(8), 8, Some(8)),
    ] {
        let read = read_all(&b, &at, range.clone(), limit, &policy).await;
        match length {
            Some(length) => assert_eq!(read.expect("a read").0.len(), length, "{range:?}"),
            None => assert_eq!(kind(read), TransportErrorKind::Protocol, "{range:?}"),
        }
    }
}
