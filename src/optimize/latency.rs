//! What a workload gets of a model on hardware: times by percentile, throughput, memory, money. Pure.

use serde::{Deserialize, Serialize};

use super::constraints::{LatencyOf, Percentile};
use super::figure::Figure;
use super::roofline::{Roofline, between};
use super::workload::Workload;

/// Times of one kind, by percentile.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Times {
    /// The middle request's, in milliseconds.
    pub p50: Figure,
    /// All but a tenth's.
    pub p90: Figure,
    /// All but a twentieth's.
    pub p95: Figure,
    /// All but a hundredth's.
    pub p99: Figure,
}

impl Times {
    /// One of them.
    pub const fn at(&self, percentile: Percentile) -> Figure {
        match percentile {
            Percentile::P50 => self.p50,
            Percentile::P90 => self.p90,
            Percentile::P95 => self.p95,
            Percentile::P99 => self.p99,
        }
    }

    fn of(figure: impl Fn(Percentile) -> Figure) -> Self {
        let [p50, p90, p95, p99] = Percentile::ALL.map(figure);
        Self { p50, p90, p95, p99 }
    }
}

/// How fast a model is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Until the first token.
    pub first_token_ms: Times,
    /// Between tokens after it.
    pub per_token_ms: Times,
    /// Whole requests.
    pub request_ms: Times,
    /// Tokens made in a second, of all requests together.
    pub tokens_per_second: Figure,
}

impl Speed {
    /// What was measured: milliseconds by percentile (50, 90, 95, 99) until the first token, between tokens, and of
    /// requests, and tokens in a second; all within a factor of `spread`.
    pub fn measured(milliseconds: [[f64; 4]; 3], tokens_per_second: f64, spread: f64) -> Self {
        let figure = |value: f64| Figure::measured(value, value / spread, value * spread);
        let times = |own: [f64; 4]| {
            let [p50, p90, p95, p99] = own.map(figure);
            Times { p50, p90, p95, p99 }
        };
        let [first_token_ms, per_token_ms, request_ms] = milliseconds.map(times);
        let tokens_per_second = figure(tokens_per_second);
        Self { first_token_ms, per_token_ms, request_ms, tokens_per_second }
    }

    /// The times of one kind.
    pub const fn times(&self, of: LatencyOf) -> &Times {
        match of {
            LatencyOf::FirstToken => &self.first_token_ms,
            LatencyOf::PerToken => &self.per_token_ms,
            LatencyOf::Request => &self.request_ms,
        }
    }

    /// Money for a million tokens on a machine that costs so much by the hour and is idle for the rest of the
    /// time.
    pub fn cost(&self, per_hour: f64, utilization_percent: u64) -> Figure {
        let busy = utilization_percent.clamp(1, 100) as f64 / 100.0;
        self.tokens_per_second.falling(|tokens| per_hour / (tokens * 3600.0 * busy) * 1e6)
    }
}

/// Why a model is not run so.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{need:.2} GB with one request's cache do not fit into {have:.2} GB of {title}")]
pub struct DoesNotFit {
    need: f64,
    have: f64,
    title: String,
}

/// What somebody else's model is asked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Asked<'a> {
    /// The device, by its name here.
    pub device: &'a str,
    /// How many of them share the model.
    pub count: f64,
    /// The engine, by its name here.
    pub engine: &'a str,
    /// How weights are stored, in the words of the table of kernels.
    pub weights: &'a str,
    /// Tokens of a prompt.
    pub input: f64,
    /// Tokens of an answer.
    pub output: f64,
    /// Requests that run at a time.
    pub running: f64,
}

/// What it says.
#[derive(Debug, Clone, PartialEq)]
pub struct Steps {
    /// Seconds to read one prompt.
    pub prefill: f64,
    /// Seconds to make one more token of each request that runs.
    pub decode: f64,
    /// The factor that both are within, nine times in ten.
    pub band: f64,
    /// Where they come from.
    pub source: String,
}

/// Requests that run at a time.
///
/// # Errors
/// If not one fits.
pub fn running(roofline: &Roofline<'_>, workload: &Workload) -> Result<f64, DoesNotFit> {
    let longest = workload.longest() as f64;
    let fitting = roofline.fits(longest);
    if fitting < 1.0 {
        let need = roofline.memory(longest, 1.0) / 1e9;
        let (have, title) = (roofline.device.memory * 0.9, roofline.device.title.clone());
        return Err(DoesNotFit { need, have, title });
    }
    Ok((workload.concurrency as f64).min(fitting))
}

