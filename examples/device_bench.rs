//! Measures devices: copies, uploads, the decoding of chunks and every dequantization kernel, each
//! against the device's own copy rate, and each result against the reference. `benches/device.sh` runs it.
//!
//! `device_bench [cuda|wgpu|host]... [--mib N] [--json]`; by default cuda and wgpu, tensors of 256 MiB
//! of bf16 on a GPU and of 4 MiB in software. Rows that need a device which is not there say so.

#[path = "device_bench/cuda.rs"]
mod cuda;
#[path = "device_bench/decode.rs"]
mod decode;
#[path = "device_bench/gpu.rs"]
mod gpu;

use std::time::Instant;

use tenpak::dequant::{Float, Layout, Nested, Weight, dequantize, sample};

type Failure = Box<dyn std::error::Error>;

/// A line of the table.
struct Row {
    device: String,
    what: String,
    /// Bytes read and written.
    bytes: u64,
    seconds: f64,
    /// The share of the copy rate that is required, where one is.
    required: Option<f64>,
    /// Whether the result is the reference's, where there is one.
    correct: Option<bool>,
}

/// What puts lines of one device into the table: what, bytes, seconds, required, correct.
fn lines_of(
    device: String,
    table: &mut Vec<Row>,
) -> impl FnMut(&str, u64, f64, Option<f64>, Option<bool>) {
    move |what, bytes, seconds, required, correct| {
        let (device, what) = (device.clone(), what.to_owned());
        table.push(Row { device, what, bytes, seconds, required, correct });
    }
}

