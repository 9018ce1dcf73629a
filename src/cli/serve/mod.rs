//! `tenpak serve`: the same flags for every engine; what does not go together is refused before anything is read.

mod args;
mod deployment;
mod embedded;
mod external;
mod feed;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

use super::error::Failure;
use super::output::Output;
use super::{Global, artifact};
use crate::format::name::ArtifactSpec;
use crate::serve::deploy::Form;
use crate::serve::external::{ComputeType, External};

use args::ExternalArgs;
use embedded::{EmbeddedArgs, run_embedded};

/// Where a server listens that is not told.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8000);

/// Which engine runs the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Engine {
    Embedded,
    External(External),
}

fn engine(text: &str) -> Result<Engine, String> {
    match text {
        "embedded" => Ok(Engine::Embedded),
        other => other.parse().map(Engine::External).map_err(|()| {
            let names: Vec<&str> = External::ALL.iter().map(|engine| engine.name()).collect();
            format!("there are embedded, {}", names.join(", "))
        }),
    }
}

/// The type to compute in; the engine's choice, if none.
#[derive(Debug, Clone, Copy)]
struct Dtype(Option<ComputeType>);

fn dtype(text: &str) -> Result<Dtype, String> {
    match text {
        "auto" => Ok(Dtype(None)),
        "bf16" => Ok(Dtype(Some(ComputeType::Bf16))),
        "f16" => Ok(Dtype(Some(ComputeType::F16))),
        "f32" => Ok(Dtype(Some(ComputeType::F32))),
        _ => Err("there are auto, bf16, f16 and f32".to_owned()),
    }
}

