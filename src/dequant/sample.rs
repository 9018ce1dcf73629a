//! Random weights of every layout, odd shapes included: for tests and benchmarks.

use super::codes::NF4;
use super::{Float, Layout, Nested, Part, Parts, Weight, gguf};

/// Parts that own their bytes, in the order of [`Part::ALL`].
#[derive(Debug, Clone, Default)]
pub struct OwnedParts(pub [Vec<u8>; 5]);

impl OwnedParts {
    /// What the functions take.
    pub fn borrow(&self) -> Parts<'_> {
        let [codes, scales, zeros, index, table] = &self.0;
        Parts { codes, scales, zeros, index, table }
    }
}

/// SplitMix64 (Steele, Lea and Flood 2014), from its seed on.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        let mut bytes: Vec<u8> =
            (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.truncate(len as usize);
        bytes
    }

    /// A scale as checkpoints have them: either sign, from 2^-13 to 2^3, now and then 0.
    fn scale(&mut self) -> f32 {
        let bits = self.next();
        if bits.is_multiple_of(61) {
            return 0.0;
        }
        let magnitude =
            f32::from_bits(((114 + (bits >> 8) % 16) as u32) << 23 | (bits >> 40) as u32 >> 1);
        if bits & 128 == 0 { magnitude } else { -magnitude }
    }

    fn scales(&mut self, of: Float, len: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len as usize);
        while (bytes.len() as u64) < len {
            of.push(self.scale(), &mut bytes);
        }
        bytes
    }
}

/// Random parts for `weight`, the same for the same seed.
pub fn parts(weight: &Weight, seed: u64) -> OwnedParts {
    let mut random = Random(seed);
    let mut parts = Part::ALL.map(|part| random.bytes(weight.part_len(part)));
    let [codes, scales, zeros, index, table] = &mut parts;
    *scales = match weight.layout() {
        Layout::Bnb4 { nested: Some(_), .. } => std::mem::take(scales),
        Layout::Bnb4 { .. } | Layout::Int8 => random.scales(Float::F32, scales.len() as u64),
        _ => random.scales(weight.scale(), scales.len() as u64),
    };
    if let Layout::Bnb4 { .. } = weight.layout() {
        *zeros = random.scales(Float::F32, zeros.len() as u64);
        let more = random.scales(Float::F32, table.len() as u64 - 64);
        *table = NF4.iter().flat_map(|code| code.to_le_bytes()).chain(more).collect();
    }
    for group in index.as_chunks_mut::<4>().0 {
        *group = ((random.next() % u64::from(weight.groups())) as u32).to_le_bytes();
    }
    let (block, halves) = match weight.layout() {
        Layout::Q4_0 => (18, 1),
        Layout::Q8_0 => (34, 1),
        Layout::Q4K => (144, 2),
        Layout::Blocks(block) => {
            *codes = blocks(&mut random, block, codes.len());
            (usize::MAX, 0)
        }
        _ => (usize::MAX, 0),
    };
    match weight.layout() {
        // Exponents about that of 1, and scales that are numbers.
        Layout::Mxfp4 => scales.iter_mut().for_each(|scale| *scale = 110 + *scale % 30),
        Layout::Nvfp4 { .. } => {
            scales.iter_mut().for_each(|scale| *scale &= 0x3f);
            *table = 64_f32.to_le_bytes().to_vec();
        }
        _ => {}
    }
    for block in codes.chunks_mut(block) {
        for half in block.as_chunks_mut::<2>().0.iter_mut().take(halves) {
            *half = half::f16::from_f32(random.scale()).to_le_bytes();
        }
    }
    OwnedParts(parts)
}

/// Random blocks, none of which has an element that is no number or far from 1.
fn blocks(random: &mut Random, block: gguf::Block, len: usize) -> Vec<u8> {
    let mut made = Vec::with_capacity(len);
    let mut values = [0.0; 256];
    while made.len() < len {
        let own = random.bytes(block.bytes() as u64);
        let values = values.get_mut(..block.elements()).unwrap_or_default();
        super::blocks::decode(block, &own, values);
        if values.iter().all(|value| value.abs() < 1e4) {
            made.extend(own);
        }
    }
    made
}

