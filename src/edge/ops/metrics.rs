//! Counts of an edge in the text form that Prometheus reads, and whether it is alive.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use prometheus_client::encoding::prometheus_text::{CONTENT_TYPE as TEXT, encode};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::chunk::verified::hashed_bytes;
use crate::edge::cache::disk::DiskTier;
use crate::edge::http::answer::{Answer, NO_CACHE, full, plain};
use crate::edge::state::Edge;

/// The edge answers.
pub(crate) fn health() -> Answer {
    text("ok\n".to_owned())
}

/// All counts, and below them those of the service in front.
pub(crate) fn answer(edge: &Edge, more: &str) -> Answer {
    let mut out = String::new();
    match encode(&mut out, &registry(edge)) {
        Ok(()) => {
            // What ends the page stays its end.
            let end = "# EOF\n";
            let ends = out.ends_with(end);
            out.truncate(out.len() - if ends { end.len() } else { 0 });
            out.push_str(more);
            out.push_str(if ends { end } else { "" });
            text(out)
        }
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

/// The counts as they stand. The encoder adds the dot that ends a help text, and `_total` to a counter's name.
fn registry(edge: &Edge) -> Registry {
    let mut registry = Registry::with_prefix("tenpak_edge");
    let now = |count: &AtomicU64| count.load(Ordering::Relaxed);

    let mut count = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstCounter::new(value));
    };
    let cache = edge.cache.stats();
    count("cache_hits", "Chunk lookups that hit the memory cache", now(&cache.hits));
    let help = "Chunk lookups that missed the memory cache and began a fill";
    count("cache_misses", help, now(&cache.misses));
    count("cache_collapsed", "Chunk lookups that joined a fill in flight", now(&cache.collapsed));
    let (origins, origin) = (edge.chunks.origins(), edge.chunks.stats());
    count("origin_requests", "Requests to origins", now(origins.requests()));
    let help = "Hedged requests: sent to a second origin because the first was slow";
    count("origin_hedges", help, now(origins.hedges()));
    count("origin_retries", "Requests to origins retried after a failure", now(&origin.retries));
    count("origin_bytes", "Bytes of chunks received from origins", now(&origin.bytes));
    let help = "Chunks from origins that failed digest verification";
    count("verify_failures", help, now(&origin.damaged));
    let help = "Bytes hashed to verify chunks, from origins and from disk";
    count("hashed_bytes", help, hashed_bytes());
    if let Some(disk) = edge.disk.as_deref().map(DiskTier::stats) {
        count("disk_hits", "Chunks read from the disk cache", now(&disk.hits));
        let help = "Chunks in the disk cache that failed digest verification";
        count("disk_damaged", help, now(&disk.damaged));
        let help = "Chunks that could not be written to the disk cache";
        count("disk_unwritten", help, now(&disk.unwritten));
    }
    let watch = &edge.watch;
    count("sent_bytes", "Bytes of response bodies sent", now(&watch.sent));
    let help = "Requests rejected at the limit of concurrency or of memory (503)";
    count("requests_saturated", help, now(&watch.saturated));
    count("requests_limited", "Requests rejected by the rate limit (429)", now(&watch.limited));
    let connections = edge.connections.counts();
    let help = "Connections closed because no request came, or to make room for another";
    count("connections_silent", help, now(&connections.silent));
    let help = "Connections rejected at the limit of all, or of one address";
    count("connections_refused", help, now(&connections.refused));
    count("answers_broken", "Responses aborted before their last byte", now(&watch.broken));
    count("prefetched", "Artifacts prefetched on request", now(&edge.fetched));
    count("prefetch_failures", "Artifacts whose prefetch failed", now(&edge.unfetched));
    if let Some(log) = &watch.log {
        count("log_lost", "Access log lines dropped", now(log.lost()));
    }

    let mut gauge = |name: &str, help: &str, value: u64| {
        registry.register(name, help, ConstGauge::new(value));
    };
    let tracer = watch.tracer.read().unwrap_or_else(PoisonError::into_inner);
    let lost = tracer.as_ref().map_or(0, |tracer| now(tracer.lost()));
    gauge("spans_lost", "Spans dropped before they reached the collector", lost);
    gauge("connections", "Open connections", now(&connections.open));
    gauge("in_flight", "Responses in flight", now(&watch.in_flight));
    let help = "Bytes of memory held by responses in flight, beyond the cache";
    gauge("answer_bytes", help, edge.cache.answer_bytes());
    gauge("origins_resting", "Origins on cooldown after failures", origins.resting());
    gauge("prefetching", "Prefetches in progress", now(&edge.fetching));
    if let Some(disk) = &edge.disk {
        gauge("disk_bytes", "Bytes of chunks in the disk cache", disk.used());
    }

    let help = "Time to first byte: from the end of the request's headers to the first byte of the response body";
    registry.register("first_byte_seconds", help, watch.first_byte.0.clone());
    registry
}

fn text(text: String) -> Answer {
    let mut answer = Response::new(full(text));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}
