//! The reference of every layout against the libraries' own formulae, in numpy.

#![cfg(feature = "cli")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tenpak::dequant::{Float, Layout, Part, QuantError, Weight, dequantize, sample};

fn describe(weight: &Weight) -> Value {
    let mut object = match weight.layout() {
        Layout::Bnb4 { block, nested } => json!({
            "layout": "bnb4", "block": block,
            "nested": nested.map(|nested| nested.block), "offset": nested.map(|nested| nested.offset),
        }),
        Layout::Int8 => json!({"layout": "int8"}),
        Layout::Gptq { bits, group, less_one } => {
            json!({"layout": "gptq", "bits": bits, "group": group, "less_one": less_one})
        }
        Layout::Awq { group } => json!({"layout": "awq", "group": group}),
        Layout::Packed { bits, group, symmetric } => {
            json!({"layout": "packed", "bits": bits, "group": group, "symmetric": symmetric})
        }
        Layout::Fp8 { block: [height, width] } => {
            json!({"layout": "fp8", "height": height, "width": width})
        }
        Layout::Bytes { block: [height, width] } => {
            json!({"layout": "bytes", "height": height, "width": width})
        }
        Layout::Q4_0 => json!({"layout": "q4_0"}),
        Layout::Q8_0 => json!({"layout": "q8_0"}),
        Layout::Q4K => json!({"layout": "q4_k"}),
        other => panic!("no oracle for {other:?}"),
    };
    object["rows"] = weight.rows().into();
    object["cols"] = weight.cols().into();
    object["scale"] = weight.scale().dtype().name().into();
    object["indexed"] = weight.is_indexed().into();
    object
}

#[test]
fn the_reference_equals_the_libraries() {
    let dir = tempfile::tempdir().unwrap();
    let cases = sample::cases(70, 270);
    let mut lines = String::new();
    for (at, (_, weight)) in cases.iter().enumerate() {
        let folder = dir.path().join(at.to_string());
        std::fs::create_dir(&folder).unwrap();
        let parts = sample::parts(weight, 11);
        for (name, part) in ["codes", "scales", "zeros", "index", "table"].iter().zip(&parts.0) {
            std::fs::write(folder.join(name), part).unwrap();
        }
        let mut object = describe(weight);
        object["folder"] = folder.to_str().into();
        lines.push_str(&format!("{object}\n"));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut oracle = Command::new(root.join(".venv/bin/python"))
        .arg(root.join("tests/quant_oracle.py"))
        .stdin(Stdio::piped())
        .spawn()
        .expect("tests/setup.sh makes .venv");
    oracle.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
    assert!(oracle.wait().unwrap().success());
    for (at, (name, weight)) in cases.iter().enumerate() {
        let expected = std::fs::read(dir.path().join(at.to_string()).join("expected")).unwrap();
        let got = dequantize(weight, &sample::parts(weight, 11).borrow(), Float::F32).unwrap();
        assert_eq!(got.len(), expected.len(), "{name}");
        let floats = |bytes: &[u8]| -> Vec<f32> {
            bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
        };
        for (at, (got, expected)) in floats(&got).into_iter().zip(floats(&expected)).enumerate() {
            let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
            assert!(same, "{name}: element {at} is {got:e}, and numpy's {expected:e}");
        }
    }
}

#[test]
fn rounding_to_16_bits_is_once_and_to_even() {
    let weight = Weight::new(Layout::Bnb4 { block: 8, nested: None }, 1, 8, Float::F32).unwrap();
    let table: [f32; 16] = std::array::from_fn(|code| match code {
        // Halfway between neighbours of bf16, then of f16, below and above an even one; overflow.
        0 => f32::from_bits(0x3f80_8000),
        1 => f32::from_bits(0x3f81_8000),
        2 => f32::from_bits(0x3f80_1000),
        3 => f32::from_bits(0x3f80_3000),
        4 => 65_519.0,
        5 => 65_520.0,
        6 => 2_f32.powi(-25),
        _ => 2_f32.powi(-24) * 1.5,
    });
    let mut parts = sample::parts(&weight, 0);
    parts.0[0] = vec![0x01, 0x23, 0x45, 0x67];
    parts.0[1] = 1_f32.to_le_bytes().to_vec();
    parts.0[4] = table.iter().flat_map(|code| code.to_le_bytes()).collect();
    let halves = |out| -> Vec<u16> {
        let bytes = dequantize(&weight, &parts.borrow(), out).unwrap();
        bytes.as_chunks::<2>().0.iter().map(|half| u16::from_le_bytes(*half)).collect()
    };
    assert_eq!(halves(Float::BF16)[..4], [0x3f80, 0x3f82, 0x3f80, 0x3f80]);
    assert_eq!(halves(Float::F16)[2..], [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 2]);
}

#[test]
fn what_is_not_what_its_layout_says_is_an_error() {
    for (name, weight) in sample::cases(40, 256) {
        let whole = sample::parts(&weight, 1);
        for (at, part) in Part::ALL.into_iter().enumerate() {
            let mut parts = whole.clone();
            if parts.0[at].pop().is_none() {
                parts.0[at].push(0);
            }
            match dequantize(&weight, &parts.borrow(), Float::BF16) {
                Err(QuantError::Length { part: wrong, .. }) => assert_eq!(wrong, part, "{name}"),
                other => panic!("{name}: {part} of a wrong length: {other:?}"),
            }
        }
        if weight.is_indexed() {
            for group in [-1, weight.groups() as i32, i32::MIN] {
                let mut parts = whole.clone();
                parts.0[3][8..12].copy_from_slice(&group.to_le_bytes());
                let error = dequantize(&weight, &parts.borrow(), Float::BF16).unwrap_err();
                assert!(matches!(error, QuantError::Group { column: 2, .. }), "{name}: {error}");
            }
        }
    }
}

#[test]
fn layouts_that_do_not_exist_are_refused() {
    let new = |layout, rows, cols| Weight::new(layout, rows, cols, Float::F16);
    let gptq = |bits, group| Layout::Gptq { bits, group, less_one: true };
    let bad = [
        new(gptq(5, 128), 64, 64),
        new(gptq(4, 0), 64, 64),
        new(gptq(4, 128), 64, 40),
        new(gptq(3, 128), 40, 64),
        new(Layout::Awq { group: 12 }, 64, 64),
        new(Layout::Awq { group: 128 }, 60, 64),
        new(Layout::Packed { bits: 0, group: 1, symmetric: true }, 8, 8),
        new(Layout::Packed { bits: 9, group: 1, symmetric: true }, 8, 8),
        new(Layout::Bnb4 { block: 48, nested: None }, 8, 8),
        new(Layout::Fp8 { block: [0, 128] }, 8, 8),
        new(Layout::Q4_0, 8, 40),
        new(Layout::Q4K, 8, 128),
        new(Layout::Int8, u32::MAX, u32::MAX),
    ];
    for (at, weight) in bad.into_iter().enumerate() {
        assert!(matches!(weight, Err(QuantError::Unsupported(_))), "{at}: {weight:?}");
    }
}
