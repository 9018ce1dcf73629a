//! Gradients of what a causal model's predictions cost, from its end to its beginning, a block at a time.
//!
//! Between linear layers, blocks run here by candle's own operations, which it can differentiate; they give
//! what [`Block::forward`] gives, but for rounding. Through a linear layer gradients go by its weight, and
//! nothing is computed by the weights: that would take a block more.

use candle_core::{D, Device, Tensor, Var};

use super::attention::{Attention, Context, Turns};
use super::block::Stage;
use super::norm::Norm;
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
    /// a block of a model that predicts nothing, of experts, or of attention through few dimensions.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn gradients(
        &self,
        input: &Tensor,
        context: &Context,
        of_output: &Tensor,
    ) -> Result<Option<Gradients>, LmError> {
        let places = [Stage::Heads, Stage::Out, Stage::Up(None), Stage::Down(None)];
        if self.stages != places || !self.attention.causal {
            return Ok(None);
        }
        let group = |at: usize| self.groups.get(at).into_iter().flatten();
        let group = |at| group(at).filter_map(|at| self.linears.get(*at)).collect::<Vec<_>>();
        let [heads_of, o, ups, down] = [0, 1, 2, 3].map(group);
        let ([o], [down]) = (o.as_slice(), down.as_slice()) else {
            return Err(LmError::Defect("a block without its layers"));
        };
        let optional = |norm: &Option<Norm>, x: &Tensor| match norm {
            Some(norm) => norm.differentiable(x),
            None => Ok(x.clone()),
        };
        let norms = &self.norms;
        let read = |x: &[Tensor]| optional(&norms.attention, one(x)?);
        let beside = norms.mlp.as_ref().or(norms.attention.as_ref().filter(|_| self.parallel));
        let mlp_read = |x: &[Tensor]| {
            beside.map_or_else(|| Ok(one(x)?.clone()), |n| n.differentiable(one(x)?))
        };
        let attend = |x: &[Tensor]| attend(&self.attention, context, self.heads(x.to_vec())?);
        let inner = |x: &[Tensor]| {
            let (gate, up) = self.gating.parts(x.to_vec())?;
            Ok(match gate {
                Some(gate) => (self.gating.activation.of(&gate)? * up)?,
                None => self.gating.activation.of(&up)?,
            })
        };
        let attended =
            |x: &[Tensor]| Ok((optional(&norms.attention_out, one(x)?)? * self.residual)?);
        let fed = |x: &[Tensor]| Ok((optional(&norms.mlp_out, one(x)?)? * self.residual)?);

        // Forward, keeping what each function was computed of.
        let entering = [input.clone()];
        let forward = |linears: &[&Linear], x: &Tensor| {
            linears.iter().map(|linear| linear.forward(x)).collect::<Result<Vec<_>, _>>()
        };
        let heads = forward(&heads_of, &read(&entering)?)?;
        let out = [o.forward(&attend(&heads)?)?];
        let middle = [match self.parallel {
            true => input.clone(),
            false => (input + attended(&out)?)?,
        }];
        let both = forward(&ups, &mlp_read(&middle)?)?;
        let last = [down.forward(&inner(&both)?)?];

        // And back.
        let of_last = only(back(&last, fed, of_output)?)?;
        let of_both = back(&both, inner, &through(down, &of_last)?)?;
        let of_middle = only(back(&middle, mlp_read, &all_through(&ups, &of_both)?)?)?;
        // What reaches the sum after attention: in parallel blocks only what went by.
        let of_sum = if self.parallel { of_output.clone() } else { (&of_middle + of_output)? };
        let of_out = only(back(&out, attended, &of_sum)?)?;
        let of_heads = back(&heads, attend, &through(o, &of_out)?)?;
        let of_input = only(back(&entering, read, &all_through(&heads_of, &of_heads)?)?)?;
        let mut input = (of_input + &of_sum)?;
        if self.parallel {
            input = (input + of_middle)?;
        }
        let outputs = [of_heads, vec![of_out], of_both, vec![of_last]].concat();
        Ok(Some(Gradients { input, outputs }))
    }
}

/// The only one.
fn one(of: &[Tensor]) -> Result<&Tensor, LmError> {
    of.first().ok_or(LmError::Defect("gradients of nothing"))
}

fn only(of: Vec<Tensor>) -> Result<Tensor, LmError> {
    of.into_iter().next().ok_or(LmError::Defect("gradients of nothing"))
}

/// The gradient of the input of layers that share it, by those of their outputs.
fn all_through(linears: &[&Linear], of_outputs: &[Tensor]) -> Result<Tensor, LmError> {
    let mut sum: Option<Tensor> = None;
    for (linear, of_output) in linears.iter().zip(of_outputs) {
        let own = through(linear, of_output)?;
        sum = Some(match sum {
            Some(sum) => (sum + own)?,
            None => own,
        });
    }
    sum.ok_or(LmError::Defect("gradients of nothing"))
}

