//! How long a model takes on hardware that is not here: bytes that must be moved and sums that must be done,
//! each at a share of the hardware's peak that kernels were measured to reach. Pure.
//!
//! A step reads all weights once, whatever the batch, and the cache of every sequence; a linear layer takes
//! `((bytes / bandwidth)^p + (operations / rate)^p)^(1/p)`, each side at its share of the peak, and a constant
//! for its launches. The processor launches the next work meanwhile: where that takes longer, it counts.

use serde::{Deserialize, Serialize};

use super::hardware::Device;
use super::shape::{ModelShape, Stored};

/// In which numbers a kernel multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rate {
    /// 16 bits: weights that are stored otherwise are widened first.
    #[default]
    Fp16,
    /// FP8.
    Fp8,
    /// Integers of 8 bits.
    Int8,
}

/// What kernels of one engine reach on weights that are stored in one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    /// The engine; `*` for any.
    pub engine: String,
    /// How weights are stored.
    pub weights: String,
    /// The device; `*` for any.
    pub device: String,
    /// How sharply the two sides meet.
    pub p: f64,
    /// Share of the bandwidth.
    pub memory: f64,
    /// Share of the rate.
    pub compute: f64,
    /// In which numbers it multiplies.
    #[serde(default)]
    pub rate: Rate,
    /// Microseconds by linear layer.
    #[serde(default)]
    pub call_us: f64,
    /// Microseconds by block for all else.
    #[serde(default)]
    pub block_us: f64,
    /// Microseconds that the processor takes for a block, for one token at a time.
    #[serde(default)]
    pub host_us: f64,
    /// The same for more.
    #[serde(default)]
    pub host_many_us: f64,
    /// Bytes by weight that are moved besides, where more than one token is multiplied: weights that are
    /// widened first.
    #[serde(default)]
    pub widened: f64,
    /// Share of the bandwidth that reading the cache reaches.
    pub cache: f64,
    /// Times and throughput are within this factor, nine times in ten, as far as it was checked.
    pub band: f64,
    /// Where the numbers come from.
    pub source: String,
}

/// A model on devices, by kernels.
#[derive(Debug, Clone, Copy)]
pub struct Roofline<'a> {
    /// The model.
    pub shape: &'a ModelShape,
    /// As it is stored.
    pub stored: &'a Stored,
    /// Each of the devices.
    pub device: &'a Device,
    /// How many the model is split over.
    pub count: f64,
    /// What kernels reach.
    pub kernels: &'a Kernels,
}

/// Linear layers of a block, as engines fuse them: q with k and v, o, gate with up, down.
const LINEARS: f64 = 4.0;
/// Seconds of the processor by step: scheduling and sampling.
const STEP: f64 = 0.4e-3;
/// Share of the rate that attention over a prompt reaches.
const ATTENTION: f64 = 0.4;
/// Bytes that activations take of memory by token and unit of width: about a dozen reads and writes of 16 bits
/// by block.
const ACTIVATIONS: f64 = 24.0;
/// Seconds that a reduction over devices takes at least.
const REDUCTION: f64 = 10e-6;
/// Share of the memory that engines use.
const USABLE: f64 = 0.9;
/// Bytes of a device that are neither weights nor cache.
const RUNTIME: f64 = 1.5e9;
/// On a processor the runtime takes less.
const RUNTIME_HOST: f64 = 0.1e9;

fn meet(one: f64, other: f64, p: f64) -> f64 {
    let most = one.max(other);
    if most <= 0.0 {
        return 0.0;
    }
    most * ((one / most).powf(p) + (other / most).powf(p)).powf(1.0 / p)
}

