//! Keeping what is stored against bases: collected, copied, repacked and verified with them.

use std::time::Duration;

use tenpak::format::store as paths;
use tenpak::maintain::{
    CollectOptions, CopyOptions, CopyReport, RepackOptions, artifact_usage, collect, copy, diff,
    inspect, repack, verify,
};
use tenpak::transport::ObjectPath;

use super::super::library::{check_store, name, whole};
use super::*;

impl Pair {
    fn collect(&self) -> u64 {
        let mut options = CollectOptions::default();
        options.grace = Duration::ZERO;
        options.dry_run = false;
        // Marked first, freed then.
        let freed =
            (0..2).map(|_| runtime().block_on(collect(self.bench.store(), options)).unwrap());
        freed.map(|collected| collected.freed.len() as u64).sum()
    }

    fn copy(&self, artifact: &str, target: &Store) -> CopyReport {
        runtime().block_on(async {
            let (store, spec) = (self.bench.store().clone(), artifact.parse().unwrap());
            let found = Artifact::open(store, &spec, &OpenOptions::default()).await.unwrap();
            let (trust, options) = (TrustSet::default(), CopyOptions::default());
            copy(&found, target, &trust, &options, &()).await.unwrap()
        })
    }
}

fn verified(store: &Store, id: ManifestId) -> Vec<tenpak::maintain::Damage> {
    let trust = TrustSet::default();
    runtime().block_on(verify(store, id, None, &trust, &())).unwrap().damaged
}

fn pair() -> Pair {
    Pair::of(many())
}

