//! Small chunks that several deliveries of one load hold: fetched for the first of them, kept, and delivered
//! again. Pure.

use std::collections::HashMap;

use super::{ChunkIndex, Plan, TensorRequest};
use crate::format::id::StoredDigest;
use crate::format::record::{ChunkRecord, CodecId};

/// The largest chunk that is kept, decoded.
const MOST: u32 = 256 << 10;
/// About what a kept chunk costs beside its bytes.
const OVERHEAD: u64 = 256;

/// The small chunks that are planned so far.
pub(super) struct Once {
    planned: HashMap<StoredDigest, ChunkIndex>,
    /// Memory that is left.
    left: u64,
}

impl Once {
    pub(super) fn new(memory: u64) -> Self {
        Self { planned: HashMap::new(), left: memory }
    }

    /// A chunk of an earlier delivery that decodes to the same bytes as one of that record, to be kept for
    /// it; `None` if it must be fetched.
    pub(super) fn find(
        &mut self,
        plan: &mut Plan,
        request: &TensorRequest,
        record: &ChunkRecord,
    ) -> Option<ChunkIndex> {
        if !may_keep(request, record) {
            return None;
        }
        let index = *self.planned.get(&record.stored)?;
        let chunk = plan.chunks.get_mut(index)?;
        let delivery = plan.deliveries.get(chunk.delivery)?;
        let (own, _) = plan.tensors.get(delivery.tensor)?.record(chunk.first.record)?;
        if !is_same(own, record) {
            return None;
        }
        if !chunk.kept {
            self.left = self.left.checked_sub(cost(record))?;
            chunk.kept = true;
        }
        Some(index)
    }

    /// Takes note of a chunk that is fetched.
    pub(super) fn planned(
        &mut self,
        index: ChunkIndex,
        request: &TensorRequest,
        record: &ChunkRecord,
    ) {
        if may_keep(request, record) && self.left >= cost(record) {
            self.planned.entry(record.stored).or_insert(index);
        }
    }
}

/// Chunks that others are decoded with stay with their delivery.
fn may_keep(request: &TensorRequest, record: &ChunkRecord) -> bool {
    record.decoded_len <= MOST && !request.has_bases()
}

fn cost(record: &ChunkRecord) -> u64 {
    u64::from(record.decoded_len) + OVERHEAD
}

/// Whether the same stored bytes decode to the same bytes, whatever the records claim of that.
fn is_same(a: &ChunkRecord, b: &ChunkRecord) -> bool {
    let how = |r: &ChunkRecord| (r.stored, r.stored_len, r.codec, r.parameters, r.decoded_len);
    how(a) == how(b) && (a.codec == CodecId::RAW || a.element == b.element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::dtype::Dtype;

    #[test]
    fn the_same_bytes_under_another_codec_are_another_chunk() {
        let raw = ChunkRecord::raw(Dtype::F32, 4, blake3::hash(b"four"));
        let typed = ChunkRecord { element: Dtype::U8, ..raw };
        assert!(is_same(&raw, &typed), "raw bytes have no type");
        let planes = ChunkRecord { codec: CodecId::PLANES, ..raw };
        assert!(!is_same(&raw, &planes));
        assert!(!is_same(&planes, &ChunkRecord { element: Dtype::U8, ..planes }));
        assert!(!is_same(&planes, &ChunkRecord { decoded_len: 8, ..planes }));
        assert!(is_same(&planes, &planes));
    }
}
