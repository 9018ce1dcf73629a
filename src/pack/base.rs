//! The artifact that another is packed against: which of its chunks a new one may be stored against,
//! and the bases that what is linked brings along.
//!
//! For each content there is one chunk that stands for it, and its own bases are of that choice too.
//! The choice is made before anything is packed, so that it depends on nothing that runs beside it,
//! and depths agree wherever one table names a base twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use super::found::{Found, Key, Units};
use crate::chunk::codec;
use crate::chunk::verified::VerifiedChunk;
use crate::format::dtype::{Dtype, Shape};
use crate::format::grid::Grid;
use crate::format::id::{DecodedDigest, ManifestId, PackId};
use crate::format::limits::MAX_DEPTH;
use crate::format::record::{Base, ChunkRecord};
use crate::load::chunks::fetch_all;
use crate::store::{ArtifactGraph, Placed, Store, StoreError};
use crate::trust::TrustSet;

/// Stored bytes of bases that one thread holds at a time, beyond those of one chunk.
const AT_ONCE: u64 = 8 << 20;

/// What is asked of an element's partner: its name, type and shape.
type Kind = (String, u8, Vec<u64>);

/// The artifact that another is packed against.
pub(super) struct BaseArtifact {
    whole: Arc<ArtifactGraph>,
    units: Arc<Units>,
    /// Whether a trusted key signed its manifest.
    pub(super) trusted: bool,
    /// What stands for each content.
    chunks: HashMap<DecodedDigest, Placed>,
    tensors: HashMap<Kind, Vec<usize>>,
}

/// A tensor's counterpart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Partner {
    pub(super) grid: Grid,
    /// The place of its first chunk.
    first: usize,
}

/// A chunk that the store has, with what it is stored against, nearest first.
#[derive(Debug, Clone)]
pub(super) struct Linked {
    pub(super) chunk: Placed,
    pub(super) bases: Vec<Placed>,
    /// Whether a trusted manifest names all of them.
    pub(super) trusted: bool,
}

impl Linked {
    pub(super) fn packs(&self) -> HashSet<PackId> {
        self.bases.iter().chain([&self.chunk]).map(|chunk| chunk.place.pack).collect()
    }
}

impl BaseArtifact {
    pub(super) async fn read(
        store: &Store,
        trust: &TrustSet,
        id: ManifestId,
    ) -> Result<Self, StoreError> {
        let whole = Arc::new(ArtifactGraph::read(store, id).await?);
        let trusted = store.is_linkable(trust, whole.id, &whole.manifest_bytes).await?;
        let mut tensors = HashMap::<Kind, Vec<usize>>::new();
        for (ordinal, (tensor, _)) in whole.tensors.iter().enumerate() {
            let kind = (tensor.name.clone(), tensor.dtype.code(), tensor.shape.dims().to_vec());
            tensors.entry(kind).or_default().push(ordinal);
        }
        let chunks = choose(&whole.chunks);
        let units = Units::of(&whole, trusted, true);
        Ok(Self { whole, units, trusted, chunks, tensors })
    }

    /// The tensor of that name, type and shape; where several files have one, that of the file at
    /// `path` before others.
    pub(super) fn partner(
        &self,
        path: &str,
        name: &str,
        dtype: Dtype,
        shape: &Shape,
    ) -> Option<Partner> {
        let kind = (name.to_owned(), dtype.code(), shape.dims().to_vec());
        let named = self.tensors.get(&kind)?;
        let tensor = |ordinal: &usize| self.whole.tensors.get(*ordinal);
        let is_beside = |ordinal: &&usize| {
            let file = tensor(ordinal).and_then(|(t, _)| self.whole.files.get(t.file as usize));
            file.is_some_and(|(file, _)| file.path == path)
        };
        let ordinal = named.iter().find(is_beside).or(named.first())?;
        tensor(ordinal).map(|(tensor, first)| Partner { grid: tensor.grid, first: *first })
    }

    /// The unit of that content and type.
    pub(super) fn unit(&self, key: Key) -> Option<Found> {
        self.units.get(key)
    }

    /// What stands for that content.
    pub(super) fn chunk(&self, content: &DecodedDigest) -> Option<Placed> {
        self.chunks.get(content).copied()
    }

    /// What a chunk of that record is decoded with; `None` if this artifact has not all of it.
    pub(super) fn linked(&self, chunk: Placed, trusted: bool) -> Option<Linked> {
        let mut bases = Vec::new();
        let mut next = chunk.record.base;
        while let Some(base) = next {
            let below = self.chunk(&base.decoded).filter(|b| b.record.depth() + 1 == base.depth)?;
            bases.push(below);
            next = below.record.base;
        }
        let trusted = trusted && (self.trusted || bases.is_empty());
        Some(Linked { chunk, bases, trusted })
    }

