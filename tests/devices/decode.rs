//! Chunks decoded by kernels: bit for bit what the host decodes them to, and refused where it refuses
//! them. WGSL on the adapter that there is, CUDA as C++ on the host, and on a device where there is one.
//!
//! One file: the same chunks go through every kernel.

use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::BytesMut;
use half::{bf16, f16};
use tenpak::chunk::codec::{
    CodecChoice, DeltaProgram, Encoder, Offsets, PARAMS, Program, Target, into_decoded,
};
use tenpak::chunk::verified::VerifiedChunk;
use tenpak::format::dtype::{Dtype, Shape};
use tenpak::format::grid::{Grid, Rect};
use tenpak::format::id::{ContentDigest, ManifestId, PackId};
use tenpak::format::layout::Place;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::page::TensorEntry;
use tenpak::format::record::{ChunkRecord, CodecId};
use tenpak::format::store as paths;
use tenpak::load::sink::cuda::{Cuda, planes};
use tenpak::load::sink::decode::{DecodeSink, Decoder, Placed, Route};
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::drain;
use tenpak::load::sink::stream::{DeviceSink, StreamOptions};
use tenpak::load::sink::upload::{Device, Ring, Staging};
use tenpak::load::sink::wgpu::{Gpu, GpuDecoder, GpuMemory, GpuOptions};
use tenpak::load::{LoadOptions, Loader};
use tenpak::schedule::plan::TensorRequest;
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

use super::cuda_kernels::{Fenced, built, use_nvrtc};
use super::model::{Fill, Model, Tensor};
use super::run::{done, fresh_folder, pack, text};
use super::support::noise;

/// A chunk: what it is called, its record, its stored bytes.
type Chunk = (String, ChunkRecord, Vec<u8>);

/// Numbers as weights have them: around zero, of a scale that differs from run to run.
pub(super) fn weights(count: usize, seed: u64) -> impl Iterator<Item = f32> {
    let bytes = noise(seed, 4 * count);
    let sums: Vec<f32> = bytes
        .chunks(4)
        .map(|four| four.iter().map(|byte| f32::from(*byte) - 127.5).sum::<f32>())
        .collect();
    (0..).zip(sums).map(|(at, sum): (usize, f32)| sum * 2_f32.powi(-10 - (at / 5000) as i32 % 9))
}

/// Encoded chunks of every form, with odd tails.
fn encoded() -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let mut add = |name: &str, dtype: Dtype, bytes: Vec<u8>| {
        let encoded = Encoder::default().encode(CodecChoice::Float, dtype, bytes.into(), None);
        chunks.push((name.to_owned(), encoded.record, encoded.stored.to_vec()));
    };
    for count in [5003, 4096, 70_001, 262_144] {
        let all = || weights(count, count as u64);
        let of = |name: &str| format!("{name} {count}");
        add(
            &of("bf16"),
            Dtype::BF16,
            all().flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect(),
        );
        add(&of("f16"), Dtype::F16, all().flat_map(|x| f16::from_f32(x).to_le_bytes()).collect());
        add(&of("f32"), Dtype::F32, all().flat_map(f32::to_le_bytes).collect());
        add(&of("f64"), Dtype::F64, all().flat_map(|x| f64::from(x * 1.1).to_le_bytes()).collect());
        let cast = all().flat_map(|x| bf16::from_f32(x).to_f32().to_le_bytes()).collect();
        add(&of("f32 of bf16"), Dtype::F32, cast);
        let whole = |x: f32| x as i32;
        add(&of("i8"), Dtype::I8, all().map(|x| whole(x * 40.0) as u8).collect());
        add(
            &of("i16"),
            Dtype::I16,
            all().flat_map(|x| (whole(x * 999.0) as i16).to_le_bytes()).collect(),
        );
        add(&of("i32"), Dtype::I32, all().flat_map(|x| whole(x * 9999.0).to_le_bytes()).collect());
        let wide = all().flat_map(|x| i64::from(whole(x * 9999.0)).to_le_bytes()).collect();
        add(&of("i64"), Dtype::I64, wide);
        let few = |x: f32| (whole(x * 9.0).clamp(-60, 60)) as f32;
        add(
            &of("palette bf16"),
            Dtype::BF16,
            all().flat_map(|x| bf16::from_f32(few(x)).to_le_bytes()).collect(),
        );
        add(&of("palette f32"), Dtype::F32, all().flat_map(|x| few(x).to_le_bytes()).collect());
        add(
            &of("palette f64"),
            Dtype::F64,
            all().flat_map(|x| f64::from(few(x)).to_le_bytes()).collect(),
        );
    }
    add("raw", Dtype::U8, noise(3, 10_001).to_vec());
    chunks
}

