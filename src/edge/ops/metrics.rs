//! Counts of an edge in the text form that Prometheus reads, and whether it is alive.

use std::fmt::Write as _;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Response;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use crate::edge::cache::disk::DiskTier;
use crate::edge::http::answer::{Answer, NO_CACHE, full};
use crate::edge::state::Edge;

/// The edge answers.
pub(crate) fn health() -> Answer {
    text("ok\n".to_owned())
}

/// All counts.
pub(crate) fn answer(edge: &Edge) -> Answer {
    let (cache, origin) = (edge.cache.stats(), edge.packs.stats());
    let origins = edge.packs.origins();
    let mut counters: Vec<(&str, &str, &AtomicU64)> = vec![
        ("cache_hits", "Chunks found in the cache.", &cache.hits),
        ("cache_misses", "Chunks that were not.", &cache.misses),
        ("cache_collapsed", "Chunks that somebody else was fetching.", &cache.collapsed),
        ("origin_requests", "Requests to origins.", origins.requests()),
        ("origin_hedges", "Requests sent again as an answer was late.", origins.hedges()),
        ("origin_retries", "Requests after a failed one.", &origin.retries),
        ("origin_bytes", "Bytes of chunks that origins sent.", &origin.bytes),
        ("verify_failures", "Chunks that were not what they should be.", &origin.damaged),
    ];
    if let Some(disk) = edge.disk.as_deref().map(DiskTier::stats) {
        counters.extend([
            ("disk_hits", "Chunks read from disk.", &disk.hits),
            ("disk_damaged", "Chunks on disk that were not what they should be.", &disk.damaged),
            ("disk_unwritten", "Chunks that could not be written.", &disk.unwritten),
        ]);
    }
    let watch = &edge.watch;
    counters.extend([
        ("sent_bytes", "Bytes of bodies that went out.", &watch.sent),
        ("requests_saturated", "Requests that found no place.", &watch.saturated),
        ("requests_limited", "Requests of clients over their rate.", &watch.limited),
        ("answers_broken", "Answers that ended before their last byte.", &watch.broken),
        ("prefetched", "Artifacts that were fetched ahead on demand.", &edge.fetched),
        ("prefetch_failures", "Artifacts that could not be.", &edge.unfetched),
    ]);
    if let Some(log) = &watch.log {
        counters.push(("log_lost", "Lines that the access log lacks.", log.lost()));
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
        ("spans_lost", "Spans that did not reach the collector.", untraced),
        ("in_flight", "Answers under way.", watch.in_flight.load(Ordering::Relaxed)),
        ("answer_bytes", "Bytes that answers hold beyond the cache.", edge.cache.answer_bytes()),
        ("origins_resting", "Origins that failed and are asked last.", origins.resting()),
        ("prefetching", "Artifacts being fetched ahead.", edge.fetching.load(Ordering::Relaxed)),
    ];
    if let Some(disk) = &edge.disk {
        gauges.push(("disk_bytes", "Bytes of chunks on disk.", disk.used()));
    }
    for (name, help, value) in gauges {
        let _ = writeln!(
            out,
            "# HELP tenpak_edge_{name} {help}\n# TYPE tenpak_edge_{name} gauge\n\
             tenpak_edge_{name} {value}"
        );
    }
    let help = "Time from a request's head to the first byte of its answer's body.";
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
