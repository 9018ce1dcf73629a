//! Plans against oracles: what is wanted once, in order, with its bases.

use super::*;
use crate::format::dtype::Dtype;
use crate::format::grid::Grid;
use crate::format::id::{ContentDigest, PackId};
use crate::format::record::Base;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn request(
    name: &str,
    rows: u64,
    columns: u64,
    grid: (u64, u64),
    at: &mut Packer,
) -> Arc<TensorRequest> {
    let grid = Grid {
        leading: 1,
        rows,
        row_bytes: columns,
        block_rows: grid.0.min(rows),
        band_bytes: grid.1.min(columns),
    };
    let entry = TensorEntry {
        ordinal: 0,
        file: 0,
        name: name.into(),
        dtype: Dtype::U8,
        shape: Shape::new(vec![rows, columns]).unwrap(),
        digest: ContentDigest::of(b""),
        grid,
    };
    let record = |(n, rect): (u32, Rect)| {
        // As many contents as the test wants.
        let content = (at.count + n) % at.contents;
        let hash = blake3::hash(&[content, rect.len() as u32].map(u32::to_le_bytes).concat());
        ChunkRecord::raw(Dtype::U8, rect.len() as u32, hash)
    };
    let records: Vec<_> = (0..).zip(grid.rects()).map(record).collect();
    let places = records.iter().map(|r| at.place(r.stored_len)).collect();
    Arc::new(TensorRequest::new(entry, records, places, at.shard))
}

struct Packer {
    pack: u8,
    offset: u32,
    room: u32,
    gap: u32,
    /// Every so many chunks, the place of the last one again.
    repeat: u32,
    count: u32,
    contents: u32,
    shard: Option<Shard>,
}

impl Packer {
    fn place(&mut self, len: u32) -> Place {
        self.count += 1;
        if self.repeat > 0 && self.count.is_multiple_of(self.repeat) && self.offset >= len {
            let offset = self.offset - len;
            return Place { pack: PackId::of(&[self.pack]), offset };
        }
        if self.offset + len > self.room {
            (self.pack, self.offset) = (self.pack + 1, 0);
        }
        let place = Place { pack: PackId::of(&[self.pack]), offset: self.offset };
        self.offset += len + if self.count.is_multiple_of(3) { self.gap } else { 0 };
        place
    }
}

/// The same plan by the way that every tensor can take.
fn without_short_ways(tensors: Vec<Arc<TensorRequest>>, options: &PlanOptions) -> Plan {
    let mut plan = Plan { tensors: tensors.into_iter().collect(), ..Plan::default() };
    let (mut once, mut packs) = (Once::new(options.kept), List::default());
    for (at, request) in plan.tensors.clone().iter().enumerate() {
        plan.add(TensorIndex::at(at), request, options, &mut once, &mut packs);
    }
    plan.fetches = fetches(&plan.chunks, &packs, options);
    plan
}

