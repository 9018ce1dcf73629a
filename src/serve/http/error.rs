//! Errors in OpenAI's form.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::Refused;
use crate::engine::sample::SampleError;
use crate::engine::text::{TemplateError, TokenizerError};

/// What a client is told when its request is not answered.
#[derive(Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    told: ErrorBody,
}

/// An error.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(crate) struct ErrorBody {
    /// What is wrong, where, and what to do.
    message: String,
    /// Its kind, in OpenAI's words.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The field that is wrong.
    param: Option<String>,
    /// Its kind, more exactly.
    code: Option<&'static str>,
}

/// The body of an answer that is an error.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ErrorAnswer {
    error: ErrorBody,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        Self { status, told: ErrorBody { message: message.into(), kind, param: None, code: None } }
    }

    /// A request that can never be answered.
    pub(crate) fn wrong(param: &str, message: impl Into<String>) -> Self {
        let mut own = Self::new(StatusCode::BAD_REQUEST, message);
        own.told.param = Some(param.to_owned());
        own
    }

    /// A failure of ours.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    pub(crate) fn draining() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the server is stopping: send the request to another one",
        )
    }

    pub(crate) fn coded(mut self, code: &'static str) -> Self {
        self.told.code = Some(code);
        self
    }

    pub(crate) fn body(&self) -> ErrorAnswer {
        ErrorAnswer { error: self.told.clone() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let headers = response.headers_mut();
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        let told = refused.to_string();
        match refused {
            Refused::TooLong { .. } => Self::wrong("prompt", told).coded("context_length_exceeded"),
            Refused::Empty | Refused::Token { .. } => Self::wrong("prompt", told),
            Refused::Adapter(_) => Self::new(StatusCode::NOT_FOUND, told).coded("model_not_found"),
            Refused::Stopped(_) => Self::new(StatusCode::SERVICE_UNAVAILABLE, told),
            Refused::Busy(_) => Self::new(StatusCode::TOO_MANY_REQUESTS, told),
            Refused::Parameter(_) | Refused::Unable(_) => Self::new(StatusCode::BAD_REQUEST, told),
        }
    }
}

impl From<SampleError> for ApiError {
    fn from(error: SampleError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<TokenizerError> for ApiError {
    fn from(error: TokenizerError) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error.to_string())
    }
}

impl From<TemplateError> for ApiError {
    fn from(error: TemplateError) -> Self {
        Self::wrong("messages", error.to_string())
    }
}
