//! Products, Cholesky factors and triangular inverses of f32 matrices in blocks.
//!
//! What a block computes and in which order does not depend on the number of threads.

use gemm::{Parallelism, gemm};
use rayon::prelude::*;

/// Rows of a block that is factored on its own.
const LEAF: usize = 64;
/// Columns of a stripe of a symmetric product, of which only the lower half is computed.
const STRIPE: usize = 256;

/// A matrix within a slice.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) data: &'a [f32],
    /// Elements from a row to the next.
    pub(super) row: usize,
    /// Elements from a column to the next.
    pub(super) column: usize,
}

/// Whether `rows x columns` elements lie within `len`.
fn holds(len: usize, rows: usize, columns: usize, row: usize, column: usize) -> bool {
    rows == 0 || columns == 0 || (rows - 1) * row + (columns - 1) * column < len
}

/// `to = keep * to + times * a b`, where a is `rows x inner` and b `inner x columns`; `to` has rows of
/// `stride` elements.
pub(super) fn multiply(
    to: (&mut [f32], usize),
    [rows, columns, inner]: [usize; 3],
    keep: f32,
    times: f32,
    a: View<'_>,
    b: View<'_>,
    threads: Parallelism,
) {
    let (to, stride) = to;
    assert!(holds(to.len(), rows, columns, stride, 1), "a product that its matrix does not hold");
    assert!(columns <= stride || rows <= 1, "a product whose rows overlap");
    assert!(holds(a.data.len(), rows, inner, a.row, a.column), "a factor that is too small");
    assert!(holds(b.data.len(), inner, columns, b.row, b.column), "a factor that is too small");
    if rows == 0 || columns == 0 {
        return;
    }
    // SAFETY: every element of the three matrices lies within its slice, as was just checked, and the
    // elements of `to` do not overlap; strides are below the slices' lengths, so that they fit isize.
    unsafe {
        gemm(
            rows,
            columns,
            inner,
            to.as_mut_ptr(),
            1,
            stride as isize,
            keep != 0.0,
            a.data.as_ptr(),
            a.column as isize,
            a.row as isize,
            b.data.as_ptr(),
            b.column as isize,
            b.row as isize,
            keep,
            times,
            false,
            false,
            false,
            threads,
        );
    }
}

/// As many threads as the pool has.
pub(super) const POOL: Parallelism = Parallelism::Rayon(0);

/// Adds `X^T X` to `gram`, `[columns, columns]`, for `X`, `[rows, columns]`: its lower half; the upper is
/// [mirrored](mirror) at the end.
pub fn add_gram(gram: &mut [f32], input: &[f32], columns: usize) {
    let rows = input.len() / columns.max(1);
    for first in (0..columns).step_by(STRIPE) {
        let width = STRIPE.min(columns - first);
        let below = gram.get_mut(first * columns + first..).unwrap_or_default();
        let a = View { data: input.get(first..).unwrap_or_default(), row: 1, column: columns };
        let b = View { data: input.get(first..).unwrap_or_default(), row: columns, column: 1 };
        multiply((below, columns), [columns - first, width, rows], 1.0, 1.0, a, b, POOL);
    }
}

/// Copies the lower half of a square matrix to the upper.
pub fn mirror(matrix: &mut [f32], order: usize) {
    // By small squares, which stay in the cache.
    for first in (0..order).step_by(LEAF) {
        for above in (0..=first).step_by(LEAF) {
            for row in first..(first + LEAF).min(order) {
                for column in above..(above + LEAF).min(row) {
                    matrix[column * order + row] = matrix[row * order + column];
                }
            }
        }
    }
}

