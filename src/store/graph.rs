//! An artifact's whole graph: manifest, table and layout, read and checked against each other.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use super::{Rejected, Store, StoreError};
use crate::format::FormatError;
use crate::format::id::{DecodedDigest, ManifestId, StoredDigest, TableId};
use crate::format::layout::{Layout, Place, Placed};
use crate::format::limits::MAX_RECORDS;
use crate::format::manifest::{Manifest, Totals};
use crate::format::page::{Entries, Extent, FileEntry, Listed, Page, TensorEntry, distinct};
use crate::format::store as paths;
use crate::transport::ReadRange;

/// An artifact's whole graph. Entries refer to `chunks` by ranges.
#[derive(Debug)]
pub struct ArtifactGraph {
    /// The artifact.
    pub id: ManifestId,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's exact bytes.
    pub manifest_bytes: Bytes,
    /// Tensors in load order, with the place of their first chunk in `chunks`.
    pub tensors: Vec<(TensorEntry, usize)>,
    /// Files in path order, with the place of their first chunk in `chunks`.
    pub files: Vec<(FileEntry, usize)>,
    /// All chunks in table order.
    pub chunks: Vec<Placed>,
    /// The first chunk of each page.
    pages: Vec<usize>,
    /// The bases of each page, by the page's first chunk and their content.
    bases: HashMap<(usize, DecodedDigest), usize>,
}

impl Store {
    /// A table of at most `len` bytes, whole.
    pub(crate) async fn table(&self, id: TableId, len: u64) -> Result<Bytes, StoreError> {
        let check = |bytes: Bytes| {
            let found = TableId::of(&bytes);
            if found == id {
                return Ok(bytes);
            }
            let (expected, found) = (id.to_hex(), found.to_hex());
            Err(FormatError::Digest { what: "table", expected, found }.into())
        };
        self.read_checked(&paths::table(id), &ReadRange::Full, len, check).await
    }

    /// Whether an artifact's manifest, table and layout are here and right.
    pub(crate) async fn has_graph(&self, id: ManifestId) -> bool {
        ArtifactGraph::read(self, id).await.is_ok()
    }

    /// Where the layout of one transport says that an artifact's chunks lie.
    pub(crate) async fn places_at(
        &self,
        transport: usize,
        id: ManifestId,
    ) -> Result<HashMap<StoredDigest, Place>, StoreError> {
        let graph = ArtifactGraph::read(self, id).await?;
        let records = graph.manifest.totals.records;
        let only = Self {
            transports: self.transports.get(transport).into_iter().cloned().collect(),
            ..self.clone()
        };
        let (path, len) = (paths::layout(id), Layout::slice(0..records).end);
        let parse = |bytes: Bytes| parse_layout(&bytes, id, records);
        let places = only.read_checked(&path, &ReadRange::Full, len, parse).await?;
        let chunks = graph.chunks.iter().zip(places);
        Ok(chunks.map(|(chunk, place)| (chunk.record.stored, place)).collect())
    }
}

/// The places of a layout that has one for each of `records`.
fn parse_layout(bytes: &[u8], id: ManifestId, records: u64) -> Result<Vec<Place>, Rejected> {
    let places = Layout::parse(bytes, id)?.places;
    let have = places.len() as u64;
    if have != records || have > MAX_RECORDS {
        return Err(FormatError::Length { what: "layout", need: records, have }.into());
    }
    Ok(places)
}

impl ArtifactGraph {
    /// Reads the artifact's manifest, table and layout.
    ///
    /// # Errors
    /// If one is missing or malformed, or the store fails.
    pub async fn read(store: &Store, id: ManifestId) -> Result<Self, StoreError> {
        let (manifest, bytes) = store.manifest(id).await?;
        Self::read_with(store, &manifest, &bytes).await
    }

    /// The same of a manifest that was read.
    pub(super) async fn read_with(
        store: &Store,
        manifest: &Manifest,
        manifest_bytes: &Bytes,
    ) -> Result<Self, StoreError> {
        let id = ManifestId::of(manifest_bytes);
        let by = format!("manifest {id}");
        let table_id = manifest.table().table;
        let (table_path, layout_path) = (paths::table(table_id), paths::layout(id));
        let layout_len = Layout::slice(0..manifest.totals.records).end;
        let table_len = manifest.table().length;
        let records = manifest.totals.records;
        let layout = |bytes: Bytes| parse_layout(&bytes, id, records);
        let (table, places) = futures_util::try_join!(
            store.table(table_id, table_len),
            store.read_checked(&layout_path, &ReadRange::Full, layout_len, layout),
        )
        .map_err(|error| error.named_by(&by))?;
        let damaged_table = StoreError::format(store, &table_path);
        let mut whole = Self {
            id,
            tensors: Vec::new(),
            files: Vec::new(),
            chunks: Vec::new(),
            pages: Vec::new(),
            bases: HashMap::new(),
            manifest_bytes: manifest_bytes.clone(),
            manifest: manifest.clone(),
        };
        let mut pages = Vec::new();
        for place in whole.manifest.table().places() {
            // The pages' lengths sum to the table's, whose digest is right.
            let (start, end) = (place.bytes.start as usize, place.bytes.end as usize);
            let bytes = table.get(start..end).unwrap_or_default();
            let page = Page::parse(bytes, place.page.kind, place.page.blake3);
            let page = page.map_err(&damaged_table)?;
            if page.first() != place.page.first {
                let why =
                    format!("a page begins with {:?}, not {:?}", page.first(), place.page.first);
                return Err(damaged_table(FormatError::invalid("table", why)));
            }
            pages.push((page, place.records));
        }
        for (page, records) in pages {
            whole.add(page, records, &places).map_err(&damaged_table)?;
        }
        whole.tensors.sort_by_key(|(tensor, _)| tensor.ordinal);
        whole.check().map_err(&damaged_table)?;
        Ok(whole)
    }

