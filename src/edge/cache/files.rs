//! Files of an artifact, put together from verified chunks while they are sent, whole or in part.
//!
//! A raw chunk is sent as it lies in the cache; while another one is sent, the next is decoded. What a
//! reader decodes ahead lies within its share of the budget, and where memory is short it has a few bytes at
//! a time, decoded for these alone.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use futures_util::stream::{self, Stream};
use tokio::sync::Semaphore;

use crate::chunk::codec::{self, DecodeError};
use crate::edge::cache::budget::Share;
use crate::edge::cache::chunks::Chunk;
use crate::edge::cache::parts::{Part, Unit};
use crate::edge::cache::reader::ChunkReader;
use crate::edge::cache::source::ChunkSource;
use crate::memory::buffers::Buffers;
use crate::memory::pool::{self, Job, Urgency};
use crate::store::ArtifactGraph;
use crate::transport::{TransportError, TransportErrorKind};

/// Memory kept for what chunks are decoded to.
const BUFFERS: usize = 64 << 20;
/// Units that are decoded at a time for one reader: one that is waited for, and the next.
const AHEAD: usize = 2;
/// What is sent at a time where memory is short.
const WINDOW: u64 = 128 << 10;
/// Who decode a chunk for a few of its bytes at a time.
const WINDOWS: usize = 4;
/// A part of a chunk that is this many times smaller is copied: it would hold the whole.
const SMALL: usize = 4;

/// The files of a store's artifacts.
#[derive(Debug)]
pub(crate) struct Files {
    source: Arc<ChunkSource>,
    buffers: Buffers,
    windows: Semaphore,
}

/// What the bytes `wanted` of a file are put together from, in their order.
fn units(
    whole: Arc<ArtifactGraph>,
    file: usize,
    wanted: Range<u64>,
) -> impl Iterator<Item = Unit> + Send {
    let parts = Part::all(&whole, file, &wanted);
    parts.into_iter().flat_map(move |part| {
        let (whole, wanted) = (whole.clone(), wanted.clone());
        (0..part.units()).flat_map(move |unit| {
            let whole = whole.clone();
            part.pieces(unit, &wanted).map(move |piece| part.unit(&whole, unit, piece))
        })
    })
}

impl Unit {
    /// Its bytes, if they lie in the cache as they are.
    fn stored(&self, chunks: &[Chunk]) -> Result<Option<Bytes>, DecodeError> {
        match (self.run(), chunks) {
            (Some(rect), [chunk]) => Ok(codec::raw(chunk)?.map(|bytes| self.of(rect, &bytes))),
            _ => Ok(None),
        }
    }

    /// Decodes its chunks and puts its bytes together.
    fn decode(&self, chunks: &[Chunk], buffers: &Buffers) -> Result<Bytes, DecodeError> {
        let mut rest = chunks;
        self.assemble(buffers, |chain| {
            let (own, more) = rest.split_at(chain.len().min(rest.len()));
            rest = more;
            decoded(own, buffers)
        })
    }
}

/// The decoded bytes of the last of these chunks, each of which is stored against the one before it.
pub(crate) fn decoded(chain: &[Chunk], buffers: &Buffers) -> Result<Bytes, DecodeError> {
    let mut below = None;
    for chunk in chain {
        let decoded = match codec::raw(chunk)? {
            Some(stored) => stored,
            None => {
                let mut out = buffers.take(chunk.record().decoded_len as usize);
                codec::decode(chunk, below.as_deref(), &mut out)?;
                out.into()
            }
        };
        below = Some(decoded);
    }
    Ok(below.unwrap_or_default())
}

/// A unit that is being put together.
enum Pending {
    Stored(Bytes),
    Decoding(Job<Result<Bytes, DecodeError>>, u64),
}

/// Units in order, the next ones decoded ahead.
struct Ahead {
    files: Arc<Files>,
    units: Peekable<Box<dyn Iterator<Item = Unit> + Send>>,
    chunks: ChunkReader,
    /// The chunks of the next unit, as far as they are there.
    gathered: Vec<Chunk>,
    pending: VecDeque<Pending>,
    /// What became of the unit behind them.
    failed: Option<TransportError>,
    /// Whether any unit was begun.
    begun: bool,
    /// Bytes that may be decoded ahead.
    most: u64,
}

impl Ahead {
    fn new(
        files: &Arc<Files>,
        whole: &Arc<ArtifactGraph>,
        file: usize,
        wanted: &Range<u64>,
        most: u64,
    ) -> Self {
        let all = || units(whole.clone(), file, wanted.clone());
        let units: Box<dyn Iterator<Item = Unit> + Send> = Box::new(all());
        let graph = whole.clone();
        let coming = all().flat_map(move |unit| {
            let placed = unit.indexes().filter_map(|index| graph.chunks.get(index));
            placed.copied().collect::<Vec<_>>()
        });
        Self {
            files: files.clone(),
            units: units.peekable(),
            chunks: ChunkReader::new(files.source.clone(), Box::new(coming)),
            gathered: Vec::new(),
            pending: VecDeque::new(),
            failed: None,
            begun: false,
            most,
        }
    }

