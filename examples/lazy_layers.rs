//! Runs a model of which a quarter fits the device: each layer is pinned while it is multiplied with, the
//! next one comes meanwhile, and the least recently used leaves.
//!
//! `lazy_layers [PASSES]`; it makes the model, packs it, and compares what comes out with the host.

#[path = "matmul/mod.rs"]
mod matmul;

use std::path::Path;
use std::sync::Arc;

use half::bf16;
use matmul::{Failure, numbers};
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use tenpak::load::LoadOptions;
use tenpak::load::sink::resident::{Resident, ResidentOptions, ResidentStats};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions};
use tenpak::pack::{PackOptions, pack};
use tenpak::store::Store;
use tenpak::store::artifact::{Artifact, OpenOptions, SelectedTensors, Selection};
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

const LAYERS: u64 = 8;
const WIDTH: usize = 256;
const INNER: usize = 1024;

/// What the run did.
#[derive(Debug)]
pub struct Report {
    /// Bytes of the model.
    pub model: u64,
    /// Bytes of the budget.
    pub budget: u64,
    /// What the resident set did.
    pub stats: ResidentStats,
    /// How far off the result was.
    pub error: f64,
}

/// Names of a layer's weights, with their rows and columns.
fn layer(number: u64) -> [(String, usize, usize); 2] {
    let name = |of: &str| format!("model.layers.{number}.mlp.{of}.weight");
    [(name("up_proj"), INNER, WIDTH), (name("down_proj"), WIDTH, INNER)]
}

fn weights(number: u64, which: usize) -> Vec<u8> {
    let values = numbers(WIDTH * INNER, 2 * number + which as u64 + 1);
    values.into_iter().flat_map(|value| bf16::from_f32(value * 0.1).to_le_bytes()).collect()
}

fn write(folder: &Path) -> Result<(), Failure> {
    let mut tensors = Vec::new();
    for number in 0..LAYERS {
        for (which, (name, rows, cols)) in layer(number).into_iter().enumerate() {
            tensors.push((name, vec![rows, cols], weights(number, which)));
        }
    }
    let mut views = Vec::new();
    for (name, shape, bytes) in &tensors {
        views.push((name.as_str(), TensorView::new(Dtype::BF16, shape.clone(), bytes)?));
    }
    Ok(serialize_to_file(views, None, &folder.join("model.safetensors"))?)
}

/// What lies between the products of a layer.
fn activate(inner: &mut [f32]) {
    inner.iter_mut().for_each(|value| *value = value.max(0.0));
}

/// What a layer adds, so that values stay small.
fn add(x: &mut [f32], delta: &[f32]) {
    x.iter_mut().zip(delta).for_each(|(x, delta)| *x += delta / INNER as f32);
}

/// The same passes on the host.
fn on_the_host(passes: u32) -> Vec<f64> {
    let mut x = numbers(WIDTH, 5);
    let narrow = |y: Vec<f64>| -> Vec<f32> { y.into_iter().map(|value| value as f32).collect() };
    for number in (0..passes).flat_map(|_| 0..LAYERS) {
        let mut inner = narrow(matmul::on_the_host(&weights(number, 0), &x));
        activate(&mut inner);
        add(&mut x, &narrow(matmul::on_the_host(&weights(number, 1), &inner)));
    }
    x.into_iter().map(f64::from).collect()
}

/// Runs the layers so many times over.
///
/// # Errors
/// If there is no device, or something fails.
pub fn run(passes: u32) -> Result<Report, Failure> {
    let runtime = tokio::runtime::Runtime::new()?;
    let folder = tempfile::tempdir()?;
    write(folder.path())?;
    let transport: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let (store, options) = (Store::new(transport.clone()), PackOptions::default());
    let name = (&"example/lazy".parse()?, &"latest".parse()?);
    pack(folder.path(), &store, name, options, runtime.handle(), &())?;
    runtime.block_on(async {
        let spec = "example/lazy".parse()?;
        let artifact =
            Artifact::open(tenpak::store::Store::new(transport), &spec, &OpenOptions::default())
                .await?;
        let wanted = artifact.select(&Selection::All, None).await?;
        let model: u64 = wanted.tensors.iter().map(|want| want.cut.len()).sum();
        let budget = model / 4;
        let gpu = Gpu::open(&GpuOptions::default())?;
        println!("a model of {model} bytes, a budget of {budget}, on {}", gpu.name());
        let fetch = move |tensors| {
            artifact.load(
                SelectedTensors { tensors, ..SelectedTensors::default() },
                &LoadOptions::default(),
            )
        };
        let options = ResidentOptions::new(budget);
        let resident = Resident::new(gpu.clone(), options, &wanted.tensors, fetch);
        let mut x = numbers(WIDTH, 5);
        for number in (0..passes).flat_map(|_| 0..LAYERS) {
            let [up, down] = layer(number);
            let up_weight = resident.pin(&up.0).await?;
            let down_weight = resident.pin(&down.0).await?;
            resident.prefetch(layer((number + 1) % LAYERS).map(|(name, ..)| name))?;
            let buffer = up_weight.memory.whole().ok_or("a weight in several buffers")?;
            let mut inner = matmul::on_the_device(&gpu, buffer, up.1 as u32, &x)?;
            activate(&mut inner);
            let buffer = down_weight.memory.whole().ok_or("a weight in several buffers")?;
            add(&mut x, &matmul::on_the_device(&gpu, buffer, down.1 as u32, &inner)?);
        }
        let (stats, error) = (resident.stats(), matmul::error(&x, &on_the_host(passes)));
        Ok(Report { model, budget, stats, error })
    })
}

fn main() -> Result<(), Failure> {
    let passes = std::env::args().nth(1).map_or(Ok(3), |passes| passes.parse())?;
    let report = run(passes)?;
    let ResidentStats { hits, waits, fetches, prefetches, evictions, peak, .. } = report.stats;
    println!(
        "{passes} passes over {LAYERS} layers: {fetches} tensors fetched when touched, {prefetches} \
         ahead; {hits} were there when touched, {waits} on their way; {evictions} left; at most {peak} \
         bytes on the device; the result is off by {:.1e}",
        report.error
    );
    if report.error > 1e-4 || peak > report.budget {
        return Err("that is not what it should be".into());
    }
    Ok(())
}
