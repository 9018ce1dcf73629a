//! What holds for every command: the store and its mirrors, whom to trust, and how an artifact is
//! opened by that.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::elsewhere::fetched;
use super::error::{Failure, NOT_FOUND};
use super::output::Output;
use crate::format::name::ArtifactSpec;
use crate::pack::Gate;
use crate::quantize::source::ModelSource;
use crate::store::Store;
use crate::store::artifact::{Artifact, OpenOptions};
use crate::studio::is_elsewhere;
use crate::transport::url::{self, WebOptions};
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
    /// Send this header with every request to stores over http and https, as 'Name: value' (repeatable); TENPAK_HEADERS
    /// has one on each line
    #[arg(long, global = true, value_name = "HEADER")]
    pub(super) header: Vec<String>,
    /// Trust the certificates in this file (PEM) beside the system's
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Publish even if this machine's clock and the time of the store, or of its host, differ too much
    #[arg(long, global = true)]
    pub(super) trust_clock: bool,
    /// Print one JSON object on the last line of standard output
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Show no progress
    #[arg(long, short, global = true)]
    pub(super) quiet: bool,
    /// Asked before a ref moves: whoever runs this command as a job answers.
    #[arg(skip)]
    pub(super) gate: Option<Gate>,
    /// A job reads nothing but what its request names, and elsewhere only public addresses and these servers. Whoever
    /// runs a command by hand may read what they can.
    #[arg(skip)]
    pub(super) guard: Option<Vec<String>>,
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

    /// How stores over the network are reached.
    pub(super) fn web(&self) -> Result<WebOptions, Failure> {
        let mut web = WebOptions::from_env()?;
        for header in &self.header {
            web.add_header(header)?;
        }
        if let Some(path) = &self.ca {
            let wrong = |why: String| Failure::usage(format!("--ca {}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            if !pem.windows(27).any(|line| line == b"-----BEGIN CERTIFICATE-----") {
                return Err(wrong("it holds no certificate in PEM".to_owned()));
            }
            web.certificates.push(pem);
        }
        Ok(web)
    }

    /// The store alone, which must be there: what is listed, verified or changed.
    pub(super) async fn existing_store(&self) -> Result<Store, Failure> {
        let store = self.store()?;
        store.require().await?;
        Ok(store)
    }

    /// The store alone: what is packed into, which makes it.
    pub(super) fn store(&self) -> Result<Store, Failure> {
        self.store_at(&self.store_location()?)
    }

    /// The store at an address.
    pub(super) fn store_at(&self, location: &str) -> Result<Store, Failure> {
        Ok(Store::open_with(location, &self.web()?)?.with_trusted_clock(self.trust_clock))
    }

    /// The store with its mirrors: what artifacts are read from.
    pub(super) fn source(&self) -> Result<Store, Failure> {
        let web = self.web()?;
        let mirrors = self.mirror.iter().map(|mirror| url::open_with(mirror, &web));
        Ok(self.store()?.with_mirrors(mirrors.collect::<Result<Vec<_>, _>>()?))
    }

    /// Opens the artifact in the store or a mirror of it, its ref and its manifest checked against the
    /// trusted keys.
    pub(super) async fn open(
        &self,
        artifact: &ArtifactSpec,
        output: &Output,
    ) -> Result<Artifact, Failure> {
        self.open_in(self.source()?, artifact, output).await
    }

    /// The same in a store that was opened.
    pub(super) async fn open_in(
        &self,
        store: Store,
        artifact: &ArtifactSpec,
        output: &Output,
    ) -> Result<Artifact, Failure> {
        let artifact = Artifact::open(store, artifact, &self.open_options()?).await?;
        for warning in artifact.warnings() {
            output.note(warning);
        }
        Ok(artifact)
    }

    pub(super) fn trust(&self) -> Result<TrustSet, Failure> {
        Ok(TrustSet::load(&self.trust)?)
    }

    /// How artifacts are opened: which keys are trusted, and which refs this user has seen before.
    pub(super) fn open_options(&self) -> Result<OpenOptions, Failure> {
        Ok(OpenOptions { trust: self.trust()?, seen: Some(SeenRefs::of_user()) })
    }

    /// A model: a folder or a file, the address of one elsewhere, or an artifact.
    pub(super) fn model(
        &self,
        text: &str,
        runtime: &Handle,
        output: &Output,
    ) -> Result<ModelSource, Failure> {
        if is_elsewhere(text) {
            let certificates = self.web()?.certificates;
            let folder = fetched(text, certificates, self.guard.as_deref(), runtime, output)?;
            return Ok(ModelSource::folder(&folder)?);
        }
        let path = Path::new(text);
        // What lies where a worker happens to run is no job's matter.
        if path.exists() && (self.guard.is_none() || path.is_absolute()) {
            return Ok(ModelSource::folder(path)?);
        }
        let spec = artifact(text).map_err(|error| {
            Failure::usage(format!("{text}: no folder, and no artifact's name: {error}"))
        })?;
        self.model_of(&spec, runtime, output).map_err(|failure| match failure.status {
            NOT_FOUND => {
                Failure::new(NOT_FOUND, format!("{text}: no such folder; {}", failure.message))
            }
            _ => failure,
        })
    }

    /// A model that is an artifact.
    pub(super) fn model_of(
        &self,
        spec: &ArtifactSpec,
        runtime: &Handle,
        output: &Output,
    ) -> Result<ModelSource, Failure> {
        let artifact = runtime.block_on(self.open(spec, output))?;
        Ok(ModelSource::artifact(artifact, runtime)?)
    }
}

/// Parses an ARTIFACT argument.
pub(super) fn artifact(text: &str) -> Result<ArtifactSpec, String> {
    text.parse().map_err(|error: crate::format::name::NameError| error.to_string())
}
