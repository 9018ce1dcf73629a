//! Two models on the same windows of text, token by token.
//!
//! The one is run once for each window, and what it ends with is put aside, so that any number of others can be
//! held against it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use candle_core::Tensor;

use crate::quantize::lm::{Block, Compared, Context, Head, LmError, Model, NoTap, Spool};

/// Bytes of hidden states held at a time.
const BUDGET: usize = 256 << 20;

/// The hidden states that `model` ends with, f32 `[tokens, hidden]`, for each window. Blocks are read once for as
/// many windows as are held at a time.
fn run(
    model: &Model,
    windows: &[&[u32]],
    mut each: impl FnMut(usize, Tensor) -> Result<(), LmError>,
) -> Result<(), LmError> {
    let config = model.config();
    let longest = windows.iter().map(|window| window.len()).max().unwrap_or(1);
    let at_once = (BUDGET / (longest * config.hidden * 4).max(1)).max(1);
    let mut contexts: HashMap<usize, Context> = HashMap::new();
    for window in windows {
        if let Entry::Vacant(place) = contexts.entry(window.len()) {
            place.insert(Context::new(config, window.len())?);
        }
    }
    for (batch, first) in windows.chunks(at_once).zip((0..).step_by(at_once)) {
        let mut states = model.embed(batch)?;
        for index in 0..config.layers {
            let block: Block = model.block(index)?;
            for (state, window) in states.iter_mut().zip(batch) {
                let Some(context) = contexts.get(&window.len()) else { continue };
                *state = block.forward(state, context, &mut NoTap)?;
            }
        }
        for (at, state) in states.into_iter().enumerate() {
            each(first + at, state)?;
        }
    }
    Ok(())
}

/// A model that others are held against.
pub struct Reference<'m> {
    model: &'m Model,
    head: Head,
    spool: Spool,
    /// Where the states of a window begin, and how many tokens it has.
    places: HashMap<usize, (u64, usize)>,
    end: u64,
}

impl<'m> Reference<'m> {
    /// Opens the model's end. No window is read yet.
    ///
    /// # Errors
    /// If the model predicts no tokens, or a weight is missing.
    pub fn new(model: &'m Model) -> Result<Self, LmError> {
        let (head, spool) = (model.head()?, Spool::new()?);
        Ok(Self { model, head, spool, places: HashMap::new(), end: 0 })
    }

    /// Runs the model on those of these windows, each with its number, that it has not read.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn read(&mut self, windows: &[(usize, &[u32])]) -> Result<(), LmError> {
        let new: Vec<_> =
            windows.iter().filter(|(at, _)| !self.places.contains_key(at)).copied().collect();
        let tokens: Vec<&[u32]> = new.iter().map(|(_, window)| *window).collect();
        run(self.model, &tokens, |at, state| {
            self.spool.write(self.end, &state)?;
            if let Some((number, window)) = new.get(at) {
                self.places.insert(*number, (self.end, window.len()));
            }
            self.end += state.elem_count() as u64 * 4;
            Ok(())
        })
    }

    /// Holds another model against this one: for each of these windows, each with its number, what both say of
    /// every token but the first.
    ///
    /// # Errors
    /// If one of them cannot be run, or they are not of one shape.
    pub fn compare(
        &mut self,
        other: &Model,
        windows: &[(usize, &[u32])],
    ) -> Result<Vec<Vec<Compared>>, LmError> {
        let (own, its) = (self.model.config(), other.config());
        if (own.vocabulary, own.hidden) != (its.vocabulary, its.hidden) {
            return Err(LmError::Feature {
                what: "comparing models of",
                value: format!("{} and {} tokens", own.vocabulary, its.vocabulary),
            });
        }
        self.read(windows)?;
        let head = other.head()?;
        let tokens: Vec<&[u32]> = windows.iter().map(|(_, window)| *window).collect();
        let mut all = Vec::with_capacity(windows.len());
        run(other, &tokens, |at, state| {
            let Some((number, window)) = windows.get(at) else { return Ok(()) };
            let next = window.get(1..).unwrap_or_default();
            let Some((place, count)) = self.places.get(number) else { return Ok(()) };
            let reference = self.spool.read(*place, (*count, own.hidden))?;
            let (reference, state) =
                (reference.narrow(0, 0, next.len())?, state.narrow(0, 0, next.len())?);
            all.push(self.head.compare(&reference, (&head, &state), next)?);
            Ok(())
        })?;
        Ok(all)
    }
}
