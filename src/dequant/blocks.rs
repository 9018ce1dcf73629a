//! What the blocks of GGUF files are worth, after llama.cpp's `ggml-quants.c`: a block at a time, in f32, in its order
//! of operations.

use super::float::{byte, e4m3, short, word};
use super::gguf::Block;
use super::grids;

/// The values of FP4's codes, doubled.
const FP4: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];
/// The values of IQ4_NL's and IQ4_XS's codes.
pub(crate) const IQ4: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];
/// What IQ1 moves its points by.
const DELTA: f32 = 0.125;

/// The elements of one block, as many as the type has in one, into `out`. What lies beyond the end of `own` is 0.
pub(crate) fn decode(block: Block, own: &[u8], out: &mut [f32]) {
    match block {
        Block::Q4_0 => nibbles(half(own, 0), None, own.get(2..), out, |code| code as f32 - 8.0),
        Block::Q4_1 => {
            nibbles(half(own, 0), Some(half(own, 2)), own.get(4..), out, |code| code as f32)
        }
        Block::Q5_0 => q5(half(own, 0), None, 16, word_at(own, 2), own.get(6..), out),
        Block::Q5_1 => q5(half(own, 0), Some(half(own, 2)), 0, word_at(own, 4), own.get(8..), out),
        Block::Q8_0 => signed(half(own, 0), own.get(2..), out),
        Block::Q8_1 => signed(half(own, 0), own.get(4..), out),
        Block::Q8K => signed(f32::from_bits(word_at(own, 0)), own.get(4..), out),
        Block::Q2K => q2_k(own, out),
        Block::Q3K => q3_k(own, out),
        Block::Q4K => q45_k(own, 16, None, out),
        Block::Q5K => q45_k(own, 48, Some(16), out),
        Block::Q6K => q6_k(own, out),
        Block::Iq2Xxs => iq2_xxs(own, out),
        Block::Iq2Xs => iq2_xs(own, out),
        Block::Iq2S => iq2_s(own, out),
        Block::Iq3Xxs => iq3_xxs(own, out),
        Block::Iq3S => iq3_s(own, out),
        Block::Iq1S => iq1_s(own, out),
        Block::Iq1M => iq1_m(own, out),
        Block::Iq4Nl => {
            nibbles(half(own, 0), None, own.get(2..), out, |code| f32::from(IQ4[code]));
        }
        Block::Iq4Xs => iq4_xs(own, out),
        Block::Tq1_0 => tq1_0(own, out),
        Block::Tq2_0 => tq2_0(own, out),
        Block::Mxfp4 => {
            nibbles(e8m0_half(byte(own, 0)), None, own.get(1..), out, |code| f32::from(FP4[code]));
        }
        Block::Nvfp4 => nvfp4(own, out),
    }
}

fn half(own: &[u8], at: usize) -> f32 {
    half::f16::from_bits(short(own, at)).to_f32()
}

fn word_at(own: &[u8], at: usize) -> u32 {
    own.get(at..).map_or(0, |rest| word(rest, 0))
}

/// Half of 2^(code - 127).
fn e8m0_half(code: u8) -> f32 {
    f32::from_bits(if code < 2 { 0x20_0000 << code } else { u32::from(code - 1) << 23 })
}

/// Halves of a block of nibbles: element `j` is in the low one of byte `j`, the second half in the high ones.
fn nibbles(
    scale: f32,
    least: Option<f32>,
    codes: Option<&[u8]>,
    out: &mut [f32],
    value: impl Fn(usize) -> f32,
) {
    let (low, high) = out.split_at_mut(out.len() / 2);
    // A zero keeps its sign where nothing is added.
    let of = |code: u8| {
        let own = value(usize::from(code)) * scale;
        least.map_or(own, |least| own + least)
    };
    for ((code, low), high) in codes.unwrap_or_default().iter().zip(low).zip(high) {
        (*low, *high) = (of(code & 15), of(code >> 4));
    }
}

