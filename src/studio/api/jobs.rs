//! Jobs: listed, looked at, ended, tried again.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::header::{ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::asking::{Asking, Named, Segment, Shared};
use super::shown::{date, shown};
use super::submit;
use crate::jobs::{Filter, Job, State as JobState};
use crate::studio::problem::Problem;
use crate::studio::request::KINDS;
use crate::studio::tokens::Role;

/// Jobs on a page of a list.
const PAGE: usize = 50;
const MAX_PAGE: usize = 200;
/// Events that a log is made of.
const LOG: usize = 10_000;

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
    Named(id): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job = asking.job(&studio, &id).await?;
    let job = submit::wait(&studio, &headers, job).await?;
    let mut body = shown(&job);
    if job.parts.is_some() {
        let id = job.id.clone();
        let parts = studio.jobs(move |jobs| jobs.parts(&id)).await?;
        body["parts"] = parts.iter().map(shown_part).collect();
    }
    let body = body.to_string();
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

/// A part of a job, as it is shown with the whole.
fn shown_part(part: &Job) -> Value {
    json!({"id": part.id, "status": part.state, "progress": part.progress, "attempts": part.attempts,
        "worker": part.worker})
}

pub(super) async fn cancel(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
) -> Result<Json<Value>, Problem> {
    let caller = asking.submits()?;
    let job = asking.job(&studio, &id).await?;
    let job = studio.jobs(move |jobs| jobs.cancel(&job.id)).await?;
    studio.note(caller, "cancel", job.id.as_str()).await;
    Ok(Json(shown(&job)))
}

pub(super) async fn retry(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let caller = asking.submits()?;
    let job = asking.job(&studio, &id).await?;
    studio.note(caller, "retry", job.id.as_str()).await;
    submit::retry(&studio, caller, &headers, &job).await
}

/// The lines that a job has written, and what became of it, as text.
pub(super) async fn log(
    State(studio): State<Shared>,
    asking: Asking,
    Named(id): Segment,
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
