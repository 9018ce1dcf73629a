//! Attention over one sequence: what positions do to queries and keys, which keys are seen, and how much of each.

use std::sync::Arc;

use candle_core::Tensor;

use super::family::{Bias as Described, Norm as NormKind, Over};
use super::norm::Norm;
use super::numbers::Temperature;
use super::parallel::by_rows;
use super::{Checkpoint, LmConfig, LmError};

/// What blocks need of sequences of some length.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) tokens: usize,
    /// Of each of the model's kinds of rotary positions.
    pub(super) turns: Arc<Vec<Turns>>,
}

/// Cosines and sines of every position, `[tokens, width / 2]`.
#[derive(Debug)]
pub(super) struct Turns {
    pub(super) values: Vec<(f32, f32)>,
    pub(super) width: usize,
    pub(super) interleaved: bool,
}

impl Context {
    /// For sequences of `tokens` tokens.
    ///
    /// # Errors
    /// If the model reads fewer tokens.
    pub fn new(config: &LmConfig, tokens: usize) -> Result<Self, LmError> {
        if tokens == 0 || tokens > config.positions {
            return Err(LmError::Sequence { tokens, least: 1, most: config.positions });
        }
        let of = |rope: &super::Rope| {
            let frequencies = rope.frequencies(tokens);
            let at = |at: usize| {
                let turned = frequencies.iter().map(move |frequency| {
                    let angle = at as f64 * frequency;
                    ((angle.cos() * rope.factor) as f32, (angle.sin() * rope.factor) as f32)
                });
                turned.collect::<Vec<_>>()
            };
            Turns {
                values: (0..tokens).flat_map(at).collect(),
                width: rope.width,
                interleaved: rope.interleaved,
            }
        };
        Ok(Self { tokens, turns: Arc::new(config.ropes.iter().map(of).collect()) })
    }
}

/// Norms on q and k.
#[derive(Debug, Clone)]
pub(super) struct HeadNorms {
    pub(super) q: Norm,
    pub(super) k: Norm,
    /// Over all heads at once.
    pub(super) whole: bool,
    /// After positions.
    pub(super) late: bool,
}

/// What is added to scores.
#[derive(Debug, Clone)]
pub(super) enum Bias {
    /// The slope of each head, already scaled, and whether products are rounded to BF16 before `by` scales them.
    Alibi { slopes: Vec<f32>, short: bool, by: f32 },
    /// A weight by bucket and head.
    Buckets { weights: Vec<f32>, furthest: usize },
}

/// Attention of a block, without its linear layers.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) causal: bool,
    pub(super) window: Option<usize>,
    pub(super) chunk: Option<usize>,
    pub(super) rope: Option<usize>,
    /// The first dimension of a head that turns.
    pub(super) turned_from: usize,
    pub(super) scale: f64,
    pub(super) cap: Option<f64>,
    pub(super) clip: Option<f64>,
    pub(super) norms: Option<HeadNorms>,
    /// A logit of each head that nothing is seen by.
    pub(super) sinks: Option<Vec<f32>>,
    pub(super) bias: Option<Bias>,
    pub(super) temperature: Option<Temperature>,
}

