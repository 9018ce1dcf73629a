//! The connection of a client, bounded in time at both ends of an answer.
//!
//! A client that takes nothing of what it is sent for too long is given up, so that it does not hold its place for
//! ever. A client whose request was answered before its body was read, as refusals are, is listened to for a while
//! after the answer: a system that closes a socket in which bytes wait resets the connection, and a client that is
//! still sending then sees the reset instead of the answer.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::{Request, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// How long a client that is still sending may take to notice its answer.
const LINGER: Duration = Duration::from_secs(10);

/// Whether the last request of a connection has a body that nobody has read to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unread(Arc<AtomicBool>);

impl Unread {
    /// The request, whose body tells when it has been read.
    pub(crate) fn watch(&self, request: Request<Incoming>) -> Request<RequestBody> {
        self.0.store(!request.body().is_end_stream(), Ordering::Release);
        request.map(|body| RequestBody { body, unread: self.clone() })
    }

    /// Says in an answer that the connection ends where a body is left, so that no next request is sent into it.
    pub(crate) fn close<B>(&self, answer: &mut Response<B>, version: Version) {
        if self.is_left() && version < Version::HTTP_2 {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }

    fn is_left(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// The body of a request.
#[derive(Debug)]
pub struct RequestBody {
    body: Incoming,
    unread: Unread,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_none() || self.body.is_end_stream() {
            self.unread.0.store(false, Ordering::Release);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream that fails if a write waits too long, and ends when its client has heard the answer.
pub(crate) struct ClientStream<S> {
    stream: S,
    limit: Duration,
    /// Runs out when the patience does; there while a write waits.
    waiting: Option<Pin<Box<Sleep>>>,
    unread: Unread,
    /// There once nothing more is sent, while what the client still sends is thrown away.
    lingering: Option<Pin<Box<Sleep>>>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(stream: S, limit: Duration, unread: Unread) -> Self {
        Self { stream, limit, waiting: None, unread, lingering: None }
    }

    /// What a write gave, unless it has waited too long.
    fn bound<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let limit = self.limit;
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(sleep(limit)));
        match waiting.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bound(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bound(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.bound(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.lingering.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(context);
            ready!(this.bound(shut, context))?;
            if !this.unread.is_left() {
                return Poll::Ready(Ok(()));
            }
        }
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if lingering.as_mut().poll(context).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut thrown_away = [0; 8 << 10];
        loop {
            let mut buffer = ReadBuf::new(&mut thrown_away);
            match ready!(Pin::new(&mut this.stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                // The client has closed its end, or is gone.
                Ok(()) | Err(_) => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use hyper_util::server::conn::auto;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// Refuses one connection's request, or reads its body first.
    async fn serve(listener: TcpListener, reads: bool) {
        let (stream, _) = listener.accept().await.unwrap();
        let unread = Unread::default();
        let stream = ClientStream::new(stream, Duration::from_secs(60), unread.clone());
        let service = service_fn(move |request| {
            let unread = unread.clone();
            async move {
                let mut request = unread.watch(request);
                while reads
                    && std::future::poll_fn(|context| {
                        Pin::new(request.body_mut()).poll_frame(context)
                    })
                    .await
                    .is_some()
                {}
                let mut answer = Response::new(String::from("refused"));
                unread.close(&mut answer, request.version());
                Ok::<_, std::convert::Infallible>(answer)
            }
        });
        let http = auto::Builder::new(TokioExecutor::new());
        http.serve_connection(TokioIo::new(stream), service).await.unwrap();
    }

    /// More than the buffers of a loopback connection hold.
    const LENGTH: usize = 32 << 20;

    async fn ask(reads: bool, chunked: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, reads));
        let mut client = TcpStream::connect(address).await.unwrap();
        let (length, body) = match chunked {
            true => ("transfer-encoding: chunked".to_owned(), {
                let mut body = format!("{LENGTH:x}\r\n").into_bytes();
                body.resize(body.len() + LENGTH, 7);
                body.extend(b"\r\n0\r\n\r\n");
                body
            }),
            false => (format!("content-length: {LENGTH}"), vec![7; LENGTH]),
        };
        let head = format!("POST / HTTP/1.1\r\nhost: x\r\n{length}\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        // It reads nothing until all has been sent, as simple clients do.
        client.write_all(&body).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"refused") {
            assert_ne!(client.read_buf(&mut answer).await.unwrap(), 0, "the answer ends early");
        }
        drop(client);
        tokio::time::timeout(LINGER / 2, server).await.expect("it waits for no one").unwrap();
        String::from_utf8(answer).unwrap()
    }

    #[tokio::test]
    async fn a_client_that_still_sends_hears_its_refusal() {
        for chunked in [false, true] {
            let answer = ask(false, chunked).await;
            assert!(answer.contains("connection: close"), "{answer}");
        }
    }

    #[tokio::test]
    async fn a_body_that_was_read_ends_nothing() {
        for chunked in [false, true] {
            let answer = ask(true, chunked).await;
            assert!(!answer.contains("connection"), "{answer}");
        }
    }
}