fn q5(
    scale: f32,
    least: Option<f32>,
    zero: i32,
    fifth: u32,
    codes: Option<&[u8]>,
    out: &mut [f32],
) {
    let codes = codes.unwrap_or_default();
    for (at, out) in out.iter_mut().enumerate() {
        let four = byte(codes, at % 16) >> (at / 16 * 4) & 15;
        let code = i32::from(four) | ((fifth >> at & 1) << 4).cast_signed();
        let own = (code - zero) as f32 * scale;
        *out = least.map_or(own, |least| own + least);
    }
}

fn signed(scale: f32, codes: Option<&[u8]>, out: &mut [f32]) {
    for (code, out) in codes.unwrap_or_default().iter().zip(out) {
        *out = scale * f32::from(code.cast_signed());
    }
}

fn q2_k(own: &[u8], out: &mut [f32]) {
    let (d, least) = (half(own, 80), half(own, 82));
    for (at, out) in out.iter_mut().enumerate() {
        let packed = byte(own, at / 16);
        let code = byte(own, 16 + at / 128 * 32 + at % 32) >> (at % 128 / 32 * 2) & 3;
        *out = d * f32::from(packed & 15) * f32::from(code) - least * f32::from(packed >> 4);
    }
}

/// What the sub-blocks of a block of Q3_K scale its f16 by.
pub(crate) fn q3_k_scales(own: &[u8]) -> [i8; 16] {
    std::array::from_fn(|sub| {
        let low = byte(own, 96 + sub % 8) >> (sub / 8 * 4) & 15;
        let high = byte(own, 104 + sub % 4) >> (sub / 4 * 2) & 3;
        (low | high << 4).cast_signed() - 32
    })
}

fn q3_k(own: &[u8], out: &mut [f32]) {
    let (d, scales) = (half(own, 108), q3_k_scales(own));
    for (at, out) in out.iter_mut().enumerate() {
        let scale = f32::from(scales[at / 16]);
        let two = byte(own, 32 + at / 128 * 32 + at % 32) >> (at % 128 / 32 * 2) & 3;
        // The offset is 0 where the bit is set.
        let third = byte(own, at % 32) >> (at / 32) & 1;
        let code = two.cast_signed() - if third == 0 { 4 } else { 0 };
        *out = d * scale * f32::from(code);
    }
}

/// Scale and least of sub-block `sub` of Q4_K and Q5_K, in the twelve bytes at 4.
fn six_bits(own: &[u8], sub: usize) -> (u8, u8) {
    let packed = |at: usize| byte(own, 4 + at);
    if sub < 4 {
        return (packed(sub) & 63, packed(sub + 4) & 63);
    }
    let both = packed(sub + 4);
    (both & 15 | packed(sub - 4) >> 6 << 4, both >> 4 | packed(sub) >> 6 << 4)
}

/// Q4_K, or Q5_K with the fifth bits of all elements from byte `fifth` on.
fn q45_k(own: &[u8], codes: usize, fifth: Option<usize>, out: &mut [f32]) {
    let (d, d_min) = (half(own, 0), half(own, 2));
    for (sub, out) in out.chunks_mut(32).enumerate() {
        let (scale, least) = six_bits(own, sub);
        let (scale, least) = (d * f32::from(scale), d_min * f32::from(least));
        for (at, out) in out.iter_mut().enumerate() {
            let four = byte(own, codes + sub / 2 * 32 + at) >> (sub % 2 * 4) & 15;
            let high = fifth.map_or(0, |fifth| (byte(own, fifth + at) >> sub & 1) << 4);
            *out = scale * f32::from(four | high) - least;
        }
    }
}

fn q6_k(own: &[u8], out: &mut [f32]) {
    let d = half(own, 208);
    for (at, out) in out.iter_mut().enumerate() {
        let (part, within) = (at / 128, at % 128);
        let low = byte(own, part * 64 + within % 64) >> (within / 64 * 4) & 15;
        let high = byte(own, 128 + part * 32 + within % 32) >> (within / 32 * 2) & 3;
        let scale = f32::from(byte(own, 192 + at / 16).cast_signed());
        *out = d * scale * f32::from((low | high << 4).cast_signed() - 32);
    }
}

