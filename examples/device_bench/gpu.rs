//! The wgpu half: device-to-device copy, upload through the ring, kernels; timed from
//! submission to the end of work, over enough repetitions in one that submission does not count.

use std::time::Instant;

use tenpak::dequant::{Float, dequantize, sample};
use tenpak::load::sink::decode::Decoder;
use tenpak::load::sink::upload::{Device, Ring, Staging};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions, GpuParts};

use super::decode::Chunks;
use super::{Failure, Row, lines_of, median, moved, same, weights};

/// Seconds for `work`, which does the same so many times: the median of 5 rounds after one.
fn timed(
    gpu: &Gpu,
    times: u32,
    mut work: impl FnMut() -> Result<(), Failure>,
) -> Result<f64, Failure> {
    let mut seconds = Vec::new();
    for round in 0..6 {
        gpu.wait()?;
        let start = Instant::now();
        work()?;
        gpu.wait()?;
        if round > 0 {
            seconds.push(start.elapsed().as_secs_f64() / f64::from(times));
        }
    }
    Ok(median(seconds))
}

pub fn measure(rows: &dyn Fn(u32) -> u32, cols: u32, table: &mut Vec<Row>) -> Result<(), Failure> {
    let gpu = Gpu::open(&GpuOptions::default())?;
    let (rows, times) = if gpu.is_software() { (rows(4), 1) } else { (rows(256), 100) };
    let mut add = lines_of(gpu.name(), table);
    let len = u64::from(rows) * u64::from(cols) * 2;
    let from = gpu.upload(&vec![0x5a; len as usize])?;
    let to = gpu.alloc(len)?;
    let seconds = timed(&gpu, times, || Ok(gpu.copy_on_device(&from, &to, len, times)?))?;
    add("copy on the device", 2 * len, seconds, None, None);

    let mut ring = Ring::new(gpu.clone(), 4, 4 << 20);
    let bytes = vec![0x3c; ring.size()];
    let mut memory = gpu.allocate(len)?;
    let seconds = timed(&gpu, 1, || {
        let mut at = 0;
        while at + bytes.len() as u64 <= len {
            let mut buffer = ring.take()?;
            buffer.write(0, &bytes)?;
            ring.copy(buffer, bytes.len(), &mut memory, at)?;
            at += bytes.len() as u64;
        }
        Ok(())
    })?;
    add("upload through the ring", len, seconds, None, None);

    let chunks = Chunks::new(len)?;
    let mut decoder = gpu.decoder()?;
    let images = gpu.upload(&chunks.images)?.into();
    let mut to = gpu.allocate(len)?;
    let seconds = timed(&gpu, 1, || Ok(decoder.decode(&chunks.placed, &images, &mut to)?))?;
    let mut got = Vec::new();
    gpu.read_back(&to, chunks.len(), &mut |part| got.extend_from_slice(part))?;
    let correct =
        got.chunks(chunks.decoded.len()).all(|one| one == chunks.decoded) && decoder.faults()? == 0;
    add("decode bf16, output", chunks.len(), seconds, None, Some(correct));

    for (name, weight, required) in weights(rows, cols)? {
        let (_, small, _) =
            weights(512, cols)?.into_iter().find(|(n, ..)| *n == name).ok_or("kind")?;
        let parts = sample::parts(&small, 5);
        let expected = dequantize(&small, &parts.borrow(), Float::BF16)?;
        let result = gpu.dequantize(&small, &upload(&gpu, &parts.0)?, Float::BF16)?;
        let correct = same(&gpu.read(&result, expected.len() as u64)?, &expected);

        let bound = upload(&gpu, &sample::parts(&weight, 6).0)?;
        let result = gpu.alloc(weight.elements() * 2)?;
        let prepared = gpu.prepare(&weight, &bound, Float::BF16, &result)?;
        let work = vec![&prepared; times as usize];
        let seconds = timed(&gpu, times, || Ok(gpu.submit(&work)?))?;
        let required = required.map(|[_, wgpu]| wgpu).filter(|_| !gpu.is_software());
        add(name, moved(&weight, Float::BF16), seconds, required, Some(correct));
    }
    Ok(())
}

fn upload(gpu: &Gpu, parts: &[Vec<u8>; 5]) -> Result<GpuParts, Failure> {
    let mut bound = [const { None }; 5];
    for (to, part) in bound.iter_mut().zip(parts) {
        *to = Some(gpu.upload(part)?);
    }
    Ok(GpuParts(bound))
}