fn form(text: &str) -> Result<Form, String> {
    Form::ALL.into_iter().find(|form| form.name() == text).ok_or_else(|| {
        let names: Vec<&str> = Form::ALL.iter().map(|form| form.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

fn adapter(text: &str) -> Result<(String, ArtifactSpec), String> {
    let (name, of) = text.split_once('=').ok_or("write it as NAME=ARTIFACT")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:".contains(c);
    match !name.is_empty() && name.chars().all(plain) {
        true => Ok((name.to_owned(), artifact(of)?)),
        false => Err(format!("{name:?} is no name: letters, digits and - _ . / : make one")),
    }
}

fn key(text: &str) -> Result<String, String> {
    let visible = |b: u8| b.is_ascii_graphic() && b != b',';
    match !text.is_empty() && text.bytes().all(visible) {
        true => Ok(text.to_owned()),
        false => {
            Err("a key has visible characters of ASCII, no comma, and at least one".to_owned())
        }
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Serve {
    /// The model to serve
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// What runs it: embedded (nothing else is needed), vllm, sglang, tgi or llama.cpp
    #[arg(long, value_name = "ENGINE", value_parser = engine, default_value = "embedded")]
    engine: Engine,
    /// The address to listen on; port 0 takes a free one [default: 127.0.0.1:8000]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Spread the model over so many GPUs
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    tensor_parallel: Option<u32>,
    /// Tokens of the longest text, prompt included [default: as many as the model takes]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_context: Option<u32>,
    /// Texts at a time; others wait
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_concurrent: Option<u32>,
    /// The type to compute in: auto, bf16, f16 or f32
    #[arg(long, value_name = "DTYPE", value_parser = dtype, default_value = "auto")]
    dtype: Dtype,
    /// A key, one of which every request must show (repeatable)
    #[arg(long, value_name = "KEY", value_parser = key, env = "TENPAK_API_KEYS", value_delimiter = ',', hide_env_values = true)]
    api_key: Vec<String>,
    /// What requests call the model (repeatable) [default: the artifact's name]
    #[arg(long, value_name = "NAME")]
    served_name: Vec<String>,
    /// Memory for weights; of a larger model, layers are streamed (embedded)
    #[arg(long, value_name = "SIZE", value_parser = super::bytes::parse)]
    memory: Option<u64>,
    /// Keep verified chunks in this folder for the next start
    #[arg(long, value_name = "DIR")]
    keep_cache: Option<PathBuf>,
    /// A LoRA adapter, which requests choose by NAME (repeatable)
    #[arg(long, value_name = "NAME=ARTIFACT", value_parser = adapter)]
    adapter: Vec<(String, ArtifactSpec)>,
    /// Certificate chain (PEM); serves HTTPS (embedded)
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// The Python that has the engine
    #[arg(long, value_name = "PATH", conflicts_with = "engine_bin")]
    python: Option<PathBuf>,
    /// The engine's program [default: the one on PATH]
    #[arg(long, value_name = "PATH")]
    engine_bin: Option<PathBuf>,
    /// Seconds that an engine may take until it is ready
    #[arg(long, value_name = "SECONDS", default_value_t = 1800)]
    start_timeout: u64,
    /// Print the engine's command and environment, and start nothing
    #[arg(long, conflicts_with = "print")]
    dry_run: bool,
    /// Print a deployment, and start nothing: systemd, compose or kubernetes
    #[arg(long, value_name = "FORM", value_parser = form)]
    print: Option<Form>,
    /// Arguments of the engine's own
    #[arg(last = true, value_name = "ENGINE ARGS")]
    engine_args: Vec<String>,
}

impl Serve {
    /// `interrupt` ends the process at Ctrl-C; it is ended by whoever takes the signal itself.
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
        interrupt: AbortHandle,
    ) -> Result<(), Failure> {
        self.check()?;
        let dtype = self.dtype.0;
        match self.engine {
            Engine::Embedded => {
                let tls = self.tls_cert.zip(self.tls_key);
                let args = EmbeddedArgs {
                    artifact: self.artifact,
                    listen: self.listen.unwrap_or(LISTEN),
                    api_keys: self.api_key,
                    served_names: self.served_name,
                    max_context: self.max_context,
                    max_concurrent: self.max_concurrent,
                    dtype,
                    memory: self.memory,
                    keep_cache: self.keep_cache,
                    adapters: self.adapter,
                    tls,
                    interrupt,
                };
                match self.print {
                    Some(form) => deployment::embedded(&args, form, global, output),
                    None => run_embedded(&args, global, runtime, output),
                }
            }
            Engine::External(engine) => {
                let args = ExternalArgs {
                    engine,
                    artifact: self.artifact,
                    listen: self.listen.unwrap_or(LISTEN),
                    api_keys: self.api_key,
                    served_names: self.served_name,
                    tensor_parallel: self.tensor_parallel,
                    max_context: self.max_context,
                    max_concurrent: self.max_concurrent,
                    dtype,
                    keep_cache: self.keep_cache,
                    adapters: self.adapter,
                    python: self.python,
                    engine_bin: self.engine_bin,
                    start_timeout: Duration::from_secs(self.start_timeout),
                    dry_run: self.dry_run,
                    print: self.print,
                    more: self.engine_args,
                    interrupt,
                };
                args.run(global, runtime, output)
            }
        }
    }

    /// Whether the flags go with the engine and with each other.
    fn check(&self) -> Result<(), Failure> {
        let wrong = |why: String| Err(Failure::usage(why));
        let mut names: HashSet<&str> = HashSet::new();
        let adapters = self.adapter.iter().map(|(name, _)| name.as_str());
        for name in self.served_name.iter().map(String::as_str).chain(adapters) {
            if name.is_empty() || name.starts_with('-') || name.chars().any(char::is_control) {
                return wrong(format!("{name:?} is no name for a model"));
            }
            if !names.insert(name) {
                return wrong(format!("two models are called {name}: give each a name of its own"));
            }
        }
        match self.engine {
            Engine::Embedded => {
                let own = "the embedded engine";
                if self.tensor_parallel.is_some_and(|gpus| gpus > 1) {
                    return wrong(format!(
                        "{own} runs on the processor: leave --tensor-parallel out, or name another --engine"
                    ));
                }
                if self.python.is_some() || self.engine_bin.is_some() {
                    return wrong(format!(
                        "{own} is part of this program: leave --python and --engine-bin out, or name another --engine"
                    ));
                }
                if self.dry_run {
                    return wrong(format!(
                        "{own} has no command of its own: --dry-run goes with another --engine"
                    ));
                }
                if let Some(word) = self.engine_args.first() {
                    return wrong(format!(
                        "{own} takes nothing after --, and so not {word}; name another --engine"
                    ));
                }
            }
            Engine::External(engine) => {
                let title = engine.title();
                if self.memory.is_some() {
                    return wrong(format!(
                        "--memory is of the embedded engine; {title} has options of its own, which stand after --"
                    ));
                }
                if self.tls_cert.is_some() {
                    return wrong(format!(
                        "--tls-cert is of the embedded engine; put a proxy with the certificate before {title}"
                    ));
                }
                if let Some(option) =
                    crate::serve::external::own_option(&self.engine_args, engine.own_options())
                {
                    return wrong(format!(
                        "{option} is set from the flags before --; leave it out after it"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// The process between an engine and us; nobody calls it by hand.
#[derive(Debug, clap::Args)]
pub(super) struct Supervise {
    /// A folder that goes when the program has ended
    #[arg(long)]
    remove: Option<PathBuf>,
    #[arg(last = true, required = true)]
    words: Vec<std::ffi::OsString>,
}

impl Supervise {
    /// Ends this process with the status of the program.
    pub(super) fn run(self) -> Result<(), Failure> {
        let program = self.words.first().map(|word| word.to_string_lossy().into_owned());
        match crate::serve::external::supervise(&self.words, self.remove.as_deref()) {
            Ok(status) => std::process::exit(i32::from(status)),
            Err(error) => Err(Failure::failed(format!("{}: {error}", program.unwrap_or_default()))),
        }
    }
}
