//! Small models in the safetensors format, and packing them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::{RngCore, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tenpak::pack::{PackOptions, PackReport, pack};
use tenpak::source::dir::DirBackend;
use tenpak::store::Store;

/// Random bytes that only `seed` decides.
pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A tensor: name, shape (BF16) and the seed of its bytes.
pub type Tensor<'a> = (&'a str, &'a [usize], u64);

/// Some MiB: layers, one matrix cut into bands, a norm, an empty tensor.
pub const SMALL: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", &[1000, 512], 1),
    ("model.layers.0.mlp.down_proj.weight", &[512, 2048], 2),
    ("model.layers.0.self_attn.q_proj.weight", &[512, 512], 3),
    ("model.layers.1.mlp.down_proj.weight", &[512, 2048], 4),
    ("model.layers.1.self_attn.q_proj.weight", &[512, 512], 5),
    ("model.norm.weight", &[512], 6),
    ("model.none.weight", &[0, 4], 7),
];

/// Writes a model folder: a safetensors file of these tensors, a config and a tokenizer.
pub fn write(dir: &Path, tensors: &[Tensor<'_>]) -> PathBuf {
    std::fs::create_dir_all(dir).expect("a folder");
    let data: Vec<_> = tensors
        .iter()
        .map(|(name, shape, seed)| {
            (name, shape.to_vec(), random(*seed, 2 * shape.iter().product::<usize>()))
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (**name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("a tensor"))
    });
    serialize_to_file(views, None, &dir.join("model.safetensors")).expect("a file");
    std::fs::write(dir.join("config.json"), br#"{"model_type":"test"}"#).expect("a file");
    std::fs::write(dir.join("tokenizer.bin"), random(99, 700_000)).expect("a file");
    dir.to_path_buf()
}

/// The store in a directory.
pub fn store(dir: &Path) -> Store {
    Store::new(Arc::new(DirBackend::new(dir.to_path_buf())))
}

/// A runtime to wait on from a test's own thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Packs a model folder as `name`.
pub fn pack_as(
    store: &Store,
    runtime: &tokio::runtime::Runtime,
    model: &Path,
    name: &str,
) -> PackReport {
    let (name, tag) = (name.parse().expect("a name"), "latest".parse().expect("a tag"));
    let options = PackOptions { threads: 2, ..PackOptions::default() };
    pack(model, store, (&name, &tag), options, runtime.handle(), &()).expect("packed")
}
