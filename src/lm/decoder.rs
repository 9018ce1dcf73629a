//! A block of Llama, Mistral, Qwen2 and Qwen3.

use candle_core::Tensor;

use super::attention::{Context, rms_norm};
use super::block::{Linear, Tap, shared};
use super::{Architecture, LmConfig, LmError, checkpoint::Checkpoint};

/// Norm, attention, residual; norm, gated MLP, residual.
#[derive(Debug, Clone)]
pub struct Decoder {
    pub(super) index: usize,
    /// f32 `[hidden]`: the norm before attention, whose output q, k and v read.
    pub input_norm: (String, Tensor),
    /// f32 `[hidden]`: the norm before the MLP, whose output gate and up read.
    pub post_norm: (String, Tensor),
    /// Norms on the heads of q and k, f32 `[head_dim]`.
    pub(super) head_norms: Option<[Tensor; 2]>,
    /// q, k, v, o, gate, up, down.
    linears: [Linear; 7],
}

impl Decoder {
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        prefix: &str,
        index: usize,
    ) -> Result<Self, LmError> {
        let path = format!("{prefix}layers.{index}");
        let (hidden, wide) = (config.hidden, config.intermediate);
        let (q, kv) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let linear = |name: &str, shape| Linear::read(from, format!("{path}.{name}"), shape);
        let norm = |name: &str, width| {
            let name = format!("{path}.{name}.weight");
            from.tensor(&name, &[width]).map(|norm| (name, norm))
        };
        let head_norms = match config.architecture {
            Architecture::Qwen3 => Some([
                norm("self_attn.q_norm", config.head_dim)?.1,
                norm("self_attn.k_norm", config.head_dim)?.1,
            ]),
            _ => None,
        };
        Ok(Self {
            index,
            input_norm: norm("input_layernorm", hidden)?,
            post_norm: norm("post_attention_layernorm", hidden)?,
            head_norms,
            linears: [
                linear("self_attn.q_proj", [q, hidden])?,
                linear("self_attn.k_proj", [kv, hidden])?,
                linear("self_attn.v_proj", [kv, hidden])?,
                linear("self_attn.o_proj", [hidden, q])?,
                linear("mlp.gate_proj", [wide, hidden])?,
                linear("mlp.up_proj", [wide, hidden])?,
                linear("mlp.down_proj", [hidden, wide])?,
            ],
        })
    }

    pub(super) fn forward(
        &self,
        input: &Tensor,
        context: &Context,
        tap: &mut dyn Tap,
    ) -> Result<Tensor, LmError> {
        let [q, k, v, o, gate, up, down] = &self.linears;
        let normed = rms_norm(input, &self.input_norm.1, context.epsilon)?;
        let heads = shared([q, k, v], &normed, tap)?;
        let norms = match &self.head_norms {
            Some([q, k]) => [Some(q), Some(k)],
            None => [None, None],
        };
        let seen = context.attend(self.index, heads, norms)?;
        let [attended] = shared([o], &seen, tap)?;
        let input = (input + attended)?;
        let normed = rms_norm(&input, &self.post_norm.1, context.epsilon)?;
        let [gate, up] = shared([gate, up], &normed, tap)?;
        let [output] = shared([down], &(gate.silu()? * up)?, tap)?;
        Ok((input + output)?)
    }

    pub(super) fn linears(&self) -> [&Linear; 7] {
        self.linears.each_ref()
    }

    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 7] {
        self.linears.each_mut()
    }
}
