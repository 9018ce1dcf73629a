//! Other tools: run in the user's own Python, their progress followed, their output packed. What they
//! compute is theirs; the record names tool and version.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::layers::{Kind, Skip, kind};
use super::recipe::{ActOrder, Format, Method, Recipe};
use super::{ProduceError, RecipeError, products};
use crate::format::id::ManifestId;
use crate::format::name::{ArtifactName, Tag};
use crate::pack::{Lineage, PackOptions, PackReport, Progress, pack};
use crate::quantize::source::{ModelSource, Tensor};
use crate::store::Store;

/// The most of a tool's messages that an error repeats, in bytes.
const TAIL: usize = 2000;
const COMMON: &str = include_str!("backends/common.py");

/// A tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// GPTQModel.
    GptqModel,
    /// llm-compressor.
    LlmCompressor,
    /// bitsandbytes, through transformers.
    Bitsandbytes,
    /// AutoAWQ.
    AutoAwq,
}

impl Backend {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::GptqModel, Self::LlmCompressor, Self::Bitsandbytes, Self::AutoAwq];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::GptqModel => "gptqmodel",
            Self::LlmCompressor => "llm-compressor",
            Self::Bitsandbytes => "bitsandbytes",
            Self::AutoAwq => "autoawq",
        }
    }

    const fn driver(self) -> &'static str {
        match self {
            Self::GptqModel => include_str!("backends/gptqmodel.py"),
            Self::LlmCompressor => include_str!("backends/llm_compressor.py"),
            Self::Bitsandbytes => include_str!("backends/bitsandbytes.py"),
            Self::AutoAwq => include_str!("backends/autoawq.py"),
        }
    }

    /// The methods that it has.
    const fn methods(self) -> &'static [Method] {
        match self {
            Self::GptqModel => &[Method::Gptq],
            Self::LlmCompressor => &[Method::Gptq, Method::Awq, Method::Rtn, Method::Fp8],
            Self::Bitsandbytes => &[Method::Nf4, Method::Int8],
            Self::AutoAwq => &[Method::Awq],
        }
    }

    /// The recipe as this tool stores it: llm-compressor has one format alone.
    ///
    /// # Errors
    /// If the tool does not do the method.
    pub fn recipe(self, mut recipe: Recipe) -> Result<Recipe, ProduceError> {
        if !self.methods().contains(&recipe.method) {
            let (tool, method, does) = (self.name(), recipe.method, self.methods());
            return Err(RecipeError::Backend { tool, method, does }.into());
        }
        if self == Self::LlmCompressor {
            recipe.format = Format::CompressedTensors;
        }
        if self == Self::GptqModel && recipe.format != Format::Gptq {
            return Err(RecipeError::GptqModel.into());
        }
        recipe.check()?;
        Ok(recipe)
    }
}

/// A run of a tool.
#[derive(Debug)]
pub struct External<'a> {
    /// Which.
    pub backend: Backend,
    /// The recipe, as [`Backend::recipe`] gives it.
    pub recipe: Recipe,
    /// The Python that has the tool.
    pub python: PathBuf,
    /// The model's folder.
    pub source: &'a Path,
    /// The artifact that lies there, if it is one.
    pub artifact: Option<ManifestId>,
    /// Patterns of layers that stay as they are, as a shell has them.
    pub skip: &'a [String],
    /// The text to calibrate with.
    pub calibration: Option<PathBuf>,
    /// Samples of it, and tokens of each.
    pub samples: (u32, u32),
    /// An empty folder for what it writes.
    pub work: &'a Path,
}

