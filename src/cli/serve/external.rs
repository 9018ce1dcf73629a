//! `tenpak serve` with an engine of others: looked at, started, fed, waited for, and ended.

use std::cell::Cell;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};

use super::args::ExternalArgs;
use super::{deployment, feed};
use crate::cli::error::{FAILED, Failure, VERIFICATION};
use crate::cli::output::Output;
use crate::cli::{Global, bytes};
use crate::edge::Edge;
use crate::format::name::ArtifactSpec;
use crate::quantize::produce::Recipe;
use crate::quantize::source::ModelSource;
use crate::serve::external::{
    self, Adapter, Checkpoint, Child, External, Hub, Installed, Invocation, Launch, ModelAt,
    NotReady, Program,
};
use crate::store::artifact::Artifact;

/// How long an engine has to end after it was asked to.
const FAREWELL: Duration = Duration::from_secs(30);
/// Digits of a commit.
const COMMIT: usize = 40;

/// The model, as it was looked at.
struct Model {
    source: ModelSource,
    checkpoint: Checkpoint,
    /// The artifact's name, or its id where it was addressed by that.
    name: String,
    revision: String,
    raw_bytes: u64,
    stored_bytes: u64,
}

impl Model {
    fn layout(&self) -> Option<String> {
        self.checkpoint.recipe.as_ref().map(Recipe::layout)
    }

    fn artifact(&self) -> Result<&Artifact, Failure> {
        self.source.as_artifact().ok_or_else(|| Failure::failed("the model is no artifact"))
    }
}

