//! Counts of an edge in the text form that Prometheus reads, and whether it is alive.

use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use crate::chunk::verified::hashed_bytes;
use crate::edge::cache::disk::DiskTier;
use crate::edge::http::answer::{Answer, NO_CACHE, full};
use crate::edge::state::Edge;

/// The edge answers.
pub(crate) fn health() -> Answer {
    text("ok\n".to_owned())
}

/// All counts.
pub(crate) fn answer(edge: &Edge) -> Answer {
    let (cache, origin) = (edge.cache.stats(), edge.chunks.stats());
    let origins = edge.chunks.origins();
    let hashed = AtomicU64::new(hashed_bytes());
    let mut counters: Vec<(&str, &str, &AtomicU64)> = vec![
        ("cache_hits", "Chunk lookups that hit the memory cache.", &cache.hits),
        (
            "cache_misses",
            "Chunk lookups that missed the memory cache and began a fill.",
            &cache.misses,
        ),
        ("cache_collapsed", "Chunk lookups that joined a fill in flight.", &cache.collapsed),
        ("origin_requests", "Requests to origins.", origins.requests()),
        (
            "origin_hedges",
            "Hedged requests: sent to a second origin because the first was slow.",
            origins.hedges(),
        ),
        ("origin_retries", "Requests to origins retried after a failure.", &origin.retries),
        ("origin_bytes", "Bytes of chunks received from origins.", &origin.bytes),
        (
            "verify_failures",
            "Chunks from origins that failed digest verification.",
            &origin.damaged,
        ),
        ("hashed_bytes", "Bytes hashed to verify chunks, from origins and from disk.", &hashed),
    ];
    if let Some(disk) = edge.disk.as_deref().map(DiskTier::stats) {
        counters.extend([
            ("disk_hits", "Chunks read from the disk cache.", &disk.hits),
            (
                "disk_damaged",
                "Chunks in the disk cache that failed digest verification.",
                &disk.damaged,
            ),
            (
                "disk_unwritten",
                "Chunks that could not be written to the disk cache.",
                &disk.unwritten,
            ),
        ]);
    }
    let watch = &edge.watch;
    counters.extend([
        ("sent_bytes", "Bytes of response bodies sent.", &watch.sent),
        (
            "requests_saturated",
            "Requests rejected at the limit of concurrency or of memory (503).",
            &watch.saturated,
        ),
        ("requests_limited", "Requests rejected by the rate limit (429).", &watch.limited),
        ("answers_broken", "Responses aborted before their last byte.", &watch.broken),
        ("prefetched", "Artifacts prefetched on request.", &edge.fetched),
        ("prefetch_failures", "Artifacts whose prefetch failed.", &edge.unfetched),
    ]);
    if let Some(log) = &watch.log {
        counters.push(("log_lost", "Access log lines dropped.", log.lost()));
    }
    let mut out = String::new();
    for (name, help, count) in counters {
        let count = count.load(Ordering::Relaxed);
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "# HELP tenpak_edge_{name}_total {help}\n# TYPE tenpak_edge_{name}_total counter\n\
             tenpak_edge_{name}_total {count}"
        );
    }
    let tracer = watch.tracer.read().unwrap_or_else(PoisonError::into_inner);
    let untraced = tracer.as_ref().map_or(0, |tracer| tracer.lost().load(Ordering::Relaxed));
    let mut gauges = vec![
        ("spans_lost", "Spans dropped before they reached the collector.", untraced),
        ("in_flight", "Responses in flight.", watch.in_flight.load(Ordering::Relaxed)),
        (
            "answer_bytes",
            "Bytes of memory held by responses in flight, beyond the cache.",
            edge.cache.answer_bytes(),
        ),
        ("origins_resting", "Origins on cooldown after failures.", origins.resting()),
        ("prefetching", "Prefetches in progress.", edge.fetching.load(Ordering::Relaxed)),
    ];
    if let Some(disk) = &edge.disk {
        gauges.push(("disk_bytes", "Bytes of chunks in the disk cache.", disk.used()));
    }
    for (name, help, value) in gauges {
        let _ = writeln!(
            out,
            "# HELP tenpak_edge_{name} {help}\n# TYPE tenpak_edge_{name} gauge\n\
             tenpak_edge_{name} {value}"
        );
    }
    let help = "Time to first byte: from the end of the request's headers to the first byte of the response body.";
    watch.first_byte.write("tenpak_edge_first_byte_seconds", help, &mut out);
    text(out)
}

fn text(text: String) -> Answer {
    let mut answer = Response::new(full(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}
