//! What came of it: a row for each candidate on each hardware, and the winner. Pure.

use serde::Serialize;

use super::candidate::Candidate;
use super::constraints::{Figures, Limit, OptimizationConstraints};
use super::figure::{Figure, Source, Verdict};
use super::fits::{Runner, runner};
use super::hardware::Hardware;
use super::kernels;
use super::latency::{Asked, Speed, Steps, modelled, running};
use super::prices::{Price, Prices};
use super::quality::Quality;
use super::roofline::Roofline;
use super::shape::{ModelShape, Stored};
use super::workload::Workload;
use crate::dequant::Float;
use crate::format::id::ManifestId;
use crate::quantize::produce::PlannedSize;

/// Somebody else's model of times.
pub type Ask<'a> = dyn Fn(&Asked<'_>) -> Result<Steps, String> + 'a;

/// What holds for all candidates.
#[derive(Clone, Copy)]
pub struct Setting<'a> {
    /// The limits.
    pub constraints: &'a OptimizationConstraints,
    /// What is asked of the model.
    pub workload: &'a Workload,
    /// What hardware costs.
    pub prices: &'a Prices,
    /// Cores of this machine.
    pub cores: u32,
    /// The engine, if one was asked for.
    pub engine: Option<Runner>,
    /// The model's dimensions, where its configuration says them.
    pub shape: Option<&'a ModelShape>,
    /// The type of its weights.
    pub float: Float,
    /// Bytes of all its tensors.
    pub tensor_bytes: u64,
    /// Times by somebody else's model, where it has any; why not, in words.
    pub steps: Option<&'a Ask<'a>>,
    /// Whether a candidate's speed on hardware is measured later.
    pub measures: &'a dyn Fn(&str, &Hardware) -> bool,
}

/// A candidate on hardware.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// Its place among the candidates.
    #[serde(skip)]
    pub candidate: usize,
    /// Its name.
    pub method: String,
    /// The hardware's name.
    pub hardware: String,
    /// What runs it there.
    pub engine: Option<Runner>,
    /// Its artifact, once there is one.
    pub artifact: Option<String>,
    /// That artifact's manifest.
    pub manifest: Option<ManifestId>,
    /// Bytes of all its files.
    pub bytes: Option<u64>,
    /// What is known.
    pub figures: Figures,
    /// How fast it is.
    pub speed: Option<Speed>,
    /// Whether its times were measured.
    pub measured: bool,
    /// Where times come from, in words.
    pub speed_source: Option<String>,
    /// What an hour of the hardware costs.
    pub per_hour: Option<f64>,
    /// What it loses.
    pub quality: Option<Quality>,
    /// Why it is out; none where it is not.
    pub dropped: Option<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// Whether no other beats it in cost, quality and latency.
    pub front: bool,
}

impl Row {
    /// What is known without work.
    pub fn new(
        (at, candidate): (usize, &Candidate),
        size: &Result<PlannedSize, String>,
        hardware: &Hardware,
        setting: &Setting<'_>,
    ) -> (Self, Option<Price>) {
        let mut row = Self {
            candidate: at,
            method: candidate.label.clone(),
            hardware: hardware.name(),
            engine: None,
            artifact: None,
            manifest: None,
            bytes: None,
            figures: Figures::default(),
            speed: None,
            measured: false,
            speed_source: None,
            per_hour: None,
            quality: None,
            dropped: None,
            notes: Vec::new(),
            front: false,
        };
        let price = setting.prices.of(hardware, setting.cores);
        row.per_hour = price.map(|(hour, _)| hour);
        let price = price.map(|(_, price)| price.clone());
        let filled = row.fill(candidate, size, hardware, setting);
        row.dropped = filled.err();
        if row.dropped.is_none() {
            let later = (setting.measures)(&candidate.label, hardware);
            row.dropped = row.refusal(setting.constraints, !later);
        }
        (row, price)
    }

