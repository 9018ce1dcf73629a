//! An artifact packed against another: what is the same costs nothing, what changed costs its
//! difference, and whoever reads it gets every byte.

mod kept;
mod limits;
mod loaded;
mod packed;
mod read;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use rand::{RngCore, SeedableRng, rngs::StdRng};
use safetensors::Dtype;
use tempfile::TempDir;
use tenpak::format::id::{ManifestId, StoredDigest};
use tenpak::format::name::ArtifactSpec;
use tenpak::format::record::ChunkRecord;
use tenpak::load::{LoadError, LoadOptions, LoadStats, Tensor as Loaded};
use tenpak::pack::{PackOptions, PackReport};
use tenpak::store::artifact::{Artifact, OpenOptions};
use tenpak::store::{ArtifactGraph, Placed, Store};
use tenpak::transport::Transport;
use tenpak::transport::fault::{Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;
use tenpak::trust::{Signer, TrustSet, keygen};

use super::library::{Counted, packed, runtime, whole};
use super::model::{Fill, Model, Tensor};

/// A store in memory, and a key that signs and is trusted.
struct Bench {
    folder: TempDir,
    inner: Arc<dyn Transport>,
    counted: Counted,
    key: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        keygen(&key).unwrap();
        let inner: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
        let counted = Counted::new(inner.clone());
        Self { folder, inner, counted, key }
    }

    fn store(&self) -> &Store {
        &self.counted.store
    }

    /// Options that sign, and trust what is signed so.
    fn options(&self, base: Option<ManifestId>) -> PackOptions {
        let signer = Signer::load(&self.key, None).unwrap();
        let mut trust = TrustSet::default();
        trust.add_ed25519(signer.verifying_key().unwrap(), None).unwrap();
        let mut options = PackOptions::default();
        options.signers = vec![signer];
        options.trust = trust;
        options.base = base;
        options.threads = 2;
        options
    }

    /// Packs the model; only what this did is counted afterwards.
    fn pack(&self, model: &Model, artifact: &str, base: Option<ManifestId>) -> PackReport {
        self.pack_with(model, artifact, self.options(base))
    }

    fn pack_with(&self, model: &Model, artifact: &str, options: PackOptions) -> PackReport {
        let input = tempfile::tempdir_in(self.folder.path()).unwrap();
        model.write(input.path());
        self.counted.transport.reset_stats();
        packed(self.store(), input.path(), artifact, options)
    }

    fn bytes_read(&self) -> u64 {
        self.counted.transport.stats().below("packs/").bytes_read
    }

    /// The same store through a transport of its own that misbehaves so.
    fn with(&self, faults: Vec<Fault>) -> Arc<FaultBackend> {
        Arc::new(FaultBackend::new(self.inner.clone(), faults))
    }

    /// Loads all that `selection` wants of the artifact; what was asked of packs is in the sources'
    /// counts.
    fn load(
        &self,
        id: ManifestId,
        sources: &[Arc<FaultBackend>],
        selection: (&[&str], Option<tenpak::schedule::shard::Shard>),
        options: &LoadOptions,
    ) -> Result<(Vec<Loaded>, LoadStats), LoadError> {
        let all = sources.iter().map(|source| source.clone() as Arc<dyn Transport>).collect();
        runtime().block_on(async {
            let spec: ArtifactSpec = format!("@{id}").parse().unwrap();
            let artifact =
                Artifact::open(store_of(all), &spec, &OpenOptions::default()).await.unwrap();
            let names = tenpak::store::artifact::Selection::new(selection.0).unwrap();
            let wanted = artifact.select(&names, selection.1).await.unwrap();
            let mut loader = artifact.load(wanted, options);
            let mut tensors = Vec::new();
            while let Some(tensor) = loader.next().await {
                tensors.push(tensor?);
            }
            Ok((tensors, loader.stats()))
        })
    }

    /// Loads everything, and compares it with the model.
    #[track_caller]
    fn load_all(&self, id: ManifestId, model: &Model, options: &LoadOptions) -> LoadStats {
        let source = self.with(vec![]);
        let (loaded, stats) = self.load(id, &[source], (&[], None), options).unwrap();
        check(&loaded, model);
        stats
    }
}

/// What was loaded is the model's tensors, each once, piece by piece.
#[track_caller]
fn check(loaded: &[Loaded], model: &Model) {
    let mut found = BTreeMap::<&str, Vec<u8>>::new();
    for piece in loaded {
        let so_far = found.entry(piece.name()).or_default();
        assert_eq!(so_far.len() as u64, piece.offset, "{}", piece.name());
        so_far.extend_from_slice(&piece.data);
    }
    let tensors: Vec<_> = model.shards.iter().flatten().collect();
    assert_eq!(found.len(), tensors.len());
    for tensor in tensors {
        assert!(found[tensor.name.as_str()] == tensor.data, "{} differs", tensor.name);
    }
}

