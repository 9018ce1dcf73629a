//! Messages to webhooks, signed as Standard Webhooks has it: `webhook-id`, `webhook-timestamp` and
//! `webhook-signature` (`v1`, HMAC-SHA256 over `id.timestamp.body`).
//!
//! A target is a web server outside; whatever it answers within its time counts, redirects are not followed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use url::Url;

use super::state::Studio;
use crate::format::time;
use crate::jobs::{Delivery, Hook, Sent};
use crate::store::unix_now;

/// What a target may take in all.
const PATIENCE: Duration = Duration::from_secs(15);
/// The time between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// Messages on their way at a time.
const AT_ONCE: usize = 8;
/// Bytes of an answer that are read.
const MAX_ANSWER: usize = 64 << 10;
const SECRET: &str = "whsec_";
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Base64 with padding.
fn base64(bytes: &[u8]) -> String {
    let digit = |bits: u32| char::from(ALPHABET.get((bits & 63) as usize).copied().unwrap_or(b'='));
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            text.push(if at <= three.len() { digit(bits >> (18 - 6 * at)) } else { '=' });
        }
    }
    text
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for c in text.trim_end_matches('=').bytes() {
        let digit = ALPHABET.iter().position(|own| *own == c)?;
        bits = bits << 6 | u32::try_from(digit).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    Some(bytes)
}

/// A fresh secret.
pub(super) fn new_secret() -> Result<String, String> {
    let mut noise = [0; 32];
    getrandom::fill(&mut noise).map_err(|error| format!("no randomness: {error}"))?;
    Ok(format!("{SECRET}{}", base64(&noise)))
}

/// The signature of a message.
fn sign(secret: &str, id: &str, timestamp: u64, body: &str) -> Option<String> {
    let key = from_base64(secret.strip_prefix(SECRET)?)?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).ok()?;
    mac.update(format!("{id}.{timestamp}.{body}").as_bytes());
    Some(format!("v1,{}", base64(&mac.finalize().into_bytes())))
}

/// The body of a message, which is the same at every attempt.
fn body(message: &Delivery) -> String {
    let at = time::date(u64::try_from(message.created_at).unwrap_or(0) / 1000);
    json!({"type": message.kind, "timestamp": at, "data": message.data}).to_string()
}

/// Sends what is due, until the runtime ends.
pub async fn notify(studio: Arc<Studio>) {
    let room = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    loop {
        let Ok(place) = room.clone().acquire_owned().await else { return };
        match studio.jobs(crate::jobs::Jobs::take_delivery).await {
            Ok(Some((message, hook))) => {
                let studio = studio.clone();
                tokio::spawn(async move {
                    let sent = send(&studio, &message, &hook).await;
                    tracing::info!(webhook = hook.id, message = message.id, ?sent, "told");
                    // What is not noted is sent again, under the same id.
                    drop(studio.jobs(move |jobs| jobs.sent(&message, &sent)).await);
                    drop(place);
                });
            }
            Ok(None) | Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

async fn send(studio: &Studio, message: &Delivery, hook: &Hook) -> Sent {
    let failed = |why: String| Sent::Failed(None, why);
    let body = body(message);
    let now = unix_now();
    let Some(signature) = sign(&hook.secret, &message.id, now, &body) else {
        return failed("its secret is none".to_owned());
    };
    let Ok(url) = Url::parse(&hook.url) else { return failed("its address is none".to_owned()) };
    let mut headers = HeaderMap::new();
    let texts = [
        ("content-type", "application/json".to_owned()),
        ("webhook-id", message.id.clone()),
        ("webhook-timestamp", now.to_string()),
        ("webhook-signature", signature),
    ];
    for (name, text) in texts {
        headers.extend(
            HeaderValue::try_from(text)
                .ok()
                .map(|value| (axum::http::HeaderName::from_static(name), value)),
        );
    }
    let asking = async {
        let heard = studio.outside.ask(&Method::POST, &url, &headers, Bytes::from(body)).await?;
        let status = heard.status;
        heard.whole(MAX_ANSWER).await?;
        Ok::<_, super::outside::OutsideError>(status)
    };
    match tokio::time::timeout(PATIENCE, asking).await {
        Err(_) => failed(format!("no whole answer within {} s", PATIENCE.as_secs())),
        Ok(Err(error)) => failed(error.to_string()),
        Ok(Ok(StatusCode::GONE)) => Sent::Gone(410),
        Ok(Ok(status)) if status.is_success() => Sent::Arrived(status.as_u16().into()),
        Ok(Ok(status)) => {
            Sent::Failed(Some(status.as_u16().into()), format!("it answers {status}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_those_of_standard_webhooks() {
        // The example of the specification.
        let signature = sign(
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(signature.unwrap(), "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        for length in 0..40 {
            let bytes: Vec<u8> = (0..length).map(|at| (at * 37) as u8).collect();
            assert_eq!(from_base64(&base64(&bytes)).unwrap(), bytes);
        }
        assert_eq!(base64(b"hello"), "aGVsbG8=");
        assert!(from_base64("a b").is_none() && sign("x", "", 0, "").is_none());
        assert_ne!(new_secret().unwrap(), new_secret().unwrap());
    }
}
