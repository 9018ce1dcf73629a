//! The header of a GGUF file that is written: a model's numbers and its tokenizer as metadata, then its tensors.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ProduceError;
use super::method::block;
use super::recipe::Recipe;
use crate::dequant::gguf::Block;
use crate::gguf::names::{self, Change};
use crate::gguf::regex;
use crate::quantize::source::ModelSource;

/// What names of tensors begin with in models with a head, which models without one leave out.
const PREFIXES: [&str; 3] = ["", "model.", "transformer."];
/// What tensors are aligned to.
pub(super) const ALIGNMENT: u64 = 32;
/// The longest chat template.
const MAX_TEMPLATE: u64 = 4 << 20;

/// A model that can be written so.
#[derive(Debug, Clone)]
pub(super) struct Family<'a> {
    pub(super) config: &'a Value,
    pub(super) own: names::Family,
    heads: [u64; 2],
}

impl<'a> Family<'a> {
    /// What a config says; refuses what is not known here.
    pub(super) fn of(config: &'a Value) -> Result<Self, ProduceError> {
        let kind = config.get("model_type").and_then(Value::as_str).unwrap_or("");
        let own = names::Family::of_model(kind);
        let own = own.ok_or_else(|| ProduceError::GgufModel(kind.to_owned()))?;
        check_scaling(config)?;
        check_experts(kind, config)?;
        let number = |key: &str| config.get(key).and_then(Value::as_u64);
        let query = number("num_attention_heads").or_else(|| number("n_head")).unwrap_or(0);
        let heads = [query, number("num_key_value_heads").unwrap_or(query)];
        Ok(Self { config, own, heads })
    }

    /// The name of a tensor there, and what is done to it.
    pub(super) fn rename(&self, name: &str) -> Result<(String, Change), ProduceError> {
        if let Some((stack, expert)) = self.stacked(name) {
            return Ok((
                format!("{}.{expert}.weight", stack.trim_end_matches(".weight")),
                Change::Same,
            ));
        }
        let found = with_prefix(name, |name| self.own.renamed(name, self.heads));
        match found.ok_or_else(|| ProduceError::GgufName(name.to_owned()))? {
            // Layers were made outputs by inputs before they came here.
            (name, Change::Transposed) => Ok((name, Change::Same)),
            found => Ok(found),
        }
    }

    /// How many heads the rows of a weight are permuted in; none for those that are not.
    pub(super) fn heads(&self, name: &str) -> Option<u64> {
        match self.rename(name).ok()?.1 {
            Change::Heads(heads) => Some(heads),
            _ => None,
        }
    }

    /// The tensor there that the weight of an expert is stacked in, and which of them it is.
    pub(super) fn stacked(&self, name: &str) -> Option<(String, u64)> {
        let found = with_prefix(name, |name| self.own.stacked(name));
        found.filter(|_| name.ends_with(".weight"))
    }

    /// How many experts a block has.
    pub(super) fn experts(&self) -> u64 {
        experts(self.config).unwrap_or(0)
    }
}

/// What is found of a name as models with a head have it.
fn with_prefix<T>(name: &str, find: impl Fn(&str) -> Option<T>) -> Option<T> {
    PREFIXES.iter().find_map(|prefix| find(&format!("{prefix}{name}")))
}

/// How many experts a config says that a block has.
fn experts(config: &Value) -> Option<u64> {
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    number("num_experts").or_else(|| number("num_local_experts"))
}

/// Refuses experts that llama.cpp would route otherwise than the model says: it knows one way for each family, and has
/// them in every block.
fn check_experts(kind: &str, config: &Value) -> Result<(), ProduceError> {
    let refused =
        |what: &'static str| Err(ProduceError::GgufExperts { kind: kind.to_owned(), what });
    let normalized = match kind {
        "qwen2_moe" | "olmoe" => false,
        "qwen3_moe" => true,
        _ => return Ok(()),
    };
    let own = config.get("norm_topk_prob").and_then(Value::as_bool);
    if own.is_some_and(|own| own != normalized) {
        return refused("norm_topk_prob");
    }
    if config.get("mlp_only_layers").and_then(Value::as_array).is_some_and(|own| !own.is_empty()) {
        return refused("mlp_only_layers");
    }
    match config.get("decoder_sparse_step").and_then(Value::as_u64) {
        None | Some(1) => Ok(()),
        Some(_) => refused("decoder_sparse_step"),
    }
}

