//! What GGUF calls the tensors of models, and in which form it has them. Pure.

pub use super::families::Family;
use super::families::{FALCON_TWO, FAMILIES, MIXTRALS};

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
    /// It has rows of all of so many heads of q, then of so many of k and of v: the model has them by heads of k,
    /// each behind its heads of q and before that of v.
    Groups([u64; 2]),
}

impl Change {
    /// The row of the model's weight of `rows` rows that row `row` is in GGUF; `None` if they are not whole heads.
    pub(crate) fn source_row(self, row: usize, rows: usize) -> Option<usize> {
        match self {
            Self::Heads(heads) => {
                let size = rows.checked_div(usize::try_from(heads).ok()?)?;
                let whole = size > 0 && size.is_multiple_of(2) && rows.is_multiple_of(size);
                whole.then(|| source_row(row, size))
            }
            Self::Groups(heads) => group_row(row, rows, heads),
            _ => Some(row),
        }
    }
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

/// Where the heads of a permuted part are counted.
fn is_query_or_key(part: &str) -> Option<bool> {
    match part {
        "attn_q" => Some(false),
        "attn_k" => Some(true),
        _ => None,
    }
}

impl Family {
    /// The family of a file that `has` such tensors: with experts, those that have them.
    pub fn of_arch(arch: &str, experts: bool, has: &dyn Fn(&str) -> bool) -> Option<Self> {
        match arch {
            "llama" if experts => Some(MIXTRALS),
            arch => FAMILIES.iter().find(|own| own.arch == arch).map(|own| own.of_file(has)),
        }
    }

    /// The family of a model, by transformers' `model_type`.
    pub fn of_model(model: &str) -> Option<Self> {
        FAMILIES.iter().find(|family| family.model == model).copied()
    }

    /// The same with the names of a file that `has` such tensors.
    pub fn of_file(self, has: &dyn Fn(&str) -> bool) -> Self {
        match self.model == FALCON_TWO.model && has("blk.0.attn_norm_2.weight") {
            true => FALCON_TWO,
            false => self,
        }
    }

    /// Whether its blocks have experts.
    pub fn has_experts(&self) -> bool {
        self.experts.is_some()
    }

    /// Whether a configuration can be made of what a file says.
    pub fn is_told(&self) -> bool {
        self.told
    }

    fn parts(&self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        self.parts.iter().copied().flatten()
    }

    /// Whether a tensor's name is one of blocks of such a family, or outside of them.
    fn change(&self, name: &str, part: &str, end: &str, heads: [u64; 2]) -> Change {
        match is_query_or_key(part) {
            Some(key) if self.permuted => Change::Heads(heads[usize::from(key)]),
            _ if self.plus_one && end == "weight" && name.ends_with("norm.weight") => {
                Change::PlusOne
            }
            _ if self.transposed && end == "weight" && !part.contains("norm") => Change::Transposed,
            _ if self.grouped && part == "attn_qkv" => Change::Groups(heads),
            _ => Change::Same,
        }
    }

    /// The model's tensors within the one that GGUF calls so, where query and key have so many heads; `None` if no
    /// model of the family has it.
    pub fn originals(&self, name: &str, dims: &[u64], heads: [u64; 2]) -> Option<Vec<Original>> {
        let (layer, end) = name.rsplit_once('.')?;
        if let Some((ours, _)) = self.outside.iter().find(|(_, there)| *there == layer) {
            let change = self.outer(layer, end);
            return Some(vec![Original { name: format!("{ours}.{end}"), expert: None, change }]);
        }
        let (block, part) = layer.strip_prefix("blk.")?.split_once('.')?;
        let within = |rest: &str| format!("{}{block}.{rest}", self.blocks);
        let rest = format!("{part}.{end}");
        if let Some((ours, _)) = self.whole.iter().find(|(_, there)| *there == rest) {
            let (name, change) = (within(ours), Change::Same);
            return Some(vec![Original { name, expert: None, change }]);
        }
        let stack = |count: u64, of: &dyn Fn(u64) -> String| {
            let change = Change::Same;
            let one = |at| Original { name: of(at), expert: Some((at, count)), change };
            Some((0..count.min(MOST)).map(one).collect())
        };
        if let Some((ours, _)) = self.heads.iter().find(|(_, there)| *there == part) {
            let [count, _] = *dims else { return None };
            return stack(count, &|at| within(&format!("{ours}{at}.{end}")));
        }
        if let Some((ours, there)) = self.parts().find(|(_, there)| *there == part) {
            let name = within(&format!("{ours}.{end}"));
            let change = self.change(&name, there, end, heads);
            return Some(vec![Original { name, expert: None, change }]);
        }
        let (experts, names) = self.experts?;
        let which = |kind: &str| {
            let at = KINDS.iter().position(|own| *own == kind)?;
            names.get(at)
        };
        let part = part.strip_prefix("ffn_")?;
        let of = |expert: u64, called: &str| within(&format!("{experts}.{expert}.{called}.{end}"));
        if let Some(called) = part.strip_suffix("_exps").and_then(which) {
            return match (end, dims) {
                ("weight", [count, _, _]) | ("bias", [count, _]) => {
                    stack(*count, &|at| of(at, called))
                }
                _ => None,
            };
        }
        // Older files have each expert for itself.
        let (kind, expert) = part.split_once('.')?;
        let name = of(expert.parse().ok()?, which(kind)?);
        Some(vec![Original { name, expert: None, change: Change::Same }])
    }

