//! What each stage does to the rows.

use tokio::runtime::Handle;

use super::candidate::Candidate;
use super::choice::{front, nearest};
use super::constraints::{Figures, Objective, OptimizationConstraints};
use super::error::OptimizeError;
use super::evidence::Evidence;
use super::exam::Exam;
use super::figure::Figure;
use super::options::{OptimizeOptions, Subject, Watch};
use super::outcome::{Outcome, Row, Winner};
use super::prices::Price;
use super::published;
use super::quality::Quality;
use super::study::{Packing, Workshop};
use crate::dequant::Float;
use crate::format::name::ArtifactName;
use crate::quantize::calibrate::{BUILT_IN, CalibrationSamples, Statistics};
use crate::quantize::lm::{LmError, Model};
use crate::quantize::produce::{
    Bits, PlannedSize, allocate_bits, layers_apart, model_digest, planned_size, statistics,
    unquantized_size,
};
use crate::store::Store;

/// What is to be the least; none where it is not known.
pub(super) fn objective_of(which: Objective, figures: &Figures) -> Option<f64> {
    let figure = match which {
        Objective::Cost => figures.cost_per_1m_tokens,
        Objective::Latency => figures.latency_ms,
        Objective::Memory => figures.memory,
        Objective::Quality => figures.ppl_delta_percent,
    };
    figure.map(|own| own.value).filter(|value| value.is_finite())
}

/// Drops a candidate wherever it was still in.
pub(super) fn drop_all(rows: &mut [Row], candidate: usize, why: &str) {
    for row in rows.iter_mut().filter(|row| row.candidate == candidate) {
        row.dropped.get_or_insert_with(|| why.to_owned());
    }
}

/// What all stages share.
pub(super) struct Run<'a> {
    pub(super) workshop: Workshop<'a>,
    pub(super) constraints: &'a OptimizationConstraints,
    pub(super) options: &'a OptimizeOptions,
    pub(super) evidence: Evidence,
    pub(super) notes: Vec<String>,
    /// What is tried: more, once it is known what.
    pub(super) candidates: Vec<Candidate>,
    /// What layers are fed with, once it was measured.
    statistics: Option<Statistics>,
}

impl<'a> Run<'a> {
    pub(super) fn begin(
        Subject { model: source, folder, called }: Subject<'a>,
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
        let workshop = Workshop {
            source,
            folder,
            called,
            store,
            name,
            packing,
            runtime,
            digest,
            float,
            samples,
        };
        let (published, refused) = published::read(store, name, digest, packing()?.trust, runtime)?;
        let evidence = Evidence::open(store, digest, published.unwrap_or_default(), runtime)?;
        let (notes, candidates) = (refused.into_iter().collect(), options.candidates.clone());
        Ok(Self { workshop, constraints, options, evidence, notes, candidates, statistics: None })
    }

    /// Publishes what was found, signed as candidates are; what nobody signs nobody would use.
    pub(super) fn publish(&mut self) -> Result<(), OptimizeError> {
        let options = (self.workshop.packing)()?;
        let bytes = self.evidence.unpublished().filter(|_| !options.signers.is_empty());
        let Some(bytes) = bytes else { return Ok(()) };
        let own = &self.workshop;
        published::write(bytes, own.store, own.name, own.digest, options, own.runtime)
    }

    /// The model, if it can be run; a limit of quality needs that.
    pub(super) fn model(&mut self) -> Result<Option<Model>, OptimizeError> {
        let opened = Model::open(self.workshop.source.clone()).and_then(|model| {
            let tokenizer = model.tokenizer()?;
            match model.config().is_causal() {
                true => Ok((model, tokenizer)),
                false => Err(LmError::Feature {
                    what: "predicting the next token with",
                    value: model.config().family.clone(),
                }),
            }
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
                if !self.options.quality_at.is_empty() {
                    return Ok(None);
                }
                if let Some(limit) = limit {
                    return Err(OptimizeError::NoQuality { limit, why });
                }
                self.notes.push(format!("quality is not measured: {why}"));
                return Ok(None);
            }
        };
        if self.options.solve_bits || self.candidates.iter().any(Candidate::reads_text) {
            let text = self.options.calibration.as_deref().unwrap_or(BUILT_IN);
            let (size, seed) = (self.options.samples, self.options.seed);
            match CalibrationSamples::new(text, &tokenizer, model.config(), size, seed) {
                Ok(samples) => self.workshop.samples = Some(samples),
                Err(error) => self.notes.push(format!("nothing is calibrated: {error}")),
            }
        }
        Ok(Some(model))
    }

    /// What a candidate will take, to the byte; and the bits of its layers, where they differ.
    pub(super) fn size(
        &mut self,
        candidate: &Candidate,
        lm: Option<&Model>,
        bits: &mut Bits,
    ) -> Result<PlannedSize, OptimizeError> {
        let source = self.workshop.source;
        let Some(recipe) = &candidate.recipe else { return Ok(unquantized_size(source)?) };
        if candidate.reads_text() {
            let (Some(lm), Some(_)) = (lm, &self.workshop.samples) else {
                return Err(OptimizeError::NotCalibrated);
            };
            if recipe.average_bits.is_some() {
                let key = self.workshop.key(candidate, &Bits::new())?;
                let known = self.evidence.bits(key).cloned();
                *bits = match known {
                    Some(known) => known,
                    None if self.options.dry_run => return Err(OptimizeError::Later),
                    None => {
                        let float = self.workshop.float;
                        let own = self.statistics(lm)?;
                        let found = allocate_bits(lm, own, recipe, float, &[])?;
                        self.evidence.note_bits(key, found.clone());
                        found
                    }
                };
            }
        }
        let source = layers_apart(source.clone(), recipe.format, &[])?;
        Ok(planned_size(&source, recipe, &[], bits, threads())?)
    }

