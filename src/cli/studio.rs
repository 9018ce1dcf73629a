//! `tenpak studio`: the server, workers, backups.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::elsewhere::variable;
use super::error::Failure;
use super::output::Output;
use super::studio_backup::{backup, restore};
use super::studio_settings::{Common, Serving, folder};
use crate::edge::{self, Access, AccessLog, EdgeOptions, TraceTarget, Tracer, Work};
use crate::jobs::{
    Call, Clock, Ended, Hears, Job, Jobs, JobsError, Outcome, Policy, Worker, WorkerError,
    WorkerOptions,
};
use crate::studio::{
    OutsideOptions, Studio as Service, StudioFront, StudioOptions, Tokens, arguments, notify,
};

/// How long the last spans may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// The time that a job has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Studio {
    #[command(subcommand)]
    command: Option<StudioCommand>,
    #[command(flatten)]
    serve: Serve,
}

#[derive(Debug, clap::Subcommand)]
enum StudioCommand {
    /// Run jobs of a database, beside any number of others
    Worker(WorkerArgs),
    /// Write the database and the store's refs to a folder
    Backup(BackupArgs),
    /// Read such a folder into an empty database; refs that the store has stay as they are
    Restore(RestoreArgs),
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    serving: Serving,
}

#[derive(Debug, clap::Args)]
struct WorkerArgs {
    #[command(flatten)]
    common: Common,
    /// Take one job, if one waits, and exit
    #[arg(long, conflicts_with = "workers")]
    once: bool,
}

#[derive(Debug, clap::Args)]
struct BackupArgs {
    #[command(flatten)]
    common: Common,
    /// The folder to write, which must not be there or be empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

#[derive(Debug, clap::Args)]
struct RestoreArgs {
    #[command(flatten)]
    common: Common,
    /// The folder that was written
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
}

impl Common {
    fn database(&self) -> Result<String, Failure> {
        let url = match &self.database {
            Some(url) => url.clone(),
            None => {
                let path = folder()?.join("jobs.db");
                path.to_str()
                    .ok_or_else(|| Failure::usage("the user's data directory is not UTF-8"))?
                    .to_owned()
            }
        };
        if !url.contains("://") {
            let path = Path::new(url.strip_prefix("sqlite:").unwrap_or(&url));
            let above = path.parent().filter(|above| !above.as_os_str().is_empty());
            above
                .map_or(Ok(()), std::fs::create_dir_all)
                .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        }
        Ok(url)
    }

    fn jobs(&self) -> Result<Jobs, Failure> {
        let defaults = Policy::default();
        let lease = self.lease.map_or(defaults.lease, Duration::from_secs);
        let policy = Policy { lease, ..defaults };
        let url = self.database()?;
        // Its client blocks, which the runtime's own threads must not.
        let open = std::thread::spawn(move || Jobs::open(&url, policy, Clock::Database));
        match open.join() {
            Ok(jobs) => jobs.map_err(Failure::from),
            Err(_) => Err(Failure::failed("the database's client failed")),
        }
    }

    /// Sends a span for each run of a job, if that is wanted, until what is given back is dropped.
    fn tracing(&self, runtime: &Handle) -> Result<Option<Spans>, Failure> {
        let Some(url) = &self.traces else { return Ok(None) };
        let target = TraceTarget::new(url).map_err(Failure::usage)?;
        let _in = runtime.enter();
        let (tracer, task) = Tracer::start(target).map_err(Failure::failed)?;
        Ok(Some(Spans { tracer: Arc::new(tracer), task }))
    }

    /// What jobs may read elsewhere, and as whom.
    fn outside(&self, global: &Global) -> Result<OutsideOptions, Failure> {
        let tokens = self.hub_tokens.as_deref().map(read).transpose()?;
        let (endpoint, own) = (variable("HF_ENDPOINT"), variable("HF_TOKEN"));
        let certificates = global.web()?.certificates;
        let allowed = &self.allow_private;
        let options =
            OutsideOptions::new(endpoint.as_deref(), own, tokens.as_deref(), allowed, certificates);
        options.map_err(Failure::usage)
    }

