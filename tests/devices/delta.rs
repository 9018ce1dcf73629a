//! Deltas and patches decoded by kernels: bit for bit what the host decodes them to, and refused where it
//! refuses them. WGSL on the adapter that there is; CUDA compiled, and run as C++ on the host.

use std::path::Path;

use bytes::BytesMut;
use half::{bf16, f16};
use tenpak::chunk::codec::{
    Against, CodecChoice, DELTA_PARAMS, DeltaProgram, Encoder, into_decoded,
};
use tenpak::chunk::verified::VerifiedChunk;
use tenpak::format::dtype::Dtype;
use tenpak::format::id::{DecodedDigest, StoredDigest};
use tenpak::format::record::{Base, ChunkRecord, CodecId};
use tenpak::load::sink::cuda::nvrtc::compile_source;
use tenpak::load::sink::cuda::{Cuda, delta};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions};

use super::cuda_kernels::{Fenced, built, use_nvrtc};
use super::support::noise;

/// A chunk: what it is called, its record, its base, its stored bytes.
pub(super) type Chunk = (String, ChunkRecord, Vec<u8>, Vec<u8>);

/// Numbers from -1 to 1, denser around 0.
fn numbers(count: usize, seed: u64) -> impl Iterator<Item = f32> {
    let bytes = noise(seed, 2 * count);
    let pairs: Vec<f32> = bytes
        .chunks(2)
        .map(|two| (f32::from(two[0]) - 127.5) * (f32::from(two[1]) + 1.0) / 32_768.0)
        .collect();
    pairs.into_iter()
}

/// Chunks of every type against bases that differ a little, and in places much.
fn encoded(counts: &[usize]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    for (&count, few) in counts.iter().zip([false, true].into_iter().cycle()) {
        let mut add = |name: &str, dtype: Dtype, to: &dyn Fn(f32) -> Vec<u8>| {
            let noise = numbers(count, 9).enumerate();
            let moved = numbers(count, 5).zip(noise).map(|(x, (at, noise))| match at % 997 {
                0 => noise * 1e4,
                _ if few => x,
                _ => x + noise * 1e-3,
            });
            let base: Vec<u8> = numbers(count, 5).flat_map(to).collect();
            let bytes: Vec<u8> = moved.flat_map(to).collect();
            let digest = DecodedDigest::of(&base);
            let against = Against { base: Base { decoded: digest, depth: 1 }, decoded: &base };
            let encoded =
                Encoder::default().encode(CodecChoice::Auto, dtype, bytes.into(), Some(against));
            let name = format!("{name} {count} {}", encoded.record.codec.name());
            if matches!(encoded.record.codec, CodecId::DELTA | CodecId::PATCH) {
                chunks.push((name, encoded.record, base, encoded.stored.to_vec()));
            }
        };
        add("bf16", Dtype::BF16, &|x| bf16::from_f32(x).to_le_bytes().to_vec());
        add("f16", Dtype::F16, &|x| f16::from_f32(x).to_le_bytes().to_vec());
        add("f32", Dtype::F32, &|x| x.to_le_bytes().to_vec());
        add("i16", Dtype::I16, &|x| ((x * 9e3) as i16).to_le_bytes().to_vec());
        add("i32", Dtype::I32, &|x| ((x * 9e6) as i32).to_le_bytes().to_vec());
        add("u8", Dtype::U8, &|x| vec![(x * 100.0) as i8 as u8]);
    }
    chunks
}

/// The chunks of a folder of fixtures: a record, the base's length, the base, the stored bytes.
pub(super) fn fixtures(folder: &str) -> Vec<Chunk> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut chunks = Vec::new();
    for file in folder.read_dir().unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let (record, rest) = bytes.split_first_chunk::<{ ChunkRecord::LEN }>().unwrap();
        let Ok(record) = ChunkRecord::parse(record) else { continue };
        if !matches!(record.codec, CodecId::DELTA | CodecId::PATCH) {
            continue;
        }
        let (len, rest) = rest.split_first_chunk::<4>().unwrap();
        let Some((base, stored)) = rest.split_at_checked(u32::from_le_bytes(*len) as usize) else {
            continue;
        };
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        chunks.push((name, record, base.to_vec(), stored.to_vec()));
    }
    assert!(!chunks.is_empty());
    chunks
}

/// What the host decodes a chunk to; none where it refuses.
pub(super) fn on_the_host(record: ChunkRecord, base: &[u8], stored: &[u8]) -> Option<Vec<u8>> {
    let verified = VerifiedChunk::verify(record, BytesMut::from(stored)).unwrap();
    into_decoded(verified, Some(base)).ok().map(|bytes| bytes.to_vec())
}

