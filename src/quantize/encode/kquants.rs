//! The blocks of 256 elements whose sub-blocks have scales of their own, as llama.cpp's reference quantizes them:
//! Q2_K, Q3_K, Q4_K, Q5_K and Q6_K.

use half::f16;

use super::fit::{LEAST, Tries, above_least, around_zero, eight_levels, nearest};

fn put_half(value: f32, out: &mut [u8]) {
    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// A value as it is read again.
fn stored(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

fn largest(of: &[f32]) -> f32 {
    of.iter().fold(0.0_f32, |largest, value| largest.max(*value))
}

/// The value of the largest magnitude.
fn extreme(of: &[f32]) -> f32 {
    of.iter().fold(0.0_f32, |best, value| if value.abs() > best.abs() { *value } else { best })
}

/// The low two bits of levels, four in a byte: those of 32 elements, then of the next 32.
fn pairs(levels: &[u8; 256], out: &mut [u8]) {
    for (levels, out) in levels.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (at, out) in out.iter_mut().enumerate() {
            *out = (0..4).fold(0, |byte, part| byte | (levels[at + 32 * part] & 3) << (2 * part));
        }
    }
}

pub(super) fn q2_k(values: &[f32], out: &mut [u8]) {
    const TRIES: Tries = Tries { most: 3, first: -0.5, by: 0.1, count: 15, absolute: true };
    let (mut scales, mut mins, mut levels) = ([0.0_f32; 16], [0.0_f32; 16], [0_u8; 256]);
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), (scale, min)) in subs.zip(scales.iter_mut().zip(&mut mins)) {
        (*levels, *scale, *min) = above_least(values, &values.map(f32::abs), TRIES);
    }
    let (top_scale, top_min) = (largest(&scales), largest(&mins));
    let share = |top: f32| if top > 0.0 { 15.0 / top } else { 0.0 };
    let four = |of: [f32; 16], top: f32| of.map(|value| nearest(share(top) * value) as u8);
    let (scale_codes, min_codes) = (four(scales, top_scale), four(mins, top_min));
    let (packed, rest) = out.split_at_mut(16);
    let (codes, halves) = rest.split_at_mut(64);
    for ((out, scale), min) in packed.iter_mut().zip(&scale_codes).zip(&min_codes) {
        *out = scale | min << 4;
    }
    let (d, d_min) = (top_scale / 15.0, top_min / 15.0);
    put_half(d, &mut halves[..2]);
    put_half(d_min, &mut halves[2..]);
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), packed) in subs.zip(packed.iter()) {
        let scale = stored(d) * f32::from(packed & 15);
        let min = stored(d_min) * f32::from(packed >> 4);
        if scale != 0.0 {
            *levels = values.map(|value| nearest((value + min) / scale).clamp(0, 3) as u8);
        }
    }
    pairs(&levels, codes);
}

pub(super) fn q3_k(values: &[f32], out: &mut [u8]) {
    let (mut scales, mut levels) = ([0.0_f32; 16], [0_u8; 256]);
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), scale) in subs.zip(&mut scales) {
        (*levels, *scale) = eight_levels(values);
    }
    let top = extreme(&scales);
    let (high, rest) = out.split_at_mut(32);
    let (codes, rest) = rest.split_at_mut(64);
    let (packed, half) = rest.split_at_mut(12);
    packed.fill(0);
    let inverse = if top == 0.0 { 0.0 } else { -32.0 / top };
    let d = if top == 0.0 { 0.0 } else { 1.0 / inverse };
    put_half(d, half);
    let mut six = [0_i32; 16];
    if top != 0.0 {
        for (at, (scale, code)) in scales.iter().zip(&mut six).enumerate() {
            *code = nearest(inverse * scale).clamp(-32, 31);
            let own = (*code + 32) as u8;
            packed[at % 8] |= (own & 15) << (at / 8 * 4);
            packed[8 + at % 4] |= own >> 4 << (at / 4 * 2);
        }
    } else {
        six = [-32; 16];
    }
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), code) in subs.zip(&six) {
        let scale = stored(d) * *code as f32;
        if scale != 0.0 {
            *levels = values.map(|value| (nearest(value / scale).clamp(-4, 3) + 4) as u8);
        }
    }
    high.fill(0);
    for (at, level) in levels.iter_mut().enumerate() {
        if *level > 3 {
            high[at % 32] |= 1 << (at / 32);
            *level -= 4;
        }
    }
    pairs(&levels, codes);
}

