//! The command line: arguments, output and exit statuses. One file per command or small family.
//!
//! Standard output carries results, standard error progress and messages. With `--json` the last
//! line of standard output is one object.

mod bytes;
mod cp;
mod delta;
mod du;
mod edge;
mod edge_settings;
mod error;
mod eval;
mod gc;
mod inspect;
mod keys;
mod load;
mod load_device;
mod output;
mod pack;
mod progress;
mod publishing;
mod quantize;
mod quantize_external;
mod refs;
mod sign_url;
mod unpack;
mod verify;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};
use tokio::runtime::Handle;

use crate::format::name::ArtifactSpec;
use crate::load::artifact::{Artifact, OpenOptions};
use crate::quantize::source::ModelSource;
use crate::store::{ArtifactGraph, Resolved, Store};
use crate::transport::Transport;
use crate::trust::{SeenRefs, TrustSet};

use error::Failure;
use output::Output;

/// Signed model weights: packed once, streamed and verified from any bucket or static host.
#[derive(Debug, Parser)]
#[command(name = "tenpak", version, max_term_width = 100, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What holds for every command; given before or after its name.
#[derive(Debug, Clone, clap::Args)]
struct Global {
    /// The store: a path, s3://, gs://, az:// or http(s):// address [default: the user's data
    /// directory]
    #[arg(long, global = true, env = "TENPAK_STORE", value_name = "URL")]
    store: Option<String>,
    /// Trust only artifacts signed by this key: a public key, a trust file, or hmac:FILE
    /// (repeatable) [default: the trust file in the user's configuration directory, if there is
    /// one]
    #[arg(long, global = true, value_name = "PUB")]
    trust: Vec<String>,
    /// Another copy of the store, used beside it (repeatable)
    #[arg(long, global = true, value_name = "URL")]
    mirror: Vec<String>,
    /// Print one JSON object on the last line of standard output
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress
    #[arg(long, short, global = true)]
    quiet: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an Ed25519 key pair: OUT and OUT.pub
    Keygen(keys::Keygen),
    /// Put a model directory or file into the store
    Pack(pack::Pack),
    /// Make a quantized checkpoint of a model
    Quantize(quantize::Quantize),
    /// Write a fine-tune as what it adds to its base
    Delta(delta::Delta),
    /// Stream an artifact's tensors into memory, every byte verified
    Load(load::Load),
    /// Write an artifact's files, byte for byte
    Unpack(unpack::Unpack),
    /// Add a signature to an artifact, and renew its ref
    Sign(keys::Sign),
    /// Give an artifact another name or tag
    Tag(refs::TagCommand),
    /// Remove a name; `gc` frees the space
    Rm(refs::Rm),
    /// List artifacts
    Ls(refs::Ls),
    /// Serve a store over HTTP
    Edge(edge::Edge),
    /// Measure how well a model does
    Eval(eval::Eval),
    /// Sign a URL of an edge, which then holds for a while without a token
    SignUrl(sign_url::SignUrl),
    /// Check every byte of an artifact, or of the whole store
    Verify(verify::Verify),
    /// Free what nothing names, after a grace period
    Gc(gc::Gc),
    /// Copy an artifact to another store: only what it lacks
    Cp(cp::Cp),
    /// Mend fragmentation; no artifact's id changes
    Repack(cp::Repack),
    /// Show an artifact: files, tensors, codecs, signatures
    Inspect(inspect::Inspect),
    /// Show what takes how much room
    Du(du::Du),
    /// Show what differs between two artifacts
    Diff(du::DiffCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Global {
    fn store_location(&self) -> Result<String, Failure> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let data = std::env::var_os("XDG_DATA_HOME")
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from)
            .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/share")));
        let data = data.ok_or_else(|| {
            Failure::usage("no store: give --store URL, or set TENPAK_STORE or HOME")
        })?;
        let store: OsString = data.join("tenpak/store").into();
        store.into_string().map_err(|_| Failure::usage("the user's data directory is not UTF-8"))
    }

    fn store(&self) -> Result<Store, Failure> {
        Ok(Store::new(crate::transport::url::open(&self.store_location()?)?))
    }

    /// The store and its mirrors, in the order in which they are preferred.
    fn sources(&self, store: &Store) -> Result<Vec<Arc<dyn Transport>>, Failure> {
        let mut sources = vec![store.transport().clone()];
        for mirror in &self.mirror {
            sources.push(crate::transport::url::open(mirror)?);
        }
        Ok(sources)
    }

    /// Finds the artifact in the store or, where that fails, in a mirror, and checks its ref and
    /// its manifest against the trusted keys. What a store that answers says of its trust is final.
    async fn open(
        &self,
        artifact: &ArtifactSpec,
        output: &Output,
    ) -> Result<(Store, Resolved), Failure> {
        let trust = self.trust()?;
        let mut first = None;
        for source in self.sources(&self.store()?)? {
            let store = Store::new(source);
            match open_in(&store, artifact, &trust, output).await {
                Ok(found) => return Ok((store, found)),
                Err(error) => drop(first.get_or_insert(error)),
            }
        }
        Err(first.unwrap_or_else(|| Failure::failed("no store")))
    }

    /// The same, with the artifact's whole graph.
    async fn open_whole(
        &self,
        artifact: &ArtifactSpec,
        output: &Output,
    ) -> Result<(Store, ArtifactGraph), Failure> {
        let (store, found) = self.open(artifact, output).await?;
        let whole = ArtifactGraph::read(&store, found.manifest).await;
        Ok((store, whole.map_err(|error| error.named_by(artifact))?))
    }

