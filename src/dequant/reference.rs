//! The reference: every element on its own, in f32, rounded once to the type asked.
//!
//! What it computes is what each family's library computes, in the same order of operations; where
//! a product of two stored numbers is exact in f32, the order does not matter.

use super::float::{Float, byte, e2m1, e4m3, e8m0, short, word};
use super::{Layout, Parts, QuantError, Weight, blocks};

/// The weight as `rows x cols` elements of `out`, row-major.
///
/// # Errors
/// If the parts are not of the weight's sizes.
pub fn dequantize(weight: &Weight, parts: &Parts<'_>, out: Float) -> Result<Vec<u8>, QuantError> {
    weight.check(parts)?;
    let bytes = usize::try_from(weight.elements() * out.size())
        .map_err(|_| QuantError::Unsupported("a weight larger than the address space"))?;
    let mut delivered = Vec::with_capacity(bytes);
    if let Layout::Blocks(block) = weight.layout() {
        let mut values = [0.0; 256];
        let values = values.get_mut(..block.elements()).unwrap_or_default();
        for own in parts.codes.chunks(block.bytes()) {
            blocks::decode(block, own, values);
            values.iter().for_each(|value| out.push(*value, &mut delivered));
        }
        return Ok(delivered);
    }
    for row in 0..weight.rows() as usize {
        for col in 0..weight.cols() as usize {
            out.push(element(weight, parts, row, col), &mut delivered);
        }
    }
    Ok(delivered)
}

/// The value at `row` and `col` of parts that were checked.
fn element(weight: &Weight, parts: &Parts<'_>, row: usize, col: usize) -> f32 {
    let (rows, cols) = (weight.rows() as usize, weight.cols() as usize);
    let (groups, scale) = (weight.groups() as usize, weight.scale());
    let flat = row * cols + col;
    let group_of = |group: u32| match parts.index {
        [] => col / group as usize,
        index => word(index, col) as usize,
    };
    match weight.layout() {
        Layout::Bnb4 { block, nested } => {
            let pair = byte(parts.codes, flat / 2);
            let code = if flat.is_multiple_of(2) { pair >> 4 } else { pair & 15 };
            let block = flat / block as usize;
            let absmax = match nested {
                None => Float::F32.read(parts.scales, block),
                Some(nested) => {
                    let code = 16 + usize::from(byte(parts.scales, block));
                    let second = Float::F32.read(parts.zeros, block / nested.block as usize);
                    Float::F32.read(parts.table, code) * second + nested.offset
                }
            };
            Float::F32.read(parts.table, usize::from(code)) * absmax
        }
        Layout::Int8 => {
            // As bitsandbytes: the product first, then 1/127 rounded to f32.
            let code = byte(parts.codes, flat).cast_signed();
            f32::from(code) * Float::F32.read(parts.scales, row) * (1.0 / 127.0)
        }
        Layout::Gptq { bits, group, less_one } => {
            let bits = bits as usize;
            let code = field(parts.codes, col * bits, bits, rows, row);
            let group = group_of(group);
            // Zero points lie in a row's own stream: words side by side.
            let zeros = group * (rows * bits / 32);
            let zero = field(parts.zeros, zeros * 32 + row * bits, bits, 1, 0);
            let zero = zero + i32::from(less_one);
            scale.read(parts.scales, group * rows + row) * (code - zero) as f32
        }
        Layout::Awq { group } => {
            const PLACE: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];
            let group = col / group as usize;
            let shift = 4 * PLACE[row % 8];
            let nibble = |line: usize, words: &[u8]| {
                (word(words, line * (rows / 8) + row / 8) >> shift & 15).cast_signed()
            };
            let code = nibble(col, parts.codes) - nibble(group, parts.zeros);
            scale.read(parts.scales, group * rows + row) * code as f32
        }
        Layout::Packed { bits, group, symmetric } => {
            let bits = bits as usize;
            let words = (cols * bits).div_ceil(32);
            let code = field(parts.codes, words * 32 * row + col * bits, bits, 1, 0);
            let group = group_of(group);
            let zero = if symmetric {
                1 << (bits - 1)
            } else {
                field(parts.zeros, row * bits, bits, groups, group)
            };
            scale.read(parts.scales, row * groups + group) * (code - zero) as f32
        }
        Layout::Fp8 { block: [height, width] } => {
            let at = row / height as usize * groups + col / width as usize;
            e4m3(byte(parts.codes, flat)) * scale.read(parts.scales, at)
        }
        Layout::Bytes { block: [height, width] } => {
            let at = row / height as usize * groups + col / width as usize;
            f32::from(byte(parts.codes, flat).cast_signed()) * scale.read(parts.scales, at)
        }
        Layout::Mxfp4 => e2m1(nibble(parts.codes, flat)) * e8m0(byte(parts.scales, flat / 32)),
        Layout::Nvfp4 { divides } => {
            let (scale, all) =
                (e4m3(byte(parts.scales, flat / 16)), Float::F32.read(parts.table, 0));
            let scale = if divides { scale / all } else { scale * all };
            e2m1(nibble(parts.codes, flat)) * scale
        }
        Layout::Q4_0 => {
            let (block, at) = (flat / 32 * 18, flat % 32);
            let pair = byte(parts.codes, block + 2 + at % 16);
            let code = i32::from(pair >> (4 * (at / 16)) & 15) - 8;
            Float::F16.read(parts.codes, block / 2) * code as f32
        }
        Layout::Q8_0 => {
            let block = flat / 32 * 34;
            let code = byte(parts.codes, block + 2 + flat % 32).cast_signed();
            Float::F16.read(parts.codes, block / 2) * f32::from(code)
        }
        Layout::Q4K => q4_k(parts.codes, flat / 256 * 144, flat % 256),
        // A block at a time, above.
        Layout::Blocks(_) => 0.0,
    }
}

/// Nibble number `at`, the low one of a byte first.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    byte(bytes, at / 2) >> (at % 2 * 4) & 15
}

/// The `bits` at bit `at` of a stream of words: word `w` is number `w * stride + lane` of `words`. A
/// field may go on in the next word.
fn field(words: &[u8], at: usize, bits: usize, stride: usize, lane: usize) -> i32 {
    let low = word(words, at / 32 * stride + lane);
    let high = word(words, (at / 32 + 1) * stride + lane);
    let both = u64::from(high) << 32 | u64::from(low);
    (both >> (at % 32)) as i32 & ((1 << bits) - 1)
}

/// Element `at` of the Q4_K block that begins at byte `block`.
fn q4_k(codes: &[u8], block: usize, at: usize) -> f32 {
    let half = |at| half::f16::from_bits(short(codes, at)).to_f32();
    let packed = |i: usize| byte(codes, block + 4 + i);
    let sub = at / 32;
    let (scale, min) = if sub < 4 {
        (packed(sub) & 63, packed(sub + 4) & 63)
    } else {
        let both = packed(sub + 4);
        (both & 15 | packed(sub - 4) >> 6 << 4, both >> 4 | packed(sub) >> 6 << 4)
    };
    let pair = byte(codes, block + 16 + at / 64 * 32 + at % 32);
    let code = pair >> (4 * (sub % 2)) & 15;
    half(block) * f32::from(scale) * f32::from(code) - half(block + 2) * f32::from(min)
}
