//! A store that is not there is not an empty one: whoever reads says so, whoever packs makes it and says so.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Output, Stdio};

use super::model::Model;
use super::run::{Run, command, objects, pack, tenpak, text};
use super::s3::S3Server;
use super::web::{Step, WebServer, answer};

/// Every command that reads a store, each in its forms; `none` stands where an artifact does.
const READING: [&[&str]; 19] = [
    &["ls"],
    &["ls", "org/"],
    &["load", "none"],
    &["load", "@0123456789abcdef"],
    &["load", "@0000000000000000000000000000000000000000000000000000000000000000"],
    &["unpack", "none", "--out", "/nowhere"],
    &["inspect", "none"],
    &["verify"],
    &["verify", "none"],
    &["du"],
    &["du", "none"],
    &["diff", "none", "other"],
    &["cp", "none", "--to", "/nowhere"],
    &["tag", "none", "other"],
    &["rm", "none"],
    &["gc"],
    &["gc", "--dry-run"],
    &["repack"],
    &["repack", "none"],
];

/// What a run says of a store that is not there.
fn said(store: &str) -> String {
    format!(
        "no store at {store}: there is no tenpak.json; check the address (`tenpak pack` makes a store)"
    )
}

fn all_say_so(store: &str) {
    for arguments in READING {
        let run = tenpak(&[arguments, &["--store", store]].concat());
        assert_eq!(run.status, Some(3), "{arguments:?}: {}", run.error);
        assert_eq!(run.text("error"), said(store), "{arguments:?}");
        assert_eq!(run.number("status"), 3);
    }
}

#[test]
fn every_command_that_reads_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    all_say_so(&at("nowhere"));
    assert!(!folder.path().join("nowhere").exists(), "reading made something");
    // An empty folder, one of other things, one where a writer was killed before the first object, a file.
    fs::create_dir(at("empty")).unwrap();
    fs::create_dir_all(at("other/packs")).unwrap();
    fs::write(at("other/packs/data.bin"), "mine").unwrap();
    fs::create_dir_all(at("killed/.tmp")).unwrap();
    fs::write(at("killed/.tmp/1.tmp"), "{").unwrap();
    fs::write(at("file"), "a file").unwrap();
    for name in ["empty", "other", "killed", "file"] {
        let before = objects(Path::new(&at(name)));
        for arguments in READING {
            let run = tenpak(&[arguments, &["--store", &at(name)]].concat());
            assert_eq!(run.status, Some(3), "{name} {arguments:?}: {}", run.error);
            assert_eq!(run.text("error"), said(&at(name)), "{arguments:?}");
        }
        assert_eq!(objects(Path::new(&at(name))), before, "{name}");
    }
    // The store of nobody who ever packed: below HOME.
    let home = at("home");
    let Output { status, stderr, .. } =
        command(&["ls"]).env("HOME", &home).output().expect("a process");
    let expected = format!("tenpak: {}\n", said(&format!("{home}/.local/share/tenpak/store")));
    assert_eq!((status.code(), String::from_utf8(stderr).unwrap()), (Some(3), expected));
    // A model that is neither a folder nor an artifact.
    let quantize = ["quantize", "models/llama", "--method", "nf4", "--name", "q"];
    let run = tenpak(&[&quantize[..], &["--store", &at("x")]].concat());
    assert_eq!(run.status, Some(3), "{}", run.error);
    let expected = format!("models/llama: no such folder; {}", said(&at("x")));
    assert_eq!(run.text("error"), expected);
}

#[test]
fn an_edge_does_not_serve_what_is_no_store() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let run = tenpak(&["edge", "--origin", &at("none"), "--listen", "127.0.0.1:0"]);
    assert_eq!(run.status, Some(3), "{}", run.error);
    assert_eq!(run.text("error"), said(&at("none")));
    // With a mirror that is a store it is served; an origin that does not answer may come back.
    let model = folder.path().join("model");
    Model::of(Vec::new()).write(&model);
    pack(&folder.path().join("store"), &model, "m", &[]);
    let (none, store) = (at("none"), at("store"));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let closed = format!("http://{closed}");
    for more in [&["--origin", none.as_str(), "--mirror", &store][..], &["--origin", &closed]] {
        let all = [&["edge", "--listen", "127.0.0.1:0"], more].concat();
        let mut edge = command(&all).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(edge.stdout.take().unwrap()).read_line(&mut line).unwrap();
        edge.kill().unwrap();
        edge.wait().unwrap();
        assert!(line.contains(" at http://127.0.0.1:"), "{more:?}: {line}");
    }
}