impl ExternalArgs {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let engine = self.engine;
        let model = self.model(global, runtime, output)?;
        let fitting = model
            .checkpoint
            .check(engine)
            .map_err(|why| Failure::usage(format!("{}: {why}", self.artifact)))?;
        for note in &fitting.notes {
            output.note(note);
        }
        // Whatever the engine has no way to do is said before anything is started.
        let program = external::program(engine, self.python.as_deref(), self.engine_bin.as_deref());
        let shown = Path::new("TEMPORARY");
        let adapters = feed::adapters(&self.adapters, shown, (global, runtime, output))?;
        let own: Vec<Adapter> = adapters.iter().map(|(own, _)| own.clone()).collect();
        let place = match engine {
            External::LlamaCpp => ModelAt::File(
                feed::file_cache(self.keep_cache.as_deref())?
                    .join(model.source.id().map(|id| id.to_hex()).unwrap_or_default())
                    .join(model.checkpoint.gguf().map_err(Failure::usage)?),
            ),
            _ => ModelAt::Hub { repo: model.name.clone(), revision: model.revision.clone() },
        };
        let launch = self.launch(&model, program, place, own);
        let unable = |why: external::Unable| Failure::usage(why);
        let mut invocation = engine.invocation(&launch).map_err(unable)?;
        if let Some(form) = self.print {
            return deployment::external(&self, (launch, model.raw_bytes), form, global, output);
        }
        let hub_fed = engine != External::LlamaCpp;
        if self.dry_run {
            if hub_fed {
                let (url, token) = ("http://127.0.0.1:PORT".to_owned(), String::new());
                Hub { url, token, home: "TEMPORARY/hub".to_owned() }
                    .lead(&mut invocation, no_proxy().as_deref());
            }
            return show(engine, &invocation, output);
        }
        if hub_fed && Path::new(&model.name).exists() {
            return Err(Failure::failed(format!(
                "there is a folder {} here, which {} would take for the model; start it from another one",
                model.name,
                engine.title()
            )));
        }
        let installed = external::find(
            engine,
            self.python.as_deref(),
            self.engine_bin.as_deref(),
            &fitting.needs,
        );
        let installed = installed.map_err(Failure::failed)?;
        let listen = free(self.listen)?;
        let scratch = feed::Scratch::new(self.keep_cache.as_deref())?;
        let mut launch = Launch { listen, program: installed.program.clone(), ..launch };
        for (place, (own, artifact)) in launch.adapters.iter_mut().zip(&adapters) {
            place.folder = scratch.0.join(own.folder.file_name().unwrap_or_default());
            feed::write_files(artifact, &place.folder, runtime, output)?;
        }
        if let ModelAt::File(file) = &launch.model {
            let gguf = model.checkpoint.gguf().map_err(Failure::usage)?;
            let folder = file.ancestors().nth(Path::new(gguf).components().count()).unwrap_or(file);
            feed::write_files(model.artifact()?, folder, runtime, output)?;
        }
        let mut invocation = engine.invocation(&launch).map_err(unable)?;
        let mut edge = None;
        if hub_fed {
            let home = scratch.0.join("hub");
            let of = (&self.artifact, model.stored_bytes);
            let (own, hub) =
                feed::start_edge(global, runtime, of, self.keep_cache.as_deref(), &home)?;
            hub.lead(&mut invocation, no_proxy().as_deref());
            edge = Some(own);
        }
        let tenpak = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("where is this program? {error}")))?;
        let serving =
            Serving { args: &self, model: &model, installed: &installed, listen, start, edge };
        runtime.block_on(async {
            let signals = Signals::new()?;
            self.interrupt.abort();
            let child = Child::start(&tenpak, &invocation, Some(&scratch.0), engine.name());
            let child = child.map_err(|error| {
                Failure::failed(format!("cannot start {}: {error}", engine.title()))
            })?;
            serving.attend(&child, signals, output).await
        })
    }

    /// Opens the artifact, and looks at what an engine looks at.
    fn model(&self, global: &Global, runtime: &Handle, output: &Output) -> Result<Model, Failure> {
        let name = match &self.artifact {
            ArtifactSpec::Named { name, .. } => name.to_string(),
            ArtifactSpec::Id(_) if self.engine == External::LlamaCpp => self.artifact.to_string(),
            ArtifactSpec::Id(_) => {
                return Err(Failure::usage(format!(
                    "{} asks for repositories by name: address the artifact as NAME[:TAG] (`tenpak tag` gives it one)",
                    self.engine.title()
                )));
            }
        };
        let source = global.model_of(&self.artifact, runtime, output)?;
        let (totals, recorded, id) = {
            let artifact =
                source.as_artifact().ok_or_else(|| Failure::failed("the model is no artifact"))?;
            let manifest = artifact.manifest();
            (
                manifest.totals,
                manifest.quantization.as_ref().and_then(Recipe::of_manifest),
                artifact.id(),
            )
        };
        let recipe = match recorded {
            Some(recipe) => Some(recipe),
            None => source.json("config.json")?.as_ref().and_then(Recipe::of_config),
        };
        let files = source.files().iter().map(|file| file.path.clone()).collect();
        Ok(Model {
            checkpoint: Checkpoint { recipe, files },
            name,
            revision: id.to_hex().chars().take(COMMIT).collect(),
            raw_bytes: totals.raw_bytes,
            stored_bytes: totals.stored_bytes,
            source,
        })
    }

    fn launch(
        &self,
        model: &Model,
        program: Program,
        place: ModelAt,
        adapters: Vec<Adapter>,
    ) -> Launch {
        let names = match self.served_names.as_slice() {
            [] => vec![model.name.clone()],
            names => names.to_vec(),
        };
        Launch {
            program,
            model: place,
            layout: model.layout(),
            listen: self.listen,
            names,
            named: !self.served_names.is_empty(),
            tensor_parallel: self.tensor_parallel,
            max_context: self.max_context,
            max_concurrent: self.max_concurrent,
            dtype: self.dtype,
            api_keys: self.api_keys.clone(),
            adapters,
            more: self.more.clone(),
        }
    }
}

fn no_proxy() -> Option<String> {
    std::env::var("no_proxy").or_else(|_| std::env::var("NO_PROXY")).ok()
}

/// Prints the command.
fn show(engine: External, invocation: &Invocation, output: &Output) -> Result<(), Failure> {
    let words: Vec<String> = invocation.words.iter().map(ToString::to_string).collect();
    let variables =
        invocation.set.iter().map(|(name, value)| (name.clone(), value.to_string().into()));
    let environment: serde_json::Map<String, serde_json::Value> = variables.collect();
    let object = json!({
        "engine": engine.name(), "command": words, "environment": environment, "unset": invocation.unset,
    });
    output.result(object, || invocation.shown())
}

/// The address, with a port that was free when it was looked at.
fn free(listen: SocketAddr) -> Result<SocketAddr, Failure> {
    let bound = TcpListener::bind(listen).and_then(|listener| listener.local_addr());
    bound.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            Failure::failed(format!("{listen} is taken by another program; give another address with --listen (port 0 takes a free one)"))
        }
        _ => Failure::failed(format!("cannot listen on {listen}: {error}")),
    })
}

