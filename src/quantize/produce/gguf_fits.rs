//! Whether llama.cpp runs a model as its configuration says: where it knows one way for a family, no file can say
//! another. Pure.

use serde_json::Value;

use super::ProduceError;
use super::gguf_positions::is_yarn;
use crate::quantize::lm::gguf::{Facts, Routing};

/// Architectures whose rotary positions turn neighbours, without rows being permuted for it.
const NEIGHBOURS: [&str; 7] =
    ["command-r", "cohere2", "ernie4_5", "ernie4_5-moe", "deepseek2", "llama4", "glm4"];
/// Architectures whose blocks may begin without experts.
pub(super) const LEADING: [&str; 5] =
    ["glm4moe", "dots1", "deepseek2", "ernie4_5-moe", "exaone-moe"];
/// Architectures whose file says how experts are routed.
pub(super) const ROUTED: [&str; 5] = ["glm4moe", "dots1", "deepseek2", "exaone-moe", "minimax-m2"];
/// Architectures with a window on the layers that the file names.
pub(super) const WINDOWED: [&str; 8] =
    ["gemma2", "gemma3", "cohere2", "gpt-oss", "olmo2", "exaone-moe", "mellum", "exaone4"];
/// Architectures whose windows llama.cpp leaves out, which changes only what long texts say.
const UNWINDOWED: [&str; 10] = [
    "llama",
    "mistral3",
    "qwen2",
    "qwen3",
    "qwen2moe",
    "qwen3moe",
    "phi3",
    "starcoder2",
    "smollm3",
    "phi2",
];
/// Architectures without rotary positions.
const UNTURNED: [&str; 3] = ["gpt2", "starcoder", "bloom"];
/// Architectures whose head is a tensor of its own.
const HEADED: [&str; 7] =
    ["stablelm", "gptneox", "nemotron", "gpt-oss", "minimax-m2", "mellum", "dots1"];
/// Keys that must not be true.
const UNTRUE: [(&str, &str); 6] = [
    ("falcon", "bias"),
    ("falcon", "alibi"),
    ("command-r", "attention_bias"),
    ("cohere2", "attention_bias"),
    ("seed_oss", "attention_out_bias"),
    ("olmo", "attention_bias"),
];

/// Refuses what llama.cpp would run otherwise.
pub(super) fn check(
    arch: &str,
    kind: &str,
    own: &Facts,
    config: &Value,
) -> Result<(), ProduceError> {
    let differs = |what: &'static str| {
        let kind = kind.to_owned();
        Err(ProduceError::GgufDiffers { kind, what })
    };
    for (of, key) in UNTRUE {
        if of == arch && config.get(key).and_then(Value::as_bool) == Some(true) {
            return differs(key);
        }
    }
    if HEADED.contains(&arch) && own.is_tied {
        return differs("tie_word_embeddings");
    }
    if own.turned.is_some() && own.is_interleaved != NEIGHBOURS.contains(&arch) {
        return differs("how rotary positions turn");
    }
    if own.clip.is_some() && arch != "olmo" {
        return differs("clip_qkv");
    }
    if own.has_alibi && arch != "bloom" {
        return differs("alibi");
    }
    if arch == "dots1" && own.kv_heads != own.heads {
        return differs("num_key_value_heads");
    }
    if arch == "command-r" && own.has_head_norms != (own.layers >= 64) {
        return differs("use_qk_norm");
    }
    // Maverick, which is known by its 128 experts, has none.
    let many = own.experts.is_some_and(|experts| experts.count == 128);
    if arch == "llama4" && own.has_head_norms == many {
        return differs("use_qk_norm");
    }
    if matches!(arch, "falcon" | "command-r" | "cohere2" | "phi2") && !own.is_parallel {
        return differs("blocks whose attention and MLP are one behind the other");
    }
    // One of a kind of its own grows with the logarithm of positions.
    let grows = match arch {
        "llama4" => own.temperature.is_some_and(|own| own != (8192.0, 0.1)),
        "mistral3" => false,
        _ => own.temperature.is_some(),
    };
    if grows {
        return differs("how queries grow with positions");
    }
    let (mscale, all) = (number(config, "mscale"), number(config, "mscale_all_dim"));
    if arch == "deepseek2" && is_yarn(config) && (all.is_none() || mscale != all) {
        return differs("mscale and mscale_all_dim");
    }
    layers(arch, own).or_else(differs)?;
    experts(arch, kind, own)
}

