//! Tensors streamed into device memory: all of them right, in small buffers, and nothing of one that
//! did not verify.

use std::sync::Arc;

use tenpak::chunk::codec::CodecChoice;
use tenpak::format::dtype::Dtype;
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::drain;
use tenpak::load::sink::resident::{Resident, ResidentOptions};
use tenpak::load::sink::stream::{DeviceSink, StreamOptions};
use tenpak::load::sink::upload::{Device, Ring, Staging};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions};
use tenpak::load::{LoadError, LoadOptions, Loader};
use tenpak::store::artifact::{Artifact, OpenOptions, SelectedTensors, Selection};
use tenpak::transport::Transport;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;

use super::support::{TestTensor, build, odd, tensor};

fn model() -> Vec<TestTensor> {
    let mut tensors = vec![tensor("model.embed_tokens.weight", &[1024, 512], 1)];
    for layer in 0..2 {
        let name = |n: &str| format!("model.layers.{layer}.{n}");
        tensors.push(tensor(&name("input_layernorm.weight"), &[511], 10 * layer + 2));
        tensors.push(tensor(&name("mlp.up_proj.weight"), &[1024, 512], 10 * layer + 3));
        tensors.push(tensor(&name("mlp.down_proj.weight"), &[512, 1024], 10 * layer + 4));
    }
    tensors.push(odd("odd.empty", Dtype::F32, &[0, 7], 0));
    tensors.push(odd("odd.scalar", Dtype::F64, &[], 8));
    tensors.push(odd("odd.bytes", Dtype::U8, &[1021, 1019], 1021 * 1019));
    tensors
}

/// The model in a store that fails as told, and a load of it in pieces.
async fn load(faults: Vec<Fault>) -> (Vec<TestTensor>, Loader) {
    let tensors = model();
    let inner: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let id = build(&inner, &tensors, CodecChoice::Raw, 4 << 20).await;
    let source: Arc<dyn Transport> = Arc::new(FaultBackend::new(inner, faults));
    let spec = format!("@{id}").parse().unwrap();
    let artifact =
        Artifact::open(tenpak::store::Store::new(source), &spec, &OpenOptions::default())
            .await
            .unwrap();
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let mut options = LoadOptions::default();
    options.piece = Some(256 << 10);
    options.connections = Some(1);
    (tensors, artifact.load(wanted, &options))
}

fn small_ring() -> StreamOptions {
    let mut options = StreamOptions::default();
    options.buffers = 2;
    // Not a divisor of any piece.
    options.buffer_size = 100_000;
    options
}

