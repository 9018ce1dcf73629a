//! An opened artifact: which manifest a name means, who vouches for it, and where the chunks of its
//! tensors lie.
//!
//! Reads are few and small: ref, then manifest with signatures, then the pages that can hold what
//! is wanted together with their part of the layout. Each is checked before it is interpreted; a
//! mirror that serves something else is passed over.

mod file;
mod select;
mod windows;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};
use tokio::sync::OnceCell;

use super::{ArtifactGraph, ReadStats, Rejected, Resolved, Store, StoreError};
use crate::format::id::{DecodedDigest, ManifestId, PackId};
use crate::format::layout::{Layout, Place};
use crate::format::limits::MAX_PAGE;
use crate::format::manifest::{Manifest, PagePlace};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::format::page::{Entries, Page, PageKind, TensorEntry};
use crate::format::record::ChunkRecord;
use crate::format::{FormatError, store};
use crate::schedule::plan::{PlanOptions, TensorRequest};
use crate::schedule::shard::Shard;
use crate::transport::{ObjectPath, ReadRange};
use crate::trust::{KeyId, SeenRefs, TrustSet};
pub use file::ListedFile;
pub use select::{Pattern, Selection};
pub use windows::{Window, Windows};

/// Tables and layouts up to this size are read whole.
const WHOLE: u64 = 256 << 10;
/// The most that one request for pages or places asks for.
const SEGMENT: u64 = 4 << 20;
/// Such requests at a time.
const PARALLEL: usize = 4;

/// Whom to trust.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The keys that count; with none of them, signatures are not looked at.
    pub trust: TrustSet,
    /// The refs seen before, so that an older one is noticed. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
}

/// An artifact whose manifest was read and, where keys are trusted, found signed by one of them.
#[derive(Debug)]
pub struct Artifact {
    manifest: Manifest,
    manifest_bytes: Bytes,
    resolved: Resolved,
    keys: Vec<KeyId>,
    warnings: Vec<String>,
    store: Store,
    /// The headers of its GGUF files, by path: several files of the model are made of them.
    pub(crate) gguf: OnceCell<Vec<(String, Bytes)>>,
}

/// Tensors with their chunks and places.
#[derive(Debug, Clone, Default)]
pub struct SelectedTensors {
    /// In the order in which they are delivered.
    pub tensors: Vec<Arc<TensorRequest>>,
    /// Where the known chunks of each pack end, if the whole table was read.
    pub pack_ends: HashMap<PackId, u64>,
}

impl Artifact {
    /// Finds the artifact in the store or a mirror of it.
    ///
    /// # Errors
    /// If it is not there, does not count, is malformed, or the store fails.
    pub async fn open(
        store: Store,
        spec: &ArtifactSpec,
        options: &OpenOptions,
    ) -> Result<Self, StoreError> {
        let trust = &options.trust;
        let mut resolved = match store.resolve_trusted(spec, trust, options.seen.as_ref()).await {
            Ok(resolved) => resolved,
            Err(error) => return Err(store.or_no_store(error).await),
        };
        let id = resolved.manifest;
        let named = resolved.name().map_or("", |name| name.as_str());
        let store = store.for_artifact(&format!("{named}@{id}"));
        let read = future::try_join(store.manifest(id), store.signatures(id, trust.key_ids()));
        let ((manifest, manifest_bytes), signatures) = match read.await {
            Ok(read) => read,
            Err(error) => {
                return Err(store.or_no_store(store.no_manifest(spec, error)).await);
            }
        };
        let name = resolved.name();
        let verdict = store.check_signatures(trust, name, id, &manifest_bytes, signatures).await?;
        let mut warnings: Vec<_> = resolved.warning.take().into_iter().collect();
        let mut keys = Vec::new();
        if let Some(verdict) = verdict {
            warnings.extend(verdict.rejected.iter().map(ToString::to_string));
            keys = verdict.keys;
        }
        if let Some(first) = manifest.incomplete.first() {
            let more = match manifest.incomplete.len() - 1 {
                0 => String::new(),
                more => format!(", and {more} more faults"),
            };
            let (fault, path) = (first.fault.replace('_', " "), &first.path);
            warnings.push(format!("{spec} was packed as no whole model: {path} ({fault}){more}"));
        }
        tracing::debug!(artifact = %id, location = store.location(), "opened");
        let gguf = OnceCell::new();
        Ok(Self { manifest, manifest_bytes, resolved, keys, warnings, store, gguf })
    }

