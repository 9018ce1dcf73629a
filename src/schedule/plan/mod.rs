//! From wanted tensors to deliveries and ranged fetches, in order. Pure.
//!
//! Every wanted chunk is in exactly one fetch (equal neighbours of one delivery share one), a
//! fetch's chunks rise in offset and never fall in delivery, and a delivery is a run of the wanted
//! tensor's bytes, cut into slots that are filled independently of each other. The bases that
//! its chunks are stored against belong to the delivery too, and fill nothing. A small chunk that an
//! earlier delivery fetches is kept for later ones, which fetch nothing for it.
//!
//! One file: the fields of a plan state what the functions below them ensure.

mod index;
mod once;
mod parts;
mod runs;
mod way;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use crate::format::dtype::{Dtype, Shape};
use crate::format::grid::Rect;
use crate::format::id::DecodedDigest;
use crate::format::layout::Place;
use crate::format::page::TensorEntry;
use crate::format::record::ChunkRecord;
use crate::schedule::shard::{Shard, ShardSlice};
pub use index::{ChunkIndex, DeliveryIndex, List, ListIndex, RecordIndex, SlotIndex, TensorIndex};
use once::Once;
pub use parts::{
    ChunkUse, Delivery, Echo, PlanOptions, PlannedBase, PlannedChunk, PlannedFetch, Slot,
};
use runs::{Packs, fetches, span};
pub use way::Way;

/// A tensor that is wanted, or a rank's part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorRequest {
    /// The tensor.
    pub entry: TensorEntry,
    /// Its chunks, then the bases that these name, directly or through each other, each once.
    pub records: Vec<ChunkRecord>,
    /// Where they lie: one place per record.
    pub places: Vec<Place>,
    /// The shape of the wanted part.
    pub shape: Shape,
    /// Its bytes.
    pub cut: ShardSlice,
    /// How they are delivered.
    pub form: Form,
}

/// How what is requested is delivered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Form {
    /// Its bytes, decoded.
    #[default]
    Decoded,
    /// These of its records, chunk by chunk in this order, verified and as they are stored.
    Stored(Vec<RecordIndex>),
}

impl TensorRequest {
    /// All of a tensor, or what `shard` has of it.
    pub fn new(
        entry: TensorEntry,
        records: Vec<ChunkRecord>,
        places: Vec<Place>,
        shard: Option<Shard>,
    ) -> Self {
        let len = entry.byte_len();
        let (shape, cut) = match shard {
            Some(shard) => shard.of(&entry.name, entry.dtype, &entry.shape, len),
            None => (entry.shape.clone(), ShardSlice::whole(len)),
        };
        Self { entry, records, places, shape, cut, form: Form::Decoded }
    }

    /// Chunks of whatever they are, one by one and as they are stored.
    pub fn of_chunks(chunks: impl IntoIterator<Item = (ChunkRecord, Place)>) -> Self {
        let (records, places): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
        let none = ChunkRecord::raw(Dtype::Bytes, 0, blake3::hash(b""));
        let entry = TensorEntry::of_content("", records.first().unwrap_or(&none));
        let order = (0..records.len()).map(RecordIndex::at).collect();
        Self { form: Form::Stored(order), ..Self::new(entry, records, places, None) }
    }

    /// Whether a chunk of it is stored against another.
    pub fn has_bases(&self) -> bool {
        self.records.len() as u64 > self.entry.grid.chunks()
    }

    /// The records of bases, by content; none for most artifacts.
    pub(crate) fn bases(&self) -> HashMap<DecodedDigest, RecordIndex> {
        let own = usize::try_from(self.entry.grid.chunks()).unwrap_or(usize::MAX);
        let bases = self.records.iter().enumerate().skip(own);
        bases.map(|(index, base)| (base.decoded, RecordIndex::at(index))).collect()
    }

    /// One of its records, and where it lies.
    pub fn record(&self, index: RecordIndex) -> Option<(&ChunkRecord, Place)> {
        Some((self.records.get(index.get())?, *self.places.get(index.get())?))
    }

    /// The bytes of the tensor that a record is of; `None` for a base.
    pub(crate) fn rect(&self, index: RecordIndex) -> Option<Rect> {
        let (grid, chunk) = (&self.entry.grid, index.get() as u64);
        (chunk < grid.chunks()).then(|| grid.rect(chunk))
    }
}