/// The speed that a workload sees, and the bytes on each device: requests run all the time, as many as there are
/// users, or as fit beside the weights; the others wait. Times of one prompt and of one step are those of `steps`,
/// where there are any.
///
/// # Errors
/// If not one request fits.
pub fn modelled(
    roofline: &Roofline<'_>,
    workload: &Workload,
    steps: Option<&Steps>,
) -> Result<(Speed, Figure), DoesNotFit> {
    let (input, output) = workload.mean();
    let users = workload.concurrency as f64;
    let running = running(roofline, workload)?;
    let own = roofline.prefill(input, 1.0);
    let read = steps.map_or(own, |steps| steps.prefill);
    // Prompts of other lengths take as much more or less as they do here.
    let prefill = |input: f64| roofline.prefill(input, 1.0) * (read / own);
    let decode = match steps {
        Some(steps) => steps.decode,
        None => roofline.decode(input + output / 2.0, running),
    };
    let between = between((decode, read), output, running);
    let turn = read + (output - 1.0).max(0.0) * between;
    // Whoever finds the machine full waits for a place, and the step that runs is finished first.
    let step = if running > 1.0 { decode } else { 0.0 };
    let waits = (users / running - 1.0) * turn + step;
    let first = |input: f64| waits + prefill(input);
    let band = steps.map_or(roofline.kernels.band, |steps| steps.band);
    let longest = workload.longest() as f64;
    let time = |seconds: f64| Figure::modelled(seconds * 1e3, band);
    let speed = Speed {
        first_token_ms: Times::of(|own| {
            time(workload.quantile(|input, _| first(input), own.share()))
        }),
        per_token_ms: Times::of(|_| time(between)),
        request_ms: Times::of(|own| {
            let whole = |input, output: f64| first(input) + (output - 1.0).max(0.0) * between;
            time(workload.quantile(whole, own.share()))
        }),
        tokens_per_second: Figure::modelled(running * output / turn, band),
    };
    // Weights are exact, and caches are what they are.
    Ok((speed, Figure::exact(roofline.memory(longest, running))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimize::hardware::{Hardware, host};
    use crate::optimize::kernels::{find, rows};
    use crate::optimize::shape::{ModelShape, Stored};

    const LLAMA: ModelShape = ModelShape {
        layers: 32.0,
        hidden: 4096.0,
        queries: 4096.0,
        keys: 1024.0,
        kv_heads: 8.0,
        vocabulary: 128_256.0,
    };

    fn of(hardware: &str, bytes: f64, workload: &Workload) -> Result<(Speed, Figure), DoesNotFit> {
        let hardware = Hardware::parse(hardware, &host(2, 8 << 30)).unwrap();
        let weights = 6.98e9;
        let all_bytes = weights * bytes + 2.1e9;
        let stored = Stored { weights, bytes: weights * bytes, all_bytes, head_element: 2.0 };
        let kernels = find(rows(), "vllm", "16", &hardware.device.name).unwrap();
        let count = f64::from(hardware.count);
        let roofline =
            Roofline { shape: &LLAMA, stored: &stored, device: &hardware.device, count, kernels };
        modelled(&roofline, workload, None)
    }

    #[test]
    fn more_users_make_more_tokens_more_slowly_until_caches_are_full() {
        let at = |users| {
            let (speed, memory) =
                of("a100", 2.0, &Workload::new(512, 128, users).unwrap()).unwrap();
            (speed.tokens_per_second.value, speed.per_token_ms.p50.value, memory.value)
        };
        let mut before = at(1);
        assert!((before.1 - 11.8).abs() < 1.5, "{before:?}");
        for users in [2, 8, 64, 256] {
            let own = at(users);
            assert!(own.0 > before.0 && own.1 > before.1 && own.2 > before.2, "{users}: {own:?}");
            before = own;
        }
        // All that fit run; more wait.
        let (many, more) = (at(2000), at(4000));
        assert!((many.0 - more.0).abs() < 1e-6 && many.2 < 80e9);
        let first = |users| {
            let own = of("a100", 2.0, &Workload::new(512, 128, users).unwrap()).unwrap().0;
            own.first_token_ms.p50.value
        };
        assert!(first(4000) > 2.0 * first(1500));
    }

    #[test]
    fn what_does_not_fit_is_said_and_splitting_helps() {
        let one = Workload::default();
        let said = of("t4", 2.0, &one).unwrap_err().to_string();
        assert!(said.contains("do not fit into 14.40 GB of NVIDIA T4"), "{said}");
        let (single, whole) = of("l4", 2.0, &one).unwrap();
        let (split, part) = of("l4x2", 2.0, &one).unwrap();
        assert!(split.per_token_ms.p50.value < single.per_token_ms.p50.value);
        assert!(part.value < whole.value * 0.6);
        assert!(of("t4x2", 2.0, &one).is_ok());
    }

    #[test]
    fn cost_is_price_by_tokens_and_idle_time_costs() {
        let (speed, _) = of("h100", 2.0, &Workload::default()).unwrap();
        let tokens = speed.tokens_per_second;
        let cost = speed.cost(3.6, 100);
        assert!((cost.value - 1000.0 / tokens.value).abs() < 1e-9);
        assert!(cost.low < cost.value && cost.high > cost.value);
        assert!((speed.cost(3.6, 50).value / cost.value - 2.0).abs() < 1e-12);
        let mixed = Workload::parse("100 10\n100 10\n4000 500", 1).unwrap();
        let (speed, _) = of("h100", 2.0, &mixed).unwrap();
        assert!(speed.request_ms.p95.value > 5.0 * speed.request_ms.p50.value);
        assert_eq!(
            speed.times(LatencyOf::FirstToken).at(Percentile::P50),
            speed.first_token_ms.p50
        );
    }
}
