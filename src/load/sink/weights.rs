//! One sink for all that a load asks of a device: tensors as they are stored or as floats of one type,
//! decoded by the host or by the device.

use std::sync::Arc;

use async_trait::async_trait;

use super::Sink;
use super::decode::{DecodeSink, Decoder, Route};
use super::dequant::{Delivered, DequantSink, Dequantize};
use super::device::DeviceError;
use super::stream::{DeviceSink, StreamOptions, UploadStats};
use crate::load::AsFloats;
use crate::load::Tensor;
use crate::schedule::plan::TensorRequest;
use crate::store::artifact::SelectedTensors;

/// Streams tensors or weights into device memory.
pub struct WeightSink<D: Dequantize> {
    plain: DeviceSink<D>,
    dequant: Option<DequantSink<D>>,
    decode: Option<DecodeSink<D>>,
    routed: Option<(u64, u64)>,
}

impl<D: Dequantize + Clone> WeightSink<D> {
    /// A sink for what is `wanted`: as `floats`, if that is said, and with chunks decoded by `decoder` as
    /// far as it can, if there is one. Also gives what is to be loaded for it.
    ///
    /// # Errors
    /// If a part of a quantized weight is wanted, as ranks do.
    pub fn new(
        device: &D,
        options: &StreamOptions,
        mut wanted: SelectedTensors,
        floats: Option<&AsFloats>,
        decoder: Option<Box<dyn Decoder<D>>>,
    ) -> Result<(Self, SelectedTensors), DeviceError> {
        let dequant = floats.map(|AsFloats { dtype, method, wanted }| {
            DequantSink::new(device.clone(), options, method.clone(), *dtype, wanted)
        });
        let plain = DeviceSink::new(device.clone(), options);
        let mut sink = Self { plain, dequant: dequant.transpose()?, decode: None, routed: None };
        if let Some(decoder) = decoder {
            let reads = |request: &TensorRequest| sink.reads(request);
            let (route, loaded) = Route::new(&wanted.tensors, decoder.as_ref(), reads);
            wanted.tensors = loaded;
            sink.routed = Some((route.device, route.host));
            let inner = DeviceSink::new(device.clone(), options);
            sink.decode = Some(DecodeSink::new(inner, decoder));
        }
        Ok((sink, wanted))
    }
}

impl<D: Dequantize> WeightSink<D> {
    /// Whether the host needs the tensor's bytes to make a weight.
    fn reads(&self, request: &TensorRequest) -> bool {
        self.dequant.as_ref().is_some_and(|sink| sink.reads(request))
    }

    /// What went to the device so far.
    pub fn stats(&self) -> UploadStats {
        let mut sum = self.plain.stats();
        let others = [
            self.dequant.as_ref().map(DequantSink::stats),
            self.decode.as_ref().map(DecodeSink::stats),
        ];
        for other in others.into_iter().flatten() {
            sum.uploads += other.uploads;
            sum.bytes += other.bytes;
            sum.tensors += other.tensors;
        }
        sum
    }

    /// Tensors that the device decodes, and that the host does, if the device was asked to.
    pub fn routed(&self) -> Option<(u64, u64)> {
        self.routed
    }
}

#[async_trait]
impl<D: Dequantize> Sink for WeightSink<D> {
    /// None for a tensor that is not the last of its weight.
    type Output = Option<Delivered<D::Memory>>;
    type Error = DeviceError;

    async fn begin(&mut self, request: &Arc<TensorRequest>) -> Result<(), DeviceError> {
        let reads = self.reads(request);
        match (&mut self.decode, &mut self.dequant) {
            (Some(decode), _) if !reads => decode.begin(request).await,
            (_, Some(dequant)) => dequant.begin(request).await,
            (_, None) => self.plain.begin(request).await,
        }
    }

    async fn piece(&mut self, piece: Tensor) -> Result<(), DeviceError> {
        let reads = self.reads(&piece.request);
        match (&mut self.decode, &mut self.dequant) {
            (Some(decode), _) if !reads => decode.piece(piece).await,
            (_, Some(dequant)) => dequant.piece(piece).await,
            (_, None) => self.plain.piece(piece).await,
        }
    }

    async fn finish(&mut self, request: &Arc<TensorRequest>) -> Result<Self::Output, DeviceError> {
        let reads = self.reads(request);
        match (&mut self.decode, &mut self.dequant) {
            (Some(decode), dequant) if !reads => {
                let tensor = decode.finish(request).await?;
                match dequant {
                    Some(dequant) => dequant.arrived(tensor),
                    None => Ok(Some(tensor.into())),
                }
            }
            (_, Some(dequant)) => dequant.finish(request).await,
            (_, None) => Ok(Some(self.plain.finish(request).await?.into())),
        }
    }
}