    /// The workers of this process.
    fn workers(
        &self,
        jobs: &Jobs,
        global: &Global,
        hears: Option<Hears>,
    ) -> Result<Vec<Worker>, Failure> {
        let count = self.workers.unwrap_or(1);
        let program = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("the path of this program: {error}")))?;
        let common = self.of_every_job(global)?;
        let outside = self.outside(global)?;
        let of_parts = jobs.clone();
        let calls = Arc::new(move |job: &Job| {
            let made = match job.parts {
                Some(_) => made(&of_parts, job)?,
                None => Vec::new(),
            };
            let arguments = arguments(&job.kind, &job.request, &common, outside.allowed(), &made)?;
            let mut environment = hidden();
            // Its own tenant's token, and no other one.
            let token = outside.token(&job.tenant).map(str::to_owned);
            environment.push(("HF_TOKEN".to_owned(), token));
            Ok(Call { arguments, environment })
        });
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "host" } else { host.trim() };
        let worker = |number| {
            let name = format!("{host}-{}-{number}", std::process::id());
            let options = WorkerOptions {
                name,
                program: program.clone(),
                calls: calls.clone(),
                grace: GRACE,
                hears: hears.clone(),
            };
            Worker::new(jobs.clone(), options)
        };
        Ok((1..=count).map(worker).collect())
    }

    /// What every job is told: the store, whom to trust, what to sign with.
    fn of_every_job(&self, global: &Global) -> Result<Vec<String>, Failure> {
        let mut all = vec![format!("--store={}", global.store_location()?)];
        let mut flag = |name: &str, values: &[String]| {
            all.extend(values.iter().map(|value| format!("--{name}={value}")));
        };
        flag("trust", &global.trust);
        flag("mirror", &global.mirror);
        flag("header", &global.header);
        let paths = |paths: &[PathBuf]| -> Result<Vec<String>, Failure> {
            let text = |path: &PathBuf| path.to_str().map(str::to_owned);
            let all: Option<Vec<String>> = paths.iter().map(text).collect();
            all.ok_or_else(|| Failure::usage("a path is not UTF-8"))
        };
        flag("sign", &paths(&self.sign)?);
        flag("ca", &paths(&global.ca.iter().cloned().collect::<Vec<_>>())?);
        Ok(all)
    }
}

impl Studio {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        match self.command {
            Some(StudioCommand::Worker(args)) => args.run(global, runtime, output),
            Some(StudioCommand::Backup(args)) => {
                let (common, _, global) = args.common.settled(global)?;
                backup(&common.jobs()?, &global.store()?, &args.out, runtime, output)
            }
            Some(StudioCommand::Restore(args)) => {
                let (common, _, global) = args.common.settled(global)?;
                restore(&common.jobs()?, &global.store()?, &args.from, runtime, output)
            }
            None => self.serve.run(global, runtime, output),
        }
    }
}

impl WorkerArgs {
    fn run(self, global: &Global, runtime: &Handle, output: &Output) -> Result<(), Failure> {
        let (common, _, global) = self.common.settled(global)?;
        let jobs = common.jobs()?;
        let spans = common.tracing(runtime)?;
        let workers = common.workers(&jobs, &global, spans.as_ref().map(Spans::hears))?;
        if common.check {
            return output.result(json!({"right": true}), || "right".to_owned());
        }
        let finish = |spans: Option<Spans>| spans.into_iter().for_each(|own| own.finish(runtime));
        if self.once {
            let Some(worker) = workers.into_iter().next() else { return Ok(()) };
            stop_on_signal(runtime, vec![worker.clone()])?;
            let took = worker.run_once().map_err(Failure::from)?;
            drop(worker);
            finish(spans);
            return output.result(json!({"took": took}), || {
                (if took { "one job" } else { "no job waits" }).to_owned()
            });
        }
        output
            .result(json!({"workers": workers.len()}), || format!("{} workers", workers.len()))?;
        stop_on_signal(runtime, workers.clone())?;
        let running = start(&workers)?;
        drop(workers);
        let ended = join(running);
        finish(spans);
        ended
    }
}