/// Scales and minima of eight sub-blocks in six bits each, and the levels that go with them.
fn of_eight(values: &[f32], head: &mut [u8], tries: Tries) -> [u8; 256] {
    let (mut scales, mut mins, mut levels) = ([0.0_f32; 8], [0.0_f32; 8], [0_u8; 256]);
    let subs = values.as_chunks::<32>().0.iter().zip(levels.as_chunks_mut::<32>().0);
    for ((values, levels), (scale, min)) in subs.zip(scales.iter_mut().zip(&mut mins)) {
        let square: f32 = values.iter().map(|value| value * value).sum();
        // Each value weighs its magnitude above the block's root mean square.
        let mean = (square / 32.0).sqrt();
        (*levels, *scale, *min) = above_least(values, &values.map(|v| mean + v.abs()), tries);
    }
    let (top_scale, top_min) = (largest(&scales), largest(&mins));
    let share = |top: f32| if top > 0.0 { 63.0 / top } else { 0.0 };
    let six = |of: [f32; 8], top: f32| of.map(|value| nearest(share(top) * value).min(63) as u8);
    let (scale_codes, min_codes) = (six(scales, top_scale), six(mins, top_min));
    let (halves, packed) = head.split_at_mut(4);
    let (d, d_min) = halves.split_at_mut(2);
    put_half(top_scale / 63.0, d);
    put_half(top_min / 63.0, d_min);
    packed.fill(0);
    for (at, (scale, min)) in scale_codes.iter().zip(&min_codes).enumerate() {
        if at < 4 {
            packed[at] = *scale;
            packed[at + 4] = *min;
        } else {
            packed[at + 4] = scale & 15 | min << 4;
            packed[at - 4] |= scale >> 4 << 6;
            packed[at] |= min >> 4 << 6;
        }
    }
    let (d, d_min) = (stored(top_scale / 63.0), stored(top_min / 63.0));
    let most = i32::from(tries.most);
    let parts = levels.as_chunks_mut::<32>().0.iter_mut().zip(values.as_chunks::<32>().0);
    for ((levels, values), (scale, min)) in parts.zip(scale_codes.iter().zip(&min_codes)) {
        let (scale, min) = (d * f32::from(*scale), d_min * f32::from(*min));
        // Else as the fit before rounding the scale left them.
        if scale != 0.0 {
            *levels = values.map(|value| nearest((value + min) / scale).clamp(0, most) as u8);
        }
    }
    levels
}

/// The low nibbles of levels: those of 32 elements in the low half of bytes, of the next 32 in the high.
fn nibbles(levels: &[u8; 256], out: &mut [u8]) {
    for (codes, levels) in out.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0) {
        let (low, high) = levels.split_at(32);
        for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
            *code = low & 15 | high << 4;
        }
    }
}

pub(super) fn q4_k(values: &[f32], out: &mut [u8]) {
    const TRIES: Tries = Tries { most: 15, first: -1.0, by: 0.1, count: 20, absolute: false };
    let (head, codes) = out.split_at_mut(16);
    nibbles(&of_eight(values, head, TRIES), codes);
}

pub(super) fn q5_k(values: &[f32], out: &mut [u8]) {
    const TRIES: Tries = Tries { most: 31, first: -0.5, by: 0.1, count: 15, absolute: false };
    let (head, rest) = out.split_at_mut(16);
    let (fifth, codes) = rest.split_at_mut(32);
    let levels = of_eight(values, head, TRIES);
    fifth.fill(0);
    for (at, level) in levels.iter().enumerate() {
        fifth[at % 32] |= (level >> 4) << (at / 32);
    }
    nibbles(&levels, codes);
}

pub(super) fn q6_k(values: &[f32], out: &mut [u8]) {
    let (mut scales, mut levels) = ([0.0_f32; 16], [0_u8; 256]);
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), scale) in subs.zip(&mut scales) {
        (*levels, *scale) = around_zero(values, 32);
    }
    let top = extreme(&scales);
    if top.abs() < LEAST {
        out.fill(0);
        return;
    }
    let inverse = -128.0 / top;
    let (low, rest) = out.split_at_mut(128);
    let (high, rest) = rest.split_at_mut(64);
    let (codes, half) = rest.split_at_mut(16);
    let d = 1.0 / inverse;
    put_half(d, half);
    let subs = values.as_chunks::<16>().0.iter().zip(levels.as_chunks_mut::<16>().0);
    for ((values, levels), (scale, code)) in subs.zip(scales.iter().zip(codes)) {
        let own = nearest(inverse * scale).min(127) as i8;
        *code = own.cast_unsigned();
        let scale = stored(d) * f32::from(own);
        if scale != 0.0 {
            *levels = values.map(|value| (nearest(value / scale).clamp(-32, 31) + 32) as u8);
        }
    }
    let parts = low.as_chunks_mut::<64>().0.iter_mut().zip(high.as_chunks_mut::<32>().0);
    for ((low, high), levels) in parts.zip(levels.as_chunks::<128>().0) {
        for at in 0..32 {
            let [first, second, third, fourth] = [0, 32, 64, 96].map(|part| levels[at + part]);
            low[at] = first & 15 | third << 4;
            low[at + 32] = second & 15 | fourth << 4;
            high[at] = first >> 4 | second >> 4 << 2 | third >> 4 << 4 | fourth >> 4 << 6;
        }
    }
}
