//! What the engine's thread and those who ask share.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use crate::engine::model::ModelError;

/// What the thread and those who ask share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub(super) running: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) prompt_tokens: AtomicU64,
    pub(super) found_tokens: AtomicU64,
    pub(super) tokens: AtomicU64,
    pub(super) again: AtomicU64,
    /// Thousandths.
    pub(super) used: AtomicU64,
    pub(super) failed: Mutex<Option<ModelError>>,
}
