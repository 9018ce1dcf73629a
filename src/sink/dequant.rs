//! Quantized checkpoints into device memory as plain weights: the tensors of a weight are gathered on
//! the device, and when the last of them is there, a kernel makes the weight of them.
//!
//! Tensors that belong to no quantized weight pass through as they are stored. What a kernel indexes
//! with is checked on the host on its way.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use super::device::DeviceError;
use super::stream::{DeviceSink, StreamOptions, UploadStats};
use super::upload::{Device, Staging};
use crate::dtype::{Dtype, Shape};
use crate::loader::Tensor;
use crate::plan::Want;
use crate::quant::config::{Facts, Method, Role, Stored};
use crate::quant::{Float, Part, QuantError, Weight};

/// A device that dequantizes.
pub trait Dequantize: Device {
    /// Dequantizes a weight whose parts were checked, each in device memory, in the order of
    /// [`Part::ALL`].
    fn dequantize_parts(
        &self,
        weight: &Weight,
        parts: [Option<Self::Memory>; 5],
        out: Float,
    ) -> Result<Self::Memory, DeviceError>;
}

/// A weight or another tensor in device memory.
#[derive(Debug)]
pub struct Delivered<M> {
    /// Its name: of a quantized weight, what it is called where it is not quantized.
    pub name: String,
    /// The file it is from.
    pub file: u32,
    /// The type it is delivered in.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: Shape,
    /// Its bytes.
    pub len: u64,
    /// Where they are, row-major.
    pub memory: M,
    /// Whether it was dequantized.
    pub dequantized: bool,
}

/// The tensors of a weight, as far as they have come.
struct Gathering<M> {
    name: String,
    missing: usize,
    facts: Facts,
    parts: [Option<M>; 5],
}

/// Streams a quantized checkpoint into device memory, its weights as floats.
pub struct DequantSink<D: Dequantize> {
    inner: DeviceSink<D>,
    method: Method,
    out: Float,
    /// The weight that a tensor belongs to, by file and place in it, and what it is to it.
    roles: HashMap<(u32, String), (usize, Role)>,
    weights: Vec<Option<Gathering<D::Memory>>>,
    /// The bytes of a tensor that is read here.
    reading: Option<Vec<u8>>,
}

impl<D: Dequantize> DequantSink<D> {
    /// A sink for the tensors `wanted`, all of a checkpoint quantized by `method`, into floats `out`.
    /// Parts of tensors, which ranks want, are refused.
    pub fn new(
        device: D,
        options: &StreamOptions,
        method: Method,
        out: Float,
        wanted: &[Arc<Want>],
    ) -> Result<Self, DeviceError> {
        let stored = |want: &Want| want.cut.len() == want.entry.byte_len();
        if !wanted.iter().all(|want| stored(want)) {
            let why = "a shard of a quantized checkpoint is delivered only as it is stored";
            return Err(QuantError::Unsupported(why).into());
        }
        let mut roles = HashMap::new();
        let mut weights = Vec::new();
        let mut files: Vec<u32> = wanted.iter().map(|want| want.entry.file).collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            let of_file: Vec<_> = wanted.iter().filter(|want| want.entry.file == file).collect();
            let list: Vec<_> = of_file
                .iter()
                .map(|want| Stored {
                    name: &want.entry.name,
                    dtype: want.entry.dtype,
                    dims: want.entry.shape.dims(),
                })
                .collect();
            for module in method.modules(&list) {
                for (at, role) in &module.tensors {
                    if let Some(want) = of_file.get(*at) {
                        roles.insert((file, want.entry.name.clone()), (weights.len(), *role));
                    }
                }
                weights.push(Some(Gathering {
                    name: module.name,
                    missing: module.tensors.len(),
                    facts: Facts::default(),
                    parts: [const { None }; 5],
                }));
            }
        }
        let inner = DeviceSink::new(device, options);
        Ok(Self { inner, method, out, roles, weights, reading: None })
    }

    /// The device.
    pub fn device(&self) -> &D {
        self.inner.device()
    }

    /// What went to the device so far.
    pub fn stats(&self) -> UploadStats {
        self.inner.stats()
    }

    fn role(&self, want: &Want) -> Option<(usize, Role)> {
        self.roles.get(&(want.entry.file, want.entry.name.clone())).copied()
    }

    /// Device memory with `bytes` in it, through the ring.
    fn upload(&mut self, bytes: &[u8]) -> Result<Option<D::Memory>, DeviceError> {
        if bytes.is_empty() { Ok(None) } else { self.inner.upload(bytes).map(Some) }
    }

    /// Makes the weight whose tensors have all come.
    fn make(
        &mut self,
        gathered: Gathering<D::Memory>,
        file: u32,
    ) -> Result<Delivered<D::Memory>, DeviceError> {
        let named = |error| DeviceError::Weight { name: gathered.name.clone(), error };
        let (weight, table, index) = self.method.weight(&gathered.facts).map_err(named)?;
        for part in [Part::Codes, Part::Scales, Part::Zeros] {
            let (got, want) = (gathered.facts.byte_len(part), weight.part_len(part));
            if got != want {
                return Err(named(QuantError::Length { part, got, want }));
            }
        }
        for (part, bytes) in [(Part::Table, &table), (Part::Index, &index)] {
            let (got, want) = (bytes.len() as u64, weight.part_len(part));
            if got != want {
                return Err(named(QuantError::Length { part, got, want }));
            }
        }
        let mut parts = gathered.parts;
        let [.., index_at, table_at] = &mut parts;
        *index_at = self.upload(&index)?;
        *table_at = self.upload(&table)?;
        let memory = self.device().dequantize_parts(&weight, parts, self.out)?;
        let shape = Shape::new(vec![weight.rows().into(), weight.cols().into()]);
        Ok(Delivered {
            name: gathered.name,
            file,
            dtype: self.out.dtype(),
            shape: shape.unwrap_or_else(|| Shape::vector(weight.elements())),
            len: weight.elements() * self.out.size(),
            memory,
            dequantized: true,
        })
    }
}

