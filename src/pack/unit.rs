//! The unit of packing: a tensor, or a run of content.

use super::base::Partner;
use super::cut::Cut;
use super::found::Key;
use super::model::Part;
use crate::format::dtype::Dtype;
use crate::format::id::ContentDigest;

/// Units below this size get no hint: whoever shares them shares larger neighbours too.
pub(super) const MIN_HINT: u64 = 256 << 10;

/// What is looked up and linked, or encoded, as one.
pub(super) struct Unit {
    pub(super) file: usize,
    pub(super) len: u64,
    /// Of a tensor that is looked up nowhere, once it is encoded.
    pub(super) digest: Option<ContentDigest>,
    pub(super) element: Dtype,
    pub(super) cut: Cut,
    pub(super) tensor: Option<Part>,
    /// Its counterpart in the base artifact.
    pub(super) partner: Option<Partner>,
}

impl Unit {
    /// What it is looked up by, if it has bytes and they were hashed.
    pub(super) fn key(&self) -> Option<Key> {
        Some((self.digest.filter(|_| self.len > 0)?, self.element.code()))
    }
}