/// The manifests of what a job's parts made. One that is not known is made again.
fn made(jobs: &Jobs, job: &Job) -> Result<Vec<String>, String> {
    let parts = jobs.parts(&job.id).map_err(|error| error.to_string())?;
    let manifest = |part: &Job| Some(part.result.as_ref()?["manifest"].as_str()?.to_owned());
    Ok(parts.iter().filter_map(manifest).collect())
}

/// SIGTERM stops workers: what they run goes back to the queue.
fn stop_on_signal(runtime: &Handle, workers: Vec<Worker>) -> Result<(), Failure> {
    let _in = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    runtime.spawn(async move {
        terminate.recv().await;
        workers.iter().for_each(Worker::stop);
    });
    Ok(())
}

type Running = Vec<std::thread::JoinHandle<Result<(), WorkerError>>>;

fn start(workers: &[Worker]) -> Result<Running, Failure> {
    let start = |worker: &Worker| {
        let worker = worker.clone();
        std::thread::Builder::new().name("worker".to_owned()).spawn(move || worker.run())
    };
    workers.iter().map(start).collect::<Result<_, _>>().map_err(Failure::failed)
}

fn join(running: Running) -> Result<(), Failure> {
    for worker in running {
        worker.join().map_err(|_| Failure::failed("a worker failed"))?.map_err(Failure::from)?;
    }
    Ok(())
}

/// Spans of jobs on their way.
struct Spans {
    tracer: Arc<Tracer>,
    task: tokio::task::JoinHandle<()>,
}

impl Spans {
    fn hears(&self) -> Hears {
        let tracer = self.tracer.clone();
        Arc::new(move |ended: &Ended<'_>| {
            let job = ended.job;
            let failed = match ended.outcome {
                Some(Outcome::Failed { error, .. }) => Some(error.clone()),
                None => Some("its lease was lost".to_owned()),
                _ => None,
            };
            tracer.record_work(Work {
                parent: job.request["traceparent"].as_str(),
                name: format!("job {}", job.kind),
                took: ended.took,
                failed,
                attributes: vec![
                    ("tenpak.job", job.id.to_string()),
                    ("tenpak.tenant", job.tenant.clone()),
                    ("tenpak.attempt", job.attempts.to_string()),
                    ("tenpak.worker", ended.worker.to_owned()),
                ],
            });
        })
    }

    /// Sends what is left. Whoever hears must be gone.
    fn finish(self, runtime: &Handle) {
        drop(self.tracer);
        let sent = async { tokio::time::timeout(FAREWELL, self.task).await };
        // A collector that does not answer is not waited for.
        drop(runtime.block_on(sent));
    }
}

/// What a job's process does not inherit: the database is the worker's.
fn hidden() -> Vec<(String, Option<String>)> {
    ["TENPAK_DATABASE", "PGPASSWORD", "PGPASSFILE"].map(|name| (name.to_owned(), None)).to_vec()
}

fn read(path: &Path) -> Result<String, Failure> {
    let wrong = |error| Failure::usage(format!("{}: {error}", path.display()));
    std::fs::read_to_string(path).map_err(wrong)
}

