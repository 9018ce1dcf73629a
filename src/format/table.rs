//! Building a table: entries sorted, gathered into pages, and what the manifest says of them.

use std::collections::{HashMap, HashSet};

use super::error::FormatError;
use super::limits::MAX_PAGES;
use super::manifest::{PageRef, TableRef, Totals};
use super::page::{self, FileEntry, PageKind, TensorEntry};
use super::record::ChunkRecord;
use super::wire::at_most;
use crate::format::id::{DecodedDigest, PageDigest, TableId};

/// Pages are filled to this many bytes: one costs little to fetch, and a terabyte has some 2,000.
const PAGE_TARGET: usize = 64 << 10;

/// An artifact's entries, with the records of their chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entries {
    /// Tensors, in any order.
    pub tensors: Vec<(TensorEntry, Vec<ChunkRecord>)>,
    /// Files, in any order.
    pub files: Vec<(FileEntry, Vec<ChunkRecord>)>,
    /// Every chunk that a record names as its base, directly or through another base.
    pub bases: HashMap<DecodedDigest, ChunkRecord>,
}

/// A table, ready to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The object's bytes.
    pub bytes: Vec<u8>,
    /// What the manifest says of it.
    pub reference: TableRef,
    /// What the artifact holds.
    pub totals: Totals,
    /// All records, in table order: the order of a layout's entries.
    pub records: Vec<ChunkRecord>,
    /// Whose they are, one by one.
    pub owners: Vec<Owner>,
}

/// Whose a record of a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// One of the tensor of that ordinal, in the order of its records.
    Tensor {
        /// The tensor.
        ordinal: u32,
        /// Which of its records.
        record: u32,
    },
    /// One of a file's, in the order of its records.
    File {
        /// The file, in path order.
        file: u32,
        /// Which of its records.
        record: u32,
    },
    /// No entry's: a record of the page names it as its base.
    Base,
}

impl Entries {
    /// Sorts the entries and writes the table.
    ///
    /// # Errors
    /// If an entry breaks a rule or a limit of the format.
    pub fn into_table(mut self) -> Result<Table, FormatError> {
        self.tensors.sort_by(|(a, _), (b, _)| (&a.name, a.file).cmp(&(&b.name, b.file)));
        self.files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
        let size = |records: &Vec<ChunkRecord>| 256 + records.len() * ChunkRecord::LEN;
        let total: usize = self.tensors.iter().map(|(_, r)| size(r)).sum::<usize>()
            + self.files.iter().map(|(_, r)| size(r)).sum::<usize>();
        let target = PAGE_TARGET.max(total / (MAX_PAGES / 4));
        let mut table = Builder::default();
        for group in groups(&self.tensors, target, |(entry, _)| 150 + entry.name.len()) {
            let bases = self.bases_of(group.iter().flat_map(|(_, records)| records))?;
            let entries: Vec<_> = group.iter().collect();
            let bytes = page::write_tensors(&entries, &bases)?;
            let records = group.iter().flat_map(|(entry, records)| {
                let ordinal = entry.ordinal;
                (0..).zip(records).map(move |(n, own)| (*own, Owner::Tensor { ordinal, record: n }))
            });
            let first = group.first().map_or("", |(entry, _)| &entry.name);
            table.push(PageKind::Tensors, first, &bytes, records, bases);
        }
        let mut files = 0_u32..;
        for group in groups(&self.files, target, |(e, _)| 80 + e.path.len() + 45 * e.extents.len())
        {
            let bases = self.bases_of(group.iter().flat_map(|(_, records)| records))?;
            let entries: Vec<_> = group.iter().collect();
            let bytes = page::write_files(&entries, &bases)?;
            let records = group.iter().zip(&mut files).flat_map(|((_, records), file)| {
                (0..).zip(records).map(move |(n, own)| (*own, Owner::File { file, record: n }))
            });
            let first = group.first().map_or("", |(entry, _)| &entry.path);
            table.push(PageKind::Files, first, &bytes, records, bases);
        }
        at_most("pages", table.pages.len() as u64, MAX_PAGES as u64)?;
        let (chunks, stored_bytes) = page::distinct(&table.records);
        let totals = Totals {
            files: self.files.len() as u64,
            tensors: self.tensors.len() as u64,
            records: table.records.len() as u64,
            chunks,
            raw_bytes: self.files.iter().map(|(file, _)| file.size).sum(),
            stored_bytes,
        };
        let reference = TableRef {
            table: TableId::of(&table.bytes),
            length: table.bytes.len() as u64,
            pages: table.pages,
        };
        let (records, owners) = (table.records, table.owners);
        Ok(Table { bytes: table.bytes, reference, totals, records, owners })
    }

