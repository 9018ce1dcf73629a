//! Small chunks that several deliveries of one load hold: fetched for the first of them, kept, and delivered
//! again. Pure.

use std::collections::HashMap;

use super::index::ChunkIndex;
use crate::format::dtype::Dtype;
use crate::format::id::StoredDigest;
use crate::format::record::{ChunkRecord, CodecId};

/// The largest chunk that is kept, decoded.
const MOST: u32 = 256 << 10;
/// About what a kept chunk costs beside its bytes.
const OVERHEAD: u64 = 256;

/// The small chunks that are planned so far.
pub(super) struct Once {
    planned: HashMap<StoredDigest, Planned>,
    /// Memory that is left.
    left: u64,
}

struct Planned {
    chunk: ChunkIndex,
    kept: bool,
    how: How,
}

/// How stored bytes are decoded.
type How = (u32, CodecId, [u8; 20], u32, Option<Dtype>);

impl Once {
    pub(super) fn new(memory: u64) -> Self {
        Self { planned: HashMap::new(), left: memory }
    }

    /// A chunk of an earlier delivery that decodes to the same bytes as one of that record, and is kept from
    /// now on; `None` if it must be fetched.
    pub(super) fn find(&mut self, record: &ChunkRecord) -> Option<ChunkIndex> {
        let planned = self.planned.get_mut(&record.stored)?;
        if planned.how != how(record) {
            return None;
        }
        if !planned.kept {
            self.left = self.left.checked_sub(cost(record))?;
            planned.kept = true;
        }
        Some(planned.chunk)
    }

    /// Takes note of a chunk that is fetched alone: nothing else is needed for it.
    pub(super) fn planned(&mut self, chunk: ChunkIndex, record: &ChunkRecord) {
        if record.base.is_none() && record.decoded_len <= MOST && self.left >= cost(record) {
            let planned = Planned { chunk, kept: false, how: how(record) };
            self.planned.entry(record.stored).or_insert(planned);
        }
    }
}

fn cost(record: &ChunkRecord) -> u64 {
    u64::from(record.decoded_len) + OVERHEAD
}

/// Whatever else records say: the same stored bytes, decoded alike, are the same bytes.
fn how(record: &ChunkRecord) -> How {
    // Raw bytes have no type.
    let element = (record.codec != CodecId::RAW).then_some(record.element);
    (record.stored_len, record.codec, record.parameters, record.decoded_len, element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::record::Base;
    use crate::schedule::plan::ListIndex;

    #[test]
    fn the_same_bytes_under_another_codec_are_another_chunk() {
        let raw = ChunkRecord::raw(Dtype::F32, 4, blake3::hash(b"four"));
        let planes = ChunkRecord { codec: CodecId::PLANES, ..raw };
        let base = Some(Base { decoded: raw.decoded, depth: 1 });
        for (first, second, same) in [
            (raw, raw, true),
            (raw, ChunkRecord { element: Dtype::U8, ..raw }, true),
            (raw, planes, false),
            (planes, planes, true),
            (planes, ChunkRecord { element: Dtype::U8, ..planes }, false),
            (planes, ChunkRecord { decoded_len: 8, ..planes }, false),
            (ChunkRecord { base, ..planes }, planes, false),
        ] {
            let mut once = Once::new(1 << 20);
            once.planned(ChunkIndex::at(7), &first);
            assert_eq!(once.find(&second).is_some(), same, "{first:?} {second:?}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let chunk = |n: u32, len| ChunkRecord::raw(Dtype::U8, len, blake3::hash(&n.to_le_bytes()));
        let mut once = Once::new(3 * (100 + OVERHEAD));
        (0..5).for_each(|n| once.planned(ChunkIndex::at(n as usize), &chunk(n, 100)));
        let found: Vec<_> = (0..5).map(|n| once.find(&chunk(n, 100)).is_some()).collect();
        assert_eq!(found, [true, true, true, false, false]);
        assert!(once.find(&chunk(0, 100)).is_some(), "it is kept already");
        let mut once = Once::new(u64::MAX);
        once.planned(ChunkIndex::at(0), &chunk(0, MOST + 1));
        assert!(once.find(&chunk(0, MOST + 1)).is_none(), "large ones are not kept");
    }
}
