//! A worker: claims jobs, runs each in a child process, and keeps its lease meanwhile. Threads, no runtime.
//!
//! The child has no access to the database. Right before its ref moves it asks, and the worker looks whether the
//! lease still counts.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::child::{Child, Said, in_words};
use super::error::{DatabaseError, JobsError};
use super::job::{Beat, Job, Lease, Outcome};
use super::queue::Jobs;

/// The wait before the next look for a job.
const IDLE: Duration = Duration::from_millis(500);
/// The wait after the database failed.
const UNAVAILABLE: Duration = Duration::from_secs(2);
/// The time between two sweeps of old jobs.
const SWEEP: Duration = Duration::from_secs(600);
/// The time between two signs of life of a worker without a job.
const SEEN: Duration = Duration::from_secs(10);
/// Lines of a job that are kept with one heartbeat.
const LOG: usize = 100;
/// Leases that the end of a run is told for, where the database does not answer.
const PATIENCE: u32 = 4;
/// The exit status of commands after which another try may fare better: the network, or the store.
const AGAIN: i64 = 5;
/// The exit statuses of commands that will not fare better: failed, wrong use, not found, not what was signed.
const FINAL: std::ops::RangeInclusive<i32> = 1..=4;

/// The command that does a job.
#[derive(Debug, Clone, Default)]
pub struct Call {
    /// Its arguments.
    pub arguments: Vec<String>,
    /// What its environment has other than the worker's: a value, or nothing.
    pub environment: Vec<(String, Option<String>)>,
}

/// The command that does a job, or why there is none.
pub type Calls = Arc<dyn Fn(&Job) -> Result<Call, String> + Send + Sync>;

/// A run that is over.
#[derive(Debug)]
pub struct Ended<'a> {
    /// Its job, as it was claimed.
    pub job: &'a Job,
    /// Who ran it.
    pub worker: &'a str,
    /// How long it took.
    pub took: Duration,
    /// What came of it; none where the lease was lost.
    pub outcome: Option<&'a Outcome>,
}

