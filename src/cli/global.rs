//! What holds for every command: the store and its mirrors, whom to trust, and how an artifact is
//! opened by that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use crate::format::name::ArtifactSpec;
use crate::load::artifact::{Artifact, OpenOptions};
use crate::quantize::source::ModelSource;
use crate::store::{ArtifactGraph, Resolved, Store};
use crate::transport::Transport;
use crate::trust::{SeenRefs, TrustSet};

/// What holds for every command; given before or after its name.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Global {
    /// The store: a path, s3://, gs://, az:// or http(s):// address [default: the user's data
    /// directory]
    #[arg(long, global = true, env = "TENPAK_STORE", value_name = "URL")]
    pub(super) store: Option<String>,
    /// Trust only artifacts signed by this key: a public key, a trust file, or hmac:FILE
    /// (repeatable) [default: the trust file in the user's configuration directory, if there is
    /// one]
    #[arg(long, global = true, value_name = "PUB")]
    pub(super) trust: Vec<String>,
    /// Another copy of the store, to read from where the first fails (repeatable)
    #[arg(long, global = true, value_name = "URL")]
    pub(super) mirror: Vec<String>,
    /// Print one JSON object on the last line of standard output
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
}

impl Global {
    pub(super) fn store_location(&self) -> Result<String, Failure> {
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

    pub(super) fn store(&self) -> Result<Store, Failure> {
        Ok(Store::new(crate::transport::url::open(&self.store_location()?)?))
    }

    /// The store and its mirrors, in the order in which they are preferred.
    pub(super) fn sources(&self, store: &Store) -> Result<Vec<Arc<dyn Transport>>, Failure> {
        let mut sources = vec![store.transport().clone()];
        for mirror in &self.mirror {
            sources.push(crate::transport::url::open(mirror)?);
        }
        Ok(sources)
    }

    /// Finds the artifact in the store or, where that fails, in a mirror, and checks its ref and
    /// its manifest against the trusted keys. If no store has it, the first one's error counts.
    pub(super) async fn open(
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
    pub(super) async fn open_whole(
        &self,
        artifact: &ArtifactSpec,
        output: &Output,
    ) -> Result<(Store, ArtifactGraph), Failure> {
        let (store, found) = self.open(artifact, output).await?;
        let whole = ArtifactGraph::read(&store, found.manifest).await;
        Ok((store, whole.map_err(|error| error.named_by(artifact))?))
    }

    pub(super) fn trust(&self) -> Result<TrustSet, Failure> {
        Ok(TrustSet::load(&self.trust)?)
    }

    /// How artifacts are opened: which keys are trusted, and which refs this user has seen before.
    pub(super) fn open_options(&self) -> Result<OpenOptions, Failure> {
        let (trust, seen) = (self.trust()?, Some(SeenRefs::of_user()));
        Ok(OpenOptions { trust, seen, ..OpenOptions::default() })
    }

    /// Opens an artifact of the store or its mirrors for its tensors and files.
    pub(super) fn artifact(
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
    pub(super) fn model(
        &self,
        text: &str,
        runtime: &Handle,
        output: &Output,
    ) -> Result<ModelSource, Failure> {
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
    pub(super) fn model_of(
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
pub(super) async fn open_in(
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
pub(super) fn artifact(text: &str) -> Result<ArtifactSpec, String> {
    text.parse().map_err(|error: crate::format::name::NameError| error.to_string())
}
