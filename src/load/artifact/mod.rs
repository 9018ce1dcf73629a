//! An opened artifact: which manifest a name means, who vouches for it, and where the chunks of its
//! tensors lie.
//!
//! Reads are few and small: ref, then manifest with signatures, then the pages that can hold what
//! is wanted together with their part of the layout. Each is checked before it is interpreted; a
//! mirror that serves something else is passed over.

mod error;
mod file;
mod select;
mod weights;
mod windows;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, future, stream};

use crate::format::id::{DecodedDigest, ManifestId, PackId};
use crate::format::layout::{Layout, Place};
use crate::format::limits::{MAX_MANIFEST, MAX_PAGE, MAX_REF, MAX_SIGNATURE};
use crate::format::manifest::{Manifest, PagePlace};
use crate::format::name::{ArtifactName, ArtifactSpec, IdPrefix, Tag};
use crate::format::page::{Entries, Page, PageKind, TensorEntry};
use crate::format::record::ChunkRecord;
use crate::format::refs::{RefBody, ref_path};
use crate::format::{FormatError, store};
use crate::load::{LoadOptions, Loader};
use crate::schedule::plan::TensorRequest;
use crate::schedule::shard::Shard;
use crate::transport::small::{RetryPolicy, read_all};
use crate::transport::{ObjectPath, ReadRange, Transport, TransportError, TransportErrorKind};
use crate::trust::{
    Envelope, KeyId, Method, SeenRefs, SeenState, TrustSet, Verified, signature_path,
};
pub use error::ArtifactError;
pub use file::ListedFile;
pub use select::{Pattern, Selection};
pub use weights::{AsFloats, modules};
pub use windows::{Window, Windows};

/// Tables and layouts up to this size are read whole.
const WHOLE: u64 = 256 << 10;
/// The most that one request for pages or places asks for.
const SEGMENT: u64 = 4 << 20;
/// Such requests at a time.
const PARALLEL: usize = 4;

/// Whom to trust, and how patiently to read.
#[derive(Debug, Default)]
pub struct OpenOptions {
    /// The keys that count; with none of them, signatures are not looked at.
    pub trust: TrustSet,
    /// The refs seen before, so that an older one is noticed. Used only with trusted keys.
    pub seen: Option<SeenRefs>,
    /// How failures of small reads are waited out.
    pub retry: RetryPolicy,
}

/// An artifact whose manifest was read and, where keys are trusted, found signed by one of them.
#[derive(Debug)]
pub struct Artifact {
    id: ManifestId,
    manifest: Manifest,
    name: Option<(ArtifactName, Tag)>,
    keys: Vec<KeyId>,
    warnings: Vec<String>,
    reader: Reader,
}

/// Tensors with their chunks and places.
#[derive(Debug, Clone, Default)]
pub struct SelectedTensors {
    /// In the order in which they are delivered.
    pub tensors: Vec<Arc<TensorRequest>>,
    /// Where the known chunks of each pack end, if the whole table was read.
    pub pack_ends: HashMap<PackId, u64>,
}

/// What was read besides packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadStats {
    /// Requests.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
}

impl Artifact {
    /// Finds the artifact in `sources`, which hold the same store, the first preferred.
    pub async fn open(
        sources: Vec<Arc<dyn Transport>>,
        spec: &ArtifactSpec,
        options: &OpenOptions,
    ) -> Result<Self, ArtifactError> {
        let mut reader = Reader {
            sources,
            retry: options.retry.clone(),
            requests: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |t| t.as_secs());
        let mut warnings = Vec::new();
        let (id, name) = match spec {
            ArtifactSpec::Named { name, tag } => {
                let id = reader.resolve(name, tag, options, now, &mut warnings).await?;
                (id, Some((name.clone(), tag.clone())))
            }
            ArtifactSpec::Id(prefix) => (reader.find(prefix).await?, None),
        };
        let named = name.as_ref().map_or("", |(name, _)| name.as_str());
        let artifact = format!("{named}@{id}");
        for source in &mut reader.sources {
            if let Some(told) = source.for_artifact(&artifact) {
                *source = told;
            }
        }
        let signatures =
            options.trust.key_ids().map(|(key, method)| reader.signature(id, key, method));
        let (manifest, signatures) =
            future::try_join(reader.manifest(id), future::try_join_all(signatures)).await.map_err(
                |error| match (error, &name) {
                    (ArtifactError::NotFound { what, location }, Some((name, tag))) => {
                        ArtifactError::Incomplete { what, location, by: format!("{name}:{tag}") }
                    }
                    (other, _) => other,
                },
            )?;
        let (manifest, bytes) = manifest;
        let mut keys = Vec::new();
        if !options.trust.is_empty() {
            let mut signatures: Vec<_> = signatures.into_iter().flatten().collect();
            let of = name.as_ref().map(|(name, _)| name);
            let verify =
                |signatures: &[_]| options.trust.verify_manifest(of, id, &bytes, signatures, now);
            let mut verdict = verify(&signatures);
            if verdict.is_err() && reader.sources.len() > 1 {
                signatures.extend(reader.other_signatures(id, &options.trust).await);
                verdict = verify(&signatures);
            }
            let trust = verdict?;
            warnings.extend(trust.rejected.iter().map(ToString::to_string));
            keys = trust.keys;
        }
        Ok(Self { id, manifest, name, keys, warnings, reader })
    }

