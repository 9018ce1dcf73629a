//! `tenpak optimize`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::error::Failure;
use super::optimize_board::Board;
use super::output::Output;
use super::publishing::Publishing;
use super::{Global, artifact};
use crate::format::name::ArtifactSpec;
use crate::optimize::candidate::Candidate;
use crate::optimize::constraints::{LatencyOf, Objective, Percentile, number};
use crate::optimize::endpoint::Endpoint;
use crate::optimize::figure::Figure;
use crate::optimize::fits::Runner;
use crate::optimize::hardware::{Hardware, host};
use crate::optimize::outcome::Row;
use crate::optimize::prices::Prices;
use crate::optimize::report::{About, html};
use crate::optimize::workload::Workload;
use crate::optimize::{
    OptimizationConstraints, OptimizeError, OptimizeOptions, Outcome, Subject, Watch,
    optimize_model,
};
use crate::quantize::lm::Text;

#[derive(Debug, clap::Args)]
pub(super) struct Optimize {
    /// The model: a folder, or an artifact of the store
    #[arg(value_name = "MODEL")]
    model: String,
    /// The name that the best candidate gets; the tag is `latest` if left out. Candidates are kept under tags of it
    #[arg(long, value_name = "NAME[:TAG]", value_parser = artifact)]
    name: ArtifactSpec,
    /// The most that perplexity may rise, in percent of the unquantized model's
    #[arg(long, value_name = "PERCENT", allow_negative_numbers = true)]
    max_ppl_delta: Option<f64>,
    /// The most mean KL divergence from the unquantized model, in nats per token
    #[arg(long, value_name = "NATS")]
    max_kl: Option<f64>,
    /// The most milliseconds; see --latency and --percentile
    #[arg(long, value_name = "MS")]
    max_latency_ms: Option<f64>,
    /// Of what: first-token, per-token or request
    #[arg(long, value_name = "OF", default_value = "per-token")]
    latency: LatencyOf,
    /// Of which requests: p50, p90, p95 or p99
    #[arg(long, value_name = "P", default_value = "p50")]
    percentile: Percentile,
    /// The fewest tokens made in a second, of all requests together
    #[arg(long, value_name = "N")]
    min_tokens_per_s: Option<f64>,
    /// How many times smaller all tensors together become, at least
    #[arg(long, value_name = "X")]
    min_compression: Option<f64>,
    /// The most memory of each device, such as 20GB or 16GiB
    #[arg(long, value_name = "SIZE", value_parser = super::bytes::parse)]
    max_memory: Option<u64>,
    /// On what it is to run: host, cpu, t4, a10g, l4, l40s, a100-40, a100, h100, h200 or mi300x, with xN for N of them
    /// (repeatable: the best hardware is part of the answer) [default: host]
    #[arg(long, value_name = "H")]
    hardware: Vec<String>,
    /// With what: embedded, vllm, sglang, transformers or llama.cpp [default: the fastest that is known to load it]
    #[arg(long, value_name = "ENGINE")]
    engine: Option<Runner>,
    /// Tokens of a prompt [default: 512, or half of what the model takes]
    #[arg(long, value_name = "N", conflicts_with = "requests")]
    input_tokens: Option<u64>,
    /// Tokens of an answer [default: 128, or a quarter of what the model takes]
    #[arg(long, value_name = "N", conflicts_with = "requests")]
    output_tokens: Option<u64>,
    /// Requests at once
    #[arg(long, value_name = "N", default_value_t = 1)]
    concurrency: u64,
    /// Real requests: a file with the tokens of a prompt and of its answer on each line
    #[arg(long, value_name = "FILE")]
    requests: Option<PathBuf>,
    /// How busy the hardware is, in percent: idle time is paid as well
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    utilization: u64,
    /// What is to be the least: cost, latency, memory or quality (what is lost of it)
    #[arg(long, value_name = "O", default_value = "cost")]
    objective: Objective,
    /// What is tried: presets, all, or names with commas between them: presets, methods, w8a8, mixed_4.5 and such, mixed
    /// (as few bits as limits of quality allow), and unquantized
    #[arg(long, value_name = "LIST", default_value = "presets")]
    candidates: String,
    /// Prices, in TOML: they count before the command's own
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// The text that quality is measured on: a file in UTF-8 [default: the built-in calibration text]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Tokens per window of it [default: as many as `eval ppl`, or fewer where there would be few windows]
    #[arg(long, value_name = "N")]
    context: Option<usize>,
    /// The text to calibrate with: a file in UTF-8
    #[arg(long, value_name = "FILE")]
    calibration: Option<PathBuf>,
    /// Samples drawn from it
    #[arg(long, value_name = "N", default_value_t = 128)]
    samples: u32,
    /// Tokens per sample
    #[arg(long, value_name = "N", default_value_t = 512)]
    sample_length: u32,
    /// The seed for drawing them
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The probability that any candidate is kept or dropped against the truth for its quality
    #[arg(long, value_name = "P", default_value_t = 0.01)]
    error: f64,
    /// A server that tells what candidates lose, for models that are not run here: it speaks as OpenAI's does and gives
    /// log-probabilities of prompts (vLLM's prompt_logprobs, or echo with logprobs), of the unquantized model and of
    /// candidates; METHOD= before it where it serves one, #MODEL after it where it calls that otherwise (repeatable)
    #[arg(long, value_name = "[METHOD=]URL")]
    quality_at: Vec<Endpoint>,
    /// A server of candidates whose speed is measured, as `eval speed` does it, in place of being modelled; it runs on
    /// --hardware, @HARDWARE says on which of several (repeatable)
    #[arg(long, value_name = "[METHOD[@HARDWARE]=]URL")]
    measure_at: Vec<Endpoint>,
    /// By what speed is modelled: this command's own table of kernels, or before it the kernel data of AIConfigurator,
    /// where that has them
    #[arg(long, value_name = "M", default_value = "own", value_parser = ["own", "aiconfigurator"])]
    latency_model: String,
    /// The Python that has AIConfigurator
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,
    /// The key of these servers
    #[arg(long, value_name = "KEY", env = "TENPAK_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Begin nothing new after so many seconds, and choose among what is known then
    #[arg(long, value_name = "SECONDS")]
    time_limit: Option<u64>,
    /// Write what was found as a page of HTML
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Say what would be tried and what is known, and do nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    publishing: Publishing,
}

