//! Verifying, collecting, copying and repacking, on stores that the packer wrote.
//!
//! One file: what one of these does to a store, another is asked about.

#![cfg(feature = "cli")]

#[path = "support/safetensors.rs"]
mod model;
#[path = "support/packing.rs"]
mod packing;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use model::{SMALL, write};
use packing::{pack_as, runtime, store};
use tenpak::format::id::ManifestId;
use tenpak::format::layout::Layout;
use tenpak::format::name::{ArtifactSpec, NamePattern};
use tenpak::format::refs::RootBody;
use tenpak::format::store as paths;
use tenpak::maintain::{
    Change, CollectOptions, Collected, CopyOptions, CopyReport, MaintainError, RepackOptions,
    VerifyReport, artifact_usage, collect, copy, diff, inspect, repack, store_usage, verify,
    verify_store,
};
use tenpak::store::artifact::Artifact;
use tenpak::store::{ArtifactGraph, Lease, RefPlaced, Store};
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::{ObjectPath, Transport, TransportErrorKind};
use tenpak::trust::{Envelope, TrustSet};
use tokio::runtime::Runtime;

struct World {
    dir: tempfile::TempDir,
    runtime: Runtime,
    store: Store,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let store = store(&dir.path().join("store"));
        Self { dir, runtime: runtime(), store }
    }

    /// Packs a model of these tensors.
    fn pack(&self, name: &str, tensors: &[model::Tensor<'_>]) -> ManifestId {
        let model = write(&self.dir.path().join(name), tensors);
        pack_as(&self.store, &self.runtime, &model, name).manifest
    }

    fn verify(&self, id: ManifestId) -> VerifyReport {
        verify_in(&self.runtime, &self.store, id)
    }

    fn collect(&self, grace: u64) -> Collected {
        let mut options = CollectOptions::default();
        options.grace = Duration::from_secs(grace);
        options.dry_run = false;
        self.runtime.block_on(collect(&self.store, options)).expect("collected")
    }

    fn remove(&self, name: &str) {
        let (name, tag) = (name.parse().expect("a name"), "latest".parse().expect("a tag"));
        let removed = self.store.unpublish(&name, &tag, &[], Default::default());
        assert!(self.runtime.block_on(removed).expect("removed"));
    }

    fn paths(&self, prefix: &str) -> Vec<ObjectPath> {
        paths_in(&self.runtime, &self.store, prefix)
    }

    fn rewrite(&self, path: &ObjectPath, change: impl FnOnce(&mut Vec<u8>)) {
        let file = self.dir.path().join("store").join(path.as_str());
        let mut bytes = std::fs::read(&file).expect("an object");
        change(&mut bytes);
        std::fs::write(&file, bytes).expect("written");
    }

    fn copy(&self, name: &str, target: &Store, force: bool) -> Result<CopyReport, MaintainError> {
        let spec: ArtifactSpec = name.parse().expect("an artifact");
        let mut options = CopyOptions::default();
        options.force = force;
        self.runtime.block_on(async {
            let open = tenpak::store::artifact::OpenOptions::default();
            let artifact = Artifact::open(self.store.clone(), &spec, &open).await?;
            copy(&artifact, target, &TrustSet::default(), &options, &()).await
        })
    }

    fn whole(&self, id: ManifestId) -> ArtifactGraph {
        self.runtime.block_on(ArtifactGraph::read(&self.store, id)).expect("a whole artifact")
    }
}

fn verify_in(runtime: &Runtime, store: &Store, id: ManifestId) -> VerifyReport {
    runtime.block_on(verify(store, id, None, &TrustSet::default(), &())).expect("verified")
}

fn paths_in(runtime: &Runtime, store: &Store, prefix: &str) -> Vec<ObjectPath> {
    let listed = runtime.block_on(store.list(prefix)).expect("listed");
    listed.into_iter().map(|info| info.path).collect()
}

fn memory() -> Store {
    Store::new(Arc::new(ObjectBackend::memory()))
}

#[test]
fn a_sound_artifact_verifies_and_each_byte_is_read_about_once() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let counting = Arc::new(FaultBackend::counting(world.store.transport().clone()));
    let report = verify_in(&world.runtime, &Store::new(counting.clone()), id);
    assert!(report.is_ok(), "{:?}", report.damaged);
    let whole = world.whole(id);
    assert_eq!(report.chunks, whole.chunks.len() as u64);
    assert_eq!(report.bytes, whole.manifest.totals.raw_bytes);
    let read = counting.stats().below("packs/").bytes_read;
    let stored = whole.manifest.totals.stored_bytes;
    assert!(read < stored + (64 << 10), "{read} bytes read of {stored}");
}