    /// Its identifier.
    pub fn id(&self) -> ManifestId {
        self.id
    }

    /// Its manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The name and tag that it was opened by.
    pub fn name(&self) -> Option<&(ArtifactName, Tag)> {
        self.name.as_ref()
    }

    /// The trusted keys that signed it; none if no key was trusted.
    pub fn signed_by(&self) -> &[KeyId] {
        &self.keys
    }

    /// What the user should hear although the artifact could be opened.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// What was read so far, packs apart.
    pub fn stats(&self) -> ReadStats {
        ReadStats {
            requests: self.reader.requests.load(Ordering::Relaxed),
            bytes: self.reader.bytes.load(Ordering::Relaxed),
        }
    }

    /// The selected tensors, or a rank's part of each: pattern by pattern, in load order within one.
    pub async fn select(
        &self,
        selection: &Selection,
        shard: Option<Shard>,
    ) -> Result<SelectedTensors, ArtifactError> {
        let indexes = self.pages_of(selection);
        let all = indexes.len() == self.tensor_pages();
        let pages = self.pages(&indexes).await?;
        let mut gathered = Gathered::new(selection, shard);
        let mut pack_ends = HashMap::new();
        for (page, places) in pages {
            if all {
                for (place, record) in places.iter().zip(page.records()) {
                    let end = pack_ends.entry(place.pack).or_default();
                    *end = u64::max(*end, u64::from(place.offset) + u64::from(record.stored_len));
                }
            }
            self.gather(page, &places, |_| true, &mut gathered)?;
        }
        self.check_matched(&gathered)?;
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
    ) -> Result<(), ArtifactError> {
        let first_base = page.first_base as usize;
        if places.len() != first_base + page.bases.len() {
            let why = "another number of places than of records";
            let error = FormatError::invalid("layout", why);
            return Err(self.reader.format(&store::layout(self.id), error));
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
    fn check_matched(&self, gathered: &Gathered<'_>) -> Result<(), ArtifactError> {
        let Some(missing) = gathered.unmatched() else { return Ok(()) };
        let what = format!("a tensor called {:?} of artifact {}", missing.as_str(), self.id);
        Err(ArtifactError::NotFound { what, location: self.reader.location() })
    }

    /// Every page of the table with the places of its records, in table order.
    pub async fn all_pages(&self) -> Result<Vec<(Page, Vec<Place>)>, ArtifactError> {
        let all = (0..self.manifest.table().pages.len()).collect();
        self.pages(&all).await
    }

    /// Loads what [`Self::want`] found. Must be called within a tokio runtime.
    pub fn load(&self, wanted: SelectedTensors, options: &LoadOptions) -> Loader {
        let SelectedTensors { tensors, pack_ends } = wanted;
        Loader::start(self.id, self.reader.sources.clone(), tensors, pack_ends, options)
    }

    /// Reads these pages, and the places of their records at the same time.
    async fn pages(
        &self,
        indexes: &BTreeSet<usize>,
    ) -> Result<Vec<(Page, Vec<Place>)>, ArtifactError> {
        let table = self.manifest.table();
        let chosen: Vec<PagePlace<'_>> = (0..)
            .zip(table.places())
            .filter(|(index, _)| indexes.contains(index))
            .map(|(_, place)| place)
            .collect();
        let records: u64 = table.pages.iter().map(|page| page.chunks).sum();
        let layout_len = Layout::slice(0..records).end;
        let page_ranges: Vec<_> = chosen.iter().map(|place| place.bytes.clone()).collect();
        let slices: Vec<_> =
            chosen.iter().map(|place| Layout::slice(place.records.clone())).collect();
        let pages =
            self.reader.parts(store::table(table.table), table.length, &page_ranges, |n, bytes| {
                match chosen.get(n) {
                    Some(place) => Page::parse(&bytes, place.page.kind, place.page.blake3),
                    None => Err(FormatError::invalid("table page", "not asked for")),
                }
            });
        let places = self.reader.parts(store::layout(self.id), layout_len, &slices, |n, bytes| {
            let places = Place::parse_all(&bytes)?;
            let expected = chosen.get(n).map_or(0, |place| place.page.chunks);
            if places.len() as u64 == expected {
                return Ok(places);
            }
            Err(FormatError::invalid("layout", "a slice of the wrong length"))
        });
        let (pages, places) = future::try_join(pages, places).await?;
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

/// Small reads from several sources.
#[derive(Debug)]
struct Reader {
    sources: Vec<Arc<dyn Transport>>,
    retry: RetryPolicy,
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// Tries of one source that serves something damaged, which may have been damaged on the way.
const TRIES: usize = 2;

impl Reader {
    fn location(&self) -> String {
        self.sources.first().map_or_else(String::new, |source| source.location().to_owned())
    }

    fn format(&self, object: &ObjectPath, error: FormatError) -> ArtifactError {
        let (location, object) = (self.location(), object.to_string());
        ArtifactError::Format { location, object, error }
    }

    /// Reads an object, or a range of it, from the first source whose answer passes `check`.
    async fn read<T>(
        &self,
        path: &ObjectPath,
        range: &ReadRange,
        limit: u64,
        check: impl Fn(Bytes) -> Result<T, ArtifactError>,
    ) -> Result<T, ArtifactError> {
        let mut last = None;
        for source in &self.sources {
            for _ in 0..TRIES {
                self.requests.fetch_add(1, Ordering::Relaxed);
                match read_all(source.as_ref(), path, range.clone(), limit, &self.retry).await {
                    Ok((bytes, _)) => {
                        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                        match check(bytes) {
                            Ok(value) => return Ok(value),
                            Err(error) => last = worse(last, error),
                        }
                    }
                    Err(error) => {
                        last = worse(last, error.into());
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| ArtifactError::NotFound {
            what: path.to_string(),
            location: "no store at all".to_owned(),
        }))
    }

    async fn resolve(
        &self,
        name: &ArtifactName,
        tag: &Tag,
        options: &OpenOptions,
        now: u64,
        warnings: &mut Vec<String>,
    ) -> Result<ManifestId, ArtifactError> {
        let path = object_path(ref_path(name, tag))?;
        let trust = &options.trust;
        let check =
            |bytes: Bytes| -> Result<(ManifestId, Option<Verified<RefBody>>), ArtifactError> {
                if trust.is_empty() {
                    let envelope = Envelope::<RefBody>::parse(&bytes)?;
                    return Ok((envelope.body().manifest, None));
                }
                let vouched = trust.verify_ref(name, tag, &bytes, now)?;
                Ok((vouched.body.manifest, Some(vouched)))
            };
        let checked = |bytes| {
            let (id, vouched) = check(bytes)?;
            let state = match (&options.seen, &vouched) {
                (Some(seen), Some(vouched)) => Some(seen.check(vouched)?),
                _ => None,
            };
            Ok((id, state))
        };
        let read = self.read(&path, &ReadRange::Full, MAX_REF as u64, checked).await;
        let (id, state) = read.map_err(|error| match error {
            ArtifactError::Transport(e) if e.kind == TransportErrorKind::NotFound => {
                ArtifactError::NotFound { what: format!("{name}:{tag}"), location: self.location() }
            }
            other => other,
        })?;
        if let Some(SeenState::NotWritable { reason }) = state {
            warnings.push(format!("a rollback of {name}:{tag} would go unnoticed: {reason}"));
        }
        Ok(id)
    }

    async fn find(&self, prefix: &IdPrefix) -> Result<ManifestId, ArtifactError> {
        if let Some(id) = prefix.exact() {
            return Ok(id);
        }
        let not_found = || ArtifactError::NotFound {
            what: format!("@{}", prefix.as_str()),
            location: self.location(),
        };
        let source = self.sources.first().ok_or_else(not_found)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let listed = source.list("manifests/").await?;
        let ids = listed.iter().filter_map(|object| {
            let id: ManifestId = object.path.as_str().strip_prefix("manifests/")?.parse().ok()?;
            prefix.matches(id).then_some(id)
        });
        let mut ids = ids.take(2);
        match (ids.next(), ids.next()) {
            (Some(id), None) => Ok(id),
            (Some(first), Some(second)) => {
                let prefix = prefix.as_str().to_owned();
                Err(ArtifactError::Ambiguous { prefix, first, second })
            }
            _ => Err(not_found()),
        }
    }

    async fn manifest(&self, id: ManifestId) -> Result<(Manifest, Bytes), ArtifactError> {
        let path = store::manifest(id);
        let check = |bytes: Bytes| match Manifest::parse(&bytes, id) {
            Ok(manifest) => Ok((manifest, bytes)),
            Err(error) => Err(self.format(&path, error)),
        };
        let read = self.read(&path, &ReadRange::Full, MAX_MANIFEST as u64, check).await;
        read.map_err(|error| match error {
            ArtifactError::Transport(e) if e.kind == TransportErrorKind::NotFound => {
                ArtifactError::NotFound {
                    what: format!("artifact {id}"),
                    location: self.location(),
                }
            }
            other => other,
        })
    }

    /// A key's signature file; `None` if there is none.
    async fn signature(
        &self,
        id: ManifestId,
        key: &KeyId,
        method: Method,
    ) -> Result<Option<(KeyId, Method, Bytes)>, ArtifactError> {
        let path = object_path(signature_path(id, key, method))?;
        match self.read(&path, &ReadRange::Full, MAX_SIGNATURE as u64, Ok).await {
            Ok(bytes) => Ok(Some((key.clone(), method, bytes))),
            Err(ArtifactError::Transport(error)) if error.kind == TransportErrorKind::NotFound => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// The signature files that the sources after the first have: the first one's may be damaged. One
    /// that cannot be had is left out.
    async fn other_signatures(
        &self,
        id: ManifestId,
        trust: &TrustSet,
    ) -> Vec<(KeyId, Method, Bytes)> {
        let mut found = Vec::new();
        for source in self.sources.iter().skip(1) {
            for (key, method) in trust.key_ids() {
                let Ok(path) = object_path(signature_path(id, key, method)) else { continue };
                self.requests.fetch_add(1, Ordering::Relaxed);
                let (limit, full) = (MAX_SIGNATURE as u64, ReadRange::Full);
                let read = read_all(source.as_ref(), &path, full, limit, &self.retry).await;
                let Ok((bytes, _)) = read else { continue };
                self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                found.push((key.clone(), method, bytes));
            }
        }
        found
    }

    /// Reads parts of an object, neighbours in one request and small objects whole, and parses
    /// each.
    async fn parts<T>(
        &self,
        path: ObjectPath,
        len: u64,
        parts: &[Range<u64>],
        parse: impl Fn(usize, Bytes) -> Result<T, FormatError>,
    ) -> Result<Vec<T>, ArtifactError> {
        let groups = group(len, parts);
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
                parsed.collect::<Result<Vec<T>, _>>().map_err(|error| self.format(path, error))
            };
            // A small object is asked for whole, which every cache on the way keeps.
            let ask = match range.end - range.start == len {
                true => ReadRange::Full,
                false => ReadRange::Bounded(range.clone()),
            };
            self.read(path, &ask, limit, check).await
        };
        let parsed: Vec<Vec<T>> =
            stream::iter(groups.into_iter().map(read)).buffered(PARALLEL).try_collect().await?;
        Ok(parsed.into_iter().flatten().collect())
    }
}

/// Ranges to ask for, each with the parts that lie in it. Parts rise and do not overlap.
fn group(len: u64, parts: &[Range<u64>]) -> Vec<(Range<u64>, Range<usize>)> {
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
                if part.start == range.end && part.end - range.start <= SEGMENT =>
            {
                range.end = part.end;
                members.end = n + 1;
            }
            _ => groups.push((part.clone(), n..n + 1)),
        }
    }
    groups
}

/// The more telling of two failures: a wrong answer says more than a missing one.
fn worse(last: Option<ArtifactError>, next: ArtifactError) -> Option<ArtifactError> {
    let is_missing = |error: &ArtifactError| matches!(error, ArtifactError::Transport(e) if e.kind == TransportErrorKind::NotFound);
    match last {
        Some(last) if is_missing(&next) && !is_missing(&last) => Some(last),
        _ => Some(next),
    }
}

fn object_path(path: String) -> Result<ObjectPath, ArtifactError> {
    ObjectPath::new(path.clone()).ok_or_else(|| {
        let why = "not a path of a store";
        TransportError::new(TransportErrorKind::Invalid, "", path, why).into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_grouped_into_few_requests() {
        assert_eq!(group(1000, &[10..20, 500..600]), [(0..1000, 0..2)]);
        let far = 10 << 20;
        assert_eq!(
            group(far, &[0..100, 100..300, 400..500, 500..SEGMENT + 500]),
            [(0..300, 0..2), (400..500, 2..3), (500..SEGMENT + 500, 3..4)]
        );
        // The layout of a table without records is its header, which nobody asks for.
        assert_eq!(group(64, &[]), []);
    }
}
