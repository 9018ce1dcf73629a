//! `tenpak quantize`.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::error::Failure;
use super::output::Output;
use super::progress::Bar;
use super::publishing::{Publishing, packed};
use super::quantize_external::ExternalArgs;
use super::{Global, artifact, bytes};
use crate::dequant::Float;
use crate::format::id::ManifestId;
use crate::format::name::ArtifactSpec;
use crate::quantize::calibrate::{BUILT_IN, CalibrationSamples, Layer};
use crate::quantize::lm::{Model, Text};
use crate::quantize::produce::engines::{Engine, Fit, in_words};
use crate::quantize::produce::{
    ActOrder, Bits, Calibrating, Events, Format, Hqq, Keeping, Method, Obtained, PRESETS, Preset,
    QuantizeOptions, Recipe, RoundToNearest, Solved, Solver, allocate_bits, check_source,
    layers_apart, quantize, statistics,
};
use crate::quantize::source::ModelSource;
use crate::schedule::shard::Shard;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct Quantize {
    /// The model: a folder, or an artifact of the store
    #[arg(value_name = "SRC", required_unless_present = "list_presets")]
    source: Option<String>,
    /// The name of the result; the tag is `latest` if left out
    #[arg(long, value_name = "NAME[:TAG]", value_parser = artifact, required_unless_present = "list_presets")]
    name: Option<ArtifactSpec>,
    /// A recipe by its name (see --list-presets)
    #[arg(long, value_name = "P", conflicts_with = "method")]
    preset: Option<String>,
    /// The method: nf4, int8, fp8, rtn (round to nearest), q4_0, q5_0, q5_1, q8_0, q2_k to q6_k, iq4_nl, iq4_xs, mxfp4, nvfp4, gptq, awq or hqq
    #[arg(long, value_name = "M")]
    method: Option<Method>,
    /// Bits per weight
    #[arg(long, value_name = "B")]
    bits: Option<u32>,
    /// Bits per weight on average, scales not counted: a run of the model over the calibration text decides how many
    /// each layer gets; layers that engines fuse get the same
    #[arg(long, value_name = "B", conflicts_with = "bits", value_parser = hundredths)]
    average_bits: Option<u32>,
    /// Keep the statistics of the calibration run as this artifact, and reuse them the next time
    #[arg(long, value_name = "NAME[:TAG]", value_parser = artifact)]
    statistics: Option<ArtifactSpec>,
    /// Weights per scale; -1 for the whole row
    #[arg(long, value_name = "G", allow_negative_numbers = true)]
    group_size: Option<i64>,
    /// The layout: bitsandbytes, gptq, gptq_v2, awq, compressed-tensors or gguf [default: the method's own]
    #[arg(long, value_name = "F")]
    format: Option<Format>,
    /// Quantize symmetrically: no zero points
    #[arg(long, conflicts_with = "asymmetric")]
    symmetric: bool,
    /// Quantize asymmetrically: a zero point per scale
    #[arg(long)]
    asymmetric: bool,
    /// nf4: quantize the scales, too
    #[arg(long)]
    double_quant: bool,
    /// gptq: the order in which columns are rounded. static: by falling activation, scales of neighbouring columns found
    /// first; group: groups are made in that order (desc_act); none: as they are stored [default: static]
    #[arg(long, value_name = "O")]
    act_order: Option<ActOrder>,
    /// Leave layers unquantized whose names match (repeatable)
    #[arg(long, value_name = "GLOB")]
    skip: Vec<String>,
    #[command(flatten)]
    publishing: Publishing,
    /// The seed for drawing samples of the calibration text
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The engine that the result is for: vllm, sglang, transformers or llama.cpp. What it is known not to load is refused
    /// before any work
    #[arg(long = "for", value_name = "ENGINE")]
    engine: Option<Engine>,
    /// Make only this share of the weights (I/N, counted from 0), as an artifact without a name, for --join
    #[arg(long, value_name = "I/N", hide = true)]
    share: Option<Shard>,
    /// Take weights from this artifact, which a run with --share made (repeatable)
    #[arg(long, value_name = "MANIFEST", hide = true)]
    join: Vec<ManifestId>,
    /// Show the presets
    #[arg(long)]
    list_presets: bool,
    #[command(flatten)]
    external: ExternalArgs,
}