/// The base's name goes, and what the fine-tune is stored against stays.
#[test]
fn bases_outlive_the_artifact_that_brought_them() {
    let pair = pair();
    let store = pair.bench.store();
    let (base_name, tag) = name("org/base");
    let gone = store.unpublish(&base_name, &tag, &[], Default::default());
    assert!(runtime().block_on(gone).unwrap());
    assert!(pair.collect() > 0, "manifest, table and layout of the base go");
    assert!(runtime().block_on(ArtifactGraph::read(store, pair.base.1)).is_err());
    assert!(verified(store, pair.tuned.1).is_empty());
    pair.bench.load_all(pair.tuned.1, &pair.tuned.0, &LoadOptions::default());
    assert_eq!(check_store(store), 1);
    let (tuned_name, tag) = name("org/tuned");
    let gone = store.unpublish(&tuned_name, &tag, &[], Default::default());
    assert!(runtime().block_on(gone).unwrap());
    pair.collect();
    let left = runtime().block_on(store.list("packs/")).unwrap();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn copies_bring_the_bases_that_the_other_side_lacks() {
    let pair = pair();
    let other = Counted::memory();
    // Alone: everything; beside its base: only what that has not.
    let alone = pair.copy("org/tuned", &other.store);
    assert_eq!(alone.skipped_bytes, 0);
    assert!(verified(&other.store, pair.tuned.1).is_empty());
    assert_eq!(check_store(&other.store), 1);
    let third = Counted::memory();
    pair.copy("org/base", &third.store);
    let beside = pair.copy("org/tuned", &third.store);
    let tuned = pair.whole();
    assert!(beside.skipped_bytes >= stored(&bases(&tuned)), "{beside:?}");
    let own = tuned.manifest.totals.stored_bytes - beside.skipped_bytes;
    assert!(beside.copied_bytes < own + (128 << 10), "{beside:?}: {own}");
    assert!(verified(&third.store, pair.tuned.1).is_empty());
    assert_eq!(check_store(&third.store), 2);
}

#[test]
fn repacking_keeps_bases_in_the_order_in_which_they_are_needed() {
    let pair = pair();
    let store = pair.bench.store();
    let before = pair.whole();
    let mut options = RepackOptions::default();
    options.force = true;
    let done = runtime().block_on(repack(store, pair.tuned.1, options, &())).unwrap();
    assert!(done.rewritten && done.new_bytes >= before.manifest.totals.stored_bytes);
    let after = pair.whole();
    let contents =
        |whole: &ArtifactGraph| whole.chunks.iter().map(|c| c.record).collect::<Vec<_>>();
    assert_eq!(contents(&before), contents(&after));
    // Along the tensors, the places of their bases rise.
    let mut last = None;
    for at in 0..after.tensors.len() {
        let first = after.tensors[at].1;
        for chunk in first..first + after.tensor_chunks(at).len() {
            let Some(base) = after.base_of(chunk) else { continue };
            let place = after.chunks[base].place;
            assert!(last.is_none_or(|last: tenpak::format::layout::Place| {
                last.pack != place.pack || last.offset < place.offset
            }));
            last = Some(place);
        }
    }
    assert!(last.is_some() && verified(store, pair.tuned.1).is_empty());
    pair.bench.load_all(pair.tuned.1, &pair.tuned.0, &LoadOptions::default());
    pair.collect();
    assert_eq!(check_store(store), 2);
}

fn flip(bench: &Bench, path: &ObjectPath, at: usize) {
    runtime().block_on(async {
        let store = bench.store();
        let mut bytes = store.read(path, 64 << 20).await.unwrap().to_vec();
        bytes[at] ^= 1;
        store.transport().put(path, vec![bytes.into()]).await.unwrap();
    });
}

/// One flipped bit in a base chunk: it is named, and so is the chunk that needs it, and nothing else.
#[test]
fn a_damaged_base_is_named_with_what_needs_it() {
    let pair = pair();
    let store = pair.bench.store();
    assert!(verified(store, pair.tuned.1).is_empty());
    let tuned = pair.whole();
    let at = tuned.tensors.iter().position(|(t, _)| t.name.ends_with("down_proj.weight")).unwrap();
    let chunk = tuned.tensors[at].1 + 4;
    let base = tuned.chunks[tuned.base_of(chunk).unwrap()];
    flip(&pair.bench, &paths::pack(base.place.pack), base.place.offset as usize + 11);
    let damaged = verified(store, pair.tuned.1);
    let [tensor, own] = &damaged[..] else { panic!("{damaged:?}") };
    assert_eq!(tensor.tensor.as_deref(), Some(tuned.tensors[at].0.name.as_str()));
    assert_eq!(tensor.chunk, Some(4));
    assert!(tensor.error.contains("stored against"), "{tensor:?}");
    assert!(tensor.error.contains(&base.place.pack.to_hex()), "{tensor:?}");
    assert_eq!((own.pack, own.offset), (Some(base.place.pack), Some(u64::from(base.place.offset))));
}

/// Each chunk is read once to be verified, and once more each time that it is a base.
#[test]
fn verifying_reads_bases_beside_what_needs_them() {
    let pair = Pair::of(matrices(3, 512));
    pair.bench.counted.transport.reset_stats();
    assert!(verified(pair.bench.store(), pair.tuned.1).is_empty());
    let read = pair.bench.bytes_read();
    let tuned = pair.whole();
    let (all, below) = (tuned.manifest.totals.stored_bytes, stored(&bases(&tuned)));
    assert!(read < all + 2 * below + (128 << 10), "{read} bytes read of {all}, {below} of bases");
}

#[test]
fn room_is_told_with_bases_apart() {
    let pair = pair();
    let store = pair.bench.store();
    let (first, tuned) = (whole(store, pair.base.1), pair.whole());
    let usage = runtime().block_on(artifact_usage(store, pair.tuned.1)).unwrap();
    assert_eq!(usage.stored_bytes, tuned.manifest.totals.stored_bytes);
    assert_eq!(usage.base_bytes, stored(&bases(&tuned)));
    assert!(usage.base_bytes > 0 && usage.shared_bytes >= usage.base_bytes, "{usage:?}");
    assert!(usage.unique_bytes < usage.stored_bytes / 2, "{usage:?}");
    let plain = runtime().block_on(artifact_usage(store, pair.base.1)).unwrap();
    assert_eq!(plain.base_bytes, 0);

    let found = diff(&first, &tuned);
    assert!(found.second_against_first_bytes > 0);
    assert!(found.second_against_first_bytes <= found.only_second_bytes);
    assert_eq!(found.first_against_second_bytes, 0);
    let back = diff(&tuned, &first);
    assert_eq!(back.first_against_second_bytes, found.second_against_first_bytes);
    assert!(found.shared_bytes >= usage.base_bytes);

    let look = inspect(&tuned);
    assert_eq!(look.all.base_bytes, usage.base_bytes);
    let group = look.groups.iter().find(|g| g.name.ends_with("up_proj.weight")).unwrap();
    assert!(group.encoding.base_bytes > group.encoding.stored_bytes);
    assert!(group.encoding.codecs.keys().all(|codec| ["delta", "patch"].contains(&&codec[..])));
    assert_eq!(inspect(&first).all.base_chunks, 0);
}
