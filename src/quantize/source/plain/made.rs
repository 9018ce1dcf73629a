//! A tensor that is made of stored ones.

use bytes::Bytes;

use super::super::{ModelSource, SourceError};
use super::piece::Piece;
use crate::dequant::config::{Facts, Method, Module, Role};
use crate::dequant::gguf::Block;
use crate::dequant::{self, Float, Layout, Part, Parts, Weight};
use crate::format::dtype::{Dtype, Shape};
use crate::gguf::names::Change;

/// What a tensor is made of.
#[derive(Debug, Clone)]
pub(super) enum From {
    /// A tensor as it is stored.
    Stored(usize),
    /// Blocks of GGUF.
    Blocks(usize, Block),
    /// The tensors of a quantized weight.
    Module(Module, Method),
    /// A part of a stored tensor.
    Piece(usize, Piece),
}

/// A tensor that is made.
#[derive(Debug, Clone)]
pub(super) struct Made {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Shape,
    pub(super) from: From,
    /// Which of the parts along the leading dimension it is, and of how many.
    pub(super) slice: Option<(u64, u64)>,
    pub(super) change: Change,
    /// Matrices along the leading dimension that are transposed each for itself.
    pub(super) matrices: u64,
}

impl Made {
    /// Makes it.
    pub(super) fn make(&self, inner: &ModelSource) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(self.name.clone());
        let out = Float::of_dtype(self.dtype);
        let bytes = match &self.from {
            From::Stored(at) => self.sliced(inner, *at)?,
            From::Piece(at, piece) => piece.make(inner, *at, self.dtype)?,
            From::Blocks(at, block) => {
                let codes = self.sliced(inner, *at)?;
                let stored = codes.len() / block.bytes();
                let row = self.source_columns() as usize;
                let rows = (stored * block.elements()).checked_div(row).unwrap_or(0);
                let small = |n: usize| u32::try_from(n).map_err(|_| defect());
                let weight =
                    Weight::new(Layout::of_blocks(*block), small(rows)?, small(row)?, Float::F16);
                let wrong = |error| SourceError::Weight { name: self.name.clone(), error };
                let parts = Parts { codes: &codes, ..Parts::default() };
                let out = out.ok_or_else(defect)?;
                dequant::dequantize(&weight.map_err(wrong)?, &parts, out).map_err(wrong)?.into()
            }
            From::Module(module, method) => {
                module_bytes(inner, module, method, out.ok_or_else(defect)?)?
            }
        };
        let len = self.shape.byte_len(self.dtype).ok_or_else(defect)?;
        if bytes.len() as u64 != len {
            return Err(defect());
        }
        self.changed(bytes)
    }

    /// Columns of what it is made of.
    fn source_columns(&self) -> u64 {
        let dims = self.shape.dims();
        let at = if self.change == Change::Transposed {
            dims.len().checked_sub(2)
        } else {
            dims.len().checked_sub(1)
        };
        at.and_then(|at| dims.get(at)).copied().unwrap_or(0)
    }

    /// The stored bytes, or its part of them.
    fn sliced(&self, inner: &ModelSource, at: usize) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(self.name.clone());
        let tensor = inner.tensors.get(at).ok_or_else(defect)?;
        let (own, count) = self.slice.unwrap_or((0, 1));
        let len = tensor.len.checked_div(count).ok_or_else(defect)?;
        let from = tensor.offset + own * len;
        inner.read(tensor.file, from..from + len)
    }

    fn changed(&self, bytes: Bytes) -> Result<Bytes, SourceError> {
        let defect = || SourceError::Defect(self.name.clone());
        let size = usize::try_from(self.dtype.bits() / 8).map_err(|_| defect())?;
        let dims: Vec<usize> =
            self.shape.dims().iter().filter_map(|dim| usize::try_from(*dim).ok()).collect();
        match self.change {
            Change::Same => Ok(bytes),
            Change::Heads(_) | Change::Groups(_) => {
                // A bias is permuted as the rows of its weight are.
                let rows = *dims.first().ok_or_else(defect)?;
                let row = bytes.len().checked_div(rows).ok_or_else(defect)?;
                let wrong = || SourceError::Heads(self.name.clone());
                let mut ordered = vec![0; bytes.len()];
                for (at, line) in bytes.chunks(row.max(1)).enumerate() {
                    let to = self.change.source_row(at, rows).ok_or_else(wrong)? * row;
                    ordered.get_mut(to..to + line.len()).ok_or_else(wrong)?.copy_from_slice(line);
                }
                Ok(ordered.into())
            }
            Change::PlusOne => {
                let float = Float::of_dtype(self.dtype).ok_or_else(defect)?;
                let mut made = Vec::with_capacity(bytes.len());
                for at in 0..bytes.len() / size.max(1) {
                    float.push(float.read(&bytes, at) - 1.0, &mut made);
                }
                Ok(made.into())
            }
            Change::Transposed => {
                let (Some(rows), Some(columns)) =
                    (dims.len().checked_sub(2).and_then(|at| dims.get(at)), dims.last())
                else {
                    return Err(defect());
                };
                // The model has `rows x columns`; what was made is the other way around.
                let mut turned = Vec::with_capacity(bytes.len());
                let matrix = rows * columns * size;
                for own in bytes.chunks(matrix.max(1)).take(self.matrices as usize) {
                    for row in 0..*rows {
                        for column in 0..*columns {
                            let at = (column * rows + row) * size;
                            turned.extend_from_slice(own.get(at..at + size).ok_or_else(defect)?);
                        }
                    }
                }
                Ok(turned.into())
            }
        }
    }
}

/// What the tensors of a quantized weight say, with the bytes of those that are kept on the host and, if `all`, of the
/// others.
pub(super) fn facts(
    inner: &ModelSource,
    module: &Module,
    all: bool,
) -> Result<(Facts, [Bytes; 3]), SourceError> {
    let mut facts = Facts::default();
    let mut parts = [Bytes::new(), Bytes::new(), Bytes::new()];
    for (at, role) in &module.tensors {
        let Some(tensor) = inner.tensors.get(*at) else { continue };
        let shapes = matches!(role, Role::State | Role::Shape);
        let bytes = if all || shapes { inner.read_tensor(tensor)? } else { Bytes::new() };
        let read = if role.is_read() { bytes.to_vec() } else { Vec::new() };
        facts.add(*role, tensor.dtype, tensor.shape.dims(), read);
        let place = match role.part() {
            Some(Part::Codes) => parts.first_mut(),
            Some(Part::Scales) => parts.get_mut(1),
            Some(Part::Zeros) => parts.get_mut(2),
            _ => None,
        };
        place.into_iter().for_each(|place| *place = bytes.clone());
    }
    Ok((facts, parts))
}

/// A quantized weight, row-major.
fn module_bytes(
    inner: &ModelSource,
    module: &Module,
    method: &Method,
    out: Float,
) -> Result<Bytes, SourceError> {
    let wrong = |error| SourceError::Weight { name: module.name.clone(), error };
    let (facts, [codes, scales, zeros]) = facts(inner, module, true)?;
    let (weight, table, index) = method.weight(&facts).map_err(wrong)?;
    let parts =
        Parts { codes: &codes, scales: &scales, zeros: &zeros, index: &index, table: &table };
    Ok(dequant::dequantize(&weight, &parts, out).map_err(wrong)?.into())
}