/// Writes keys and values.
#[derive(Default)]
struct Values {
    bytes: Vec<u8>,
    count: u64,
}

impl Values {
    fn key(&mut self, key: &str, kind: u32) {
        text(&mut self.bytes, key);
        self.bytes.extend(kind.to_le_bytes());
        self.count += 1;
    }

    fn u32(&mut self, key: &str, value: u64) {
        self.key(key, 4);
        self.bytes.extend(u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes());
    }

    fn f32(&mut self, key: &str, value: f64) {
        self.key(key, 6);
        self.bytes.extend((value as f32).to_le_bytes());
    }

    fn flag(&mut self, key: &str, value: bool) {
        self.key(key, 7);
        self.bytes.push(u8::from(value));
    }

    fn text(&mut self, key: &str, value: &str) {
        self.key(key, 8);
        text(&mut self.bytes, value);
    }

    fn texts(&mut self, key: &str, values: &[String]) {
        self.key(key, 9);
        self.bytes.extend(8_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| text(&mut self.bytes, value));
    }

    fn i32s(&mut self, key: &str, values: &[i32]) {
        self.key(key, 9);
        self.bytes.extend(5_u32.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        values.iter().for_each(|value| self.bytes.extend(value.to_le_bytes()));
    }
}

fn text(bytes: &mut Vec<u8>, value: &str) {
    bytes.extend((value.len() as u64).to_le_bytes());
    bytes.extend(value.as_bytes());
}

/// The header, padded to where tensors begin.
pub(super) fn header(
    family: &Family<'_>,
    checkpoint: &ModelSource,
    recipe: &Recipe,
    infos: &[(String, Vec<u64>, u32, u64)],
) -> Result<Vec<u8>, ProduceError> {
    let mut values = Values::default();
    let config = family.config;
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    // GPT-2 has names of its own.
    let need = |key: &'static str| {
        let other = match key {
            "hidden_size" => "n_embd",
            "num_hidden_layers" => "n_layer",
            "num_attention_heads" => "n_head",
            "max_position_embeddings" => "n_positions",
            "intermediate_size" => "n_inner",
            _ => key,
        };
        number(key).or_else(|| number(other)).ok_or(ProduceError::Number(key))
    };
    let arch = family.own.arch;
    let own = |key: &str| format!("{arch}.{key}");
    let heads = need("num_attention_heads")?.max(1);
    let width = need("hidden_size")?;
    let head = number("head_dim").unwrap_or(width / heads);
    let kind = block(recipe.method);
    let inner = match need("intermediate_size") {
        Err(_) if arch == "gpt2" => 4 * width,
        inner => inner?,
    };
    values.text("general.architecture", arch);
    values.text("general.type", "model");
    values.u32("general.file_type", file_type(kind));
    values.u32("general.quantization_version", 2);
    values.u32("general.alignment", ALIGNMENT);
    for (key, value) in [
        ("block_count", need("num_hidden_layers")?),
        ("context_length", need("max_position_embeddings")?),
        ("embedding_length", width),
        ("feed_forward_length", inner),
        ("attention.head_count", heads),
        ("attention.head_count_kv", number("num_key_value_heads").unwrap_or(heads)),
        ("attention.key_length", head),
        ("attention.value_length", head),
        ("rope.dimension_count", rotated(config, head)),
        ("vocab_size", need("vocab_size")?),
    ] {
        values.u32(&own(key), value);
    }
    if let Some(count) = experts(config).filter(|_| family.own.has_experts()) {
        values.u32(&own("expert_count"), count);
        values.u32(&own("expert_used_count"), need("num_experts_per_tok")?);
        for (key, there) in [
            ("moe_intermediate_size", "expert_feed_forward_length"),
            ("shared_expert_intermediate_size", "expert_shared_feed_forward_length"),
        ] {
            if let Some(value) = number(key) {
                values.u32(&own(there), value);
            }
        }
    }
    let float = |key: &str| config.get(key).and_then(Value::as_f64);
    let base = rope(config, "rope_theta").or_else(|| float("rope_theta")).unwrap_or(10_000.0);
    values.f32(&own("rope.freq_base"), base);
    match ["layer_norm_eps", "norm_epsilon", "layer_norm_epsilon"].iter().find_map(|key| float(key))
    {
        Some(epsilon) => values.f32(&own("attention.layer_norm_epsilon"), epsilon),
        None => {
            let epsilon = float("rms_norm_eps").unwrap_or(1e-6);
            values.f32(&own("attention.layer_norm_rms_epsilon"), epsilon);
        }
    }
    let sliding = config.get("use_sliding_window").and_then(Value::as_bool) != Some(false);
    if let Some(window) = number("sliding_window").filter(|_| sliding && family.own.arch != "llama")
    {
        values.u32(&own("attention.sliding_window"), window);
    }
    for (key, there) in [
        ("attention_multiplier", "attention.scale"),
        ("embedding_multiplier", "embedding_scale"),
        ("residual_multiplier", "residual_scale"),
        ("logits_scaling", "logit_scale"),
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
        ("rope_local_base_freq", "rope.freq_base_swa"),
    ] {
        if let Some(value) = float(key) {
            values.f32(&own(there), value);
        }
    }
    scaling(config, &own, &mut values);
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

/// The tokenizer, if it is one of byte pairs; another is left to the files that lie beside.
fn tokenizer(
    checkpoint: &ModelSource,
    config: &Value,
    values: &mut Values,
) -> Result<(), ProduceError> {
    let Some(tokenizer) = checkpoint.json("tokenizer.json")? else { return Ok(()) };
    let model = tokenizer.get("model");
    let part = |key: &str| model.and_then(|model| model.get(key));
    let kind = part("type").and_then(Value::as_str);
    let bytes =
        tokenizer.get("pre_tokenizer").is_some_and(|pre| pre.to_string().contains("ByteLevel"));
    let vocab = part("vocab").and_then(Value::as_object);
    let (Some("BPE"), true, Some(vocab)) = (kind, bytes, vocab) else { return Ok(()) };
    let mut tokens = BTreeMap::new();
    for (token, id) in vocab {
        tokens.extend(id.as_u64().map(|id| (id, (token.clone(), 1))));
    }
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let id = token.get("id").and_then(Value::as_u64);
        tokens.extend(id.map(|id| (id, (content.to_owned(), if special { 3 } else { 4 }))));
    }
    // As many tokens as there are rows of the embedding.
    let last = tokens.last_key_value().map_or(0, |(id, _)| id + 1);
    let size = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0).max(last);
    let size = size.min(1 << 24);
    let token = |id| tokens.get(&id).cloned().unwrap_or_else(|| (format!("[PAD{id}]"), 5));
    let (texts, kinds): (Vec<String>, Vec<i32>) = (0..size).map(token).unzip();
    let merges = part("merges").and_then(Value::as_array);
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => {
            let pair: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
            Some(pair.join(" "))
        }
        _ => None,
    };
    let merges: Vec<String> = merges.into_iter().flatten().filter_map(merge).collect();
    let way = tokenizer.get("pre_tokenizer").and_then(regex::named).unwrap_or("default");
    values.text("tokenizer.ggml.model", "gpt2");
    values.text("tokenizer.ggml.pre", way);
    values.texts("tokenizer.ggml.tokens", &texts);
    values.i32s("tokenizer.ggml.token_type", &kinds);
    values.texts("tokenizer.ggml.merges", &merges);
    for (key, name) in
        [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
    {
        let id = config.get(key).map(|id| id.get(0).unwrap_or(id));
        if let Some(id) = id.and_then(Value::as_u64) {
            values.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    // Several ends: what is not the end of a text ends a turn.
    let more = checkpoint.json("generation_config.json")?;
    let ends = |json: &Value| json.get("eos_token_id").and_then(Value::as_array).cloned();
    let ends = more.as_ref().and_then(ends).or_else(|| ends(config)).unwrap_or_default();
    let first =
        config.get("eos_token_id").map(|id| id.get(0).unwrap_or(id)).and_then(Value::as_u64);
    if let Some(turn) = ends.iter().filter_map(Value::as_u64).find(|id| Some(*id) != first) {
        values.u32("tokenizer.ggml.eot_token_id", turn);
    }
    let begins = |added: &Value| {
        let text = added.to_string();
        text.contains("TemplateProcessing")
            && config
                .get("bos_token_id")
                .and_then(Value::as_u64)
                .and_then(|id| tokens.get(&id))
                .is_some_and(|(bos, _)| text.contains(&Value::from(bos.as_str()).to_string()))
    };
    let begins = tokenizer.get("post_processor").is_some_and(begins);
    values.flag("tokenizer.ggml.add_bos_token", begins);
    if let Some(template) = template(checkpoint)? {
        values.text("tokenizer.chat_template", &template);
    }
    Ok(())
}

/// The chat template, wherever it lies.
fn template(checkpoint: &ModelSource) -> Result<Option<String>, ProduceError> {
    if let Some(own) = checkpoint.file("chat_template.jinja", MAX_TEMPLATE)? {
        return Ok(String::from_utf8(own.to_vec()).ok());
    }
    for path in ["chat_template.json", "tokenizer_config.json"] {
        let own = checkpoint.json(path)?;
        let own = own.as_ref().and_then(|own| own.get("chat_template"));
        let named = |own: &Value| {
            // Of several, the one that is for chats.
            let all = own.as_array()?.iter();
            let mut all =
                all.filter(|one| one.get("name").and_then(Value::as_str) == Some("default"));
            all.next()?.get("template")?.as_str().map(str::to_owned)
        };
        let text = own.and_then(|own| own.as_str().map(str::to_owned).or_else(|| named(own)));
        if text.is_some() {
            return Ok(text);
        }
    }
    Ok(None)
}

/// What llama.cpp numbers a file of these blocks.
fn file_type(block: Block) -> u64 {
    match block {
        Block::Q4_0 => 2,
        Block::Q8_0 => 7,
        Block::Q2K => 10,
        Block::Q3K => 11,
        Block::Q5K => 16,
        Block::Q6K => 18,
        Block::Iq4Nl => 25,
        Block::Iq4Xs => 30,
        _ => 14,
    }
}

/// What a config says of positions: in one object, under either name.
fn positions(config: &Value) -> Option<&Value> {
    let own = |key: &str| config.get(key).filter(|own| own.is_object());
    own("rope_scaling").or_else(|| own("rope_parameters"))
}

fn rope(config: &Value, key: &str) -> Option<f64> {
    let new = config.get("rope_parameters").and_then(|own| own.get(key));
    new.or_else(|| positions(config)?.get(key)).and_then(Value::as_f64)
}

fn scaled(config: &Value) -> Option<&str> {
    let own = positions(config)?;
    let kind = own.get("rope_type").or_else(|| own.get("type"))?.as_str()?;
    (kind != "default").then_some(kind)
}

/// Refuses positions that GGUF cannot say here.
pub(super) fn check_scaling(config: &Value) -> Result<(), ProduceError> {
    match scaled(config) {
        None | Some("linear" | "yarn" | "llama3") => Ok(()),
        Some(kind) => Err(ProduceError::GgufPositions(kind.to_owned())),
    }
}

fn scaling(config: &Value, own: &dyn Fn(&str) -> String, values: &mut Values) {
    let Some(kind @ ("linear" | "yarn")) = scaled(config) else { return };
    values.text(&own("rope.scaling.type"), kind);
    for (key, there) in [
        ("factor", "rope.scaling.factor"),
        ("attention_factor", "rope.scaling.attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ] {
        if let Some(value) = rope(config, key) {
            values.f32(&own(there), value);
        }
    }
    let original = rope(config, "original_max_position_embeddings")
        .or_else(|| config.get("max_position_embeddings").and_then(Value::as_f64));
    if let Some(original) = original {
        values.u32(&own("rope.scaling.original_context_length"), original as u64);
    }
}

/// How many of the `head` values of a head are rotated. transformers 5 says it beside the frequencies.
pub(super) fn rotated(config: &Value, head: u64) -> u64 {
    let part = "partial_rotary_factor";
    let part = rope(config, part).or_else(|| config.get(part)?.as_f64());
    part.map_or(head, |part| (head as f64 * part) as u64)
}

/// The factors that Llama 3 divides its frequencies by, as the tensor `rope_freqs.weight` has them.
pub(super) fn factors(config: &Value) -> Option<Vec<f32>> {
    if scaled(config) != Some("llama3") {
        return None;
    }
    let number = |key: &str| config.get(key).and_then(Value::as_u64);
    let dim = number("head_dim")
        .or(Some(number("hidden_size")? / number("num_attention_heads")?.max(1)))?;
    let theta = rope(config, "rope_theta").or_else(|| config.get("rope_theta")?.as_f64())?;
    let (factor, low) = (rope(config, "factor")?, rope(config, "low_freq_factor")?);
    let high = rope(config, "high_freq_factor")?;
    let original = rope(config, "original_max_position_embeddings")?;
    let of = |pair: u64| {
        let wave = std::f64::consts::TAU * theta.powf(2.0 * pair as f64 / dim as f64);
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Some((0..dim.min(1 << 16) / 2).map(|pair| of(pair) as f32).collect())
}