/// A weight, and the share of the copy rate that is required of CUDA and of wgpu.
type Kind = (&'static str, Weight, Option<[f64; 2]>);

/// What is dequantized.
fn weights(rows: u32, cols: u32) -> Result<Vec<Kind>, Failure> {
    let nested = Some(Nested { block: 256, offset: 0.037_1 });
    let required = Some([0.9, 0.7]);
    let gptq = |bits| Layout::Gptq { bits, group: 128, less_one: true };
    let packed = |symmetric| Layout::Packed { bits: 4, group: 128, symmetric };
    let of = |layout, scale| Weight::new(layout, rows, cols, scale);
    Ok(vec![
        ("nf4", of(Layout::Bnb4 { block: 64, nested: None }, Float::F32)?, required),
        ("nf4 double", of(Layout::Bnb4 { block: 64, nested }, Float::F32)?, required),
        ("int8 row-wise", of(Layout::Int8, Float::F32)?, required),
        ("int4 packed g128", of(packed(true), Float::BF16)?, required),
        ("int4 packed asym g128", of(packed(false), Float::BF16)?, None),
        ("int4 gptq g128", of(gptq(4), Float::F16)?, required),
        ("int4 gptq g128 g_idx", of(gptq(4), Float::F16)?.indexed()?, None),
        ("int8 gptq g128", of(gptq(8), Float::F16)?, required),
        ("int3 gptq g128", of(gptq(3), Float::F16)?, None),
        ("int2 gptq g128", of(gptq(2), Float::F16)?, None),
        ("int4 awq g128", of(Layout::Awq { group: 128 }, Float::F16)?, required),
        ("fp8 per row", of(Layout::Fp8 { block: [1, cols] }, Float::F32)?, None),
        ("fp8 128x128", of(Layout::Fp8 { block: [128, 128] }, Float::F32)?, None),
        ("q4_0", of(Layout::Q4_0, Float::F16)?, None),
        ("q8_0", of(Layout::Q8_0, Float::F16)?, None),
        ("q4_k", of(Layout::Q4K, Float::F16)?, None),
    ])
}

/// Bytes that a kernel must move.
fn moved(weight: &Weight, out: Float) -> u64 {
    let parts: u64 = tenpak::dequant::Part::ALL.iter().map(|part| weight.part_len(*part)).sum();
    parts + weight.elements() * out.size()
}

/// The median of some timings.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds.get(seconds.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Whether a kernel's bf16 is the reference's, but for what is in a NaN.
fn same(got: &[u8], expected: &[u8]) -> bool {
    let nan = |half: &[u8; 2]| u16::from_le_bytes(*half) & 0x7fff > 0x7f80;
    let halves = got.as_chunks::<2>().0.iter().zip(expected.as_chunks::<2>().0);
    got.len() == expected.len() && halves.into_iter().all(|(a, b)| a == b || (nan(a) && nan(b)))
}

/// The reference itself, on one core.
fn host(rows: u32, cols: u32, table: &mut Vec<Row>) -> Result<(), Failure> {
    let device = "host (reference, one core)".to_owned();
    let mut add = lines_of(device, table);
    for (name, weight, _) in weights(rows, cols)? {
        let parts = sample::parts(&weight, 1);
        let start = Instant::now();
        let result = dequantize(&weight, &parts.borrow(), Float::BF16)?;
        let seconds = start.elapsed().as_secs_f64();
        drop(result);
        let bytes = moved(&weight, Float::BF16);
        add(name, bytes, seconds, None, None);
    }
    Ok(())
}

/// Each row with its rate in GB/s and its share of the device's copy rate.
fn rated(table: &[Row]) -> Vec<(&Row, f64, f64)> {
    let mut copy: Option<(&str, f64)> = None;
    let mut rated = Vec::with_capacity(table.len());
    for row in table {
        let rate = row.bytes as f64 / row.seconds / 1e9;
        if row.what.starts_with("copy") {
            copy = Some((&row.device, rate));
        } else if copy.is_none_or(|(device, _)| device != row.device) {
            copy = Some((&row.device, f64::NAN));
        }
        rated.push((row, rate, rate / copy.map_or(f64::NAN, |(_, rate)| rate)));
    }
    rated
}

fn print(table: &[Row], missing: &[String]) {
    let mut device = "";
    for (row, rate, share) in rated(table) {
        if device != row.device {
            device = &row.device;
            println!("\n{device}");
        }
        let required = row.required.map_or(String::new(), |required| {
            let verdict = if share >= required { "met" } else { "MISSED" };
            format!("  {:.0} % required: {verdict}", required * 100.0)
        });
        let correct = match row.correct {
            Some(true) => "  equal",
            Some(false) => "  WRONG",
            None => "",
        };
        let share =
            if share.is_nan() { String::new() } else { format!("{:6.1} % of copy", share * 100.0) };
        println!("  {:<24} {rate:9.2} GB/s  {share:>16}{correct}{required}", row.what);
    }
    for line in missing {
        println!("\n{line}");
    }
}

/// All of it as one object.
fn json(table: &[Row], missing: &[String]) -> serde_json::Value {
    let row = |(row, rate, share): (&Row, f64, f64)| {
        let (device, what, correct) = (&row.device, &row.what, row.correct);
        serde_json::json!({"device": device, "what": what, "gb_per_s": rate, "of_copy": share,
            "required": row.required, "correct": correct})
    };
    let rows: Vec<_> = rated(table).into_iter().map(row).collect();
    serde_json::json!({"rows": rows, "missing": missing})
}

fn main() -> Result<(), Failure> {
    let (mut kinds, mut mib, mut as_json) = (Vec::new(), None, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => as_json = true,
            "--mib" => mib = Some(arguments.next().ok_or("--mib N")?.parse::<u32>()?),
            "cuda" | "wgpu" | "host" => kinds.push(argument),
            other => return Err(format!("{other}: not cuda, wgpu, host, --mib N or --json").into()),
        }
    }
    if kinds.is_empty() {
        kinds = vec!["cuda".to_owned(), "wgpu".to_owned(), "host".to_owned()];
    }
    // Rows of 4096 columns: 128 of them are a MiB of bf16.
    let rows = |default: u32| mib.unwrap_or(default) * 128;
    let (mut table, mut missing) = (Vec::new(), Vec::new());
    for kind in &kinds {
        let done = match kind.as_str() {
            "cuda" => cuda::measure(rows(256), 4096, &mut table),
            "wgpu" => gpu::measure(&rows, 4096, &mut table),
            _ => host(rows(4), 4096, &mut table),
        };
        if let Err(error) = done {
            missing.push(format!("{kind}: not measured: {error}"));
        }
    }
    if as_json {
        println!("{}", json(&table, &missing));
    } else {
        print(&table, &missing);
    }
    if table.iter().any(|row| row.correct == Some(false)) {
        return Err("a kernel's result is not the reference's".into());
    }
    Ok(())
}
