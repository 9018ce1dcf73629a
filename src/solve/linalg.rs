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

/// A symmetric matrix on its way to its lower Cholesky factor, and the inverse of that, both `[order, order]`.
struct Factors {
    order: usize,
    /// Of which the lower half is read; where it has been factored, what it holds means nothing.
    matrix: Vec<f32>,
    /// Of the factor; zeros above. The factor itself is not kept.
    inverse: Vec<f32>,
}

impl Factors {
    /// Factors `count` rows and columns from `first` on, of which the products with those before have been taken
    /// out. False if the matrix is not positive definite.
    ///
    /// With the factor of the first half and its inverse known, what is below is `A21 L11^-T`; the second half is
    /// factored less that times itself; and the inverse there is `-L22^-1 L21 L11^-1`.
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
        let inverse = |from: usize, row, column| View { data: &self.inverse[from..], row, column };
        let mut panel = vec![0.0; rest * half];
        for from in (0..half).step_by(STRIPE) {
            let width = STRIPE.min(half - from);
            let a = View { data: &self.matrix[below..], row: order, column: 1 };
            let b = inverse(corner + from * order, 1, order);
            let shape = [rest, width, from + width];
            multiply((&mut panel[from..], half), shape, 0.0, 1.0, a, b, POOL);
        }
        for from in (0..rest).step_by(STRIPE) {
            let part = &panel[from * half..];
            let a = View { data: part, row: half, column: 1 };
            let b = View { data: part, row: 1, column: half };
            let to = &mut self.matrix[(next + from) * order + next + from..];
            let shape = [rest - from, STRIPE.min(rest - from), half];
            multiply((to, order), shape, 1.0, -1.0, a, b, POOL);
        }
        if !self.descend(next, rest) {
            return false;
        }
        let inverse = |from: usize, row, column| View { data: &self.inverse[from..], row, column };
        let mut product = vec![0.0; rest * half];
        for from in (0..half).step_by(STRIPE) {
            let a = View { data: &panel[from..], row: half, column: 1 };
            let b = inverse(corner + from * order + from, order, 1);
            let shape = [rest, STRIPE.min(half - from), half - from];
            multiply((&mut product[from..], half), shape, 0.0, 1.0, a, b, POOL);
        }
        for from in (0..rest).step_by(STRIPE) {
            let width = STRIPE.min(rest - from);
            let a = inverse((next + from) * order + next, order, 1);
            let b = View { data: &product, row: half, column: 1 };
            // `panel` is not read any more.
            let shape = [width, half, from + width];
            multiply((&mut panel[from * half..], half), shape, 0.0, -1.0, a, b, POOL);
        }
        for (row, values) in panel.chunks(half).enumerate() {
            self.inverse[below + row * order..][..half].copy_from_slice(values);
        }
        true
    }

    /// The same of a block on the diagonal, in f64: its errors spread to all that follows.
    fn leaf(&mut self, first: usize, count: usize) -> bool {
        let order = self.order;
        let mut block = vec![0.0_f64; count * count];
        for (row, values) in block.chunks_mut(count).enumerate() {
            let from = (first + row) * order + first;
            for (value, stored) in values.iter_mut().zip(&self.matrix[from..=from + row]) {
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
            for (stored, value) in self.inverse[to..to + count].iter_mut().zip(values) {
                *stored = *value as f32;
            }
        }
        true
    }
}

/// The upper triangular `U` with `U^T U` the inverse of a symmetric matrix; `None` if that is not positive
/// definite. `reversed` is the lower half of the matrix with rows and columns reversed.
///
/// Reversed, `H = L L^T`; then `U` is the inverse of `L`, reversed.
pub(super) fn inverse_factor(reversed: Vec<f32>, order: usize) -> Option<Vec<f32>> {
    let inverse = vec![0.0; order * order];
    let mut factors = Factors { order, matrix: reversed, inverse };
    if !factors.descend(0, order) {
        return None;
    }
    let Factors { mut inverse, .. } = factors;
    inverse.reverse();
    inverse
        .par_chunks(1 << 16)
        .all(|part| part.iter().all(|value| value.is_finite()))
        .then_some(inverse)
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
        for order in [1, 7, 64, 65, 300] {
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
