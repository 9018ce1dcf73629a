//! What was produced before, and where its bytes are.
//!
//! A product is taken from the store only on the word of somebody trusted, because whoever can write to
//! the store could otherwise choose what is signed next: an artifact that a trusted key signed (found
//! through `by-recipe/`), or this user's own record of what earlier runs wrote. The bytes are then
//! verified down to the digests that these name.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tokio::runtime::Handle;

use super::products::{self, Key, ProductTensor};
use super::record::{Record, Written, gather};
use super::{ProduceError, TOOL};
use crate::format::dtype::Dtype;
use crate::format::id::{ContentDigest, DecodedDigest, ManifestId};
use crate::format::name::ArtifactSpec;
use crate::format::store as paths;
use crate::pack::left_behind;
use crate::quantize::encode::Encoded;
use crate::quantize::source::Stream;
use crate::schedule::plan::TensorRequest;
use crate::store::artifact::{Artifact, OpenOptions, Selection};
use crate::store::{ArtifactGraph, Placed, Store, candidates};
use crate::trust::TrustSet;

/// The most artifacts of one recipe that are looked into.
const MAX_ARTIFACTS: usize = 256;

/// An artifact of the same recipe.
struct Known {
    artifact: Artifact,
    products: HashMap<Key, Vec<Arc<TensorRequest>>>,
}

/// Where a product is.
#[derive(Debug, Clone)]
pub(super) enum Hit {
    /// Tensors of an artifact.
    Artifact { known: usize, requests: Vec<Arc<TensorRequest>> },
    /// Chunks that an interrupted run left.
    Left(Vec<(ProductTensor, LeftBytes)>),
}

/// Where the bytes of a tensor are that an interrupted run wrote.
#[derive(Debug, Clone)]
pub(super) enum LeftBytes {
    Here(Bytes),
    Chunks(Vec<Placed>),
}

impl Hit {
    /// The tensors of the product.
    pub(super) fn tensors(&self) -> Vec<ProductTensor> {
        match self {
            Self::Artifact { requests, .. } => {
                let kept = |request: &Arc<TensorRequest>| ProductTensor {
                    name: request.entry.name.clone(),
                    dtype: request.entry.dtype,
                    dims: request.entry.shape.dims().to_vec(),
                    digest: request.entry.digest,
                };
                requests.iter().map(kept).collect()
            }
            Self::Left(tensors) => tensors.iter().map(|(kept, _)| kept.clone()).collect(),
        }
    }
}

/// Everything that is known of a recipe.
pub(super) struct Memo {
    store: Store,
    runtime: Handle,
    recipe: ContentDigest,
    known: Vec<Known>,
    chunks: HashMap<DecodedDigest, Placed>,
    record: Record,
}

impl Memo {
    /// Gathers what is known; whoever calls vouches for `shares`. What cannot be read is as if it were not there: it costs time, not bytes.
    pub(super) fn open(
        store: &Store,
        (trust, shares): (&TrustSet, &[ManifestId]),
        recipe: ContentDigest,
        runtime: &Handle,
    ) -> Result<Self, ProduceError> {
        let record = Record::read(store, recipe, runtime)?;
        let mut chunks = HashMap::new();
        if !record.products.is_empty() {
            chunks = runtime.block_on(async {
                let packs = candidates(store).await?;
                left_behind(store, packs).await
            })?;
        }
        let ids = runtime.block_on(trusted(store, trust, recipe));
        let mut seen = HashSet::new();
        let mut known = Vec::new();
        let own = record.artifacts.iter().rev().copied();
        for id in shares.iter().copied().chain(own).chain(ids).filter(|id| seen.insert(*id)) {
            known.extend(runtime.block_on(Known::read(store, id, recipe)));
        }
        let (store, runtime) = (store.clone(), runtime.clone());
        Ok(Self { store, runtime, recipe, known, chunks, record })
    }

    /// The store is there now, if it was not.
    pub(super) fn attach(&mut self) -> Result<(), ProduceError> {
        self.record.attach(&self.store, self.recipe, &self.runtime)
    }

    /// Where the product of this key is, if all of it is.
    pub(super) fn find(&self, key: &Key) -> Option<Hit> {
        for (known, artifact) in self.known.iter().enumerate() {
            if let Some(requests) = artifact.products.get(key) {
                return Some(Hit::Artifact { known, requests: requests.clone() });
            }
        }
        let tensor = |written: &Written| {
            let kept = ProductTensor {
                name: written.name.clone(),
                dtype: Dtype::from_name(&written.dtype)?,
                dims: written.dims.clone(),
                digest: written.digest,
            };
            let placed = |chunk| {
                let placed: &Placed = self.chunks.get(chunk)?;
                placed.record.base.is_none().then_some(*placed)
            };
            let bytes = match &written.bytes {
                Some(bytes) if ContentDigest::of(bytes) == kept.digest => {
                    LeftBytes::Here(bytes.clone().into())
                }
                _ => LeftBytes::Chunks(written.chunks.iter().map(placed).collect::<Option<_>>()?),
            };
            Some((kept, bytes))
        };
        let tensors =
            self.record.products.get(key)?.iter().map(tensor).collect::<Option<Vec<_>>>()?;
        Some(Hit::Left(tensors))
    }

