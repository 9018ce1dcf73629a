//! GGUF blocks as llama.cpp's reference quantizes them: Q4_0, Q8_0, Q4_K.

use half::f16;

use super::threads::each;
use super::{EncodeError, Matrix};
use crate::dequant::gguf::Block;

/// Blocks that one job encodes.
const JOB: usize = 256;

/// The blocks of a weight, row by row.
///
/// # Errors
/// If an element is not finite, or a row is no whole number of blocks.
pub fn blocks(weight: &Matrix<'_>, block: Block, threads: usize) -> Result<Vec<u8>, EncodeError> {
    let (elements, bytes) = (block.elements(), block.bytes());
    let columns = weight.columns();
    if !columns.is_multiple_of(elements) {
        return Err(EncodeError::Blocks { columns: columns as u64, block: elements as u64 });
    }
    weight.check_finite(threads)?;
    let mut out = vec![0; weight.elements() / elements * bytes];
    each(threads, out.chunks_mut(JOB * bytes).enumerate(), |(job, out)| {
        let mut values = vec![0.0; out.len() / bytes * elements];
        weight.read(job * JOB * elements, &mut values);
        for (values, out) in values.chunks(elements).zip(out.chunks_mut(bytes)) {
            match block {
                Block::Q4_0 => q4_0(values, out),
                Block::Q8_0 => q8_0(values, out),
                Block::Q4K => q4_k(values, out),
            }
        }
    });
    Ok(out)
}

fn put_half(value: f32, out: &mut [u8]) {
    out.copy_from_slice(&f16::from_f32(value).to_le_bytes());
}

/// What a scale is divided by; 0 where there is none.
fn reciprocal(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

fn q4_0(values: &[f32], out: &mut [u8]) {
    let mut largest = 0.0_f32;
    for value in values {
        if value.abs() > largest.abs() {
            largest = *value;
        }
    }
    let scale = largest / -8.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    let code = |value: &f32| (value * inverse + 8.5).min(15.0) as u8;
    let (low, high) = values.split_at(values.len() / 2);
    for ((out, low), high) in codes.iter_mut().zip(low).zip(high) {
        *out = code(low) | code(high) << 4;
    }
}

fn q8_0(values: &[f32], out: &mut [u8]) {
    let largest = values.iter().fold(0.0_f32, |largest, value| largest.max(value.abs()));
    let scale = largest / 127.0;
    let inverse = reciprocal(scale);
    let (half, codes) = out.split_at_mut(2);
    put_half(scale, half);
    for (out, value) in codes.iter_mut().zip(values) {
        *out = ((value * inverse).round() as i8).cast_unsigned();
    }
}

/// To the nearest integer, ties to even.
fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

fn q4_k(values: &[f32], out: &mut [u8]) {
    let (mut scales, mut mins) = ([0.0_f32; 8], [0.0_f32; 8]);
    for ((values, scale), min) in values.as_chunks::<32>().0.iter().zip(&mut scales).zip(&mut mins)
    {
        (*scale, *min) = sub_block(values);
    }
    let largest = |of: &[f32; 8]| of.iter().fold(0.0_f32, |largest, value| largest.max(*value));
    let (top_scale, top_min) = (largest(&scales), largest(&mins));
    let share = |top: f32| if top > 0.0 { 63.0 / top } else { 0.0 };
    let six = |of: [f32; 8], top: f32| of.map(|value| nearest(share(top) * value).min(63) as u8);
    let (scale_codes, min_codes) = (six(scales, top_scale), six(mins, top_min));
    let (head, codes) = out.split_at_mut(16);
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
    let stored = |value: f32| f16::from_f32(value / 63.0).to_f32();
    let (d, d_min) = (stored(top_scale), stored(top_min));
    let mut levels = [0_u8; 256];
    let parts = levels.as_chunks_mut::<32>().0.iter_mut().zip(values.as_chunks::<32>().0);
    for ((levels, values), (scale, min)) in parts.zip(scale_codes.iter().zip(&min_codes)) {
        let (scale, min) = (d * f32::from(*scale), d_min * f32::from(*min));
        if scale == 0.0 {
            // As the fit before rounding the scale left it.
            *levels = fit(values).0;
            continue;
        }
        for (level, value) in levels.iter_mut().zip(values) {
            *level = nearest((value + min) / scale).clamp(0, 15) as u8;
        }
    }
    for (codes, levels) in codes.as_chunks_mut::<32>().0.iter_mut().zip(levels.as_chunks::<64>().0)
    {
        let (low, high) = levels.split_at(32);
        for ((code, low), high) in codes.iter_mut().zip(low).zip(high) {
            *code = low | high << 4;
        }
    }
}

/// The scale and the (negated) minimum that fit 32 values best.
fn sub_block(values: &[f32; 32]) -> (f32, f32) {
    let (_, scale, min) = fit(values);
    (scale, min)
}

/// Levels, scale and negated minimum: weighted least squares over 21 tries of the step, each value
/// weighing its magnitude above the block's root mean square.
fn fit(values: &[f32; 32]) -> ([u8; 32], f32, f32) {
    let square: f32 = values.iter().map(|value| value * value).sum();
    let mean = (square / 32.0).sqrt();
    let weights = values.map(|value| mean + value.abs());
    let (mut low, mut high) = (values[0], values[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * values[0]);
    for (value, weight) in values.iter().zip(&weights).skip(1) {
        low = low.min(*value);
        high = high.max(*value);
        sum_w += weight;
        sum_x += weight * value;
    }
    low = low.min(0.0);
    if high == low {
        return ([0; 32], 0.0, -low);
    }
    let levels = |inverse: f32, low: f32| {
        values.map(|value| nearest(inverse * (value - low)).clamp(0, 15) as u8)
    };
    let error = |levels: &[u8; 32], scale: f32, low: f32| {
        let each = values.iter().zip(&weights).zip(levels);
        each.fold(0.0_f32, |sum, ((value, weight), level)| {
            let off = scale * f32::from(*level) + low - value;
            sum + weight * (off * off)
        })
    };
    let first = 15.0 / (high - low);
    let mut best = (levels(first, low), 1.0 / first, low);
    let mut least = error(&best.0, best.1, best.2);
    for step in 0..=20 {
        let inverse = (-1.0 + 0.1 * step as f32 + 15.0) / (high - best.2);
        let tried = levels(inverse, best.2);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for ((value, weight), level) in values.iter().zip(&weights).zip(&tried) {
            let level = f32::from(*level);
            sum_l += weight * level;
            sum_l2 += weight * level * level;
            sum_xl += weight * level * value;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut least_value = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if least_value > 0.0 {
                least_value = 0.0;
                scale = sum_xl / sum_l2;
            }
            let off = error(&tried, scale, least_value);
            if off < least {
                least = off;
                best = (tried, scale, least_value);
            }
        }
    }
    (best.0, best.1, -best.2)
}
