//! Decoding chunks through CUDA (`kernels/planes.cu`).

use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::super::decode::{Decoder, words};
use super::super::device::DeviceError;
use super::delta::CudaDeltaDecoder;
use super::{Cuda, nvrtc};
use crate::codec::{DeltaProgram, Program, Target};
use crate::format::grid::Rect;
use crate::quant::kernel::THREADS;

/// The kernels that decode chunks, with what they share with others.
pub fn source() -> String {
    [include_str!("../../../kernels/common.cuh"), include_str!("../../../kernels/planes.cu")]
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

impl Decoder<Cuda> for CudaDecoder {
    fn fits(&self, _: u64, _: &Rect) -> bool {
        true
    }

    fn decode(
        &mut self,
        program: &Program,
        chunk: &CudaSlice<u8>,
        to: &mut CudaSlice<u8>,
        rect: &Rect,
    ) -> Result<(), DeviceError> {
        let wrong = || DeviceError::Internal("a chunk that does not lie in its tensor".to_owned());
        let cuda = self.cuda.clone();
        let need = 4 * program.plane_words();
        if (self.symbols.len() as u64) < need {
            self.symbols = cuda.alloc(need)?;
        }
        if rect.end().next_multiple_of(4) > to.len() as u64
            || program.image_len() > chunk.len() as u64
        {
            return Err(wrong());
        }
        let small = |n: u64| u32::try_from(n).map_err(|_| wrong());
        let target = Target { start: 0, width: small(rect.width)?, stride: small(rect.stride)? };
        let params = program.params(target);
        let mut result = to.slice_mut(rect.start as usize..);
        let config = |x: u32, y: u32| LaunchConfig {
            grid_dim: (x, y, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        for (function, x, y) in [
            (&self.huffman, program.streams().div_ceil(THREADS), program.coded()),
            (&self.merge, program.words().div_ceil(THREADS), 1),
        ] {
            if x == 0 || y == 0 {
                continue;
            }
            let mut builder = cuda.stream().launch_builder(function);
            builder.arg(&params);
            builder.arg(chunk);
            builder.arg(&mut self.symbols);
            builder.arg(&mut result);
            builder.arg(&mut self.faults);
            // SAFETY: the arguments are those of both entry points in `kernels/planes.cu`: the numbers,
            // the chunk with its tables, room for the symbols of its coded planes, the result from the
            // chunk's place on, which it lies in, and a word for what is wrong. Kernels write what the
            // numbers say and read streams within the stored bytes, whatever these are.
            cuda.done(unsafe { builder.launch(config(x, y)) })?;
        }
        Ok(())
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
