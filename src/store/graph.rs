//! An artifact's whole graph: manifest, table and layout, read and checked against each other.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use super::{Store, StoreError};
use crate::format::FormatError;
use crate::format::id::{DecodedDigest, ManifestId, StoredDigest, TableId};
use crate::format::layout::{Layout, Place};
use crate::format::limits::MAX_RECORDS;
use crate::format::manifest::{Manifest, Totals};
use crate::format::page::{Entries, Extent, FileEntry, Listed, Page, TensorEntry, distinct};
use crate::format::record::ChunkRecord;
use crate::format::store as paths;

/// A chunk with its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// What it is.
    pub record: ChunkRecord,
    /// Where the layout says it lies.
    pub place: Place,
}

impl Placed {
    /// Its bytes in the pack.
    pub fn range(&self) -> Range<u64> {
        let start = u64::from(self.place.offset);
        start..start + u64::from(self.record.stored_len)
    }
}

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

impl ArtifactGraph {
    /// Reads the artifact's manifest, table and layout.
    pub async fn read(store: &Store, id: ManifestId) -> Result<Self, StoreError> {
        let (manifest, manifest_bytes) = store.manifest(id).await?;
        let by = format!("manifest {id}");
        let table_id = manifest.table().table;
        let (table_path, layout_path) = (paths::table(table_id), paths::layout(id));
        let layout_len = Layout::slice(0..manifest.totals.records).end;
        let table_len = manifest.table().length;
        let (table, layout) = futures_util::try_join!(
            store.read(&table_path, usize::try_from(table_len).unwrap_or(usize::MAX)),
            store.read(&layout_path, usize::try_from(layout_len).unwrap_or(usize::MAX)),
        )
        .map_err(|error| error.named_by(&by))?;
        let damaged_table = StoreError::format(store, &table_path);
        let found = TableId::of(&table);
        if found != table_id {
            let (expected, found) = (table_id.to_hex(), found.to_hex());
            return Err(damaged_table(FormatError::Digest { what: "table", expected, found }));
        }
        let damaged_layout = StoreError::format(store, &layout_path);
        let places = Layout::parse(&layout, id).map_err(&damaged_layout)?.places;
        let mut whole = Self {
            id,
            tensors: Vec::new(),
            files: Vec::new(),
            chunks: Vec::new(),
            pages: Vec::new(),
            bases: HashMap::new(),
            manifest_bytes,
            manifest,
        };
        let mut pages = Vec::new();
        for place in whole.manifest.table().places() {
            // The pages' lengths sum to the table's, whose digest is right.
            let bytes = &table[place.bytes.start as usize..place.bytes.end as usize];
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
        if whole.chunks.len() != places.len() || places.len() as u64 > MAX_RECORDS {
            let (need, have) = (whole.chunks.len() as u64, places.len() as u64);
            return Err(damaged_layout(FormatError::Length { what: "layout", need, have }));
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