    /// What is done to a tensor outside of blocks.
    fn outer(&self, layer: &str, end: &str) -> Change {
        match self.plus_one && layer == "output_norm" && end == "weight" {
            true => Change::PlusOne,
            false => Change::Same,
        }
    }

    /// What GGUF calls a tensor of the model, and what was done to it; `None` if it has no name for it alone.
    pub fn renamed(&self, name: &str, heads: [u64; 2]) -> Option<(String, Change)> {
        if let Some((block, part)) = self.in_block(name)
            && let Some((_, there)) = self.whole.iter().find(|(ours, _)| *ours == part)
        {
            return Some((format!("blk.{block}.{there}"), Change::Same));
        }
        let (layer, end) = name.rsplit_once('.')?;
        if let Some((_, there)) = self.outside.iter().find(|(ours, _)| *ours == layer) {
            return Some((format!("{there}.{end}"), self.outer(there, end)));
        }
        let (block, part) = self.in_block(layer)?;
        let (_, there) = self.parts().find(|(ours, _)| *ours == part)?;
        Some((format!("blk.{block}.{there}.{end}"), self.change(name, there, end, heads)))
    }

    /// The number of a block, and what the name of a tensor says behind it.
    pub fn in_block<'a>(&self, name: &'a str) -> Option<(u64, &'a str)> {
        let (block, part) = name.strip_prefix(self.blocks)?.split_once('.')?;
        Some((block.parse().ok()?, part))
    }

    /// The tensor of GGUF in which the experts of a block, or norms of single heads, are stacked; which of them this
    /// tensor of the model is, and of how many.
    pub fn stacked(&self, name: &str, heads: [u64; 2], experts: u64) -> Option<Stacked> {
        let (layer, end) = name.rsplit_once('.')?;
        let (block, part) = self.in_block(layer)?;
        let stacked = |there: &str, at: &str, count| {
            Some((format!("blk.{block}.{there}.{end}"), at.parse().ok()?, count))
        };
        for ((ours, there), count) in self.heads.iter().zip(heads) {
            if let Some(at) = part.strip_prefix(ours) {
                return stacked(there, at, count);
            }
        }
        let (own, names) = self.experts?;
        let (expert, called) = part.strip_prefix(own)?.strip_prefix('.')?.split_once('.')?;
        let at = names.iter().position(|own| *own == called)?;
        stacked(&format!("ffn_{}_exps", KINDS.get(at)?), expert, experts)
    }
}

/// A tensor of GGUF's, which of those that are stacked in it one of the model's is, and of how many.
pub type Stacked = (String, u64, u64);

/// What GGUF calls the layers of an expert, in the order of the families' names.
const KINDS: [&str; 3] = ["gate", "up", "down"];
/// The most tensors that are stacked in one.
const MOST: u64 = 1 << 16;

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

