//! Verifying an artifact: everything that its ref leads to, byte by byte.
//!
//! Packs are checked against their names and the layout, then every file is put together again,
//! chunk by chunk, so that chunks, tensors and files are all hashed from one read. All that is
//! damaged is reported, not only the first; only a store that cannot be asked ends the work.

mod files;
mod index;
mod report;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::chunks::fetch;
use super::error::{MaintainError, is_damage};
use crate::format::FormatError;
use crate::format::id::{ManifestId, PackId};
use crate::format::layout::Layout;
use crate::format::limits::MAX_PACK;
use crate::format::name::{ArtifactName, NamePattern};
use crate::format::pack::{PackIndex, Trailer};
use crate::format::page::distinct;
use crate::format::record::ChunkRecord;
use crate::format::refs::{RefBody, SignedBody};
use crate::format::store as paths;
use crate::pack::Progress;
use crate::store::{ArtifactGraph, Placed, Store, StoreError, unix_now};
use crate::transport::{ObjectPath, TransportErrorKind};
use crate::trust::TrustSet;

use files::{check_files, check_foreign, cost, right};
use index::check_index;
use report::BUDGET;
pub use report::{Damage, VerifyReport};

/// Packs whose indexes are checked at a time.
const PACKS: usize = 4;

/// Verifies one artifact; `name` is the name that led to it, which decides whose signature counts.
///
/// # Errors
/// If the store could not be asked: damage is in the report.
pub async fn verify(
    store: &Store,
    id: ManifestId,
    name: Option<&ArtifactName>,
    trust: &TrustSet,
    progress: &dyn Progress,
) -> Result<VerifyReport, MaintainError> {
    let mut verifier = Verifier::new(store);
    verifier.artifact(id, &[name], trust, progress).await?;
    Ok(verifier.report)
}

/// Verifies every ref of the store, their index, and all that they name.
///
/// # Errors
/// If the store could not be asked: damage is in the report.
pub async fn verify_store(
    store: &Store,
    trust: &TrustSet,
    progress: &dyn Progress,
) -> Result<VerifyReport, MaintainError> {
    let mut verifier = Verifier::new(store);
    let mut named = BTreeMap::<ManifestId, Vec<ArtifactName>>::new();
    for path in ref_paths(store).await? {
        match verifier.check_ref(&path, trust).await {
            Ok(Some(body)) => named.entry(body.manifest).or_default().push(body.name),
            Ok(None) => {}
            Err(error) if is_damage(&error) => {
                verifier.report.damaged.push(Damage::new(None, error));
            }
            Err(error) => return Err(error.into()),
        }
    }
    let wrong = check_index(store).await?;
    verifier.report.damaged.extend(wrong.into_iter().map(|error| Damage::new(None, error)));
    for (id, mut names) in named {
        names.dedup();
        let names: Vec<_> = names.iter().map(Some).collect();
        verifier.artifact(id, &names, trust, progress).await?;
    }
    Ok(verifier.report)
}

/// Where the store's refs lie: what it lists, or else what its index says.
pub(super) async fn ref_paths(store: &Store) -> Result<Vec<ObjectPath>, StoreError> {
    match store.list("refs/").await {
        Ok(listed) => {
            let listed = listed.into_iter().map(|info| info.path);
            return Ok(listed.filter(|path| *path != paths::index()).collect());
        }
        Err(StoreError::Transport(error)) if error.kind == TransportErrorKind::Unlistable => {}
        Err(error) => return Err(error),
    }
    let listed = store.listed(&NamePattern::ALL, &TrustSet::default(), None).await?;
    let entries = listed.unwrap_or_default().entries;
    Ok(entries.iter().map(|entry| crate::store::ref_object(&entry.name, &entry.tag)).collect())
}

struct Verifier<'a> {
    store: &'a Store,
    report: VerifyReport,
    /// Packs that another artifact's turn has looked into, with what is in those that are right.
    packs: BTreeMap<PackId, Option<Held>>,
}

/// The chunks of a pack: offset and identity.
type Held = Arc<HashSet<(u32, ChunkRecordKey)>>;

/// What of a record decides whether it is the chunk: its stored identity.
type ChunkRecordKey = (crate::format::id::StoredDigest, u32);

fn key(record: &ChunkRecord) -> ChunkRecordKey {
    (record.stored, record.stored_len)
}

impl<'a> Verifier<'a> {
    fn new(store: &'a Store) -> Self {
        Self { store, report: VerifyReport::default(), packs: BTreeMap::new() }
    }

