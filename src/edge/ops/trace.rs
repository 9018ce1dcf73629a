//! Traces: one span for each request, sent to an OpenTelemetry collector as OTLP/HTTP in JSON.
//!
//! A request that carries a `traceparent` (W3C Trace Context) joins that trace, and one whose trace is not
//! sampled is left out. Tracing never holds up an answer: spans that find the queue full, and batches that
//! the collector does not take, are counted and dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use hyper::HeaderMap;
use hyper_rustls::{ConfigBuilderExt, HttpsConnectorBuilder};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    SpanContext, SpanKind, Status, TraceContextExt, TraceFlags, TraceState,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    IdGenerator, RandomIdGenerator, SpanData, SpanEvents, SpanExporter as _, SpanLinks,
};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::edge::error::SettingError;

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
pub struct TraceTarget(String);

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
        full.parse::<hyper::Uri>().map(|_| Self(full)).map_err(|_| wrong())
    }
}

/// What a request says of the trace that it belongs to; without any, it begins one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parent(SpanContext);

impl Parent {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let given = HeaderExtractor(headers);
        let given = TraceContextPropagator::new().extract_with_context(&Context::new(), &given);
        Self(given.span().span_context().clone())
    }

    fn is_sampled(&self) -> bool {
        !self.0.is_valid() || self.0.is_sampled()
    }
}

/// What became of a request.
pub(crate) struct Answered<'a> {
    pub(crate) parent: &'a Parent,
    pub(crate) took: Duration,
    pub(crate) method: &'a str,
    pub(crate) path: &'a str,
    pub(crate) face: &'static str,
    pub(crate) client: String,
    pub(crate) status: u16,
    pub(crate) bytes: u64,
    pub(crate) complete: bool,
}

impl Answered<'_> {
    /// A server's span that ends now.
    fn into_span(self, end_time: SystemTime) -> SpanData {
        let (parent, ids) = (&self.parent.0, RandomIdGenerator::default());
        let trace = if parent.is_valid() { parent.trace_id() } else { ids.new_trace_id() };
        let (id, state) = (ids.new_span_id(), TraceState::NONE);
        let failed = self.status >= 500 || !self.complete;
        SpanData {
            span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state),
            parent_span_id: parent.span_id(),
            parent_span_is_remote: parent.is_valid(),
            span_kind: SpanKind::Server,
            name: format!("{} {}", self.method, self.face).into(),
            start_time: end_time.checked_sub(self.took).unwrap_or(end_time),
            end_time,
            attributes: vec![
                KeyValue::new("http.request.method", self.method.to_owned()),
                KeyValue::new("url.path", self.path.to_owned()),
                KeyValue::new("client.address", self.client),
                KeyValue::new("tenpak.face", self.face),
                KeyValue::new("http.response.status_code", i64::from(self.status)),
                KeyValue::new("http.response.body.size", self.bytes.cast_signed()),
            ],
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links: SpanLinks::default(),
            status: if failed { Status::error("") } else { Status::Unset },
            instrumentation_scope: InstrumentationScope::builder("tenpak")
                .with_version(env!("CARGO_PKG_VERSION"))
                .build(),
        }
    }
}

/// Work that is done apart from the request that asked for it, such as a job.
pub(crate) struct Work<'a> {
    /// The `traceparent` of that request, if it had one.
    pub(crate) parent: Option<&'a str>,
    pub(crate) name: String,
    pub(crate) took: Duration,
    pub(crate) failed: Option<String>,
    pub(crate) attributes: Vec<(&'static str, String)>,
}