    /// All of an artifact that products were found in; `None` if it cannot be read.
    pub(super) fn whole(&self, known: usize) -> Option<ArtifactGraph> {
        let id = self.known.get(known)?.artifact.id();
        self.runtime.block_on(ArtifactGraph::read(&self.store, id)).ok()
    }

    /// Reads the products of these hits, in this order.
    pub(super) fn reader<'a>(&self, hits: impl Iterator<Item = &'a Hit>) -> Streams {
        let mut wanted: Vec<Vec<Arc<TensorRequest>>> =
            self.known.iter().map(|_| Vec::new()).collect();
        for hit in hits {
            if let Hit::Artifact { known, requests } = hit
                && let Some(own) = wanted.get_mut(*known)
            {
                own.extend(requests.iter().cloned());
            }
        }
        let streams = self.known.iter().zip(wanted);
        let streams = streams.map(|(known, wanted)| {
            (!wanted.is_empty()).then(|| Stream::new(&self.runtime, &known.artifact, wanted))
        });
        Streams(streams.collect())
    }

    /// The bytes of a product's tensors. `None` if they are no longer there as they were.
    pub(super) fn read(
        &self,
        streams: &mut Streams,
        hit: &Hit,
    ) -> Result<Option<Vec<Bytes>>, ProduceError> {
        match hit {
            Hit::Artifact { known, requests } => {
                let defect = || ProduceError::Defect(format!("product {known}"));
                let stream = streams.0.get_mut(*known).and_then(Option::as_mut);
                let stream = stream.ok_or_else(defect)?;
                let read = requests.iter().map(|request| stream.read(&request.entry.name));
                Ok(Some(read.collect::<Result<_, _>>()?))
            }
            Hit::Left(tensors) => {
                let mut all = Vec::with_capacity(tensors.len());
                for (kept, bytes) in tensors {
                    let found = match bytes {
                        LeftBytes::Here(bytes) => Some(bytes.clone()),
                        LeftBytes::Chunks(chunks) => {
                            self.runtime.block_on(gather(&self.store, kept, chunks))
                        }
                    };
                    let Some(found) = found else { return Ok(None) };
                    all.push(found);
                }
                Ok(Some(all))
            }
        }
    }

    /// Notes a product, so that an interrupted run can go on from it.
    pub(super) fn note(&mut self, key: Key, layer: &str, tensors: &[Encoded]) {
        self.record.note(key, layer, tensors);
    }

    /// Notes the artifact that a run completed.
    pub(super) fn complete(&mut self, manifest: ManifestId) {
        self.record.complete(manifest, MAX_ARTIFACTS);
    }

    /// Tells other writers of it.
    pub(super) fn tell(&self, manifest: ManifestId) {
        let path = paths::by_recipe(self.recipe, manifest);
        let hint = paths::ByRecipe::new(manifest).to_bytes();
        if let Ok(hint) = hint {
            // A hint that is not there costs another run time, and nothing else.
            let put = self.store.transport().put(&path, vec![hint.into()]);
            drop(self.runtime.block_on(put));
        }
    }

    /// Forgets the products of this run: what they were made from has changed meanwhile.
    pub(super) fn forget(&mut self) {
        self.record.forget();
    }
}

/// The artifacts that products are read from.
pub(super) struct Streams(Vec<Option<Stream>>);

impl Known {
    /// The products of an artifact; `None` if it is not of this recipe, or cannot be read.
    async fn read(store: &Store, id: ManifestId, recipe: ContentDigest) -> Option<Self> {
        let spec: ArtifactSpec = format!("@{id}").parse().ok()?;
        let artifact = Artifact::open(store.clone(), &spec, &OpenOptions::default()).await.ok()?;
        let said = artifact.manifest().quantization.as_ref()?;
        if said.get("recipe")?.as_str()? != recipe.to_hex() || said.get("tool")?.as_str()? != TOOL {
            return None;
        }
        let bytes = artifact.file(products::FILE, products::MAX as u64).await.ok()??;
        let listed = products::read(&bytes, recipe)?;
        let wanted = artifact.select(&Selection::All, None).await.ok()?;
        let by_name: HashMap<&str, &Arc<TensorRequest>> =
            wanted.tensors.iter().map(|request| (request.entry.name.as_str(), request)).collect();
        let product = |product: products::Product| {
            let named = product.tensors.iter().map(|name| by_name.get(name.as_str()).copied());
            Some((
                product.key,
                named.map(Option::<&Arc<TensorRequest>>::cloned).collect::<Option<_>>()?,
            ))
        };
        let products = listed.into_iter().filter_map(product).collect();
        Some(Self { artifact, products })
    }
}

/// Artifacts of the recipe that a trusted key signed, as far as hints tell of them.
async fn trusted(store: &Store, trust: &TrustSet, recipe: ContentDigest) -> Vec<ManifestId> {
    let mut found = Vec::new();
    if trust.is_empty() {
        return found;
    }
    let hints = store.list(&paths::by_recipe_prefix(recipe)).await.unwrap_or_default();
    for hint in hints.into_iter().take(MAX_ARTIFACTS) {
        let id = hint.path.as_str().rsplit('/').next().and_then(|id| id.parse().ok());
        let Some(id) = id else { continue };
        let Ok((_, bytes)) = store.manifest(id).await else { continue };
        if store.is_linkable(trust, id, &bytes).await.unwrap_or(false) {
            found.push(id);
        }
    }
    found
}
