//! The run through the model: block by block, input by input.

use std::cell::RefCell;

use candle_core::{Device, Tensor};

use super::states::States;
use super::{CalibrateError, Draws, awq, inputs};
use crate::lm::{Block, Context, Linear, LmError, Model};
use crate::quant::codes::Codes;
use crate::solve::gptq::{Factor, GptqOptions, Order};
use crate::solve::{Scheme, SolveError, grid, hqq, round_to_nearest};

/// How layers are solved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Solver {
    /// Rounding; with calibration, ranges are weighed by the inputs.
    Nearest,
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

/// A solved layer.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Layer {
    /// Its name, without `.weight`.
    pub name: String,
    /// Its codes.
    pub codes: Codes,
    /// The squared error of the layer's output relative to the output, over the calibration tokens; for
    /// rounding and HQQ, of the weight.
    pub error: f64,
    /// What was added to the Hessian's diagonal, as a part of its mean; 0 where there is none.
    pub damping: f32,
    /// How often that was raised because the Hessian had no factor. More than 0 is worth telling.
    pub raised: u32,
    /// Columns whose inputs were all 0.
    pub dead: usize,
}

/// What calibration gives, block by block.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Calibrated {
    /// A layer's codes.
    Layer(Layer),
    /// A tensor that is not quantized and has other values now, f32: what scales are folded into.
    Changed {
        /// Its name.
        name: String,
        /// Its values, row-major.
        values: Vec<f32>,
    },
    /// All of a block has been given: its number, and how many there are.
    Block(usize, usize),
}

/// Calibrates a model with these tokens. `scheme` says how each layer, by its name without `.weight`, is
/// quantized, or `None` for one that stays as it is; `take` gets what is made of each.
pub fn calibrate(
    model: &Model,
    draws: &Draws,
    options: &CalibrateOptions,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let layers = model.config().layers;
    let mut states = begin(model, draws, options.budget)?;
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
pub(super) fn begin(model: &Model, draws: &Draws, budget: usize) -> Result<States, CalibrateError> {
    let runs: Vec<&[u32]> = draws.runs().iter().map(Vec::as_slice).collect();
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
    contexts: &dyn Fn(usize) -> Result<Context, LmError>,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    solver: Solver,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    for (number, group) in block.groups().iter().enumerate() {
        let names: Vec<String> = block.named(group);
        let wanted: Vec<(usize, Scheme)> =
            group.iter().zip(&names).filter_map(|(at, name)| Some((*at, scheme(name)?))).collect();
        let Some((first, _)) = wanted.first().copied() else { continue };
        let columns = match block.linears().get(first) {
            Some(linear) => linear.weight.dim(1)?,
            None => continue,
        };
        let seen = match solver {
            Solver::Hqq => None,
            _ => {
                inputs::reach(block, states, contexts, number)?;
                Some(inputs::gather(block, states, contexts, number, columns)?)
            }
        };
        let mut factor: Option<Factor> = None;
        for (at, scheme) in wanted {
            let mut linears = block.linears_mut();
            let Some(linear) = linears.get_mut(at) else { continue };
            let named = |error| CalibrateError::Layer { layer: linear.name.clone(), error };
            let (rows, columns) = linear.weight.dims2()?;
            let weight: Vec<f32> = linear.weight.flatten_all()?.to_vec1()?;
            let (mut damping, mut raised, mut dead) = (0.0, 0, 0);
            let codes = match (solver, &seen) {
                (Solver::Gptq { damping: least, order }, Some(seen)) => {
                    let options = GptqOptions { scheme, damping: least, order };
                    let known = factor.take().filter(|factor| *factor.options() == options);
                    let known = match known {
                        Some(known) => known,
                        None => Factor::new(&seen.hessian, columns, &options).map_err(named)?,
                    };
                    (damping, raised, dead) = (known.damping, known.raised, known.dead);
                    let solved = known.solve(&weight, rows).map_err(named)?;
                    factor = Some(known);
                    solved.codes
                }
                (Solver::Hqq, _) => hqq::solve(&weight, rows, columns, &scheme).map_err(named)?,
                (_, seen) => {
                    let squares = seen.as_ref().map(inputs::Inputs::squares).unwrap_or_default();
                    round_to_nearest(&weight, rows, columns, &squares, &scheme).map_err(named)?
                }
            };
            let hessian = seen.as_ref().map(|seen| seen.hessian.as_slice());
            let error = put(linear, &weight, &codes, hessian)?;
            let name = linear.name.clone();
            take(Calibrated::Layer(Layer { name, codes, error, damping, raised, dead }))?;
        }
    }
    Ok(())
}

/// Puts what codes stand for in place of a layer's weight, and says how much that costs.
pub(super) fn put(
    linear: &mut Linear,
    weight: &[f32],
    codes: &Codes,
    hessian: Option<&[f32]>,
) -> Result<f64, CalibrateError> {
    let values = grid::values(codes);
    let error = relative(&values, weight, hessian, codes.columns);
    if !error.is_finite() {
        let error = SolveError::NotFinite { what: "codes", row: 0, column: 0 };
        return Err(CalibrateError::Layer { layer: linear.name.clone(), error });
    }
    linear.weight = Tensor::from_vec(values, (codes.rows, codes.columns), &Device::Cpu)?;
    Ok(error)
}

/// Rows that tell what a weight's error costs.
const ROWS: usize = 128;

/// The squared error relative to the square, of outputs where there is a Hessian, else of weights: by
/// [`ROWS`] rows, evenly spaced, where there are more.
pub(super) fn relative(
    values: &[f32],
    weight: &[f32],
    hessian: Option<&[f32]>,
    columns: usize,
) -> f64 {
    let columns = columns.max(1);
    let rows = weight.len() / columns;
    let step = rows.div_ceil(ROWS).max(1);
    let some = |of: &[f32]| of.chunks(columns).step_by(step).flatten().copied().collect();
    let (values, weight): (Vec<f32>, Vec<f32>) = (some(values), some(weight));
    let off: Vec<f32> = values.iter().zip(&weight).map(|(a, b)| a - b).collect();
    let square = |of: &[f32]| match hessian {
        Some(hessian) => crate::solve::quadratic(of, hessian, columns),
        None => of.iter().map(|value| f64::from(*value).powi(2)).sum(),
    };
    let whole = square(&weight);
    if whole > 0.0 { square(&off) / whole } else { 0.0 }
}
