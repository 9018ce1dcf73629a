//! Model weights as signed graphs of content-addressed chunks, streamed and verified from any
//! bucket or static host.
//!
//! A model's files are cut into chunks; a manifest commits to every chunk's BLAKE3; keys sign the
//! manifest. Whoever loads checks each chunk before it is decoded, so that no byte reaches a
//! consumer that the signer did not sign. `format-spec/` says what lies in a store.
//!
//! Lower layers first; a module imports only what stands before it. Without any feature the crate is
//! its core: bytes to bytes, no I/O, no runtime. A module of another row needs that row's feature
//! (`tests/layers/` holds all three):
//!
//! | modules | feature | what they do |
//! |---|---|---|
//! | [`format`] | core | typed digests, element types; records, packs, tables, manifests, layouts, refs: bytes to values and back |
//! | [`chunk`] | core | arrived bytes to known bytes to decoded bytes; codecs |
//! | [`dequant`] | core | quantized weights: layouts, the reference, which kernel with which numbers |
//! | [`gguf`] | core | GGUF: what the header of a file says, and a model's configuration and tokenizer out of it |
//! | [`schedule`] | core | which chunks, which ranges, in which order, and what to do when one fails |
//! | [`trust`] | core | keys, signatures, who may sign what; with `load`, their files and the versions seen; with `openpgp`, its keys |
//! | [`memory`] | load | slots that destinations lend, buffers that are used again, threads that hash |
//! | [`transport`] | load | directories and web servers behind one trait; with `cloud`, buckets |
//! | [`store`] | load | a store and its mirrors: typed objects, refs, leases; opening an artifact |
//! | [`load`] | load | streaming verified tensors into memory; with `cuda` and `wgpu`, into devices |
//! | [`pack`] | pack | folders into a store and back |
//! | [`quantize`] | models | language models, and what is measured of them; with `produce`, new artifacts from old ones: quantized checkpoints, deltas |
//! | [`maintain`] | pack | keeping a store: verify, copy, collect, repack |
//! | [`edge`] | edge | serving a store |
//! | [`mount`] | mount | a store as a read-only file system |
//! | [`engine`] | engine | running a language model on weights as they are stored |
//! | [`serve`] | serve | an OpenAI-compatible server: the embedded engine, or one of others |
//! | [`optimize`] | optimize | the cheapest quantization that keeps limits of quality, latency and size |
//! | [`jobs`] | studio | durable jobs on SQLite or PostgreSQL: leases, events, retries; a child process runs each |
//! | [`studio`] | studio | compression as a service: jobs over HTTP, and a page |
//! | [`cli`] | cli | the command |
//!
//! [`format`]: mod@format
//!
//! One tensor, verified:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tenpak::{Artifact, LoadOptions, OpenOptions, Selection, Store, TrustSet};
//!
//! let trust = TrustSet::load(&["org.pub".to_owned()])?;
//! let mut options = OpenOptions::default();
//! options.trust = trust;
//! let store = Store::open("https://weights.example.com/store/")?;
//! let model = Artifact::open(store, &"org/model".parse()?, &options).await?;
//! let wanted = model.select(&Selection::new(&["lm_head.weight"])?, None).await?;
//! let mut load = model.load(wanted, &LoadOptions::default());
//! while let Some(tensor) = load.next().await {
//!     let tensor = tensor?;
//!     println!("{} has {} verified bytes", tensor.name(), tensor.data.len());
//! }
//! # Ok(())
//! # }
//! ```

// What rooms lend each other inside the crate is used in full only where all of them are built.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]
#![warn(clippy::unwrap_used, clippy::expect_used)]

pub mod chunk;
#[cfg(feature = "cli")]
pub mod cli;
pub mod dequant;
#[cfg(feature = "edge")]
pub mod edge;
#[cfg(feature = "engine")]
pub mod engine;
pub mod format;
pub mod gguf;
#[cfg(feature = "studio")]
pub mod jobs;
#[cfg(feature = "load")]
pub mod load;
#[cfg(feature = "pack")]
pub mod maintain;
#[cfg(feature = "load")]
pub mod memory;
#[cfg(feature = "mount")]
pub mod mount;
#[cfg(feature = "optimize")]
pub mod optimize;
#[cfg(feature = "pack")]
pub mod pack;
#[cfg(feature = "models")]
pub mod quantize;
pub mod schedule;
#[cfg(feature = "serve")]
pub mod serve;
#[cfg(feature = "load")]
pub mod store;
#[cfg(feature = "studio")]
pub mod studio;
#[cfg(feature = "load")]
pub mod transport;
pub mod trust;

pub use format::id::ManifestId;
pub use format::name::ArtifactSpec;
#[cfg(feature = "load")]
pub use load::{ArtifactError, LoadError, LoadOptions, LoadStats, Loader, Tensor};
pub use schedule::plan::TensorRequest;
pub use schedule::shard::Shard;
#[cfg(feature = "load")]
pub use store::artifact::{Artifact, OpenOptions, Selection};
#[cfg(feature = "load")]
pub use store::{Store, StoreError};
pub use trust::{TrustError, TrustSet};
