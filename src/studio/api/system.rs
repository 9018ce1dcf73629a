//! The service itself: who asks, presets, workers, health, metrics.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::asking::{Asking, Shared};
use crate::jobs::State as JobState;
use crate::quantize::produce::PRESETS;
use crate::studio::problem::Problem;
use crate::studio::tokens::Role;

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

pub(super) async fn workers(
    State(studio): State<Shared>,
    asking: Asking,
) -> Result<Json<Value>, Problem> {
    if asking.0.role != Role::Operator {
        return Err(Problem::new(StatusCode::FORBIDDEN, "workers are an operator's matter"));
    }
    let seen = studio.jobs(|jobs| jobs.workers()).await?;
    let shown = seen.iter().map(|worker| {
        json!({
            "name": worker.name, "started_at": super::shown::date(worker.started_at),
            "seen_at": super::shown::date(worker.seen_at), "job": worker.job,
        })
    });
    Ok(Json(json!({"workers": shown.collect::<Vec<_>>()})))
}

pub(super) async fn health() -> Json<Value> {
    Json(json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

pub(super) async fn ready(State(studio): State<Shared>) -> Result<Json<Value>, Problem> {
    studio.jobs(|jobs| jobs.check()).await?;
    Ok(Json(json!({"status": "ready"})))
}

/// Figures for Prometheus.
pub(super) async fn metrics(State(studio): State<Shared>) -> Result<Response, Problem> {
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
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response())
}
