//! AWQ of a block: scales are searched for every input that something before it can give scaled, and folded
//! into that; then all layers are rounded.
//!
//! What gives an input scaled follows from the family's description ([`Block::givers`]): a norm to q, k, v and to
//! gate, up, or to all of them at once where attention and MLP stand side by side; the rows of v to o, where there are
//! as many heads of v as of q; the rows of up to down. Scaling a row of a layer scales its grid alike, so that ranges
//! may be cut before.
//!
//! Inputs are those of the block as it was. The last is looked at first, and what gives it changes after its own
//! input has been looked at: so no layer is changed that an input is still to come through, and the block is
//! held once.

use candle_core::{Device, Tensor};

use super::CalibrateError;
use super::error::LEAST;
use super::inputs::{self, Contexts};
use super::layer::{Calibrated, Layer, each};
use super::states::States;
use crate::dequant::{Float, convert};
use crate::quantize::lm::{Block, Giver, Model, Values};
use crate::quantize::solve::{Scheme, awq, round_to_nearest};

/// Solves the layers of a block.
pub(super) fn solve(
    model: &Model,
    block: &mut Block,
    states: &States,
    contexts: &Contexts<'_>,
    scheme: &dyn Fn(&str) -> Option<Scheme>,
    clip: bool,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let Some(givers) = block.givers() else {
        return Err(CalibrateError::NoScale(model.config().family.clone()));
    };
    let names: Vec<String> = block.linears().iter().map(|linear| linear.name.clone()).collect();
    let scheme = |at: &usize| scheme(names.get(*at)?);
    let mut found: Vec<(usize, Scheme)> = Vec::new();
    // How many tokens experts' layers saw.
    let mut seen_by: Vec<(usize, usize)> = Vec::new();
    // Rows that are to be multiplied, by layer.
    let mut given: Vec<(usize, Vec<f32>)> = Vec::new();
    let groups = block.groups().to_vec();
    for (number, giver) in givers.into_iter().enumerate().rev() {
        // What reads the input of a group before it is scaled with that.
        if block.shares(number).is_some() {
            continue;
        }
        let readers = (number..groups.len())
            .filter(|other| *other == number || block.shares(*other) == Some(number));
        let group: Vec<usize> =
            readers.filter_map(|own| groups.get(own)).flatten().copied().collect();
        let group = &group;
        let wanted: Vec<(usize, Scheme)> =
            group.iter().filter_map(|at| Some((*at, scheme(at)?))).collect();
        let Some((_, of_first)) = wanted.first() else { continue };
        let mut seen = inputs::gather(block, states, contexts, number)?;
        let columns = seen.sums.squares().len();
        if block.expert(number).is_some() {
            seen_by.extend(wanted.iter().map(|(at, _)| (*at, seen.sums.tokens())));
            if seen.sums.tokens() < LEAST {
                // So few tokens say less than none.
                for (at, by) in given.extract_if(.., |(at, _)| group.contains(at)) {
                    multiply_rows(block, at, by, take)?;
                }
                found.extend(wanted);
                continue;
            }
        }
        // A layer that reads the input and stays as it is would have to be scaled too, and one that gives it
        // stays as it is if it is not to be rounded.
        let giver = giver.filter(|giver| match giver {
            Giver::Norm(_) => true,
            Giver::Rows(at, _) => scheme(at).is_some(),
        });
        if let Some(giver) = giver.filter(|_| wanted.len() == group.len())
            && let Some(mut scales) =
                search(block, &wanted, &seen.hessian, &seen.sums.means(), of_first)?
        {
            match giver {
                Giver::Norm(which) => divide_norm(model, block, which, &mut scales, take)?,
                Giver::Rows(at, rows) => {
                    let linears = block.linears();
                    let count = linears.get(at).map_or(0, |linear| linear.rows());
                    let mut by = vec![1.0; count];
                    for (row, scale) in rows.iter().zip(&scales) {
                        if let Some(by) = by.get_mut(*row) {
                            *by = 1.0 / scale;
                        }
                    }
                    given.push((at, by));
                }
            }
            for at in group.iter() {
                if let Some(linear) = block.linears_mut().get_mut(*at) {
                    linear.change(|weight| awq::scale_columns(weight, &scales))?;
                }
            }
            for (line, by) in seen.hessian.chunks_mut(columns.max(1)).zip(&scales) {
                for (value, scale) in line.iter_mut().zip(&scales) {
                    *value /= by * scale;
                }
            }
        }
        for (at, scheme) in &wanted {
            // q and k make scores together: to cut them one by one harms.
            let alone = !block.makes_scores(*at);
            let mut linears = block.linears_mut();
            let Some(linear) = linears.get_mut(*at) else { continue };
            if clip && alone {
                let mut cut = Ok(());
                linear.change(|weight| cut = awq::clip(weight, columns, &seen.hessian, scheme))?;
                let layer = linear.name.clone();
                cut.map_err(|error| CalibrateError::Layer { layer, error })?;
            }
        }
        for (at, by) in given.extract_if(.., |(at, _)| group.contains(at)) {
            multiply_rows(block, at, by, take)?;
        }
        found.extend(wanted);
    }
    found.sort_by_key(|(at, _)| *at);
    let round = |weight: &[f32], rows, columns, scheme: &Scheme| {
        round_to_nearest(weight, rows, columns, &[], scheme)
    };
    let mut told = |made: Calibrated| match made {
        Calibrated::Layer(layer) => {
            let of = |(at, _): &&(usize, usize)| names.get(*at) == Some(&layer.name);
            let tokens = seen_by.iter().find(of).map(|(_, tokens)| *tokens);
            take(Calibrated::Layer(Layer { tokens, ..layer }))
        }
        other => take(other),
    };
    each(block, &found, None, &round, &mut told)
}