/// The chunks of a folder of fixtures: a record, then the stored bytes.
fn fixtures(folder: &str) -> Vec<Chunk> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(folder);
    let mut chunks = Vec::new();
    for file in folder.read_dir().unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        let (record, stored) = bytes.split_first_chunk::<{ ChunkRecord::LEN }>().unwrap();
        let Ok(record) = ChunkRecord::parse(record) else { continue };
        if matches!(record.codec, CodecId::PLANES | CodecId::PALETTE) {
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            chunks.push((name, record, stored.to_vec()));
        }
    }
    assert!(!chunks.is_empty());
    chunks
}

/// What the host decodes a chunk to; none where it refuses.
fn on_the_host(record: ChunkRecord, stored: &[u8]) -> Option<Vec<u8>> {
    let verified = VerifiedChunk::verify(record, BytesMut::from(stored)).unwrap();
    into_decoded(verified, None).ok().map(|bytes| bytes.to_vec())
}

/// What a device decodes a chunk to, at a place in a larger tensor; none where it, or the host half,
/// refuses.
fn on_a_device<D: Device + Clone>(
    device: &D,
    decoder: &mut dyn Decoder<D>,
    record: &ChunkRecord,
    stored: &[u8],
) -> Option<Vec<u8>> {
    let program = Program::of(record, stored).ok()?.unwrap();
    let mut image = Vec::new();
    program.image(stored, &mut image);
    assert_eq!(image.len() as u64, program.image_len());
    let mut chunk = device.allocate(image.len() as u64).unwrap();
    let mut ring = Ring::new(device.clone(), 1, image.len());
    let mut buffer = ring.take().unwrap();
    buffer.write(0, &image).unwrap();
    ring.copy(buffer, image.len(), &mut chunk, 0).unwrap();
    let len = u64::from(record.decoded_len);
    let rect = Rect { start: 1204, rows: 1, width: len, stride: len };
    let mut tensor = device.allocate(rect.end()).unwrap();
    assert!(decoder.fits(rect.end(), &rect));
    decoder.decode(&[Placed { program, at: 0, rect }], &chunk, &mut tensor).unwrap();
    let faults = decoder.faults().unwrap();
    let mut got = Vec::new();
    device.read_back(&tensor, rect.end(), &mut |part| got.extend_from_slice(part)).unwrap();
    (faults == 0).then(|| got[rect.start as usize..].to_vec())
}

/// Every chunk, through `decode`.
fn check(mut decode: impl FnMut(&ChunkRecord, &[u8]) -> Option<Vec<u8>>) {
    let mut coded = 0;
    for (name, record, stored) in encoded().into_iter().chain(fixtures("v1/chunks")) {
        coded += usize::from(record.codec != CodecId::RAW);
        let (expected, got) = (on_the_host(record, &stored).unwrap(), decode(&record, &stored));
        let got = got.unwrap_or_else(|| panic!("{name} was refused"));
        let differs = got.iter().zip(&expected).position(|(a, b)| a != b);
        assert_eq!((got.len(), differs), (expected.len(), None), "{name}, {}", record.codec.name());
    }
    assert!(coded > 45, "only {coded} were coded");
    for (name, record, stored) in fixtures("hostile/chunk") {
        assert_eq!(on_the_host(record, &stored), None, "{name}");
        assert!(decode(&record, &stored).is_none(), "{name} was not noticed");
    }
    // Whatever bytes streams have, nothing is read or written outside, and what passes is the host's.
    let (_, record, stored) = encoded().swap_remove(24);
    assert_eq!(record.codec, CodecId::PLANES);
    for at in 0..60 {
        let mut stored = stored.clone();
        let place = stored.len() / 61 * at + 7;
        stored[place] ^= 1 << (at % 8);
        let digest = tenpak::format::id::StoredDigest::of(&stored);
        let record = ChunkRecord { stored: digest, ..record };
        assert!(decode(&record, &stored) == on_the_host(record, &stored), "byte {place}");
    }
}