    fn trust(&self) -> Result<TrustSet, Failure> {
        Ok(TrustSet::load(&self.trust)?)
    }

    /// How artifacts are opened: by whose word, and with the refs that this user has seen before.
    fn open_options(&self) -> Result<OpenOptions, Failure> {
        let (trust, seen) = (self.trust()?, Some(SeenRefs::of_user()));
        Ok(OpenOptions { trust, seen, ..OpenOptions::default() })
    }

    /// Opens an artifact of the store or its mirrors for its tensors and files.
    fn artifact(
        &self,
        spec: &ArtifactSpec,
        options: &OpenOptions,
        runtime: &Handle,
        output: &Output,
    ) -> Result<Artifact, Failure> {
        let sources = self.sources(&self.store()?)?;
        let opened = runtime.block_on(Artifact::open(sources, spec, options))?;
        opened.warnings().iter().for_each(|warning| output.note(warning));
        Ok(opened)
    }

    /// A model: a folder or a file, or an artifact.
    fn model(&self, text: &str, runtime: &Handle, output: &Output) -> Result<ModelSource, Failure> {
        let path = Path::new(text);
        if path.exists() {
            return Ok(ModelSource::folder(path)?);
        }
        let spec = artifact(text).map_err(|error| {
            Failure::usage(format!("{text}: no folder, and no artifact's name: {error}"))
        })?;
        self.model_of(&spec, runtime, output)
    }

    /// A model that is an artifact.
    fn model_of(
        &self,
        spec: &ArtifactSpec,
        runtime: &Handle,
        output: &Output,
    ) -> Result<ModelSource, Failure> {
        let artifact = self.artifact(spec, &self.open_options()?, runtime, output)?;
        Ok(ModelSource::artifact(artifact, runtime)?)
    }
}

/// Finds the artifact in `store`, and checks its ref and its manifest against the trusted keys.
async fn open_in(
    store: &Store,
    artifact: &ArtifactSpec,
    trust: &TrustSet,
    output: &Output,
) -> Result<Resolved, Failure> {
    let found = store.resolve_trusted(artifact, trust, &SeenRefs::of_user()).await?;
    if let Some(warning) = &found.warning {
        output.note(warning);
    }
    let (_, bytes) = store.manifest(found.manifest).await.map_err(|error| match artifact {
        ArtifactSpec::Named { .. } => error.named_by(artifact),
        ArtifactSpec::Id(_) => error,
    })?;
    store.check_manifest(trust, found.name(), found.manifest, &bytes).await?;
    Ok(found)
}

/// Parses an ARTIFACT argument.
fn artifact(text: &str) -> Result<ArtifactSpec, String> {
    text.parse().map_err(|error: crate::format::name::NameError| error.to_string())
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    crate::memory::pages::return_freed_buffers();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version go to standard output with status 0; wrong use is status 2.
            let code = if error.use_stderr() { error::USAGE } else { 0 };
            return match error.print() {
                Ok(()) => ExitCode::from(code),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    let output = Output::new(cli.global.json, cli.global.quiet);
    let result = run(cli, &output);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

/// Steps of tasks after which sockets are looked at. A step hashes and copies up to a megabyte: after the usual
/// 61, whoever has asked meanwhile would have waited for tens of milliseconds.
const EVENTS: u32 = 2;

fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .event_interval(EVENTS)
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no runtime: {error}")))?;
    let runtime = Arc::new(runtime);
    // Ending at once is safe everywhere: whatever is half written is invisible, and the next run
    // goes on from it.
    let interrupt = runtime.spawn(async {
        if tokio::signal::ctrl_c().await.is_ok() {
            eprintln!("tenpak: interrupted");
            std::process::exit(i32::from(error::INTERRUPTED));
        }
    });
    let (global, handle) = (&cli.global, runtime.handle());
    let result = match cli.command {
        Command::Keygen(args) => args.run(output),
        Command::Pack(args) => args.run(global, handle, output),
        Command::Quantize(args) => args.run(global, handle, output),
        Command::Delta(args) => args.run(global, handle, output),
        Command::Load(args) => args.run(global, handle, output),
        Command::Unpack(args) => args.run(global, handle, output),
        Command::Sign(args) => handle.block_on(args.run(global, output)),
        Command::Tag(args) => handle.block_on(args.run(global, output)),
        Command::Rm(args) => handle.block_on(args.run(global, output)),
        Command::Ls(args) => handle.block_on(args.run(global, output)),
        Command::Edge(args) => handle.block_on(args.run(global, output)),
        Command::Eval(args) => args.run(global, handle, output),
        Command::SignUrl(args) => args.run(output),
        Command::Verify(args) => handle.block_on(args.run(global, output)),
        Command::Gc(args) => handle.block_on(args.run(global, output)),
        Command::Cp(args) => handle.block_on(args.run(global, output)),
        Command::Repack(args) => handle.block_on(args.run(global, output)),
        Command::Inspect(args) => handle.block_on(args.run(global, output)),
        Command::Du(args) => handle.block_on(args.run(global, output)),
        Command::Diff(args) => handle.block_on(args.run(global, output)),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tenpak", &mut std::io::stdout());
            Ok(())
        }
    };
    interrupt.abort();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_flags_stand_before_and_after_the_command() {
        for args in
            [["tenpak", "--store", "s", "--json", "ls"], ["tenpak", "ls", "--store", "s", "--json"]]
        {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!((cli.global.store.as_deref(), cli.global.json), (Some("s"), true));
        }
    }
}