/// How many pieces a tensor that is cut into bands may be long and still come whole.
const BANDED: u64 = 4;

/// The work of one load.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// What is wanted, in order.
    pub tensors: List<TensorIndex, Arc<TensorRequest>>,
    /// What is delivered, in order.
    pub deliveries: List<DeliveryIndex, Delivery>,
    /// What is fetched.
    pub chunks: List<ChunkIndex, PlannedChunk>,
    /// The requests, in the order in which their first chunk is needed.
    pub fetches: Vec<PlannedFetch>,
}

impl Plan {
    /// Plans the load of `tensors` in this order.
    pub fn new(tensors: Vec<Arc<TensorRequest>>, options: &PlanOptions) -> Self {
        let mut plan = Self { tensors: tensors.into_iter().collect(), ..Self::default() };
        let mut once = Once::new(options.kept);
        let mut packs = List::default();
        let mut next = TensorIndex::FIRST;
        while let Some(request) = plan.tensors.get(next).cloned() {
            if plan.add_single(next, &request, &mut once, &mut packs).is_none() {
                plan.add(next, &request, options, &mut once, &mut packs);
            }
            next = next.next();
        }
        plan.fetches = fetches(&plan.chunks, &packs, options);
        plan
    }

    /// The bytes of the pack that a request for `chunks` of the plan covers.
    pub fn range_of(&self, chunks: &[ChunkIndex]) -> Range<u64> {
        span(&self.chunks, chunks)
    }

    /// Plans a tensor that is one chunk which stands alone, of which there may be very many: as [`Self::add`] does,
    /// without its lists. `None` if it is none, and nothing was done.
    fn add_single(
        &mut self,
        tensor: TensorIndex,
        request: &TensorRequest,
        once: &mut Once,
        packs: &mut Packs,
    ) -> Option<()> {
        let ([record], [place]) = (&request.records[..], &request.places[..]) else { return None };
        if request.form != Form::Decoded
            || request.entry.grid.chunks() != 1
            || record.base.is_some()
        {
            return None;
        }
        let index = RecordIndex::FIRST;
        let span = request.cut.span(&request.rect(index)?);
        let slot = slot(request, span.clone(), index);
        if span.is_empty() {
            return None;
        }
        let chunk_use = ChunkUse { record: index, slot: Some(SlotIndex::FIRST) };
        let delivery = self.deliveries.end();
        let kept = once.find(record).and_then(|of| Some((of, self.chunks.get_mut(of)?)));
        let (mut chunks, mut echoes) = (0, Vec::new());
        if let Some((of, chunk)) = kept {
            chunk.kept = true;
            echoes.push(Echo { of, chunk_use });
        } else {
            chunks = 1;
            let (base, more) = (PlannedBase::Nothing, Vec::new());
            let (first, offset, len) = (chunk_use, place.offset, record.stored_len);
            let (kept, level) = (false, 0);
            let planned = PlannedChunk { delivery, first, more, kept, base, level, offset, len };
            once.planned(self.chunks.push(planned), record);
            packs.push(place.pack);
        }
        let relative = Slot { range: 0..span.end - span.start, direct: slot.direct };
        let (linked, linked_bytes, stored) = (Vec::new(), 0, None);
        self.deliveries.push(Delivery {
            tensor,
            range: span,
            slots: [relative].into_iter().collect(),
            chunks,
            echoes,
            linked,
            linked_bytes,
            stored,
        });
        Some(())
    }

    fn add(
        &mut self,
        tensor: TensorIndex,
        request: &TensorRequest,
        options: &PlanOptions,
        once: &mut Once,
        packs: &mut Packs,
    ) {
        if let Form::Stored(order) = &request.form {
            for &record in order {
                self.deliver_stored(tensor, request, record, packs);
            }
            return;
        }
        let bases = Bases { records: request.bases(), held: &options.held };
        let mut wanted: Vec<(Range<u64>, RecordIndex)> = request
            .entry
            .grid
            .rects()
            .enumerate()
            .map(|(at, rect)| (request.cut.span(&rect), RecordIndex::at(at)))
            .filter(|(span, _)| !span.is_empty())
            .collect();
        wanted.sort_by_key(|(span, record)| (span.start, *record));
        let slots = slots(request, wanted);
        let piece = options.piece.unwrap_or(u64::MAX);
        // The rows of a piece lie in every band: each piece would be as many requests.
        let banded = request.entry.grid.bands() > 1;
        let most = if banded && request.cut.len() / BANDED <= piece { u64::MAX } else { piece };
        let mut slots = slots.into_iter().peekable();
        loop {
            let mut own = Vec::new();
            let mut len = 0;
            let start = slots.peek().map_or(0, |(slot, _)| slot.range.start);
            while let Some((slot, chunks)) =
                slots.next_if(|(slot, _)| own.is_empty() || slot.range.end - start <= most)
            {
                len = slot.range.end - start;
                own.push((slot, chunks));
            }
            self.deliver(tensor, (request, &bases), start..start + len, own, once, packs);
            if slots.peek().is_none() {
                break;
            }
        }
    }