/// What a config says of rotary positions.
fn number(config: &Value, key: &str) -> Option<f64> {
    super::gguf_positions::rope(config, key)
}

/// What differs from layer to layer.
fn layers(arch: &str, own: &Facts) -> Result<(), &'static str> {
    let has_window = own.windows.iter().any(Option::is_some);
    let windowed = match arch {
        // Of all but the largest, every layer sees all.
        "exaone4" => own.layers == 64,
        arch => WINDOWED.contains(&arch),
    };
    if has_window && !windowed && !UNWINDOWED.contains(&arch) {
        return Err("sliding_window");
    }
    if !has_window && matches!(arch, "cohere2" | "gpt-oss" | "exaone-moe") {
        return Err("a sliding_window that no layer has");
    }
    let mut sizes = own.windows.iter().flatten();
    let first = sizes.next();
    if windowed && sizes.any(|size| Some(size) != first) {
        return Err("windows of several sizes");
    }
    let chunk = own.chunk.unwrap_or(8192);
    if own.chunk.is_some() && (arch != "llama4" || chunk != 8192) {
        return Err("attention_chunk_size");
    }
    let turns = |layer: usize| match arch {
        "cohere2" | "exaone-moe" => own.windows.get(layer).is_some_and(Option::is_some),
        "exaone4" if windowed => own.windows.get(layer).is_some_and(Option::is_some),
        "llama4" | "smollm3" => !(layer + 1).is_multiple_of(4),
        arch => !UNTURNED.contains(&arch),
    };
    match own.turns.iter().enumerate().all(|(layer, own)| *own == turns(layer)) {
        true => Ok(()),
        false => Err("the layers with rotary positions"),
    }
}

/// Experts that are routed otherwise, or lie in other blocks.
fn experts(arch: &str, kind: &str, own: &Facts) -> Result<(), ProduceError> {
    let refused =
        |what: &'static str| Err(ProduceError::GgufExperts { kind: kind.to_owned(), what });
    let Some(experts) = &own.experts else { return Ok(()) };
    let told = ROUTED.contains(&arch);
    let fits = match (arch, experts.routing) {
        (_, Routing::Other) => false,
        ("minimax-m2", routing) => routing == Routing::Sigmoid { normalized: true },
        _ if told => true,
        ("qwen2moe" | "olmoe", routing) => routing == Routing::Softmax { normalized: false },
        ("llama4", routing) => routing == Routing::Sigmoid { normalized: false },
        (_, routing) => routing == Routing::Softmax { normalized: true },
    };
    if !fits {
        return refused("the score or norm_topk_prob");
    }
    if experts.scale != 1.0 && (!told || arch == "minimax-m2") {
        return refused("routed_scaling_factor");
    }
    if experts.groups.is_some_and(|(_, _, best)| !told || best != 2) {
        return refused("n_group");
    }
    let lead = own.sparse.iter().take_while(|sparse| !**sparse).count();
    let is_sparse = |layer: usize| match arch {
        "llama4" => (layer + 1).is_multiple_of(lead + 1),
        arch => layer >= if LEADING.contains(&arch) { lead } else { 0 },
    };
    match own.sparse.iter().enumerate().all(|(layer, own)| *own == is_sparse(layer)) {
        true => Ok(()),
        false => refused("the layers with experts"),
    }
}
