//! How much each layer suffers from few bits, by the statistics of what it is fed: the model is not run.

use super::{CalibrateError, Sensitivity, Statistics};
use crate::lm::{Linear, Model};
use crate::solve::{Scheme, grid, round_to_nearest};

/// What rounding each layer that is `wanted`, by its name without `.weight`, to each of these numbers of bits
/// would cost: the squared error of its output relative to the output, were the inputs' columns independent
/// (the Hessian's diagonal). The rest of the scheme is that given. Layers of a block that share an input are
/// one [`Sensitivity`], whose error is the sum of theirs: engines fuse them.
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
        for group in block.groups() {
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
    let (rows, columns) = linear.weight.dims2()?;
    let known = statistics.layers.get(&linear.name);
    let known = known.filter(|known| known.squares.len() == columns).ok_or_else(|| {
        let name = &linear.name;
        CalibrateError::Statistics(format!("they say nothing of the {columns} inputs of {name}"))
    })?;
    let weight: Vec<f32> = linear.weight.flatten_all()?.to_vec1()?;
    let square = |of: &mut dyn Iterator<Item = f32>| -> f64 {
        let by_column = of.zip(known.squares.iter().cycle());
        by_column.map(|(value, square)| f64::from(value).powi(2) * f64::from(*square)).sum()
    };
    let whole = square(&mut weight.iter().copied());
    for (bits, error) in &mut to.errors {
        let scheme = Scheme { bits: *bits, ..*scheme };
        let codes = round_to_nearest(&weight, rows, columns, &known.squares, &scheme);
        let codes =
            codes.map_err(|error| CalibrateError::Layer { layer: linear.name.clone(), error })?;
        let values = grid::values(&codes);
        let off = square(&mut values.iter().zip(&weight).map(|(a, b)| a - b));
        *error += if whole > 0.0 { off / whole } else { 0.0 };
    }
    to.weights += (rows * columns) as u64;
    to.layers.push(linear.name.clone());
    Ok(())
}
