//! `tenpak ls`, `tenpak tag` and `tenpak rm`.

use std::path::PathBuf;

use serde_json::json;

use super::error::Failure;
use super::output::Output;
use super::publishing::lifetime;
use super::{Global, artifact, bytes};
use crate::format::name::{ArtifactName, ArtifactSpec, NameError, NamePattern, Tag};
use crate::format::refs::IndexEntry;
use crate::maintain;
use crate::store::{Listed, Store, StoreError};
use crate::transport::TransportErrorKind;
use crate::trust::{SeenRefs, Signer, TrustSet};

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
        let (store, signers) = (global.existing_store().await?, signers(&self.sign)?);
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
        let (store, signers) = (global.existing_store().await?, signers(&self.sign)?);
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
    /// List only artifacts of this name, which must be there, or all whose names begin alike: `org/`, `org/llama-*`
    #[arg(value_parser = pattern)]
    name: Option<NamePattern>,
}

fn pattern(text: &str) -> Result<NamePattern, String> {
    text.parse().map_err(|error: NameError| error.to_string())
}

/// The refs of these names: from the refs themselves where the store can list and nobody is trusted,
/// else from the index, whose signature covers them all. Of names that begin alike the index is asked
/// first: it finds them however many others there are.
async fn entries(
    store: &Store,
    wanted: &NamePattern,
    (trust, output): (&TrustSet, &Output),
) -> Result<Vec<IndexEntry>, Failure> {
    let begins = matches!(wanted, NamePattern::Prefix(prefix) if !prefix.is_empty());
    let listed = async |seen| match store.listed(wanted, trust, seen).await? {
        None => Ok::<_, Failure>(None),
        Some(Listed { entries, warning }) => {
            warning.into_iter().for_each(|warning| output.note(warning));
            Ok(Some(entries))
        }
    };
    if !trust.is_empty() {
        return Ok(listed(Some(&SeenRefs::of_user())).await?.unwrap_or_default());
    }
    if begins && let Some(entries) = listed(None).await? {
        return Ok(entries);
    }
    match store.refs(wanted).await {
        Ok(refs) => Ok(refs.iter().map(|envelope| IndexEntry::of(envelope.body())).collect()),
        Err(StoreError::Transport(error)) if error.kind == TransportErrorKind::Unlistable => {
            Ok(listed(None).await?.unwrap_or_default())
        }
        Err(error) => Err(error.into()),
    }
}

impl Ls {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let store = global.existing_store().await?;
        let wanted = self.name.unwrap_or(NamePattern::ALL);
        let mut entries = entries(&store, &wanted, (&global.trust()?, output)).await?;
        if let (NamePattern::Name(name), true) = (&wanted, entries.is_empty()) {
            let (location, artifact) = (store.location().to_owned(), name.to_string());
            return Err(StoreError::NoArtifact { location, artifact }.into());
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