impl Attention {
    /// Attention of block `layer`, whose tensors' names begin with `path`; those of the model, with `prefix`.
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        (prefix, path): (&str, &str),
        layer: usize,
    ) -> Result<Self, LmError> {
        let (about, numbers) = (&config.about.attention, &config.numbers);
        let own = config.by_layer.get(layer).ok_or(LmError::Defect("there is no such layer"))?;
        let norms = match &about.norms {
            Some(norms) if own.has_head_norms => {
                let kind = norms.norm.unwrap_or(config.about.norm);
                let read = |name: &str, heads: usize| {
                    let (whole, each) = ([heads * config.head_dim], [heads, config.head_dim]);
                    let one = [config.head_dim];
                    let shape: &[usize] = match norms.over {
                        Over::Head => &one,
                        Over::EachHead => &each,
                        Over::Whole => &whole,
                        Over::ManyHeads => {
                            return many(
                                from,
                                &format!("{path}.{name}"),
                                kind,
                                each,
                                config.epsilon,
                            );
                        }
                    };
                    Norm::read(from, &format!("{path}.{name}"), kind, shape, config.epsilon)
                };
                Some(HeadNorms {
                    q: read(&norms.q, config.heads)?,
                    k: read(&norms.k, config.kv_heads)?,
                    whole: norms.over == Over::Whole,
                    late: norms.late,
                })
            }
            _ => None,
        };
        let sinks = match &about.sinks {
            Some(name) => {
                Some(from.tensor(&format!("{path}.{name}"), &[config.heads])?.to_vec1::<f32>()?)
            }
            None => None,
        };
        let bias = match &about.bias {
            Some(Described::Alibi { scaled, short }) => Some(Bias::Alibi {
                slopes: slopes(config.heads),
                short: *short,
                by: if *scaled { own.scale as f32 } else { 1.0 },
            }),
            Some(Described::Buckets { name, furthest, .. }) => {
                let name = format!("{prefix}{name}");
                let weights = from.tensor(&name, &[numbers.buckets, config.heads])?;
                let weights = weights.flatten_all()?.to_vec1::<f32>()?;
                Some(Bias::Buckets { weights, furthest: *furthest })
            }
            None => None,
        };
        Ok(Self {
            heads: config.heads,
            kv_heads: if numbers.latent.is_some() { config.heads } else { config.kv_heads },
            head_dim: config.head_dim,
            value_dim: numbers.value_dim,
            causal: config.is_causal(),
            window: config.windows.get(layer).copied().flatten(),
            chunk: own.chunk,
            rope: own.rope,
            turned_from: numbers.latent.as_ref().map_or(0, |latent| latent.plain),
            scale: own.scale,
            cap: numbers.attention_cap,
            clip: numbers.clip,
            norms,
            sinks,
            bias,
            temperature: numbers.temperature.filter(|_| own.has_temperature),
        })
    }

    /// q `[tokens, heads * head_dim]`, k `[tokens, kv_heads * head_dim]` and v `[tokens, kv_heads * value_dim]`
    /// give `[tokens, heads * value_dim]`; the tokens are those of one sequence or of several, one behind the
    /// other.
    pub(super) fn attend(&self, heads: [Tensor; 3], context: &Context) -> Result<Tensor, LmError> {
        let tokens = heads[0].dim(0)?;
        if tokens == context.tokens {
            return self.attend_one(heads, context);
        }
        if tokens == 0 || !tokens.is_multiple_of(context.tokens) {
            return Err(LmError::Defect("tokens of no whole number of sequences"));
        }
        let one = |first: usize| {
            let [q, k, v] = heads.each_ref().map(|heads| heads.narrow(0, first, context.tokens));
            self.attend_one([q?, k?, v?], context)
        };
        let seen: Result<Vec<Tensor>, LmError> =
            (0..tokens).step_by(context.tokens).map(one).collect();
        Ok(Tensor::cat(&seen?, 0)?)
    }

    /// The same for one sequence.
    fn attend_one(&self, mut heads: [Tensor; 3], context: &Context) -> Result<Tensor, LmError> {
        let tokens = context.tokens;
        let norms = self.norms.as_ref();
        if let Some(norms) = norms.filter(|norms| norms.whole) {
            let [q, k, _] = &mut heads;
            (*q, *k) = (norms.q.of(q)?, norms.k.of(k)?);
        }
        if let Some(clip) = self.clip {
            for own in &mut heads {
                *own = own.clamp(-clip, clip)?;
            }
        }
        let [q, k, v] = heads;
        let split = |x: Tensor, heads: usize, width: usize| -> Result<Tensor, LmError> {
            Ok(x.reshape((tokens, heads, width))?.transpose(0, 1)?.contiguous()?)
        };
        let (mut q, mut k) =
            (split(q, self.heads, self.head_dim)?, split(k, self.kv_heads, self.head_dim)?);
        let v = split(v, self.kv_heads, self.value_dim)?;
        let norms = norms.filter(|norms| !norms.whole);
        if let Some(norms) = norms.filter(|norms| !norms.late) {
            (q, k) = (norms.q.of(&q)?, norms.k.of(&k)?);
        }
        if let Some(turns) = self.rope.and_then(|rope| context.turns.get(rope)) {
            (q, k) = (self.turn(&q, turns, tokens)?, self.turn(&k, turns, tokens)?);
        }
        if let Some(norms) = norms.filter(|norms| norms.late) {
            (q, k) = (norms.q.of(&q)?, norms.k.of(&k)?);
        }
        if let Some(temperature) = self.temperature {
            q = by_rows(&q, |row, head| {
                let by = temperature.at(row % tokens);
                head.iter_mut().for_each(|value| *value *= by);
            })?;
        }
        let shared = self.heads / self.kv_heads;
        let q = (q * self.scale)?;
        let q = q.reshape((self.kv_heads, shared * tokens, self.head_dim))?;
        let weights = self.softmax(&q.matmul(&k.t()?)?, tokens)?;
        let seen = weights.matmul(&v)?.reshape((self.heads, tokens, self.value_dim))?;
        Ok(seen.transpose(0, 1)?.reshape((tokens, self.heads * self.value_dim))?)
    }

    /// Which keys a query sees: those of this range.
    pub(super) fn seen(&self, query: usize, tokens: usize) -> (usize, usize) {
        let window = self.window.unwrap_or(usize::MAX);
        if !self.causal {
            let half = self.window.map_or(usize::MAX, |window| window / 2);
            return (
                query.saturating_sub(half),
                query.saturating_add(half).saturating_add(1).min(tokens),
            );
        }
        let end = query + 1;
        let start = end.saturating_sub(window);
        (self.chunk.map_or(start, |chunk| start.max(query - query % chunk)), end)
    }

    /// How much of each key a query takes, from the scores: rows of `tokens` keys, query after query, head
    /// after head. Nothing of keys that it does not see.
    fn softmax(&self, scores: &Tensor, tokens: usize) -> Result<Tensor, LmError> {
        by_rows(scores, |row, keys| {
            let (head, query) = (row / tokens, row % tokens);
            let (start, end) = self.seen(query, tokens);
            let (before, rest) = keys.split_at_mut(start);
            let (seen, behind) = rest.split_at_mut(end - start);
            before.fill(0.0);
            behind.fill(0.0);
            if let Some(cap) = self.cap {
                let cap = cap as f32;
                seen.iter_mut().for_each(|key| *key = (*key / cap).tanh() * cap);
            }
            if self.bias.is_some() {
                for (at, key) in seen.iter_mut().enumerate() {
                    *key += self.added(head, query, start + at);
                }
            }
            let sink = self.sinks.as_ref().and_then(|sinks| sinks.get(head)).copied();
            let most = seen.iter().copied().fold(sink.unwrap_or(f32::NEG_INFINITY), f32::max);
            let mut sum = sink.map_or(0.0, |sink| (sink - most).exp());
            for key in seen.iter_mut() {
                *key = (*key - most).exp();
                sum += *key;
            }
            for key in seen {
                *key /= sum;
            }
        })
    }

    /// What is added to the score of a key.
    pub(super) fn added(&self, head: usize, query: usize, key: usize) -> f32 {
        match &self.bias {
            Some(Bias::Alibi { slopes, short, by }) => {
                let slope = slopes.get(head).copied().unwrap_or(0.0);
                let value = match short {
                    true => {
                        let short = half::bf16::from_f32(slope).to_f32();
                        let at = half::bf16::from_f32(key as f32).to_f32();
                        half::bf16::from_f32(short * at).to_f32()
                    }
                    false => slope * key as f32,
                };
                value * by
            }
            Some(Bias::Buckets { weights, furthest }) => {
                let buckets = weights.len() / self.heads.max(1);
                let bucket = bucket(query, key, buckets, *furthest);
                weights.get(bucket * self.heads + head).copied().unwrap_or(0.0)
            }
            None => 0.0,
        }
    }

    /// Turns pairs of each head, `[heads, tokens, head_dim]`, into each other.
    fn turn(&self, x: &Tensor, turns: &Turns, tokens: usize) -> Result<Tensor, LmError> {
        let half = turns.width / 2;
        let from = self.turned_from;
        by_rows(x, |row, head| {
            let position = row % tokens;
            let angles = turns.values.iter().skip(position * half);
            let Some(head) = head.get_mut(from..from + turns.width) else { return };
            if turns.interleaved {
                for (pair, (cos, sin)) in head.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    let [a, b] = *pair;
                    *pair = [a * cos - b * sin, b * cos + a * sin];
                }
                return;
            }
            let (first, second) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        })
    }
}

