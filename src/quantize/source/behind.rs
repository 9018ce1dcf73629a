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

    /// How that is quantized, in words.
    fn was(&self) -> &str;
}
