//! Dequantization through wgpu: pipelines made when they are first needed, runs within the limits.

use std::sync::PoisonError;

use super::super::device::DeviceError;
use super::super::upload::Device;
use super::{Gpu, GpuMemory, GpuParts};
use crate::dequant::kernel::{Launch, Program};
use crate::dequant::pieces::pieces;
use crate::dequant::split::{self, Limits, Run};
use crate::dequant::{Float, Part, Weight};

/// A dispatch has at most this many blocks in a dimension, on every device.
const MAX_BLOCKS: u64 = 65535;

/// A dequantization that is ready to run, any number of times.
#[derive(Debug)]
pub struct Prepared(Vec<Dispatch>);

#[derive(Debug)]
struct Dispatch {
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    blocks: (u32, u32),
}

impl Gpu {
    /// Dequantizes a weight whose parts were checked ([`Weight::check`]) and lie in device memory.
    /// Returns at once: the result is there when the device has done what it was given.
    ///
    /// # Errors
    /// If no kernel reads the layout, or the device fails.
    pub fn dequantize(
        &self,
        weight: &Weight,
        parts: &GpuParts,
        out: Float,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let result = self.alloc(weight.elements() * out.size())?;
        self.submit(&[&self.prepare(weight, parts, out, &result)?])?;
        Ok(result)
    }

    /// Prepares what [`Gpu::dequantize`] does, into memory that is there.
    ///
    /// # Errors
    /// If no kernel reads the layout, or the device fails.
    pub fn prepare(
        &self,
        weight: &Weight,
        parts: &GpuParts,
        out: Float,
        result: &wgpu::Buffer,
    ) -> Result<Prepared, DeviceError> {
        let align = u64::from(self.0.device.limits().min_storage_buffer_offset_alignment);
        let limits = Limits { binding: self.binding_limit(), align };
        let runs = split::runs(weight, out, limits)?;
        // What a layout lacks is bound all the same.
        let nothing = self.alloc(0)?;
        let mut dispatches = Vec::with_capacity(runs.len());
        for run in &runs {
            dispatches.extend(self.dispatch(run, parts, &nothing, out, result)?);
        }
        Ok(Prepared(dispatches))
    }

    /// As [`crate::dequant::convert`] does, on the device: `elements` floats of one type as another.
    ///
    /// # Errors
    /// If the device fails.
    pub fn convert(
        &self,
        memory: &GpuMemory,
        elements: u64,
        from: Float,
        to: Float,
    ) -> Result<GpuMemory, DeviceError> {
        let result = self.allocate(elements * to.size())?;
        let nothing = self.alloc(0)?;
        let ((sources, segment), (targets, own)) = (memory.buffers(), result.buffers());
        let mut dispatches = Vec::new();
        for piece in pieces(elements, (from, segment), (to, own), self.binding_limit())? {
            let (source, target) = (sources.get(piece.from.buffer), targets.get(piece.to.buffer));
            let (Some(source), Some(target)) = (source, target) else {
                return Err(DeviceError::Internal("a conversion beyond a tensor".to_owned()));
            };
            let mut bound = vec![(&nothing, 0, nothing.size()); Part::ALL.len() + 1];
            for (at, buffer, bytes) in
                [(0, source, piece.from.bytes), (Part::ALL.len(), target, piece.to.bytes)]
            {
                let size = (bytes.end - bytes.start).next_multiple_of(32);
                if let Some(slot) = bound.get_mut(at) {
                    *slot = (buffer, bytes.start, size);
                }
            }
            dispatches.push(self.ready(&Launch::convert(piece.elements, from), to, bound)?);
        }
        self.submit(&[&Prepared(dispatches)])?;
        Ok(result)
    }

    /// Runs what was prepared, in order. Returns at once.
    ///
    /// # Errors
    /// If the device fails.
    pub fn submit(&self, work: &[&Prepared]) -> Result<(), DeviceError> {
        self.scoped(|| {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for dispatch in work.iter().flat_map(|prepared| &prepared.0) {
                pass.set_pipeline(&dispatch.pipeline);
                pass.set_bind_group(0, &dispatch.group, &[]);
                pass.dispatch_workgroups(dispatch.blocks.0, dispatch.blocks.1, 1);
            }
            drop(pass);
            self.0.queue.submit([encoder.finish()]);
        })
    }

