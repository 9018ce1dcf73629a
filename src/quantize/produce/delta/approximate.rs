//! The weights that a lossy delta has. Pure, and the same bytes at any number of threads.

use rayon::prelude::*;

use super::method::{BLOCK, DeltaMethod};
use crate::dequant::Float;

/// Elements that a thread takes at a time; sums are formed run by run, in their order.
const RUN: usize = 1 << 16;

/// How far approximated weights are from the fine-tune's.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Deviation {
    /// Elements that differ from the base's after the method.
    pub changed: u64,
    /// All elements.
    pub elements: u64,
    /// The largest absolute error.
    pub max: f32,
    /// The sum of squared errors.
    pub squares: f64,
    /// The sum of the squared differences between fine-tune and base.
    pub of: f64,
}

impl Deviation {
    /// The error's norm over that of the differences.
    pub fn relative(&self) -> f64 {
        if self.of > 0.0 { (self.squares / self.of).sqrt() } else { 0.0 }
    }

    pub(super) fn add(&mut self, other: Self) {
        self.changed += other.changed;
        self.elements += other.elements;
        self.max = self.max.max(other.max);
        self.squares += other.squares;
        self.of += other.of;
    }
}

/// Weights near a fine-tune's.
#[derive(Debug, Clone, PartialEq)]
pub struct Approximated {
    /// Row-major, of the fine-tune's element type.
    pub bytes: Vec<u8>,
    /// How near they are.
    pub deviation: Deviation,
}

/// An element that no difference can be formed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotFinite {
    /// Its place in the tensor.
    pub element: usize,
    /// Whether it is the base's.
    pub of_base: bool,
}

/// The first element that is not finite.
pub(super) fn first_not_finite(float: Float, bytes: &[u8]) -> Option<usize> {
    let elements = (0..bytes.len() / float.size() as usize).into_par_iter();
    elements.position_first(|at| !float.read(bytes, at).is_finite())
}

/// The root mean square of the differences.
///
/// # Errors
/// The first element that is not finite.
pub(super) fn root_mean_square(float: Float, base: &[u8], tuned: &[u8]) -> Result<f64, NotFinite> {
    let size = float.size() as usize;
    let sums: Vec<Result<f64, NotFinite>> = base
        .par_chunks(RUN * size)
        .zip(tuned.par_chunks(RUN * size))
        .enumerate()
        .map(|(run, (base, tuned))| {
            let mut sum = 0.0;
            for at in 0..tuned.len() / size {
                let (b, t) = (float.read(base, at), float.read(tuned, at));
                if !b.is_finite() || !t.is_finite() {
                    return Err(NotFinite { element: run * RUN + at, of_base: !b.is_finite() });
                }
                sum += f64::from(t - b) * f64::from(t - b);
            }
            Ok(sum)
        })
        .collect();
    let mut sum = 0.0;
    for own in sums {
        sum += own?;
    }
    Ok((sum / (tuned.len() / size).max(1) as f64).sqrt())
}

/// What `method` makes of a tensor whose counterpart in the base is `base`, of the same length. An
/// element that it does not change has the base's bits.
///
/// # Errors
/// The first element that is not finite, unless the method is lossless.
pub fn approximate(
    method: DeltaMethod,
    float: Float,
    base: &[u8],
    tuned: &[u8],
) -> Result<Approximated, NotFinite> {
    let scale = match method {
        DeltaMethod::Lossless => 0.0,
        _ => root_mean_square(float, base, tuned)?,
    };
    Ok(scaled(method, float, scale, base, tuned))
}

/// The same, where the root mean square is known.
pub(super) fn scaled(
    method: DeltaMethod,
    float: Float,
    scale: f64,
    base: &[u8],
    tuned: &[u8],
) -> Approximated {
    let size = float.size() as usize;
    let runs: Vec<(Vec<u8>, Deviation)> = base
        .par_chunks(RUN * size)
        .zip(tuned.par_chunks(RUN * size))
        .map(|(base, tuned)| run(method, float, scale as f32, base, tuned))
        .collect();
    let (mut bytes, mut deviation) = (Vec::with_capacity(tuned.len()), Deviation::default());
    for (own, of) in runs {
        bytes.extend_from_slice(&own);
        deviation.add(of);
    }
    Approximated { bytes, deviation }
}

