//! The CUDA half: device-to-device copy, pinned upload, streamed upload, kernels; timed by events on
//! the device.

use tenpak::dequant::{Float, dequantize, sample};
use tenpak::load::sink::cuda::{Cuda, CudaParts};
use tenpak::load::sink::decode::Decoder;
use tenpak::load::sink::upload::{Device, Ring, Staging};

use super::decode::Chunks;
use super::{Failure, Row, lines_of, median, moved, same, weights};

use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;

/// Launches between two events: the device always has the next one.
const TIMES: u32 = 20;

/// Seconds of the device for `work`: the median of 9 rounds after 2.
fn timed(cuda: &Cuda, mut work: impl FnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    let mut seconds = Vec::new();
    for round in 0..11 {
        let start = cuda.stream().record_event(Some(CU_EVENT_DEFAULT))?;
        for _ in 0..TIMES {
            work()?;
        }
        let end = cuda.stream().record_event(Some(CU_EVENT_DEFAULT))?;
        end.synchronize()?;
        if round >= 2 {
            seconds.push(f64::from(start.elapsed_ms(&end)?) / 1e3 / f64::from(TIMES));
        }
    }
    Ok(median(seconds))
}

pub fn measure(rows: u32, cols: u32, table: &mut Vec<Row>) -> Result<(), Failure> {
    let cuda = Cuda::open(0)?;
    let mut add = lines_of(cuda.name(), table);
    let len = u64::from(rows) * u64::from(cols) * 2;
    let from = cuda.upload(&vec![0x5a; len as usize])?;
    let mut to = cuda.alloc(len)?;
    let seconds = timed(&cuda, || Ok(cuda.stream().memcpy_dtod(&from, &mut to)?))?;
    add("copy on the device", 2 * from.len() as u64, seconds, None, None);

    // The whole of a pinned buffer, then the same bytes through the ring as a load does.
    let size = (len as usize).min(256 << 20);
    // SAFETY: written before it is read.
    let mut pinned = unsafe { cuda.context().alloc_pinned_with_flags::<u8>(size, 0) }?;
    pinned.as_mut_slice()?.fill(0xa5);
    let seconds =
        timed(&cuda, || Ok(cuda.stream().memcpy_htod(&pinned, &mut to.slice_mut(..size))?))?;
    add("pinned upload", size as u64, seconds, None, None);
    let mut ring = Ring::new(cuda.clone(), 4, 4 << 20);
    let bytes = vec![0x3c; ring.size()];
    let mut memory = cuda.allocate(size as u64)?;
    let mut rounds = Vec::new();
    for _ in 0..5 {
        let start = std::time::Instant::now();
        let mut at = 0;
        while at + ring.size() <= size {
            let mut buffer = ring.take()?;
            buffer.write(0, &bytes)?;
            ring.copy(buffer, bytes.len(), &mut memory, at as u64)?;
            at += bytes.len();
        }
        cuda.wait()?;
        rounds.push(start.elapsed().as_secs_f64() / at as f64 * size as f64);
    }
    add("upload through the ring", size as u64, median(rounds), None, None);

    let chunks = Chunks::new(len)?;
    let mut decoder = cuda.decoder()?;
    let images = cuda.upload(&chunks.images)?;
    let mut to = cuda.allocate(len)?;
    let seconds = timed(&cuda, || Ok(decoder.decode(&chunks.placed, &images, &mut to)?))?;
    let mut got = Vec::new();
    cuda.read_back(&to, chunks.len(), &mut |part| got.extend_from_slice(part))?;
    let correct =
        got.chunks(chunks.decoded.len()).all(|one| one == chunks.decoded) && decoder.faults()? == 0;
    add("decode bf16, output", chunks.len(), seconds, None, Some(correct));

    for (name, weight, required) in weights(rows, cols)? {
        // The reference is slow: it checks a smaller weight of the same kind.
        let (_, small, _) =
            weights(512, cols)?.into_iter().find(|(n, ..)| *n == name).ok_or("kind")?;
        let parts = sample::parts(&small, 5);
        let bound = upload(&cuda, &parts.0)?;
        let expected = dequantize(&small, &parts.borrow(), Float::BF16)?;
        let result = cuda.dequantize(&small, &bound, Float::BF16)?;
        let correct = same(&cuda.read(&result, expected.len() as u64)?, &expected);

        let bound = upload(&cuda, &sample::parts(&weight, 6).0)?;
        let mut result = cuda.alloc(weight.elements() * 2)?;
        let seconds = timed(&cuda, || {
            Ok(cuda.dequantize_into(&weight, &bound, Float::BF16, &mut result)?)
        })?;
        let bytes = moved(&weight, Float::BF16);
        add(name, bytes, seconds, required.map(|[cuda, _]| cuda), Some(correct));
    }
    Ok(())
}

fn upload(cuda: &Cuda, parts: &[Vec<u8>; 5]) -> Result<CudaParts, Failure> {
    let mut bound = Vec::new();
    for part in parts {
        bound.push(Some(cuda.upload(part)?));
    }
    let bound = bound.try_into().map_err(|_| "five parts")?;
    Ok(CudaParts(bound))
}
