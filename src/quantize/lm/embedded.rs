//! What the embedded engine runs of all that is described. Pure.

use super::LmConfig;
use super::activation::Activation;
use super::family::{Norm, Over};
use super::rope::{Rope, Scaling};

impl LmConfig {
    /// The first piece of the model that is none of a plain Llama's, with norms on heads and windows at most: what
    /// the embedded engine does not run.
    pub fn beyond_llama(&self) -> Option<String> {
        let (about, numbers) = (&*self.about, &self.numbers);
        let attention = &about.attention;
        let rope = match self.ropes.as_slice() {
            [rope] => Some(rope),
            _ => None,
        };
        let is_known = |rope: &Rope| {
            let known = matches!(
                rope.scaling,
                Scaling::Plain | Scaling::Linear { .. } | Scaling::Llama3 { .. }
            );
            known && rope.width == self.head_dim && !rope.interleaved && rope.factor == 1.0
        };
        let plain_scale = 1.0 / (self.head_dim as f64).sqrt();
        let llama = |own: &Option<String>, name: &str| own.as_deref() == Some(name);
        let norms = &about.norms;
        let no = [
            (!self.is_causal(), "an encoder"),
            (numbers.experts.is_some(), "a mixture of experts"),
            (numbers.latent.is_some(), "attention through few dimensions (MLA)"),
            (attention.qkv.is_some(), "q, k and v in one weight"),
            (about.parallel, "attention and MLP side by side"),
            (about.norm != Norm::Rms, "norms other than RMS norms"),
            (
                !llama(&norms.attention, "input_layernorm")
                    || !llama(&norms.mlp, "post_attention_layernorm")
                    || norms.attention_out.is_some()
                    || norms.mlp_out.is_some(),
                "norms in other places than Llama's",
            ),
            (!rope.is_some_and(is_known), "rotary positions other than Llama's"),
            (self.by_layer.iter().any(|layer| layer.rope.is_none()), "layers without positions"),
            (
                self.by_layer.iter().any(|layer| layer.scale != plain_scale),
                "attention of another scale",
            ),
            (
                self.by_layer.iter().any(|layer| layer.chunk.is_some() || layer.has_temperature),
                "attention in chunks",
            ),
            (numbers.attention_cap.is_some() || numbers.logits_cap.is_some(), "a soft cap"),
            (attention.sinks.is_some(), "attention sinks"),
            (attention.bias.is_some(), "biases of scores"),
            (numbers.clip.is_some(), "clipped q, k and v"),
            (
                attention
                    .norms
                    .as_ref()
                    .is_some_and(|own| own.over != Over::Head || own.late || own.norm.is_some()),
                "norms on q and k other than Qwen3's",
            ),
            (numbers.activation != Activation::Silu, "an activation other than SiLU"),
            (!llama(&about.mlp.gate, "mlp.gate_proj"), "an MLP other than Llama's"),
            (
                [numbers.embedding, numbers.residual, numbers.logits].iter().any(|by| *by != 1.0),
                "multipliers of embedding, residual or logits",
            ),
        ];
        no.iter().find(|(is_there, _)| *is_there).map(|(_, what)| (*what).to_owned())
    }
}
