//! Serves a store's objects over HTTP: GET and HEAD, with single ranges.
//!
//! Bytes stream from the backend as the client takes them and are held nowhere else. Only paths of
//! a store's own folders are answered. A body that cannot be finished ends its connection, so that
//! no client takes a part for the whole.

mod request;
mod stream;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    HeaderValue, IF_NONE_MATCH, LAST_MODIFIED, RETRY_AFTER,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;

use crate::source::{Backend, ObjectPath, ObjectReader, ReadRange, SourceError, SourceErrorKind};
use request::Wanted;

/// How long the origin may take for an answer or for the next bytes.
const ORIGIN_STALL: Duration = Duration::from_secs(30);
/// How long a client may take to send a request's head.
const HEADER_TIME: Duration = Duration::from_secs(30);
/// How long open answers may take to finish once the server is told to stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// Failures to accept in a row that end the server.
const MAX_ACCEPT_FAILURES: u32 = 100;
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=31536000, immutable");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

type Answer = Response<UnsyncBoxBody<Bytes, SourceError>>;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The system gives no more connections.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
}

/// Serves `backend` on `listener` until `shutdown` is done, and then finishes what it has begun.
pub async fn serve(
    backend: Arc<dyn Backend>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), EdgeError> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
    server.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut shutdown => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(e) if failures >= MAX_ACCEPT_FAILURES => return Err(EdgeError::Accept(e)),
            Err(_) => {
                // Too many open files, or a client that left again: others may fare better.
                failures += 1;
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        failures = 0;
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let backend = backend.clone();
        let service = service_fn(move |request| {
            let backend = backend.clone();
            async move { Ok::<_, Infallible>(answer(&backend, &request).await) }
        });
        let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // A connection that breaks concerns its client, who notices.
            connection.await.unwrap_or_default();
        });
    }
    drop(listener);
    tokio::time::timeout(FAREWELL, graceful.shutdown()).await.unwrap_or_default();
    Ok(())
}

async fn answer(backend: &Arc<dyn Backend>, request: &Request<Incoming>) -> Answer {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED);
        let headers = refused.headers_mut();
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let Some(path) = request::object_path(request.uri().path()) else {
        return plain(StatusCode::NOT_FOUND);
    };
    let answered = async {
        match *request.method() {
            Method::HEAD => head(backend, &path).await,
            _ => get(backend, &path, request).await,
        }
    };
    match tokio::time::timeout(ORIGIN_STALL, answered).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => refusal(&error),
        Err(_) => plain(StatusCode::GATEWAY_TIMEOUT),
    }
}

async fn head(backend: &Arc<dyn Backend>, path: &ObjectPath) -> Result<Answer, SourceError> {
    let Some(info) = backend.head(path).await? else {
        return Ok(plain(StatusCode::NOT_FOUND));
    };
    let mut answer = Response::new(empty());
    let headers = answer.headers_mut();
    headers.insert(CONTENT_LENGTH, info.size.into());
    let modified = httpdate::fmt_http_date(info.modified);
    if let Ok(modified) = HeaderValue::try_from(modified) {
        headers.insert(LAST_MODIFIED, modified);
    }
    describe(&mut answer, path);
    Ok(answer)
}

async fn get(
    backend: &Arc<dyn Backend>,
    path: &ObjectPath,
    request: &Request<Incoming>,
) -> Result<Answer, SourceError> {
    let wanted = request::wanted(request.headers());
    let (reader, asked) = match open(backend, path, wanted).await? {
        Opened::Reader(reader, asked) => (reader, asked),
        Opened::Beyond(size) => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
                answer.headers_mut().insert(CONTENT_RANGE, range);
            }
            return Ok(answer);
        }
    };
    let tag = reader.version.as_ref().and_then(request::entity_tag);
    if let Some(tag) = &tag
        && request::matches(request.headers().get_all(IF_NONE_MATCH), tag)
    {
        let mut answer = Response::new(empty());
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().insert(ETAG, tag.clone());
        describe(&mut answer, path);
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
    let mut answer =
        Response::new(stream::body(reader, range.clone(), known, backend.clone(), path.clone()));
    let headers = answer.headers_mut();
    if known {
        headers.insert(CONTENT_LENGTH, (range.end - range.start).into());
    }
    if let Some(tag) = tag {
        headers.insert(ETAG, tag);
    }
    if asked != ReadRange::Full && !range.is_empty() {
        let last = range.end - 1;
        let size = size.map_or_else(|| "*".to_owned(), |size| size.to_string());
        let value = format!("bytes {}-{last}/{size}", range.start);
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(CONTENT_RANGE, value);
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
    }
    describe(&mut answer, path);
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
    backend: &Arc<dyn Backend>,
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
        match backend.open(path, range.clone()).await {
            Err(error) if error.kind == SourceErrorKind::OutOfRange => {}
            opened => return opened.map(|reader| Opened::Reader(reader, range)),
        }
    }
    let missing =
        || SourceError::new(SourceErrorKind::NotFound, backend.location(), path, "no such object");
    let size = backend.head(path).await?.ok_or_else(missing)?.size;
    let range = match wanted {
        Wanted::Between(first, end) if first < size => first..end.min(size),
        Wanted::From(first) if first < size => first..size,
        _ => return Ok(Opened::Beyond(size)),
    };
    let range = ReadRange::Bounded(range);
    let reader = backend.open(path, range.clone()).await?;
    Ok(Opened::Reader(reader, range))
}

/// What every answer with an object says.
fn describe(answer: &mut Answer, path: &ObjectPath) {
    let headers = answer.headers_mut();
    let caching = match request::is_mutable(path) {
        true => NO_CACHE,
        false => IMMUTABLE,
    };
    headers.insert(CACHE_CONTROL, caching);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let kind = HeaderValue::from_static("application/octet-stream");
    headers.insert(CONTENT_TYPE, kind);
}

fn refusal(error: &SourceError) -> Answer {
    let status = match error.kind {
        SourceErrorKind::NotFound => StatusCode::NOT_FOUND,
        SourceErrorKind::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        SourceErrorKind::Transient => StatusCode::SERVICE_UNAVAILABLE,
        SourceErrorKind::Stalled => StatusCode::GATEWAY_TIMEOUT,
        SourceErrorKind::Io => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::BAD_GATEWAY,
    };
    let mut answer = plain(status);
    if let Some(wait) = error.retry_after {
        answer.headers_mut().insert(RETRY_AFTER, wait.as_secs().into());
    }
    answer
}

/// An answer without an object; its text is the status's own name.
fn plain(status: StatusCode) -> Answer {
    let text = format!("{}\n", status.canonical_reason().unwrap_or("Error"));
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut answer = Response::new(body.boxed_unsync());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}

fn empty() -> UnsyncBoxBody<Bytes, SourceError> {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync()
}
