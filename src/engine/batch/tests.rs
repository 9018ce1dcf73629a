//! Random texts against what must always hold.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

/// Runs a batch to its end. What a block holds is followed as a cache would: which token of which text.
fn run(
    blocks: usize,
    limits: BatchLimits,
    texts: &[(Vec<u32>, usize)],
    cancelled: &[u64],
) -> Vec<Vec<u32>> {
    let mut batch = Batch::new(blocks, limits);
    let mut cache: HashMap<(u32, usize), u32> = HashMap::new();
    let mut made: BTreeMap<TextId, Vec<u32>> = BTreeMap::new();
    let mut left: HashMap<TextId, usize> = HashMap::new();
    for (id, (prompt, count)) in texts.iter().enumerate() {
        batch.add(id as u64, prompt.clone(), Arc::from(""), false);
        made.insert(id as u64, Vec::new());
        left.insert(id as u64, *count);
    }
    for step in 0..100_000 {
        if let Some(id) = cancelled.get(step) {
            batch.remove(*id);
            left.remove(id);
        }
        let slices = batch.next();
        if slices.is_empty() {
            assert!(left.is_empty(), "texts {left:?} never run: {batch:?}");
            assert_eq!(batch.blocks.available(), blocks, "a block was lost");
            return made.into_values().collect();
        }
        let total: usize = slices.iter().map(|slice| slice.to - slice.from).sum();
        assert!(total <= limits.step && batch.running.len() <= limits.running);
        for slice in &slices {
            let (tokens, blocks) = batch.text(slice.id).unwrap();
            for at in slice.from..slice.to {
                cache.insert((blocks[at / BLOCK], at % BLOCK), tokens[at]);
            }
        }
        for slice in &slices {
            let (tokens, blocks) = batch.text(slice.id).unwrap();
            for at in 0..slice.to {
                let held = cache.get(&(blocks[at / BLOCK], at % BLOCK));
                assert_eq!(held, Some(&tokens[at]), "text {} token {at}", slice.id);
            }
            let ends = slice.to == tokens.len();
            assert_eq!(slice.ends, ends);
            // What comes next follows from all tokens.
            let next = tokens
                .iter()
                .fold(slice.id as u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token))
                % 50;
            batch.done(slice);
            if ends {
                batch.push(slice.id, next);
                made.get_mut(&slice.id).unwrap().push(next);
                let left_of = left.get_mut(&slice.id).unwrap();
                *left_of -= 1;
                if *left_of == 0 {
                    left.remove(&slice.id);
                    batch.remove(slice.id);
                }
            }
        }
    }
    panic!("it never ends");
}

proptest! {
    #[test]
    fn every_text_gets_what_it_gets_alone_and_no_block_is_lost(
        shared in 0..40_usize,
        texts in prop::collection::vec((1..70_usize, 1..40_usize), 1..9),
        blocks in 8..30_usize,
        running in 1..6_usize,
        step in 1..64_usize,
    ) {
        let prompt = |id: usize, len: usize| -> Vec<u32> {
            (0..len as u32).map(|at| if (at as usize) < shared { at } else { at * 7 + id as u32 }).collect()
        };
        let texts: Vec<_> =
            texts.iter().enumerate().map(|(id, (len, count))| (prompt(id, *len), *count)).collect();
        let limits = BatchLimits { running, step: step.max(running) };
        let together = run(blocks, limits, &texts, &[]);
        for (id, (text, got)) in texts.iter().zip(&together).enumerate() {
            prop_assert_eq!(got.len(), text.1);
            let mut all = text.0.clone();
            for token in got {
                let next = all.iter().fold(id as u32, |sum, token| sum.wrapping_mul(31).wrapping_add(*token)) % 50;
                prop_assert_eq!(*token, next);
                all.push(next);
            }
        }
        run(blocks, limits, &texts, &[0, 2, 4, 1]);
    }
}

#[test]
fn a_prefix_that_was_computed_is_found() {
    let limits = BatchLimits { running: 4, step: 64 };
    let mut batch = Batch::new(16, limits);
    let prompt: Vec<u32> = (0..40).collect();
    for (id, with, expected) in [(1, "", 0), (2, "", 32), (3, "adapter", 0)] {
        let mut own = prompt.clone();
        own.push(id as u32);
        batch.add(id, own, Arc::from(with), false);
        let slices = batch.next();
        assert_eq!(slices[0].from, expected, "{id}");
        batch.done(&slices[0]);
        assert_eq!(batch.blocks.owners(batch.running[0].blocks[0]), 1);
        batch.remove(id);
    }
    assert_eq!(batch.totals().0, 32);
    batch.restart();
    batch.add(4, prompt, Arc::from(""), false);
    assert_eq!(batch.next()[0].from, 0);
}

#[test]
fn a_long_prompt_does_not_hold_up_short_ones() {
    let mut batch = Batch::new(1000, BatchLimits { running: 8, step: 64 });
    batch.add(1, vec![7; 4000], Arc::from(""), false);
    for id in 2..5 {
        batch.add(id, vec![id as u32; 10], Arc::from(""), false);
    }
    let slices = batch.next();
    assert_eq!(slices.iter().filter(|slice| slice.ends).count(), 3);
    assert_eq!(slices.iter().map(|slice| slice.to - slice.from).sum::<usize>(), 64);
}
