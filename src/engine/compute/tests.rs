//! Products against the slow reference, for every layout, shape and instruction set.

use bytes::Bytes;

use super::lanes::Isa;
use super::matrix::{Matrix, Stored};
use super::product::{product, row};
use super::states::States;
use crate::dequant::{Float, dequantize, sample};

/// Numbers between -1 and 1.
pub(super) fn random(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

fn states(len: usize, width: usize, seed: u64) -> States {
    let mut states = States::new(len, width);
    let mut next = random(seed);
    states.rows_mut().flatten().for_each(|value| *value = next());
    states
}

/// Every weight there is, with what it is worth.
fn weights() -> Vec<(String, Matrix, Vec<f32>)> {
    let floats = |bytes: &[u8]| -> Vec<f32> {
        bytes.as_chunks::<4>().0.iter().map(|word| f32::from_le_bytes(*word)).collect()
    };
    let mut all = Vec::new();
    for (name, weight) in sample::cases(40, 256).into_iter().chain(sample::host_cases(40, 512)) {
        let mut own = sample::parts(&weight, 7);
        if name.contains("fp8") {
            own.0[0].iter_mut().for_each(|code| *code &= 0xfe);
        }
        let worth = floats(&dequantize(&weight, &own.borrow(), Float::F32).unwrap());
        let matrix = Matrix::quantized(&weight, &own.borrow()).expect(&name);
        all.push((name, matrix, worth));
    }
    for (float, rows, columns) in [
        (Float::F32, 37, 96),
        (Float::F32, 5, 33),
        (Float::F16, 37, 70),
        (Float::BF16, 37, 31),
        (Float::BF16, 64, 128),
    ] {
        let mut next = random(3);
        let mut bytes = Vec::new();
        (0..rows * columns).for_each(|_| float.push(next(), &mut bytes));
        let worth: Vec<f32> = (0..rows * columns).map(|at| float.read(&bytes, at)).collect();
        let matrix = Matrix::floats(rows, columns, float, Bytes::from(bytes)).unwrap();
        all.push((format!("{float:?} {rows}x{columns}"), matrix, worth));
    }
    all
}

/// How far a product may be off where states are rounded: each value of a block by half a step, of which the largest
/// has 32767.
fn rounding(weight: &Matrix, worth: &[f32], state: &[f32]) -> f64 {
    let Stored::Tiles(tiles) = &weight.stored else { return 0.0 };
    let blocks = worth.chunks(tiles.block()).zip(state.chunks(tiles.block()));
    blocks
        .map(|(worth, state)| {
            let most = state.iter().map(|value| value.abs()).fold(0.0, f32::max);
            let size: f64 = worth.iter().zip(state).map(|(own, _)| f64::from(own.abs())).sum();
            size * f64::from(most) / 65533.0
        })
        .sum()
}

#[test]
fn products_are_those_of_the_reference_and_the_same_for_any_number_of_states() {
    for (name, weight, worth) in weights() {
        let (rows, columns) = (weight.rows(), weight.columns());
        let x = states(19, columns, 11);
        let exact = |m: usize, n: usize| -> (f64, f64) {
            let line = worth[n * columns..(n + 1) * columns].iter().zip(x.row(m));
            line.fold((0.0, 0.0), |(sum, size), (w, x)| {
                let own = f64::from(*w) * f64::from(*x);
                (sum + own, size + own.abs())
            })
        };
        for isa in Isa::all() {
            let mut all = States::new(19, rows);
            product(isa, &weight, &x, &mut all);
            for m in 0..19 {
                for n in 0..rows {
                    let (sum, size) = exact(m, n);
                    let off = (f64::from(all.row(m)[n]) - sum).abs();
                    // Sums of f32 in sixteen parts.
                    let bound = size * 4e-7 * (columns as f64 / 16.0 + 8.0).sqrt() + 1e-30;
                    let bound = bound + rounding(&weight, &worth[n * columns..], x.row(m));
                    assert!(off <= bound, "{name} {isa:?} [{m}, {n}]: {sum}, off by {off}");
                }
            }
            for some in [1, 2, 3, 7, 16] {
                let mut few = States::new(some, columns);
                for m in 0..some {
                    few.row_mut(m).copy_from_slice(x.row(m + 3));
                }
                let mut out = States::new(some, rows);
                product(isa, &weight, &few, &mut out);
                for m in 0..some {
                    let same = out.row(m).iter().zip(all.row(m + 3));
                    assert!(
                        same.clone().all(|(a, b)| a.to_bits() == b.to_bits()),
                        "{name} {isa:?}: {some} states differ from 19"
                    );
                }
            }
            let mut line = vec![0.0; columns];
            for n in [0, rows / 2, rows - 1] {
                row(isa, &weight, n, &mut line);
                let own = &worth[n * columns..(n + 1) * columns];
                let most = own.iter().map(|value| value.abs()).fold(0.0, f32::max);
                for (ours, own) in line.iter().zip(own) {
                    assert!((ours - own).abs() <= most * 2e-6, "{name} {isa:?}: {ours}, {own}");
                }
            }
        }
    }
}

#[test]
fn states_of_every_size_are_rounded_by_their_blocks() {
    for (name, weight, worth) in weights() {
        let Stored::Tiles(tiles) = &weight.stored else { continue };
        let (columns, block) = (weight.columns(), tiles.block());
        let mut x = states(2, columns, 5);
        // The first state has blocks from 1e-30 to 1e30 of size and one of zeros; in the second one value is none.
        for (at, own) in x.row_mut(0).chunks_mut(block).enumerate() {
            let by = [1.0, 1e-20, 1e20, 0.0, 1e-42][at % 5];
            own.iter_mut().for_each(|value| *value *= by);
        }
        for (none, isa) in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].iter().zip(Isa::all()) {
            x.row_mut(1)[columns / 2] = *none;
            let mut out = States::new(2, weight.rows());
            product(isa, &weight, &x, &mut out);
            for (n, own) in out.row(0).iter().enumerate() {
                let line = worth[n * columns..(n + 1) * columns].iter().zip(x.row(0));
                let (sum, size) = line.fold((0.0, 0.0), |(sum, size), (w, x)| {
                    let own = f64::from(*w) * f64::from(*x);
                    (sum + own, size + own.abs())
                });
                let off = (f64::from(*own) - sum).abs();
                let bound = size * 4e-7 * (columns as f64 / 16.0 + 8.0).sqrt() + 1e-30;
                let bound = bound + rounding(&weight, &worth[n * columns..], x.row(0));
                assert!(off <= bound, "{name} {isa:?} {n}: {sum}, off by {off}");
            }
            assert!(out.row(1).iter().all(|own| own.is_nan()), "{name} {isa:?} {none}");
        }
    }
}

