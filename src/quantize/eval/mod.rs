//! How well a model does.

mod perplexity;

pub use perplexity::{Perplexity, PerplexityOptions, perplexity};
