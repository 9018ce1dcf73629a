//! A block of a model: its linear layers, and how it is run.
//!
//! It is run stage by stage, from one group of linear layers that share an input to the next. Between stages there
//! is a [`Passage`], so that whoever calibrates can stop there, change weights, and go on.

use candle_core::{D, Tensor};

use super::LmError;
use super::activation::{Activation, clamped};
use super::attention::{Attention, Context};
use super::experts::{Router, rows, select, weighed};
use super::family::Order;
use super::linear::Linear;
use super::norm::Norm;

/// Sees the inputs of linear layers while a block runs.
pub trait Tap {
    /// The linear layers `names` of the block, which share an input, are about to read `input`,
    /// f32 `[tokens, columns]`. Experts that no token goes to read nothing.
    ///
    /// # Errors
    /// Ends the run.
    fn input(&mut self, names: &[&str], input: &Tensor) -> Result<(), LmError>;
}

/// Looks at nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn input(&mut self, _: &[&str], _: &Tensor) -> Result<(), LmError> {
        Ok(())
    }
}

/// Sequences on their way through a block, between two of its [groups](Block::groups).
#[derive(Debug, Clone)]
pub struct Passage {
    /// The group that comes next.
    pub group: usize,
    /// f32 `[tokens, hidden]`: what goes on beside the group, and after the last one what the block gives.
    pub rest: Tensor,
    /// f32 `[tokens, columns]` each: what of the group's input does not follow from `rest`, and what waits beside
    /// it.
    pub held: Vec<Tensor>,
}

impl Passage {
    /// The most tensors that are held.
    pub const HELD: usize = 4;

    /// What enters a block, f32 `[tokens, hidden]`.
    pub fn enter(rest: Tensor) -> Self {
        Self { group: 0, rest, held: Vec::new() }
    }
}

/// What a group of linear layers is to the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// To few dimensions, from there to q, and from there to k and v.
    LatentDown,
    LatentQ,
    LatentKv,
    /// q, k and v.
    Heads,
    /// Out of attention.
    Out,
    /// The MLP, or one of its experts, into its width and out of it.
    Up(Option<usize>),
    Down(Option<usize>),
    /// The expert that all tokens go to.
    SharedUp,
    SharedDown,
}

/// Norms around the halves of a block.
#[derive(Debug, Clone, Default)]
pub(super) struct Norms {
    pub(super) attention: Option<Norm>,
    pub(super) attention_out: Option<Norm>,
    pub(super) attention_sum: Option<Norm>,
    pub(super) mlp: Option<Norm>,
    pub(super) mlp_out: Option<Norm>,
    pub(super) mlp_sum: Option<Norm>,
}

/// Norms of attention through few dimensions, and its widths.
#[derive(Debug, Clone)]
pub(super) struct Latent {
    pub(super) q_norm: Option<Norm>,
    pub(super) kv_norm: Norm,
    pub(super) plain: usize,
}

/// How gate and up are put together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Gating {
    pub(super) activation: Activation,
    /// gpt-oss: alpha and limit.
    pub(super) limit: Option<(f64, f64)>,
    /// Whether one weight has both, its first rows the gate's.
    pub(super) fused: bool,
}

/// A mixture of experts, without their linear layers.
#[derive(Debug, Clone)]
pub(super) struct Experts {
    pub(super) router: Router,
    pub(super) gating: Gating,
    pub(super) shared: Gating,
    /// f32 `[1, hidden]`: its sigmoid multiplies what the shared expert gives.
    pub(super) switch: Option<Tensor>,
}

/// A block, read whole.
#[derive(Debug, Clone)]
pub struct Block {
    pub(super) linears: Vec<Linear>,
    pub(super) stages: Vec<Stage>,
    /// The linear layers of each stage.
    pub(super) groups: Vec<Vec<usize>>,
    pub(super) attention: Attention,
    pub(super) order: Order,
    pub(super) latent: Option<Latent>,
    pub(super) norms: Norms,
    pub(super) parallel: bool,
    /// What attention and MLP are multiplied by before they are added.
    pub(super) residual: f64,
    pub(super) gating: Gating,
    pub(super) experts: Option<Experts>,
}

