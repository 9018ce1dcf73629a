//! The header of a GGUF file that is written: a model's numbers and its tokenizer as metadata, then its tensors.

use serde_json::Value;

use super::ProduceError;
use super::gguf_fits::{LEADING, ROUTED, WINDOWED, check};
use super::gguf_positions::{check_scaling, rope, scaling};
use super::gguf_tokenizer::tokenizer;
use super::gguf_values::{Values, text};
use super::method::block;
use super::recipe::Recipe;
use crate::dequant::gguf::Block;
use crate::gguf::names::{self, Change, Stacked};
use crate::quantize::calibrate::CalibrateError;
use crate::quantize::lm::LmConfig;
use crate::quantize::lm::gguf::{Experts, Facts, Routing};
use crate::quantize::source::ModelSource;

/// What names of tensors begin with in models with a head, which models without one leave out.
const PREFIXES: [&str; 4] = ["", "model.", "transformer.", "gpt_neox."];
/// What tensors are aligned to.
pub(super) const ALIGNMENT: u64 = 32;

/// A model that can be written so.
#[derive(Debug, Clone)]
pub(super) struct Family<'a> {
    pub(super) config: &'a Value,
    pub(super) own: names::Family,
    facts: Facts,
    heads: [u64; 2],
}

impl<'a> Family<'a> {
    /// What a config says; refuses what is not known here, and what llama.cpp would run otherwise.
    pub(super) fn of(config: &'a Value) -> Result<Self, ProduceError> {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
        let own = names::Family::of_model(kind);
        let own = own.ok_or_else(|| ProduceError::GgufModel(kind.to_owned()))?;
        check_scaling(config)?;
        let facts = LmConfig::parse(config).map_err(CalibrateError::from)?.facts();
        check(own.arch, kind, &facts, config)?;
        let heads = [facts.heads as u64, facts.kv_heads as u64];
        Ok(Self { config, own, facts, heads })
    }

    /// The name of a tensor there, and what is done to it.
    pub(super) fn rename(&self, name: &str) -> Result<(String, Change), ProduceError> {
        if let Some((stack, at, _)) = self.stacked(name) {
            let (layer, end) = stack.rsplit_once('.').unwrap_or((&stack, "weight"));
            return Ok((format!("{layer}.{at}.{end}"), Change::Same));
        }
        let found = with_prefix(name, |name| self.own.renamed(name, self.heads));
        match found.ok_or_else(|| ProduceError::GgufName(name.to_owned()))? {
            // Layers were made outputs by inputs before they came here.
            (name, Change::Transposed) => Ok((name, Change::Same)),
            found => Ok(found),
        }
    }

    /// The order that the rows of a weight are put in.
    pub(super) fn order(&self, name: &str) -> Change {
        match self.rename(name) {
            Ok((_, order @ (Change::Heads(_) | Change::Groups(_)))) => order,
            _ => Change::Same,
        }
    }

    /// The tensor there that one of an expert, or of a head, is stacked in.
    pub(super) fn stacked(&self, name: &str) -> Option<Stacked> {
        let experts = self.facts.experts.map_or(0, |own| own.count as u64);
        with_prefix(name, |name| self.own.stacked(name, self.heads, experts))
    }

    /// Whether no file has a tensor: one that is computed anew, or of the layers behind the last, which predict
    /// further tokens.
    pub(super) fn is_left_out(&self, name: &str) -> bool {
        let beyond = with_prefix(name, |name| self.own.in_block(name).map(|(block, _)| block));
        names::is_computed(name) || beyond.is_some_and(|block| block >= self.facts.layers as u64)
    }
}

/// What is found of a name as models with a head have it.
fn with_prefix<T>(name: &str, find: impl Fn(&str) -> Option<T>) -> Option<T> {
    PREFIXES.iter().find_map(|prefix| find(&format!("{prefix}{name}")))
}