#[test]
fn rows_move_with_their_scales() {
    for (name, weight, worth) in weights() {
        let (rows, columns) = (weight.rows(), weight.columns());
        let moved = weight.with_rows(|row| (row * 7 + 3) % rows);
        let mut line = vec![0.0; columns];
        // 7 and the number of rows may share a factor: rows are then there twice.
        for n in 0..rows {
            row(Isa::best(), &moved, n, &mut line);
            let from = (n * 7 + 3) % rows * columns;
            let own = &worth[from..from + columns];
            let most = own.iter().map(|value| value.abs()).fold(0.0, f32::max);
            for (ours, own) in line.iter().zip(own) {
                assert!((ours - own).abs() <= most * 2e-6, "{name} {n}: {ours}, {own}");
            }
        }
    }
}

#[test]
fn attention_is_that_of_the_definition_whoever_else_asks() {
    use super::attend::{Manner, Sight, attend};
    use super::cache::{BLOCK, Cache};

    for (heads, kv_heads, head_dim, window) in
        [(4, 2, 32, None), (6, 2, 24, Some(5)), (3, 3, 8, None)]
    {
        let tokens = 3 * BLOCK - 5;
        let mut cache = Cache::new(2, kv_heads, head_dim, 8);
        // Two texts with the same tokens in other blocks.
        let texts = [[5_u32, 0, 3], [1, 7, 2]];
        let (keys, values) =
            (states(tokens, kv_heads * head_dim, 1), states(tokens, kv_heads * head_dim, 2));
        for blocks in &texts {
            for at in 0..tokens {
                cache.put(1, (blocks[at / BLOCK], at % BLOCK), at, [&keys, &values]);
            }
        }
        let queries = states(tokens, heads * head_dim, 3);
        let manner = Manner { layer: 1, heads, scale: 0.3, window };
        for isa in Isa::all() {
            let run = |text: &[u32], rows: std::ops::Range<usize>| {
                let mut own = States::new(rows.len(), heads * head_dim);
                for (to, from) in rows.clone().enumerate() {
                    own.row_mut(to).copy_from_slice(queries.row(from));
                }
                let sights: Vec<_> =
                    rows.map(|position| Sight { blocks: text, position }).collect();
                let mut out = States::new(own.len(), own.width());
                attend(isa, &cache, manner, &own, &sights, &mut out);
                out
            };
            let all = run(&texts[0], 0..tokens);
            let alone = run(&texts[1], tokens - 1..tokens);
            assert_eq!(alone.row(0), all.row(tokens - 1), "{isa:?}");
            for position in 0..tokens {
                for head in 0..heads {
                    let of = |states: &States, at: usize, head: usize| -> Vec<f64> {
                        let row = &states.row(at)[head * head_dim..(head + 1) * head_dim];
                        row.iter().map(|value| f64::from(*value)).collect()
                    };
                    let query = of(&queries, position, head);
                    let begin =
                        window.map_or(0, |window| (position + 1_usize).saturating_sub(window));
                    let own = head / (heads / kv_heads);
                    let scores: Vec<f64> = (begin..=position)
                        .map(|at| {
                            let key = of(&keys, at, own);
                            query.iter().zip(&key).map(|(a, b)| a * b).sum::<f64>() * 0.3
                        })
                        .map(f64::exp)
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for (i, out) in of(&all, position, head).iter().enumerate() {
                        let expected = (begin..=position).zip(&scores);
                        let expected: f64 =
                            expected.map(|(at, s)| of(&values, at, own)[i] * s / total).sum();
                        assert!(
                            (out - expected).abs() < 1e-5,
                            "{isa:?} {position} {head}: {out}, {expected}"
                        );
                    }
                }
            }
        }
    }
}
