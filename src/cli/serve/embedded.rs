//! `tenpak serve` with the engine of this program.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Mutex;
use tokio::task::AbortHandle;

use super::feed;
use crate::cli::error::Failure;
use crate::cli::output::Output;
use crate::cli::{Global, bytes};
use crate::edge::Tls;
use crate::engine::sample::Sampling;
use crate::engine::text::{ChatTemplate, TemplateFiles, Tokenizer};
use crate::engine::{self, EngineOptions, Generator, Model, ModelOptions, Running};
use crate::format::id::ManifestId;
use crate::format::name::ArtifactSpec;
use crate::serve::external::ComputeType;
use crate::serve::http::{Server, serve};
use crate::store::artifact::Artifact;

/// The largest file of a checkpoint that is read.
const MAX_FILE: u64 = 64 << 20;
/// How often it is looked whether the engine goes on.
const LOOK: Duration = Duration::from_millis(500);

/// What is asked of the embedded engine.
#[derive(Debug)]
pub(super) struct EmbeddedArgs {
    pub(super) artifact: ArtifactSpec,
    pub(super) listen: SocketAddr,
    /// One of which a request must show, if there are any.
    pub(super) api_keys: Vec<String>,
    /// The artifact's name, if none is given.
    pub(super) served_names: Vec<String>,
    pub(super) max_context: Option<u32>,
    pub(super) max_concurrent: Option<u32>,
    /// The engine's choice, if none.
    pub(super) dtype: Option<ComputeType>,
    /// Bytes for weights.
    pub(super) memory: Option<u64>,
    pub(super) keep_cache: Option<PathBuf>,
    pub(super) adapters: Vec<(String, ArtifactSpec)>,
    /// Certificate chain and private key.
    pub(super) tls: Option<(PathBuf, PathBuf)>,
    /// Ends the process at Ctrl-C: to be aborted by whoever takes that signal.
    pub(super) interrupt: AbortHandle,
}

