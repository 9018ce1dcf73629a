//! Traces: one span for each request, sent to an OpenTelemetry collector as OTLP/HTTP in JSON.
//!
//! A request that carries a `traceparent` (W3C Trace Context) joins that trace, and one whose trace is not
//! sampled is left out. Tracing never holds up an answer: spans that find the queue full, and batches that
//! the collector does not take, are counted and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::{HeaderMap, Method, Request};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::edge::error::SettingError;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Spans that wait.
const QUEUE: usize = 8192;
/// Spans of one batch.
const BATCH: usize = 512;
/// How long the first span of a batch waits for others.
const WAIT: Duration = Duration::from_secs(1);
/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where traces go.
#[derive(Debug, Clone)]
pub struct TraceTarget(hyper::Uri);

impl TraceTarget {
    /// The collector at this address (`http(s)://HOST:PORT`), below which `/v1/traces` lies.
    ///
    /// # Errors
    ///
    /// If it is no such address.
    pub fn new(url: &str) -> Result<Self, SettingError> {
        let wrong = || SettingError::Collector(url.to_owned());
        let parsed = url::Url::parse(url).map_err(|_| wrong())?;
        if !matches!(parsed.scheme(), "http" | "https") || !parsed.has_host() {
            return Err(wrong());
        }
        let full = format!("{}/v1/traces", url.trim_end_matches('/'));
        full.parse().map(Self).map_err(|_| wrong())
    }
}

/// The trace that a request belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Context {
    trace: String,
    parent: Option<String>,
    sampled: bool,
}

impl Context {
    /// The trace that a request names, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = headers.get(TRACEPARENT).and_then(|given| given.to_str().ok());
        given.and_then(Self::parse).unwrap_or_else(|| Self {
            trace: format!("{:032x}", fastrand::u128(..)),
            parent: None,
            sampled: true,
        })
    }

    /// `00-<trace>-<parent>-<flags>`.
    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split('-');
        let (version, trace) = (fields.next()?, fields.next()?);
        let (parent, flags) = (fields.next()?, fields.next()?);
        let hex = |text: &str, len: usize| {
            text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        let any = |text: &str| text.bytes().any(|b| b != b'0');
        // A later version may say more behind the flags.
        let fits = hex(version, 2)
            && version != "ff"
            && (version != "00" || fields.next().is_none())
            && hex(trace, 32)
            && any(trace)
            && hex(parent, 16)
            && any(parent)
            && hex(flags, 2);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        let (trace, parent) = (trace.to_owned(), Some(parent.to_owned()));
        fits.then_some(Self { trace, parent, sampled })
    }
}

/// What became of a request.
pub(crate) struct Span<'a> {
    pub(crate) context: &'a Context,
    pub(crate) took: Duration,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) face: &'a str,
    pub(crate) client: String,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) complete: bool,
}

impl Span<'_> {
    /// As OTLP writes a span that ends now.
    fn to_json(&self, now: SystemTime) -> Value {
        let end = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = end.saturating_sub(self.took);
        let text = |key: &str, value: &str| json!({"key": key, "value": {"stringValue": value}});
        // 64-bit integers are strings in OTLP's JSON.
        let number =
            |key: &str, value: u64| json!({"key": key, "value": {"intValue": value.to_string()}});
        let failed = self.status >= 500 || !self.complete;
        let mut span = json!({
            "traceId": self.context.trace,
            "spanId": format!("{:016x}", fastrand::u64(..)),
            "name": format!("{} {}", self.method, self.face),
            // A server's.
            "kind": 2,
            "startTimeUnixNano": start.as_nanos().to_string(),
            "endTimeUnixNano": end.as_nanos().to_string(),
            "attributes": [
                text("http.request.method", self.method),
                text("url.path", self.path),
                text("client.address", &self.client),
                text("tenpak.face", self.face),
                number("http.response.status_code", u64::from(self.status)),
                number("http.response.body.size", self.bytes),
            ],
            "status": {"code": if failed { 2 } else { 0 }},
        });
        if let Some(parent) = &self.context.parent {
            span["parentSpanId"] = parent.as_str().into();
        }
        span
    }
}

/// Spans on their way to the collector.
#[derive(Debug)]
pub(crate) struct Tracer {
    spans: Sender<Value>,
    lost: Arc<AtomicU64>,
}

impl Tracer {
    /// Sends to `target` in the background, until the tracer is dropped; the task ends when all is sent.
    /// Must be called within a runtime.
    pub(crate) fn start(
        target: TraceTarget,
    ) -> std::io::Result<(Self, tokio::task::JoinHandle<()>)> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(std::io::Error::other)?
            .with_native_roots()?
            .with_no_client_auth();
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(https);
        let (spans, queue) = channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(send_all(client, target, queue, lost.clone()));
        Ok((Self { spans, lost }, task))
    }

    /// Queues a span, if its trace is sampled.
    pub(crate) fn record(&self, span: &Span<'_>) {
        if span.context.sampled && self.spans.try_send(span.to_json(SystemTime::now())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that did not reach the collector.
    pub(crate) fn lost(&self) -> &AtomicU64 {
        &self.lost
    }
}

type Collector = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

async fn send_all(
    client: Collector,
    target: TraceTarget,
    mut queue: Receiver<Value>,
    lost: Arc<AtomicU64>,
) {
    while let Some(first) = queue.recv().await {
        let mut spans = vec![first];
        let more = async {
            while spans.len() < BATCH
                && let Some(span) = queue.recv().await
            {
                spans.push(span);
            }
        };
        // The end of the wait, or of the queue, sends what is there.
        tokio::time::timeout(WAIT, more).await.unwrap_or_default();
        let count = spans.len() as u64;
        let sent = tokio::time::timeout(PATIENCE, send(&client, &target, spans)).await;
        if !matches!(sent, Ok(true)) {
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

async fn send(client: &Collector, target: &TraceTarget, spans: Vec<Value>) -> bool {
    let name = json!({"key": "service.name", "value": {"stringValue": "tenpak-edge"}});
    let scope = json!({"name": "tenpak", "version": env!("CARGO_PKG_VERSION")});
    let body = json!({"resourceSpans": [{
        "resource": {"attributes": [name]},
        "scopeSpans": [{"scope": scope, "spans": spans}],
    }]});
    let request = Request::builder()
        .method(Method::POST)
        .uri(&target.0)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body.to_string())));
    let Ok(request) = request else { return false };
    client.request(request).await.is_ok_and(|answer| answer.status().is_success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_joins_the_trace_that_it_names() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        let right =
            Context { trace: trace.to_owned(), parent: Some(parent.to_owned()), sampled: true };
        let of = |text: &str| Context::parse(text);
        assert_eq!(of(&format!("00-{trace}-{parent}-01")), Some(right.clone()));
        assert_eq!(of(&format!("cc-{trace}-{parent}-03-more")), Some(right.clone()));
        let unsampled = Context { sampled: false, ..right };
        assert_eq!(of(&format!("00-{trace}-{parent}-00")), Some(unsampled));
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}-zz"),
            format!("00-{trace}-{parent}-+1"),
        ] {
            assert_eq!(of(&bad), None, "{bad}");
        }
        let (one, two) = (Context::of(&HeaderMap::new()), Context::of(&HeaderMap::new()));
        assert!(one.sampled && one.trace != two.trace && one.trace.len() == 32);
        assert!(TraceTarget::new("collector:4318").is_err());
        let target = TraceTarget::new("http://collector:4318/").unwrap();
        assert_eq!(target.0.to_string(), "http://collector:4318/v1/traces");
    }
}