/// Signals that end a server.
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let of =
            |kind| signal(kind).map_err(|error| Failure::failed(format!("no signals: {error}")));
        Ok(Self {
            interrupt: of(SignalKind::interrupt())?,
            terminate: of(SignalKind::terminate())?,
        })
    }

    /// The next one.
    async fn next(&mut self) -> u8 {
        let kind = tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt(),
            _ = self.terminate.recv() => SignalKind::terminate(),
        };
        u8::try_from(kind.as_raw_value()).unwrap_or_default()
    }
}

/// An engine that was started.
struct Serving<'a> {
    args: &'a ExternalArgs,
    model: &'a Model,
    installed: &'a Installed,
    listen: SocketAddr,
    start: Instant,
    edge: Option<std::sync::Arc<Edge>>,
}

impl Serving<'_> {
    /// Waits until it is ready, says so, and waits for its end; signals go to it meanwhile.
    async fn attend(
        &self,
        child: &Child,
        mut signals: Signals,
        output: &Output,
    ) -> Result<(), Failure> {
        let told = Cell::new(false);
        let pass_on = async {
            loop {
                let number = signals.next().await;
                told.set(true);
                child.signal(number);
            }
        };
        let work = async {
            match external::ready(child, self.listen, self.args.start_timeout).await {
                Ok(()) => self.tell(output)?,
                // It was told to stop, and did.
                Err(NotReady::Ended(0)) if told.get() => {
                    output.note(format_args!(
                        "{} was stopped before it was ready",
                        self.args.engine.title()
                    ));
                    return Ok(());
                }
                Err(NotReady::Ended(status)) => return Err(self.early(child, status, told.get())),
                Err(NotReady::Late) => {
                    let terminate = SignalKind::terminate().as_raw_value();
                    child.signal(u8::try_from(terminate).unwrap_or_default());
                    // Whatever is left is killed when `child` goes.
                    drop(tokio::time::timeout(FAREWELL, child.ended()).await);
                    return Err(Failure::failed(format!(
                        "{} was not ready after {} s; --start-timeout gives it longer. It said last: {}",
                        self.args.engine.title(),
                        self.args.start_timeout.as_secs(),
                        child.last_words()
                    )));
                }
            }
            match child.ended().await {
                0 => Ok(()),
                status => Err(self.ended(child, status, told.get())),
            }
        };
        tokio::select! {
            result = work => result,
            () = pass_on => Ok(()),
        }
    }

    /// Says that it is ready.
    fn tell(&self, output: &Output) -> Result<(), Failure> {
        let (engine, seconds) = (self.args.engine, self.start.elapsed().as_secs_f64());
        let url = format!("http://{}", self.listen);
        let quantization = self.model.layout().unwrap_or_else(|| "none".to_owned());
        let object = json!({
            "url": url,
            "engine": engine.name(),
            "ready_seconds": seconds,
            "version": self.installed.version,
            "model": self.model.name,
            "manifest": self.model.source.id(),
            "quantization": quantization,
            "weights_bytes": self.model.raw_bytes,
        });
        output.result(object, || {
            let row = |name: &str, value: String| vec![name.to_owned(), value];
            let rows = [
                row("engine", engine.title().to_owned()),
                row("version", self.installed.version.clone()),
                row("model", format!("{} @{}", self.model.name, self.model.revision)),
                row("quantization", quantization),
                row("weights", bytes::size(self.model.raw_bytes)),
                row("ready after", format!("{seconds:.2} s")),
            ];
            format!("{url}\n{}", bytes::table(&rows))
        })
    }

    /// Why it ended before it was ready.
    fn early(&self, child: &Child, status: u8, told: bool) -> Failure {
        let title = self.args.engine.title();
        if self.edge.as_ref().is_some_and(|edge| edge.verify_failures() > 0) {
            let name = &self.model.name;
            return Failure::new(
                VERIFICATION,
                format!(
                    "{name}: chunks were not what was signed, and {title} did not get them; run `tenpak verify`, or name a --mirror"
                ),
            );
        }
        if status == 0 {
            return Failure::new(
                FAILED,
                format!("{title} ended before it was ready. It said last: {}", child.last_words()),
            );
        }
        self.ended(child, status, told)
    }

    fn ended(&self, child: &Child, status: u8, told: bool) -> Failure {
        let how = match status {
            129.. => format!("was ended by signal {}", status - 128),
            _ => format!("ended with status {status}"),
        };
        let title = self.args.engine.title();
        match told {
            true => Failure::new(status, format!("{title} {how} after it was told to stop")),
            false => {
                Failure::new(status, format!("{title} {how}. It said last: {}", child.last_words()))
            }
        }
    }
}
