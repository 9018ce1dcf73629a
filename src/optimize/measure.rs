//! Speed that is measured: on this machine, or of a server.

use serde_json::json;
use tokio::runtime::Handle;

use super::endpoint::Endpoint;
use super::error::OptimizeError;
use super::evidence::speed_key;
use super::latency::Speed;
use super::options::Watch;
use super::outcome::{Row, Setting};
use super::served::Server;
use super::stages::Run;
use super::workload::Workload;
use crate::engine::{self, EngineOptions, ModelOptions};
use crate::serve::speed::{Embedded, Level, Percentiles, Plan, Spread, Target, measure};
use crate::store::artifact::Artifact;

/// How often it is measured.
const REPEATS: usize = 3;
/// No two measurements are nearer than this, whatever they say.
const LEAST_SPREAD: f64 = 1.03;
/// Repeats that are further apart than this say nothing.
const MOST_SPREAD: f64 = 4.0;

impl Run<'_> {
    /// Measures a candidate's speed where its hardware is this machine or a server runs it, or takes what was
    /// measured before; tells whether it was measured now.
    pub(super) fn measure(
        &mut self,
        row: &mut Row,
        setting: &Setting<'_>,
        watch: &dyn Watch,
    ) -> Result<bool, OptimizeError> {
        let servers = self.options.measured_at(&row.method, &row.hardware);
        if !servers.is_empty() {
            return self.measure_served(row, &servers, setting, watch);
        }
        let mut hardware = self.options.hardware.iter();
        let here = hardware.any(|own| own.is_host() && own.name() == row.hardware);
        let (true, Some(id)) = (here, row.manifest) else { return Ok(false) };
        let key = speed_key(id, setting.workload, &json!(setting.cores))?;
        let source = || "measured on this machine by the embedded engine".to_owned();
        if let Some(speed) = self.evidence.speed(key) {
            row.take_speed(speed, source(), setting);
            return Ok(false);
        }
        watch.at(&row.method, "measuring its speed");
        let artifact = self.workshop.open(id)?;
        match measure_host(artifact, setting.workload, self.workshop.runtime) {
            Ok(speed) => {
                watch.at(&row.method, "its speed was measured");
                self.evidence.note_speed(key, speed);
                row.take_speed(speed, source(), setting);
                Ok(true)
            }
            Err(why) => {
                let note = format!("speed on this machine is modelled, not measured: {why}");
                if !self.notes.contains(&note) {
                    self.notes.push(note);
                }
                Ok(false)
            }
        }
    }

    /// The same of a server; a candidate that cannot be measured where it is to be is out.
    fn measure_served(
        &mut self,
        row: &mut Row,
        servers: &[&Endpoint],
        setting: &Setting<'_>,
        watch: &dyn Watch,
    ) -> Result<bool, OptimizeError> {
        let Some(id) = row.manifest else { return Ok(false) };
        let Some(candidate) = self.candidates.get(row.candidate) else { return Ok(false) };
        let names = self.workshop.names(candidate, Some(id))?;
        watch.at(&row.method, "measuring its speed");
        let runtime = self.workshop.runtime;
        let found = Server::find(servers, &names, self.options.api_key.as_ref());
        let found = runtime.block_on(found).and_then(|server| {
            let source = server.words();
            let on = json!({"at": source, "hardware": row.hardware, "version": server.version});
            let key = speed_key(id, setting.workload, &on);
            if let Some(known) = key.as_ref().ok().and_then(|key| self.evidence.speed(*key)) {
                return Ok((known, source, None));
            }
            let timed = async { measured(&server.timed().await?, setting.workload).await };
            runtime.block_on(timed).map(|speed| (speed, source, Some(key)))
        });
        match found {
            Ok((speed, source, key)) => {
                row.take_speed(speed, source, setting);
                let Some(key) = key else { return Ok(false) };
                self.evidence.note_speed(key?, speed);
                watch.at(&row.method, "its speed was measured");
                Ok(true)
            }
            Err(why) => {
                row.dropped
                    .get_or_insert_with(|| format!("its speed is not known: {why} (--measure-at)"));
                Ok(false)
            }
        }
    }
}

/// How fast the embedded engine runs an artifact here, under a workload: all figures measured, with their
/// intervals.
///
/// # Errors
/// If it cannot be measured, or the machine is too noisy: the reason, in words.
fn measure_host(
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
    runtime.block_on(measured(&Embedded(running.engine()), workload))
}

/// How fast a target answers the requests of a workload. Where repeats are too far apart they are done again, more
/// of them: a machine that was busy for a while is told from one that always is.
///
/// # Errors
/// If a request is not answered, or the machine is too noisy: the reason, in words.
async fn measured(target: &dyn Target, workload: &Workload) -> Result<Speed, String> {
    let (input, output) = workload.mean();
    let (input, output) = (input.round().max(1.0) as usize, output.round().max(1.0) as usize);
    let concurrency = vec![usize::try_from(workload.concurrency).unwrap_or(usize::MAX)];
    let mut noise = String::new();
    for repeats in [REPEATS, REPEATS + 2] {
        let plan =
            Plan { concurrency: concurrency.clone(), input, output, requests: None, repeats };
        let (levels, failed) = measure(target, &plan, &|_| {}).await;
        if let Some(why) = failed {
            return Err(why);
        }
        match speed(levels.last().ok_or("nothing was measured")?, output) {
            Ok(speed) => return Ok(speed),
            Err(why) => noise = why,
        }
    }
    Err(noise)
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
