//! What an artifact of the store has, unit by unit.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::cut::Cut;
use crate::format::dtype::Dtype;
use crate::format::grid::Grid;
use crate::format::id::{ContentDigest, DecodedDigest};
use crate::format::page::Extent;
use crate::store::{ArtifactGraph, Placed};

/// Bytes of a pack that a load reads over rather than asks around: units with no more between them lie
/// together.
pub(super) const BRIDGE: u64 = 64 << 10;
/// How many units the next one may lie behind the last one.
const AHEAD: usize = 16;

/// What a unit is looked up by: its content, and the type of its elements.
pub(super) type Key = (ContentDigest, u8);

/// The units of one artifact, in load order and by content.
pub(super) struct Units {
    whole: Arc<ArtifactGraph>,
    list: Vec<Listed>,
    by_key: HashMap<Key, usize>,
    /// Whether a trusted key signed the manifest that names their chunks.
    trusted: bool,
    /// Whether it is the artifact that is packed against.
    is_base: bool,
}

#[derive(Clone)]
struct Listed {
    key: Key,
    /// Places in the graph's chunks; never empty.
    chunks: Range<usize>,
    /// Of a tensor.
    grid: Option<Grid>,
}

/// A unit that the store may already hold.
#[derive(Clone)]
pub(super) struct Found {
    units: Arc<Units>,
    at: usize,
    listed: Listed,
}

impl Units {
    pub(super) fn of(whole: &Arc<ArtifactGraph>, trusted: bool, is_base: bool) -> Arc<Self> {
        let mut list = Vec::new();
        let mut push = |key, chunks: Range<usize>, grid| {
            if !chunks.is_empty() && whole.chunks.get(chunks.clone()).is_some() {
                list.push(Listed { key, chunks, grid });
            }
        };
        for (file, first) in &whole.files {
            let mut at = *first;
            for extent in &file.extents {
                match *extent {
                    Extent::Content { digest, chunks, .. } => {
                        let own = at..at + chunks as usize;
                        at = own.end;
                        push((digest, Dtype::Bytes.code()), own, None);
                    }
                    Extent::Tensor { ordinal } => {
                        let Some((tensor, first)) = whole.tensors.get(ordinal as usize) else {
                            continue;
                        };
                        let own = *first..first + tensor.grid.chunks() as usize;
                        push((tensor.digest, tensor.dtype.code()), own, Some(tensor.grid));
                    }
                }
            }
        }
        let mut by_key = HashMap::with_capacity(list.len());
        for (at, listed) in list.iter().enumerate() {
            by_key.entry(listed.key).or_insert(at);
        }
        Arc::new(Self { whole: whole.clone(), list, by_key, trusted, is_base })
    }

    /// The first unit of that content.
    pub(super) fn get(self: &Arc<Self>, key: Key) -> Option<Found> {
        self.at(*self.by_key.get(&key)?)
    }

    fn at(self: &Arc<Self>, at: usize) -> Option<Found> {
        let listed = self.list.get(at)?.clone();
        Some(Found { units: self.clone(), at, listed })
    }
}

impl Found {
    /// Whether a trusted key signed the manifest that names its chunks.
    pub(super) fn is_trusted(&self) -> bool {
        self.units.trusted
    }

    /// Whether it is of the artifact that is packed against.
    pub(super) fn is_of_base(&self) -> bool {
        self.units.is_base
    }

    /// Its chunks, at least one.
    pub(super) fn chunks(&self) -> &[Placed] {
        self.units.whole.chunks.get(self.listed.chunks.clone()).unwrap_or_default()
    }

    /// How it is cut.
    pub(super) fn cut(&self) -> Cut {
        match self.listed.grid {
            Some(grid) => Cut::Grid(grid),
            None => {
                Cut::Lengths(self.chunks().iter().map(|chunk| chunk.record.decoded_len).collect())
            }
        }
    }

    /// What its chunks are stored against, by content.
    pub(super) fn bases(&self) -> HashMap<DecodedDigest, Placed> {
        let whole = &self.units.whole;
        let bases = self.listed.chunks.clone().flat_map(|chunk| whole.bases_of(chunk));
        let bases = bases.filter_map(|base| whole.chunks.get(base));
        bases.map(|base| (base.record.decoded, *base)).collect()
    }

    /// About what it would cost to write it again: a difference, without its base, what it decodes to.
    pub(super) fn rewritten(&self) -> u64 {
        let each = |chunk: &Placed| match chunk.record.base {
            None => u64::from(chunk.record.stored_len),
            Some(_) => u64::from(chunk.record.decoded_len),
        };
        self.chunks().iter().map(each).sum()
    }

    /// The unit of that content which comes next behind this one, or a few units later, in the same artifact:
    /// what is repeated in it lies in several places.
    pub(super) fn next(&self, key: Key) -> Option<Self> {
        let near = self.units.list.get(self.at + 1..)?.iter().take(AHEAD);
        let steps = near.map(|listed| listed.key).position(|other| other == key)?;
        self.units.at(self.at + 1 + steps)
    }

    /// Whether `next` lies behind this unit, in the same pack or at the start of another, with little between
    /// them.
    pub(super) fn continues_in(&self, next: &Self) -> bool {
        let (Some(last), Some(next)) = (self.chunks().last(), next.chunks().first()) else {
            return true;
        };
        let end = match last.place.pack == next.place.pack {
            true => u64::from(last.place.offset) + u64::from(last.record.stored_len),
            false => 0,
        };
        let start = u64::from(next.place.offset);
        (end..=end + BRIDGE).contains(&start)
    }
}

impl fmt::Debug for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unit {} of {}", self.at, self.units.whole.id)
    }
}
