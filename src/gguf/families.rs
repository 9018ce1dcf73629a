//! What GGUF calls the tensors of each family of models: tables. Pure.
//!
//! Names are transformers' and llama.cpp's. What is done to a tensor on the way, [`names`](super::names) says.

/// Names that are the model's, and GGUF's.
type Pairs = &'static [(&'static str, &'static str)];

/// A family of models, as GGUF's `general.architecture` names it.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// `general.architecture`.
    pub arch: &'static str,
    /// transformers' `model_type`.
    pub model: &'static str,
    /// transformers' class.
    pub class: &'static str,
    /// Whether query and key rows are permuted.
    pub(super) permuted: bool,
    /// Whether norms have one added.
    pub(super) plus_one: bool,
    /// Whether weights in blocks are stored transposed by the model.
    pub(super) transposed: bool,
    /// Whether the model has q, k and v in one weight, by groups of heads.
    pub(super) grouped: bool,
    /// Whether a configuration can be made of a file's metadata alone.
    pub(super) told: bool,
    /// What is outside of blocks.
    pub(super) outside: Pairs,
    /// What the names of blocks begin with.
    pub(super) blocks: &'static str,
    /// Parts of blocks, without `.weight` and `.bias`.
    pub(super) parts: &'static [Pairs],
    /// Tensors of blocks that end otherwise on one side.
    pub(super) whole: Pairs,
    /// Norms of each head for itself, which are stacked: what the model's names begin with, and GGUF's.
    pub(super) heads: Pairs,
    /// Experts: what their names begin with, and what gate, up and down are called.
    pub(super) experts: Option<(&'static str, [&'static str; 3])>,
}

const OUTSIDE: Pairs =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
const NORMS: Pairs = &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "ffn_norm")];
/// The same names, where the second is called after what it is behind.
const POST_NORMS: Pairs =
    &[("input_layernorm", "attn_norm"), ("post_attention_layernorm", "post_attention_norm")];
/// Norms before and behind.
const FOUR_NORMS: Pairs = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
];
const ATTENTION: Pairs = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
];
const HEADS: Pairs = &[("self_attn.q_norm", "attn_q_norm"), ("self_attn.k_norm", "attn_k_norm")];
const MLP: Pairs =
    &[("mlp.gate_proj", "ffn_gate"), ("mlp.up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")];
