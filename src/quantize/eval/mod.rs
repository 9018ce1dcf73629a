//! How well a model does.

mod compare;
mod perplexity;

pub use compare::Reference;
pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
