//! A block of BERT.

use candle_core::Tensor;

use super::attention::{Context, layer_norm};
use super::block::{Linear, Tap, shared};
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

    pub(super) fn forward(
        &self,
        input: &Tensor,
        context: &Context,
        tap: &mut dyn Tap,
    ) -> Result<Tensor, LmError> {
        let [q, k, v, o, wide, narrow] = &self.linears;
        let [after_attention, after_mlp] = &self.norms;
        let heads = shared([q, k, v], input, tap)?;
        let seen = context.attend(self.index, heads, [None, None])?;
        let [attended] = shared([o], &seen, tap)?;
        let input = layer_norm(&(input + attended)?, after_attention.each_ref(), context.epsilon)?;
        let [inner] = shared([wide], &input, tap)?;
        let [output] = shared([narrow], &inner.gelu_erf()?, tap)?;
        layer_norm(&(input + output)?, after_mlp.each_ref(), context.epsilon)
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
