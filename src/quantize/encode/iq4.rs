//! The blocks whose codes index a table of 16 values, as llama.cpp quantizes them without weights: IQ4_NL and IQ4_XS.

use half::f16;

use super::fit::{LEAST, nearest};
use crate::dequant::blocks::IQ4;

/// Tries on either side of the first scale.
const TRIES: i32 = 7;

/// The code whose value is nearest.
fn code(value: f32) -> usize {
    let of = |at: usize| f32::from(IQ4[at]);
    if value <= of(0) {
        return 0;
    }
    if value >= of(15) {
        return 15;
    }
    let (mut low, mut high) = (0, 15);
    while high - low > 1 {
        let middle = usize::midpoint(low, high);
        if value < of(middle) { high = middle } else { low = middle }
    }
    if value - of(high - 1) < of(high) - value { high - 1 } else { high }
}

/// The scale of 32 values, each weighing its square.
fn scale(values: &[f32; 32]) -> f32 {
    let extreme =
        values.iter().fold(0.0_f32, |best, v| if v.abs() > best.abs() { *v } else { best });
    if extreme.abs() < LEAST {
        return 0.0;
    }
    let first = f32::from(IQ4[0]);
    let sums = |inverse: f32| {
        let (mut sum_qx, mut sum_q2) = (0.0_f32, 0.0_f32);
        for value in values {
            let (q, weight) = (f32::from(IQ4[code(inverse * value)]), value * value);
            sum_qx += weight * q * value;
            sum_q2 += weight * q * q;
        }
        (sum_qx, sum_q2)
    };
    let (sum_qx, sum_q2) = sums(1.0 / (-extreme / first));
    let mut scale = sum_qx / sum_q2;
    let mut best = scale * sum_qx;
    for step in -TRIES..=TRIES {
        let (sum_qx, sum_q2) = sums((step as f32 + first) / extreme);
        if sum_q2 > 0.0 && sum_qx * sum_qx > best * sum_q2 {
            scale = sum_qx / sum_q2;
            best = scale * sum_qx;
        }
    }
    scale
}

/// Codes of 32 values, two in a byte: element `j` and `j + 16`.
fn put(values: &[f32; 32], scale: f32, out: &mut [u8]) {
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let codes = values.map(|value| code(inverse * value) as u8);
    let (low, high) = codes.split_at(16);
    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
        *out = low | high << 4;
    }
}

pub(super) fn iq4_nl(values: &[f32], out: &mut [u8]) {
    let Some(values) = values.first_chunk::<32>() else { return };
    let (half, codes) = out.split_at_mut(2);
    let scale = scale(values);
    half.copy_from_slice(&f16::from_f32(scale).to_le_bytes());
    put(values, scale, codes);
}

pub(super) fn iq4_xs(values: &[f32], out: &mut [u8]) {
    let (head, codes) = out.split_at_mut(8);
    let mut scales = [0.0_f32; 8];
    let subs = values.as_chunks::<32>().0;
    subs.iter().zip(&mut scales).for_each(|(values, own)| *own = scale(values));
    let extreme =
        scales.iter().fold(0.0_f32, |best, v| if v.abs() > best.abs() { *v } else { best });
    let d = -extreme / 32.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    head[..2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
    let (mut high, mut low) = (0_u16, [0_u8; 4]);
    let parts = subs.iter().zip(codes.as_chunks_mut::<16>().0);
    for (at, ((values, out), own)) in parts.zip(&scales).enumerate() {
        let level = nearest(inverse * own).clamp(-32, 31);
        put(values, d * level as f32, out);
        let code = (level + 32) as u8;
        low[at / 2] |= (code & 15) << (at % 2 * 4);
        high |= u16::from(code >> 4) << (2 * at);
    }
    head[2..4].copy_from_slice(&high.to_le_bytes());
    head[4..].copy_from_slice(&low);
}
