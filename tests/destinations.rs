//! Where what is loaded lies: in memory that the destination lends, without a copy after the socket; what
//! fails on its way to a device is an error and never stale bytes; a host's own work goes on meanwhile.

#![cfg(feature = "cli")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use support::{TestTensor, build, tensor};
use tenpak::chunk::codec::CodecChoice;
use tenpak::format::name::ArtifactSpec;
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::host::Host;
use tenpak::load::sink::stream::{DeviceSink, StreamOptions};
use tenpak::load::sink::take;
use tenpak::load::sink::upload::{Device, Staging};
use tenpak::load::{LoadOptions, Loader};
use tenpak::memory::slot::{HostMemory, NoMemory, Slot, SlotProvider};
use tenpak::store::Store;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

fn tensors() -> Vec<TestTensor> {
    let name = |n: u64| format!("model.layers.{n}.mlp.up_proj.weight");
    (0..4).map(|n| tensor(&name(n), &[2048, 512], n)).collect()
}

async fn opened(tensors: &[TestTensor], choice: CodecChoice) -> Artifact {
    let transport: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let id = build(&transport, tensors, choice, 4 << 20).await;
    let spec: ArtifactSpec = format!("@{id}").parse().unwrap();
    Artifact::open(Store::new(transport), &spec, &OpenOptions::default()).await.unwrap()
}

async fn begun(artifact: &Artifact, options: &LoadOptions) -> Loader {
    let selected = artifact.select(&Selection::All, None).await.unwrap();
    artifact.load(selected, options)
}

/// Memory of the caller's own, which it can find again.
struct Own(Box<[u8]>);

// SAFETY: the box is not looked at while slots of it are about, and does not move.
unsafe impl HostMemory for Own {
    fn bytes(&self) -> std::ptr::NonNull<[u8]> {
        std::ptr::NonNull::from(&*self.0)
    }
}

/// Lends memory and notes where it lies.
#[derive(Debug, Default)]
struct Lender(Mutex<Vec<std::ops::Range<usize>>>);

impl SlotProvider for Lender {
    fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
        let mut slot = Slot::new(Own(vec![0; len].into_boxed_slice()));
        let range = slot.as_mut_ptr_range();
        self.0.lock().unwrap().push(range.start as usize..range.end as usize);
        Ok(slot)
    }
}

/// What is delivered is the destination's memory, whatever the codec: raw bytes are read into it, others
/// decoded into it, and nothing is copied behind that.
#[tokio::test]
async fn tensors_lie_in_the_memory_that_was_lent() {
    let tensors = tensors();
    for choice in [CodecChoice::Raw, CodecChoice::Float] {
        let artifact = opened(&tensors, choice).await;
        let lender = Arc::new(Lender::default());
        let mut options = LoadOptions::default();
        options.memory = Some(lender.clone());
        let mut loader = begun(&artifact, &options).await;
        let mut count = 0;
        while let Some(piece) = loader.next().await {
            let piece = piece.unwrap();
            let at = piece.data.as_ptr() as usize;
            let lent = lender.0.lock().unwrap();
            assert!(lent.iter().any(|range| *range == (at..at + piece.data.len())), "{choice:?}");
            assert_eq!(piece.data, tensors[count].data);
            count += 1;
        }
        assert_eq!(count, tensors.len());
    }
}