/// Of a model of several media, the layers that are not about text: calibration does not reach them, and engines
/// have none of them quantized.
fn beside_text(checkpoint: &Arc<ModelSource>) -> Vec<String> {
    let has = |key: &str| checkpoint.config().is_ok_and(|config| config.get(key).is_some());
    if !["vision_config", "audio_config"].iter().any(|key| has(key)) {
        return Vec::new();
    }
    let Ok(model) = Model::open(checkpoint.clone()) else { return Vec::new() };
    let blocks = model.blocks();
    let matrices = checkpoint.tensors().iter().filter(|tensor| tensor.shape.dims().len() == 2);
    let is_in_block =
        |name: &str| name.split('.').any(|part| part.bytes().all(|digit| digit.is_ascii_digit()));
    let others =
        matrices.filter(|tensor| !tensor.name.starts_with(&blocks) && is_in_block(&tensor.name));
    others.filter_map(|tensor| tensor.name.strip_suffix(".weight")).map(str::to_owned).collect()
}

impl Quantize {
    pub(super) fn run(
        mut self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        if self.list_presets {
            return list(output);
        }
        let Some(ArtifactSpec::Named { name, tag }) = &self.name else {
            return Err(Failure::usage("--name takes a name, not an id"));
        };
        let recipe = self.recipe()?;
        let Some(source) = &self.source else {
            return Err(Failure::usage("no model: name a folder or an artifact"));
        };
        if self.external.backend.is_none() {
            recipe.check().map_err(Failure::usage)?;
        }
        self.suits(&recipe, output)?;
        let pack = self.publishing.options(global)?;
        if let Some(backend) = self.external.backend {
            let run = (global, runtime, output);
            return self.external.run(
                backend,
                run,
                (source, recipe, &self.skip),
                (name, tag),
                pack,
            );
        }
        let store = global.store()?;
        let checkpoint = Arc::new(global.model(source, runtime, output)?);
        // What is quantized is read as the floats that it stands for, in the model's own type.
        let float = checkpoint.named_float();
        let checkpoint = checkpoint.plain(Some(float))?;
        let beside = beside_text(&checkpoint);
        if !beside.is_empty() {
            output.note(format_args!(
                "{} layers that are not about text stay as they are",
                beside.len()
            ));
        }
        self.skip.extend(beside);
        let checkpoint = layers_apart(checkpoint, recipe.format, &self.skip)?;
        check_source(&checkpoint)?;
        let measures = self.average_bits.is_some() || self.statistics.is_some();
        let prepared = match recipe.method.is_calibrated() || measures {
            true => Some(self.prepare(&checkpoint)?),
            false => None,
        };
        let (mut bits, mut told) = (Bits::new(), None);
        if let Some(prepared) = prepared.as_ref().filter(|_| measures) {
            let (found, about) =
                self.measure(&checkpoint, prepared, &recipe, (global, &store, runtime))?;
            (bits, told) = (found, Some(about));
        }
        let mut calibrating = prepared
            .filter(|_| recipe.method.is_calibrated())
            .map(|own| Calibrating::new(own.model, own.samples, &recipe, own.float, bits.clone()));
        let (mut nearest, mut hqq) = (RoundToNearest, Hqq);
        let solver: &mut dyn Solver = match &mut calibrating {
            Some(calibrating) => calibrating,
            None if recipe.method == Method::Hqq => &mut hqq,
            None => &mut nearest,
        };
        let skip = self.skip.clone();
        let mut options = QuantizeOptions::new(recipe.clone(), pack);
        (options.skip, options.bits) = (skip, bits.clone());
        (options.share, options.shares) = (self.share, self.join.clone());
        let start = Instant::now();
        let bar = Bar::new(output, "quantizing");
        let done = quantize(&checkpoint, &store, (name, tag), options, solver, runtime, &bar)?;
        drop(bar);
        output.made(&store);
        let seconds = start.elapsed().as_secs_f64();
        let totals = done.packed.totals;
        let solved = calibrating.as_ref().map_or(&[][..], Calibrating::solved);
        let calibrated: Vec<_> = solved
            .iter()
            .map(|own| {
                json!({
                    "layer": own.layer, "error": own.error, "damping": own.damping, "raised": own.raised,
                    "tokens": own.tokens,
                })
            })
            .collect();
        let more = json!({
            "quantization": done.quantization,
            "tensors_computed": done.computed,
            "tensors_linked": done.linked,
            "calibrated": calibrated,
            "average_bits": done.average_bits,
            "bits": bits,
            "statistics": told,
            "kept": done.kept,
            "left_out": done.left_out,
            "fell_back": done.fell_back,
            "layout": recipe.layout(),
            "engines": recipe.trials(),
        });
        let object = packed(&done.packed, (name, tag), seconds, more);
        for own in solved.iter().filter(|own| own.raised > 0) {
            output.note(format_args!(
                "{}: the Hessian had no factor; its damping was raised {} times, to {}",
                own.layer, own.raised, own.damping
            ));
        }
        let few = |own: &&Solved| own.tokens.is_some_and(|tokens| tokens < Layer::LEAST);
        for own in solved.iter().filter(few) {
            output.note(format_args!(
                "{}: {} calibration tokens went to this expert, too few; it was rounded to the nearest",
                own.layer,
                own.tokens.unwrap_or(0)
            ));
        }
        for (kind, count) in &done.fell_back {
            output.note(format_args!(
                "{count} weights are {kind}: their rows are no whole blocks of the type that they would have"
            ));
        }
        for path in &done.left_out {
            output.note(format_args!("{path} holds weights in another format, and was left out"));
        }
        output.result(object, || {
            format!(
                "{name}:{tag}  @{}\n{} weights quantized ({}, {}), {} of them produced before\n\
                 {} raw, {} stored, {} new, in {seconds:.2} s\n{}",
                done.packed.manifest,
                done.computed + done.linked,
                recipe.method.name(),
                recipe.format.name(),
                done.linked,
                bytes::size(totals.raw_bytes),
                bytes::size(totals.stored_bytes),
                bytes::size(done.packed.new_bytes),
                recipe.loads_in_words(),
            )
        })
    }