/// Points with signs: `signs` has a bit for each value.
fn put<const WIDTH: usize>(out: &mut [f32], scale: f32, point: &[i8; WIDTH], signs: u8) {
    for (at, (out, value)) in out.iter_mut().zip(point).enumerate() {
        let value = scale * f32::from(*value);
        *out = if signs >> at & 1 == 1 { -value } else { value };
    }
}

/// The signs of eight values out of seven bits: the last makes their number even.
fn even(seven: u32) -> u8 {
    let seven = (seven & 127) as u8;
    seven | ((seven.count_ones() & 1) as u8) << 7
}

fn iq2_xxs(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (group, out) in out.chunks_mut(32).enumerate() {
        let (points, signs) = (2 + group * 8, word_at(own, 6 + group * 8));
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.25;
        for (at, out) in out.chunks_mut(8).enumerate() {
            let point = &grids::IQ2_XXS[usize::from(byte(own, points + at))];
            put(out, scale, point, even(signs >> (7 * at)));
        }
    }
}

/// The scale of the 16 elements of which `at` is one, of nibbles from byte `from` on.
fn quarter(own: &[u8], d: f32, from: usize, sub: usize) -> f32 {
    d * (0.5 + f32::from(byte(own, from + sub / 2) >> (sub % 2 * 4) & 15)) * 0.25
}

fn iq2_xs(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (at, out) in out.chunks_mut(8).enumerate() {
        let code = u32::from(short(own, 2 + 2 * at));
        let scale = quarter(own, d, 66, at / 2);
        put(out, scale, &grids::IQ2_XS[(code & 511) as usize], even(code >> 9));
    }
}

fn iq2_s(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (at, out) in out.chunks_mut(8).enumerate() {
        let high = usize::from(byte(own, 66 + at / 4) >> (at % 4 * 2) & 3);
        let point = &grids::IQ2_S[usize::from(byte(own, 2 + at)) | high << 8];
        put(out, quarter(own, d, 74, at / 2), point, byte(own, 34 + at));
    }
}

fn iq3_xxs(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (group, out) in out.chunks_mut(32).enumerate() {
        let signs = word_at(own, 66 + group * 4);
        let scale = d * (0.5 + (signs >> 28) as f32) * 0.5;
        for (at, out) in out.chunks_mut(4).enumerate() {
            let point = &grids::IQ3_XXS[usize::from(byte(own, 2 + group * 8 + at))];
            put(out, scale, point, even(signs >> (at / 2 * 7)) >> (at % 2 * 4));
        }
    }
}

fn iq3_s(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (at, out) in out.chunks_mut(4).enumerate() {
        let nibble = byte(own, 106 + at / 16) >> (at / 8 % 2 * 4) & 15;
        let scale = d * (1.0 + 2.0 * f32::from(nibble));
        let ninth = usize::from(byte(own, 66 + at / 8) >> (at % 8) & 1);
        let point = &grids::IQ3_S[usize::from(byte(own, 2 + at)) | ninth << 8];
        put(out, scale, point, byte(own, 74 + at / 2) >> (at % 2 * 4));
    }
}

fn iq1(out: &mut [f32], scale: f32, code: usize, negative: bool) {
    let delta = if negative { -DELTA } else { DELTA };
    for (out, value) in out.iter_mut().zip(grids::IQ1_S.get(code).unwrap_or(&[0; 8])) {
        *out = scale * (f32::from(*value) + delta);
    }
}

fn iq1_s(own: &[u8], out: &mut [f32]) {
    let d = half(own, 0);
    for (at, out) in out.chunks_mut(8).enumerate() {
        let high = short(own, 34 + at / 4 * 2);
        let scale = d * f32::from(2 * (high >> 12 & 7) + 1);
        let code = usize::from(byte(own, 2 + at)) | usize::from(high >> (at % 4 * 3) & 7) << 8;
        iq1(out, scale, code, high & 0x8000 != 0);
    }
}

