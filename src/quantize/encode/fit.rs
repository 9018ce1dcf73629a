//! How llama.cpp's reference finds the scale of a few values: least squares over some tries of the step.
//!
//! Sums are added one after the other, as there, so that results are the same to the bit.

/// Below it, values count as zeros (`GROUP_MAX_EPS`).
pub(super) const LEAST: f32 = 1e-15;

/// To the nearest integer, ties to even.
pub(super) fn nearest(value: f32) -> i32 {
    value.round_ties_even() as i32
}

/// Which steps are tried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tries {
    /// The highest level.
    pub(super) most: u8,
    /// What is added to it first.
    pub(super) first: f32,
    /// How much more at each try.
    pub(super) by: f32,
    /// Tries after the first.
    pub(super) count: u32,
    /// Whether errors count as they are, not squared.
    pub(super) absolute: bool,
}

/// Levels from 0, their scale, and the negated value of level 0, which is not above 0 (`make_qkx2_quants`).
pub(super) fn above_least<const N: usize>(
    values: &[f32; N],
    weights: &[f32; N],
    tries: Tries,
) -> ([u8; N], f32, f32) {
    let top = f32::from(tries.most);
    let (mut low, mut high) = (values[0], values[0]);
    let (mut sum_w, mut sum_x) = (weights[0], weights[0] * values[0]);
    for (value, weight) in values.iter().zip(weights).skip(1) {
        low = low.min(*value);
        high = high.max(*value);
        sum_w += weight;
        sum_x += weight * value;
    }
    low = low.min(0.0);
    if high == low {
        return ([0; N], 0.0, -low);
    }
    let most = i32::from(tries.most);
    let levels = |inverse: f32, low: f32| {
        values.map(|value| nearest(inverse * (value - low)).clamp(0, most) as u8)
    };
    let error = |levels: &[u8; N], scale: f32, low: f32| {
        let each = values.iter().zip(weights).zip(levels);
        each.fold(0.0_f32, |sum, ((value, weight), level)| {
            let off = scale * f32::from(*level) + low - value;
            sum + weight * if tries.absolute { off.abs() } else { off * off }
        })
    };
    let first = top / (high - low);
    let mut best = (levels(first, low), 1.0 / first, low);
    let mut least = error(&best.0, best.1, best.2);
    for step in 0..=tries.count {
        let inverse = (tries.first + tries.by * step as f32 + top) / (high - best.2);
        let tried = levels(inverse, best.2);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0_f32, 0.0_f32, 0.0_f32);
        for ((value, weight), level) in values.iter().zip(weights).zip(&tried) {
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

/// The value of the largest magnitude; none where all count as zeros.
fn extreme(values: &[f32]) -> Option<f32> {
    let mut largest = 0.0_f32;
    for value in values {
        if value.abs() > largest.abs() {
            largest = *value;
        }
    }
    (largest.abs() >= LEAST).then_some(largest)
}

/// Levels around 0 plus `half`, and their scale, each value weighing its square (`make_qx_quants`).
pub(super) fn around_zero<const N: usize>(values: &[f32; N], half: i32) -> ([u8; N], f32) {
    let Some(extreme) = extreme(values) else { return ([0; N], 0.0) };
    let level = |value: f32, inverse: f32| nearest(inverse * value).clamp(-half, half - 1);
    let sums = |inverse: f32| {
        let (mut sum_xl, mut sum_l2) = (0.0_f32, 0.0_f32);
        for value in values {
            let (level, weight) = (level(*value, inverse) as f32, value * value);
            sum_xl += weight * value * level;
            sum_l2 += weight * level * level;
        }
        (sum_xl, sum_l2)
    };
    let put = |inverse: f32| values.map(|value| (level(value, inverse) + half) as u8);
    let inverse = -(half as f32) / extreme;
    let mut levels = put(inverse);
    let (sum_xl, sum_l2) = sums(inverse);
    let mut scale = if sum_l2 == 0.0 { 0.0 } else { sum_xl / sum_l2 };
    let mut best = scale * sum_xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(half as f32 + 0.1 * step as f32) / extreme;
        let (sum_xl, sum_l2) = sums(inverse);
        if sum_l2 > 0.0 && sum_xl * sum_xl > best * sum_l2 {
            levels = put(inverse);
            scale = sum_xl / sum_l2;
            best = scale * sum_xl;
        }
    }
    (levels, scale)
}

/// The scale of levels from -4 to 3, each of which is moved while that helps (`make_q3_quants`).
pub(super) fn eight_levels(values: &[f32; 16]) -> ([u8; 16], f32) {
    const HALF: i32 = 4;
    let Some(extreme) = extreme(values) else { return ([0; 16], 0.0) };
    let inverse = -(HALF as f32) / extreme;
    let mut levels = values.map(|value| nearest(inverse * value).clamp(-HALF, HALF - 1));
    let (mut sum_xl, mut sum_l2) = (0.0_f32, 0.0_f32);
    for (value, level) in values.iter().zip(&levels) {
        let (weight, level) = (value * value, *level as f32);
        sum_xl += weight * value * level;
        sum_l2 += weight * level * level;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (value, level) in values.iter().zip(&mut levels) {
            let (weight, own) = (value * value, *level as f32);
            let mut other_xl = sum_xl - weight * value * own;
            if other_xl <= 0.0 {
                continue;
            }
            let mut other_l2 = sum_l2 - weight * own * own;
            let moved = nearest(value * other_l2 / other_xl).clamp(-HALF, HALF - 1);
            if moved == *level {
                continue;
            }
            let new = moved as f32;
            other_xl += weight * value * new;
            other_l2 += weight * new * new;
            if other_l2 > 0.0 && other_xl * other_xl * sum_l2 > sum_xl * sum_xl * other_l2 {
                (*level, sum_xl, sum_l2, changed) = (moved, other_xl, other_l2, true);
            }
        }
        if !changed {
            break;
        }
    }
    let scale = if sum_l2 > 0.0 { sum_xl / sum_l2 } else { 0.0 };
    (levels.map(|level| (level + HALF) as u8), scale)
}
