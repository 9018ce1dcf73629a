//! Copying an artifact to another store: only what is not there yet, each chunk verified on the way.
//!
//! Packs that the artifact needs whole are copied as they are; of others only its chunks, into new
//! packs, under a layout of the target's own. An interrupted copy left a lease that lists its packs,
//! so the next one goes on from there. The ref, copied last, keeps its version and signatures.

use std::collections::{BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::error::{MaintainError, is_damage};
use super::order::{load_order, units};
use super::packs::{arrange, copy_pack, distinct, rewrite};
use crate::format::id::{ContentDigest, ManifestId, PackId, StoredDigest};
use crate::format::layout::{Layout, Place};
use crate::format::limits::{MAX_SIGNATURE, MAX_SMALL};
use crate::format::record::ChunkRecord;
use crate::format::store::{self as paths, ByTensor};
use crate::pack::Progress;
use crate::pack::repeat::MIN_LINK;
use crate::store::artifact::Artifact;
use crate::store::{
    ArtifactGraph, Lease, Lifetime, Placed, RefPlaced, Store, StoreError, candidates, unix_now,
};
use crate::transport::{ObjectPath, ReadRange, TransportErrorKind};
use crate::trust::{KeyId, Method, Signer, TrustSet, signature_path};

/// Units below this size have no hint.
const MIN_HINT: u64 = 256 << 10;
/// Small requests at a time.
const AT_ONCE: usize = 16;
/// Bytes of packs on their way at a time, of which each may have 64 MiB.
const PACKS: u32 = 128 << 20;

/// How to copy.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct CopyOptions {
    /// Replace the target's ref even if it is newer.
    pub force: bool,
    /// Keys that sign the target's index of names.
    pub signers: Vec<Signer>,
}

/// What copying did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// The artifact.
    pub manifest: ManifestId,
    /// Bytes of every object written.
    pub copied_bytes: u64,
    /// Objects written.
    pub objects: u64,
    /// Stored bytes of the artifact's chunks that were there already.
    pub skipped_bytes: u64,
    /// What became of the ref; `None` if the artifact was addressed by id.
    pub placed: Option<RefPlaced>,
}

impl CopyReport {
    fn wrote(&mut self, bytes: u64) {
        self.copied_bytes += bytes;
        self.objects += u64::from(bytes > 0);
    }
}