#[test]
fn whoever_packs_makes_it_and_says_so_once() {
    let folder = tempfile::tempdir().unwrap();
    let (model, store) = (folder.path().join("model"), folder.path().join("new/store"));
    Model::of(Vec::new()).write(&model);
    let made =
        |store: &Path| format!("tenpak: there was no store at {}; it was made\n", store.display());
    let first = pack(&store, &model, "m", &[]);
    assert_eq!(first.error, made(&store));
    assert_eq!(pack(&store, &model, "n", &[]).error, "");
    let other = folder.path().join("other");
    let cp = ["cp", "m", "--to", text(&other), "--store", text(&store)];
    assert_eq!(tenpak(&cp).error, made(&other));
    assert_eq!(tenpak(&cp).error, "");
    // Nothing is made for a model that is not packed.
    let third = folder.path().join("third");
    let run = tenpak(&["pack", "/nowhere", "--store", text(&third), "--name", "m"]);
    assert_eq!((run.status, third.exists()), (Some(3), false), "{}", run.error);
    // In a store that is there, what is missing is the artifact, or nothing is.
    let run = tenpak(&["load", "none", "--store", text(&store)]);
    let expected =
        format!("{}: no artifact none:latest; `tenpak ls` lists what is there", store.display());
    assert_eq!((run.status, run.text("error")), (Some(3), expected));
    for name in ["none", "mm", "org/none"] {
        let run = tenpak(&["ls", name, "--store", text(&store)]);
        let expected =
            format!("{}: no artifact {name}; `tenpak ls` lists what is there", store.display());
        assert_eq!((run.status, run.text("error")), (Some(3), expected));
    }
    for (pattern, count) in [("m", 1), ("m*", 1), ("none*", 0), ("none/", 0)] {
        let run = tenpak(&["ls", pattern, "--store", text(&store)]);
        let listed = run.json["artifacts"].as_array().map(Vec::len);
        assert_eq!((run.status, listed), (Some(0), Some(count)), "{pattern}: {}", run.error);
    }
    tenpak(&["rm", "m", "--store", text(&store)]);
    tenpak(&["rm", "n", "--store", text(&store)]);
    let run = tenpak(&["ls", "--store", text(&store)]);
    assert_eq!((run.status, run.json["artifacts"].as_array().map(Vec::len)), (Some(0), Some(0)));
}

/// A store of a version that is not known is refused for that, whatever is asked of it.
#[test]
fn a_store_of_another_version_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path();
    let descriptor =
        r#"{"format":"tenpak-store","store_id":"00112233445566778899aabbccddeeff","version":2}"#;
    fs::write(store.join("tenpak.json"), descriptor).unwrap();
    for arguments in [&["ls"][..], &["load", "none"], &["verify"], &["gc"]] {
        let run = tenpak(&[arguments, &["--store", text(store)]].concat());
        assert_eq!(run.status, Some(4), "{arguments:?}: {}", run.error);
        assert!(run.error.contains("version 2"), "{}", run.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_web_address_without_a_store_is_none() {
    let server = WebServer::start(|_, _| {
        vec![Step::Send(answer("404 Not Found", &["Content-Length: 2"], b"no"))]
    })
    .await;
    let url = format!("{}/models", server.url);
    tokio::task::spawn_blocking(move || all_say_so(&url)).await.unwrap();
    // One that answers everything with its page has no store either, and says what is wrong.
    let page = b"<!doctype html><title>404</title>";
    let length = format!("Content-Length: {}", page.len());
    let server =
        WebServer::start(move |_, _| vec![Step::Send(answer("200 OK", &[&length], page))]).await;
    let url = server.url.clone();
    let run = move || tenpak(&["ls", "--store", &url]);
    let run = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(run.status, Some(4), "{}", run.error);
    assert!(run.error.contains("tenpak.json"), "{}", run.error);
    // One that cannot be asked is not one that is not there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let run = move || tenpak(&["ls", "--store", &format!("http://{closed}")]);
    let run = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!(run.status, Some(5), "{}", run.error);
}

#[test]
fn a_prefix_of_a_bucket_and_a_bucket_that_are_not_there() {
    let server = S3Server::start();
    server.create_bucket("bucket");
    let run = |arguments: &[&str]| {
        let all = [&["--json"], arguments].concat();
        Run::of(command(&all).envs(server.environment()).output().expect("a process"))
    };
    let folder = tempfile::tempdir().unwrap();
    Model::of(Vec::new()).write(folder.path());
    let made =
        run(&["pack", text(folder.path()), "--store", "s3://bucket/models/store", "--name", "m"]);
    assert_eq!(made.status, Some(0), "{}", made.error);
    assert_eq!(made.error, "tenpak: there was no store at s3://bucket/models/store; it was made\n");
    for store in
        ["s3://bucket", "s3://bucket/models", "s3://bucket/models/stores", "s3://missing/x"]
    {
        for arguments in [&["ls"][..], &["load", "m"], &["load", "@0123456789"], &["gc"]] {
            let run = run(&[arguments, &["--store", store]].concat());
            assert_eq!(run.status, Some(3), "{store} {arguments:?}: {}", run.error);
            assert_eq!(run.text("error"), said(store));
        }
    }
    assert_eq!(run(&["ls", "--store", "s3://bucket/models/store/"]).status, Some(0));
}