    fn deliver_stored(
        &mut self,
        tensor: TensorIndex,
        request: &TensorRequest,
        index: RecordIndex,
        packs: &mut Packs,
    ) {
        // A place per record: whoever made the request saw to it.
        let Some((record, place)) = request.record(index) else { return };
        let (offset, len) = (place.offset, record.stored_len);
        let first = ChunkUse { record: index, slot: Some(SlotIndex::FIRST) };
        let (delivery, base) = (self.deliveries.end(), PlannedBase::Nothing);
        let planned = PlannedChunk {
            delivery,
            first,
            more: Vec::new(),
            kept: false,
            base,
            level: 0,
            offset,
            len,
        };
        self.chunks.push(planned);
        packs.push(place.pack);
        let range = 0..u64::from(len);
        self.deliveries.push(Delivery {
            tensor,
            slots: [Slot { range: range.clone(), direct: true }].into_iter().collect(),
            range,
            chunks: 1,
            echoes: Vec::new(),
            linked: Vec::new(),
            linked_bytes: 0,
            stored: Some(index),
        });
    }

    fn deliver(
        &mut self,
        tensor: TensorIndex,
        (request, bases): (&TensorRequest, &Bases<'_>),
        range: Range<u64>,
        slots: Vec<(Slot, Vec<RecordIndex>)>,
        once: &mut Once,
        packs: &mut Packs,
    ) {
        let delivery = self.deliveries.end();
        let mut own = List::default();
        let mut uses = Vec::new();
        let mut echoes = Vec::new();
        let mut seen = HashSet::new();
        for (slot, records) in slots {
            let relative = slot.range.start - range.start..slot.range.end - range.start;
            let slot = Some(own.push(Slot { range: relative, ..slot }));
            for index in records {
                // A place per record: whoever made the request saw to it.
                let Some((record, place)) = request.record(index) else { continue };
                let chunk_use = ChunkUse { record: index, slot };
                let kept = once.find(record).filter(|_| !request.has_bases());
                if let Some((of, chunk)) = kept.and_then(|of| Some((of, self.chunks.get_mut(of)?)))
                {
                    chunk.kept = true;
                    echoes.push(Echo { of, chunk_use });
                    continue;
                }
                uses.push(Use { place, record, chunk_use, level: 0 });
                bases.below(request, record, &mut seen, &mut uses);
            }
        }
        // Packs in the order in which they are first needed, and inside one by offset.
        let mut order = HashMap::new();
        for Use { place, .. } in &uses {
            let next = order.len();
            order.entry(place.pack).or_insert(next);
        }
        uses.sort_by_key(|u| {
            (order.get(&u.place.pack).copied(), u.place.offset, u.chunk_use.record)
        });
        let first = self.chunks.end();
        let mut last_record: Option<&ChunkRecord> = None;
        for Use { place, record, chunk_use, level } in uses {
            let len = record.stored_len;
            // The same stored bytes are two chunks if they are stored against different bases.
            if let Some(last) = self.chunks.last_mut().filter(|last| last.delivery == delivery)
                && packs.last() == Some(&place.pack)
                && (last.offset, last.len) == (place.offset, len)
                && last_record.is_some_and(|r| (r.decoded, r.base) == (record.decoded, record.base))
            {
                last.more.push(chunk_use);
                continue;
            }
            last_record = Some(record);
            let (first, more, offset) = (chunk_use, Vec::new(), place.offset);
            let (base, kept) = (PlannedBase::Nothing, false);
            let planned = PlannedChunk { delivery, first, more, kept, base, level, offset, len };
            let index = self.chunks.push(planned);
            // Chunks that others are decoded with stay with their delivery.
            if !request.has_bases() {
                once.planned(index, record);
            }
            packs.push(place.pack);
        }
        let linked = self.link(first, request, bases);
        let chunks = self.chunks.iter().skip(first.get());
        // Twins are copied from one buffer, so that none of them is read in place.
        for shared in chunks.clone().filter(|chunk| !chunk.more.is_empty()) {
            for slot in shared.uses().filter_map(|chunk_use| chunk_use.slot) {
                if let Some(slot) = own.get_mut(slot) {
                    slot.direct = false;
                }
            }
        }
        let len = |&index: &ChunkIndex| self.chunks.get(index).map_or(0, |c| u64::from(c.len));
        let linked_bytes = linked.iter().map(len).sum();
        let chunks = chunks.len() as u32;
        let slots = own;
        let stored = None;
        self.deliveries.push(Delivery {
            tensor,
            range,
            slots,
            chunks,
            echoes,
            linked,
            linked_bytes,
            stored,
        });
    }

    /// Says of the chunks from `first` on what they are stored against; returns all that wait for
    /// each other.
    fn link(
        &mut self,
        first: ChunkIndex,
        request: &TensorRequest,
        bases: &Bases<'_>,
    ) -> Vec<ChunkIndex> {
        if bases.records.is_empty() {
            return Vec::new();
        }
        let mut planned = HashMap::new();
        for (at, chunk) in self.chunks.iter().enumerate().skip(first.get()) {
            let index = ChunkIndex::at(at);
            planned.extend(chunk.uses().map(|chunk_use| (chunk_use.record, index)));
        }
        let mut linked = BTreeSet::new();
        for (at, chunk) in self.chunks.iter_mut().enumerate().skip(first.get()) {
            let index = ChunkIndex::at(at);
            let record = request.record(chunk.first.record);
            let Some(base) = record.and_then(|(record, _)| record.base) else { continue };
            linked.insert(index);
            if bases.held.contains(&base.decoded) {
                chunk.base = PlannedBase::Held(base.decoded);
            } else if let Some(&below) =
                bases.records.get(&base.decoded).and_then(|record| planned.get(record))
            {
                chunk.base = PlannedBase::Fetched(below);
                linked.insert(below);
            }
        }
        linked.into_iter().collect()
    }
}

/// The bases of one request.
struct Bases<'a> {
    records: HashMap<DecodedDigest, RecordIndex>,
    held: &'a HashSet<DecodedDigest>,
}

