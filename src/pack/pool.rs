//! Worker threads for hashing, cutting and encoding. Results are awaited in the order in which the
//! jobs were given, so that the output does not depend on the number of threads.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use crate::chunk::codec::Encoder;

/// What each thread keeps from job to job.
#[derive(Default)]
pub(super) struct Worker {
    pub(super) encoder: Encoder,
    pub(super) buffer: Vec<u8>,
    /// A base, and the base of that.
    pub(super) bases: [Vec<u8>; 2],
}

type Job = Box<dyn FnOnce(&mut Worker) + Send>;

/// A fixed number of threads.
pub(super) struct Pool {
    jobs: Option<Sender<Job>>,
    threads: Vec<JoinHandle<()>>,
}

/// A result to come.
pub(super) struct Pending<T>(Receiver<T>);

/// A worker panicked before it had the result: a defect of this program.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a worker thread failed; this is a defect of tenpak, please report it")]
pub struct WorkerFailed;

impl<T> Pending<T> {
    pub(super) fn wait(self) -> Result<T, WorkerFailed> {
        self.0.recv().map_err(|_| WorkerFailed)
    }
}

impl Pool {
    pub(super) fn new(threads: usize) -> Self {
        let (jobs, queue) = channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let run = |queue: Arc<Mutex<Receiver<Job>>>| {
            let mut worker = Worker::default();
            loop {
                // A panicking job poisons nothing: the lock is not held while one runs.
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok(job) = next else { return };
                job(&mut worker);
            }
        };
        let threads = (0..threads.max(1))
            .map(|_| {
                let queue = queue.clone();
                std::thread::spawn(move || run(queue))
            })
            .collect();
        Self { jobs: Some(jobs), threads }
    }

    pub(super) fn spawn<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Worker) -> T + Send + 'static,
    ) -> Pending<T> {
        let (done, result): (SyncSender<T>, _) = sync_channel(1);
        let job: Job = Box::new(move |worker| {
            // Whoever no longer waits needs no result.
            drop(done.send(job(worker)));
        });
        if let Some(jobs) = &self.jobs {
            // Fails only when every thread is gone; then the wait fails too.
            drop(jobs.send(job));
        }
        Pending(result)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A panic has already been reported to whoever waited.
            drop(thread.join());
        }
    }
}

/// A value that jobs change one after the other, whichever is ready first. They must have been given
/// to the pool in that order, so that a job which waits never keeps an earlier one from running.
#[derive(Debug, Default)]
pub(super) struct InOrder<T> {
    state: Mutex<(usize, T)>,
    passed: Condvar,
}

/// A job's place in the order. Dropped, it is passed on, so that nobody waits for a job that failed.
pub(super) struct Turn<T> {
    of: Arc<InOrder<T>>,
    number: usize,
}

impl<T> InOrder<T> {
    /// The place of the job with this number, from 0 on.
    pub(super) fn turn(self: &Arc<Self>, number: usize) -> Turn<T> {
        Turn { of: self.clone(), number }
    }

    pub(super) fn new(value: T) -> Self {
        Self { state: Mutex::new((0, value)), passed: Condvar::new() }
    }

    /// Reads the value, whoever has had a turn.
    pub(super) fn read<R>(&self, read: impl FnOnce(&T) -> R) -> R {
        read(&self.state.lock().unwrap_or_else(PoisonError::into_inner).1)
    }
}

impl<T> Turn<T> {
    /// Waits for the earlier jobs, then changes the value. `None` if the turn is over already.
    pub(super) fn change<R>(self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.wait(change)
    }

    fn wait<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        let state = self.of.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut (usize, T)| state.0 < self.number;
        let state = self.of.passed.wait_while(state, waits);
        let mut state = state.unwrap_or_else(PoisonError::into_inner);
        (state.0 == self.number).then(|| {
            let changed = change(&mut state.1);
            state.0 += 1;
            self.of.passed.notify_all();
            changed
        })
    }
}

impl<T> Drop for Turn<T> {
    fn drop(&mut self) {
        self.wait(|_| {});
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_taken_in_order_and_lost_ones_passed_on() {
        let pool = Pool::new(3);
        let value = Arc::new(InOrder::<Vec<usize>>::default());
        let job = |i: usize| {
            let turn = value.turn(i);
            pool.spawn(move |_| match i % 10 {
                3 => drop(turn),
                7 => panic!("on purpose, with {} waiting", turn.number),
                _ => _ = turn.change(|seen| seen.push(i)),
            })
        };
        let pending: Vec<_> = (0..27).map(job).collect();
        for pending in pending {
            let _ = pending.wait();
        }
        let want: Vec<_> = (0..27).filter(|i| ![3, 7].contains(&(i % 10))).collect();
        value.read(|seen| assert_eq!(*seen, want));
    }

    #[test]
    fn results_come_to_whoever_waits_and_panics_are_reported() {
        let pool = Pool::new(3);
        let pending: Vec<_> = (0..100).map(|i| pool.spawn(move |_| i * i)).collect();
        let squares: Vec<_> = pending.into_iter().map(|p| p.wait().unwrap()).collect();
        assert_eq!(squares, (0..100).map(|i| i * i).collect::<Vec<_>>());
        assert!(pool.spawn(|_| -> u8 { panic!("on purpose") }).wait().is_err());
        assert!(pool.spawn(|_| ()).wait().is_ok(), "other threads go on");
    }
}
