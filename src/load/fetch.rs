//! One request: reads chunks into the places it is given, verifies each where it lies, and gives
//! back every place it did not fill, however it ends.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};

use super::buffer::{Scratch, Target};
use super::links::{Kept, Ready};
use crate::chunk::codec::DecodeError;
use crate::chunk::verified::{Arriving, DigestMismatch};
use crate::format::record::{ChunkRecord, CodecId};
use crate::memory::pages;
use crate::schedule::scheduler::FetchId;
use crate::transport::{
    ObjectPath, ObjectReader, ReadRange, Transport, TransportError, TransportErrorKind,
};

/// The most that one read asks for: what was read is hashed while it is in the cache, and the rest of
/// its chunk travels meanwhile.
const READ: usize = 1 << 20;
/// Bytes after the last chunk of a whole pack that are read so that the connection can serve again.
const TAIL: u64 = 1 << 20;

/// A chunk and its place.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) chunk: u32,
    pub(super) record: ChunkRecord,
    pub(super) offset: u64,
    pub(super) target: Target,
}

/// What a fetch tells the driver.
#[derive(Debug)]
pub(super) enum Report {
    /// The chunk is verified and in its place, which comes back if it was lent; or it is kept until it
    /// can be decoded, and its place with it.
    Verified { fetch: FetchId, chunk: u32, target: Option<Target> },
    /// A chunk that was kept is in its place, which comes back if it was lent.
    Decoded { chunk: u32, target: Target },
    /// The chunk is damaged; its place comes back.
    Bad { fetch: FetchId, chunk: u32, target: Target, error: DigestMismatch },
    /// The chunk is what the manifest names and still of no use: no retry can help.
    Undecodable { chunk: u32, error: Option<DecodeError> },
    /// The fetch is over; these places come back.
    Ended { fetch: FetchId, error: Option<TransportError>, unfinished: Vec<Job> },
}

/// What driver and fetch share.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Bytes that arrived.
    pub(super) bytes: AtomicU64,
    cancelled: AtomicBool,
    wake: Notify,
}

impl Shared {
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.wake.notify_one();
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// One request, before it is sent.
pub(super) struct Fetch {
    pub(super) id: FetchId,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) path: ObjectPath,
    pub(super) range: ReadRange,
    /// How many jobs will come.
    pub(super) count: usize,
    pub(super) jobs: UnboundedReceiver<Vec<Job>>,
    pub(super) shared: Arc<Shared>,
    pub(super) reports: UnboundedSender<Report>,
    pub(super) scratch: Scratch,
    /// Whether the places have been touched before, mostly.
    pub(super) warm: bool,
    pub(super) kept: Arc<Kept>,
}

/// What survives when the request is dropped in the middle of a read.
struct Running {
    queue: VecDeque<Job>,
    /// Where the next byte of the body lies in the object.
    at: u64,
    scratch: BytesMut,
    /// What has come of the first chunk of the queue, in that chunk's place or in `scratch`.
    arriving: Option<Arriving>,
}

impl Running {
    /// The chunk that was arriving will not; its memory goes back where it came from.
    fn abandon(&mut self) {
        if let (Some(arriving), Some(job)) = (self.arriving.take(), self.queue.front_mut()) {
            give_back(&job.record, &mut job.target, &mut self.scratch, arriving.abandon());
        }
    }
}

/// `None`: ended without a fault of the source.
type Step<T> = Result<T, Option<TransportError>>;

impl Fetch {
    /// Runs to the end; the last thing that it does is [`Report::Ended`].
    pub(super) async fn run(mut self) {
        let scratch = self.scratch.take();
        let mut running = Running { queue: VecDeque::new(), at: 0, scratch, arriving: None };
        let shared = self.shared.clone();
        let error = tokio::select! {
            biased;
            () = shared.wake.notified() => None,
            end = self.read_all(&mut running) => end.err().flatten(),
        };
        running.abandon();
        self.scratch.give(running.scratch);
        let mut unfinished: Vec<_> = running.queue.into();
        self.jobs.close();
        while let Ok(jobs) = self.jobs.try_recv() {
            unfinished.extend(jobs);
        }
        let ended = Report::Ended { fetch: self.id, error, unfinished };
        self.tell(ended);
    }

    /// The driver outlives its fetches, or the load is abandoned and nobody listens.
    fn tell(&self, report: Report) {
        drop(self.reports.send(report));
    }

    fn error(&self, kind: TransportErrorKind, what: impl Into<String>) -> TransportError {
        TransportError::new(kind, self.transport.location(), &self.path, what)
    }

    async fn read_all(&mut self, running: &mut Running) -> Step<()> {
        let mut reader = self.transport.open(&self.path, self.range.clone()).await.map_err(Some)?;
        running.at = reader.range.start;
        let mut done = 0;
        while done < self.count {
            if running.queue.is_empty() {
                match self.jobs.recv().await {
                    Some(jobs) => running.queue.extend(jobs),
                    None => return Ok(()),
                }
                continue;
            }
            self.read_one(&mut reader, running).await?;
            done += 1;
        }
        self.read_tail(&mut reader, running).await
    }

    /// What follows the chunks, if it is little, so that the connection is of further use.
    async fn read_tail(&self, reader: &mut ObjectReader, running: &mut Running) -> Step<()> {
        if reader.range.end.saturating_sub(running.at) > TAIL {
            return Ok(());
        }
        loop {
            running.scratch.clear();
            if self.read_some(reader, &mut running.scratch, READ).await? == 0 {
                return Ok(());
            }
        }
    }

