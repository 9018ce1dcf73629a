//! Checkpoints into device memory as weights of one type of float. The tensors of a quantized weight are
//! gathered on the device, and when the last of them is there, a kernel makes the weight of them.
//!
//! Of tensors that belong to no quantized weight, bf16, f16 and f32 are converted to the type asked and
//! the rest passes as it is stored. What a kernel indexes with is checked on the host on its way.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use super::device::DeviceError;
use super::stream::{DeviceSink, DeviceTensor, StreamOptions, UploadStats};
use super::upload::Device;
use crate::dequant::config::{Facts, Method, Role};
use crate::dequant::{Float, Part, QuantError, Weight};
use crate::format::dtype::{Dtype, Shape};
use crate::load::Tensor;
use crate::load::modules;
use crate::schedule::plan::TensorRequest;

/// A device that dequantizes and converts.
pub trait Dequantize: Device {
    /// Dequantizes a weight whose parts were checked, each in device memory, in the order of
    /// [`Part::ALL`].
    ///
    /// # Errors
    /// If no kernel reads the layout, or the device fails.
    fn dequantize_parts(
        &self,
        weight: &Weight,
        parts: [Option<Self::Memory>; 5],
        out: Float,
    ) -> Result<Self::Memory, DeviceError>;

    /// Makes `elements` floats `from` another type of `to`, as [`crate::dequant::convert`] does.
    ///
    /// # Errors
    /// If the device fails.
    fn convert(
        &self,
        memory: Self::Memory,
        elements: u64,
        from: Float,
        to: Float,
    ) -> Result<Self::Memory, DeviceError>;
}

/// How a tensor came to be what is delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Made {
    /// As it is stored.
    Stored,
    /// Converted from another type of float.
    Converted,
    /// Made of a quantized weight.
    Dequantized,
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
    /// How it came to be.
    pub made: Made,
}

impl<M> From<DeviceTensor<M>> for Delivered<M> {
    fn from(DeviceTensor { request, memory }: DeviceTensor<M>) -> Self {
        Self {
            name: request.entry.name.clone(),
            file: request.entry.file,
            dtype: request.entry.dtype,
            shape: request.shape.clone(),
            len: request.cut.len(),
            memory,
            made: Made::Stored,
        }
    }
}

/// The tensors of a weight, as far as they have come.
struct Gathering<M> {
    name: String,
    missing: usize,
    facts: Facts,
    parts: [Option<M>; 5],
}

/// Streams a checkpoint into device memory, its weights as floats of one type.
pub struct DequantSink<D: Dequantize> {
    inner: DeviceSink<D>,
    method: Option<Method>,
    out: Float,
    /// The weight that a tensor belongs to, by file and place in it, and what it is to it.
    roles: HashMap<(u32, String), (usize, Role)>,
    weights: Vec<Option<Gathering<D::Memory>>>,
    /// The bytes of a tensor that is read here.
    reading: Option<Vec<u8>>,
}

