//! Devices through wgpu: Vulkan, Metal or DX12.
//!
//! A [`Gpu`] is a device with its compiled kernels. Whatever goes wrong with it is an error that says
//! what to do: nothing falls back to another device on its own.

mod delta;
mod kernels;
mod memory;
mod planes;
mod upload;

pub use delta::GpuDeltaDecoder;
pub use kernels::Prepared;
pub use memory::{GpuMemory, GpuParts};
pub use planes::GpuDecoder;
pub use upload::{GpuInFlight, GpuStaging};

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;

use super::device::DeviceError;
use crate::dequant::kernel::Program;
use crate::dequant::{Float, Part};

/// Which adapter to take.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct GpuOptions {
    /// Only an adapter whose name contains this, in any case.
    pub adapter: Option<String>,
    /// A smaller limit on bindings than the device's: for tests.
    pub binding_limit: Option<u64>,
    /// A smaller limit on buffers than the device's: for tests.
    pub buffer_limit: Option<u64>,
}

/// An opened device.
#[derive(Debug, Clone)]
pub struct Gpu(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    device: wgpu::Device,
    queue: wgpu::Queue,
    info: wgpu::AdapterInfo,
    binding_limit: u64,
    buffer_limit: u64,
    layout: wgpu::BindGroupLayout,
    pipelines: Mutex<HashMap<(Program, Float), wgpu::ComputePipeline>>,
    lost: Arc<Mutex<Option<String>>>,
}

/// wgpu's futures are done at once on native devices.
fn now<T>(future: impl Future<Output = T>) -> Result<T, DeviceError> {
    future.now_or_never().ok_or(DeviceError::Internal("an operation of wgpu is pending".to_owned()))
}

