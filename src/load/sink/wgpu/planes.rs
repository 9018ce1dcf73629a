//! Decoding chunks through wgpu (`kernels/planes.wgsl`).

use super::super::decode::{Decoder, Placed, misplaced, words};
use super::super::device::DeviceError;
use super::delta::GpuDeltaDecoder;
use super::{Gpu, GpuMemory};
use crate::chunk::codec::{DeltaProgram, Offsets, PARAMS, Target};
use crate::format::grid::Rect;

/// Threads of a block of `huffman`, and of `merge`.
const STREAMS: u32 = 128;
const WORDS: u32 = 256;
/// What a chunk and its tables take at most.
const IMAGE: u64 = 8 << 20;
/// What a binding's offset is a multiple of, at most.
const ALIGN: u64 = 256;

/// Decodes chunks on a device: kernels, and the memory that they work in.
#[derive(Debug)]
pub struct GpuDecoder {
    gpu: Gpu,
    layout: wgpu::BindGroupLayout,
    huffman: wgpu::ComputePipeline,
    merge: wgpu::ComputePipeline,
    params: wgpu::Buffer,
    symbols: wgpu::Buffer,
    faults: wgpu::Buffer,
    /// For chunks that are stored against bases, once there is one.
    delta: Option<GpuDeltaDecoder>,
}

impl Gpu {
    /// Compiles the kernels that decode chunks.
    ///
    /// # Errors
    /// If they do not compile, or the device fails.
    pub fn decoder(&self) -> Result<GpuDecoder, DeviceError> {
        let source = include_str!("../../../../kernels/planes.wgsl");
        let (layout, [huffman, merge]) =
            self.chunk_kernels("planes", source, false, ["huffman", "merge"])?;
        let usage = wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST;
        let params = self.buffer(4 * PARAMS as u64, usage, false)?;
        // New memory is zero.
        let (symbols, faults) = (self.alloc(0)?, self.alloc(4)?);
        let (gpu, delta) = (self.clone(), None);
        Ok(GpuDecoder { gpu, layout, huffman, merge, params, symbols, faults, delta })
    }
}

impl Gpu {
    /// Compiles kernels that take a chunk, with what they are bound to: numbers, the chunk, what they
    /// read or work in, the result, what is wrong.
    pub(super) fn chunk_kernels<const N: usize>(
        &self,
        kernel: &'static str,
        source: &'static str,
        reads: bool,
        entries: [&'static str; N],
    ) -> Result<(wgpu::BindGroupLayout, [wgpu::ComputePipeline; N]), DeviceError> {
        let made = self.scoped(|| {
            let device = &self.0.device;
            let layout = layout(device, kernel, reads);
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(kernel),
                source: wgpu::ShaderSource::Wgsl(source.into()),
            });
            let pipelines = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(kernel),
                bind_group_layouts: &[Some(&layout)],
                immediate_size: 0,
            });
            let pipelines = entries.map(|entry| {
                device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                    label: Some(entry),
                    layout: Some(&pipelines),
                    module: &module,
                    entry_point: Some(entry),
                    compilation_options: wgpu::PipelineCompilationOptions {
                        zero_initialize_workgroup_memory: false,
                        ..Default::default()
                    },
                    cache: None,
                })
            });
            (layout, pipelines)
        });
        made.map_err(|error| match error {
            DeviceError::Internal(log) => DeviceError::Compile { kernel, log },
            other => other,
        })
    }

    /// What kernels said was wrong since the last time.
    pub(super) fn take_faults(&self, faults: &wgpu::Buffer) -> Result<u32, DeviceError> {
        let bytes = self.read(faults, 4)?;
        let found = bytes.first_chunk::<4>().map_or(0, |word| u32::from_le_bytes(*word));
        if found != 0 {
            self.write(faults, 0, &[0; 4])?;
        }
        Ok(found)
    }
}

impl GpuDecoder {
    /// The buffer of a memory that a chunk lies in, where in it binding begins, and its place from there.
    fn place(segment: u64, rect: &Rect) -> Option<(usize, u64, Rect)> {
        let buffer = rect.start / segment;
        let start = rect.start - buffer * segment;
        let end = rect.end() - buffer * segment;
        let base = start / ALIGN * ALIGN;
        let own = Rect { start: start - base, ..*rect };
        (end <= segment).then_some((usize::try_from(buffer).ok()?, base, own))
    }

