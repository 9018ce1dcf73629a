//! An object's bytes from its origin, read only as fast as whoever wants them takes them.

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{Stream, try_unfold};
use tokio::runtime::Handle;

use crate::edge::options::ORIGIN_STALL;
use crate::transport::{
    Body, ObjectPath, ObjectReader, Transport, TransportError, TransportErrorKind,
};

/// The bytes of one frame.
pub(crate) const FRAME: usize = 256 << 10;

struct Reading {
    body: Box<dyn Body>,
    buffer: BytesMut,
    /// Bytes before those wanted.
    skip: u64,
    /// Bytes wanted and still to come.
    left: u64,
    /// Whether `left` is a promise, or the body ends where it ends.
    known: bool,
    transport: Arc<dyn Transport>,
    path: ObjectPath,
}

/// The bytes of `range`, which lies in what the reader delivers.
pub(crate) fn stream(
    reader: ObjectReader,
    range: Range<u64>,
    known: bool,
    transport: Arc<dyn Transport>,
    path: ObjectPath,
) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
    let reading = Reading {
        skip: range.start.saturating_sub(reader.range.start),
        left: range.end - range.start,
        known,
        body: reader.body,
        buffer: BytesMut::new(),
        transport,
        path,
    };
    try_unfold(reading, |reading| async move { reading.next().await })
}

impl Reading {
    /// The next wanted bytes; `None` behind the last.
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, TransportError> {
        while self.left > 0 {
            self = self.read().await?;
            if self.buffer.is_empty() {
                if self.known {
                    return Err(
                        self.error(TransportErrorKind::Protocol, "the origin's body ends early")
                    );
                }
                return Ok(None);
            }
            if self.skip > 0 {
                self.skip -= self.buffer.len() as u64;
                self.buffer.clear();
                continue;
            }
            self.left -= self.buffer.len() as u64;
            let bytes = self.buffer.split().freeze();
            return Ok(Some((bytes, self)));
        }
        Ok(None)
    }

    /// Fills the buffer, never beyond the bytes to skip nor beyond those wanted.
    async fn read(mut self) -> Result<Self, TransportError> {
        let most = match self.skip {
            0 => self.left,
            skip => skip,
        };
        let max = usize::try_from(most).unwrap_or(FRAME).min(FRAME);
        // Takes back the memory of the frames that were sent.
        self.buffer.reserve(FRAME);
        if self.transport.reads_block() {
            let (transport, path) = (self.transport.clone(), self.path.clone());
            let handle = Handle::current();
            let reading = tokio::task::spawn_blocking(move || {
                let read = handle.block_on(self.body.append(&mut self.buffer, max));
                read.map(|_| self)
            });
            return reading.await.unwrap_or_else(|e| {
                let location = transport.location();
                let what = "the reading thread failed";
                Err(TransportError::new(TransportErrorKind::Io, location, &path, what).caused_by(e))
            });
        }
        let read = self.body.append(&mut self.buffer, max);
        match tokio::time::timeout(ORIGIN_STALL, read).await {
            Ok(read) => read.map(|_| self),
            Err(_) => Err(self.error(TransportErrorKind::Stalled, "the origin sends nothing more")),
        }
    }

    fn error(&self, kind: TransportErrorKind, what: &str) -> TransportError {
        TransportError::new(kind, self.transport.location(), &self.path, what)
    }
}
