//! A linear layer of a model.

use std::ops::{Deref, Range};

use candle_core::{CpuStorage, Device, Storage, Tensor};

use super::{LmError, checkpoint::Checkpoint};

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
        let weight = format!("{name}.weight");
        let weight = from.tensor(&weight, &[rows, columns])?;
        let bias = format!("{name}.bias");
        let bias = if from.has(&bias) { Some(from.tensor(&bias, &[rows])?) } else { None };
        Ok(Self { name, weight, bias })
    }

    /// The weight's numbers, row-major, where they lie.
    ///
    /// # Errors
    /// If the weight is no plain matrix.
    pub fn values(&self) -> Result<Values<'_>, LmError> {
        let (storage, layout) = self.weight.storage_and_layout();
        let range = layout.contiguous_offsets();
        let range = range.map_or(0..0, |(start, end)| start..end);
        let values = Values { storage: Box::new(storage), range };
        match values.len() == self.weight.elem_count() {
            true => Ok(values),
            false => Err(LmError::Defect("a weight is no plain matrix")),
        }
    }

    /// Takes the weight's numbers, row-major, out of the layer, which has no rows until it is given others.
    ///
    /// # Errors
    /// If the weight is no plain matrix.
    pub fn take(&mut self) -> Result<Vec<f32>, LmError> {
        let columns = self.weight.dim(1)?;
        let none = Tensor::from_vec(Vec::<f32>::new(), (0, columns), &Device::Cpu)?;
        let values = self.values()?.to_vec();
        self.weight = none;
        Ok(values)
    }

    /// Changes the weight's numbers, row-major.
    ///
    /// # Errors
    /// If the weight is no plain matrix.
    pub fn change(&mut self, change: impl FnOnce(&mut [f32])) -> Result<(), LmError> {
        let shape = self.weight.dims2()?;
        let mut values = self.take()?;
        change(&mut values);
        self.weight = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(())
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, LmError> {
        let output = input.matmul(&self.weight.t()?)?;
        Ok(match &self.bias {
            Some(bias) => output.broadcast_add(bias)?,
            None => output,
        })
    }
}

/// The numbers of a tensor.
pub struct Values<'t> {
    storage: Box<dyn Deref<Target = Storage> + 't>,
    range: Range<usize>,
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &**self.storage {
            Storage::Cpu(CpuStorage::F32(values)) => {
                values.get(self.range.clone()).unwrap_or_default()
            }
            _ => &[],
        }
    }
}