/// The sum over rows of `d H d^T`, for rows `d` of `matrix`, `[rows, columns]`, and a symmetric `H`: the
/// squared error of a layer's output, where `d` is the error of its weight.
pub fn quadratic(matrix: &[f32], hessian: &[f32], columns: usize) -> f64 {
    const ROWS: usize = 256;
    let mut product = vec![0.0; ROWS * columns];
    let mut total = 0.0;
    for part in matrix.chunks(ROWS * columns.max(1)) {
        let rows = part.len() / columns.max(1);
        let a = View { data: part, row: columns, column: 1 };
        let b = View { data: hessian, row: columns, column: 1 };
        multiply((&mut product, columns), [rows, columns, columns], 0.0, 1.0, a, b, POOL);
        for (product, values) in product.chunks(columns.max(1)).zip(part.chunks(columns.max(1))) {
            total += f64::from(product.iter().zip(values).map(|(a, b)| a * b).sum::<f32>());
        }
    }
    total
}

/// A symmetric matrix, `[order, order]`, of whose lower half the inverse of its lower Cholesky factor is made,
/// in its own place: what was factored is not kept. The upper half is zeros throughout.
struct Factors {
    order: usize,
    values: Vec<f32>,
}

impl Factors {
    /// Factors `count` rows and columns from `first` on, of which the products with those before have been taken
    /// out. False if the matrix is not positive definite.
    ///
    /// With the factor of the first half and its inverse known, what is below is `A21 L11^-T`; the second half is
    /// factored less that times itself; and the inverse there is `-L22^-1 L21 L11^-1`. Each product with a
    /// triangle goes by stripes in such an order that none needs what a stripe before it has replaced.
    fn descend(&mut self, first: usize, count: usize) -> bool {
        if count <= LEAF {
            return self.leaf(first, count);
        }
        let (order, half) = (self.order, (count / 2).next_multiple_of(LEAF));
        let (next, rest) = (first + half, count - half);
        if !self.descend(first, half) {
            return false;
        }
        let corner = first * order + first;
        let below = next * order + first;
        let mut stripe = vec![0.0; STRIPE.min(half.max(rest)) * half.max(rest)];
        for from in (0..half).step_by(STRIPE).rev() {
            let width = STRIPE.min(half - from);
            let a = self.view(below, false);
            let b = self.view(corner + from * order, true);
            let shape = [rest, width, from + width];
            multiply((&mut stripe, width), shape, 0.0, 1.0, a, b, POOL);
            self.put(below + from, &stripe, [rest, width]);
        }
        for from in (0..rest).step_by(STRIPE) {
            let (rows, width) = (rest - from, STRIPE.min(rest - from));
            let to = (next + from) * order + next + from;
            let lines = self.values[to..].chunks(order).take(rows);
            for (values, line) in stripe.chunks_mut(width).zip(lines) {
                values.copy_from_slice(&line[..width]);
            }
            let a = self.view(below + from * order, false);
            let b = self.view(below + from * order, true);
            multiply((&mut stripe, width), [rows, width, half], 1.0, -1.0, a, b, POOL);
            for row in 1..width {
                stripe[(row - 1) * width + row..row * width].fill(0.0);
            }
            self.put(to, &stripe, [rows, width]);
        }
        if !self.descend(next, rest) {
            return false;
        }
        for from in (0..half).step_by(STRIPE) {
            let width = STRIPE.min(half - from);
            let a = self.view(below + from, false);
            let b = self.view(corner + from * order + from, false);
            multiply((&mut stripe, width), [rest, width, half - from], 0.0, 1.0, a, b, POOL);
            self.put(below + from, &stripe, [rest, width]);
        }
        for from in (0..rest).step_by(STRIPE).rev() {
            let width = STRIPE.min(rest - from);
            let a = self.view((next + from) * order + next, false);
            let b = self.view(below, false);
            multiply((&mut stripe, half), [width, half, from + width], 0.0, -1.0, a, b, POOL);
            self.put(below + from * order, &stripe, [width, half]);
        }
        true
    }

