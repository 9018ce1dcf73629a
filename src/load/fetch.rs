//! One request: reads chunks into the places it is given, has each verified where it lies, and gives
//! back every place it did not fill, however it ends.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Notify, Semaphore};

use super::bases::KnownBases;
use super::buffer::{Kept, Taken, Target};
use super::links::{Links, Ready};
use crate::chunk::codec::DecodeError;
use crate::chunk::verified::{Arriving, DigestMismatch, VerifiedChunk};
use crate::format::record::{ChunkRecord, CodecId};
use crate::memory::buffers::Buffers;
use crate::memory::pages;
use crate::memory::pool::{self, Job, Urgency};
use crate::memory::slot::Slot;
use crate::schedule::plan::ChunkIndex;
use crate::schedule::scheduler::FetchId;
use crate::transport::{
    ObjectPath, ObjectReader, ReadRange, Transport, TransportError, TransportErrorKind,
};

/// The most that one read asks for: what was read is hashed while it is in the cache.
const READ: usize = 1 << 20;
/// Bytes after which others have their turn: whoever else runs on this thread waits no longer than these take
/// to be copied and hashed, or than it takes to make their pages.
const TURN: usize = 2 << 20;
/// Chunks with fewer bytes to come are copied out of what one read brings for many of them.
const SMALL: usize = 32 << 10;
const AHEAD: usize = 128 << 10;
/// How many fetches have a turn before others have theirs.
const TURNS: usize = 2;
/// Bytes after the last chunk of a whole pack that are read so that the connection can serve again.
const TAIL: u64 = 1 << 20;

/// A chunk and its place.
#[derive(Debug)]
pub(super) struct ChunkJob {
    pub(super) chunk: ChunkIndex,
    pub(super) record: ChunkRecord,
    pub(super) offset: u64,
    /// If it waits for others: where it is kept until all that it is decoded with is there.
    pub(super) links: Option<Arc<Links>>,
    /// If later deliveries hold the same chunk: where it is kept for them.
    pub(super) kept: Option<Arc<Kept>>,
    /// Where it belongs; bases belong nowhere.
    pub(super) target: Option<Target>,
}

impl ChunkJob {
    /// Whether its stored bytes are read where they belong.
    fn is_in_place(&self) -> bool {
        match self.target {
            Some(Target::Stored(_)) => true,
            Some(Target::Direct { .. }) => {
                self.links.is_none() && self.record.codec == CodecId::RAW
            }
            _ => false,
        }
    }

    fn place(&mut self) -> Option<&mut Slot> {
        match &mut self.target {
            Some(Target::Stored(place) | Target::Direct { piece: place, .. }) => Some(place),
            _ => None,
        }
    }

    /// The memory that its stored bytes are read into; its pages may be missing.
    fn room(&mut self, scratch: &Buffers) -> Slot {
        let place = if self.is_in_place() { self.place() } else { None };
        match place {
            Some(place) => std::mem::take(place),
            None => scratch.lend(self.record.stored_len as usize),
        }
    }

    /// Puts the room back where it came from.
    fn give_back(&mut self, room: Slot) {
        if self.is_in_place()
            && let Some(place) = self.place()
        {
            *place = room;
        }
    }
}

/// What a fetch tells the driver.
#[derive(Debug)]
pub(super) enum Report {
    /// An answer has begun.
    Answered { fetch: FetchId },
    /// The chunk is verified and in its place, which comes back if it was lent; or it is kept until it
    /// can be decoded, and its place with it.
    Verified { fetch: FetchId, chunk: ChunkIndex, target: Option<Target> },
    /// The chunk is verified, and wanted as it is stored.
    Stored { fetch: FetchId, chunk: ChunkIndex, stored: VerifiedChunk<Slot> },
    /// A chunk that was kept is in its place, which comes back if it was lent.
    Decoded { chunk: ChunkIndex, target: Target },
    /// The chunk is damaged; its place comes back.
    Bad { fetch: FetchId, chunk: ChunkIndex, target: Option<Target>, error: DigestMismatch },
    /// The chunk is what the manifest names and still of no use: no retry can help.
    Undecodable { chunk: ChunkIndex, error: Option<DecodeError> },
    /// The fetch is over; these places come back.
    Ended { fetch: FetchId, error: Option<TransportError>, unfinished: Vec<ChunkJob> },
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
    pub(super) transport: Arc<dyn Transport>,
    pub(super) path: ObjectPath,
    pub(super) range: ReadRange,
    /// How many jobs will come.
    pub(super) count: usize,
    pub(super) jobs: UnboundedReceiver<Vec<ChunkJob>>,
    pub(super) shared: Arc<Shared>,
    pub(super) finisher: Finisher,
}

