//! Small models of the Llama architecture, made of a seed.

use std::path::{Path, PathBuf};

use half::bf16;
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};

/// A tensor: its name, its shape, its values.
pub type Tensor = (String, Vec<usize>, Vec<f32>);

/// Values near 0 that only `seed` decides.
pub fn values(seed: u64, len: usize) -> Vec<f32> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..len).map(|_| random.gen_range(-0.1_f32..0.1)).collect()
}

/// Blocks of attention and MLP, `width` wide; embeddings are tied to the head.
pub fn llama(blocks: usize, width: usize) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let mut add = |name: String, shape: Vec<usize>| {
        let len = shape.iter().product();
        let data = match shape.len() {
            1 => vec![1.0; len],
            _ => values(tensors.len() as u64, len),
        };
        tensors.push((name, shape, data));
    };
    add("model.embed_tokens.weight".to_owned(), vec![100, width]);
    for block in 0..blocks {
        let name = |rest: &str| format!("model.layers.{block}.{rest}");
        add(name("input_layernorm.weight"), vec![width]);
        for layer in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(name(&format!("self_attn.{layer}.weight")), vec![width, width]);
        }
        add(name("mlp.gate_proj.weight"), vec![2 * width, width]);
        add(name("mlp.down_proj.weight"), vec![width, 2 * width]);
    }
    add("model.norm.weight".to_owned(), vec![width]);
    tensors
}

/// The config of such a model.
pub const CONFIG: &str = r#"{"architectures":["LlamaForCausalLM"],"dtype":"bfloat16","model_type":"llama","tie_word_embeddings":true}"#;

/// Writes a folder with one file of tensors, in BF16.
pub fn write(dir: &Path, tensors: &[Tensor]) -> PathBuf {
    write_shards(dir, &[("model.safetensors", tensors)])
}

/// Writes a folder with these files of tensors, in BF16, and their index where there are several.
pub fn write_shards(dir: &Path, shards: &[(&str, &[Tensor])]) -> PathBuf {
    std::fs::create_dir_all(dir).expect("a folder");
    let mut map = serde_json::Map::new();
    for (file, tensors) in shards {
        let bytes = |values: &[f32]| -> Vec<u8> {
            values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect()
        };
        let data: Vec<_> =
            tensors.iter().map(|(name, shape, v)| (name, shape.clone(), bytes(v))).collect();
        let views = data.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("a tensor");
            ((*name).clone(), view)
        });
        serialize_to_file(views, None, &dir.join(file)).expect("a file");
        map.extend(tensors.iter().map(|(name, _, _)| (name.clone(), (*file).into())));
    }
    if shards.len() > 1 {
        let index = serde_json::json!({"metadata": {"total_size": 1}, "weight_map": map});
        std::fs::write(dir.join("model.safetensors.index.json"), index.to_string())
            .expect("a file");
    }
    std::fs::write(dir.join("config.json"), CONFIG).expect("a file");
    std::fs::write(dir.join("tokenizer.json"), br#"{"version":"1.0"}"#).expect("a file");
    dir.to_path_buf()
}
