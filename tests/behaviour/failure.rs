//! A store that fails at any write: an error, a store that is still valid, and a rerun that
//! completes.

use std::path::Path;
use std::sync::Arc;

use tenpak::chunk::codec::CodecChoice;
use tenpak::pack::{PackError, PackOptions};
use tenpak::store::{Store, StoreError};
use tenpak::transport::TransportErrorKind;
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::{Action, Fault};

use super::library::{Counted, check_store, packed, try_pack};
use super::model::Model;
use super::run::{command, limited, pack, reader_agrees, text};

fn options() -> PackOptions {
    let mut options = PackOptions::default();
    options.codec = CodecChoice::Raw;
    options
}

/// Every request for every kind of object fails once, in a store with and without an artifact.
#[test]
fn a_request_that_fails_leaves_the_store_valid() {
    let folder = tempfile::tempdir().unwrap();
    let (input, older) = (folder.path().join("model"), folder.path().join("older"));
    let big = folder.path().join("big");
    Model::layers(3, 700, 3).write(&input);
    Model::layers(9, 2048, 3).write(&big);
    Model::layers(1, 100, 3).write(&older);
    let mut failures = 0;
    for prefix in [
        "tenpak.json",
        "leases/",
        "packs/",
        "tables/",
        "layouts/",
        "manifests/",
        "refs/org",
        "refs/index",
        "names/",
        "by-tensor/",
        "tombstones/",
    ] {
        // Two packs, where it matters which of them fails.
        let input = if prefix == "packs/" { &big } else { &input };
        let undisturbed = Counted::memory();
        let expected = packed(&undisturbed.store, input, "org/model", options());
        let count = undisturbed.transport.stats().below(prefix);
        for before in [false, true] {
            for nth in 0..(count.reads + count.heads + count.writes + 2).min(8) {
                let kind = [TransportErrorKind::Io, TransportErrorKind::Denied][nth as usize % 2];
                let counted = Counted::memory();
                if before {
                    packed(&counted.store, &older, "old", options());
                }
                counted.transport.script(vec![Fault::nth(prefix, nth, Action::Fail(kind))]);
                let result = try_pack(&counted.store, input, "org/model", options());
                counted.transport.script(Vec::new());
                match result {
                    Ok(report) => assert_eq!(report.manifest, expected.manifest),
                    Err(PackError::Store(StoreError::Transport(error))) => {
                        failures += 1;
                        assert_eq!(error.kind, kind, "{prefix} {nth}: {error}");
                        let object = prefix.trim_end_matches('/');
                        assert!(error.object.starts_with(object), "{error}");
                    }
                    Err(error) => panic!("{prefix} {nth}: {error}"),
                }
                check_store(&counted.store);
                let rerun = packed(&counted.store, input, "org/model", options());
                assert_eq!(rerun.manifest, expected.manifest);
                assert_eq!(check_store(&counted.store), 1 + usize::from(before));
            }
        }
    }
    assert!(failures > 40, "only {failures} failures came through");
}

/// The system refuses to write beyond a size, as a full disk does.
#[test]
fn a_full_disk_is_an_error_and_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let (input, store) = (folder.path().join("model"), folder.path().join("store"));
    // Packs of 16 MiB and one of 8 MiB, of which only the last fits under the limit.
    Model::layers(5, 4096, 3).write(&input);
    let older = folder.path().join("older");
    Model::layers(1, 100, 9).write(&older);
    pack(&store, &older, "old", &[]);
    let packing =
        command(&["--json", "pack", text(&input), "--store", text(&store), "--name", "m"]);
    let open = || Store::new(Arc::new(DirBackend::new(store.clone())));
    for kib in [0, 100, 12 << 10] {
        let run = limited(&packing, kib);
        assert_eq!(run.status, Some(1), "{kib} KiB: {}", run.error);
        assert!(run.error.contains(text(&store)), "{}", run.error);
        assert_eq!(check_store(&open()), 1, "{kib} KiB");
        assert!(leftovers(&store).is_empty(), "{:?} are left", leftovers(&store));
    }
    pack(&store, &input, "m", &[]);
    assert_eq!(check_store(&open()), 2);
    reader_agrees(&store, "m", &folder.path().join("out"));
}

/// Temporary files of a store in a directory.
fn leftovers(store: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.join(".tmp")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).collect()
}
