//! Files of an artifact, put together from verified chunks while they are sent, whole or in part.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, Stream, StreamExt};

use crate::edge::cache::budget::Share;
use crate::edge::cache::packs::{Packs, copy};
use crate::edge::options::CLIENT_STALL;
use crate::format::id::PackId;
use crate::format::store as paths;
use crate::load::{LoadError, LoadOptions, Loader};
use crate::pack::unpack::file_parts;
use crate::store::ArtifactGraph;
use crate::transport::{
    Body, Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind,
};

/// Tensors are sent in pieces of about this size, or a quarter of what the reader may hold. What is on its way to a
/// slow client comes on top of that.
const PIECE: u64 = 1 << 20;
/// What is sent at a time where memory is short.
const WINDOW: u64 = 128 << 10;

/// Somebody who reads a range of a file.
struct Reading {
    whole: Arc<ArtifactGraph>,
    packs: Arc<Packs>,
    file: usize,
    left: Range<u64>,
    /// Reads ahead, with the memory that it may hold for that.
    ahead: Option<(Loader, Share)>,
}

/// The bytes `wanted` of a file, which must lie in it. Must be polled within a runtime.
pub(crate) fn read(
    whole: &Arc<ArtifactGraph>,
    packs: &Arc<Packs>,
    file: usize,
    wanted: Range<u64>,
) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
    let (whole, packs) = (whole.clone(), packs.clone());
    let reading = Reading { whole, packs, file, left: wanted, ahead: None };
    stream::try_unfold(reading, |mut reading| async move {
        Ok(reading.next().await?.map(|bytes| (bytes, reading)))
    })
}

impl Reading {
    /// The next bytes; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        loop {
            if let Some((loader, _)) = &mut self.ahead {
                if let Some(piece) = loader.next().await {
                    return piece.map(|piece| Some(piece.data)).map_err(refused);
                }
                self.ahead = None;
            }
            if self.left.is_empty() {
                return Ok(None);
            }
            let budget = self.packs.budget();
            if budget.is_tight() {
                return self.window().await.map(Some);
            }
            let share = budget.share();
            let loader = self.start(self.left.clone(), share.bytes);
            self.left.start = self.left.end;
            self.ahead = Some((loader, share));
        }
    }

    /// A few bytes, ahead of which nothing is read: nothing but these is held while they are sent.
    async fn window(&mut self) -> Result<Bytes, TransportError> {
        let end = self.left.end.min(self.left.start + WINDOW);
        // Only closed with the edge itself; while it is held, chunks are decoded whole.
        let _turn = self.packs.windows().acquire().await;
        let mut loader = self.start(self.left.start..end, WINDOW);
        // At most a window.
        let mut bytes = BytesMut::with_capacity((end - self.left.start) as usize);
        while let Some(piece) = loader.next().await {
            bytes.extend_from_slice(&piece.map_err(refused)?.data);
        }
        self.left.start = end;
        Ok(self.packs.budget().hold(bytes.freeze()))
    }

    fn start(&self, range: Range<u64>, budget: u64) -> Loader {
        let parts = file_parts(&self.whole, self.file, &range);
        let piece = Some(PIECE.min(budget / 4));
        let mut options = LoadOptions { piece, budget, ..LoadOptions::default() };
        options.connections = Some(2);
        // The cache asks every origin and waits for it.
        (options.failures, options.stall) = (0, CLIENT_STALL);
        let source: Arc<dyn Transport> = Arc::new(Cached(self.packs.clone()));
        Loader::start(self.whole.id, vec![source], parts, Default::default(), &options)
    }
}

fn refused(error: LoadError) -> TransportError {
    match error {
        LoadError::Transport { error, .. } => error,
        error => TransportError::new(TransportErrorKind::Protocol, "", "", error.to_string()),
    }
}

/// Packs through the cache, as the loader reads them.
#[derive(Debug)]
struct Cached(Arc<Packs>);

struct CachedBody {
    chunks: BoxStream<'static, Result<Bytes, TransportError>>,
    held: Bytes,
}

#[async_trait]
impl Body for CachedBody {
    async fn read_some(&mut self, out: &mut BytesMut, max: usize) -> Result<usize, TransportError> {
        while self.held.is_empty() {
            match self.chunks.next().await {
                Some(chunk) => self.held = chunk?,
                None => return Ok(0),
            }
        }
        let count = max.min(self.held.len());
        out.extend_from_slice(&self.held[..count]);
        self.held.advance(count);
        Ok(count)
    }
}

impl Cached {
    fn refuse(&self, path: &ObjectPath) -> TransportError {
        let what = "only packs are read here";
        TransportError::new(TransportErrorKind::ReadOnly, self.location(), path, what)
    }
}

#[async_trait]
impl Transport for Cached {
    fn location(&self) -> &str {
        "the edge's cache"
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        let Some(pack) = pack_of(path) else { return Err(self.refuse(path)) };
        let map = self.0.map(pack).await.map_err(|error| copy(&error))?;
        let range = range.within(map.size()).ok_or_else(|| {
            let what = format!("the pack ends at byte {}", map.size());
            TransportError::new(TransportErrorKind::OutOfRange, self.location(), path, what)
        })?;
        let chunks = self.0.read(pack, &map, range.clone()).boxed();
        let body = Box::new(CachedBody { chunks, held: Bytes::new() });
        Ok(ObjectReader { range, size: Some(map.size()), version: None, head: None, body })
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        Err(self.refuse(path))
    }

    async fn put(&self, path: &ObjectPath, _: Vec<Bytes>) -> Result<(), TransportError> {
        Err(self.refuse(path))
    }

    async fn put_if(&self, path: &ObjectPath, _: Expected, _: Bytes) -> Result<(), TransportError> {
        Err(self.refuse(path))
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        Err(self.refuse(path))
    }

    async fn list(&self, _: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        Err(TransportError::new(TransportErrorKind::Unlistable, self.location(), "", "only packs"))
    }
}

/// The pack that a path of a store names.
pub(crate) fn pack_of(path: &ObjectPath) -> Option<PackId> {
    let pack: PackId = path.as_str().strip_prefix("packs/")?.parse().ok()?;
    // One spelling only.
    (paths::pack(pack) == *path).then_some(pack)
}
