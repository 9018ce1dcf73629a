//! Decoded chunks, each fetched, verified and decoded once for all who want it at a time.
//!
//! What is fetched and kept as it is stored is the edge's cache; what was decoded is kept a while in memory, and
//! the kernel has most of it soon.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use futures_util::FutureExt;
use moka::future::Cache;
use moka::policy::EvictionPolicy;

use crate::edge::cache::chunks::{Chunk, Found, Waiting};
use crate::edge::cache::files::decoded;
use crate::edge::cache::origins::copy;
use crate::edge::cache::parts::Unit;
use crate::edge::cache::source::{ChunkSource, Run};
use crate::format::id::{ManifestId, StoredDigest};
use crate::format::record::CodecId;
use crate::memory::buffers::Buffers;
use crate::memory::pool::{self, Urgency};
use crate::store::{ArtifactGraph, Placed};
use crate::transport::{TransportError, TransportErrorKind};

/// Memory kept for what chunks are decoded to.
const BUFFERS: usize = 64 << 20;
/// From how many stored chunks in hand on it is looked which of them nobody has any more.
const MANY: usize = 1024;

/// An artifact's chunk.
type Key = (ManifestId, u32);

/// The decoded chunks of a mount.
#[derive(Debug)]
pub(crate) struct Chunks {
    source: Arc<ChunkSource>,
    decoded: Cache<Key, Bytes>,
    buffers: Buffers,
    in_hand: InHand,
}

/// Stored chunks that somebody has and will decode. The cache may let them go before they are: whoever wants them
/// meanwhile takes them from here.
#[derive(Default)]
struct InHand(Mutex<HashMap<StoredDigest, Weak<Held>>>);

impl std::fmt::Debug for InHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("InHand")
    }
}

impl InHand {
    fn lock(&self) -> MutexGuard<'_, HashMap<StoredDigest, Weak<Held>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chunk as it is stored, or will be.
enum Held {
    Ready(Chunk),
    Coming(Waiting),
}

/// A chunk, and where it is from. One that is stored against others comes behind them.
type Stored = (Placed, Arc<Held>);

/// A run of bytes that is being put together.
pub(crate) struct Begun {
    unit: Unit,
    /// Each of its chunks.
    chunks: Vec<Source>,
}

/// What a chunk is taken from.
enum Source {
    Decoded(Bytes),
    Stored(Vec<Stored>),
}

impl Chunks {
    /// Keeps at most about `memory` decoded bytes.
    pub(crate) fn new(source: Arc<ChunkSource>, memory: u64) -> Self {
        let weigh = |_: &Key, bytes: &Bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let decoded = Cache::builder()
            .weigher(weigh)
            .max_capacity(memory)
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Self { source, decoded, buffers: Buffers::new(BUFFERS), in_hand: InHand::default() }
    }

    pub(crate) fn source(&self) -> &Arc<ChunkSource> {
        &self.source
    }

    /// The kernel has all pages of a unit: its memory is for what comes. What an artifact holds more than once, and what
    /// others are stored against, may be wanted again.
    pub(crate) async fn let_go(
        &self,
        whole: &ArtifactGraph,
        more_than_once: &HashSet<StoredDigest>,
        unit: &Unit,
    ) {
        for (_, chain) in &unit.chunks {
            let Some(last) = chain.last() else { continue };
            let Some(placed) = whole.chunks.get(*last) else { continue };
            let digest = placed.record.stored;
            if let Ok(key) = u32::try_from(*last)
                && !more_than_once.contains(&digest)
            {
                self.decoded.invalidate(&(whole.id, key)).await;
                self.source.cache().remove(&digest);
            }
        }
    }

    /// The bytes of a unit, if its chunks are decoded.
    pub(crate) fn at_once(&self, whole: &ArtifactGraph, unit: &Unit) -> Option<Bytes> {
        let known = |chain: &[usize]| {
            let key = (whole.id, u32::try_from(*chain.last()?).ok()?);
            self.decoded.get(&key).now_or_never().flatten()
        };
        if let ([(_, chain)], Some(rect)) = (unit.chunks.as_slice(), unit.run()) {
            return Some(unit.of(rect, &known(chain)?));
        }
        let all: Option<Vec<Bytes>> = unit.chunks.iter().map(|(_, chain)| known(chain)).collect();
        self.assemble(unit, all?).ok()
    }

    /// The bytes of a unit.
    pub(crate) async fn unit(
        &self,
        whole: &ArtifactGraph,
        unit: Unit,
        urgency: Urgency,
    ) -> Result<Bytes, Arc<TransportError>> {
        let begun = self.begin(whole, vec![unit], urgency);
        match begun.into_iter().next() {
            Some(begun) => self.finish(whole, begun, urgency).await,
            None => Ok(Bytes::new()),
        }
    }

    /// Begins to fetch what is missing of these, neighbours in one request.
    pub(crate) fn begin(
        &self,
        whole: &ArtifactGraph,
        units: Vec<Unit>,
        urgency: Urgency,
    ) -> Vec<Begun> {
        let mut runs: Vec<Run> = Vec::new();
        let mut begun = Vec::with_capacity(units.len());
        for unit in units {
            let chunks = unit.chunks.iter().map(|(_, chain)| {
                let key = chain.last().and_then(|last| u32::try_from(*last).ok());
                let known =
                    key.and_then(|key| self.decoded.get(&(whole.id, key)).now_or_never().flatten());
                if let Some(bytes) = known {
                    return Source::Decoded(bytes);
                }
                let placed = chain.iter().filter_map(|index| whole.chunks.get(*index));
                let stored = placed.filter_map(|placed| self.look(*placed, &mut runs));
                Source::Stored(stored.collect())
            });
            let chunks = chunks.collect();
            begun.push(Begun { unit, chunks });
        }
        let waited = Arc::new(AtomicBool::new(false));
        for run in runs {
            self.source.fill(run, urgency, &waited);
        }
        begun
    }

