//! Why nothing was solved.

/// Why nothing was solved.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolveError {
    /// Numbers of bits or columns that there are no codes for.
    #[error("{0}")]
    Scheme(&'static str),
    /// A slice of another length than the shape says.
    #[error("{what}: {got} numbers where the shape needs {want}")]
    Length {
        /// Of what.
        what: &'static str,
        /// There are.
        got: usize,
        /// There should be.
        want: usize,
    },
    /// A number that is not finite.
    #[error("{what}: row {row}, column {column} is not finite")]
    NotFinite {
        /// Of what.
        what: &'static str,
        /// Where.
        row: usize,
        /// Where.
        column: usize,
    },
    /// The Hessian has no factor, however much is added to its diagonal.
    #[error(
        "the Hessian is not positive definite even with damping {damping}: the calibration text gives too \
         little, or the inputs overflow; give more text, or use a method without calibration"
    )]
    Indefinite {
        /// The last damping tried.
        damping: f32,
    },
}

/// Checks a matrix's length and that it is finite.
pub(super) fn check(
    what: &'static str,
    matrix: &[f32],
    rows: usize,
    columns: usize,
) -> Result<(), SolveError> {
    let want = rows * columns;
    if matrix.len() != want {
        return Err(SolveError::Length { what, got: matrix.len(), want });
    }
    match matrix.iter().position(|value| !value.is_finite()) {
        Some(at) => Err(SolveError::NotFinite { what, row: at / columns, column: at % columns }),
        None => Ok(()),
    }
}