/// Hears of runs that are over.
pub type Hears = Arc<dyn Fn(&Ended<'_>) + Send + Sync>;

/// How a worker works.
#[derive(Clone)]
#[non_exhaustive]
pub struct WorkerOptions {
    /// What it is called; two that run at a time are called differently.
    pub name: String,
    /// The program that runs jobs.
    pub program: PathBuf,
    /// How it is called for a job.
    pub calls: Calls,
    /// The time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Who hears of its runs.
    pub hears: Option<Hears>,
}

/// Why a worker ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The database failed.
    #[error(transparent)]
    Jobs(#[from] JobsError),
}

/// A worker. What is cloned is the same worker.
#[derive(Clone)]
pub struct Worker {
    jobs: Jobs,
    options: Arc<WorkerOptions>,
    stopping: Arc<AtomicBool>,
    wake: Arc<(Mutex<()>, Condvar)>,
}

impl Worker {
    /// A worker on these jobs.
    pub fn new(jobs: Jobs, options: WorkerOptions) -> Self {
        let wake = Arc::new((Mutex::new(()), Condvar::new()));
        Self { jobs, options: Arc::new(options), stopping: Arc::default(), wake }
    }

    /// Lets it end: the job that it runs goes back to the queue.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::SeqCst);
        self.wake.1.notify_all();
    }

    /// Has it look for a job now.
    pub fn wake(&self) {
        self.wake.1.notify_all();
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    fn pause(&self, time: Duration) {
        let guard = self.wake.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_stopping() {
            drop(self.wake.1.wait_timeout(guard, time));
        }
    }

    /// Runs jobs until it is stopped. A database that does not answer is waited for.
    ///
    /// # Errors
    /// If the database refuses.
    pub fn run(&self) -> Result<(), WorkerError> {
        let (mut seen, mut swept) = (None::<Instant>, None::<Instant>);
        let due = |last: &Option<Instant>, every| last.is_none_or(|at| at.elapsed() >= every);
        while !self.is_stopping() {
            let step = (|| {
                if due(&seen, SEEN) {
                    self.jobs.seen(&self.options.name, None)?;
                    seen = Some(Instant::now());
                }
                if due(&swept, SWEEP) {
                    self.jobs.sweep()?;
                    swept = Some(Instant::now());
                }
                self.jobs.claim(&self.options.name)
            })();
            match step {
                Ok(Some((job, lease))) => {
                    self.work(&job, &lease)?;
                    seen = None;
                }
                Ok(None) => self.pause(IDLE),
                Err(error) if is_passing(&error) => {
                    tracing::warn!(%error, "the worker waits");
                    self.pause(UNAVAILABLE);
                }
                Err(error) => return Err(error.into()),
            }
        }
        // Whoever looks sees it for a while otherwise.
        drop(self.jobs.gone(&self.options.name));
        Ok(())
    }

    /// Runs one job, if one is due. Returns whether one was.
    ///
    /// # Errors
    /// If the database fails.
    pub fn run_once(&self) -> Result<bool, WorkerError> {
        let claimed = self.jobs.claim(&self.options.name)?;
        if let Some((job, lease)) = &claimed {
            self.work(job, lease)?;
        }
        drop(self.jobs.gone(&self.options.name));
        Ok(claimed.is_some())
    }

    fn work(&self, job: &Job, lease: &Lease) -> Result<(), WorkerError> {
        tracing::info!(job = %job.id, kind = job.kind, attempt = job.attempts, "begins");
        let begun = Instant::now();
        let outcome = match (self.options.calls)(job) {
            Err(error) => Some(Outcome::Failed { error, again: false, found: None }),
            Ok(call) => {
                match Child::start(&self.options.program, &call.arguments, &call.environment) {
                    Ok(child) => Run { worker: self, lease, child }.follow(),
                    Err(error) => {
                        let program = self.options.program.display();
                        let error = format!("cannot start {program}: {error}");
                        Some(Outcome::Failed { error, again: true, found: None })
                    }
                }
            }
        };
        if let Some(hears) = &self.options.hears {
            let (worker, took) = (&*self.options.name, begun.elapsed());
            hears(&Ended { job, worker, took, outcome: outcome.as_ref() });
        }
        // A lease that was lost has nothing to tell.
        let Some(outcome) = outcome else { return Ok(()) };
        let end = Instant::now() + self.jobs.policy().lease * PATIENCE;
        loop {
            match self.jobs.finish(lease, &outcome) {
                Ok(state) => {
                    tracing::info!(job = %job.id, ?state, "ends");
                    return Ok(());
                }
                Err(error) if is_passing(&error) && Instant::now() < end => {
                    tracing::warn!(job = %job.id, %error, "the end waits to be told");
                    std::thread::sleep(UNAVAILABLE);
                }
                Err(error) if is_passing(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether the database may answer later.
fn is_passing(error: &JobsError) -> bool {
    matches!(error, JobsError::Database(DatabaseError::Unavailable(_)))
}

/// A job that runs.
struct Run<'a> {
    worker: &'a Worker,
    lease: &'a Lease,
    child: Child,
}

/// Why a child is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Cancelled,
    HandedOver,
    Lost,
}

/// What is to be told with the next heartbeat.
#[derive(Default)]
struct Pending {
    progress: Option<Value>,
    events: Vec<(String, Value)>,
    dropped: usize,
}

impl Run<'_> {
    /// Follows the child to its end. `None`: the lease was lost.
    fn follow(mut self) -> Option<Outcome> {
        let every = self.worker.jobs.policy().lease / 6;
        let every = every.min(Duration::from_secs(1));
        let (mut beat, mut closed) = (Instant::now(), 0);
        let mut pending = Pending::default();
        let mut ending = None::<(Ending, Instant)>;
        let (mut result, mut error, mut refused) = (None, None, false);
        while closed < 2 {
            match self.child.said.recv_timeout(beat.saturating_duration_since(Instant::now())) {
                Ok(Said::Progress(progress)) => pending.progress = Some(progress),
                Ok(Said::Gate) => refused |= !self.gate(ending),
                Ok(Said::Event(kind, data)) => pending.add(kind, data),
                Ok(Said::Log(line)) => pending.add("log".to_owned(), line.into()),
                Ok(Said::Result(of)) => result = Some(of),
                Ok(Said::Error(why, status)) => error = Some((why, status)),
                Ok(Said::Closed) => closed += 1,
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if Instant::now() < beat && closed < 2 {
                continue;
            }
            beat = Instant::now() + every;
            let wanted = self.beat(&mut pending);
            if ending.is_none()
                && let Some(why) = wanted
            {
                let (signal, grace) = match why {
                    Ending::Lost => (Signal::KILL, Duration::ZERO),
                    _ => (Signal::TERM, self.worker.options.grace),
                };
                self.child.signal(signal);
                ending = Some((why, Instant::now() + grace));
            }
            if ending.is_some_and(|(_, until)| Instant::now() >= until) {
                self.child.signal(Signal::KILL);
            }
        }
        let status = self.child.wait();
        let how = status.as_ref().map_or_else(ToString::to_string, |status| in_words(*status));
        let code = status.ok().and_then(|status| status.code());
        match (ending.map(|(why, _)| why), result, error) {
            (Some(Ending::Lost), ..) => None,
            (_, Some(result), _) if code == Some(0) => Some(Outcome::Succeeded(result)),
            (Some(Ending::HandedOver), ..) => Some(Outcome::HandedOver),
            // The command's own words, and what it found, such as why each candidate was dropped.
            (_, found, Some((error, status))) => {
                Some(Outcome::Failed { error, again: refused || status == AGAIN, found })
            }
            // Without words the status tells; a signal, such as for memory that ran out, may pass.
            (_, found, None) => {
                let again = refused || !code.is_some_and(|code| FINAL.contains(&code));
                Some(Outcome::Failed { error: how, again, found })
            }
        }
    }

    /// Lets the child publish if the lease counts; returns whether it does.
    fn gate(&mut self, ending: Option<(Ending, Instant)>) -> bool {
        let may = ending.is_none()
            && match self.worker.jobs.may_publish(self.lease) {
                Ok(may) => may,
                Err(error) => {
                    tracing::warn!(job = %self.lease.job, %error, "nothing is published");
                    false
                }
            };
        self.child.answer(if may { "publish" } else { "refuse" });
        may
    }

    /// Keeps the lease and tells what is new; gives why the child is to end, if it is.
    fn beat(&self, pending: &mut Pending) -> Option<Ending> {
        let jobs = &self.worker.jobs;
        let told = (|| {
            let beat = jobs.heartbeat(self.lease, pending.progress.as_ref())?;
            pending.progress = None;
            let events = std::mem::take(&mut pending.events);
            if std::mem::take(&mut pending.dropped) > 0 {
                jobs.tell(self.lease, &[("log", json!("(lines were left out)"))])?;
            }
            if !events.is_empty() {
                let events: Vec<_> =
                    events.iter().map(|(kind, data)| (&**kind, data.clone())).collect();
                jobs.tell(self.lease, &events)?;
            }
            jobs.seen(&self.worker.options.name, Some(&self.lease.job))?;
            Ok::<_, JobsError>(beat)
        })();
        match told {
            Ok(Beat::Lost) => Some(Ending::Lost),
            Ok(Beat::Cancel) => Some(Ending::Cancelled),
            Ok(Beat::Go) => self.worker.is_stopping().then_some(Ending::HandedOver),
            Err(error) => {
                // The work goes on: the lease is looked at before anything is published.
                tracing::warn!(job = %self.lease.job, %error, "no heartbeat");
                self.worker.is_stopping().then_some(Ending::HandedOver)
            }
        }
    }
}

impl Pending {
    fn add(&mut self, kind: String, data: Value) {
        match self.events.len() < LOG {
            true => self.events.push((kind, data)),
            false => self.dropped += 1,
        }
    }
}
