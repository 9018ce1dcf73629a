//! Speed that is measured on this machine.

use tokio::runtime::Handle;

use super::latency::Speed;
use super::workload::Workload;
use crate::engine::{self, EngineOptions, ModelOptions};
use crate::serve::speed::{Embedded, Level, Percentiles, Plan, Spread, measure};
use crate::store::artifact::Artifact;

/// How often it is measured.
const REPEATS: usize = 3;
/// No two measurements are nearer than this, whatever they say.
const LEAST_SPREAD: f64 = 1.03;
/// Repeats that are further apart than this say nothing.
const MOST_SPREAD: f64 = 4.0;

/// How fast the embedded engine runs an artifact here, under a workload: all figures measured, with their
/// intervals.
///
/// # Errors
/// If it cannot be measured, or the machine is too noisy: the reason, in words.
pub(super) fn measure_host(
    artifact: Artifact,
    workload: &Workload,
    runtime: &Handle,
) -> Result<Speed, String> {
    let (model, mut options) = (ModelOptions::default(), EngineOptions::default());
    let (input, output) = workload.mean();
    let (input, output) = (input.round().max(1.0) as usize, output.round().max(1.0) as usize);
    let concurrency = usize::try_from(workload.concurrency).unwrap_or(usize::MAX);
    options.max_concurrent = options.max_concurrent.max(concurrency);
    let running =
        engine::open(artifact, &[], &model, options, runtime).map_err(|error| error.to_string())?;
    running.wait().map_err(|error| error.to_string())?;
    let info = running.engine().info();
    if !info.generates {
        return Err("the model makes embeddings, and no text".to_owned());
    }
    if input + output > info.max_context {
        return Err(format!(
            "requests of {} tokens, and the engine takes {}",
            input + output,
            info.max_context
        ));
    }
    let plan =
        Plan { concurrency: vec![concurrency], input, output, requests: None, repeats: REPEATS };
    let target = Embedded(running.engine());
    let (levels, failed) = runtime.block_on(measure(&target, &plan, &|_| {}));
    if let Some(why) = failed {
        return Err(why);
    }
    let level = levels.last().ok_or("nothing was measured")?;
    speed(level, output)
}

/// What a level says. A request takes what its first token took, and each of the others.
fn speed(level: &Level, output: usize) -> Result<Speed, String> {
    let of = |own: &Percentiles| [own.p50, own.p90, own.p95, own.p99];
    let first = level.ttft_ms.as_ref().map(of).ok_or("no first token was timed")?;
    // Answers of one token have nothing between.
    let next = level.tpot_ms.as_ref().map_or([0.0; 4], of);
    let mut whole = first;
    for (whole, next) in whole.iter_mut().zip(next) {
        *whole += next * output.saturating_sub(1) as f64;
    }
    let spreads = &level.spread;
    let factor =
        |own: &Option<Spread>| own.as_ref().map_or(1.0, |own| (own.max / own.min.max(1e-9)).sqrt());
    let spread = factor(&spreads.tokens_per_second)
        .max(factor(&spreads.ttft_ms_p50))
        .max(factor(&spreads.tpot_ms_p50))
        .max(LEAST_SPREAD);
    if !spread.is_finite() || spread > MOST_SPREAD {
        return Err(format!(
            "the machine is too noisy: repeats are {:.1} times apart",
            spread * spread
        ));
    }
    Ok(Speed::measured([first, next, whole], level.tokens_per_second, spread))
}
