//! Decoding chunks through CUDA (`kernels/planes.cu`).

use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::super::decode::{Decoder, Placed, misplaced, words};
use super::super::device::DeviceError;
use super::delta::CudaDeltaDecoder;
use super::{Cuda, nvrtc};
use crate::chunk::codec::{DeltaProgram, Offsets, Program, Target};
use crate::dequant::kernel::THREADS;
use crate::format::grid::Rect;

/// Bytes of images that are decoded at a time: a chunk is less than a block's work, and a device has
/// hundreds of blocks under way.
const BATCH: u64 = 32 << 20;
/// Words of symbols beyond which no chunk is added to a launch.
const SYMBOLS: u64 = 32 << 20;
/// Chunks of a launch: blocks of the third dimension.
const MAX_CHUNKS: u32 = 65_535;

/// The kernels that decode chunks, with what they share with others.
pub fn source() -> String {
    [include_str!("../../../../kernels/common.cuh"), include_str!("../../../../kernels/planes.cu")]
        .concat()
}

/// Decodes chunks on a device: kernels, and the memory that they work in.
#[derive(Debug)]
pub struct CudaDecoder {
    cuda: Cuda,
    huffman: CudaFunction,
    merge: CudaFunction,
    symbols: CudaSlice<u8>,
    faults: CudaSlice<u8>,
    /// For chunks that are stored against bases, once there is one.
    delta: Option<CudaDeltaDecoder>,
}

impl Cuda {
    /// Compiles the kernels that decode chunks.
    ///
    /// # Errors
    /// If they do not compile, or the device fails.
    pub fn decoder(&self) -> Result<CudaDecoder, DeviceError> {
        let code = nvrtc::compile_source("planes", &source(), &self.0.architecture)?;
        let module = self.done(self.0.context.load_module(Ptx::from_binary(code)))?;
        let huffman = self.done(module.load_function("huffman"))?;
        let merge = self.done(module.load_function("merge"))?;
        let (symbols, mut faults) = (self.alloc(0)?, self.alloc(4)?);
        self.done(self.stream().memset_zeros(&mut faults))?;
        Ok(CudaDecoder { cuda: self.clone(), huffman, merge, symbols, faults, delta: None })
    }
}

/// Chunks that are decoded at a time, and the blocks that this takes.
#[derive(Default)]
struct Launch {
    params: Vec<u8>,
    chunks: u32,
    huffman: [u32; 2],
    merge: u32,
}

impl Launch {
    fn add(&mut self, program: &Program, target: Target, base: Offsets) {
        let params = program.params(target, base);
        self.params.extend(params.iter().flat_map(|word| word.to_le_bytes()));
        self.chunks += 1;
        let [streams, planes] = self.huffman;
        let blocks = program.streams().div_ceil(THREADS);
        self.huffman = [streams.max(blocks), planes.max(program.coded())];
        self.merge = self.merge.max(program.words().div_ceil(THREADS));
    }
}

impl CudaDecoder {
    /// Begins to decode the chunks of `launch`, whose planes take so many words.
    fn launch(
        &mut self,
        launch: &Launch,
        symbols: u64,
        images: &CudaSlice<u8>,
        to: &mut CudaSlice<u8>,
    ) -> Result<(), DeviceError> {
        let cuda = self.cuda.clone();
        if (self.symbols.len() as u64) < 4 * symbols {
            self.symbols = cuda.alloc(4 * symbols)?;
        }
        let programs = cuda.upload(&launch.params)?;
        let [streams, planes] = launch.huffman;
        for (function, x, y) in [(&self.huffman, streams, planes), (&self.merge, launch.merge, 1)] {
            if x == 0 || y == 0 {
                continue;
            }
            let mut builder = cuda.stream().launch_builder(function);
            builder.arg(&programs);
            builder.arg(images);
            builder.arg(&mut self.symbols);
            builder.arg(&mut *to);
            builder.arg(&mut self.faults);
            let config = LaunchConfig {
                grid_dim: (x, y, launch.chunks),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the arguments are those of both entry points in `kernels/planes.cu`: the numbers of
            // every chunk, the chunks with their tables, room for the symbols of their coded planes, the
            // result, in which each lies, and a word for what is wrong. Kernels write what the numbers
            // say and read streams within the stored bytes, whatever these are.
            cuda.done(unsafe { builder.launch(config) })?;
        }
        Ok(())
    }
}

impl Decoder<Cuda> for CudaDecoder {
    fn fits(&self, _: u64, _: &Rect) -> bool {
        true
    }

    fn batch(&self) -> u64 {
        BATCH
    }

    fn decode(
        &mut self,
        chunks: &[Placed],
        images: &CudaSlice<u8>,
        to: &mut CudaSlice<u8>,
    ) -> Result<(), DeviceError> {
        let (mut launch, mut symbols) = (Launch::default(), 0);
        for chunk in chunks {
            if symbols > SYMBOLS || launch.chunks == MAX_CHUNKS {
                self.launch(&launch, symbols, images, to)?;
                (launch, symbols) = (Launch::default(), 0);
            }
            let (program, rect) = (&chunk.program, &chunk.rect);
            let beyond = |end: Option<u64>, len: usize| end.is_none_or(|end| end > len as u64);
            if beyond(rect.end().checked_next_multiple_of(4), to.len())
                || beyond(chunk.at.checked_add(program.image_len()), images.len())
            {
                return Err(misplaced());
            }
            let small = |n: u64| u32::try_from(n).map_err(|_| misplaced());
            let target =
                Target { start: 0, width: small(rect.width)?, stride: small(rect.stride)? };
            let base = Offsets {
                image: small(chunk.at / 4)?,
                symbols: small(symbols)?,
                result: rect.start / 4,
            };
            launch.add(program, target, base);
            symbols += program.plane_words();
        }
        self.launch(&launch, symbols, images, to)
    }

    fn decode_against(
        &mut self,
        program: &DeltaProgram,
        chunk: &CudaSlice<u8>,
        base: &CudaSlice<u8>,
        to: &mut CudaSlice<u8>,
        rect: &Rect,
    ) -> Result<(), DeviceError> {
        let beyond = || DeviceError::Internal("a chunk beyond what kernels count".to_owned());
        let place = words(rect).ok_or_else(beyond)?;
        let delta = match self.delta.take() {
            Some(delta) => delta,
            None => self.cuda.delta_decoder()?,
        };
        let delta = self.delta.insert(delta);
        delta.decode(program, chunk, (base, [0, u32::MAX, 0]), (to, place))
    }

    fn faults(&mut self) -> Result<u32, DeviceError> {
        self.cuda.take_faults(&mut self.faults)
    }

    fn delta_faults(&mut self) -> Result<u32, DeviceError> {
        self.delta.as_mut().map_or(Ok(0), CudaDeltaDecoder::faults)
    }
}

impl Cuda {
    /// What kernels said was wrong since the last time.
    pub(super) fn take_faults(&self, faults: &mut CudaSlice<u8>) -> Result<u32, DeviceError> {
        let bytes = self.read(faults, 4)?;
        let found = bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word));
        if found != 0 {
            self.done(self.stream().memset_zeros(faults))?;
        }
        Ok(found)
    }
}