    /// What chunk `index` of the partner's may be the base of a new chunk as: itself, with its own
    /// bases. One that lies too deep is none.
    fn below(&self, partner: Partner, index: usize) -> Option<Linked> {
        let content = self.whole.chunks.get(partner.first + index)?.record.decoded;
        let chunk = self.chunk(&content).filter(|chunk| chunk.record.depth() < MAX_DEPTH)?;
        self.linked(chunk, self.trusted)
    }
}

/// For each content the chunk of the least depth whose bases were all chosen too; of several the first.
fn choose(chunks: &[Placed]) -> HashMap<DecodedDigest, Placed> {
    let mut order: Vec<&Placed> = chunks.iter().collect();
    order.sort_by_key(|chunk| chunk.record.depth());
    let mut chosen = HashMap::<DecodedDigest, Placed>::with_capacity(order.len());
    for chunk in order {
        let fits = |base: Base| {
            let below = chosen.get(&base.decoded);
            below.is_some_and(|below| below.record.depth() + 1 == base.depth)
        };
        if chunk.record.base.is_none_or(fits) {
            chosen.entry(chunk.record.decoded).or_insert(*chunk);
        }
    }
    chosen
}

/// The bases that the records of a new table name, in the order in which they are settled.
#[derive(Debug, Default)]
pub(super) struct Bases(HashMap<DecodedDigest, Placed>);

impl Bases {
    /// What `chunk` is stored against, as this table has it, the artifact packed against, or else
    /// `closure`, which a manifest names that is `trusted`. `None` if depths would not agree.
    pub(super) fn resolve(
        &self,
        base: Option<&BaseArtifact>,
        chunk: Placed,
        closure: &HashMap<DecodedDigest, Placed>,
        trusted: bool,
    ) -> Option<Linked> {
        let mut linked = Linked { chunk, bases: Vec::new(), trusted };
        let mut next = chunk.record.base;
        while let Some(named) = next {
            let content = &named.decoded;
            let (below, is_trusted) = match (self.0.get(content), base) {
                (Some(own), _) => (*own, true),
                (None, base) => match base.and_then(|base| Some((base.chunk(content)?, base))) {
                    Some((below, base)) => (below, base.trusted),
                    None => (*closure.get(content)?, trusted),
                },
            };
            if below.record.depth() + 1 != named.depth {
                return None;
            }
            linked.trusted &= is_trusted;
            linked.bases.push(below);
            next = below.record.base;
        }
        Some(linked)
    }

    /// Notes what is linked or was written.
    pub(super) fn add(&mut self, bases: &[Placed]) {
        for base in bases {
            self.0.entry(base.record.decoded).or_insert(*base);
        }
    }

    /// The records, for the table.
    pub(super) fn into_records(self) -> HashMap<DecodedDigest, ChunkRecord> {
        self.0.into_iter().map(|(content, chunk)| (content, chunk.record)).collect()
    }
}

/// What the chunks of a tensor may be stored against: those of its partner, each at its place.
#[derive(Debug, Clone)]
pub(super) struct Below {
    pub(super) artifact: Arc<BaseArtifact>,
    pub(super) partner: Partner,
}

impl Below {
    /// From the partner's chunk `first` on.
    pub(super) fn from(&self, first: usize) -> Self {
        let partner = Partner { first: self.partner.first + first, ..self.partner };
        Self { artifact: self.artifact.clone(), partner }
    }

