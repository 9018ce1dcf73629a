//! Packing: a model's files into the store, as a signed artifact.
//!
//! Packs come first, the ref last, so that an interrupted run leaves nothing that a reader sees,
//! and the next run goes on from the packs that the interrupted one's lease lists. A run that fails
//! takes back what it wrote, unless trying again may help. Memory is bounded by the number of chunks on
//! their way, whatever the model's size.

mod base;
mod cut;
mod encode;
mod error;
mod found;
mod hash;
mod held;
mod input;
mod known;
mod link;
pub mod model;
mod options;
mod packer;
mod pool;
mod publish;
pub(crate) mod repeat;
mod unit;
pub mod unpack;
pub(crate) mod writer;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use tokio::runtime::Handle;

use crate::format::manifest::Incomplete;
use crate::format::name::{ArtifactName, Tag};
use crate::store::{Lease, Store};

pub use error::PackError;
pub use held::Held;
pub(crate) use held::View;
pub use input::{GeneratedFile, Input, PartSource};
pub use known::{KnownFile, Piece};
pub(crate) use link::left_behind;
pub use options::{Gate, Lineage, PackOptions, PackReport, Progress};
use packer::Packer;
pub use pool::WorkerFailed;

/// Packs the folder or file at `path` and publishes it as `name:tag`. Files that are no whole model are
/// refused, unless the options allow them. Blocks; call it from outside the runtime that `runtime` drives.
///
/// # Errors
/// If a file cannot be read or is malformed, or the store fails.
pub fn pack(
    path: &Path,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    mut options: PackOptions,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    let walked = model::walk(path, &options.opaque)?;
    let begun = Instant::now();
    let faults = model::faults(&walked.files, &walked.dangling)?;
    tracing::debug!(microseconds = begun.elapsed().as_micros(), "looked for a whole model");
    if !faults.is_empty() && !options.allow_incomplete {
        return Err(model::ModelError::Incomplete { path: path.to_owned(), faults }.into());
    }
    options.lineage.incomplete =
        Incomplete::list(faults.iter().map(|fault| (fault.kind.word(), fault.path.as_str())));
    let model::Walked { files, left_out, .. } = walked;
    let files: Vec<_> = files.into_iter().map(|file| Input::File(Arc::new(file))).collect();
    let report =
        pack_inputs(&files, &mut (), store, (name, tag), &options.into(), runtime, progress)?;
    Ok(PackReport { left_out, faults, ..report })
}

/// Packs files, which rise by their paths, and publishes them as `name:tag`; `maker` makes the parts of
/// those that lie nowhere yet. Blocks; call it from outside the runtime that `runtime` drives.
///
/// # Errors
/// If a file cannot be read or a part not be made, or the store fails.
pub fn pack_inputs(
    files: &[Input],
    maker: &mut dyn PartSource,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    options: &Arc<PackOptions>,
    runtime: &Handle,
    progress: &dyn Progress,
) -> Result<PackReport, PackError> {
    progress.begin(files.iter().map(Input::size).sum());
    let fresh = runtime.block_on(store.create())?;
    // Before the work rather than after it.
    runtime.block_on(store.check_clock(Some((name, tag))))?;
    let lease = runtime.block_on(Lease::take(store))?;
    let packer = Packer::new(store, &lease, fresh, options.clone(), runtime, progress);
    let packed = packer.and_then(|packer| packer.run(files, maker));
    let report =
        packed.and_then(|packed| runtime.block_on(packed.publish(store, &lease, name, tag)));
    match report {
        Ok(report) => {
            runtime.block_on(lease.release())?;
            Ok(report)
        }
        Err(error) => {
            let may_pass = match &error {
                PackError::Store(error) => error.may_pass(),
                PackError::NotGenerated => maker.may_pass(),
                _ => false,
            };
            if !may_pass {
                // What cannot be taken back is left to a collection; the error is the one to tell.
                drop(runtime.block_on(lease.undo()));
            }
            Err(error)
        }
    }
}
