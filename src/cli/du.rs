//! `tenpak du` and `tenpak diff`.

use serde_json::json;

use super::error::Failure;
use super::output::Output;
use super::{Global, artifact, bytes};
use crate::format::name::ArtifactSpec;
use crate::maintain::{ArtifactUsage, Change, artifact_usage, diff, store_usage};

#[derive(Debug, clap::Args)]
pub(super) struct Du {
    /// The artifact to measure [default: the whole store]
    #[arg(value_parser = artifact)]
    artifact: Option<ArtifactSpec>,
}

fn row(usage: &ArtifactUsage) -> Vec<String> {
    vec![
        format!("@{}", &usage.manifest.to_hex()[..16]),
        bytes::size(usage.raw_bytes),
        bytes::size(usage.stored_bytes),
        bytes::size(usage.base_bytes),
        bytes::size(usage.unique_bytes),
        bytes::size(usage.shared_bytes),
        usage.packs.to_string(),
        format!("{:.1}", usage.runs_per_gib),
    ]
}

fn table(usages: &[ArtifactUsage]) -> String {
    let heading = ["ARTIFACT", "RAW", "STORED", "BASES", "UNIQUE", "SHARED", "PACKS", "RUNS/GIB"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(usages.iter().map(row));
    bytes::table(&rows)
}

impl Du {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        if let Some(artifact) = &self.artifact {
            let artifact = global.open(artifact, output).await?;
            let usage = artifact_usage(artifact.store(), artifact.id()).await?;
            return output.result(json!(usage), || table(std::slice::from_ref(&usage)));
        }
        let usage = store_usage(&global.existing_store().await?).await?;
        let object = json!(usage);
        output.result(object, || {
            let heading = ["OBJECTS", "COUNT", "SIZE", "GARBAGE", "SIZE"];
            let mut rows = vec![heading.map(str::to_owned).to_vec()];
            for kind in &usage.kinds {
                rows.push(vec![
                    kind.kind.clone(),
                    kind.objects.to_string(),
                    bytes::size(kind.bytes),
                    kind.garbage_objects.to_string(),
                    bytes::size(kind.garbage_bytes),
                ]);
            }
            format!(
                "{}\n{}\nunused in packs that are needed: {}\n",
                table(&usage.artifacts),
                bytes::table(&rows),
                bytes::size(usage.unused_pack_bytes)
            )
        })
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct DiffCommand {
    /// The first artifact
    #[arg(value_name = "A", value_parser = artifact)]
    first: ArtifactSpec,
    /// The second artifact
    #[arg(value_name = "B", value_parser = artifact)]
    second: ArtifactSpec,
}

impl DiffCommand {
    pub(super) async fn run(self, global: &Global, output: &Output) -> Result<(), Failure> {
        let first = global.open(&self.first, output).await?.graph().await?;
        let second = global.open(&self.second, output).await?.graph().await?;
        let found = diff(&first, &second);
        let mut object = json!(found);
        if let Some(object) = object.as_object_mut() {
            object.insert("first".to_owned(), json!(first.id));
            object.insert("second".to_owned(), json!(second.id));
            object.insert("same".to_owned(), json!(first.id == second.id));
        }
        output.result(object, || {
            let mut text = String::new();
            for (what, changes) in [("file", &found.files), ("tensor", &found.tensors)] {
                for (name, change) in changes {
                    let sign = match change {
                        Change::Added => '+',
                        Change::Removed => '-',
                        Change::Changed => '~',
                    };
                    text += &format!("{sign} {what} {name}\n");
                }
            }
            for (of, against, bytes) in [
                ("second", "first", found.second_against_first_bytes),
                ("first", "second", found.first_against_second_bytes),
            ] {
                if bytes > 0 {
                    let size = bytes::size(bytes);
                    text +=
                        &format!("{size} only in the {of} are stored against the {against}'s\n");
                }
            }
            text + &format!(
                "same: {} files, {} tensors\nchunks: {} in both, {} only in the first, {} only in \
                 the second\n",
                found.same_files,
                found.same_tensors,
                bytes::size(found.shared_bytes),
                bytes::size(found.only_first_bytes),
                bytes::size(found.only_second_bytes)
            )
        })
    }
}