    /// Calls `each` for every index, in this order, with the partner's chunk of that index and its
    /// decoded bytes, if `usable` says that it may be linked and it is what its record says. Bases are
    /// fetched several at a time.
    pub(super) async fn each(
        &self,
        store: &Store,
        indexes: &[usize],
        usable: impl AsyncFn(&Linked) -> Result<bool, StoreError>,
        scratch: &mut [Vec<u8>; 2],
        mut each: impl FnMut(usize, Option<(&Linked, &[u8])>),
    ) -> Result<(), StoreError> {
        let mut rest = indexes;
        while !rest.is_empty() {
            let (mut found, mut wanted, mut bytes) = (Vec::new(), Vec::new(), 0);
            for &index in rest {
                let mut linked = self.artifact.below(self.partner, index);
                if let Some(below) = &linked {
                    let own: Vec<Placed> =
                        below.bases.iter().chain([&below.chunk]).copied().collect();
                    let len: u64 = own.iter().map(|c| u64::from(c.record.stored_len)).sum();
                    if !found.is_empty() && bytes + len > AT_ONCE {
                        break;
                    }
                    if usable(below).await? {
                        bytes += len;
                        wanted.extend(own);
                    } else {
                        linked = None;
                    }
                }
                found.push((index, linked));
            }
            rest = rest.get(found.len()..).unwrap_or_default();
            let mut seen = HashSet::new();
            wanted.retain(|chunk| seen.insert(chunk.place));
            let fetched = fetch_all(store, &wanted).await?;
            let by_place = wanted.iter().map(|chunk| chunk.place).zip(fetched);
            let by_place: HashMap<_, _> = by_place.filter_map(|(p, f)| Some((p, f?))).collect();
            for (index, linked) in &found {
                let decoded = linked.as_ref().is_some_and(|linked| {
                    let chain = linked.bases.iter().rev().chain([&linked.chunk]);
                    let chain = chain.map(|chunk| by_place.get(&chunk.place));
                    decode(chain, scratch).is_some()
                });
                let [decoded_bytes, _] = &*scratch;
                let below = linked.as_ref().filter(|_| decoded);
                each(*index, below.map(|below| (below, &decoded_bytes[..])));
            }
        }
        Ok(())
    }
}

/// Decodes a chain, its deepest base first, into the first of `scratch`, and compares every link of
/// it with its record.
fn decode<'a>(
    chain: impl Iterator<Item = Option<&'a VerifiedChunk>>,
    [decoded, below]: &mut [Vec<u8>; 2],
) -> Option<()> {
    let mut base = false;
    for chunk in chain {
        let chunk = chunk?;
        std::mem::swap(decoded, below);
        decoded.resize(chunk.record().decoded_len as usize, 0);
        codec::decode(chunk, base.then_some(&below[..]), decoded).ok()?;
        if DecodedDigest::of(decoded) != chunk.record().decoded {
            return None;
        }
        base = true;
    }
    Some(())
}

impl std::fmt::Debug for BaseArtifact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("BaseArtifact").field(&self.whole.id).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::id::StoredDigest;
    use crate::format::layout::Place;
    use crate::format::record::CodecId;

    /// A chunk of content `n`, stored against content and depth `base`.
    fn chunk(n: u8, base: Option<(u8, u8)>) -> Placed {
        let plain = ChunkRecord::raw(Dtype::U8, 1, blake3::hash(&[n]));
        let content = |n: u8| DecodedDigest::of(&[n]);
        let base = base.map(|(of, depth)| Base { decoded: content(of), depth });
        let codec = if base.is_some() { CodecId::DELTA } else { CodecId::RAW };
        let stored = StoredDigest::of(&[n, base.map_or(0, |base| base.depth)]);
        let place = Place { pack: PackId::of(b"pack"), offset: u32::from(n) };
        Placed { record: ChunkRecord { codec, base, stored, ..plain }, place }
    }

    #[test]
    fn the_least_deep_stands_for_a_content_and_depths_agree() {
        let twice = [chunk(1, Some((0, 1))), chunk(0, None), chunk(1, None)];
        // Stored against the deeper of the two, which was not chosen; and against the other.
        let above = [chunk(2, Some((1, 2))), chunk(3, Some((1, 1))), chunk(4, Some((2, 3)))];
        let chosen = choose(&[&twice[..], &above].concat());
        let of = |n: u8| chosen.get(&DecodedDigest::of(&[n])).map(|chunk| chunk.record.depth());
        assert_eq!([0, 1, 2, 3, 4].map(of), [Some(0), Some(0), None, Some(1), None]);
    }

    #[test]
    fn what_disagrees_with_the_table_is_not_linked() {
        let mut bases = Bases::default();
        let closure = HashMap::from([(DecodedDigest::of(&[0]), chunk(0, None))]);
        let delta = chunk(1, Some((0, 1)));
        let linked = bases.resolve(None, delta, &closure, true).unwrap();
        assert_eq!((linked.bases.len(), linked.trusted), (1, true));
        assert!(bases.resolve(None, delta, &HashMap::new(), true).is_none(), "its base is nowhere");
        // This table has the base's content through another base.
        bases.add(&[chunk(0, Some((9, 1))), chunk(9, None)]);
        assert!(bases.resolve(None, delta, &closure, true).is_none());
        let deeper = bases.resolve(None, chunk(1, Some((0, 2))), &closure, false).unwrap();
        assert_eq!(deeper.bases.len(), 2);
    }
}