    /// What is bound of a memory for a chunk to be decoded there, and the chunk's place in that.
    fn bound<'a>(
        to: &'a GpuMemory,
        rect: &Rect,
    ) -> Result<(wgpu::BufferBinding<'a>, Rect), DeviceError> {
        let (buffers, segment) = to.buffers();
        let segment = if buffers.len() == 1 { u64::MAX } else { segment };
        let (number, offset, own) = Self::place(segment, rect).ok_or_else(misplaced)?;
        let buffer = buffers.get(number).ok_or_else(misplaced)?;
        let size = std::num::NonZeroU64::new(own.end().next_multiple_of(4));
        Ok((wgpu::BufferBinding { buffer, offset, size }, own))
    }
}

impl GpuDecoder {
    fn decode_one(
        &mut self,
        chunk: &Placed,
        images: &GpuMemory,
        to: &GpuMemory,
    ) -> Result<(), DeviceError> {
        let program = &chunk.program;
        let (result, own) = Self::bound(to, &chunk.rect)?;
        let image = wgpu::BufferBinding {
            buffer: images.whole().ok_or_else(misplaced)?,
            offset: chunk.at,
            size: std::num::NonZeroU64::new(program.image_len()),
        };
        let small = |n: u64| u32::try_from(n).map_err(|_| misplaced());
        let target_of = Target {
            start: small(own.start)?,
            width: small(own.width)?,
            stride: small(own.stride)?,
        };
        let params = program.params(target_of, Offsets::default());
        let params: Vec<u8> = params.iter().flat_map(|word| word.to_le_bytes()).collect();
        self.gpu.write(&self.params, 0, &params)?;
        let need = 4 * program.plane_words();
        if self.symbols.size() < need {
            self.symbols = self.gpu.alloc(need)?;
        }
        let resources = [
            self.params.as_entire_binding(),
            wgpu::BindingResource::Buffer(image),
            self.symbols.as_entire_binding(),
            wgpu::BindingResource::Buffer(result),
            self.faults.as_entire_binding(),
        ];
        self.gpu.run_bound(&self.layout, resources, |pass| {
            if program.coded() > 0 {
                pass.set_pipeline(&self.huffman);
                let blocks = program.streams().div_ceil(STREAMS);
                pass.dispatch_workgroups(blocks, program.coded(), 1);
            }
            pass.set_pipeline(&self.merge);
            // At most 4 MiB: fewer blocks than one dimension has.
            pass.dispatch_workgroups(program.words().div_ceil(WORDS), 1, 1);
        })
    }
}

impl Decoder<Gpu> for GpuDecoder {
    fn fits(&self, len: u64, rect: &Rect) -> bool {
        if self.gpu.segment().min(self.gpu.binding_limit()) < IMAGE {
            return false;
        }
        let segment = if len <= self.gpu.segment() { u64::MAX } else { self.gpu.segment() };
        let within = |own: Rect| own.end().next_multiple_of(4) <= self.gpu.binding_limit();
        Self::place(segment, rect).is_some_and(|(_, _, own)| within(own))
    }

    fn batch(&self) -> u64 {
        0
    }

    fn decode(
        &mut self,
        chunks: &[Placed],
        images: &GpuMemory,
        to: &mut GpuMemory,
    ) -> Result<(), DeviceError> {
        chunks.iter().try_for_each(|chunk| self.decode_one(chunk, images, to))
    }

    fn decode_against(
        &mut self,
        program: &DeltaProgram,
        chunk: &GpuMemory,
        base: &GpuMemory,
        to: &mut GpuMemory,
        rect: &Rect,
    ) -> Result<(), DeviceError> {
        let (result, own) = Self::bound(to, rect)?;
        let place = words(&own).ok_or_else(misplaced)?;
        let (chunk, base) =
            (chunk.whole().ok_or_else(misplaced)?, base.whole().ok_or_else(misplaced)?);
        let delta = match self.delta.take() {
            Some(delta) => delta,
            None => self.gpu.delta_decoder()?,
        };
        let delta = self.delta.insert(delta);
        delta.decode_bound(program, chunk, (base, [0, u32::MAX, 0]), (result, place))
    }

    fn faults(&mut self) -> Result<u32, DeviceError> {
        self.gpu.take_faults(&self.faults)
    }

    fn delta_faults(&mut self) -> Result<u32, DeviceError> {
        self.delta.as_mut().map_or(Ok(0), GpuDeltaDecoder::faults)
    }
}

/// The bindings of kernels that take a chunk.
fn layout(device: &wgpu::Device, label: &str, reads: bool) -> wgpu::BindGroupLayout {
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let types = [
        wgpu::BufferBindingType::Uniform,
        storage(true),
        storage(reads),
        storage(false),
        storage(false),
    ];
    let entries: Vec<_> = (0..)
        .zip(types)
        .map(|(binding, ty)| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
            count: None,
        })
        .collect();
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some(label),
        entries: &entries,
    })
}