    /// The matrix from this element on.
    fn view(&self, from: usize, is_transposed: bool) -> View<'_> {
        let data = self.values.get(from..).unwrap_or_default();
        match is_transposed {
            false => View { data, row: self.order, column: 1 },
            true => View { data, row: 1, column: self.order },
        }
    }

    /// Puts a matrix of this shape there.
    fn put(&mut self, to: usize, values: &[f32], [rows, columns]: [usize; 2]) {
        let lines = self.values[to..].chunks_mut(self.order).zip(values.chunks(columns));
        for (line, values) in lines.take(rows) {
            line[..columns].copy_from_slice(values);
        }
    }

    /// The same of a block on the diagonal, in f64: its errors spread to all that follows.
    fn leaf(&mut self, first: usize, count: usize) -> bool {
        let order = self.order;
        let mut block = vec![0.0_f64; count * count];
        for (row, values) in block.chunks_mut(count).enumerate() {
            let from = (first + row) * order + first;
            for (value, stored) in values.iter_mut().zip(&self.values[from..=from + row]) {
                *value = f64::from(*stored);
            }
        }
        for at in 0..count {
            let (above, own) = block.split_at_mut(at * count);
            let own = &mut own[..=at];
            for column in 0..at {
                let other = &above[column * count..column * count + column + 1];
                let dot: f64 = own[..column].iter().zip(other).map(|(a, b)| a * b).sum();
                own[column] = (own[column] - dot) / other[column];
            }
            let rest = own[at] - own[..at].iter().map(|value| value * value).sum::<f64>();
            if !(rest > 0.0 && rest.is_finite()) {
                return false;
            }
            own[at] = rest.sqrt();
        }
        let mut inverse = vec![0.0_f64; count * count];
        for row in 0..count {
            let (above, own) = inverse.split_at_mut(row * count);
            let factor = &block[row * count..=row * count + row];
            own[row] = 1.0;
            for (factor, above) in factor.iter().zip(above.chunks(count)) {
                for (value, above) in own[..row].iter_mut().zip(above) {
                    *value -= factor * above;
                }
            }
            own[..=row].iter_mut().for_each(|value| *value /= factor[row]);
        }
        for (row, values) in inverse.chunks(count).enumerate() {
            let to = (first + row) * order + first;
            for (stored, value) in self.values[to..to + count].iter_mut().zip(values) {
                *stored = *value as f32;
            }
        }
        true
    }
}

/// The upper triangular `U` with `U^T U` the inverse of a symmetric matrix, in the place of that; `None` if it is
/// not positive definite. `reversed` is the matrix with rows and columns reversed, of which the lower half is
/// read.
///
/// Reversed, `H = L L^T`; then `U` is the inverse of `L`, reversed.
pub(super) fn inverse_factor(mut reversed: Vec<f32>, order: usize) -> Option<Vec<f32>> {
    for (row, values) in reversed.chunks_mut(order.max(1)).enumerate() {
        values[row + 1..].fill(0.0);
    }
    let mut factors = Factors { order, values: reversed };
    if !factors.descend(0, order) {
        return None;
    }
    let mut inverse = factors.values;
    inverse.reverse();
    inverse
        .par_chunks(1 << 16)
        .all(|part| part.iter().all(|value| value.is_finite()))
        .then_some(inverse)
}

