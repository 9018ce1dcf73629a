//! Encoded weights are, byte for byte, what the family's own library stores: `tests/judges/record.py` ran the
//! libraries, and recorded what they gave in `fixtures/produce/vectors.json`.

#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest, Sha256};
use tenpak::dequant::gguf::Block;
use tenpak::dequant::{Float, convert};
use tenpak::quantize::encode::rtn::{Rounding, Rule};
use tenpak::quantize::encode::{
    EncodeError, Encoded, Matrix, awq, fp4, fp8, gguf, gptq, int8, nf4, packed, rtn,
};

/// The weight of `tests/judges/weights.py`, as bytes of its type.
fn weight(seed: u64, rows: usize, columns: usize, kind: &str, float: Float) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(rows * columns * 4);
    for n in 0..(rows * columns) as u64 {
        let mut z = (n + (seed << 40) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let total: i64 = (0..4).map(|part| (z >> (16 * part) & 0xffff) as i64).sum();
        let (row, column) = (n / columns as u64, n % columns as u64);
        let mut value = (total - 131_070) as f32 * 2_f32.powi(-19 - (row % 5) as i32);
        match kind {
            "zeros" if (n / 64) % 3 == 1 || row % 7 == 3 || column == 5 => value = 0.0,
            "positive" => value = value.abs(),
            "outliers" if n % 97 == 13 => value *= 64.0,
            "tiny" => value *= 2_f32.powi(if float == Float::F16 { -18 } else { -118 }),
            _ => {}
        }
        bytes.extend(value.to_le_bytes());
    }
    convert(&bytes, Float::F32, float)
}

fn encode(case: &Value, weight: &Matrix<'_>, threads: usize) -> Result<Vec<Encoded>, EncodeError> {
    let number = |key: &str| case[key].as_u64().unwrap_or(0);
    let flag = |key: &str| case[key].as_bool().unwrap_or(false);
    let group = Some(number("group") as usize).filter(|group| *group > 0);
    let (bits, symmetric) = (number("bits") as u32, flag("symmetric"));
    let round = |rule, bits, symmetric| {
        rtn::codes(weight, Rounding { rule, bits, group, symmetric }, threads)
    };
    let blocks = |block: Block| {
        let bytes = gguf::blocks(weight, block, threads)?;
        let width = weight.columns() / block.elements() * block.bytes();
        let dims = vec![weight.rows() as u64, width as u64];
        Ok(vec![Encoded { end: "weight", dtype: tenpak::format::dtype::Dtype::U8, dims, bytes }])
    };
    match case["method"].as_str().unwrap() {
        "nf4" => nf4::encode_weight(weight, flag("double"), threads),
        "int8" => int8::encode_weight(weight, threads),
        "float-quantized" => fp8::encode_weight(weight, threads),
        "q4_0" => blocks(Block::Q4_0),
        "q8_0" => blocks(Block::Q8_0),
        "q4_k" => blocks(Block::Q4K),
        "awq" => awq::pack(&round(Rule::Awq, 4, false)?, threads),
        "packed" => packed::pack(&round(Rule::Packed, bits, symmetric)?, weight.float(), threads),
        "int-quantized" => packed::int8(&round(Rule::Packed, 8, true)?, weight.float()),
        "gptq" => {
            let codes = round(Rule::Gptq, bits, symmetric)?;
            let version = match codes.zeros.contains(&0) {
                true => gptq::Version::V2,
                false => gptq::Version::V1,
            };
            gptq::pack(&codes, version, threads)
        }
        other => panic!("no method {other}"),
    }
}

fn cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/produce/vectors.json");
    let vectors: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    vectors["cases"].as_array().unwrap().clone()
}

fn float(case: &Value) -> Float {
    match case["dtype"].as_str().unwrap() {
        "f32" => Float::F32,
        "f16" => Float::F16,
        _ => Float::BF16,
    }
}

