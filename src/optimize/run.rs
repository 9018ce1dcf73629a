//! The stages, cheap before dear: what is known without work, what is modelled, what must be produced, read and
//! measured; then the choice.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::candidate::Candidate;
use super::choice::{Entry, choose, front, nearest};
use super::constraints::{Figures, Objective, OptimizationConstraints};
use super::error::OptimizeError;
use super::evidence::Evidence;
use super::figure::Figure;
use super::fits::Runner;
use super::hardware::Hardware;
use super::measure::measure_host;
use super::outcome::{Outcome, Row, Setting, Winner};
use super::prices::{Price, Prices};
use super::section::section;
use super::shape::ModelShape;
use super::study::{Exam, PREFIX, Packing, Workshop};
use super::workload::Workload;
use crate::dequant::Float;
use crate::format::name::{ArtifactName, Tag};
use crate::maintain::annotate;
use crate::quantize::calibrate::{BUILT_IN, CalibrationSamples};
use crate::quantize::lm::{LmError, Model};
use crate::quantize::produce::{
    Bits, PlannedSize, allocate_bits, check_source, model_digest, planned_size, statistics,
    unquantized_size,
};
use crate::quantize::source::ModelSource;
use crate::store::Store;

/// What to try, and by what to judge.
#[derive(Debug)]
#[non_exhaustive]
pub struct OptimizeOptions {
    /// What is tried.
    pub candidates: Vec<Candidate>,
    /// On what.
    pub hardware: Vec<Hardware>,
    /// With which engine; the fastest that loads it, if none is asked for.
    pub engine: Option<Runner>,
    /// What is asked of the model.
    pub workload: Workload,
    /// What is to be the least.
    pub objective: Objective,
    /// What hardware costs.
    pub prices: Prices,
    /// Cores of this machine.
    pub cores: u32,
    /// The text that quality is measured on; the built-in one if none is given.
    pub text: Option<String>,
    /// Tokens of a window of it.
    pub context: Option<usize>,
    /// The text that candidates are calibrated with; the built-in one if none is given.
    pub calibration: Option<String>,
    /// How many samples of that, of how many tokens.
    pub samples: (usize, usize),
    /// The seed for drawing them.
    pub seed: u64,
    /// The probability that any candidate is kept or dropped against the truth for its quality.
    pub error: f64,
    /// When nothing new is begun any more.
    pub time_limit: Option<Duration>,
    /// Whether to say only what would be tried, and what is known.
    pub dry_run: bool,
}

impl OptimizeOptions {
    /// The eight presets on this hardware, as cheap as can be.
    pub fn new(hardware: Vec<Hardware>) -> Self {
        Self {
            candidates: Candidate::presets(),
            hardware,
            engine: None,
            workload: Workload::default(),
            objective: Objective::Cost,
            prices: Prices::own().clone(),
            cores: std::thread::available_parallelism().map_or(1, |own| own.get() as u32),
            text: None,
            context: None,
            calibration: None,
            samples: (128, 512),
            seed: 0,
            error: 0.01,
            time_limit: None,
            dry_run: false,
        }
    }
}

/// The model, and where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The model.
    pub model: &'a Arc<ModelSource>,
    /// Its folder, if it is one.
    pub folder: Option<&'a Path>,
}

/// Hears how it goes on.
pub trait Watch {
    /// A candidate is at a stage, or out.
    fn at(&self, candidate: &str, stage: &str);
}

/// Nobody hears.
impl Watch for () {
    fn at(&self, _: &str, _: &str) {}
}

