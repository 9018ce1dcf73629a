//! What a model is made of that lies nowhere as it is read.

use std::fmt::Debug;
use std::ops::Range;

use bytes::Bytes;

use super::error::SourceError;
use crate::pack::model::ModelError;
use crate::store::artifact::Artifact;

/// Makes files and tensors of a model when they are read.
pub(super) trait Behind: Debug + Send + Sync {
    /// The bytes of a part of a file that is no tensor's; `None` if there are none.
    fn bytes(&self, file: usize, range: Range<u64>) -> Option<Result<Bytes, SourceError>>;

    /// The bytes of a tensor, by its number.
    fn tensor(&self, number: usize) -> Result<Bytes, SourceError>;

    /// The artifact that it is made of, if it is one.
    fn artifact(&self) -> Option<&Artifact>;

    /// An error if a file that it is made of has changed.
    fn check_unchanged(&self) -> Result<(), ModelError>;

    /// How that is quantized, in words; `None` if it is not.
    fn was(&self) -> Option<&str>;

    /// Whether stacked and transposed weights are tensors of their own.
    fn is_apart(&self) -> bool;

    /// Whether a tensor has outputs by inputs, though the model may store its like by columns.
    fn is_linear(&self, number: usize) -> bool;

    /// Streams a tensor that is byte for byte one of a model's that it is made of; `None` if it is none.
    fn stream(
        &self,
        number: usize,
        take: &mut dyn FnMut(u64, &[u8]),
    ) -> Option<Result<(), SourceError>>;
}