    fn fill(
        &mut self,
        candidate: &Candidate,
        size: &Result<PlannedSize, String>,
        hardware: &Hardware,
        setting: &Setting<'_>,
    ) -> Result<(), String> {
        let size = size.as_ref().map_err(Clone::clone)?;
        let ratio = setting.tensor_bytes as f64 / size.tensor_bytes.max(1) as f64;
        self.bytes = Some(size.raw_bytes);
        self.figures.compression = Some(Figure::exact(ratio));
        let (engine, note) = runner(candidate, hardware, setting.engine, setting.float)?;
        self.engine = Some(engine);
        self.notes.extend(note);
        let Some(shape) = setting.shape else {
            self.notes.push("config.json does not say the model's dimensions".to_owned());
            return Ok(());
        };
        let device = &hardware.device;
        let name = engine.kernels(device);
        let kernels = kernels::find(kernels::rows(), name, candidate.weights(), &device.name)
            .ok_or("no kernels are known")?;
        let stored = Stored {
            weights: size.weights as f64,
            bytes: size.weight_bytes as f64,
            all_bytes: size.tensor_bytes as f64,
            head_element: setting.float.size() as f64,
        };
        let count = f64::from(hardware.count);
        let roofline = Roofline { shape, stored: &stored, device, count, kernels };
        let (input, output) = setting.workload.mean();
        let running = running(&roofline, setting.workload).map_err(|error| error.to_string())?;
        let (engine, weights) = (name, candidate.weights());
        let asked = Asked { device: &device.name, count, engine, weights, input, output, running };
        let steps = match setting.steps.map(|ask| ask(&asked)) {
            Some(Ok(steps)) => Some(steps),
            Some(Err(why)) => {
                self.notes.push(why);
                None
            }
            None => None,
        };
        let found = modelled(&roofline, setting.workload, steps.as_ref());
        let (speed, memory) = found.map_err(|error| error.to_string())?;
        self.figures.memory = Some(memory);
        let own = (kernels.band, &kernels.source);
        let (band, source) = steps.as_ref().map_or(own, |steps| (steps.band, &steps.source));
        let source = format!("modelled, within a factor of {band}: {source}");
        self.take_speed(speed, source, setting);
        Ok(())
    }

    /// Takes over how fast it is.
    pub fn take_speed(&mut self, speed: Speed, source: String, setting: &Setting<'_>) {
        let limits = setting.constraints;
        self.measured = speed.tokens_per_second.source == Source::Measured;
        self.figures.latency_ms = Some(speed.times(limits.latency_of).at(limits.percentile));
        self.figures.tokens_per_second = Some(speed.tokens_per_second);
        let busy = setting.workload.utilization_percent;
        self.figures.cost_per_1m_tokens = self.per_hour.map(|hour| speed.cost(hour, busy));
        (self.speed, self.speed_source) = (Some(speed), Some(source));
    }

    /// Takes over what it loses.
    pub fn take_quality(&mut self, quality: Quality) {
        self.figures.ppl_delta_percent = Some(quality.ppl_delta_percent);
        self.figures.kl = Some(quality.kl);
        self.quality = Some(quality);
    }

    /// Why limits speak against it, in words. `last` says whether nothing more will be measured of its speed:
    /// then what is not decided counts against it. Quality counts once it is known.
    pub fn refusal(&self, constraints: &OptimizationConstraints, last: bool) -> Option<String> {
        let found = constraints.judge(&self.figures);
        let of_quality = |limit| matches!(limit, Limit::MaxPplDelta | Limit::MaxKl);
        let against = found.iter().filter(|own| match own.verdict {
            Verdict::Met => false,
            Verdict::Missed => {
                // A model of the hardware does not speak where the hardware itself will.
                last || of_quality(own.limit)
                    || own.figure.is_none_or(|figure| figure.source != Source::Modelled)
            }
            Verdict::Undecided if of_quality(own.limit) => false,
            Verdict::Undecided => last,
        });
        let words: Vec<String> = against.map(super::constraints::Finding::in_words).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }

    /// Whether a limit of quality lies inside what is known.
    pub fn is_unsure(&self, constraints: &OptimizationConstraints) -> bool {
        constraints.judge(&self.figures).iter().any(|own| {
            matches!(own.limit, Limit::MaxPplDelta | Limit::MaxKl)
                && own.figure.is_some()
                && own.verdict == Verdict::Undecided
        })
    }

    /// The refusal when everything is known that will be.
    pub fn last_refusal(&self, constraints: &OptimizationConstraints) -> Option<String> {
        let found = constraints.judge(&self.figures);
        let against = found.iter().filter(|own| own.verdict != Verdict::Met);
        let words: Vec<String> = against.map(super::constraints::Finding::in_words).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// The best.
#[derive(Debug, Clone, Serialize)]
pub struct Winner {
    /// Its row.
    pub row: usize,
    /// The artifact that has the name now; none on a dry run.
    pub manifest: Option<ManifestId>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    /// The best, if any fits.
    pub winner: Option<Winner>,
    /// Every candidate on every hardware.
    pub rows: Vec<Row>,
    /// Candidates of which something was computed that was not known before.
    pub computed: u64,
    /// What would have to give, if none fits.
    pub misses: Vec<String>,
    /// What else is to be said.
    pub notes: Vec<String>,
    /// The currency of all costs.
    pub currency: String,
    /// The prices that count.
    pub prices: Vec<Price>,
    /// Tokens that candidates were evaluated on, all together; without those of earlier runs.
    pub tokens_read: u64,
}
