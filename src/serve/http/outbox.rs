//! A body that is written while it is read, with a bound on what waits: who does not read loses the answer, and
//! not the server its memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Where a body is written.
#[derive(Debug)]
pub(crate) struct Outbox {
    to: UnboundedSender<io::Result<Bytes>>,
    waiting: Arc<AtomicUsize>,
    most: usize,
}

/// The body as it is read.
#[derive(Debug)]
pub(crate) struct Inbox {
    from: UnboundedReceiver<io::Result<Bytes>>,
    waiting: Arc<AtomicUsize>,
}

/// Both ends of a body of which at most `most` bytes wait.
pub(crate) fn body(most: usize) -> (Outbox, Inbox) {
    let (to, from) = unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Outbox { to, waiting: waiting.clone(), most }, Inbox { from, waiting })
}

impl Outbox {
    /// Writes, and says whether the reader is still there and keeps up.
    pub(crate) fn send(&self, bytes: Bytes) -> bool {
        let length = bytes.len();
        let before = self.waiting.fetch_add(length, Ordering::AcqRel);
        if before + length > self.most {
            // An end that is no end, so that a part is not taken for the whole.
            let slow = io::Error::new(io::ErrorKind::TimedOut, "the client does not read");
            self.to.send(Err(slow)).unwrap_or_default();
            return false;
        }
        self.to.send(Ok(bytes)).is_ok()
    }

    /// Waits until the reader has gone.
    pub(crate) async fn closed(&self) {
        self.to.closed().await;
    }
}

impl Stream for Inbox {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = self.from.poll_recv(context);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            self.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
        }
        next
    }
}
