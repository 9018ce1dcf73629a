//! AWQ of a block: scales are searched for every input that something before it can give scaled, and folded
//! into that; then all layers are rounded.
//!
//! What gives an input scaled: a norm to q, k, v and to gate, up; the rows of v to o, where there are as many
//! heads of v as of q; the rows of up to down. Scaling a row of a layer scales its grid alike, so that
//! ranges may be cut before.

use candle_core::{Device, Tensor};

use super::CalibrateError;
use super::driver::{Calibrated, Layer, put};
use super::inputs::{self, Inputs};
use super::states::States;
use crate::lm::{Block, Context, Giver, LmError, Model};
use crate::quant::{Float, convert};
use crate::solve::{Scheme, awq, round_to_nearest};

/// Solves the layers of a block.
pub(super) fn solve(
    model: &Model,
    block: &mut Block,
    states: &States,
    contexts: &dyn Fn(usize) -> Result<Context, LmError>,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    clip: bool,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let Some(givers) = block.givers() else {
        return Err(CalibrateError::Method(format!(
            "AWQ of {:?}: its norms feed the residual too, so that no scale can be folded into them; use gptq",
            model.config().architecture
        )));
    };
    let plain = block.clone();
    let mut found: Vec<Found> = Vec::new();
    for (number, (group, giver)) in block.groups().iter().zip(givers).enumerate() {
        let names = plain.named(group);
        let wanted: Vec<(usize, Scheme)> =
            group.iter().zip(&names).filter_map(|(at, name)| Some((*at, scheme(name)?))).collect();
        let Some((first, of_first)) = wanted.first().copied() else { continue };
        let columns = match plain.linears().get(first) {
            Some(linear) => linear.weight.dim(1)?,
            None => continue,
        };
        // Every input is that of the block as it was: what is folded changes none.
        let mut seen = inputs::gather(&plain, states, contexts, number, columns)?;
        // A layer that reads the input and stays as it is would have to be scaled too.
        let foldable = wanted.len() == group.len();
        if let Some(giver) = giver.filter(|_| foldable) {
            let scales = search(block, &wanted, &seen, &of_first)?;
            if let Some(scales) = scales {
                fold(model, block, group, &giver, scales, &mut seen, take)?;
            }
        }
        for (at, scheme) in &wanted {
            let mut linears = block.linears_mut();
            let Some(linear) = linears.get_mut(*at) else { continue };
            // q and k make scores together: to cut them one by one harms.
            let alone = !matches!(at, 0 | 1);
            if clip && alone {
                let shape = linear.weight.dims2()?;
                let mut weight: Vec<f32> = linear.weight.flatten_all()?.to_vec1()?;
                let named = |error| CalibrateError::Layer { layer: linear.name.clone(), error };
                awq::clip(&mut weight, columns, &seen.hessian, scheme).map_err(named)?;
                linear.weight = Tensor::from_vec(weight, shape, &Device::Cpu)?;
            }
            found.push(Found { at: *at, scheme: *scheme });
        }
    }
    for Found { at, scheme } in found {
        let mut linears = block.linears_mut();
        let Some(linear) = linears.get_mut(at) else { continue };
        let named = |error| CalibrateError::Layer { layer: linear.name.clone(), error };
        let (rows, columns) = linear.weight.dims2()?;
        let weight: Vec<f32> = linear.weight.flatten_all()?.to_vec1()?;
        let codes = round_to_nearest(&weight, rows, columns, &[], &scheme).map_err(named)?;
        let error = put(linear, &weight, &codes, None)?;
        let name = linear.name.clone();
        let layer = Layer { name, codes, error, damping: 0.0, raised: 0, dead: 0 };
        take(Calibrated::Layer(layer))?;
    }
    Ok(())
}

/// A layer that is to be rounded.
struct Found {
    at: usize,
    scheme: Scheme,
}

/// The scales of an input, if scaling helps.
fn search(
    block: &Block,
    wanted: &[(usize, Scheme)],
    seen: &Inputs,
    scheme: &Scheme,
) -> Result<Option<Vec<f32>>, CalibrateError> {
    let linears = block.linears();
    let mut weights = Vec::new();
    let mut name = String::new();
    for (at, _) in wanted {
        if let Some(linear) = linears.get(*at) {
            weights.push((linear.weight.flatten_all()?.to_vec1::<f32>()?, linear.weight.dim(0)?));
            name.clone_from(&linear.name);
        }
    }
    let layers: Vec<(&[f32], usize)> =
        weights.iter().map(|(weight, rows)| (weight.as_slice(), *rows)).collect();
    let found = awq::search(&layers, &seen.hessian, &seen.means(), scheme);
    let found = found.map_err(|error| CalibrateError::Layer { layer: name, error })?;
    Ok(found.ratio.map(|_| found.scales))
}

/// Multiplies the columns of the layers `group` by the scales and divides what gives them their input. What
/// that becomes in the type it is stored in decides: the scales follow it, so that nothing is lost.
fn fold(
    model: &Model,
    block: &mut Block,
    group: &[usize],
    giver: &Giver,
    mut scales: Vec<f32>,
    seen: &mut Inputs,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    match giver {
        Giver::Norm(which) => {
            let Some((name, norm)) = block.norm_mut(*which) else { return Ok(()) };
            let before: Vec<f32> = norm.to_vec1()?;
            let float = model.checkpoint().float(name).unwrap_or(Float::F32);
            let mut after = Vec::with_capacity(before.len());
            for (value, scale) in before.iter().zip(&mut scales) {
                let stored = rounded(value / *scale, float);
                if stored != 0.0 && stored.is_finite() && *value != 0.0 {
                    *scale = value / stored;
                    after.push(stored);
                } else {
                    *scale = 1.0;
                    after.push(*value);
                }
            }
            *norm = Tensor::from_vec(after.clone(), norm.dims(), &Device::Cpu)?;
            take(Calibrated::Changed { name: name.clone(), values: after })?;
        }
        Giver::Rows(at) => {
            let mut linears = block.linears_mut();
            let Some(linear) = linears.get_mut(*at) else { return Ok(()) };
            let inverse: Vec<f32> = scales.iter().map(|scale| 1.0 / scale).collect();
            let inverse = Tensor::from_vec(inverse, scales.len(), &Device::Cpu)?;
            linear.weight = linear.weight.broadcast_mul(&inverse.unsqueeze(1)?)?;
            if let Some(bias) = &mut linear.bias {
                *bias = (&*bias * inverse)?;
                let (name, values) = (format!("{}.bias", linear.name), bias.to_vec1()?);
                take(Calibrated::Changed { name, values })?;
            }
        }
    }
    let row = Tensor::from_vec(scales.clone(), (1, scales.len()), &Device::Cpu)?;
    let mut linears = block.linears_mut();
    for at in group {
        if let Some(linear) = linears.get_mut(*at) {
            linear.weight = linear.weight.broadcast_mul(&row)?;
        }
    }
    for (line, by) in seen.hessian.chunks_mut(scales.len().max(1)).zip(&scales) {
        for (value, scale) in line.iter_mut().zip(&scales) {
            *value /= by * scale;
        }
    }
    Ok(())
}

/// A number as it is stored.
fn rounded(value: f32, float: Float) -> f32 {
    let stored = convert(&value.to_le_bytes(), Float::F32, float);
    let back = convert(&stored, float, Float::F32);
    back.first_chunk().map_or(value, |bytes| f32::from_le_bytes(*bytes))
}
