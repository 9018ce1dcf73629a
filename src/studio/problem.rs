//! Refusals, all in one form: problem details (RFC 9457).

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::outside::OutsideError;
use crate::jobs::{DatabaseError, JobsError};

/// Why a request is not answered as it wishes.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) detail: String,
    retry_after: Option<u64>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, detail: impl std::fmt::Display) -> Self {
        Self { status, detail: detail.to_string(), retry_after: None }
    }

    /// What was sent is not understood, or cannot be done.
    pub(super) fn invalid(detail: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// Nothing is there, or nothing that the caller may know of.
    pub(super) fn absent(what: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("there is no {what}"))
    }

    pub(super) fn later(status: StatusCode, detail: impl std::fmt::Display, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..Self::new(status, detail) }
    }
}

impl From<JobsError> for Problem {
    fn from(error: JobsError) -> Self {
        match &error {
            JobsError::Database(DatabaseError::Unavailable(_)) => {
                // What the database says may name its address.
                tracing::warn!(%error, "the database does not answer");
                let detail = "the database does not answer; nothing was changed";
                Self::later(StatusCode::SERVICE_UNAVAILABLE, detail, 5)
            }
            JobsError::NoJob(id) => Self::absent(format!("job {id}")),
            JobsError::Active { .. } => Self::later(StatusCode::TOO_MANY_REQUESTS, error, 30),
            JobsError::Daily { .. } => Self::later(StatusCode::TOO_MANY_REQUESTS, error, 3600),
            JobsError::OtherRequest | JobsError::Invalid(_) => Self::invalid(error),
            JobsError::NotOver(_) => Self::new(StatusCode::CONFLICT, error),
            _ => {
                tracing::error!(%error, "the database refused");
                Self::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "the database refused; the log says why",
                )
            }
        }
    }
}

impl From<OutsideError> for Problem {
    fn from(error: OutsideError) -> Self {
        match &error {
            OutsideError::Absent(what) => {
                Self::absent(format!("model at {what}, or it is not shown to this server"))
            }
            OutsideError::Passing { .. } => Self::later(StatusCode::BAD_GATEWAY, error, 10),
            _ => Self::invalid(error),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let body = json!({
            "type": "about:blank",
            "title": title,
            "status": self.status.as_u16(),
            "detail": self.detail,
        });
        let mut answer = (self.status, body.to_string()).into_response();
        let headers = answer.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tenpak\""));
        }
        answer
    }
}