#[test]
fn every_damaged_chunk_is_named_not_only_the_first() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let whole = world.whole(id);
    let chunk = |name: &str, nth: usize| {
        let at = whole.tensors.iter().position(|(t, _)| t.name == name).expect("a tensor");
        whole.tensor_chunks(at)[nth].place
    };
    let hit = [
        ("model.embed_tokens.weight", 0),
        ("model.layers.1.mlp.down_proj.weight", 3),
        ("model.norm.weight", 0),
    ];
    for (name, nth) in hit {
        let place = chunk(name, nth);
        world.rewrite(&paths::pack(place.pack), |bytes| bytes[place.offset as usize + 5] ^= 1);
    }
    let report = world.verify(id);
    let named: Vec<_> = report
        .damaged
        .iter()
        .map(|d| (d.tensor.clone().expect("a tensor"), d.chunk.expect("a chunk"), d.offset))
        .collect();
    let mut expected: Vec<_> = hit
        .iter()
        .map(|(name, nth)| {
            ((*name).to_owned(), *nth as u64, Some(u64::from(chunk(name, *nth).offset)))
        })
        .collect();
    expected.sort();
    let mut found = named.clone();
    found.sort();
    assert_eq!(found, expected, "{:?}", report.damaged);
    assert!(report.damaged.iter().all(|d| d.file.as_deref() == Some("model.safetensors")));
    assert_eq!(report.chunks + 3, whole.chunks.len() as u64);
}

#[test]
fn every_kind_of_object_and_damage_is_noticed() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let objects: Vec<_> = ["manifests/", "tables/", "layouts/", "packs/", "names/"]
        .iter()
        .flat_map(|kind| world.paths(kind))
        .collect();
    let trust = TrustSet::default();
    for path in &objects {
        let (mut kept, mut unnoticed) = (Vec::new(), Vec::new());
        world.rewrite(path, |bytes| kept.clone_from(bytes));
        type Change = (&'static str, fn(&mut Vec<u8>));
        let changes: [Change; 6] = [
            ("first byte", |b| b[0] ^= 1),
            ("middle", |b| {
                let at = b.len() / 2;
                b[at] ^= 0x10;
            }),
            ("last byte", |b| *b.last_mut().expect("a byte") ^= 1),
            ("truncated", |b| b.truncate(b.len() - 1)),
            ("longer", |b| b.push(0)),
            ("empty", Vec::clear),
        ];
        for (what, change) in changes {
            world.rewrite(path, change);
            let report = world
                .runtime
                .block_on(verify_store(&world.store, &trust, &()))
                .unwrap_or_else(|error| panic!("{path}, {what}: {error}"));
            if report.is_ok() {
                unnoticed.push(what);
            }
            world.rewrite(path, |bytes| bytes.clone_from(&kept));
        }
        assert!(unnoticed.is_empty(), "{path}: {unnoticed:?}");
        let file = world.dir.path().join("store").join(path.as_str());
        std::fs::remove_file(&file).expect("removed");
        let report = world.runtime.block_on(verify_store(&world.store, &trust, &()));
        let damaged = report.expect("a missing object is damage").damaged;
        assert!(damaged.iter().any(|d| d.error.contains(path.as_str())), "{path}: {damaged:?}");
        std::fs::write(&file, &kept).expect("written");
    }
    assert!(world.verify(id).is_ok());
}

#[test]
fn a_layout_that_points_elsewhere_is_noticed() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let path = paths::layout(id);
    world.rewrite(&path, |bytes| {
        let mut layout = Layout::parse(bytes, id).expect("a layout");
        layout.places.swap(0, 1);
        *bytes = layout.to_bytes();
    });
    let report = world.verify(id);
    assert!(report.damaged.iter().any(|d| d.error.contains(path.as_str())), "{report:?}");
}

#[test]
fn verification_ends_when_the_store_cannot_be_asked() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let fault = Fault::always("packs/", Action::Fail(TransportErrorKind::Denied));
    let store =
        Store::new(Arc::new(FaultBackend::new(world.store.transport().clone(), vec![fault])));
    let trust = TrustSet::default();
    assert!(world.runtime.block_on(verify(&store, id, None, &trust, &())).is_err());
}