/// The gradient of a layer's input, by that of its output.
fn through(linear: &Linear, of_output: &Tensor) -> Result<Tensor, LmError> {
    Ok(of_output.matmul(&linear.weight()?)?)
}

/// The gradients of what something is computed from, by that of the result.
fn back(
    from: &[Tensor],
    compute: impl FnOnce(&[Tensor]) -> Result<Tensor, LmError>,
    of_result: &Tensor,
) -> Result<Vec<Tensor>, LmError> {
    let vars = from.iter().map(Var::from_tensor).collect::<Result<Vec<_>, _>>()?;
    let tensors: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let found = (compute(&tensors)? * of_result)?.sum_all()?.backward()?;
    // A gradient knows what it was computed from: the next would be followed back through this one.
    let of = |var: &Var| found.get(var).map_or_else(|| var.zeros_like(), |own| Ok(own.detach()));
    Ok(vars.iter().map(of).collect::<Result<Vec<_>, _>>()?)
}

impl Head {
    /// The gradient of what it costs in nats, summed up, that `next` come after the first of these hidden
    /// states, f32 `[tokens, hidden]`, by them.
    ///
    /// # Errors
    /// If shapes do not fit, or a token is beyond the vocabulary.
    pub fn gradient(&self, hidden: &Tensor, next: &[u32]) -> Result<Tensor, LmError> {
        let input = Var::from_tensor(hidden)?;
        let normed = match &self.norm {
            Some(norm) => norm.differentiable(&input)?,
            None => input.as_tensor().clone(),
        };
        let seen = normed.narrow(0, 0, next.len())?.detach();
        // The logarithm of each token's sum of exponentials, then probabilities, slice by slice.
        let mut most = Tensor::full(f32::NEG_INFINITY, (next.len(), 1), &Device::Cpu)?;
        let mut sum = Tensor::zeros((next.len(), 1), hidden.dtype(), &Device::Cpu)?;
        for slice in self.slices(next.len()) {
            let (logits, _) = self.slice(&seen, slice)?;
            let larger = most.maximum(&logits.max_keepdim(D::Minus1)?)?;
            let own = logits.broadcast_sub(&larger)?.exp()?.sum_keepdim(D::Minus1)?;
            sum = ((sum * (most - &larger)?.exp()?)? + own)?;
            most = larger;
        }
        let whole = (most + sum.log()?)?;
        let mut of_normed = seen.zeros_like()?;
        for (first, count) in self.slices(next.len()) {
            let (logits, weight) = self.slice(&seen, (first, count))?;
            let chances = logits.broadcast_sub(&whole)?.exp()?;
            let mut chances: Vec<f32> = chances.flatten_all()?.to_vec1()?;
            for (row, token) in next.iter().enumerate() {
                let token = (*token as usize).checked_sub(first).filter(|token| *token < count);
                if let Some(chance) = token.and_then(|token| chances.get_mut(row * count + token)) {
                    *chance -= 1.0;
                }
            }
            let chances = Tensor::from_vec(chances, (next.len(), count), &Device::Cpu)?;
            of_normed = (of_normed + self.back(chances, &logits, &weight)?)?;
        }
        let used = normed.narrow(0, 0, next.len())?;
        let found = (used * of_normed)?.sum_all()?.backward()?;
        Ok(found.get(&input).map_or_else(|| input.zeros_like(), |own| Ok(own.detach()))?)
    }
}