fn iq1_m(own: &[u8], out: &mut [f32]) {
    // The scale of all lies in the high bits of four words.
    let scales = |at: usize| short(own, 48 + 2 * at);
    let bits = (0..4).fold(0, |bits, at| bits | scales(at) >> 12 << (4 * at));
    let d = half::f16::from_bits(bits).to_f32();
    for (at, out) in out.chunks_mut(8).enumerate() {
        let scale = d * f32::from(2 * (scales(at / 8) >> (at / 2 % 4 * 3) & 7) + 1);
        let high = byte(own, 32 + at / 2) >> (at % 2 * 4);
        let code = usize::from(byte(own, at)) | usize::from(high & 7) << 8;
        iq1(out, scale, code, high & 8 != 0);
    }
}

/// What the sub-blocks of a block of IQ4_XS scale its f16 by.
pub(crate) fn iq4_xs_scales(own: &[u8]) -> [i8; 8] {
    let high = short(own, 2);
    std::array::from_fn(|sub| {
        let low = byte(own, 4 + sub / 2) >> (sub % 2 * 4) & 15;
        let high = (high >> (2 * sub) & 3) as u8;
        (low | high << 4).cast_signed() - 32
    })
}

fn iq4_xs(own: &[u8], out: &mut [f32]) {
    let (d, scales) = (half(own, 0), iq4_xs_scales(own));
    for (sub, (out, scale)) in out.chunks_mut(32).zip(scales).enumerate() {
        let scale = d * f32::from(scale);
        nibbles(scale, None, own.get(8 + sub * 16..), out, |code| f32::from(IQ4[code]));
    }
}

fn tq1_0(own: &[u8], out: &mut [f32]) {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    let d = half(own, 52);
    for (at, out) in out.iter_mut().enumerate() {
        let (code, power) = match at {
            0..160 => (at % 32, at / 32),
            160..240 => (32 + (at - 160) % 16, (at - 160) / 16),
            _ => (48 + (at - 240) % 4, (at - 240) / 4),
        };
        let digit = byte(own, code).wrapping_mul(POWERS[power % 5]);
        *out = d * (f32::from(((u16::from(digit) * 3) >> 8) as u8) - 1.0);
    }
}

fn tq2_0(own: &[u8], out: &mut [f32]) {
    let d = half(own, 64);
    for (at, out) in out.iter_mut().enumerate() {
        let code = byte(own, at / 128 * 32 + at % 32) >> (at % 128 / 32 * 2) & 3;
        *out = d * (f32::from(code) - 1.0);
    }
}

fn nvfp4(own: &[u8], out: &mut [f32]) {
    for (sub, out) in out.chunks_mut(16).enumerate() {
        let code = byte(own, sub);
        // Without a sign, and halved as the codes are doubled.
        let scale = match code {
            0x7f => 0.0,
            0xff => 240.0,
            code => e4m3(code & 0x7f) * 0.5,
        };
        nibbles(scale, None, own.get(4 + sub * 8..), out, |code| f32::from(FP4[code]));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn every_type_is_what_llama_cpp_makes_of_it() {
        let cases: Vec<Value> =
            serde_json::from_str(include_str!("../../fixtures/gguf/blocks.json")).unwrap();
        let mut seen = Vec::new();
        for case in cases {
            let block = Block::named(case["type"].as_str().unwrap()).unwrap();
            assert_eq!(u64::from(block.number()), case["number"].as_u64().unwrap());
            assert_eq!(block.elements() as u64, case["elements"].as_u64().unwrap());
            let mut hash = Sha256::new();
            for text in case["blocks"].as_array().unwrap() {
                let digits = text.as_str().unwrap();
                let pairs = (0..digits.len()).step_by(2).map(|at| &digits[at..at + 2]);
                let own: Vec<u8> =
                    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
                assert_eq!(own.len(), block.bytes(), "{block:?}");
                let mut values = vec![0.0_f32; block.elements()];
                decode(block, &own, &mut values);
                values.iter().for_each(|value| hash.update(value.to_le_bytes()));
            }
            let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, case["values"].as_str().unwrap(), "{block:?}");
            seen.push(block);
        }
        assert_eq!(seen, Block::all().collect::<Vec<_>>());
    }

    #[test]
    fn blocks_that_are_cut_short_are_zeros_there() {
        for block in Block::all() {
            let own = vec![0xff; block.bytes()];
            for len in 0..own.len() {
                decode(block, &own[..len], &mut vec![0.0; block.elements()]);
            }
        }
    }
}
