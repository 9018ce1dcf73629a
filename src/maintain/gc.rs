//! Collecting garbage: tombstones first, deletion in a later collection.
//!
//! Leases are read before refs, so that a writer that ends in between is seen by its ref. If what
//! one ref needs cannot be told, nothing is deleted. A collection may be killed at any point and
//! may run beside writers and other collections.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::error::MaintainError;
use super::marks::{Decision, LeaseState, decide};
use crate::format::id::{ManifestId, NodeId, PackId, TableId};
use crate::format::layout::Layout;
use crate::format::limits::{MAX_LEASE, MAX_SMALL};
use crate::format::refs::{RefBody, SignedBody};
use crate::format::store::{self as paths, ByTensor, Lease as LeaseDocument, Tombstone};
use crate::store::{LEASE_LIFETIME, Store, StoreError, unix_now};
use crate::transport::{ObjectInfo, ObjectPath};

/// The kinds of objects that are collected, in the order of deletion: an artifact that loses its
/// manifest first is gone, not damaged.
const COLLECTED: [&str; 8] = [
    "by-recipe/",
    "by-tensor/",
    "signatures/",
    "manifests/",
    "layouts/",
    "tables/",
    "packs/",
    "names/",
];
/// Small requests at a time.
const AT_ONCE: usize = 16;
/// Artifacts whose layouts are read at a time.
const LAYOUTS: usize = 2;
/// After that many seconds a lease that cannot be read is no running writer's.
const UNREADABLE: u64 = 24 * 60 * 60;
/// The age at which what a killed writer left in a directory is swept.
const STALE: Duration = crate::transport::dir::STALE_AGE;

/// How to collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollectOptions {
    /// How long after its tombstone an object may be deleted.
    pub grace: Duration,
    /// Only tell what would be done.
    pub dry_run: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self { grace: Duration::from_secs(24 * 60 * 60), dry_run: false }
    }
}

/// What a collection did, or would do.
#[derive(Debug, Clone, Default)]
pub struct Collected {
    /// What was decided.
    pub decision: Decision,
    /// What was freed: less than decided if a writer came in between.
    pub freed: Vec<ObjectInfo>,
    /// Objects that are needed, and their bytes.
    pub live: (u64, u64),
    /// Leases that count.
    pub leases: u64,
    /// Leases that no longer count, which are removed.
    pub expired_leases: u64,
    /// Unfinished files of killed writers that were removed.
    pub swept: u64,
}

/// Collects the garbage of the store.
///
/// # Errors
/// If what is needed cannot be told, or the store fails.
pub async fn collect(store: &Store, options: CollectOptions) -> Result<Collected, MaintainError> {
    let now = if options.dry_run { unix_now() } else { now(store).await? };
    let leases = leases(store, now).await?;
    let tombstones = tombstones(store).await?;
    let mut live = Live::default();
    live.mark(store).await?;
    let mut objects = Vec::new();
    for prefix in COLLECTED {
        objects.extend(store.list(prefix).await?);
    }
    live.read_hints(store, &objects).await?;
    let states: Vec<LeaseState> = leases.iter().map(|(_, state)| state.clone()).collect();
    let grace = options.grace.as_secs();
    let decision = decide(&objects, |path| live.contains(path), &tombstones, &states, now, grace);
    let mut collected = Collected {
        leases: states.iter().filter(|lease| !lease.expired).count() as u64,
        expired_leases: states.iter().filter(|lease| lease.expired).count() as u64,
        ..Collected::default()
    };
    for object in objects.iter().filter(|object| live.contains(&object.path)) {
        collected.live.0 += 1;
        collected.live.1 += object.size;
    }
    if options.dry_run {
        collected.freed = decision.free.iter().map(|(object, _)| object.clone()).collect();
        collected.decision = decision;
        return Ok(collected);
    }
    unbury(store, decision.unmark.iter().chain(&decision.expire)).await?;
    bury(store, &decision.mark).await?;
    if !decision.free.is_empty() {
        collected.freed = free(store, &mut live, &decision.free).await?;
    }
    for (info, state) in leases.iter().filter(|(_, state)| state.expired) {
        // One that was renewed meanwhile counts again.
        let unchanged = |found: ObjectInfo| found.modified == info.modified;
        if state.expired && store.transport().head(&info.path).await?.is_some_and(unchanged) {
            store.transport().delete(&info.path).await?;
        }
    }
    collected.swept = store.transport().sweep(STALE).await? as u64;
    collected.decision = decision;
    Ok(collected)
}

/// The time: the earlier of ours and the store's, which its word on a new object tells.
async fn now(store: &Store) -> Result<u64, MaintainError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(StoreError::Random)?;
    let (path, own) = (paths::lease(&id), unix_now());
    let lease = LeaseDocument::new(own, Vec::new(), own).to_bytes()?;
    store.transport().put(&path, vec![lease.into()]).await?;
    let written = store.transport().head(&path).await?;
    store.transport().delete(&path).await?;
    Ok(written.map_or(own, |info| seconds(info.modified).min(own)))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// All leases. One that cannot be read counts as one that began before everything else.
