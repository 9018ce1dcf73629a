//! A model's `config.json`, in transformers' names, out of a GGUF file's metadata. Pure.

use serde_json::{Map, Value as Json, json};

use super::names::Family;
use super::{GgufError, Header, Value};

/// Tensors that say how positions are scaled; whoever reads a file gives their values.
pub const FACTORS: [&str; 3] =
    ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];

/// The metadata of a file that is one model.
pub struct Metadata<'a, 'h> {
    header: &'h Header<'a>,
    arch: &'a str,
}

impl<'a, 'h> Metadata<'a, 'h> {
    /// The metadata of the model.
    ///
    /// # Errors
    /// If it does not say which architecture it is.
    pub fn new(header: &'h Header<'a>) -> Result<Self, GgufError> {
        let missing = || GgufError::Missing("general.architecture".to_owned());
        let arch = header.text("general.architecture").ok_or_else(missing)?;
        Ok(Self { header, arch })
    }

    /// The family, of files that `has` such tensors.
    ///
    /// # Errors
    /// If it is not known here.
    pub fn family(&self, has: &dyn Fn(&str) -> bool) -> Result<Family, GgufError> {
        let experts = self.number("expert_count").is_some_and(|experts| experts > 0);
        let unknown = || GgufError::Architecture(self.arch.to_owned());
        Family::of_arch(self.arch, experts, has).ok_or_else(unknown)
    }

    /// Query and key heads.
    ///
    /// # Errors
    /// If the file does not say, or layers have numbers of their own.
    pub fn heads(&self) -> Result<[u64; 2], GgufError> {
        let query = self.even("attention.head_count")?;
        let query = query.ok_or_else(|| self.missing("attention.head_count"))?;
        Ok([query, self.even("attention.head_count_kv")?.unwrap_or(query)])
    }

    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.arch)
    }

    fn missing(&self, key: &str) -> GgufError {
        GgufError::Missing(self.key(key))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.header.unsigned(&self.key(key))
    }

    fn float(&self, key: &str) -> Option<f64> {
        self.header.float(&self.key(key)).map(short)
    }

    /// A number that may be given for each layer, if it is the same in all.
    fn even(&self, key: &str) -> Result<Option<u64>, GgufError> {
        let Some(Value::Array(array)) = self.header.value(&self.key(key)) else {
            return Ok(self.number(key));
        };
        let mut all = array.values().map(|value| value.unsigned());
        let first = all.next().flatten();
        match all.all(|other| other == first) {
            true => Ok(first),
            false => Err(GgufError::Feature(format!(
                "{} differs from layer to layer, which no configuration made here says",
                self.key(key)
            ))),
        }
    }

    /// Which layers see a window, as transformers calls them, if the file says so layer by layer.
    fn pattern(&self) -> Option<Json> {
        let Value::Array(array) =
            self.header.value(&self.key("attention.sliding_window_pattern"))?
        else {
            return None;
        };
        let kind = |value| match value {
            Value::Bool(true) => "sliding_attention",
            _ => "full_attention",
        };
        Some(json!(array.values().map(kind).collect::<Vec<_>>()))
    }

    fn need(&self, key: &str) -> Result<u64, GgufError> {
        self.even(key)?.ok_or_else(|| self.missing(key))
    }
}

/// The shortest number of those that are the same f32.
fn short(value: f64) -> f64 {
    let narrow = value as f32;
    if f64::from(narrow) != value {
        return value;
    }
    narrow.to_string().parse().unwrap_or(value)
}

