//! The interface: one router, whose routes the document lists.

mod artifacts;
mod document;
mod events;
mod jobs;
mod page;
mod submit;
mod system;
mod uploads;

use std::sync::Arc;

use axum::Router;
use axum::extract::{FromRequestParts, Path, Request};
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode};
use axum::routing::{any, get, post};
use serde_json::Value;

use super::problem::Problem;
use super::state::Studio;
use super::tokens::{Caller, Role};
use crate::jobs::{Job, JobId};

/// Bytes of a request's JSON.
const MAX_BODY: usize = 32 << 10;

type Shared = Arc<Studio>;

/// Every route of the studio.
pub(super) fn router(studio: Shared) -> Router {
    Router::new()
        .route("/compress", post(submit::compress))
        .route("/optimize", post(submit::optimize))
        .route("/delta/compress", post(submit::delta))
        .route("/status/{id}", get(jobs::one))
        .route("/artifact/{id}", get(artifacts::of_job))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/jobs/{id}/retry", post(jobs::retry))
        .route("/jobs/{id}/events", get(events::stream))
        .route("/jobs/{id}/log", get(jobs::log))
        .route("/artifacts", get(artifacts::list))
        .route("/artifacts/{*name}", get(artifacts::one))
        .route("/uploads", post(uploads::begin))
        .route("/uploads/{id}", get(uploads::whole).delete(uploads::remove))
        .route(
            "/uploads/{id}/{file}",
            post(uploads::create).head(uploads::offset).patch(uploads::append),
        )
        .route("/presets", get(system::presets))
        .route("/workers", get(system::workers))
        .route("/me", get(system::me))
        .route("/health", get(system::health))
        .route("/healthz", get(system::health))
        .route("/readyz", get(system::ready))
        .route("/metrics", get(system::metrics))
        .route("/openapi.json", get(document::document))
        .route("/", get(page::index))
        .route("/studio/app.js", get(page::script))
        .route("/studio/style.css", get(page::style))
        .fallback(any(absent))
        .method_not_allowed_fallback(other_method)
        .with_state(studio)
}

async fn absent() -> Problem {
    Problem::absent("such path; /openapi.json lists them")
}

async fn other_method(method: Method) -> Problem {
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, format!("{method} means nothing here"))
}

/// Whoever asks; without a token that counts there is no answer.
struct Asking(Arc<Caller>);

impl FromRequestParts<Shared> for Asking {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, studio: &Shared) -> Result<Self, Problem> {
        let given = parts.headers.get(AUTHORIZATION).and_then(|given| given.to_str().ok());
        let caller = studio.tokens.identify(given);
        let detail = "show a token: Authorization: Bearer ...";
        caller.map(Self).ok_or_else(|| Problem::new(StatusCode::UNAUTHORIZED, detail))
    }
}

impl Asking {
    /// Refuses who only looks.
    fn submits(&self) -> Result<&Caller, Problem> {
        match self.0.role {
            Role::Viewer => {
                Err(Problem::new(StatusCode::FORBIDDEN, "a viewer's token makes and ends no jobs"))
            }
            _ => Ok(&self.0),
        }
    }

    /// A job that the caller may know of.
    async fn job(&self, studio: &Studio, id: &str) -> Result<Job, Problem> {
        let absent = || Problem::absent(format!("job {}", id.chars().take(64).collect::<String>()));
        let id: JobId = id.parse().map_err(|_| absent())?;
        let job = studio.jobs(move |jobs| jobs.get(&id)).await?;
        match self.0.sees(&job.tenant) {
            true => Ok(job),
            false => Err(absent()),
        }
    }
}

/// The one segment of a path.
type Segment = Path<String>;

/// The JSON of a request, and its bytes.
async fn json(request: Request) -> Result<(Value, axum::body::Bytes), Problem> {
    let kind = request
        .headers()
        .get("content-type")
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    // A form of another page is sent without asking, JSON is not.
    if kind
        .split(';')
        .next()
        .is_none_or(|kind| !kind.trim().eq_ignore_ascii_case("application/json"))
    {
        let detail = "send application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
    }
    let body = axum::body::to_bytes(request.into_body(), MAX_BODY).await.map_err(|_| {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a request has at most {MAX_BODY} bytes"),
        )
    })?;
    let value = serde_json::from_slice(&body)
        .map_err(|error| Problem::new(StatusCode::BAD_REQUEST, format!("no JSON: {error}")))?;
    Ok((value, body))
}
