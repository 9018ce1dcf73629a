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
        let on = json!({"cores": setting.cores, "processor": processor()});
        let key = speed_key(id, setting.workload, &on)?;
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

/// What this machine's processor calls itself.
fn processor() -> String {
    let told = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = told.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.to_owned())
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;

    use super::*;
    use crate::serve::speed::{Prompt, Timing};

    /// Answers in a time that is another one for each of its first requests.
    struct Noisy {
        asked: AtomicUsize,
        noisy_for: usize,
        dies_after: usize,
    }

    #[async_trait]
    impl Target for Noisy {
        async fn prepare(&self, _: usize, _: u64) -> Result<Prompt, String> {
            Ok(Prompt::Tokens(vec![1]))
        }

        async fn complete(&self, _: &Prompt, output: usize) -> Result<Timing, String> {
            let asked = self.asked.fetch_add(1, Ordering::SeqCst);
            if asked >= self.dies_after {
                return Err("the connection was reset".to_owned());
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
            // Each repeat of six is fifty times slower than the one before.
            let slow =
                if asked < self.noisy_for { 50_f64.powi((asked as i32 - 1) / 6) } else { 1.0 };
            Ok(Timing { first: 0.001 * slow, last: 0.002 * slow, tokens: output, prompt: Some(1) })
        }
    }

    fn speed_of(noisy_for: usize, dies_after: usize) -> (Result<Speed, String>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let target = Noisy { asked: AtomicUsize::new(0), noisy_for, dies_after };
        let workload = Workload::new(1, 2, 1).unwrap();
        let found = runtime.block_on(measured(&target, &workload));
        (found, target.asked.into_inner())
    }

    #[test]
    fn a_noisy_machine_is_measured_again_and_then_refused() {
        let (quiet, asked) = speed_of(0, usize::MAX);
        assert_eq!((quiet.unwrap().first_token_ms.p50.value, asked), (1.0, 1 + REPEATS * 6));
        // Noise that goes away.
        let (found, more) = speed_of(asked, usize::MAX);
        assert_eq!(
            (found.unwrap().first_token_ms.p50.value, more),
            (1.0, asked + 1 + (REPEATS + 2) * 6)
        );
        let (found, again) = speed_of(usize::MAX, usize::MAX);
        let said = found.unwrap_err();
        assert!(said.contains("too noisy") && again == more, "{said}");
    }

    #[test]
    fn an_engine_that_dies_says_nothing_of_speed() {
        for after in [0, 3, 18] {
            let (found, _) = speed_of(0, after);
            assert_eq!(found.unwrap_err(), "the connection was reset", "{after}");
        }
    }
}