impl From<OptimizeError> for Failure {
    fn from(error: OptimizeError) -> Self {
        match error {
            OptimizeError::Produce(error) => (*error).into(),
            OptimizeError::Lm(error) => error.into(),
            OptimizeError::Source(error) => error.into(),
            OptimizeError::Pack(error) => error.into(),
            OptimizeError::Maintain(error) => error.into(),
            OptimizeError::Store(error) => error.into(),
            OptimizeError::Json(_)
            | OptimizeError::Defect(_)
            | OptimizeError::Packing(_)
            | OptimizeError::NotCalibrated
            | OptimizeError::Later
            | OptimizeError::Served(_)
            | OptimizeError::Elsewhere => Self::failed(error),
            other => Self::usage(other),
        }
    }
}

/// A file of text that an option names.
fn read(option: &str, path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{option} {}: {error}", path.display())))
}

/// Bytes of this machine's memory; none where it does not say.
fn memory() -> u64 {
    let told = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = told.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map_or(64 << 30, |kib| kib * 1024)
}

impl Optimize {
    pub(super) fn run(
        self,
        global: &Global,
        runtime: &Handle,
        output: &Output,
    ) -> Result<(), Failure> {
        let ArtifactSpec::Named { name, tag } = &self.name else {
            return Err(Failure::usage("--name takes a name, not an id"));
        };
        let constraints = self.constraints();
        constraints.check().map_err(Failure::usage)?;
        let source = Arc::new(global.model(&self.model, runtime, output)?);
        let options = self.options(source.config().ok())?;
        let store = global.store()?;
        let path = Path::new(&self.model);
        let folder = (source.as_artifact().is_none() && path.exists()).then_some(path);
        let subject = Subject { model: &source, folder, called: &self.model };
        let packing = || {
            self.publishing
                .options(global)
                .map_err(|failure| OptimizeError::Packing(failure.message))
        };
        // Whatever is wrong with keys is said before any work, and by its own status.
        self.publishing.options(global)?;
        let board = Board::new(output, options.time_limit);
        let names = (name, tag);
        let watch = (runtime, &board as &dyn Watch);
        let outcome =
            optimize_model(subject, &store, names, &constraints, &options, &packing, watch);
        board.close();
        let outcome = outcome?;
        if !self.dry_run {
            output.made(&store);
        }
        for note in &outcome.notes {
            output.note(note);
        }
        let named = format!("{name}:{tag}");
        if let Some(path) = &self.report {
            let page = html(&outcome, &self.about(&constraints, &options, &named));
            std::fs::write(path, page).map_err(|error| {
                Failure::failed(format!("--report {}: {error}", path.display()))
            })?;
        }
        let seconds = board.seconds();
        output.result(self.object(&outcome, &constraints, &named, seconds), || {
            self.table(&outcome, &named, seconds)
        })?;
        if outcome.winner.is_none() && !self.dry_run {
            let misses = match outcome.misses.is_empty() {
                true => String::new(),
                false => format!(": {}", outcome.misses.join("; ")),
            };
            return Err(Failure::told(super::error::FAILED, format!("nothing fits{misses}")));
        }
        Ok(())
    }

