//! The service itself: who asks, presets, hardware, health, metrics.

use axum::Json;
use axum::extract::State;
use serde_json::{Value, json};

use super::asking::{Asking, Shared};
use crate::jobs::State as JobState;
use crate::optimize::hardware::{HOST, Hardware, devices, host};
use crate::optimize::prices::Prices;
use crate::quantize::produce::PRESETS;
use crate::studio::problem::Problem;

pub(super) async fn me(State(studio): State<Shared>, asking: Asking) -> Json<Value> {
    let caller = &asking.0;
    Json(json!({
        "name": caller.name, "tenant": caller.tenant, "role": caller.role.name(),
        "tokens": studio.tokens.are_needed(),
        "quota": {"running": caller.quota.running, "active": caller.quota.active, "daily": caller.quota.daily},
    }))
}

pub(super) async fn presets() -> Json<Value> {
    let shown = PRESETS.iter().map(|preset| {
        let recipe = preset.recipe();
        json!({
            "preset": preset.name, "method": recipe.method, "format": recipe.format, "bits": recipe.bits,
            "group_size": recipe.group_size.map_or(-1, i64::from),
            "size_ratio": (recipe.size_ratio() * 100.0).round() / 100.0,
            "calibration": recipe.method.is_calibrated(),
        })
    });
    Json(json!({"presets": shown.collect::<Vec<_>>()}))
}

/// What models may be optimized for.
pub(super) async fn hardware() -> Json<Value> {
    let prices = Prices::own();
    let here = host(1, 1 << 30);
    let shown = devices().iter().map(|device| {
        let hardware = Hardware::parse(&device.name, &here).ok();
        let price =
            hardware.and_then(|hardware| prices.of(&hardware, 1).map(|(per_hour, _)| per_hour));
        json!({"hardware": device.name, "title": device.title, "memory_gb": device.memory,
            "bandwidth_gb_per_s": device.bandwidth, "per_hour": price, "source": device.source})
    });
    let mut all = vec![json!({"hardware": HOST, "title": "the worker's own machine"})];
    all.extend(shown);
    Json(json!({"hardware": all, "currency": prices.currency}))
}

pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn ready(State(studio): State<Shared>) -> Result<Json<Value>, Problem> {
    studio.jobs(|jobs| jobs.check()).await?;
    Ok(Json(json!({"status": "ready"})))
}

/// Figures for Prometheus, beside the edge's.
pub(in crate::studio) async fn figures(studio: &Shared) -> Result<String, Problem> {
    let counts = studio.jobs(|jobs| jobs.counts()).await?;
    let workers = studio.jobs(|jobs| jobs.workers()).await?;
    let mut text =
        "# HELP tenpak_studio_jobs Jobs by state.\n# TYPE tenpak_studio_jobs gauge\n".to_owned();
    for state in JobState::ALL {
        let count = counts.iter().find(|(own, _)| *own == state).map_or(0, |(_, count)| *count);
        text.push_str(&format!("tenpak_studio_jobs{{state=\"{state}\"}} {count}\n"));
    }
    let busy = workers.iter().filter(|worker| worker.job.is_some()).count();
    let up = studio.started.elapsed().as_secs();
    text.push_str(&format!(
        "# HELP tenpak_studio_workers Workers heard of in the last ten minutes.\n\
         # TYPE tenpak_studio_workers gauge\ntenpak_studio_workers {}\n\
         # HELP tenpak_studio_busy_workers Workers with a job.\n\
         # TYPE tenpak_studio_busy_workers gauge\ntenpak_studio_busy_workers {busy}\n\
         # HELP tenpak_studio_uptime_seconds Time since this server began.\n\
         # TYPE tenpak_studio_uptime_seconds gauge\ntenpak_studio_uptime_seconds {up}\n",
        workers.len()
    ));
    Ok(text)
}
