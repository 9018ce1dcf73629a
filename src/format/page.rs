//! Pages of a chunk table: entries for tensors or files, and the records of their chunks
//! (sections 5.1, 5.2, 5.4). A page is read and verified alone.
//!
//! One file: reading and writing of an entry stand side by side, so that neither changes alone.

use serde::{Deserialize, Serialize};

use super::error::FormatError;
use super::grid::Grid;
use super::limits::{GIT_BLOB_LIMIT, MAX_FILE, MAX_NAME, MAX_PAGE, MAX_PATH, MAX_RANK};
use super::record::ChunkRecord;
use super::wire::{Cursor, at_most, narrow};
use crate::format::dtype::{Dtype, Shape};
use crate::format::id::{ContentDigest, PageDigest, StoredDigest};

const MAGIC: &[u8; 4] = b"TPPG";
const VERSION: u8 = 1;
/// Bytes before the entries.
const HEADER: usize = 32;

/// What a page's entries are. Tensor pages come before file pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PageKind {
    /// Tensor entries.
    Tensors = 1,
    /// File entries.
    Files = 2,
}

/// A tensor: its type, its shape, and how it is cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorEntry {
    /// Its place in load order.
    pub ordinal: u32,
    /// The place of its file in path order.
    pub file: u32,
    /// Its name, unique within its file.
    pub name: String,
    /// Its element type.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Shape,
    /// The digest of its bytes, row-major.
    pub digest: ContentDigest,
    /// How it is cut into chunks.
    pub grid: Grid,
}

impl TensorEntry {
    /// A chunk of a file's content, as a loader sees it: a vector of bytes in one chunk.
    pub fn of_content(path: &str, record: &ChunkRecord) -> Self {
        let len = u64::from(record.decoded_len);
        Self {
            ordinal: 0,
            file: 0,
            name: path.to_owned(),
            dtype: Dtype::Bytes,
            shape: Shape::vector(len),
            digest: ContentDigest::from_bytes(*record.decoded.as_bytes()),
            grid: Grid::run(len, len),
        }
    }

    /// The tensor's length in bytes. Exact: parsing checked the grid against the shape.
    pub fn byte_len(&self) -> u64 {
        self.grid.leading * self.grid.rows * self.grid.row_bytes
    }
}

/// A part of a file.
#[expect(missing_docs, reason = "the variants say what their fields are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// Bytes cut by content: the next `chunks` records of the file's entry, back to back.
    Content { len: u64, digest: ContentDigest, chunks: u32 },
    /// The whole tensor of that ordinal.
    Tensor { ordinal: u32 },
}

/// A file: its extents cover it exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// `/`-separated, relative, without `.` and `..`.
    pub path: String,
    /// Whether its owner may execute it.
    pub executable: bool,
    /// Bytes.
    pub size: u64,
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// Its git-blob SHA-1, for files small enough to have one.
    pub git_sha1: Option<[u8; 20]>,
    /// Its parts, in order.
    pub extents: Vec<Extent>,
}

/// Whether `path` is a file path that the format allows: it cannot leave the folder it is put in.
pub fn is_valid_path(path: &str) -> bool {
    !path.is_empty()
        && path.len() <= MAX_PATH
        && path.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        && !path.contains(|c: char| c == '\\' || c.is_control())
}

/// An entry, with its chunk records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed<T> {
    /// The entry.
    pub entry: T,
    /// Its records; empty for what has no bytes.
    pub records: Vec<ChunkRecord>,
    /// The place of the first record in the page.
    pub first_record: u32,
}

/// The entries of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entries {
    /// Tensors, sorted by (name, file).
    Tensors(Vec<Listed<TensorEntry>>),
    /// Files, sorted by path.
    Files(Vec<Listed<FileEntry>>),
}

/// A page, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The entries with their records.
    pub entries: Entries,
    /// Records of base chunks, which no entry claims; they follow all others.
    pub bases: Vec<ChunkRecord>,
    /// The place of the first base record in the page.
    pub first_base: u32,
}

