//! The bytes of one response, pulled.
//!
//! A frame is dropped as soon as it is copied out, so that the connection reads into the same
//! memory again. No more than the promised range is ever handed on, and less is an error.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::BodyExt;

use super::connect::{body_error, socket_error};
use super::connections::Payload;
use super::site::Site;
use crate::transport::{Body, TransportError, TransportErrorKind, move_bytes};

/// `range.end` of a body whose length the server does not tell.
pub(super) const UNKNOWN_END: u64 = u64::MAX;

pub(super) struct HttpBody {
    payload: Payload,
    /// What is left of the last frame.
    held: Bytes,
    /// The bytes that are still to come after `held`, by their place in the object.
    ahead: Range<u64>,
    ended: bool,
    site: Site,
}

impl HttpBody {
    pub(super) fn new(payload: Payload, range: Range<u64>, site: Site) -> Self {
        Self {
            payload,
            held: Bytes::new(),
            // An empty range has no body of interest: that of a 416 holds a page for people.
            ended: range.is_empty(),
            ahead: range,
            site,
        }
    }

    /// Waits for a frame of hyper's; false at the end.
    async fn fill(&mut self) -> Result<bool, TransportError> {
        let Payload::Hyper(incoming, _) = &mut self.payload else { return Ok(false) };
        while self.held.is_empty() {
            if self.ended {
                return Ok(false);
            }
            let Some(frame) = incoming.frame().await else {
                self.ended = true;
                if self.ahead.is_empty() || self.ahead.end == UNKNOWN_END {
                    return Ok(false);
                }
                return Err(self.wrong_length("ends early"));
            };
            let frame = frame.map_err(|e| body_error(&self.site, e, self.ahead.start))?;
            // Trailers say nothing that matters here.
            if let Ok(data) = frame.into_data() {
                let length = data.len() as u64;
                if length > self.ahead.end - self.ahead.start {
                    self.ended = true;
                    return Err(self.wrong_length("is longer than promised"));
                }
                self.ahead.start += length;
                self.held = data;
            }
        }
        Ok(true)
    }

    fn wrong_length(&self, what: &str) -> TransportError {
        let Range { start, end } = self.ahead;
        self.site.error(
            TransportErrorKind::Protocol,
            format!("the body {what}: at byte {start} of the object, where {end} is the end"),
        )
    }
}

#[async_trait]
impl Body for HttpBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        if out.is_empty() {
            return Ok(0);
        }
        if let Payload::Socket(socket) = &mut self.payload {
            if self.ended || self.ahead.is_empty() {
                return Ok(0);
            }
            let read = socket.read(out).await;
            let count = read.map_err(|e| socket_error(&self.site, e, self.ahead.start))?;
            if count == 0 {
                self.ended = true;
                return Err(self.wrong_length("ends early"));
            }
            self.ahead.start += count as u64;
            return Ok(count);
        }
        if !self.fill().await? {
            return Ok(0);
        }
        Ok(move_bytes(&mut self.held, out))
    }
}
