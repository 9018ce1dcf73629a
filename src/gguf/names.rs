//! What GGUF calls the tensors of models, and in which form it has them: one table of families. Pure.

/// What must be done to a tensor of GGUF so that it is the model's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    Same,
    /// Its rows are permuted in so many heads: GGUF rotates neighbouring pairs, the model the halves of a head.
    Heads(u64),
    /// One is added to its values: the model's norm multiplies by one more than it stores.
    PlusOne,
    /// Its rows are the model's columns.
    Transposed,
}

/// A tensor of the model within one of GGUF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Original {
    /// Its name.
    pub name: String,
    /// Which of the experts that are stacked it is, and of how many.
    pub expert: Option<(u64, u64)>,
    /// What must be done.
    pub change: Change,
}

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
    permuted: bool,
    /// Whether norms have one added.
    plus_one: bool,
    /// Whether weights in blocks are stored transposed by the model.
    transposed: bool,
    /// What is outside of blocks: the model's names, and GGUF's.
    outside: &'static [(&'static str, &'static str)],
    /// What the names of blocks begin with.
    blocks: &'static str,
    /// Parts of blocks: the model's names, and GGUF's.
    parts: &'static [(&'static str, &'static str)],
    /// Experts: what their names begin with, and what gate, up and down are called.
    experts: Option<(&'static str, [&'static str; 3])>,
}

const OUTSIDE: &[(&str, &str)] =
    &[("model.embed_tokens", "token_embd"), ("model.norm", "output_norm"), ("lm_head", "output")];
