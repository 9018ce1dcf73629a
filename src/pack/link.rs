//! Finding in the store what need not be written again.
//!
//! A hint says which manifest holds a tensor; its chunks are linked only if a trusted key signed
//! that manifest, or after its decoded bytes were compared with ours: whoever can write to the
//! bucket must not be able to choose what is signed next.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::sync::{Mutex, OnceCell};

use super::cut::{self, Cut};
use super::writer::Linkable;
use crate::buffers::Buffers;
use crate::codec;
use crate::dtype::Dtype;
use crate::format::layout::Place;
use crate::format::limits::MAX_SMALL;
use crate::format::page::Extent;
use crate::format::record::{ChunkRecord, CodecId};
use crate::format::store::{self as paths, ByTensor};
use crate::id::{ContentDigest, DecodedDigest, ManifestId, PackId};
use crate::store::{Placed, Store, StoreError, Whole, unix_now};
use crate::trust::{Method, TrustSet};
use crate::verify::VerifiedChunk;

/// A unit that the store may already hold.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) cut: Cut,
    pub(super) chunks: Vec<Placed>,
    /// Whether a trusted key signed the manifest that names these chunks.
    pub(super) trusted: bool,
}

/// The units of one artifact, by content.
struct Units {
    by_digest: HashMap<(ContentDigest, u8), Found>,
}

/// Looks units up by content.
pub(super) struct Finder {
    store: Store,
    trust: Arc<TrustSet>,
    linkable: Arc<Linkable>,
    artifacts: Mutex<HashMap<ManifestId, Arc<OnceCell<Option<Units>>>>>,
    /// Chunks of interrupted runs and of the base artifact.
    chunks: HashMap<DecodedDigest, (Placed, bool)>,
    buffers: Buffers,
}

impl Finder {
    pub(super) fn new(
        store: Store,
        trust: Arc<TrustSet>,
        linkable: Arc<Linkable>,
        chunks: HashMap<DecodedDigest, (Placed, bool)>,
    ) -> Self {
        let buffers = Buffers::new(1 << 20);
        Self { store, trust, linkable, artifacts: Mutex::default(), chunks, buffers }
    }

    /// The unit of that content and element type, if an artifact of the store has it.
    pub(super) async fn unit(
        &self,
        digest: ContentDigest,
        element: Dtype,
    ) -> Result<Option<Found>, StoreError> {
        let key = (digest, element.code());
        let mut found = None;
        // An artifact that shares one tensor is likely to share its neighbours.
        for cell in self.artifacts.lock().await.values() {
            let units = cell.get().and_then(Option::as_ref);
            found = found.or_else(|| units?.by_digest.get(&key).cloned());
        }
        if found.is_none() {
            found = self.hinted(key).await?;
        }
        let Some(found) = found else { return Ok(None) };
        let packs: HashSet<PackId> = found.chunks.iter().map(|c| c.place.pack).collect();
        Ok(self.linkable.all(&packs).await?.then_some(found))
    }

    async fn hinted(&self, key: (ContentDigest, u8)) -> Result<Option<Found>, StoreError> {
        let hint = self.store.read_optional(&paths::by_tensor(key.0), MAX_SMALL).await?;
        // A damaged hint is no hint.
        let Some(hint) = hint.and_then(|bytes| ByTensor::parse(&bytes).ok()) else {
            return Ok(None);
        };
        let cell = self.artifacts.lock().await.entry(hint.manifest).or_default().clone();
        let units = cell.get_or_init(|| self.units(hint.manifest)).await;
        Ok(units.as_ref().and_then(|units| units.by_digest.get(&key)).cloned())
    }

    /// Reads an artifact that a hint names. One that cannot be read only costs the link.
    async fn units(&self, id: ManifestId) -> Option<Units> {
        let whole = Whole::read(&self.store, id).await.ok()?;
        let trusted = is_trusted(&self.store, &self.trust, &whole).await.ok()?;
        let mut by_digest = HashMap::new();
        for (tensor, first) in &whole.tensors {
            let chunks = whole.chunks.get(*first..)?.get(..tensor.grid.chunks() as usize)?.to_vec();
            let found = Found { cut: Cut::Grid(tensor.grid), chunks, trusted };
            by_digest.insert((tensor.digest, tensor.dtype.code()), found);
        }
        for (file, first) in &whole.files {
            let mut at = *first;
            for extent in &file.extents {
                let Extent::Content { digest, chunks: count, .. } = extent else { continue };
                let chunks = whole.chunks.get(at..)?.get(..*count as usize)?.to_vec();
                at += chunks.len();
                let lengths = chunks.iter().map(|c| c.record.decoded_len).collect();
                let found = Found { cut: Cut::Lengths(lengths), chunks, trusted };
                by_digest.insert((*digest, Dtype::Bytes.code()), found);
            }
        }
        Some(Units { by_digest })
    }