    fn dispatch(
        &self,
        run: &Run,
        parts: &GpuParts,
        nothing: &wgpu::Buffer,
        out: Float,
        result: &wgpu::Buffer,
    ) -> Result<Option<Dispatch>, DeviceError> {
        let launch = Launch::new(run);
        let blocks = launch.wgsl_blocks();
        if blocks == 0 {
            return Ok(None);
        }
        let mut bound = Vec::with_capacity(parts.0.len() + 1);
        for ((part, buffer), range) in Part::ALL.iter().zip(&parts.0).zip(&run.parts) {
            bound.push(match buffer {
                _ if range.is_empty() => (nothing, 0, nothing.size()),
                Some(buffer) => {
                    (buffer, range.start, (range.end - range.start).next_multiple_of(4))
                }
                None => return Err(DeviceError::Missing(*part)),
            });
        }
        // Whole vectors: memory behind the result is there.
        bound.push((result, run.out.start, (run.out.end - run.out.start).next_multiple_of(32)));
        self.ready(&launch, out, bound).map(Some)
    }

    /// A launch, with what is bound to it: buffer, offset, size of the parts and of the result.
    fn ready(
        &self,
        launch: &Launch,
        out: Float,
        bound: Vec<(&wgpu::Buffer, u64, u64)>,
    ) -> Result<Dispatch, DeviceError> {
        let pipeline = self.pipeline(launch.program, out)?;
        let params = self.buffer(
            launch.params.to_bytes().len() as u64,
            wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
            false,
        )?;
        self.write(&params, 0, &launch.params.to_bytes())?;
        let all: Vec<_> = [(&params, 0, params.size())].into_iter().chain(bound).collect();
        let entries: Vec<_> = (0..)
            .zip(&all)
            .map(|(binding, (buffer, offset, size))| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: *offset,
                    size: std::num::NonZeroU64::new(*size),
                }),
            })
            .collect();
        let group = self.scoped(|| {
            self.0.device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout: &self.0.layout,
                entries: &entries,
            })
        })?;
        let blocks = launch.wgsl_blocks();
        let lines = blocks.div_ceil(MAX_BLOCKS);
        let blocks = (blocks.div_ceil(lines) as u32, lines as u32);
        Ok(Dispatch { pipeline, group, blocks })
    }

    fn pipeline(&self, program: Program, out: Float) -> Result<wgpu::ComputePipeline, DeviceError> {
        let mut made = self.0.pipelines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = made.get(&(program, out)) {
            return Ok(pipeline.clone());
        }
        let compiled = self.scoped(|| {
            let device = &self.0.device;
            let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
                label: Some(program.entry),
                source: wgpu::ShaderSource::Wgsl(program.family.wgsl().into()),
            });
            let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: Some(program.entry),
                bind_group_layouts: &[Some(&self.0.layout)],
                immediate_size: 0,
            });
            device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(program.entry),
                layout: Some(&layout),
                module: &module,
                entry_point: Some(program.entry),
                compilation_options: wgpu::PipelineCompilationOptions {
                    constants: &[("OUT", f64::from(out.code()))],
                    zero_initialize_workgroup_memory: false,
                },
                cache: None,
            })
        });
        let pipeline = compiled.map_err(|error| match error {
            DeviceError::Internal(log) => DeviceError::Compile { kernel: program.entry, log },
            other => other,
        })?;
        made.insert((program, out), pipeline.clone());
        Ok(pipeline)
    }
}

#[cfg(test)]
mod tests {
    use super::super::GpuOptions;
    use super::*;
    use crate::dequant::kernel::Family;

    #[test]
    fn a_kernel_that_does_not_compile_is_an_error_that_names_it_and_the_device_goes_on() {
        let gpu = Gpu::open(&GpuOptions::default()).unwrap();
        let program = Program { family: Family::Int8, entry: "not_there" };
        match gpu.pipeline(program, Float::BF16) {
            Err(DeviceError::Compile { kernel: "not_there", log }) => {
                assert!(log.contains("not_there"), "{log}");
            }
            other => panic!("{other:?}"),
        }
        assert!(gpu.pipeline(Program { entry: "int8", ..program }, Float::BF16).is_ok());
    }
}
