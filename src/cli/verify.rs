//! `tenpak verify`.

use serde_json::json;

use super::error::{Failure, VERIFICATION};
use super::output::Output;
use super::progress::Bar;
use super::{Global, artifact, bytes};
use crate::format::name::ArtifactSpec;
use crate::maintain;
use crate::trust::SeenRefs;

#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The artifact to verify [default: all that the store's refs name]
    #[arg(value_parser = artifact)]
    artifact: Option<ArtifactSpec>,
}

impl Verify {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let (store, trust) = (global.existing_store().await?, global.trust()?);
        let bar = Bar::new(output, "verifying");
        let report = match &self.artifact {
            Some(artifact) => {
                let found =
                    store.resolve_trusted(artifact, &trust, Some(&SeenRefs::of_user())).await?;
                if let Some(warning) = &found.warning {
                    output.note(warning);
                }
                let (id, name) = (found.manifest, found.name());
                if name.is_none()
                    && store.transport().head(&crate::format::store::manifest(id)).await?.is_none()
                {
                    return Err(store.no_artifact(artifact).into());
                }
                maintain::verify(&store, id, name, &trust, &bar).await?
            }
            None => maintain::verify_store(&store, &trust, &bar).await?,
        };
        drop(bar);
        let object = json!({
            "ok": report.is_ok(),
            "artifacts": report.artifacts,
            "chunks": report.chunks,
            "bytes": report.bytes,
            "packs": report.packs,
            "damaged": report.damaged,
        });
        let summary = format!(
            "{} artifacts, {} packs, {} chunks, {}",
            report.artifacts.len(),
            report.packs,
            report.chunks,
            bytes::size(report.bytes)
        );
        if report.is_ok() {
            return output.result(object, || format!("all right: {summary}"));
        }
        for damage in &report.damaged {
            output.note(damage);
        }
        output.result(object, || format!("{} damaged; right: {summary}", report.damaged.len()))?;
        Err(Failure::told(VERIFICATION, format!("{} damaged", report.damaged.len())))
    }
}