#[test]
fn what_is_stored_is_what_the_libraries_store() {
    let cases = cases();
    assert!(cases.len() > 1000);
    let mut wrong = Vec::new();
    for case in &cases {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let (rows, columns, float) = (number("rows"), number("columns"), float(case));
        let bytes =
            weight(number("seed") as u64, rows, columns, case["kind"].as_str().unwrap(), float);
        let matrix = Matrix::new(&bytes, float, rows, columns).unwrap();
        let what = || {
            let mut case = case.as_object().unwrap().clone();
            case.remove("tensors");
            Value::Object(case).to_string()
        };
        let encoded = match encode(case, &matrix, 2) {
            Ok(encoded) => encoded,
            Err(error) => {
                wrong.push(format!("{}: {error}", what()));
                continue;
            }
        };
        for (name, recorded) in case["tensors"].as_object().unwrap() {
            let Some(own) = encoded.iter().find(|tensor| tensor.end == name) else {
                wrong.push(format!("{}: no {name}", what()));
                continue;
            };
            let digest: String =
                Sha256::digest(&own.bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            let own = serde_json::json!([own.dtype.name(), own.dims, digest]);
            if own != *recorded {
                wrong.push(format!("{}: {name}: {own} is not {recorded}", what()));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

#[test]
fn blocks_are_what_llama_cpp_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/gguf");
    let recorded = ["written.json", "written_q5.json"].map(|name| {
        serde_json::from_slice::<Vec<Value>>(&fs::read(folder.join(name)).unwrap()).unwrap()
    });
    let (cases, mut wrong) = (recorded.concat(), Vec::new());
    for case in &cases {
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let (rows, columns, float) = (number("rows"), number("columns"), float(case));
        let kind = case["kind"].as_str().unwrap();
        let bytes = weight(number("seed") as u64, rows, columns, kind, float);
        let matrix = Matrix::new(&bytes, float, rows, columns).unwrap();
        let block = Block::named(case["method"].as_str().unwrap()).unwrap();
        let made = gguf::blocks(&matrix, block, 2).unwrap();
        let digest: String = Sha256::digest(&made).iter().map(|b| format!("{b:02x}")).collect();
        if digest != case["sha256"].as_str().unwrap() {
            wrong.push(case.to_string());
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:#?}", wrong.len(), cases.len(), wrong);
    let matrix = Matrix::new(&[0; 64], Float::BF16, 1, 32).unwrap();
    let error = gguf::blocks(&matrix, Block::Q4_1, 1).unwrap_err();
    assert_eq!(error, EncodeError::NotWritten("q4_1"));
}

/// What `tests/judges/fp4.py` recorded.
fn fp4_cases() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fp4/vectors.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn fp4_is_what_compressed_tensors_stores_and_reads() {
    use tenpak::dequant::{Layout, Parts, Weight, dequantize};

    let (mut seen, mut wrong) = (0, Vec::new());
    for case in fp4_cases() {
        let method = case["method"].as_str().unwrap();
        if !["mxfp4", "nvfp4"].contains(&method) {
            continue;
        }
        seen += 1;
        let number = |key: &str| case[key].as_u64().unwrap() as usize;
        let (rows, columns, own) = (number("rows"), number("columns"), float(&case));
        let kind = case["kind"].as_str().unwrap();
        let bytes = weight(number("seed") as u64, rows, columns, kind, own);
        let matrix = Matrix::new(&bytes, own, rows, columns).unwrap();
        let made = match method {
            "nvfp4" => fp4::nvfp4(&matrix, 2).unwrap(),
            _ => fp4::mxfp4(&matrix, 2).unwrap(),
        };
        for tensor in &made {
            let [dtype, dims, digest] = &case["tensors"][tensor.end].as_array().unwrap()[..] else {
                panic!("{case}")
            };
            assert_eq!(dtype, tensor.dtype.name(), "{case}");
            assert_eq!(*dims, serde_json::json!(tensor.dims), "{case}");
            if sha256(&tensor.bytes) != digest.as_str().unwrap() {
                wrong.push(format!("{method} {kind} {}: {}", case["dtype"], tensor.end));
            }
        }
        assert_eq!(made.len(), case["tensors"].as_object().unwrap().len());
        let part =
            |end: &str| made.iter().find(|own| own.end == end).map_or(&[][..], |own| &own.bytes);
        let layout =
            if method == "nvfp4" { Layout::Nvfp4 { divides: true } } else { Layout::Mxfp4 };
        let read = Weight::new(layout, rows as u32, columns as u32, Float::F32).unwrap();
        let parts = Parts {
            codes: part("weight_packed"),
            scales: part("weight_scale"),
            table: part("weight_global_scale"),
            ..Parts::default()
        };
        let values = dequantize(&read, &parts, Float::F32).unwrap();
        if sha256(&values) != case["values"].as_str().unwrap() {
            wrong.push(format!("{method} {kind} {}: values", case["dtype"]));
        }
    }
    assert_eq!(seen, 30);
    assert!(wrong.is_empty(), "{wrong:#?}");
    let large = f32::to_le_bytes(43.0).repeat(16);
    let matrix = Matrix::new(&large, Float::F32, 1, 16).unwrap();
    assert_eq!(fp4::nvfp4(&matrix, 1).is_err(), 43.0 > 42.0 * 1.05);
    let large = f32::to_le_bytes(1e5).repeat(16);
    let matrix = Matrix::new(&large, Float::F32, 1, 16).unwrap();
    assert_eq!(fp4::nvfp4(&matrix, 1), Err(EncodeError::Nvfp4Range));
}