impl Roofline<'_> {
    fn rate(&self) -> f64 {
        let device = self.device;
        let rate = match self.kernels.rate {
            Rate::Fp16 => device.fp16,
            Rate::Fp8 => device.fp8.unwrap_or(device.fp16),
            Rate::Int8 => device.int8.unwrap_or(device.fp16),
        };
        rate * 1e12
    }

    /// Seconds of one pass of `tokens` tokens, of which `heads` get logits; `cached` tokens of the cache are
    /// read, and `attended` pairs of a prompt's tokens.
    fn pass(&self, tokens: f64, heads: f64, cached: f64, attended: f64) -> f64 {
        let (shape, stored, kernels) = (self.shape, self.stored, self.kernels);
        let bandwidth = self.device.bandwidth * 1e9;
        let (layers, count) = (shape.layers.max(1.0), self.count);
        let widened = if tokens > 1.0 { kernels.widened * stored.weights } else { 0.0 };
        let bytes = (stored.bytes + widened) / layers / count;
        let operations = 2.0 * tokens * stored.weights / layers / count;
        let linears = meet(
            bytes / (bandwidth * kernels.memory),
            operations / (self.rate() * kernels.compute),
            kernels.p,
        ) + LINEARS * kernels.call_us * 1e-6;
        let caches = cached * 4.0 * shape.keys / count.min(shape.kv_heads);
        let prompts = attended * 4.0 * shape.queries / count;
        let attention =
            caches / (bandwidth * kernels.cache) + prompts / (self.device.fp16 * 1e12 * ATTENTION);
        let activations = tokens * ACTIVATIONS * shape.hidden / (bandwidth * kernels.cache);
        let links = match count > 1.0 {
            true => {
                let moved = 2.0 * (count - 1.0) / count * tokens * shape.hidden * 2.0;
                2.0 * (moved / (self.device.link * 1e9).max(1.0) + REDUCTION)
            }
            false => 0.0,
        };
        let head = meet(
            shape.vocabulary * shape.hidden * stored.head_element / count / (bandwidth * 0.8),
            2.0 * heads * shape.vocabulary * shape.hidden / count / (self.device.fp16 * 1e12 * 0.7),
            2.0,
        );
        let block = linears + attention + activations + links + kernels.block_us * 1e-6;
        let per_block = if tokens > 1.0 { kernels.host_many_us } else { kernels.host_us };
        let launches = layers * per_block * 1e-6 * self.device.host;
        meet(layers * block + head, launches, 4.0) + if self.device.processor { 0.0 } else { STEP }
    }

    /// Seconds to read `batch` prompts of `input` tokens and make the first token of each.
    pub fn prefill(&self, input: f64, batch: f64) -> f64 {
        self.pass(input * batch, batch, 0.0, batch * input * input / 2.0)
    }

    /// Seconds to make one more token of each of `batch` sequences that have `context` tokens.
    pub fn decode(&self, context: f64, batch: f64) -> f64 {
        self.pass(batch, batch, context * batch, 0.0)
    }

    /// Sequences of `context` tokens whose caches fit beside the weights.
    pub fn fits(&self, context: f64) -> f64 {
        let cache = self.shape.cache() * context / self.count.min(self.shape.kv_heads);
        let weights = self.stored.all_bytes / self.count;
        let left = USABLE * self.device.memory * 1e9 - weights - self.runtime();
        (left / cache.max(1.0)).floor().max(0.0)
    }

    /// Bytes on each device with so many sequences of `context` tokens.
    pub fn memory(&self, context: f64, batch: f64) -> f64 {
        let cache = self.shape.cache() * context / self.count.min(self.shape.kv_heads);
        self.stored.all_bytes / self.count + batch * cache + self.runtime()
    }

    fn runtime(&self) -> f64 {
        if self.device.processor { RUNTIME_HOST } else { RUNTIME }
    }

    /// Seconds between tokens with so many users.
    pub fn between(&self, input: f64, output: f64, users: f64) -> f64 {
        let step = self.decode(input + output / 2.0, users);
        between((step, self.prefill(input, 1.0)), output, users)
    }
}

/// Seconds between tokens with so many users, each of whom has a request running all the time: between two tokens of
/// one, prompts of the others are read. A step and a prompt take so long.
pub fn between((step, prompt): (f64, f64), output: f64, users: f64) -> f64 {
    step + (users - 1.0) * prompt / output.max(1.0)
}