    /// Its identifier.
    pub fn id(&self) -> ManifestId {
        self.resolved.manifest
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The manifest's exact bytes.
    pub fn manifest_bytes(&self) -> &Bytes {
        &self.manifest_bytes
    }

    /// What its name, if it was opened by one, led to.
    pub fn resolved(&self) -> &Resolved {
        &self.resolved
    }

    /// The name and tag that it was opened by.
    pub fn name(&self) -> Option<(&ArtifactName, &Tag)> {
        self.resolved.by.as_ref().map(|envelope| (&envelope.body().name, &envelope.body().tag))
    }

    /// The trusted keys that signed it; none if no key was trusted.
    pub fn signed_by(&self) -> &[KeyId] {
        &self.keys
    }

    /// What the user should hear although the artifact could be opened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The store that it lies in, with its mirrors.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What was read so far, packs apart.
    pub fn stats(&self) -> ReadStats {
        self.store.stats()
    }

    /// Has connections made for the loads that follow, if the store is far: one for each MiB, and no more than there
    /// will be requests at first, once it is known where the chunks lie.
    fn expect_loads(&self) {
        let Some(most) = self.store.way().requests() else { return };
        let requests = usize::try_from(self.manifest.totals.stored_bytes.div_ceil(1 << 20));
        self.store.expect(requests.unwrap_or(most).min(most));
    }

    /// Its whole graph: every file and tensor with all chunks.
    ///
    /// # Errors
    /// If a part of it is missing or malformed, or the store fails.
    pub async fn graph(&self) -> Result<ArtifactGraph, StoreError> {
        self.expect_loads();
        ArtifactGraph::read_with(&self.store, &self.manifest, &self.manifest_bytes).await
    }

    /// The selected tensors, or a rank's part of each: pattern by pattern, in load order within one.
    ///
    /// # Errors
    /// If a pattern matches nothing, a page is missing or malformed, or the store fails.
    pub async fn select(
        &self,
        selection: &Selection,
        shard: Option<Shard>,
    ) -> Result<SelectedTensors, StoreError> {
        self.expect_loads();
        let indexes = self.pages_of(selection);
        let all = indexes.len() == self.tensor_pages();
        let pages = self.pages(&indexes).await?;
        let mut gathered = Gathered::new(selection, shard);
        let mut pack_ends = HashMap::<PackId, (u64, u64)>::new();
        for (page, places) in pages {
            if all {
                for (place, record) in places.iter().zip(page.records()) {
                    let (end, index) = pack_ends.entry(place.pack).or_default();
                    *end = u64::max(*end, u64::from(place.offset) + u64::from(record.stored_len));
                    *index += ChunkRecord::LEN as u64;
                }
            }
            self.gather(page, &places, |_| true, &mut gathered)?;
        }
        self.check_matched(&gathered)?;
        // With many small chunks, what follows them is long: it would come with a whole pack.
        pack_ends.retain(|_, (end, index)| *index <= *end / 32);
        let pack_ends = pack_ends.into_iter().map(|(pack, (end, _))| (pack, end)).collect();
        Ok(SelectedTensors { tensors: gathered.in_order(), pack_ends })
    }

    /// How many pages list tensors.
    fn tensor_pages(&self) -> usize {
        self.manifest.table().pages.partition_point(|page| page.kind == PageKind::Tensors)
    }

    /// The pages that can hold what is selected.
    fn pages_of(&self, selection: &Selection) -> BTreeSet<usize> {
        match selection {
            Selection::All => (0..self.tensor_pages()).collect(),
            Selection::Patterns(patterns) => {
                patterns.iter().flat_map(|p| p.pages(&self.manifest.table().pages)).collect()
            }
        }
    }

    /// Takes the selected tensors of a page that `keep` wants.
    fn gather(
        &self,
        page: Page,
        places: &[Place],
        keep: impl Fn(&TensorEntry) -> bool,
        gathered: &mut Gathered<'_>,
    ) -> Result<(), StoreError> {
        let first_base = page.first_base as usize;
        if places.len() != first_base + page.bases.len() {
            let why = "another number of places than of records";
            let damaged = StoreError::format(&self.store, &store::layout(self.id()));
            return Err(damaged(FormatError::invalid("layout", why)));
        }
        let bases = page.bases.iter().zip(places.iter().skip(first_base));
        let bases: Bases<'_> = bases.map(|base| (base.0.decoded, base)).collect();
        let Entries::Tensors(list) = page.entries else { return Ok(()) };
        for listed in list {
            let Some(rank) = gathered.rank(&listed.entry.name) else { continue };
            if !keep(&listed.entry) {
                continue;
            }
            let first = listed.first_record as usize;
            let own = places.get(first..first + listed.records.len()).unwrap_or_default();
            let (mut records, mut own) = (listed.records, own.to_vec());
            add_bases(&bases, &mut records, &mut own);
            let request = TensorRequest::new(listed.entry, records, own, gathered.shard);
            gathered.ranked.push((rank, Arc::new(request)));
        }
        Ok(())
    }

    /// Every pattern must have matched a tensor.
    fn check_matched(&self, gathered: &Gathered<'_>) -> Result<(), StoreError> {
        let Some(missing) = gathered.unmatched() else { return Ok(()) };
        Err(StoreError::NoTensor {
            location: self.store.location().to_owned(),
            what: "tensor",
            artifact: self.id(),
            pattern: missing.as_str().to_owned(),
        })
    }

    /// Every page of the table with the places of its records, in table order.
    ///
    /// # Errors
    /// If one is missing or malformed, or the store fails.
    pub async fn all_pages(&self) -> Result<Vec<(Page, Vec<Place>)>, StoreError> {
        let all = (0..self.manifest.table().pages.len()).collect();
        self.pages(&all).await
    }

    /// Where these pages lie.
    fn chosen(&self, indexes: &BTreeSet<usize>) -> Vec<PagePlace<'_>> {
        let places = (0..).zip(self.manifest.table().places());
        places.filter(|(index, _)| indexes.contains(index)).map(|(_, place)| place).collect()
    }

