//! An S3 server in memory that is quick, and that takes and gives so many bytes a second on each connection. It checks
//! no signature, and has one bucket of whatever name.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{HeaderMap, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::time::Instant;

/// Bytes that are sent at a time.
const FRAME: usize = 64 << 10;
/// Uploads of fewer bytes are not counted: they are refs, leases, and the like.
const LARGE: usize = 1 << 20;

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// What an object holds, as it came.
#[derive(Clone)]
struct Object {
    parts: Vec<Bytes>,
    tag: String,
}

impl Object {
    fn len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }
}

/// The server, for as long as the runtime lives.
pub struct Bucket {
    /// Bytes a second of each connection.
    rate: f64,
    objects: Mutex<BTreeMap<String, Object>>,
    uploads: Mutex<BTreeMap<String, BTreeMap<usize, Bytes>>>,
    next: AtomicU64,
    /// Large bodies that are coming, and the most at a time.
    coming: AtomicUsize,
    most: AtomicUsize,
    /// Bytes of large bodies, and when the first began and the last ended.
    taken: AtomicU64,
    times: Mutex<Option<(Instant, Instant)>>,
}

/// What was uploaded.
#[derive(Debug, Clone, Copy)]
pub struct Uploads {
    /// Bytes, of bodies of 1 MiB and more.
    pub bytes: u64,
    /// The most of these bodies that came at the same time.
    pub at_once: usize,
    /// From the first byte of the first to the last of the last.
    pub seconds: f64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// When the next bytes of a connection are due.
struct Pace {
    rate: f64,
    due: Mutex<Instant>,
}

impl Pace {
    async fn wait(&self, bytes: usize) {
        let at = {
            let mut due = lock(&self.due);
            let at = (*due).max(Instant::now()) + Duration::from_secs_f64(bytes as f64 / self.rate);
            *due = at;
            at
        };
        // The runtime's timers tick each millisecond: what is nearer goes now, and what follows waits for it.
        if at > Instant::now() + Duration::from_millis(2) {
            tokio::time::sleep_until(at).await;
        }
    }
}

fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)).boxed());
    *answer.status_mut() = status;
    answer
}

fn failed(status: StatusCode, code: &str) -> Answer {
    text(status, format!("<Error><Code>{code}</Code><Message>{code}</Message></Error>"))
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// What stands between the first `<name>` and its end, and what follows.
fn tagged<'a>(xml: &'a str, name: &str) -> Option<(&'a str, &'a str)> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>"))
}

