//! The independent reader, `format-spec/reader.py`, on the golden store, on damaged copies of it,
//! and on every hostile object. It runs in the environment that `tests/setup.sh` makes (`.venv`,
//! or TENPAK_TEST_PYTHON); a missing package is a failure.

#![cfg(feature = "cli")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn golden() -> PathBuf {
    root().join("fixtures/v1")
}

fn python() -> PathBuf {
    let chosen = std::env::var_os("TENPAK_TEST_PYTHON").map(PathBuf::from);
    let python = chosen.unwrap_or_else(|| root().join(".venv/bin/python"));
    assert!(python.exists(), "{} is missing: run tests/setup.sh", python.display());
    python
}

fn reader(arguments: &[&str]) -> Output {
    let script = root().join("format-spec/reader.py");
    let output = Command::new(python()).arg("-B").arg(script).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!error.contains("Traceback"), "{arguments:?}: {error}");
    output
}

/// Runs the reader and expects an exit status; gives its standard error.
fn expect(status: i32, arguments: &[&str]) -> String {
    let output = reader(arguments);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(status), "{arguments:?}: {error}");
    error
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            out.extend(files(&path));
        } else {
            out.push(path);
        }
    }
    out.sort();
    out
}

/// A copy of the golden store and the key that signed it.
struct Store {
    folder: tempfile::TempDir,
    key: PathBuf,
}

impl Store {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(&golden().join("store"), folder.path());
        Self { folder, key: golden().join("key.pub") }
    }

    fn files(&self, below: &str) -> Vec<PathBuf> {
        files(&self.folder.path().join(below))
    }

    fn verify(&self, status: i32, more: &[&str]) -> String {
        let key = text(&self.key);
        let all =
            [&["verify", text(self.folder.path()), "demo/tiny", "--trust", key], more].concat();
        expect(status, &all)
    }
}

#[test]
fn the_golden_store_verifies_and_unpacks() {
    let store = Store::new();
    store.verify(0, &[]);
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out");
    let (place, key) = (text(store.folder.path()), text(&store.key));
    expect(0, &["unpack", place, "demo/tiny:main", text(&out), "--trust", key]);
    let expected = golden().join("files");
    let names = |root: &Path| {
        files(root).iter().map(|p| p.strip_prefix(root).unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&out), names(&expected));
    for name in names(&out) {
        assert_eq!(
            std::fs::read(out.join(&name)).unwrap(),
            std::fs::read(expected.join(&name)).unwrap(),
            "{name:?}"
        );
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |name| std::fs::metadata(out.join(name)).unwrap().permissions().mode();
        assert_ne!(mode("bin/run.sh") & 0o100, 0);
        assert_eq!(mode("config.json") & 0o111, 0);
    }
    // A folder with anything in it is left alone.
    expect(1, &["unpack", place, "demo/tiny", text(&out)]);
    let inspected = reader(&["inspect", place, "demo/tiny", "--json"]);
    let value: serde_json::Value = serde_json::from_slice(&inspected.stdout).unwrap();
    assert_eq!((&value["tensors"], &value["totals"]["files"]), (&6.into(), &6.into()));
    let id = value["manifest"].as_str().unwrap();
    expect(0, &["verify", place, &format!("@{id}"), "--trust", key]);
}

/// Serves `folder` on loopback until the process ends, with ranges or without.
fn serve(folder: PathBuf, ranges: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/some/prefix", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
            let request = lines.next().unwrap().unwrap();
            let mut range = None;
            for line in lines.map_while(|line| line.ok().filter(|line| !line.is_empty())) {
                if let Some((first, last)) = line
                    .to_lowercase()
                    .strip_prefix("range: bytes=")
                    .and_then(|r| r.split_once('-'))
                    && ranges
                {
                    range = Some((first.parse().unwrap(), last.parse::<usize>().unwrap()));
                }
            }
            let path = request.split(' ').nth(1).unwrap().strip_prefix("/some/prefix/").unwrap();
            let (status, body) = match (std::fs::read(folder.join(path)), range) {
                (Ok(body), None) => ("200 OK", body),
                (Ok(body), Some((first, last))) => {
                    ("206 Partial Content", body[first..body.len().min(last + 1)].to_vec())
                }
                (Err(_), _) => ("404 Not Found", vec![]),
            };
            let length = body.len();
            let head = format!("HTTP/1.0 {status}\r\nContent-Length: {length}\r\n\r\n");
            stream.write_all(&[head.as_bytes(), &body].concat()).unwrap();
        }
    });
    url
}

