//! `tenpak load --device` and `--dtype`: tensors into device memory, one by one, as they are stored or
//! as weights of one type.

use std::collections::BTreeMap;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::bytes;
use super::error::{Failure, VERIFICATION};
use super::load_dtype::Convert;
use super::progress::Bar;
use crate::dequant::Float;
use crate::format::id::to_hex;
use crate::load::artifact::SelectedTensors;
use crate::load::sink::Sink;
use crate::load::sink::decode::{DecodeSink, Decoder, Route};
use crate::load::sink::dequant::{self, DequantSink, Dequantize, Made};
use crate::load::sink::device::DeviceError;
use crate::load::sink::stream::{DeviceSink, DeviceTensor, StreamOptions, UploadStats};
use crate::load::{LoadStats, Loader, Tensor};
use crate::schedule::plan::TensorRequest;

/// What was delivered.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    pub(super) tensors: u64,
    pub(super) raw_bytes: u64,
    pub(super) first_tensor: Option<f64>,
    pub(super) digests: BTreeMap<String, String>,
    /// The device's name, and what went there.
    pub(super) device: Option<(String, UploadStats)>,
    /// What became of tensors that were to be delivered in one type.
    pub(super) made: Option<Summary>,
    /// Tensors that the device decoded, and that the host did, if the device was asked to.
    pub(super) routed: Option<(u64, u64)>,
    /// What is kept in host memory until all is said.
    pub(super) kept: Vec<Tensor>,
}

impl Delivered {
    /// Names a digest: by the file too if another has a tensor of that name.
    pub(super) fn digest(&mut self, name: &str, file: u32, digest: &blake3::Hash) {
        let mut name = name.to_owned();
        if self.digests.contains_key(&name) {
            name = format!("{name}@{file}");
        }
        self.digests.insert(name, to_hex(digest.as_bytes()));
    }
}

/// How to deliver.
#[derive(Debug, Clone, Copy)]
pub(super) struct How {
    pub(super) start: Instant,
    pub(super) keep: bool,
    pub(super) digest: bool,
    /// Whether the device decodes.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "wgpu")),
        expect(dead_code, reason = "no device")
    )]
    pub(super) decode: bool,
}

/// A load that is to be delivered.
pub(super) struct Job<'a> {
    pub(super) wanted: SelectedTensors,
    /// Begins the load.
    pub(super) begin: &'a dyn Fn(SelectedTensors) -> Loader,
    /// The load, if it has begun.
    pub(super) begun: Option<Loader>,
    pub(super) runtime: &'a Handle,
    pub(super) bar: &'a Bar,
    pub(super) how: How,
    /// As which floats, if not as stored.
    pub(super) convert: Option<Convert>,
}

