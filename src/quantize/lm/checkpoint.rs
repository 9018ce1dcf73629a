//! Tensors by name as f32, whichever way they are stored.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use super::{LmConfig, LmError, apart};
use crate::dequant::Float;
use crate::quantize::source::{ModelSource, SourceError, Tensor as Listed};

/// The largest `tokenizer.json` that is read.
const MAX_FILE: u64 = 64 << 20;

/// A model's files and tensors.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    source: Arc<ModelSource>,
    config: Value,
    names: Arc<HashMap<String, usize>>,
}

impl Checkpoint {
    /// Reads what a model says of itself. A quantized one is read as the floats that its weights stand for.
    ///
    /// # Errors
    /// If its configuration is missing, or names a quantization that is not known.
    pub fn open(source: Arc<ModelSource>) -> Result<Self, LmError> {
        let source = source.plain(None)?;
        let config = source.config()?.clone();
        Ok(Self::of(source, config))
    }

    /// The same with each linear layer of a model as a tensor of its own.
    pub(super) fn apart(self, config: &LmConfig) -> Result<Self, LmError> {
        Ok(Self::of(apart::all(self.source, config)?, self.config))
    }

    fn of(source: Arc<ModelSource>, config: Value) -> Self {
        let mut names = HashMap::new();
        for (at, tensor) in source.tensors().iter().enumerate() {
            names.entry(tensor.name.clone()).or_insert(at);
        }
        Self { source, config, names: Arc::new(names) }
    }

    /// `config.json`.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// A file of the model.
    ///
    /// # Errors
    /// If there is none, or it has more than 64 MiB, or cannot be read.
    pub fn file(&self, path: &str) -> Result<Bytes, LmError> {
        let bytes = self.source.file(path, MAX_FILE)?;
        Ok(bytes.ok_or_else(|| SourceError::NoFile { path: path.to_owned() })?)
    }

    /// Whether there is such a tensor.
    pub fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// The type of float that a tensor is stored in; `None` if there is none, or it is of another type.
    pub fn float(&self, name: &str) -> Option<Float> {
        Float::of_dtype(self.listed(name)?.dtype)
    }

    /// The tensor `name` as f32, which must have this shape and be finite.
    ///
    /// # Errors
    /// If there is none of this shape, or it cannot be read or dequantized.
    pub fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, LmError> {
        let (float, bytes) = self.plain(name, shape)?;
        finite(name, &bytes, float, shape)
    }

    /// The bytes of a tensor, which must have this shape.
    fn plain(&self, name: &str, shape: &[usize]) -> Result<(Float, Bytes), LmError> {
        let (tensor, float) = self.place(name, shape)?;
        Ok((float, self.source.read_tensor(tensor)?))
    }

    /// Rows of a matrix of this shape, one for each token of a vocabulary, as f32: those of `wanted`, which
    /// ascends. No more of it is held than these, unless it is dequantized.
    pub(super) fn rows(
        &self,
        name: &str,
        [rows, columns]: [usize; 2],
        wanted: &[u32],
    ) -> Result<Vec<f32>, LmError> {
        let beyond = wanted.last().filter(|id| **id as usize >= rows);
        let known = || match beyond {
            Some(id) => Err(LmError::Token { id: *id, vocabulary: rows }),
            None => Ok(()),
        };
        let (_, float) = self.place(name, &[rows, columns])?;
        known()?;
        let row = columns * float.size() as usize;
        let mut found = vec![0; wanted.len() * row];
        self.stream(name, &[rows, columns], &mut |begin, part| {
            let begin = begin as usize;
            let streamed = begin + part.len();
            let first = wanted.partition_point(|id| (*id as usize + 1) * row <= begin);
            let slots = found.chunks_mut(row.max(1)).zip(wanted).skip(first);
            for (slot, id) in slots.take_while(|(_, id)| (**id as usize) * row < streamed) {
                let start = *id as usize * row;
                let (from, to) = (start.max(begin), (start + row).min(streamed));
                let here = slot.get_mut(from - start..to - start);
                if let Some((slot, part)) = here.zip(part.get(from - begin..to - begin)) {
                    slot.copy_from_slice(part);
                }
            }
        })?;
        Ok(floats(&found, float, &[wanted.len() * columns])?.to_vec1()?)
    }

    /// Gives the bytes of a tensor to `take`, in order, each part with where it begins; it
    /// must have this shape.
    pub(super) fn stream(
        &self,
        name: &str,
        shape: &[usize],
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Result<Float, LmError> {
        let (tensor, float) = self.place(name, shape)?;
        let mut end = 0;
        self.source.stream(tensor, &mut |begin, part| {
            end = begin + part.len() as u64;
            take(begin, part);
        })?;
        if end != shape.iter().product::<usize>() as u64 * float.size() {
            return Err(LmError::Missing(name.to_owned()));
        }
        Ok(float)
    }

    fn listed(&self, name: &str) -> Option<&Listed> {
        self.source.tensors().get(*self.names.get(name)?)
    }

    /// A tensor, and its floats; it must have this shape.
    fn place(&self, name: &str, shape: &[usize]) -> Result<(&Listed, Float), LmError> {
        let listed = self.listed(name).ok_or_else(|| LmError::Missing(name.to_owned()))?;
        check_shape(name, listed.shape.dims(), shape)?;
        let float = Float::of_dtype(listed.dtype).ok_or_else(|| LmError::Dtype {
            name: name.to_owned(),
            dtype: listed.dtype.to_string(),
        })?;
        Ok((listed, float))
    }
}

/// Little-endian floats as a tensor of f32.
pub(super) fn floats(bytes: &[u8], float: Float, shape: &[usize]) -> Result<Tensor, LmError> {
    let dtype = match float {
        Float::F32 => DType::F32,
        Float::F16 => DType::F16,
        Float::BF16 => DType::BF16,
    };
    Ok(Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)?.to_dtype(DType::F32)?)
}

/// The same of floats of tensor `name` that must be finite.
pub(super) fn finite(
    name: &str,
    bytes: &[u8],
    float: Float,
    shape: &[usize],
) -> Result<Tensor, LmError> {
    let values = floats(bytes, float, shape)?;
    // What is not finite is NaN then.
    match values.affine(0.0, 0.0)?.sum_all()?.to_scalar::<f32>()? == 0.0 {
        true => Ok(values),
        false => Err(LmError::NotFinite(format!("tensor {name}"))),
    }
}

fn check_shape(name: &str, got: &[u64], want: &[usize]) -> Result<(), LmError> {
    if got.iter().copied().eq(want.iter().map(|dim| *dim as u64)) {
        return Ok(());
    }
    let got = got.iter().map(|dim| usize::try_from(*dim).unwrap_or(usize::MAX)).collect();
    Err(LmError::Shape { name: name.to_owned(), got, want: want.to_vec() })
}