impl<D: Dequantize> DequantSink<D> {
    /// A sink for the tensors `wanted` of a checkpoint quantized by `method`, if it is, into floats
    /// `out`. Parts of quantized weights, which ranks want, are refused.
    ///
    /// # Errors
    /// If a part of a quantized weight is wanted, or its tensors do not make one.
    pub fn new(
        device: D,
        options: &StreamOptions,
        method: Option<Method>,
        out: Float,
        wanted: &[Arc<TensorRequest>],
    ) -> Result<Self, DeviceError> {
        let mut roles = HashMap::new();
        let mut weights = Vec::new();
        for group in method.as_ref().map(|method| modules(method, wanted)).unwrap_or_default() {
            for (at, role) in &group.tensors {
                let Some(request) = wanted.get(*at) else { continue };
                if request.cut.len() != request.entry.byte_len() {
                    return Err(DeviceError::Part { name: group.name });
                }
                let key = (request.entry.file, request.entry.name.clone());
                roles.insert(key, (weights.len(), *role));
            }
            weights.push(Some(Gathering {
                name: group.name,
                missing: group.tensors.len(),
                facts: Facts::default(),
                parts: [const { None }; 5],
            }));
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

    fn role(&self, request: &TensorRequest) -> Option<(usize, Role)> {
        self.roles.get(&(request.entry.file, request.entry.name.clone())).copied()
    }

    /// Device memory with `bytes` in it, through the ring.
    fn upload(&mut self, bytes: &[u8]) -> Result<Option<D::Memory>, DeviceError> {
        if bytes.is_empty() { Ok(None) } else { self.inner.upload(bytes).map(Some) }
    }

    /// A tensor that is no part of a quantized weight.
    fn pass(
        &self,
        request: &Arc<TensorRequest>,
        memory: D::Memory,
    ) -> Result<Delivered<D::Memory>, DeviceError> {
        let mut one = Delivered::from(DeviceTensor { request: request.clone(), memory });
        let from = Float::of_dtype(one.dtype).filter(|from| *from != self.out);
        if let Some(from) = from {
            let elements = one.len / from.size();
            one.memory = self.device().convert(one.memory, elements, from, self.out)?;
            one.len = elements * self.out.size();
            (one.dtype, one.made) = (self.out.dtype(), Made::Converted);
        }
        Ok(one)
    }

    /// Makes the weight whose tensors have all come.
    fn make(
        &mut self,
        method: &Method,
        gathered: Gathering<D::Memory>,
        file: u32,
    ) -> Result<Delivered<D::Memory>, DeviceError> {
        let named = |error| DeviceError::Weight { name: gathered.name.clone(), error };
        let (weight, table, index) = method.weight(&gathered.facts).map_err(named)?;
        for part in [Part::Codes, Part::Scales, Part::Zeros] {
            let (got, request) = (gathered.facts.byte_len(part), weight.part_len(part));
            if got != request {
                return Err(named(QuantError::Length { part, got, want: request }));
            }
        }
        for (part, bytes) in [(Part::Table, &table), (Part::Index, &index)] {
            let (got, request) = (bytes.len() as u64, weight.part_len(part));
            if got != request {
                return Err(named(QuantError::Length { part, got, want: request }));
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
            made: Made::Dequantized,
        })
    }
}

#[async_trait]
impl<D: Dequantize> Sink for DequantSink<D> {
    /// None for a tensor that is not the last of its weight.
    type Output = Option<Delivered<D::Memory>>;
    type Error = DeviceError;

    async fn begin(&mut self, request: &Arc<TensorRequest>) -> Result<(), DeviceError> {
        self.reading = None;
        match self.role(request) {
            Some((_, role)) if role.is_read() => {
                self.reading = Some(Vec::new());
                Ok(())
            }
            _ => self.inner.begin(request).await,
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

    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, DeviceError> {
        let (bytes, memory) = match self.reading.take() {
            Some(bytes) => (bytes, None),
            None => (Vec::new(), Some(self.inner.finish(request).await?.memory)),
        };
        self.add(request, bytes, memory)
    }
}

impl<D: Dequantize> DequantSink<D> {
    /// Whether the tensor is read by the host, and so must come through this sink.
    pub fn reads(&self, request: &TensorRequest) -> bool {
        self.role(request).is_some_and(|(_, role)| role.is_read())
    }

    /// A tensor that came into device memory another way.
    ///
    /// # Errors
    /// If it does not make a weight with those before it, or the device fails.
    pub fn arrived(
        &mut self,
        tensor: DeviceTensor<D::Memory>,
    ) -> Result<Option<Delivered<D::Memory>>, DeviceError> {
        self.add(&tensor.request, Vec::new(), Some(tensor.memory))
    }

    /// Adds a tensor, in host memory or on the device, to its weight, if it has one.
    fn add(
        &mut self,
        request: &Arc<TensorRequest>,
        bytes: Vec<u8>,
        memory: Option<D::Memory>,
    ) -> Result<Option<Delivered<D::Memory>>, DeviceError> {
        let entry = &request.entry;
        let Some((number, role)) = self.role(request) else {
            let memory =
                memory.ok_or(DeviceError::Internal("a tensor without memory".to_owned()))?;
            return self.pass(request, memory).map(Some);
        };
        let slot = self.weights.get_mut(number);
        let slot = slot.ok_or(DeviceError::Internal("a weight that is not there".to_owned()))?;
        let Some(gathering) = slot else {
            return Err(DeviceError::Internal("a tensor after the last of its weight".to_owned()));
        };
        gathering.facts.add(role, entry.dtype, entry.shape.dims(), bytes);
        if let Some(part) = role.part() {
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
        match (self.method.clone(), slot.take()) {
            (Some(method), Some(gathered)) => self.make(&method, gathered, entry.file).map(Some),
            _ => Ok(None),
        }
    }
}

impl<D: Device> DeviceSink<D> {
    /// New device memory with `bytes` in it, through the ring.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn upload(&mut self, bytes: &[u8]) -> Result<D::Memory, DeviceError> {
        let mut memory = self.device().allocate(bytes.len() as u64)?;
        self.fill(&mut memory, 0, bytes)?;
        Ok(memory)
    }
}
