//! GPTQ beside a slow solver in f64, which inverts what is left of the Hessian anew for every column.

use super::*;
use crate::dequant::Float;
use crate::quantize::solve::grid::{round_to_nearest, values};
use crate::quantize::solve::linalg::{add_gram, mirror, quadratic};

/// Numbers between -1 and 1 that look random.
fn noise(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// A weight and the Hessian of inputs that depend on each other and are of unequal strength.
fn problem(rows: usize, columns: usize) -> (Vec<f32>, Vec<f32>) {
    let tokens = 3 * columns;
    let mix = noise(3, columns * columns);
    let mut input = vec![0.0; tokens * columns];
    let plain = noise(5, tokens * columns);
    for (to, from) in input.chunks_mut(columns).zip(plain.chunks(columns)) {
        for (column, value) in to.iter_mut().enumerate() {
            let mixed: f32 = from.iter().zip(&mix[column * columns..]).map(|(a, b)| a * b).sum();
            let strength = 1.0 + 7.0 * ((column * 37) % 11) as f32 / 11.0;
            *value = strength * (from[column] + 0.1 * mixed);
        }
    }
    let mut hessian = vec![0.0; columns * columns];
    add_gram(&mut hessian, &input, columns);
    mirror(&mut hessian, columns);
    (noise(9, rows * columns), hessian)
}

fn factored(hessian: &[f32], columns: usize, options: &GptqOptions) -> Result<Factor, SolveError> {
    Factor::new(|| Ok(hessian.to_vec()), columns, options)
}

/// The inverse of a matrix, by elimination.
fn inverse(matrix: &[f64], order: usize) -> Vec<f64> {
    let mut left = matrix.to_vec();
    let mut right = vec![0.0; order * order];
    for at in 0..order {
        right[at * order + at] = 1.0;
    }
    for at in 0..order {
        let pivot = left[at * order + at];
        for column in 0..order {
            left[at * order + column] /= pivot;
            right[at * order + column] /= pivot;
        }
        for row in (0..order).filter(|row| *row != at) {
            let factor = left[row * order + at];
            for column in 0..order {
                left[row * order + column] -= factor * left[at * order + column];
                right[row * order + column] -= factor * right[at * order + column];
            }
        }
    }
    right
}

/// One row, column by column in `order`; each group's grid is that of its values when its first column
/// comes up, or of all its stored columns before the first is rounded.
fn slow(
    row: &[f32],
    hessian: &[f32],
    order: &[usize],
    group_of: &dyn Fn(usize) -> usize,
    options: &GptqOptions,
) -> Vec<u8> {
    let columns = row.len();
    let mut values: Vec<f64> = row.iter().map(|value| f64::from(*value)).collect();
    let mean =
        (0..columns).map(|at| f64::from(hessian[at * columns + at])).sum::<f64>() / columns as f64;
    let mut codes = vec![0; columns];
    let mut grids = std::collections::HashMap::new();
    for (place, column) in order.iter().enumerate() {
        let left = &order[place..];
        let of = group_of(place);
        let grid = *grids.entry(of).or_insert_with(|| {
            if options.order == Order::Static {
                let group = options.scheme.group_of(columns);
                let end = ((of + 1) * group).min(columns);
                return options.scheme.fit(&row[of * group..end], &[]);
            }
            let members: Vec<f32> = left
                .iter()
                .enumerate()
                .filter(|(at, _)| group_of(place + at) == of)
                .map(|(_, column)| values[*column] as f32)
                .collect();
            options.scheme.fit(&members, &[])
        });
        let part: Vec<f64> = left
            .iter()
            .flat_map(|a| left.iter().map(move |b| (a, b)))
            .map(|(a, b)| {
                let damped = if a == b { f64::from(options.damping) * mean } else { 0.0 };
                f64::from(hessian[a * columns + b]) + damped
            })
            .collect();
        let inverse = inverse(&part, left.len());
        let code = grid.code(values[*column] as f32, options.scheme.top());
        let error = (values[*column] - f64::from(grid.value(code))) / inverse[0];
        codes[*column] = code as u8;
        for (at, column) in left.iter().enumerate() {
            values[*column] -= error * inverse[at];
        }
    }
    codes
}

fn options(bits: u32, group: usize, symmetric: bool, order: Order) -> GptqOptions {
    let scheme = Scheme { bits, group: Some(group), symmetric, scale: Float::F32, shrinks: 0 };
    GptqOptions { scheme, damping: 0.01, order }
}

#[test]
fn codes_are_those_of_the_slow_solver() {
    let (rows, columns) = (3, 40);
    let (weight, hessian) = problem(rows, columns);
    for order in [Order::Stored, Order::Activation, Order::Static, Order::GroupAware] {
        for (bits, group, symmetric) in
            [(4, 16, true), (3, 16, false), (2, 40, false), (8, 7, true)]
        {
            let options = options(bits, group, symmetric, order);
            let factor = factored(&hessian, columns, &options).unwrap();
            let found = factor.solve(weight.clone(), rows).unwrap();
            let group_of = |place: usize| match order {
                Order::Activation => place / group,
                _ => factor.order[place] / group,
            };
            let mut apart = 0;
            for (row, codes) in weight.chunks(columns).zip(found.codes.codes.chunks(columns)) {
                let expected = slow(row, &hessian, &factor.order, &group_of, &options);
                apart += codes.iter().zip(expected).filter(|(a, b)| **a != *b).count();
            }
            // A value at the border of two codes may fall to either side.
            assert!(apart <= 1, "{order:?}, {bits} bits: {apart} codes differ");
            assert_eq!(found.codes.index.is_some(), order == Order::Activation);
            assert_eq!((factor.raised, factor.dead), (0, 0));
        }
    }
}

/// The strongest column is rounded first, to a grid that is that of rounding alone; the result is that of the slow
/// solver in the order that the test finds by itself.
#[test]
fn static_ordering_goes_by_falling_activation_with_grids_of_neighbours() {
    let (rows, columns, group) = (3, 40, 16);
    let (weight, hessian) = problem(rows, columns);
    let options = options(4, group, true, Order::Static);
    let mut order: Vec<usize> = (0..columns).collect();
    order.sort_by(|a, b| hessian[b * columns + b].total_cmp(&hessian[a * columns + a]));
    assert_ne!(order, (0..columns).collect::<Vec<_>>());
    let factor = factored(&hessian, columns, &options).unwrap();
    let found = factor.solve(weight.clone(), rows).unwrap().codes;
    let rounded = round_to_nearest(&weight, rows, columns, &[], &options.scheme).unwrap();
    assert_eq!(
        (&found.scales, &found.zeros, found.index.is_none()),
        (&rounded.scales, &rounded.zeros, true)
    );
    let group_of = |place: usize| order[place] / group;
    for (row, codes) in weight.chunks(columns).zip(found.codes.chunks(columns)) {
        let expected = slow(row, &hessian, &order, &group_of, &options);
        let apart = codes.iter().zip(&expected).filter(|(a, b)| a != b).count();
        assert!(apart <= 1, "{apart} codes differ");
        let stored: Vec<usize> = (0..columns).collect();
        let other = slow(row, &hessian, &stored, &|place| place / group, &options);
        let apart = codes.iter().zip(&other).filter(|(a, b)| a != b).count();
        assert!(apart > 4, "the order changes {apart} codes");
        // Nothing has made up for anything when the first column comes up.
        let first = order[0];
        let grid = options
            .scheme
            .fit(&row[first / group * group..((first / group + 1) * group).min(columns)], &[]);
        assert_eq!(codes[first], grid.code(row[first], options.scheme.top()) as u8);
    }
}

#[test]
fn the_output_is_closer_than_that_of_rounding() {
    let (rows, columns) = (130, 300);
    let (weight, hessian) = problem(rows, columns);
    for order in [Order::Stored, Order::Activation, Order::Static, Order::GroupAware] {
        let options = options(3, 128, false, order);
        let cost = |codes: &Codes| {
            let off: Vec<f32> = values(codes).iter().zip(&weight).map(|(a, b)| a - b).collect();
            quadratic(&off, &hessian, columns)
        };
        let factor = factored(&hessian, columns, &options).unwrap();
        let found = factor.solve(weight.clone(), rows).unwrap();
        let rounded = round_to_nearest(&weight, rows, columns, &[], &options.scheme).unwrap();
        let (solved, plain) = (cost(&found.codes), cost(&rounded));
        assert!(solved < 0.7 * plain, "{order:?}: {solved} for {plain}");
        // What the solver says it cost is the damped error of the output.
        let damped: f64 = found.errors.iter().sum();
        assert!(damped > solved && damped < 1.5 * solved, "{damped} {solved}");
        let off: Vec<f32> = values(&found.codes).iter().zip(&weight).map(|(a, b)| a - b).collect();
        for (row, error) in off.chunks(columns).zip(&found.errors).step_by(17) {
            let (known, is) = (quadratic(row, &hessian, columns), factor.undamped(*error, row));
            assert!((is / known - 1.0).abs() < 1e-3, "{order:?}: {is} for {known}");
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let (rows, columns) = (300, 260);
    let (weight, hessian) = problem(rows, columns);
    let options = options(4, 128, false, Order::Activation);
    let solve = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            factored(&hessian, columns, &options).unwrap().solve(weight.clone(), rows).unwrap()
        })
    };
    let one = solve(1);
    for threads in [2, 3, 8] {
        assert_eq!(solve(threads), one, "{threads} threads");
    }
}