#[test]
fn wgsl_decodes_what_the_host_decodes_and_refuses_what_it_refuses() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut decoder = gpu.decoder().unwrap();
    check(|record, stored| on_a_device(&gpu, &mut decoder, record, stored));
    all_at_once(&gpu, &mut decoder, |bytes| gpu.upload(bytes).unwrap().into());
}

#[test]
fn cuda_decodes_on_a_device_and_compiles_without_one() {
    use_nvrtc();
    for architecture in ["sm_80", "sm_90", "sm_100"] {
        use tenpak::load::sink::cuda::nvrtc::compile_source;
        let code = compile_source("planes", &planes::source(), architecture).unwrap();
        for name in ["huffman", "merge"] {
            assert!(code.windows(name.len()).any(|window| window == name.as_bytes()));
        }
    }
    let Ok(cuda) = Cuda::open(0) else {
        assert!(!Path::new("/dev/nvidia0").exists(), "there is a device");
        return;
    };
    let mut decoder = cuda.decoder().unwrap();
    check(|record, stored| on_a_device(&cuda, &mut decoder, record, stored));
    all_at_once(&cuda, &mut decoder, |bytes| cuda.upload(bytes).unwrap());
}

type LaunchFn = unsafe extern "C" fn(
    *const (),
    &[u32; 3],
    *const [u32; PARAMS],
    *const u8,
    *mut u8,
    *mut u8,
    *mut u8,
);

/// What the kernels, as C++ in `library`, decode chunks to, which lie in `images` where `at` says, each to its
/// own place behind the last; none if one was found wrong.
fn on_cpp(
    library: &libloading::Library,
    chunks: &[(Program, u64)],
    images: &[u8],
) -> Option<Vec<u8>> {
    let (mut params, mut grids) = (Vec::new(), [[0, 0, chunks.len() as u32]; 2]);
    let (mut symbols, mut words) = (0, 0);
    for (program, at) in chunks {
        let len = 4 * program.words();
        let offsets =
            Offsets { image: (*at / 4) as u32, symbols: symbols as u32, result: words as u64 };
        params.push(program.params(Target { start: 0, width: len, stride: len }, offsets));
        symbols += program.plane_words() as usize;
        words += program.words() as usize;
        let [huffman, merge] = &mut grids;
        huffman[0] = huffman[0].max(program.streams().div_ceil(256));
        huffman[1] = huffman[1].max(program.coded());
        merge[0] = merge[0].max(program.words().div_ceil(256));
        merge[1] = 1;
    }
    // Exactly as large as said: what is read or written beyond faults.
    let images = Fenced::exact(images);
    let symbols = Fenced::exact(&vec![0x77; 4 * symbols]);
    let result = Fenced::exact(&vec![0x55; 4 * words]);
    let faults = Fenced::exact(&[0; 4]);
    for (entry, grid) in [&b"huffman"[..], b"merge"].into_iter().zip(&grids) {
        // SAFETY: the signatures are those of `planes.h` and of both kernels.
        unsafe {
            let start = library.get::<LaunchFn>(b"launch").unwrap();
            let kernel = library.get::<*const ()>(entry).unwrap();
            let (images, params) = (images.at(), params.as_ptr());
            start(*kernel, grid, params, images, symbols.at(), result.at(), faults.at());
        }
    }
    (faults.read(4) == [0; 4]).then(|| result.read(4 * words))
}

