//! `tenpak serve --print`: what was asked, as a deployment.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use serde_json::json;

use super::args::ExternalArgs;
use super::embedded::EmbeddedArgs;
use crate::cli::Global;
use crate::cli::error::Failure;
use crate::cli::output::Output;
use crate::serve::deploy::{self, CACHE, Deployment, Form, KEYS, PORT, Server, TrustedKey};
use crate::serve::external::{ComputeType, External, Hub, Launch, ModelAt, Program};

/// Whatever a container listens on.
const ALL: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), PORT);

/// What every deployment needs to know.
struct Common {
    stores: Vec<String>,
    trust: Vec<TrustedKey>,
}

impl Common {
    fn new(global: &Global) -> Result<Self, Failure> {
        let mut stores = vec![global.store_location()?];
        stores.extend(global.mirror.iter().cloned());
        for store in stores.iter_mut().filter(|store| !store.contains("://")) {
            let absolute = std::path::absolute(&*store)
                .map_err(|error| Failure::failed(format!("{store}: {error}")))?;
            *store = absolute.display().to_string();
        }
        let mut trust: Vec<TrustedKey> = Vec::new();
        for path in &global.trust {
            if path.starts_with("hmac:") {
                return Err(Failure::usage(format!(
                    "{path} is a secret, which is not written into a deployment; sign with a key pair and trust its public key"
                )));
            }
            let content = std::fs::read_to_string(path)
                .map_err(|error| Failure::failed(format!("{path}: {error}")))?;
            let name =
                Path::new(path).file_name().and_then(|name| name.to_str()).unwrap_or("key.pub");
            // Names of files in every form: two keys may have the same.
            let plain =
                |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
            let name: String = name.chars().map(plain).collect();
            let name = match trust.iter().any(|own| own.name == name) {
                true => format!("{}-{name}", trust.len()),
                false => name,
            };
            trust.push(TrustedKey { name, content });
        }
        Ok(Self { stores, trust })
    }
}

/// One of the embedded engine.
pub(super) fn embedded(
    args: &EmbeddedArgs,
    form: Form,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    if args.tls.is_some() {
        return Err(Failure::usage(
            "certificates are not written into a deployment; put a proxy before it",
        ));
    }
    let mut words = serve_words(&args.artifact.to_string());
    words.extend(args.served_names.iter().map(|name| format!("--served-name={name}")));
    words.extend(args.max_context.map(|n| format!("--max-context={n}")));
    words.extend(args.max_concurrent.map(|n| format!("--max-concurrent={n}")));
    words.extend(args.dtype.map(dtype));
    words.extend(args.memory.map(|bytes| format!("--memory={bytes}")));
    words.extend(args.adapters.iter().map(|(name, spec)| format!("--adapter={name}={spec}")));
    let api_key = !args.api_keys.is_empty();
    print(form, global, output, (args.artifact.to_string(), words, args.listen, api_key, None, 0))
}

