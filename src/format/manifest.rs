//! The manifest: canonical JSON that commits to every page of an artifact's table (section 6).

use std::ops::Range;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::error::FormatError;
use super::json;
use super::limits::{MAX_MANIFEST, MAX_PAGE, MAX_PAGES, MAX_RECORDS};
use super::page::PageKind;
use super::wire::at_most;
use crate::format::id::{ManifestId, PageDigest, TableId};

const FORMAT: &str = "tenpak-manifest";
const VERSION: &str = "1.0";

/// What an artifact holds, in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Totals {
    /// Files.
    pub files: u64,
    /// Tensors.
    pub tensors: u64,
    /// Chunk records of the table.
    pub records: u64,
    /// Distinct stored chunks.
    pub chunks: u64,
    /// Sum of the file sizes.
    pub raw_bytes: u64,
    /// Sum of the stored lengths of the distinct chunks, bases included.
    pub stored_bytes: u64,
}

/// A page of the table, as the manifest commits to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageRef {
    /// The page's digest.
    pub blake3: PageDigest,
    /// Its number of chunk records.
    pub chunks: u64,
    /// The name or path of its first entry.
    pub first: String,
    /// What its entries are.
    pub kind: PageKind,
    /// Its length in bytes.
    pub length: u64,
}

/// The chunk table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRef {
    /// The table's object.
    pub table: TableId,
    /// Its length in bytes.
    pub length: u64,
    /// Its pages, in order: tensors, then files.
    pub pages: Vec<PageRef>,
}

/// A page with its place in the table, and the place of its records among the table's.
#[derive(Debug, Clone)]
pub struct PagePlace<'a> {
    /// The page.
    pub page: &'a PageRef,
    /// Its bytes in the table.
    pub bytes: Range<u64>,
    /// Its records, counted over the whole table: the layout's entries for them.
    pub records: Range<u64>,
}

impl TableRef {
    /// The pages with their places.
    pub fn places(&self) -> impl Iterator<Item = PagePlace<'_>> {
        self.pages.iter().scan((0, 0), |(at, record), page| {
            let place = PagePlace {
                page,
                bytes: *at..*at + page.length,
                records: *record..*record + page.chunks,
            };
            (*at, *record) = (place.bytes.end, place.records.end);
            Some(place)
        })
    }

    fn validate(&self) -> Result<(), FormatError> {
        let what = "manifest table";
        at_most("pages", self.pages.len() as u64, MAX_PAGES as u64)?;
        let (mut length, mut records) = (0_u64, 0_u64);
        for page in &self.pages {
            at_most("page", page.length, MAX_PAGE)?;
            at_most("page records", page.chunks, MAX_PAGE)?;
            length += page.length;
            records += page.chunks;
        }
        at_most("records of the table", records, MAX_RECORDS)?;
        if length != self.length {
            let why = format!("pages of {length} bytes where {} are announced", self.length);
            return Err(FormatError::invalid(what, why));
        }
        for pair in self.pages.windows(2) {
            let [a, b] = pair else { continue };
            if (a.kind, &a.first) > (b.kind, &b.first) {
                return Err(FormatError::invalid(what, "its pages are not in order"));
            }
        }
        Ok(())
    }
}

/// What keeps an artifact's files from being a whole model, as its packer found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Incomplete {
    /// The path of the file that is at fault, or is not there.
    pub path: String,
    /// A word for what is wrong with it.
    pub fault: String,
}

/// So many faults are listed, at most.
const MAX_INCOMPLETE: usize = 64;

impl Incomplete {
    /// The list of these faults, each a word and a path.
    pub fn list<'a>(faults: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<Self> {
        let one =
            |(fault, path): (&str, &str)| Self { path: path.to_owned(), fault: fault.to_owned() };
        let all: std::collections::BTreeSet<Self> = faults.map(one).collect();
        all.into_iter().take(MAX_INCOMPLETE).collect()
    }
}

/// An artifact. Nothing of names, tags, times or places is in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    format: String,
    version: String,
    /// The chunk table; exactly one in this version.
    chunks: Vec<TableRef>,
    /// What the artifact holds.
    pub totals: Totals,
    /// What the model calls itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// How the weights were quantized.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Map<String, Value>>,
    /// What the artifact is a delta of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Map<String, Value>>,
    /// Why this quantization was chosen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub optimization: Option<Map<String, Value>>,
    /// What the artifact was made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<Map<String, Value>>,
    /// What keeps the files from being a whole model; nothing that was found, if it is empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub incomplete: Vec<Incomplete>,
}