#[test]
fn garbage_goes_in_two_collections_and_what_is_named_stays() {
    let world = World::new();
    let kept = world.pack("kept", SMALL);
    let other: Vec<_> =
        SMALL.iter().map(|(name, shape, seed)| (*name, *shape, seed + 100)).collect();
    world.pack("gone", &other);
    world.remove("gone");
    let before = world.paths("packs/").len();
    let first = world.collect(0);
    assert!(first.freed.is_empty());
    assert!(!first.decision.mark.is_empty());
    let waiting = world.collect(3600);
    assert!(waiting.freed.is_empty(), "the grace period counts");
    assert_eq!(waiting.decision.wait.len(), first.decision.mark.len());
    let second = world.collect(0);
    assert_eq!(second.freed.len(), first.decision.mark.len());
    assert!(world.paths("packs/").len() < before);
    assert!(world.verify(kept).is_ok());
    assert!(world.collect(0).decision.mark.is_empty(), "nothing is left to mark");
}

#[test]
fn a_dry_run_changes_nothing_and_says_what_a_run_does() {
    let world = World::new();
    world.pack("gone", SMALL);
    world.remove("gone");
    world.collect(0);
    let before = world.paths("tombstones/");
    let mut options = CollectOptions::default();
    options.grace = Duration::ZERO;
    options.dry_run = true;
    let dry = world.runtime.block_on(collect(&world.store, options)).expect("collected");
    assert_eq!(world.paths("tombstones/"), before);
    let wet = world.collect(0);
    assert!(!wet.freed.is_empty());
    assert_eq!(dry.freed, wet.freed);
}

/// The top of the index.
fn live_node(world: &World) -> ObjectPath {
    let file = world.dir.path().join("store/refs/index");
    let root = Envelope::<RootBody>::parse(&std::fs::read(file).expect("an index"));
    paths::node(root.expect("a root").body().node)
}

#[test]
fn nothing_is_deleted_while_one_ref_cannot_be_followed() {
    let world = World::new();
    let kept = world.pack("kept", SMALL);
    world.pack("gone", &SMALL[..2]);
    world.remove("gone");
    world.collect(0);
    for path in [
        paths::manifest(kept),
        paths::layout(kept),
        ObjectPath::new("refs/kept/@latest").expect("a path"),
        paths::index(),
        live_node(&world),
    ] {
        let mut sound = Vec::new();
        world.rewrite(&path, |bytes| sound.clone_from(bytes));
        world.rewrite(&path, |bytes| bytes.truncate(bytes.len() / 2));
        let before = world.paths("packs/");
        let mut options = CollectOptions::default();
        options.grace = Duration::ZERO;
        options.dry_run = false;
        let error = world.runtime.block_on(collect(&world.store, options));
        assert!(matches!(error, Err(MaintainError::Unmarkable { .. })), "{path}: {error:?}");
        assert_eq!(world.paths("packs/"), before);
        world.rewrite(&path, |bytes| bytes.clone_from(&sound));
    }
    assert!(!world.collect(0).freed.is_empty());
    assert!(world.verify(kept).is_ok());
}

#[test]
fn leases_hold_what_they_list_and_what_was_there_before_them() {
    let world = World::new();
    world.pack("gone", SMALL);
    let packs = world.paths("packs/");
    world.remove("gone");
    let lease = world.runtime.block_on(Lease::take(&world.store)).expect("a lease");
    world.runtime.block_on(lease.add(packs.clone())).expect("listed");
    let first = world.collect(0);
    assert!(first.decision.mark.iter().all(|object| !packs.contains(&object.path)), "(c)");
    let second = world.collect(0);
    assert!(second.freed.is_empty(), "(d): the writer began before the tombstones");
    let late = lease.clone();
    world.runtime.block_on(lease.release()).expect("released");
    // A task of a writer that has ended may still run.
    assert!(world.runtime.block_on(late.add(packs.clone())).is_err());
    assert!(world.paths("leases/").is_empty());
    assert!(!world.collect(0).freed.is_empty());
    assert_eq!(world.paths("packs/"), packs, "they were not marked so far");
    world.collect(0);
    assert!(world.paths("packs/").is_empty());
}

