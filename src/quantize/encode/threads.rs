//! Independent pieces of work on several threads.

use std::sync::{Mutex, PoisonError};

/// Calls `run` for every job, on `threads` threads. Jobs write to places of their own, so that the
/// result does not depend on which thread took which.
pub(super) fn each<J: Send>(
    threads: usize,
    jobs: impl Iterator<Item = J> + Send,
    run: impl Fn(J) + Sync,
) {
    if threads <= 1 {
        jobs.for_each(run);
        return;
    }
    let jobs = Mutex::new(jobs);
    let work = || {
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(job) = job else { return };
            run(job);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
}
