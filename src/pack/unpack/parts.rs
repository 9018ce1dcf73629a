//! The parts of a file: what is loaded for each, and the digest of its bytes.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use crate::format::page::{Extent, FileEntry, TensorEntry};
use crate::schedule::plan::TensorRequest;
use crate::store::ArtifactGraph;

/// A part of a file: what is loaded for it, and what its bytes are.
pub(super) struct FilePart {
    pub(super) request: Arc<TensorRequest>,
    pub(super) len: u64,
    pub(super) digest: [u8; 32],
}

/// A file and its parts, in order, covering it exactly.
pub(super) struct FileParts<'a> {
    pub(super) entry: &'a FileEntry,
    pub(super) parts: Vec<FilePart>,
}

/// What is loaded for a file, whose chunks begin at `chunk`.
pub(super) fn file_parts(
    whole: &ArtifactGraph,
    file: &FileEntry,
    mut chunk: usize,
) -> Vec<FilePart> {
    let mut parts = Vec::new();
    let mut push = |entry: TensorEntry, own: Range<usize>| {
        let (len, digest) = (entry.byte_len(), *entry.digest.as_bytes());
        let mut seen = HashSet::new();
        let bases = own.clone().flat_map(|chunk| whole.bases_of(chunk));
        let bases: Vec<_> = bases.filter(|&base| seen.insert(base)).collect();
        let all = own.chain(bases).filter_map(|chunk| whole.chunks.get(chunk));
        let (records, places) = all.map(|chunk| (chunk.record, chunk.place)).unzip();
        let request = Arc::new(TensorRequest::new(entry, records, places, None));
        parts.push(FilePart { request, len, digest });
    };
    for extent in &file.extents {
        match *extent {
            Extent::Tensor { ordinal } => {
                if let Some((entry, first)) = whole.tensors.get(ordinal as usize) {
                    let count = usize::try_from(entry.grid.chunks()).unwrap_or(0);
                    push(entry.clone(), *first..first.saturating_add(count));
                }
            }
            Extent::Content { chunks, .. } => {
                for index in chunk..chunk + chunks as usize {
                    if let Some(found) = whole.chunks.get(index) {
                        push(TensorEntry::of_content(&file.path, &found.record), index..index + 1);
                    }
                }
                chunk += chunks as usize;
            }
        }
    }
    parts
}