/// The scales of an input, if scaling helps.
fn search(
    block: &Block,
    wanted: &[(usize, Scheme)],
    hessian: &[f32],
    means: &[f32],
    scheme: &Scheme,
) -> Result<Option<Vec<f32>>, CalibrateError> {
    let linears = block.linears();
    let mut weights: Vec<(Values<'_>, usize)> = Vec::new();
    let mut name = String::new();
    for (at, _) in wanted {
        if let Some(linear) = linears.get(*at) {
            weights.push((linear.values()?, linear.rows()));
            name.clone_from(&linear.name);
        }
    }
    let layers: Vec<(&[f32], usize)> =
        weights.iter().map(|(weight, rows)| (&**weight, *rows)).collect();
    let found = awq::search(&layers, hessian, means, scheme);
    let found = found.map_err(|error| CalibrateError::Layer { layer: name, error })?;
    Ok(found.ratio.map(|_| found.scales))
}

/// Divides a norm by the scales. What it becomes in the type it is stored in decides: the scales follow it, so
/// that nothing is lost.
fn divide_norm(
    model: &Model,
    block: &mut Block,
    which: usize,
    scales: &mut [f32],
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let Some(norm) = block.norm_mut(which) else { return Ok(()) };
    let Some(weight) = &norm.weight else { return Ok(()) };
    let before: Vec<f32> = weight.to_vec1()?;
    let float = model.checkpoint().float(&norm.name).unwrap_or(Float::F32);
    let mut after = Vec::with_capacity(before.len());
    for (value, scale) in before.iter().zip(scales.iter_mut()) {
        let now = rounded(value / *scale - norm.offset, float) + norm.offset;
        if now != 0.0 && now.is_finite() && *value != 0.0 {
            *scale = value / now;
            after.push(now);
        } else {
            *scale = 1.0;
            after.push(*value);
        }
    }
    norm.weight = Some(Tensor::from_vec(after.clone(), weight.dims(), &Device::Cpu)?);
    after.iter_mut().for_each(|value| *value -= norm.offset);
    take(Calibrated::Changed { name: norm.name.clone(), values: after })?;
    if let Some(bias) = &norm.bias {
        let mut values: Vec<f32> = bias.to_vec1()?;
        values
            .iter_mut()
            .zip(scales)
            .for_each(|(value, scale)| *value = rounded(*value / *scale, float));
        norm.bias = Some(Tensor::from_vec(values.clone(), bias.dims(), &Device::Cpu)?);
        let name = norm.name.strip_suffix(".weight").unwrap_or(&norm.name);
        take(Calibrated::Changed { name: format!("{name}.bias"), values })?;
    }
    Ok(())
}

/// Multiplies the rows of a layer, and its bias if it has one.
fn multiply_rows(
    block: &mut Block,
    at: usize,
    by: Vec<f32>,
    take: &mut dyn FnMut(Calibrated) -> Result<(), CalibrateError>,
) -> Result<(), CalibrateError> {
    let mut linears = block.linears_mut();
    let Some(linear) = linears.get_mut(at) else { return Ok(()) };
    let columns = linear.columns().max(1);
    linear.change(|weight| {
        for (row, by) in weight.chunks_mut(columns).zip(&by) {
            row.iter_mut().for_each(|value| *value *= by);
        }
    })?;
    if let Some(bias) = &mut linear.bias {
        *bias = (&*bias * Tensor::from_vec(by, bias.dims(), &Device::Cpu)?)?;
        let (name, values) = (format!("{}.bias", linear.name), bias.to_vec1()?);
        take(Calibrated::Changed { name, values })?;
    }
    Ok(())
}

/// A number as it is stored.
fn rounded(value: f32, float: Float) -> f32 {
    let stored = convert(&value.to_le_bytes(), Float::F32, float);
    let back = convert(&stored, float, Float::F32);
    back.first_chunk().map_or(value, |bytes| f32::from_le_bytes(*bytes))
}