impl Work<'_> {
    /// A span that ends now; none where the request's trace is not sampled.
    fn into_span(self, end_time: SystemTime) -> Option<SpanData> {
        let mut headers = HeaderMap::new();
        headers.extend(
            self.parent
                .and_then(|parent| parent.parse().ok())
                .map(|parent| (hyper::header::HeaderName::from_static("traceparent"), parent)),
        );
        let parent = Parent::of(&headers);
        if !parent.is_sampled() {
            return None;
        }
        let answered = Answered {
            parent: &parent,
            took: self.took,
            method: "",
            path: "",
            face: "job",
            client: String::new(),
            status: 0,
            bytes: 0,
            complete: true,
        };
        let attributes = self.attributes.into_iter();
        Some(SpanData {
            span_kind: SpanKind::Consumer,
            name: self.name.into(),
            attributes: attributes.map(|(name, value)| KeyValue::new(name, value)).collect(),
            status: self.failed.map_or(Status::Unset, Status::error),
            ..answered.into_span(end_time)
        })
    }
}

/// Spans on their way to the collector.
#[derive(Debug)]
pub(crate) struct Tracer {
    spans: Sender<SpanData>,
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
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(HyperClient::new(https, PATIENCE, None))
            .with_endpoint(target.0)
            .with_protocol(Protocol::HttpJson)
            .with_timeout(PATIENCE)
            .build()
            .map_err(std::io::Error::other)?;
        let name = Resource::builder_empty().with_service_name("tenpak-edge");
        exporter.set_resource(&name.build());
        let (spans, queue) = channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(send_all(exporter, queue, lost.clone()));
        Ok((Self { spans, lost }, task))
    }

    /// Queues a span, if its trace is sampled.
    pub(crate) fn record(&self, answered: Answered<'_>) {
        if answered.parent.is_sampled()
            && self.spans.try_send(answered.into_span(SystemTime::now())).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Queues the span of work that ends now.
    pub(crate) fn record_work(&self, work: Work<'_>) {
        if let Some(span) = work.into_span(SystemTime::now())
            && self.spans.try_send(span).is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Spans that did not reach the collector.
    pub(crate) fn lost(&self) -> &AtomicU64 {
        &self.lost
    }
}

/// The SDK's own queue drops spans without telling how many.
async fn send_all(exporter: SpanExporter, mut queue: Receiver<SpanData>, lost: Arc<AtomicU64>) {
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
        let sent = tokio::time::timeout(PATIENCE, exporter.export(spans)).await;
        if !matches!(sent, Ok(Ok(()))) {
            lost.fetch_add(count, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_joins_the_trace_of_its_request() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let of = |parent: Option<&str>| {
            let (name, took, failed) =
                ("job compress".to_owned(), Duration::from_secs(2), Some("why".to_owned()));
            Work { parent, name, took, failed, attributes: vec![("tenpak.job", "x".to_owned())] }
                .into_span(SystemTime::now())
        };
        let span = of(Some(&format!("00-{trace}-00f067aa0ba902b7-01"))).unwrap();
        assert_eq!(span.span_context.trace_id().to_string(), trace);
        assert_eq!((span.attributes.len(), &span.status), (1, &Status::error("why")));
        assert!(
            of(None).is_some() && of(Some(&format!("00-{trace}-00f067aa0ba902b7-00"))).is_none()
        );
    }

    #[test]
    fn a_request_joins_the_trace_that_it_names() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap());
            Parent::of(&headers)
        };
        for right in [
            format!("00-{trace}-{parent}-01"),
            format!("cc-{trace}-{parent}-03-more"),
            format!("00-{trace}-{parent}-00"),
        ] {
            let Parent(found) = of(&right);
            assert_eq!(found.trace_id().to_string(), trace);
            assert_eq!(found.span_id().to_string(), parent);
            assert_eq!(found.is_sampled(), !right.ends_with("-00"), "{right}");
        }
        for bad in [
            String::new(),
            "00".to_owned(),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}-zz"),
        ] {
            let begun = of(&bad);
            assert!(begun == Parent::of(&HeaderMap::new()) && begun.is_sampled(), "{bad}");
        }
        assert!(TraceTarget::new("collector:4318").is_err());
        let target = TraceTarget::new("http://collector:4318/").unwrap();
        assert_eq!(target.0, "http://collector:4318/v1/traces");
    }
}
