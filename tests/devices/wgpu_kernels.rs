//! The WGSL kernels, on the adapter that there is.

use tenpak::dequant::{Float, Layout, QuantError, Weight, convert, dequantize, sample};
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::upload::{Device, Ring, Staging};
use tenpak::load::sink::wgpu::{Gpu, GpuOptions, GpuParts};

use super::compare::assert_same;

pub fn gpu(binding_limit: Option<u64>) -> Gpu {
    let mut options = GpuOptions::default();
    options.binding_limit = binding_limit;
    Gpu::open(&options).expect("tests/setup.sh installs an adapter in software")
}

fn check(gpu: &Gpu, name: &str, weight: &Weight, floats: &[Float]) {
    let parts = sample::parts(weight, 7);
    weight.check(&parts.borrow()).unwrap();
    let bound = GpuParts(parts.0.each_ref().map(|part| Some(gpu.upload(part).unwrap())));
    for &out in floats {
        let expected = dequantize(weight, &parts.borrow(), out).unwrap();
        let result = gpu.dequantize(weight, &bound, out).unwrap();
        let got = gpu.read(&result, expected.len() as u64).unwrap();
        assert_same(name, out, &got, &expected);
    }
}

#[test]
fn every_kernel_equals_the_reference() {
    let gpu = gpu(None);
    for (name, weight) in sample::cases(70, 270) {
        check(&gpu, &name, &weight, &Float::ALL);
    }
}

#[test]
fn a_weight_beyond_the_binding_limit_is_split_and_equal() {
    let gpu = gpu(Some(2 << 20));
    let mut seen = Vec::new();
    for (name, weight) in sample::cases(4200, 256) {
        let kind = name.split(' ').next().unwrap_or_default().to_owned();
        if !seen.contains(&kind) {
            check(&gpu, &name, &weight, &[Float::BF16]);
            seen.push(kind);
        }
    }
    assert_eq!(seen.len(), 16, "{seen:?}");
}

/// Every number of 16 bits, and as many of 32 as tell rounding apart; an odd tail behind.
pub fn floats(from: Float) -> Vec<u8> {
    let mut bytes = Vec::new();
    for high in 0..=u16::MAX {
        if from != Float::F32 {
            bytes.extend_from_slice(&high.to_le_bytes());
            continue;
        }
        for low in [0, 1, 0x0fff, 0x1000, 0x1001, 0x3000, 0x7fff, 0x8000, 0x8001, 0xffff] {
            bytes.extend_from_slice(&(u32::from(high) << 16 | low).to_le_bytes());
        }
    }
    let tail = bytes[4..4 + 3 * from.size() as usize].to_vec();
    bytes.extend_from_slice(&tail);
    bytes
}

#[test]
fn conversions_are_the_references_bit_for_bit_in_one_buffer_and_in_several() {
    for (buffer_limit, binding_limit) in [(None, None), (Some(100_000), Some(65_536))] {
        let mut options = GpuOptions::default();
        (options.buffer_limit, options.binding_limit) = (buffer_limit, binding_limit);
        let gpu = Gpu::open(&options).unwrap();
        for from in Float::ALL {
            let bytes = floats(from);
            let mut ring = Ring::new(gpu.clone(), 2, 60_000);
            let mut memory = gpu.allocate(bytes.len() as u64).unwrap();
            let mut at = 0;
            for part in bytes.chunks(ring.size()) {
                let mut buffer = ring.take().unwrap();
                buffer.write(0, part).unwrap();
                ring.copy(buffer, part.len(), &mut memory, at).unwrap();
                at += part.len() as u64;
            }
            for to in Float::ALL.into_iter().filter(|to| *to != from) {
                let expected = convert(&bytes, from, to);
                let elements = bytes.len() as u64 / from.size();
                let result = gpu.convert(&memory, elements, from, to).unwrap();
                let mut got = Vec::new();
                let len = expected.len() as u64;
                gpu.read_back(&result, len, &mut |part| got.extend_from_slice(part)).unwrap();
                let differs = got.chunks(4).zip(expected.chunks(4)).position(|(a, b)| a != b);
                assert_eq!((got.len(), differs), (expected.len(), None), "{from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn subnormal_products_are_exact_or_zero() {
    let gpu = gpu(None);
    let weight = Weight::new(Layout::Int8, 2, 64, Float::F32).unwrap();
    let mut parts = sample::parts(&weight, 1);
    parts.0[1] = [1e-41_f32, 3e-39].iter().flat_map(|scale| scale.to_le_bytes()).collect();
    let expected = dequantize(&weight, &parts.borrow(), Float::F32).unwrap();
    let bound = GpuParts(parts.0.each_ref().map(|part| Some(gpu.upload(part).unwrap())));
    let result = gpu.dequantize(&weight, &bound, Float::F32).unwrap();
    let got = gpu.read(&result, expected.len() as u64).unwrap();
    for (got, expected) in got.as_chunks::<4>().0.iter().zip(expected.as_chunks::<4>().0) {
        let (got, expected) = (f32::from_le_bytes(*got), f32::from_le_bytes(*expected));
        assert!(got == expected || got == 0.0, "{got:e} for {expected:e}");
    }
}

#[test]
fn an_adapter_that_is_not_there_is_an_error_that_names_those_that_are() {
    let mut options = GpuOptions::default();
    options.adapter = Some("no such adapter".to_owned());
    match Gpu::open(&options) {
        Err(DeviceError::NoAdapter { found, .. }) => assert!(!found.is_empty()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_limit_that_nothing_fits_is_an_error() {
    let gpu = gpu(Some(4096));
    let weight = Weight::new(Layout::Awq { group: 128 }, 256, 256, Float::F16).unwrap();
    let parts = sample::parts(&weight, 7);
    let bound = GpuParts(parts.0.each_ref().map(|part| Some(gpu.upload(part).unwrap())));
    match gpu.dequantize(&weight, &bound, Float::BF16) {
        Err(DeviceError::Quant(QuantError::TooLarge { .. })) => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tensor_beyond_every_memory_is_an_error() {
    let gpu = gpu(None);
    match gpu.alloc(1 << 46) {
        Err(DeviceError::TooLarge { .. } | DeviceError::OutOfMemory { .. }) => {}
        other => panic!("{other:?}"),
    }
}
