//! Which tokens a model is calibrated with.

use super::error::{CalibrateError, LEAST};
use crate::format::id::ContentDigest;
use crate::quantize::lm::{LmConfig, Text};

/// A text that serves where none is given: the last chapters of Jane Austen's Northanger Abbey, in the
/// public domain.
pub const BUILT_IN: &str = include_str!("../../../fixtures/lm/calibration.txt");

/// Runs of tokens drawn from a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CalibrationSamples(Vec<Vec<u32>>);

impl CalibrationSamples {
    /// Draws `samples` runs of `length` tokens from a text, beginning wherever `seed` says; from a text
    /// shorter than that, or where the model reads less, shorter ones.
    ///
    /// # Errors
    /// If the text gives too few tokens, or cannot be encoded.
    pub fn new(
        text: &str,
        tokenizer: &Text,
        config: &LmConfig,
        (samples, length): (usize, usize),
        seed: u64,
    ) -> Result<Self, CalibrateError> {
        let tokens = tokenizer.encode(text)?;
        Self::of_tokens(&tokens, samples, length.min(config.positions), seed)
    }

    /// The same from tokens.
    ///
    /// # Errors
    /// If there are too few tokens.
    pub fn of_tokens(
        tokens: &[u32],
        samples: usize,
        length: usize,
        seed: u64,
    ) -> Result<Self, CalibrateError> {
        if tokens.len() < LEAST {
            return Err(CalibrateError::Short(tokens.len()));
        }
        let length = length.clamp(1, tokens.len());
        let starts = tokens.len() - length + 1;
        let mut random = seed;
        let draw = |_| {
            let start = (next(&mut random) % starts as u64) as usize;
            tokens.get(start..start + length).unwrap_or_default().to_vec()
        };
        Ok(Self((0..samples.max(1)).map(draw).collect()))
    }

    /// Runs that were drawn elsewhere; empty ones are left out.
    pub fn of_runs(runs: Vec<Vec<u32>>) -> Self {
        Self(runs.into_iter().filter(|run| !run.is_empty()).collect())
    }

    /// What tells them from others.
    pub fn digest(&self) -> ContentDigest {
        let mut digest = blake3::Hasher::new();
        for run in &self.0 {
            digest.update(&(run.len() as u64).to_le_bytes());
            run.iter().for_each(|token| _ = digest.update(&token.to_le_bytes()));
        }
        ContentDigest::from_hash(digest.finalize())
    }

    /// The runs.
    pub fn runs(&self) -> &[Vec<u32>] {
        &self.0
    }
}

/// The next number of SplitMix64 (Steele, Lea and Flood 2014).
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *random;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_depend_on_the_seed_alone() {
        let tokens: Vec<u32> = (0..500).collect();
        let draws = |seed| CalibrationSamples::of_tokens(&tokens, 8, 100, seed).unwrap();
        assert_eq!(draws(1), draws(1));
        assert_ne!(draws(1), draws(2));
        for run in draws(3).runs() {
            assert_eq!(run.len(), 100);
            assert!(run.windows(2).all(|pair| pair[1] == pair[0] + 1));
        }
        let short = CalibrationSamples::of_tokens(&tokens[..70], 2, 100, 1).unwrap();
        assert_eq!(short.runs(), [&tokens[..70], &tokens[..70]]);
        let error = CalibrationSamples::of_tokens(&tokens[..9], 2, 100, 1).unwrap_err();
        assert!(error.to_string().contains("has 9 tokens; 64 at least"), "{error}");
    }
}
