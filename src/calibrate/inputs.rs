//! What the layers of a block read: gathered while the block runs.

use candle_core::Tensor;

use super::CalibrateError;
use super::states::States;
use crate::lm::{Block, Context, LmError, Tap};
use crate::solve;

/// The inputs of layers that share them, summed up.
pub(super) struct Inputs {
    /// The layer that the inputs are of.
    layer: String,
    pub(super) columns: usize,
    /// `X^T X` over tokens: its lower half, and once [gathered](gather) all of it.
    pub(super) hessian: Vec<f32>,
    /// The sum of magnitudes, by column.
    magnitudes: Vec<f64>,
    pub(super) tokens: usize,
}

impl Inputs {
    /// The mean magnitude of each column.
    pub(super) fn means(&self) -> Vec<f32> {
        let tokens = self.tokens.max(1) as f64;
        self.magnitudes.iter().map(|sum| (sum / tokens) as f32).collect()
    }

    /// The Hessian's diagonal divided by the tokens: mean squares, by column.
    pub(super) fn squares(&self) -> Vec<f32> {
        let of = |at: usize| self.hessian.get(at * self.columns + at).copied().unwrap_or(0.0);
        (0..self.columns).map(|at| of(at) / self.tokens.max(1) as f32).collect()
    }
}

impl Tap for Inputs {
    fn input(&mut self, names: &[&str], input: &Tensor) -> Result<(), LmError> {
        if !names.contains(&self.layer.as_str()) {
            return Ok(());
        }
        let (tokens, columns) = input.dims2()?;
        if columns != self.columns {
            return Err(LmError::Config(format!("{} reads {columns} columns", self.layer)));
        }
        let values: Vec<f32> = input.flatten_all()?.to_vec1()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(LmError::NotFinite(format!("the input of {}", self.layer)));
        }
        solve::add_gram(&mut self.hessian, &values, columns);
        for row in values.chunks(columns) {
            for (sum, value) in self.magnitudes.iter_mut().zip(row) {
                *sum += f64::from(value.abs());
            }
        }
        self.tokens += tokens;
        // What comes behind is not needed.
        Err(LmError::Stopped)
    }
}

/// Runs every run of tokens through a block, as far as the layer `layer`, whose inputs have `columns`.
pub(super) fn gather(
    block: &Block,
    states: &States,
    contexts: &dyn Fn(usize) -> Result<Context, LmError>,
    layer: &str,
    columns: usize,
) -> Result<Inputs, CalibrateError> {
    let mut inputs = Inputs {
        layer: layer.to_owned(),
        columns,
        hessian: vec![0.0; columns * columns],
        magnitudes: vec![0.0; columns],
        tokens: 0,
    };
    for run in 0..states.len() {
        let state = states.get(run)?;
        match block.forward(&state, &contexts(state.dim(0)?)?, &mut inputs) {
            Ok(_) | Err(LmError::Stopped) => {}
            Err(error) => return Err(error.into()),
        }
    }
    solve::mirror(&mut inputs.hessian, columns);
    Ok(inputs)
}

/// Replaces the states of every run by what the block makes of them.
pub(super) fn advance(
    block: &Block,
    states: &mut States,
    contexts: &dyn Fn(usize) -> Result<Context, LmError>,
) -> Result<(), CalibrateError> {
    for run in 0..states.len() {
        let state = states.get(run)?;
        let context = contexts(state.dim(0)?)?;
        states.put(run, block.forward(&state, &context, &mut crate::lm::NoTap)?)?;
    }
    Ok(())
}
