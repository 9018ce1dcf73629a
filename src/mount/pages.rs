//! The kernel's pages of mounted files: what was read ahead is put there, so that whoever reads on finds it without
//! asking.
//!
//! Storing waits for pages that the kernel has asked for and not got. Nobody who answers the kernel waits for a turn
//! to store, and whoever stores before an answer stores what lies behind it alone: who waits for whom leads to ever
//! later bytes, and ends. Few store at a time, so that threads are left for whoever answers.

use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Who stores at a time.
const STORING: usize = 8;
/// Who of them stores what others than the readers ahead fetched.
const LATE: usize = 2;
/// `FUSE_NOTIFY_STORE`, and the lengths of its two heads.
const STORE: i32 = 4;
const HEAD: usize = 16;
const STORE_HEAD: usize = 24;

/// The kernel's side of a mount.
#[derive(Debug)]
pub(crate) struct Pages {
    device: OnceLock<OwnedFd>,
    turns: Semaphore,
    /// The turns of those who store before they answer.
    early: Semaphore,
    /// The turns of those who store what was asked for once more, whole.
    late: Semaphore,
    /// Bytes stored.
    pub(crate) stored: AtomicU64,
}

impl Pages {
    pub(crate) fn new() -> Arc<Self> {
        let (device, stored) = (OnceLock::new(), AtomicU64::new(0));
        let [turns, early] = [STORING; 2].map(Semaphore::new);
        Arc::new(Self { device, turns, early, late: Semaphore::new(LATE), stored })
    }

    /// The device through which the kernel asks.
    pub(crate) fn set_device(&self, device: OwnedFd) {
        // Set once, before anything is asked.
        self.device.set(device).unwrap_or_default();
    }

    /// Puts bytes of a file where whoever reads them finds them; `at` is a page's first byte, and the last page is
    /// whole or the file's last.
    ///
    /// # Errors
    /// If the kernel does not know the file any more, or the mount is gone.
    pub(crate) async fn store(
        self: &Arc<Self>,
        file: u64,
        at: u64,
        parts: Vec<Bytes>,
    ) -> io::Result<()> {
        let _turn = self.turns.acquire().await;
        self.store_elsewhere(file, at, parts).await
    }

    /// The same, unless that had to wait for a turn. Whether the bytes are there: whoever reads on asks for what could
    /// not be stored.
    pub(crate) async fn try_store(self: &Arc<Self>, file: u64, at: u64, parts: Vec<Bytes>) -> bool {
        let Ok(_turn) = self.early.try_acquire() else { return false };
        self.store_elsewhere(file, at, parts).await.is_ok()
    }

    /// A turn of those who store what they take only then.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        self.late.acquire().await.ok()
    }

    async fn store_elsewhere(
        self: &Arc<Self>,
        file: u64,
        at: u64,
        parts: Vec<Bytes>,
    ) -> io::Result<()> {
        let pages = self.clone();
        let store = move || pages.store_now(file, at, &parts);
        tokio::task::spawn_blocking(store).await.map_err(io::Error::other)?
    }

    fn store_now(&self, file: u64, at: u64, parts: &[Bytes]) -> io::Result<()> {
        let Some(device) = self.device.get() else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let len: usize = parts.iter().map(Bytes::len).sum();
        let wrong = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let size = u32::try_from(len).map_err(wrong)?;
        let all = u32::try_from(len + HEAD + STORE_HEAD).map_err(wrong)?;
        let mut head = Vec::with_capacity(HEAD + STORE_HEAD);
        head.extend_from_slice(&all.to_ne_bytes());
        head.extend_from_slice(&STORE.to_ne_bytes());
        head.extend_from_slice(&0_u64.to_ne_bytes());
        head.extend_from_slice(&file.to_ne_bytes());
        head.extend_from_slice(&at.to_ne_bytes());
        head.extend_from_slice(&size.to_ne_bytes());
        head.extend_from_slice(&0_u32.to_ne_bytes());
        let mut slices = vec![IoSlice::new(&head)];
        slices.extend(parts.iter().map(|part| IoSlice::new(part)));
        rustix::io::writev(device, &slices)?;
        self.stored.fetch_add(u64::from(size), Ordering::Relaxed);
        Ok(())
    }
}