    /// The bases of `records`, and theirs, each once, in the order first named.
    fn bases_of<'a>(
        &self,
        records: impl Iterator<Item = &'a ChunkRecord>,
    ) -> Result<Vec<ChunkRecord>, FormatError> {
        let mut seen = HashSet::new();
        let mut bases = Vec::new();
        for record in records {
            let mut next = record.base;
            while let Some(base) = next {
                if !seen.insert(base.decoded) {
                    break;
                }
                let record = self.bases.get(&base.decoded).ok_or_else(|| {
                    FormatError::invalid("base chunks", format!("{} is missing", base.decoded))
                })?;
                bases.push(*record);
                next = record.base;
            }
        }
        Ok(bases)
    }
}

#[derive(Default)]
struct Builder {
    bytes: Vec<u8>,
    pages: Vec<PageRef>,
    records: Vec<ChunkRecord>,
    owners: Vec<Owner>,
}

impl Builder {
    fn push(
        &mut self,
        kind: PageKind,
        first: &str,
        bytes: &[u8],
        records: impl Iterator<Item = (ChunkRecord, Owner)>,
        bases: Vec<ChunkRecord>,
    ) {
        let before = self.records.len();
        let bases = bases.into_iter().map(|base| (base, Owner::Base));
        let (records, owners): (Vec<_>, Vec<_>) = records.chain(bases).unzip();
        self.records.extend(records);
        self.owners.extend(owners);
        self.pages.push(PageRef {
            blake3: PageDigest::of(bytes),
            chunks: (self.records.len() - before) as u64,
            first: first.to_owned(),
            kind,
            length: bytes.len() as u64,
        });
        self.bytes.extend_from_slice(bytes);
    }
}