#[test]
fn a_name_given_between_mark_and_sweep_keeps_the_artifact() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    world.remove("a");
    assert!(!world.collect(0).decision.mark.is_empty(), "everything is marked");
    let (name, tag) = ("again".parse().expect("a name"), "latest".parse().expect("a tag"));
    let named =
        |id| tenpak::maintain::tag(&world.store, id, (&name, &tag), &[], Default::default());
    world.runtime.block_on(named(id)).expect("named");
    let collected = world.collect(0);
    // The name's removal left the node of the index that had it.
    let freed = collected.freed.iter().filter(|object| !object.path.as_str().starts_with("names/"));
    assert_eq!((freed.count(), collected.leases), (0, 0));
    assert!(world.verify(id).damaged.is_empty());

    // What lacks a pack gets no name.
    world.remove("again");
    let pack = paths_in(&world.runtime, &world.store, "packs/").remove(0);
    world.runtime.block_on(world.store.transport().delete(&pack)).expect("deleted");
    let error = world.runtime.block_on(named(id)).expect_err("a pack is missing").to_string();
    assert!(error.contains(pack.as_str()) && error.contains(&id.to_string()), "{error}");
    assert!(world.runtime.block_on(world.store.refs(&NamePattern::ALL)).expect("refs").is_empty());
}

#[test]
fn packing_again_between_mark_and_sweep_survives_the_sweep() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let old = world.paths("packs/");
    world.remove("a");
    world.collect(0);
    assert_eq!(world.pack("a", SMALL), id);
    let new: Vec<_> = world.paths("packs/").into_iter().filter(|p| !old.contains(p)).collect();
    assert!(!new.is_empty(), "marked packs are written anew, under another nonce");
    let freed = world.collect(0).freed;
    assert!(old.iter().all(|path| freed.iter().any(|object| object.path == *path)));
    assert_eq!(world.paths("packs/"), new);
    assert!(world.verify(id).is_ok());
}

#[test]
fn collections_and_packers_run_side_by_side() {
    let world = World::new();
    let models: Vec<_> = (0..3_u64)
        .map(|n| {
            let tensors: Vec<_> =
                SMALL.iter().map(|(name, shape, s)| (*name, *shape, s + n)).collect();
            write(&world.dir.path().join(format!("m{n}")), &tensors)
        })
        .collect();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                world.collect(0);
            }
        });
        let packers: Vec<_> = models
            .iter()
            .enumerate()
            .map(|(n, path)| {
                let (store, runtime) = (&world.store, &world.runtime);
                scope.spawn(move || {
                    for _ in 0..4 {
                        pack_as(store, runtime, path, &format!("m{n}"));
                        let (name, tag) =
                            (format!("m{n}").parse().expect("n"), "latest".parse().expect("t"));
                        let gone = store.unpublish(&name, &tag, &[], Default::default());
                        runtime.block_on(gone).expect("removed");
                    }
                    pack_as(store, runtime, path, &format!("m{n}")).manifest
                })
            })
            .collect();
        // Joined first, so that a failure ends the collector too.
        let ids: Vec<_> = packers.into_iter().map(|p| p.join()).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        collector.join().expect("collected");
        for _ in 0..2 {
            world.collect(0);
        }
        for id in ids {
            let id = id.expect("packed");
            let report = world.verify(id);
            assert!(report.is_ok(), "{:?}", report.damaged);
        }
    });
}

#[test]
fn leftovers_of_killed_writers_are_swept() {
    let world = World::new();
    world.pack("a", SMALL);
    let temp = world.dir.path().join("store/.tmp");
    std::fs::create_dir_all(&temp).expect("a folder");
    let left = temp.join("left");
    std::fs::write(&left, b"half").expect("a file");
    assert_eq!(world.collect(0).swept, 0, "it may be a running writer's");
    let old = std::time::SystemTime::now() - Duration::from_secs(48 * 60 * 60);
    let file = std::fs::File::options().write(true).open(&left).expect("a file");
    file.set_modified(old).expect("an old file");
    assert_eq!(world.collect(0).swept, 1);
    assert!(!left.exists());
}