async fn leases(store: &Store, now: u64) -> Result<Vec<(ObjectInfo, LeaseState)>, MaintainError> {
    let mut leases = Vec::new();
    for info in store.list("leases/").await? {
        let Some(bytes) = store.read_optional(&info.path, MAX_LEASE).await? else { continue };
        let modified = seconds(info.modified);
        let state = match LeaseDocument::parse(&bytes) {
            Ok(lease) => LeaseState {
                started: lease.started.min(modified),
                expired: lease.expires.max(modified.saturating_add(LEASE_LIFETIME)) < now
                    || (lease.expires == lease.started && lease.objects.is_empty()),
                objects: lease.objects,
            },
            Err(_) => LeaseState {
                started: 0,
                expired: modified.saturating_add(UNREADABLE) < now,
                objects: Vec::new(),
            },
        };
        leases.push((info, state));
    }
    Ok(leases)
}

/// The marked objects, each with the time of its tombstone.
async fn tombstones(store: &Store) -> Result<HashMap<ObjectPath, u64>, MaintainError> {
    let read = |info: ObjectInfo| async move {
        let Some(bytes) = store.read_optional(&info.path, MAX_SMALL).await? else {
            return Ok::<_, MaintainError>(None);
        };
        let of = info.path.as_str().strip_prefix("tombstones/").and_then(ObjectPath::new);
        Ok(of.map(|of| (of, burial(&bytes, &info))))
    };
    let listed = store.list("tombstones/").await?;
    let read: Vec<_> = listed.into_iter().map(read).collect();
    let found: Vec<_> = stream::iter(read).buffer_unordered(AT_ONCE).try_collect().await?;
    Ok(found.into_iter().flatten().collect())
}

/// When a tombstone was written: the later of what it says and what the store says.
fn burial(bytes: &[u8], info: &ObjectInfo) -> u64 {
    Tombstone::parse(bytes).map_or(0, |t| t.marked).max(seconds(info.modified))
}

async fn put_tombstone(store: &Store, of: &ObjectPath) -> Result<(), MaintainError> {
    let bytes = Tombstone::new(unix_now()).to_bytes()?;
    Ok(store.transport().put(&paths::tombstone(of), vec![bytes.into()]).await?)
}

async fn bury(store: &Store, objects: &[ObjectInfo]) -> Result<(), MaintainError> {
    let put: Vec<_> = objects.iter().map(|object| put_tombstone(store, &object.path)).collect();
    stream::iter(put).buffer_unordered(AT_ONCE).try_collect().await
}

async fn unbury(
    store: &Store,
    objects: impl Iterator<Item = &ObjectPath>,
) -> Result<(), MaintainError> {
    let delete = |object| async move {
        Ok::<_, MaintainError>(store.transport().delete(&paths::tombstone(object)).await?)
    };
    let all: Vec<_> = objects.map(delete).collect();
    stream::iter(all).buffer_unordered(AT_ONCE).try_collect().await
}

/// Deletes, after another look at what is needed.
async fn free(
    store: &Store,
    live: &mut Live,
    doomed: &[(ObjectInfo, u64)],
) -> Result<Vec<ObjectInfo>, MaintainError> {
    let listed: HashSet<String> =
        leases(store, unix_now()).await?.into_iter().flat_map(|(_, state)| state.objects).collect();
    live.mark(store).await?;
    let live = &*live;
    let listed = &listed;
    let delete = |(object, marked): &(ObjectInfo, u64)| {
        let (object, marked) = (object.clone(), *marked);
        async move {
            if live.contains(&object.path) || listed.contains(object.path.as_str()) {
                return Ok::<_, MaintainError>(None);
            }
            // Another collection may have taken the mark away, or have deleted the object already.
            let tombstone = paths::tombstone(&object.path);
            let Some(info) = store.transport().head(&tombstone).await? else { return Ok(None) };
            let bytes = store.read_optional(&tombstone, MAX_SMALL).await?;
            if bytes.map(|bytes| burial(&bytes, &info)) != Some(marked) {
                return Ok(None);
            }
            put_tombstone(store, &object.path).await?;
            // A writer whose tree needs a node again writes it, and lists it in no lease.
            if object.path.as_str().starts_with("names/") {
                let found = store.transport().head(&object.path).await?;
                if found.is_none_or(|found| seconds(found.modified) > marked) {
                    return Ok(None);
                }
            }
            store.transport().delete(&object.path).await?;
            Ok(Some(object))
        }
    };
    let all: Vec<_> = doomed.iter().map(delete).collect();
    // In order: an artifact loses its manifest before its packs.
    let freed: Vec<_> = stream::iter(all).buffered(AT_ONCE).try_collect().await?;
    Ok(freed.into_iter().flatten().collect())
}

/// What refs and their index lead to.
#[derive(Debug, Default)]
pub(super) struct Live {
    manifests: HashSet<ManifestId>,
    tables: HashSet<TableId>,
    packs: HashSet<PackId>,
    nodes: HashSet<NodeId>,
    hints: HashMap<ObjectPath, ManifestId>,
}

