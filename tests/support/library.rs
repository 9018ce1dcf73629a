//! Packing through the library, and looking at a store's every byte.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::BytesMut;
use tenpak::chunk::codec;
use tenpak::chunk::verified::VerifiedChunk;
use tenpak::format::id::{DecodedDigest, ManifestId, PackId};
use tenpak::format::name::{ArtifactName, ArtifactSpec, NamePattern, Tag};
use tenpak::format::refs::RefBody;
use tenpak::format::store as paths;
use tenpak::pack::{PackError, PackOptions, PackReport, pack};
use tenpak::store::{ArtifactGraph, Placed, Store};
use tenpak::transport::Transport;
use tenpak::transport::fault::FaultBackend;
use tenpak::transport::object::ObjectBackend;
use tenpak::trust::Envelope;
use tokio::runtime::Runtime;

/// The runtime of all tests.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("a runtime"))
}

/// A store that counts and can be made to fail.
pub struct Counted {
    pub transport: Arc<FaultBackend>,
    pub store: Store,
}

impl Counted {
    pub fn new(inner: Arc<dyn Transport>) -> Self {
        let transport = Arc::new(FaultBackend::counting(inner));
        let store = Store::new(transport.clone());
        Self { transport, store }
    }

    pub fn memory() -> Self {
        Self::new(Arc::new(ObjectBackend::memory()))
    }
}

pub fn name(text: &str) -> (ArtifactName, Tag) {
    match text.parse() {
        Ok(ArtifactSpec::Named { name, tag }) => (name, tag),
        other => panic!("{text}: {other:?}"),
    }
}

/// Packs `model` as `artifact`.
pub fn try_pack(
    store: &Store,
    model: &Path,
    artifact: &str,
    options: PackOptions,
) -> Result<PackReport, PackError> {
    let (name, tag) = name(artifact);
    pack(model, store, (&name, &tag), options, runtime().handle(), &())
}

/// The same, which must succeed.
#[track_caller]
pub fn packed(store: &Store, model: &Path, artifact: &str, options: PackOptions) -> PackReport {
    try_pack(store, model, artifact, options).unwrap_or_else(|error| panic!("{error}"))
}

/// The artifact's whole graph.
pub fn whole(store: &Store, id: ManifestId) -> ArtifactGraph {
    runtime().block_on(ArtifactGraph::read(store, id)).unwrap_or_else(|error| panic!("{error}"))
}

/// A chunk's decoded bytes, compared with its record; `bases` are what it is stored against, nearest
/// first.
pub async fn decoded(store: &Store, chunk: Placed, bases: &[Placed]) -> BytesMut {
    let mut below = None;
    for chunk in bases.iter().rev().chain([&chunk]) {
        below = Some(decoded_alone(store, *chunk, below.as_deref()).await);
    }
    below.expect("a chunk")
}

async fn decoded_alone(store: &Store, chunk: Placed, base: Option<&[u8]>) -> BytesMut {
    let verified = verified(store, chunk).await;
    let decoded = codec::into_decoded(verified, base).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(DecodedDigest::of(&decoded), chunk.record.decoded, "a chunk lies about its content");
    BytesMut::from(decoded)
}

async fn verified(store: &Store, chunk: Placed) -> VerifiedChunk {
    let stored = store.read_range(&paths::pack(chunk.place.pack), chunk.range()).await;
    let stored = stored.unwrap_or_else(|error| panic!("{error}"));
    let verified = VerifiedChunk::verify(chunk.record, stored);
    verified.unwrap_or_else(|bad| panic!("{}", bad.error))
}

/// The index lists nothing that has no ref. Returns the refs.
pub async fn check_index(store: &Store) -> Vec<Envelope<RefBody>> {
    let refs = store.refs(&NamePattern::ALL).await.unwrap_or_else(|error| panic!("{error}"));
    let trust = Default::default();
    let listed = store.listed(&NamePattern::ALL, &trust, None).await;
    let listed = listed.unwrap_or_else(|error| panic!("{error}")).unwrap_or_default();
    for entry in listed.entries {
        // A ref is written before its entry.
        let is_there = refs.iter().any(|named| {
            let body = named.body();
            (&body.name, &body.tag) == (&entry.name, &entry.tag) && body.version >= entry.version
        });
        assert!(is_there, "{}:{} is listed and has no ref", entry.name, entry.tag);
    }
    refs
}

/// Everything that refs and the index name is there and right, and every pack verifies itself.
/// Returns how many refs there are.
pub fn check_store(store: &Store) -> usize {
    runtime().block_on(async {
        let refs = check_index(store).await;
        for named in &refs {
            let id = named.body().manifest;
            let whole =
                ArtifactGraph::read(store, id).await.unwrap_or_else(|error| panic!("{error}"));
            let mut seen = std::collections::HashSet::new();
            for (index, chunk) in whole.chunks.iter().enumerate() {
                let bases: Vec<_> = whole.bases_of(index).map(|base| whole.chunks[base]).collect();
                assert_eq!(bases.len(), usize::from(chunk.record.depth()));
                if seen.insert((chunk.record.stored, chunk.record.base)) {
                    decoded(store, *chunk, &bases).await;
                }
            }
        }
        for info in store.list("packs/").await.expect("a listing") {
            let id = info.path.as_str().trim_start_matches("packs/");
            let pack: PackId = id.parse().unwrap_or_else(|_| panic!("{id} in packs/"));
            let index = store.pack_index(pack).await.unwrap_or_else(|error| panic!("{error}"));
            for chunk in index.placed(pack) {
                match chunk.record.base {
                    None => drop(decoded(store, chunk, &[]).await),
                    // Where its base lies, only an artifact that names it says.
                    Some(_) => drop(verified(store, chunk).await),
                }
            }
        }
        refs.len()
    })
}
