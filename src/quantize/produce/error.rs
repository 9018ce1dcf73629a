//! Why nothing was produced.

use crate::load::ArtifactError;
use crate::pack::PackError;
use crate::quantize::calibrate::CalibrateError;
use crate::quantize::encode::EncodeError;
use crate::quantize::source::SourceError;
use crate::store::StoreError;

/// A model that was not quantized. The store has no new artifact.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// These numbers do not go together.
    #[error("{0}")]
    Recipe(String),
    /// A pattern for layers that are left out, which is none or matches none.
    #[error("{pattern:?} for layers that are left out: {why}")]
    Skip {
        /// The pattern.
        pattern: String,
        /// What is wrong with it.
        why: String,
    },
    /// A number of a lossy method for deltas that makes no sense.
    #[error(
        "{what} {number}: give a number between 0 and 100, in units of the root mean square of a tensor's \
         differences"
    )]
    OutOfRange {
        /// What the method calls it.
        what: &'static str,
        /// The number.
        number: f32,
    },
    /// A calibrated method without a text.
    #[error("{0} is calibrated, and no text is given")]
    NoText(&'static str),
    /// A type of model whose weights are stored in a way that is not known here.
    #[error(
        "models of type {0} store their linear weights transposed (Conv1D), which no engine loads quantized"
    )]
    Transposed(String),
    /// A layer of which nothing is known.
    #[error(
        "tensor {0}: no block of the model runs this layer, so that nothing is known of how many bits it needs"
    )]
    NotRun(String),
    /// The Python of another tool does not start.
    #[error("{tool}: {python}: {source}")]
    NoPython {
        /// The tool.
        tool: &'static str,
        /// The Python.
        python: String,
        /// Why it does not.
        source: std::io::Error,
    },
    /// The model is not one that this can be done to.
    #[error("{0}")]
    Unsupported(String),
    /// A tensor cannot be encoded.
    #[error("tensor {name}: {source}")]
    Layer {
        /// The weight's name.
        name: String,
        /// Why.
        source: EncodeError,
    },
    /// The configuration lacks a number.
    #[error("config.json has no number {0}, which GGUF asks for")]
    Number(&'static str),
    /// The model cannot be read, or is not whole.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result was not packed.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Another tool failed.
    #[error("{tool}: {why}")]
    Tool {
        /// Which.
        tool: &'static str,
        /// What it said.
        why: String,
    },
    /// The model cannot be calibrated.
    #[error(transparent)]
    Calibrate(Box<CalibrateError>),
    /// A tensor was made in another shape than announced.
    #[error("tensor {0}: not what was announced; this is a defect of tenpak, please report it")]
    Defect(String),
}

impl From<ArtifactError> for ProduceError {
    fn from(error: ArtifactError) -> Self {
        Self::Source(error.into())
    }
}

impl From<CalibrateError> for ProduceError {
    fn from(error: CalibrateError) -> Self {
        Self::Calibrate(Box::new(error))
    }
}

impl ProduceError {
    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Source(error) => error.may_pass(),
            Self::Store(error) => error.may_pass(),
            _ => false,
        }
    }

    pub(super) fn layer(name: &str) -> impl FnOnce(EncodeError) -> Self {
        let name = name.to_owned();
        move |source| Self::Layer { name, source }
    }
}

/// What making a part failed of, kept while the packer hands on only that it did.
#[derive(Debug, Default)]
pub(super) struct Failed(Option<ProduceError>);

impl Failed {
    /// Keeps an error and says [`PackError::NotGenerated`] in its place.
    pub(super) fn keep<T>(&mut self, made: Result<T, ProduceError>) -> Result<T, PackError> {
        made.map_err(|error| {
            self.0 = Some(error);
            PackError::NotGenerated
        })
    }

    /// Whether trying again may help.
    pub(super) fn may_pass(&self) -> bool {
        self.0.as_ref().is_some_and(ProduceError::may_pass)
    }

    /// The kept error.
    pub(super) fn take(&mut self) -> Option<ProduceError> {
        self.0.take()
    }
}
