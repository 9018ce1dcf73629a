//! Perplexity: the exponential of the mean cost, in nats, of each token after those before it.
//!
//! A text's tokens are cut into windows of equal length, the last one shorter, which do not overlap and
//! are each read on their own: every token but the first of a window counts. Blocks are read once for as
//! many windows as fit the budget.

use crate::quantize::lm::{Block, Context, LmError, Model, NoTap};

/// How a text is read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PerplexityOptions {
    /// Tokens of a window; by default 2048, or as many as the model reads if that is less.
    pub context: Option<usize>,
    /// Bytes of hidden states held at a time.
    pub budget: usize,
}

impl Default for PerplexityOptions {
    fn default() -> Self {
        Self { context: None, budget: 256 << 20 }
    }
}

/// What a text cost.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Perplexity {
    /// The exponential of `loss`.
    pub perplexity: f64,
    /// Mean nats per token that counts.
    pub loss: f64,
    /// Tokens that count.
    pub tokens: usize,
    /// Windows.
    pub windows: usize,
    /// Tokens of a window.
    pub context: usize,
}

/// The perplexity of a causal model on `tokens`. `block` gives each block, by default
/// [`Model::block`]; `told` hears of every block that was run, with how many there will be.
///
/// # Errors
/// If the text is too short, or the model cannot be run.
pub fn perplexity(
    model: &Model,
    tokens: &[u32],
    options: &PerplexityOptions,
    block: &mut dyn FnMut(usize) -> Result<Block, LmError>,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Perplexity, LmError> {
    let config = model.config();
    let context = options.context.unwrap_or(2048.min(config.positions));
    if context < 2 || context > config.positions {
        return Err(LmError::Sequence { tokens: context, least: 2, most: config.positions });
    }
    let head = model.head()?;
    let windows: Vec<&[u32]> = tokens.chunks(context).filter(|window| window.len() > 1).collect();
    if windows.is_empty() {
        return Err(LmError::Short(tokens.len()));
    }
    let at_once = (options.budget / (context * config.hidden * 4)).max(1);
    let steps = windows.len().div_ceil(at_once) * config.layers;
    let (mut total, mut counted, mut step) = (0.0, 0, 0);
    for batch in windows.chunks(at_once) {
        let mut states = model.embed(batch)?;
        let (full, last) = (Context::new(config, context)?, batch.last().map_or(1, |w| w.len()));
        let short = if last < context { Some(Context::new(config, last)?) } else { None };
        for index in 0..config.layers {
            let block = block(index)?;
            for (state, window) in states.iter_mut().zip(batch) {
                let of =
                    if window.len() == context { &full } else { short.as_ref().unwrap_or(&full) };
                *state = block.forward(state, of, &mut NoTap)?;
            }
            step += 1;
            told(step, steps);
        }
        for (state, window) in states.iter().zip(batch) {
            let next = window.get(1..).unwrap_or_default();
            let losses = head.losses(&state.narrow(0, 0, next.len())?, next)?;
            total += losses.iter().sum::<f64>();
            counted += losses.len();
        }
    }
    let loss = total / counted as f64;
    if !loss.is_finite() {
        return Err(LmError::NotFinite("the model's output".to_owned()));
    }
    Ok(Perplexity {
        perplexity: loss.exp(),
        loss,
        tokens: counted,
        windows: windows.len(),
        context,
    })
}
