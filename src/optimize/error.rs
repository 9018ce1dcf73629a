//! Why nothing was optimized.

use super::constraints::ConstraintError;
use super::hardware::UnknownHardware;
use super::prices::PriceError;
use super::workload::WorkloadError;
use crate::format::json::JsonError;
use crate::maintain::MaintainError;
use crate::pack::PackError;
use crate::quantize::lm::LmError;
use crate::quantize::produce::ProduceError;
use crate::quantize::source::SourceError;
use crate::store::StoreError;

/// Why there is no answer. Candidates that were produced stay in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OptimizeError {
    /// A candidate that is not known, and those that are.
    #[error("{0:?}: no such candidate; there are {1}")]
    Candidate(String, String),
    /// A limit that makes no sense.
    #[error(transparent)]
    Constraint(#[from] ConstraintError),
    /// A workload that makes no sense.
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    /// Requests that the model cannot take.
    #[error(
        "requests of {tokens} tokens, and the model takes {most}: give fewer with --input-tokens and \
         --output-tokens, or other --requests"
    )]
    TooLong {
        /// The longest request.
        tokens: u64,
        /// What the model takes.
        most: u64,
    },
    /// Hardware that is not known.
    #[error(transparent)]
    Hardware(#[from] UnknownHardware),
    /// Prices that are none.
    #[error(transparent)]
    Price(#[from] PriceError),
    /// A limit of quality for a model that cannot be run.
    #[error("{limit}: the quality of this model cannot be measured: {why}; leave the limit out")]
    NoQuality {
        /// The flag.
        limit: &'static str,
        /// Why not.
        why: String,
    },
    /// A limit of divergence where servers tell what quality is.
    #[error(
        "--max-kl: servers tell of the likeliest tokens only (--quality-at), by which divergence is known from \
         below; take --max-ppl-delta"
    )]
    OnlyFromBelow,
    /// A Python without AIConfigurator.
    #[error("--latency-model aiconfigurator: {0}")]
    KernelData(String),
    /// A server that does not serve a candidate, or does not tell of it.
    #[error("{0}")]
    Served(String),
    /// The tag that candidates have.
    #[error("the tag {0} is kept for candidates: take one that does not begin with {1}")]
    Tag(String, &'static str),
    /// The model cannot be quantized at all, or the store fails.
    #[error(transparent)]
    Produce(Box<ProduceError>),
    /// The model cannot be run.
    #[error(transparent)]
    Lm(#[from] LmError),
    /// The model cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The model cannot be packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// A candidate that is calibrated, of a model that cannot be run.
    #[error("it is calibrated, and this model, or with this text, cannot be")]
    NotCalibrated,
    /// A size that is not known before the model was run.
    #[error("its size is known once the model was calibrated, which a dry run does not do")]
    Later,
    /// The model is in another store, and the candidate that it is itself has to be in this one.
    #[error("the model lies in another store: copy it here with `tenpak cp`")]
    Elsewhere,
    /// How results are packed cannot be said.
    #[error("{0}")]
    Packing(String),
    /// The winner cannot be published.
    #[error(transparent)]
    Maintain(#[from] MaintainError),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What is said of the winner has no canonical form.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// Something that cannot be, which is a defect of this program.
    #[error("a defect of this program: {0}")]
    Defect(String),
}

impl From<ProduceError> for OptimizeError {
    fn from(error: ProduceError) -> Self {
        Self::Produce(Box::new(error))
    }
}
