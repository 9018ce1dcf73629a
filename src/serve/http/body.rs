//! What a request says: a JSON object, within a bound, whose wrong field is named.

use axum::extract::{FromRequest, Request};
use axum::http::{StatusCode, header};
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::access::Held;
use super::error::ApiError;

/// A request's body.
pub(crate) struct Body<T> {
    pub(crate) asked: T,
    /// Kept until what was asked is no longer.
    pub(crate) held: Option<Held>,
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        // Browsers send other types across sites without asking: another site's page must not use this server.
        let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case("application/json") {
            let told = "the body must be JSON: send it with content-type: application/json";
            return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, told));
        }
        let held = request.extensions().get::<Held>().cloned();
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| ApiError::new(rejection.status(), rejection.body_text()))?;
        parse(&bytes).map(|asked| Self { asked, held })
    }
}

/// Reads a request. Every field of `T` may be left out, so that each can be held against its type alone.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    let bad = |told: String| ApiError::new(StatusCode::BAD_REQUEST, told);
    let value: Value = serde_json::from_slice(bytes)
        .map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    let Value::Object(fields) = value else {
        return Err(bad("the body must be a JSON object".to_owned()));
    };
    T::deserialize(Value::Object(fields.clone())).map_err(|error| {
        let told = shortened(&error.to_string());
        let alone = |name: &str, value: &Value| Map::from_iter([(name.to_owned(), value.clone())]);
        let culprit = fields
            .iter()
            .find(|(name, value)| T::deserialize(Value::Object(alone(name, value))).is_err());
        match culprit {
            Some((name, _)) => ApiError::wrong(name, format!("{name}: {told}")),
            None => bad(told),
        }
    })
}

/// Errors repeat what was sent, which may be long.
fn shortened(told: &str) -> String {
    told.chars().take(300).collect()
}
