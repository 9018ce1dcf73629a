//! The run through the model: block by block, input by input.

use std::cell::RefCell;

use super::error::LEAST;
use super::layer::{Calibrated, Layer, each};
use super::states::States;
use super::{CalibrateError, CalibrationSamples, awq, gptq, inputs};
use crate::quantize::lm::{Block, Context, LmError, Model};
use crate::quantize::solve::gptq::Order;
use crate::quantize::solve::{Scheme, hqq, round_to_nearest};

/// How layers are solved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// Rounding; with calibration, ranges are weighed by the inputs.
    RoundToNearest,
    /// HQQ.
    Hqq,
    /// GPTQ.
    Gptq {
        /// What is added to the Hessian's diagonal, as a part of its mean.
        damping: f32,
        /// The order of columns.
        order: Order,
    },
    /// AWQ.
    Awq {
        /// Whether ranges are cut.
        clip: bool,
    },
}

/// How a model is calibrated.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct CalibrateOptions {
    /// How layers are solved.
    pub solver: Solver,
    /// Bytes of hidden states that are held in memory.
    pub budget: usize,
}

impl CalibrateOptions {
    /// A GiB of hidden states in memory.
    pub fn new(solver: Solver) -> Self {
        Self { solver, budget: 1 << 30 }
    }
}

/// Calibrates a model with these tokens. `scheme` says how each layer, by its name without `.weight`, is
/// quantized, or `None` for one that stays as it is; `take` gets what is made of each.
///
/// # Errors
/// If the model cannot be run, a layer has no solution, or `take` fails.
pub fn calibrate(
    model: &Model,
    samples: &CalibrationSamples,
    options: &CalibrateOptions,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let layers = model.config().layers;
    let mut states = begin(model, samples, options.budget)?;
    let contexts = Contexts::new(model);
    let contexts = |tokens| contexts.of(tokens);
    for index in 0..layers {
        let mut block = model.block(index)?;
        match options.solver {
            Solver::Awq { clip } => {
                awq::solve(model, &mut block, &states, &contexts, scheme, clip, take)?;
            }
            solver => solve(&mut block, &mut states, &contexts, scheme, solver, take)?,
        }
        take(Calibrated::Block(index, layers))?;
        if index + 1 < layers {
            inputs::advance(&block, &mut states, &contexts)?;
        }
    }
    Ok(())
}

/// The states that enter the first block.
pub(super) fn begin(
    model: &Model,
    samples: &CalibrationSamples,
    budget: usize,
) -> Result<States, CalibrateError> {
    let runs: Vec<&[u32]> = samples.runs().iter().map(Vec::as_slice).collect();
    States::new(model.embed(&runs)?.into_iter().map(Ok), budget)
}

/// Contexts by length, made once.
pub(super) struct Contexts<'a> {
    model: &'a Model,
    known: RefCell<Vec<(usize, Context)>>,
}

impl<'a> Contexts<'a> {
    pub(super) fn new(model: &'a Model) -> Self {
        Self { model, known: RefCell::default() }
    }

    pub(super) fn of(&self, tokens: usize) -> Result<Context, LmError> {
        let mut known = self.known.borrow_mut();
        if let Some((_, context)) = known.iter().find(|(length, _)| *length == tokens) {
            return Ok(context.clone());
        }
        let context = Context::new(self.model.config(), tokens)?;
        known.push((tokens, context.clone()));
        Ok(context)
    }
}

/// Solves the layers of a block, those that share an input together, each input being what the layers
/// solved before leave of it. No layer is run twice on any token.
fn solve(
    block: &mut Block,
    states: &mut States,
    contexts: &inputs::Contexts<'_>,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    solver: Solver,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    for number in 0..block.groups().len() {
        let group = block.groups().get(number).cloned().unwrap_or_default();
        let group = &group;
        let names: Vec<String> = block.named(group);
        let wanted: Vec<(usize, Scheme)> =
            group.iter().zip(&names).filter_map(|(at, name)| Some((*at, scheme(name)?))).collect();
        if wanted.is_empty() {
            continue;
        }
        let mut tokens = None;
        if solver != Solver::Hqq {
            inputs::reach(block, states, contexts, number)?;
            tokens = inputs::routed(block, states, contexts, number)?;
        }
        // What is made of an expert's layers, with the tokens that it saw.
        let mut told = |made: Calibrated| match made {
            Calibrated::Layer(layer) => take(Calibrated::Layer(Layer { tokens, ..layer })),
            other => take(other),
        };
        let take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError> = &mut told;
        if tokens.is_some_and(|tokens| tokens < LEAST) {
            // So few tokens say less than none.
            let round = |weight: &[f32], rows, columns, scheme: &Scheme| {
                round_to_nearest(weight, rows, columns, &[], scheme)
            };
            each(block, &wanted, None, &round, take)?;
            continue;
        }
        match solver {
            Solver::Gptq { damping, order } => {
                let linears = block.linears();
                let columns = wanted.first().and_then(|(at, _)| linears.get(*at));
                let columns = columns.map_or(0, |linear| linear.columns());
                let how = (enough(damping, columns, tokens), order);
                gptq::solve(block, (states, contexts), (number, &wanted), how, take)?;
            }
            Solver::RoundToNearest => {
                let seen = inputs::gather(block, states, contexts, number)?;
                let squares = seen.sums.squares();
                let round = |weight: &[f32], rows, columns, scheme: &Scheme| {
                    round_to_nearest(weight, rows, columns, &squares, scheme)
                };
                each(block, &wanted, Some(&seen.hessian), &round, take)?;
            }
            _ => each(block, &wanted, None, &hqq::solve, take)?,
        }
    }
    Ok(())
}

/// The damping of an expert's layers, which see few tokens. What so few say of `columns` inputs is off by about the
/// root of columns by tokens, so that GPTQ with the damping of layers that see all would move weights to where only
/// these tokens allow it: at as many tokens as columns, of inputs without order, its error is 2.6 times rounding's,
/// and with this damping 1.1; of inputs with order it gains as much as before.
fn enough(damping: f32, columns: usize, tokens: Option<usize>) -> f32 {
    tokens.map_or(damping, |tokens| damping.max(columns as f32 / tokens.max(1) as f32))
}