    /// Reads these pages, and the places of their records at the same time.
    async fn pages(
        &self,
        indexes: &BTreeSet<usize>,
    ) -> Result<Vec<(Page, Vec<Place>)>, StoreError> {
        let (table, chosen) = (self.manifest.table(), self.chosen(indexes));
        let records: u64 = table.pages.iter().map(|page| page.chunks).sum();
        let layout_len = Layout::slice(0..records).end;
        let page_ranges: Vec<_> = chosen.iter().map(|place| place.bytes.clone()).collect();
        let slices: Vec<_> =
            chosen.iter().map(|place| Layout::slice(place.records.clone())).collect();
        let pages =
            self.store.parts(store::table(table.table), table.length, &page_ranges, |n, bytes| {
                match chosen.get(n) {
                    Some(place) => Page::parse(&bytes, place.page.kind, place.page.blake3),
                    None => Err(FormatError::invalid("table page", "not asked for")),
                }
            });
        let places = self.store.parts(store::layout(self.id()), layout_len, &slices, |n, bytes| {
            let places = Place::parse_all(&bytes)?;
            let expected = chosen.get(n).map_or(0, |place| place.page.chunks);
            if places.len() as u64 == expected {
                return Ok(places);
            }
            Err(FormatError::invalid("layout", "a slice of the wrong length"))
        });
        let read = future::try_join(pages, places).await;
        let (pages, places) =
            read.map_err(|error| error.named_by(format!("manifest {}", self.id())))?;
        Ok(pages.into_iter().zip(places).collect())
    }
}

/// The selected tensors of some pages.
struct Gathered<'a> {
    selection: &'a Selection,
    shard: Option<Shard>,
    /// The patterns that matched a tensor.
    matched: BTreeSet<usize>,
    /// Each with the pattern that asks for it first.
    ranked: Vec<(usize, Arc<TensorRequest>)>,
}

impl<'a> Gathered<'a> {
    fn new(selection: &'a Selection, shard: Option<Shard>) -> Self {
        Self { selection, shard, matched: BTreeSet::new(), ranked: Vec::new() }
    }

    /// Which pattern asks for the tensor first.
    fn rank(&mut self, name: &str) -> Option<usize> {
        let Selection::Patterns(patterns) = self.selection else { return Some(0) };
        let hits = (0..).zip(patterns).filter(|(_, pattern)| pattern.matches(name));
        let hits: Vec<usize> = hits.map(|(index, _)| index).collect();
        self.matched.extend(&hits);
        hits.first().copied()
    }

    fn unmatched(&self) -> Option<&Pattern> {
        let Selection::Patterns(patterns) = self.selection else { return None };
        let mut patterns = (0..).zip(patterns);
        patterns.find(|(index, _)| !self.matched.contains(index)).map(|(_, pattern)| pattern)
    }