#[test]
fn a_store_is_read_over_http_with_ranges_and_without() {
    for ranges in [true, false] {
        let store = Store::new();
        let url = serve(store.folder.path().to_owned(), ranges);
        let all = ["verify", &url, "demo/tiny", "--trust", text(&store.key)];
        expect(0, &all);
        expect(3, &["verify", &url, "demo/absent"]);
        let pack = &store.files("packs")[0];
        let mut bytes = std::fs::read(pack).unwrap();
        bytes[0] ^= 1;
        std::fs::write(pack, bytes).unwrap();
        expect(4, &all);
    }
    // Port 1 of loopback: nobody listens.
    expect(1, &["verify", "http://127.0.0.1:1", "demo/tiny"]);
}

#[test]
fn what_is_not_there_or_not_trusted_has_its_own_status() {
    let store = Store::new();
    let (place, key) = (text(store.folder.path()), text(&store.key));
    expect(3, &["verify", place, "demo/absent"]);
    expect(3, &["verify", place, &format!("@{}", "0".repeat(64))]);
    expect(3, &["verify", "/nonexistent/store", "demo/tiny"]);
    expect(2, &["verify", place, "../demo"]);
    expect(2, &["verify"]);
    expect(0, &["verify", place, "demo/tiny:unsigned"]);
    assert!(
        expect(4, &["verify", place, "demo/tiny:unsigned", "--trust", key]).contains("trusted")
    );
    store.verify(4, &["--now", "4102444800"]);
    store.verify(0, &["--now", "4102444799"]);
    store.verify(4, &["--seen", "1767225600001"]);
    store.verify(0, &["--seen", "1767225600000"]);
    let other = store.folder.path().join("other.pub");
    std::fs::write(&other, format!("tenpak-ed25519-public {}\n", "3d".repeat(32))).unwrap();
    expect(4, &["verify", place, "demo/tiny", "--trust", text(&other)]);
    // A ref of another name, put in this one's place.
    let refs = store.folder.path().join("refs/demo");
    copy(&refs.join("tiny"), &refs.join("copy"));
    expect(4, &["verify", place, "demo/copy", "--trust", key]);
    std::fs::remove_dir_all(store.folder.path().join("signatures")).unwrap();
    store.verify(4, &[]);
}

/// Every byte of some objects, and some bytes of all that an artifact consists of.
#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let store = Store::new();
    for folder in ["packs", "tables", "layouts", "manifests", "refs/demo", "signatures"] {
        for file in store.files(folder) {
            let name = text(&file).to_owned();
            if name.ends_with("@unsigned") || name.ends_with(".hmac") {
                continue; // not part of what this key vouches for
            }
            let good = std::fs::read(&file).unwrap();
            for at in [0, good.len() / 3, good.len() - 1] {
                let mut bad = good.clone();
                bad[at] ^= 4;
                std::fs::write(&file, &bad).unwrap();
                store.verify(4, &[]);
            }
            std::fs::write(&file, &good).unwrap();
        }
    }
    store.verify(0, &[]);
}

