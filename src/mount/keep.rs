//! Keeping a file decoded once it was read whole.

use std::sync::Arc;

use bytes::Bytes;

use super::core::tree;
use super::decoded::Making;
use super::view::{Opened, View};
use crate::memory::pool::Urgency;

/// Keeps a file decoded, if all its chunks lie on the disk: nothing is fetched for it.
pub(crate) async fn keep(view: Arc<View>, opened: Arc<Opened>, file: tree::File) {
    let Some(files) = view.decoded.clone() else { return };
    if files.is_unknown(&file.sha256) {
        let check = tokio::task::spawn_blocking(move || files.check(&file.sha256));
        return check.await.unwrap_or_default();
    }
    let (whole, source) = (&opened.whole, view.chunks.source());
    let units = opened.map(file.index).units(whole, &(0..file.size));
    let is_here = |at: usize| {
        whole.chunks.get(at).is_some_and(|placed| source.is_on_disk(&placed.record.stored))
    };
    if !units.iter().flat_map(|unit| unit.indexes()).all(is_here) {
        return;
    }
    let Some(mut making) = files.begin(&file.sha256, file.size) else { return };
    for unit in units {
        let Ok(bytes) = view.chunks.unit(whole, unit, Urgency::Ahead).await else { return };
        let Some(next) = written(making, bytes).await else { return };
        making = next;
    }
    tokio::task::spawn_blocking(move || making.finish()).await.unwrap_or_default();
}

async fn written(mut making: Making, bytes: Bytes) -> Option<Making> {
    let write = move || making.write(&bytes).then_some(making);
    tokio::task::spawn_blocking(write).await.ok()?
}
