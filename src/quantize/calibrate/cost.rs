//! What a layer's codes cost, told by some of its rows: those are all that is kept of a weight while it is solved.

use crate::quantize::solve;

/// Rows that tell what a weight's error costs, evenly spaced.
const ROWS: usize = 128;

/// Some rows of a weight.
pub(super) struct Sample {
    /// From a row that is looked at to the next.
    pub(super) step: usize,
    pub(super) columns: usize,
    rows: Vec<f32>,
    /// The sum of the squares of what they give.
    whole: f64,
}

impl Sample {
    /// Of a weight, `[rows, columns]`: squares are those of outputs where there is the Hessian, whole, of the
    /// input, else of weights.
    pub(super) fn new(weight: &[f32], columns: usize, hessian: Option<&[f32]>) -> Self {
        let columns = columns.max(1);
        let step = (weight.len() / columns).div_ceil(ROWS).max(1);
        let mut sample = Self { step, columns, rows: Vec::new(), whole: 0.0 };
        sample.rows = sample.lines(weight).flatten().copied().collect();
        sample.whole = square(&sample.rows, hessian, columns);
        sample
    }

    /// The rows of a matrix that are looked at.
    fn lines<'m>(&self, matrix: &'m [f32]) -> impl Iterator<Item = &'m [f32]> + use<'m> {
        matrix.chunks(self.columns).step_by(self.step)
    }

    /// What the same rows are off by in another weight, `[rows looked at, columns]`.
    pub(super) fn off(&self, values: &[f32]) -> Vec<f32> {
        let values = self.lines(values).flatten();
        values.zip(&self.rows).map(|(value, own)| value - own).collect()
    }

    /// The squared error of what the rows give in another weight, relative to the square.
    pub(super) fn cost(&self, values: &[f32], hessian: Option<&[f32]>) -> f64 {
        self.relative(square(&self.off(values), hessian, self.columns))
    }

    /// A sum of squared errors relative to the sum of squares.
    pub(super) fn relative(&self, squares: f64) -> f64 {
        if self.whole > 0.0 { squares / self.whole } else { 0.0 }
    }
}

fn square(of: &[f32], hessian: Option<&[f32]>, columns: usize) -> f64 {
    match hessian {
        Some(hessian) => solve::quadratic(of, hessian, columns),
        None => of.iter().map(|value| f64::from(*value).powi(2)).sum(),
    }
}