proptest! {
    /// Oracle: the set of wanted chunks by brute force.
    #[test]
    fn every_wanted_chunk_once_and_no_byte_too_many(
        shapes in prop::collection::vec((1_u64..40, 1_u64..40, 1_u64..80, 1_u64..80), 1..12),
        (room, gap, repeat) in (1700_u32..5000, 0_u32..30, 0_u32..5),
        (allowed, segment, piece) in (0_u64..40, 1_u64..4000, prop::option::of(1_u64..900)),
        shard in prop::option::of((0_u32..4, Just(4))),
        columns in any::<bool>(),
        whole in any::<bool>(),
        (contents, kept) in (1_u32..20, 0_u64..4000),
    ) {
        let shard = shard.and_then(|(i, n)| Shard::new(i, n));
        let mut at = Packer { pack: 0, offset: 0, room, gap, repeat, count: 0, contents, shard };
        let name = if columns { "o_proj.weight" } else { "q_proj.weight" };
        let wants: Vec<_> =
            shapes.iter().map(|&(r, c, b, w)| request(name, r, c, (b, w), &mut at)).collect();
        let mut options = PlanOptions { gap: allowed, segment, piece, kept, ..Default::default() };
        if whole {
            for request in &wants {
                for (place, record) in request.places.iter().zip(&request.records) {
                    let end = options.pack_ends.entry(place.pack).or_default();
                    *end = (*end).max(u64::from(place.offset + record.stored_len));
                }
            }
        }
        let plan = Plan::new(wants.clone(), &options);
        let slow = without_short_ways(wants.clone(), &options);
        prop_assert_eq!(&plan.deliveries, &slow.deliveries);
        prop_assert_eq!(&plan.chunks, &slow.chunks);
        prop_assert_eq!(&plan.fetches, &slow.fetches);

        let mut expected = BTreeSet::new();
        for (t, request) in wants.iter().enumerate() {
            for (c, rect) in request.entry.grid.rects().enumerate() {
                if request.cut.copies(rect).next().is_some() {
                    expected.insert((TensorIndex::at(t), RecordIndex::at(c)));
                }
            }
        }
        let mut seen = BTreeSet::new();
        let mut fetched = BTreeSet::new();
        for fetch in &plan.fetches {
            let mut end = 0;
            let mut delivery = DeliveryIndex::FIRST;
            for &index in &fetch.chunks {
                prop_assert!(fetched.insert(index), "{:?} is in two fetches", index);
                let chunk = &plan.chunks[index.get()];
                let tensor = plan.deliveries[chunk.delivery.get()].tensor;
                prop_assert!(chunk.delivery >= delivery);
                delivery = chunk.delivery;
                prop_assert!(u64::from(chunk.offset) >= end, "offsets rise without overlap");
                if end > 0 && !fetch.whole {
                    prop_assert!(u64::from(chunk.offset) - end <= allowed);
                }
                end = u64::from(chunk.offset + chunk.len);
                for chunk_use in chunk.uses() {
                    let request = &wants[tensor.get()];
                    let (_, place) = request.record(chunk_use.record).unwrap();
                    prop_assert_eq!(place, Place { pack: fetch.pack, offset: chunk.offset });
                    prop_assert!(seen.insert((tensor, chunk_use.record)), "a chunk twice");
                }
            }
            let range = plan.range_of(&fetch.chunks);
            if !fetch.whole {
                let most = segment.max(u64::from(plan.chunks[fetch.chunks[0].get()].len));
                let chunk = 40 * 40;
                prop_assert!(range.end - range.start <= most + chunk + allowed);
            }
        }
        let mut kept_chunks = BTreeSet::new();
        for (index, delivery) in plan.deliveries.pairs() {
            for echo in &delivery.echoes {
                let of = &plan.chunks[echo.of.get()];
                prop_assert!(of.kept && of.delivery < index, "it comes before");
                let source = &wants[plan.deliveries[of.delivery.get()].tensor.get()];
                let own = wants[delivery.tensor.get()].record(echo.chunk_use.record).unwrap().0;
                prop_assert_eq!(source.record(of.first.record).unwrap().0, own);
                prop_assert!(seen.insert((delivery.tensor, echo.chunk_use.record)), "twice");
                prop_assert!(echo.chunk_use.slot.is_some());
                kept_chunks.insert(echo.of);
            }
        }
        let bytes = |c: &ChunkIndex| u64::from(plan.chunks[c.get()].len) + 256;
        prop_assert!(kept_chunks.iter().map(bytes).sum::<u64>() <= kept);
        prop_assert!(plan.chunks.pairs().all(|(i, c)| c.kept == kept_chunks.contains(&i)));
        prop_assert_eq!(fetched.len(), plan.chunks.len());
        prop_assert_eq!(seen, expected);
        prop_assert!(plan.fetches.is_sorted_by_key(|f| f.chunks[0]));

        // Deliveries cover each wanted tensor in order, and slots cover each delivery.
        let mut at = (TensorIndex::FIRST, 0);
        for (index, delivery) in plan.deliveries.pairs() {
            if delivery.tensor != at.0 {
                prop_assert_eq!(at.1, wants[at.0.get()].cut.len());
                at = (delivery.tensor, 0);
            }
            prop_assert_eq!(delivery.range.start, at.1);
            at.1 = delivery.range.end;
            let mut slot_at = 0;
            for slot in delivery.slots.iter() {
                prop_assert_eq!(slot.range.start, slot_at);
                slot_at = slot.range.end;
            }
            prop_assert_eq!(slot_at, delivery.len());
            let own = plan.chunks.iter().filter(|c| c.delivery == index).count();
            prop_assert_eq!(own, delivery.chunks as usize);
            if let Some(piece) = piece {
                let bands = wants[delivery.tensor.get()].entry.grid.bands();
                let most = if bands > 1 { BANDED * piece + BANDED } else { piece };
                prop_assert!(delivery.slots.len() == 1 || delivery.len() <= most);
            }
        }
        prop_assert_eq!(at.1, wants[at.0.get()].cut.len());
    }
}