/// What waits beside the stages of experts: the states that they read, how much each token takes of each, and the
/// sum so far.
const READ: usize = 0;
const ROUTES: usize = 1;
const SUM: usize = 2;
const INNER: usize = 3;
const LOST: LmError = LmError::Defect("a passage lacks what it holds");

impl Block {
    /// What the block makes of sequences, f32 `[tokens, hidden]`, one behind the other, of the length that the
    /// context is for.
    ///
    /// # Errors
    /// If the tap fails, or shapes do not fit.
    pub fn forward(
        &self,
        input: &Tensor,
        context: &Context,
        tap: &mut dyn Tap,
    ) -> Result<Tensor, LmError> {
        let mut passage = Passage::enter(input.clone());
        for group in &self.groups {
            let input = self.input(&passage, context)?;
            if input.dim(0)? > 0 {
                let names = group.iter().filter_map(|at| self.linears.get(*at));
                tap.input(&names.map(|linear| linear.name.as_str()).collect::<Vec<_>>(), &input)?;
            }
            passage = self.pass(passage, &input, context)?;
        }
        Ok(passage.rest)
    }

    /// What the next group reads, f32 `[tokens, columns]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn input(&self, passage: &Passage, _: &Context) -> Result<Tensor, LmError> {
        let held = |at: usize| passage.held.get(at).ok_or(LOST);
        let normed = |norm: &Option<Norm>| match norm {
            Some(norm) => norm.of(&passage.rest),
            None => Ok(passage.rest.clone()),
        };
        let stage =
            self.stages.get(passage.group).ok_or(LmError::Defect("there is no such group"))?;
        match stage {
            Stage::Heads | Stage::LatentDown => normed(&self.norms.attention),
            Stage::LatentQ => {
                let q = held(0)?;
                let norm = self.latent.as_ref().and_then(|latent| latent.q_norm.as_ref());
                norm.map_or_else(|| Ok(q.clone()), |norm| norm.of(q))
            }
            Stage::LatentKv => {
                let latent = self.latent.as_ref().ok_or(LOST)?;
                let rank = self.columns(passage.group)?;
                latent.kv_norm.of(&held(1)?.narrow(1, 0, rank)?.contiguous()?)
            }
            Stage::Up(None) if !self.parallel => normed(&self.norms.mlp),
            Stage::Out | Stage::Up(None) | Stage::Down(None) => Ok(held(0)?.clone()),
            Stage::Up(Some(expert)) => {
                let (rows, weights) = rows(held(ROUTES)?, *expert)?;
                let read = select(held(READ)?, &rows)?;
                let weighs = self.experts.as_ref().is_some_and(|own| own.router.weighs_input);
                if weighs && !rows.is_empty() { weighed(&read, &weights) } else { Ok(read) }
            }
            Stage::SharedUp => Ok(held(READ)?.clone()),
            Stage::Down(Some(_)) | Stage::SharedDown => Ok(held(INNER)?.clone()),
        }
    }

    /// Runs the next group on its [input](Self::input) and what follows, as far as the group after.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn pass(
        &self,
        passage: Passage,
        input: &Tensor,
        context: &Context,
    ) -> Result<Passage, LmError> {
        let Passage { group, rest, mut held } = passage;
        let stage = self.stages.get(group).ok_or(LmError::Defect("there is no such group"))?;
        let linears: Vec<&Linear> = self.group(group).collect();
        let first = || linears.first().copied().ok_or(LmError::Defect("a group without layers"));
        let is_last = group + 1 == self.stages.len();
        let rest = match stage {
            Stage::LatentDown => {
                held = linears.iter().map(|own| own.forward(input)).collect::<Result<_, _>>()?;
                rest
            }
            Stage::LatentQ => {
                *held.get_mut(0).ok_or(LOST)? = first()?.forward(input)?;
                rest
            }
            Stage::LatentKv => {
                let heads = self.of_latent(&held, &first()?.forward(input)?)?;
                // What was held is not needed beside what is read.
                held.clear();
                held.push(self.attention.attend(heads, context)?);
                rest
            }
            Stage::Heads => {
                held.clear();
                let apart = linears.iter().map(|own| own.forward(input));
                let heads = self.heads(apart.collect::<Result<_, _>>()?)?;
                held.push(self.attention.attend(heads, context)?);
                rest
            }
            Stage::Out => {
                held.clear();
                let out = first()?.forward(input)?;
                // What a parallel MLP reads is what attention read.
                let beside = if self.parallel { Some(self.beside(&rest)?) } else { None };
                let rest =
                    self.sum(rest, out, &self.norms.attention_out, &self.norms.attention_sum)?;
                if let Some(experts) = &self.experts {
                    let read = match beside {
                        Some(read) => read,
                        None => self
                            .norms
                            .mlp
                            .as_ref()
                            .map_or_else(|| Ok(rest.clone()), |norm| norm.of(&rest))?,
                    };
                    held.push(read.clone());
                    held.push(experts.router.route(&read)?);
                    held.push(read.zeros_like()?);
                } else if let Some(beside) = beside {
                    held.push(beside);
                }
                rest
            }
            Stage::Up(None) => {
                held.clear();
                held.push(self.inner(&linears, input, self.gating)?);
                rest
            }
            Stage::Down(None) => {
                held.clear();
                let out = first()?.forward(input)?;
                self.sum(rest, out, &self.norms.mlp_out, &self.norms.mlp_sum)?
            }
            Stage::Up(Some(_)) | Stage::SharedUp => {
                let experts = self.experts.as_ref().ok_or(LOST)?;
                let gating =
                    if *stage == Stage::SharedUp { experts.shared } else { experts.gating };
                held.truncate(INNER);
                held.push(match input.dim(0)? {
                    0 => self.nothing(group + 1)?,
                    _ => self.inner(&linears, input, gating)?,
                });
                rest
            }
            Stage::Down(Some(expert)) => {
                held.truncate(INNER);
                let (rows, weights) = rows(held.get(ROUTES).ok_or(LOST)?, *expert)?;
                let experts = self.experts.as_ref().ok_or(LOST)?;
                if !rows.is_empty() {
                    let mut out = first()?.forward(input)?;
                    if !experts.router.weighs_input {
                        out = weighed(&out, &weights)?;
                    }
                    let rows = Tensor::from_slice(&rows, rows.len(), &candle_core::Device::Cpu)?;
                    let sum = held.get_mut(SUM).ok_or(LOST)?;
                    *sum = sum.index_add(&rows, &out, 0)?;
                }
                rest
            }
            Stage::SharedDown => {
                held.truncate(INNER);
                let experts = self.experts.as_ref().ok_or(LOST)?;
                let mut out = first()?.forward(input)?;
                if let Some(switch) = &experts.switch {
                    let logits = held.get(READ).ok_or(LOST)?.matmul(&switch.t()?)?;
                    out = out.broadcast_mul(&((logits.neg()?.exp()? + 1.0)?.recip()?))?;
                }
                let sum = held.get_mut(SUM).ok_or(LOST)?;
                *sum = (&*sum + out)?;
                rest
            }
        };
        if is_last && self.experts.is_some() {
            let out = held.get(SUM).ok_or(LOST)?.clone();
            let rest = self.sum(rest, out, &self.norms.mlp_out, &self.norms.mlp_sum)?;
            return Ok(Passage { group: group + 1, rest, held: Vec::new() });
        }
        Ok(Passage { group: group + 1, rest, held })
    }

    /// The linear layers of a group.
    pub(super) fn group(&self, group: usize) -> impl Iterator<Item = &Linear> {
        let places = self.groups.get(group).map(Vec::as_slice).unwrap_or_default();
        places.iter().filter_map(|at| self.linears.get(*at))
    }

    /// How many columns a group reads.
    pub(super) fn columns(&self, group: usize) -> Result<usize, LmError> {
        let linear = self.group(group).next().ok_or(LmError::Defect("a group without layers"))?;
        Ok(linear.columns())
    }

    /// An input of no tokens.
    fn nothing(&self, group: usize) -> Result<Tensor, LmError> {
        let shape = (0, self.columns(group)?);
        Ok(Tensor::from_vec(Vec::<f32>::new(), shape, &candle_core::Device::Cpu)?)
    }

    /// What an MLP beside attention reads.
    pub(super) fn beside(&self, rest: &Tensor) -> Result<Tensor, LmError> {
        let norm = self.norms.mlp.as_ref().or(self.norms.attention.as_ref());
        norm.map_or_else(|| Ok(rest.clone()), |norm| norm.of(rest))
    }

    fn sum(
        &self,
        rest: Tensor,
        out: Tensor,
        of_out: &Option<Norm>,
        of_sum: &Option<Norm>,
    ) -> Result<Tensor, LmError> {
        let out = of_out.as_ref().map_or_else(|| Ok(out.clone()), |norm| norm.of(&out))?;
        let out = if self.residual == 1.0 { out } else { (out * self.residual)? };
        let sum = (rest + out)?;
        of_sum.as_ref().map_or_else(|| Ok(sum.clone()), |norm| norm.of(&sum))
    }

    /// What a gate and up, or up alone, make of their outputs.
    fn inner(
        &self,
        linears: &[&Linear],
        input: &Tensor,
        gating: Gating,
    ) -> Result<Tensor, LmError> {
        let outputs =
            linears.iter().map(|own| own.forward(input)).collect::<Result<Vec<_>, _>>()?;
        let (gate, up) = gating.parts(outputs)?;
        match (gate, gating.limit) {
            (Some(gate), Some((alpha, limit))) => clamped(&gate, &up, alpha, limit),
            (Some(gate), None) => gating.activation.gated(gate, up),
            (None, _) => gating.activation.of(&up),
        }
    }

    /// q, k and v, of three layers or of one.
    pub(super) fn heads(&self, outputs: Vec<Tensor>) -> Result<[Tensor; 3], LmError> {
        let fused = match <[Tensor; 3]>::try_from(outputs) {
            Ok(apart) => return Ok(apart),
            Err(outputs) => outputs.into_iter().next().ok_or(LmError::Defect("no q, k and v"))?,
        };
        let own = &self.attention;
        let (tokens, shared) = (fused.dim(0)?, own.heads / own.kv_heads);
        let widths =
            [own.heads * own.head_dim, own.kv_heads * own.head_dim, own.kv_heads * own.value_dim];
        if self.order == Order::Concat {
            let [q, k, v] = widths;
            return Ok([
                fused.narrow(1, 0, q)?,
                fused.narrow(1, q, k)?,
                fused.narrow(1, q + k, v)?,
            ]);
        }
        let groups = fused.reshape((tokens, own.kv_heads, shared + 2, own.head_dim))?;
        let part = |from, count, width| groups.narrow(2, from, count)?.reshape((tokens, width));
        Ok([
            part(0, shared, widths[0])?,
            part(shared, 1, widths[1])?,
            part(shared + 1, 1, widths[2])?,
        ])
    }

    /// The same through few dimensions: of `held`, q and what k and v were made of, and of these.
    fn of_latent(&self, held: &[Tensor], kv: &Tensor) -> Result<[Tensor; 3], LmError> {
        let (own, latent) = (&self.attention, self.latent.as_ref().ok_or(LOST)?);
        let [q, down, ..] = held else { return Err(LOST) };
        let (tokens, plain) = (kv.dim(0)?, latent.plain);
        let turned = own.head_dim - plain;
        let kv = kv.reshape((tokens, own.heads, plain + own.value_dim))?;
        let all_heads = down.narrow(D::Minus1, down.dim(1)? - turned, turned)?.unsqueeze(1)?;
        let all_heads = all_heads.broadcast_as((tokens, own.heads, turned))?;
        let k = Tensor::cat(&[&kv.narrow(2, 0, plain)?, &all_heads], 2)?;
        let v = kv.narrow(2, plain, own.value_dim)?;
        Ok([
            q.clone(),
            k.reshape((tokens, own.heads * own.head_dim))?,
            v.reshape((tokens, own.heads * own.value_dim))?,
        ])
    }
}

impl Gating {
    /// Gate, if there is one, and up, of what the layers gave.
    pub(super) fn parts(self, outputs: Vec<Tensor>) -> Result<(Option<Tensor>, Tensor), LmError> {
        let mut outputs = outputs.into_iter();
        let first = outputs.next().ok_or(LmError::Defect("an MLP without layers"))?;
        if let Some(up) = outputs.next() {
            return Ok((Some(first), up));
        }
        if !self.fused {
            return Ok((None, first));
        }
        let width = first.dim(1)? / 2;
        Ok((Some(first.narrow(1, 0, width)?), first.narrow(1, width, width)?))
    }
}
