//! GPTQ of the layers of a block that share an input: with one factor, which is made in the place of the input's
//! Hessian, so that there is one matrix of its size at a time.

use super::CalibrateError;
use super::cost::Sample;
use super::inputs::{self, Contexts};
use super::layer::{Calibrated, Layer, put};
use super::states::States;
use crate::quantize::lm::{Block, Linear, LmError};
use crate::quantize::solve::gptq::{Factor, GptqOptions, Order};
use crate::quantize::solve::{Scheme, SolveError};

/// Solves the layers `wanted` of the group `number`, which the states have [reached](inputs::reach); `damping` is
/// the least.
pub(super) fn solve(
    block: &mut Block,
    (states, contexts): (&States, &Contexts<'_>),
    (number, wanted): (usize, &[(usize, Scheme)]),
    (damping, order): (f32, Order),
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let mut factor: Option<Factor> = None;
    let mut samples: Vec<Sample> = Vec::new();
    for (which, (at, scheme)) in wanted.iter().enumerate() {
        let options = GptqOptions { scheme: *scheme, damping, order };
        let Some((name, columns)) = shape(block, *at)? else { continue };
        let named = |error| CalibrateError::Layer { layer: name.clone(), error };
        let known = match factor.take().filter(|factor| *factor.options() == options) {
            Some(known) => known,
            None => {
                let hessian = || -> Result<Vec<f32>, Failed> {
                    let hessian = inputs::gather(block, states, contexts, number)?.hessian;
                    // While the layers are what they were.
                    if samples.is_empty() {
                        samples = sampled(block, wanted, &hessian)?;
                    }
                    Ok(hessian)
                };
                Factor::new(hessian, columns, &options).map_err(|error| match error {
                    Failed::Solving(error) => named(error),
                    Failed::Gathering(error) => error,
                })?
            }
        };
        let mut linears = block.linears_mut();
        let (Some(linear), Some(sample)) = (linears.get_mut(*at), samples.get(which)) else {
            continue;
        };
        let rows = linear.rows();
        let solved = known.solve(linear.take()?, rows).map_err(named)?;
        let cost = |values: &[f32]| {
            let off = sample.off(values);
            let lines = off.chunks(sample.columns).zip(solved.errors.iter().step_by(sample.step));
            sample.relative(lines.map(|(off, error)| known.undamped(*error, off)).sum())
        };
        let error = put(linear, &solved.codes, cost)?;
        let (damping, raised, dead) = (known.damping, known.raised, known.dead);
        factor = Some(known);
        take(Calibrated::Layer(Layer {
            name,
            codes: solved.codes,
            error,
            damping,
            raised,
            dead,
            tokens: None,
        }))?;
    }
    Ok(())
}

/// The name and the columns of a layer.
fn shape(block: &Block, at: usize) -> Result<Option<(String, usize)>, CalibrateError> {
    let linears = block.linears();
    let Some(linear) = linears.get(at) else { return Ok(None) };
    Ok(Some((linear.name.clone(), linear.columns())))
}

/// Some rows of each of these layers.
fn sampled(
    block: &Block,
    wanted: &[(usize, Scheme)],
    hessian: &[f32],
) -> Result<Vec<Sample>, CalibrateError> {
    let linears = block.linears();
    let linears = wanted.iter().filter_map(|(at, _)| linears.get(*at));
    let sample =
        |linear: &&Linear| Ok(Sample::new(&linear.values()?, linear.columns(), Some(hessian)));
    linears.map(sample).collect()
}

/// Why there is no factor.
enum Failed {
    Solving(SolveError),
    Gathering(CalibrateError),
}

impl From<SolveError> for Failed {
    fn from(error: SolveError) -> Self {
        Self::Solving(error)
    }
}

impl From<CalibrateError> for Failed {
    fn from(error: CalibrateError) -> Self {
        Self::Gathering(error)
    }
}

impl From<LmError> for Failed {
    fn from(error: LmError) -> Self {
        Self::Gathering(error.into())
    }
}
