//! Small models in the safetensors format.

use std::path::{Path, PathBuf};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

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
