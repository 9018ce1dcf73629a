//! New jobs.

use std::time::{Duration, Instant};

use axum::extract::{Request as HttpRequest, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::asking::{Asking, Shared, json as json_of};
use super::shown::shown;
use crate::format::name::ArtifactSpec;
use crate::jobs::{Job, Key, MAX_PARTS, Submission};
use crate::store::artifact::Artifact;
use crate::studio::problem::Problem;
use crate::studio::request::Request;
use crate::studio::source;
use crate::studio::state::Studio;
use crate::studio::tokens::Caller;

/// The longest that an answer waits for its job.
const MAX_WAIT: Duration = Duration::from_secs(60);
/// The time between two looks at a job that is waited for.
const LOOK: Duration = Duration::from_millis(200);
/// Characters of an Idempotency-Key.
const MAX_KEY: usize = 255;

pub(super) async fn compress(
    State(studio): State<Shared>,
    asking: Asking,
    request: HttpRequest,
) -> Result<Response, Problem> {
    submit(&studio, &asking, "compress", request).await
}

pub(super) async fn optimize(
    State(studio): State<Shared>,
    asking: Asking,
    request: HttpRequest,
) -> Result<Response, Problem> {
    submit(&studio, &asking, "optimize", request).await
}

pub(super) async fn delta(
    State(studio): State<Shared>,
    asking: Asking,
    request: HttpRequest,
) -> Result<Response, Problem> {
    submit(&studio, &asking, "delta", request).await
}

async fn submit(
    studio: &Shared,
    asking: &Asking,
    kind: &str,
    request: HttpRequest,
) -> Result<Response, Problem> {
    let caller = asking.submits()?;
    let headers = request.headers().clone();
    let (mut body, bytes) = json_of(request).await?;
    let priority = priority(&mut body)?;
    let mut request = Request::parse(kind, body).map_err(Problem::invalid)?;
    let target = request.target().map_err(Problem::invalid)?;
    let ArtifactSpec::Named { name, .. } = &target else {
        return Err(Problem::invalid("name: give a name, not an id"));
    };
    if !caller.may_write(name) {
        let detail = format!("this token's jobs may not write {name}");
        return Err(Problem::new(StatusCode::FORBIDDEN, detail));
    }
    let model = source::find(studio, caller, request.model()).await?;
    let base = match request.base() {
        Some(base) => Some(source::artifact(studio, caller, base).await?.digest),
        None => None,
    };
    let parts = parts(studio, &request, model.bytes).await?;
    let mut value = request.value().map_err(Problem::invalid)?;
    let key = key(&request, &value, &model.digest, base.as_deref(), &target);
    if model.argument != request.model()
        && let Value::Object(value) = &mut value
    {
        value.insert("source".to_owned(), model.argument.into());
    }
    // What runs it later belongs to the trace of whoever asked.
    if let (Value::Object(value), Some(parent)) = (&mut value, headers.get("traceparent"))
        && let Some(parent) = parent.to_str().ok().filter(|parent| parent.len() <= 128)
    {
        value.insert("traceparent".to_owned(), parent.into());
    }
    let idempotency = idempotency(&headers, kind, &bytes)?;
    let submission = Submission {
        tenant: caller.tenant.clone(),
        kind: request.kind().to_owned(),
        key: key.clone(),
        request: value,
        priority,
        max_attempts: studio.max_attempts,
        idempotency,
        retry_of: None,
        parts,
        quota: caller.quota,
    };
    if submission.idempotency.is_none()
        && let Some(job) = cached(studio, caller, &key, &target).await?
    {
        return Ok(answer(StatusCode::OK, &job, json!({"cached": true})));
    }
    let submitted = studio.jobs(move |jobs| jobs.submit(&submission)).await?;
    studio.workers.iter().for_each(crate::jobs::Worker::wake);
    tracing::info!(job = %submitted.job.id, who = caller.name, joined = submitted.joined, "submitted");
    studio.note(caller, "submit", submitted.job.id.as_str()).await;
    let joined = submitted.joined;
    let job = wait(studio, &headers, submitted.job).await?;
    let status = if job.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(answer(status, &job, json!({"joined": joined})))
}

/// Takes the priority out of a request.
pub(super) fn priority(body: &mut Value) -> Result<i64, Problem> {
    match body.as_object_mut().and_then(|body| body.remove("priority")) {
        None => Ok(0),
        Some(given) => given
            .as_i64()
            .filter(|given| (-9..=9).contains(given))
            .ok_or_else(|| Problem::invalid("priority: a number from -9 to 9")),
    }
}

/// In how many parts a job is done: as many as there are workers, where each has enough to do.
async fn parts(studio: &Shared, request: &Request, bytes: u64) -> Result<u32, Problem> {
    // A part has at least half of what is split.
    let most = bytes.saturating_mul(2) / studio.split.max(1);
    if !request.has_parts() || bytes < studio.split || most < 2 {
        return Ok(0);
    }
    let workers = studio.jobs(|jobs| jobs.workers()).await?.len() as u64;
    let parts = most.min(workers).min(MAX_PARTS.into());
    Ok(if parts < 2 { 0 } else { u32::try_from(parts).unwrap_or(0) })
}

/// What only one active job is for: the recipe, what is read, and what is written.
fn key(
    request: &Request,
    value: &Value,
    model: &str,
    base: Option<&str>,
    target: &ArtifactSpec,
) -> String {
    let mut recipe = value.clone();
    if let Value::Object(recipe) = &mut recipe {
        for other in ["model", "base", "name"] {
            recipe.remove(other);
        }
    }
    // Objects of serde_json are in the order of their keys or of their fields: one order either way.
    let parts = json!([request.kind(), recipe, model, base, target.to_string()]);
    blake3::hash(parts.to_string().as_bytes()).to_hex().to_string()
}

/// The job whose result is what is asked for, if its artifact is still what it made.
async fn cached(
    studio: &Shared,
    caller: &Caller,
    key: &str,
    target: &ArtifactSpec,
) -> Result<Option<Job>, Problem> {
    let (tenant, key) = (caller.tenant.clone(), key.to_owned());
    let Some(job) = studio.jobs(move |jobs| jobs.succeeded(&tenant, &key)).await? else {
        return Ok(None);
    };
    let there = Artifact::open(studio.store.clone(), target, &studio.open).await.ok();
    let made = job.result.as_ref().and_then(|result| result["manifest"].as_str());
    Ok(there.filter(|there| made == Some(&there.id().to_string())).map(|_| job))
}

/// The Idempotency-Key of a request, and a digest of what it asks.
pub(super) fn idempotency(
    headers: &HeaderMap,
    kind: &str,
    body: &[u8],
) -> Result<Option<Key>, Problem> {
    let Some(key) = headers.get("idempotency-key") else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=MAX_KEY).contains(&key.len()));
    let key = key.ok_or_else(|| {
        Problem::new(StatusCode::BAD_REQUEST, format!("Idempotency-Key: 1 to {MAX_KEY} characters"))
    })?;
    let mut hasher = blake3::Hasher::new();
    hasher.update(kind.as_bytes()).update(b"\n").update(body);
    Ok(Some((key.to_owned(), hasher.finalize().to_hex().to_string())))
}

