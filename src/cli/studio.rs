//! `tenpak studio` and `tenpak studio worker`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::Global;
use super::error::Failure;
use super::output::Output;
use crate::edge::{self, Access, EdgeOptions};
use crate::jobs::{Clock, Job, Jobs, JobsError, Policy, Worker, WorkerError, WorkerOptions};
use crate::studio::{Studio as Service, StudioFront, StudioOptions, Tokens, arguments};

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
}

#[derive(Debug, clap::Args)]
struct Serve {
    #[command(flatten)]
    common: Common,
    /// The address to listen on; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Jobs that this process runs at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=256))]
    workers: u16,
    /// Who may do what; without it, whoever reaches this machine's own address may do everything
    #[arg(long, value_name = "FILE")]
    tokens: Option<PathBuf>,
    /// Let requests name models below this folder by their paths (repeatable)
    #[arg(long, value_name = "DIR")]
    allow_path: Vec<PathBuf>,
    /// Where uploads lie until a job packs them [default: beside the database, or in the user's data directory]
    #[arg(long, value_name = "DIR")]
    uploads: Option<PathBuf>,
    /// How often a job is tried whose worker is lost
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(i64).range(1..=100))]
    attempts: i64,
}

#[derive(Debug, clap::Args)]
struct WorkerArgs {
    #[command(flatten)]
    common: Common,
    /// Jobs at a time
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: u16,
    /// Take one job, if one waits, and exit
    #[arg(long, conflicts_with = "workers")]
    once: bool,
}

#[derive(Debug, clap::Args)]
struct Common {
    /// The database: postgres://..., or the path of a file [default: in the user's data directory]
    #[arg(long, value_name = "URL", env = "TENPAK_DATABASE")]
    database: Option<String>,
    /// Sign what jobs make with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
    /// Seconds that a worker may be silent before its job is another's; the same for all of a database
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(2..=3600))]
    lease: u64,
    /// Check the settings, then exit
    #[arg(long)]
    check: bool,
}

/// The user's data directory for the studio.
fn folder() -> Result<PathBuf, Failure> {
    let data = std::env::var_os("XDG_DATA_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
    let data =
        data.ok_or_else(|| Failure::usage("no database: give --database URL, or set HOME"))?;
    Ok(data.join("tenpak/studio"))
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
        let policy = Policy { lease: Duration::from_secs(self.lease), ..Policy::default() };
        let url = self.database()?;
        // Its client blocks, which the runtime's own threads must not.
        let open = std::thread::spawn(move || Jobs::open(&url, policy, Clock::Database));
        match open.join() {
            Ok(jobs) => jobs.map_err(Failure::from),
            Err(_) => Err(Failure::failed("the database's client failed")),
        }
    }

    /// The workers of this process.
    fn workers(&self, jobs: &Jobs, global: &Global, count: u16) -> Result<Vec<Worker>, Failure> {
        let program = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("the path of this program: {error}")))?;
        let common = self.of_every_job(global)?;
        let does = Arc::new(move |job: &Job| arguments(&job.kind, &job.request, &common));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() { "host" } else { host.trim() };
        let worker = |number| {
            let name = format!("{host}-{}-{number}", std::process::id());
            let options = WorkerOptions {
                name,
                program: program.clone(),
                arguments: does.clone(),
                grace: GRACE,
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
            None => self.serve.run(global, runtime, output),
        }
    }
}

impl WorkerArgs {
    fn run(self, global: &Global, runtime: &Handle, output: &Output) -> Result<(), Failure> {
        let jobs = self.common.jobs()?;
        let workers = self.common.workers(&jobs, global, self.workers)?;
        if self.common.check {
            return output.result(json!({"right": true}), || "right".to_owned());
        }
        if self.once {
            let Some(worker) = workers.into_iter().next() else { return Ok(()) };
            stop_on_signal(runtime, vec![worker.clone()])?;
            let took = worker.run_once().map_err(Failure::from)?;
            return output.result(json!({"took": took}), || {
                (if took { "one job" } else { "no job waits" }).to_owned()
            });
        }
        output
            .result(json!({"workers": workers.len()}), || format!("{} workers", workers.len()))?;
        stop_on_signal(runtime, workers.clone())?;
        join(start(&workers)?)
    }
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

impl Serve {
    fn run(self, global: &Global, runtime: &Handle, output: &Output) -> Result<(), Failure> {
        let tokens = match &self.tokens {
            None => Tokens::none(),
            Some(path) => {
                let wrong = |why: String| Failure::usage(format!("{}: {why}", path.display()));
                let content =
                    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
                Tokens::parse(&content).map_err(|error| wrong(error.to_string()))?
            }
        };
        if !tokens.are_needed() && !self.listen.ip().is_loopback() {
            let address = self.listen;
            return Err(Failure::usage(format!(
                "others can reach {address}: give --tokens FILE, or listen on 127.0.0.1"
            )));
        }
        let jobs = self.common.jobs()?;
        let workers = self.common.workers(&jobs, global, self.workers)?;
        let store = global.store()?;
        if self.common.check {
            return output
                .result(json!({"right": true}), || format!("right: {}", store.location()));
        }
        let uploads =
            self.uploads.map_or_else(|| folder().map(|folder| folder.join("uploads")), Ok)?;
        let mut access = Access::default();
        if let Some(lines) = tokens.of_edge() {
            access = access.with_tokens(lines).map_err(Failure::failed)?;
        }
        let (trust, allow_paths) = (global.trust()?, self.allow_path);
        let options =
            StudioOptions { tokens, trust, allow_paths, uploads, max_attempts: self.attempts };
        let service = Arc::new(Service::new(jobs, store.clone(), workers.clone(), options));
        // A page and its jobs work before anything is in the store.
        runtime.block_on(store.create())?;
        output.made(&store);
        let front = Arc::new(StudioFront::new(service));
        let source = global.source()?;
        let edge = EdgeOptions {
            trust: global.trust()?,
            access,
            front: Some(front),
            ..EdgeOptions::default()
        };
        let edge = edge::Edge::new(source.transports().to_vec(), edge).map_err(Failure::failed)?;
        let failed = |error: std::io::Error| {
            Failure::failed(format!("cannot listen on {}: {error}", self.listen))
        };
        let listener = runtime.block_on(TcpListener::bind(self.listen)).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let _in = runtime.enter();
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
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
        let serving = runtime.spawn(edge::serve(edge, listener, stop));
        runtime.block_on(serving).map_err(Failure::failed)?.map_err(Failure::failed)?;
        join(running)
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
