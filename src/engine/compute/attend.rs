//! Attention over blocks of keys and values. Every query is on its own, and sees its keys in order: what comes of
//! it does not depend on who else asks.

use std::cell::RefCell;

use rayon::prelude::*;

use super::cache::{BLOCK, Cache};
use super::lanes::{Isa, Kernel, LANES, Lanes};
use super::states::States;

/// What a state sees.
#[derive(Debug, Clone, Copy)]
pub struct Sight<'a> {
    /// The blocks of its text, from the first token on.
    pub blocks: &'a [u32],
    /// Its place in the text: it sees what is there and before.
    pub position: usize,
}

/// How a layer attends.
#[derive(Debug, Clone, Copy)]
pub struct Manner {
    /// Which layer.
    pub layer: usize,
    /// Heads of queries.
    pub heads: usize,
    /// What products of queries and keys are multiplied with.
    pub scale: f32,
    /// Keys that a query sees back, itself included; none: all.
    pub window: Option<usize>,
}

thread_local! {
    static ROOM: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// For each state what its queries, `[heads * head_dim]`, bring back from the values it sees.
pub(super) fn attend(
    isa: Isa,
    cache: &Cache,
    manner: Manner,
    queries: &States,
    sights: &[Sight<'_>],
    out: &mut States,
) {
    let head_dim = queries.width() / manner.heads.max(1);
    let group = manner.heads / cache.heads().max(1);
    if head_dim == 0 || group == 0 {
        return;
    }
    // What follows reads tokens that the cache has, of heads that it has.
    let held = sights.iter().all(|sight| {
        sight.blocks.len() * BLOCK > sight.position
            && sight.blocks.iter().all(|block| (*block as usize) < cache.blocks())
    });
    assert!(held, "a text that the cache does not hold");
    assert!(head_dim <= cache.width(), "heads that the cache does not hold");
    assert!(!cache.keys(manner.layer).is_empty(), "a layer that the cache does not hold");
    let seen: usize = sights.iter().map(|sight| sight.position + 1).sum();
    let (width, stride) = (queries.width(), out.stride().max(1));
    let rows = out.slots();
    let tasks = rows.chunks_mut(stride).zip(sights).enumerate().flat_map(|(row, (to, sight))| {
        let to = to.get_mut(..width).unwrap_or_default();
        let from = queries.row(row);
        to.chunks_mut(head_dim * group).zip(from.chunks(head_dim * group)).enumerate().map(
            move |(head, (to, from))| Task {
                cache,
                manner,
                head,
                sight: *sight,
                head_dim,
                from,
                to,
            },
        )
    });
    if seen * width <= 16 << 10 {
        tasks.for_each(|task| isa.run(task));
    } else {
        tasks.collect::<Vec<_>>().into_par_iter().for_each(|task| isa.run(task));
    }
}

/// The queries of a state that share a head of keys.
struct Task<'a> {
    cache: &'a Cache,
    manner: Manner,
    head: usize,
    sight: Sight<'a>,
    head_dim: usize,
    from: &'a [f32],
    to: &'a mut [f32],
}

impl Kernel for Task<'_> {
    type Out = ();

    #[inline(always)]
    unsafe fn run<L: Lanes>(self) {
        let Self { cache, manner, head, sight, head_dim, from, to } = self;
        let width = cache.width();
        let end = sight.position + 1;
        let begin = manner.window.map_or(0, |window| end.saturating_sub(window));
        assert!(head < cache.heads(), "a head that the cache does not hold");
        let (keys, values) = (cache.keys(manner.layer), cache.values(manner.layer));
        let place = |at: usize| cache.place(sight.blocks[at / BLOCK], head) + at % BLOCK * width;
        // Taken and put back: what runs in a closure would not be compiled for the instructions.
        let mut room = ROOM.take();
        room.clear();
        room.resize(2 * width + end - begin, 0.0);
        let (query, rest) = room.split_at_mut(width);
        let (sum, scores) = rest.split_at_mut(width);
        let queries = from.chunks(head_dim).zip(to.chunks_mut(head_dim));
        for (from, to) in queries {
            query[..from.len()].copy_from_slice(from);
            let mut most = f32::NEG_INFINITY;
            // SAFETY: the caller's; the places of the tokens lie within the cache, as `attend` has asserted.
            unsafe {
                for (at, score) in (begin..end).zip(scores.iter_mut()) {
                    let key = keys.as_ptr().add(place(at));
                    let mut product = L::splat(0.0);
                    let mut lane = 0;
                    while lane < width {
                        product =
                            product.plus(L::load(query.as_ptr().add(lane)), L::load(key.add(lane)));
                        lane += LANES;
                    }
                    *score = product.sum() * manner.scale;
                    most = most.max(*score);
                }
            }
            let mut total = 0.0;
            for score in scores.iter_mut() {
                *score = (*score - most).exp();
                total += *score;
            }
            let part = 1.0 / total;
            // SAFETY: as above; `sum` is as wide as a head.
            unsafe {
                let mut lane = 0;
                while lane < width {
                    let mut own = L::splat(0.0);
                    for (at, score) in (begin..end).zip(scores.iter()) {
                        let value = values.as_ptr().add(place(at) + lane);
                        own = own.plus(L::splat(*score), L::load(value));
                    }
                    own.times(L::splat(part)).store(sum.as_mut_ptr().add(lane));
                    lane += LANES;
                }
            }
            to.copy_from_slice(&sum[..to.len()]);
        }
        ROOM.set(room);
    }
}
