//! Why nothing was produced.

use std::path::PathBuf;

use super::recipe::RecipeError;
use crate::format::dtype::{Dtype, Shape};
use crate::format::glob::GlobError;
use crate::format::json::JsonError;
use crate::load::ArtifactError;
use crate::pack::PackError;
use crate::quantize::calibrate::CalibrateError;
use crate::quantize::encode::EncodeError;
use crate::quantize::source::SourceError;
use crate::store::StoreError;

/// A model that was not quantized. The store has no new artifact.
#[expect(missing_docs, reason = "the messages say what the fields are")]
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProduceError {
    /// A calibrated method makes each layer from what came before it.
    #[error("a method that is calibrated has no shares: one worker makes all of its layers")]
    Share,
    /// Numbers of a recipe that do not go together.
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    /// What is kept of a recipe has no canonical form.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// A pattern for layers that are left out, which is none.
    #[error("{pattern:?} for layers that are left out: {why}")]
    Skip { pattern: String, why: GlobError },
    /// Patterns for layers that are left out, of which none matches.
    #[error("{patterns:?} for layers that are left out: no linear layer of {} is called so", model.display())]
    NoneSkipped { patterns: String, model: PathBuf },
    /// A number of a lossy method for deltas that makes no sense.
    #[error(
        "{what} {number}: give a number between 0 and 100, in units of the root mean square of a tensor's \
         differences"
    )]
    OutOfRange { what: &'static str, number: f32 },
    /// A calibrated method without a text.
    #[error("{0} is calibrated, and no text is given")]
    NoText(&'static str),
    /// A type of model whose weights are stored in a way that is not known here.
    #[error(
        "models of type {0} store their linear weights transposed (Conv1D), which is not undone for this format or family"
    )]
    Transposed(String),
    /// A layer of which nothing is known.
    #[error(
        "tensor {0}: no block of the model runs this layer, so that calibration says nothing of it"
    )]
    NotRun(String),
    /// The Python of another tool does not start.
    #[error("{tool}: {python}: {source}")]
    NoPython { tool: &'static str, python: String, source: std::io::Error },
    /// The configuration says that the weights are codes.
    #[error(
        "config.json says that this model is quantized already ({0}); quantize the model that it was made from"
    )]
    Quantized(String),
    /// The weights are GGUF's blocks.
    #[error(
        "tensor {0}: this model is quantized already (GGUF); quantize the model that it was made from"
    )]
    Blocks(String),
    /// There is nothing to quantize in a model of this type.
    #[error(
        "no linear layer of f32, f16 or bf16 in numbered blocks was found in this model of type {0}; its \
         architecture is not supported, or every layer is skipped"
    )]
    NoLayers(String),
    /// A weight whose rows GGUF permutes, and that are not those of heads.
    #[error("tensor {0}: its rows are not those of heads")]
    NoHeads(String),
    /// A type of model that is not written as GGUF.
    #[error(
        "GGUF is not written for models of type {0:?}: it is for the families that docs/quantize.md lists; take another format"
    )]
    GgufModel(String),
    /// Rotary positions that are not written as GGUF.
    #[error(
        "GGUF is written for rotary positions that are plain or scaled by linear, yarn or llama3, not by {0}; take another format"
    )]
    GgufPositions(String),
    /// Experts that llama.cpp would route otherwise.
    #[error(
        "llama.cpp routes the experts of {kind} in one way, which is not what {what} in config.json says; take another format"
    )]
    GgufExperts {
        /// The model's type.
        kind: String,
        /// What says otherwise.
        what: &'static str,
    },
    /// A model that llama.cpp would run otherwise.
    #[error(
        "llama.cpp runs models of type {kind} in one way, which is not what config.json says: {what}; take another format"
    )]
    GgufDiffers {
        /// The model's type.
        kind: String,
        /// What differs.
        what: &'static str,
    },
    /// A block that does not have all of its experts.
    #[error(
        "{0}: not every expert of config.json is there once, all of one shape; complete the model"
    )]
    GgufStack(String),
    /// A tensor that GGUF has no name for.
    #[error("tensor {0}: GGUF has no name for it")]
    GgufName(String),
    /// A value that GGUF's f16 cannot hold.
    #[error(
        "{0}: a value is no finite f16, which matrices that are not quantized are in GGUF; repair the model"
    )]
    GgufRange(String),
    /// A tensor that GGUF has no type for.
    #[error("tensor {name}: GGUF has no type {dtype}")]
    GgufType { name: String, dtype: Dtype },
    /// A base that lies in no store.
    #[error("the base is no artifact; pack it first")]
    NoBase,
    /// The base of another model.
    #[error(
        "{0} has no tensor of this model's names; name the base that it was tuned from, or pack it without \
         one"
    )]
    OtherBase(String),
    /// A tensor of the base has another shape or type.
    #[error(
        "tensor {name}: {} {:?} here and {} {:?} in the base; name the base that this was tuned from, or \
         pack it without one", own.0, own.1.dims(), base.0, base.1.dims()
    )]
    OtherShape { name: String, own: (Dtype, Shape), base: (Dtype, Shape) },
    /// A number that no difference can be formed with.
    #[error(
        "tensor {name}: element {element} is not finite in the {}; repair it, or take the lossless method",
        if *of_base { "base" } else { "fine-tune" }
    )]
    NotFinite { name: String, element: usize, of_base: bool },
    /// A tensor cannot be encoded.
    #[error("tensor {name}: {source}")]
    Layer { name: String, source: EncodeError },
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
    /// Another tool failed, as it says.
    #[error("{tool}: {why}")]
    Tool { tool: &'static str, why: String },
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
