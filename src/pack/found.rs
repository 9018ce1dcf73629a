//! What an artifact of the store has, unit by unit.

use std::collections::HashMap;

use super::cut::Cut;
use crate::format::dtype::Dtype;
use crate::format::id::{ContentDigest, DecodedDigest};
use crate::format::page::Extent;
use crate::store::{ArtifactGraph, Placed};

/// A unit that the store may already hold.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) cut: Cut,
    pub(super) chunks: Vec<Placed>,
    /// What these are stored against, by content.
    pub(super) bases: HashMap<DecodedDigest, Placed>,
    /// Whether it is of the artifact that is packed against.
    pub(super) of_base: bool,
    /// Whether a trusted key signed the manifest that names these chunks.
    pub(super) trusted: bool,
}

impl Found {
    /// About what it would cost to write it again: a difference, without its base, what it decodes to.
    pub(super) fn rewritten(&self) -> u64 {
        let each = |chunk: &Placed| match chunk.record.base {
            None => u64::from(chunk.record.stored_len),
            Some(_) => u64::from(chunk.record.decoded_len),
        };
        self.chunks.iter().map(each).sum()
    }
}

/// The units of one artifact, by content.
pub(super) struct Units {
    by_digest: HashMap<(ContentDigest, u8), Found>,
}

impl Units {
    pub(super) fn of(whole: &ArtifactGraph, trusted: bool) -> Self {
        let found = |cut, first: usize, count: usize| {
            let chunks = whole.chunks.get(first..)?.get(..count)?.to_vec();
            let bases = (first..first + count).flat_map(|chunk| whole.bases_of(chunk));
            let bases = bases.filter_map(|base| whole.chunks.get(base));
            let bases = bases.map(|base| (base.record.decoded, *base)).collect();
            Some(Found { cut, chunks, bases, of_base: false, trusted })
        };
        let mut by_digest = HashMap::new();
        for (tensor, first) in &whole.tensors {
            let count = tensor.grid.chunks() as usize;
            let found = found(Cut::Grid(tensor.grid), *first, count);
            by_digest.extend(found.map(|f| ((tensor.digest, tensor.dtype.code()), f)));
        }
        for (file, first) in &whole.files {
            let mut at = *first;
            for extent in &file.extents {
                let Extent::Content { digest, chunks: count, .. } = extent else { continue };
                let count = *count as usize;
                let own = whole.chunks.iter().skip(at).take(count);
                let lengths = own.map(|chunk| chunk.record.decoded_len).collect();
                let found = found(Cut::Lengths(lengths), at, count);
                at += count;
                by_digest.extend(found.map(|f| ((*digest, Dtype::Bytes.code()), f)));
            }
        }
        Self { by_digest }
    }

    pub(super) fn get(&self, key: (ContentDigest, u8)) -> Option<&Found> {
        self.by_digest.get(&key)
    }
}