impl Page {
    /// Reads a page and checks it against the digest that the manifest gives.
    ///
    /// # Errors
    /// If it is malformed, or another than the digest's.
    pub fn parse(bytes: &[u8], kind: PageKind, digest: PageDigest) -> Result<Self, FormatError> {
        let what = "table page";
        let (count, mut e, records) = Self::open(bytes, kind, digest)?;
        let mut records = Records { all: ChunkRecord::parse_all(records)?, at: 0 };
        let entries = match kind {
            PageKind::Tensors => Entries::Tensors(parse_list(count, &mut e, &mut records)?),
            PageKind::Files => Entries::Files(parse_list(count, &mut e, &mut records)?),
        };
        e.finish()?;
        let first_base = narrow(what, records.at as u64)?;
        let bases = records.all.split_off(records.at);
        check_bases(&records.all, &bases)?;
        Ok(Self { entries, bases, first_base })
    }

    /// Checks a page of tensors against the digest that the manifest gives, and shows each entry, without its
    /// records. What holds between entries and records is not checked: whoever loads parses the page too.
    ///
    /// # Errors
    /// If it is another than the digest's, or an entry is malformed.
    pub fn skim(
        bytes: &[u8],
        digest: PageDigest,
        mut show: impl FnMut(TensorEntry),
    ) -> Result<(), FormatError> {
        let (count, mut e, _) = Self::open(bytes, PageKind::Tensors, digest)?;
        for _ in 0..count {
            show(TensorEntry::parse(&mut e)?.0);
        }
        e.finish()
    }

    /// Checks the digest and the header: the number of entries, these, and the bytes of the records.
    fn open(
        bytes: &[u8],
        kind: PageKind,
        digest: PageDigest,
    ) -> Result<(u32, Cursor<'_>, &[u8]), FormatError> {
        let what = "table page";
        at_most(what, bytes.len() as u64, MAX_PAGE)?;
        let found = PageDigest::of(bytes);
        if found != digest {
            let (expected, found) = (digest.to_hex(), found.to_hex());
            return Err(FormatError::Digest { what, expected, found });
        }
        let mut c = Cursor::new(what, bytes);
        c.magic(MAGIC)?;
        c.version(VERSION)?;
        if c.u8()? != kind as u8 {
            return Err(FormatError::invalid(what, "its kind is not the one announced"));
        }
        c.reserved(2)?;
        let count = c.u32()?;
        let entries_len = c.u32()?;
        let records = u64::from(c.u32()?);
        c.reserved(12)?;
        let entries = Cursor::new(what, c.bytes(entries_len as usize)?);
        let have = c.remaining() as u64;
        if have != records * ChunkRecord::LEN as u64 {
            let need = records * ChunkRecord::LEN as u64;
            return Err(FormatError::Length { what, need, have });
        }
        Ok((count, entries, c.bytes(c.remaining())?))
    }

    /// The name or path of the first entry.
    pub fn first(&self) -> &str {
        match &self.entries {
            Entries::Tensors(tensors) => tensors.first().map_or("", |l| &l.entry.name),
            Entries::Files(files) => files.first().map_or("", |l| &l.entry.path),
        }
    }

    /// All records, in page order.
    pub fn records(&self) -> impl Iterator<Item = &ChunkRecord> {
        let (tensors, files): (&[_], &[_]) = match &self.entries {
            Entries::Tensors(tensors) => (tensors, &[]),
            Entries::Files(files) => (&[], files),
        };
        let tensors = tensors.iter().flat_map(|listed| &listed.records);
        tensors.chain(files.iter().flat_map(|listed| &listed.records)).chain(&self.bases)
    }
}

/// Every base named is present once, one level lower and as long as what is stored against it, and
/// nothing else is among the bases.
fn check_bases(claimed: &[ChunkRecord], bases: &[ChunkRecord]) -> Result<(), FormatError> {
    let what = "base chunks of a page";
    let mut present = std::collections::HashMap::with_capacity(bases.len());
    for base in bases {
        if present.insert(base.decoded, (base, false)).is_some() {
            return Err(FormatError::invalid(what, format!("{} is there twice", base.decoded)));
        }
    }
    for record in claimed.iter().chain(bases) {
        let Some(base) = record.base else { continue };
        match present.get_mut(&base.decoded) {
            Some((below, used)) if below.depth() + 1 == base.depth => *used = true,
            Some(_) => return Err(FormatError::invalid(what, "depths do not fall by one")),
            None => return Err(FormatError::invalid(what, format!("{} is missing", base.decoded))),
        }
    }
    if !present.values().all(|(_, used)| *used) {
        return Err(FormatError::invalid(what, "a record is claimed by nothing"));
    }
    for record in claimed.iter().chain(bases) {
        let base = record.base.and_then(|base| present.get(&base.decoded));
        if let Some((base, _)) = base
            && base.decoded_len != record.decoded_len
        {
            let why = format!("{} bytes against {}", record.decoded_len, base.decoded_len);
            return Err(FormatError::invalid(what, why));
        }
    }
    Ok(())
}

