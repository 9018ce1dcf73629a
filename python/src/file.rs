//! A range of a file's bytes as what is to be loaded for it. Pure.

use std::ops::Range;
use std::sync::Arc;

use tenpak::TensorRequest;
use tenpak::format::dtype::Shape;
use tenpak::format::page::{Extent, FileEntry};
use tenpak::schedule::shard::ShardSlice;
use tenpak::store::artifact::ListedFile;

/// Whether some of its bytes are a tensor's.
pub(crate) fn has_tensors(file: &FileEntry) -> bool {
    file.extents.iter().any(|part| matches!(part, Extent::Tensor { .. }))
}

/// What the bytes `range` of a file are loaded by, in their order; `None` if the file names what is not
/// there.
pub(crate) fn requests(
    file: &ListedFile,
    tensors: &[Arc<TensorRequest>],
    range: Range<u64>,
) -> Option<Vec<Arc<TensorRequest>>> {
    let (mut at, mut content) = (0, file.content.iter());
    let mut wanted = Vec::new();
    for part in &file.entry.extents {
        let own: Vec<&Arc<TensorRequest>> = match part {
            Extent::Content { chunks, .. } => content.by_ref().take(*chunks as usize).collect(),
            Extent::Tensor { ordinal } => {
                let place = tensors.binary_search_by_key(ordinal, |request| request.entry.ordinal);
                vec![tensors.get(place.ok()?)?]
            }
        };
        for request in own {
            let len = request.entry.byte_len();
            let from = range.start.max(at).min(at + len) - at;
            let to = range.end.max(at).min(at + len) - at;
            at += len;
            if from < to {
                let mut part = (**request).clone();
                part.cut = ShardSlice::part(from..to, len);
                part.shape = Shape::vector(to - from);
                wanted.push(Arc::new(part));
            }
        }
    }
    Some(wanted)
}