/// A tensor of 6 chunks of 10 bytes: the first alone, the others against one base, which is stored
/// against another; the last against the first chunk itself.
fn based() -> Arc<TensorRequest> {
    let mut packer = Packer {
        pack: 0,
        offset: 0,
        room: 1 << 20,
        gap: 0,
        repeat: 0,
        count: 0,
        contents: u32::MAX,
        shard: None,
    };
    let plain = request("a", 6, 10, (1, 10), &mut packer);
    let content = |n: u8| DecodedDigest::of(&[n]);
    let record = |n: u8, base: Option<(u8, u8)>| ChunkRecord {
        base: base.map(|(of, depth)| Base { decoded: content(of), depth }),
        decoded: content(n),
        ..plain.records[0]
    };
    let middle = Some((100, 2));
    let own = [
        record(0, None),
        record(1, middle),
        record(2, middle),
        record(3, middle),
        record(4, middle),
        record(5, Some((0, 1))),
    ];
    let bases = [record(100, Some((101, 1))), record(101, None), record(0, None)];
    let other = PackId::of(b"bases");
    let below = |offset| Place { pack: other, offset };
    let places = [&plain.places[..], &[below(50), below(20), plain.places[0]]].concat();
    Arc::new(TensorRequest::new(plain.entry.clone(), [&own[..], &bases].concat(), places, None))
}

#[test]
fn bases_belong_to_the_delivery_of_what_needs_them() {
    let options = PlanOptions { piece: Some(30), ..Default::default() };
    let plan = Plan::new(vec![based()], &options);
    let of = |n: usize| -> Vec<_> {
        let own = plan.chunks.iter().filter(|chunk| chunk.delivery.get() == n);
        own.map(|chunk| (chunk.first.record.get(), chunk.level)).collect()
    };
    // Each piece brings the bases that it needs, once, by offset behind its own chunks.
    assert_eq!(of(0), [(0, 0), (1, 0), (2, 0), (7, 2), (6, 1)]);
    assert_eq!(of(1), [(8, 1), (3, 0), (4, 0), (5, 0), (7, 2), (6, 1)]);
    let base = |record: usize, delivery: usize| {
        let at = |c: &PlannedChunk| (c.first.record.get(), c.delivery.get());
        let same = |c: &&PlannedChunk| at(c) == (record, delivery);
        match plan.chunks.iter().find(same).unwrap().base {
            PlannedBase::Fetched(index) => Some(plan.chunks[index.get()].first.record.get()),
            PlannedBase::Nothing => None,
            PlannedBase::Held(_) => panic!("nothing is held"),
        }
    };
    for (record, delivery, below) in [
        (0, 0, None),
        (1, 0, Some(6)),
        (2, 0, Some(6)),
        (6, 0, Some(7)),
        (7, 0, None),
        (4, 1, Some(6)),
        (5, 1, Some(8)),
        (8, 1, None),
    ] {
        assert_eq!(base(record, delivery), below, "record {record} of delivery {delivery}");
    }
    let linked = |n: usize| plan.deliveries[n].linked.len();
    assert_eq!((linked(0), linked(1)), (4, 6), "all but what stands alone");
    assert_eq!(plan.deliveries[0].linked_bytes, 40);
    // The runs of the two packs, and of bases and their bases, go on beside each other.
    let runs: Vec<_> = plan.fetches.iter().map(|f| f.chunks.len()).collect();
    assert_eq!(runs.iter().sum::<usize>(), 11, "{:?}", plan.fetches);
    assert!(plan.fetches[0].chunks.iter().all(|&c| plan.chunks[c.get()].level == 0));
}

