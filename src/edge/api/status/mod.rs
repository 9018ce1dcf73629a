//! The page for people, filled with what the client may know.

pub(crate) mod page;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Response};

use crate::edge::api::status::page::{Status, page};
use crate::edge::cache::disk::DiskTier;
use crate::edge::http::access::Who;
use crate::edge::http::answer::{Answer, NO_CACHE, empty, full};
use crate::edge::state::Edge;

/// Artifacts shown.
const SHOWN: usize = 1000;

/// The page.
pub(crate) async fn answer(edge: &Arc<Edge>, who: &Who, method: &Method) -> Answer {
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut artifacts: Vec<(String, Vec<String>)> = Vec::new();
    // An origin that cannot be asked now leaves the list empty.
    let names = edge.catalog.names("").await.unwrap_or_default();
    for (name, tag) in names.iter().filter(|(name, _)| who.may_read(name)) {
        let is_full = artifacts.len() == SHOWN;
        match artifacts.last_mut() {
            Some((last, tags)) if last == name.as_str() => tags.push(tag.to_string()),
            _ if is_full => break,
            _ => artifacts.push((name.to_string(), vec![tag.to_string()])),
        }
    }
    let (cache, disk) = (edge.cache.stats(), edge.disk.as_deref());
    let on_disk = disk.map(DiskTier::stats).map_or(0, |stats| count(&stats.hits));
    let (hits, misses) = (count(&cache.hits), count(&cache.misses));
    let now = edge.sample();
    let status = Status {
        origin: edge.chunks.origins().location().to_owned(),
        seconds: edge.started.elapsed().as_secs(),
        artifacts,
        hits: hits + on_disk,
        asked: hits + misses + count(&cache.collapsed),
        sent: now.sent,
        fetched: now.fetched,
        in_flight: count(&edge.watch.in_flight),
        verify_failures: count(&edge.chunks.stats().damaged),
        disk: disk.map(DiskTier::used),
        rates: edge.traffic.rates(now),
    };
    let mut answer = Response::new(match *method {
        Method::HEAD => empty(),
        _ => full(page(&status)),
    });
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CACHE_CONTROL, NO_CACHE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    answer
}