struct Records {
    all: Vec<ChunkRecord>,
    at: usize,
}

impl Records {
    fn take(&mut self, count: u64) -> Result<Vec<ChunkRecord>, FormatError> {
        let rest = self.all.get(self.at..).unwrap_or_default();
        let taken = usize::try_from(count).ok().and_then(|count| rest.get(..count));
        let taken = taken.ok_or(FormatError::Length {
            what: "records of an entry",
            need: count,
            have: rest.len() as u64,
        })?;
        self.at += taken.len();
        Ok(taken.to_vec())
    }
}

/// An entry of a page.
trait Entry: Sized {
    /// Reads the entry and says how many records are its own.
    fn parse(c: &mut Cursor<'_>) -> Result<(Self, u64), FormatError>;
    /// Whether the records are those that the entry describes.
    fn check(&self, records: &[ChunkRecord]) -> Result<(), FormatError>;
    /// What entries are sorted by.
    fn key(&self) -> (&str, u32);
    fn write(&self, records: u32, out: &mut Vec<u8>) -> Result<(), FormatError>;
}

fn parse_list<T: Entry>(
    count: u32,
    c: &mut Cursor<'_>,
    records: &mut Records,
) -> Result<Vec<Listed<T>>, FormatError> {
    let mut list: Vec<Listed<T>> = Vec::new();
    for _ in 0..count {
        let first_record = narrow("records of a page", records.at as u64)?;
        let (entry, own) = T::parse(c)?;
        let own = records.take(own)?;
        entry.check(&own)?;
        if list.last().is_some_and(|last| last.entry.key() >= entry.key()) {
            let (name, _) = entry.key();
            return Err(FormatError::invalid("table page", format!("{name:?} is out of order")));
        }
        list.push(Listed { entry, records: own, first_record });
    }
    if list.is_empty() {
        return Err(FormatError::invalid("table page", "no entry"));
    }
    Ok(list)
}

impl Entry for TensorEntry {
    fn parse(c: &mut Cursor<'_>) -> Result<(Self, u64), FormatError> {
        let what = "tensor entry";
        let ordinal = c.u32()?;
        let file = c.u32()?;
        let name_len = usize::from(c.u16()?);
        let dtype = c.u8()?;
        let rank = usize::from(c.u8()?);
        if name_len == 0 {
            return Err(FormatError::invalid(what, "its name is empty"));
        }
        at_most("tensor name", name_len as u64, MAX_NAME as u64)?;
        at_most("rank", rank as u64, MAX_RANK as u64)?;
        let name = c.text(name_len)?.to_owned();
        let invalid = |why: String| FormatError::invalid(what, format!("{name:?}: {why}"));
        let dtype = Dtype::from_code(dtype)
            .filter(|&dtype| dtype != Dtype::Bytes)
            .ok_or_else(|| invalid(format!("unknown element type {dtype}")))?;
        let dims = (0..rank).map(|_| c.u64()).collect::<Result<_, _>>()?;
        let shape = Shape::new(dims).ok_or_else(|| invalid("too many dimensions".into()))?;
        let digest = ContentDigest::from_bytes(c.array()?);
        let grid = Grid {
            leading: c.u64()?,
            rows: c.u64()?,
            row_bytes: c.u64()?,
            block_rows: c.u64()?,
            band_bytes: c.u64()?,
        };
        let records = u64::from(c.u32()?);
        let len = shape
            .byte_len(dtype)
            .ok_or_else(|| invalid(format!("{shape} of {dtype} is too large")))?;
        grid.validate(len, dtype).map_err(|error| invalid(error.to_string()))?;
        if records != grid.chunks() {
            return Err(invalid(format!("{records} records for {} chunks", grid.chunks())));
        }
        Ok((Self { ordinal, file, name, dtype, shape, digest, grid }, records))
    }

