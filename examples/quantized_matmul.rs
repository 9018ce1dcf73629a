//! Streams a quantized checkpoint into a device through wgpu, its weights dequantized to bf16 while they
//! arrive, multiplies each with a vector there, and compares with the host.
//!
//! `quantized_matmul [STORE ARTIFACT]`; without them it makes a small NF4 checkpoint and packs it.

#[path = "matmul/mod.rs"]
mod matmul;

use std::path::Path;
use std::sync::Arc;

use matmul::{Failure, numbers};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tenpak::dequant::Float;
use tenpak::dequant::codes::NF4;
use tenpak::dequant::config::Method;
use tenpak::load::LoadOptions;
use tenpak::load::sink::dequant::{Delivered, DequantSink, Dequantize, Made};
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::drain;
use tenpak::load::sink::host::Host;
use tenpak::load::sink::stream::StreamOptions;
use tenpak::load::sink::wgpu::{Gpu, GpuOptions};
use tenpak::pack::{PackOptions, pack};
use tenpak::store::Store;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

/// Elements per absmax.
const BLOCK: usize = 64;

/// What was multiplied, and how far off the worst product was.
#[derive(Debug, Default)]
pub struct Report {
    /// Weights that were multiplied with.
    pub weights: usize,
    /// The largest relative error.
    pub worst: f64,
}

/// The tensors of a weight that bitsandbytes would write, as name, type, shape, bytes.
fn quantize(
    name: &str,
    rows: usize,
    cols: usize,
    seed: u64,
) -> Vec<(String, Dtype, Vec<usize>, Vec<u8>)> {
    let values = numbers(rows * cols, seed);
    let mut absmax = Vec::new();
    let mut codes = Vec::new();
    for block in values.chunks(BLOCK) {
        let most = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        absmax.extend_from_slice(&most.to_le_bytes());
        let nearest = |value: f32| {
            let distance = |code: &u8| (NF4[usize::from(*code)] - value / most).abs();
            (0..16_u8).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(7)
        };
        codes.extend(block.chunks(2).map(|two| nearest(two[0]) << 4 | nearest(two[1])));
    }
    let map: Vec<u8> = NF4.iter().flat_map(|code| code.to_le_bytes()).collect();
    let state = serde_json::json!({"quant_type": "nf4", "blocksize": BLOCK, "shape": [rows, cols]});
    let state = state.to_string().into_bytes();
    let of = |end: &str| format!("{name}{end}");
    vec![
        (of(""), Dtype::U8, vec![codes.len(), 1], codes),
        (of(".absmax"), Dtype::F32, vec![absmax.len() / 4], absmax),
        (of(".quant_map"), Dtype::F32, vec![16], map),
        (of(".quant_state.bitsandbytes__nf4"), Dtype::U8, vec![state.len()], state),
    ]
}

/// Writes a small checkpoint as bitsandbytes does.
fn write(folder: &Path) -> Result<(), Failure> {
    let mut tensors = Vec::new();
    for layer in 0..2 {
        let name = |of: &str| format!("model.layers.{layer}.mlp.{of}.weight");
        tensors.extend(quantize(&name("up_proj"), 512, 256, 2 * layer));
        tensors.extend(quantize(&name("down_proj"), 256, 512, 2 * layer + 1));
    }
    let norm = numbers(256, 9).into_iter().flat_map(f32::to_le_bytes).collect();
    tensors.push(("model.norm.weight".to_owned(), Dtype::F32, vec![256], norm));
    let mut views = Vec::new();
    for (name, dtype, shape, bytes) in &tensors {
        views.push((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes)?));
    }
    serialize_to_file(views, None, &folder.join("model.safetensors"))?;
    let config = serde_json::json!({"quantization_config":
        {"quant_method": "bitsandbytes", "load_in_4bit": true}});
    std::fs::write(folder.join("config.json"), config.to_string())?;
    Ok(())
}

/// Loads all of an artifact into `device`, weights as bf16.
async fn load<D: Dequantize>(
    artifact: &Artifact,
    device: D,
) -> Result<Vec<Delivered<D::Memory>>, Failure> {
    let config = artifact.file("config.json", 1 << 20).await?.ok_or("it has no config.json")?;
    let method = Method::of_config(&serde_json::from_slice(&config)?)?;
    let wanted = artifact.select(&Selection::All, None).await?;
    let options = StreamOptions::default();
    let mut sink = DequantSink::new(device, &options, method, Float::BF16, &wanted.tensors)?;
    let mut loader = artifact.load(wanted, &LoadOptions::default());
    let mut delivered = Vec::new();
    drain(&mut loader, &mut sink, |weight| delivered.extend(weight)).await?;
    Ok(delivered)
}

/// Multiplies every dequantized weight of an artifact, or of one made here.
///
/// # Errors
/// If there is no device, or something fails.
pub fn run(stored: Option<(&str, &str)>) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let (transport, name): (Arc<dyn Transport>, &str) = match stored {
        Some((store, name)) => (tenpak::transport::url::open(store)?, name),
        None => {
            let folder = tempfile::tempdir()?;
            write(folder.path())?;
            let transport: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
            let (store, options) = (Store::new(transport.clone()), PackOptions::default());
            let name = (&"example/nf4".parse()?, &"latest".parse()?);
            pack(folder.path(), &store, name, options, runtime.handle(), &())?;
            (transport, "example/nf4")
        }
    };
    runtime.block_on(async {
        let artifact = Artifact::open(
            tenpak::store::Store::new(transport),
            &name.parse()?,
            &OpenOptions::default(),
        )
        .await?;
        let gpu = Gpu::open(&GpuOptions::default())?;
        println!("{name} on {}", gpu.name());
        let (device, host) = (load(&artifact, gpu.clone()).await?, load(&artifact, Host).await?);
        let mut report = Report::default();
        for (weight, reference) in device.iter().zip(&host) {
            if weight.made != Made::Dequantized {
                continue;
            }
            let [rows, cols] = *weight.shape.dims() else { continue };
            let x = numbers(usize::try_from(cols)?, 77);
            let buffer = weight.memory.whole().ok_or(DeviceError::TooLarge {
                what: "a weight",
                len: weight.len,
                limit: gpu.buffer_limit(),
            })?;
            let y = matmul::on_the_device(&gpu, buffer, u32::try_from(rows)?, &x)?;
            let error = matmul::error(&y, &matmul::on_the_host(&reference.memory, &x));
            println!("{:<40} {rows:>5} x {cols:<5} off by {error:.1e}", weight.name);
            report.weights += 1;
            report.worst = report.worst.max(error);
        }
        Ok(report)
    })
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let report = match arguments.as_slice() {
        [] => run(None)?,
        [store, artifact] => run(Some((store, artifact)))?,
        _ => return Err("usage: quantized_matmul [STORE ARTIFACT]".into()),
    };
    if report.weights == 0 || report.worst > 1e-4 {
        return Err(format!("{} products, off by up to {:e}", report.weights, report.worst).into());
    }
    Ok(())
}
