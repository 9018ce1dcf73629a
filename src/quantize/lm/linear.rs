//! A linear layer of a model.

use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::{CpuStorage, Device, Storage, Tensor};

use super::shelf::Shelf;
use super::{LmError, checkpoint::Checkpoint};

/// A linear layer, `y = x W^T + b`.
#[derive(Debug, Clone)]
pub struct Linear {
    /// Its name in the checkpoint, without `.weight`.
    pub name: String,
    /// f32 `[rows]`.
    pub bias: Option<Tensor>,
    /// Outputs and inputs.
    shape: [usize; 2],
    weight: Weight,
}

/// Where a weight is, f32 `[rows, columns]`.
#[derive(Debug, Clone)]
enum Weight {
    Held(Tensor),
    /// Not in memory: in the checkpoint, as long as nobody changes it, and then where the shelf has put it.
    Away(Arc<Shelf>, Option<u64>),
}

impl Linear {
    /// Reads the layer `name`, of so many outputs and inputs, with its bias if it has one. What is put on a `shelf` is
    /// read whenever it is used.
    pub(super) fn read(
        from: &Checkpoint,
        name: String,
        shape: [usize; 2],
        shelf: Option<&Arc<Shelf>>,
    ) -> Result<Self, LmError> {
        let bias = format!("{name}.bias");
        let bias = if from.has(&bias) { Some(from.tensor(&bias, &shape[..1])?) } else { None };
        let weight = match shelf {
            Some(shelf) => Weight::Away(shelf.clone(), None),
            None => Weight::Held(from.tensor(&weight_of(&name), &shape)?),
        };
        Ok(Self { name, bias, shape, weight })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.shape[0]
    }

    /// Inputs.
    pub fn columns(&self) -> usize {
        self.shape[1]
    }

    /// Whether its weight is in memory while nobody uses it.
    pub fn is_held(&self) -> bool {
        matches!(self.weight, Weight::Held(_))
    }

    /// The weight, f32 `[rows, columns]`.
    ///
    /// # Errors
    /// If it is not held, and cannot be read.
    pub fn weight(&self) -> Result<Tensor, LmError> {
        match &self.weight {
            Weight::Held(weight) => Ok(weight.clone()),
            Weight::Away(shelf, None) => shelf.original(&weight_of(&self.name), self.shape),
            Weight::Away(shelf, Some(place)) => shelf.changed(*place, self.shape),
        }
    }

    /// Gives the layer another weight, row-major.
    ///
    /// # Errors
    /// If it has another size, or cannot be put away.
    pub fn set(&mut self, values: Vec<f32>) -> Result<(), LmError> {
        let weight = Tensor::from_vec(values, (self.shape[0], self.shape[1]), &Device::Cpu)?;
        match &mut self.weight {
            Weight::Held(held) => *held = weight,
            Weight::Away(shelf, place) => *place = Some(shelf.put(*place, &weight)?),
        }
        Ok(())
    }

    /// The weight's numbers, row-major; where they lie, if they are held.
    ///
    /// # Errors
    /// If the weight is no plain matrix, or cannot be read.
    pub fn values(&self) -> Result<Values<'_>, LmError> {
        let Weight::Held(weight) = &self.weight else {
            return Ok(Values(Numbers::Own(self.weight()?.flatten_all()?.to_vec1()?)));
        };
        let (storage, layout) = weight.storage_and_layout();
        let range = layout.contiguous_offsets();
        let range = range.map_or(0..0, |(start, end)| start..end);
        let values = Values(Numbers::Lent(Box::new(storage), range));
        match values.len() == weight.elem_count() {
            true => Ok(values),
            false => Err(LmError::Defect("a weight is no plain matrix")),
        }
    }

    /// Takes the weight's numbers, row-major, out of the layer, which must be [given](Self::set) others before it is
    /// used again.
    ///
    /// # Errors
    /// If the weight is no plain matrix, or cannot be read.
    pub fn take(&mut self) -> Result<Vec<f32>, LmError> {
        let values = match self.values()?.0 {
            Numbers::Own(values) => values,
            lent => Values(lent).to_vec(),
        };
        if let Weight::Held(weight) = &mut self.weight {
            let none = (0, self.shape[1]);
            *weight = Tensor::from_vec(Vec::<f32>::new(), none, &Device::Cpu)?;
        }
        Ok(values)
    }

    /// Changes the weight's numbers, row-major.
    ///
    /// # Errors
    /// If the weight is no plain matrix, or cannot be read or put away.
    pub fn change(&mut self, change: impl FnOnce(&mut [f32])) -> Result<(), LmError> {
        let mut values = self.take()?;
        change(&mut values);
        self.set(values)
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, LmError> {
        let output = input.matmul(&self.weight()?.t()?)?;
        Ok(match &self.bias {
            Some(bias) => output.broadcast_add(bias)?,
            None => output,
        })
    }
}

fn weight_of(layer: &str) -> String {
    format!("{layer}.weight")
}

/// The numbers of a tensor.
pub struct Values<'t>(Numbers<'t>);

enum Numbers<'t> {
    Lent(Box<dyn Deref<Target = Storage> + 't>, Range<usize>),
    Own(Vec<f32>),
}

impl Deref for Values<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &self.0 {
            Numbers::Own(values) => values,
            Numbers::Lent(storage, range) => match &***storage {
                Storage::Cpu(CpuStorage::F32(values)) => {
                    values.get(range.clone()).unwrap_or_default()
                }
                _ => &[],
            },
        }
    }
}