/// Copies an artifact to `target`. Whose signatures are looked for in a source that cannot list is said
/// by `trust`.
///
/// # Errors
/// If something of it is missing or damaged, or a store fails.
pub async fn copy(
    artifact: &Artifact,
    target: &Store,
    trust: &TrustSet,
    options: &CopyOptions,
    progress: &dyn Progress,
) -> Result<CopyReport, MaintainError> {
    let (source, id) = (artifact.store(), artifact.id());
    let fresh = target.create().await?;
    let lease = Lease::take(target).await?;
    let whole = artifact.graph().await?;
    let (order, held) = load_order(&whole);
    let all: Vec<Placed> = order.iter().filter_map(|&i| whole.chunks.get(i)).copied().collect();
    let chunks = distinct(all.iter().copied());
    let total: u64 = stored_bytes(&chunks);
    let there = match fresh {
        true => There::default(),
        false => present(target, &whole, &chunks, &lease).await?,
    };
    let is_missing = |chunk: &&Placed| !there.places.contains_key(&chunk.record.stored);
    let missing: Vec<Placed> = chunks.iter().filter(is_missing).copied().collect();
    let mut report = CopyReport {
        manifest: id,
        copied_bytes: 0,
        objects: 0,
        skipped_bytes: total - stored_bytes(&missing),
        placed: None,
    };
    progress.begin(stored_bytes(&missing));
    let packs = split(source, &all, &there).await?;
    let (from, held_by, memory) = ((source, id), &lease, &Semaphore::new(PACKS as usize));
    let copy = |(pack, index): Indexed| async move {
        let needs = u32::try_from(index.data_len()).unwrap_or(PACKS).min(PACKS);
        // It is never closed.
        let _own = memory.acquire_many(needs).await;
        let stored = copy_pack(from, pack, index, target, held_by, progress).await?;
        Ok::<_, MaintainError>((pack, stored))
    };
    let copies: Vec<_> = packs.into_iter().map(copy).collect();
    let mut copies = stream::iter(copies).buffer_unordered(target.transport().writes_at_once());
    // Packs that the target has, by what the source calls them.
    let mut same: HashMap<PackId, PackId> = there.packs.iter().map(|pack| (*pack, *pack)).collect();
    while let Some((pack, stored)) = copies.try_next().await? {
        report.copied_bytes += stored.new_bytes;
        report.objects += u64::from(stored.new_bytes > 0);
        same.insert(pack, stored.id);
    }
    drop(copies);
    // What the target's own layout places stays there, and what lies in such a pack; the rest is arranged anew.
    let settled = |(&index, chunk): (&usize, &Placed)| {
        let own = there.layout.get(index).copied();
        let own = own.filter(|place| there.chunks.get(place) == Some(&chunk.record.stored));
        own.or_else(|| Some(Place { pack: *same.get(&chunk.place.pack)?, ..chunk.place }))
    };
    let mut places: Vec<Option<Place>> = order.iter().zip(&all).map(settled).collect();
    let mut known = there.places.clone();
    for (chunk, place) in all.iter().zip(&places) {
        known.extend(place.map(|place| (chunk.record.stored, place)));
    }
    let left = || (0..).zip(&places).filter(|(_, place)| place.is_none()).map(|(index, _)| index);
    let bases = left().filter(|index: &usize| *index < held).count();
    let rest: Vec<Placed> = left().filter_map(|index| all.get(index)).copied().collect();
    let fates = arrange(&rest, bases, &known);
    let (new, written) = rewrite((source, id), &rest, &fates, target, &lease, progress).await?;
    report.copied_bytes += written.bytes;
    report.objects += written.packs;
    let free = places.iter_mut().filter(|place| place.is_none());
    free.zip(new).for_each(|(free, new)| *free = Some(new));
    let mut layout: Vec<Place> = whole.chunks.iter().map(|chunk| chunk.place).collect();
    for ((&index, chunk), place) in order.iter().zip(&all).zip(places) {
        let stored = chunk.record.stored;
        if let Some(own) = layout.get_mut(index) {
            *own = place.ok_or(MaintainError::Nowhere { artifact: id, stored })?;
        }
    }
    let table = whole.manifest.table();
    let table_bytes = source.table(table.table, table.length).await?;
    let objects = [
        (paths::table(table.table), table_bytes),
        (paths::layout(id), Layout { manifest: id, places: layout }.to_bytes().into()),
        (paths::manifest(id), whole.manifest_bytes.clone()),
    ];
    lease.add(objects.iter().map(|(path, _)| path.clone())).await?;
    for (path, bytes) in &objects {
        report.wrote(target.ensure(path, bytes).await?);
    }
    for (path, bytes) in signatures(artifact, trust).await? {
        lease.add([path.clone()]).await?;
        report.wrote(target.ensure(&path, &bytes).await?);
    }
    if let Some(envelope) = &artifact.resolved().by {
        let placed = target
            .place_ref(envelope, options.force, &options.signers, Lifetime::default())
            .await?;
        report.objects += u64::from(placed == RefPlaced::Written);
        report.placed = Some(placed);
    }
    // A collection may have run between the look at what exists and the ref.
    for (path, bytes) in &objects {
        report.wrote(target.ensure(path, bytes).await?);
    }
    let written: HashSet<StoredDigest> = missing.iter().map(|chunk| chunk.record.stored).collect();
    hint(target, &whole, &written, &mut report).await?;
    lease.release().await?;
    Ok(report)
}

pub(super) fn stored_bytes(chunks: &[Placed]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.record.stored_len)).sum()
}

/// The digests of the units that may have hints, with those of their chunks.
fn hinted(whole: &ArtifactGraph) -> Vec<(ContentDigest, Vec<StoredDigest>)> {
    let mut hinted = Vec::new();
    for file in units(whole) {
        for (i, unit) in file.into_iter().enumerate() {
            if unit.len >= MIN_HINT || (i == 0 && unit.len > 0) {
                // A unit whose chunks the artifact lacks has nothing to hint at.
                let Some(chunks) = whole.chunks.get(unit.chunks.clone()) else { continue };
                let stored = chunks.iter().map(|chunk| chunk.record.stored).collect();
                hinted.push((unit.digest, stored));
            }
        }
    }
    hinted
}

/// What the target has already.
#[derive(Debug, Default)]
struct There {
    /// Where the wanted chunks lie.
    places: HashMap<StoredDigest, Place>,
    /// The packs that were looked into.
    packs: HashSet<PackId>,
    /// What lies at each place of them.
    chunks: HashMap<Place, StoredDigest>,
    /// The places that the target's own layout names, if it has one: right only where that chunk lies there.
    layout: Vec<Place>,
}

