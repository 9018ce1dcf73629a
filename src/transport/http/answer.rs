//! What a response says, held against what was asked. Pure.
//!
//! An [`Answer`] exists only if the status, `Content-Range`, `Content-Length` and
//! `Content-Encoding` agree with each other and with the request.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use hyper::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderName, LAST_MODIFIED, RETRY_AFTER,
};
use hyper::{HeaderMap, Response};

use super::body::UNKNOWN_END;
use super::site::Site;
use crate::transport::{ReadRange, TransportError, TransportErrorKind, Version};

/// The longest text of a server that a message repeats.
const MAX_QUOTE: usize = 120;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    /// The bytes that the body holds.
    pub range: Range<u64>,
    pub size: Option<u64>,
    pub version: Option<Version>,
    pub modified: Option<SystemTime>,
}

impl Answer {
    /// Reads the answer to a GET (or HEAD) of `asked`.
    pub(super) fn to_get<B>(
        response: &Response<B>,
        asked: &ReadRange,
        site: &Site,
    ) -> Result<Self, TransportError> {
        let headers = response.headers();
        let broken = |what: String| site.error(TransportErrorKind::Protocol, what);
        let length = number(headers, CONTENT_LENGTH);
        let (range, size) = match response.status().as_u16() {
            200 => whole(asked, length).map_err(|(kind, what)| site.error(kind, what))?,
            206 => {
                let (range, size) = part(asked, headers, site)?;
                if length.is_some_and(|length| length != range.end - range.start) {
                    return Err(broken(format!(
                        "Content-Range {} does not agree with Content-Length {}",
                        quote(headers, CONTENT_RANGE),
                        quote(headers, CONTENT_LENGTH),
                    )));
                }
                (range, size)
            }
            // The last bytes of an empty object: no bytes.
            416 if matches!(asked, ReadRange::Suffix(_))
                && quote(headers, CONTENT_RANGE) == "bytes */0" =>
            {
                (0..0, Some(0))
            }
            status => return Err(refusal(status, headers, site)),
        };
        let encoding = quote(headers, CONTENT_ENCODING);
        if !encoding.is_empty() && !encoding.eq_ignore_ascii_case("identity") {
            return Err(broken(format!(
                "the server encoded the object ({encoding}) although that was declined"
            )));
        }
        Ok(Self {
            range,
            size,
            version: text(headers, ETAG).map(Version::tagged),
            modified: text(headers, LAST_MODIFIED)
                .and_then(|date| httpdate::parse_http_date(date).ok()),
        })
    }
}

type Covered = (Range<u64>, Option<u64>);

/// A 200: the whole object, whatever was asked.
fn whole(asked: &ReadRange, length: Option<u64>) -> Result<Covered, (TransportErrorKind, String)> {
    match (asked, length) {
        (_, Some(size)) => match asked.within(size) {
            Some(_) => Ok((0..size, Some(size))),
            None => {
                Err((TransportErrorKind::OutOfRange, format!("the object ends at byte {size}")))
            }
        },
        (ReadRange::Suffix(_), None) => Err((
            TransportErrorKind::Protocol,
            "the server sends the whole object without its length where its end was asked".into(),
        )),
        (_, None) => Ok((0..UNKNOWN_END, None)),
    }
}

/// A 206: exactly what was asked.
fn part(asked: &ReadRange, headers: &HeaderMap, site: &Site) -> Result<Covered, TransportError> {
    let shown = quote(headers, CONTENT_RANGE);
    let wrong = |kind, what: &str| site.error(kind, format!("{what} (Content-Range: {shown})"));
    let parsed = text(headers, CONTENT_RANGE).and_then(parse_content_range);
    let Some((range, size)) = parsed else {
        return Err(wrong(
            TransportErrorKind::Protocol,
            "a partial answer without a usable Content-Range",
        ));
    };
    let matches = match (asked, size) {
        (ReadRange::Full, _) | (ReadRange::Suffix(_), None) => false,
        (ReadRange::Bounded(wanted), Some(size)) if wanted.end > size => {
            return Err(wrong(TransportErrorKind::OutOfRange, "the object is shorter"));
        }
        (ReadRange::Bounded(wanted), _) => *wanted == range,
        (ReadRange::Suffix(_), Some(size)) => asked.within(size) == Some(range.clone()),
    };
    if !matches {
        return Err(wrong(
            TransportErrorKind::Protocol,
            &format!("not the range that was asked for ({asked:?})"),
        ));
    }
    Ok((range, size))
}

/// `bytes FIRST-LAST/SIZE`, where SIZE may be `*`.
fn parse_content_range(value: &str) -> Option<Covered> {
    let (unit, rest) = value.split_once(' ')?;
    let (range, size) = rest.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (digits(first)?, digits(last)?);
    let end = last.checked_add(1)?;
    let size = match size {
        "*" => None,
        size => Some(digits(size)?),
    };
    let fits = unit.eq_ignore_ascii_case("bytes")
        && first < end
        && end < UNKNOWN_END
        && size.is_none_or(|size| end <= size);
    fits.then_some((first..end, size))
}

fn refusal(status: u16, headers: &HeaderMap, site: &Site) -> TransportError {
    use TransportErrorKind::*;
    let (kind, what) = match status {
        404 | 410 => (NotFound, "no such object"),
        416 => (OutOfRange, "the object is shorter than the range"),
        401 | 403 | 407 => (Denied, "access denied"),
        408 | 425 | 429 | 500..=599 => (Transient, "the server cannot answer now"),
        100..=399 => (Protocol, "an answer that does not fit the request"),
        _ => (Denied, "the server refuses the request"),
    };
    let mut error = site.error(kind, format!("{what} (HTTP status {status})"));
    error.retry_after = text(headers, RETRY_AFTER).and_then(|value| match digits(value) {
        Some(seconds) => Some(Duration::from_secs(seconds)),
        None => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok(),
    });
    error
}

fn digits(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok())?
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

fn number(headers: &HeaderMap, name: HeaderName) -> Option<u64> {
    text(headers, name).and_then(digits)
}

fn quote(headers: &HeaderMap, name: HeaderName) -> String {
    let value = text(headers, name).unwrap_or_default();
    value.chars().take(MAX_QUOTE).collect()
}