/// Serves until it is told to stop.
pub(super) fn run_embedded(
    args: &EmbeddedArgs,
    global: &Global,
    runtime: &Handle,
    output: &Output,
) -> Result<(), Failure> {
    let start = Instant::now();
    if matches!(args.dtype, Some(ComputeType::Bf16 | ComputeType::F16)) {
        return Err(Failure::usage(
            "the embedded engine computes in f32, whatever weights are stored in: leave --dtype out",
        ));
    }
    let listener = runtime.block_on(TcpListener::bind(args.listen)).map_err(|error| {
        Failure::failed(format!("cannot listen on {}: {error}; give another --listen", args.listen))
    })?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let scheme = if args.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}");
    let tls = args.tls.as_ref().map(|(chain, key)| Tls::load(chain, key));
    let tls = tls.transpose().map_err(Failure::usage)?;

    let mut global = global.clone();
    let mut artifact = runtime.block_on(global.open(&args.artifact, output))?;
    if let Some(folder) = &args.keep_cache {
        // Chunks come through an edge in this process, which keeps them.
        let stored = artifact.manifest().totals.stored_bytes;
        let (_, hub) =
            feed::start_edge(&global, runtime, (&args.artifact, stored), Some(folder), folder)?;
        global.store = Some(hub.url);
        global.mirror.clear();
        global.header = vec![format!("Authorization: Bearer {}", hub.token)];
        artifact = runtime.block_on(global.open(&args.artifact, output))?;
    }
    let mut adapters = Vec::new();
    for (name, spec) in &args.adapters {
        adapters.push((name.clone(), runtime.block_on(global.open(spec, output))?));
    }
    let files = runtime.block_on(Files::read(&artifact))?;
    let mut options = EngineOptions {
        max_context: args.max_context.map(|most| most as usize),
        ..EngineOptions::default()
    };
    if let Some(most) = args.max_concurrent {
        options.max_concurrent = most as usize;
    }
    let cache = options.cache;
    let model = ModelOptions { memory: args.memory, ..ModelOptions::default() };
    let id = artifact.id();
    let running = engine::open(artifact, &adapters, &model, options, runtime)?;

    let mut names = args.served_names.clone();
    if names.is_empty() {
        let whole = args.artifact.to_string();
        names.extend(whole.strip_suffix(":latest").map(str::to_owned));
        names.push(whole);
    }
    let first = names.first().cloned().unwrap_or_default();
    let mut server = Server::new(running.engine(), Arc::new(files.tokenizer), first);
    server.names = names;
    server.template = files.template.map(Arc::new);
    server.defaults = files.defaults;
    server.keys.clone_from(&args.api_keys);
    server.tls = tls;
    // Whoever is let in may ask for another model only where that is this machine, or keys are asked for.
    let own = address.ip().is_loopback() || !args.api_keys.is_empty();
    if let (Running::Text(generator), true) = (&running, own) {
        server.routes = admin(generator.clone(), global.clone(), model.clone());
    }
    // From here on requests are taken: they run through each layer as it arrives.
    args.interrupt.abort();
    let _entered = runtime.enter();
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut hang_up = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let mut serving = runtime.spawn(serve(listener, server, async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
            _ = stopped => {}
        }
    }));
    let (told, mut arrived) = tokio::sync::oneshot::channel();
    let waiting = running.clone();
    std::thread::spawn(move || told.send(waiting.wait()).unwrap_or_default());
    let first = runtime.block_on(async {
        tokio::select! {
            arrived = &mut arrived => Ok(arrived),
            ended = &mut serving => Err(ended),
        }
    });
    match first {
        Ok(Ok(Ok(()))) => {}
        Ok(Ok(Err(error))) => {
            stop.send(()).unwrap_or_default();
            runtime.block_on(serving).map_err(Failure::failed)?.map_err(Failure::failed)?;
            return Err(error.into());
        }
        Ok(Err(_)) => return Err(Failure::failed("the thread that waits for weights ended early")),
        // Told to stop before the weights had arrived.
        Err(ended) => {
            running.stop();
            return ended.map_err(Failure::failed)?.map_err(Failure::failed);
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    let info = running.engine().info();
    let object = json!({
        "url": url,
        "engine": "embedded",
        "ready_seconds": seconds,
        "version": env!("CARGO_PKG_VERSION"),
        "model": args.artifact.to_string(),
        "manifest": id,
        "quantization": info.quantization,
        "weights_bytes": running.weights_bytes(),
        "cache_bytes": cache,
        "max_context": info.max_context,
        "instructions": engine::compute::instructions(),
    });
    output.result(object, || {
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        let rows = [
            row("engine", format!("embedded, {}", engine::compute::instructions())),
            row("version", env!("CARGO_PKG_VERSION").to_owned()),
            row("model", format!("{} @{id}", args.artifact)),
            row("quantization", info.quantization.clone()),
            row("memory for weights", bytes::size(running.weights_bytes() as u64)),
            row("and at most for texts", bytes::size(cache)),
            row("longest text", format!("{} tokens", info.max_context)),
            row("ready after", format!("{seconds:.2} s")),
        ];
        format!("{url}\n{}", bytes::table(&rows))
    })?;
    if running.is_streamed() {
        output
            .note("the weights do not fit into --memory: layers are loaded for each step, slowly");
    }
    let watched = async {
        loop {
            tokio::select! {
                ended = &mut serving => return ended.map_err(Failure::failed)?.map_err(Failure::failed),
                () = tokio::time::sleep(LOOK) => {}
            }
            if let Some(error) = running.failed() {
                stop.send(()).unwrap_or_default();
                serving.await.map_err(Failure::failed)?.map_err(Failure::failed)?;
                return Err(error.into());
            }
        }
    };
    runtime.block_on(watched)
}

/// What a checkpoint says of its text.
struct Files {
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    defaults: Sampling,
}

impl Files {
    async fn read(artifact: &Artifact) -> Result<Self, Failure> {
        let tokenizer = artifact.file("tokenizer.json", MAX_FILE).await?;
        let tokenizer = tokenizer.ok_or_else(|| {
            Failure::failed("there is no tokenizer.json in this artifact, and without it no text")
        })?;
        let tokenizer = Tokenizer::parse(&tokenizer).map_err(Failure::failed)?;
        let [tokenizer_config, special, jinja, json] = [
            artifact.file("tokenizer_config.json", MAX_FILE).await?,
            artifact.file("special_tokens_map.json", MAX_FILE).await?,
            artifact.file("chat_template.jinja", MAX_FILE).await?,
            artifact.file("chat_template.json", MAX_FILE).await?,
        ];
        let template = ChatTemplate::load(&TemplateFiles {
            tokenizer_config: tokenizer_config.as_deref(),
            special_tokens_map: special.as_deref(),
            jinja: jinja.as_deref(),
            json: json.as_deref(),
        });
        let generation = artifact.file("generation_config.json", MAX_FILE).await?;
        let generation: Option<Value> =
            generation.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let number = |key: &str| generation.as_ref().and_then(|own| own.get(key)?.as_f64());
        let mut defaults = Sampling::default();
        // What the model's makers recommend, as vLLM takes it.
        if let Some(value) = number("temperature") {
            defaults.temperature = value as f32;
        }
        if let Some(value) = number("top_p") {
            defaults.top_p = value as f32;
        }
        if let Some(value) = number("top_k") {
            defaults.top_k = value as usize;
        }
        if let Some(value) = number("min_p") {
            defaults.min_p = value as f32;
        }
        if let Some(value) = number("repetition_penalty") {
            defaults.repetition_penalty = value as f32;
        }
        Ok(Self { tokenizer, template: template.map_err(Failure::failed)?, defaults })
    }
}

/// What swaps need.
struct Swapper {
    generator: Arc<Generator>,
    global: Global,
    model: ModelOptions,
    /// One at a time.
    turn: Mutex<()>,
}

/// `POST /v1/admin/swap {"artifact": "name:tag"}`: what differs is loaded, and takes over between two steps.
fn admin(generator: Arc<Generator>, global: Global, model: ModelOptions) -> Router {
    let swapper = Arc::new(Swapper { generator, global, model, turn: Mutex::new(()) });
    Router::new().route("/v1/admin/swap", post(swap)).with_state(swapper)
}

async fn swap(
    State(swapper): State<Arc<Swapper>>,
    Json(asked): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let start = Instant::now();
    let wrong = |status: StatusCode, why: String| {
        (
            status,
            Json(
                json!({"error": {"message": why, "type": "invalid_request_error", "param": "artifact", "code": null}}),
            ),
        )
    };
    let spec = asked.get("artifact").and_then(Value::as_str).map(str::parse::<ArtifactSpec>);
    let spec = match spec {
        Some(Ok(spec)) => spec,
        Some(Err(error)) => return wrong(StatusCode::BAD_REQUEST, error.to_string()),
        None => {
            return wrong(
                StatusCode::BAD_REQUEST,
                "name the artifact: {\"artifact\": \"name:tag\"}".to_owned(),
            );
        }
    };
    let _turn = swapper.turn.lock().await;
    match swapper.swap(&spec).await {
        Ok((id, quantization)) => {
            let seconds = start.elapsed().as_secs_f64();
            let told = json!({"artifact": spec.to_string(), "manifest": id, "quantization": quantization, "seconds": seconds});
            (StatusCode::OK, Json(told))
        }
        Err(why) => wrong(StatusCode::CONFLICT, why),
    }
}

impl Swapper {
    async fn swap(&self, spec: &ArtifactSpec) -> Result<(ManifestId, String), String> {
        let told = |error: &dyn std::fmt::Display| error.to_string();
        let store = self.global.source().map_err(|failure| failure.message)?;
        let options = self.global.open_options().map_err(|failure| failure.message)?;
        let artifact = Artifact::open(store, spec, &options).await.map_err(|e| told(&e))?;
        let id = artifact.id();
        let quantization = engine::quantization(&artifact).await.map_err(|e| told(&e))?;
        let before = self.generator.kept().await.map_err(|e| told(&e))?;
        let runtime = Handle::current();
        let model = Model::open(artifact, &self.model, Some(before), &runtime);
        let model = model.await.map_err(|e| told(&e))?;
        self.generator.check_kin(&model).map_err(|e| told(&e))?;
        // Nothing takes over that is not whole and verified.
        let arrival = model.arrival();
        let arrived = tokio::task::spawn_blocking(move || arrival.wait()).await;
        arrived.map_err(|e| told(&e))?.map_err(|e| told(&e))?;
        self.generator.swap(model, quantization.clone()).await.map_err(|e| told(&e))?;
        Ok((id, quantization))
    }
}