/// The row of the model's weight that row `row` of the one with all of q first is, of [`Change::Groups`]; `rows` is how
/// many there are. `None` if they are not those of heads.
fn group_row(row: usize, rows: usize, heads: [u64; 2]) -> Option<usize> {
    let [query, key] = heads.map(|heads| usize::try_from(heads).ok());
    let (query, key) = (query?, key?);
    let all = key.checked_mul(2)?.checked_add(query)?;
    let of = query.checked_div(key)?;
    if of * key != query || of == 0 || !rows.is_multiple_of(all) {
        return None;
    }
    let size = rows / all;
    let head = row.checked_div(size)?;
    let (group, at) = match head {
        head if head < query => (head / of, head % of),
        head if head < query + key => (head - query, of),
        head => (head - query - key, of + 1),
    };
    Some((group * (of + 2) + at) * size + row % size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        let heads = [8, 2];
        let (same, groups) = (Change::Same, Change::Groups(heads));
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
            ("gpt2", "transformer.h.3.ln_1.weight", "blk.3.attn_norm.weight", same),
            ("gpt_oss", "model.layers.3.self_attn.sinks", "blk.3.attn_sinks.weight", same),
            ("gpt_oss", "model.layers.3.mlp.router.bias", "blk.3.ffn_gate_inp.bias", same),
            (
                "glm4_moe",
                "model.layers.3.mlp.gate.e_score_correction_bias",
                "blk.3.exp_probs_b.bias",
                same,
            ),
            ("glm4_moe", "model.layers.3.mlp.gate.weight", "blk.3.ffn_gate_inp.weight", same),
            (
                "falcon",
                "transformer.h.1.self_attention.query_key_value.weight",
                "blk.1.attn_qkv.weight",
                groups,
            ),
            ("nemotron", "model.norm.bias", "output_norm.bias", same),
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
    fn every_part_of_every_family_goes_back_to_itself() {
        for family in FAMILIES.iter().chain([&FALCON_TWO]) {
            for (ours, there) in family.parts() {
                let name = format!("{}7.{ours}.weight", family.blocks);
                let (renamed, change) = family.renamed(&name, [8, 2]).unwrap();
                assert_eq!(renamed, format!("blk.7.{there}.weight"));
                let back = family.originals(&renamed, &[4], [8, 2]).unwrap();
                // Falcon has two names for one norm, of which files tell.
                let other = family.model == "falcon" && *there == "attn_norm";
                let same = [Original { name, expert: None, change }];
                assert!(back == same || other, "{}: {back:?} is not {same:?}", family.model);
            }
        }
    }

    #[test]
    fn experts_are_taken_apart() {
        let name = |arch, there| {
            let family = Family::of_arch(arch, true, &|_| false).unwrap();
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
                let found = family.stacked(&own.name, [8, 2], 3);
                assert_eq!(found, Some((there.to_owned(), expert, 3)));
                assert_eq!(family.renamed(&own.name, [8, 2]), None);
            }
        }
        let family = Family::of_model("gpt_oss").unwrap();
        let all = family.originals("blk.0.ffn_up_exps.bias", &[2, 4], [8, 2]).unwrap();
        assert_eq!(all[1].name, "model.layers.0.mlp.experts.1.up_proj.bias");
        assert_eq!(family.originals("blk.0.ffn_up_exps.weight", &[2, 4], [8, 2]), None);
        let family = Family::of_model("stablelm").unwrap();
        let all = family.originals("blk.0.attn_k_norm.weight", &[2, 4], [8, 2]).unwrap();
        assert_eq!(all[1].name, "model.layers.0.self_attn.k_layernorm.norms.1.weight");
        let found = family.stacked(&all[1].name, [8, 2], 0);
        assert_eq!(found, Some(("blk.0.attn_k_norm.weight".to_owned(), 1, 2)));
        let two = Family::of_arch("falcon", false, &|_| true).unwrap();
        let found = two.originals("blk.0.attn_norm.weight", &[4], [8, 2]).unwrap();
        assert_eq!(found[0].name, "transformer.h.0.ln_mlp.weight");
        let family = Family::of_model("qwen2_moe").unwrap();
        for name in [
            "model.layers.0.mlp.experts.x.up_proj.weight",
            "model.layers.0.mlp.experts.gate_up_proj",
        ] {
            assert_eq!(family.stacked(name, [8, 2], 3), None);
        }
    }

    #[test]
    fn rows_of_a_head_are_interleaved() {
        // Two heads of six rows: halves become pairs.
        let rows: Vec<usize> = (0..12).map(|row| source_row(row, 6)).collect();
        assert_eq!(rows, [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]);
    }

    #[test]
    fn rows_of_groups_are_put_one_kind_behind_the_other() {
        // Four heads of q, two of k and v, of two rows: q0 q1 k v, q2 q3 k v.
        let rows: Vec<usize> = (0..16).map(|row| group_row(row, 16, [4, 2]).unwrap()).collect();
        assert_eq!(rows, [0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 12, 13, 6, 7, 14, 15]);
        // One head of k and v: as they are.
        assert!((0..12).all(|row| group_row(row, 12, [4, 1]) == Some(row)));
        for (rows, heads) in [(15, [4, 2]), (16, [3, 2]), (16, [4, 0]), (16, [1, 2])] {
            assert_eq!(group_row(0, rows, heads), None);
        }
    }
}
