//! Who is answered, and for how long a request may come in.

use std::sync::Arc;

use axum::extract::{Request, State as Shared};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

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

/// Gives up on a client that does not finish its request.
pub(crate) async fn time_body(
    Shared(state): Shared<Arc<State>>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let limits = &state.server.limits;
    // A longer body is refused where it is read; here it is not collected.
    let read = axum::body::to_bytes(body, limits.body);
    match tokio::time::timeout(limits.body_time, read).await {
        Ok(Ok(bytes)) => next.run(Request::from_parts(parts, bytes.into())).await,
        Ok(Err(_)) => {
            let told = format!("the request is longer than {} bytes, or was cut off", limits.body);
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, told).into_response()
        }
        Err(_) => {
            let told = "the request did not come in time";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, told).into_response()
        }
    }
}