/// One of an engine of others.
pub(super) fn external(
    args: &ExternalArgs,
    (launch, weights): (Launch, u64),
    form: Form,
    global: &Global,
    output: &Output,
) -> Result<(), Failure> {
    if args.api_keys.len() > 1 {
        return Err(Failure::usage("a deployment takes its key from a secret: give one --api-key"));
    }
    let (artifact, api_key) = (args.artifact.to_string(), !args.api_keys.is_empty());
    let gpus = Some(args.tensor_parallel.unwrap_or(1));
    if form == Form::Systemd {
        let mut words = serve_words(&artifact);
        words.push(format!("--engine={}", args.engine.name()));
        let absolute = |flag: &str, path: &Path| {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            format!("--{flag}={}", path.display())
        };
        words.extend(args.python.as_deref().map(|path| absolute("python", path)));
        words.extend(args.engine_bin.as_deref().map(|path| absolute("engine-bin", path)));
        words.extend(args.served_names.iter().map(|name| format!("--served-name={name}")));
        words.extend(args.tensor_parallel.map(|n| format!("--tensor-parallel={n}")));
        words.extend(args.max_context.map(|n| format!("--max-context={n}")));
        words.extend(args.max_concurrent.map(|n| format!("--max-concurrent={n}")));
        words.extend(args.dtype.map(dtype));
        words.extend(args.adapters.iter().map(|(name, spec)| format!("--adapter={name}={spec}")));
        words.push(format!("--start-timeout={}", args.start_timeout.as_secs()));
        if !args.more.is_empty() {
            words.push("--".to_owned());
            words.extend(args.more.iter().cloned());
        }
        return print(form, global, output, (artifact, words, args.listen, api_key, gpus, weights));
    }
    if !args.adapters.is_empty() {
        return Err(Failure::usage(
            "adapters are in deployments of systemd only: they are unpacked by `tenpak serve` itself",
        ));
    }
    let (engine, common) = (args.engine, Common::new(global)?);
    // In its image each engine has a name of its own.
    let program = match engine {
        External::LlamaCpp => "/app/llama-server",
        engine => engine.program(),
    };
    let mut launch = Launch { listen: ALL, program: Program::Bin(program.to_owned()), ..launch };
    let mut unpack = None;
    if let ModelAt::File(file) = &launch.model {
        // Below the folder of the artifact's id.
        let path: std::path::PathBuf = file
            .components()
            .skip_while(|part| part.as_os_str() != id_of(file).as_str())
            .skip(1)
            .collect();
        launch.model = ModelAt::File(Path::new(CACHE).join("files").join(path));
        unpack = Some(artifact.clone());
    }
    let mut invocation = engine.invocation(&launch).map_err(Failure::usage)?;
    if unpack.is_none() {
        let (url, home) = (format!("http://{}", deploy::EDGE), format!("{CACHE}/hub"));
        Hub { url, token: String::new(), home }.lead(&mut invocation, Some("edge"));
        // The edge is asked from within the deployment alone.
        invocation.set.retain(|(name, _)| name != "HF_TOKEN");
    }
    let server = Server::Engine { engine, invocation, unpack };
    let Common { stores, trust } = common;
    show(form, output, &Deployment { artifact, server, stores, trust, api_key, gpus, weights })
}

/// The part of a path that is a manifest's id.
fn id_of(path: &Path) -> String {
    let id = |part: &str| part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let parts = path.components().filter_map(|part| part.as_os_str().to_str());
    parts.into_iter().find(|part| id(part)).unwrap_or_default().to_owned()
}

fn dtype(own: ComputeType) -> String {
    let name = match own {
        ComputeType::Bf16 => "bf16",
        ComputeType::F16 => "f16",
        ComputeType::F32 => "f32",
    };
    format!("--dtype={name}")
}

fn serve_words(artifact: &str) -> Vec<String> {
    vec!["serve".to_owned(), artifact.to_owned()]
}

type Own = (String, Vec<String>, SocketAddr, bool, Option<u32>, u64);

/// Prints a deployment in which this program serves.
fn print(
    form: Form,
    global: &Global,
    output: &Output,
    (artifact, mut words, listen, api_key, gpus, weights): Own,
) -> Result<(), Failure> {
    let Common { stores, trust } = Common::new(global)?;
    let mut deployment = Deployment {
        artifact,
        server: Server::Tenpak(Vec::new()),
        stores,
        trust,
        api_key,
        gpus,
        weights,
    };
    let mut own = Vec::new();
    match form {
        Form::Systemd => {
            own.push(format!("--listen={listen}"));
            own.push(format!("--keep-cache=/var/cache/{}", deployment.slug()));
            own.extend(deployment.stores.iter().enumerate().map(|(index, store)| {
                format!("{}={store}", if index == 0 { "--store" } else { "--mirror" })
            }));
            own.extend(deployment.trust.iter().map(|key| format!("--trust={KEYS}/{}", key.name)));
        }
        Form::Compose | Form::Kubernetes => {
            own.push(format!("--listen={ALL}"));
            own.push(format!("--keep-cache={CACHE}"));
            own.extend(deployment.sources("--store"));
        }
    }
    // Before what is the engine's own.
    words.splice(2..2, own);
    deployment.server = Server::Tenpak(words);
    show(form, output, &deployment)
}

fn show(form: Form, output: &Output, deployment: &Deployment) -> Result<(), Failure> {
    let text = deploy::print(deployment, form);
    output.result(json!({"form": form.name(), "text": text}), || text.clone())
}