/// Finds the best candidate that keeps all limits, and publishes it as `name:tag`; every candidate that was made
/// stays as `name:optimize-` and its label. Blocks; call it from outside the runtime that `runtime` drives.
///
/// # Errors
/// If a limit makes no sense, the model cannot be quantized or read at all, or the store fails. That nothing fits
/// is no error: there is no winner then.
pub fn optimize_model(
    subject: Subject<'_>,
    store: &Store,
    (name, tag): (&ArtifactName, &Tag),
    constraints: &OptimizationConstraints,
    options: &OptimizeOptions,
    packing: &Packing<'_>,
    (runtime, watch): (&Handle, &dyn Watch),
) -> Result<Outcome, OptimizeError> {
    let begun = Instant::now();
    let source = subject.model;
    constraints.check()?;
    if tag.as_str().starts_with(PREFIX) {
        return Err(OptimizeError::Tag(tag.to_string(), PREFIX));
    }
    check_source(source)?;
    let config = source.config()?;
    let shape = ModelShape::of(config);
    let positions = config.get("max_position_embeddings").and_then(serde_json::Value::as_u64);
    if let Some(most) = positions.filter(|most| options.workload.longest() > *most) {
        return Err(OptimizeError::TooLong { tokens: options.workload.longest(), most });
    }
    let mut run = Run::begin(subject, store, name, constraints, options, packing, runtime)?;
    let lm = run.model()?;
    let mut bits = vec![Bits::new(); options.candidates.len()];
    let sizes = run.sizes(lm.as_ref(), &mut bits);
    let float = run.workshop.float;
    let setting = Setting {
        constraints,
        workload: &options.workload,
        prices: &options.prices,
        cores: options.cores,
        engine: options.engine,
        shape: shape.as_ref(),
        float,
        tensor_bytes: source.tensors().iter().map(|tensor| tensor.len).sum(),
    };
    let (mut rows, mut prices) = (Vec::new(), Vec::<Price>::new());
    for (at, (candidate, size)) in options.candidates.iter().zip(&sizes).enumerate() {
        for hardware in &options.hardware {
            let (row, price) = Row::new((at, candidate), size, hardware, &setting);
            prices.extend(price.filter(|price| !prices.contains(price)));
            rows.push(row);
        }
    }
    let time_left = || options.time_limit.is_none_or(|limit| begun.elapsed() < limit);
    let mut exam = run.exam(lm.as_ref())?;
    run.known(&bits, &mut rows, exam.as_mut())?;
    if options.dry_run {
        return Ok(run.outcome(None, rows, prices, 0, &[]));
    }
    let mut computed = vec![false; options.candidates.len()];
    for at in run.order(&rows) {
        let Some(candidate) = options.candidates.get(at) else { continue };
        let own = bits.get(at).cloned().unwrap_or_default();
        let tried = run.try_one((at, candidate, &own), &mut rows, exam.as_mut(), &time_left, watch);
        match tried {
            Ok(new) => computed[at] |= new,
            // One that fails is out; the others go on.
            Err(error) => {
                watch.at(&candidate.label, &format!("failed: {error}"));
                drop_all(&mut rows, at, &format!("failed: {error}"));
                computed[at] = true;
            }
        }
    }
    for row in rows.iter_mut().filter(|row| row.dropped.is_none()) {
        run.measure(row, &options.hardware, &setting, watch);
        row.dropped = row.last_refusal(constraints);
        if row.dropped.is_none() && objective_of(options.objective, &row.figures).is_none() {
            row.dropped = Some(format!("its {} is not known", options.objective.name()));
        }
    }
    // Whoever would win is read whole: what is said of it is as sure as the text allows.
    let best = loop {
        let entries: Vec<Entry<'_>> = rows
            .iter()
            .map(|row| Entry { figures: &row.figures, fits: row.dropped.is_none() })
            .collect();
        let Some(best) = choose(options.objective, &entries) else { break None };
        let Some(row) = rows.get(best) else { break None };
        let (at, before) = (row.candidate, row.figures.ppl_delta_percent);
        let own = bits.get(at).cloned().unwrap_or_default();
        if let (Some(exam), Some(candidate)) = (exam.as_mut(), options.candidates.get(at)) {
            computed[at] |= run.read_whole((at, candidate, &own), &mut rows, exam, &time_left)?;
        }
        if rows.get(best).is_some_and(|row| row.figures.ppl_delta_percent == before) {
            break Some(best);
        }
    };
    let read = exam.as_ref().map_or(0, |exam| exam.read);
    let computed = computed.iter().filter(|own| **own).count() as u64;
    let mut outcome = run.outcome(best, rows, prices, read, &bits);
    outcome.computed = computed;
    if let Some(Winner { row, manifest }) = &mut outcome.winner {
        let row = outcome.rows.get(*row);
        let (own, id) = row
            .and_then(|row| Some((row, row.manifest?)))
            .ok_or_else(|| OptimizeError::Defect("a winner without an artifact".to_owned()))?;
        let text = exam.as_ref().map(|exam| (exam.tokens.as_slice(), exam.context));
        let said = section(own, &outcome.rows, &outcome.prices, options, constraints, text)?;
        let PackParts { signers, lifetime } = PackParts::of(packing)?;
        let made = annotate(store, id, said, (name, tag), &signers, lifetime);
        *manifest = Some(runtime.block_on(made)?.0);
    }
    Ok(outcome)
}

/// What publishing takes of how results are packed.
struct PackParts {
    signers: Vec<crate::trust::Signer>,
    lifetime: crate::store::Lifetime,
}

impl PackParts {
    fn of(packing: &Packing<'_>) -> Result<Self, OptimizeError> {
        let options = packing()?;
        Ok(Self { signers: options.signers, lifetime: options.lifetime })
    }
}

