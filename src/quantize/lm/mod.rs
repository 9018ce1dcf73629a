//! Language models that are run block by block, on candle, in f32 on the CPU. What a family is made of is described
//! in `families/`; the code here knows pieces, and no family.
//!
//! A [`Model`] never holds more than its embedding and what the caller keeps of its blocks: each
//! [`Block`] is read from the checkpoint when it is asked for, dequantized if it is quantized. Whoever
//! runs one sees the inputs of its linear layers through a [`Tap`], and may put other weights in.

mod access;
mod activation;
mod apart;
mod attention;
mod block;
mod checkpoint;
mod config;
mod embedded;
mod error;
mod experts;
mod expression;
mod families;
mod family;
pub mod gguf;
mod gradient;
mod head;
mod linear;
mod model;
mod norm;
mod numbers;
mod parallel;
mod read;
mod rope;
mod rows;
mod shelf;
mod spool;
mod text;

pub use access::Giver;
pub use apart::apart;
pub use attention::Context;
pub use block::{Block, NoTap, Passage, Tap};
pub use checkpoint::Checkpoint;
pub use config::LmConfig;
pub use error::{ConfigError, LmError, TextError};
pub use families::families;
pub use gradient::Gradients;
pub use head::{Compared, Head};
pub use linear::{Linear, Values};
pub use model::Model;
pub use norm::Norm;
pub use rope::{Rope, Scaling};
pub(crate) use spool::Spool;
pub use text::Text;