/// The configuration of the model in the files with these headers, the first of which has the metadata. `factors`
/// gives the values of those tensors of [`FACTORS`] that are there.
///
/// # Errors
/// If the architecture is not known, or a value is missing.
pub fn config(
    headers: &[Header<'_>],
    factors: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<Json, GgufError> {
    let Some(header) = headers.first() else { return Err(GgufError::Magic) };
    let own = Metadata::new(header)?;
    let tensor = |name: &str| headers.iter().find_map(|header| header.tensor(name));
    let (mut family, [heads, kv_heads]) =
        (own.family(&|name| tensor(name).is_some())?, own.heads()?);
    let beta = own.float("attention.temperature_scale").filter(|_| family.arch == "mistral3");
    if beta.is_some() {
        family = Family::of_model("ministral3").unwrap_or(family);
    }
    if !family.is_told() {
        return Err(GgufError::Feature(format!(
            "a configuration for the architecture {}, which is not made of a file's metadata; put the model's \
             config.json beside the file",
            family.arch
        )));
    }
    let embedding = tensor("token_embd.weight").and_then(|own| own.dims.first().copied());
    let hidden = own.need("embedding_length")?;
    let layers = own.need("block_count")?;
    if layers > 1 << 16 || heads == 0 || kv_heads == 0 {
        return Err(GgufError::Feature("layers or heads of a number that no model has".to_owned()));
    }
    let head_dim = own.number("attention.key_length").unwrap_or(hidden / heads);
    let mut config = Map::new();
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    set("architectures", json!([family.class]));
    set("model_type", json!(family.model));
    set("hidden_size", json!(hidden));
    set("num_hidden_layers", json!(layers));
    set("num_attention_heads", json!(heads));
    set("num_key_value_heads", json!(kv_heads));
    set("head_dim", json!(head_dim));
    set("max_position_embeddings", json!(own.need("context_length")?));
    set("vocab_size", json!(embedding.or(own.number("vocab_size"))));
    set("tie_word_embeddings", json!(tensor("output.weight").is_none()));
    if let Some(width) = own.even("feed_forward_length")? {
        set("intermediate_size", json!(width));
    }
    if let Some(epsilon) = own.float("attention.layer_norm_rms_epsilon") {
        set("rms_norm_eps", json!(epsilon));
    }
    if let Some(epsilon) = own.float("attention.layer_norm_epsilon") {
        let key = match family.model {
            "starcoder2" => "norm_epsilon",
            "nemotron" => "norm_eps",
            "gpt2" | "gpt_bigcode" | "bloom" | "falcon" => "layer_norm_epsilon",
            _ => "layer_norm_eps",
        };
        set(key, json!(epsilon));
    }
    if let Some(theta) = own.float("rope.freq_base") {
        set("rope_theta", json!(theta));
    }
    if let Some(dim) = own.number("rope.dimension_count") {
        let part = dim as f64 / head_dim as f64;
        match family.model {
            "gpt_neox" => set("rotary_pct", json!(part)),
            // Left out, it is another part.
            "stablelm" | "nemotron" => set("partial_rotary_factor", json!(part)),
            _ if dim < head_dim => set("partial_rotary_factor", json!(part)),
            _ => {}
        }
    }
    if let Some(mut scaling) = scaling(&own, head_dim, factors)? {
        if let Some(beta) = beta {
            if let Some(all) = own.float("rope.scaling.yarn_log_multiplier") {
                // llama.cpp knows no other.
                scaling["mscale"] = json!(1.0);
                scaling["mscale_all_dim"] = json!(all);
            }
            scaling["llama_4_scaling_beta"] = json!(beta);
        }
        set("rope_scaling", scaling);
    }
    if let Some(original) = own.number("rope.scaling.original_context_length") {
        set("original_max_position_embeddings", json!(original));
    }
    set("attention_bias", json!(tensor("blk.0.attn_q.bias").is_some()));
    set("mlp_bias", json!(tensor("blk.0.ffn_down.bias").is_some()));
    for (key, name) in
        [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
    {
        if let Some(id) = header.unsigned(&format!("tokenizer.ggml.{name}_token_id")) {
            set(key, json!(id));
        }
    }
    set("dtype", json!(dtype(headers)));
    own_keys(&own, family.model, [layers, hidden, heads, kv_heads, head_dim], &mut config)?;
    Ok(Json::Object(config))
}

/// What plain matrices are, or bfloat16 where all are blocks.
fn dtype(headers: &[Header<'_>]) -> &'static str {
    let tensors = headers.iter().flat_map(|header| &header.tensors);
    let mut matrices = tensors.filter(|own| own.dims.len() > 1).map(|own| own.number);
    match matrices.find(|number| matches!(number, 0 | 1 | 30)) {
        Some(0) => "float32",
        Some(1) => "float16",
        _ => "bfloat16",
    }
}

/// How positions are scaled, if they are.
fn scaling(
    own: &Metadata<'_, '_>,
    head_dim: u64,
    factors: &dyn Fn(&str) -> Option<Vec<f32>>,
) -> Result<Option<Json>, GgufError> {
    let [freqs, long, rapid] = FACTORS;
    if let (Some(long), Some(rapid)) = (factors(long), factors(rapid)) {
        let all = |values: Vec<f32>| values.into_iter().map(|own| short(own.into())).collect();
        let (long, rapid): (Vec<f64>, Vec<f64>) = (all(long), all(rapid));
        return Ok(Some(
            json!({"rope_type": "longrope", "long_factor": long, "short_factor": rapid}),
        ));
    }
    if let Some(freqs) = factors(freqs) {
        return llama3(own, head_dim, &freqs).map(Some);
    }
    let kind = own.header.text(&own.key("rope.scaling.type"));
    let Some(kind) = kind.filter(|kind| *kind != "none") else { return Ok(None) };
    let factor = own.float("rope.scaling.factor");
    let factor = factor.ok_or_else(|| own.missing("rope.scaling.factor"))?;
    let mut scaling = json!({"rope_type": kind, "factor": factor});
    if let Some(scaling) = scaling.as_object_mut() {
        if let Some(original) = own.number("rope.scaling.original_context_length") {
            scaling.insert("original_max_position_embeddings".to_owned(), json!(original));
        }
        for (key, there) in [
            ("attention_factor", "rope.scaling.attn_factor"),
            ("beta_fast", "rope.scaling.yarn_beta_fast"),
            ("beta_slow", "rope.scaling.yarn_beta_slow"),
        ] {
            if let Some(value) = own.float(there) {
                scaling.insert(key.to_owned(), json!(value));
            }
        }
    }
    match kind {
        "linear" | "yarn" => Ok(Some(scaling)),
        other => Err(GgufError::Feature(format!("positions scaled by {other:?}, without factors"))),
    }
}

/// What Llama 3 divides the frequency of a wave of so many positions by: nothing changes where it is short, and all of
/// `factor` counts where it is long, beside the `original` positions over `high` and `low`.
pub(crate) fn llama3_factor(wave: f64, factor: f64, [low, high]: [f64; 2], original: f64) -> f64 {
    if wave < original / high {
        1.0
    } else if wave > original / low {
        factor
    } else {
        let smooth = (original / wave - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}

/// Llama 3 scales each frequency by a factor of its own, which the file has and a configuration has not: its numbers
/// are those that make these factors.
fn llama3(own: &Metadata<'_, '_>, head_dim: u64, freqs: &[f32]) -> Result<Json, GgufError> {
    let theta = own.float("rope.freq_base").unwrap_or(10_000.0);
    let factor = freqs.iter().copied().fold(1.0_f32, f32::max);
    let dim = own.number("rope.dimension_count").unwrap_or(head_dim);
    let known = |original: f64| {
        freqs.len() as u64 == dim / 2
            && freqs.iter().enumerate().all(|(pair, own)| {
                let plain = theta.powf(-(2.0 * pair as f64) / dim as f64);
                let wave = std::f64::consts::TAU / plain;
                let wanted = llama3_factor(wave, factor.into(), [1.0, 4.0], original);
                (f64::from(*own) / wanted - 1.0).abs() < 1e-3
            })
    };
    let original = [8192.0, 4096.0, 2048.0, 16384.0, 32768.0].into_iter().find(|own| known(*own));
    match original {
        Some(original) => Ok(json!({
            "rope_type": "llama3", "factor": short(factor.into()), "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": original as u64,
        })),
        None => Err(GgufError::Feature(
            "rope_freqs.weight has factors that no Llama 3 has; put the model's config.json beside the file"
                .to_owned(),
        )),
    }
}

/// The keys that only some families have.
fn own_keys(
    own: &Metadata<'_, '_>,
    model: &str,
    [layers, hidden, heads, kv_heads, head_dim]: [u64; 5],
    config: &mut Map<String, Json>,
) -> Result<(), GgufError> {
    let mut set = |key: &str, value: Json| drop(config.insert(key.to_owned(), value));
    let window = own.number("attention.sliding_window").filter(|window| *window > 0);
    let kinds = |full: &dyn Fn(u64) -> bool| {
        let kind = |layer| if full(layer) { "full_attention" } else { "sliding_attention" };
        json!((0..layers).map(kind).collect::<Vec<_>>())
    };
    let act = match model {
        "gemma" | "gemma2" | "gemma3_text" | "starcoder2" | "gpt_bigcode" => "gelu_pytorch_tanh",
        "gpt2" | "phi" | "bloom" => "gelu_new",
        "gpt_neox" | "falcon" => "gelu",
        "arcee" | "nemotron" | "jais2" => "relu2",
        _ => "silu",
    };
    match model {
        "gpt2" | "gpt_bigcode" => set("activation_function", json!(act)),
        "falcon" => set("activation", json!(act)),
        "gemma" | "gemma2" | "gemma3_text" => set("hidden_activation", json!(act)),
        _ => {}
    }
    set("hidden_act", json!(act));
    match model {
        "mistral" | "ministral3" | "mixtral" | "phi3" => set("sliding_window", json!(window)),
        "starcoder2" => {
            set("sliding_window", json!(window));
            set("use_bias", json!(true));
        }
        "gemma2" => {
            set("sliding_window", json!(window.unwrap_or(4096)));
            set("layer_types", kinds(&|layer| layer % 2 == 1));
            set("attn_logit_softcapping", json!(own.float("attn_logit_softcapping")));
            set("final_logit_softcapping", json!(own.float("final_logit_softcapping")));
            // That of 27B is told by its layers, as llama.cpp tells it.
            let scalar = if layers == 46 { hidden / heads } else { head_dim };
            set("query_pre_attn_scalar", json!(scalar));
        }
        "gemma3_text" => {
            set("sliding_window", json!(window.unwrap_or(1024)));
            set("layer_types", kinds(&|layer| (layer + 1) % 6 == 0));
            set("rope_local_base_freq", json!(own.float("rope.freq_base_swa").unwrap_or(1e4)));
            let scalar = if layers == 62 { hidden / heads } else { head_dim };
            set("query_pre_attn_scalar", json!(scalar));
            set("final_logit_softcapping", json!(own.float("final_logit_softcapping")));
        }
        "cohere" | "cohere2" => {
            set("logit_scale", json!(own.float("logit_scale").unwrap_or(1.0)));
            set("use_qk_norm", json!(own.header.tensor("blk.0.attn_q_norm.weight").is_some()));
            if model == "cohere2" {
                set("sliding_window", json!(window.unwrap_or(4096)));
                set("layer_types", own.pattern().unwrap_or(kinds(&|layer| (layer + 1) % 4 == 0)));
            }
        }
        "exaone4" => {
            // Of all but the largest, every layer sees all.
            let window = window.filter(|_| layers == 64);
            set("sliding_window", json!(window));
            let every = |layer| window.is_none() || (layer + 1) % 4 == 0;
            let pattern = own.pattern().filter(|_| window.is_some());
            set("layer_types", pattern.unwrap_or(kinds(&every)));
        }
        "stablelm" | "gpt_neox" => {
            let parallel = own.header.value(&own.key("use_parallel_residual"));
            let parallel = !matches!(parallel, Some(Value::Bool(false)));
            set("use_parallel_residual", json!(parallel));
            let norms = own.header.tensor("blk.0.attn_q_norm.weight").is_some();
            set("qk_layernorm", json!(norms));
        }
        "olmo" => set("clip_qkv", json!(own.float("attention.clamp_kqv"))),
        "bloom" => set("seq_length", json!(own.need("context_length")?)),
        "gpt_bigcode" => set("multi_query", json!(kv_heads == 1)),
        "falcon" => {
            let two = own.header.tensor("blk.0.attn_norm_2.weight").is_some();
            set("new_decoder_architecture", json!(two || (kv_heads > 1 && kv_heads < heads)));
            set("num_ln_in_parallel_attn", json!(if two { 2 } else { 1 }));
            set("multi_query", json!(kv_heads == 1));
            set("num_kv_heads", json!(kv_heads));
            set("parallel_attn", json!(true));
        }
        "granite" | "granitemoe" => {
            for (key, there) in [
                ("attention_multiplier", "attention.scale"),
                ("embedding_multiplier", "embedding_scale"),
                ("residual_multiplier", "residual_scale"),
                ("logits_scaling", "logit_scale"),
            ] {
                set(key, json!(own.float(there).unwrap_or(1.0)));
            }
        }
        "smollm3" => {
            // Every fourth layer has no positions, as llama.cpp has it.
            let rope: Vec<u64> = (0..layers).map(|layer| u64::from((layer + 1) % 4 != 0)).collect();
            set("no_rope_layers", json!(rope));
            set("no_rope_layer_interval", json!(4));
        }
        "gpt2" => {
            set("n_embd", json!(hidden));
            set("n_head", json!(heads));
            set("n_layer", json!(layers));
            set("n_positions", json!(own.need("context_length")?));
            set("n_inner", json!(own.even("feed_forward_length")?));
        }
        _ => {}
    }
    let Some(experts) = own.number("expert_count").filter(|experts| *experts > 0) else {
        return Ok(());
    };
    let used = own.need("expert_used_count")?;
    set("num_experts_per_tok", json!(used));
    let local = matches!(model, "mixtral" | "granitemoe");
    set(if local { "num_local_experts" } else { "num_experts" }, json!(experts));
    if let Some(width) = own.number("expert_feed_forward_length") {
        set("moe_intermediate_size", json!(width));
    }
    if let Some(width) = own.number("expert_shared_feed_forward_length") {
        set("shared_expert_intermediate_size", json!(width));
    }
    if matches!(model, "qwen2_moe" | "qwen3_moe") {
        set("decoder_sparse_step", json!(1));
        set("mlp_only_layers", json!([]));
    }
    set("norm_topk_prob", json!(model == "qwen3_moe"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!(short(f64::from(1e-5_f32)), 1e-5);
        assert_eq!(short(f64::from(500_000.0_f32)), 5e5);
        assert_eq!(short(0.1), 0.1);
    }
}
