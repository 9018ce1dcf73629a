//! What answers have in common: bodies, caching, and refusals.

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::header::{
    CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use hyper::{Response, StatusCode};

use crate::edge::http::access::Who;
use crate::store::StoreError;
use crate::transport::{TransportError, TransportErrorKind};
use crate::trust::TrustError;

pub(crate) const IMMUTABLE: HeaderValue =
    HeaderValue::from_static("public, max-age=31536000, immutable");
pub(crate) const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const JSON: HeaderValue = HeaderValue::from_static("application/json; charset=utf-8");
const BEARER: HeaderValue = HeaderValue::from_static("Bearer realm=\"tenpak\"");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, TransportError>>;

/// An answer without an object; its text is the status's own name.
pub(crate) fn plain(status: StatusCode) -> Answer {
    let text = format!("{}\n", status.canonical_reason().unwrap_or("Error"));
    let mut answer = Response::new(full(text));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer.headers_mut().insert(CONTENT_TYPE, TEXT);
    answer
}

/// The answer to a client that may not have what it asks for: 401 if it showed nothing.
pub(crate) fn denied(who: &Who) -> Answer {
    if who.is_known() {
        return plain(StatusCode::FORBIDDEN);
    }
    unauthorized()
}

/// The answer to a client whose token is missing, or none of ours.
pub(crate) fn unauthorized() -> Answer {
    let mut answer = plain(StatusCode::UNAUTHORIZED);
    answer.headers_mut().insert(WWW_AUTHENTICATE, BEARER);
    answer
}

/// An answer that is one JSON value.
pub(crate) fn told(status: StatusCode, value: &serde_json::Value) -> Answer {
    let mut answer = Response::new(full(value.to_string()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> UnsyncBoxBody<Bytes, TransportError> {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn empty() -> UnsyncBoxBody<Bytes, TransportError> {
    full(Bytes::new())
}

/// A body whose bytes come as they are known. One that fails ends its connection early.
pub(crate) fn streamed(
    bytes: impl Stream<Item = Result<Bytes, TransportError>> + Send + 'static,
) -> UnsyncBoxBody<Bytes, TransportError> {
    BodyExt::boxed_unsync(StreamBody::new(bytes.map(|next| next.map(Frame::data))))
}

/// A header whose value is made here; one that cannot be a value is left out.
pub(crate) fn set(answer: &mut Answer, name: HeaderName, value: impl AsRef<str>) {
    if let Ok(value) = HeaderValue::try_from(value.as_ref()) {
        answer.headers_mut().insert(name, value);
    }
}

/// The status of an origin's failure.
fn status(error: &TransportError) -> StatusCode {
    match error.kind {
        // A path that the origin cannot have is a path of nothing.
        TransportErrorKind::NotFound | TransportErrorKind::Invalid => StatusCode::NOT_FOUND,
        TransportErrorKind::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        TransportErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        TransportErrorKind::Stalled => StatusCode::GATEWAY_TIMEOUT,
        TransportErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    }
}

pub(crate) fn refusal(error: &TransportError) -> Answer {
    let mut answer = plain(status(error));
    if let Some(wait) = error.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, wait.as_secs().into());
    }
    answer
}

/// The status of what the origin has missing, damaged, or signed by nobody who counts.
pub(crate) fn store_status(error: &StoreError) -> StatusCode {
    match error {
        StoreError::Transport(error) => status(error),
        StoreError::NoArtifact { .. } | StoreError::Ambiguous { .. } => StatusCode::NOT_FOUND,
        StoreError::Trust(TrustError::Malformed { .. }) => StatusCode::BAD_GATEWAY,
        StoreError::Trust(_) => StatusCode::FORBIDDEN,
        _ => StatusCode::BAD_GATEWAY,
    }
}

pub(crate) fn store_refusal(error: &StoreError) -> Answer {
    match error {
        StoreError::Transport(error) => refusal(error),
        error => plain(store_status(error)),
    }
}
