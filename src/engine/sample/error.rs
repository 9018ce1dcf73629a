//! Why no token could be chosen.

/// Why no token could be chosen.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    /// A number outside its range.
    #[error("{0}")]
    Parameter(String),
    /// The model gave no number.
    #[error(
        "the logit of token {token} is {value}: the model's numbers overflowed, or its weights are damaged"
    )]
    NotFinite {
        /// Which.
        token: usize,
        /// What came instead.
        value: f32,
    },
    /// Logits of another model.
    #[error("{found} logits came, and the model has {expected} tokens")]
    Vocabulary {
        /// How many came.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// Nothing may come next.
    #[error("no token may come next: the grammar allows none that the model has")]
    Nothing,
    /// The grammar is not understood, or too large.
    #[error("grammar: {0}")]
    Grammar(String),
}
