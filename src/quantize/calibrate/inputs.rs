//! What the layers of a block read: gathered while the block runs, group by group.

use super::CalibrateError;
use super::states::States;
use crate::quantize::lm::{Block, Context, LmError, Passage};
use crate::quantize::solve;

/// Inputs of layers that share them, summed up by column.
#[derive(Default)]
pub(super) struct Sums {
    squares: Vec<f64>,
    magnitudes: Vec<f64>,
    tokens: usize,
}

impl Sums {
    /// Adds an input, row-major, of so many columns.
    ///
    /// # Errors
    /// If it is not finite, or of another width than those before it.
    pub(super) fn add(
        &mut self,
        layers: &[&str],
        input: &[f32],
        columns: usize,
    ) -> Result<(), LmError> {
        if self.tokens == 0 {
            (self.squares, self.magnitudes) = (vec![0.0; columns], vec![0.0; columns]);
        }
        if self.squares.len() != columns {
            return Err(LmError::Unequal(layers.join(", ")));
        }
        if input.iter().any(|value| !value.is_finite()) {
            return Err(LmError::NotFinite(format!("the input of {}", layers.join(", "))));
        }
        for row in input.chunks(columns.max(1)) {
            let sums = self.squares.iter_mut().zip(&mut self.magnitudes);
            for (value, (square, sum)) in row.iter().zip(sums) {
                let value = f64::from(value.abs());
                *square += value * value;
                *sum += value;
            }
            self.tokens += 1;
        }
        Ok(())
    }

    /// How many tokens were added.
    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// The mean square of each column: the Hessian's diagonal, by token.
    pub(super) fn squares(&self) -> Vec<f32> {
        self.mean(&self.squares)
    }

    /// The mean magnitude of each column.
    pub(super) fn means(&self) -> Vec<f32> {
        self.mean(&self.magnitudes)
    }

    fn mean(&self, sums: &[f64]) -> Vec<f32> {
        let tokens = self.tokens.max(1) as f64;
        sums.iter().map(|sum| (sum / tokens) as f32).collect()
    }
}

/// The inputs of layers that share them.
pub(super) struct Inputs {
    pub(super) sums: Sums,
    /// `X^T X` over tokens, `[columns, columns]`.
    pub(super) hessian: Vec<f32>,
}

/// Contexts by the length of sequences.
pub(super) type Contexts<'a> = dyn Fn(usize) -> Result<Context, LmError> + 'a;

/// Runs a batch as far as the group `group` of a block.
fn run(
    block: &Block,
    mut passage: Passage,
    context: &Context,
    group: usize,
) -> Result<Passage, LmError> {
    while passage.group < group {
        let input = block.input(&passage, context)?;
        passage = block.pass(passage, &input, context)?;
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

/// Sums up what the group `group` of a block reads, from wherever the batches are.
pub(super) fn gather(
    block: &Block,
    states: &States,
    contexts: &Contexts<'_>,
    group: usize,
) -> Result<Inputs, CalibrateError> {
    let layers = block.groups().get(group).map(|layers| block.named(layers)).unwrap_or_default();
    let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
    let (mut inputs, mut columns) = (Inputs { sums: Sums::default(), hessian: Vec::new() }, 0);
    for batch in 0..states.len() {
        let context = contexts(states.tokens(batch))?;
        let passage = run(block, states.get(batch)?, &context, group)?;
        let input = block.input(&passage, &context)?;
        drop(passage);
        columns = input.dim(1)?;
        let values: Vec<f32> = input.flatten_all()?.to_vec1()?;
        inputs.sums.add(&layers, &values, columns)?;
        inputs.hessian.resize(columns * columns, 0.0);
        solve::add_gram(&mut inputs.hessian, &values, columns);
    }
    solve::mirror(&mut inputs.hessian, columns);
    Ok(inputs)
}

/// How many tokens the group `number` of a block reads, which the batches have [reached](reach); of a group that is
/// of no expert, `None`: all of them.
pub(super) fn routed(
    block: &Block,
    states: &States,
    contexts: &Contexts<'_>,
    number: usize,
) -> Result<Option<usize>, CalibrateError> {
    if block.expert(number).is_none() {
        return Ok(None);
    }
    let mut tokens = 0;
    for batch in 0..states.len() {
        let context = contexts(states.tokens(batch))?;
        let passage = run(block, states.get(batch)?, &context, number)?;
        tokens += block.input(&passage, &context)?.dim(0)?;
    }
    Ok(Some(tokens))
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
