//! `tenpak cp` and `tenpak repack`.

use std::path::PathBuf;

use serde_json::json;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::refs::signers;
use super::{Global, artifact, bytes};
use crate::format::name::{ArtifactSpec, NamePattern};
use crate::format::time;
use crate::maintain::{CopyOptions, RepackOptions, copy, repack};
use crate::store::RefPlaced;

#[derive(Debug, clap::Args)]
pub(super) struct Cp {
    /// The artifact to copy
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// The store to copy to
    #[arg(long, value_name = "STORE")]
    to: String,
    /// Replace the name in that store even if it is newer there
    #[arg(long)]
    force: bool,
    /// Sign that store's index of names with this secret key (repeatable)
    #[arg(long, value_name = "KEY")]
    sign: Vec<PathBuf>,
}

impl Cp {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let trust = global.trust()?;
        let source = global.open(&self.artifact, output).await?;
        let target = global.store_at(&self.to)?;
        let options = CopyOptions { force: self.force, signers: signers(&self.sign)? };
        let bar = Bar::new(output, "copying");
        let report = copy(&source, &target, &trust, &options, &bar).await?;
        drop(bar);
        output.made(&target);
        match report.placed {
            Some(RefPlaced::Kept { version }) => output.note(format!(
                "{}: {} is newer there, as version {}, and stays; --force replaces it",
                target.location(),
                self.artifact,
                time::version(version)
            )),
            Some(RefPlaced::Unlisted) => output.note(format!(
                "{}: its index of names is signed and does not list {} yet; give --sign KEY",
                target.location(),
                self.artifact
            )),
            Some(RefPlaced::Written)
                if options.signers.is_empty()
                    && source.resolved().by.iter().any(|e| e.claimed_keys().next().is_some()) =>
            {
                output.note(format!(
                    "{}: its index of names is not signed; --sign KEY signs it",
                    target.location()
                ));
            }
            _ => {}
        }
        let kept = matches!(report.placed, Some(RefPlaced::Kept { .. }));
        let object = json!({
            "manifest": report.manifest,
            "copied_bytes": report.copied_bytes,
            "objects": report.objects,
            "skipped_bytes": report.skipped_bytes,
            "ref_kept": kept,
        });
        output.result(object, || {
            format!(
                "@{}  {} copied in {} objects, {} was there",
                report.manifest,
                bytes::size(report.copied_bytes),
                report.objects,
                bytes::size(report.skipped_bytes)
            )
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Repack {
    /// The artifact to repack [default: all that the store's refs name]
    #[arg(value_name = "ARTIFACT", value_parser = artifact)]
    artifacts: Vec<ArtifactSpec>,
    /// Rewrite an artifact that lies in more runs of chunks per GiB than this
    #[arg(long, value_name = "N", default_value_t = 16.0)]
    runs_per_gib: f64,
    /// Rewrite it however it lies
    #[arg(long)]
    force: bool,
}

impl Repack {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let store = global.existing_store().await?;
        let options = RepackOptions { runs_per_gib: self.runs_per_gib, force: self.force };
        let mut ids = Vec::new();
        for artifact in &self.artifacts {
            ids.push(store.resolve(artifact).await?.manifest);
        }
        if self.artifacts.is_empty() {
            ids.extend(
                store
                    .refs(&NamePattern::ALL)
                    .await?
                    .iter()
                    .map(|envelope| envelope.body().manifest),
            );
        }
        ids.sort();
        ids.dedup();
        let mut done = Vec::new();
        for id in ids {
            let bar = Bar::new(output, "repacking");
            done.push(repack(&store, id, options, &bar).await?);
        }
        output.result(json!({"artifacts": done}), || {
            let mut text = String::new();
            for one in &done {
                let what = match one.rewritten {
                    true => {
                        format!("{} runs of chunks are now {}", one.runs_before, one.runs_after)
                    }
                    false => format!("{} runs of chunks, left as it is", one.runs_before),
                };
                text += &format!("@{}  {what}\n", one.manifest);
            }
            if done.iter().any(|one| one.rewritten) {
                text += "`tenpak gc` frees the old packs\n";
            }
            text
        })
    }
}
