//! What devices must survive, as far as it can be brought about without a GPU: each is an error that says
//! what happened, and nothing falls back on its own.

use tenpak::dequant::{Float, Layout, Weight, dequantize, sample};
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::host::Host;
use tenpak::load::sink::upload::{Device, Ring, Staging};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions, GpuParts};

use super::compare::assert_same;

#[test]
fn a_lost_device_is_an_error_from_then_on() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    let mut ring = Ring::new(gpu.clone(), 1, 4096);
    let mut memory = gpu.allocate(4096).unwrap();
    let mut buffer = ring.take().unwrap();
    buffer.write(0, &[1; 4096]).unwrap();
    // What a driver does that gives up.
    gpu.device().destroy();
    // Noticed by the first wait, which no load ends without, and said by all that follows.
    let errors = [
        gpu.wait().unwrap_err(),
        ring.copy(buffer, 4096, &mut memory, 0).unwrap_err(),
        gpu.allocate(4096).unwrap_err(),
        gpu.read_back(&memory, 4096, &mut |_| {}).unwrap_err(),
    ];
    for error in errors {
        let DeviceError::Lost { device, .. } = &error else { panic!("{error:?}") };
        assert!(!device.is_empty() && error.to_string().contains("was lost"), "{error}");
    }
    // Another can be opened.
    assert!(Gpu::open(&GpuOptions::default()).unwrap().allocate(4096).is_ok());
}

#[test]
fn memory_that_is_not_there_is_an_error_that_says_what_to_do() {
    for len in [1 << 55, u64::MAX] {
        let error = Host.allocate(len).unwrap_err();
        assert!(matches!(error, DeviceError::OutOfMemory { .. }), "{error}");
        assert!(error.to_string().contains("load fewer tensors at a time"), "{error}");
    }
}

#[test]
fn a_driver_without_f16_is_no_different_because_kernels_do_without() {
    let gpu = Gpu::open(&GpuOptions::default()).unwrap();
    // Whatever the driver has: the device was opened without it, so no kernel can use it.
    assert!(!gpu.device().features().contains(wgpu::Features::SHADER_F16));
    let weight = Weight::new(Layout::Int8, 5, 77, Float::F32).unwrap();
    let parts = sample::parts(&weight, 1);
    let bound = GpuParts(parts.0.each_ref().map(|part| Some(gpu.upload(part).unwrap())));
    let expected = dequantize(&weight, &parts.borrow(), Float::F16).unwrap();
    let result = gpu.dequantize(&weight, &bound, Float::F16).unwrap();
    assert_same("f16", Float::F16, &gpu.read(&result, expected.len() as u64).unwrap(), &expected);
}
