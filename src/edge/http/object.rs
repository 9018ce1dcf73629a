//! An answer with an object, or with parts of it: the same rules for every interface.
//!
//! First what the client has and wants is held against the object ([`plan`]); then, if anything is to
//! be sent, the bytes are streamed under headers that say exactly what they are.

use std::ops::Range;
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt};
use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
    LAST_MODIFIED,
};
use hyper::{HeaderMap, Method, Response, StatusCode};

use crate::edge::http::answer::{Answer, empty, plain, set, streamed};
use crate::edge::http::conditions::{Verdict, judge, range_counts};
use crate::edge::http::ranges::{self, Ranges};
use crate::transport::TransportError;

const BYTES: HeaderValue = HeaderValue::from_static("bytes");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");

/// Bytes in order.
pub(crate) type Bodies = BoxStream<'static, Result<Bytes, TransportError>>;

/// What is known of an object before its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) size: u64,
    pub(crate) tag: Option<HeaderValue>,
    pub(crate) modified: Option<SystemTime>,
    pub(crate) caching: HeaderValue,
}

/// Which bytes to send: ascending, in the object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Whole,
    Part(Range<u64>),
    Parts(Vec<Range<u64>>),
}

impl Plan {
    /// The bytes of an object of `size` bytes.
    pub(crate) fn ranges(&self, size: u64) -> Vec<Range<u64>> {
        match self {
            Self::Whole => std::iter::once(0..size).collect(),
            Self::Part(part) => vec![part.clone()],
            Self::Parts(parts) => parts.clone(),
        }
    }
}

/// What to send, or the answer that sends nothing: 304, 412, 416.
pub(crate) fn plan(
    facts: &Facts,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Plan, Box<Answer>> {
    let without = |status: StatusCode| {
        let mut answer = plain(status);
        if status == StatusCode::NOT_MODIFIED {
            *answer.body_mut() = empty();
        }
        describe(&mut answer, facts);
        Err(Box::new(answer))
    };
    match judge(headers, facts.tag.as_ref(), facts.modified) {
        Verdict::Send => {}
        Verdict::NotModified => return without(StatusCode::NOT_MODIFIED),
        Verdict::Failed => return without(StatusCode::PRECONDITION_FAILED),
    }
    // A range means something only to GET.
    if *method != Method::GET || !range_counts(headers, facts.tag.as_ref(), facts.modified) {
        return Ok(Plan::Whole);
    }
    match ranges::wanted(headers, facts.size) {
        Ranges::Whole => Ok(Plan::Whole),
        Ranges::Part(part) => Ok(Plan::Part(part)),
        Ranges::Parts(parts) => Ok(Plan::Parts(parts)),
        Ranges::Beyond => {
            let mut answer = plain(StatusCode::RANGE_NOT_SATISFIABLE);
            set(&mut answer, CONTENT_RANGE, format!("bytes */{}", facts.size));
            Err(Box::new(answer))
        }
    }
}

/// The answer with the planned bytes, which `read` gives range by range.
pub(crate) fn answer(
    facts: &Facts,
    plan: Plan,
    method: &Method,
    read: impl FnMut(Range<u64>) -> Bodies + Send + 'static,
) -> Answer {
    let mut answer = Response::new(empty());
    describe(&mut answer, facts);
    let headers = answer.headers_mut();
    headers.insert(ACCEPT_RANGES, BYTES);
    headers.insert(CONTENT_TYPE, OCTETS);
    let range = match plan {
        Plan::Whole => 0..facts.size,
        Plan::Part(part) => {
            let value = content_range(&part, facts.size);
            set(&mut answer, CONTENT_RANGE, value);
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            part
        }
        Plan::Parts(parts) => {
            *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
            multipart(&mut answer, facts, parts, read);
            return answer;
        }
    };
    answer.headers_mut().insert(CONTENT_LENGTH, (range.end - range.start).into());
    if *method != Method::HEAD && !range.is_empty() {
        let mut read = read;
        *answer.body_mut() = streamed(read(range));
    }
    answer
}

fn describe(answer: &mut Answer, facts: &Facts) {
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, facts.caching.clone());
    if let Some(tag) = &facts.tag {
        headers.insert(ETAG, tag.clone());
    }
    if let Some(modified) = facts.modified {
        set(answer, LAST_MODIFIED, httpdate::fmt_http_date(modified));
    }
}

fn content_range(part: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", part.start, part.end.saturating_sub(1))
}

/// Several parts as `multipart/byteranges`.
fn multipart(
    answer: &mut Answer,
    facts: &Facts,
    parts: Vec<Range<u64>>,
    mut read: impl FnMut(Range<u64>) -> Bodies + Send + 'static,
) {
    // 128 random bits stand in no object.
    let boundary = format!("{:032x}", fastrand::u128(..));
    let head = |part: &Range<u64>, boundary: &str, size: u64| {
        let range = content_range(part, size);
        let kind = "application/octet-stream";
        format!("\r\n--{boundary}\r\nContent-Type: {kind}\r\nContent-Range: {range}\r\n\r\n")
    };
    let tail = format!("\r\n--{boundary}--\r\n");
    let size = facts.size;
    let length: u64 = parts
        .iter()
        .map(|part| head(part, &boundary, size).len() as u64 + (part.end - part.start))
        .sum();
    answer.headers_mut().insert(CONTENT_LENGTH, (length + tail.len() as u64).into());
    set(answer, CONTENT_TYPE, format!("multipart/byteranges; boundary={boundary}"));
    let parts = stream::iter(parts).flat_map(move |part| {
        let head = Bytes::from(head(&part, &boundary, size));
        stream::iter([Ok(head)]).chain(read(part))
    });
    *answer.body_mut() = streamed(parts.chain(stream::iter([Ok(Bytes::from(tail))])));
}