/// The wanted chunks that packs of the target hold already, by their indexes' word. Nobody is
/// harmed by a pack that lies: its chunks do not verify.
async fn present(
    target: &Store,
    whole: &ArtifactGraph,
    wanted: &[Placed],
    lease: &Lease,
) -> Result<There, MaintainError> {
    let wanted: HashSet<StoredDigest> = wanted.iter().map(|chunk| chunk.record.stored).collect();
    // An earlier copy's, an interrupted one's, and packs that go by the same name here and there.
    let mut packs: BTreeSet<PackId> = candidates(target).await?.into_iter().collect();
    packs.extend(whole.chunks.iter().map(|chunk| chunk.place.pack));
    let len = Layout::slice(0..whole.manifest.totals.records).end;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let own = target.read_optional(&paths::layout(whole.id), len).await.ok().flatten();
    let mut there = There::default();
    if let Some(layout) = own.and_then(|bytes| Layout::parse(&bytes, whole.id).ok()) {
        packs.extend(layout.places.iter().map(|place| place.pack));
        there.layout = layout.places;
    }
    look(target, lease, &packs, &wanted, &mut there).await?;
    // What other artifacts of the target hold.
    let lacking = |stored: &StoredDigest| !there.places.contains_key(stored);
    let asked = hinted(whole).into_iter().filter(|(_, chunks)| chunks.iter().any(lacking));
    let ask = |(digest, _): (ContentDigest, _)| async move {
        let hint = target.read_optional(&paths::by_tensor(digest), MAX_SMALL).await?;
        Ok::<_, MaintainError>(hint.and_then(|hint| ByTensor::parse(&hint).ok()))
    };
    let ask: Vec<_> = asked.map(ask).collect();
    let hints: Vec<_> = stream::iter(ask).buffer_unordered(AT_ONCE).try_collect().await?;
    let artifacts: BTreeSet<ManifestId> = hints.into_iter().flatten().map(|h| h.manifest).collect();
    let mut more = BTreeSet::new();
    for other in artifacts.into_iter().filter(|other| *other != whole.id) {
        // One that cannot be read only costs what it would have saved.
        let Ok(other) = ArtifactGraph::read(target, other).await else { continue };
        let useful = other
            .chunks
            .iter()
            .filter(|chunk| wanted.contains(&chunk.record.stored) && lacking(&chunk.record.stored));
        more.extend(useful.map(|chunk| chunk.place.pack));
    }
    more.retain(|pack| !packs.contains(pack));
    look(target, lease, &more, &wanted, &mut there).await?;
    Ok(there)
}

/// Notes where the wanted chunks lie in those of `packs` that are there and not marked. They are in
/// the lease before that is looked at.
async fn look(
    target: &Store,
    lease: &Lease,
    packs: &BTreeSet<PackId>,
    wanted: &HashSet<StoredDigest>,
    there: &mut There,
) -> Result<(), MaintainError> {
    lease.add(packs.iter().map(|pack| paths::pack(*pack))).await?;
    let look = |pack: PackId| async move {
        let path = paths::pack(pack);
        if target.transport().head(&path).await?.is_none()
            || target.transport().head(&paths::tombstone(&path)).await?.is_some()
        {
            return Ok(None);
        }
        match target.pack_index(pack).await {
            Ok(index) => Ok(Some((pack, index))),
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(MaintainError::from(error)),
        }
    };
    let look: Vec<_> = packs.iter().copied().map(look).collect();
    let mut found = stream::iter(look).buffered(AT_ONCE);
    while let Some(found) = found.try_next().await? {
        let Some((pack, index)) = found else { continue };
        there.packs.insert(pack);
        for Placed { record, place } in index.placed(pack) {
            if wanted.contains(&record.stored) {
                there.places.entry(record.stored).or_insert(place);
                there.chunks.insert(place, record.stored);
            }
        }
    }
    Ok(())
}

type Indexed = (PackId, crate::format::pack::PackIndex);