const DENSE: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const MIXTRAL: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("block_sparse_moe.gate", "ffn_gate_inp"),
];
const SPARSE: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate", "ffn_gate_inp"),
    ("mlp.shared_expert.gate_proj", "ffn_gate_shexp"),
    ("mlp.shared_expert.up_proj", "ffn_up_shexp"),
    ("mlp.shared_expert.down_proj", "ffn_down_shexp"),
    ("mlp.shared_expert_gate", "ffn_gate_inp_shexp"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
/// Norms before and behind.
const SANDWICH: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "post_attention_norm"),
    ("pre_feedforward_layernorm", "ffn_norm"),
    ("post_feedforward_layernorm", "post_ffw_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const GLM4: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_self_attn_layernorm", "post_attention_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("post_mlp_layernorm", "post_ffw_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const PHI3: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.qkv_proj", "attn_qkv"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];
const PHI_OUTSIDE: &[(&str, &str)] = &[
    ("model.embed_tokens", "token_embd"),
    ("model.final_layernorm", "output_norm"),
    ("lm_head", "output"),
];
const PHI: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.dense", "attn_output"),
    ("mlp.fc1", "ffn_up"),
    ("mlp.fc2", "ffn_down"),
];
const STARCODER2: &[(&str, &str)] = &[
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
const GPT2_OUTSIDE: &[(&str, &str)] = &[
    ("transformer.wte", "token_embd"),
    ("transformer.wpe", "position_embd"),
    ("transformer.ln_f", "output_norm"),
    ("lm_head", "output"),
];
const GPT2: &[(&str, &str)] = &[
    ("ln_1", "attn_norm"),
    ("ln_2", "ffn_norm"),
    ("attn.c_attn", "attn_qkv"),
    ("attn.c_proj", "attn_output"),
    ("mlp.c_fc", "ffn_up"),
    ("mlp.c_proj", "ffn_down"),
];
const BLOCKS: &str = "model.layers.";
const PROJ: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

/// A family whose blocks are called as Llama's are, with these parts.
const fn plain(
    arch: &'static str,
    model: &'static str,
    class: &'static str,
    parts: &'static [(&'static str, &'static str)],
) -> Family {
    Family {
        arch,
        model,
        class,
        permuted: false,
        plus_one: false,
        transposed: false,
        outside: OUTSIDE,
        blocks: BLOCKS,
        parts,
        experts: None,
    }
}

/// The same, with experts.
const fn sparse(arch: &'static str, model: &'static str, class: &'static str) -> Family {
    Family { experts: Some(("mlp.experts", PROJ)), ..plain(arch, model, class, SPARSE) }
}

const MIXTRALS: Family = Family {
    permuted: true,
    experts: Some(("block_sparse_moe.experts", ["w1", "w3", "w2"])),
    ..plain("llama", "mixtral", "MixtralForCausalLM", MIXTRAL)
};

/// All of them; one that stands first is what GGUF's name means.
const FAMILIES: [Family; 22] = [
    Family { permuted: true, ..plain("llama", "llama", "LlamaForCausalLM", DENSE) },
    Family { permuted: true, ..plain("llama", "mistral", "MistralForCausalLM", DENSE) },
    Family { permuted: true, ..plain("mistral3", "mistral", "MistralForCausalLM", DENSE) },
    MIXTRALS,
    plain("qwen2", "qwen2", "Qwen2ForCausalLM", DENSE),
    plain("qwen3", "qwen3", "Qwen3ForCausalLM", DENSE),
    sparse("qwen2moe", "qwen2_moe", "Qwen2MoeForCausalLM"),
    sparse("qwen3moe", "qwen3_moe", "Qwen3MoeForCausalLM"),
    sparse("olmoe", "olmoe", "OlmoeForCausalLM"),
    Family { plus_one: true, ..plain("gemma", "gemma", "GemmaForCausalLM", DENSE) },
    Family { plus_one: true, ..plain("gemma2", "gemma2", "Gemma2ForCausalLM", SANDWICH) },
    Family { plus_one: true, ..plain("gemma3", "gemma3_text", "Gemma3ForCausalLM", SANDWICH) },
    plain("phi3", "phi3", "Phi3ForCausalLM", PHI3),
    Family { outside: PHI_OUTSIDE, ..plain("phi2", "phi", "PhiForCausalLM", PHI) },
    plain("olmo2", "olmo2", "Olmo2ForCausalLM", SANDWICH),
    plain("olmo2", "olmo3", "Olmo3ForCausalLM", SANDWICH),
    Family { permuted: true, ..plain("granite", "granite", "GraniteForCausalLM", DENSE) },
    Family { permuted: true, ..plain("smollm3", "smollm3", "SmolLM3ForCausalLM", DENSE) },
    plain("glm4", "glm4", "Glm4ForCausalLM", GLM4),
    plain("starcoder2", "starcoder2", "Starcoder2ForCausalLM", STARCODER2),
    Family {
        transposed: true,
        outside: GPT2_OUTSIDE,
        blocks: "transformer.h.",
        ..plain("gpt2", "gpt2", "GPT2LMHeadModel", GPT2)
    },
    Family { permuted: true, ..plain("arcee", "arcee", "ArceeForCausalLM", DENSE) },
];

/// Where the heads of a permuted part are counted.
fn is_query_or_key(part: &str) -> Option<bool> {
    match part {
        "attn_q" => Some(false),
        "attn_k" => Some(true),
        _ => None,
    }
}

impl Family {
    /// The family of a file: with experts, those that have them.
    pub fn of_arch(arch: &str, experts: bool) -> Option<Self> {
        if arch == "llama" && experts {
            return Some(MIXTRALS);
        }
        FAMILIES.into_iter().find(|family| family.arch == arch)
    }

    /// Whether its blocks have experts.
    pub fn has_experts(&self) -> bool {
        self.experts.is_some()
    }

    /// The family of a model, by transformers' `model_type`.
    pub fn of_model(model: &str) -> Option<Self> {
        FAMILIES.into_iter().find(|family| family.model == model)
    }

    /// Whether a tensor's name is one of blocks of such a family, or outside of them.
    fn change(&self, name: &str, part: &str, end: &str, heads: [u64; 2]) -> Change {
        match is_query_or_key(part) {
            Some(key) if self.permuted => Change::Heads(heads[usize::from(key)]),
            _ if self.plus_one && end == "weight" && name.ends_with("norm.weight") => {
                Change::PlusOne
            }
            _ if self.transposed && end == "weight" && !part.contains("norm") => Change::Transposed,
            _ => Change::Same,
        }
    }

    /// The model's tensors within the one that GGUF calls so, where query and key have so many heads; `None` if no
    /// model of the family has it.
    pub fn originals(&self, name: &str, dims: &[u64], heads: [u64; 2]) -> Option<Vec<Original>> {
        let (layer, end) = name.rsplit_once('.')?;
        if let Some((ours, _)) = self.outside.iter().find(|(_, there)| *there == layer) {
            let change = match self.plus_one && layer == "output_norm" {
                true => Change::PlusOne,
                false => Change::Same,
            };
            return Some(vec![Original { name: format!("{ours}.{end}"), expert: None, change }]);
        }
        let (block, part) = layer.strip_prefix("blk.")?.split_once('.')?;
        let within = |part: &str| format!("{}{block}.{part}.{end}", self.blocks);
        if let Some((ours, there)) = self.parts.iter().find(|(_, there)| *there == part) {
            let name = within(ours);
            let change = self.change(&name, there, end, heads);
            return Some(vec![Original { name, expert: None, change }]);
        }
        let (experts, names) = self.experts?;
        let which = |kind: &str| match kind {
            "gate" => names.first(),
            "up" => names.get(1),
            "down" => names.get(2),
            _ => None,
        };
        let part = part.strip_prefix("ffn_")?;
        let of = |expert: u64, called: &str| within(&format!("{experts}.{expert}.{called}"));
        let change = Change::Same;
        if let Some(called) = part.strip_suffix("_exps").and_then(which) {
            let [count, _, _] = *dims else { return None };
            let one = |expert| Original {
                name: of(expert, called),
                expert: Some((expert, count)),
                change,
            };
            return Some((0..count.min(1 << 16)).map(one).collect());
        }
        // Older files have each expert for itself.
        let (kind, expert) = part.split_once('.')?;
        let name = of(expert.parse().ok()?, which(kind)?);
        Some(vec![Original { name, expert: None, change }])
    }

    /// What GGUF calls a tensor of the model, and what was done to it; `None` if it has no name for it alone.
    pub fn renamed(&self, name: &str, heads: [u64; 2]) -> Option<(String, Change)> {
        let (layer, end) = name.rsplit_once('.')?;
        if let Some((_, there)) = self.outside.iter().find(|(ours, _)| *ours == layer) {
            let change = match self.plus_one && *there == "output_norm" {
                true => Change::PlusOne,
                false => Change::Same,
            };
            return Some((format!("{there}.{end}"), change));
        }
        let (block, part) = layer.strip_prefix(self.blocks)?.split_once('.')?;
        let (_, there) = self.parts.iter().find(|(ours, _)| *ours == part)?;
        Some((format!("blk.{block}.{there}.{end}"), self.change(name, there, end, heads)))
    }

    /// The tensor of GGUF in which the experts of a block are stacked, and which of them this tensor of the model is.
    pub fn stacked(&self, name: &str) -> Option<(String, u64)> {
        let (experts, names) = self.experts?;
        let (layer, end) = name.rsplit_once('.')?;
        let (block, part) = layer.strip_prefix(self.blocks)?.split_once('.')?;
        let (expert, called) = part.strip_prefix(experts)?.strip_prefix('.')?.split_once('.')?;
        let kinds = ["gate", "up", "down"];
        let kind =
            names.iter().zip(kinds).find(|(own, _)| **own == called).map(|(_, kind)| kind)?;
        Some((format!("blk.{block}.ffn_{kind}_exps.{end}"), expert.parse().ok()?))
    }
}

/// What no file of GGUF has: masks and frequencies that older checkpoints store.
const COMPUTED: [&str; 3] = [".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"];

/// Whether a tensor of a model is computed anew wherever it is needed.
pub fn is_computed(name: &str) -> bool {
    COMPUTED.iter().any(|end| name.ends_with(end))
}

/// The row of the model's weight that row `row` of the permuted one is, in heads of `size` rows.
pub fn source_row(row: usize, size: usize) -> usize {
    let (head, within) = (row / size, row % size);
    head * size + within % 2 * (size / 2) + within / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let heads = [8, 2];
        for (model, ours, there, change) in [
            ("llama", "model.embed_tokens.weight", "token_embd.weight", Change::Same),
            (
                "mistral",
                "model.layers.12.self_attn.q_proj.bias",
                "blk.12.attn_q.bias",
                Change::Heads(8),
            ),
            (
                "llama",
                "model.layers.1.self_attn.k_proj.weight",
                "blk.1.attn_k.weight",
                Change::Heads(2),
            ),
            (
                "qwen3",
                "model.layers.1.self_attn.k_norm.weight",
                "blk.1.attn_k_norm.weight",
                Change::Same,
            ),
            ("phi3", "model.layers.0.mlp.gate_up_proj.weight", "blk.0.ffn_up.weight", Change::Same),
            (
                "gemma2",
                "model.layers.0.input_layernorm.weight",
                "blk.0.attn_norm.weight",
                Change::PlusOne,
            ),
            ("gemma3_text", "model.norm.weight", "output_norm.weight", Change::PlusOne),
            (
                "gpt2",
                "transformer.h.3.attn.c_attn.weight",
                "blk.3.attn_qkv.weight",
                Change::Transposed,
            ),
            ("gpt2", "transformer.h.3.attn.c_attn.bias", "blk.3.attn_qkv.bias", Change::Same),
            ("gpt2", "transformer.h.3.ln_1.weight", "blk.3.attn_norm.weight", Change::Same),
        ] {
            let family = Family::of_model(model).unwrap();
            assert_eq!(family.renamed(ours, heads), Some((there.to_owned(), change)));
            let back = family.originals(there, &[4, 4], heads).unwrap();
            assert_eq!(back, [Original { name: ours.to_owned(), expert: None, change }]);
        }
        let family = Family::of_model("llama").unwrap();
        for name in ["weight", "blk.weight", "blk.0.nothing.weight", "blk.0.ffn_gate_exps.weight"] {
            assert_eq!(family.originals(name, &[2, 4, 4], heads), None, "{name}");
        }
        for name in ["weight", "model.layers.weight", "encoder.layer.0.output.weight"] {
            assert_eq!(family.renamed(name, heads), None, "{name}");
        }
    }

    #[test]
    fn experts_are_taken_apart() {
        let name = |arch, there| {
            let family = Family::of_arch(arch, true).unwrap();
            let found = family.originals(there, &[2, 4, 4], [8, 2]).unwrap();
            found.into_iter().map(|own| (own.name, own.expert)).collect::<Vec<_>>()
        };
        let expert = |n| format!("model.layers.5.block_sparse_moe.experts.{n}.w2.weight");
        assert_eq!(
            name("llama", "blk.5.ffn_down_exps.weight"),
            [(expert(0), Some((0, 2))), (expert(1), Some((1, 2)))]
        );
        assert_eq!(name("llama", "blk.5.ffn_down.1.weight"), [(expert(1), None)]);
        let found = name("qwen3moe", "blk.0.ffn_up_exps.weight");
        assert_eq!(found[1].0, "model.layers.0.mlp.experts.1.up_proj.weight");
        for (model, there) in
            [("mixtral", "blk.5.ffn_down_exps.weight"), ("olmoe", "blk.0.ffn_gate_exps.weight")]
        {
            let family = Family::of_model(model).unwrap();
            let all = family.originals(there, &[3, 4, 4], [8, 2]).unwrap();
            for (expert, own) in (0..).zip(all) {
                assert_eq!(family.stacked(&own.name), Some((there.to_owned(), expert)));
                assert_eq!(family.renamed(&own.name, [8, 2]), None);
            }
        }
        let family = Family::of_model("qwen2_moe").unwrap();
        for name in [
            "model.layers.0.mlp.experts.x.up_proj.weight",
            "model.layers.0.mlp.experts.gate_up_proj",
        ] {
            assert_eq!(family.stacked(name), None);
        }
    }

    #[test]
    fn rows_of_a_head_are_interleaved() {
        // Two heads of six rows: halves become pairs.
        let rows: Vec<usize> = (0..12).map(|row| source_row(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }
}
