//! What the system is asked about memory: the pages of fresh buffers in one call instead of a fault for
//! each, and freed buffers back at once. The one place with `unsafe` for it.

use bytes::{Buf, BytesMut};

/// Blocks of this size and more are mapped on their own, so that freeing one gives it back.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const OWN_MAPPING: i32 = 1 << 20;

/// Keeps the C allocator from raising the size from which it returns freed blocks: it would keep tens
/// of megabytes that nobody uses. For programs, at their start; a library leaves its host alone.
pub(crate) fn return_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets one number of the allocator, before other threads start; a refusal (0) only
    // leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING);
    }
}

/// What disks and their file systems transfer without a copy begins at a multiple of this, in memory
/// as in the file.
pub(crate) const BLOCK: usize = 4096;

/// `len` zeros, which begin at a block; the system makes the pages when they are first touched.
pub(crate) fn aligned(len: usize) -> BytesMut {
    let mut buffer = BytesMut::zeroed(len + BLOCK);
    let skip = buffer.as_ptr().align_offset(BLOCK);
    buffer.advance(skip.min(BLOCK));
    buffer.truncate(len);
    buffer
}

/// A multiple of every size that ordinary pages have.
const PAGE: usize = 64 << 10;

/// Makes the pages behind `fresh`, memory that was never touched, in one call: a fault for each
/// costs as much again as clearing it. A kernel that declines changes nothing but the speed.
pub(crate) fn populate<T>(fresh: &mut [T]) {
    #[cfg(target_os = "linux")]
    {
        let skip = fresh.as_ptr().align_offset(PAGE);
        let Some(aligned) = fresh.get_mut(skip..) else { return };
        let len = aligned.len() / PAGE * PAGE;
        if len == 0 {
            return;
        }
        let advice = rustix::mm::Advice::LinuxPopulateWrite;
        // SAFETY: the range is aligned to pages and lies within `fresh`, which is borrowed mutably;
        // populating leaves what the pages hold.
        let _ = unsafe { rustix::mm::madvise(aligned.as_mut_ptr().cast(), len, advice) };
    }
}