impl Job<'_> {
    /// Begins the load before there is a device, if what is loaded does not depend on that: what comes first is
    /// there when the device is.
    #[cfg_attr(
        not(any(feature = "cuda", feature = "wgpu")),
        expect(dead_code, reason = "no device")
    )]
    pub(super) fn ahead(mut self) -> Self {
        if !self.how.decode {
            self.begun = Some((self.begin)(self.wanted.clone()));
        }
        self
    }

    /// Streams the load into `device`, which decodes with `decoder` what it can, if there is one. A
    /// digest is of what the device holds, read back.
    pub(super) fn into_device<D: Dequantize + Clone>(
        mut self,
        device: &D,
        decoder: Option<Box<dyn Decoder<D>>>,
    ) -> Result<(Delivered, LoadStats), Failure> {
        let streaming = StreamOptions::default();
        let raw_bytes = self.wanted.tensors.iter().map(|request| request.cut.len()).sum();
        let convert = self.convert.take();
        let mut dequant = match &convert {
            Some(Convert { dtype, method, wanted }) => {
                Some(DequantSink::new(device.clone(), &streaming, *method, *dtype, wanted)?)
            }
            None => None,
        };
        let mut plain = DeviceSink::new(device.clone(), &streaming);
        let (mut decode, mut routed) = (None, None);
        if let Some(decoder) = decoder {
            let wanted = std::mem::take(&mut self.wanted.tensors);
            let reads =
                |request: &TensorRequest| dequant.as_ref().is_some_and(|sink| sink.reads(request));
            let route;
            (route, self.wanted.tensors) = Route::new(&wanted, decoder.as_ref(), reads);
            routed = Some((route.device, route.host));
            let inner = DeviceSink::new(device.clone(), &streaming);
            decode = Some(DecodeSink::new(inner, decoder, route));
        }
        let mut delivered = Delivered { routed, raw_bytes, ..Delivered::default() };
        let mut made =
            Summary { dtype: convert.map(|convert| convert.dtype), ..Summary::default() };
        let mut kept = Vec::new();
        let Self { wanted, begin, begun, runtime, bar, how, .. } = self;
        let mut loader = begun.unwrap_or_else(|| begin(wanted));
        while let Some(piece) = runtime.block_on(loader.next()) {
            let piece = piece?;
            bar.advance(piece.data.len() as u64);
            let read = dequant.as_ref().is_some_and(|sink| sink.reads(&piece.request));
            let held = match (&mut decode, &mut dequant) {
                (Some(decode), dequant) if !read => {
                    let tensor = runtime.block_on(pass(decode, piece))?.flatten();
                    match (tensor, dequant) {
                        (Some(tensor), Some(dequant)) => dequant.arrived(tensor)?.map(Held::from),
                        (tensor, _) => tensor.map(Held::from),
                    }
                }
                (decode, Some(dequant)) => {
                    let last = piece.is_last_piece();
                    if let Some(decode) = decode.as_mut().filter(|_| last) {
                        decode.skip();
                    }
                    runtime.block_on(pass(dequant, piece))?.flatten().map(Held::from)
                }
                (_, None) => runtime.block_on(pass(&mut plain, piece))?.map(Held::from),
            };
            let Some(held) = held else { continue };
            delivered.tensors += 1;
            delivered.first_tensor.get_or_insert_with(|| how.start.elapsed().as_secs_f64());
            made.count(&held);
            if how.digest {
                let mut hasher = blake3::Hasher::new();
                device.read_back(&held.memory, held.len, &mut |part| {
                    hasher.update(part);
                })?;
                delivered.digest(&held.name, held.file, &hasher.finalize());
            }
            if how.keep {
                kept.push(held);
            }
        }
        device.wait()?;
        let mut uploads = plain.stats();
        let others =
            [dequant.as_ref().map(DequantSink::stats), decode.as_ref().map(DecodeSink::stats)];
        for other in others.into_iter().flatten() {
            uploads.uploads += other.uploads;
            uploads.bytes += other.bytes;
        }
        delivered.device = Some((device.name(), uploads));
        delivered.made = made.dtype.is_some().then_some(made);
        Ok((delivered, loader.stats()))
    }
}

/// Gives a piece to a sink; what it makes of the tensor if it was the last one.
async fn pass<S: Sink>(sink: &mut S, piece: Tensor) -> Result<Option<S::Output>, S::Error> {
    let (request, last) = (piece.request.clone(), piece.is_last_piece());
    if piece.offset == 0 {
        sink.begin(&request).await?;
    }
    sink.piece(piece).await?;
    if last { sink.finish(&request).await.map(Some) } else { Ok(None) }
}

/// What a device holds.
struct Held<M> {
    name: String,
    file: u32,
    len: u64,
    made: Made,
    memory: M,
}

impl<M> From<DeviceTensor<M>> for Held<M> {
    fn from(DeviceTensor { request, memory }: DeviceTensor<M>) -> Self {
        let (name, file) = (request.entry.name.clone(), request.entry.file);
        Self { name, file, len: request.cut.len(), made: Made::Stored, memory }
    }
}

impl<M> From<dequant::Delivered<M>> for Held<M> {
    fn from(weight: dequant::Delivered<M>) -> Self {
        let dequant::Delivered { name, file, len, made, memory, .. } = weight;
        Self { name, file, len, made, memory }
    }
}

/// What became of tensors that were to be delivered in one type.
#[derive(Debug, Default)]
pub(super) struct Summary {
    dtype: Option<Float>,
    bytes: u64,
    dequantized: u64,
    converted: u64,
    stored: u64,
}

impl Summary {
    fn count<M>(&mut self, held: &Held<M>) {
        self.bytes += held.len;
        match held.made {
            Made::Stored => self.stored += 1,
            Made::Converted => self.converted += 1,
            Made::Dequantized => self.dequantized += 1,
        }
    }

    fn dtype(&self) -> &'static str {
        self.dtype.map_or("", |dtype| dtype.dtype().name())
    }

    pub(super) fn describe(&self, object: &mut Value) {
        object["dtype"] = json!(self.dtype());
        object["delivered_bytes"] = json!(self.bytes);
        object["dequantized"] = json!(self.dequantized);
        object["converted"] = json!(self.converted);
        object["as_stored"] = json!(self.stored);
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{} as {}: {} tensors dequantized, {} converted, {} as stored\n",
            bytes::size(self.bytes),
            self.dtype(),
            self.dequantized,
            self.converted,
            self.stored
        )
    }
}

impl From<DeviceError> for Failure {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Load(error) => error.into(),
            error @ DeviceError::Part { .. } => Self::usage(error),
            error @ DeviceError::Decode { .. } => Self::new(VERIFICATION, error),
            error => Self::failed(error),
        }
    }
}