/// What survives when the request is dropped in the middle of a read.
struct Running {
    queue: VecDeque<ChunkJob>,
    /// Where the next byte of the body lies in the object.
    at: u64,
    /// What has come of the first chunk of the queue.
    arriving: Option<Arriving<Slot>>,
    /// The chunk before, while it is decoded.
    pending: Option<Job<ControlFlow<()>>>,
    /// For bytes that nobody wants.
    waste: Slot,
    incoming: Incoming,
}

/// What has come and is still to be taken.
struct Incoming {
    ahead: Slot,
    unread: Range<usize>,
    /// Bytes read since others had their turn.
    turn: usize,
}

/// `None`: ended without a fault of the source.
type Step<T> = Result<T, Option<TransportError>>;

impl Fetch {
    /// Runs to the end; the last thing that it does is [`Report::Ended`].
    pub(super) async fn run(mut self) {
        let mut running = Running {
            queue: VecDeque::new(),
            at: 0,
            arriving: None,
            pending: None,
            waste: Slot::default(),
            // It begins when it is its turn: many begin at once.
            incoming: Incoming { ahead: Slot::default(), unread: 0..0, turn: TURN },
        };
        let shared = self.shared.clone();
        let error = tokio::select! {
            biased;
            () = shared.wake.notified() => None,
            end = self.read_all(&mut running) => end.err().flatten(),
        };
        if let Some(pending) = running.pending.take() {
            // It has reported, or it has failed and the load hangs on it: that is noticed.
            let _ = pending.await;
        }
        if let (Some(some), Some(job)) = (running.arriving.take(), running.queue.front_mut()) {
            job.give_back(some.abandon());
        }
        let mut unfinished: Vec<_> = running.queue.into();
        self.jobs.close();
        while let Ok(jobs) = self.jobs.try_recv() {
            unfinished.extend(jobs);
        }
        let fetch = self.finisher.fetch;
        self.finisher.tell(Report::Ended { fetch, error, unfinished });
    }

    fn error(&self, kind: TransportErrorKind, what: impl Into<String>) -> TransportError {
        TransportError::new(kind, self.transport.location(), &self.path, what)
    }

