//! `tenpak load --device` and `--dtype`: tensors into device memory, one by one, as they are stored or
//! as weights of one type.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::bytes;
use super::error::Failure;
use super::progress::Bar;
use crate::dequant::Float;
use crate::format::id::to_hex;
use crate::load::AsFloats;
use crate::load::sink::decode::Decoder;
use crate::load::sink::dequant::{self, Dequantize, Made};
use crate::load::sink::stream::{StreamOptions, UploadStats};
use crate::load::sink::take;
use crate::load::sink::weights::WeightSink;
use crate::load::{LoadStats, Loader, Tensor};
use crate::memory::slot::SlotProvider;
use crate::store::artifact::SelectedTensors;

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
    pub(super) begin: &'a dyn Fn(SelectedTensors, Option<Arc<dyn SlotProvider>>) -> Loader,
    /// The load, if it has begun.
    pub(super) begun: Option<Loader>,
    pub(super) runtime: &'a Handle,
    pub(super) bar: &'a Bar,
    pub(super) how: How,
    /// As which floats, if not as stored.
    pub(super) floats: Option<AsFloats>,
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
            self.begun = Some((self.begin)(self.wanted.clone(), None));
        }
        self
    }

    /// Streams the load into `device`, which decodes with `decoder` what it can, if there is one. A
    /// digest is of what the device holds, read back.
    pub(super) fn into_device<D: Dequantize + Clone>(
        self,
        device: &D,
        decoder: Option<Box<dyn Decoder<D>>>,
    ) -> Result<(Delivered, LoadStats), Failure> {
        let Self { wanted, begin, begun, runtime, bar, how, floats } = self;
        let raw_bytes = wanted.tensors.iter().map(|request| request.cut.len()).sum();
        let floats = floats.as_ref();
        let mut options = StreamOptions::default();
        // A load that began while the device was opened has memory already.
        let lender = device.lender().filter(|_| begun.is_none());
        options.lent = lender.is_some();
        let (mut sink, wanted) = WeightSink::new(device, &options, wanted, floats, decoder)?;
        let mut delivered = Delivered { routed: sink.routed(), raw_bytes, ..Delivered::default() };
        let mut made = Summary { dtype: floats.map(|floats| floats.dtype), ..Summary::default() };
        let mut kept = Vec::new();
        let mut loader = begun.unwrap_or_else(|| begin(wanted, lender));
        while let Some(piece) = runtime.block_on(loader.next()) {
            let piece = piece?;
            bar.advance(piece.data.len() as u64);
            let held = runtime.block_on(take(&mut sink, piece))?.flatten();
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
        delivered.device = Some((device.name(), sink.stats()));
        delivered.made = made.dtype.is_some().then_some(made);
        Ok((delivered, loader.stats()))
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
    fn count<M>(&mut self, held: &dequant::Delivered<M>) {
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