const ROUTER: Pairs = &[("mlp.gate", "ffn_gate_inp")];
/// Experts that all tokens go to.
const SHARED: Pairs = &[
    ("mlp.shared_experts.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_experts.up_proj", "ffn_up_shexp"),
    ("mlp.shared_experts.down_proj", "ffn_down_shexp"),
];
/// One of them, with a gate of its own.
const SWITCHED: Pairs = &[
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
];
const SPARSE_GATE: Pairs = &[("block_sparse_moe.gate", "ffn_gate_inp")];
const OSS_ROUTER: Pairs = &[("mlp.router", "ffn_gate_inp")];
const GRANITE_ROUTER: Pairs = &[("block_sparse_moe.router.layer", "ffn_gate_inp")];
const GLM4: Pairs = &[
    ("input_layernorm", "attn_norm"),
    ("post_self_attn_layernorm", "post_attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("post_mlp_layernorm", "post_ffw_norm"),
];
const GATE_UP: Pairs = &[("mlp.gate_up_proj", "ffn_up"), ("mlp.down_proj", "ffn_down")];
const PHI3: Pairs = &[("self_attn.qkv_proj", "attn_qkv"), ("self_attn.o_proj", "attn_output")];
const PHI_OUTSIDE: Pairs = &[
    ("model.embed_tokens", "token_embd"),
    ("model.final_layernorm", "output_norm"),
    ("lm_head", "output"),
];
const PHI: Pairs = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];
const STARCODER2: Pairs = &[("mlp.c_fc", "ffn_up"), ("mlp.c_proj", "ffn_down")];
const GPT2_OUTSIDE: Pairs = &[
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("lm_head", "output"),
];
const GPT2: Pairs = &[
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
/// Attention through few dimensions.
const LATENT: Pairs = &[
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.q_a_proj", "attn_q_a"),
    ("self_attn.q_a_layernorm", "attn_q_a_norm"),
    ("self_attn.q_b_proj", "attn_q_b"),
    ("self_attn.kv_a_proj_with_mqa", "attn_kv_a_mqa"),
    ("self_attn.kv_a_layernorm", "attn_kv_a_norm"),
    ("self_attn.kv_b_proj", "attn_kv_b"),
    ("self_attn.o_proj", "attn_output"),
];
const HUNYUAN: Pairs = &[
    ("self_attn.query_layernorm", "attn_q_norm"),
    ("self_attn.key_layernorm", "attn_k_norm"),
    ("mlp.gate.wg", "ffn_gate_inp"),
    ("mlp.shared_mlp.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_mlp.up_proj", "ffn_up_shexp"),
    ("mlp.shared_mlp.down_proj", "ffn_down_shexp"),
];
const LLAMA4: Pairs = &[
    ("feed_forward.router", "ffn_gate_inp"),
    ("feed_forward.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("feed_forward.shared_expert.up_proj", "ffn_up_shexp"),
    ("feed_forward.shared_expert.down_proj", "ffn_down_shexp"),
    ("feed_forward.gate_proj", "ffn_gate"),
    ("feed_forward.up_proj", "ffn_up"),
    ("feed_forward.down_proj", "ffn_down"),
];
/// Norms of single heads.
const MANY: Pairs = &[
    ("self_attn.q_layernorm.norms.", "attn_q_norm"),
    ("self_attn.k_layernorm.norms.", "attn_k_norm"),
];
const EXAONE_OUTSIDE: Pairs = &[
    ("transformer.wte", "token_embd"),
    ("transformer.ln_f", "output_norm"),
    ("lm_head", "output"),
];
const EXAONE: Pairs = &[
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.attention.q_proj", "attn_q"),
    ("attn.attention.k_proj", "attn_k"),
    ("attn.attention.v_proj", "attn_v"),
    ("attn.attention.out_proj", "attn_output"),
    ("mlp.c_fc_0", "ffn_gate"),
    ("mlp.c_fc_1", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
const NEOX_OUTSIDE: Pairs = &[
    ("gpt_neox.embed_in", "token_embd"),
    ("gpt_neox.final_layer_norm", "output_norm"),
    ("embed_out", "output"),
    ("lm_head", "output"),
];
const NEOX: Pairs = &[
    ("attention.query_key_value", "attn_qkv"),
    ("attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];
const BLOOM_OUTSIDE: Pairs = &[
    ("transformer.word_embeddings", "token_embd"),
    ("transformer.word_embeddings_layernorm", "token_embd_norm"),
    ("transformer.ln_f", "output_norm"),
    ("lm_head", "output"),
];
const BLOOM: Pairs = &[
    ("self_attention.query_key_value", "attn_qkv"),
    ("self_attention.dense", "attn_output"),
    ("mlp.dense_h_to_4h", "ffn_up"),
    ("mlp.dense_4h_to_h", "ffn_down"),
];
const TWO_NORMS: Pairs = &[("ln_mlp", "attn_norm"), ("ln_attn", "attn_norm_2")];
const CORRECTION: Pairs = &[("mlp.gate.e_score_correction_bias", "exp_probs_b.bias")];

type Parts = &'static [Pairs];
const DENSE: Parts = &[NORMS, ATTENTION, HEADS, MLP];
const SANDWICH: Parts = &[FOUR_NORMS, ATTENTION, HEADS, MLP];
const POST: Parts = &[POST_NORMS, ATTENTION, HEADS, MLP, ROUTER, SHARED];
const SPARSE: Parts = &[NORMS, ATTENTION, HEADS, MLP, ROUTER, SWITCHED];
const WITH_SHARED: Parts = &[NORMS, ATTENTION, HEADS, MLP, ROUTER, SHARED];
const DEEPSEEK: Parts = &[NORMS, LATENT, MLP, ROUTER, SHARED];
const MIXTRAL: Parts = &[NORMS, ATTENTION, HEADS, SPARSE_GATE];
const BLOCKS: &str = "model.layers.";
const PROJ: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];
const EXPERTS: Option<(&str, [&str; 3])> = Some(("mlp.experts", PROJ));

/// A family whose blocks are called as Llama's are, with these parts.
const fn plain(
    arch: &'static str,
    model: &'static str,
    class: &'static str,
    parts: Parts,
) -> Family {
    Family {
        arch,
        model,
        class,
        permuted: false,
        plus_one: false,
        transposed: false,
        grouped: false,
        told: true,
        outside: OUTSIDE,
        blocks: BLOCKS,
        parts,
        whole: &[],
        heads: &[],
        experts: None,
    }
}

/// The same, with experts.
const fn sparse(arch: &'static str, model: &'static str, class: &'static str) -> Family {
    Family { experts: EXPERTS, ..plain(arch, model, class, SPARSE) }
}

/// The same with query and key rows permuted.
const fn turned(
    arch: &'static str,
    model: &'static str,
    class: &'static str,
    parts: Parts,
) -> Family {
    Family { permuted: true, ..plain(arch, model, class, parts) }
}

/// Experts with others beside, whose scores are corrected.
const fn corrected(
    arch: &'static str,
    model: &'static str,
    class: &'static str,
    parts: Parts,
) -> Family {
    let own = plain(arch, model, class, parts);
    Family { whole: CORRECTION, experts: EXPERTS, told: false, ..own }
}

/// BLOOM's kind: q, k and v in one weight.
const fn fused(
    arch: &'static str,
    model: &'static str,
    class: &'static str,
    (outside, blocks, parts): (Pairs, &'static str, Parts),
) -> Family {
    Family { grouped: true, outside, blocks, ..plain(arch, model, class, parts) }
}

/// Falcon is called as BLOOM is; written, each finds its norms, and read, the first that GGUF calls so.
const FALCON: (Pairs, &str, Parts) = (BLOOM_OUTSIDE, "transformer.h.", &[NORMS, BLOOM, TWO_NORMS]);

/// Falcon with two norms, as of 40B.
pub(super) const FALCON_TWO: Family =
    Family { parts: &[TWO_NORMS, BLOOM], ..fused("falcon", "falcon", "FalconForCausalLM", FALCON) };

/// Mixtral is called as Llama is.
pub(super) const MIXTRALS: Family = Family {
    experts: Some(("block_sparse_moe.experts", ["w1", "w3", "w2"])),
    ..turned("llama", "mixtral", "MixtralForCausalLM", MIXTRAL)
};

/// All of them; one that stands first is what GGUF's name means.
pub(super) const FAMILIES: &[Family] = &[
    turned("llama", "llama", "LlamaForCausalLM", DENSE),
    turned("llama", "mistral", "MistralForCausalLM", DENSE),
    turned("mistral3", "mistral", "MistralForCausalLM", DENSE),
    turned("mistral3", "ministral3", "Ministral3ForCausalLM", DENSE),
    MIXTRALS,
    plain("qwen2", "qwen2", "Qwen2ForCausalLM", DENSE),
    plain("qwen3", "qwen3", "Qwen3ForCausalLM", DENSE),
    sparse("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM"),
    sparse("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
    sparse("olmoe", "olmoe", "OlmoeForCausalLM"),
    Family { told: false, ..sparse("mellum", "mellum", "MellumForCausalLM") },
    Family { plus_one: true, ..plain("gemma", "gemma", "GemmaForCausalLM", DENSE) },
    Family { plus_one: true, ..plain("gemma2", "gemma2", "Gemma2ForCausalLM", SANDWICH) },
    Family { plus_one: true, ..plain("gemma3", "gemma3_text", "Gemma3ForCausalLM", SANDWICH) },
    plain("phi3", "phi3", "Phi3ForCausalLM", &[NORMS, PHI3, GATE_UP]),
    Family { outside: PHI_OUTSIDE, ..plain("phi2", "phi", "PhiForCausalLM", &[NORMS, PHI]) },
    turned("olmo", "olmo", "OlmoForCausalLM", DENSE),
    plain("olmo2", "olmo2", "Olmo2ForCausalLM", SANDWICH),
    plain("olmo2", "olmo3", "Olmo3ForCausalLM", SANDWICH),
    turned("granite", "granite", "GraniteForCausalLM", DENSE),
    Family {
        experts: Some(("block_sparse_moe.experts", PROJ)),
        ..turned(
            "granitemoe",
            "granitemoe",
            "GraniteMoeForCausalLM",
            &[NORMS, ATTENTION, GRANITE_ROUTER],
        )
    },
    turned("smollm3", "smollm3", "SmolLM3ForCausalLM", DENSE),
    plain("glm4", "glm4", "Glm4ForCausalLM", &[GLM4, ATTENTION, GATE_UP]),
    corrected("glm4moe", "glm4_moe", "Glm4MoeForCausalLM", POST),
    corrected("dots1", "dots1", "Dots1ForCausalLM", WITH_SHARED),
    corrected("deepseek2", "deepseek_v3", "DeepseekV3ForCausalLM", DEEPSEEK),
    corrected("deepseek2", "deepseek_v2", "DeepseekV2ForCausalLM", DEEPSEEK),
    corrected("deepseek2", "glm4_moe_lite", "Glm4MoeLiteForCausalLM", DEEPSEEK),
    Family {
        whole: &[("mlp.moe_statics.e_score_correction_bias", "exp_probs_b.bias")],
        ..corrected("ernie4_5-moe", "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", WITH_SHARED)
    },
    Family {
        whole: &[("mlp.e_score_correction_bias", "exp_probs_b.bias")],
        ..corrected("exaone-moe", "exaone_moe", "ExaoneMoeForCausalLM", WITH_SHARED)
    },
    Family {
        whole: &[("block_sparse_moe.e_score_correction_bias", "exp_probs_b.bias")],
        experts: Some(("block_sparse_moe.experts", ["w1", "w3", "w2"])),
        ..corrected("minimax-m2", "minimax_m2", "MiniMaxM2ForCausalLM", MIXTRAL)
    },
    Family {
        whole: &[("self_attn.sinks", "attn_sinks.weight")],
        ..corrected("gpt-oss", "gpt_oss", "GptOssForCausalLM", &[POST_NORMS, ATTENTION, OSS_ROUTER])
    },
    Family {
        experts: Some(("feed_forward.experts", PROJ)),
        told: false,
        ..plain("llama4", "llama4_text", "Llama4ForCausalLM", &[NORMS, ATTENTION, LLAMA4])
    },
    Family {
        experts: EXPERTS,
        told: false,
        ..plain(
            "hunyuan-moe",
            "hunyuan_v1_moe",
            "HunYuanMoEV1ForCausalLM",
            &[NORMS, ATTENTION, HUNYUAN],
        )
    },
    plain(
        "hunyuan-dense",
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        &[NORMS, ATTENTION, HUNYUAN, MLP],
    ),
    plain("starcoder2", "starcoder2", "Starcoder2ForCausalLM", &[NORMS, ATTENTION, STARCODER2]),
    Family {
        transposed: true,
        outside: GPT2_OUTSIDE,
        blocks: "transformer.h.",
        ..plain("gpt2", "gpt2", "GPT2LMHeadModel", &[GPT2])
    },
    fused(
        "starcoder",
        "gpt_bigcode",
        "GPTBigCodeForCausalLM",
        (GPT2_OUTSIDE, "transformer.h.", &[GPT2]),
    ),
    fused(
        "gptneox",
        "gpt_neox",
        "GPTNeoXForCausalLM",
        (NEOX_OUTSIDE, "gpt_neox.layers.", &[NORMS, NEOX]),
    ),
    fused("bloom", "bloom", "BloomForCausalLM", (BLOOM_OUTSIDE, "transformer.h.", &[NORMS, BLOOM])),
    fused("falcon", "falcon", "FalconForCausalLM", FALCON),
    turned("arcee", "arcee", "ArceeForCausalLM", DENSE),
    Family { plus_one: true, ..plain("nemotron", "nemotron", "NemotronForCausalLM", DENSE) },
    plain("jais2", "jais2", "Jais2ForCausalLM", DENSE),
    Family {
        heads: MANY,
        ..plain("stablelm", "stablelm", "StableLmForCausalLM", &[NORMS, ATTENTION, MLP])
    },
    plain("command-r", "cohere", "CohereForCausalLM", DENSE),
    plain("cohere2", "cohere2", "Cohere2ForCausalLM", DENSE),
    plain("seed_oss", "seed_oss", "SeedOssForCausalLM", POST),
    plain("ernie4_5", "ernie4_5", "Ernie4_5ForCausalLM", DENSE),
    plain("exaone4", "exaone4", "Exaone4ForCausalLM", SANDWICH),
    Family {
        outside: EXAONE_OUTSIDE,
        blocks: "transformer.h.",
        ..plain("exaone", "exaone", "ExaoneForCausalLM", &[EXAONE])
    },
];
