//! Packing: a model's files into the store, as a signed artifact.
//!
//! Packs come first, the ref last, so that an interrupted run leaves nothing that a reader sees,
//! and the next run goes on from the packs that the interrupted one's lease lists. A run that fails
//! takes back what it wrote, unless trying again may help. Memory is bounded by the number of chunks on
//! their way, whatever the model's size.

mod base;
mod cut;
mod encode;
mod hash;
mod held;
mod known;
mod link;
pub mod model;
mod packer;
mod pool;
mod publish;
pub mod unpack;
pub(crate) mod writer;

use std::path::Path;
use std::sync::Arc;

use serde_json::{Map, Value};
use tokio::runtime::Handle;

use self::model::ModelError;
use crate::chunk::codec::CodecChoice;
use crate::format::FormatError;
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, Tag};
use crate::store::{Lease, Lifetime, Published, Store, StoreError};
use crate::trust::{Signer, TrustSet};

pub(crate) use held::View;
pub use held::{GeneratedFile, Held, Input, PartSource};
pub use known::{KnownFile, Piece};
pub(crate) use link::left_behind;
use packer::Packer;
pub use pool::WorkerFailed;

/// A model that was not packed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The model cannot be read.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model is beyond a limit of the format.
    #[error("this model does not fit the format: {0}")]
    Format(#[from] FormatError),
    /// A thread failed.
    #[error(transparent)]
    Worker(#[from] WorkerFailed),
    /// A part was not made; its maker says why.
    #[error("a part of a file was not made")]
    NotGenerated,
    /// A part was made shorter than it was announced.
    #[error(
        "a part of a file is shorter than announced; this is a defect of tenpak, please report it"
    )]
    Short,
    /// A file that was to be taken over from another artifact is not all there, or is to be deleted.
    #[error("{0}: it is no longer there as the artifact that it is of says; pack again")]
    Gone(String),
}

impl From<crate::transport::TransportError> for PackError {
    fn from(error: crate::transport::TransportError) -> Self {
        Self::Store(error.into())
    }
}

/// How to pack.
#[derive(Debug)]
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
        }
    }
}

/// What packing did.
#[derive(Debug, Clone, PartialEq, Eq)]
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

/// Packs the folder or file at `path` and publishes it as `name:tag`. Blocks; call it from outside
/// the runtime that `runtime` drives.
pub fn pack(
    path: &Path,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: PackOptions,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    let files = model::walk(path)?;
    let files: Vec<_> = files.into_iter().map(|file| Input::File(Arc::new(file))).collect();
    pack_inputs(&files, &mut (), store, (name, tag), &options.into(), runtime, progress)
}

/// Packs files, which rise by their paths, and publishes them as `name:tag`; `maker` makes the parts of
/// those that lie nowhere yet. Blocks; call it from outside the runtime that `runtime` drives.
pub fn pack_inputs(
    files: &[Input],
    maker: &mut dyn PartSource,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: &Arc<PackOptions>,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    progress.begin(files.iter().map(Input::size).sum());
    let fresh = runtime.block_on(store.create())?;
    let lease = runtime.block_on(Lease::take(store))?;
    let packer = Packer::new(store, &lease, fresh, options.clone(), runtime, progress);
    let packed = packer.and_then(|packer| packer.run(files, maker));
    let report =
        packed.and_then(|packed| runtime.block_on(packed.publish(store, &lease, name, tag)));
    match report {
        Ok(report) => {
            runtime.block_on(lease.release())?;
            Ok(report)
        }
        Err(error) => {
            let may_pass = match &error {
                PackError::Store(StoreError::Transport(error)) => error.is_transient(),
                PackError::NotGenerated => maker.may_pass(),
                _ => false,
            };
            if !may_pass {
                // What cannot be taken back is left to a collection; the error is the one to tell.
                drop(runtime.block_on(lease.undo()));
            }
            Err(error)
        }
    }
}