    /// Refuses a recipe whose result the engine that it is for does not load.
    fn suits(&self, recipe: &Recipe, output: &Output) -> Result<(), Failure> {
        let Some(engine) = self.engine else { return Ok(()) };
        // As the tool stores it.
        let stored = match self.external.backend {
            Some(backend) => &backend.recipe(recipe.clone())?,
            None => recipe,
        };
        let (title, layout) = (engine.title(), stored.layout());
        match stored.check_engine(engine).map_err(Failure::usage)? {
            Fit::Loads => {}
            Fit::NoKernel(trial) => output.note(format_args!(
                "{title} {} has no kernel for {layout} on processors, and nobody tried it on a GPU",
                trial.version
            )),
            Fit::Untried => {
                output.note(format_args!("nobody tried whether {title} loads {layout}"));
            }
        }
        Ok(())
    }

    /// The model, and what it is fed with: the text, or the built-in one.
    fn prepare(&self, source: &Arc<ModelSource>) -> Result<Prepared, Failure> {
        let wide = source.tensors().iter().find(|tensor| tensor.shape.dims().len() == 2);
        let float = wide.and_then(|tensor| Float::of_dtype(tensor.dtype)).unwrap_or(Float::BF16);
        let model = Model::open(source.clone()).map_err(Failure::failed)?;
        let text = match &self.external.calibration {
            Some(path) => Text::read(path).map_err(Failure::failed)?,
            None => BUILT_IN.to_owned(),
        };
        let tokenizer = model.tokenizer().map_err(Failure::failed)?;
        let size = (self.external.samples as usize, self.external.sample_length as usize);
        let samples = CalibrationSamples::new(&text, &tokenizer, model.config(), size, self.seed)
            .map_err(Failure::failed)?;
        Ok(Prepared { model, samples, float })
    }