impl Live {
    /// Adds what the store's refs and their index lead to now.
    pub(super) async fn mark(&mut self, store: &Store) -> Result<(), MaintainError> {
        let mut named = Vec::new();
        for info in store.list("refs/").await? {
            if info.path == paths::index() {
                continue;
            }
            // Removed since it was listed.
            let found = named_by(store, &info.path).await.map_err(unmarkable(&info.path))?;
            let Some(manifest) = found else { continue };
            if !self.manifests.contains(&manifest) {
                named.push((info.path.clone(), manifest));
            }
        }
        named.sort_by_key(|(_, manifest)| *manifest);
        named.dedup_by_key(|(_, manifest)| *manifest);
        let read = |(path, id): (ObjectPath, ManifestId)| async move {
            match reach(store, id).await {
                Ok(reached) => Ok(Some((id, reached))),
                // Removed, with what it named, since it was read.
                Err(error) if error.is_not_found() => match named_by(store, &path).await {
                    Ok(Some(now)) if now == id => Err(unmarkable(&path)(error.named_by(&path))),
                    Ok(_) => Ok(None),
                    Err(error) => Err(unmarkable(&path)(error)),
                },
                Err(error) => Err(unmarkable(&path)(error)),
            }
        };
        let read: Vec<_> = named.into_iter().map(read).collect();
        let mut reached = stream::iter(read).buffer_unordered(LAYOUTS);
        while let Some(found) = reached.try_next().await? {
            let Some((id, (table, packs))) = found else { continue };
            self.manifests.insert(id);
            self.tables.insert(table);
            self.packs.extend(packs);
        }
        let nodes = store.index_nodes().await.map_err(unmarkable(&paths::index()))?;
        self.nodes.extend(nodes);
        Ok(())
    }

    /// Reads what the hints among `objects` say.
    pub(super) async fn read_hints(
        &mut self,
        store: &Store,
        objects: &[ObjectInfo],
    ) -> Result<(), MaintainError> {
        let hints = objects.iter().filter(|object| object.path.as_str().starts_with("by-tensor/"));
        let read = |path: ObjectPath| async move {
            let bytes = store.read_optional(&path, MAX_SMALL).await?;
            let hint = bytes.and_then(|bytes| ByTensor::parse(&bytes).ok());
            Ok::<_, MaintainError>(hint.map(|hint| (path, hint.manifest)))
        };
        let read: Vec<_> = hints.map(|object| read(object.path.clone())).collect();
        let found: Vec<_> = stream::iter(read).buffer_unordered(AT_ONCE).try_collect().await?;
        self.hints.extend(found.into_iter().flatten());
        Ok(())
    }

    /// Whether a ref or the index leads to the object.
    pub(super) fn contains(&self, path: &ObjectPath) -> bool {
        let Some((kind, rest)) = path.as_str().split_once('/') else { return true };
        let manifest = |text: &str| text.parse().is_ok_and(|id| self.manifests.contains(&id));
        match kind {
            "manifests" | "layouts" => manifest(rest),
            "tables" => rest.parse().is_ok_and(|id| self.tables.contains(&id)),
            "packs" => rest.parse().is_ok_and(|id| self.packs.contains(&id)),
            "names" => rest.parse().is_ok_and(|id| self.nodes.contains(&id)),
            "signatures" => manifest(rest.split('/').next().unwrap_or(rest)),
            "by-recipe" => manifest(rest.rsplit('/').next().unwrap_or(rest)),
            "by-tensor" => self.hints.get(path).is_some_and(|id| self.manifests.contains(id)),
            // Nothing that is collected.
            _ => true,
        }
    }
}

/// An error constructor for something below `path` of which it cannot be told what it needs.
fn unmarkable(path: &ObjectPath) -> impl Fn(StoreError) -> MaintainError {
    move |error| MaintainError::Unmarkable { by: path.to_string(), source: Box::new(error) }
}

async fn named_by(store: &Store, path: &ObjectPath) -> Result<Option<ManifestId>, StoreError> {
    let Some(bytes) = store.read_optional(path, RefBody::LIMIT).await? else { return Ok(None) };
    Ok(Some(store.parse_document::<RefBody>(path, &bytes)?.body().manifest))
}

/// The table and the packs of an artifact.
pub(super) async fn reach(
    store: &Store,
    id: ManifestId,
) -> Result<(TableId, HashSet<PackId>), StoreError> {
    let (manifest, _) = store.manifest(id).await?;
    let path = paths::layout(id);
    let len = Layout::slice(0..manifest.totals.records).end;
    let bytes = store.read(&path, usize::try_from(len).unwrap_or(usize::MAX)).await?;
    let layout = Layout::parse(&bytes, id).map_err(StoreError::format(store, &path))?;
    if layout.places.len() as u64 != manifest.totals.records {
        let (need, have) = (manifest.totals.records, layout.places.len() as u64);
        let wrong = crate::format::FormatError::Length { what: "layout", need, have };
        return Err(StoreError::format(store, &path)(wrong));
    }
    Ok((manifest.table().table, layout.places.iter().map(|place| place.pack).collect()))
}