    async fn read_all(&mut self, running: &mut Running) -> Step<()> {
        let mut reader = self.transport.open(&self.path, self.range.clone()).await.map_err(Some)?;
        self.finisher.tell(Report::Answered { fetch: self.finisher.fetch });
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
            self.finish(running).await?;
            done += 1;
        }
        self.settle(running).await?;
        self.read_tail(&mut reader, running).await
    }

    /// What follows the chunks, if it is little, so that the connection is of further use.
    async fn read_tail(&self, reader: &mut ObjectReader, running: &mut Running) -> Step<()> {
        if reader.range.end.saturating_sub(running.at) > TAIL {
            return Ok(());
        }
        while self.discard(reader, running, READ).await? > 0 {}
        Ok(())
    }

    /// Reads at most `max` bytes that nobody wants.
    async fn discard(
        &self,
        reader: &mut ObjectReader,
        running: &mut Running,
        max: usize,
    ) -> Step<usize> {
        if running.waste.is_empty() {
            running.waste = self.finisher.scratch.take(READ);
        }
        let out = running.waste.get_mut(..max.min(READ)).unwrap_or_default();
        let count = self.read_some(reader, out, max < SMALL, &mut running.incoming).await?;
        running.at += count as u64;
        Ok(count)
    }

    /// Reads some bytes. Where they are part of something small, more is read with them.
    async fn read_some(
        &self,
        reader: &mut ObjectReader,
        out: &mut [u8],
        is_small: bool,
        incoming: &mut Incoming,
    ) -> Step<usize> {
        if incoming.unread.is_empty() {
            if !is_small {
                return self.receive(reader, out, &mut incoming.turn).await;
            }
            if incoming.ahead.is_empty() {
                incoming.ahead = self.finisher.scratch.take(AHEAD);
            }
            let count = self.receive(reader, &mut incoming.ahead, &mut incoming.turn).await?;
            incoming.unread = 0..count;
        }
        let came = incoming.ahead.get(incoming.unread.clone()).unwrap_or_default();
        let count = came.len().min(out.len());
        if let (Some(to), Some(from)) = (out.get_mut(..count), came.get(..count)) {
            to.copy_from_slice(from);
        }
        incoming.unread.start += count;
        Ok(count)
    }

    async fn receive(
        &self,
        reader: &mut ObjectReader,
        out: &mut [u8],
        turn: &mut usize,
    ) -> Step<usize> {
        // Transports that block never wait, so that dropping the future cannot reach them.
        if self.shared.is_cancelled() {
            return Err(None);
        }
        if *turn >= TURN {
            *turn = 0;
            take_turns().await;
        }
        let most = out.len().min(READ);
        let out = out.get_mut(..most).unwrap_or_default();
        let count = reader.body.read(out).await.map_err(Some)?;
        *turn += count;
        self.shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }

    async fn skip(&self, reader: &mut ObjectReader, running: &mut Running, to: u64) -> Step<()> {
        if running.at > to {
            let what = format!("the body begins at byte {} and not at {to}", running.at);
            return Err(Some(self.error(TransportErrorKind::Protocol, what)));
        }
        while running.at < to {
            let most = usize::try_from(to - running.at).unwrap_or(READ);
            if self.discard(reader, running, most).await? == 0 {
                let what = format!("the body ends at byte {}", running.at);
                return Err(Some(self.error(TransportErrorKind::Protocol, what)));
            }
        }
        Ok(())
    }

    /// Reads the first chunk of the queue into its room.
    async fn read_one(&self, reader: &mut ObjectReader, running: &mut Running) -> Step<()> {
        let Some(job) = running.queue.front() else { return Ok(()) };
        let offset = job.offset;
        self.skip(reader, running, offset).await?;
        let Some(job) = running.queue.front_mut() else { return Ok(()) };
        let (record, mut room) = (job.record, job.room(&self.finisher.scratch));
        // The pages of a large room are made as they are needed: all at once would be one long turn.
        let mut made = if room.take_fresh() { 0 } else { room.len() };
        let arriving = running.arriving.insert(Arriving::new(record, room));
        while !arriving.room().is_empty() {
            let room = arriving.room();
            let missing = room.len();
            if made == 0 {
                made = missing.min(READ);
                pages::populate(room.get_mut(..made).unwrap_or_default());
                running.incoming.turn += made;
            }
            let room = room.get_mut(..made).unwrap_or_default();
            let is_small = (record.stored_len as usize) < SMALL;
            let count = self.read_some(reader, room, is_small, &mut running.incoming).await?;
            if count == 0 {
                let what = format!("the body ends {missing} bytes too early");
                return Err(Some(self.error(TransportErrorKind::Protocol, what)));
            }
            made -= count;
            // As much as one read brings is hashed here, while it is in the cache: elsewhere it would
            // take half as long again.
            arriving.take_in(count);
        }
        running.at += u64::from(record.stored_len);
        Ok(())
    }

    /// Verifies the chunk that has come, and has it decoded while the next one is read. It leaves the queue
    /// when nothing can come between that and its report.
    async fn finish(&self, running: &mut Running) -> Step<()> {
        // Reports come in the order of the chunks.
        self.settle(running).await?;
        let (Some(job), Some(chunk)) = (running.queue.pop_front(), running.arriving.take()) else {
            return Ok(());
        };
        if self.transport.reads_block() || job.is_in_place() {
            return ended(self.finisher.finish(job, chunk));
        }
        let finisher = self.finisher.clone();
        let len = job.record.stored_len.max(job.record.decoded_len) as usize;
        let finish = move || finisher.finish(job, chunk);
        running.pending = Some(pool::spawn(len, Urgency::Now, finish));
        Ok(())
    }

    /// Waits for the chunk before.
    async fn settle(&self, running: &mut Running) -> Step<()> {
        let Some(pending) = &mut running.pending else { return Ok(()) };
        let flow = pending.await;
        running.pending = None;
        // A panic below is a defect; the load then fails on the chunk that is never reported.
        ended(flow.unwrap_or(ControlFlow::Break(())))
    }
}