    /// What layers are fed with: one run of the model serves all budgets.
    pub(super) fn statistics(&mut self, lm: &Model) -> Result<&Statistics, OptimizeError> {
        let own = match self.statistics.take() {
            Some(own) => own,
            None => {
                let samples = self.workshop.samples.as_ref().ok_or(OptimizeError::NotCalibrated)?;
                let (source, runtime) = (self.workshop.source, self.workshop.runtime);
                statistics(source, lm, samples, None, runtime)?.statistics
            }
        };
        Ok(self.statistics.insert(own))
    }

    /// Fills in what earlier runs found.
    pub(super) fn known(
        &mut self,
        bits: &[Bits],
        rows: &mut [Row],
        mut exam: Option<&mut Exam<'_>>,
    ) -> Result<(), OptimizeError> {
        for (at, (candidate, bits)) in self.candidates.clone().iter().zip(bits).enumerate() {
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
                let mut sitter = self.sitter(candidate, id, exam)?;
                let on = || false;
                let found = exam.sit(&mut sitter, key, &mut self.evidence, limits, &on)?;
                take(rows, at, found.0, candidate);
            }
        }
        Ok(())
    }

    /// Candidates that are still in somewhere, the most promising first.
    pub(super) fn order(&self, rows: &[Row]) -> Vec<usize> {
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

    /// Tries a candidate; one that fails is out, and the others go on. Tells whether anything was computed.
    pub(super) fn try_at(
        &mut self,
        (at, bits): (usize, &Bits),
        rows: &mut [Row],
        exam: Option<&mut Exam<'_>>,
        time_left: &dyn Fn() -> bool,
        watch: &dyn Watch,
    ) -> bool {
        let Some(candidate) = self.candidates.get(at).cloned() else { return false };
        let tried = self.try_one((at, &candidate, bits), rows, exam, time_left, watch);
        tried.unwrap_or_else(|error| {
            watch.at(&candidate.label, &format!("failed: {error}"));
            drop_all(rows, at, &format!("failed: {error}"));
            rows.iter().filter(|row| row.candidate == at).for_each(|row| watch.known(row));
            true
        })
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
            rows.iter().filter(|row| row.candidate == at).for_each(|row| watch.known(row));
            return Ok(computed);
        }
        let Some(exam) = exam else { return Ok(computed) };
        watch.at(&candidate.label, "reading the text");
        let mut sitter = self.sitter(candidate, id, exam)?;
        let limits = (self.constraints, self.options.objective == Objective::Quality);
        let (quality, new) = exam.sit(&mut sitter, key, &mut self.evidence, limits, time_left)?;
        take(rows, at, quality, candidate);
        self.judge(rows, at);
        rows.iter().filter(|row| row.candidate == at).for_each(|row| watch.known(row));
        Ok(computed | new)
    }

    /// Reads all of the text with a candidate.
    pub(super) fn read_whole(
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
        let mut sitter = self.sitter(candidate, id, exam)?;
        let limits = (self.constraints, true);
        let (quality, new) = exam.sit(&mut sitter, key, &mut self.evidence, limits, time_left)?;
        take(rows, at, quality, candidate);
        for row in rows.iter_mut().filter(|row| row.candidate == at) {
            row.dropped = row.dropped.take().or_else(|| row.last_refusal(self.constraints));
        }
        Ok(new)
    }

    fn judge(&self, rows: &mut [Row], at: usize) {
        for row in rows.iter_mut().filter(|row| row.candidate == at && row.dropped.is_none()) {
            let here = self.options.hardware.iter().find(|own| own.name() == row.hardware);
            let later = here.is_some_and(|own| self.options.measures(&row.method, own));
            row.dropped = row.refusal(self.constraints, !later);
        }
    }

    pub(super) fn outcome(
        self,
        best: Option<usize>,
        mut rows: Vec<Row>,
        prices: Vec<Price>,
        tokens_read: u64,
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
                let mut words = miss.in_words(&label, objective, &currency);
                if row.is_unsure(self.constraints) {
                    words.push_str("; a longer --text may decide it");
                }
                misses.push(words);
            }
        }
        let winner = best.map(|row| Winner { row, manifest: None });
        let notes = self.notes;
        Outcome { winner, rows, computed: 0, misses, notes, currency, prices, tokens_read }
    }
}

/// Takes over what a candidate loses; the model itself loses nothing.
fn take(rows: &mut [Row], at: usize, quality: Option<Quality>, candidate: &Candidate) {
    for row in rows.iter_mut().filter(|row| row.candidate == at) {
        if candidate.recipe.is_none() {
            row.figures.ppl_delta_percent = Some(Figure::exact(0.0));
            row.figures.kl = Some(Figure::exact(0.0));
        } else if let Some(quality) = quality.clone() {
            let finite = quality.perplexity.is_finite() && quality.kl.value.is_finite();
            row.take_quality(quality);
            if !finite {
                row.dropped.get_or_insert_with(|| "its output holds NaN or Inf".to_owned());
            }
        }
    }
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