#[test]
fn truncated_swapped_emptied_and_deleted_objects_are_refused() {
    let store = Store::new();
    for folder in ["packs", "tables", "layouts"] {
        for file in store.files(folder) {
            let good = std::fs::read(&file).unwrap();
            for bad in [&good[..good.len() - 1], b"", b"garbage"] {
                std::fs::write(&file, bad).unwrap();
                store.verify(4, &[]);
            }
            std::fs::write(&file, [&good[..], b"x"].concat()).unwrap();
            store.verify(4, &[]);
            std::fs::remove_file(&file).unwrap();
            store.verify(4, &[]);
            std::fs::write(&file, &good).unwrap();
        }
    }
    let [a, b] = store.files("packs").try_into().unwrap();
    let (first, second) = (std::fs::read(&a).unwrap(), std::fs::read(&b).unwrap());
    std::fs::write(&a, second).unwrap();
    std::fs::write(&b, first).unwrap();
    let error = store.verify(4, &[]);
    assert!(error.contains("chunk") && error.contains("pack"), "{error}");
    // Nothing damaged is ever left in the output.
    let out = store.folder.path().join("out");
    expect(4, &["unpack", text(store.folder.path()), "demo/tiny", text(&out)]);
    assert!(files(&out).iter().all(|file| file.ends_with("empty.txt")), "{:?}", files(&out));
}

#[derive(Deserialize)]
struct Repeat {
    at: usize,
    length: usize,
    times: usize,
}

#[derive(Deserialize)]
struct Case {
    file: String,
    kind: String,
    repeat: Option<Repeat>,
    status: Option<i32>,
}

/// `check` prints a line for each file, which begins with the status that it alone would give.
#[test]
fn hostile_objects_are_refused() {
    let hostile = root().join("fixtures/hostile");
    let list = std::fs::read(hostile.join("cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&list).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let mut kinds = std::collections::BTreeMap::<_, Vec<_>>::new();
    for (i, case) in cases.iter().enumerate() {
        let mut path = hostile.join(&case.file);
        if let Some(Repeat { at, length, times }) = case.repeat {
            let bytes = std::fs::read(&path).unwrap();
            let (head, rest) = bytes.split_at(at);
            let (part, tail) = rest.split_at(length);
            path = folder.path().join(i.to_string());
            std::fs::write(&path, [head, &part.repeat(times), tail].concat()).unwrap();
        }
        kinds.entry((&case.kind, case.status.unwrap_or(4))).or_default().push(path);
    }
    assert!(kinds.len() > 10);
    for ((kind, status), paths) in kinds {
        let mut arguments = vec!["check", kind];
        arguments.extend(paths.iter().map(|path| text(path)));
        let output = reader(&arguments);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let refused: Vec<_> =
            said.lines().filter(|l| l.starts_with(&format!("{status} "))).collect();
        assert_eq!(refused.len(), paths.len(), "{kind}: {said}");
        assert_eq!(output.status.code(), Some(status));
    }
}

#[test]
fn golden_objects_pass_the_same_checks() {
    let store = golden().join("store");
    let check = |kind: &str, paths: Vec<PathBuf>| {
        assert!(!paths.is_empty(), "no golden {kind}");
        let mut arguments = vec!["check", kind];
        arguments.extend(paths.iter().map(|path| text(path)));
        expect(0, &arguments);
    };
    for (kind, folder) in [
        ("by-tensor", "by-tensor"),
        ("lease", "leases"),
        ("tombstone", "tombstones"),
        ("layout", "layouts"),
        ("manifest", "manifests"),
        ("pack", "packs"),
        ("ref", "refs/demo"),
    ] {
        check(kind, files(&store.join(folder)));
    }
    check("chunk", files(&golden().join("chunks")));
    check("refs-index", vec![store.join("refs/index")]);
    check("refs-root", vec![golden().join("tree/refs/index")]);
    check("refs-node", files(&golden().join("tree/names")));
    check("refs-node", vec![golden().join("objects/refs-node-empty")]);
    expect(0, &["names", text(&golden().join("tree"))]);
    expect(0, &["names", text(&store)]);
    check("descriptor", vec![store.join("tenpak.json")]);
    check("tensor-page", vec![golden().join("objects/page-with-bases")]);
    check("pack", vec![golden().join("objects/pack-with-a-repetition")]);
    check("manifest", vec![golden().join("objects/manifest-later")]);
    check("manifest", vec![golden().join("objects/manifest-lineage")]);
    check("manifest", vec![golden().join("objects/manifest-incomplete")]);
}
