//! `tenpak quantize --backend`: another tool in the user's own Python.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::publishing;
use super::{Global, artifact, bytes};
use crate::format::name::{ArtifactName, Tag};
use crate::pack::PackOptions;
use crate::pack::unpack::{UnpackOptions, unpack};
use crate::quantize::lm::Text;
use crate::quantize::produce::Recipe;
use crate::quantize::produce::external::{Backend, External};

#[derive(Debug, clap::Args)]
pub(super) struct ExternalArgs {
    /// Run this tool instead of the built-in one: gptqmodel, llm-compressor, bitsandbytes or autoawq
    #[arg(long, value_name = "TOOL", value_parser = backend)]
    pub(super) backend: Option<Backend>,
    /// The Python interpreter that has the tool
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// The text to calibrate with: a file in UTF-8
    #[arg(long, value_name = "FILE")]
    pub(super) calibration: Option<PathBuf>,
    /// Samples drawn from the text
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(super) samples: u32,
    /// Tokens per sample
    #[arg(long, value_name = "N", default_value_t = 512)]
    pub(super) sample_length: u32,
    /// The folder for the tool's output until it is packed [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

fn backend(text: &str) -> Result<Backend, String> {
    Backend::ALL.iter().find(|backend| backend.name() == text).copied().ok_or_else(|| {
        let names: Vec<&str> = Backend::ALL.iter().map(|backend| backend.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

/// A folder that goes when it is no longer needed.
struct Scratch(PathBuf);

impl Scratch {
    fn new(below: Option<&Path>) -> Result<Self, Failure> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(Failure::failed)?;
        let name = format!("tenpak-{}", crate::format::id::to_hex(&random));
        let path = below.map_or_else(std::env::temp_dir, Path::to_path_buf).join(name);
        std::fs::create_dir_all(&path)
            .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What stays has a name that tells whose it is.
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl ExternalArgs {
    pub(super) fn run(
        &self,
        backend: Backend,
        (global, runtime, output): (&Global, &Handle, &Output),
        (source, recipe, skip): (&str, Recipe, &[String]),
        (name, tag): (&ArtifactName, &Tag),
        mut options: PackOptions,
    ) -> Result<(), Failure> {
        let recipe = backend.recipe(recipe)?;
        if let Some(text) = &self.calibration {
            Text::read(text).map_err(Failure::failed)?;
        }
        let store = global.store()?;
        let scratch = Scratch::new(self.work.as_deref())?;
        let start = Instant::now();
        let (folder, manifest) = if Path::new(source).is_dir() {
            let whole = std::fs::canonicalize(source);
            (whole.map_err(|error| Failure::failed(format!("{source}: {error}")))?, None)
        } else {
            let spec = artifact(source).map_err(Failure::usage)?;
            let artifact = runtime.block_on(global.open(&spec, output))?;
            let whole = runtime.block_on(artifact.graph())?;
            let folder = scratch.0.join("model");
            unpack(&whole, artifact.store(), &folder, UnpackOptions::default(), runtime, &|_| {})?;
            // Tensors that the tool does not change are linked, if the artifact is in this store at all.
            options.base = runtime.block_on(store.has_graph(whole.id)).then_some(whole.id);
            options.model_id = whole.manifest.model_id.clone();
            (folder, Some(whole.id))
        };
        let external = External {
            backend,
            recipe: recipe.clone(),
            python: self.python.clone(),
            source: &folder,
            artifact: manifest,
            skip,
            calibration: self.calibration.clone(),
            samples: (self.samples, self.sample_length),
            work: &scratch.0,
        };
        let bar = Bar::new(output, "quantizing");
        let (packed, quantization) = external.run(&store, (name, tag), options, runtime, &bar)?;
        drop(bar);
        output.made(&store);
        let (seconds, totals) = (start.elapsed().as_secs_f64(), packed.totals);
        let more = json!({
            "quantization": quantization, "layout": recipe.layout(), "engines": recipe.trials(),
        });
        let object = publishing::packed(&packed, (name, tag), seconds, more);
        output.result(object, || {
            let said = |key: &str| quantization.get(key).and_then(|v| v.as_str()).unwrap_or("");
            format!(
                "{name}:{tag}  @{}\nquantized by {} {}\n{} raw, {} stored, {} new, in {seconds:.2} s\n{}",
                packed.manifest,
                said("tool"),
                said("tool_version"),
                bytes::size(totals.raw_bytes),
                bytes::size(totals.stored_bytes),
                bytes::size(packed.new_bytes),
                recipe.loads_in_words(),
            )
        })
    }
}