/// Of a path or a query, what is escaped in it as it was.
fn plain(text: &str) -> String {
    let mut bytes = text.bytes();
    let mut out = Vec::new();
    while let Some(byte) = bytes.next() {
        let escaped = (byte == b'%').then(|| {
            let digits = [bytes.next()?, bytes.next()?];
            u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()
        });
        out.push(escaped.flatten().unwrap_or(byte));
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Bucket {
    /// Starts a server on a port of its own.
    ///
    /// # Errors
    /// If there is no port.
    pub async fn start(rate: f64, port: u16) -> std::io::Result<(Arc<Self>, SocketAddr)> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let at = listener.local_addr()?;
        let (objects, uploads, next) = (Mutex::default(), Mutex::default(), AtomicU64::new(1));
        let (coming, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (taken, times) = (AtomicU64::new(0), Mutex::new(None));
        let bucket = Arc::new(Self { rate, objects, uploads, next, coming, most, taken, times });
        let own = bucket.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let bucket = own.clone();
                let pace = Arc::new(Pace { rate, due: Mutex::new(Instant::now()) });
                tokio::spawn(async move {
                    let service = service_fn(move |request| {
                        let (bucket, pace) = (bucket.clone(), pace.clone());
                        async move { Ok::<_, Infallible>(bucket.answer(request, pace).await) }
                    });
                    let connection = hyper::server::conn::http1::Builder::new();
                    drop(connection.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        Ok((bucket, at))
    }

    /// The environment in which `s3://` addresses mean this server.
    pub fn environment(at: SocketAddr) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", format!("http://{at}")),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
        ]
    }

    /// What was uploaded so far.
    pub fn uploads(&self) -> Uploads {
        let seconds = lock(&self.times).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let bytes = self.taken.load(Ordering::Relaxed);
        Uploads { bytes, at_once: self.most.load(Ordering::Relaxed), seconds }
    }

    /// Bytes a second of each connection.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    async fn answer(&self, request: Request<Incoming>, pace: Arc<Pace>) -> Answer {
        let (head, body) = request.into_parts();
        let path = plain(head.uri.path());
        // The bucket's name comes first.
        let key = path.trim_start_matches('/').split_once('/').map_or("", |(_, key)| key);
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .map(|(name, value)| (plain(name), plain(value)))
            .collect();
        let Some(body) = self.take(body, &head.headers, &pace).await else {
            return failed(StatusCode::BAD_REQUEST, "IncompleteBody");
        };
        let upload = query.get("uploadId");
        match head.method {
            Method::PUT if upload.is_some() => {
                let number = query.get("partNumber").and_then(|n| n.parse().ok()).unwrap_or(0);
                let mut uploads = lock(&self.uploads);
                match upload.and_then(|id| uploads.get_mut(id)) {
                    Some(parts) => parts.insert(number, body),
                    None => return failed(StatusCode::NOT_FOUND, "NoSuchUpload"),
                };
                self.tagged(StatusCode::OK, &format!("\"part-{number}\""))
            }
            Method::PUT => self.put(key, vec![body], &head.headers),
            Method::POST if query.contains_key("uploads") => {
                let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
                lock(&self.uploads).insert(id.clone(), BTreeMap::new());
                text(
                    StatusCode::OK,
                    format!(
                        "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
                    ),
                )
            }
            Method::POST if upload.is_some() => {
                match upload.and_then(|id| lock(&self.uploads).remove(id)) {
                    Some(parts) => self.put(key, parts.into_values().collect(), &head.headers),
                    None => failed(StatusCode::NOT_FOUND, "NoSuchUpload"),
                }
            }
            Method::POST if query.contains_key("delete") => {
                let body = String::from_utf8_lossy(&body).into_owned();
                let (mut rest, mut gone) = (body.as_str(), String::new());
                while let Some((key, more)) = tagged(rest, "Key") {
                    lock(&self.objects).remove(key);
                    gone.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
                    rest = more;
                }
                text(StatusCode::OK, format!("<DeleteResult>{gone}</DeleteResult>"))
            }
            Method::DELETE => {
                match upload {
                    Some(id) => drop(lock(&self.uploads).remove(id)),
                    None => drop(lock(&self.objects).remove(key)),
                }
                text(StatusCode::NO_CONTENT, String::new())
            }
            Method::GET if query.contains_key("list-type") => {
                let prefix = query.get("prefix").map_or("", String::as_str);
                let listed = lock(&self.objects)
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix))
                    .map(|(key, object)| {
                        format!(
                            "<Contents><Key>{key}</Key><Size>{}</Size><ETag>{}</ETag>\
                             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
                            object.len(),
                            object.tag.replace('"', "&quot;")
                        )
                    })
                    .collect::<String>();
                let all = format!("<IsTruncated>false</IsTruncated>{listed}");
                text(StatusCode::OK, format!("<ListBucketResult>{all}</ListBucketResult>"))
            }
            Method::GET | Method::HEAD => self.get(key, &head.headers, head.method, pace),
            _ => failed(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed"),
        }
    }

    /// The whole body, at the connection's pace.
    async fn take(&self, mut body: Incoming, head: &HeaderMap, pace: &Pace) -> Option<Bytes> {
        let length = head.get("content-length").and_then(|length| length.to_str().ok());
        let length = length.and_then(|length| length.parse::<usize>().ok()).unwrap_or(0);
        let is_large = length >= LARGE;
        let first = Instant::now();
        if is_large {
            let now = self.coming.fetch_add(1, Ordering::Relaxed) + 1;
            self.most.fetch_max(now, Ordering::Relaxed);
        }
        let mut all = Vec::with_capacity(length);
        let whole = loop {
            match body.frame().await {
                None => break true,
                Some(Err(_)) => break false,
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        pace.wait(data.len()).await;
                        all.extend_from_slice(&data);
                    }
                }
            }
        };
        if is_large {
            self.coming.fetch_sub(1, Ordering::Relaxed);
            self.taken.fetch_add(all.len() as u64, Ordering::Relaxed);
            let mut times = lock(&self.times);
            let began = times.map_or(first, |(began, _)| began.min(first));
            *times = Some((began, Instant::now()));
        }
        whole.then(|| all.into())
    }

    fn tagged(&self, status: StatusCode, tag: &str) -> Answer {
        let mut answer = text(status, String::new());
        set(answer.headers_mut(), "etag", tag);
        answer
    }

    fn put(&self, key: &str, parts: Vec<Bytes>, head: &HeaderMap) -> Answer {
        let mut objects = lock(&self.objects);
        let there = objects.get(key).map(|object| object.tag.clone());
        let wanted = head.get("if-match").and_then(|tag| tag.to_str().ok());
        let refused = (head.contains_key("if-none-match") && there.is_some())
            || wanted.is_some_and(|tag| there.as_deref() != Some(tag));
        if refused {
            return failed(StatusCode::PRECONDITION_FAILED, "PreconditionFailed");
        }
        let tag = format!("\"{}\"", self.next.fetch_add(1, Ordering::Relaxed));
        objects.insert(key.to_owned(), Object { parts, tag: tag.clone() });
        drop(objects);
        let quoted = tag.replace('"', "&quot;");
        let done = format!(
            "<CompleteMultipartUploadResult><ETag>{quoted}</ETag></CompleteMultipartUploadResult>"
        );
        let mut answer = text(StatusCode::OK, done);
        set(answer.headers_mut(), "etag", &tag);
        answer
    }

    fn get(&self, key: &str, head: &HeaderMap, method: Method, pace: Arc<Pace>) -> Answer {
        let Some(object) = lock(&self.objects).get(key).cloned() else {
            return failed(StatusCode::NOT_FOUND, "NoSuchKey");
        };
        let size = object.len();
        let range = head.get("range").and_then(|range| range.to_str().ok());
        let range = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
        let (from, to) = match range {
            None => (0, size),
            Some(("", last)) => (size.saturating_sub(last.parse().unwrap_or(0)), size),
            Some((first, last)) => (
                first.parse().unwrap_or(0),
                last.parse::<usize>().map_or(size, |last| size.min(last + 1)),
            ),
        };
        if range.is_some() && from >= to {
            return failed(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange");
        }
        let mut frames = Vec::new();
        let mut at = 0;
        for part in object.parts {
            let (start, end) = (from.clamp(at, at + part.len()), to.clamp(at, at + part.len()));
            let mut own = part.slice(start - at..end - at);
            at += part.len();
            while !own.is_empty() {
                frames.push(own.split_to(own.len().min(FRAME)));
            }
        }
        if method == Method::HEAD {
            frames.clear();
        }
        let body = stream::unfold((frames.into_iter(), pace), |(mut frames, pace)| async move {
            let frame = frames.next()?;
            pace.wait(frame.len()).await;
            Some((Ok(Frame::data(frame)), (frames, pace)))
        });
        let mut answer = Response::new(BodyExt::boxed(StreamBody::new(body)));
        let headers = answer.headers_mut();
        headers.insert("content-length", (to - from).into());
        set(headers, "etag", &object.tag);
        set(headers, "last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        if range.is_some() {
            set(headers, "content-range", &format!("bytes {from}-{}/{size}", to - 1));
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
        }
        answer
    }
}
