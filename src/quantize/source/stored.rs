//! What the bytes of an artifact's files are loaded by.

use std::ops::Range;
use std::sync::Arc;

use tokio::runtime::Handle;

use super::error::SourceError;
use super::listed::File;
use crate::format::dtype::Shape;
use crate::format::page::Extent;
use crate::load::LoadOptions;
use crate::pack::model::{Part, PartKind};
use crate::schedule::plan::TensorRequest;
use crate::schedule::shard::ShardSlice;
use crate::store::artifact::{Artifact, ListedFile, SelectedTensors};

/// A run of a file's bytes: where it begins, and what it is loaded by.
pub(super) type Run = (u64, Arc<TensorRequest>);

/// A file of an artifact, and what each run of its bytes is loaded by, with where that begins.
pub(super) fn parts<'t>(
    listed: ListedFile,
    tensors: &mut impl Iterator<Item = &'t Arc<TensorRequest>>,
) -> Result<(File, Vec<Run>), SourceError> {
    let ListedFile { entry, content } = listed;
    let wrong = || SourceError::Contradiction { path: entry.path.clone() };
    let (mut parts, mut requests, mut at): (Vec<Part>, Vec<_>, u64) = (Vec::new(), Vec::new(), 0);
    let mut content = content.into_iter();
    for extent in &entry.extents {
        let begin = at;
        let kind = match *extent {
            Extent::Content { chunks, .. } => {
                for request in content.by_ref().take(chunks as usize) {
                    let len = request.cut.len();
                    requests.push((at, request));
                    at += len;
                }
                PartKind::Content
            }
            Extent::Tensor { ordinal } => {
                let request = tensors.next().filter(|own| own.entry.ordinal == ordinal);
                let request = request.ok_or_else(wrong)?;
                requests.push((at, request.clone()));
                at += request.cut.len();
                let own = &request.entry;
                let (name, dtype, shape) = (own.name.clone(), own.dtype, own.shape.clone());
                PartKind::Tensor { name, dtype, shape }
            }
        };
        // What was cut by content is cut again.
        match parts.last_mut() {
            Some(last) if kind == PartKind::Content && last.kind == PartKind::Content => {
                last.len += at - begin;
            }
            _ => parts.push(Part { offset: begin, len: at - begin, kind }),
        }
    }
    if at != entry.size {
        return Err(wrong());
    }
    let file = File { path: entry.path, size: entry.size, executable: entry.executable, parts };
    Ok((file, requests))
}

/// What the bytes `range` of a file are loaded by.
pub(super) fn within(requests: &[Run], range: &Range<u64>) -> Vec<Arc<TensorRequest>> {
    let end = |(begin, request): &Run| begin + request.cut.len();
    let first = requests.partition_point(|own| end(own) <= range.start);
    let own = requests.iter().skip(first).take_while(|(begin, _)| *begin < range.end);
    let cut = |(begin, request): &Run| {
        let len = request.cut.len();
        let part = range.start.max(*begin) - begin..range.end.min(begin + len) - begin;
        if part == (0..len) {
            return request.clone();
        }
        let mut request = TensorRequest::clone(request);
        request.shape = Shape::vector(part.end - part.start);
        request.cut = ShardSlice::part(part, len);
        Arc::new(request)
    };
    own.map(cut).collect()
}

/// Loads these, one after the other.
pub(super) fn load(
    artifact: &Artifact,
    runtime: &Handle,
    tensors: Vec<Arc<TensorRequest>>,
    options: &LoadOptions,
    take: &mut dyn FnMut(u64, &[u8]),
) -> Result<(), SourceError> {
    let wanted = SelectedTensors { tensors, ..SelectedTensors::default() };
    let entered = runtime.enter();
    let mut loader = artifact.load(wanted, options);
    drop(entered);
    while let Some(piece) = runtime.block_on(loader.next()) {
        let piece = piece?;
        take(piece.offset, &piece.data);
    }
    Ok(())
}