#[test]
fn a_copy_is_the_same_artifact_and_the_next_moves_nothing() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let target = memory();
    let first = world.copy("a", &target, false).expect("copied");
    assert_eq!((first.manifest, first.skipped_bytes), (id, 0));
    assert_eq!(first.placed, Some(RefPlaced::Written));
    assert_eq!(paths_in(&world.runtime, &target, "packs/"), world.paths("packs/"));
    assert!(verify_in(&world.runtime, &target, id).is_ok());
    let again = world.copy("a", &target, false).expect("copied");
    assert_eq!((again.copied_bytes, again.objects), (0, 0));
    assert_eq!(again.placed, Some(RefPlaced::Same));
    assert_eq!(again.skipped_bytes, world.whole(id).manifest.totals.stored_bytes);
    assert!(paths_in(&world.runtime, &target, "leases/").is_empty());
}

#[test]
fn only_the_artifacts_own_chunks_move_out_of_shared_packs() {
    let world = World::new();
    world.pack("base", SMALL);
    let mut tensors = SMALL[..4].to_vec();
    tensors.push(("model.new.weight", &[300, 512], 50));
    let id = world.pack("tuned", &tensors);
    let whole = world.whole(id);
    let packs: std::collections::HashSet<_> = whole.chunks.iter().map(|c| c.place.pack).collect();
    assert!(packs.len() > 1, "it links the base's chunks");
    let target = memory();
    let report = world.copy("tuned", &target, false).expect("copied");
    let stored = whole.manifest.totals.stored_bytes;
    assert!(report.copied_bytes < stored + (64 << 10), "{} of {stored}", report.copied_bytes);
    assert!(verify_in(&world.runtime, &target, id).is_ok());
    // The base then only needs the rest.
    let base = world.copy("base", &target, false).expect("copied");
    assert!(base.skipped_bytes > 2 << 20, "{base:?}");
    assert!(verify_in(&world.runtime, &target, base.manifest).is_ok());
}

#[test]
fn a_damaged_chunk_is_not_copied() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let place = world.whole(id).chunks[0].place;
    world.rewrite(&paths::pack(place.pack), |bytes| bytes[place.offset as usize] ^= 1);
    let target = memory();
    assert!(world.copy("a", &target, false).is_err());
    assert!(paths_in(&world.runtime, &target, "refs/").is_empty());
    assert!(paths_in(&world.runtime, &target, "packs/").is_empty());
}

#[test]
fn a_newer_ref_over_there_stays_unless_forced() {
    let world = World::new();
    let old = world.pack("a", SMALL);
    let target = World::new();
    target.pack("a", &SMALL[..3]);
    let kept = world.copy("a", &target.store, false).expect("copied");
    assert!(matches!(kept.placed, Some(RefPlaced::Kept { .. })), "{kept:?}");
    let spec: ArtifactSpec = "a".parse().expect("an artifact");
    let named =
        |store: &Store| world.runtime.block_on(store.resolve(&spec)).expect("there").manifest;
    assert_ne!(named(&target.store), old);
    let forced = world.copy("a", &target.store, true).expect("copied");
    assert_eq!(forced.placed, Some(RefPlaced::Written));
    assert_eq!(named(&target.store), old);
}

#[test]
fn repacking_mends_the_order_and_keeps_the_artifact() {
    let world = World::new();
    world.pack("base", SMALL);
    let mut tensors = SMALL[1..4].to_vec();
    tensors.insert(0, ("a.first.weight", &[300, 512], 50));
    let id = world.pack("tuned", &tensors);
    let manifest = |world: &World| {
        let path = paths::manifest(id);
        let read = world.store.read(&path, 1 << 20);
        world.runtime.block_on(read).expect("a manifest")
    };
    let before: Bytes = manifest(&world);
    let mut options = RepackOptions::default();
    options.force = true;
    let done = world.runtime.block_on(repack(&world.store, id, options, &())).expect("repacked");
    assert!(done.rewritten && done.runs_after == 1 && done.runs_before > 1, "{done:?}");
    assert_eq!(manifest(&world), before);
    assert!(world.verify(id).is_ok());
    assert!(world.paths("leases/").is_empty());
    let usage = world.runtime.block_on(artifact_usage(&world.store, id)).expect("usage");
    assert_eq!((usage.shared_bytes, usage.runs), (0, 1));
    for _ in 0..2 {
        world.collect(0);
    }
    assert!(world.verify(id).is_ok());
    let again = world.runtime.block_on(repack(&world.store, id, options, &())).expect("repacked");
    assert_eq!(again.new_bytes, 0, "it is in order already");
}