#[test]
fn chunks_that_the_tensor_holds_too_are_fetched_once() {
    let plan = Plan::new(vec![based()], &PlanOptions::default());
    let first = &plan.chunks[0];
    assert_eq!((first.first.record.get(), first.more.len(), first.level), (0, 1, 0));
    assert!(!plan.deliveries[0].slots[0].direct, "others are decoded with it");
    let last = plan.chunks.iter().find(|chunk| chunk.first.record.get() == 5).unwrap();
    assert_eq!(last.base, PlannedBase::Fetched(ChunkIndex::FIRST));
    assert_eq!(plan.chunks.len(), 8);
}

/// Against different bases, the same stored bytes are different chunks.
#[test]
fn equal_differences_are_not_equal_chunks() {
    let mut request = Arc::unwrap_or_clone(based());
    request.places[5] = request.places[4];
    let plan = Plan::new(vec![Arc::new(request)], &PlanOptions::default());
    let of = |record| plan.chunks.iter().find(|chunk| chunk.first.record.get() == record).unwrap();
    assert_eq!((of(4).more.len(), of(5).more.len()), (0, 0));
    assert_ne!(of(4).base, of(5).base);
}

/// Three tensors of one small chunk each, of the same content but in different places.
#[test]
fn a_small_chunk_is_fetched_once_for_all_tensors_that_hold_it() {
    let mut at = Packer {
        pack: 0,
        offset: 0,
        room: 1 << 20,
        gap: 0,
        repeat: 0,
        count: 0,
        contents: 1,
        shard: None,
    };
    let wants: Vec<_> = (0..3).map(|_| request("a", 1, 4, (1, 4), &mut at)).collect();
    let plan = |kept| Plan::new(wants.clone(), &PlanOptions { kept, ..Default::default() });
    let once = plan(1 << 20);
    assert_eq!((once.chunks.len(), once.fetches.len(), once.deliveries.len()), (1, 1, 3));
    let echoes = |plan: &Plan| plan.deliveries.iter().map(|d| d.echoes.len()).collect::<Vec<_>>();
    assert_eq!((echoes(&once), once.deliveries[1].chunks), (vec![0, 1, 1], 0));
    assert_eq!(echoes(&plan(0)), [0, 0, 0]);
    assert_eq!(plan(0).chunks.len(), 3);
}

#[test]
fn held_bases_and_theirs_are_not_planned() {
    let held = |n: u8| DecodedDigest::of(&[n]);
    for (holds, planned) in [(100, 6), (101, 7), (7, 8)] {
        let options = PlanOptions { held: [held(holds)].into(), ..Default::default() };
        let plan = Plan::new(vec![based()], &options);
        assert_eq!(plan.chunks.len(), planned, "{holds} is held");
        let hits = |c: &&PlannedChunk| c.base == PlannedBase::Held(held(holds));
        let expected = [(100, 4), (101, 1), (7, 0)].into_iter().find(|(n, _)| *n == holds);
        assert_eq!(Some(plan.chunks.iter().filter(hits).count()), expected.map(|e| e.1));
    }
}

#[test]
fn long_runs_are_divided_and_packs_asked_whole() {
    let packer = || Packer {
        pack: 0,
        offset: 0,
        room: 1 << 30,
        gap: 0,
        repeat: 0,
        count: 0,
        contents: u32::MAX,
        shard: None,
    };
    let wants = vec![request("a", 64, 100, (1, 100), &mut packer())];
    let options = PlanOptions { segment: 1600, ..Default::default() };
    let plan = Plan::new(wants.clone(), &options);
    let sizes: Vec<_> = plan.fetches.iter().map(|f| f.chunks.len()).collect();
    assert_eq!(sizes, [16, 16, 16, 16]);
    assert!(plan.deliveries[0].slots.iter().all(|slot| slot.direct));
    for (end, whole) in [(7111, true), (7112, false)] {
        let pack_ends = HashMap::from([(PackId::of(&[0]), end)]);
        let plan = Plan::new(wants.clone(), &PlanOptions { pack_ends, ..options.clone() });
        assert_eq!(plan.fetches.iter().any(|f| f.whole), whole, "{end}");
    }
}