    fn look(&self, placed: Placed, runs: &mut Vec<Run>) -> Option<Stored> {
        let digest = placed.record.stored;
        // Kept until it is known: another look waits for this one.
        let mut in_hand = self.in_hand.lock();
        if let Some(held) = in_hand.get(&digest).and_then(Weak::upgrade) {
            return Some((placed, held));
        }
        let held = Arc::new(self.find(placed, runs)?);
        if in_hand.len() >= MANY {
            in_hand.retain(|_, held| held.strong_count() > 0);
        }
        in_hand.insert(digest, Arc::downgrade(&held));
        Some((placed, held))
    }

    fn find(&self, placed: Placed, runs: &mut Vec<Run>) -> Option<Held> {
        let digest = placed.record.stored;
        let cache = self.source.cache();
        if let Found::Missing(claim) = match cache.get_or_claim(digest) {
            Found::Ready(chunk) => return Some(Held::Ready(chunk)),
            Found::Filling(waiting) => return Some(Held::Coming(waiting)),
            missing => missing,
        } {
            match runs.iter_mut().find(|run| run.is_before(&placed)) {
                Some(run) => run.push(placed, claim),
                None => runs.push(Run::of(placed, claim)),
            }
        }
        // Whoever waits for a fill gets the chunk, whether or not the cache keeps it.
        match cache.get_or_claim_uncounted(digest) {
            Found::Filling(waiting) => Some(Held::Coming(waiting)),
            Found::Ready(chunk) => Some(Held::Ready(chunk)),
            // Not while it is claimed.
            Found::Missing(_) => None,
        }
    }

    /// Waits for what was begun.
    pub(crate) async fn finish(
        &self,
        whole: &ArtifactGraph,
        begun: Begun,
        urgency: Urgency,
    ) -> Result<Bytes, Arc<TransportError>> {
        let Begun { unit, chunks } = begun;
        let mut all = Vec::with_capacity(chunks.len());
        for ((_, chain), source) in unit.chunks.iter().zip(chunks) {
            all.push(match source {
                Source::Decoded(bytes) => bytes,
                Source::Stored(stored) => self.chunk(whole, chain, stored, urgency).await?,
            });
        }
        if let (Some(rect), [bytes]) = (unit.run(), all.as_slice()) {
            return Ok(unit.of(rect, bytes));
        }
        self.assemble(&unit, all).map_err(|error| Arc::new(wrong(error)))
    }

    fn assemble(
        &self,
        unit: &Unit,
        all: Vec<Bytes>,
    ) -> Result<Bytes, crate::chunk::codec::DecodeError> {
        let mut all = all.into_iter();
        unit.assemble(&self.buffers, |_| Ok(all.next().unwrap_or_default()))
    }

    /// One chunk, decoded.
    async fn chunk(
        &self,
        whole: &ArtifactGraph,
        chain: &[usize],
        stored: Vec<Stored>,
        urgency: Urgency,
    ) -> Result<Bytes, Arc<TransportError>> {
        let lacks = || Arc::new(wrong("the artifact lacks a chunk"));
        let last = chain.last().and_then(|last| u32::try_from(*last).ok()).ok_or_else(lacks)?;
        // In hand until it is among the decoded.
        let _kept = stored.clone();
        let decode = async {
            let mut chunks = Vec::with_capacity(stored.len());
            for one in stored {
                chunks.push(self.arrived(one, urgency).await?);
            }
            let Some(own) = chunks.last() else { return Err(wrong("the artifact lacks a chunk")) };
            if chunks.len() != chain.len() {
                return Err(wrong("the artifact lacks a chunk"));
            }
            let len = match own.record().codec {
                CodecId::RAW => 0,
                _ => chunks.iter().map(|chunk| chunk.record().decoded_len as usize).sum(),
            };
            let buffers = self.buffers.clone();
            let job = pool::spawn(len, urgency, move || decoded(&chunks, &buffers));
            job.await.map_err(wrong)?.map_err(wrong)
        };
        self.decoded.try_get_with((whole.id, last), decode).await
    }

    /// The chunk that is stored, once it is there.
    async fn arrived(
        &self,
        (placed, held): Stored,
        urgency: Urgency,
    ) -> Result<Chunk, TransportError> {
        let chunk = match &*held {
            Held::Ready(chunk) => chunk.clone(),
            Held::Coming(waiting) => match waiting.clone().outcome().await {
                Some(outcome) => outcome.map_err(|error| copy(&error))?,
                // It was given up.
                None => {
                    let waited = Arc::new(AtomicBool::new(false));
                    self.source.get(placed, urgency, &waited).await?
                }
            },
        };
        // Another artifact's record may have brought the same bytes here, and say something else of them.
        chunk.described_by(&placed.record).ok_or_else(|| wrong("a chunk's length is another one"))
    }
}

fn wrong(why: impl Display) -> TransportError {
    TransportError::new(TransportErrorKind::Protocol, "", "", why.to_string())
}