fn run(
    method: DeltaMethod,
    float: Float,
    scale: f32,
    base: &[u8],
    tuned: &[u8],
) -> (Vec<u8>, Deviation) {
    let size = float.size() as usize;
    let elements = tuned.len() / size;
    let mut out = Vec::with_capacity(tuned.len());
    let mut deviation = Deviation { elements: elements as u64, ..Deviation::default() };
    for block in (0..elements).step_by(BLOCK) {
        let block = block..(block + BLOCK).min(elements);
        let difference = |at: usize| float.read(tuned, at) - float.read(base, at);
        let step = match method {
            DeltaMethod::SparseInt8 { threshold } => {
                let kept = block.clone().map(|at| difference(at).abs());
                kept.filter(|d| *d > threshold * scale).fold(0.0, f32::max) / 127.0
            }
            DeltaMethod::Uniform { step } => step * scale,
            DeltaMethod::Lossless => 0.0,
        };
        for at in block {
            let (b, t, d) = (float.read(base, at), float.read(tuned, at), difference(at));
            let dropped = matches!(method, DeltaMethod::SparseInt8 { threshold } if d.abs() <= threshold * scale);
            let code = if step > 0.0 { (d / step).round_ties_even() } else { d };
            let from = at * size..(at + 1) * size;
            let start = out.len();
            if matches!(method, DeltaMethod::Lossless) || scale == 0.0 {
                out.extend_from_slice(&tuned[from]);
            } else if dropped || code == 0.0 {
                out.extend_from_slice(&base[from]);
            } else {
                float.push(code.mul_add(step, b), &mut out);
                // Near the end of the type's range, rounding may leave it.
                if !float.read(&out[start..], 0).is_finite() {
                    out.truncate(start);
                    out.extend_from_slice(&tuned[from]);
                }
            }
            deviation.changed += u64::from(out[start..] != base[at * size..(at + 1) * size]);
            if d.is_finite() {
                let error = float.read(&out[start..], 0) - t;
                deviation.max = deviation.max.max(error.abs());
                deviation.squares += f64::from(error) * f64::from(error);
                deviation.of += f64::from(d) * f64::from(d);
            }
        }
    }
    (out, deviation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(float: Float, values: &[f32]) -> Vec<u8> {
        let mut out = Vec::new();
        values.iter().for_each(|value| float.push(*value, &mut out));
        out
    }

    /// As the words of the documentation say it, one element at a time, in f64.
    fn slow(method: DeltaMethod, float: Float, base: &[u8], tuned: &[u8]) -> Vec<f64> {
        let count = tuned.len() / float.size() as usize;
        let d = |at: usize| f64::from(float.read(tuned, at) - float.read(base, at));
        let rms = ((0..count).map(|at| d(at) * d(at)).sum::<f64>() / count as f64).sqrt();
        (0..count)
            .map(|at| {
                let b = f64::from(float.read(base, at));
                match method {
                    DeltaMethod::Lossless => f64::from(float.read(tuned, at)),
                    // Nothing differs.
                    _ if rms == 0.0 => b,
                    DeltaMethod::Uniform { step } => {
                        let step = f64::from(step) * rms;
                        b + (d(at) / step).round_ties_even() * step
                    }
                    DeltaMethod::SparseInt8 { threshold } => {
                        let least = f64::from(threshold) * rms;
                        let block = at / 64 * 64..(at / 64 * 64 + 64).min(count);
                        let most = block.map(|at| d(at).abs()).filter(|d| *d > least);
                        let scale = most.fold(0.0, f64::max) / 127.0;
                        let kept = d(at).abs() > least;
                        if kept { b + (d(at) / scale).round_ties_even() * scale } else { b }
                    }
                }
            })
            .collect()
    }

    proptest! {
        #[test]
        fn weights_are_what_the_words_say(
            base in prop::collection::vec(-1.0f32..1.0, 1..300),
            noise in prop::collection::vec(-0.1f32..0.1, 300),
            number in 0.05f32..3.0,
        ) {
            let tuned: Vec<f32> = base.iter().zip(&noise).map(|(b, n)| b + n).collect();
            for float in Float::ALL {
                let (base, tuned) = (bytes(float, &base), bytes(float, &tuned));
                for method in [
                    DeltaMethod::Lossless,
                    DeltaMethod::SparseInt8 { threshold: number },
                    DeltaMethod::Uniform { step: number },
                ] {
                    let made = approximate(method, float, &base, &tuned).unwrap();
                    prop_assert_eq!(made.bytes.len(), tuned.len());
                    let spacing = match float { Float::F32 => 1e-6, Float::F16 => 1e-3, Float::BF16 => 8e-3 };
                    let rms = root_mean_square(float, &base, &tuned).unwrap();
                    for (at, want) in slow(method, float, &base, &tuned).into_iter().enumerate() {
                        let is = f64::from(float.read(&made.bytes, at));
                        // Where f32 rounds to another multiple, or over the threshold, than f64.
                        let near = (is - want).abs() <= spacing * want.abs().max(0.2);
                        let d = f64::from(float.read(&tuned, at) - float.read(&base, at)).abs();
                        let tie = match method {
                            DeltaMethod::Lossless => false,
                            DeltaMethod::SparseInt8 { threshold } => {
                                (d - f64::from(threshold) * rms).abs() < 1e-4
                                    || (is - want).abs() < 0.2 * 1.01 / 127.0 + spacing
                            }
                            DeltaMethod::Uniform { step } => {
                                let ratio = d / (f64::from(step) * rms);
                                (ratio.fract() - 0.5).abs() < 1e-3
                            }
                        };
                        prop_assert!(near || tie, "{method:?} {float:?} {at}: {is} for {want}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_made_of_what_is_not_finite_and_nothing_becomes_so() {
        let float = Float::F16;
        let method = DeltaMethod::Uniform { step: 1.0 };
        let base = bytes(float, &[1.0, 65504.0, -0.0, 2.0]);
        let tuned = bytes(float, &[f32::NAN, 65504.0, 0.0, 2.5]);
        let error = approximate(method, float, &base, &tuned).unwrap_err();
        assert_eq!(error, NotFinite { element: 0, of_base: false });
        let error = approximate(method, float, &tuned, &base).unwrap_err();
        assert_eq!(error, NotFinite { element: 0, of_base: true });
        let tuned = bytes(float, &[30000.0, 65504.0, 0.0, 60000.0]);
        let near = bytes(float, &[1.0, 60000.0, -0.0, 2.0]);
        let made = approximate(DeltaMethod::Uniform { step: 0.9 }, float, &near, &tuned).unwrap();
        assert!((0..4).all(|at| float.read(&made.bytes, at).is_finite()));
        // What does not change has the base's bits.
        assert_eq!(made.bytes[4..6], near[4..6]);
        let same = approximate(method, float, &base, &base).unwrap();
        assert_eq!((same.bytes, same.deviation.changed), (base.clone(), 0));
        assert_eq!(approximate(method, float, &[], &[]).unwrap().bytes, [0u8; 0]);
    }

    #[test]
    fn threads_do_not_change_a_bit() {
        let float = Float::BF16;
        let value = |seed: usize| ((seed * 2_654_435_761) % 1_000_003) as f32 / 1e6 - 0.5;
        let base = bytes(float, &(0..300_000).map(value).collect::<Vec<_>>());
        let tuned =
            bytes(float, &(0..300_000).map(|i| value(i) + value(i + 7) / 9.0).collect::<Vec<_>>());
        let made = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| approximate(DeltaMethod::Uniform { step: 0.7 }, float, &base, &tuned))
        };
        assert_eq!(made(1), made(5));
    }
}