/// Lets others have their turn, and comes back when the runtime has looked at its timers and sockets: after that,
/// at most [`TURNS`] fetches have theirs on this thread before it looks again.
async fn take_turns() {
    thread_local!(static GATE: Arc<Semaphore> = Arc::new(Semaphore::new(TURNS)));
    let gate = GATE.with(Arc::clone);
    // It is never closed.
    let _place = gate.acquire().await;
    tokio::task::yield_now().await;
}

fn ended(flow: ControlFlow<()>) -> Step<()> {
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(None),
    }
}

/// Decodes and reports what a fetch has read.
#[derive(Debug, Clone)]
pub(super) struct Finisher {
    pub(super) fetch: FetchId,
    pub(super) reports: UnboundedSender<Report>,
    /// Memory for what is not read or decoded where it belongs.
    pub(super) scratch: Buffers,
    pub(super) known: Arc<KnownBases>,
}

impl Finisher {
    /// The driver outlives its fetches, or the load is abandoned and nobody listens.
    fn tell(&self, report: Report) {
        drop(self.reports.send(report));
    }

    fn finish(&self, mut job: ChunkJob, chunk: Arriving<Slot>) -> ControlFlow<()> {
        let verified = chunk.verify();
        let (fetch, chunk) = (self.fetch, job.chunk);
        let verified = match verified {
            Ok(verified) => verified,
            Err(unverified) => {
                let error = unverified.error;
                job.give_back(unverified.bytes);
                self.tell(Report::Bad { fetch, chunk, target: job.target, error });
                return ControlFlow::Continue(());
            }
        };
        if let Some(links) = &job.links {
            return self.decode_linked(chunk, links.arrived(chunk, verified, job.target));
        }
        let in_place = job.is_in_place();
        let kept = job.kept.take();
        let taken = Taken { known: &self.known, kept: kept.as_deref().map(|kept| (kept, chunk)) };
        let placed = match &mut job.target {
            Some(Target::Stored(_)) => {
                self.tell(Report::Stored { fetch, chunk, stored: verified });
                return ControlFlow::Continue(());
            }
            Some(_) if in_place => {
                taken.offer(&job.record, verified.stored());
                job.give_back(verified.into_stored());
                Ok(true)
            }
            Some(target) => target.fill(&verified, None, &self.scratch, taken),
            None => Ok(false),
        };
        match placed {
            Ok(true) => {
                self.tell(Report::Verified { fetch, chunk, target: job.target });
                ControlFlow::Continue(())
            }
            Ok(false) => self.undecodable(chunk, None),
            Err(error) => self.undecodable(chunk, Some(error)),
        }
    }

    fn undecodable(&self, chunk: ChunkIndex, error: Option<DecodeError>) -> ControlFlow<()> {
        self.tell(Report::Undecodable { chunk, error });
        ControlFlow::Break(())
    }

    /// Decodes what `chunk` was the last missing part of, and then reports that chunk: once all
    /// chunks of a delivery are reported, all are in their places.
    fn decode_linked(&self, chunk: ChunkIndex, ready: Vec<Ready>) -> ControlFlow<()> {
        for mut ready in ready {
            match ready.place(&self.known, &self.scratch) {
                Ok(true) => {
                    let Ready { chunk, target, .. } = ready;
                    self.tell(Report::Decoded { chunk, target });
                }
                Ok(false) => return self.undecodable(ready.chunk, None),
                Err(error) => return self.undecodable(ready.chunk, Some(error)),
            }
        }
        self.tell(Report::Verified { fetch: self.fetch, chunk, target: None });
        ControlFlow::Continue(())
    }
}
