//! Passes over all logits, written so that compilers make them wide. Each takes its sums in one order.

/// Numbers that are handled side by side.
const LANES: usize = 8;
/// Numbers that are added up in f32 before f64 takes them.
const RUN: usize = 1024;

/// Whether all are numbers.
pub(super) fn all_finite(numbers: &[f32]) -> bool {
    !numbers.iter().fold(false, |odd, number| odd | !number.is_finite())
}

/// The greatest; -inf of none.
pub(super) fn greatest(numbers: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let (groups, rest) = numbers.as_chunks::<LANES>();
    for group in groups {
        for (most, number) in lanes.iter_mut().zip(group) {
            *most = if number > most { *number } else { *most };
        }
    }
    lanes.iter().chain(rest).copied().fold(f32::NEG_INFINITY, f32::max)
}

/// The exponential of a number that is at most 0, to seven digits; 0 below -87.
pub(super) fn exp(number: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0;
    let bounded = number.max(-87.0);
    // Adding 1.5 * 2^23 and taking it away rounds to the nearest whole number.
    let rounded = bounded * std::f32::consts::LOG2_E + ROUND;
    let whole = rounded - ROUND;
    // The logarithm of 2 in two parts, the first of few bits, so that its product is exact.
    let part = bounded - whole * (355.0 / 512.0) + whole * 2.121_944_4e-4;
    // Taylor's series, within half a binary step of 0.
    let mut power = 1.0 / 5040.0;
    for factor in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        power = power * part + factor;
    }
    // The low bits of the rounded sum are the whole number; as an exponent they are the power of two.
    let scale = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    if number < -87.0 { 0.0 } else { power * scale }
}

/// The sum of the exponentials of numbers less `most`, their greatest.
pub(super) fn sum_exp(numbers: &[f32], most: f32) -> f64 {
    let mut sum = 0.0;
    for run in numbers.chunks(RUN) {
        let mut lanes = [0f32; LANES];
        let (groups, rest) = run.as_chunks::<LANES>();
        for group in groups {
            for (lane, number) in lanes.iter_mut().zip(group) {
                *lane += exp(number - most);
            }
        }
        for (lane, number) in lanes.iter_mut().zip(rest) {
            *lane += exp(number - most);
        }
        sum += lanes.iter().map(|lane| f64::from(*lane)).sum::<f64>();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right_to_six_digits() {
        for step in 0..=880_000 {
            let number = -(step as f32) / 10_000.0;
            let (own, right) = (f64::from(exp(number)), f64::from(number).exp());
            let bound = if number < -87.0 { 1e-37 } else { right * 2e-6 };
            assert!((own - right).abs() <= bound, "{number}: {own} for {right}");
        }
        assert_eq!(
            (exp(0.0), exp(-1e30), exp(f32::MIN), exp(f32::NEG_INFINITY)),
            (1.0, 0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn sums_and_bounds_are_of_all() {
        for count in [0, 1, 7, 8, 9, 1023, 1024, 1025, 5000] {
            let numbers: Vec<f32> =
                (0..count).map(|at| ((at * 37) % 101) as f32 / 7.0 - 9.0).collect();
            let most = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            assert_eq!(greatest(&numbers), most);
            let right: f64 = numbers.iter().map(|number| f64::from(number - most).exp()).sum();
            assert!((sum_exp(&numbers, most) - right).abs() <= right * 1e-5);
            assert!(all_finite(&numbers));
            for at in 0..count.min(20) {
                let mut odd = numbers.clone();
                odd[at] = f32::NAN;
                assert!(!all_finite(&odd));
            }
        }
    }
}