/// Waits for a job's end as long as `Prefer: wait=SECONDS` says.
pub(super) async fn wait(
    studio: &Studio,
    headers: &HeaderMap,
    mut job: Job,
) -> Result<Job, Problem> {
    let prefers = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let seconds = prefers
        .flat_map(|value| value.split(','))
        .find_map(|word| word.trim().strip_prefix("wait=")?.parse().ok());
    let Some(seconds) = seconds else { return Ok(job) };
    let until = Instant::now() + Duration::from_secs(seconds).min(MAX_WAIT);
    while !job.state.is_final() && Instant::now() < until {
        tokio::time::sleep(LOOK).await;
        let id = job.id.clone();
        job = studio.jobs(move |jobs| jobs.get(&id)).await?;
    }
    Ok(job)
}

/// A job, where it is found, and more about how it came about.
pub(super) fn answer(status: StatusCode, job: &Job, more: Value) -> Response {
    let mut body = shown(job);
    if let (Value::Object(body), Value::Object(more)) = (&mut body, more) {
        body.extend(more);
    }
    let location = format!("/jobs/{}", job.id);
    (status, [(LOCATION, location)], axum::Json(body)).into_response()
}

/// A job that is tried again.
pub(super) async fn retry(
    studio: &Shared,
    caller: &Caller,
    headers: &HeaderMap,
    job: &Job,
) -> Result<Response, Problem> {
    let (id, quota) = (job.id.clone(), caller.quota);
    let key = idempotency(headers, "retry", id.as_str().as_bytes())?;
    let submitted = studio.jobs(move |jobs| jobs.retry(&id, quota, key)).await?;
    studio.workers.iter().for_each(crate::jobs::Worker::wake);
    let joined = submitted.joined;
    let job = wait(studio, headers, submitted.job).await?;
    let status = if job.state.is_final() { StatusCode::OK } else { StatusCode::ACCEPTED };
    Ok(answer(status, &job, json!({"joined": joined})))
}