/// The header, padded to where tensors begin.
pub(super) fn header(
    family: &Family<'_>,
    checkpoint: &ModelSource,
    recipe: &Recipe,
    infos: &[(String, Vec<u64>, u32, u64)],
) -> Result<Vec<u8>, ProduceError> {
    let mut values = Values::default();
    let (config, facts, arch) = (family.config, &family.facts, family.own.arch);
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let float = |key: &str| config.get(key).and_then(Value::as_f64);
    let own = |key: &str| format!("{arch}.{key}");
    let kind = block(recipe.method);
    values.text("general.architecture", arch);
    values.text("general.type", "model");
    values.u32("general.file_type", file_type(kind));
    values.u32("general.quantization_version", 2);
    values.u32("general.alignment", ALIGNMENT);
    let context =
        ["max_position_embeddings", "n_positions", "seq_length"].into_iter().find_map(number);
    for (key, value) in [
        ("block_count", facts.layers),
        ("embedding_length", facts.hidden),
        ("feed_forward_length", facts.intermediate),
        ("attention.head_count", facts.heads),
        ("attention.head_count_kv", facts.kv_heads),
        ("attention.key_length", facts.head_dim),
        ("attention.value_length", facts.value_dim),
        ("rope.dimension_count", facts.turned.unwrap_or(facts.head_dim)),
        ("vocab_size", facts.vocabulary),
    ] {
        values.u32(&own(key), value as u64);
    }
    values.u32(&own("context_length"), context.unwrap_or(facts.positions as u64));
    if let Some(experts) = &facts.experts {
        sparse(arch, facts, experts, &mut values);
    }
    values.f32(&own("rope.freq_base"), facts.theta.unwrap_or(10_000.0));
    let local = facts.local_theta.filter(|local| Some(*local) != facts.theta);
    if let Some(theta) = local.or_else(|| float("rope_local_base_freq")) {
        values.f32(&own("rope.freq_base_swa"), theta);
    }
    let epsilon = match facts.is_rms {
        true => "attention.layer_norm_rms_epsilon",
        false => "attention.layer_norm_epsilon",
    };
    values.f32(&own(epsilon), facts.epsilon);
    let window = facts.windows.iter().flatten().next();
    match window {
        Some(window) if WINDOWED.contains(&arch) => {
            values.u32(&own("attention.sliding_window"), *window as u64);
            let has = facts.windows.iter().map(Option::is_some);
            values.flags(&own("attention.sliding_window_pattern"), has);
        }
        Some(window) if arch != "llama" => {
            values.u32(&own("attention.sliding_window"), *window as u64);
        }
        _ => {}
    }
    for (key, there) in [
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ] {
        if let Some(value) = float(key) {
            values.f32(&own(there), value);
        }
    }
    match arch {
        "command-r" | "cohere2" => values.f32(&own("logit_scale"), facts.logits),
        "gptneox" | "stablelm" => values.flag(&own("use_parallel_residual"), facts.is_parallel),
        "olmo" => facts.clip.iter().for_each(|clip| values.f32(&own("attention.clamp_kqv"), *clip)),
        "mistral3" => {
            if let Some(beta) = rope(config, "llama_4_scaling_beta") {
                values.f32(&own("attention.temperature_scale"), beta);
            }
        }
        _ => {}
    }
    if let Some((query, key)) = facts.ranks {
        values.u32(&own("attention.q_lora_rank"), query.unwrap_or(0) as u64);
        values.u32(&own("attention.kv_lora_rank"), key as u64);
    }
    scaling(config, arch, &own, &mut values);
    tokenizer(checkpoint, config, &mut values)?;
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((infos.len() as u64).to_le_bytes());
    bytes.extend(values.count.to_le_bytes());
    bytes.append(&mut values.bytes);
    for (name, dims, kind, offset) in infos {
        text(&mut bytes, name);
        bytes.extend((dims.len() as u32).to_le_bytes());
        dims.iter().rev().for_each(|dim| bytes.extend(dim.to_le_bytes()));
        bytes.extend(kind.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
    }
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(bytes)
}

/// The numbers of experts.
fn sparse(arch: &str, facts: &Facts, experts: &Experts, values: &mut Values) {
    let own = |key: &str| format!("{arch}.{key}");
    for (key, value) in [
        ("expert_count", experts.count),
        ("expert_used_count", experts.top),
        ("expert_feed_forward_length", experts.intermediate),
    ] {
        values.u32(&own(key), value as u64);
    }
    if let Some(shared) = experts.shared {
        values.u32(&own("expert_shared_feed_forward_length"), shared as u64);
    }
    let lead = facts.sparse.iter().take_while(|sparse| !**sparse).count() as u64;
    if LEADING.contains(&arch) {
        let shared = experts.shared.and_then(|wide| wide.checked_div(experts.intermediate));
        values.u32(&own("expert_shared_count"), shared.unwrap_or(0) as u64);
        values.u32(&own("leading_dense_block_count"), lead);
    }
    match arch {
        "llama4" => values.u32(&own("interleave_moe_layer_step"), lead + 1),
        "ernie4_5-moe" => values.u32(&own("interleave_moe_layer_step"), 1),
        _ => {}
    }
    if !ROUTED.contains(&arch) {
        return;
    }
    let (gating, normalized) = match experts.routing {
        Routing::Sigmoid { normalized } => (2, normalized),
        Routing::Softmax { normalized } => (1, normalized),
        Routing::Other => (1, false),
    };
    values.u32(&own("expert_gating_func"), gating);
    values.flag(&own("expert_weights_norm"), normalized);
    values.f32(&own("expert_weights_scale"), experts.scale);
    if let Some((count, top, _)) = experts.groups {
        values.u32(&own("expert_group_count"), count as u64);
        values.u32(&own("expert_group_used_count"), top as u64);
    }
}

/// What llama.cpp numbers a file of these blocks.
fn file_type(block: Block) -> u64 {
    match block {
        Block::Q4_0 => 2,
        Block::Q8_0 => 7,
        Block::Q5_0 => 8,
        Block::Q5_1 => 9,
        Block::Q2K => 10,
        Block::Q3K => 11,
        Block::Q5K => 16,
        Block::Q6K => 18,
        Block::Iq4Nl => 25,
        Block::Iq4Xs => 30,
        _ => 14,
    }
}
