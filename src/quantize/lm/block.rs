//! A block of a model: its linear layers, and how it is run.

use candle_core::Tensor;

use super::attention::Context;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::linear::Linear;
use super::{LmError, checkpoint::Checkpoint, config::LmConfig};

/// Sees the inputs of linear layers while a block runs.
pub trait Tap {
    /// The linear layers `names` of the block, which share an input, are about to read `input`,
    /// f32 `[tokens, columns]`.
    ///
    /// # Errors
    /// Ends the run.
    fn input(&mut self, names: &[&str], input: &Tensor) -> Result<(), LmError>;
}

/// Looks at nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoTap;

impl Tap for NoTap {
    fn input(&mut self, _: &[&str], _: &Tensor) -> Result<(), LmError> {
        Ok(())
    }
}

/// Sequences on their way through a block, between two of its [groups](Block::groups).
#[derive(Debug, Clone)]
pub struct Passage {
    /// The group that comes next.
    pub group: usize,
    /// f32 `[tokens, hidden]`: what goes on beside the group, and after the last one what the block gives.
    pub rest: Tensor,
    /// f32 `[tokens, columns]`: what the group reads, where that does not follow from `rest`.
    pub held: Option<Tensor>,
}

impl Passage {
    /// What enters a block, f32 `[tokens, hidden]`.
    pub fn enter(rest: Tensor) -> Self {
        Self { group: 0, rest, held: None }
    }
}

/// What gives layers their input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Giver {
    /// A norm, by [`Block::norm_mut`].
    Norm(usize),
    /// The rows of a linear layer, by its place, through nothing but products and sums of columns of equal
    /// place.
    Rows(usize),
}

/// A block, read whole.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Block {
    /// Of Llama and its kin.
    Decoder(Decoder),
    /// Of BERT.
    Encoder(Encoder),
}

impl Block {
    /// Reads block `index`.
    pub(super) fn read(
        from: &Checkpoint,
        config: &LmConfig,
        prefix: &str,
        index: usize,
    ) -> Result<Self, LmError> {
        Ok(if config.is_causal() {
            Self::Decoder(Decoder::read(from, config, prefix, index)?)
        } else {
            Self::Encoder(Encoder::read(from, config, prefix, index)?)
        })
    }

    /// What the block makes of sequences, f32 `[tokens, hidden]`, one behind the other, of the length that the
    /// context is for.
    ///
    /// # Errors
    /// If the tap fails, or shapes do not fit.
    pub fn forward(
        &self,
        input: &Tensor,
        context: &Context,
        tap: &mut dyn Tap,
    ) -> Result<Tensor, LmError> {
        let mut passage = Passage::enter(input.clone());
        for group in self.groups() {
            let input = self.input(&passage, context)?;
            let linears = self.linears();
            let names = group.iter().filter_map(|at| linears.get(*at));
            tap.input(&names.map(|linear| linear.name.as_str()).collect::<Vec<_>>(), &input)?;
            passage = self.pass(passage.rest, passage.group, &input, context)?;
        }
        Ok(passage.rest)
    }

    /// What the next group reads, f32 `[tokens, columns]`.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn input(&self, passage: &Passage, context: &Context) -> Result<Tensor, LmError> {
        match (&passage.held, self) {
            (Some(held), _) => Ok(held.clone()),
            (None, Self::Decoder(block)) => block.input(passage.group, &passage.rest, context),
            (None, Self::Encoder(_)) => Ok(passage.rest.clone()),
        }
    }

    /// Runs a group on its [input](Self::input) and what follows, as far as the next group.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn pass(
        &self,
        rest: Tensor,
        group: usize,
        input: &Tensor,
        context: &Context,
    ) -> Result<Passage, LmError> {
        let (rest, held) = match self {
            Self::Decoder(block) => block.pass(rest, group, input, context)?,
            Self::Encoder(block) => block.pass(rest, group, input, context)?,
        };
        Ok(Passage { group: group + 1, rest, held })
    }

    /// Which of its [linear layers](Self::linears) share an input, in the order in which they run.
    pub fn groups(&self) -> &'static [&'static [usize]] {
        match self {
            Self::Decoder(_) => &[&[0, 1, 2], &[3], &[4, 5], &[6]],
            Self::Encoder(_) => &[&[0, 1, 2], &[3], &[4], &[5]],
        }
    }

    /// What gives each of the [groups](Self::groups) its input and can give it scaled; `None` for an input
    /// that nothing can give so, and for a block of which that holds for most.
    pub fn givers(&self) -> Option<[Option<Giver>; 4]> {
        let Self::Decoder(block) = self else { return None };
        let [_, _, v, o, ..] = block.linears();
        // With fewer heads of v than of q, several columns of o read one row of v.
        let equal = v.weight.dims().first() == o.weight.dims().last();
        let rows = equal.then_some(Giver::Rows(2));
        Some([Some(Giver::Norm(0)), rows, Some(Giver::Norm(1)), Some(Giver::Rows(5))])
    }

    /// The name and the weight, f32 `[hidden]`, of the norm before attention (0) or before the MLP (1).
    pub fn norm_mut(&mut self, which: usize) -> Option<&mut (String, Tensor)> {
        match (self, which) {
            (Self::Decoder(block), 0) => Some(&mut block.input_norm),
            (Self::Decoder(block), 1) => Some(&mut block.post_norm),
            _ => None,
        }
    }

    /// The names of some of its linear layers.
    pub fn named(&self, which: &[usize]) -> Vec<String> {
        let linears = self.linears();
        which.iter().filter_map(|at| linears.get(*at)).map(|linear| linear.name.clone()).collect()
    }

    /// Its linear layers, in the order in which they run.
    pub fn linears(&self) -> Vec<&Linear> {
        match self {
            Self::Decoder(block) => block.linears().to_vec(),
            Self::Encoder(block) => block.linears().to_vec(),
        }
    }

    /// The same, to put other weights in.
    pub fn linears_mut(&mut self) -> Vec<&mut Linear> {
        match self {
            Self::Decoder(block) => block.linears_mut().into_iter().collect(),
            Self::Encoder(block) => block.linears_mut().into_iter().collect(),
        }
    }
}
