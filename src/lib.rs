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
//! | [`format`] | typed digests, element types; records, packs, tables, manifests, layouts, refs: bytes to values and back | none |
//! | [`chunk`] | arrived bytes to known bytes to decoded bytes; codecs | none |
//! | [`dequant`] | quantized weights: layouts, the reference, which kernel with which numbers | none |
//! | [`schedule`] | which chunks, which ranges, in which order, and what to do when one fails | none |
//! | [`trust`] | keys, signatures, who may sign what, versions seen | key files |
//! | `memory` | aligned memory, used again | none |
//! | [`transport`] | directories, buckets, web servers behind one trait | yes |
//! | [`store`] | typed objects, refs, leases | yes |
//! | [`load`] | opening an artifact, and streaming its tensors into memory and devices | yes |
//! | [`pack`] | folders into a store and back | yes |
//! | [`quantize`] | new artifacts from old ones: quantized checkpoints, deltas; the models that are measured for it | yes |
//! | [`maintain`] | keeping a store: verify, copy, collect, repack | yes |
//! | [`edge`] | serving a store | yes |
//! | [`cli`] | the command | yes |
//!
//! One tensor, verified:
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use tenpak::load::artifact;
//! use tenpak::load::LoadOptions;
//! use tenpak::transport;
//! use tenpak::trust::TrustSet;
//!
//! let trust = TrustSet::load(&["org.pub".to_owned()])?;
//! let options = artifact::OpenOptions { trust, ..Default::default() };
//! let store = transport::url::open("https://weights.example.com/store/")?;
//! let model = artifact::Artifact::open(vec![store], &"org/model".parse()?, &options).await?;
//! let wanted = model.select(&artifact::Selection::new(&["lm_head.weight"])?, None).await?;
//! let mut load = model.load(wanted, &LoadOptions::default());
//! while let Some(tensor) = load.next().await {
//!     let tensor = tensor?;
//!     println!("{} has {} verified bytes", tensor.name(), tensor.data.len());
//! }
//! # Ok(())
//! # }
//! ```

pub mod chunk;
pub mod cli;
pub mod dequant;
pub mod edge;
pub mod format;
pub mod load;
pub mod maintain;
mod memory;
pub mod pack;
pub mod quantize;
pub mod schedule;
pub mod store;
pub mod transport;
pub mod trust;
