//! A block of BERT.

use candle_core::Tensor;

use super::attention::{Context, layer_norm};
use super::linear::Linear;
use super::{LmConfig, LmError, checkpoint::Checkpoint};

/// Attention, residual, norm; MLP, residual, norm.
#[derive(Debug, Clone)]
pub struct Encoder {
    index: usize,
    /// Weight and bias, f32 `[hidden]`, after attention and after the MLP.
    norms: [[Tensor; 2]; 2],
    /// q, k, v, o, intermediate, output.
    linears: [Linear; 6],
}

impl Encoder {
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        prefix: &str,
        index: usize,
    ) -> Result<Self, LmError> {
        let path = format!("{prefix}encoder.layer.{index}");
        let (hidden, wide) = (config.hidden, config.intermediate);
        let linear = |name: &str, shape| Linear::read(from, format!("{path}.{name}"), shape);
        Ok(Self {
            index,
            norms: [
                norm(from, &format!("{path}.attention.output.LayerNorm"), hidden)?,
                norm(from, &format!("{path}.output.LayerNorm"), hidden)?,
            ],
            linears: [
                linear("attention.self.query", [hidden, hidden])?,
                linear("attention.self.key", [hidden, hidden])?,
                linear("attention.self.value", [hidden, hidden])?,
                linear("attention.output.dense", [hidden, hidden])?,
                linear("intermediate.dense", [wide, hidden])?,
                linear("output.dense", [hidden, wide])?,
            ],
        })
    }

    /// Runs a group: what goes on beside the next one, and what that reads if it is not the same.
    pub(super) fn pass(
        &self,
        rest: Tensor,
        group: usize,
        input: &Tensor,
        context: &Context,
    ) -> Result<(Tensor, Option<Tensor>), LmError> {
        let [q, k, v, o, wide, narrow] = &self.linears;
        let [after_attention, after_mlp] = &self.norms;
        let normed =
            |sum: Tensor, norm: &[Tensor; 2]| layer_norm(&sum, norm.each_ref(), context.epsilon);
        Ok(match group {
            0 => {
                let heads = [q.forward(input)?, k.forward(input)?, v.forward(input)?];
                (rest, Some(context.attend(self.index, heads, [None, None])?))
            }
            1 => (normed((rest + o.forward(input)?)?, after_attention)?, None),
            2 => (rest, Some(wide.forward(input)?.gelu_erf()?)),
            _ => (normed((rest + narrow.forward(input)?)?, after_mlp)?, None),
        })
    }

    pub(super) fn linears(&self) -> [&Linear; 6] {
        self.linears.each_ref()
    }

    pub(super) fn linears_mut(&mut self) -> [&mut Linear; 6] {
        self.linears.each_mut()
    }
}

/// Weight and bias of a norm.
pub(super) fn norm(from: &Checkpoint, path: &str, width: usize) -> Result<[Tensor; 2], LmError> {
    let read = |part: &str| from.tensor(&format!("{path}.{part}"), &[width]);
    Ok([read("weight")?, read("bias")?])
}
