//! What an engine of others is fed with: the edge on loopback, files in a cache, a folder of its own.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use crate::cli::Global;
use crate::cli::error::Failure;
use crate::cli::output::Output;
use crate::cli::progress::Bar;
use crate::edge::{self, Access, Edge, EdgeOptions};
use crate::format::id::to_hex;
use crate::format::name::ArtifactSpec;
use crate::pack::unpack::{UnpackOptions, unpack};
use crate::serve::external::{Adapter, Hub};
use crate::store::artifact::Artifact;
use crate::trust::SeenRefs;

/// Bytes of chunks that are kept on disk, at least.
const DISK: u64 = 64 << 30;

/// A folder of an engine's own, which goes with it.
#[derive(Debug)]
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    /// A new one below `below`, or in the system's temporary folder; nobody else reads it.
    pub(super) fn new(below: Option<&Path>) -> Result<Self, Failure> {
        let name = format!("tenpak-serve-{}", secret()?.get(..16).unwrap_or_default());
        let parent = below.map_or_else(std::env::temp_dir, Path::to_path_buf);
        let path = parent.join(name);
        let failed = |error| Failure::failed(format!("{}: {error}", path.display()));
        std::fs::create_dir_all(&parent).map_err(failed)?;
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(failed)?;
        // The engine may run in another folder than we do.
        Ok(Self(std::path::absolute(&path).map_err(failed)?))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays has a name that tells whose it is.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// A word that nobody guesses.
fn secret() -> Result<String, Failure> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(Failure::failed)?;
    Ok(to_hex(&random))
}

/// Starts an edge on loopback that knows the artifact, and answers only to the engine.
pub(super) fn start_edge(
    global: &Global,
    runtime: &Handle,
    (artifact, stored_bytes): (&ArtifactSpec, u64),
    keep_cache: Option<&Path>,
    home: &Path,
) -> Result<(Arc<Edge>, Hub), Failure> {
    let token = secret()?;
    let access = format!("engine sha256:{}", to_hex(&Sha256::digest(&token)));
    let origins = global.source()?.transports().to_vec();
    let options = EdgeOptions {
        trust: global.trust()?,
        seen: Some(SeenRefs::of_user()),
        access: Access::default().with_tokens(&access).map_err(Failure::failed)?,
        disk: keep_cache
            .map(|folder| (folder.join("chunks"), DISK.max(stored_bytes.saturating_mul(2)))),
        ..EdgeOptions::default()
    };
    let fits = options.disk.is_some() || stored_bytes <= options.memory;
    let edge = Edge::new(origins, options).map_err(|error| {
        Failure::failed(format!("{error}; name another folder with --keep-cache"))
    })?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
    let listener = listener
        .map_err(|error| Failure::failed(format!("cannot listen on 127.0.0.1: {error}")))?;
    let address = listener.local_addr().map_err(Failure::failed)?;
    let known = runtime.block_on(edge.know(artifact));
    known.map_err(|error| Failure::failed(format!("{artifact}: {error}")))?;
    if fits {
        // While the engine starts, its weights arrive.
        let (edge, artifact) = (edge.clone(), artifact.clone());
        runtime.spawn(async move {
            // Whatever is missing is fetched when the engine asks for it, and fails there.
            drop(edge.prefetch(&artifact).await);
        });
    }
    runtime.spawn(edge::serve(edge.clone(), listener, std::future::pending()));
    let home = home.display().to_string();
    Ok((edge, Hub { url: format!("http://{address}"), token, home }))
}

/// Writes the files of an artifact to a folder of ours; what is damaged there is written again.
pub(super) fn write_files(
    artifact: &Artifact,
    folder: &Path,
    runtime: &Handle,
    output: &Output,
) -> Result<(), Failure> {
    let whole = runtime.block_on(artifact.graph())?;
    let bar = Bar::new(output, "unpacking");
    bar.begin(whole.manifest.totals.raw_bytes);
    unpack(&whole, artifact.store(), folder, UnpackOptions { force: true }, runtime, &|bytes| {
        bar.advance(bytes)
    })?;
    Ok(())
}

/// The folder that keeps the files of artifacts by their ids.
pub(super) fn file_cache(keep_cache: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(folder) = keep_cache {
        return std::path::absolute(folder.join("files")).map_err(Failure::failed);
    }
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    let cache = cache
        .ok_or_else(|| Failure::usage("no folder for files: give --keep-cache, or set HOME"))?;
    Ok(cache.join("tenpak/files"))
}

/// Opens adapters, and says where each will lie.
pub(super) fn adapters(
    wanted: &[(String, ArtifactSpec)],
    below: &Path,
    (global, runtime, output): (&Global, &Handle, &Output),
) -> Result<Vec<(Adapter, Artifact)>, Failure> {
    let mut found = Vec::new();
    for (index, (name, spec)) in wanted.iter().enumerate() {
        let artifact = runtime.block_on(global.open(spec, output))?;
        let source = crate::quantize::source::ModelSource::artifact(artifact, runtime)?;
        let config = source.json("adapter_config.json")?.unwrap_or_default();
        let rank = config
            .get("r")
            .and_then(serde_json::Value::as_u64)
            .and_then(|rank| u32::try_from(rank).ok());
        let rank = rank.ok_or_else(|| {
            Failure::usage(format!(
                "{spec} is no LoRA adapter: it has no adapter_config.json with a rank (r)"
            ))
        })?;
        let artifact = runtime.block_on(global.open(spec, output))?;
        found.push((
            Adapter { name: name.clone(), folder: below.join(format!("adapter-{index}")), rank },
            artifact,
        ));
    }
    Ok(found)
}
