//! Host memory: the tensors as they come, each in the buffer that it was verified in; or as a device
//! like any other ([`Host`]), which dequantizes and converts by the reference.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::Sink;
use super::dequant::Dequantize;
use super::device::DeviceError;
use super::upload::{Device, Staging};
use crate::dequant::{self, Float, Part, Parts, Weight};
use crate::load::{LoadError, Tensor};
use crate::memory::buffers::Buffers;
use crate::memory::slot::SlotProvider;
use crate::schedule::plan::TensorRequest;

/// Tensors in host memory. A tensor that comes whole is not copied; one that comes in pieces is
/// gathered.
#[derive(Debug, Default)]
pub struct HostSink {
    whole: Option<Bytes>,
    gathered: BytesMut,
}

#[async_trait]
impl Sink for HostSink {
    type Output = (Arc<TensorRequest>, Bytes);
    type Error = LoadError;

    async fn begin(&mut self, _: &Arc<TensorRequest>) -> Result<(), LoadError> {
        (self.whole, self.gathered) = (None, BytesMut::new());
        Ok(())
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), LoadError> {
        if piece.offset == 0 && piece.is_last_piece() {
            self.whole = Some(piece.data);
        } else {
            if piece.offset == 0 {
                self.gathered.reserve(piece.request.cut.len() as usize);
            }
            self.gathered.extend_from_slice(&piece.data);
        }
        Ok(())
    }

    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, LoadError> {
        let gathered = std::mem::take(&mut self.gathered);
        let data = self.whole.take().unwrap_or_else(|| gathered.freeze());
        Ok((request.clone(), data))
    }
}

/// Host memory as a device: what [`super::upload`] does, by copying.
#[derive(Debug, Clone, Copy, Default)]
pub struct Host;

impl Staging for Vec<u8> {
    fn len(&self) -> usize {
        Self::len(self)
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let place = self.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        place.ok_or_else(DeviceError::beyond)?.copy_from_slice(bytes);
        Ok(())
    }
}

/// The most that is kept of memory that nobody uses.
const KEPT: usize = 64 << 20;

fn place(at: u64) -> Result<usize, DeviceError> {
    usize::try_from(at).map_err(|_| DeviceError::beyond())
}

impl Host {
    fn room(len: u64) -> Result<Vec<u8>, DeviceError> {
        let full = || DeviceError::OutOfMemory { device: Device::name(&Self) };
        let len = usize::try_from(len).map_err(|_| full())?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| full())?;
        bytes.resize(len, 0);
        Ok(bytes)
    }
}

impl Device for Host {
    type Memory = Vec<u8>;
    type Staging = Vec<u8>;
    type InFlight = Option<Vec<u8>>;

    fn name(&self) -> String {
        "host memory".to_owned()
    }

    fn allocate(&self, len: u64) -> Result<Vec<u8>, DeviceError> {
        Self::room(len)
    }

    fn staging(&self, len: usize) -> Result<Vec<u8>, DeviceError> {
        Self::room(len as u64)
    }

    fn copy(
        &self,
        from: Vec<u8>,
        len: usize,
        to: &mut Vec<u8>,
        at: u64,
    ) -> Result<Option<Vec<u8>>, DeviceError> {
        to.write(place(at)?, from.get(..len).ok_or_else(DeviceError::beyond)?)?;
        Ok(Some(from))
    }

    fn lender(&self) -> Option<Arc<dyn SlotProvider>> {
        Some(Arc::new(Buffers::new(KEPT)))
    }

    fn copy_lent(
        &self,
        from: Bytes,
        to: &mut Vec<u8>,
        at: u64,
    ) -> Result<Option<Vec<u8>>, DeviceError> {
        to.write(place(at)?, &from)?;
        Ok(None)
    }

    fn complete(&self, flying: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, DeviceError> {
        Ok(flying)
    }

    fn wait(&self) -> Result<(), DeviceError> {
        Ok(())
    }

    fn read_back(
        &self,
        memory: &Vec<u8>,
        len: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        let bytes = usize::try_from(len).ok().and_then(|len| memory.get(..len));
        take(bytes.ok_or(DeviceError::Internal("a read beyond a tensor".to_owned()))?);
        Ok(())
    }
}

impl Dequantize for Host {
    fn dequantize_parts(
        &self,
        weight: &Weight,
        parts: [Option<Vec<u8>>; 5],
        out: Float,
    ) -> Result<Vec<u8>, DeviceError> {
        let of = |part| {
            let all = Part::ALL.iter().zip(&parts);
            all.filter(|(one, _)| **one == part).find_map(|(_, bytes)| bytes.as_deref())
        };
        let of = |part| of(part).unwrap_or_default();
        let parts = Parts {
            codes: of(Part::Codes),
            scales: of(Part::Scales),
            zeros: of(Part::Zeros),
            index: of(Part::Index),
            table: of(Part::Table),
        };
        Ok(dequant::dequantize(weight, &parts, out)?)
    }

    fn convert(
        &self,
        memory: Vec<u8>,
        _: u64,
        from: Float,
        to: Float,
    ) -> Result<Vec<u8>, DeviceError> {
        Ok(dequant::convert(&memory, from, to))
    }
}