/// Matrices of `rows` x 1024 bf16 that no codec makes much smaller.
fn matrices(count: usize, rows: usize) -> Vec<Tensor> {
    let tensor = |i: usize| {
        let name = format!("model.layers.{i:02}.mlp.up_proj.weight");
        Tensor::new(&name, Dtype::BF16, &[rows, 1024], i as u64, Fill::Random)
    };
    (0..count).map(tensor).collect()
}

/// Tensors of many types and shapes: bands, leading dimensions, odd borders, scalars, nothing.
fn many() -> Vec<Tensor> {
    let tensor = |name: &str, dtype, shape: &[usize], seed| {
        Tensor::new(name, dtype, shape, seed, Fill::Random)
    };
    vec![
        tensor("model.embed_tokens.weight", Dtype::BF16, &[500, 300], 1),
        tensor("model.layers.0.mlp.down_proj.weight", Dtype::BF16, &[160, 1024], 2),
        tensor("model.layers.0.mlp.up_proj.weight", Dtype::F16, &[1024, 160], 3),
        tensor("model.layers.0.self_attn.o_proj.weight", Dtype::F32, &[257, 261], 4),
        tensor("model.layers.0.experts.down_proj", Dtype::BF16, &[2, 144, 1024], 5),
        tensor("model.layers.0.norm.weight", Dtype::F32, &[512], 6),
        tensor("model.layers.0.ids", Dtype::I32, &[30_000], 7),
        tensor("model.layers.0.bytes", Dtype::U8, &[50_001], 8),
        tensor("model.layers.0.wide", Dtype::F64, &[33, 501], 9),
        tensor("model.layers.0.packed", Dtype::F4, &[99, 202], 10),
        tensor("model.scale", Dtype::F32, &[], 11),
        tensor("model.none", Dtype::BF16, &[0, 4], 12),
    ]
}

/// The tensor with the lowest bits of every so many elements changed.
fn tuned(tensor: &Tensor, every: usize, seed: u64) -> Tensor {
    let mut random = StdRng::seed_from_u64(seed);
    let mut tensor = tensor.clone();
    let size = (tensor.dtype.bitsize() / 8).max(1);
    for element in tensor.data.chunks_mut(size).step_by(every) {
        element[0] ^= 1 + (random.next_u32() & 2) as u8;
    }
    tensor
}

fn tune(tensors: &[Tensor], every: usize, seed: u64) -> Vec<Tensor> {
    tensors.iter().map(|tensor| tuned(tensor, every, seed)).collect()
}

/// Stored bytes of distinct chunks.
fn stored<'a>(chunks: impl IntoIterator<Item = &'a Placed>) -> u64 {
    let mut seen = std::collections::HashSet::<StoredDigest>::new();
    let new = chunks.into_iter().filter(|chunk| seen.insert(chunk.record.stored));
    new.map(|chunk| u64::from(chunk.record.stored_len)).sum()
}

/// The chunks of an artifact that only others are stored against.
fn bases(whole: &ArtifactGraph) -> Vec<Placed> {
    tenpak::maintain::order::only_bases(whole)
}

/// The records of a tensor.
fn records<'a>(whole: &'a ArtifactGraph, name: &str) -> Vec<&'a ChunkRecord> {
    let at = whole.tensors.iter().position(|(tensor, _)| tensor.name == name);
    let at = at.unwrap_or_else(|| panic!("no {name}"));
    whole.tensor_chunks(at).iter().map(|chunk| &chunk.record).collect()
}

/// A base, and a fine-tune of it in which every tensor changed a little.
struct Pair {
    bench: Bench,
    base: (Model, ManifestId),
    tuned: (Model, ManifestId),
}

impl Pair {
    fn of(tensors: Vec<Tensor>) -> Self {
        let bench = Bench::new();
        let base = Model::of(tensors.clone());
        let tuned = Model::of(tune(&tensors, 3, 5));
        let first = bench.pack(&base, "org/base", None).manifest;
        let second = bench.pack(&tuned, "org/tuned", Some(first)).manifest;
        Self { bench, base: (base, first), tuned: (tuned, second) }
    }

    fn whole(&self) -> ArtifactGraph {
        whole(self.bench.store(), self.tuned.1)
    }
}

/// The same store behind several transports, the first preferred.
pub(super) fn store_of(transports: Vec<Arc<dyn Transport>>) -> tenpak::store::Store {
    let mut transports = transports.into_iter();
    tenpak::store::Store::new(transports.next().unwrap()).with_mirrors(transports)
}
