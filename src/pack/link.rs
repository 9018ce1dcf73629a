//! Finding in the store what need not be written again.
//!
//! A hint says which manifest holds a tensor; its chunks are linked only if a trusted key signed
//! that manifest, or after its decoded bytes were compared with ours: whoever can write to the
//! bucket must not be able to choose what is signed next. The same holds for the bases that a linked
//! chunk brings along.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{Mutex, OnceCell};

use super::base::{BaseArtifact, Linked};
use super::cut::{self, Cut};
use super::found::{Found, Key, Units};
use super::held::Held;
use super::options::PackOptions;
use super::writer::Linkable;
use crate::chunk::codec;
use crate::format::dtype::Dtype;
use crate::format::id::{DecodedDigest, ManifestId, PackId};
use crate::format::limits::MAX_SMALL;
use crate::format::record::{ChunkRecord, CodecId};
use crate::format::store::{self as paths, ByTensor};
use crate::load::chunks::decoded;
use crate::memory::buffers::Buffers;
use crate::store::{ArtifactGraph, Placed, Store, StoreError};

/// An artifact that is read once; `None` if it cannot be.
type Reading = Arc<OnceCell<Option<Arc<Units>>>>;

/// Looks units up by content.
pub(super) struct Finder {
    store: Store,
    options: Arc<PackOptions>,
    linkable: Arc<Linkable>,
    artifacts: Mutex<HashMap<ManifestId, Reading>>,
    /// Chunks of interrupted runs.
    chunks: HashMap<DecodedDigest, Placed>,
    base: Option<Arc<BaseArtifact>>,
    buffers: Buffers,
}

impl Finder {
    pub(super) fn new(
        store: Store,
        options: Arc<PackOptions>,
        linkable: Arc<Linkable>,
        chunks: HashMap<DecodedDigest, Placed>,
        base: Option<Arc<BaseArtifact>>,
    ) -> Self {
        let buffers = Buffers::new(1 << 20);
        Self { store, options, linkable, artifacts: Mutex::default(), chunks, base, buffers }
    }

    /// The artifact that is packed against.
    pub(super) fn base(&self) -> Option<&Arc<BaseArtifact>> {
        self.base.as_ref()
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// The unit of that content and element type, if an artifact of the store has it that is known already or
    /// that a hint of its own leads to.
    pub(super) async fn unit(&self, key: Key) -> Result<Option<Found>, StoreError> {
        let known = self.known(key).await;
        let found = if known.is_some() { known } else { self.hinted(key).await? };
        let Some(found) = found else { return Ok(None) };
        let packs: HashSet<PackId> = found.chunks().iter().map(|c| c.place.pack).collect();
        Ok(self.linkable.all(&packs).await?.then_some(found))
    }

    /// The same of artifacts that are known: one that shares one tensor is likely to share its neighbours.
    pub(super) async fn known(&self, key: Key) -> Option<Found> {
        let mut found = self.base.as_ref().and_then(|base| base.unit(key));
        for cell in self.artifacts.lock().await.values() {
            let units = cell.get().and_then(Option::as_ref);
            found = found.or_else(|| units?.get(key));
        }
        found
    }

    async fn hinted(&self, key: Key) -> Result<Option<Found>, StoreError> {
        let hint = self.store.read_optional(&paths::by_tensor(key.0), MAX_SMALL).await?;
        // A damaged hint is no hint.
        let Some(hint) = hint.and_then(|bytes| ByTensor::parse(&bytes).ok()) else {
            return Ok(None);
        };
        let cell = self.artifacts.lock().await.entry(hint.manifest).or_default().clone();
        let units = cell.get_or_init(|| self.units(hint.manifest)).await;
        Ok(units.as_ref().and_then(|units| units.get(key)))
    }

    /// Reads an artifact that a hint names. One that cannot be read only costs the link.
    async fn units(&self, id: ManifestId) -> Option<Arc<Units>> {
        let whole = Arc::new(ArtifactGraph::read(&self.store, id).await.ok()?);
        let trusted = self
            .store
            .is_linkable(&self.options.trust, whole.id, &whole.manifest_bytes)
            .await
            .ok()?;
        Some(Units::of(&whole, trusted, false))
    }

    /// A chunk of that content that the base artifact has, or that an interrupted run left and the
    /// base artifact has what it is stored against.
    pub(super) fn chunk(&self, content: &DecodedDigest) -> Option<Linked> {
        if let Some(base) = &self.base
            && let Some(linked) =
                base.chunk(content).and_then(|chunk| base.linked(chunk, base.trusted))
        {
            return Some(linked);
        }
        let chunk = *self.chunks.get(content)?;
        match &self.base {
            Some(base) => base.linked(chunk, false),
            None if chunk.record.base.is_some() => None,
            None => Some(Linked { chunk, bases: Vec::new(), trusted: false }),
        }
    }

    /// Whether the bytes stored for the chunk, and those that it is stored against, really decode to
    /// what their records say.
    pub(super) async fn compare(&self, linked: &Linked) -> Result<bool, StoreError> {
        if linked.chunk.record.codec == CodecId::RAW {
            // The stored digest is the decoded digest, which the caller compared.
            return Ok(true);
        }
        match decoded(&self.store, linked.chunk, &linked.bases).await {
            Ok(decoded) => Ok(decoded.is_some()),
            Err(StoreError::Chunk { .. } | StoreError::Decode { .. }) => Ok(false),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Whether every chunk of an untrusted unit holds the bytes of ours.
    pub(super) async fn compare_unit(
        &self,
        unit: &Held,
        cut: &Cut,
        chunks: &[Linked],
    ) -> Result<bool, StoreError> {
        for (rect, linked) in cut.rects().into_iter().zip(chunks) {
            let group = cut::Group::alone(rect);
            let len = rect.len() as usize;
            let mut room = [self.buffers.take(len)];
            let read = cut::read(unit, &group, &mut room, &self.buffers);
            let [room] = room;
            if read.is_err() || DecodedDigest::of(&room) != linked.chunk.record.decoded {
                return Ok(false);
            }
            if !linked.trusted && !self.compare(linked).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether [`Self::chunk`] can find anything.
    pub(super) fn has_chunks(&self) -> bool {
        !self.chunks.is_empty() || self.base.is_some()
    }

    pub(super) fn linkable(&self) -> &Linkable {
        &self.linkable
    }
}

/// The chunks that interrupted runs left in the store.
pub(crate) async fn left_behind(
    store: &Store,
    packs: Vec<PackId>,
) -> Result<HashMap<DecodedDigest, Placed>, StoreError> {
    let mut chunks = HashMap::new();
    for pack in packs {
        let index = match store.pack_index(pack).await {
            Ok(index) => index,
            // Listed before it was written, or damaged: as if it were not there.
            Err(StoreError::Damaged { .. }) => continue,
            Err(error) if error.is_not_found() => continue,
            Err(error) => return Err(error),
        };
        for placed in index.placed(pack) {
            chunks.entry(placed.record.decoded).or_insert(placed);
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