#[async_trait]
impl<D: Dequantize> Sink for DequantSink<D> {
    /// None for a tensor that is not the last of its weight.
    type Output = Option<Delivered<D::Memory>>;
    type Error = DeviceError;

    async fn begin(&mut self, want: &Arc<Want>) -> Result<(), DeviceError> {
        self.reading = None;
        match self.role(want) {
            Some((_, role)) if role.is_read() => {
                self.reading = Some(Vec::new());
                Ok(())
            }
            _ => self.inner.begin(want).await,
        }
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), DeviceError> {
        match &mut self.reading {
            Some(bytes) => {
                bytes.extend_from_slice(&piece.data);
                Ok(())
            }
            None => self.inner.piece(piece).await,
        }
    }

    async fn finish(&mut self, want: &Arc<Want>) -> Result<Self::Output, DeviceError> {
        let entry = &want.entry;
        let (bytes, memory) = match self.reading.take() {
            Some(bytes) => (bytes, None),
            None => (Vec::new(), Some(self.inner.finish(want).await?.memory)),
        };
        let Some((number, role)) = self.role(want) else {
            let memory =
                memory.ok_or(DeviceError::Internal("a tensor without memory".to_owned()))?;
            return Ok(Some(Delivered {
                name: entry.name.clone(),
                file: entry.file,
                dtype: entry.dtype,
                shape: entry.shape.clone(),
                len: want.cut.len(),
                memory,
                dequantized: false,
            }));
        };
        let slot = self.weights.get_mut(number);
        let slot = slot.ok_or(DeviceError::Internal("a weight that is not there".to_owned()))?;
        let Some(gathering) = slot else {
            return Err(DeviceError::Internal("a tensor after the last of its weight".to_owned()));
        };
        gathering.facts.add(role, entry.dtype, entry.shape.dims(), bytes);
        if let Role::Part(part) = role {
            for (to, one) in gathering.parts.iter_mut().zip(Part::ALL) {
                if one == part && memory.is_some() {
                    *to = memory;
                    break;
                }
            }
        }
        gathering.missing = gathering.missing.saturating_sub(1);
        if gathering.missing > 0 {
            return Ok(None);
        }
        match slot.take() {
            Some(gathered) => self.make(gathered, entry.file).map(Some),
            None => Ok(None),
        }
    }
}

impl<D: Device> DeviceSink<D> {
    /// New device memory with `bytes` in it, through the ring.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<D::Memory, DeviceError> {
        let mut memory = self.device().allocate(bytes.len() as u64)?;
        let size = self.ring().size();
        for (number, part) in bytes.chunks(size).enumerate() {
            let mut buffer = self.ring().take()?;
            buffer.write(0, part);
            self.ring().copy(buffer, part.len(), &mut memory, (number * size) as u64)?;
            self.count(part.len());
        }
        Ok(memory)
    }
}
