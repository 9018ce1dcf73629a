//! Where outputs of products go, and who computes them.

use std::ops::Range;

use rayon::prelude::*;

/// Products, in multiplications, that no other thread is asked for.
const ALONE: usize = 64 << 10;

/// Where outputs go; each is written by one task only.
#[derive(Clone, Copy)]
pub(super) struct Outputs {
    pub(super) to: *mut f32,
    pub(super) stride: usize,
}

// SAFETY: tasks write to different rows of the weight, and so to different places; nobody reads before they ended.
unsafe impl Send for Outputs {}
// SAFETY: as above.
unsafe impl Sync for Outputs {}

/// Runs `task` for all rows, whole groups of `together` of them, of a product of so many multiplications.
pub(super) fn in_tasks(
    rows: usize,
    together: usize,
    work: usize,
    task: impl Fn(Range<usize>) + Sync,
) {
    let threads = rayon::current_num_threads();
    if work <= ALONE || threads == 1 {
        return task(0..rows);
    }
    // Some tasks for each thread, so that one that is held up does not hold up all.
    let tasks = (threads * 4).min(work.div_ceil(ALONE));
    let each = rows.div_ceil(tasks).next_multiple_of(together);
    (0..rows.div_ceil(each)).into_par_iter().for_each(|at| {
        task(at * each..rows.min((at + 1) * each));
    });
}