    fn add(
        &mut self,
        page: Page,
        records: std::ops::Range<u64>,
        places: &[Place],
    ) -> Result<(), FormatError> {
        let first = self.chunks.len();
        let wrong = |why: &str| FormatError::invalid("table", why);
        if first as u64 != records.start
            || page.records().count() as u64 != records.end - records.start
        {
            return Err(wrong("a page has another number of records than the manifest says"));
        }
        for (record, place) in page.records().zip(places.iter().skip(first)) {
            self.chunks.push(Placed { record: *record, place: *place });
        }
        let bases = (first + page.first_base as usize..).zip(&page.bases);
        self.bases.extend(bases.map(|(index, base)| ((first, base.decoded), index)));
        self.pages.push(first);
        fn list<T>(first: usize, listed: Vec<Listed<T>>) -> impl Iterator<Item = (T, usize)> {
            listed.into_iter().map(move |l| (l.entry, first + l.first_record as usize))
        }
        match page.entries {
            Entries::Tensors(tensors) => {
                if !self.files.is_empty() {
                    return Err(wrong("a page of tensors follows one of files"));
                }
                self.tensors.extend(list(first, tensors));
            }
            Entries::Files(files) => self.files.extend(list(first, files)),
        }
        Ok(())
    }

    /// The rules that hold between entries of different pages.
    fn check(&self) -> Result<(), FormatError> {
        let wrong = |why: String| Err(FormatError::invalid("table", why));
        for (i, (tensor, _)) in self.tensors.iter().enumerate() {
            if tensor.ordinal as usize != i {
                return wrong(format!("tensor {} has no tensor before it", tensor.ordinal));
            }
        }
        let paths: HashSet<&str> = self.files.iter().map(|(file, _)| file.path.as_str()).collect();
        let mut next = 0;
        for (i, pair) in self.files.windows(2).enumerate() {
            let [(a, _), (b, _)] = pair else { continue };
            if a.path >= b.path {
                return wrong(format!("file {i}, {:?}, is out of order", a.path));
            }
        }
        for (i, (file, _)) in self.files.iter().enumerate() {
            let above = file.path.match_indices('/').map(|(at, _)| &file.path[..at]);
            if let Some(both) = above.into_iter().find(|folder| paths.contains(folder)) {
                return wrong(format!("{both:?} is a file and a folder"));
            }
            let mut size = 0_u64;
            for extent in &file.extents {
                size += match *extent {
                    Extent::Content { len, .. } => len,
                    Extent::Tensor { ordinal } => match self.tensors.get(next) {
                        Some((t, _)) if t.ordinal == ordinal && t.file as usize == i => {
                            next += 1;
                            t.byte_len()
                        }
                        _ => {
                            return wrong(format!(
                                "{:?}: tensor {ordinal} is misplaced",
                                file.path
                            ));
                        }
                    },
                };
            }
            if size != file.size {
                return wrong(format!("{:?}: {size} bytes in a file of {}", file.path, file.size));
            }
        }
        if next != self.tensors.len() {
            return wrong(format!("tensor {next} is in no file"));
        }
        let (chunks, stored_bytes) = distinct(self.chunks.iter().map(|chunk| &chunk.record));
        let found = Totals {
            files: self.files.len() as u64,
            tensors: self.tensors.len() as u64,
            records: self.chunks.len() as u64,
            chunks,
            raw_bytes: self.files.iter().map(|(file, _)| file.size).sum(),
            stored_bytes,
        };
        if found != self.manifest.totals {
            return wrong(format!("{found:?}, where the manifest says {:?}", self.manifest.totals));
        }
        Ok(())
    }

    /// The chunks of a tensor, in chunk order.
    pub fn tensor_chunks(&self, ordinal: usize) -> &[Placed] {
        let Some((tensor, first)) = self.tensors.get(ordinal) else { return &[] };
        let end = first + usize::try_from(tensor.grid.chunks()).unwrap_or(0);
        self.chunks.get(*first..end).unwrap_or(&[])
    }

    /// What the chunk at this place of `chunks` is stored against, as a place there.
    pub fn base_of(&self, chunk: usize) -> Option<usize> {
        let base = self.chunks.get(chunk)?.record.base?;
        let page = self.pages.partition_point(|first| *first <= chunk).checked_sub(1)?;
        self.bases.get(&(*self.pages.get(page)?, base.decoded)).copied()
    }

    /// The bases that the chunk needs, nearest first, as places in `chunks`. At most eight: depths
    /// fall along them.
    pub fn bases_of(&self, chunk: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(self.base_of(chunk), |base| self.base_of(*base))
    }

    /// Whether any chunk is stored against another.
    pub fn has_bases(&self) -> bool {
        !self.bases.is_empty()
    }

    /// Each distinct stored chunk once, in table order.
    pub fn distinct(&self) -> Vec<Placed> {
        let mut seen = HashSet::<StoredDigest>::with_capacity(self.chunks.len());
        self.chunks.iter().filter(|chunk| seen.insert(chunk.record.stored)).copied().collect()
    }
}