impl External<'_> {
    /// Runs the tool and packs what it wrote as `name:tag`.
    ///
    /// # Errors
    /// If the tool fails, or what it wrote cannot be packed.
    pub fn run(
        &self,
        store: &Store,
        named: (&ArtifactName, &Tag),
        mut options: PackOptions,
        runtime: &Handle,
        progress: &dyn Progress,
    ) -> Result<(PackReport, Map<String, Value>), ProduceError> {
        if self.recipe.method.is_calibrated() && self.calibration.is_none() {
            return Err(ProduceError::NoText(self.recipe.method.name()));
        }
        let out = self.work.join("out");
        let (tool, version) = self.produce(&out, &self.kept()?, progress)?;
        let object = json!({
            "act_order": self.recipe.has_index(),
            "backend": self.backend.name(),
            "bits": self.recipe.bits,
            "double_quant": self.recipe.double_quant,
            "format": self.recipe.format,
            "group_size": self.recipe.group_size.map_or(-1, i64::from),
            "method": self.recipe.method,
            "recipe": products::recipe_digest(&self.recipe)?,
            "skip": self.skip,
            "symmetric": self.recipe.symmetric,
            "tool": tool,
            "tool_version": version,
        });
        let mut quantization = products::object(object)?;
        if let Some(order) = self.recipe.act_order.and_then(ActOrder::recorded) {
            quantization.insert("column_order".to_owned(), order.into());
        }
        options.lineage = Lineage {
            quantization: Some(quantization.clone()),
            source: self.artifact.map(|id| Map::from_iter([("manifest".to_owned(), json!(id))])),
            ..Lineage::default()
        };
        let packed = pack(&out, store, named, options, runtime, progress)?;
        Ok((packed, quantization))
    }

    /// The layers that `skip` names; an error if it names none, as the tool would quantize all.
    fn kept(&self) -> Result<Vec<String>, ProduceError> {
        let skip = Skip::new(self.skip)?;
        if self.skip.is_empty() {
            return Ok(Vec::new());
        }
        let folder = ModelSource::folder(self.source)?;
        let none = Skip::new(&[])?;
        let linear = |tensor: &Tensor, skip: &Skip| {
            matches!(kind(&tensor.name, tensor.dtype, &tensor.shape, skip), Kind::Linear(_))
        };
        let kept = folder.tensors().iter().filter(|one| linear(one, &none) && !linear(one, &skip));
        let kept: Vec<String> = kept
            .map(|one| one.name.strip_suffix(".weight").unwrap_or(&one.name).to_owned())
            .collect();
        if kept.is_empty() {
            let (patterns, model) = (self.skip.join(", "), self.source.to_owned());
            return Err(ProduceError::NoneSkipped { patterns, model });
        }
        Ok(kept)
    }

    /// Runs the tool; gives its name and its version.
    fn produce(
        &self,
        out: &Path,
        kept: &[String],
        progress: &dyn Progress,
    ) -> Result<(String, String), ProduceError> {
        let name = self.backend.name();
        let failed = |why: String| ProduceError::Tool { tool: name, why };
        let (driver, spec) = (self.work.join("driver.py"), self.work.join("spec.json"));
        let wanted = json!({
            "source": self.source, "out": out, "recipe": self.recipe, "calibration": self.calibration,
            "keep": kept, "samples": self.samples.0, "length": self.samples.1,
        });
        let text = format!("{COMMON}\n\n{}", self.backend.driver());
        fs::write(&driver, text)
            .and_then(|()| fs::write(&spec, wanted.to_string()))
            .and_then(|()| fs::create_dir(out))
            .map_err(|error| failed(format!("{}: {error}", self.work.display())))?;
        let mut command = Command::new(&self.python);
        command.arg("-u").arg(&driver).arg(&spec).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let python = self.python.display();
        let mut child = command.spawn().map_err(|source| ProduceError::NoPython {
            tool: name,
            python: python.to_string(),
            source,
        })?;
        // Read beside each other, so that neither pipe fills while the other is waited for.
        let errors = child.stderr.take().map(|stderr| std::thread::spawn(move || tail(stderr)));
        let mut made = None;
        progress.begin(100);
        let mut shown = 0;
        let lines = child.stdout.take().map(BufReader::new).into_iter().flat_map(BufRead::lines);
        for line in lines.map_while(Result::ok) {
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let text = |key: &str| event.get(key).and_then(Value::as_str).map(str::to_owned);
            if let Some(part) = event.get("progress").and_then(Value::as_f64) {
                let now = (part.clamp(0.0, 1.0) * 100.0) as u64;
                progress.advance(now.saturating_sub(shown));
                shown = shown.max(now);
            }
            made = text("tool").zip(text("version")).or(made);
        }
        let status = child.wait().map_err(|error| failed(error.to_string()))?;
        let said = errors.and_then(|errors| errors.join().ok()).unwrap_or_default();
        match made.filter(|_| status.success()) {
            Some(made) => Ok(made),
            None => Err(failed(format!(
                "it ended with {status} in {python}, and said last:\n{}",
                said.trim_end()
            ))),
        }
    }
}

/// The end of what a tool said.
fn tail(mut from: impl Read) -> String {
    let mut kept = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        kept.extend_from_slice(buffer.get(..len).unwrap_or_default());
        let extra = kept.len().saturating_sub(TAIL);
        kept.drain(..extra);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
