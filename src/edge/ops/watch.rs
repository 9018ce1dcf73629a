//! Every answer, watched until its last byte has gone out: what the log, the metrics and the limits
//! need to know of it.

use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_LENGTH, RANGE, USER_AGENT};
use hyper::{Request, Response, StatusCode};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::yield_now;

use crate::edge::http::answer::Answer;
use crate::edge::http::client_stream::RequestBody;
use crate::edge::http::connections::Busy;
use crate::edge::ops::log::AccessLog;
use crate::edge::ops::trace::{Answered, Parent, Tracer};
use crate::transport::TransportError;

/// The longest text of a request that the log repeats, in bytes.
const MAX_TEXT: usize = 512;

/// Upper bounds of the buckets of times to first byte, in seconds; the last has none.
const BOUNDS: [f64; 13] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// The interface that answers, as metrics call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Api {
    Native,
    Hub,
    S3,
    Own,
}

impl Api {
    fn as_str(self) -> &'static str {
        match self {
            Self::Native => "pack",
            Self::Hub => "hub",
            Self::S3 => "s3",
            Self::Own => "own",
        }
    }
}

/// What became of a request: it got what it asked for, has it already, should not have asked so, or the
/// edge or its origin could not.
fn outcome(status: StatusCode) -> &'static str {
    match status.as_u16() {
        200..=299 => "ok",
        304 => "unchanged",
        500.. => "failed",
        _ => "refused",
    }
}

type Labels = [(&'static str, &'static str); 2];

/// Times to first byte, by interface and outcome: of those alone that there were.
#[derive(Debug, Clone)]
pub(crate) struct FirstByte(pub(crate) Family<Labels, Histogram, fn() -> Histogram>);

impl Default for FirstByte {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| Histogram::new(BOUNDS)))
    }
}

impl FirstByte {
    fn observe(&self, api: Api, status: StatusCode, took: Duration) {
        let labels = [("face", api.as_str()), ("outcome", outcome(status))];
        self.0.get_or_create(&labels).observe(took.as_secs_f64());
    }
}

/// What is counted over all answers.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) first_byte: FirstByte,
    /// Bytes of bodies that went out.
    pub(crate) sent: AtomicU64,
    /// Answers that are under way.
    pub(crate) in_flight: AtomicU64,
    /// Requests that found no place.
    pub(crate) saturated: AtomicU64,
    /// Requests of clients that sent too many.
    pub(crate) limited: AtomicU64,
    /// Answers that ended before their last byte.
    pub(crate) broken: AtomicU64,
    pub(crate) log: Option<AccessLog>,
    /// Set once the server runs, and taken at its end.
    pub(crate) tracer: RwLock<Option<Tracer>>,
}

/// What is known of a request when it comes.
#[derive(Debug)]
pub(crate) struct Asked {
    started: Instant,
    busy: Busy,
    method: String,
    path: String,
    range: Option<String>,
    agent: Option<String>,
    /// If requests are traced.
    trace: Option<Parent>,
}

impl Asked {
    /// The query is left out: signatures stand there.
    pub(crate) fn of(request: &Request<RequestBody>, busy: Busy, traced: bool) -> Self {
        let text = |name| {
            let value = request.headers().get(name)?;
            Some(short(&String::from_utf8_lossy(value.as_bytes())))
        };
        Self {
            started: Instant::now(),
            busy,
            method: request.method().to_string(),
            path: short(request.uri().path()),
            range: text(RANGE),
            agent: text(USER_AGENT),
            trace: traced.then(|| Parent::of(request.headers())),
        }
    }

    pub(crate) fn client(&self) -> IpAddr {
        self.busy.address()
    }
}

fn short(text: &str) -> String {
    let end = text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|at| *at <= MAX_TEXT);
    text.get(..end.last().unwrap_or_default()).unwrap_or_default().to_owned()
}

/// Bytes of one answer after which others have their turn: a fast client takes its bytes as quickly as they are
/// sent, and who has asked meanwhile would wait for all of them.
const TURN: u64 = 512 << 10;
/// The most that is handed to a socket at a time: it copies all that it has room for, and a turn would be as long
/// as that takes.
const FRAME: usize = 256 << 10;

/// A body that tells when it has gone out, or was dropped.
pub(crate) struct Watched {
    body: UnsyncBoxBody<Bytes, TransportError>,
    watch: Arc<Watch>,
    asked: Asked,
    api: Api,
    who: String,
    status: StatusCode,
    first: bool,
    /// The bytes that its head promises. Who sends them asks for no more than these.
    length: Option<u64>,
    sent: u64,
    /// Bytes since others had their turn.
    turn: u64,
    /// What the body gave beyond a frame.
    rest: Bytes,
    ended: bool,
    _place: Option<OwnedSemaphorePermit>,
}

impl Watch {
    pub(crate) fn set_tracer(&self, tracer: Option<Tracer>) {
        *self.tracer.write().unwrap_or_else(PoisonError::into_inner) = tracer;
    }

    /// Watches an answer.
    pub(crate) fn over(
        self: &Arc<Self>,
        answer: Answer,
        asked: Asked,
        api: Api,
        who: &str,
        place: Option<OwnedSemaphorePermit>,
    ) -> Response<Watched> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        let (parts, body) = answer.into_parts();
        let length = parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok());
        let watched = Watched {
            ended: body.is_end_stream(),
            body,
            watch: self.clone(),
            asked,
            api,
            who: who.to_owned(),
            status: parts.status,
            first: false,
            length: length.and_then(|length| length.parse().ok()),
            sent: 0,
            turn: 0,
            rest: Bytes::new(),
            _place: place,
        };
        Response::from_parts(parts, watched)
    }
}

impl Watched {
    fn first(&mut self) {
        if !self.first {
            self.first = true;
            self.watch.first_byte.observe(self.api, self.status, self.asked.started.elapsed());
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = TransportError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, TransportError>>> {
        if self.turn >= TURN {
            self.turn = 0;
            // Its next turn comes when every task that can go on had one, and the sockets were looked at.
            return pin!(yield_now()).poll(context).map(|()| None);
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    // Trailers.
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
            }
        }
        self.first();
        let most = self.rest.len().min(FRAME);
        let frame = self.rest.split_to(most);
        self.sent += most as u64;
        self.turn += most as u64;
        self.watch.sent.fetch_add(most as u64, Ordering::Relaxed);
        self.ended = self.is_end_stream() || self.length == Some(self.sent);
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (body, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.first();
        self.watch.in_flight.fetch_sub(1, Ordering::Relaxed);
        if !self.ended {
            self.watch.broken.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(parent) = &self.asked.trace
            && let Some(tracer) = &*self.watch.tracer.read().unwrap_or_else(PoisonError::into_inner)
        {
            tracer.record(Answered {
                parent,
                took: self.asked.started.elapsed(),
                method: &self.asked.method,
                path: &self.asked.path,
                face: self.api.as_str(),
                client: self.asked.client().to_string(),
                status: self.status.as_u16(),
                bytes: self.sent,
                complete: self.ended,
            });
        }
        let Some(log) = &self.watch.log else { return };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        log.line(&json!({
            "time": now.as_millis() as f64 / 1000.0,
            "client": self.asked.client().to_string(),
            "who": self.who,
            "method": self.asked.method,
            "path": self.asked.path,
            "range": self.asked.range,
            "agent": self.asked.agent,
            "face": self.api.as_str(),
            "status": self.status.as_u16(),
            "bytes": self.sent,
            "complete": self.ended,
            "ms": self.asked.started.elapsed().as_micros() as f64 / 1000.0,
        }));
    }
}