    async fn read_some(
        &self,
        reader: &mut ObjectReader,
        out: &mut BytesMut,
        max: usize,
    ) -> Step<usize> {
        // Blocking backends never wait, so that dropping the future cannot reach them.
        if self.shared.is_cancelled() {
            return Err(None);
        }
        let count = reader.body.read_some(out, max.min(READ)).await.map_err(Some)?;
        self.shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    async fn skip(&self, reader: &mut ObjectReader, running: &mut Running, to: u64) -> Step<()> {
        if running.at > to {
            let what = format!("the body begins at byte {} and not at {to}", running.at);
            return Err(Some(self.error(TransportErrorKind::Protocol, what)));
        }
        while running.at < to {
            running.scratch.clear();
            let most = usize::try_from(to - running.at).unwrap_or(READ).min(READ);
            let count = self.read_some(reader, &mut running.scratch, most).await?;
            if count == 0 {
                let what = format!("the body ends at byte {}", running.at);
                return Err(Some(self.error(TransportErrorKind::Protocol, what)));
            }
            running.at += count as u64;
        }
        Ok(())
    }

    /// Reads, verifies and places the first chunk of the queue, which leaves it only when its
    /// place is reported.
    async fn read_one(&self, reader: &mut ObjectReader, running: &mut Running) -> Step<()> {
        let Some(job) = running.queue.front() else { return Ok(()) };
        let (record, offset) = (job.record, job.offset);
        self.skip(reader, running, offset).await?;
        let Some(job) = running.queue.front_mut() else { return Ok(()) };
        let room = match &mut job.target {
            // Raw bytes are their own decoded form: they are read where they belong.
            Target::Direct { piece, .. } if record.codec == CodecId::RAW => {
                piece.clear();
                if !self.warm {
                    pages::populate(piece.spare_capacity_mut());
                }
                std::mem::take(piece)
            }
            // It stays where it is read until it is decoded.
            Target::Linked { .. } => BytesMut::with_capacity(record.stored_len as usize),
            _ => std::mem::take(&mut running.scratch),
        };
        let arriving = running.arriving.insert(Arriving::new(record, room));
        while arriving.missing() > 0 {
            let missing = arriving.missing();
            if self.read_some(reader, arriving.room(), missing).await? == 0 {
                let what = format!("the body ends {missing} bytes too early");
                return Err(Some(self.error(TransportErrorKind::Protocol, what)));
            }
            arriving.take_in();
        }
        running.at += u64::from(record.stored_len);
        let arrived = (running.queue.pop_front(), running.arriving.take());
        let (Some(job), Some(chunk)) = arrived else { return Ok(()) };
        match self.finish(job, chunk, &mut running.scratch) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(None),
        }
    }

    /// No await below: from here to the report the chunk's bytes are in nobody else's reach.
    fn finish(&self, job: Job, arrived: Arriving, scratch: &mut BytesMut) -> ControlFlow<()> {
        let Job { chunk, record, mut target, .. } = job;
        let fetch = self.id;
        let chunk_bytes = match arrived.verify() {
            Ok(verified) => verified,
            Err(unverified) => {
                let error = unverified.error;
                give_back(&record, &mut target, scratch, unverified.bytes);
                self.tell(Report::Bad { fetch, chunk, target, error });
                return ControlFlow::Continue(());
            }
        };
        let placed = match &mut target {
            Target::Direct { .. } if record.codec == CodecId::RAW => {
                self.kept.offer(&record, chunk_bytes.stored());
                Ok(true)
            }
            Target::Linked { links, fills } => {
                let fills = fills.take().map(|fills| *fills);
                let ready = links.arrived(chunk, chunk_bytes, fills);
                return self.decode_linked(chunk, ready);
            }
            target => target.fill(&chunk_bytes, None, &self.scratch, &self.kept),
        };
        give_back(&record, &mut target, scratch, chunk_bytes.into_stored());
        match placed {
            Ok(true) => {
                self.tell(Report::Verified { fetch, chunk, target: Some(target) });
                ControlFlow::Continue(())
            }
            Ok(false) => {
                self.tell(Report::Undecodable { chunk, error: None });
                ControlFlow::Break(())
            }
            Err(error) => {
                self.tell(Report::Undecodable { chunk, error: Some(error) });
                ControlFlow::Break(())
            }
        }
    }

    /// Decodes what `chunk` was the last missing part of, and then reports that chunk: once all
    /// chunks of a delivery are reported, all are in their places.
    fn decode_linked(&self, chunk: u32, ready: Vec<Ready>) -> ControlFlow<()> {
        for mut ready in ready {
            let error = match ready.place(&self.kept, &self.scratch) {
                Ok(true) => {
                    let Ready { chunk, target, .. } = ready;
                    self.tell(Report::Decoded { chunk, target });
                    continue;
                }
                Ok(false) => None,
                Err(error) => Some(error),
            };
            self.tell(Report::Undecodable { chunk: ready.chunk, error });
            return ControlFlow::Break(());
        }
        self.tell(Report::Verified { fetch: self.id, chunk, target: None });
        ControlFlow::Continue(())
    }
}

/// Puts the buffer that was read into back where it came from.
fn give_back(record: &ChunkRecord, target: &mut Target, scratch: &mut BytesMut, bytes: BytesMut) {
    match target {
        Target::Direct { piece, .. } if record.codec == CodecId::RAW => *piece = bytes,
        // Read into a buffer of its own, exactly as large.
        Target::Linked { .. } => {}
        _ => *scratch = bytes,
    }
}