#[test]
fn dead_columns_become_zero_and_are_counted() {
    let (rows, columns) = (2, 32);
    let (weight, mut hessian) = problem(rows, columns);
    for at in 0..columns {
        hessian[5 * columns + at] = 0.0;
        hessian[at * columns + 5] = 0.0;
    }
    let options = options(4, 32, false, Order::Stored);
    let factor = factored(&hessian, columns, &options).unwrap();
    assert_eq!(factor.dead, 1);
    let found = factor.solve(weight.clone(), rows).unwrap();
    for row in values(&found.codes).chunks(columns) {
        assert_eq!(row[5], 0.0);
    }
    let none = vec![0.0; columns * columns];
    let factor = factored(&none, columns, &options).unwrap();
    let found = factor.solve(weight.clone(), rows).unwrap();
    assert!(factor.dead == columns && values(&found.codes).iter().all(|value| *value == 0.0));
}

#[test]
fn damping_is_raised_and_told_or_the_solver_fails() {
    let order = 8;
    // All ones: of rank one, and less than that in f32 once rounding is against it.
    let mut hessian = vec![1.0_f32; order * order];
    for at in 1..order {
        hessian[at * order] = 1.0 + 1e-3;
        hessian[at] = 1.0 + 1e-3;
    }
    let options = GptqOptions { damping: 0.0, ..options(4, 8, false, Order::Stored) };
    let factor = factored(&hessian, order, &options).unwrap();
    assert!(factor.raised > 0 && factor.damping > 0.0);
    // Negative far beyond what damping mends.
    hessian[order] = 100.0;
    hessian[1] = 100.0;
    let error = factored(&hessian, order, &options).unwrap_err();
    assert_eq!(error, SolveError::Indefinite { damping: 1.0 });
    hessian[0] = f32::NAN;
    let error = factored(&hessian, order, &options).unwrap_err();
    assert!(matches!(error, SolveError::NotFinite { row: 0, column: 0, .. }));
}
