//! What every answer begins with: who asks, for which job, with what.

use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, Request};
use axum::http::StatusCode;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use serde_json::Value;

use crate::jobs::{Job, JobId};
use crate::studio::problem::Problem;
use crate::studio::state::Studio;
use crate::studio::tokens::{Caller, Role};

/// Bytes of a request's JSON.
const MAX_BODY: usize = 32 << 10;

pub(super) type Shared = Arc<Studio>;

/// Whoever asks; without a token that counts there is no answer.
pub(super) struct Asking(pub(super) Arc<Caller>);

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
    pub(super) fn submits(&self) -> Result<&Caller, Problem> {
        match self.0.role {
            Role::Viewer => {
                Err(Problem::new(StatusCode::FORBIDDEN, "a viewer's token makes and ends no jobs"))
            }
            _ => Ok(&self.0),
        }
    }

    /// A job that the caller may know of.
    pub(super) async fn job(&self, studio: &Studio, id: &str) -> Result<Job, Problem> {
        let absent = || Problem::absent(format!("job {}", id.chars().take(64).collect::<String>()));
        let id: JobId = id.parse().map_err(|_| absent())?;
        let job = studio.jobs(move |jobs| jobs.get(&id)).await?;
        match self.0.sees(&job.tenant) {
            true => Ok(job),
            false => Err(absent()),
        }
    }
}

/// What a path names: one segment, or two.
pub(super) struct Named<T>(pub(super) T);

pub(super) type Segment = Named<String>;

impl<T: serde::de::DeserializeOwned + Send> FromRequestParts<Shared> for Named<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, studio: &Shared) -> Result<Self, Problem> {
        let named = Path::from_request_parts(parts, studio).await;
        named
            .map(|Path(named)| Self(named))
            .map_err(|_| Problem::absent("such path: it is not UTF-8"))
    }
}

/// The JSON of a request, and its bytes.
pub(super) async fn json(request: Request) -> Result<(Value, axum::body::Bytes), Problem> {
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