#[test]
fn usage_diff_and_inspection_tell_what_is_there() {
    let world = World::new();
    let base = world.pack("base", SMALL);
    let mut tensors = SMALL.to_vec();
    tensors[0].2 = 77;
    tensors.remove(5);
    tensors.push(("new.weight", &[10, 10], 78));
    let tuned = world.pack("tuned", &tensors);
    let (a, b) = (world.whole(base), world.whole(tuned));
    let found = diff(&a, &b);
    let changes: Vec<_> = found.tensors.iter().map(|(n, c)| (n.as_str(), c.clone())).collect();
    assert_eq!(
        changes,
        [
            ("model.embed_tokens.weight", Change::Changed),
            ("model.norm.weight", Change::Removed),
            ("new.weight", Change::Added),
        ]
    );
    assert_eq!((found.same_tensors, found.same_files), (5, 2));
    assert!(found.shared_bytes > 4 << 20);
    let usage = world.runtime.block_on(store_usage(&world.store)).expect("usage");
    for artifact in &usage.artifacts {
        assert_eq!(artifact.unique_bytes + artifact.shared_bytes, artifact.stored_bytes);
        assert!(artifact.shared_bytes > 1 << 20, "{artifact:?}");
    }
    for kind in &usage.kinds {
        // The second publish replaced the node of the first.
        let garbage = u64::from(kind.kind == "names");
        assert_eq!(kind.garbage_objects, garbage, "{kind:?}");
    }
    let look = inspect(&a);
    let layer = look.groups.iter().find(|g| g.name == "model.layers.{0..1}.mlp.down_proj.weight");
    assert_eq!(layer.map(|group| group.count), Some(2), "{:?}", look.groups);
}

#[test]
fn a_directory_backend_sweeps_through_the_trait() {
    let dir = tempfile::tempdir().expect("a folder");
    let transport: Arc<dyn Transport> = Arc::new(DirBackend::new(dir.path().to_path_buf()));
    let sweep = |age| runtime().block_on(transport.sweep(age)).expect("swept");
    assert_eq!(sweep(Duration::ZERO), 0, "nothing was begun");
    // What a writer leaves that was killed.
    let path = ObjectPath::new("packs/whole").expect("a path");
    runtime().block_on(transport.put(&path, vec![b"x".as_slice().into()])).expect("written");
    let folder = dir.path().join(".tmp");
    let left = folder.join("1-2-3");
    std::fs::write(&left, "half").expect("written");
    assert_eq!(sweep(Duration::from_secs(3600)), 0, "its writer may live");
    assert!(left.exists());
    assert_eq!(sweep(Duration::ZERO), 1);
    assert!(!left.exists() && dir.path().join("packs/whole").exists());
}

#[test]
fn a_chunk_that_lies_in_several_packs_moves_once() {
    let world = World::new();
    world.pack("a", SMALL);
    // Short runs are written again, so that small chunks then lie in two packs.
    let id = world.pack("b", SMALL);
    let target = memory();
    let report = world.copy("b", &target, false).expect("copied");
    let named: std::collections::BTreeSet<_> = world
        .runtime
        .block_on(ArtifactGraph::read(&target, id))
        .expect("a whole artifact")
        .chunks
        .iter()
        .map(|chunk| paths::pack(chunk.place.pack))
        .collect();
    let there: std::collections::BTreeSet<_> =
        paths_in(&world.runtime, &target, "packs/").into_iter().collect();
    assert_eq!(there, named, "no pack is copied in vain: {report:?}");
}

#[test]
fn an_unlisted_signature_over_there_is_kept_and_a_copy_carries_its_own() {
    let world = World::new();
    let id = world.pack("a", SMALL);
    let signature = |key: &str| {
        let path = format!("signatures/{id}/{}.ed25519", key.repeat(32));
        ObjectPath::new(path).expect("a path")
    };
    let put = |store: &Store, path: &ObjectPath| {
        let put = store.transport().put(path, vec![Bytes::from_static(&[7; 64])]);
        world.runtime.block_on(put).expect("written");
    };
    let target = memory();
    put(&world.store, &signature("a"));
    put(&target, &signature("b"));
    world.copy("a", &target, false).expect("copied");
    assert_eq!(
        paths_in(&world.runtime, &target, "signatures/"),
        [signature("a"), signature("b")],
        "both are there"
    );
}
