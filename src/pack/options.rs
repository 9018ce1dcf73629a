//! How to pack, what packing did, and who watches.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::model::{Fault, Opaque};
use crate::chunk::codec::CodecChoice;
use crate::format::id::ManifestId;
use crate::format::manifest::Incomplete;
use crate::store::{Lifetime, Published};
use crate::trust::{Signer, TrustSet};

/// How to pack.
#[derive(Debug)]
#[non_exhaustive]
pub struct PackOptions {
    /// The codecs to choose from.
    pub codec: CodecChoice,
    /// Keys that sign the manifest and, where they can, the ref.
    pub signers: Vec<Signer>,
    /// Whose artifacts may be linked without comparing.
    pub trust: TrustSet,
    /// Threads that hash and encode.
    pub threads: usize,
    /// Whether each file's SHA-256 is computed: registries and Hub clients want it.
    pub sha256: bool,
    /// What the model calls itself.
    pub model_id: Option<String>,
    /// An artifact that this one is packed against: what is the same is linked, and each chunk of a
    /// tensor that has a partner of its name, type and shape there is stored against the partner's
    /// where that is smaller.
    pub base: Option<ManifestId>,
    /// How long the ref is valid.
    pub lifetime: Lifetime,
    /// What the manifest says of where the model comes from.
    pub lineage: Lineage,
    /// Which files are packed as bytes, whatever they claim to be.
    pub opaque: Opaque,
    /// Whether files that are no whole model are packed all the same; the manifest then says so.
    pub allow_incomplete: bool,
    /// Whether the artifact gets no name: it is kept only by whoever knows its id, until a collection.
    pub unnamed: bool,
    /// Asked right before the ref moves.
    pub gate: Option<Gate>,
}

/// Says whether a ref may move: the work may have become another's since it began.
#[derive(Clone)]
pub struct Gate(Arc<dyn Fn() -> Passing + Send + Sync>);

/// Why the ref may not move, if it may not.
type Passing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Gate {
    /// A gate that asks `question`.
    pub fn new<F>(question: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(question())))
    }

    pub(super) async fn pass(&self) -> Result<(), String> {
        (self.0)().await
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gate")
    }
}

/// Fields of the manifest that say what an artifact was made from, and how.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Lineage {
    /// `quantization`.
    pub quantization: Option<Map<String, Value>>,
    /// `delta`.
    pub delta: Option<Map<String, Value>>,
    /// `source`.
    pub source: Option<Map<String, Value>>,
    /// `incomplete`.
    pub incomplete: Vec<Incomplete>,
}

impl Default for PackOptions {
    fn default() -> Self {
        Self {
            codec: CodecChoice::Auto,
            signers: Vec::new(),
            trust: TrustSet::default(),
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            sha256: true,
            model_id: None,
            base: None,
            lifetime: Lifetime::default(),
            lineage: Lineage::default(),
            opaque: Opaque::default(),
            allow_incomplete: false,
            unnamed: false,
            gate: None,
        }
    }
}

/// What packing did.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PackReport {
    /// The artifact.
    pub manifest: ManifestId,
    /// Its files, tensors, chunks and bytes.
    pub totals: crate::format::manifest::Totals,
    /// Bytes of every object written.
    pub new_bytes: u64,
    /// Tensors and content extents that were linked instead of written.
    pub linked: u64,
    /// Chunks that are stored against a base.
    pub deltas: u64,
    /// The ref.
    pub published: Published,
    /// What lay in the folder and is not part of the model.
    pub left_out: Vec<String>,
    /// What is wrong with what was packed all the same.
    pub faults: Vec<Fault>,
}

/// Follows the progress of packing.
pub trait Progress: Send + Sync {
    /// There are `bytes` to pack.
    fn begin(&self, bytes: u64);
    /// Another `bytes` are done.
    fn advance(&self, bytes: u64);
}

/// Nobody watches.
impl Progress for () {
    fn begin(&self, _: u64) {}
    fn advance(&self, _: u64) {}
}