fn objective_of(which: Objective, figures: &Figures) -> Option<f64> {
    let figure = match which {
        Objective::Cost => figures.cost_per_1m_tokens,
        Objective::Latency => figures.latency_ms,
        Objective::Memory => figures.memory,
        Objective::Quality => figures.ppl_delta_percent,
    };
    figure.map(|own| own.value).filter(|value| value.is_finite())
}

/// Drops a candidate wherever it was still in.
fn drop_all(rows: &mut [Row], candidate: usize, why: &str) {
    for row in rows.iter_mut().filter(|row| row.candidate == candidate) {
        row.dropped.get_or_insert_with(|| why.to_owned());
    }
}

/// What all stages share.
struct Run<'a> {
    workshop: Workshop<'a>,
    constraints: &'a OptimizationConstraints,
    options: &'a OptimizeOptions,
    evidence: Evidence,
    notes: Vec<String>,
}

impl<'a> Run<'a> {
    fn begin(
        Subject { model: source, folder }: Subject<'a>,
        store: &'a Store,
        name: &'a ArtifactName,
        constraints: &'a OptimizationConstraints,
        options: &'a OptimizeOptions,
        packing: &'a Packing<'a>,
        runtime: &'a Handle,
    ) -> Result<Self, OptimizeError> {
        if !options.dry_run {
            runtime.block_on(store.create())?;
        }
        let digest = model_digest(source, threads())?;
        let wide = source.tensors().iter().find(|tensor| tensor.shape.dims().len() == 2);
        let float = wide.and_then(|tensor| Float::of_dtype(tensor.dtype)).unwrap_or(Float::BF16);
        let samples = None;
        let workshop =
            Workshop { source, folder, store, name, packing, runtime, digest, float, samples };
        let evidence = Evidence::open(store, digest, runtime)?;
        Ok(Self { workshop, constraints, options, evidence, notes: Vec::new() })
    }

