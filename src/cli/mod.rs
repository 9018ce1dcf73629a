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
mod elsewhere;
mod error;
mod eval;
mod eval_speed;
mod gc;
mod global;
mod inspect;
mod job;
mod keys;
mod load;
mod load_device;
mod mount;
mod open_engine;
mod optimize;
mod optimize_board;
mod output;
mod pack;
mod progress;
mod publishing;
mod quantize;
mod quantize_external;
mod refs;
mod serve;
mod sign_url;
mod studio;
mod studio_backup;
mod studio_settings;
mod unpack;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser, Subcommand};

use error::Failure;
use global::{Global, artifact};
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

#[derive(Debug, Subcommand)]
enum Command {
    /// Make an Ed25519 key pair: OUT and OUT.pub
    Keygen(keys::Keygen),
    /// Pack a model directory or file into the store
    Pack(pack::Pack),
    /// Make a quantized checkpoint of a model
    Quantize(quantize::Quantize),
    /// Write a fine-tune as its difference from a base
    Delta(delta::Delta),
    /// Find the cheapest quantization of a model that keeps limits
    Optimize(Box<optimize::Optimize>),
    /// Load an artifact's tensors into host or device memory, every byte verified
    Load(load::Load),
    /// Write an artifact's files to a folder, byte for byte
    Unpack(unpack::Unpack),
    /// Sign an artifact, and renew its name
    Sign(keys::Sign),
    /// Give an artifact another name or tag
    Tag(refs::TagCommand),
    /// Remove a name; `gc` frees the space
    Rm(refs::Rm),
    /// List artifacts
    Ls(refs::Ls),
    /// Serve a store over HTTP
    Edge(edge::Edge),
    /// Mount an artifact or a store as a read-only file system
    Mount(mount::Mount),
    /// Serve a model over HTTP, as OpenAI's clients ask
    Serve(Box<serve::Serve>),
    #[command(hide = true)]
    Supervise(serve::Supervise),
    /// Serve compression as a service: jobs over HTTP, and a page
    Studio(studio::Studio),
    /// Run a command as a worker does
    #[command(hide = true)]
    Job(job::Job),
    /// Evaluate a model
    Eval(eval::Eval),
    /// Sign a URL of an edge, which then needs no token until it expires
    SignUrl(sign_url::SignUrl),
    /// Check every byte of an artifact, or of the whole store
    Verify(verify::Verify),
    /// Delete what no name refers to, after a grace period
    Gc(gc::Gc),
    /// Copy an artifact to another store; only what that store lacks is sent
    Cp(cp::Cp),
    /// Rewrite fragmented packs; no artifact's id changes
    Repack(cp::Repack),
    /// Show an artifact: files, tensors, codecs, signatures
    Inspect(inspect::Inspect),
    /// Show how much space artifacts take
    Du(du::Du),
    /// Show the differences between two artifacts
    Diff(du::DiffCommand),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    crate::memory::pages::return_freed_buffers();
    let cli = match Cli::try_parse_from(mount::words(std::env::args_os())) {
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
    let (cli, output) = match of_worker(cli) {
        Ok(own) => own,
        Err((failure, output)) => return output.fail(&failure),
    };
    let result = log().and_then(|()| run(cli, &output));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => output.fail(&failure),
    }
}

/// The command that a job is, if this process runs one for a worker, and how it prints.
fn of_worker(cli: Cli) -> Result<(Cli, Output), (Failure, Output)> {
    let Command::Job(job) = cli.command else {
        let output = Output::new(cli.global.json, cli.global.quiet);
        return Ok((cli, output));
    };
    let output = Output::reporting();
    let words = std::iter::once("tenpak".to_owned()).chain(job.command);
    let parsed = Cli::try_parse_from(words).map_err(|error| (Failure::usage(error), output))?;
    let gate = job::gate().map_err(|failure| (failure, output))?;
    let global = Global { gate: Some(gate), guard: Some(job.allow_private), ..parsed.global };
    Ok((Cli { global, ..parsed }, output))
}

/// Where the library tells what it does: how much of it, from `error` to `trace`, goes to standard error.
const LOG: &str = "TENPAK_LOG";

fn log() -> Result<(), Failure> {
    let Some(level) = std::env::var_os(LOG) else { return Ok(()) };
    let level: Option<tracing_subscriber::filter::LevelFilter> =
        level.to_str().and_then(|level| level.parse().ok());
    let level = level.ok_or_else(|| {
        Failure::usage(format!("{LOG}: expected off, error, warn, info, debug or trace"))
    })?;
    let told = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
    told.with_writer(std::io::stderr).try_init().map_err(Failure::failed)
}

fn run(cli: Cli, output: &Output) -> Result<(), Failure> {
    if let Command::Supervise(args) = cli.command {
        return args.run();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
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
        Command::Optimize(args) => args.run(global, handle, output),
        Command::Load(args) => args.run(global, handle, output),
        Command::Unpack(args) => args.run(global, handle, output),
        Command::Sign(args) => handle.block_on(args.run(global, output)),
        Command::Tag(args) => handle.block_on(args.run(global, output)),
        Command::Rm(args) => handle.block_on(args.run(global, output)),
        Command::Ls(args) => handle.block_on(args.run(global, output)),
        Command::Edge(args) => handle.block_on(args.run(global, output)),
        Command::Mount(args) => args.run(global, handle, output, interrupt.abort_handle()),
        Command::Serve(args) => args.run(global, handle, output, interrupt.abort_handle()),
        // It has no runtime: its process ends before there is one.
        Command::Supervise(args) => args.run(),
        Command::Studio(args) => args.run(global, handle, output),
        Command::Job(_) => Err(Failure::usage("a job is no job's command")),
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
