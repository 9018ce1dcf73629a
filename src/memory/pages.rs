//! What the system is asked about memory: the pages of fresh buffers in one call instead of a fault for
//! each, and freed buffers back at once. The one place with `unsafe` for it.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use memmap2::MmapMut;

/// Blocks of this size and more are mapped on their own, so that freeing one gives it back.
const OWN_MAPPING: usize = 1 << 20;

/// Keeps the C allocator from raising the size from which it returns freed blocks: it would keep tens
/// of megabytes that nobody uses. For programs, at their start; a library leaves its host alone.
pub(crate) fn return_freed_buffers() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: sets one number of the allocator, before other threads start; a refusal (0) only
    // leaves the default.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, OWN_MAPPING as i32);
    }
}

/// What disks and their file systems transfer without a copy begins at a multiple of this, in memory
/// as in the file.
pub(crate) const BLOCK: usize = 4096;
/// What small blocks begin at a multiple of: the width of vectors.
const SMALL_ALIGN: usize = 64;
/// The large pages of common systems. One fault makes as much memory as 512 ordinary ones.
const LARGE_PAGE: usize = 2 << 20;
/// A multiple of every size that ordinary pages have.
const PAGE: usize = 64 << 10;
/// What making ordinary pages takes, in nanoseconds for each KiB: some 0.35 s for each GiB.
const ORDINARY: u64 = 350;
/// How much longer than ordinary ones large pages may take in all before no more are asked for: then
/// the system moves memory about for them, or a hypervisor that has taken it back fetches it again.
const PATIENCE: u64 = 20_000_000;

/// The large pages that were made, in KiB, and the nanoseconds that took.
static MADE: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);

fn large_pages_are_fast() -> bool {
    TAKEN.load(Ordering::Relaxed) <= MADE.load(Ordering::Relaxed) * ORDINARY + PATIENCE
}

/// Initialized bytes that are reached through their pointer alone, and do not move with it.
pub(crate) struct Block {
    pub(super) bytes: NonNull<[u8]>,
    _owner: Owner,
}

enum Owner {
    Heap { _buffer: BytesMut },
    Mapping { _map: MmapMut },
}

impl Block {
    /// `len` zeros, which begin at a block, in large pages where they fit and are fast; the system makes the pages
    /// of large blocks when they are first touched.
    pub(crate) fn new(len: usize) -> Self {
        let large = len >= LARGE_PAGE && large_pages_are_fast();
        let align = if large { LARGE_PAGE } else { BLOCK };
        // What an allocator has at hand, it clears at once: that is long where it is much.
        let map = if len > OWN_MAPPING { MmapMut::map_anon(len + align).ok() } else { None };
        match map {
            Some(mut map) => {
                let bytes = part(&mut map, len, align);
                if large {
                    advise(&mut bytes[..len / LARGE_PAGE * LARGE_PAGE], Advice::Large);
                }
                Self { bytes: NonNull::from(bytes), _owner: Owner::Mapping { _map: map } }
            }
            None => {
                let mut buffer = BytesMut::zeroed(len + BLOCK);
                let bytes = NonNull::from(part(&mut buffer, len, BLOCK));
                Self { bytes, _owner: Owner::Heap { _buffer: buffer } }
            }
        }
    }
}

impl Block {
    /// `len` zeros for something small, without room around it: they begin at no block.
    pub(crate) fn small(len: usize) -> Self {
        let mut buffer = BytesMut::zeroed(len + SMALL_ALIGN);
        let bytes = NonNull::from(part(&mut buffer, len, SMALL_ALIGN));
        Self { bytes, _owner: Owner::Heap { _buffer: buffer } }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: they are initialized, live as long as their owner, and whoever changes them borrows it mutably.
        unsafe { self.bytes.as_ref() }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { self.bytes.as_mut() }
    }
}

impl std::fmt::Debug for Block {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.bytes.len())
    }
}

// SAFETY: the pointer is into the owner, which goes with it and is not looked at.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}
/// The `len` bytes of `room` that begin at a multiple of `align`, which it has to spare.
fn part(room: &mut [u8], len: usize, align: usize) -> &mut [u8] {
    let skip = room.as_ptr().align_offset(align).min(align);
    &mut room[skip..skip + len]
}

/// Makes the pages behind `fresh`, bytes that were never touched, in one call: a fault for each costs
/// as much again as clearing it.
pub(crate) fn populate<T>(fresh: &mut [T]) {
    let skip = fresh.as_ptr().align_offset(PAGE);
    let len = fresh.len().saturating_sub(skip) / PAGE * PAGE;
    let Some(pages) = fresh.get_mut(skip..skip + len) else { return };
    let large = large_pages_are_fast();
    if !large {
        advise(pages, Advice::Ordinary);
    }
    let before = processor_time();
    advise(pages, Advice::Populate);
    if large {
        let taken = processor_time().saturating_sub(before).as_nanos() as u64;
        MADE.fetch_add(len as u64 >> 10, Ordering::Relaxed);
        TAKEN.fetch_add(taken, Ordering::Relaxed);
    }
}

enum Advice {
    Large,
    Ordinary,
    Populate,
}

/// Tells the kernel about whole pages. One that declines changes nothing but the speed.
fn advise<T>(pages: &mut [T], advice: Advice) {
    #[cfg(target_os = "linux")]
    if !pages.is_empty() {
        let advice = match advice {
            Advice::Large => rustix::mm::Advice::LinuxHugepage,
            Advice::Ordinary => rustix::mm::Advice::LinuxNoHugepage,
            Advice::Populate => rustix::mm::Advice::LinuxPopulateWrite,
        };
        let (start, len) = (pages.as_mut_ptr(), size_of_val(pages));
        // SAFETY: the range is borrowed mutably, and all three leave what its pages hold.
        let _ = unsafe { rustix::mm::madvise(start.cast(), len, advice) };
    }
}

/// The thread's CPU time. Unlike wall time, it stops while the thread is descheduled.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}