    /// The model, if it can be run; a limit of quality needs that.
    fn model(&mut self) -> Result<Option<Model>, OptimizeError> {
        let opened = Model::open(self.workshop.source.clone()).and_then(|model| {
            let tokenizer = model.tokenizer()?;
            // An encoder predicts no tokens.
            model.head().map(|_| (model, tokenizer))
        });
        let (model, tokenizer) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let constraints = self.constraints;
                let limit = match (constraints.max_ppl_delta, constraints.max_kl) {
                    (Some(_), _) => Some("--max-ppl-delta"),
                    (None, Some(_)) => Some("--max-kl"),
                    (None, None) => None,
                };
                let why = error.to_string();
                if let Some(limit) = limit {
                    return Err(OptimizeError::NoQuality { limit, why });
                }
                self.notes.push(format!("quality is not measured: {why}"));
                return Ok(None);
            }
        };
        if self.options.candidates.iter().any(Candidate::reads_text) {
            let text = self.options.calibration.as_deref().unwrap_or(BUILT_IN);
            let (size, seed) = (self.options.samples, self.options.seed);
            match CalibrationSamples::new(text, &tokenizer, model.config(), size, seed) {
                Ok(samples) => self.workshop.samples = Some(samples),
                Err(error) => self.notes.push(format!("nothing is calibrated: {error}")),
            }
        }
        Ok(Some(model))
    }

    /// What each candidate will take, to the byte; and the bits of its layers, where they differ.
    fn sizes(&self, lm: Option<&Model>, bits: &mut [Bits]) -> Vec<Result<PlannedSize, String>> {
        let source = self.workshop.source;
        let one = |(candidate, bits): (&Candidate, &mut Bits)| {
            let Some(recipe) = &candidate.recipe else {
                return unquantized_size(source).map_err(|error| error.to_string());
            };
            if candidate.reads_text() {
                let (Some(lm), Some(samples)) = (lm, &self.workshop.samples) else {
                    return Err("it is calibrated, and this model cannot be".to_owned());
                };
                if recipe.average_bits.is_some() {
                    if self.options.dry_run {
                        return Err("its size is known once the model was calibrated".to_owned());
                    }
                    let float = self.workshop.float;
                    let found = statistics(source, lm, samples, None, self.workshop.runtime)
                        .and_then(|own| allocate_bits(lm, &own.statistics, recipe, float, &[]));
                    *bits = found.map_err(|error| error.to_string())?;
                }
            }
            planned_size(source, recipe, &[], bits, threads()).map_err(|error| error.to_string())
        };
        self.options.candidates.iter().zip(bits).map(one).collect()
    }

    /// The text that candidates are read on.
    fn exam<'m>(&mut self, lm: Option<&'m Model>) -> Result<Option<Exam<'m>>, OptimizeError> {
        let Some(model) = lm else { return Ok(None) };
        let text = self.options.text.as_deref().unwrap_or(BUILT_IN);
        let tokens = model.tokenizer()?.encode(text)?;
        if tokens.len() < 2 {
            return Err(LmError::Short(tokens.len()).into());
        }
        if text == self.options.calibration.as_deref().unwrap_or(BUILT_IN)
            && self.options.candidates.iter().any(Candidate::reads_text)
        {
            let note = "quality is measured on the text that candidates are calibrated with, which flatters those \
                        that are: give another with --text";
            self.notes.push(note.to_owned());
        }
        let limits = usize::from(self.constraints.max_ppl_delta.is_some())
            + usize::from(self.constraints.max_kl.is_some());
        let decisions = self.options.candidates.len() * limits.max(1);
        let error = self.options.error;
        Ok(Some(Exam::new(model, tokens, self.options.context, (decisions, error))))
    }

    /// Fills in what earlier runs found.
    fn known(
        &mut self,
        bits: &[Bits],
        rows: &mut [Row],
        mut exam: Option<&mut Exam<'_>>,
    ) -> Result<(), OptimizeError> {
        for (at, (candidate, bits)) in self.options.candidates.iter().zip(bits).enumerate() {
            let key = self.workshop.key(candidate, bits)?;
            let Some(id) = self.workshop.known(candidate, key, &self.evidence)? else { continue };
            let tag = self.workshop.tag(candidate)?;
            for row in rows.iter_mut().filter(|row| row.candidate == at) {
                row.manifest = Some(id);
                row.artifact = Some(format!("{}:{tag}", self.workshop.name));
            }
            if let Some(exam) = exam.as_deref_mut()
                && self.options.dry_run
                && candidate.recipe.is_some()
            {
                let limits = (self.constraints, false);
                let model = self.candidate_model(id)?;
                let on = || false;
                let found = exam.sit(&model, key, &mut self.evidence, limits, &on)?;
                take(rows, at, found.0, candidate);
            }
        }
        Ok(())
    }

    fn candidate_model(&self, id: crate::ManifestId) -> Result<Model, OptimizeError> {
        let artifact = self.workshop.open(id)?;
        Ok(Model::open(ModelSource::artifact(artifact, self.workshop.runtime)?)?)
    }

    /// Candidates that are still in somewhere, the most promising first.
    fn order(&self, rows: &[Row]) -> Vec<usize> {
        let which = self.options.objective;
        let value = |row: &Row| objective_of(which, &row.figures).unwrap_or(f64::INFINITY);
        let mut open: Vec<(f64, usize)> = Vec::new();
        for row in rows.iter().filter(|row| row.dropped.is_none()) {
            match open.iter_mut().find(|(_, at)| *at == row.candidate) {
                Some((least, _)) => *least = least.min(value(row)),
                None => open.push((value(row), row.candidate)),
            }
        }
        open.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.cmp(&other.1)));
        open.into_iter().map(|(_, at)| at).collect()
    }

    /// Produces a candidate and reads the text with it; tells whether anything was computed.
    fn try_one(
        &mut self,
        (at, candidate, bits): (usize, &Candidate, &Bits),
        rows: &mut [Row],
        exam: Option<&mut Exam<'_>>,
        time_left: &dyn Fn() -> bool,
        watch: &dyn Watch,
    ) -> Result<bool, OptimizeError> {
        let key = self.workshop.key(candidate, bits)?;
        let known = self.workshop.known(candidate, key, &self.evidence)?;
        let mut computed = false;
        let id = match known {
            Some(id) => id,
            None if !time_left() => {
                drop_all(rows, at, "no time was left to produce it (--time-limit)");
                return Ok(false);
            }
            None => {
                watch.at(&candidate.label, "producing");
                let (id, new) = self.workshop.make(candidate, bits)?;
                computed |= new;
                self.evidence.note_produced(key, id);
                id
            }
        };
        let spec = match (candidate.recipe.is_some(), self.workshop.source.as_artifact()) {
            (false, Some(artifact)) => format!("@{}", artifact.id()),
            _ => format!("{}:{}", self.workshop.name, self.workshop.tag(candidate)?),
        };
        for row in rows.iter_mut().filter(|row| row.candidate == at) {
            (row.manifest, row.artifact) = (Some(id), Some(spec.clone()));
        }
        if candidate.recipe.is_none() {
            take(rows, at, None, candidate);
            return Ok(computed);
        }
        let Some(exam) = exam else { return Ok(computed) };
        watch.at(&candidate.label, "reading the text");
        let model = self.candidate_model(id)?;
        let limits = (self.constraints, self.options.objective == Objective::Quality);
        let (quality, new) = exam.sit(&model, key, &mut self.evidence, limits, time_left)?;
        take(rows, at, quality, candidate);
        self.judge(rows, at);
        Ok(computed | new)
    }

    /// Reads all of the text with a candidate.
    fn read_whole(
        &mut self,
        (at, candidate, bits): (usize, &Candidate, &Bits),
        rows: &mut [Row],
        exam: &mut Exam<'_>,
        time_left: &dyn Fn() -> bool,
    ) -> Result<bool, OptimizeError> {
        let row = rows.iter().find(|row| row.candidate == at);
        let (Some(id), Some(_)) = (row.and_then(|row| row.manifest), &candidate.recipe) else {
            return Ok(false);
        };
        let key = self.workshop.key(candidate, bits)?;
        let model = self.candidate_model(id)?;
        let limits = (self.constraints, true);
        let (quality, new) = exam.sit(&model, key, &mut self.evidence, limits, time_left)?;
        take(rows, at, quality, candidate);
        for row in rows.iter_mut().filter(|row| row.candidate == at) {
            row.dropped = row.dropped.take().or_else(|| row.last_refusal(self.constraints));
        }
        Ok(new)
    }

    fn judge(&self, rows: &mut [Row], at: usize) {
        for row in rows.iter_mut().filter(|row| row.candidate == at && row.dropped.is_none()) {
            let here = self.options.hardware.iter().find(|own| own.name() == row.hardware);
            let later = here.is_some_and(Hardware::is_host);
            row.dropped = row.refusal(self.constraints, !later);
        }
    }

    /// Measures a candidate's speed where its hardware is this machine.
    fn measure(
        &mut self,
        row: &mut Row,
        hardware: &[Hardware],
        setting: &Setting<'_>,
        watch: &dyn Watch,
    ) {
        let here = hardware.iter().any(|own| own.is_host() && own.name() == row.hardware);
        let (true, Some(id)) = (here, row.manifest) else { return };
        watch.at(&row.method, "measuring its speed");
        let measured = self
            .workshop
            .open(id)
            .map_err(|error| error.to_string())
            .and_then(|own| measure_host(&own, setting.workload, self.workshop.runtime));
        match measured {
            Ok(speed) => {
                let source = "measured on this machine by the embedded engine".to_owned();
                row.take_speed(speed, source, setting);
            }
            Err(why) => {
                let note = format!(
                    "speed on this machine is modelled, because it was not measured: {why}"
                );
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
            }
        }
    }

    fn outcome(
        self,
        best: Option<usize>,
        mut rows: Vec<Row>,
        prices: Vec<Price>,
        tokens_read: u64,
        _: &[Bits],
    ) -> Outcome {
        let objective = self.options.objective;
        let currency = self.options.prices.currency.clone();
        let figures: Vec<Figures> = rows.iter().map(|row| row.figures).collect();
        for (row, on) in rows.iter_mut().zip(front(&figures)) {
            row.front = on;
        }
        let mut misses = Vec::new();
        if best.is_none() && !self.options.dry_run {
            // What failed or does not run is not to be had by giving a limit up.
            let able = |row: &Row| {
                let alone = row.last_refusal(self.constraints);
                (row.engine.is_some() && row.dropped == alone && alone.is_some())
                    .then_some(row.figures)
                    .filter(|own| objective_of(objective, own).is_some())
            };
            let all: Vec<Option<Figures>> = rows.iter().map(able).collect();
            for miss in nearest(self.constraints, objective, &all) {
                let Some(row) = rows.get(miss.candidate) else { continue };
                let label = format!("{} on {}", row.method, row.hardware);
                misses.push(miss.in_words(&label, objective, &currency));
            }
        }
        let winner = best.map(|row| Winner { row, manifest: None });
        let notes = self.notes;
        Outcome { winner, rows, computed: 0, misses, notes, currency, prices, tokens_read }
    }
}

/// Takes over what a candidate loses; the model itself loses nothing.
fn take(
    rows: &mut [Row],
    at: usize,
    quality: Option<super::quality::Quality>,
    candidate: &Candidate,
) {
    for row in rows.iter_mut().filter(|row| row.candidate == at) {
        if candidate.recipe.is_none() {
            row.figures.ppl_delta_percent = Some(Figure::exact(0.0));
            row.figures.kl = Some(Figure::exact(0.0));
        } else if let Some(quality) = quality.clone() {
            row.take_quality(quality);
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