    /// Statistics of the model, and the bits that they lead to; with what the result says of them.
    fn measure(
        &self,
        checkpoint: &ModelSource,
        Prepared { model, samples, float }: &Prepared,
        recipe: &Recipe,
        (global, store, runtime): (&Global, &Store, &Handle),
    ) -> Result<(Bits, Value), Failure> {
        let keeping = match &self.statistics {
            None => None,
            Some(ArtifactSpec::Named { name, tag }) => Some(Keeping {
                store,
                name: (name, tag),
                open: global.open_options()?,
                pack: self.publishing.options(global)?,
            }),
            Some(_) => return Err(Failure::usage("--statistics takes a name, not an id")),
        };
        let obtained = statistics(checkpoint, model, samples, keeping, runtime)?;
        let bits = allocate_bits(model, &obtained.statistics, recipe, *float, &self.skip)?;
        let Obtained { manifest, reused, .. } = obtained;
        Ok((bits, json!({ "manifest": manifest, "reused": reused })))
    }

    fn recipe(&self) -> Result<Recipe, Failure> {
        let mut recipe = match (&self.preset, self.method) {
            (Some(name), _) => match Preset::named(name) {
                Some(preset) => preset.recipe(),
                None => {
                    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
                    let names = names.join(", ");
                    return Err(Failure::usage(format!("no preset {name}; there are {names}")));
                }
            },
            (None, Some(method)) => method.recipe(),
            (None, None) => return Err(Failure::usage("give --preset or --method")),
        };
        if let Some(format) = self.format {
            recipe.format = format;
            if format == Format::Awq && !self.symmetric {
                recipe.symmetric = false;
            }
        }
        recipe.bits = self.bits.unwrap_or(recipe.bits);
        recipe.group_size =
            match self.group_size {
                None => recipe.group_size,
                Some(-1) => None,
                Some(group) => Some(u32::try_from(group).map_err(|_| {
                    Failure::usage(format!("--group-size {group}: give -1 or more"))
                })?),
            };
        recipe.symmetric = (recipe.symmetric || self.symmetric) && !self.asymmetric;
        recipe.double_quant |= self.double_quant;
        recipe.act_order = self.act_order.or(recipe.act_order);
        if let Some(average) = self.average_bits {
            recipe.average_bits = Some(average);
            let most = recipe.numbers_of_bits().iter().rev().find(|bits| **bits * 100 <= average);
            recipe.bits = most.copied().unwrap_or(recipe.bits);
        }
        Ok(recipe)
    }
}

/// A model that can be run, and what it is fed with.
struct Prepared {
    model: Model,
    samples: CalibrationSamples,
    /// The type of its weights.
    float: Float,
}

/// A number of bits, in hundredths.
fn hundredths(text: &str) -> Result<u32, String> {
    let bits: f64 = text.parse().map_err(|_| "give a number, such as 4.5".to_owned())?;
    let (hundredths, most) = ((bits * 100.0).round(), 800.0);
    // The check also refuses what is no number.
    match (0.0..=most).contains(&hundredths) {
        true => Ok(hundredths as u32),
        false => Err("give 2 to 8".to_owned()),
    }
}

impl Events for Bar {}

fn list(output: &Output) -> Result<(), Failure> {
    let rows: Vec<_> = PRESETS
        .iter()
        .map(|preset| {
            let recipe = preset.recipe();
            let calibrated = recipe.method.is_calibrated();
            json!({
                "preset": preset.name,
                "method": recipe.method,
                "format": recipe.format,
                "bits": recipe.bits,
                "group_size": recipe.group_size.map_or(-1, i64::from),
                "size_ratio": (recipe.size_ratio() * 100.0).round() / 100.0,
                "calibration": calibrated,
                "engines": recipe.trials(),

            })
        })
        .collect();
    output.result(json!({ "presets": rows }), || {
        let mut text = format!(
            "{:<16} {:<6} {:<13} {:>4} {:>5} {:>6}  {:<12} {}\n",
            "preset", "method", "format", "bits", "group", "ratio", "calibration", "engines"
        );
        for preset in PRESETS {
            let recipe = preset.recipe();
            let group = recipe.group_size.map_or("row".to_owned(), |group| group.to_string());
            text += &format!(
                "{:<16} {:<6} {:<13} {:>4} {:>5} {:>5.2}x  {:<12} {}\n",
                preset.name,
                recipe.method.name(),
                recipe.format.name(),
                recipe.bits,
                group,
                recipe.size_ratio(),
                if recipe.method.is_calibrated() { "yes" } else { "no" },
                in_words(&recipe.trials()),
            );
        }
        text
    })
}