/// Splits `entries` into runs of about `target` bytes; an entry that leads beyond starts the next.
fn groups<T>(
    entries: &[(T, Vec<ChunkRecord>)],
    target: usize,
    size: impl Fn(&(T, Vec<ChunkRecord>)) -> usize,
) -> Vec<&[(T, Vec<ChunkRecord>)]> {
    let mut bytes = 0;
    let len = |entry: &(T, Vec<ChunkRecord>)| size(entry) + entry.1.len() * ChunkRecord::LEN;
    entries
        .chunk_by(|entry, next| {
            bytes += len(entry);
            let together = bytes + len(next) <= target;
            if !together {
                bytes = 0;
            }
            together
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::{Dtype, Shape};
    use crate::format::grid::Grid;
    use crate::format::id::{ContentDigest, StoredDigest};
    use crate::format::page::{Entries as PageEntries, Extent, Page};
    use crate::format::record::{Base, CodecId};

    fn record(n: u64, len: u32) -> ChunkRecord {
        ChunkRecord::raw(Dtype::U8, len, blake3::hash(&n.to_le_bytes()))
    }

    fn tensor(n: u32, chunks: u64) -> (TensorEntry, Vec<ChunkRecord>) {
        let entry = TensorEntry {
            ordinal: n,
            file: 0,
            name: format!("t{n:04}"),
            dtype: Dtype::U8,
            shape: Shape::new(vec![chunks * 10]).unwrap(),
            digest: ContentDigest::of(&n.to_le_bytes()),
            grid: Grid::run(chunks * 10, 10),
        };
        let records = (0..chunks).map(|i| record(u64::from(n) << 32 | i, 10)).collect();
        (entry, records)
    }

    fn entries() -> Entries {
        let mut extents =
            vec![Extent::Content { len: 7, digest: ContentDigest::of(b"header"), chunks: 1 }];
        extents.extend((0..300).map(|ordinal| Extent::Tensor { ordinal }));
        let file = FileEntry {
            path: "m/model.safetensors".into(),
            executable: true,
            size: 30_007,
            sha256: [1; 32],
            git_sha1: Some([2; 20]),
            extents,
        };
        Entries {
            tensors: (0..300).rev().map(|n| tensor(n, u64::from(n % 7))).collect(),
            files: vec![(file, vec![record(u64::MAX, 7)])],
            bases: HashMap::new(),
        }
    }

    fn parse(table: &Table) -> Vec<Page> {
        let mut pages = Vec::new();
        let manifest =
            crate::format::manifest::Manifest::new(table.reference.clone(), table.totals);
        for place in manifest.table().places() {
            let bytes = &table.bytes[place.bytes.start as usize..place.bytes.end as usize];
            let page = Page::parse(bytes, place.page.kind, place.page.blake3).unwrap();
            if let PageEntries::Tensors(list) = &page.entries {
                let mut skimmed = Vec::new();
                Page::skim(bytes, place.page.blake3, |entry| skimmed.push(entry)).unwrap();
                assert!(list.iter().map(|listed| &listed.entry).eq(&skimmed));
            }
            pages.push(page);
        }
        pages
    }

    #[test]
    fn tables_are_sorted_paged_and_read_back() {
        let table = entries().into_table().unwrap();
        let pages = parse(&table);
        assert!(pages.len() > 2, "300 tensors fill more than one page");
        let mut read = Entries::default();
        let mut records = Vec::new();
        for page in pages {
            records.extend(page.records().copied());
            match page.entries {
                PageEntries::Tensors(list) => {
                    read.tensors.extend(list.into_iter().map(|l| (l.entry, l.records)));
                }
                PageEntries::Files(list) => {
                    read.files.extend(list.into_iter().map(|l| (l.entry, l.records)));
                }
            }
        }
        assert_eq!(records, table.records);
        let owned = table.owners.iter().map(|owner| match *owner {
            Owner::Tensor { ordinal, record } => {
                // In name order, which is that of ordinals here.
                read.tensors[ordinal as usize].1[record as usize]
            }
            Owner::File { file, record } => read.files[file as usize].1[record as usize],
            Owner::Base => panic!("there are no bases"),
        });
        assert!(owned.eq(records), "whose each record is");
        let mut expected = entries();
        expected.tensors.reverse();
        assert_eq!(read, expected);
        assert_eq!(read.into_table().unwrap(), table, "written again byte for byte");
    }

    #[test]
    fn bases_travel_in_the_page_that_names_them() {
        let mut entries = entries();
        let bottom = record(1 << 60, 10);
        let base = |of: &ChunkRecord| Some(Base { decoded: of.decoded, depth: of.depth() + 1 });
        let delta = |of: &ChunkRecord, n: &[u8]| ChunkRecord {
            codec: CodecId(32),
            base: base(of),
            stored: StoredDigest::of(n),
            decoded: DecodedDigest::of(n),
            ..bottom
        };
        let middle = delta(&bottom, b"middle");
        entries.tensors[10].1[0] = delta(&middle, b"top");
        assert!(entries.clone().into_table().is_err(), "a missing base is an error");
        entries.bases = [bottom, middle].map(|r| (r.decoded, r)).into();
        let table = entries.into_table().unwrap();
        let bases: Vec<_> = parse(&table).into_iter().flat_map(|p| p.bases).collect();
        assert_eq!(bases, [middle, bottom]);
    }

    /// Every byte of a page matters: under its true digest a flip is refused, and under a digest of
    /// the damaged bytes it is refused or read without a panic.
    #[test]
    fn damaged_pages_are_refused_or_read_never_a_panic() {
        let mut small = entries();
        small.tensors.truncate(3);
        small.files[0].0.extents.truncate(1);
        small.files[0].0.size = 7;
        let table = small.into_table().unwrap();
        for place in table.reference.places() {
            let bytes = &table.bytes[place.bytes.start as usize..place.bytes.end as usize];
            for at in 0..bytes.len() {
                for bit in [1, 0x80] {
                    let mut bad = bytes.to_vec();
                    bad[at] ^= bit;
                    assert!(Page::parse(&bad, place.page.kind, place.page.blake3).is_err());
                    assert!(Page::skim(&bad, place.page.blake3, drop).is_err());
                    let renamed = Page::parse(&bad, place.page.kind, PageDigest::of(&bad));
                    if at < 8 || (20..32).contains(&at) {
                        assert!(renamed.is_err(), "byte {at} of the header is not checked");
                    }
                }
            }
            for len in 0..bytes.len() {
                let cut = &bytes[..len];
                assert!(Page::parse(cut, place.page.kind, PageDigest::of(cut)).is_err());
            }
        }
    }
}