    /// A chunk that an interrupted run or the base left, and whether it is trusted.
    pub(super) fn chunk(&self, decoded: &DecodedDigest) -> Option<&(Placed, bool)> {
        self.chunks.get(decoded)
    }

    /// Whether the bytes stored for `chunk` really decode to what its record says.
    pub(super) async fn compare(&self, chunk: Placed) -> Result<bool, StoreError> {
        if chunk.record.codec == CodecId::RAW {
            // The stored digest is the decoded digest, which the caller compared.
            return Ok(true);
        }
        let decoded = match fetch(&self.store, chunk).await {
            Ok(decoded) => decoded,
            Err(StoreError::Chunk { .. } | StoreError::Decode { .. }) => return Ok(false),
            Err(error) if error.is_not_found() => return Ok(false),
            Err(error) => return Err(error),
        };
        Ok(DecodedDigest::of(&decoded) == chunk.record.decoded)
    }

    /// Whether every chunk of an untrusted unit holds the bytes of ours.
    pub(super) async fn compare_unit(
        &self,
        file: &File,
        offset: u64,
        found: &Found,
    ) -> Result<bool, StoreError> {
        for (rect, chunk) in found.cut.rects().into_iter().zip(&found.chunks) {
            let group = cut::Group::alone(rect);
            let len = rect.len() as usize;
            let mut room = [self.buffers.take(len)];
            let read = cut::read(file, offset, &group, &mut room, &self.buffers);
            let [room] = room;
            let own = self.buffers.share(room, len);
            if read.is_err() || DecodedDigest::of(&own) != chunk.record.decoded {
                return Ok(false);
            }
            if !self.compare(*chunk).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether [`Self::chunk`] can find anything.
    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty()
    }

    pub(super) fn linkable(&self) -> &Linkable {
        &self.linkable
    }
}

/// Whether a key that we trust signed the artifact's manifest. Names do not matter here: the key
/// must count for every name.
async fn is_trusted(store: &Store, trust: &TrustSet, whole: &Whole) -> Result<bool, StoreError> {
    // A secret that verifies can also forge.
    let keys = trust.key_ids().filter(|(_, method)| *method != Method::Hmac);
    let signatures = store.signatures(whole.id, keys).await?;
    let verdict =
        trust.verify_manifest(None, whole.id, &whole.manifest_bytes, &signatures, unix_now());
    Ok(verdict.is_ok())
}

/// Reads one chunk, verifies it and decodes it.
pub(crate) async fn fetch(store: &Store, chunk: Placed) -> Result<Bytes, StoreError> {
    let Placed { record, place: Place { pack, offset } } = chunk;
    let start = u64::from(offset);
    let range = start..start + u64::from(record.stored_len);
    let stored = store.read_range(&paths::pack(pack), range).await?;
    let verified = VerifiedChunk::verify(record, BytesMut::from(stored)).map_err(|bad| {
        let (location, pack) = (store.location().to_owned(), pack.to_hex());
        StoreError::Chunk { location, pack, offset, source: Box::new(bad.error) }
    })?;
    codec::into_decoded(verified, None).map_err(|source| {
        let (location, pack) = (store.location().to_owned(), pack.to_hex());
        StoreError::Decode { location, pack, offset, source }
    })
}

/// The chunks that interrupted runs left in the store.
pub(super) async fn left_behind(
    store: &Store,
    packs: Vec<PackId>,
) -> Result<HashMap<DecodedDigest, (Placed, bool)>, StoreError> {
    let mut chunks = HashMap::new();
    for pack in packs {
        let index = match store.pack_index(pack).await {
            Ok(index) => index,
            // Listed before it was written, or damaged: as if it were not there.
            Err(StoreError::Damaged { .. }) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for (range, record) in index.places() {
            let offset = u32::try_from(range.start).unwrap_or(u32::MAX);
            let placed = Placed { record: *record, place: Place { pack, offset } };
            chunks.entry(record.decoded).or_insert((placed, false));
        }
    }
    Ok(chunks)
}

/// Whether a record can stand for a chunk of that element type and choice of codec.
pub(super) fn fits(record: &ChunkRecord, element: Dtype, choice: codec::CodecChoice) -> bool {
    let codec = match choice {
        codec::CodecChoice::Raw => record.codec == CodecId::RAW,
        codec::CodecChoice::Zstd | codec::CodecChoice::Float | codec::CodecChoice::Auto => true,
    };
    record.element == element && codec
}
