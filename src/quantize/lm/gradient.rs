//! Gradients of what a causal model's predictions cost, from its end to its beginning, a block at a time.
//!
//! Between linear layers, blocks run here by candle's own operations, which it can differentiate; they give
//! what [`Block::forward`] gives, but for rounding. Through a linear layer gradients go by its weight, and
//! nothing is computed by the weights: that would take a block more.

use candle_core::{D, Device, Tensor, Var};

use super::attention::Context;
use super::{Block, Head, Linear, LmError};

/// What gradients of one sequence are.
#[derive(Debug)]
pub struct Gradients {
    /// Of the block's input, f32 `[tokens, hidden]`.
    pub input: Tensor,
    /// Of the output of each of the block's linear layers, in their order, f32 `[tokens, rows]`.
    pub outputs: Vec<Tensor>,
}

impl Block {
    /// The gradients of a block, by that of its output, f32 `[tokens, hidden]`, on one sequence. `None` for
    /// a block of a model that predicts nothing.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn gradients(
        &self,
        input: &Tensor,
        context: &Context,
        of_output: &Tensor,
    ) -> Result<Option<Gradients>, LmError> {
        let Self::Decoder(block) = self else { return Ok(None) };
        let [q, k, v, o, gate, up, down] = block.linears();
        let first_norm = |x: &[Tensor; 1]| rms_norm(&x[0], &block.input_norm.1, context.epsilon);
        let second_norm = |x: &[Tensor; 1]| rms_norm(&x[0], &block.post_norm.1, context.epsilon);
        let attend = |x: &[Tensor; 3]| attend(context, block.index, x, block.head_norms.as_ref());
        let gated = |x: &[Tensor; 2]| Ok((x[0].silu()? * &x[1])?);

        let entering = [input.clone()];
        let normed = first_norm(&entering)?;
        let heads = [q.forward(&normed)?, k.forward(&normed)?, v.forward(&normed)?];
        let middle = [(input + o.forward(&attend(&heads)?)?)?];
        let normed = second_norm(&middle)?;
        let both = [gate.forward(&normed)?, up.forward(&normed)?];

        let of_both = back(&both, gated, &through(down, of_output)?)?;
        let of_normed = (through(gate, &of_both[0])? + through(up, &of_both[1])?)?;
        let [of_middle] = back(&middle, second_norm, &of_normed)?;
        let of_middle = (of_middle + of_output)?;
        let of_heads = back(&heads, attend, &through(o, &of_middle)?)?;
        let of_normed = (through(q, &of_heads[0])? + through(k, &of_heads[1])?)?;
        let of_normed = (of_normed + through(v, &of_heads[2])?)?;
        let [of_input] = back(&entering, first_norm, &of_normed)?;
        let input = (of_input + &of_middle)?;
        let [of_q, of_k, of_v] = of_heads;
        let [of_gate, of_up] = of_both;
        let outputs = vec![of_q, of_k, of_v, of_middle, of_gate, of_up, of_output.clone()];
        Ok(Some(Gradients { input, outputs }))
    }
}

/// The gradient of a layer's input, by that of its output.
fn through(linear: &Linear, of_output: &Tensor) -> Result<Tensor, LmError> {
    Ok(of_output.matmul(&linear.weight)?)
}

/// The gradients of what something is computed from, by that of the result.
fn back<const N: usize>(
    from: &[Tensor; N],
    compute: impl FnOnce(&[Tensor; N]) -> Result<Tensor, LmError>,
    of_result: &Tensor,
) -> Result<[Tensor; N], LmError> {
    let vars = from.iter().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let lost = || LmError::Defect("gradients of nothing");
    let tensors = tensors.try_into().map_err(|_| lost())?;
    let found = (compute(&tensors)? * of_result)?.sum_all()?.backward()?;
    // A gradient knows what it was computed from: the next would be followed back through this one.
    let of = |var: &Var| found.get(var).map_or_else(|| var.zeros_like(), |own| Ok(own.detach()));
    let gradients = vars.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    gradients.try_into().map_err(|_| lost())
}

