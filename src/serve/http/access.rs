//! Who is answered, and for how long a request may come in.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::body::Body as _;
use tokio::sync::OwnedSemaphorePermit;

use super::error::ApiError;
use super::state::State;

/// Lets clients pass that show a key.
pub(crate) async fn check(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let keys = &state.server.keys;
    if keys.is_empty() {
        return Ok(next.run(request).await);
    }
    let shown = request.headers().get(header::AUTHORIZATION).map(header::HeaderValue::as_bytes);
    let Some(key) = shown.and_then(bearer) else {
        let told = "no key: send it as Authorization: Bearer KEY";
        return Err(ApiError::new(StatusCode::UNAUTHORIZED, told).coded("invalid_api_key"));
    };
    // Digests are compared in constant time, and with every key, so that time tells nothing of them.
    let digest = blake3::hash(key);
    let found =
        keys.iter().fold(false, |found, own| found | (blake3::hash(own.as_bytes()) == digest));
    if found {
        return Ok(next.run(request).await);
    }
    let told = "the key is not one of this server's";
    Err(ApiError::new(StatusCode::UNAUTHORIZED, told).coded("invalid_api_key"))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, key) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| key.trim_ascii())
}

/// Memory that a request's body takes, until it has become tokens.
#[derive(Clone)]
pub(crate) struct Held {
    _place: Arc<Option<OwnedSemaphorePermit>>,
}

/// Reads a request's body: within its bound, in time, and only while all bodies together have room.
pub(crate) async fn read_body(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let _busy = state.busy();
    let limits = &state.server.limits;
    let (mut parts, body) = request.into_parts();
    let length = body
        .size_hint()
        .exact()
        .map_or(limits.body, |length| usize::try_from(length).unwrap_or(usize::MAX));
    if length > limits.body {
        return too_long(limits.body).into_response();
    }
    let read = async {
        let place = state.hold(length).await;
        (place, axum::body::to_bytes(body, limits.body).await)
    };
    match tokio::time::timeout(limits.body_time, read).await {
        Ok((place, Ok(bytes))) => {
            parts.extensions.insert(Held { _place: Arc::new(place) });
            next.run(Request::from_parts(parts, bytes.into())).await
        }
        Ok((_, Err(_))) => too_long(limits.body).into_response(),
        Err(_) => {
            let told = "the request did not come in time";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, told).into_response()
        }
    }
}

fn too_long(most: usize) -> ApiError {
    let told = format!("the request is longer than {most} bytes, or was cut off");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, told)
}