/// A weight of every layout that no device has a kernel for.
pub fn host_cases(rows: u32, cols: u32) -> Vec<(String, Weight)> {
    let (rows, cols) = (rows + 5, cols.next_multiple_of(256));
    let layouts = [Layout::Mxfp4, Layout::Nvfp4 { divides: true }];
    let blocks = gguf::Block::all().map(Layout::of_blocks);
    let all = layouts.into_iter().chain(blocks.filter(|own| matches!(own, Layout::Blocks(_))));
    let named = |layout| {
        let weight = Weight::new(layout, rows, cols, Float::F32).ok()?;
        Some((format!("{layout:?} {rows}x{cols}"), weight))
    };
    all.filter_map(named).collect()
}

/// A weight of every layout and of every way through a kernel, of about `rows x cols` elements where
/// the layout leaves the choice; `rows` is rounded up to a multiple of 32, `cols` to one of 256, and
/// then made odd for those that may be.
pub fn cases(rows: u32, cols: u32) -> Vec<(String, Weight)> {
    let (rows, cols) = (rows.next_multiple_of(32), cols.next_multiple_of(256));
    let (odd_rows, odd_cols) = (rows + 5, cols + 13);
    let mut cases = Vec::new();
    let mut add = |name: &str, layout, rows, cols, scale, indexed| {
        let weight = Weight::new(layout, rows, cols, scale);
        let weight = weight.and_then(|weight| if indexed { weight.indexed() } else { Ok(weight) });
        match weight {
            Ok(weight) => cases.push((format!("{name} {rows}x{cols}"), weight)),
            Err(error) => unreachable!("{name}: {error}"),
        }
    };
    let nested = Some(Nested { block: 256, offset: 0.037_1 });
    for (name, nested) in [("nf4", None), ("nf4 nested", nested)] {
        add(name, Layout::Bnb4 { block: 64, nested }, rows, cols, Float::F32, false);
        add(name, Layout::Bnb4 { block: 64, nested }, odd_rows, odd_cols, Float::F32, false);
    }
    add("int8", Layout::Int8, rows, cols, Float::F32, false);
    add("int8", Layout::Int8, odd_rows, odd_cols, Float::F32, false);
    for bits in [4, 2, 3, 8] {
        let gptq = |group, less_one| Layout::Gptq { bits, group, less_one };
        let name = |what: &str| format!("gptq{bits}{what}");
        add(&name(""), gptq(128, true), rows, cols + 32, Float::F16, false);
        add(&name(" v2 g_idx"), gptq(64, false), rows + 32, cols, Float::BF16, true);
        add(&name(" odd groups"), gptq(20, true), rows, cols, Float::F32, false);
    }
    add("awq", Layout::Awq { group: 128 }, rows, cols, Float::F16, false);
    add("awq", Layout::Awq { group: 64 }, rows + 8, cols + 8, Float::F16, false);
    for bits in [4, 8, 3, 5] {
        for symmetric in [true, false] {
            let packed = |group| Layout::Packed { bits, group, symmetric };
            let name = |what: &str| {
                format!("packed{bits}{}{what}", if symmetric { "" } else { " asymmetric" })
            };
            add(&name(""), packed(128), rows, cols, Float::BF16, false);
            add(&name(" per row"), packed(odd_cols), odd_rows, odd_cols, Float::F32, false);
            add(&name(" g_idx"), packed(32), odd_rows, cols, Float::F16, true);
        }
    }
    for (name, block) in
        [("tensor", [odd_rows, odd_cols]), ("row", [1, odd_cols]), ("block", [128, 128])]
    {
        let name = format!("fp8 per {name}");
        add(&name, Layout::Fp8 { block }, rows, cols, Float::F32, false);
        add(&name, Layout::Fp8 { block }, odd_rows, odd_cols, Float::BF16, false);
    }
    for (name, block) in [("row", [1, odd_cols]), ("group", [1, 64])] {
        let name = format!("bytes per {name}");
        add(&name, Layout::Bytes { block }, rows, cols, Float::BF16, false);
        add(&name, Layout::Bytes { block }, odd_rows, odd_cols, Float::F32, false);
    }
    add("q4_0", Layout::Q4_0, odd_rows, cols, Float::F16, false);
    add("q8_0", Layout::Q8_0, odd_rows, cols, Float::F16, false);
    add("q4_k", Layout::Q4K, odd_rows, cols, Float::F16, false);
    cases
}