    /// The bytes of the next unit; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.pending.is_empty() {
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            self.begin().await?;
        }
        // What is not there yet is begun when it is waited for.
        while self.may_begin()
            && let Some(begun) = self.begin().now_or_never()
        {
            match begun {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => self.failed = Some(error),
            }
        }
        match self.pending.pop_front() {
            None => Ok(None),
            Some(Pending::Stored(bytes)) => Ok(Some(bytes)),
            Some(Pending::Decoding(job, _)) => {
                let decoded = job.await.map_err(wrong)?;
                decoded.map(Some).map_err(wrong)
            }
        }
    }

    /// Whether a unit may be decoded while another one is.
    fn may_begin(&self) -> bool {
        let decoding = |pending: &Pending| match pending {
            Pending::Stored(_) => None,
            Pending::Decoding(_, len) => Some(*len),
        };
        let lens: Option<Vec<u64>> = self.pending.iter().map(decoding).collect();
        let few = |lens: &Vec<u64>| {
            (1..AHEAD).contains(&lens.len()) && lens.iter().sum::<u64>() < self.most
        };
        self.failed.is_none() && lens.is_some_and(|lens| few(&lens))
    }

    /// Begins to put the next unit together as soon as its chunks are there; false behind the last. May be
    /// dropped and called again.
    async fn begin(&mut self) -> Result<bool, TransportError> {
        let Some(unit) = self.units.peek() else { return Ok(false) };
        for _ in self.gathered.len()..unit.indexes().count() {
            let Some((wanted, chunk)) = self.chunks.front().await? else {
                return Err(wrong("the artifact lacks a chunk"));
            };
            // Another artifact's record may have brought the same bytes here, and say something else of them.
            let chunk = chunk.described_by(&wanted.record);
            self.gathered.push(chunk.ok_or_else(|| wrong("a chunk's length is another one"))?);
            self.chunks.advance();
        }
        let Some(unit) = self.units.next() else { return Ok(false) };
        let chunks = std::mem::take(&mut self.gathered);
        if let Some(bytes) = unit.stored(&chunks).map_err(wrong)? {
            let whole = chunks.first().map_or(0, |chunk| chunk.stored().len());
            let is_small = bytes.len() < whole / SMALL;
            let budget = self.files.source.budget();
            self.pending.push_back(Pending::Stored(match is_small {
                true => budget.hold(Bytes::copy_from_slice(&bytes)),
                false => bytes,
            }));
            return Ok(true);
        }
        let urgency = if self.begun { Urgency::Ahead } else { Urgency::Now };
        self.begun = true;
        let lens = chunks.iter().map(|chunk| chunk.record().decoded_len as usize);
        let (len, buffers) = (lens.sum(), self.files.buffers.clone());
        let job = pool::spawn(len, urgency, move || unit.decode(&chunks, &buffers));
        self.pending.push_back(Pending::Decoding(job, len as u64));
        Ok(true)
    }
}

fn wrong(why: impl std::fmt::Display) -> TransportError {
    TransportError::new(TransportErrorKind::Protocol, "", "", why.to_string())
}

/// Somebody who reads a range of a file.
struct Reading {
    files: Arc<Files>,
    whole: Arc<ArtifactGraph>,
    file: usize,
    left: Range<u64>,
    /// Decodes ahead, within what it may hold for that.
    ahead: Option<(Ahead, Share)>,
}

impl Files {
    pub(crate) fn new(source: Arc<ChunkSource>) -> Arc<Self> {
        let (buffers, windows) = (Buffers::new(BUFFERS), Semaphore::new(WINDOWS));
        Arc::new(Self { source, buffers, windows })
    }

    /// The bytes `wanted` of a file, which must lie in it. Must be polled within a runtime.
    pub(crate) fn read(
        self: &Arc<Self>,
        whole: &Arc<ArtifactGraph>,
        file: usize,
        wanted: Range<u64>,
    ) -> impl Stream<Item = Result<Bytes, TransportError>> + Send + use<> {
        let (files, whole) = (self.clone(), whole.clone());
        let reading = Reading { files, whole, file, left: wanted, ahead: None };
        stream::try_unfold(reading, |mut reading| async move {
            Ok(reading.next().await?.map(|bytes| (bytes, reading)))
        })
    }
}

impl Reading {
    /// The next bytes; `None` behind the last.
    async fn next(&mut self) -> Result<Option<Bytes>, TransportError> {
        if self.left.is_empty() {
            return Ok(None);
        }
        let budget = self.files.source.budget();
        let (ahead, _) = match &mut self.ahead {
            Some(ahead) => ahead,
            None if budget.is_tight() => return self.window().await.map(Some),
            none => {
                let share = budget.share();
                let left = &self.left;
                let ahead = Ahead::new(&self.files, &self.whole, self.file, left, share.bytes);
                none.insert((ahead, share))
            }
        };
        let bytes = ahead.next().await?.ok_or_else(|| wrong("the artifact lacks some bytes"))?;
        self.left.start += bytes.len() as u64;
        Ok(Some(bytes))
    }

    /// A few bytes, ahead of which nothing is read: nothing but these is held while they are sent.
    async fn window(&mut self) -> Result<Bytes, TransportError> {
        let end = self.left.end.min(self.left.start + WINDOW);
        let wanted = self.left.start..end;
        // Only closed with the edge itself; while it is held, chunks are decoded whole.
        let _turn = self.files.windows.acquire().await;
        let mut ahead = Ahead::new(&self.files, &self.whole, self.file, &wanted, 0);
        // At most a window.
        let mut bytes = BytesMut::with_capacity((end - self.left.start) as usize);
        while let Some(more) = ahead.next().await? {
            bytes.extend_from_slice(&more);
        }
        self.left.start = end;
        Ok(self.files.source.budget().hold(bytes.freeze()))
    }
}
