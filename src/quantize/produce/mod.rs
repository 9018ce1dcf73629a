//! Producers: new artifacts from old ones. `quantize` takes a model, a folder or an artifact, and writes
//! a quantized checkpoint beside it, in a layout that [`engines`] load;
//! [`delta`] writes a fine-tune as what it adds to its base.
//!
//! [`Recipe`] says how, a [`ModelSource`](crate::quantize::source::ModelSource) is the model, `plan` decides which layers become what and how
//! the files look, `memo` knows what was produced before, and [`quantize`] drives: one layer at a time,
//! straight into packs. Whatever computes codes is a [`Solver`]; [`RoundToNearest`] needs nothing but the weight.

mod config;
pub mod delta;
mod driver;
pub mod engines;
mod error;
pub mod external;
mod gguf;
mod gguf_fits;
mod gguf_header;
mod gguf_positions;
mod gguf_tokenizer;
mod gguf_values;
mod header;
mod known;
mod layers;
mod memo;
mod method;
mod outline;
mod plan;
mod preset;
mod products;
mod quantize;
mod recipe;
mod record;
mod recorded;
mod share;
mod size;
mod solvers;
mod statistics;
mod survey;

pub use driver::Events;
pub use error::ProduceError;
pub use layers::{check_source, layers_apart};
pub use method::{Layer, RoundToNearest, Solver};
pub use outline::Bits;
pub use preset::{PRESETS, Preset};
pub use quantize::{QuantizeOptions, QuantizeReport, quantize};
pub use recipe::{ActOrder, Format, Method, Recipe, RecipeError, UnknownName};
pub use size::{PlannedSize, planned_size, unquantized_size};
pub use solvers::{Calibrating, Hqq, Solved};
pub use statistics::{Keeping, Obtained, allocate_bits, expected_losses, statistics};
pub use survey::model_digest;

/// What signed lineage calls this program.
pub const TOOL: &str = "tenpak";
/// Its version: part of the key of every product, because another release may compute other bytes.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