impl Head {
    /// The gradient of what it costs in nats, summed up, that `next` come after the first of these hidden
    /// states, f32 `[tokens, hidden]`, by them.
    ///
    /// # Errors
    /// If shapes do not fit, or a token is beyond the vocabulary.
    pub fn gradient(&self, hidden: &Tensor, next: &[u32]) -> Result<Tensor, LmError> {
        let input = Var::from_tensor(hidden)?;
        let normed = rms_norm(&input, &self.norm, self.epsilon)?;
        let seen = normed.narrow(0, 0, next.len())?.detach();
        // The logarithm of each token's sum of exponentials, then probabilities, slice by slice.
        let mut most = Tensor::full(f32::NEG_INFINITY, (next.len(), 1), &Device::Cpu)?;
        let mut sum = Tensor::zeros((next.len(), 1), hidden.dtype(), &Device::Cpu)?;
        for (first, count) in self.weight.slices(next.len()) {
            let logits = seen.matmul(&self.weight.slice(first, count)?.t()?)?;
            let larger = most.maximum(&logits.max_keepdim(D::Minus1)?)?;
            let own = logits.broadcast_sub(&larger)?.exp()?.sum_keepdim(D::Minus1)?;
            sum = ((sum * (most - &larger)?.exp()?)? + own)?;
            most = larger;
        }
        let whole = (most + sum.log()?)?;
        let mut of_normed = seen.zeros_like()?;
        for (first, count) in self.weight.slices(next.len()) {
            let weight = self.weight.slice(first, count)?;
            let chances = seen.matmul(&weight.t()?)?.broadcast_sub(&whole)?.exp()?;
            let mut chances: Vec<f32> = chances.flatten_all()?.to_vec1()?;
            for (row, token) in next.iter().enumerate() {
                let token = (*token as usize).checked_sub(first).filter(|token| *token < count);
                if let Some(chance) = token.and_then(|token| chances.get_mut(row * count + token)) {
                    *chance -= 1.0;
                }
            }
            let chances = Tensor::from_vec(chances, (next.len(), count), &Device::Cpu)?;
            of_normed = (of_normed + chances.matmul(&weight)?)?;
        }
        let used = normed.narrow(0, 0, next.len())?;
        let found = (used * of_normed)?.sum_all()?.backward()?;
        Ok(found.get(&input).map_or_else(|| input.zeros_like(), |own| Ok(own.detach()))?)
    }
}

/// As [`Context::attend`].
fn attend(
    context: &Context,
    layer: usize,
    [q, k, v]: &[Tensor; 3],
    norms: Option<&[Tensor; 2]>,
) -> Result<Tensor, LmError> {
    let (tokens, width) = (context.tokens, context.head_dim);
    let split = |x: &Tensor, heads: usize| -> Result<Tensor, LmError> {
        Ok(x.reshape((tokens, heads, width))?.transpose(0, 1)?.contiguous()?)
    };
    let (mut q, mut k, v) =
        (split(q, context.heads)?, split(k, context.kv_heads)?, split(v, context.kv_heads)?);
    if let Some([on_q, on_k]) = norms {
        (q, k) = (rms_norm(&q, on_q, context.epsilon)?, rms_norm(&k, on_k, context.epsilon)?);
    }
    if !context.turns.is_empty() {
        let (cos, sin): (Vec<f32>, Vec<f32>) = context.turns.iter().copied().unzip();
        let table = |of: Vec<f32>| Tensor::from_vec(of, (tokens, width / 2), &Device::Cpu);
        let (cos, sin) = (table(cos)?, table(sin)?);
        (q, k) = (turn(&q, &cos, &sin)?, turn(&k, &cos, &sin)?);
    }
    let shared = context.heads / context.kv_heads;
    let q = (q * (1.0 / (width as f64).sqrt()))?;
    let q = q.reshape((context.kv_heads, shared * tokens, width))?;
    let scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?;
    let scores = scores.reshape((context.heads, tokens, tokens))?;
    let scores = scores.broadcast_add(&mask(context, layer)?)?;
    let most = scores.max_keepdim(D::Minus1)?.detach();
    let raised = scores.broadcast_sub(&most)?.exp()?;
    let weights = raised.broadcast_div(&raised.sum_keepdim(D::Minus1)?)?;
    let weights = weights.reshape((context.kv_heads, shared * tokens, tokens))?;
    let seen = weights.matmul(&v)?.reshape((context.heads, tokens, width))?;
    Ok(seen.transpose(0, 1)?.reshape((tokens, context.heads * width))?)
}

/// 0 for keys that a query sees, far below every score for others; f32 `[tokens, tokens]`.
fn mask(context: &Context, layer: usize) -> Result<Tensor, LmError> {
    let window = context.windows.get(layer).copied().flatten().unwrap_or(usize::MAX);
    let tokens = context.tokens;
    let one = |at: usize| {
        let (query, key) = (at / tokens, at % tokens);
        let is_seen = !context.causal || (key <= query && query - key < window);
        if is_seen { 0.0 } else { -1e30_f32 }
    };
    let values: Vec<f32> = (0..tokens * tokens).map(one).collect();
    Ok(Tensor::from_vec(values, (tokens, tokens), &Device::Cpu)?)
}

fn turn(x: &Tensor, cos: &Tensor, sin: &Tensor) -> Result<Tensor, LmError> {
    let half = cos.dim(1)?;
    let (a, b) = (x.narrow(D::Minus1, 0, half)?, x.narrow(D::Minus1, half, half)?);
    let first = (a.broadcast_mul(cos)? - b.broadcast_mul(sin)?)?;
    let second = (b.broadcast_mul(cos)? + a.broadcast_mul(sin)?)?;
    Ok(Tensor::cat(&[first, second], D::Minus1)?)
}

fn rms_norm(x: &Tensor, weight: &Tensor, epsilon: f64) -> Result<Tensor, LmError> {
    let width = x.dim(D::Minus1)? as f64;
    let mean = (x.sqr()?.sum_keepdim(D::Minus1)? / width)?;
    let by = (mean + epsilon)?.sqrt()?.recip()?;
    Ok(x.broadcast_mul(&by)?.broadcast_mul(weight)?)
}
