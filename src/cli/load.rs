//! `tenpak load`.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::error::Failure;
use super::load_device::{Delivered, How, Job};
use super::output::Output;
use super::progress::Bar;
use super::{Global, artifact, bytes};
use crate::dequant::Float;
use crate::format::name::ArtifactSpec;
use crate::load::sink;
use crate::load::{LoadError, LoadOptions, LoadStats};
use crate::schedule::scheduler::Limit;
use crate::schedule::shard::Shard;
use crate::store::StoreError;
use crate::store::artifact::{Artifact, SelectedTensors, Selection, Window};
use crate::transport::small::RetryPolicy;

/// A tensor that is not kept arrives in pieces of this size if it is larger.
const PIECE: u64 = 8 << 20;
/// Of less than this there is nothing to say of how it was loaded.
const TELLING: u64 = 16 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Load {
    /// The artifact to load
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// Load only tensors whose names match (repeatable)
    #[arg(long, value_name = "GLOB")]
    tensor: Vec<String>,
    /// Load only the part of rank I of N under tensor parallelism; ranks count from 0
    #[arg(long, value_name = "I/N")]
    shard: Option<Shard>,
    /// The destination: host memory, or a device through wgpu or CUDA
    #[arg(long, value_enum, default_value_t = Device::Host)]
    device: Device,
    /// The element type to deliver
    #[arg(long, value_enum, default_value_t = As::Stored)]
    dtype: As,
    /// Where floats, deltas and patches are decoded; with `device`, the host decodes what the device cannot,
    /// and the result counts both
    #[arg(long, value_enum, default_value_t = Decode::Host)]
    decode: Decode,
    /// Keep every tensor until the end; without it, each is dropped once it was delivered
    #[arg(long)]
    keep: bool,
    /// Print the BLAKE3 of every tensor as delivered
    #[arg(long)]
    digest: bool,
    /// Concurrent requests [default: 4, and up to 128 while that makes the load faster; from a directory one per
    /// core, 2 to 8, and up to 64]
    #[arg(long, value_name = "N")]
    connections: Option<NonZeroUsize>,
    /// Seconds without a byte after which a request is abandoned and sent again
    #[arg(long, value_name = "SECONDS", default_value_t = 30.0)]
    stall: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Device {
    /// Host memory
    Host,
    /// A GPU through Vulkan, Metal or DX12
    Wgpu,
    /// An NVIDIA GPU through its CUDA driver
    Cuda,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Decode {
    /// On the host
    Host,
    /// On the device, from stored bytes that the host has verified
    Device,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum As {
    /// As it is stored
    Stored,
    /// Weights as bf16, quantized ones dequantized
    Bf16,
    /// Weights as f16, quantized ones dequantized
    F16,
    /// Weights as f32, quantized ones dequantized
    F32,
}

impl As {
    fn float(self) -> Option<Float> {
        match self {
            Self::Stored => None,
            Self::Bf16 => Some(Float::BF16),
            Self::F16 => Some(Float::F16),
            Self::F32 => Some(Float::F32),
        }
    }
}

impl Load {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let stall = std::time::Duration::try_from_secs_f64(self.stall)
            .ok()
            .filter(|stall| !stall.is_zero())
            .ok_or_else(|| Failure::usage("--stall takes a number of seconds above 0"))?;
        if self.decode == Decode::Device && self.device == Device::Host {
            return Err(Failure::usage("--decode device needs a device: --device wgpu or cuda"));
        }
        let start = Instant::now();
        let store = global.source()?.with_retry(RetryPolicy { stall, ..RetryPolicy::default() });
        let artifact = runtime.block_on(global.open_in(store, &self.artifact, output))?;
        let selection = Selection::new(&self.tensor)?;
        let dtype = self.dtype.float();
        // Host memory takes what is large window by window; elsewhere all chunks are known at once.
        let plain = self.device == Device::Host && dtype.is_none();
        let mut windows = Vec::new();
        let mut all = None;
        if plain {
            let cut = runtime.block_on(artifact.windows(&selection, self.shard))?;
            (windows, all) = (cut.windows, cut.bytes);
        }
        let artifact = Arc::new(artifact);
        let mut windows = Ahead {
            artifact: artifact.clone(),
            selection: selection.clone(),
            shard: self.shard,
            windows: windows.into_iter(),
            next: None,
            runtime,
        };
        let (wanted, floats) = match (windows.next(), dtype) {
            (Some(first), _) => (first?, None),
            (None, None) => (runtime.block_on(artifact.select(&selection, self.shard))?, None),
            (None, Some(dtype)) => {
                let select = artifact.select_as(&selection, self.shard, dtype);
                let (wanted, floats) = runtime.block_on(select).map_err(Failure::of_weights)?;
                (wanted, Some(floats))
            }
        };
        let bar = Bar::new(output, "loading");
        let own = || wanted.tensors.iter().map(|request| request.cut.len()).sum();
        bar.begin(all.unwrap_or_else(own));
        let mut options = LoadOptions {
            connections: self.connections.map(NonZeroUsize::get),
            stall,
            line: Some(Arc::default()),
            ..LoadOptions::default()
        };
        if self.keep && self.device == Device::Host && floats.is_none() {
            options.budget = u64::MAX;
        } else {
            options.piece = Some(PIECE);
            options.budget = budget(wanted.tensors.iter().any(|request| request.has_bases()));
        }
        let how = How {
            start,
            keep: self.keep,
            digest: self.digest,
            decode: self.decode == Decode::Device,
        };
        let begin = |wanted, memory| {
            let _guard = runtime.enter();
            artifact.load(wanted, &LoadOptions { memory, ..options.clone() })
        };
        let job = Job { wanted, begin: &begin, begun: None, runtime, bar: &bar, how, floats };
        let (delivered, load) = match self.device {
            Device::Host => into_host(job, windows)?,
            Device::Wgpu => into_wgpu(job)?,
            Device::Cuda => into_cuda(job)?,
        };
        drop(bar);
        let seconds = start.elapsed().as_secs_f64();
        let read = artifact.stats();
        let Delivered { tensors, raw_bytes, first_tensor, digests, device, made, routed, .. } =
            delivered;
        let fetched_bytes = load.fetched_bytes + read.bytes;
        let requests = load.requests + read.requests;
        let goodput = load.fetched_bytes as f64 / seconds.max(1e-9);
        let request_bytes = load.fetched_bytes / load.requests.max(1);
        let limit = if is_busy(seconds) { Limit::Processor } else { load.limit };
        let mut object = json!({
            "manifest": artifact.id(),
            "tensors": tensors,
            "raw_bytes": raw_bytes,
            "fetched_bytes": fetched_bytes,
            "requests": requests,
            "retries": load.retries,
            "hedges": load.hedges,
            "refetched_chunks": load.refetched_chunks,
            "dropped_mirrors": load.dropped_mirrors,
            "connections": load.connections,
            "request_bytes": request_bytes,
            "bytes_per_second": goodput,
            "limited_by": limit.as_str(),
            "seconds": seconds,
            "first_tensor_seconds": first_tensor,
            "peak_rss_bytes": peak_rss(),
            "signed_by": artifact.signed_by().iter().map(|key| key.as_str()).collect::<Vec<_>>(),
        });
        if self.digest {
            object["digests"] = json!(digests);
        }
        if let Some(made) = &made {
            made.describe(&mut object);
        }
        if let Some((by_device, by_host)) = routed {
            object["decoded_by_device"] = json!(by_device);
            object["decoded_by_host"] = json!(by_host);
        }
        if let Some((name, uploads)) = &device {
            object["device"] = json!(name);
            object["uploads"] = json!(uploads.uploads);
            object["uploaded_bytes"] = json!(uploads.bytes);
        }
        output.result(object, || {
            let mut text = format!(
                "{tensors} tensors, {} in {seconds:.2} s ({}), the first after {:.3} s\n\
                 {} fetched in {requests} requests, peak memory {}\n",
                bytes::size(raw_bytes),
                bytes::rate(raw_bytes, seconds),
                first_tensor.unwrap_or(0.0),
                bytes::size(fetched_bytes),
                bytes::size(peak_rss().unwrap_or(0)),
            );
            if load.fetched_bytes >= TELLING {
                text.push_str(&format!(
                    "{} at most at a time, of {} each; {}\n",
                    load.connections,
                    bytes::size(request_bytes),
                    told(limit),
                ));
            }
            if let Some(made) = &made {
                text.push_str(&made.text());
            }
            if let Some((by_device, by_host)) = routed {
                text.push_str(&format!(
                    "{by_device} tensors decoded by the device, {by_host} by the host\n"
                ));
            }
            if let Some((name, uploads)) = &device {
                text.push_str(&format!("{} copied to {name}\n", bytes::size(uploads.bytes)));
            }
            for (name, digest) in &digests {
                text.push_str(&format!("{digest}  {name}\n"));
            }
            text
        })
    }
}

/// What a load waited for, and what helps.
fn told(limit: Limit) -> &'static str {
    match limit {
        Limit::Connections => "limited by the pace of each connection: --connections allows more",
        Limit::Link => {
            "limited by the link, or by all that the origin gives: more requests brought no more"
        }
        Limit::Origin => "limited by the origin: it refused more requests",
        Limit::Processor => "limited by this machine's processor",
        Limit::Disk => "limited by the disk",
        Limit::Consumer => "limited by where the tensors go",
        _ => "limited by the time to answers: there was little to load",
    }
}

/// Whether all cores were busy for nearly all of these seconds.
fn is_busy(seconds: f64) -> bool {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = used.tv_sec as f64 + used.tv_nsec as f64 / 1e9;
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    used > 0.8 * cores as f64 * seconds
}

/// The windows of a load, each read while the one before it is loaded.
struct Ahead<'a> {
    artifact: Arc<Artifact>,
    selection: Selection,
    shard: Option<Shard>,
    windows: std::vec::IntoIter<Window>,
    next: Option<JoinHandle<Result<SelectedTensors, StoreError>>>,
    runtime: &'a Handle,
}

