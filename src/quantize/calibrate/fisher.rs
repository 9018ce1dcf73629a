//! How much the model's predictions depend on the output of each layer: the diagonal of the Fisher information,
//! in factors.
//!
//! `F[i][j]`, the mean squared gradient of the loss by weight `(i, j)`, is taken to be the mean square of the
//! gradient by output `i` times the mean square of input `j`, as K-FAC has it (Martens and Grosse, 2015): so
//! that it takes a number per row instead of one per weight. The loss is that of the text's own next tokens
//! (the empirical Fisher).

use super::driver::Contexts;
use super::runs::Runs;
use super::statistics::Statistics;
use super::{CalibrateError, CalibrationSamples};
use crate::quantize::lm::{LmError, Model};

/// Adds the gradients' mean squares to the statistics, from the states that enter each block. The model must
/// predict something.
pub(super) fn add(
    model: &Model,
    samples: &CalibrationSamples,
    entering: Vec<Runs>,
    last: &Runs,
    statistics: &mut Statistics,
) -> Result<(), CalibrateError> {
    let contexts = Contexts::new(model);
    let head = model.head()?;
    let gradient = |run: usize| {
        let next = samples.runs().get(run).and_then(|run| run.get(1..)).unwrap_or_default();
        Ok(head.gradient(&last.get(run)?, next)?)
    };
    let mut gradients = Runs::new((0..last.len()).map(gradient))?;
    for (index, states) in entering.into_iter().enumerate().rev() {
        let block = model.block(index)?;
        let linears = block.linears();
        let mut sums: Vec<Vec<f64>> =
            linears.iter().map(|linear| vec![0.0; linear.rows()]).collect();
        let mut tokens = 0;
        for run in 0..states.len() {
            let state = states.get(run)?;
            let context = contexts.of(state.dim(0)?)?;
            let Some(found) = block.gradients(&state, &context, &gradients.get(run)?)? else {
                return Ok(());
            };
            for (sums, output) in sums.iter_mut().zip(&found.outputs) {
                let values: Vec<f32> = output.flatten_all()?.to_vec1()?;
                for row in values.chunks(sums.len().max(1)) {
                    for (sum, value) in sums.iter_mut().zip(row) {
                        *sum += f64::from(*value).powi(2);
                    }
                }
            }
            tokens += state.dim(0)?;
            gradients.put(run, &found.input)?;
        }
        for (linear, sums) in linears.iter().zip(sums) {
            let mean = |sum: f64| (sum / tokens.max(1) as f64) as f32;
            let means: Vec<f32> = sums.into_iter().map(mean).collect();
            if means.iter().any(|mean| !mean.is_finite()) {
                return Err(LmError::NotFinite(format!("the gradient of {}", linear.name)).into());
            }
            if let Some(layer) = statistics.layers.get_mut(&linear.name) {
                layer.gradients = means;
            }
        }
    }
    Ok(())
}
