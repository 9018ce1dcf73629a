//! Files that an artifact of the store holds just so: taken over, chunks and hashes, without a look at their
//! bytes. Whoever asks for one vouches for that artifact's manifest, which says what the bytes are.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::base::{Bases, Linked};
use super::cut::{self, Cut};
use super::held::Held;
use super::link;
use super::model::{Part, PartKind};
use super::options::PackOptions;
use super::unit::Unit;
use crate::format::dtype::{Dtype, Shape};
use crate::format::id::{ContentDigest, PackId};
use crate::format::page::{Extent, FileEntry};
use crate::store::{ArtifactGraph, Placed};

/// What a file consists of, in order.
#[derive(Debug, Clone)]
pub enum Piece<'a> {
    /// These bytes, which are no tensor.
    Content(&'a [u8]),
    /// A tensor.
    Tensor {
        /// Its name.
        name: &'a str,
        /// Its element type.
        dtype: Dtype,
        /// Its shape.
        shape: &'a Shape,
        /// The digest of its bytes.
        digest: ContentDigest,
    },
}

/// A file of an artifact. Clones are cheap.
#[derive(Clone)]
pub struct KnownFile {
    whole: Arc<ArtifactGraph>,
    file: usize,
}

impl KnownFile {
    /// The file at `path`, if it is of exactly these pieces, and packing with `options` could give just it.
    pub fn find(
        whole: &Arc<ArtifactGraph>,
        path: &str,
        pieces: &[Piece<'_>],
        options: &PackOptions,
    ) -> Option<Self> {
        let file = whole.files.iter().position(|(file, _)| file.path == path)?;
        let known = Self { whole: whole.clone(), file };
        let (entry, _) = known.entry()?;
        let mut extents = entry.extents.iter();
        for piece in pieces {
            match piece {
                Piece::Content(bytes) => {
                    let held = Held::Memory(bytes::Bytes::copy_from_slice(bytes));
                    for own in cut::content(&held, bytes.len() as u64).ok()? {
                        match extents.next()? {
                            Extent::Content { len, digest, chunks }
                                if (*len, *digest) == (own.len, own.digest)
                                    && *chunks as usize == own.lengths.len() => {}
                            _ => return None,
                        }
                    }
                }
                Piece::Tensor { name, dtype, shape, digest } => {
                    let Extent::Tensor { ordinal } = extents.next()? else { return None };
                    let (tensor, _) = whole.tensors.get(*ordinal as usize)?;
                    let same = tensor.name == *name
                        && tensor.dtype == *dtype
                        && tensor.shape == **shape
                        && tensor.digest == *digest;
                    if !same {
                        return None;
                    }
                }
            }
        }
        let hashed = entry.sha256 != [0; 32];
        let fits = extents.next().is_none() && hashed == options.sha256 && known.fits(options);
        fits.then_some(known)
    }

    fn fits(&self, options: &PackOptions) -> bool {
        let fits = |(unit, chunks): &(Unit, Range<usize>)| {
            self.whole.chunks.get(chunks.clone()).is_some_and(|chunks| {
                chunks.iter().all(|chunk| link::fits(&chunk.record, unit.element, options.codec))
            })
        };
        self.units(0).is_some_and(|units| units.iter().all(fits))
    }

    pub(super) fn entry(&self) -> Option<&(FileEntry, usize)> {
        self.whole.files.get(self.file)
    }

    pub(super) fn path(&self) -> &str {
        self.entry().map_or("", |(file, _)| &file.path)
    }

    pub(crate) fn size(&self) -> u64 {
        self.entry().map_or(0, |(file, _)| file.size)
    }

    pub(super) fn executable(&self) -> bool {
        self.entry().is_some_and(|(file, _)| file.executable)
    }

    /// Its units as those of file `index`, each with its chunks in the artifact; `None` if the table does
    /// not have them all.
    fn units(&self, index: usize) -> Option<Vec<(Unit, Range<usize>)>> {
        let (entry, first) = self.entry()?;
        let (mut at, mut offset) = (*first, 0);
        let mut units = Vec::with_capacity(entry.extents.len());
        for extent in &entry.extents {
            let (chunks, len, digest, element, cut, tensor) = match extent {
                Extent::Content { len, digest, chunks } => {
                    let chunks = at..at + *chunks as usize;
                    at = chunks.end;
                    let own = self.whole.chunks.get(chunks.clone())?;
                    let lengths = own.iter().map(|chunk| chunk.record.decoded_len).collect();
                    (chunks, *len, *digest, Dtype::Bytes, Cut::Lengths(lengths), None)
                }
                Extent::Tensor { ordinal } => {
                    let (tensor, first) = self.whole.tensors.get(*ordinal as usize)?;
                    let (len, dtype) = (tensor.byte_len(), tensor.dtype);
                    let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
                    let part = Part { offset, len, kind: PartKind::Tensor { name, dtype, shape } };
                    let end = first.checked_add(usize::try_from(tensor.grid.chunks()).ok()?)?;
                    self.whole.chunks.get(*first..end)?;
                    (*first..end, len, tensor.digest, dtype, Cut::Grid(tensor.grid), Some(part))
                }
            };
            offset += len;
            let digest = Some(digest);
            units.push((
                Unit { file: index, len, digest, element, cut, tensor, partner: None },
                chunks,
            ));
        }
        Some(units)
    }

    /// Where its chunks lie, and those that they are stored against.
    pub(super) fn packs(&self) -> HashSet<PackId> {
        let chunks = self.units(0).unwrap_or_default().into_iter().flat_map(|(_, chunks)| chunks);
        let all = chunks.flat_map(|at| self.whole.bases_of(at).chain([at]));
        all.filter_map(|at| self.whole.chunks.get(at)).map(|chunk| chunk.place.pack).collect()
    }

    /// Its units with their chunks, as those of file `index`; `None` if a base that the new table has
    /// already disagrees.
    pub(super) fn linked(
        &self,
        index: usize,
        bases: &mut Bases,
    ) -> Option<Vec<(Unit, Vec<Linked>)>> {
        let mut all = Vec::new();
        for (unit, chunks) in self.units(index)? {
            let mut linked = Vec::with_capacity(chunks.len());
            for at in chunks {
                let below = self.whole.bases_of(at).filter_map(|base| self.whole.chunks.get(base));
                let below: Vec<Placed> = below.copied().collect();
                let own = below.iter().map(|base| (base.record.decoded, *base)).collect();
                bases.add(&below);
                linked.push(bases.resolve(None, *self.whole.chunks.get(at)?, &own, true)?);
            }
            all.push((unit, linked));
        }
        Some(all)
    }
}

impl fmt::Debug for KnownFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.path(), self.whole.id)
    }
}