    fn check(&self, records: &[ChunkRecord]) -> Result<(), FormatError> {
        for (i, (rect, record)) in self.grid.rects().zip(records).enumerate() {
            if rect.len() != u64::from(record.decoded_len) {
                let (need, have) = (rect.len(), record.decoded_len);
                let why = format!("{:?}: chunk {i} has {have} bytes, not {need}", self.name);
                return Err(FormatError::invalid("tensor entry", why));
            }
        }
        Ok(())
    }

    fn key(&self) -> (&str, u32) {
        (&self.name, self.file)
    }

    fn write(&self, records: u32, out: &mut Vec<u8>) -> Result<(), FormatError> {
        let name_len = at_most("tensor name", self.name.len() as u64, MAX_NAME as u64)?;
        out.extend_from_slice(&self.ordinal.to_le_bytes());
        out.extend_from_slice(&self.file.to_le_bytes());
        out.extend_from_slice(&(name_len as u16).to_le_bytes());
        // A shape has at most 16 dimensions by construction.
        out.extend_from_slice(&[self.dtype.code(), self.shape.dims().len() as u8]);
        out.extend_from_slice(self.name.as_bytes());
        for dim in self.shape.dims() {
            out.extend_from_slice(&dim.to_le_bytes());
        }
        out.extend_from_slice(self.digest.as_bytes());
        let grid = &self.grid;
        for n in [grid.leading, grid.rows, grid.row_bytes, grid.block_rows, grid.band_bytes] {
            out.extend_from_slice(&n.to_le_bytes());
        }
        out.extend_from_slice(&records.to_le_bytes());
        Ok(())
    }
}

const FLAG_EXECUTABLE: u8 = 1;
const FLAG_GIT_SHA1: u8 = 2;
const EXTENT_CONTENT: u8 = 1;
const EXTENT_TENSOR: u8 = 2;

impl Entry for FileEntry {
    fn parse(c: &mut Cursor<'_>) -> Result<(Self, u64), FormatError> {
        let what = "file entry";
        let path_len = usize::from(c.u16()?);
        let flags = c.u8()?;
        c.reserved(1)?;
        at_most("path", path_len as u64, MAX_PATH as u64)?;
        let path = c.text(path_len)?.to_owned();
        let invalid = |why: String| FormatError::invalid(what, format!("{path:?}: {why}"));
        if !is_valid_path(&path) {
            return Err(invalid("this path is not allowed".into()));
        }
        if flags & !(FLAG_EXECUTABLE | FLAG_GIT_SHA1) != 0 {
            return Err(invalid(format!("unknown flags {flags}")));
        }
        let size = at_most("file", c.u64()?, MAX_FILE)?;
        let sha256 = c.array()?;
        let git_sha1 = c.array()?;
        let has_git = flags & FLAG_GIT_SHA1 != 0;
        if !has_git && git_sha1 != [0; 20] {
            return Err(invalid("a git-blob SHA-1 without its flag".into()));
        }
        let (mut extents, mut records, mut total) = (Vec::new(), 0_u64, 0_u64);
        for _ in 0..c.u32()? {
            let extent = match c.u8()? {
                EXTENT_CONTENT => {
                    let len = at_most("extent", c.u64()?, MAX_FILE)?;
                    let digest = ContentDigest::from_bytes(c.array()?);
                    let chunks = c.u32()?;
                    if len == 0 || chunks == 0 {
                        return Err(invalid("an empty extent".into()));
                    }
                    records += u64::from(chunks);
                    total = at_most("extents", total + len, MAX_FILE)?;
                    Extent::Content { len, digest, chunks }
                }
                EXTENT_TENSOR => Extent::Tensor { ordinal: c.u32()? },
                kind => return Err(invalid(format!("unknown extent kind {kind}"))),
            };
            extents.push(extent);
        }
        let all_content = extents.iter().all(|e| matches!(e, Extent::Content { .. }));
        if total > size || (all_content && total != size) {
            return Err(invalid(format!("extents of {total} bytes in a file of {size}")));
        }
        let git_sha1 = has_git.then_some(git_sha1);
        let executable = flags & FLAG_EXECUTABLE != 0;
        Ok((Self { path, executable, size, sha256, git_sha1, extents }, records))
    }

