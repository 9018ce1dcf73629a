//! The fault matrix: every kind of damage in every place, at rest and on the wire.
//!
//! Each case ends in the right bytes, or in an error that names what is damaged, with the right
//! exit status: never in wrong bytes, never in silence (a case that takes a minute is a failure),
//! never in a panic. TENPAK_SOAK=N runs N random cases instead of 300.

mod rest;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Random cases per run.
fn random_cases() -> usize {
    std::env::var("TENPAK_SOAK").map_or(300, |n| n.parse().expect("TENPAK_SOAK is a number"))
}

/// Runs the cases on `workers` threads, each with a worker of its own, and tells every failure.
fn each<W>(
    workers: usize,
    cases: usize,
    make: impl Fn(usize) -> W + Sync,
    run: impl Fn(&mut W, usize) + Sync,
) {
    let next = AtomicUsize::new(0);
    let failures = Mutex::new(0);
    std::thread::scope(|scope| {
        for i in 0..workers {
            let (next, make, run, failures) = (&next, &make, &run, &failures);
            scope.spawn(move || {
                let mut worker = make(i);
                loop {
                    let case = next.fetch_add(1, Ordering::Relaxed);
                    if case >= cases {
                        return;
                    }
                    // The panic's own message says what it was.
                    let failed = catch_unwind(AssertUnwindSafe(|| run(&mut worker, case))).is_err();
                    *failures.lock().unwrap() += u32::from(failed);
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    assert_eq!(failures, 0, "{failures} of {cases} cases failed");
}
