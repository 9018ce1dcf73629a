//! Dequantization through CUDA: kernels compiled when they are first needed.

use std::sync::{Arc, PoisonError};

use cudarc::driver::{CudaFunction, CudaSlice, CudaView, CudaViewMut, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::super::device::DeviceError;
use super::{Cuda, nvrtc};
use crate::dequant::kernel::{Launch, Program, THREADS, suffix};
use crate::dequant::pieces::pieces;
use crate::dequant::split::{self, Limits, Run};
use crate::dequant::{Float, Part, Weight};

/// The stored tensors of a weight in device memory, in the order of [`Part::ALL`], each from
/// [`Cuda::alloc`].
#[derive(Debug)]
pub struct CudaParts(pub [Option<CudaSlice<u8>>; 5]);

impl Cuda {
    /// Dequantizes a weight whose parts were checked ([`Weight::check`]) and lie in device memory.
    /// Returns at once: the result is there when the stream has come so far.
    ///
    /// # Errors
    /// If no kernel reads the layout, or the device fails.
    pub fn dequantize(
        &self,
        weight: &Weight,
        parts: &CudaParts,
        out: Float,
    ) -> Result<CudaSlice<u8>, DeviceError> {
        let mut result = self.alloc(weight.elements() * out.size())?;
        self.dequantize_into(weight, parts, out, &mut result)?;
        Ok(result)
    }

    /// As [`Cuda::dequantize`], into memory that is there.
    ///
    /// # Errors
    /// If no kernel reads the layout, or the device fails.
    pub fn dequantize_into(
        &self,
        weight: &Weight,
        parts: &CudaParts,
        out: Float,
        result: &mut CudaSlice<u8>,
    ) -> Result<(), DeviceError> {
        let len = weight.elements() * out.size();
        if (result.len() as u64) < len.next_multiple_of(32) {
            return Err(DeviceError::TooLarge {
                what: "a result",
                len,
                limit: result.len() as u64,
            });
        }
        for (part, slice) in Part::ALL.into_iter().zip(&parts.0) {
            let have = slice.as_ref().map_or(0, |slice| slice.len() as u64);
            let need = weight.part_len(part);
            if need > 0 && have < need + 16 {
                return Err(DeviceError::Missing(part));
            }
        }
        let nothing = self.nothing()?;
        for run in split::runs(weight, out, Limits { binding: u64::MAX, align: 256 })? {
            self.run(&run, parts, nothing, out, result)?;
        }
        Ok(())
    }

    /// What is bound for a part that a layout lacks.
    fn nothing(&self) -> Result<&CudaSlice<u8>, DeviceError> {
        if let Some(nothing) = self.0.nothing.get() {
            return Ok(nothing);
        }
        let made = self.alloc(0)?;
        Ok(self.0.nothing.get_or_init(|| made))
    }

    fn run(
        &self,
        run: &Run,
        parts: &CudaParts,
        nothing: &CudaSlice<u8>,
        out: Float,
        result: &mut CudaSlice<u8>,
    ) -> Result<(), DeviceError> {
        let launch = Launch::new(run);
        let mut views = Vec::with_capacity(parts.0.len());
        for (slice, range) in parts.0.iter().zip(&run.parts) {
            let slice = slice.as_ref().filter(|_| !range.is_empty()).unwrap_or(nothing);
            let start = if range.is_empty() { 0 } else { range.start as usize };
            views.push(slice.slice(start..));
        }
        self.launch(&launch, &views, out, result.slice_mut(run.out.start as usize..))
    }

    /// As [`crate::dequant::convert`] does, on the device: `elements` floats of one type as another.
    ///
    /// # Errors
    /// If the device fails.
    pub fn convert(
        &self,
        memory: &CudaSlice<u8>,
        elements: u64,
        from: Float,
        to: Float,
    ) -> Result<CudaSlice<u8>, DeviceError> {
        let mut result = self.alloc(elements * to.size())?;
        let need = (elements * from.size()).next_multiple_of(32);
        if (memory.len() as u64) < need {
            return Err(DeviceError::Internal("a conversion beyond a tensor".to_owned()));
        }
        let nothing = self.nothing()?;
        for piece in pieces(elements, (from, u64::MAX), (to, u64::MAX), u64::MAX)? {
            let mut views = Part::ALL.map(|_| nothing.slice(..));
            if let Some(codes) = views.first_mut() {
                *codes = memory.slice(piece.from.bytes.start as usize..);
            }
            let target = result.slice_mut(piece.to.bytes.start as usize..);
            self.launch(&Launch::convert(piece.elements, from), &views, to, target)?;
        }
        Ok(result)
    }

    /// Begins a launch on the stream: five parts, and the result.
    fn launch(
        &self,
        launch: &Launch,
        views: &[CudaView<'_, u8>],
        out: Float,
        mut target: CudaViewMut<'_, u8>,
    ) -> Result<(), DeviceError> {
        let blocks = u32::try_from(launch.cuda_blocks()).ok().filter(|blocks| *blocks < 1 << 31);
        let blocks =
            blocks.ok_or(DeviceError::Internal("more blocks than a grid has".to_owned()))?;
        if blocks == 0 {
            return Ok(());
        }
        let function = self.function(launch.program, out)?;
        let params = launch.params.to_bytes();
        let mut builder = self.stream().launch_builder(&function);
        builder.arg(&params);
        for view in views {
            builder.arg(view);
        }
        builder.arg(&mut target);
        let config = LaunchConfig {
            grid_dim: (blocks, 1, 1),
            block_dim: (THREADS, 1, 1),
            shared_mem_bytes: 0,
        };
        // SAFETY: the arguments are those of every entry point in `kernels/*.cu`: the numbers, five
        // parts of the sizes that the layout asks for with 16 bytes behind, and the result with room
        // for whole vectors; kernels write within the run's vectors and clamp every stored index.
        self.done(unsafe { builder.launch(config) }).map(drop)
    }

    fn function(&self, program: Program, out: Float) -> Result<CudaFunction, DeviceError> {
        let mut functions = self.0.functions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(function) = functions.get(&(program, out)) {
            return Ok(function.clone());
        }
        let mut modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(&program.family) {
            Some(module) => Arc::clone(module),
            None => {
                let code = nvrtc::compile(program.family, &self.0.architecture)?;
                let module = self.done(self.0.context.load_module(Ptx::from_binary(code)))?;
                modules.insert(program.family, module.clone());
                module
            }
        };
        let name = format!("{}_{}", program.entry, suffix(out));
        let function = self.done(module.load_function(&name))?;
        functions.insert((program, out), function.clone());
        Ok(function)
    }
}