#[test]
fn run_on_the_host_cuda_decodes_what_the_host_decodes() {
    let dir = tempfile::tempdir().unwrap();
    let library = built(dir.path(), "planes", &planes::source(), "planes.h");
    check(|record, stored| {
        let program = Program::of(record, stored).ok()?.unwrap();
        let mut image = Vec::new();
        program.image(stored, &mut image);
        let mut result = on_cpp(&library, &[(program, 0)], &image)?;
        result.truncate(record.decoded_len as usize);
        Some(result)
    });
    let (chunks, images, expected) = together();
    let chunks: Vec<_> = chunks.into_iter().map(|chunk| (chunk.program, chunk.at)).collect();
    assert!(on_cpp(&library, &chunks, &images).unwrap() == expected);
}

/// Chunks of every form behind each other, of whole words; their images, and what they are decoded to.
fn together() -> (Vec<Placed>, Vec<u8>, Vec<u8>) {
    let (mut chunks, mut images, mut expected) = (Vec::new(), Vec::new(), Vec::new());
    for (_, record, stored) in encoded() {
        let len = u64::from(record.decoded_len);
        if record.codec == CodecId::RAW || !len.is_multiple_of(4) {
            continue;
        }
        let program = Program::of(&record, &stored).unwrap().unwrap();
        let mut image = Vec::new();
        program.image(&stored, &mut image);
        let at = images.len() as u64;
        images.extend_from_slice(&image);
        images.resize(images.len().next_multiple_of(256), 0);
        let rect = Rect { start: expected.len() as u64, rows: 1, width: len, stride: len };
        chunks.push(Placed { program, at, rect });
        expected.extend(on_the_host(record, &stored).unwrap());
    }
    assert!(chunks.len() > 20, "{}", chunks.len());
    (chunks, images, expected)
}

/// Many chunks in one call.
fn all_at_once<D: Device>(
    device: &D,
    decoder: &mut dyn Decoder<D>,
    upload: impl Fn(&[u8]) -> D::Memory,
) {
    let (chunks, images, expected) = together();
    let mut tensor = device.allocate(expected.len() as u64).unwrap();
    decoder.decode(&chunks, &upload(&images), &mut tensor).unwrap();
    assert_eq!(decoder.faults().unwrap(), 0);
    let mut got = Vec::new();
    device
        .read_back(&tensor, expected.len() as u64, &mut |part| got.extend_from_slice(part))
        .unwrap();
    assert!(got == expected);
}

/// A load of one chunk, as a tensor of bytes, whose stored bytes are what its record says, and of the
/// bases behind it.
pub(super) async fn streamed(chunks: Vec<(ChunkRecord, Vec<u8>)>) -> Result<Vec<u8>, DeviceError> {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let decoder = gpu.decoder().unwrap();
    streamed_by(&gpu, Box::new(decoder), 1, chunks).await
}

/// The same of a tensor that has so many chunks, by `decoder`.
async fn streamed_by(
    gpu: &Gpu,
    decoder: Box<dyn Decoder<Gpu>>,
    own: usize,
    chunks: Vec<(ChunkRecord, Vec<u8>)>,
) -> Result<Vec<u8>, DeviceError> {
    let store: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let mut index = PackIndex::new(0);
    let (records, stored): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
    let offsets: Vec<_> = records.iter().map(|record| index.push(*record).unwrap()).collect();
    let record = records[0];
    let bytes = index.to_bytes();
    let pack = PackId::of(&bytes);
    let trailer = Trailer { index_len: bytes.len() as u32 };
    let end = [bytes, trailer.to_bytes().to_vec()];
    let parts = stored.into_iter().chain(end).map(Into::into).collect();
    store.put(&paths::pack(pack), parts).await.unwrap();
    let len = records[..own].iter().map(|record| u64::from(record.decoded_len)).sum();
    let entry = TensorEntry {
        ordinal: 0,
        file: 0,
        name: "layer.weight".to_owned(),
        dtype: Dtype::U8,
        shape: Shape::vector(len),
        digest: ContentDigest::from_bytes(*record.decoded.as_bytes()),
        grid: Grid::run(len, record.decoded_len.into()),
    };
    let places = offsets.into_iter().map(|offset| Place { pack, offset }).collect();
    let wanted = [Arc::new(TensorRequest::new(entry, records, places, None))];
    let (route, loaded) = Route::new(&wanted, &*decoder, |_| false);
    assert_eq!((route.device, route.host), (1, 0));
    let inner = DeviceSink::new(gpu.clone(), &StreamOptions::default());
    let mut sink = DecodeSink::new(inner, decoder);
    let id = ManifestId::from_bytes([0; 32]);
    let options = LoadOptions::default();
    let mut loader = Loader::start(
        tenpak::store::Store::new(store),
        Some(id),
        loaded,
        Default::default(),
        &options,
    );
    let mut found = Vec::new();
    drain(&mut loader, &mut sink, |one| found.push(one)).await?;
    assert_eq!((found.len(), sink.stats().tensors), (1, 1));
    let mut bytes = Vec::new();
    gpu.read_back(&found[0].memory, len, &mut |part| bytes.extend_from_slice(part)).unwrap();
    Ok(bytes)
}