    fn in_order(mut self) -> Vec<Arc<TensorRequest>> {
        self.ranked.sort_by_key(|(rank, request)| (*rank, request.entry.ordinal));
        self.ranked.into_iter().map(|(_, request)| request).collect()
    }
}

/// The base chunks of a page, by content.
type Bases<'a> = HashMap<DecodedDigest, (&'a ChunkRecord, &'a Place)>;

/// Adds the bases that these records name, directly or through each other, behind them.
fn add_bases(bases: &Bases<'_>, records: &mut Vec<ChunkRecord>, places: &mut Vec<Place>) {
    let mut seen = HashSet::new();
    let mut at = 0;
    while let Some(record) = records.get(at).filter(|_| !bases.is_empty()) {
        at += 1;
        let base = record.base.filter(|base| seen.insert(base.decoded));
        if let Some((record, place)) = base.and_then(|base| bases.get(&base.decoded)) {
            records.push(**record);
            places.push(**place);
        }
    }
}

impl Store {
    /// Reads parts of an object, neighbours in one request and small objects whole, and parses
    /// each.
    async fn parts<T>(
        &self,
        path: ObjectPath,
        len: u64,
        parts: &[Range<u64>],
        parse: impl Fn(usize, Bytes) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, StoreError> {
        let over = self.way().round_trip().unwrap_or(PlanOptions::default().gap);
        let groups = group(len, parts, over);
        let (path, parse) = (&path, &parse);
        let read = |(range, members): (Range<u64>, Range<usize>)| async move {
            let limit = (range.end - range.start).max(MAX_PAGE);
            let check = |bytes: Bytes| {
                let parsed = members.clone().map(|n| {
                    let part = parts.get(n).cloned().unwrap_or_default();
                    let ends =
                        part.start.checked_sub(range.start).zip(part.end.checked_sub(range.start));
                    let own = ends.and_then(|(start, end)| {
                        let start = usize::try_from(start).ok()?;
                        let end = usize::try_from(end).ok()?;
                        (end <= bytes.len()).then(|| bytes.slice(start..end))
                    });
                    let have = bytes.len() as u64;
                    let own =
                        own.ok_or(FormatError::Length { what: "object", need: part.end, have })?;
                    parse(n, own)
                });
                parsed.collect::<Result<Vec<T>, FormatError>>().map_err(Rejected::from)
            };
            // A small object is asked for whole, which every cache on the way keeps.
            let ask = match range.end - range.start == len {
                true => ReadRange::Full,
                false => ReadRange::Bounded(range.clone()),
            };
            self.read_checked(path, &ask, limit, check).await
        };
        let parsed: Vec<Vec<T>> =
            stream::iter(groups.into_iter().map(read)).buffered(PARALLEL).try_collect().await?;
        Ok(parsed.into_iter().flatten().collect())
    }
}

/// Ranges to ask for, each with the parts that lie in it. Parts rise and do not overlap; up to `over` bytes between
/// two of them are read over.
fn group(len: u64, parts: &[Range<u64>], over: u64) -> Vec<(Range<u64>, Range<usize>)> {
    if parts.is_empty() {
        return Vec::new();
    }
    if len <= WHOLE {
        return vec![(0..len, 0..parts.len())];
    }
    let mut groups: Vec<(Range<u64>, Range<usize>)> = Vec::new();
    for (n, part) in parts.iter().enumerate() {
        match groups.last_mut() {
            Some((range, members))
                if part.start - range.end <= over && part.end - range.start <= SEGMENT =>
            {
                range.end = part.end;
                members.end = n + 1;
            }
            _ => groups.push((part.clone(), n..n + 1)),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_grouped_into_few_requests() {
        assert_eq!(group(1000, &[10..20, 500..600], 0), [(0..1000, 0..2)]);
        let far = 10 << 20;
        assert_eq!(
            group(far, &[0..100, 100..300, 400..500, 500..SEGMENT + 500], 99),
            [(0..300, 0..2), (400..500, 2..3), (500..SEGMENT + 500, 3..4)]
        );
        assert_eq!(
            group(far, &[0..100, 100..300, 400..500, 501..SEGMENT + 500], 100),
            [(0..500, 0..3), (501..SEGMENT + 500, 3..4)]
        );
        // The layout of a table without records is its header, which nobody asks for.
        assert_eq!(group(64, &[], 0), []);
    }
}