/// Puts row and column `order[i]` of a symmetric matrix, all of which is read, in place `i`, for an `order` that
/// names each once.
pub(super) fn permute(matrix: &mut [f32], order: &[usize]) {
    let count = order.len();
    let mut placed = vec![false; count];
    let mut first = vec![0.0; count];
    for start in 0..count {
        if std::mem::replace(&mut placed[start], true) || order[start] == start {
            continue;
        }
        // Along a cycle every row moves to where the one before it was.
        first.copy_from_slice(&matrix[start * count..][..count]);
        let mut at = start;
        while order[at] != start {
            let from = order[at];
            matrix.copy_within(from * count..(from + 1) * count, at * count);
            placed[from] = true;
            at = from;
        }
        matrix[at * count..][..count].copy_from_slice(&first);
    }
    matrix.par_chunks_mut(count.max(1)).for_each_init(Vec::new, |row: &mut Vec<f32>, values| {
        row.clear();
        row.extend(order.iter().map(|from| values[*from]));
        values.copy_from_slice(row);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers between -1 and 1 that look random.
    fn noise(count: usize) -> Vec<f32> {
        let mut state = 1_u64;
        let next = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(next).collect()
    }

    #[test]
    fn the_factor_of_the_inverse_undoes_the_matrix() {
        // 1792: a stripe that is narrower than others, with more rows below than it has.
        for order in [1, 7, 64, 65, 300, 1792] {
            let input = noise(3 * order * order);
            let mut gram = vec![0.0; order * order];
            add_gram(&mut gram, &input, order);
            for at in 0..order {
                gram[at * order + at] += 0.1;
            }
            mirror(&mut gram, order);
            let mut reversed = gram.clone();
            reversed.reverse();
            let factor = inverse_factor(reversed, order).unwrap();
            let slow = |row: usize, column: usize| -> f64 {
                input.chunks(order).map(|x| f64::from(x[row]) * f64::from(x[column])).sum()
            };
            assert!((f64::from(gram[order - 1]) - slow(0, order - 1)).abs() < 0.2, "{order}");
            // U H U^T is the identity.
            let mut half = vec![0.0; order * order];
            let u = View { data: &factor, row: order, column: 1 };
            let h = View { data: &gram, row: order, column: 1 };
            multiply((&mut half, order), [order; 3], 0.0, 1.0, u, h, POOL);
            let mut one = vec![0.0; order * order];
            let a = View { data: &half, row: order, column: 1 };
            let b = View { data: &factor, row: 1, column: order };
            multiply((&mut one, order), [order; 3], 0.0, 1.0, a, b, POOL);
            for (at, value) in one.iter().enumerate() {
                let (row, column) = (at / order, at % order);
                let expected = if row == column { 1.0 } else { 0.0 };
                assert!((value - expected).abs() < 2e-3, "{order}: {value} at {row}, {column}");
                assert!(column >= row || factor[at] == 0.0, "not triangular");
            }
        }
    }

    #[test]
    fn rows_and_columns_move_in_place() {
        for order in [&[0][..], &[], &[2, 0, 1, 3], &[4, 1, 0, 2, 3], &[1, 0, 3, 2], &[3, 2, 1, 0]]
        {
            let count = order.len();
            let of = |row: usize, column: usize| (row.min(column) * 10 + row.max(column)) as f32;
            let places = || (0..count * count).map(|at| (at / count, at % count));
            let mut matrix: Vec<f32> = places().map(|(row, column)| of(row, column)).collect();
            permute(&mut matrix, order);
            let moved: Vec<f32> =
                places().map(|(row, column)| of(order[row], order[column])).collect();
            assert_eq!(matrix, moved, "{order:?}");
        }
    }

    #[test]
    fn a_matrix_that_is_not_positive_has_none() {
        assert_eq!(inverse_factor(vec![1.0, 2.0, 2.0, 1.0], 2), None);
        assert_eq!(inverse_factor(vec![f32::NAN], 1), None);
        assert_eq!(inverse_factor(vec![0.0], 1), None);
    }

    #[test]
    fn the_quadratic_form_is_the_sum_of_squares_of_the_output() {
        let (rows, columns, tokens) = (5, 9, 40);
        let (weight, input) = (noise(rows * columns), noise(tokens * columns));
        let mut gram = vec![0.0; columns * columns];
        add_gram(&mut gram, &input, columns);
        mirror(&mut gram, columns);
        let dot = |a: &[f32], b: &[f32]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
        };
        let outputs =
            weight.chunks(columns).flat_map(|w| input.chunks(columns).map(move |x| dot(w, x)));
        let expected: f64 = outputs.map(|y| y * y).sum();
        let got = quadratic(&weight, &gram, columns);
        assert!((got / expected - 1.0).abs() < 1e-5, "{got} for {expected}");
    }
}
