//! What to try, on what, and by what to judge.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::candidate::Candidate;
use super::constraints::Objective;
use super::endpoint::Endpoint;
use super::fits::Runner;
use super::hardware::Hardware;
use super::outcome::Row;
use super::prices::Prices;
use super::workload::Workload;
use crate::quantize::source::ModelSource;

/// What to try, and by what to judge.
#[derive(Debug)]
#[non_exhaustive]
pub struct OptimizeOptions {
    /// What is tried.
    pub candidates: Vec<Candidate>,
    /// Whether the fewest bits that keep limits of quality are sought as well.
    pub solve_bits: bool,
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
    /// Servers that tell what candidates lose; none: they are run here.
    pub quality_at: Vec<Endpoint>,
    /// Servers whose speed is measured.
    pub measure_at: Vec<Endpoint>,
    /// A Python that has AIConfigurator, whose kernel data count before this program's own table.
    pub kernel_data: Option<PathBuf>,
    /// The key of all of them.
    pub api_key: Option<String>,
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
            solve_bits: false,
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
            quality_at: Vec::new(),
            measure_at: Vec::new(),
            kernel_data: None,
            api_key: None,
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
    /// What the user calls it.
    pub called: &'a str,
}

impl OptimizeOptions {
    /// Servers that may serve a candidate on that hardware.
    pub(super) fn measured_at<'o>(&'o self, method: &str, hardware: &str) -> Vec<&'o Endpoint> {
        let choices = self.hardware.len();
        let here = |own: &&Endpoint| own.may_serve(method, Some(hardware), choices);
        self.measure_at.iter().filter(here).collect()
    }

    /// Whether its speed on hardware is measured, and not only modelled.
    pub(super) fn measures(&self, method: &str, hardware: &Hardware) -> bool {
        hardware.is_host() || !self.measured_at(method, &hardware.name()).is_empty()
    }
}

/// Hears how it goes on.
pub trait Watch {
    /// All that is tried, with what is known without work.
    fn begin(&self, _: &[Row]) {}
    /// A candidate is at a stage, or out.
    fn at(&self, candidate: &str, stage: &str);
    /// This much is known of a candidate on hardware by now.
    fn known(&self, _: &Row) {}
}

/// Nobody hears.
impl Watch for () {
    fn at(&self, _: &str, _: &str) {}
}