/// A use of a chunk that is to be planned.
struct Use<'a> {
    place: Place,
    record: &'a ChunkRecord,
    chunk_use: ChunkUse,
    level: u8,
}

impl Bases<'_> {
    /// Adds what must be fetched for `record` to be decoded, unless `seen` has it.
    fn below<'a>(
        &self,
        request: &'a TensorRequest,
        record: &ChunkRecord,
        seen: &mut HashSet<RecordIndex>,
        uses: &mut Vec<Use<'a>>,
    ) {
        let mut next = record.base;
        let mut level = 0;
        while let Some(base) = next.take_if(|base| !self.held.contains(&base.decoded)) {
            let Some(&index) = self.records.get(&base.decoded) else { return };
            let Some((record, place)) = request.record(index) else { return };
            if !seen.insert(index) {
                return;
            }
            level += 1;
            let chunk_use = ChunkUse { record: index, slot: None };
            uses.push(Use { place, record, chunk_use, level });
            next = record.base;
        }
    }
}

/// Groups chunks whose spans overlap; `wanted` is sorted by the spans' starts.
fn slots(
    request: &TensorRequest,
    wanted: Vec<(Range<u64>, RecordIndex)>,
) -> Vec<(Slot, Vec<RecordIndex>)> {
    let mut slots: Vec<(Slot, Vec<RecordIndex>)> = Vec::new();
    for (span, record) in wanted {
        match slots.last_mut() {
            Some((slot, records)) if span.start < slot.range.end => {
                slot.range.end = slot.range.end.max(span.end);
                slot.direct = false;
                records.push(record);
            }
            _ => slots.push((slot(request, span, record), vec![record])),
        }
    }
    slots
}

/// The slot of one chunk.
fn slot(request: &TensorRequest, span: Range<u64>, record: RecordIndex) -> Slot {
    let direct = request.rect(record).is_some_and(|rect| {
        span.end - span.start == rect.len() && request.cut.copies(rect).take(2).count() == 1
    });
    Slot { range: span, direct }
}

#[cfg(test)]
mod tests;