impl Gpu {
    /// Opens a device: a real one before one in software.
    ///
    /// # Errors
    /// If there is none that can do what is needed.
    pub fn open(options: &GpuOptions) -> Result<Self, DeviceError> {
        let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        descriptor.backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let instance = wgpu::Instance::new(descriptor);
        let all = now(instance.enumerate_adapters(wgpu::Backends::all()))?;
        let names: Vec<String> = all.iter().map(|adapter| adapter.get_info().name).collect();
        let wanted = options.adapter.as_ref().map(|name| name.to_lowercase());
        let matches = |name: &str| wanted.as_ref().is_none_or(|w| name.to_lowercase().contains(w));
        let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
            wgpu::DeviceType::DiscreteGpu => 0,
            wgpu::DeviceType::IntegratedGpu => 1,
            wgpu::DeviceType::VirtualGpu => 2,
            wgpu::DeviceType::Other => 3,
            wgpu::DeviceType::Cpu => 4,
        };
        let fitting = all.iter().filter(|adapter| matches(&adapter.get_info().name));
        let adapter = fitting.min_by_key(|adapter| rank(adapter));
        let adapter = adapter
            .ok_or(DeviceError::NoAdapter { wanted: options.adapter.clone(), found: names })?;
        let limits = adapter.limits();
        let binding = limits.max_storage_buffer_binding_size;
        let buffer = limits.max_buffer_size;
        let (device, queue) = now(adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("tenpak"),
            required_limits: limits,
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            ..Default::default()
        }))?
        .map_err(|error| DeviceError::Open {
            device: adapter.get_info().name,
            error: error.to_string(),
        })?;
        let lost = Arc::<Mutex<Option<String>>>::default();
        let cell = lost.clone();
        device.set_device_lost_callback(move |reason, message| {
            *cell.lock().unwrap_or_else(PoisonError::into_inner) =
                Some(format!("{reason:?}: {message}"));
        });
        let layout = bind_group_layout(&device);
        Ok(Self(Arc::new(Inner {
            info: adapter.get_info(),
            binding_limit: options.binding_limit.map_or(binding, |limit| limit.min(binding)),
            buffer_limit: options.buffer_limit.map_or(buffer, |limit| limit.min(buffer)),
            device,
            queue,
            layout,
            pipelines: Mutex::default(),
            lost,
        })))
    }

    /// The adapter's name, its kind, and its driver.
    pub fn name(&self) -> String {
        let info = &self.0.info;
        format!("{} ({:?}, {:?}, {})", info.name, info.backend, info.device_type, info.driver_info)
    }

    /// The device, for kernels of one's own on what lies in its memory.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// The device's queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Whether the device is a program on the host's processor.
    pub fn is_software(&self) -> bool {
        self.0.info.device_type == wgpu::DeviceType::Cpu
    }

    /// The most bytes that a kernel reads or writes through one binding.
    pub fn binding_limit(&self) -> u64 {
        self.0.binding_limit
    }

    /// The most bytes of one buffer.
    pub fn buffer_limit(&self) -> u64 {
        self.0.buffer_limit
    }

    /// The most bytes of a tensor in one buffer: as many as [`crate::dequant::pieces`] asks for.
    fn segment(&self) -> u64 {
        self.buffer_limit() / 512 * 512
    }

    /// Device memory for `len` bytes and what a kernel may write behind them.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn alloc(&self, len: u64) -> Result<wgpu::Buffer, DeviceError> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::COPY_SRC;
        self.buffer(len.next_multiple_of(32).max(32), usage, false)
    }

    fn buffer(
        &self,
        size: u64,
        usage: wgpu::BufferUsages,
        mapped_at_creation: bool,
    ) -> Result<wgpu::Buffer, DeviceError> {
        let limit = self.0.device.limits().max_buffer_size;
        // Not only of a tensor, which may be asked to be in smaller ones.
        if size > limit {
            return Err(DeviceError::TooLarge { what: "a buffer", len: size, limit });
        }
        self.scoped(|| {
            self.0.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size,
                usage,
                mapped_at_creation,
            })
        })
    }

    /// Runs `make` and turns what wgpu reports of it into an error.
    fn scoped<T>(&self, make: impl FnOnce() -> T) -> Result<T, DeviceError> {
        let device = &self.0.device;
        let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let made = make();
        for scope in [validation, internal, memory] {
            if let Some(error) = now(scope.pop())? {
                // What a lost device complains of says less than that it was lost. The poll is for its
                // callback; what it says itself is not of use.
                self.0.device.poll(wgpu::PollType::Poll).map(drop).unwrap_or_default();
                self.alive()?;
                return Err(self.error(error));
            }
        }
        self.alive()?;
        Ok(made)
    }

    /// Submits one pass over `resources`, bound in their order. Returns at once.
    fn run_bound<const N: usize>(
        &self,
        layout: &wgpu::BindGroupLayout,
        resources: [wgpu::BindingResource<'_>; N],
        record: impl FnOnce(&mut wgpu::ComputePass<'_>),
    ) -> Result<(), DeviceError> {
        let mut binding = 0..;
        let entries = resources.map(|resource| wgpu::BindGroupEntry {
            binding: binding.next().unwrap_or_default(),
            resource,
        });
        self.scoped(|| {
            let device = &self.0.device;
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: None,
                layout,
                entries: &entries,
            });
            let mut encoder = device.create_command_encoder(&Default::default());
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_bind_group(0, &group, &[]);
            record(&mut pass);
            drop(pass);
            self.0.queue.submit([encoder.finish()]);
        })
    }

    fn alive(&self) -> Result<(), DeviceError> {
        match &*self.0.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(reason) => {
                Err(DeviceError::Lost { device: self.0.info.name.clone(), reason: reason.clone() })
            }
            None => Ok(()),
        }
    }

    fn error(&self, error: wgpu::Error) -> DeviceError {
        match error {
            wgpu::Error::OutOfMemory { .. } => {
                DeviceError::OutOfMemory { device: self.0.info.name.clone() }
            }
            wgpu::Error::Validation { description, .. }
            | wgpu::Error::Internal { description, .. } => DeviceError::Internal(description),
        }
    }

    /// Waits until the device has done all that it was given.
    ///
    /// # Errors
    /// If the device fails.
    pub fn wait(&self) -> Result<(), DeviceError> {
        let polled = self.0.device.poll(wgpu::PollType::wait_indefinitely());
        self.alive()?;
        polled.map(drop).map_err(|error| DeviceError::Internal(error.to_string()))
    }

    /// Copies the first `len` bytes, a multiple of 4, of one buffer to another, `times` times.
    ///
    /// # Errors
    /// If that goes beyond a buffer, or the device fails.
    pub fn copy_on_device(
        &self,
        from: &wgpu::Buffer,
        to: &wgpu::Buffer,
        len: u64,
        times: u32,
    ) -> Result<(), DeviceError> {
        self.scoped(|| {
            let mut encoder = self.0.device.create_command_encoder(&Default::default());
            for _ in 0..times {
                encoder.copy_buffer_to_buffer(from, 0, to, 0, len);
            }
            self.0.queue.submit([encoder.finish()]);
        })
    }

    /// Writes `bytes` into a buffer, through memory that wgpu makes for it.
    ///
    /// # Errors
    /// If they go beyond it, or the device fails.
    pub fn write(
        &self,
        buffer: &wgpu::Buffer,
        offset: u64,
        bytes: &[u8],
    ) -> Result<(), DeviceError> {
        let whole = bytes.len() / 4 * 4;
        let (words, rest) = bytes.split_at(whole);
        self.scoped(|| {
            self.0.queue.write_buffer(buffer, offset, words);
            if !rest.is_empty() {
                let mut word = [0; 4];
                for (to, from) in word.iter_mut().zip(rest) {
                    *to = *from;
                }
                self.0.queue.write_buffer(buffer, offset + whole as u64, &word);
            }
        })
    }

    /// New device memory with `bytes` in it.
    ///
    /// # Errors
    /// If the device has no room for it, or fails.
    pub fn upload(&self, bytes: &[u8]) -> Result<wgpu::Buffer, DeviceError> {
        let buffer = self.alloc(bytes.len() as u64)?;
        self.write(&buffer, 0, bytes)?;
        Ok(buffer)
    }

    /// The first `len` bytes of a buffer, back in host memory.
    ///
    /// # Errors
    /// If the device fails.
    pub fn read(&self, buffer: &wgpu::Buffer, len: u64) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = Vec::new();
        self.read_parts(buffer, len, &mut |part| bytes.extend_from_slice(part))?;
        Ok(bytes)
    }

    /// Gives the first `len` bytes of a buffer to `take`, in parts, so that little is mapped.
    fn read_parts(
        &self,
        buffer: &wgpu::Buffer,
        len: u64,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), DeviceError> {
        const STEP: u64 = 16 << 20;
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let step = self.buffer(STEP.min(len.next_multiple_of(4).max(4)), usage, false)?;
        let mut offset = 0;
        while offset < len {
            let part = (len - offset).min(STEP);
            let copied = part.next_multiple_of(4);
            self.scoped(|| {
                let mut encoder = self.0.device.create_command_encoder(&Default::default());
                encoder.copy_buffer_to_buffer(buffer, offset, &step, 0, copied);
                self.0.queue.submit([encoder.finish()]);
                step.slice(..copied).map_async(wgpu::MapMode::Read, |_| {});
            })?;
            self.wait()?;
            let view = step.slice(..copied).get_mapped_range();
            let view = view.map_err(|error| DeviceError::Internal(error.to_string()))?;
            take(view.get(..part as usize).unwrap_or_default());
            drop(view);
            step.unmap();
            offset += part;
        }
        Ok(())
    }
}

/// The bindings of `kernels/common.wgsl`.
fn bind_group_layout(device: &wgpu::Device) -> wgpu::BindGroupLayout {
    let entry = |binding, ty| wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset: false, min_binding_size: None },
        count: None,
    };
    let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
    let mut entries = vec![entry(0, wgpu::BufferBindingType::Uniform)];
    entries.extend((1..=Part::ALL.len() as u32).map(|binding| entry(binding, storage(true))));
    entries.push(entry(Part::ALL.len() as u32 + 1, storage(false)));
    device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
        label: Some("parts and result"),
        entries: &entries,
    })
}
