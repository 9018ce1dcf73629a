//! How much each layer suffers from few bits, by the statistics of what it is fed: the model is not run.

use super::{CalibrateError, Sensitivity, Statistics};
use crate::quantize::lm::{Linear, Model};
use crate::quantize::solve::{Scheme, grid, round_to_nearest};

/// What rounding each layer that is `wanted`, by its name without `.weight`, to each of these numbers of bits
/// would cost: by the Fisher information's diagonal, `sum of (w' - w)^2 F`, which is twice the loss that is
/// expected of it; where the model predicts nothing, the squared error of the layer's output relative to the
/// output, by the Hessian's diagonal. The rest of the scheme is that given. Layers of a block that share an
/// input are one [`Sensitivity`], and so are all of its experts; its error is the sum of theirs: engines fuse them.
///
/// # Errors
/// If a layer cannot be read, or no number of bits fits it.
pub fn sensitivities(
    model: &Model,
    statistics: &Statistics,
    wanted: &dyn Fn(&str) -> bool,
    scheme: &Scheme,
    bits: &[u32],
) -> Result<Vec<Sensitivity>, CalibrateError> {
    let mut found = Vec::new();
    for index in 0..model.config().layers {
        let block = model.block(index)?;
        let linears = block.linears();
        for group in block.ties() {
            let members = group.iter().filter_map(|at| linears.get(*at));
            let members: Vec<&Linear> =
                members.copied().filter(|linear| wanted(&linear.name)).collect();
            let mut own = Sensitivity { layers: Vec::new(), weights: 0, errors: Vec::new() };
            own.errors = bits.iter().map(|bits| (*bits, 0.0)).collect();
            for linear in members {
                add(&mut own, linear, statistics, scheme)?;
            }
            if !own.layers.is_empty() {
                found.push(own);
            }
        }
    }
    Ok(found)
}

fn add(
    to: &mut Sensitivity,
    linear: &Linear,
    statistics: &Statistics,
    scheme: &Scheme,
) -> Result<(), CalibrateError> {
    let (rows, columns) = (linear.rows(), linear.columns());
    let known = statistics.layers.get(&linear.name);
    let known = known
        .filter(|known| known.squares.len() == columns)
        .ok_or_else(|| CalibrateError::NoStatistics { layer: linear.name.clone(), columns })?;
    let weight = linear.values()?;
    let has_gradients = known.gradients.len() == rows;
    let square = |of: &dyn Fn(usize) -> f32| -> f64 {
        let row = |row: usize| -> f64 {
            let values = known.squares.iter().enumerate();
            let values = values.map(|(column, square)| {
                f64::from(of(row * columns + column)).powi(2) * f64::from(*square)
            });
            let factor = if has_gradients { known.gradients[row] } else { 1.0 };
            values.sum::<f64>() * f64::from(factor)
        };
        (0..rows).map(row).sum()
    };
    let whole = if has_gradients { 1.0 } else { square(&|at| weight[at]) };
    for (bits, error) in &mut to.errors {
        let scheme = Scheme { bits: *bits, ..*scheme };
        let codes = round_to_nearest(&weight, rows, columns, &known.squares, &scheme);
        let codes =
            codes.map_err(|error| CalibrateError::Layer { layer: linear.name.clone(), error })?;
        let values = grid::values(&codes);
        let off = square(&|at| values[at] - weight[at]);
        *error += if whole > 0.0 { off / whole } else { 0.0 };
    }
    to.weights += (rows * columns) as u64;
    to.layers.push(linear.name.clone());
    Ok(())
}