/// A norm for each head, each a tensor of its own.
fn many(
    from: &Checkpoint,
    name: &str,
    kind: NormKind,
    [heads, width]: [usize; 2],
    epsilon: f64,
) -> Result<Norm, LmError> {
    let one = |head: usize| {
        Norm::read(from, &name.replace("{}", &head.to_string()), kind, &[width], epsilon)
    };
    let all = (0..heads).map(one).collect::<Result<Vec<_>, _>>()?;
    let weights: Option<Vec<_>> = all.iter().map(|norm| norm.weight.clone()).collect();
    let first = all.into_iter().next().ok_or(LmError::Defect("no heads"))?;
    let weight = weights.map(|weights| Tensor::stack(&weights, 0)).transpose()?;
    Ok(Norm { weight, ..first })
}

/// The slopes of ALiBi (Press et al., 2021).
fn slopes(heads: usize) -> Vec<f32> {
    let power = heads.max(1).ilog2();
    let whole = 1_usize << power;
    let base = |of: usize| 2_f64.powf(-8.0 / of as f64);
    let first = (1..=whole).map(|head| base(whole).powi(head as i32));
    let rest = (0..heads - whole.min(heads)).map(|head| base(2 * whole).powi(2 * head as i32 + 1));
    first.chain(rest).map(|slope| slope as f32).collect()
}

/// T5's bucket of a distance, where both directions are seen.
fn bucket(query: usize, key: usize, buckets: usize, furthest: usize) -> usize {
    let half = buckets / 2;
    let (side, distance) = if key > query { (half, key - query) } else { (0, query - key) };
    let exact = half / 2;
    if distance < exact {
        return side + distance;
    }
    // In f32, as where the weights were trained: borders of buckets are whole numbers.
    let log = (distance as f32 / exact.max(1) as f32).ln()
        / (furthest as f64 / exact.max(1) as f64).ln() as f32;
    let far = exact + (log * (half - exact) as f32) as usize;
    side + far.min(half.saturating_sub(1))
}
