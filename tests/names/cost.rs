//! What a publish, an opening by name and a listing of a folder cost, however many other names there are.

use std::path::Path;

use tenpak::format::name::{ArtifactSpec, NamePattern};
use tenpak::format::refs::IndexEntry;
use tenpak::pack::PackOptions;
use tenpak::store::artifact::{Artifact, OpenOptions};
use tenpak::trust::TrustSet;

use super::library::{Counted, packed, runtime};
use super::{entry, write_index};

/// Requests and bytes, both ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cost {
    requests: u64,
    bytes: u64,
}

impl Cost {
    fn of(counted: &Counted, work: impl FnOnce()) -> Self {
        counted.transport.reset_stats();
        work();
        let stats = counted.transport.stats();
        let total = stats.total();
        Self {
            requests: total.reads + total.heads + total.writes + stats.lists,
            bytes: total.bytes_read + total.bytes_written,
        }
    }

    /// Requests and bytes here for one there.
    fn over(self, few: Self) -> [f64; 2] {
        let ratio = |many: u64, few: u64| many as f64 / few as f64;
        [ratio(self.requests, few.requests), ratio(self.bytes, few.bytes)]
    }
}

impl std::iter::Sum for Cost {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self { requests: 0, bytes: 0 }, |sum, cost| Self {
            requests: sum.requests + cost.requests,
            bytes: sum.bytes + cost.bytes,
        })
    }
}

/// Names of one folder that are listed.
const OWN: usize = 40;
/// Publishes, whose place among the other names is different each time.
const PUBLISHES: usize = 12;

/// What each piece of work costs beside so many other names: a publish of a model that the store lacks, the
/// same of one that it has, all [`PUBLISHES`] of them, opening by name, and listing a folder with what
/// `ls` tells.
fn costs(others: usize) -> [Cost; 4] {
    let counted = Counted::memory();
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/tiny/llama");
    let pack = |name: &str, counted: &Counted| {
        let mut options = PackOptions::default();
        options.threads = 1;
        packed(&counted.store, &model, name, options)
    };
    let manifest = pack("m", &Counted::memory()).manifest;
    let others = (0..others).map(|i| entry(&format!("org{}/model-{i:07}", i % 100), 1));
    let own = (0..OWN).map(|i| IndexEntry { manifest, ..entry(&format!("own/model-{i:07}"), 1) });
    write_index(&counted.store, others.chain(own).collect(), &[]);
    let publish = |i: usize| {
        Cost::of(&counted, || {
            pack(&format!("org{}/new-{i}", i * 7 % 100), &counted);
        })
    };
    let first = publish(0);
    let again = (1..=PUBLISHES).map(publish).sum();
    let store = &counted.store;
    let open = Cost::of(&counted, || {
        let spec: ArtifactSpec = "org0/new-0".parse().expect("an artifact");
        let options = OpenOptions::default();
        let opened = Artifact::open(store.clone(), &spec, &options);
        runtime().block_on(opened).expect("an artifact");
    });
    let wanted: NamePattern = "own/".parse().expect("a pattern");
    let list = Cost::of(&counted, || {
        runtime().block_on(async {
            let listed = store.listed(&wanted, &TrustSet::default(), None).await;
            let entries = listed.expect("a listing").expect("an index").entries;
            assert_eq!(entries.len(), OWN);
            for entry in entries {
                store.manifest(entry.manifest).await.expect("a manifest");
            }
        });
    });
    [first, again, open, list]
}

#[test]
fn ten_names_cost_what_a_hundred_thousand_cost() {
    let (few, many) = (costs(10), costs(100_000));
    let ratios: Vec<_> = many.iter().zip(few).map(|(many, few)| many.over(few)).collect();
    eprintln!("few {few:?}\nmany {many:?}\n{ratios:?}");
    for (what, ratios) in ["first", "again", "open", "list"].into_iter().zip(&ratios) {
        assert!(ratios.iter().all(|ratio| *ratio <= 1.5), "{what}: {ratios:?}");
    }
    assert_eq!(few[2], many[2], "opening by name reads the ref alone");
}
