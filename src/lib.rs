//! Model weights as signed graphs of content-addressed chunks, streamed and verified from any
//! bucket or static host.
//!
//! A model's files are cut into chunks; a manifest commits to every chunk's BLAKE3; keys sign the
//! manifest. Whoever loads checks each chunk before it is decoded, so that no byte reaches a
//! consumer that the signer did not sign. `format-spec/` says what lies in a store.
//!
//! Lower layers first; a module imports only what stands before it (`tests/layers.rs`):
//!
//! | modules | what they do | I/O |
//! |---|---|---|
//! | [`id`], [`dtype`] | typed digests, element types, shapes | none |
//! | [`format`] | records, packs, tables, manifests, layouts, refs: bytes to values and back | none |
//! | `simd` | loops compiled for the vector instructions at hand | none |
//! | [`quant`] | quantized weights: layouts, the reference, which kernel with which numbers | none |
//! | [`verify`], [`codec`] | arrived bytes to known bytes to decoded bytes | none |
//! | [`solve`] | weights to codes: rounding, GPTQ, AWQ, HQQ | none |
//! | [`parallel`], [`shard`], [`plan`], [`load_state`] | which chunks, which ranges, in which order, and what to do when one fails | none |
//! | [`trust`] | keys, signatures, who may sign what, versions seen | key files |
//! | `memory`, `buffers`, [`bases`] | aligned memory, used again; decoded chunks that others are stored against | none |
//! | [`source`] | directories, buckets, web servers behind one trait | yes |
//! | [`store`] | typed objects, refs, leases | yes |
//! | [`loader`], [`sink`], [`artifact`] | streaming tensors, and opening what holds them | yes |
//! | [`model`], [`pack`], [`unpack`] | folders into a store and back | yes |
//! | [`lm`], [`eval`], [`calibrate`] | language models, block by block: how well they predict, and what they teach solvers | yes |
//! | [`produce`] | new artifacts from old ones: quantized checkpoints, deltas | yes |
//! | [`maintain`], [`edge`], [`cli`] | keeping a store, serving it, the command | yes |
//!
//! One tensor, verified:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tenpak::{artifact, loader::LoadOptions, source, trust::TrustSet};
//!
//! let trust = TrustSet::load(&["org.pub".to_owned()])?;
//! let options = artifact::OpenOptions { trust, ..Default::default() };
//! let store = source::url::open("https://weights.example.com/store/")?;
//! let model = artifact::Artifact::open(vec![store], &"org/model".parse()?, &options).await?;
//! let wanted = model.want(&artifact::Selection::new(&["lm_head.weight"])?, None).await?;
//! let mut load = model.load(wanted, &LoadOptions::default());
//! while let Some(tensor) = load.next().await {
//!     let tensor = tensor?;
//!     println!("{} has {} verified bytes", tensor.name(), tensor.data.len());
//! }
//! # Ok(())
//! # }
//! ```

pub mod artifact;
pub mod bases;
mod buffers;
pub mod calibrate;
pub mod cli;
pub mod codec;
pub mod dtype;
pub mod edge;
pub mod eval;
pub mod format;
pub mod id;
pub mod lm;
pub mod load_state;
pub mod loader;
pub mod maintain;
mod memory;
pub mod model;
pub mod pack;
pub mod parallel;
pub mod plan;
pub mod produce;
pub mod quant;
pub mod shard;
mod simd;
pub mod sink;
pub mod solve;
pub mod source;
pub mod store;
pub mod trust;
pub mod unpack;
pub mod verify;
