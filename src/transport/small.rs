//! Small objects, read whole and patiently.
//!
//! The only loop here is the retry: a transient failure or a stall is tried again after a growing,
//! jittered pause, and no more than the caller's limit is ever held in memory.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use super::{
    ObjectPath, ObjectReader, ReadRange, Transport, TransportError, TransportErrorKind, Version,
};

/// The most that one step of a small read asks for.
const STEP: usize = 256 << 10;

/// Bytes per second below which a read that lasts longer than the stall limit is stalled: whoever
/// sends byte by byte must not hold a reader for ever.
const SLOWEST: u64 = 4 << 10;

/// How failures that may pass are waited out.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Tries after the first.
    pub retries: u32,
    /// The pause before the second try; it doubles with every further one.
    pub first_pause: Duration,
    /// The longest pause, also where the server asks for a longer one.
    pub longest_pause: Duration,
    /// How long a read may go without a byte, and may last while it is slower than 4 KiB/s.
    pub stall: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            retries: 4,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            stall: Duration::from_secs(30),
        }
    }
}

impl RetryPolicy {
    /// The pause before retry `retry` (0 is the first), or `None` if there is no such retry.
    /// `jitter` in 0..1 takes away up to half, so that many clients do not return together. What
    /// the server asked for is waited in full, up to the longest pause.
    pub fn pause(&self, retry: u32, jitter: f64, asked: Option<Duration>) -> Option<Duration> {
        if retry >= self.retries {
            return None;
        }
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        let full = self.first_pause.saturating_mul(factor).min(self.longest_pause);
        let jittered = full.mul_f64(1.0 - 0.5 * jitter.clamp(0.0, 1.0));
        Some(jittered.max(asked.unwrap_or_default()).min(self.longest_pause))
    }
}

/// Reads `range` of an object of which it may deliver at most `limit` bytes; a longer one is
/// [`TransportErrorKind::Protocol`], since nothing well-formed is that long.
///
/// # Errors
/// If it is missing, longer, or the transport fails, retries included.
pub async fn read_all(
    transport: &dyn Transport,
    path: &ObjectPath,
    range: ReadRange,
    limit: u64,
    policy: &RetryPolicy,
) -> Result<(Bytes, Option<Version>), TransportError> {
    let mut retry = 0;
    loop {
        let error = match read_once(transport, path, &range, limit, policy.stall).await {
            Ok(read) => return Ok(read),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::MayPass(error)) => error,
        };
        let jitter = fastrand::f64();
        let Some(pause) = policy.pause(retry, jitter, error.retry_after) else {
            return Err(error);
        };
        tokio::time::sleep(pause).await;
        retry += 1;
    }
}

enum Failure {
    Final(TransportError),
    MayPass(TransportError),
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        match error.is_transient() {
            true => Self::MayPass(error),
            false => Self::Final(error),
        }
    }
}

async fn read_once(
    transport: &dyn Transport,
    path: &ObjectPath,
    range: &ReadRange,
    limit: u64,
    stall: Duration,
) -> Result<(Bytes, Option<Version>), Failure> {
    let error = |kind, what: String| TransportError::new(kind, transport.location(), path, what);
    let stalled = |_| {
        error(TransportErrorKind::Stalled, format!("no byte came for {} s", stall.as_secs_f32()))
    };
    let too_long = |size: u64| {
        Failure::Final(error(
            TransportErrorKind::Protocol,
            format!("{size} bytes or more, where {limit} is the limit"),
        ))
    };
    let opened = tokio::time::timeout(stall, transport.open(path, range.clone()));
    let reader: ObjectReader = opened.await.map_err(stalled)??;
    let ObjectReader { range: given, size, version, mut body, .. } = reader;
    // Where a server sends the whole object, what was asked for is cut out of it.
    let wanted = match size {
        Some(size) => range.within(size).ok_or_else(|| {
            Failure::Final(error(
                TransportErrorKind::OutOfRange,
                format!("the object ends at byte {size}"),
            ))
        })?,
        None => match range {
            ReadRange::Bounded(wanted) => wanted.clone(),
            _ => given.clone(),
        },
    };
    let open_end = wanted.end == u64::MAX;
    let length = wanted.end - wanted.start;
    if !open_end && length > limit {
        return Err(too_long(length));
    }
    let capacity = if open_end { 0 } else { length };
    let mut out = BytesMut::with_capacity(usize::try_from(capacity).map_err(|_| too_long(length))?);
    let mut skip = wanted.start.saturating_sub(given.start);
    let (start, mut received) = (Instant::now(), 0);
    while (out.len() as u64) < length {
        let left = usize::try_from(length - out.len() as u64).unwrap_or(usize::MAX);
        // What lies before the wanted bytes is read into the same buffer and dropped again.
        let max = match skip {
            0 => left,
            skip => usize::try_from(skip).unwrap_or(usize::MAX),
        };
        let step = body.append(&mut out, max.min(STEP));
        let n = tokio::time::timeout(stall, step).await.map_err(stalled)??;
        if n == 0 {
            break;
        }
        received += n as u64;
        if start.elapsed() > stall + Duration::from_millis(received * 1000 / SLOWEST) {
            let what = format!("only {received} bytes came in {} s", start.elapsed().as_secs_f32());
            return Err(Failure::from(error(TransportErrorKind::Stalled, what)));
        }
        if skip > 0 {
            out.clear();
            skip -= n as u64;
        } else if out.len() as u64 > limit {
            return Err(too_long(out.len() as u64));
        }
    }
    if !open_end && (out.len() as u64) < length {
        return Err(Failure::from(error(
            TransportErrorKind::Protocol,
            format!("the body ends after {} of {length} bytes", out.len()),
        )));
    }
    Ok((out.freeze(), version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_limit_and_then_end() {
        let policy = RetryPolicy { retries: 8, ..RetryPolicy::default() };
        let pauses: Vec<_> = (0..9).map(|n| policy.pause(n, 0.0, None)).collect();
        let ms = |ms| Some(Duration::from_millis(ms));
        assert_eq!(
            pauses,
            [ms(100), ms(200), ms(400), ms(800), ms(1600), ms(3200), ms(5000), ms(5000), None]
        );
        assert_eq!(policy.pause(0, 1.0, None), ms(50));
        assert_eq!(policy.pause(0, 1.0, ms(700)), ms(700));
        assert_eq!(policy.pause(0, 1.0, ms(700_000)), ms(5000));
    }
}
