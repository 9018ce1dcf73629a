//! A block of a model: its linear layers, and how it is run.

use candle_core::Tensor;

use super::attention::Context;
use super::decoder::Decoder;
use super::encoder::Encoder;
use super::{LmError, checkpoint::Checkpoint, config::LmConfig};

/// Sees the inputs of linear layers while a block runs.
pub trait Tap {
    /// The linear layers `names` of the block, which share an input, are about to read `input`,
    /// f32 `[tokens, columns]`.
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

/// A linear layer, `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its name in the checkpoint, without `.weight`.
    pub name: String,
    /// f32 `[rows, columns]`: outputs and inputs.
    pub weight: Tensor,
    /// f32 `[rows]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// Reads the layer `name`, of so many outputs and inputs, with its bias if it has one.
    pub(super) fn read(
        from: &Checkpoint,
        name: String,
        [rows, columns]: [usize; 2],
    ) -> Result<Self, LmError> {
        let weight = from.tensor(&format!("{name}.weight"), &[rows, columns])?;
        let bias = format!("{name}.bias");
        let bias = if from.has(&bias) { Some(from.tensor(&bias, &[rows])?) } else { None };
        Ok(Self { name, weight, bias })
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, LmError> {
        let output = input.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => output.broadcast_add(bias)?,
            None => output,
        })
    }
}

/// Runs layers that share an input.
pub(super) fn shared<const N: usize>(
    layers: [&Linear; N],
    input: &Tensor,
    tap: &mut dyn Tap,
) -> Result<[Tensor; N], LmError> {
    tap.input(&layers.map(|layer| layer.name.as_str()), input)?;
    let mut outputs = Vec::with_capacity(N);
    for layer in layers {
        outputs.push(layer.forward(input)?);
    }
    outputs.try_into().map_err(|_| LmError::Config("layers without outputs".to_owned()))
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

    /// What the block makes of one sequence, f32 `[tokens, hidden]`.
    pub fn forward(
        &self,
        input: &Tensor,
        context: &Context,
        tap: &mut dyn Tap,
    ) -> Result<Tensor, LmError> {
        match self {
            Self::Decoder(block) => block.forward(input, context, tap),
            Self::Encoder(block) => block.forward(input, context, tap),
        }
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
