//! What a build pulls in: the core and the loader stay small.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates of a build with `features` and nothing else, this one included.
fn crates(features: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["tree", "--offline", "--locked", "-e", "normal", "--prefix", "none"])
        .args(["--no-default-features", "--features", features])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    // A crate that was listed before is marked.
    text.lines().map(|line| line.trim_end_matches(" (*)").to_owned()).collect()
}

fn at_most(features: &str, most: usize) -> BTreeSet<String> {
    let found = crates(features);
    assert!(
        (10..=most).contains(&found.len()),
        "{} crates with {features:?}, of {most}: {found:#?}",
        found.len()
    );
    let names: Vec<_> = found.iter().filter_map(|line| line.split(' ').next()).collect();
    let doubled: BTreeSet<_> = names.windows(2).filter(|two| two[0] == two[1]).collect();
    // Macros are written with two of its versions; nothing of it is in a program.
    assert_eq!(doubled.into_iter().flatten().copied().filter(|name| *name != "syn").count(), 0);
    found
}

#[test]
fn the_core_is_small_and_does_no_io() {
    let core = at_most("", 45);
    for io in ["tokio", "hyper", "object_store", "wgpu", "mio", "socket2", "rustix"] {
        let found = core.iter().find(|line| line.split(' ').next() == Some(io));
        assert_eq!(found, None, "the core does no I/O");
    }
}

#[test]
fn the_loader_is_small() {
    let load = at_most("load", 130);
    assert!(load.len() > crates("").len() && load.len() < crates("cli").len());
}
