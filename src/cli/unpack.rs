//! `tenpak unpack`.

use std::path::PathBuf;
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::{Global, artifact, bytes};
use crate::format::name::ArtifactSpec;
use crate::pack::unpack::{UnpackOptions, unpack};

#[derive(Debug, clap::Args)]
pub(super) struct Unpack {
    /// The artifact to unpack
    #[arg(value_parser = artifact)]
    artifact: ArtifactSpec,
    /// The folder to write to; made if it is missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Write into a folder that holds other things: files with names of the artifact's are replaced, and
    /// everything else stays
    #[arg(long)]
    force: bool,
}

impl Unpack {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        let artifact = runtime.block_on(global.open(&self.artifact, output))?;
        let whole = runtime.block_on(artifact.graph())?;
        let bar = Bar::new(output, "unpacking");
        bar.begin(whole.manifest.totals.raw_bytes);
        let options = UnpackOptions { force: self.force };
        let advance = |bytes| bar.advance(bytes);
        let done = unpack(&whole, artifact.store(), &self.out, options, runtime, &advance)?;
        drop(bar);
        let stats = done.stats;
        let (seconds, totals) = (start.elapsed().as_secs_f64(), whole.manifest.totals);
        let object = json!({
            "manifest": whole.id,
            "files": totals.files,
            "tensors": totals.tensors,
            "raw_bytes": totals.raw_bytes,
            "fetched_bytes": stats.fetched_bytes,
            "requests": stats.requests,
            "retries": stats.retries,
            "kept_files": done.kept_files,
            "kept_bytes": done.kept_bytes,
            "seconds": seconds,
        });
        output.result(object, || {
            let kept = match done.kept_bytes {
                0 => String::new(),
                kept => format!("\n{} was there and right", bytes::size(kept)),
            };
            format!(
                "{} files, {} in {}, in {seconds:.2} s ({}){kept}",
                totals.files,
                bytes::size(totals.raw_bytes),
                self.out.display(),
                bytes::rate(totals.raw_bytes, seconds),
            )
        })
    }
}
