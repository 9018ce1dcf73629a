//! A web server that gives each connection so many bytes a second, and each answer so much later: what object stores
//! and CDNs do, where the kernel has no `netem`.
//!
//! `slow_origin FOLDER PORT BYTES_PER_SECOND DELAY_MS [BUSY_ABOVE]`; with the last, requests beyond so many at a time
//! are answered 503.

use std::convert::Infallible;
use std::io::Read;
use std::io::Seek;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

const FRAME: u64 = 64 << 10;

struct Origin {
    folder: PathBuf,
    rate: f64,
    delay: Duration,
    most: usize,
    now: AtomicUsize,
}

type Answer = Response<BoxBody<Bytes, std::io::Error>>;

/// One that counts until it is dropped.
struct Place(Arc<Origin>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::Relaxed);
    }
}

fn plain(status: StatusCode) -> Answer {
    let body = Full::new(Bytes::new()).map_err(|never: Infallible| match never {}).boxed();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer
}

async fn answer(
    origin: Arc<Origin>,
    due: Arc<Mutex<Instant>>,
    request: Request<Incoming>,
) -> Answer {
    let taken = origin.now.fetch_add(1, Ordering::Relaxed);
    let place = Place(origin.clone());
    tokio::time::sleep(origin.delay).await;
    if taken >= origin.most {
        return plain(StatusCode::SERVICE_UNAVAILABLE);
    }
    let path = origin.folder.join(request.uri().path().trim_start_matches('/'));
    let Ok(mut file) = std::fs::File::open(&path) else { return plain(StatusCode::NOT_FOUND) };
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let range = request.headers().get("range").and_then(|range| range.to_str().ok());
    let (from, to) = match range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-')) {
        None => (0, size),
        Some(("", last)) => (size.saturating_sub(last.parse().unwrap_or(0)), size),
        Some((first, last)) => (
            first.parse().unwrap_or(0),
            last.parse::<u64>().map_or(size, |last| size.min(last + 1)),
        ),
    };
    if from >= to && size > 0 {
        return plain(StatusCode::RANGE_NOT_SATISFIABLE);
    }
    if file.seek(std::io::SeekFrom::Start(from)).is_err() {
        return plain(StatusCode::INTERNAL_SERVER_ERROR);
    }
    let rate = origin.rate;
    let frames = stream::unfold((file, to - from, place), move |(mut file, left, place)| {
        let due = due.clone();
        async move {
            if left == 0 {
                return None;
            }
            let mut frame = vec![0; left.min(FRAME) as usize];
            let read = file.read_exact(&mut frame);
            let at = {
                let mut due = due.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let at = (*due).max(Instant::now());
                *due = at + Duration::from_secs_f64(frame.len() as f64 / rate);
                at
            };
            // The runtime's timers tick each millisecond: what is nearer goes now, and what follows is as much later.
            if at > Instant::now() + Duration::from_millis(2) {
                tokio::time::sleep_until(at).await;
            }
            let left = left - frame.len() as u64;
            Some((read.map(|()| Frame::data(Bytes::from(frame))), (file, left, place)))
        }
    });
    let mut answer = Response::new(BodyExt::boxed(StreamBody::new(frames)));
    let head = answer.headers_mut();
    head.insert("content-length", (to - from).into());
    // Clients of S3 want to know what they read, and that parts of it are given.
    head.insert("accept-ranges", HeaderValue::from_static("bytes"));
    head.insert("last-modified", HeaderValue::from_static("Thu, 01 Jan 2026 00:00:00 GMT"));
    if let Ok(tag) = HeaderValue::try_from(format!("\"{size:x}\"")) {
        head.insert("etag", tag);
    }
    if range.is_some() {
        if let Ok(value) = format!("bytes {from}-{}/{size}", to - 1).parse() {
            head.insert("content-range", value);
        }
        *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    answer
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [folder, port, rate, delay, most @ ..] = &arguments[..] else {
        return Err("slow_origin FOLDER PORT BYTES_PER_SECOND DELAY_MS [BUSY_ABOVE]".into());
    };
    let origin = Arc::new(Origin {
        folder: folder.into(),
        rate: rate.parse()?,
        delay: Duration::from_millis(delay.parse()?),
        most: most.first().map_or(Ok(usize::MAX), |most| most.parse())?,
        now: AtomicUsize::new(0),
    });
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (origin, due) = (origin.clone(), Arc::new(Mutex::new(Instant::now())));
        tokio::spawn(async move {
            tokio::time::sleep(origin.delay).await;
            let service = service_fn(move |request| {
                let (origin, due) = (origin.clone(), due.clone());
                async move { Ok::<_, Infallible>(answer(origin, due, request).await) }
            });
            drop(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await,
            );
        });
    }
}