impl Ahead<'_> {
    fn begin(&mut self) -> Option<JoinHandle<Result<SelectedTensors, StoreError>>> {
        let window = self.windows.next()?;
        let (artifact, shard) = (self.artifact.clone(), self.shard);
        let selection = self.selection.clone();
        let read = async move { artifact.want_window(&window, &selection, shard).await };
        Some(self.runtime.spawn(read))
    }
}

impl Iterator for Ahead<'_> {
    type Item = Result<SelectedTensors, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let next = self.next.take().or_else(|| self.begin())?;
        let read = match self.runtime.block_on(next) {
            Ok(read) => read.map_err(Failure::from),
            Err(_) => Err(LoadError::Internal("the next tensors are not listed").into()),
        };
        self.next = self.begin();
        Some(read)
    }
}

/// What is in flight when tensors are not kept: two pieces for each core that hashes them. Memory that
/// was never touched costs more than hashing what it will hold, so little of it is used again and again. Chunks
/// that wait for their bases are held as they are stored beside what they fill.
fn budget(based: bool) -> u64 {
    2 * PIECE * crate::memory::pool::cores() as u64 * if based { 2 } else { 1 }
}

/// Host memory: each tensor as it comes, in pieces if it is large; then those of further windows.
fn into_host(
    job: Job<'_>,
    mut windows: impl Iterator<Item = Result<SelectedTensors, Failure>>,
) -> Result<(Delivered, LoadStats), Failure> {
    if job.floats.is_some() {
        // Host memory is not named as a device: nothing is copied out of it.
        let (delivered, stats) = job.into_device(&sink::host::Host, None)?;
        return Ok((Delivered { device: None, ..delivered }, stats));
    }
    let Job { wanted, begin, runtime, bar, how, .. } = job;
    let (mut delivered, mut stats) = (Delivered::default(), LoadStats::default());
    let mut kept = Vec::new();
    let mut hasher = blake3::Hasher::new();
    let mut next = Some(Ok(wanted));
    while let Some(wanted) = next {
        let mut loader = begin(wanted?, None);
        while let Some(piece) = runtime.block_on(loader.next()) {
            let piece = piece?;
            delivered.raw_bytes += piece.data.len() as u64;
            bar.advance(piece.data.len() as u64);
            if how.digest {
                hasher.update(&piece.data);
            }
            if piece.is_last_piece() {
                delivered.tensors += 1;
                delivered.first_tensor.get_or_insert_with(|| how.start.elapsed().as_secs_f64());
                if how.digest {
                    delivered.digest(piece.name(), piece.request.entry.file, &hasher.finalize());
                    hasher.reset();
                }
            }
            if how.keep {
                kept.push(piece);
            }
        }
        stats += loader.stats();
        next = windows.next();
    }
    delivered.kept = kept;
    Ok((delivered, stats))
}

