//! Threads for what keeps a core busy: hashing and decoding, away from those that drive the network.
//!
//! As many as there are cores, however much is asked of them. What somebody waits for comes before what is
//! done ahead, which has every fourth turn at least. Work whose result nobody wants any more is not begun.
//! Little work is done at once, by whoever asks. A process that was forked has none of its parent's threads, and
//! begins its own.

use std::collections::VecDeque;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, Once, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::thread;

use tokio::sync::oneshot;

/// Bytes whose hashing or decoding takes as long as it does to hand them to another thread.
const LITTLE: usize = 64 << 10;

/// How many turns in a row go to what somebody waits for.
const TURNS: u8 = 3;

/// Who waits for work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody, now.
    Now,
    /// Nobody yet.
    Ahead,
}

/// The result of work. Dropping it gives the work up, unless it has begun.
#[derive(Debug)]
pub(crate) struct Job<T>(oneshot::Receiver<T>);

/// The work panicked, or the pool has no thread.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a thread that hashes or decodes has failed")]
pub(crate) struct PoolError;

type Work = Box<dyn FnOnce() + Send>;

struct Pool {
    queues: Mutex<Queues>,
    more: Condvar,
    threads: AtomicUsize,
    begun: Once,
    /// The process that its threads are in.
    process: u32,
    /// That of a process which was forked while this one was in use.
    next: OnceLock<Box<Pool>>,
}

#[derive(Default)]
struct Queues {
    now: VecDeque<Work>,
    ahead: VecDeque<Work>,
    /// Turns in a row that went to the first.
    turns: u8,
}

impl Queues {
    fn next(&mut self) -> Option<Work> {
        if self.turns < TURNS
            && let Some(work) = self.now.pop_front()
        {
            self.turns += 1;
            return Some(work);
        }
        self.turns = 0;
        self.ahead.pop_front().or_else(|| self.now.pop_front())
    }
}

/// Cores that read and hash local files for one load: 2 to 8.
pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

impl Pool {
    fn new() -> Self {
        Self {
            queues: Mutex::default(),
            more: Condvar::new(),
            threads: AtomicUsize::new(0),
            begun: Once::new(),
            process: std::process::id(),
            next: OnceLock::new(),
        }
    }
}

static FIRST: OnceLock<Pool> = OnceLock::new();

/// The pool of this process.
fn pool() -> &'static Pool {
    let process = std::process::id();
    let mut pool = FIRST.get_or_init(Pool::new);
    while pool.process != process {
        pool = pool.next.get_or_init(|| Box::new(Pool::new()));
    }
    pool.begin();
    pool
}

impl Pool {
    /// Begins its threads, if they were not.
    fn begin(&'static self) {
        self.begun.call_once(|| {
            let begin = |number: &usize| {
                let thread = thread::Builder::new().name(format!("tenpak-work-{number}"));
                thread.spawn(|| self.run()).is_ok()
            };
            let cores = thread::available_parallelism().map_or(2, usize::from);
            self.threads.store((0..cores).filter(begin).count(), Ordering::Relaxed);
        });
    }

    fn run(&self) {
        loop {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let work = loop {
                if let Some(work) = queues.next() {
                    break work;
                }
                queues = self.more.wait(queues).unwrap_or_else(PoisonError::into_inner);
            };
            drop(queues);
            // Whoever waits for it hears that it failed.
            drop(catch_unwind(AssertUnwindSafe(work)));
        }
    }

    fn add(&self, urgency: Urgency, work: Work) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        match urgency {
            Urgency::Now => queues.now.push_back(work),
            Urgency::Ahead => queues.ahead.push_back(work),
        }
        drop(queues);
        self.more.notify_one();
    }
}

/// Hashes or decodes so many bytes, for whoever `work` tells.
pub(crate) fn start(bytes: usize, urgency: Urgency, work: impl FnOnce() + Send + 'static) {
    // Without threads, as a system may have it, it is done here.
    if bytes <= LITTLE {
        return work();
    }
    let pool = pool();
    match pool.threads.load(Ordering::Relaxed) {
        0 => work(),
        _ => pool.add(urgency, Box::new(work)),
    }
}

/// Begins to hash or decode so many bytes.
pub(crate) fn spawn<T: Send + 'static>(
    bytes: usize,
    urgency: Urgency,
    work: impl FnOnce() -> T + Send + 'static,
) -> Job<T> {
    let (told, result) = oneshot::channel();
    start(bytes, urgency, move || {
        if !told.is_closed() {
            // Given up meanwhile.
            drop(told.send(work()));
        }
    });
    Job(result)
}

impl<T> Future for Job<T> {
    type Output = Result<T, PoolError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context).map_err(|_| PoolError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[tokio::test]
    async fn work_is_done_elsewhere_unless_it_is_little() {
        let here = thread::current().id();
        let at = |bytes| spawn(bytes, Urgency::Now, || thread::current().id());
        assert_eq!(at(LITTLE).await.unwrap(), here);
        assert_ne!(at(LITTLE + 1).await.unwrap(), here);
        assert!(spawn(1 << 20, Urgency::Now, || panic!("on purpose")).await.is_err());
        assert_ne!(at(1 << 20).await.unwrap(), here, "its thread goes on");
    }

    #[tokio::test]
    async fn what_nobody_wants_any_more_is_not_begun() {
        let (release, held) = mpsc::channel::<()>();
        let held = std::sync::Arc::new(Mutex::new(held));
        let busy: Vec<_> = (0..pool().threads.load(Ordering::Relaxed))
            .map(|_| {
                let held = held.clone();
                spawn(1 << 20, Urgency::Now, move || {
                    held.lock().unwrap().recv().unwrap_err();
                })
            })
            .collect();
        let (told, done) = mpsc::channel();
        drop(spawn(1 << 20, Urgency::Now, move || told.send(()).unwrap()));
        drop(release);
        for job in busy {
            job.await.unwrap();
        }
        assert!(done.recv().is_err(), "it was done for nobody");
    }

    #[test]
    fn what_is_waited_for_comes_first() {
        // A pool of its own: other tests use the one of the process.
        let pool = Pool::new();
        let (told, order) = mpsc::channel();
        let work = |name: &'static str| {
            let told = told.clone();
            Box::new(move || told.send(name).unwrap()) as Work
        };
        for _ in 0..2 {
            pool.add(Urgency::Ahead, work("ahead"));
        }
        for _ in 0..5 {
            pool.add(Urgency::Now, work("now"));
        }
        let pool: &'static Pool = Box::leak(Box::new(pool));
        thread::spawn(|| pool.run());
        let order: Vec<_> = (0..7).map(|_| order.recv().unwrap()).collect();
        assert_eq!(order, ["now", "now", "now", "ahead", "now", "now", "ahead"]);
    }
}
