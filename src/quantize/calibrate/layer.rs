//! What calibration gives of a layer, and rounding layers one by one.

use super::CalibrateError;
use super::cost::Sample;
use super::error::LEAST;
use crate::dequant::codes::Codes;
use crate::quantize::lm::{Block, Linear};
use crate::quantize::solve::{Scheme, SolveError, grid};

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
    /// Of a layer of an expert, how many calibration tokens went to it; `None` of others, which see all. With less
    /// than [`Layer::LEAST`] it was rounded to the nearest.
    pub tokens: Option<usize>,
}

impl Layer {
    /// The fewest tokens that an expert is calibrated with.
    pub const LEAST: usize = LEAST;
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

/// What makes codes of a weight, `[rows, columns]`.
type Rounding<'a> = dyn Fn(&[f32], usize, usize, &Scheme) -> Result<Codes, SolveError> + 'a;

/// Rounds each of these layers on its own; with the Hessian of their input, costs are those of outputs.
pub(super) fn each(
    block: &mut Block,
    wanted: &[(usize, Scheme)],
    hessian: Option<&[f32]>,
    round: &Rounding<'_>,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    for (at, scheme) in wanted {
        let mut linears = block.linears_mut();
        let Some(linear) = linears.get_mut(*at) else { continue };
        let name = linear.name.clone();
        let (rows, columns) = (linear.rows(), linear.columns());
        let weight = linear.take()?;
        let sample = Sample::new(&weight, columns, hessian);
        let codes = round(&weight, rows, columns, scheme);
        let codes = codes.map_err(|error| CalibrateError::Layer { layer: name.clone(), error })?;
        drop(weight);
        let error = put(linear, &codes, |values| sample.cost(values, hessian))?;
        take(Calibrated::Layer(Layer {
            name,
            codes,
            error,
            damping: 0.0,
            raised: 0,
            dead: 0,
            tokens: None,
        }))?;
    }
    Ok(())
}

/// Gives a layer the weight that codes stand for, and says how much that costs.
pub(super) fn put(
    linear: &mut Linear,
    codes: &Codes,
    cost: impl FnOnce(&[f32]) -> f64,
) -> Result<f64, CalibrateError> {
    let values = grid::values(codes);
    let error = cost(&values);
    if !error.is_finite() {
        let error = SolveError::NotFinite { what: "codes", row: 0, column: 0 };
        return Err(CalibrateError::Layer { layer: linear.name.clone(), error });
    }
    linear.set(values)?;
    Ok(error)
}