/// A decoder that is given so many bytes at a time, and how many chunks each call had.
struct Batched {
    inner: GpuDecoder,
    batch: u64,
    calls: Arc<Mutex<Vec<usize>>>,
}

impl Decoder<Gpu> for Batched {
    fn fits(&self, len: u64, rect: &Rect) -> bool {
        self.inner.fits(len, rect)
    }

    fn batch(&self) -> u64 {
        self.batch
    }

    fn decode(
        &mut self,
        chunks: &[Placed],
        images: &GpuMemory,
        to: &mut GpuMemory,
    ) -> Result<(), DeviceError> {
        self.calls.lock().unwrap().push(chunks.len());
        self.inner.decode(chunks, images, to)
    }

    fn decode_against(
        &mut self,
        program: &DeltaProgram,
        chunk: &GpuMemory,
        base: &GpuMemory,
        to: &mut GpuMemory,
        rect: &Rect,
    ) -> Result<(), DeviceError> {
        self.inner.decode_against(program, chunk, base, to, rect)
    }

    fn faults(&mut self) -> Result<u32, DeviceError> {
        self.inner.faults()
    }

    fn delta_faults(&mut self) -> Result<u32, DeviceError> {
        self.inner.delta_faults()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_tensor_wait_for_each_other_as_the_device_likes() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let bytes: Vec<u8> =
        weights(100_001, 9).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
    let mut chunks = Vec::new();
    for part in bytes.chunks(20_000) {
        let encoded =
            Encoder::default().encode(CodecChoice::Float, Dtype::BF16, part.to_vec().into(), None);
        chunks.push((encoded.record, encoded.stored.to_vec()));
    }
    let own = chunks.len();
    assert_eq!(own, 11);
    for (batch, expected) in [(0, vec![1; 11]), (60_000, vec![4, 4, 3]), (32 << 20, vec![11])] {
        let (inner, calls) = (gpu.decoder().unwrap(), Arc::<Mutex<Vec<usize>>>::default());
        let decoder = Batched { inner, batch, calls: calls.clone() };
        let got = streamed_by(&gpu, Box::new(decoder), own, chunks.clone()).await.unwrap();
        assert!(got == bytes, "batches of {batch}");
        assert_eq!(*calls.lock().unwrap(), expected, "batches of {batch}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_is_delivered_only_if_each_of_its_chunks_decodes() {
    for (name, record, stored) in fixtures("v1/chunks") {
        let expected = on_the_host(record, &stored).unwrap();
        // A whole number of words, or the end of the tensor.
        assert!(streamed(vec![(record, stored)]).await.unwrap() == expected, "{name}");
    }
    let mut noticed_by_the_device = 0;
    for (name, record, stored) in fixtures("hostile/chunk") {
        let heads = Program::of(&record, &stored).is_ok();
        let error = streamed(vec![(record, stored)]).await.expect_err(&name);
        let DeviceError::Decode { name: tensor, .. } = &error else { panic!("{name}: {error}") };
        assert!(tensor == "layer.weight" && error.to_string().contains("packed so"), "{error}");
        noticed_by_the_device += usize::from(heads);
    }
    assert!(noticed_by_the_device >= 4, "{noticed_by_the_device}");
}

#[test]
fn rows_of_a_band_go_where_they_belong() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut decoder = gpu.decoder().unwrap();
    let bytes: Vec<u8> =
        weights(60 * 100, 4).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
    let encoded =
        Encoder::default().encode(CodecChoice::Float, Dtype::BF16, bytes.clone().into(), None);
    let program = Program::of(&encoded.record, &encoded.stored).unwrap().unwrap();
    let mut image = Vec::new();
    program.image(&encoded.stored, &mut image);
    let chunk = gpu.upload(&image).unwrap().into();
    let mut tensor = gpu.upload(&vec![0x11; 64 * 1000]).unwrap().into();
    let rect = Rect { start: 2 * 1000 + 300, rows: 60, width: 200, stride: 1000 };
    decoder.decode(&[Placed { program, at: 0, rect }], &chunk, &mut tensor).unwrap();
    assert_eq!(decoder.faults().unwrap(), 0);
    let mut expected = vec![0x11; 64 * 1000];
    for (row, bytes) in bytes.chunks(200).enumerate() {
        let at = 2300 + 1000 * row;
        expected[at..at + 200].copy_from_slice(bytes);
    }
    assert!(gpu.read(tensor.whole().unwrap(), 64 * 1000).unwrap() == expected);
}

#[test]
fn the_command_decodes_on_the_device_and_says_what_it_did_not() {
    let folder = fresh_folder("decode_device");
    let (input, store) = (folder.join("model"), folder.join("store"));
    let of = |name: &str, shape: &[usize], odd: usize, seed| {
        let count = shape.iter().product::<usize>() + odd;
        let data = weights(count, seed).flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        let mut shape = shape.to_vec();
        shape.extend((odd > 0).then_some(1));
        Tensor { name: name.to_owned(), dtype: safetensors::Dtype::BF16, shape, data }
    };
    let mut model = Model::of(vec![
        of("model.layers.0.mlp.up_proj.weight", &[700, 1024], 0, 1),
        // Bands.
        of("model.layers.0.mlp.down_proj.weight", &[512, 2048], 0, 2),
        of("model.norm.weight", &[5001], 0, 3),
        Tensor::new("random", safetensors::Dtype::U8, &[5000], 4, Fill::Random),
        // Rows of 2002 bytes: not whole words.
        of("model.layers.0.mlp.odd_down_proj.weight", &[1500, 1001], 0, 5),
    ]);
    model = model.with("config.json", b"{}");
    model.write(&input);
    pack(&store, &input, "org/model", &["--codec", "float"]);
    let load = |more: &[&str]| {
        done(&[&["load", "org/model", "--store", text(&store), "--digest"], more].concat())
    };
    for dtype in ["stored", "f32"] {
        let host = load(&["--dtype", dtype]);
        let device = load(&["--dtype", dtype, "--device", "wgpu", "--decode", "device"]);
        assert_eq!(device.json["digests"], host.json["digests"], "{dtype}");
        assert_eq!(device.number("raw_bytes"), host.number("raw_bytes"));
        assert_eq!(device.number("tensors"), 5);
        assert!(device.number("decoded_by_device") >= 3, "{}", device.json);
        let counted = device.number("decoded_by_device") + device.number("decoded_by_host");
        assert_eq!(counted, 4, "{}", device.json);
        assert!(device.number("uploaded_bytes") < device.number("raw_bytes"));
        assert!(host.json["decoded_by_device"].is_null());
    }
    // Parts of tensors are the host's to decode, and said to be.
    let part = ["--device", "wgpu", "--decode", "device", "--shard", "0/2"];
    let run = load(&part);
    assert_eq!(run.json["digests"], load(&["--shard", "0/2"]).json["digests"]);
    assert!(run.number("decoded_by_host") >= 2, "{}", run.json);
    let refused =
        super::run::tenpak(&["load", "org/model", "--store", text(&store), "--decode", "device"]);
    assert_eq!(refused.status, Some(2), "{}", refused.error);
}
