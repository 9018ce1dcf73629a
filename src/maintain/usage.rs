//! What takes how much room: per artifact, and by kind of object.

use std::collections::{BTreeSet, HashMap};

use super::copy::stored_bytes;
use super::error::MaintainError;
use super::gc::Live;
use super::order::{load_order, only_bases, ordered, runs};
use super::packs::distinct;
use super::verify::ref_paths;
use crate::format::id::{ManifestId, PackId};
use crate::format::layout::Place;
use crate::format::refs::RefBody;
use crate::store::{ArtifactGraph, Placed, Store};

/// An artifact's room.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ArtifactUsage {
    /// The artifact.
    pub manifest: ManifestId,
    /// Bytes of its files.
    pub raw_bytes: u64,
    /// Stored bytes of its distinct chunks.
    pub stored_bytes: u64,
    /// Those of chunks that no file of it holds: others are stored against them.
    pub base_bytes: u64,
    /// Those that no other named artifact uses.
    pub unique_bytes: u64,
    /// Those that others use too.
    pub shared_bytes: u64,
    /// Packs that hold its chunks.
    pub packs: u64,
    /// Runs of neighbouring chunks, in load order.
    pub runs: u64,
    /// The same per GiB of stored bytes.
    pub runs_per_gib: f64,
}

/// The room of one kind of object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Kind {
    /// The first segment of their paths.
    pub kind: String,
    /// How many there are.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that no ref leads to.
    pub garbage_objects: u64,
    /// Their bytes.
    pub garbage_bytes: u64,
}

/// A whole store's room.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct StoreUsage {
    /// By kind of object.
    pub kinds: Vec<Kind>,
    /// Bytes of packs in use that no artifact uses: indexes, and chunks that `repack` would leave.
    pub unused_pack_bytes: u64,
    /// By artifact, in order of their ids.
    pub artifacts: Vec<ArtifactUsage>,
}

/// The manifests that the store's refs name.
pub(super) async fn named(store: &Store) -> Result<BTreeSet<ManifestId>, MaintainError> {
    let mut named = BTreeSet::new();
    for path in ref_paths(store).await? {
        let found = store.document::<RefBody>(&path).await?;
        named.extend(found.map(|envelope| envelope.body().manifest));
    }
    Ok(named)
}

#[derive(Default)]
struct Owners {
    /// Each stored chunk's length, and the only artifact that uses it.
    chunks: HashMap<Place, (u32, Option<ManifestId>)>,
    artifacts: Vec<(ArtifactUsage, Vec<Place>)>,
}

impl Owners {
    async fn of(store: &Store, ids: BTreeSet<ManifestId>) -> Result<Self, MaintainError> {
        let mut owners = Self::default();
        for id in ids {
            let whole = ArtifactGraph::read(store, id).await?;
            let (order, held) = load_order(&whole);
            let all: Vec<Placed> =
                order.iter().filter_map(|&i| whole.chunks.get(i)).copied().collect();
            let chunks = distinct(all.iter().copied());
            let stored = stored_bytes(&chunks);
            let packs: BTreeSet<PackId> = all.iter().map(|chunk| chunk.place.pack).collect();
            let runs = runs(ordered(&all, held));
            let gib = stored as f64 / (1_u64 << 30) as f64;
            let usage = ArtifactUsage {
                manifest: id,
                raw_bytes: whole.files.iter().map(|(file, _)| file.size).sum(),
                stored_bytes: stored,
                base_bytes: stored_bytes(&only_bases(&whole)),
                unique_bytes: 0,
                shared_bytes: 0,
                packs: packs.len() as u64,
                runs,
                runs_per_gib: if stored == 0 { 0.0 } else { runs as f64 / gib },
            };
            // Of a chunk that was written again, each copy takes room.
            for chunk in &all {
                let own = (chunk.record.stored_len, Some(id));
                let entry = owners.chunks.entry(chunk.place).or_insert(own);
                if entry.1 != Some(id) {
                    entry.1 = None;
                }
            }
            owners.artifacts.push((usage, chunks.iter().map(|chunk| chunk.place).collect()));
        }
        Ok(owners)
    }

    fn usages(&self) -> Vec<ArtifactUsage> {
        let usage = |(usage, places): &(ArtifactUsage, Vec<Place>)| {
            let own = places.iter().filter_map(|place| self.chunks.get(place));
            let own = own.filter(|(_, owner)| owner.is_some());
            let unique_bytes = own.map(|(len, _)| u64::from(*len)).sum();
            let shared_bytes = usage.stored_bytes - unique_bytes;
            ArtifactUsage { unique_bytes, shared_bytes, ..usage.clone() }
        };
        self.artifacts.iter().map(usage).collect()
    }
}

/// The room of one artifact beside all that the store's refs name.
///
/// # Errors
/// If a ref or a graph cannot be read, or the store fails.
pub async fn artifact_usage(store: &Store, id: ManifestId) -> Result<ArtifactUsage, MaintainError> {
    let mut ids = named(store).await?;
    ids.insert(id);
    let usages = Owners::of(store, ids).await?.usages();
    let own = usages.into_iter().find(|usage| usage.manifest == id);
    own.ok_or(MaintainError::Worker)
}

/// The room of everything in a store that can list what it holds.
///
/// # Errors
/// If a graph cannot be read, or the store cannot list or fails.
pub async fn store_usage(store: &Store) -> Result<StoreUsage, MaintainError> {
    let owners = Owners::of(store, named(store).await?).await?;
    let mut live = Live::default();
    live.mark(store).await?;
    let mut kinds = Vec::new();
    let mut live_packs = 0;
    for kind in [
        "packs",
        "tables",
        "layouts",
        "manifests",
        "signatures",
        "refs",
        "names",
        "by-recipe",
        "by-tensor",
        "leases",
        "tombstones",
    ] {
        let objects = store.list(&format!("{kind}/")).await?;
        live.read_hints(store, &objects).await?;
        let mut sum = Kind {
            kind: kind.to_owned(),
            objects: 0,
            bytes: 0,
            garbage_objects: 0,
            garbage_bytes: 0,
        };
        for object in &objects {
            sum.objects += 1;
            sum.bytes += object.size;
            if !live.contains(&object.path) {
                sum.garbage_objects += 1;
                sum.garbage_bytes += object.size;
            }
        }
        if kind == "packs" {
            live_packs = sum.bytes - sum.garbage_bytes;
        }
        kinds.push(sum);
    }
    let used: u64 = owners.chunks.values().map(|(len, _)| u64::from(*len)).sum();
    let unused_pack_bytes = live_packs.saturating_sub(used);
    Ok(StoreUsage { kinds, unused_pack_bytes, artifacts: owners.usages() })
}
