//! `tenpak ls`, `tenpak tag` and `tenpak rm`.

use std::path::PathBuf;

use serde_json::json;

use super::error::Failure;
use super::output::Output;
use super::publishing::lifetime;
use super::{Global, artifact, bytes};
use crate::format::name::{ArtifactName, ArtifactSpec, Tag};
use crate::format::refs::{INDEX_PATH, IndexBody, IndexEntry, SignedBody};
use crate::maintain;
use crate::store::{Store, StoreError, unix_now};
use crate::transport::{ObjectPath, TransportErrorKind};
use crate::trust::{Signer, TrustSet};

/// The name and tag of an argument that must not be an id.
fn named(spec: &ArtifactSpec) -> Result<(&ArtifactName, &Tag), Failure> {
    match spec {
        ArtifactSpec::Named { name, tag } => Ok((name, tag)),
        ArtifactSpec::Id(_) => Err(Failure::usage(format!("{spec} is an id; give a name"))),
    }
}

/// The signers of these key files.
pub(super) fn signers(paths: &[PathBuf]) -> Result<Vec<Signer>, Failure> {
    paths.iter().map(|path| Ok(Signer::load(path, None)?)).collect()
}

#[derive(Debug, clap::Args)]
pub(super) struct TagCommand {
    /// The artifact to name
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// The new name; its tag is `latest` if left out
    #[arg(value_name = "NAME[:TAG]", value_parser = artifact)]
    to: ArtifactSpec,
    /// Sign the name with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
    /// Days until the name must be signed again
    #[arg(long, value_name = "DAYS", default_value_t = 90, value_parser = clap::value_parser!(u32).range(1..=3650))]
    expires: u32,
}

impl TagCommand {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let (name, tag) = named(&self.to)?;
        let (store, signers) = (global.store()?, signers(&self.sign)?);
        // The name must lead to a manifest that is there.
        let found = global.open_in(store.clone(), &self.artifact, output).await?;
        let life = lifetime(self.expires);
        let published = maintain::tag(&store, found.id(), (name, tag), &signers, life).await?;
        let object = json!({
            "name": name, "tag": tag, "manifest": found.id(), "version": published.version,
        });
        output.result(object, || format!("{name}:{tag}  @{}", found.id()))
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Rm {
    /// The name to remove
    #[arg(value_name = "NAME[:TAG]", value_parser = artifact)]
    artifact: ArtifactSpec,
    /// Sign the index of names with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
}

impl Rm {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let (name, tag) = named(&self.artifact)?;
        let (store, signers) = (global.store()?, signers(&self.sign)?);
        let found = store.resolve(&self.artifact).await?;
        store.unpublish(name, tag, &signers, lifetime(90)).await?;
        let object = json!({"name": name, "tag": tag, "manifest": found.manifest});
        output.result(object, || {
            format!("{name}:{tag} removed; `tenpak gc` frees what nothing else names")
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Ls {
    /// List only artifacts of this name
    name: Option<ArtifactName>,
}

/// Every ref of the store: from the refs themselves where the store can list and nobody is
/// trusted, else from the index, whose signature covers them all.
async fn entries(store: &Store, trust: &TrustSet) -> Result<Vec<IndexEntry>, Failure> {
    if trust.is_empty() {
        match store.refs().await {
            Ok(refs) => {
                let entry = |envelope: crate::trust::Envelope<_>| {
                    let body: &crate::format::refs::RefBody = envelope.body();
                    IndexEntry {
                        manifest: body.manifest,
                        name: body.name.clone(),
                        tag: body.tag.clone(),
                        version: body.version,
                    }
                };
                return Ok(refs.into_iter().map(entry).collect());
            }
            Err(StoreError::Transport(error)) if error.kind == TransportErrorKind::Unlistable => {}
            Err(error) => return Err(error.into()),
        }
    }
    let path = ObjectPath::new(INDEX_PATH).ok_or_else(|| Failure::failed("no index path"))?;
    let Some(bytes) = store.read_optional(&path, IndexBody::LIMIT).await? else {
        return Ok(Vec::new());
    };
    if trust.is_empty() {
        return Ok(store.parse_document::<IndexBody>(&path, &bytes)?.body().refs.clone());
    }
    Ok(trust.verify_index(&bytes, unix_now())?.body.refs)
}

impl Ls {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let store = global.store()?;
        let mut entries = entries(&store, &global.trust()?).await?;
        if let Some(name) = &self.name {
            entries.retain(|entry| entry.name == *name);
        }
        entries.sort_by(|a, b| (&a.name, &a.tag).cmp(&(&b.name, &b.tag)));
        let mut artifacts = Vec::new();
        let mut rows =
            vec![["NAME", "MANIFEST", "RAW", "STORED", "TENSORS"].map(str::to_owned).to_vec()];
        for entry in &entries {
            // One damaged artifact must not hide the others.
            let totals = store.manifest(entry.manifest).await.map(|(manifest, _)| manifest.totals);
            artifacts.push(json!({
                "name": entry.name,
                "tag": entry.tag,
                "manifest": entry.manifest,
                "version": entry.version,
                "raw_bytes": totals.as_ref().ok().map(|t| t.raw_bytes),
                "stored_bytes": totals.as_ref().ok().map(|t| t.stored_bytes),
                "tensors": totals.as_ref().ok().map(|t| t.tensors),
            }));
            let id = entry.manifest.to_hex();
            let mut row = vec![format!("{}:{}", entry.name, entry.tag), format!("@{}", &id[..16])];
            match totals {
                Ok(totals) => row.extend([
                    bytes::size(totals.raw_bytes),
                    bytes::size(totals.stored_bytes),
                    totals.tensors.to_string(),
                ]),
                Err(error) => row.push(error.to_string()),
            }
            rows.push(row);
        }
        let object = json!({"artifacts": artifacts});
        output
            .result(object, || if entries.is_empty() { String::new() } else { bytes::table(&rows) })
    }
}