impl Serve {
    fn run(self, global: &Global, runtime: &Handle, output: &Output) -> Result<(), Failure> {
        let (common, file, global) = self.common.settled(global)?;
        let serving = self.serving.settled(&file);
        let listen = serving.listen()?;
        let tokens = match &serving.tokens {
            None => Tokens::none(),
            Some(path) => {
                let wrong = |why| Failure::usage(format!("{}: {why}", path.display()));
                Tokens::parse(&read(path)?).map_err(wrong)?
            }
        };
        if !tokens.are_needed() && !listen.ip().is_loopback() {
            return Err(Failure::usage(format!(
                "others can reach {listen}: give --tokens FILE, or listen on 127.0.0.1"
            )));
        }
        let log = match &serving.access_log {
            Some(path) => Some(
                AccessLog::open(path)
                    .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?,
            ),
            None => None,
        };
        let traces = common.traces.as_deref().map(TraceTarget::new);
        let traces = traces.transpose().map_err(Failure::usage)?;
        let jobs = common.jobs()?;
        let spans = common.tracing(runtime)?;
        let workers = common.workers(&jobs, &global, spans.as_ref().map(Spans::hears))?;
        let outside = common.outside(&global)?;
        let store = global.store()?;
        if common.check {
            return output
                .result(json!({"right": true}), || format!("right: {}", store.location()));
        }
        let (attempts, split) = (serving.attempts(), serving.split());
        let uploads =
            serving.uploads.map_or_else(|| folder().map(|folder| folder.join("uploads")), Ok)?;
        let mut access = Access::default();
        if let Some(lines) = tokens.of_edge() {
            access = access.with_tokens(&lines).map_err(Failure::failed)?;
        }
        let (trust, allow_paths) = (global.trust()?, serving.allow_path);
        let options = StudioOptions {
            tokens,
            trust,
            allow_paths,
            uploads,
            max_attempts: attempts,
            split,
            outside,
        };
        let service = Arc::new(Service::new(jobs, store.clone(), workers.clone(), options));
        // A page and its jobs work before anything is in the store.
        runtime.block_on(store.create())?;
        output.made(&store);
        let front = Arc::new(StudioFront::new(service.clone()));
        let source = global.source()?;
        let edge = EdgeOptions {
            trust: global.trust()?,
            access: access.clone(),
            front: Some(front),
            log,
            traces,
            ..EdgeOptions::default()
        };
        let edge = edge::Edge::new(source.transports().to_vec(), edge).map_err(Failure::failed)?;
        let failed = |error: std::io::Error| {
            Failure::failed(format!("cannot listen on {}: {error}", listen))
        };
        let listener = runtime.block_on(TcpListener::bind(listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let _in = runtime.enter();
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
        if let Some(path) = serving.tokens {
            let mut again = signal(SignalKind::hangup()).map_err(Failure::failed)?;
            let service = service.clone();
            runtime.spawn(async move {
                while again.recv().await.is_some() {
                    renew(&path, &service, &access);
                }
            });
        }
        let running = start(&workers)?;
        let url = format!("http://{address}");
        let location = store.location().to_owned();
        output.result(json!({"listening": url, "store": location}), || {
            format!("{location} at {url}")
        })?;
        let stop = async move {
            terminate.recv().await;
            workers.iter().for_each(Worker::stop);
        };
        let telling = runtime.spawn(notify(service));
        let serving = runtime.spawn(edge::serve(edge, listener, stop));
        runtime.block_on(serving).map_err(Failure::failed)?.map_err(Failure::failed)?;
        telling.abort();
        let ended = join(running);
        spans.into_iter().for_each(|own| own.finish(runtime));
        ended
    }
}

/// Reads the tokens again. A file that is wrong changes nothing.
fn renew(path: &Path, service: &Service, access: &Access) {
    let done = std::fs::read_to_string(path)
        .map_err(|error| error.to_string())
        .and_then(|content| service.renew_tokens(&content))
        .and_then(|lines| access.renew_tokens(&lines).map_err(|error| error.to_string()));
    match done {
        Ok(()) => tracing::info!(path = %path.display(), "the tokens were read again"),
        Err(why) => tracing::warn!(path = %path.display(), why, "the tokens stay as they were"),
    }
}

impl From<JobsError> for Failure {
    fn from(error: JobsError) -> Self {
        match error {
            JobsError::Database(crate::jobs::DatabaseError::Unavailable(_)) => {
                Self::new(super::error::NETWORK, error)
            }
            JobsError::Database(crate::jobs::DatabaseError::Url(_)) => {
                Self::usage(format!("--database: {error}"))
            }
            error => Self::failed(error),
        }
    }
}

impl From<WorkerError> for Failure {
    fn from(error: WorkerError) -> Self {
        match error {
            WorkerError::Jobs(error) => error.into(),
        }
    }
}
