//! The store's own layout over HTTP: GET and HEAD, with single ranges.
//!
//! Packs come through the cache, verified; other objects stream from the origin as the client takes
//! them. With anybody trusted, only what a trusted manifest names is answered.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_LENGTH, ETAG, IF_NONE_MATCH, LAST_MODIFIED};
use hyper::{Method, Request, Response, StatusCode};

use super::Edge;
use super::answer::{
    Answer, IMMUTABLE, NO_CACHE, beyond, delimit, empty, part, plain, refusal, set, store_refusal,
    streamed,
};
use super::files::pack_of;
use super::request::{self, Wanted};
use super::stream;
use crate::format::name::{ArtifactName, Tag};
use crate::id::ManifestId;
use crate::source::http::ARTIFACT_HEADER;
use crate::source::{Backend, ObjectPath, ObjectReader, ReadRange, SourceError, SourceErrorKind};
use crate::store::StoreError;

/// Answers a request for an object of the store.
pub(super) async fn answer(
    edge: &Arc<Edge>,
    path: &ObjectPath,
    request: &Request<Incoming>,
) -> Answer {
    if path.as_str().starts_with("packs/") {
        return pack(edge, path, request).await;
    }
    if let Err(error) = admit(edge, path).await {
        return store_refusal(&error);
    }
    let mut last = None;
    for origin in &edge.origins {
        let answered = match *request.method() {
            Method::HEAD => head(origin, path).await,
            _ => get(origin, path, request).await,
        };
        match answered {
            Ok(answer) => return answer,
            Err(error) => drop(last.get_or_insert(error)),
        }
    }
    last.map_or_else(|| plain(StatusCode::NOT_FOUND), |error| refusal(&error))
}

/// With anybody trusted: whether the object belongs to an artifact that counts.
async fn admit(edge: &Arc<Edge>, path: &ObjectPath) -> Result<(), Arc<StoreError>> {
    let catalog = &edge.catalog;
    if !catalog.is_closed() {
        return Ok(());
    }
    let refused = || {
        let (location, artifact) = (String::new(), path.to_string());
        Err(Arc::new(StoreError::NoArtifact { location, artifact }))
    };
    let (kind, rest) = path.as_str().split_once('/').unwrap_or((path.as_str(), ""));
    let of = |id: &str| id.parse::<ManifestId>();
    match kind {
        "refs" => {
            let Some((name, tag)) = rest.rsplit_once("/@") else { return Ok(()) };
            let (Ok(name), Ok(tag)) = (name.parse::<ArtifactName>(), tag.parse::<Tag>()) else {
                return refused();
            };
            let id = catalog.resolve(&name, &tag).await?;
            catalog.artifact(id, Some(&name)).await.map(drop)
        }
        "manifests" | "layouts" | "signatures" => {
            let Ok(id) = of(rest.split('/').next().unwrap_or(rest)) else { return refused() };
            if catalog.knows(id) {
                return Ok(());
            }
            catalog.artifact(id, None).await.map(drop)
        }
        "tables" if !rest.parse().is_ok_and(|table| catalog.knows_table(table)) => refused(),
        _ => Ok(()),
    }
}

/// Looks at the artifact that the client says its request is for.
async fn learn(edge: &Arc<Edge>, request: &Request<Incoming>) {
    let said = request.headers().get(ARTIFACT_HEADER).and_then(|said| said.to_str().ok());
    let Some((name, id)) = said.and_then(|said| said.split_once('@')) else { return };
    let (name, Ok(id)) = (name.parse::<ArtifactName>().ok(), id.parse::<ManifestId>()) else {
        return;
    };
    // One that does not count admits nothing.
    drop(edge.catalog.artifact(id, name.as_ref()).await);
}

async fn pack(edge: &Arc<Edge>, path: &ObjectPath, request: &Request<Incoming>) -> Answer {
    let Some(pack) = pack_of(path) else { return plain(StatusCode::NOT_FOUND) };
    let map = match edge.packs.map(pack).await {
        Ok(map) => map,
        Err(error) => return refusal(&error),
    };
    let size = map.size();
    let head = *request.method() == Method::HEAD;
    let wanted = if head { Wanted::Whole } else { request::wanted(request.headers()) };
    let Some((range, partial)) = part(wanted, size) else { return beyond(size) };
    let admitted =
        || map.chunks(&range).iter().all(|(_, record)| edge.catalog.admits(&record.stored));
    if !admitted() {
        // Another edge may have seen the artifact opened: the client says which one it is.
        learn(edge, request).await;
        if !admitted() {
            return plain(StatusCode::FORBIDDEN);
        }
    }
    let tag = format!("\"{pack}\"");
    let mut answer = Response::new(empty());
    set(&mut answer, ETAG, &tag);
    answer.headers_mut().insert(CACHE_CONTROL, IMMUTABLE);
    let is_known = request
        .headers()
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|given| given.to_str().ok())
        .any(|given| given.trim() == "*" || given.contains(&tag));
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        return answer;
    }
    if !head {
        *answer.body_mut() = streamed(edge.packs.read(pack, &map, range.clone()));
    }
    delimit(&mut answer, &range, size, partial);
    answer
}

