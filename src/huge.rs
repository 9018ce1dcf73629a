//! Huge pages for large buffers: a page fault per 2 MiB instead of one per 4 KiB. The one place with
//! `unsafe` for it.

/// Buffers below this size are left alone.
const MIN: usize = 4 << 20;

/// A multiple of every size that ordinary pages have.
const PAGE: usize = 64 << 10;

/// Asks the kernel for huge pages behind `buffer`, and says whether it took the wish. One that
/// declines changes nothing but the speed.
pub(super) fn advise(buffer: &mut [u8]) -> bool {
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
