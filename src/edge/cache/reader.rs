//! Chunks in the order in which somebody wants them, fetched before it is their turn.

use std::collections::VecDeque;
use std::iter::Peekable;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::edge::cache::chunks::{Chunk, Found};
use crate::edge::cache::source::{ChunkSource, Run};
use crate::format::id::StoredDigest;
use crate::memory::pool::Urgency;
use crate::store::Placed;
use crate::transport::TransportError;

/// How far ahead of a reader chunks are fetched from an origin.
const AHEAD: u64 = 16 << 20;
/// The same of chunks on a disk that has to be waited for.
const DISK_AHEAD: u64 = 4 << 20;
/// The same of files that the system has in memory: while one chunk is sent, the next is hashed. Nobody's first
/// byte waits for much more.
const CACHED_AHEAD: u64 = 1 << 20;

/// The chunks that somebody will want.
pub(crate) type Coming = Box<dyn Iterator<Item = Placed> + Send>;

/// Somebody who wants chunks, one after the other.
pub(crate) struct ChunkReader {
    source: Arc<ChunkSource>,
    coming: Peekable<Coming>,
    /// Those that were looked for, and their bytes.
    looked: VecDeque<Placed>,
    ahead: u64,
    /// Whether a disk or an origin had to be waited for.
    waited: Arc<AtomicBool>,
    /// Whether any chunk was given.
    given: bool,
}

impl ChunkReader {
    pub(crate) fn new(source: Arc<ChunkSource>, coming: Coming) -> Self {
        let (coming, waited) = (coming.peekable(), Arc::default());
        Self { source, coming, looked: VecDeque::new(), ahead: 0, waited, given: false }
    }

    /// The chunk whose turn it is, until [`Self::advance`]; `None` behind the last.
    pub(crate) async fn front(&mut self) -> Result<Option<(Placed, Chunk)>, TransportError> {
        self.look_ahead();
        let Some(&wanted) = self.looked.front() else { return Ok(None) };
        let chunk = self.source.get(wanted, self.urgency(), &self.waited).await?;
        self.given = true;
        Ok(Some((wanted, chunk)))
    }

    /// Done with the chunk whose turn it was.
    pub(crate) fn advance(&mut self) {
        if let Some(done) = self.looked.pop_front() {
            self.ahead = self.ahead.saturating_sub(u64::from(done.record.stored_len));
        }
    }

    fn urgency(&self) -> Urgency {
        if self.given { Urgency::Ahead } else { Urgency::Now }
    }

    /// How many bytes are looked for before it is the turn of this chunk.
    fn most(&self, chunk: &StoredDigest) -> u64 {
        let waited = self.waited.load(Ordering::Relaxed);
        match self.source.is_on_disk(chunk) {
            // Memory is short: nothing but the chunk itself.
            _ if self.source.budget().is_tight() => 1,
            true if !waited => CACHED_AHEAD,
            true => DISK_AHEAD,
            false => AHEAD,
        }
    }

    /// Begins to fill what is missing of the chunks ahead, neighbours in one request.
    fn look_ahead(&mut self) {
        let mut runs: Vec<Run> = Vec::new();
        let mut looks = false;
        while let Some(wanted) = self.coming.peek() {
            let digest = wanted.record.stored;
            let most = self.most(&digest);
            // Not chunk by chunk: each would be a request of its own.
            let enough = if looks { self.ahead >= most } else { self.ahead > most / 2 };
            if enough {
                break;
            }
            looks = true;
            let Some(wanted) = self.coming.next() else { break };
            self.ahead += u64::from(wanted.record.stored_len);
            if let Found::Missing(claim) = self.source.cache().get_or_claim(digest) {
                // What the system has in memory is read and hashed chunk by chunk.
                let alone = most == CACHED_AHEAD;
                let run = runs.iter_mut().find(|run| !alone && run.is_before(&wanted));
                match run {
                    Some(run) => run.push(wanted, claim),
                    None => runs.push(Run::of(wanted, claim)),
                }
            }
            self.looked.push_back(wanted);
        }
        let mut urgency = self.urgency();
        for run in runs {
            self.source.fill(run, urgency, &self.waited);
            urgency = Urgency::Ahead;
        }
    }
}
