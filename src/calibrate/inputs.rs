//! What the layers of a block read: gathered while the block runs, group by group.

use candle_core::Tensor;

use super::CalibrateError;
use super::states::States;
use crate::lm::{Block, Context, LmError, Passage};
use crate::solve;

/// The inputs of layers that share them, summed up.
pub(super) struct Inputs {
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

impl Inputs {
    fn add(&mut self, layer: &str, input: &Tensor) -> Result<(), LmError> {
        let (tokens, columns) = input.dims2()?;
        if columns != self.columns {
            return Err(LmError::Config(format!("{layer} reads {columns} columns")));
        }
        let values: Vec<f32> = input.flatten_all()?.to_vec1()?;
        if values.iter().any(|value| !value.is_finite()) {
            return Err(LmError::NotFinite(format!("the input of {layer}")));
        }
        solve::add_gram(&mut self.hessian, &values, columns);
        for row in values.chunks(columns.max(1)) {
            for (sum, value) in self.magnitudes.iter_mut().zip(row) {
                *sum += f64::from(value.abs());
            }
        }
        self.tokens += tokens;
        Ok(())
    }
}

type Contexts<'a> = dyn Fn(usize) -> Result<Context, LmError> + 'a;

/// Runs a batch as far as the group `group` of a block.
fn run(
    block: &Block,
    mut passage: Passage,
    context: &Context,
    group: usize,
) -> Result<Passage, LmError> {
    while passage.group < group {
        let input = block.input(&passage, context)?;
        // What was held is not needed beside what is read.
        passage = block.pass(passage.rest, passage.group, &input, context)?;
    }
    Ok(passage)
}

/// Runs all batches as far as the group `group` of a block, where they stay.
pub(super) fn reach(
    block: &Block,
    states: &mut States,
    contexts: &Contexts<'_>,
    group: usize,
) -> Result<(), CalibrateError> {
    for batch in 0..states.len() {
        let passage = states.get(batch)?;
        if passage.group < group {
            let context = contexts(states.tokens(batch))?;
            states.put(batch, run(block, passage, &context, group)?)?;
        }
    }
    Ok(())
}

/// Sums up what the group `group` of a block reads, `columns` wide, from wherever the batches are.
pub(super) fn gather(
    block: &Block,
    states: &States,
    contexts: &Contexts<'_>,
    group: usize,
    columns: usize,
) -> Result<Inputs, CalibrateError> {
    let mut inputs = Inputs {
        columns,
        hessian: vec![0.0; columns * columns],
        magnitudes: vec![0.0; columns],
        tokens: 0,
    };
    let layers = block.groups().get(group).map(|layers| block.named(layers)).unwrap_or_default();
    let layer = layers.first().map(String::as_str).unwrap_or_default();
    for batch in 0..states.len() {
        let context = contexts(states.tokens(batch))?;
        let passage = run(block, states.get(batch)?, &context, group)?;
        inputs.add(layer, &block.input(&passage, &context)?)?;
    }
    solve::mirror(&mut inputs.hessian, columns);
    Ok(inputs)
}

/// Runs all batches out of a block and into the next.
pub(super) fn advance(
    block: &Block,
    states: &mut States,
    contexts: &Contexts<'_>,
) -> Result<(), CalibrateError> {
    for batch in 0..states.len() {
        let context = contexts(states.tokens(batch))?;
        let passage = run(block, states.get(batch)?, &context, block.groups().len())?;
        states.put(batch, Passage::enter(passage.rest))?;
    }
    Ok(())
}