/// A destination without memory, or with other memory than was asked for, fails the load.
#[tokio::test]
async fn a_destination_that_does_not_lend_fails_the_load() {
    #[derive(Debug)]
    struct Poor(usize);
    impl SlotProvider for Poor {
        fn lend(&self, len: usize) -> Result<Slot, NoMemory> {
            match self.0 {
                0 => Err(NoMemory { len, why: "the device is full".to_owned() }),
                more => Ok(Slot::new(Own(vec![0; len + more].into_boxed_slice()))),
            }
        }
    }
    let artifact = opened(&tensors(), CodecChoice::Raw).await;
    for (more, said) in [(0, "the device is full"), (1, "other memory than asked")] {
        let mut options = LoadOptions::default();
        options.memory = Some(Arc::new(Poor(more)));
        let mut loader = begun(&artifact, &options).await;
        let error = loader.next().await.unwrap().unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

/// The host as a device that fails at one of its steps.
#[derive(Debug, Clone)]
struct Failing(Arc<AtomicUsize>);

impl Failing {
    fn step<T>(&self, made: impl FnOnce() -> Result<T, DeviceError>) -> Result<T, DeviceError> {
        match self.0.fetch_sub(1, Ordering::Relaxed) {
            1 => Err(DeviceError::Lost { device: "a test".to_owned(), reason: "so".to_owned() }),
            _ => made(),
        }
    }
}

#[derive(Debug)]
struct Buffer(Vec<u8>, Failing);

impl Staging for Buffer {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<(), DeviceError> {
        let failing = self.1.clone();
        failing.step(|| self.0.write(at, bytes))
    }
}

impl Device for Failing {
    type Memory = Vec<u8>;
    type Staging = Buffer;
    type InFlight = Option<Buffer>;

    fn name(&self) -> String {
        "a test".to_owned()
    }

    fn allocate(&self, len: u64) -> Result<Vec<u8>, DeviceError> {
        self.step(|| Host.allocate(len))
    }

    fn staging(&self, len: usize) -> Result<Buffer, DeviceError> {
        self.step(|| Ok(Buffer(Host.staging(len)?, self.clone())))
    }

    fn copy(
        &self,
        from: Buffer,
        len: usize,
        to: &mut Vec<u8>,
        at: u64,
    ) -> Result<Option<Buffer>, DeviceError> {
        self.step(|| {
            let back = Host.copy(from.0, len, to, at)?;
            Ok(back.map(|bytes| Buffer(bytes, self.clone())))
        })
    }

    fn lender(&self) -> Option<Arc<dyn SlotProvider>> {
        Host.lender()
    }

    fn copy_lent(
        &self,
        from: Bytes,
        to: &mut Vec<u8>,
        at: u64,
    ) -> Result<Option<Buffer>, DeviceError> {
        self.step(|| Host.copy_lent(from, to, at).map(|_| None))
    }

    fn complete(&self, flying: Option<Buffer>) -> Result<Option<Buffer>, DeviceError> {
        self.step(|| Ok(flying))
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
        Host.read_back(memory, len, take)
    }
}

/// Whatever step fails, what was delivered before is right, and nothing comes after.
#[tokio::test]
async fn a_failure_at_any_step_is_an_error_and_never_stale_bytes() {
    let tensors = tensors();
    let artifact = opened(&tensors, CodecChoice::Raw).await;
    for lent in [false, true] {
        let (mut at, mut failures) = (1, 0);
        loop {
            let device = Failing(Arc::new(AtomicUsize::new(at)));
            let mut stream = StreamOptions::default();
            (stream.buffers, stream.buffer_size, stream.lent) = (2, 1 << 20, lent);
            let mut options = LoadOptions::default();
            options.memory = device.lender().filter(|_| lent);
            let mut sink = DeviceSink::new(device, &stream);
            let mut loader = begun(&artifact, &options).await;
            let (mut made, mut failed) = (0, false);
            while let Some(piece) = loader.next().await {
                match take(&mut sink, piece.unwrap()).await {
                    Ok(Some(tensor)) => {
                        let want = &tensors[made].data;
                        assert!(tensor.memory[..want.len()] == want[..], "stale after step {at}");
                        made += 1;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        assert!(matches!(error, DeviceError::Lost { .. }), "{error}");
                        failed = true;
                        break;
                    }
                }
            }
            if !failed {
                assert_eq!(made, tensors.len());
                break;
            }
            failures += 1;
            at += 1;
        }
        assert!(failures > 6, "only {failures} steps failed");
    }
}

/// What this thread has computed: unlike wall time, it stops while others have the core.
fn computed() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// In a runtime of one thread, a timer of 10 ms beside a load of a GiB is late by 20 ms at most: that long the
/// thread computes in a row. Without the turns that a fetch takes it would be as long as bytes are at hand.
#[test]
fn a_hosts_timers_go_on_beside_a_load() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = |n: u64| format!("model.layers.{n}.mlp.up_proj.weight");
    let large: Vec<_> = (0..32).map(|n| tensor(&name(n), &[4096, 1024], n)).collect();
    let mut turns = Vec::new();
    runtime.block_on(async {
        let artifact = opened(&large, CodecChoice::Raw).await;
        let selected = artifact.select(&Selection::All, None).await.unwrap();
        let load = async {
            let mut moved = 0_u64;
            while moved < 1 << 30 {
                let mut loader = artifact.load(selected.clone(), &LoadOptions::default());
                while let Some(piece) = loader.next().await {
                    moved += piece.unwrap().data.len() as u64;
                }
            }
        };
        let timer = async {
            loop {
                let before = computed();
                tokio::time::sleep(Duration::from_millis(10)).await;
                turns.push(computed().saturating_sub(before));
            }
        };
        tokio::select! {
            () = load => {}
            () = timer => unreachable!("it ends with the load"),
        }
    });
    turns.sort_unstable();
    // One in ten may hold what the system does meanwhile: it makes pages on this thread's account, and longer the
    // more its other guests want of them.
    let longest = turns[turns.len() * 9 / 10];
    assert!(turns.len() > 10 && longest <= Duration::from_millis(30), "{longest:?} of {turns:?}");
}