    /// `None`: removed since it was listed.
    async fn check_ref(
        &self,
        path: &ObjectPath,
        trust: &TrustSet,
    ) -> Result<Option<RefBody>, StoreError> {
        let Some(bytes) = self.store.read_optional(path, RefBody::LIMIT).await? else {
            return Ok(None);
        };
        let body = self.store.parse_document::<RefBody>(path, &bytes)?.body().clone();
        let right = crate::store::ref_object(&body.name, &body.tag);
        if right != *path {
            let why = format!("it says that it is {right}");
            return Err(StoreError::format(self.store, path)(FormatError::invalid("ref", why)));
        }
        if !trust.is_empty() {
            trust.verify_ref(&body.name, &body.tag, &bytes, unix_now())?;
        }
        Ok(Some(body))
    }

    fn damaged(&mut self, damage: Damage) {
        self.report.damaged.push(damage);
    }

    async fn artifact(
        &mut self,
        id: ManifestId,
        names: &[Option<&ArtifactName>],
        trust: &TrustSet,
        progress: &dyn Progress,
    ) -> Result<(), MaintainError> {
        self.report.artifacts.push(id);
        let whole = match ArtifactGraph::read(self.store, id).await {
            Ok(whole) => Arc::new(whole),
            Err(error) if is_damage(&error) => return self.roots(id, error).await,
            Err(error) => return Err(error.into()),
        };
        for name in names {
            match self.store.check_manifest(trust, *name, id, &whole.manifest_bytes).await {
                Ok(_) => {}
                Err(error) if is_damage(&error) => self.damaged(Damage::new(Some(id), error)),
                Err(error) => return Err(error.into()),
            }
        }
        self.totals(&whole);
        progress.begin(whole.files.iter().map(|(file, _)| file.size).sum());
        self.check_packs(&whole).await?;
        let files = check_files(self.store, &whole, progress).await?;
        self.report.damaged.extend(files.damaged);
        self.report.chunks += files.chunks;
        self.report.bytes += files.bytes;
        Ok(())
    }

    /// What is wrong when the artifact's graph cannot be read: every object of it that is.
    async fn roots(&mut self, id: ManifestId, error: StoreError) -> Result<(), MaintainError> {
        let mut errors = vec![error.to_string()];
        let mut add = |result: Result<(), StoreError>| match result {
            Ok(()) => Ok(()),
            Err(error) if is_damage(&error) => {
                errors.push(error.to_string());
                Ok(())
            }
            Err(error) => Err(error),
        };
        let by = format!("manifest {id}");
        let store = self.store;
        if let Ok((manifest, _)) = store.manifest(id).await {
            let table = manifest.table();
            let path = paths::table(table.table);
            let len = usize::try_from(table.length).unwrap_or(usize::MAX);
            let read = store.read(&path, len).await.map_err(|error| error.named_by(&by));
            add(read.and_then(|bytes| {
                let found = crate::format::id::TableId::of(&bytes);
                if found == table.table {
                    return Ok(());
                }
                let (expected, found) = (table.table.to_hex(), found.to_hex());
                let error = FormatError::Digest { what: "table", expected, found };
                Err(StoreError::format(store, &path)(error))
            }))?;
            let path = paths::layout(id);
            let len = Layout::slice(0..manifest.totals.records).end;
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let read = store.read(&path, len).await.map_err(|error| error.named_by(&by));
            add(read.and_then(|bytes| {
                let layout = Layout::parse(&bytes, id);
                layout.map(drop).map_err(StoreError::format(store, &path))
            }))?;
        }
        errors.dedup();
        let mut seen = HashSet::new();
        for error in errors.into_iter().filter(|error| seen.insert(error.clone())) {
            self.damaged(Damage::new(Some(id), error));
        }
        Ok(())
    }

    fn totals(&mut self, whole: &ArtifactGraph) {
        let totals = whole.manifest.totals;
        let (chunks, stored) = distinct(whole.chunks.iter().map(|chunk| &chunk.record));
        let raw: u64 = whole.files.iter().map(|(file, _)| file.size).sum();
        for (what, says, is) in [
            ("files", totals.files, whole.files.len() as u64),
            ("tensors", totals.tensors, whole.tensors.len() as u64),
            ("distinct chunks", totals.chunks, chunks),
            ("raw bytes", totals.raw_bytes, raw),
            ("stored bytes", totals.stored_bytes, stored),
        ] {
            if says != is {
                let error = format!("its manifest announces {says} {what}, its table has {is}");
                self.damaged(Damage::new(Some(whole.id), error));
            }
        }
    }