fn read<D: Device>(device: &D, memory: &D::Memory, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    device.read_back(memory, len as u64, &mut |part| bytes.extend_from_slice(part)).unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn every_tensor_arrives_through_a_small_ring_and_in_small_buffers() {
    for buffer_limit in [None, Some(300_000)] {
        let mut options = GpuOptions::default();
        options.buffer_limit = buffer_limit;
        let gpu = Gpu::open(&options).unwrap();
        let (tensors, mut loader) = load(Vec::new()).await;
        let mut sink = DeviceSink::new(gpu.clone(), &small_ring());
        let mut delivered = Vec::new();
        drain(&mut loader, &mut sink, |tensor| delivered.push(tensor)).await.unwrap();
        assert_eq!(delivered.len(), tensors.len());
        for (found, expected) in delivered.iter().zip(&tensors) {
            assert_eq!(found.request.entry.name, expected.name);
            let (buffers, _) = found.memory.buffers();
            let segment = buffer_limit.map_or(usize::MAX, |limit: u64| limit as usize / 512 * 512);
            assert_eq!(buffers.len(), expected.data.len().div_ceil(segment).max(1));
            let got = read(&gpu, &found.memory, expected.data.len());
            assert!(got == expected.data, "{} differs", expected.name);
        }
        let bytes: u64 = tensors.iter().map(|tensor| tensor.data.len() as u64).sum();
        let stats = sink.stats();
        assert_eq!((stats.bytes, stats.tensors), (bytes, tensors.len() as u64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_fails_verification_never_reaches_the_device() {
    let bit = Action::FlipBit(1_300_000, 3);
    let (tensors, mut loader) = load(vec![Fault::always("packs/", bit)]).await;
    let mut sink = DeviceSink::new(Gpu::open(&GpuOptions::default()).unwrap(), &small_ring());
    let mut delivered = 0;
    let error = drain(&mut loader, &mut sink, |_| delivered += 1).await.unwrap_err();
    let DeviceError::Load(LoadError::Corrupt { site, .. }) = error else { panic!("{error}") };
    let damaged = tensors.iter().position(|tensor| tensor.name == site.tensor).unwrap();
    assert!(damaged > 0, "what comes before the damage is there to be counted");
    assert!(delivered <= damaged);
    // Not a byte that is not of the tensors before it or of whole verified pieces of it.
    let before: u64 = tensors[..damaged].iter().map(|tensor| tensor.data.len() as u64).sum();
    let good = 1_300_000 - before;
    assert!(sink.stats().bytes <= before + good, "{:?}", sink.stats());
    assert_eq!(sink.stats().tensors, delivered as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_beyond_the_budget_is_refused_before_it_is_allocated() {
    let (_, mut loader) = load(Vec::new()).await;
    let mut options = small_ring();
    options.budget = 4096;
    let mut sink = DeviceSink::new(Gpu::open(&GpuOptions::default()).unwrap(), &options);
    let error = drain(&mut loader, &mut sink, |_| {}).await.unwrap_err();
    assert!(matches!(error, DeviceError::TooLarge { limit: 4096, .. }), "{error}");
    assert_eq!(sink.stats().uploads, 0);
}

#[test]
fn a_ring_makes_so_many_buffers_and_uses_them_again() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut ring = Ring::new(gpu.clone(), 2, 1000);
    assert_eq!(ring.size(), 1024);
    let mut memory = gpu.allocate(1024 * 50).unwrap();
    for round in 0..50_u8 {
        let mut buffer = ring.take().unwrap();
        buffer.write(0, &[round; 1024]).unwrap();
        // Beyond the end: refused.
        assert!(buffer.write(1020, &[0xff; 8]).is_err());
        ring.copy(buffer, 1024, &mut memory, 1024 * u64::from(round)).unwrap();
    }
    let got = read(&gpu, &memory, 1024 * 50);
    assert!(
        got.chunks(1024).enumerate().all(|(at, chunk)| chunk.iter().all(|b| usize::from(*b) == at))
    );
    // Two are out, and not copied: there is no third.
    let held = [ring.take().unwrap(), ring.take().unwrap()];
    assert!(matches!(ring.take(), Err(DeviceError::Internal(_))));
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resident_set_keeps_device_memory_within_its_budget() {
    let tensors: Vec<_> = (0..6).map(|n| tensor(&format!("t{n}"), &[300, 500], n)).collect();
    let store: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let id = build(&store, &tensors, CodecChoice::Float, 4 << 20).await;
    let spec = format!("@{id}").parse().unwrap();
    let artifact = Artifact::open(tenpak::store::Store::new(store), &spec, &OpenOptions::default())
        .await
        .unwrap();
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let fetch = move |tensors| {
        artifact.load(
            SelectedTensors { tensors, ..SelectedTensors::default() },
            &LoadOptions::default(),
        )
    };
    let mut options = ResidentOptions::new(2 * 300_000);
    options.streaming = small_ring();
    let resident = Resident::new(gpu.clone(), options, &wanted.tensors, fetch);
    let held = resident.touch("t0").await.unwrap();
    for (n, expected) in tensors.iter().enumerate().cycle().take(13) {
        let handle = resident.touch(&format!("t{n}")).await.unwrap();
        assert!(read(&gpu, &handle.memory, 300_000) == expected.data, "t{n}");
    }
    assert!(read(&gpu, &held.memory, 300_000) == tensors[0].data);
    let stats = resident.stats();
    assert_eq!((stats.fetches, stats.hits, stats.peak), (11, 3, 600_000));
}
