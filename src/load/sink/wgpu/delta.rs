//! Decoding chunks that are stored against a base through wgpu (`kernels/delta.wgsl`), where both lie in
//! a buffer each.

use super::super::decode::misplaced;
use super::super::device::DeviceError;
use super::Gpu;
use crate::chunk::codec::{DELTA_PARAMS, DeltaProgram};

/// Threads of a block of the kernels of patches.
const WORDS: u32 = 256;

/// Decodes chunks against their bases on a device.
#[derive(Debug)]
pub struct GpuDeltaDecoder {
    gpu: Gpu,
    layout: wgpu::BindGroupLayout,
    delta: wgpu::ComputePipeline,
    copy: wgpu::ComputePipeline,
    patch: wgpu::ComputePipeline,
    params: wgpu::Buffer,
    faults: wgpu::Buffer,
}

impl Gpu {
    /// Compiles the kernels that decode deltas and patches.
    ///
    /// # Errors
    /// If they do not compile, or the device fails.
    pub fn delta_decoder(&self) -> Result<GpuDeltaDecoder, DeviceError> {
        let source = include_str!("../../../../kernels/delta.wgsl");
        let entries = ["delta", "copy_base", "patch_words"];
        let (layout, [delta, copy, patch]) = self.chunk_kernels("delta", source, true, entries)?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = self.buffer(4 * DELTA_PARAMS as u64, usage, false)?;
        // New memory is zero.
        let faults = self.alloc(4)?;
        Ok(GpuDeltaDecoder { gpu: self.clone(), layout, delta, copy, patch, params, faults })
    }
}

impl GpuDeltaDecoder {
    /// Begins to decode a chunk, whose [`DeltaProgram::image`] is in `chunk`, against `base`. Where the
    /// base begins and where the chunk goes is as in [`DeltaProgram::params`].
    ///
    /// # Errors
    /// If the chunk does not fit, or the device fails.
    pub fn decode(
        &mut self,
        program: &DeltaProgram,
        chunk: &wgpu::Buffer,
        base: (&wgpu::Buffer, [u32; 3]),
        (result, to): (&wgpu::Buffer, [u32; 3]),
    ) -> Result<(), DeviceError> {
        self.decode_bound(program, chunk, base, (result.as_entire_buffer_binding(), to))
    }

    /// The same where the result is what is bound.
    pub(super) fn decode_bound(
        &mut self,
        program: &DeltaProgram,
        chunk: &wgpu::Buffer,
        (base, from): (&wgpu::Buffer, [u32; 3]),
        (result, to): (wgpu::BufferBinding<'_>, [u32; 3]),
    ) -> Result<(), DeviceError> {
        let room = result.size.map_or(result.buffer.size() - result.offset, |size| size.get());
        for (len, place) in [(base.size(), from), (room, to)] {
            if len < program.reach(place) {
                return Err(misplaced());
            }
        }
        if chunk.size() < program.image_len() {
            return Err(DeviceError::Internal("a chunk without its tables".to_owned()));
        }
        let params: Vec<u8> =
            program.params(from, to).iter().flat_map(|word| word.to_le_bytes()).collect();
        self.gpu.write(&self.params, 0, &params)?;
        let resources = [
            self.params.as_entire_binding(),
            chunk.as_entire_binding(),
            base.as_entire_binding(),
            wgpu::BindingResource::Buffer(result),
            self.faults.as_entire_binding(),
        ];
        self.gpu.run_bound(&self.layout, resources, |pass| {
            if program.is_patch() {
                pass.set_pipeline(&self.copy);
                pass.dispatch_workgroups(program.words().div_ceil(WORDS), 1, 1);
                pass.set_pipeline(&self.patch);
                pass.dispatch_workgroups(program.parts().div_ceil(WORDS), 1, 1);
            } else {
                pass.set_pipeline(&self.delta);
                pass.dispatch_workgroups(program.parts(), 1, 1);
            }
        })
    }

    /// Waits, and says what was wrong with the chunks since the last time.
    ///
    /// # Errors
    /// If the device fails.
    pub fn faults(&mut self) -> Result<u32, DeviceError> {
        self.gpu.take_faults(&self.faults)
    }
}
