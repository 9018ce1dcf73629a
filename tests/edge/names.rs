//! The index of refs through an edge: nodes are kept for ever and held against their names, the root is not.

use std::path::PathBuf;

use super::command::Served;
use super::run::{Run, command, done, fresh_folder, names, text};

fn ls(served: &Served, more: &[&str]) -> Run {
    let url = format!("http://{}", served.address);
    let all = [&["--json", "--store", &url, "ls"], more].concat();
    Run::of(command(&all).output().expect("a process"))
}

fn listed(run: &Run) -> Vec<String> {
    assert_eq!(run.status, Some(0), "{}", run.error);
    let artifacts = run.json["artifacts"].as_array().expect("artifacts");
    artifacts.iter().map(|a| format!("{}:{}", a["name"], a["tag"]).replace('"', "")).collect()
}

/// The top of the index of a store in a directory.
fn top(store: &std::path::Path) -> PathBuf {
    let root = std::fs::read(store.join("refs/index")).expect("an index");
    let root: serde_json::Value = serde_json::from_slice(&root).expect("JSON");
    store.join("names").join(root["signed"]["node"].as_str().expect("a node"))
}

#[test]
fn names_are_listed_through_an_edge() {
    let folder = fresh_folder("names-key");
    let (key, public) = (folder.join("key"), folder.join("key.pub"));
    done(&["keygen", text(&key)]);
    let trust = ["--trust", text(&public)];
    let served = Served::signed("names", &["--sign", text(&key)], &["--fresh", "0"]);
    let store = served.folder.join("store");
    // The tag of the world is not signed: the index is, once it is renewed.
    let tag = |to: &str| {
        done(&["tag", "org/m", to, "--store", text(&store), "--sign", text(&key)]);
    };
    (0..30).for_each(|i| tag(&format!("other/n{i:02}")));
    assert_eq!(listed(&ls(&served, &["org/"])), ["org/m:latest", "org/m:v1"]);
    assert_eq!(listed(&ls(&served, &[&["other/n1*"], &trust[..]].concat())).len(), 10);
    assert_eq!(listed(&ls(&served, &trust)).len(), 32);
    let (head, _) = served.ask("GET /refs/index", "", "");
    assert!(head.starts_with("http/1.1 200") && !head.contains("immutable"), "{head}");
    let object = names(&store, "names/").remove(0);
    let (head, body) = served.ask(&format!("GET /{object}"), "", "");
    assert!(head.starts_with("http/1.1 200") && head.contains("immutable"), "{head}");
    assert_eq!(body, std::fs::read(store.join(&object)).expect("a node"));

    // The new root is seen, and a node that is not what its name says does not come through.
    tag("other/new");
    let top = top(&store);
    let good = std::fs::read(&top).expect("a node");
    let mut bad = good.clone();
    let digit = bad.len() - 20;
    bad[digit] ^= 1;
    std::fs::write(&top, &bad).expect("written");
    let refused = ls(&served, &[&["other/"], &trust[..]].concat());
    assert!(refused.status != Some(0), "{}", refused.json);
    std::fs::write(&top, &good).expect("written");
    let new = listed(&ls(&served, &[&["other/"], &trust[..]].concat()));
    assert!(new.len() == 31 && new.contains(&"other/new:latest".to_owned()), "{new:?}");
}
