//! Quantiles of Student's distribution. Pure.

/// The value that a variable of Student's distribution with `degrees` degrees of freedom exceeds with
/// probability `tail`, which is below a half.
pub fn quantile(tail: f64, degrees: f64) -> f64 {
    if !(tail > 0.0 && tail < 0.5 && degrees >= 1.0) {
        return f64::INFINITY;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while upper_tail(high, degrees) > tail && high < 1e12 {
        high *= 2.0;
    }
    for _ in 0..100 {
        let middle = f64::midpoint(low, high);
        if upper_tail(middle, degrees) > tail {
            low = middle;
        } else {
            high = middle;
        }
    }
    high
}

/// The probability of a value above `t`, which is not negative.
fn upper_tail(t: f64, degrees: f64) -> f64 {
    let x = degrees / (degrees + t * t);
    0.5 * incomplete_beta(degrees / 2.0, 0.5, x)
}

/// The regularized incomplete beta function, by its continued fraction.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (-x).ln_1p()).exp();
    // The fraction converges fast on this side, and the function is symmetric.
    match x < (a + 1.0) / (a + b + 2.0) {
        true => front * fraction(a, b, x) / a,
        false => 1.0 - front * fraction(b, a, 1.0 - x) / b,
    }
}

/// Lentz's method.
fn fraction(a: f64, b: f64, x: f64) -> f64 {
    const TINY: f64 = 1e-300;
    let kept = |value: f64| if value.abs() < TINY { TINY } else { value };
    let (mut c, mut d) = (1.0, 1.0 / kept(1.0 - (a + b) * x / (a + 1.0)));
    let mut h = d;
    for step in 1..=300 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / kept(1.0 + even * d);
        c = kept(1.0 + even / c);
        h *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / kept(1.0 + odd * d);
        c = kept(1.0 + odd / c);
        h *= d * c;
        if (d * c - 1.0).abs() < 1e-15 {
            break;
        }
    }
    h
}

/// The logarithm of the gamma function of a positive number, by Lanczos' approximation.
fn ln_gamma(x: f64) -> f64 {
    const COEFFICIENTS: [f64; 6] = [
        76.180_091_729_471_46,
        -86.505_320_329_416_77,
        24.014_098_240_830_91,
        -1.231_739_572_450_155,
        0.120_865_097_386_617_9e-2,
        -0.539_523_938_495_3e-5,
    ];
    let base = x + 5.5;
    let mut sum = 1.000_000_000_190_015;
    for (coefficient, at) in COEFFICIENTS.iter().zip(1_u32..) {
        sum += coefficient / (x + f64::from(at));
    }
    (x + 0.5) * base.ln() - base + (2.506_628_274_631_000_5 * sum / x).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of printed tables.
    #[test]
    fn quantiles_are_those_of_tables() {
        for (tail, degrees, value) in [
            (0.025, 1.0, 12.7062),
            (0.025, 7.0, 2.3646),
            (0.005, 7.0, 3.4995),
            (0.0005, 7.0, 5.4079),
            (0.025, 30.0, 2.0423),
            (0.0005, 60.0, 3.4602),
            (0.025, 1e6, 1.95997),
            (0.001, 1e6, 3.09025),
        ] {
            let found = quantile(tail, degrees);
            assert!((found / value - 1.0).abs() < 1e-4, "{tail} {degrees}: {found} for {value}");
        }
        assert_eq!(quantile(0.01, 0.0), f64::INFINITY);
        assert_eq!(quantile(0.0, 5.0), f64::INFINITY);
    }
}