/// The source's packs that are copied as they are: the artifact holds all of their chunks, and none of them is
/// in the target or moves with another such pack, but for short ones that come again.
async fn split(
    source: &Store,
    all: &[Placed],
    there: &There,
) -> Result<Vec<Indexed>, MaintainError> {
    let wanted: HashSet<StoredDigest> = all.iter().map(|c| c.record.stored).collect();
    let is_there = |stored: &StoredDigest| there.places.contains_key(stored);
    let mut packs = Vec::new();
    let mut seen = there.packs.clone();
    for chunk in all.iter().filter(|chunk| !is_there(&chunk.record.stored)) {
        if seen.insert(chunk.place.pack) {
            packs.push(chunk.place.pack);
        }
    }
    let read = |pack: PackId| async move {
        match source.pack_index(pack).await {
            Ok(index) => Ok::<_, StoreError>(Some((pack, index))),
            // Its chunks may be had one by one, or elsewhere.
            Err(error) if is_damage(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    let read: Vec<_> = packs.into_iter().map(read).collect();
    let read: Vec<Option<Indexed>> = stream::iter(read).buffered(AT_ONCE).try_collect().await?;
    // A long chunk that lies in several packs moves once.
    let (mut whole, mut covered) = (Vec::new(), HashSet::new());
    for (pack, index) in read.into_iter().flatten() {
        let moves = |record: &ChunkRecord| {
            let stored = &record.stored;
            let again = is_there(stored) || covered.contains(stored);
            wanted.contains(stored) && (!again || u64::from(record.stored_len) < MIN_LINK)
        };
        if index.chunks().iter().all(moves) {
            covered.extend(index.chunks().iter().map(|record| record.stored));
            whole.push((pack, index));
        }
    }
    Ok(whole)
}

/// The signature files of the artifact: all, or, where the source cannot list, those by keys that
/// are trusted or signed the ref.
///
/// # Errors
/// If the store fails.
pub async fn signatures(
    artifact: &Artifact,
    trust: &TrustSet,
) -> Result<Vec<(ObjectPath, Bytes)>, MaintainError> {
    let (source, found, id) = (artifact.store(), artifact.resolved(), artifact.id());
    let mut paths = Vec::new();
    match source.list(&format!("signatures/{id}/")).await {
        Ok(listed) => paths.extend(listed.into_iter().map(|info| info.path)),
        Err(StoreError::Transport(error)) if error.kind == TransportErrorKind::Unlistable => {
            let claimed = found.by.iter().flat_map(|envelope| envelope.claimed_keys());
            let claimed = claimed.map(|key| (key, Method::Ed25519));
            let keys: BTreeSet<(&KeyId, &str)> = trust
                .key_ids()
                .chain(claimed)
                .map(|(key, method)| (key, method.as_str()))
                .collect();
            for method in Method::ALL {
                let own = keys.iter().filter(|(_, name)| *name == method.as_str());
                paths.extend(
                    own.filter_map(|(k, _)| ObjectPath::new(signature_path(id, k, method))),
                );
            }
        }
        Err(error) => return Err(error.into()),
    }
    let mut signatures = Vec::new();
    for path in paths {
        // The one that a trusted key made, if a mirror has it; else as it is.
        let right = |bytes: Bytes| {
            let known = trust
                .key_ids()
                .find(|(key, method)| signature_path(id, key, *method) == path.as_str());
            if let Some((key, method)) = known {
                let one = [(key.clone(), method, bytes.clone())];
                let (name, manifest) = (found.name(), artifact.manifest_bytes());
                trust.verify_manifest(name, id, manifest, &one, unix_now())?;
            }
            Ok(bytes)
        };
        let (range, limit) = (ReadRange::Full, MAX_SIGNATURE as u64);
        let read = match source.read_checked(&path, &range, limit, right).await {
            Ok(bytes) => Some(bytes),
            Err(_) => source.read_optional(&path, MAX_SIGNATURE).await?,
        };
        signatures.extend(read.map(|bytes| (path, bytes)));
    }
    Ok(signatures)
}

/// Hints for the units of which a chunk was written.
async fn hint(
    target: &Store,
    whole: &ArtifactGraph,
    written: &HashSet<StoredDigest>,
    report: &mut CopyReport,
) -> Result<(), MaintainError> {
    let bytes = Bytes::from(ByTensor::new(whole.id).to_bytes()?);
    let new = hinted(whole).into_iter().filter(|(_, c)| c.iter().any(|c| written.contains(c)));
    let digests: BTreeSet<ContentDigest> = new.map(|(digest, _)| digest).collect();
    let put = |digest: ContentDigest| {
        let bytes = bytes.clone();
        async move { target.transport().put(&paths::by_tensor(digest), vec![bytes]).await }
    };
    let put: Vec<_> = digests.into_iter().map(put).collect();
    report.objects += put.len() as u64;
    report.copied_bytes += put.len() as u64 * bytes.len() as u64;
    Ok(stream::iter(put).buffer_unordered(AT_ONCE).try_collect::<()>().await?)
}