/// As [`Attention::attend`], on one sequence.
fn attend(own: &Attention, context: &Context, [q, k, v]: [Tensor; 3]) -> Result<Tensor, LmError> {
    let (tokens, width) = (context.tokens, own.head_dim);
    let [mut q, mut k, mut v] = [q, k, v];
    let norms = own.norms.as_ref();
    if let Some(norms) = norms.filter(|norms| norms.whole) {
        (q, k) = (norms.q.differentiable(&q)?, norms.k.differentiable(&k)?);
    }
    if let Some(clip) = own.clip {
        for one in [&mut q, &mut k, &mut v] {
            *one = one.clamp(-clip, clip)?;
        }
    }
    let split = |x: Tensor, heads: usize, width: usize| -> Result<Tensor, LmError> {
        Ok(x.reshape((tokens, heads, width))?.transpose(0, 1)?.contiguous()?)
    };
    let (mut q, mut k) = (split(q, own.heads, width)?, split(k, own.kv_heads, width)?);
    let v = split(v, own.kv_heads, own.value_dim)?;
    let norms = norms.filter(|norms| !norms.whole);
    if let Some(norms) = norms.filter(|norms| !norms.late) {
        (q, k) = (norms.q.differentiable(&q)?, norms.k.differentiable(&k)?);
    }
    if let Some(turns) = own.rope.and_then(|rope| context.turns.get(rope)) {
        let from = own.turned_from;
        (q, k) = (turn(&q, turns, tokens, from)?, turn(&k, turns, tokens, from)?);
    }
    if let Some(norms) = norms.filter(|norms| norms.late) {
        (q, k) = (norms.q.differentiable(&q)?, norms.k.differentiable(&k)?);
    }
    if let Some(temperature) = own.temperature {
        let by: Vec<f32> = (0..tokens).map(|at| temperature.at(at)).collect();
        q = q.broadcast_mul(&Tensor::from_vec(by, (1, tokens, 1), &Device::Cpu)?)?;
    }
    let shared = own.heads / own.kv_heads;
    let q = (q * own.scale)?;
    let q = q.reshape((own.kv_heads, shared * tokens, width))?;
    let scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?;
    let mut scores = scores.reshape((own.heads, tokens, tokens))?;
    if let Some(cap) = own.cap {
        scores = ((scores * (1.0 / cap))?.tanh()? * cap)?;
    }
    let scores = scores.broadcast_add(&added(own, tokens)?)?;
    let mut most = scores.max_keepdim(D::Minus1)?.detach();
    let sinks = own.sinks.as_ref().map(|sinks| {
        Tensor::from_slice(sinks, (own.heads, 1, 1), &Device::Cpu)?.broadcast_as(most.shape())
    });
    let sinks = sinks.transpose()?;
    if let Some(sinks) = &sinks {
        most = most.maximum(sinks)?;
    }
    let raised = scores.broadcast_sub(&most)?.exp()?;
    let mut sum = raised.sum_keepdim(D::Minus1)?;
    if let Some(sinks) = &sinks {
        sum = (sum + (sinks - &most)?.exp()?)?;
    }
    let weights = raised.broadcast_div(&sum)?;
    let weights = weights.reshape((own.kv_heads, shared * tokens, tokens))?;
    let seen = weights.matmul(&v)?.reshape((own.heads, tokens, own.value_dim))?;
    Ok(seen.transpose(0, 1)?.reshape((tokens, own.heads * own.value_dim))?)
}

/// What is added to the scores of keys: their bias, and for those that a query does not see what puts them far below
/// every other; f32 `[heads, tokens, tokens]`, of one head if all have the same.
fn added(own: &Attention, tokens: usize) -> Result<Tensor, LmError> {
    let heads = if own.bias.is_some() { own.heads } else { 1 };
    let one = |at: usize| {
        let (head, query, key) = (at / tokens / tokens, at / tokens % tokens, at % tokens);
        let (start, end) = own.seen(query, tokens);
        if (start..end).contains(&key) { own.added(head, query, key) } else { -1e30_f32 }
    };
    let values: Vec<f32> = (0..heads * tokens * tokens).map(one).collect();
    Ok(Tensor::from_vec(values, (heads, tokens, tokens), &Device::Cpu)?)
}

fn turn(x: &Tensor, turns: &Turns, tokens: usize, from: usize) -> Result<Tensor, LmError> {
    let half = turns.width / 2;
    let (cos, sin): (Vec<f32>, Vec<f32>) = turns.values.iter().copied().unzip();
    let table = |of: Vec<f32>| Tensor::from_vec(of, (tokens, half), &Device::Cpu);
    let (cos, sin) = (table(cos)?, table(sin)?);
    let own = x.narrow(D::Minus1, from, turns.width)?;
    let (a, b) = match turns.interleaved {
        true => {
            let pairs = own.reshape((x.dim(0)?, tokens, half, 2))?;
            (
                pairs.narrow(D::Minus1, 0, 1)?.squeeze(D::Minus1)?,
                pairs.narrow(D::Minus1, 1, 1)?.squeeze(D::Minus1)?,
            )
        }
        false => (own.narrow(D::Minus1, 0, half)?, own.narrow(D::Minus1, half, half)?),
    };
    let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
    let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
    let turned = match turns.interleaved {
        true => Tensor::stack(&[first, second], D::Minus1)?.reshape(own.shape())?,
        false => Tensor::cat(&[first, second], D::Minus1)?,
    };
    let end = from + turns.width;
    let (before, after) =
        (x.narrow(D::Minus1, 0, from)?, x.narrow(D::Minus1, end, x.dim(D::Minus1)? - end)?);
    let parts: Vec<Tensor> =
        [before, turned, after].into_iter().filter(|part| part.elem_count() > 0).collect();
    Ok(Tensor::cat(&parts, D::Minus1)?)
}