impl Manifest {
    /// A manifest without lineage.
    pub fn new(table: TableRef, totals: Totals) -> Self {
        Self {
            format: FORMAT.to_owned(),
            version: VERSION.to_owned(),
            chunks: vec![table],
            totals,
            model_id: None,
            quantization: None,
            delta: None,
            optimization: None,
            source: None,
            incomplete: Vec::new(),
        }
    }

    /// The chunk table.
    #[expect(clippy::indexing_slicing, reason = "`parse` and `new` see to it that there is one")]
    pub fn table(&self) -> &TableRef {
        &self.chunks[0]
    }

    /// The canonical bytes, whose digest is the artifact's identifier.
    ///
    /// # Errors
    /// If a string or number has no canonical form.
    pub fn to_bytes(&self) -> Result<Vec<u8>, FormatError> {
        let bytes = json::to_bytes(self).map_err(FormatError::json("manifest"))?;
        at_most("manifest", bytes.len() as u64, MAX_MANIFEST as u64)?;
        Ok(bytes)
    }

    /// Reads a manifest and checks it against the artifact's identifier.
    ///
    /// # Errors
    /// If it is malformed, or another than the identifier's.
    pub fn parse(bytes: &[u8], id: ManifestId) -> Result<Self, FormatError> {
        let what = "manifest";
        at_most(what, bytes.len() as u64, MAX_MANIFEST as u64)?;
        let found = ManifestId::of(bytes);
        if found != id {
            let (expected, found) = (id.to_hex(), found.to_hex());
            return Err(FormatError::Digest { what, expected, found });
        }
        let manifest: Self =
            json::parse(bytes, MAX_MANIFEST).map_err(FormatError::json("manifest"))?;
        if manifest.format != FORMAT {
            return Err(FormatError::Magic { what });
        }
        if !manifest.version.starts_with("1.") {
            let found = manifest.version.split('.').next().and_then(|v| v.parse().ok());
            return Err(FormatError::Version { what, found: found.unwrap_or(0) });
        }
        let [table] = manifest.chunks.as_slice() else {
            let why = format!("{} tables where one is expected", manifest.chunks.len());
            return Err(FormatError::invalid(what, why));
        };
        table.validate()?;
        let records: u64 = table.pages.iter().map(|p| p.chunks).sum();
        if records != manifest.totals.records {
            let why = format!("{records} records where {} are announced", manifest.totals.records);
            return Err(FormatError::invalid(what, why));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Damage = fn(&mut Manifest);

    fn page(first: &str, kind: PageKind) -> PageRef {
        let blake3 = PageDigest::of(first.as_bytes());
        PageRef { blake3, chunks: 2, first: first.to_owned(), kind, length: 100 }
    }

    fn manifest() -> Manifest {
        let pages = vec![
            page("a", PageKind::Tensors),
            page("b", PageKind::Tensors),
            page("a", PageKind::Files),
        ];
        let table = TableRef { table: TableId::of(b"t"), length: 300, pages };
        Manifest::new(table, Totals { records: 6, ..Totals::default() })
    }

    #[test]
    fn manifests_round_trip_and_pages_are_placed() {
        let bytes = manifest().to_bytes().unwrap();
        let read = Manifest::parse(&bytes, ManifestId::of(&bytes)).unwrap();
        assert_eq!(read, manifest());
        let places: Vec<_> = read.table().places().map(|p| (p.bytes, p.records)).collect();
        assert_eq!(places, [(0..100, 0..2), (100..200, 2..4), (200..300, 4..6)]);
        assert!(Manifest::parse(&bytes, ManifestId::of(b"")).is_err());
    }

    #[test]
    fn broken_manifests_are_refused() {
        let damage: [(&str, Damage); 7] = [
            ("magic", |m| m.format.push('x')),
            ("version 2", |m| m.version = "2.0".into()),
            ("0 tables", |m| m.chunks.clear()),
            ("announced", |m| m.chunks[0].length = 1),
            ("announced", |m| m.totals.records = 5),
            ("order", |m| m.chunks[0].pages.swap(0, 2)),
            ("limit", |m| m.chunks[0].pages[0].length = MAX_PAGE + 1),
        ];
        for (message, damage) in damage {
            let mut manifest = manifest();
            damage(&mut manifest);
            let bytes = manifest.to_bytes().unwrap();
            let error = Manifest::parse(&bytes, ManifestId::of(&bytes)).unwrap_err().to_string();
            assert!(error.contains(message), "{error:?} does not say {message:?}");
        }
    }
}
