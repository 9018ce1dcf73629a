//! Language models that are run block by block: Llama, Mistral, Qwen2, Qwen3 and BERT, on candle, in f32
//! on the CPU.
//!
//! A [`Model`] never holds more than its embedding and what the caller keeps of its blocks: each
//! [`Block`] is read from the checkpoint when it is asked for, dequantized if it is quantized. Whoever
//! runs one sees the inputs of its linear layers through a [`Tap`], and may put other weights in.

mod attention;
mod block;
mod checkpoint;
mod config;
mod decoder;
mod encoder;
mod error;
pub mod gguf;
mod gradient;
mod head;
mod linear;
mod model;
mod rows;
mod spool;
mod text;

pub use attention::Context;
pub use block::{Block, Giver, NoTap, Passage, Tap};
pub use checkpoint::Checkpoint;
pub use config::{Architecture, LmConfig, Rope};
pub use error::{ConfigError, LmError, TextError};
pub use gradient::Gradients;
pub use head::{Compared, Head};
pub use linear::{Linear, Values};
pub use model::Model;
pub(crate) use spool::Spool;
pub use text::Text;
