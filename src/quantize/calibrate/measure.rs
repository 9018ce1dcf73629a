//! Measuring statistics: a run of the model.

use candle_core::Tensor;

use super::driver::Contexts;
use super::inputs::Sums;
use super::runs::Runs;
use super::statistics::{LayerStatistics, Statistics};
use super::{CalibrateError, CalibrationSamples, fisher};
use crate::quantize::lm::{LmError, Model, Tap};

/// Runs the model as it is over the tokens, once to its end and, if it predicts something, back for
/// gradients. In memory are one block and what one run of tokens makes of it; the rest lies in files.
///
/// # Errors
/// If the model cannot be run, or gives numbers that are not finite.
pub fn measure(model: &Model, samples: &CalibrationSamples) -> Result<Statistics, CalibrateError> {
    let runs: Vec<&[u32]> = samples.runs().iter().map(Vec::as_slice).collect();
    let mut states = Runs::new(model.embed(&runs)?.into_iter().map(Ok))?;
    let contexts = Contexts::new(model);
    let mut statistics = Statistics::default();
    // The states that enter each block wait for the way back.
    let mut entering = Vec::new();
    for index in 0..model.config().layers {
        let block = model.block(index)?;
        let mut sums = ByGroup::default();
        let one = |run: usize| {
            let state = states.get(run)?;
            Ok(block.forward(&state, &contexts.of(state.dim(0)?)?, &mut sums)?)
        };
        let next = Runs::new((0..states.len()).map(one))?;
        let before = std::mem::replace(&mut states, next);
        if model.config().has_gradients() {
            entering.push(before);
        }
        // Experts that no token went to.
        for linear in block.linears() {
            let zeros = vec![0.0; linear.columns()];
            let layer =
                LayerStatistics { squares: zeros.clone(), means: zeros, gradients: Vec::new() };
            statistics.layers.insert(linear.name.clone(), layer);
        }
        for (names, sums) in sums.0 {
            let (squares, means) = (sums.squares(), sums.means());
            let layer = LayerStatistics { squares, means, gradients: Vec::new() };
            statistics.layers.extend(names.into_iter().map(|name| (name, layer.clone())));
        }
    }
    if model.config().has_gradients() {
        fisher::add(model, samples, entering, &states, &mut statistics)?;
    }
    Ok(statistics)
}

/// Sums over the inputs of a block's layers: those of layers that share an input.
#[derive(Default)]
struct ByGroup(Vec<(Vec<String>, Sums)>);

impl Tap for ByGroup {
    fn input(&mut self, names: &[&str], input: &Tensor) -> Result<(), LmError> {
        let known = self.0.iter().position(|(own, _)| own.iter().eq(names));
        let at = known.unwrap_or_else(|| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            self.0.push((names, Sums::default()));
            self.0.len() - 1
        });
        let Some((_, sums)) = self.0.get_mut(at) else { return Ok(()) };
        let values: Vec<f32> = input.flatten_all()?.to_vec1()?;
        sums.add(names, &values, input.dim(1)?)
    }
}
