//! `tenpak pack`.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::publishing::{Publishing, packed};
use super::{Global, artifact, bytes};
use crate::chunk::codec::CodecChoice;
use crate::format::name::ArtifactSpec;
use crate::pack::model::Opaque;
use crate::pack::{PackError, PackOptions, pack};
use crate::trust::Method;

#[derive(Debug, clap::Args)]
pub(super) struct Pack {
    /// The model: a directory (a Hub cache snapshot works as it is) or a file
    path: PathBuf,
    /// The name of the artifact; the tag is `latest` if left out
    #[arg(long, value_name = "NAME[:TAG]", value_parser = artifact)]
    name: ArtifactSpec,
    /// The codec of chunks
    #[arg(long, default_value = "auto", value_parser = codec)]
    codec: CodecChoice,
    #[command(flatten)]
    publishing: Publishing,
    /// Pack against this artifact: link what is the same, store the rest of a tensor of the same name,
    /// type and shape as its difference, where that is smaller
    #[arg(long, value_name = "ARTIFACT", value_parser = artifact)]
    base: Option<ArtifactSpec>,
    /// The model's own id, kept in the manifest
    #[arg(long, value_name = "ID")]
    model_id: Option<String>,
    /// Leave out the files' SHA-256, which registries and Hub clients use
    #[arg(long)]
    no_sha256: bool,
    /// Pack the files that this pattern is for as bytes, even where they claim to be safetensors or GGUF
    /// (repeatable); without a slash it is for names in any folder
    #[arg(long, value_name = "GLOB")]
    opaque: Vec<String>,
    /// Pack files that are no whole model: shards are missing, or a pointer of Git LFS stands for a file;
    /// the manifest says so
    #[arg(long)]
    allow_incomplete: bool,
    /// Name what is left out: .git, .cache and folders without files
    #[arg(long, short)]
    verbose: bool,
}

fn codec(text: &str) -> Result<CodecChoice, String> {
    let names = CodecChoice::ALL.map(|(_, name)| name).join(", ");
    CodecChoice::ALL
        .iter()
        .find(|(_, name)| *name == text)
        .map(|(choice, _)| *choice)
        .ok_or_else(|| format!("no such codec; there are {names}"))
}

impl Pack {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let ArtifactSpec::Named { name, tag } = &self.name else {
            return Err(Failure::usage("--name takes a name, not an id"));
        };
        let store = global.store()?;
        let options = self.publishing.options(global)?;
        let signers = &options.signers;
        if !signers.is_empty() && signers.iter().all(|s| s.method() != Method::Ed25519) {
            output.note("no Ed25519 key signs, so the name stays unsigned; only the manifest is");
        }
        let base = match &self.base {
            Some(base) => {
                let store = runtime.block_on(global.existing_store())?;
                Some(runtime.block_on(store.resolve(base))?.manifest)
            }
            None => None,
        };
        let options = PackOptions {
            codec: self.codec,
            sha256: !self.no_sha256,
            model_id: self.model_id,
            base,
            opaque: Opaque::new(&self.opaque).map_err(PackError::from)?,
            allow_incomplete: self.allow_incomplete,
            ..options
        };
        let start = Instant::now();
        let bar = Bar::new(output, "packing");
        let report = pack(&self.path, &store, (name, tag), options, runtime, &bar)?;
        drop(bar);
        output.made(&store);
        for fault in &report.faults {
            output.note(fault);
        }
        for path in report.left_out.iter().filter(|_| self.verbose) {
            output.note(format_args!("{path} is left out"));
        }
        let seconds = start.elapsed().as_secs_f64();
        let totals = report.totals;
        let more = json!({
            "chunks": totals.chunks, "linked": report.linked, "base": base, "deltas": report.deltas,
            "left_out": report.left_out.len(), "faults": report.faults.len(),
        });
        let object = packed(&report, (name, tag), seconds, more);
        output.result(object, || {
            let against = base.zip(self.base.as_ref()).map_or_else(String::new, |(id, base)| {
                let digits = &id.to_hex()[..16];
                format!("{} chunks stored against {base} (@{digits})\n", report.deltas)
            });
            let left_out = match report.left_out.len() {
                0 => String::new(),
                count if self.verbose => format!("{count} left out\n"),
                count => format!("{count} left out (-v names them)\n"),
            };
            let faults = match report.faults.len() {
                0 => String::new(),
                count => format!("no whole model: {count} faults\n"),
            };
            format!(
                "{name}:{tag}  @{}\n{} files, {} tensors, {} chunks\n{left_out}{faults}{against}\
                 {} raw, {} stored, {} new, in {seconds:.2} s ({})",
                report.manifest,
                totals.files,
                totals.tensors,
                totals.chunks,
                bytes::size(totals.raw_bytes),
                bytes::size(totals.stored_bytes),
                bytes::size(report.new_bytes),
                bytes::rate(totals.raw_bytes, seconds),
            )
        })
    }
}