    fn check(&self, mut records: &[ChunkRecord]) -> Result<(), FormatError> {
        for extent in &self.extents {
            let Extent::Content { len, chunks, .. } = *extent else { continue };
            let own;
            (own, records) = records.split_at(chunks as usize);
            let sum: u64 = own.iter().map(|r| u64::from(r.decoded_len)).sum();
            if sum != len {
                let why = format!("{:?}: chunks of {sum} bytes in {len}", self.path);
                return Err(FormatError::invalid("file entry", why));
            }
        }
        Ok(())
    }

    fn key(&self) -> (&str, u32) {
        (&self.path, 0)
    }

    fn write(&self, _records: u32, out: &mut Vec<u8>) -> Result<(), FormatError> {
        if !is_valid_path(&self.path) {
            let why = format!("{:?}: this path is not allowed", self.path);
            return Err(FormatError::invalid("file entry", why));
        }
        out.extend_from_slice(&(self.path.len() as u16).to_le_bytes());
        let mut flags = 0;
        if self.executable {
            flags |= FLAG_EXECUTABLE;
        }
        if self.git_sha1.is_some() {
            flags |= FLAG_GIT_SHA1;
        }
        out.extend_from_slice(&[flags, 0]);
        out.extend_from_slice(self.path.as_bytes());
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.sha256);
        out.extend_from_slice(&self.git_sha1.unwrap_or_default());
        let count: u32 = narrow("extents", self.extents.len() as u64)?;
        out.extend_from_slice(&count.to_le_bytes());
        for extent in &self.extents {
            match extent {
                Extent::Content { len, digest, chunks } => {
                    out.push(EXTENT_CONTENT);
                    out.extend_from_slice(&len.to_le_bytes());
                    out.extend_from_slice(digest.as_bytes());
                    out.extend_from_slice(&chunks.to_le_bytes());
                }
                Extent::Tensor { ordinal } => {
                    out.push(EXTENT_TENSOR);
                    out.extend_from_slice(&ordinal.to_le_bytes());
                }
            }
        }
        Ok(())
    }
}

impl FileEntry {
    /// Whether a file of that size carries a git-blob SHA-1.
    pub const fn has_git_sha1(size: u64) -> bool {
        size < GIT_BLOB_LIMIT
    }
}

/// Writes the page of `entries`, which are sorted, and of the base records they need.
fn write_page<T: Entry>(
    kind: PageKind,
    entries: &[&(T, Vec<ChunkRecord>)],
    bases: &[ChunkRecord],
) -> Result<Vec<u8>, FormatError> {
    let what = "table page";
    let mut body = Vec::new();
    let mut count = bases.len() as u64;
    for (entry, records) in entries {
        entry.write(narrow("records of an entry", records.len() as u64)?, &mut body)?;
        count += records.len() as u64;
    }
    let records: u32 = narrow("records of a page", count)?;
    let len = HEADER as u64 + body.len() as u64 + count * ChunkRecord::LEN as u64;
    at_most(what, len, MAX_PAGE)?;
    let mut out = Vec::with_capacity(len as usize);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&[VERSION, kind as u8, 0, 0]);
    out.extend_from_slice(&narrow::<u32>(what, entries.len() as u64)?.to_le_bytes());
    out.extend_from_slice(&narrow::<u32>(what, body.len() as u64)?.to_le_bytes());
    out.extend_from_slice(&records.to_le_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&body);
    for record in entries.iter().flat_map(|(_, records)| records).chain(bases) {
        out.extend_from_slice(&record.to_bytes());
    }
    Ok(out)
}

/// Writes one page of tensors.
pub(super) fn write_tensors(
    entries: &[&(TensorEntry, Vec<ChunkRecord>)],
    bases: &[ChunkRecord],
) -> Result<Vec<u8>, FormatError> {
    write_page(PageKind::Tensors, entries, bases)
}

/// Writes one page of files.
pub(super) fn write_files(
    entries: &[&(FileEntry, Vec<ChunkRecord>)],
    bases: &[ChunkRecord],
) -> Result<Vec<u8>, FormatError> {
    write_page(PageKind::Files, entries, bases)
}

/// Sum of the stored lengths over distinct stored digests, and how many there are.
pub fn distinct<'a>(records: impl IntoIterator<Item = &'a ChunkRecord>) -> (u64, u64) {
    let mut seen = std::collections::HashSet::<StoredDigest>::new();
    let mut bytes = 0;
    for record in records {
        if seen.insert(record.stored) {
            bytes += u64::from(record.stored_len);
        }
    }
    (seen.len() as u64, bytes)
}
