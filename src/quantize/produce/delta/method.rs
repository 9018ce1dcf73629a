//! What becomes of a fine-tune's weights, and its numbers.

use serde_json::{Value, json};

use crate::quantize::produce::ProduceError;

/// Elements that share a scale in `sparse_int8`.
pub(super) const BLOCK: usize = 64;

/// What becomes of a fine-tune's weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DeltaMethod {
    /// They stay as they are.
    Lossless,
    /// Differences of at most `threshold` times their root mean square become 0; the others 8-bit
    /// integers, whose scale is the largest of a block of 64 elements over 127.
    SparseInt8 {
        /// In units of the root mean square of the tensor's differences.
        threshold: f32,
    },
    /// Differences become multiples of `step` times their root mean square: what an entropy coder makes
    /// the most of.
    Uniform {
        /// In units of the root mean square of the tensor's differences.
        step: f32,
    },
}

impl DeltaMethod {
    /// Its name in manifests and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lossless => "lossless",
            Self::SparseInt8 { .. } => "sparse_int8",
            Self::Uniform { .. } => "uniform",
        }
    }

    /// The method of that name, with what it takes where nothing is said: what costs the fixture's
    /// fine-tune less than half a percent of perplexity.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Lossless, Self::SparseInt8 { threshold: 0.3 }, Self::Uniform { step: 0.6 }]
            .into_iter()
            .find(|method| method.name() == name)
    }

    /// Its numbers, as the manifest states them.
    pub fn parameters(self) -> Value {
        match self {
            Self::Lossless => json!({}),
            // Written as it was given: a float of 32 bits has no short decimal form of its own.
            Self::SparseInt8 { threshold } => {
                json!({"block": BLOCK, "threshold": threshold.to_string()})
            }
            Self::Uniform { step } => json!({"step": step.to_string()}),
        }
    }

    /// An error if its number makes no sense.
    ///
    /// # Errors
    /// If it makes none.
    pub fn check(self) -> Result<(), ProduceError> {
        let (what, number) = match self {
            Self::Lossless => return Ok(()),
            Self::SparseInt8 { threshold } => ("threshold", threshold),
            Self::Uniform { step } => ("step", step),
        };
        let known = number.is_finite() && (0.0..=100.0).contains(&number);
        match known && (number > 0.0 || what == "threshold") {
            true => Ok(()),
            false => Err(ProduceError::OutOfRange { what, number }),
        }
    }
}