async fn head(origin: &Arc<dyn Backend>, path: &ObjectPath) -> Result<Answer, SourceError> {
    let Some(info) = origin.head(path).await? else {
        return Ok(plain(StatusCode::NOT_FOUND));
    };
    let mut answer = Response::new(empty());
    delimit(&mut answer, &(0..info.size), info.size, false);
    set(&mut answer, LAST_MODIFIED, httpdate::fmt_http_date(info.modified));
    answer.headers_mut().insert(CACHE_CONTROL, caching(path));
    Ok(answer)
}

fn caching(path: &ObjectPath) -> hyper::header::HeaderValue {
    if request::is_mutable(path) { NO_CACHE } else { IMMUTABLE }
}

async fn get(
    origin: &Arc<dyn Backend>,
    path: &ObjectPath,
    request: &Request<Incoming>,
) -> Result<Answer, SourceError> {
    let wanted = request::wanted(request.headers());
    let (reader, asked) = match open(origin, path, wanted).await? {
        Opened::Reader(reader, asked) => (reader, asked),
        Opened::Beyond(size) => return Ok(beyond(size)),
    };
    let tag = reader.version.as_ref().and_then(request::entity_tag);
    if let Some(tag) = &tag
        && request::matches(request.headers().get_all(IF_NONE_MATCH), tag)
    {
        let mut answer = Response::new(empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().insert(ETAG, tag.clone());
        answer.headers_mut().insert(CACHE_CONTROL, caching(path));
        return Ok(answer);
    }
    let size = reader.size;
    // An origin that ignores ranges sends more than was asked; the stream skips it.
    let range = match (&asked, size) {
        (asked, Some(size)) => asked.within(size),
        (ReadRange::Bounded(range), None) => Some(range.clone()),
        (_, None) => None,
    };
    let (range, known) = match range {
        Some(range) => (range, true),
        None => (reader.range.clone(), false),
    };
    let body = stream::body(reader, range.clone(), known, origin.clone(), path.clone());
    let mut answer = Response::new(body);
    let partial = asked != ReadRange::Full && !range.is_empty();
    match size {
        Some(size) => delimit(&mut answer, &range, size, partial),
        None => {
            delimit(&mut answer, &range, range.end, false);
            if !known {
                answer.headers_mut().remove(CONTENT_LENGTH);
            }
            if partial {
                let last = range.end - 1;
                let value = format!("bytes {}-{last}/*", range.start);
                set(&mut answer, hyper::header::CONTENT_RANGE, value);
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            }
        }
    }
    if let Some(tag) = tag {
        answer.headers_mut().insert(ETAG, tag);
    }
    answer.headers_mut().insert(CACHE_CONTROL, caching(path));
    Ok(answer)
}

enum Opened {
    Reader(ObjectReader, ReadRange),
    /// The range starts beyond the end of an object of this size.
    Beyond(u64),
}

/// Opens what a client wants. HTTP cuts a range that reaches over the end, where a backend refuses
/// it: then, and only then, the size is asked for first.
async fn open(
    origin: &Arc<dyn Backend>,
    path: &ObjectPath,
    wanted: Wanted,
) -> Result<Opened, SourceError> {
    let range = match wanted {
        Wanted::Whole => Some(ReadRange::Full),
        Wanted::Last(0) | Wanted::From(_) => None,
        Wanted::Last(last) => Some(ReadRange::Suffix(last)),
        Wanted::Between(first, end) => Some(ReadRange::Bounded(first..end)),
    };
    if let Some(range) = range {
        match origin.open(path, range.clone()).await {
            Err(error) if error.kind == SourceErrorKind::OutOfRange => {}
            opened => return opened.map(|reader| Opened::Reader(reader, range)),
        }
    }
    let missing =
        || SourceError::new(SourceErrorKind::NotFound, origin.location(), path, "no such object");
    let size = origin.head(path).await?.ok_or_else(missing)?.size;
    let Some((range, _)) = part(wanted, size) else { return Ok(Opened::Beyond(size)) };
    let range = ReadRange::Bounded(range);
    let reader = origin.open(path, range.clone()).await?;
    Ok(Opened::Reader(reader, range))
}
