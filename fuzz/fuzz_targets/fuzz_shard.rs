//! How a tensor is split over ranks and its chunks are cut to them: every wanted byte of every chunk
//! has exactly one place in the rank's tensor, and the ranks together have the whole of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tenpak::format::dtype::{Dtype, Shape};
use tenpak::format::grid::Grid;
use tenpak::schedule::shard::Shard;

/// Above this, going through every byte takes too long.
const MOST: u64 = 1 << 12;
const NAMES: [&str; 6] = [
    "model.layers.0.self_attn.q_proj.weight",
    "model.layers.0.self_attn.o_proj.weight",
    "model.layers.0.mlp.experts.down_proj",
    "model.embed_tokens.weight",
    "model.norm.weight",
    "x",
];

fn take(data: &mut &[u8]) -> Option<u64> {
    let (&first, rest) = data.split_first()?;
    *data = rest;
    // Mostly small, now and then any number at all.
    if first < 250 {
        return Some(u64::from(first));
    }
    let (bytes, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(u64::from_le_bytes(*bytes))
}

fn check(mut data: &[u8]) -> Option<()> {
    let data = &mut data;
    let dtype = Dtype::from_code(take(data)? as u8)?;
    let name = NAMES[(take(data)? % 6) as usize];
    let rank = (take(data)? % 18) as usize;
    let count = u32::try_from(take(data)?).ok()?;
    let index = u32::try_from(take(data)?).ok()?;
    let grid = [take(data)?, take(data)?, take(data)?, take(data)?, take(data)?];
    let [leading, rows, row_bytes, block_rows, band_bytes] = grid;
    let grid = Grid { leading, rows, row_bytes, block_rows, band_bytes };
    let dims: Option<Vec<u64>> = (0..rank).map(|_| take(data)).collect();
    let shape = Shape::new(dims?)?;
    let len = shape.byte_len(dtype)?;
    let shard = Shard::new(index, count)?;
    let (own_shape, cut) = shard.of(name, dtype, &shape, len);
    assert_eq!(own_shape.byte_len(dtype), Some(cut.len()), "{shape} {own_shape} {cut:?}");
    grid.validate(len, dtype).ok()?;
    if len > MOST || count > 64 {
        return None;
    }
    let mut covered = vec![false; cut.len() as usize];
    let mut seen = 0;
    for rect in grid.rects() {
        assert!(rect.end() <= len);
        seen += rect.len();
        let span = cut.span(&rect);
        for run in cut.copies(rect) {
            assert!(run.len > 0 && run.from + run.len <= rect.len());
            assert!(span.start <= run.to && run.to + run.len <= span.end);
            for at in run.to..run.to + run.len {
                let place = &mut covered[at as usize];
                assert!(!std::mem::replace(place, true), "byte {at} has two sources");
            }
        }
    }
    assert_eq!(seen, len, "the grid does not cover the tensor");
    assert!(covered.iter().all(|&byte| byte), "a wanted byte has no source");
    let of = |index| Shard::new(index, count).map(|s| s.of(name, dtype, &shape, len).1.len());
    let together: u64 = (0..count).filter_map(of).sum();
    // Split over the ranks, or whole for each.
    assert!(together == len || together == len * u64::from(count));
    Some(())
}

fuzz_target!(|data: &[u8]| {
    check(data);
});
