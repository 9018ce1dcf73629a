//! Decoding chunks that are stored against a base through CUDA (`kernels/delta.cu`).

use cudarc::driver::{CudaFunction, CudaSlice, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::super::decode::misplaced;
use super::super::device::DeviceError;
use super::{Cuda, nvrtc};
use crate::chunk::codec::DeltaProgram;
use crate::dequant::kernel::THREADS;

/// Segments that a block decodes.
const SEGMENTS: u32 = THREADS / 32;

/// The kernels that decode chunks against their bases, with what they share with others.
pub fn source() -> String {
    [include_str!("../../../../kernels/common.cuh"), include_str!("../../../../kernels/delta.cu")]
        .concat()
}

/// Decodes chunks against their bases on a device.
#[derive(Debug)]
pub struct CudaDeltaDecoder {
    cuda: Cuda,
    delta: CudaFunction,
    copy: CudaFunction,
    patch: CudaFunction,
    faults: CudaSlice<u8>,
}

impl Cuda {
    /// Compiles the kernels that decode deltas and patches.
    ///
    /// # Errors
    /// If they do not compile, or the device fails.
    pub fn delta_decoder(&self) -> Result<CudaDeltaDecoder, DeviceError> {
        let code = nvrtc::compile_source("delta", &source(), &self.0.architecture)?;
        let module = self.done(self.0.context.load_module(Ptx::from_binary(code)))?;
        let delta = self.done(module.load_function("delta"))?;
        let copy = self.done(module.load_function("copy_base"))?;
        let patch = self.done(module.load_function("patch_words"))?;
        let mut faults = self.alloc(4)?;
        self.done(self.stream().memset_zeros(&mut faults))?;
        Ok(CudaDeltaDecoder { cuda: self.clone(), delta, copy, patch, faults })
    }
}

impl CudaDeltaDecoder {
    /// Begins to decode a chunk, whose [`DeltaProgram::image`] is in `chunk`, against `base`. Where the
    /// base begins and where the chunk goes is as in [`DeltaProgram::params`].
    ///
    /// # Errors
    /// If the chunk does not fit, or the device fails.
    pub fn decode(
        &mut self,
        program: &DeltaProgram,
        chunk: &CudaSlice<u8>,
        (base, from): (&CudaSlice<u8>, [u32; 3]),
        (result, to): (&mut CudaSlice<u8>, [u32; 3]),
    ) -> Result<(), DeviceError> {
        for (len, place) in [(base.len(), from), (result.len(), to)] {
            if (len as u64) < program.reach(place) {
                return Err(misplaced());
            }
        }
        if (chunk.len() as u64) < program.image_len() {
            return Err(DeviceError::Internal("a chunk without its tables".to_owned()));
        }
        let (cuda, params) = (self.cuda.clone(), program.params(from, to));
        let (parts, words) = (program.parts(), program.words().div_ceil(THREADS));
        let launches = if program.is_patch() {
            vec![(&self.copy, words), (&self.patch, parts.div_ceil(THREADS))]
        } else {
            vec![(&self.delta, parts.div_ceil(SEGMENTS))]
        };
        for (function, blocks) in launches.into_iter().filter(|(_, blocks)| *blocks > 0) {
            let mut builder = cuda.stream().launch_builder(function);
            builder.arg(&params);
            builder.arg(chunk);
            builder.arg(base);
            builder.arg(&mut *result);
            builder.arg(&mut self.faults);
            let config = LaunchConfig {
                grid_dim: (blocks, 1, 1),
                block_dim: (THREADS, 1, 1),
                shared_mem_bytes: 0,
            };
            // SAFETY: the arguments are those of every entry point in `kernels/delta.cu`: the numbers,
            // the chunk with its tables, the base and the result, which reach as far as the numbers say,
            // and a word for what is wrong. What is stored is read within its bounds, whatever it is.
            cuda.done(unsafe { builder.launch(config) })?;
        }
        Ok(())
    }

    /// Waits, and says what was wrong with the chunks since the last time.
    ///
    /// # Errors
    /// If the device fails.
    pub fn faults(&mut self) -> Result<u32, DeviceError> {
        self.cuda.take_faults(&mut self.faults)
    }
}
