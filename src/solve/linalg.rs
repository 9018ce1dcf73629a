//! Products, Cholesky factors and triangular inverses of f32 matrices in blocks.
//!
//! What a block computes and in which order does not depend on the number of threads.

use gemm::{Parallelism, gemm};

/// Rows of a block of a factorization.
const BLOCK: usize = 64;
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
    for row in 0..order {
        for column in 0..row {
            matrix[column * order + row] = matrix[row * order + column];
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

/// The lower Cholesky factor of a symmetric matrix, in place of its lower half; what is above is left.
/// False if the matrix is not positive definite.
fn cholesky(matrix: &mut [f32], order: usize) -> bool {
    let mut panel = Vec::new();
    for first in (0..order).step_by(BLOCK) {
        let width = BLOCK.min(order - first);
        let next = first + width;
        // The block on the diagonal, in f64: its errors spread to all that follows.
        let mut block = vec![0.0_f64; width * width];
        for (row, values) in block.chunks_mut(width).enumerate() {
            let from = (first + row) * order + first;
            for (value, stored) in values.iter_mut().zip(&matrix[from..=from + row]) {
                *value = f64::from(*stored);
            }
        }
        for at in 0..width {
            let (above, own) = block.split_at_mut(at * width);
            let own = &mut own[..=at];
            for column in 0..at {
                let other = &above[column * width..column * width + column + 1];
                let dot: f64 = own[..column].iter().zip(other).map(|(a, b)| a * b).sum();
                own[column] = (own[column] - dot) / other[column];
            }
            let rest = own[at] - own[..at].iter().map(|value| value * value).sum::<f64>();
            if !(rest > 0.0 && rest.is_finite()) {
                return false;
            }
            own[at] = rest.sqrt();
        }
        for (row, values) in block.chunks(width).enumerate() {
            let to = (first + row) * order + first;
            for (stored, value) in matrix[to..=to + row].iter_mut().zip(values) {
                *stored = *value as f32;
            }
        }
        // Below it: rows x with x L^T = a.
        panel.clear();
        for row in next..order {
            let own = &mut matrix[row * order + first..row * order + next];
            for column in 0..width {
                let factor = &block[column * width..column * width + column + 1];
                let dot: f64 =
                    own[..column].iter().zip(factor).map(|(a, b)| f64::from(*a) * b).sum();
                own[column] = ((f64::from(own[column]) - dot) / factor[column]) as f32;
            }
            panel.extend_from_slice(own);
        }
        // What is left, less the panel times itself; stripes of its lower half.
        for from in (next..order).step_by(STRIPE) {
            let columns = STRIPE.min(order - from);
            let rows = order - from;
            let part = panel.get((from - next) * width..).unwrap_or_default();
            let a = View { data: part, row: width, column: 1 };
            let b = View { data: part, row: 1, column: width };
            let to = &mut matrix[from * order + from..];
            multiply((to, order), [rows, columns, width], 1.0, -1.0, a, b, POOL);
        }
    }
    true
}

/// The inverse of a lower triangular matrix; zeros above.
fn invert_lower(lower: &[f32], order: usize) -> Vec<f32> {
    let mut inverse = vec![0.0; order * order];
    let mut product = vec![0.0; BLOCK * order];
    for first in (0..order).step_by(BLOCK) {
        let width = BLOCK.min(order - first);
        // The block on the diagonal.
        let mut block = vec![0.0_f64; width * width];
        for row in 0..width {
            let from = (first + row) * order + first;
            let factor = &lower[from..=from + row];
            for column in 0..=row {
                let mut rest = if row == column { 1.0 } else { 0.0 };
                for at in column..row {
                    rest -= f64::from(factor[at]) * block[at * width + column];
                }
                block[row * width + column] = rest / f64::from(factor[row]);
            }
        }
        let block: Vec<f32> = block.into_iter().map(|value| value as f32).collect();
        // Left of it: less itself, times the rows of the factor, times the inverse above.
        if first > 0 {
            let a = View { data: &lower[first * order..], row: order, column: 1 };
            let b = View { data: &inverse, row: order, column: 1 };
            multiply((&mut product, first), [width, first, first], 0.0, 1.0, a, b, POOL);
            let a = View { data: &block, row: width, column: 1 };
            let b = View { data: &product, row: first, column: 1 };
            let to = &mut inverse[first * order..];
            multiply((to, order), [width, first, width], 0.0, -1.0, a, b, POOL);
        }
        for (row, values) in block.chunks(width).enumerate() {
            let to = (first + row) * order + first;
            inverse[to..to + width].copy_from_slice(values);
        }
    }
    inverse
}

/// The upper triangular `U` with `U^T U` the inverse of a symmetric matrix, of which the lower half is
/// read; `None` if it is not positive definite.
///
/// With rows and columns reversed, `H = L L^T`; then `U` is the inverse of `L`, reversed.
pub(super) fn inverse_factor(mut matrix: Vec<f32>, order: usize) -> Option<Vec<f32>> {
    mirror(&mut matrix, order);
    matrix.reverse();
    if !cholesky(&mut matrix, order) {
        return None;
    }
    let mut inverse = invert_lower(&matrix, order);
    inverse.reverse();
    inverse.iter().all(|value| value.is_finite()).then_some(inverse)
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
            let factor = inverse_factor(gram.clone(), order).unwrap();
            mirror(&mut gram, order);
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
