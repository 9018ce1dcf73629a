//! What the system is asked about memory: huge pages for large buffers (a page fault per 2 MiB instead
//! of one per 4 KiB), and freed buffers back at once. The one place with `unsafe` for it.

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

/// Buffers below this size are left alone.
const MIN: usize = 4 << 20;

/// A multiple of every size that ordinary pages have.
const PAGE: usize = 64 << 10;

/// Asks the kernel for huge pages behind `buffer`, and says whether it took the wish. One that
/// declines changes nothing but the speed.
pub(crate) fn advise_huge_pages(buffer: &mut [u8]) -> bool {
    #[cfg(target_os = "linux")]
    if buffer.len() >= MIN {
        let skip = buffer.as_ptr().align_offset(PAGE);
        let Some(aligned) = buffer.get_mut(skip..) else { return false };
        let len = aligned.len() / PAGE * PAGE;
        let advice = rustix::mm::Advice::LinuxHugepage;
        // SAFETY: the range is aligned to pages and lies within `buffer`, which is borrowed mutably;
        // this advice never changes what the pages hold, nor unmaps them.
        let wish = unsafe { rustix::mm::madvise(aligned.as_mut_ptr().cast(), len, advice) };
        return wish.is_ok();
    }
    buffer.len() >= MIN && PAGE == 0
}

/// Makes the pages behind `fresh`, memory that was never touched, in one call: a fault for each
/// costs as much again as clearing it. A kernel that declines changes nothing but the speed.
pub(crate) fn populate(fresh: &mut [std::mem::MaybeUninit<u8>]) {
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
