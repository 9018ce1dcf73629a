//! What the project depends on is licensed, comes from where and is doubled as `deny.toml` allows:
//! the part of `cargo deny check` that needs neither that tool nor the network.

#![cfg(feature = "cli")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Names of which a build has several versions. OpenPGP alone brings half of them.
const DOUBLED: usize = 33;

/// The crates of a build of everything, this one included.
fn crates() -> Vec<Value> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    let built = all["resolve"]["nodes"].as_array().unwrap().iter();
    let built: BTreeSet<&str> = built.map(|node| node["id"].as_str().unwrap()).collect();
    let packages = all["packages"].as_array().unwrap().iter();
    let found: Vec<_> =
        packages.filter(|one| built.contains(one["id"].as_str().unwrap())).cloned().collect();
    assert!(found.len() > 300, "only {} crates were found", found.len());
    found
}

fn rules() -> toml::Table {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deny.toml");
    fs::read_to_string(path).unwrap().parse().unwrap()
}

fn list<'r>(rules: &'r toml::Table, section: &str, key: &str) -> Vec<&'r str> {
    rules[section][key].as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}

/// Whether an expression of licences holds: `OR`, or `/` as old manifests have it, binds less than
/// `AND`, which binds less than parentheses.
fn holds(expression: &str, allowed: &[&str]) -> bool {
    let text = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let text = text.replace(" WITH ", "+");
    let allowed: Vec<String> = allowed.iter().map(|one| one.replace(" WITH ", "+")).collect();
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut at = 0;
    let holds = either(&words, &mut at, &allowed);
    assert_eq!(at, words.len(), "{expression} is no expression");
    holds
}

fn either(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut holds = both(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        holds |= both(words, at, allowed);
    }
    holds
}

fn both(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let mut holds = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        holds &= one(words, at, allowed);
    }
    holds
}

fn one(words: &[&str], at: &mut usize, allowed: &[String]) -> bool {
    let word = words[*at];
    *at += 1;
    if word != "(" {
        return allowed.iter().any(|licence| licence == word);
    }
    let holds = either(words, at, allowed);
    assert_eq!(words.get(*at), Some(&")"));
    *at += 1;
    holds
}

#[test]
fn every_licence_is_one_that_we_may_use() {
    let rules = rules();
    let allowed = list(&rules, "licenses", "allow");
    for one in crates() {
        let licence = one["license"].as_str().unwrap_or("none");
        assert!(holds(licence, &allowed), "{} {}: {licence}", one["name"], one["version"]);
    }
    assert!(holds("(GPL-3.0 OR MIT) AND ISC/Apache-2.0", &["MIT", "ISC"]));
    assert!(!holds("MIT AND GPL-3.0", &["MIT"]) && !holds("MIT WITH x", &["MIT"]));
}

#[test]
fn the_package_is_what_a_build_reads() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new(env!("CARGO"))
        .current_dir(root)
        .args(["package", "--list", "--offline", "--locked", "--allow-dirty"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let files: BTreeSet<&str> = text.lines().collect();
    let len = |file: &&str| fs::metadata(root.join(file)).map_or(0, |metadata| metadata.len());
    let bytes: u64 = files.iter().map(len).sum();
    assert!(bytes < 6 << 20, "{bytes} bytes");
    // What engines made of what is written: the command tells it.
    let read = "tests/judges/engines.json";
    assert!(files.contains(read));
    for other in ["tests/", "benches/", "logs/", "fuzz/", "fixtures/v1/"] {
        let found = files.iter().find(|file| file.starts_with(other) && **file != read);
        assert_eq!(found, None, "is no part of the package");
    }
    let mut read = 0;
    for source in files.iter().filter(|file| file.starts_with("src/") && file.ends_with(".rs")) {
        let text = fs::read_to_string(root.join(source)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let code = code.replace("include_bytes!(", "include_str!(");
        for rest in code.split("include_str!(\"").skip(1) {
            let beside = Path::new(source).parent().unwrap();
            let path = root.join(beside).join(rest.split('"').next().unwrap());
            let path = path.canonicalize().unwrap();
            let own = path.strip_prefix(root.canonicalize().unwrap()).unwrap();
            assert!(files.contains(own.to_str().unwrap()), "{source} reads {}", own.display());
            read += 1;
        }
    }
    assert!(read > 20, "only {read} files are read");
}

#[test]
fn everything_comes_from_one_registry_and_little_comes_twice() {
    let rules = rules();
    let registries = list(&rules, "sources", "allow-registry");
    let banned = list(&rules, "bans", "deny");
    let mut versions = BTreeMap::<String, BTreeSet<String>>::new();
    for one in crates() {
        let name = one["name"].as_str().unwrap();
        assert!(!banned.contains(&name), "{name} is banned");
        match one["source"].as_str() {
            None => assert!([env!("CARGO_PKG_NAME"), "tenpak-python"].contains(&name), "{name}"),
            Some(source) => {
                let of = source.strip_prefix("registry+");
                assert!(of.is_some_and(|of| registries.contains(&of)), "{name} is from {source}");
            }
        }
        versions.entry(name.to_owned()).or_default().insert(one["version"].to_string());
    }
    versions.retain(|_, versions| versions.len() > 1);
    assert!(versions.len() <= DOUBLED, "{} of {DOUBLED}: {versions:#?}", versions.len());
}