    /// Every pack that the layout names is what its name says and holds what the layout says. The
    /// chunks of other artifacts in it are read here, the own ones with the files.
    async fn check_packs(&mut self, whole: &ArtifactGraph) -> Result<(), MaintainError> {
        let mut own = BTreeMap::<PackId, Vec<&Placed>>::new();
        for chunk in &whole.chunks {
            own.entry(chunk.place.pack).or_default().push(chunk);
        }
        let budget = Arc::new(Semaphore::new(BUDGET as usize));
        let (store, unknown) = (self.store, &self.packs);
        let check = |(id, chunks): (PackId, Vec<&Placed>)| {
            let own: HashSet<u32> = chunks.iter().map(|chunk| chunk.place.offset).collect();
            let budget = budget.clone();
            async move { Ok::<_, MaintainError>((id, check_pack(store, id, &own, &budget).await?)) }
        };
        let new: Vec<_> = own
            .iter()
            .filter(|(id, _)| !unknown.contains_key(*id))
            .map(|(id, chunks)| check((*id, chunks.clone())))
            .collect();
        let checked: Vec<_> = stream::iter(new).buffered(PACKS).try_collect().await?;
        for (id, (index, mut damaged)) in checked {
            damaged.iter_mut().for_each(|damage| damage.artifact = Some(whole.id));
            self.report.packs += 1;
            self.report.damaged.append(&mut damaged);
            let held = |index: PackIndex| {
                let chunks = index.placed(id);
                Arc::new(chunks.map(|chunk| (chunk.place.offset, key(&chunk.record))).collect())
            };
            self.packs.insert(id, index.map(held));
        }
        for (id, chunks) in own {
            let Some(Some(held)) = self.packs.get(&id).cloned() else { continue };
            for chunk in chunks {
                if !held.contains(&(chunk.place.offset, key(&chunk.record))) {
                    let path = paths::layout(whole.id);
                    let error = format!(
                        "{}: {path} places chunk {} there, where the pack's index has another",
                        self.store.location(),
                        chunk.record.stored
                    );
                    let mut damage = Damage::new(Some(whole.id), error);
                    damage.pack = Some(id);
                    damage.offset = Some(u64::from(chunk.place.offset));
                    self.damaged(damage);
                }
            }
        }
        Ok(())
    }
}

/// Checks a pack's index, its length, and those of its chunks that do not begin at `own`.
async fn check_pack(
    store: &Store,
    id: PackId,
    own: &HashSet<u32>,
    budget: &Arc<Semaphore>,
) -> Result<(Option<PackIndex>, Vec<Damage>), MaintainError> {
    let damage = |error: &dyn fmt::Display| {
        let mut damage = Damage::new(None, error);
        damage.pack = Some(id);
        damage
    };
    let path = paths::pack(id);
    let index = match store.pack_index(id).await.map_err(|error| error.named_by("a layout")) {
        Ok(index) => index,
        Err(error) if is_damage(&error) => return Ok((None, vec![damage(&error)])),
        Err(error) => return Err(error.into()),
    };
    let mut damaged = Vec::new();
    let index_len = index.to_bytes().len() as u64;
    let need = index.data_len() + index_len + Trailer::LEN;
    // Some hosts do not tell sizes; then the reads tell.
    if let Ok(Some(info)) = store.transport().head(&path).await
        && info.size != need
    {
        let wrong = FormatError::Length { what: "pack", need, have: info.size };
        damaged.push(damage(&StoreError::format(store, &path)(wrong)));
    }
    let foreign = index.placed(id).filter(|chunk| !own.contains(&chunk.place.offset));
    let foreign: Vec<Placed> = foreign.collect();
    for group in
        foreign.chunk_by(|a, b| u64::from(a.place.offset) >> 23 == u64::from(b.place.offset) >> 23)
    {
        let bytes: u64 = group.iter().map(cost).sum();
        let permits = u32::try_from(bytes.min(MAX_PACK)).unwrap_or(BUDGET);
        let permit = budget.acquire_many(permits).await.map_err(|_| MaintainError::Worker)?;
        for (chunk, result) in group.iter().zip(fetch(store, group, check_foreign).await?) {
            let Err(error) = right(result) else { continue };
            let mut damage = damage(&error);
            damage.offset = Some(u64::from(chunk.place.offset));
            damaged.push(damage);
        }
        drop(permit);
    }
    Ok((Some(index), damaged))
}