    fn constraints(&self) -> OptimizationConstraints {
        OptimizationConstraints {
            max_ppl_delta: self.max_ppl_delta,
            max_kl: self.max_kl,
            max_latency_ms: self.max_latency_ms,
            percentile: self.percentile,
            latency_of: self.latency,
            min_tokens_per_s: self.min_tokens_per_s,
            min_compression: self.min_compression,
            max_memory: self.max_memory,
        }
    }

    fn options(&self, config: Option<&Value>) -> Result<OptimizeOptions, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, |own| own.get() as u32);
        let here = host(cores, memory());
        let mut hardware = Vec::new();
        for text in &self.hardware {
            let own = Hardware::parse(text, &here).map_err(Failure::usage)?;
            if !hardware.contains(&own) {
                hardware.push(own);
            }
        }
        if hardware.is_empty() {
            hardware.push(here);
        }
        if !(self.error > 0.0 && self.error < 0.5) {
            return Err(Failure::usage(format!("--error {}: give 0 to 0.5", self.error)));
        }
        let mut options = OptimizeOptions::new(hardware);
        options.candidates = Candidate::parse(&self.candidates).map_err(Failure::usage)?;
        options.solve_bits = Candidate::solves(&self.candidates);
        options.engine = self.engine;
        options.workload = self.workload(config)?;
        options.objective = self.objective;
        if let Some(path) = &self.prices {
            let own = Prices::parse(&read("--prices", path)?);
            let wrong = |error| Failure::usage(format!("--prices {}: {error}", path.display()));
            options.prices = Prices::own().overridden_by(own.map_err(wrong)?);
        }
        options.cores = cores;
        options.text = self.text.as_deref().map(Text::read).transpose()?;
        options.context = self.context;
        options.calibration = self.calibration.as_deref().map(Text::read).transpose()?;
        options.samples = (self.samples as usize, self.sample_length as usize);
        options.seed = self.seed;
        options.error = self.error;
        options.quality_at = self.quality_at.clone();
        options.measure_at = self.measure_at.clone();
        options.api_key = self.api_key.clone();
        let other = self.latency_model == "aiconfigurator";
        options.kernel_data = other.then(|| self.python.clone());
        options.time_limit = self.time_limit.map(Duration::from_secs);
        options.dry_run = self.dry_run;
        Ok(options)
    }

    fn workload(&self, config: Option<&Value>) -> Result<Workload, Failure> {
        let workload = match &self.requests {
            Some(path) => {
                let text = read("--requests", path)?;
                Workload::parse(&text, self.concurrency).map_err(|error| {
                    Failure::usage(format!("--requests {}: {error}", path.display()))
                })?
            }
            None => {
                let most = config.and_then(|own| own.get("max_position_embeddings"));
                let most = most.and_then(Value::as_u64).unwrap_or(u64::MAX);
                let input = self.input_tokens.unwrap_or_else(|| 512.min(most / 2).max(1));
                let output = self.output_tokens.unwrap_or_else(|| 128.min(most / 4).max(1));
                Workload::new(input, output, self.concurrency).map_err(Failure::usage)?
            }
        };
        workload.utilized(self.utilization).map_err(Failure::usage)
    }

    fn about(
        &self,
        constraints: &OptimizationConstraints,
        options: &OptimizeOptions,
        named: &str,
    ) -> About {
        let (input, output) = options.workload.mean();
        About {
            model: self.model.clone(),
            name: named.to_owned(),
            limits: constraints
                .limits()
                .map(|(limit, bound)| format!("{} {}", limit.flag(), number(bound)))
                .collect(),
            objective: self.objective.name().to_owned(),
            workload: format!(
                "Prompts of {} tokens, answers of {}, {} at once, on hardware that is busy {}% of the time; latency \
                 is {} ({}).",
                number(input),
                number(output),
                self.concurrency,
                self.utilization,
                self.latency.name(),
                self.percentile.name()
            ),
        }
    }

    fn object(
        &self,
        outcome: &Outcome,
        constraints: &OptimizationConstraints,
        named: &str,
        seconds: f64,
    ) -> Value {
        let winner = outcome.winner.as_ref().and_then(|own| {
            let mut object = self.row(outcome.rows.get(own.row)?);
            object["artifact"] = json!(named);
            object["manifest"] = json!(own.manifest);
            Some(object)
        });
        let limits = constraints.limits();
        let limits: serde_json::Map<String, Value> =
            limits.map(|(limit, bound)| (limit.flag().to_owned(), json!(bound))).collect();
        json!({
            "winner": winner,
            "candidates": outcome.rows.iter().map(|row| self.row(row)).collect::<Vec<_>>(),
            "computed": outcome.computed,
            "misses": outcome.misses,
            "notes": outcome.notes,
            "currency": outcome.currency,
            "prices": outcome.prices,
            "limits": limits,
            "objective": self.objective.name(),
            "tokens_read": outcome.tokens_read,
            "dry_run": self.dry_run,
            "seconds": seconds,
        })
    }

    fn row(&self, row: &Row) -> Value {
        let value = |figure: Option<Figure>| figure.map(|own| own.value);
        let figures = &row.figures;
        let times = row.speed.as_ref().map(|own| own.times(self.latency));
        json!({
            "artifact": row.artifact,
            "manifest": row.manifest,
            "method": row.method,
            "hardware": row.hardware,
            "engine": row.engine.map(Runner::name),
            "cost_per_1m_tokens": value(figures.cost_per_1m_tokens),
            "latency_p50_ms": times.map(|own| own.p50.value),
            "latency_p95_ms": times.map(|own| own.p95.value),
            "tokens_per_second": value(figures.tokens_per_second),
            "ppl_delta_percent": value(figures.ppl_delta_percent),
            "kl": value(figures.kl),
            "compression": value(figures.compression),
            "memory_bytes": value(figures.memory).map(|own| own as u64),
            "raw_bytes": row.bytes,
            "measured": row.measured,
            "speed_source": row.speed_source,
            "per_hour": row.per_hour,
            "ranges": figures,
            "speed": row.speed,
            "quality": row.quality,
            "dropped": row.dropped,
            "notes": row.notes,
            "front": row.front,
        })
    }

    fn table(&self, outcome: &Outcome, named: &str, seconds: f64) -> String {
        let cell = |figure: Option<Figure>| figure.map_or("-".to_owned(), |own| number(own.value));
        let mut text = format!(
            "{:<16} {:<9} {:<12} {:>10} {:>7} {:>8} {:>9} {:>10} {:>9} {:>10}\n",
            "method",
            "hardware",
            "engine",
            "size",
            "smaller",
            "ppl %",
            "KL",
            "ms",
            "tokens/s",
            format!("{}/1M", outcome.currency)
        );
        let best = outcome.winner.as_ref().map(|own| own.row);
        for (at, row) in outcome.rows.iter().enumerate() {
            let figures = &row.figures;
            text += &format!(
                "{:<16} {:<9} {:<12} {:>10} {:>7} {:>8} {:>9} {:>10} {:>9} {:>10}{}\n",
                row.method,
                row.hardware,
                row.engine.map_or("-", Runner::name),
                row.bytes.map_or("-".to_owned(), super::bytes::size),
                cell(figures.compression),
                cell(figures.ppl_delta_percent),
                cell(figures.kl),
                cell(figures.latency_ms),
                cell(figures.tokens_per_second),
                cell(figures.cost_per_1m_tokens),
                if best == Some(at) { "  <- the best" } else { "" },
            );
            if let Some(why) = &row.dropped {
                text += &format!("    dropped: {why}\n");
            }
        }
        if self.dry_run {
            return text;
        }
        match outcome.winner.as_ref().and_then(|own| Some((own, outcome.rows.get(own.row)?))) {
            Some((own, row)) => {
                let id = own.manifest.map(|id| format!("  @{id}")).unwrap_or_default();
                let how = if row.measured { "measured" } else { "modelled" };
                text += &format!(
                    "{named}{id}\n{} on {}, speed {how}; {} candidates computed, in {seconds:.2} s\n",
                    row.method, row.hardware, outcome.computed
                );
            }
            None => text += "nothing fits\n",
        }
        text
    }
}
