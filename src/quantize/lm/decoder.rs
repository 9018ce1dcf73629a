//! A block of Llama, Mistral, Qwen2 and Qwen3.

use candle_core::Tensor;

use super::attention::{Context, by_rows, rms_norm};
use super::linear::Linear;
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

    /// What group 0 or 2 reads: a norm of what goes on beside it.
    pub(super) fn input(
        &self,
        group: usize,
        rest: &Tensor,
        context: &Context,
    ) -> Result<Tensor, LmError> {
        let (_, norm) = if group == 0 { &self.input_norm } else { &self.post_norm };
        rms_norm(rest, norm, context.epsilon)
    }

    /// Runs a group: what goes on beside the next one, and what that reads if it is not a norm of it.
    pub(super) fn pass(
        &self,
        rest: Tensor,
        group: usize,
        input: &Tensor,
        context: &Context,
    ) -> Result<(Tensor, Option<Tensor>), LmError> {
        let [q, k, v, o, gate, up, down] = &self.linears;
        Ok(match group {
            0 => {
                let heads = [q.forward(input)?, k.forward(input)?, v.forward(input)?];
                let norms = match &self.head_norms {
                    Some([q, k]) => [Some(q), Some(k)],
                    None => [None, None],
                };
                (rest, Some(context.attend(self.index, heads, norms)?))
            }
            1 => ((rest + o.forward(input)?)?, None),
            2 => (rest, Some(gated(gate.forward(input)?, up.forward(input)?)?)),
            _ => ((rest + down.forward(input)?)?, None),
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 7] {
        self.linears.each_ref()
    }

    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 7] {
        self.linears.each_mut()
    }
}

/// SiLU of the gate, times `up`.
fn gated(gate: Tensor, up: Tensor) -> Result<Tensor, LmError> {
    let width = up.dim(1)?;
    let up: Vec<f32> = up.flatten_all()?.to_vec1()?;
    by_rows(&gate, |row, values| {
        for (value, up) in values.iter_mut().zip(up.iter().skip(row * width)) {
            *value = *value / (1.0 + (-*value).exp()) * up;
        }
    })
}