#[cfg(feature = "wgpu")]
fn into_wgpu(job: Job<'_>) -> Result<(Delivered, LoadStats), Failure> {
    let job = job.ahead();
    let gpu = sink::wgpu::Gpu::open(&Default::default())?;
    let decoder = if job.how.decode { Some(Box::new(gpu.decoder()?) as Box<_>) } else { None };
    job.into_device(&gpu, decoder)
}

#[cfg(not(feature = "wgpu"))]
fn into_wgpu(_: Job<'_>) -> Result<(Delivered, LoadStats), Failure> {
    Err(Failure::usage("this tenpak is built without wgpu; use --device host"))
}

#[cfg(feature = "cuda")]
fn into_cuda(job: Job<'_>) -> Result<(Delivered, LoadStats), Failure> {
    let job = job.ahead();
    let cuda = sink::cuda::Cuda::open(0)?;
    let decoder = if job.how.decode { Some(Box::new(cuda.decoder()?) as Box<_>) } else { None };
    job.into_device(&cuda, decoder)
}

#[cfg(not(feature = "cuda"))]
fn into_cuda(_: Job<'_>) -> Result<(Delivered, LoadStats), Failure> {
    Err(Failure::usage("this tenpak is built without CUDA; use --device host"))
}

/// The most memory that this process had resident, as the system counts it.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib << 10)
}