/// Every chunk, of so many elements, through `decode`.
fn check(
    counts: &[usize],
    mut decode: impl FnMut(&DeltaProgram, &[u8], &[u8], usize) -> Option<Vec<u8>>,
) {
    let mut decode = |record: &ChunkRecord, base: &[u8], stored: &[u8]| {
        let program = DeltaProgram::of(record, stored).ok()?.unwrap();
        let mut image = Vec::new();
        program.image(stored, &mut image);
        assert_eq!(image.len() as u64, program.image_len());
        // Bases of another length are refused before.
        let fits = base.len() == record.decoded_len as usize;
        fits.then(|| decode(&program, &image, base, base.len()))?
    };
    let (mut deltas, mut patches) = (0, 0);
    for (name, record, base, stored) in encoded(counts).into_iter().chain(fixtures("v1/chunks")) {
        deltas += usize::from(record.codec == CodecId::DELTA);
        patches += usize::from(record.codec == CodecId::PATCH);
        let expected = on_the_host(record, &base, &stored).unwrap();
        let got = decode(&record, &base, &stored);
        let got = got.unwrap_or_else(|| panic!("{name} was refused"));
        let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((got.len(), differs), (expected.len(), None), "{name}");
    }
    assert!(deltas >= 11 && patches >= 8, "{deltas} deltas, {patches} patches");
    for (name, record, base, stored) in fixtures("hostile/chunk") {
        assert_eq!(on_the_host(record, &base, &stored), None, "{name}");
        assert!(decode(&record, &base, &stored).is_none(), "{name} was not noticed");
    }
    // Whatever words hold, what passes is the host's.
    let damaged = fixtures("v1/chunks").into_iter().filter(|(name, ..)| name.starts_with("delta"));
    for (name, record, base, stored) in damaged {
        for at in 0..12 {
            let mut stored = stored.clone();
            let place = stored.len() / 13 * at + at;
            stored[place] ^= 1 << (at % 8);
            let record = ChunkRecord { stored: StoredDigest::of(&stored), ..record };
            let expected = on_the_host(record, &base, &stored);
            assert!(decode(&record, &base, &stored) == expected, "{name}, byte {place}");
        }
    }
}

#[test]
fn wgsl_decodes_deltas_and_patches_as_the_host_does() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut decoder = gpu.delta_decoder().unwrap();
    check(&[5003, 70_001, 300_000], |program, image, base, len| {
        let chunk = gpu.upload(image).unwrap();
        // In rows on both sides, where the chunk is whole rows, and behind something.
        let row = if len % 4000 == 0 { 1000 } else { u32::MAX };
        let words = len.div_ceil(4);
        let rows = if row == u32::MAX { 1 } else { words / 1000 };
        let wide = |stride: usize| -> Vec<u8> {
            let mut bytes = vec![0xee; 4 * (16 + rows * stride).max(16 + words)];
            let width = if rows == 1 { len } else { 4000 };
            for (at, part) in base.chunks(width).enumerate() {
                let start = 4 * (16 + at * stride);
                bytes[start..start + part.len()].copy_from_slice(part);
            }
            bytes
        };
        let from = gpu.upload(&wide(1500)).unwrap();
        let to = gpu.alloc(4 * (16 + rows * 1200).max(16 + words) as u64).unwrap();
        decoder.decode(program, &chunk, (&from, [16, row, 1500]), (&to, [16, row, 1200])).unwrap();
        if decoder.faults().unwrap() != 0 {
            return None;
        }
        let all = gpu.read(&to, to.size()).unwrap();
        let rows = all[64..].chunks(if row == u32::MAX { usize::MAX } else { 4800 });
        let mut got: Vec<u8> = rows
            .flat_map(|row_bytes| {
                &row_bytes[..row_bytes.len().min(if row == u32::MAX { len } else { 4000 })]
            })
            .copied()
            .collect();
        got.truncate(len);
        Some(got)
    });
}

#[test]
fn on_a_device_cuda_decodes_deltas_and_patches_as_the_host_does() {
    use_nvrtc();
    let Ok(cuda) = Cuda::open(0) else {
        assert!(!Path::new("/dev/nvidia0").exists(), "there is a device");
        return;
    };
    let mut decoder = cuda.delta_decoder().unwrap();
    check(&[5003, 70_001, 300_000], |program, image, base, len| {
        let chunk = cuda.upload(image).unwrap();
        let (base, mut result) = (cuda.upload(base).unwrap(), cuda.alloc(len as u64).unwrap());
        let place = [0, u32::MAX, 0];
        decoder.decode(program, &chunk, (&base, place), (&mut result, place)).unwrap();
        let passed = decoder.faults().unwrap() == 0;
        passed.then(|| cuda.read(&result, len as u64).unwrap())
    });
}

type LaunchFn = unsafe extern "C" fn(
    *const (),
    u32,
    *const [u32; DELTA_PARAMS],
    *const u8,
    *const u8,
    *mut u8,
    *mut u8,
);

#[test]
fn cuda_compiles_and_run_on_the_host_decodes_deltas_and_patches_as_the_host_does() {
    use_nvrtc();
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        compile_source("delta", &delta::source(), architecture).unwrap();
    }
    let dir = tempfile::tempdir().unwrap();
    let library = built(dir.path(), "delta", &delta::source(), "delta.h");
    check(&[1003, 5002], |program, image, base, len| {
        let whole = |bytes: &[u8]| {
            [bytes, &vec![0; bytes.len().next_multiple_of(4) - bytes.len()]].concat()
        };
        let (chunk, base) = (Fenced::exact(image), Fenced::exact(&whole(base)));
        let result = Fenced::exact(&vec![0x55; len.next_multiple_of(4)]);
        let faults = Fenced::exact(&[0; 4]);
        let place = [0, u32::MAX, 0];
        let params = program.params(place, place);
        let launches: &[(&[u8], u32)] = if program.is_patch() {
            &[
                (b"copy_base", program.words().div_ceil(256)),
                (b"patch_words", program.parts().div_ceil(256)),
            ]
        } else {
            &[(b"delta", program.parts().div_ceil(8))]
        };
        for (entry, blocks) in launches {
            // SAFETY: the signatures are those of `delta.h` and of its kernels.
            unsafe {
                let start = library.get::<LaunchFn>(b"launch").unwrap();
                let kernel = library.get::<*const ()>(*entry).unwrap();
                let (chunk, base, result) = (chunk.at(), base.at(), result.at());
                start(*kernel, *blocks, &params, chunk, base, result, faults.at());
            }
        }
        (faults.read(4) == [0; 4]).then(|| result.read(len))
    });
}
