//! Jobs: listed, looked at, ended, tried again.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Asking, Segment, Shared, submit};
use crate::format::time;
use crate::jobs::{Filter, Job, State as JobState};
use crate::studio::problem::Problem;
use crate::studio::request::KINDS;
use crate::studio::tokens::Role;

/// Jobs on a page of a list.
const PAGE: usize = 50;
const MAX_PAGE: usize = 200;
/// Events that a log is made of.
const LOG: usize = 10_000;

/// A time in milliseconds as text.
pub(super) fn date(ms: i64) -> String {
    time::date(u64::try_from(ms).unwrap_or(0) / 1000)
}

/// A job as clients see it.
pub(super) fn shown(job: &Job) -> Value {
    let url = |rest: &str| format!("/jobs/{}{rest}", job.id);
    let times = [("started_at", job.started_at), ("finished_at", job.finished_at)];
    let artifact = (job.state == JobState::Succeeded).then(|| format!("/artifact/{}", job.id));
    let mut object = json!({
        "id": job.id,
        "kind": job.kind,
        "status": job.state,
        "tenant": job.tenant,
        "request": job.request,
        "priority": job.priority,
        "created_at": date(job.created_at),
        "progress": job.progress,
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "worker": job.worker,
        "result": job.result,
        "error": job.error,
        "retry_of": job.retry_of,
        "events": job.events,
        "estimated_finish": finish(job),
        "urls": {
            "self": url(""), "cancel": url("/cancel"), "retry": url("/retry"), "events": url("/events"),
            "log": url("/log"), "artifact": artifact,
        },
    });
    if let Value::Object(object) = &mut object {
        for (name, time) in times {
            object.insert(name.to_owned(), time.map(date).into());
        }
        // A path of this machine is nobody's matter.
        if let Some(Value::Object(request)) = object.get_mut("request") {
            request.remove("source");
        }
    }
    object
}

/// When a job that runs may be done, if it goes on as it went.
fn finish(job: &Job) -> Option<String> {
    let (progress, since) = (job.progress.as_ref()?, job.started_at?);
    let (done, total) = (progress["done"].as_f64()?, progress["total"].as_f64()?);
    // The lease was renewed when the progress was written.
    let now = job.lease_until?.saturating_sub(30_000);
    if done <= 0.0 || total < done || now <= since {
        return None;
    }
    Some(date(since + ((now - since) as f64 * total / done) as i64))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    status: Option<String>,
    kind: Option<String>,
    cursor: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(studio): State<Shared>,
    asking: Asking,
    listing: Result<Query<Listing>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(listing) =
        listing.map_err(|error| Problem::new(StatusCode::BAD_REQUEST, error.body_text()))?;
    let invalid = |what: &str| Problem::new(StatusCode::BAD_REQUEST, what);
    let limit = listing.limit.unwrap_or(PAGE);
    if !(1..=MAX_PAGE).contains(&limit) {
        return Err(invalid("limit: 1 to 200"));
    }
    let state = listing.status.map(|text| text.parse::<JobState>()).transpose();
    let state = state.map_err(|_| {
        invalid("status: queued, running, cancelling, succeeded, failed or cancelled")
    })?;
    if listing.kind.as_ref().is_some_and(|kind| !KINDS.contains(&&**kind)) {
        return Err(invalid("kind: compress, optimize or delta"));
    }
    let before = listing
        .cursor
        .map(|text| text.parse())
        .transpose()
        .map_err(|_| invalid("cursor: none of a list"))?;
    let tenant = (asking.0.role != Role::Operator).then(|| asking.0.tenant.clone());
    let filter = Filter { tenant, state, kind: listing.kind, before, limit: limit + 1 };
    let mut found = studio.jobs(move |jobs| jobs.list(&filter)).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|job| job.id.clone());
    let jobs: Vec<Value> = found.iter().map(shown).collect();
    Ok(Json(json!({"jobs": jobs, "next_cursor": next})))
}

pub(super) async fn one(
    State(studio): State<Shared>,
    asking: Asking,
    Path(id): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = asking.job(&studio, &id).await?;
    let body = shown(&job).to_string();
    let tag = format!("\"{}\"", &blake3::hash(body.as_bytes()).to_hex()[..32]);
    let known = headers.get(IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    if known.is_some_and(|tags| {
        tags.split(',').any(|known| known.trim().trim_start_matches("W/") == tag)
    }) {
        return Ok((StatusCode::NOT_MODIFIED, [(ETAG, tag)]).into_response());
    }
    let kind = "application/json";
    Ok(([(ETAG, tag.as_str()), (axum::http::header::CONTENT_TYPE, kind)], body).into_response())
}

pub(super) async fn cancel(
    State(studio): State<Shared>,
    asking: Asking,
    Path(id): Segment,
) -> Result<Json<Value>, Problem> {
    asking.submits()?;
    let job = asking.job(&studio, &id).await?;
    let job = studio.jobs(move |jobs| jobs.cancel(&job.id)).await?;
    Ok(Json(shown(&job)))
}

pub(super) async fn retry(
    State(studio): State<Shared>,
    asking: Asking,
    Path(id): Segment,
) -> Result<Response, Problem> {
    let caller = asking.submits()?;
    let job = asking.job(&studio, &id).await?;
    submit::retry(&studio, caller, &job).await
}

/// The lines that a job has written, and what became of it, as text.
pub(super) async fn log(
    State(studio): State<Shared>,
    asking: Asking,
    Path(id): Segment,
) -> Result<String, Problem> {
    let job = asking.job(&studio, &id).await?;
    let events = studio.jobs(move |jobs| jobs.events(&job.id, 0, LOG)).await?;
    let mut text = String::new();
    for event in events.iter().filter(|event| event.kind != "progress") {
        let line = match (&*event.kind, event.data.as_str()) {
            ("log", Some(line)) => line.to_owned(),
            (kind, _) => format!("{kind}: {}", event.data),
        };
        text.push_str(&format!("{} {line}\n", date(event.at)));
    }
    Ok(text)
}
