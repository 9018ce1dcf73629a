//! Encodes every matrix of a safetensors file in memory and says how long it took; beside it, how fast
//! these threads read the same memory.
//!
//! `cargo run --release --example encode_bench -- nf4|nf4-double|int8|gptq|awq|packed FILE [THREADS]`

use std::error::Error;
use std::time::Instant;

use safetensors::SafeTensors;
use serde_json::json;
use tenpak::dequant::Float;
use tenpak::format::dtype::Dtype;
use tenpak::quantize::encode::rtn::{Rounding, Rule};
use tenpak::quantize::encode::{EncodeError, Matrix, int8, nf4, rtn};

/// The fastest of so many passes counts.
const PASSES: usize = 3;

fn encode(method: &str, weight: &Matrix<'_>, threads: usize) -> Result<usize, EncodeError> {
    let round = |rule, symmetric| {
        let rounding = Rounding { rule, bits: 4, group: Some(128), symmetric };
        rtn::codes(weight, rounding, threads).map(|codes| codes.codes.len())
    };
    match method {
        "nf4" => nf4::encode_weight(weight, false, threads).map(|tensors| tensors.len()),
        "nf4-double" => nf4::encode_weight(weight, true, threads).map(|tensors| tensors.len()),
        "int8" => int8::encode_weight(weight, threads).map(|tensors| tensors.len()),
        "gptq" => round(Rule::Gptq, true),
        "awq" => round(Rule::Awq, false),
        _ => round(Rule::Packed, true),
    }
}

/// Adds up memory on several threads; gives seconds.
fn read(data: &[u8], threads: usize) -> f64 {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for part in data.chunks(data.len().div_ceil(threads).next_multiple_of(64)) {
            scope.spawn(move || {
                let words = part.as_chunks::<8>().0;
                let sums = words.chunks(1 << 12).map(|words| {
                    let each = words.iter().map(|word| u64::from_le_bytes(*word));
                    each.fold(0_u64, |sum, word| sum ^ word)
                });
                std::hint::black_box(sums.fold(0, |sum, part| sum ^ part))
            });
        }
    });
    start.elapsed().as_secs_f64()
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [method, path, rest @ ..] = &arguments[..] else {
        return Err("usage: encode_bench METHOD FILE [THREADS]".into());
    };
    let threads = rest.first().map_or(Ok(2), |text| text.parse())?;
    let file = std::fs::read(path)?;
    let tensors = SafeTensors::deserialize(&file)?;
    let mut weights = Vec::new();
    for (_, view) in tensors.tensors() {
        let dtype = Dtype::from_name(&view.dtype().to_string()).and_then(Float::of_dtype);
        if let (Some(float), [rows, columns]) = (dtype, view.shape()) {
            let data = view.data();
            // Views borrow from the file, which outlives them.
            let start = data.as_ptr() as usize - file.as_ptr() as usize;
            weights.push(Matrix::new(&file[start..start + data.len()], float, *rows, *columns)?);
        }
    }
    let bytes: u64 = weights.iter().map(|w| w.elements() as u64 * w.float().size()).sum();
    let (mut seconds, mut reading) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..PASSES {
        let start = Instant::now();
        for weight in &weights {
            std::hint::black_box(encode(method, weight, threads)?);
        }
        seconds = seconds.min(start.elapsed().as_secs_f64());
        reading = reading.min(read(&file, threads));
    }
    let memory = file.len() as f64 / reading;
    println!(
        "{}",
        json!({
            "bytes": bytes, "seconds": seconds, "bytes_per_second": bytes as f64 / seconds,
            "memory_bytes_per_second": memory, "share_of_memory": bytes as f64 / seconds / memory,
        })
    );
    Ok(())
}
