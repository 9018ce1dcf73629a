//! A backend that misbehaves on purpose, for tests and drills.
//!
//! Faults are scripted by path prefix and count of matching reads, so that a run is the same every
//! time. Every request and every byte handed on is counted, faults or not.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Body, Expected, ObjectInfo, ObjectPath, ObjectReader, ReadRange, Transport, TransportError,
    TransportErrorKind,
};

/// What goes wrong with a read. Offsets are places in the object.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// The request fails (writes, deletions and listings too, which know only this action).
    Fail(TransportErrorKind),
    /// The request fails and the server names a time to wait.
    Busy(Duration),
    /// The object is only so long; 0 is an empty object.
    Truncate(u64),
    /// The body breaks with a transient error after so many bytes.
    Reset(u64),
    /// The body just ends after so many bytes, as no correct backend lets it.
    EndEarly(u64),
    /// The bit (0 to 7) of the byte at this place is wrong.
    FlipBit(u64, u8),
    /// Every byte is wrong.
    Garbage,
    /// Every byte is zero.
    Zeros,
    /// The bytes of another object come.
    Instead(ObjectPath),
    /// A range is answered with the whole object.
    WholeForRange,
    /// The answer takes this long.
    Delay(Duration),
    /// No answer ever comes.
    Hang,
    /// After so many bytes nothing more ever comes.
    Stall(u64),
    /// One byte at a time, each after this pause.
    Drip(Duration),
}

/// Which of the matching requests are hit, counted from 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// All.
    Always,
    /// Those in the range.
    Calls(Range<u64>),
}

/// One scripted fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// It hits objects whose path starts so.
    pub prefix: String,
    /// Which of them it hits.
    pub when: When,
    /// What it does.
    pub action: Action,
}

impl Fault {
    /// A fault in every request for paths that start with `prefix`.
    pub fn always(prefix: impl Into<String>, action: Action) -> Self {
        Self { prefix: prefix.into(), when: When::Always, action }
    }

    /// A fault in only the `nth` request (from 0) for paths that start with `prefix`.
    pub fn nth(prefix: impl Into<String>, nth: u64, action: Action) -> Self {
        Self { prefix: prefix.into(), when: When::Calls(nth..nth.saturating_add(1)), action }
    }
}

/// What was asked of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    /// Reads opened, or tried.
    pub reads: u64,
    /// Existence checks.
    pub heads: u64,
    /// Writes of both kinds, and deletions.
    pub writes: u64,
    /// Bytes that reads handed on.
    pub bytes_read: u64,
    /// Bytes given to be written.
    pub bytes_written: u64,
}

impl Count {
    fn add(&mut self, other: &Count) {
        self.reads += other.reads;
        self.heads += other.heads;
        self.writes += other.writes;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// All that was asked of a [`FaultBackend`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// By path of the object.
    pub by_path: BTreeMap<String, Count>,
    /// Listings.
    pub lists: u64,
    /// Every range read, in the order of the requests.
    pub ranges: Vec<(String, ReadRange)>,
}

impl Stats {
    /// The sum over all paths that start with `prefix`.
    pub fn below(&self, prefix: &str) -> Count {
        let mut sum = Count::default();
        let hit = self.by_path.iter().filter(|(p, _)| p.starts_with(prefix));
        hit.for_each(|(_, count)| sum.add(count));
        sum
    }

    /// The sum over all paths.
    pub fn total(&self) -> Count {
        self.below("")
    }
}

#[derive(Default)]
struct State {
    stats: Stats,
    /// How often each fault's prefix was met.
    met: Vec<u64>,
    faults: Vec<Fault>,
}

impl State {
    fn count(&mut self, path: &ObjectPath) -> &mut Count {
        self.stats.by_path.entry(path.to_string()).or_default()
    }
}

type Shared = Arc<Mutex<State>>;

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    // Counters stay usable after a panic elsewhere.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A backend around another, with faults and counts.
pub struct FaultBackend {
    inner: Arc<dyn Transport>,
    shared: Shared,
}

impl fmt::Debug for FaultBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultBackend").field(&self.inner).finish()
    }
}

impl FaultBackend {
    /// Only counts.
    pub fn counting(inner: Arc<dyn Transport>) -> Self {
        Self::new(inner, Vec::new())
    }

    /// With these faults; of several that hit one request, all act.
    pub fn new(inner: Arc<dyn Transport>, faults: Vec<Fault>) -> Self {
        let transport = Self { inner, shared: Shared::default() };
        transport.script(faults);
        transport
    }

    /// Replaces the script; its calls are counted from 0 again.
    pub fn script(&self, faults: Vec<Fault>) {
        let mut state = lock(&self.shared);
        state.met = vec![0; faults.len()];
        state.faults = faults;
    }

    /// What has been asked so far.
    pub fn stats(&self) -> Stats {
        lock(&self.shared).stats.clone()
    }

    /// Starts counting anew.
    pub fn reset_stats(&self) {
        lock(&self.shared).stats = Stats::default();
    }

    /// The actions that hit this request.
    fn hits(&self, path: &str) -> Vec<Action> {
        let state = &mut *lock(&self.shared);
        let mut actions = Vec::new();
        for (fault, met) in state.faults.iter().zip(&mut state.met) {
            if !path.starts_with(&fault.prefix) {
                continue;
            }
            let call = *met;
            *met += 1;
            if match &fault.when {
                When::Always => true,
                When::Calls(calls) => calls.contains(&call),
            } {
                actions.push(fault.action.clone());
            }
        }
        actions
    }

    fn error(
        &self,
        kind: TransportErrorKind,
        object: impl fmt::Display,
        what: &str,
    ) -> TransportError {
        TransportError::new(kind, self.inner.location(), object, what)
    }

    /// The faults that writes and listings know.
    fn refuse(&self, path: &str) -> Result<(), TransportError> {
        for action in self.hits(path) {
            if let Action::Fail(kind) = action {
                return Err(self.error(kind, path, "scripted failure"));
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Transport for FaultBackend {
    fn location(&self) -> &str {
        self.inner.location()
    }

    async fn open(
        &self,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<ObjectReader, TransportError> {
        {
            let mut state = lock(&self.shared);
            state.count(path).reads += 1;
            state.stats.ranges.push((path.to_string(), range.clone()));
        }
        let actions = self.hits(path.as_str());
        let (mut from, mut asked, mut length) = (path, range.clone(), None);
        for action in &actions {
            match action {
                Action::Fail(kind) => return Err(self.error(*kind, path, "scripted failure")),
                Action::Busy(wait) => {
                    let mut error =
                        self.error(TransportErrorKind::Transient, path, "scripted failure");
                    error.retry_after = Some(*wait);
                    return Err(error);
                }
                Action::Delay(time) => tokio::time::sleep(*time).await,
                Action::Hang => std::future::pending().await,
                Action::Instead(other) => from = other,
                Action::WholeForRange => asked = ReadRange::Full,
                Action::Truncate(size) => length = Some(*size),
                _ => {}
            }
        }
        if let Some(shortened) = length {
            // The end of a shortened object lies elsewhere.
            let info = self.inner.head(from).await?;
            let size = info.map_or(0, |info| info.size).min(shortened);
            match asked.within(size) {
                None => {
                    return Err(self.error(
                        TransportErrorKind::OutOfRange,
                        path,
                        "scripted truncation",
                    ));
                }
                Some(left) if left.is_empty() => {
                    return Ok(ObjectReader {
                        range: left,
                        size: Some(size),
                        version: None,
                        head: None,
                        body: Box::new(Nothing),
                    });
                }
                Some(left) => asked = ReadRange::Bounded(left),
            }
            length = Some(size);
        }
        let mut reader = self.inner.open(from, asked).await?;
        if length.is_some() {
            reader.size = length;
        }
        reader.body = Box::new(FaultBody {
            at: reader.range.start,
            delivered: 0,
            inner: reader.body,
            actions,
            path: path.clone(),
            location: self.inner.location().to_owned(),
            shared: self.shared.clone(),
            waited: false,
        });
        Ok(reader)
    }

    async fn head(&self, path: &ObjectPath) -> Result<Option<ObjectInfo>, TransportError> {
        lock(&self.shared).count(path).heads += 1;
        self.refuse(path.as_str())?;
        self.inner.head(path).await
    }

    async fn put(&self, path: &ObjectPath, parts: Vec<Bytes>) -> Result<(), TransportError> {
        {
            let mut state = lock(&self.shared);
            let count = state.count(path);
            count.writes += 1;
            count.bytes_written += parts.iter().map(|p| p.len() as u64).sum::<u64>();
        }
        self.refuse(path.as_str())?;
        self.inner.put(path, parts).await
    }

    async fn put_if(
        &self,
        path: &ObjectPath,
        expected: Expected,
        content: Bytes,
    ) -> Result<(), TransportError> {
        {
            let mut state = lock(&self.shared);
            let count = state.count(path);
            count.writes += 1;
            count.bytes_written += content.len() as u64;
        }
        self.refuse(path.as_str())?;
        self.inner.put_if(path, expected, content).await
    }

    async fn delete(&self, path: &ObjectPath) -> Result<(), TransportError> {
        lock(&self.shared).count(path).writes += 1;
        self.refuse(path.as_str())?;
        self.inner.delete(path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, TransportError> {
        lock(&self.shared).stats.lists += 1;
        self.refuse(prefix)?;
        self.inner.list(prefix).await
    }

    async fn sweep(&self, age: Duration) -> Result<usize, TransportError> {
        self.inner.sweep(age).await
    }

    fn date(&self) -> Option<SystemTime> {
        self.inner.date()
    }

    fn reads_block(&self) -> bool {
        self.inner.reads_block()
    }
}

struct Nothing;

#[async_trait]
impl Body for Nothing {
    async fn read(&mut self, _: &mut [u8]) -> Result<usize, TransportError> {
        Ok(0)
    }
}

struct FaultBody {
    inner: Box<dyn Body>,
    actions: Vec<Action>,
    /// Where in the object the next byte lies.
    at: u64,
    delivered: u64,
    path: ObjectPath,
    location: String,
    shared: Shared,
    /// Whether the pause before the next dripped byte has passed: a cancelled read keeps it.
    waited: bool,
}

#[async_trait]
impl Body for FaultBody {
    async fn read(&mut self, out: &mut [u8]) -> Result<usize, TransportError> {
        let mut max = out.len();
        for action in &self.actions {
            let left = |after: &u64| {
                let left = after.saturating_sub(self.delivered);
                usize::try_from(left).unwrap_or(usize::MAX)
            };
            match action {
                Action::Reset(after) if left(after) == 0 => {
                    return Err(TransportError::new(
                        TransportErrorKind::Transient,
                        &self.location,
                        &self.path,
                        "scripted reset",
                    ));
                }
                Action::EndEarly(after) if left(after) == 0 => return Ok(0),
                Action::Stall(after) if left(after) == 0 => std::future::pending().await,
                Action::Reset(after) | Action::EndEarly(after) | Action::Stall(after) => {
                    max = max.min(left(after));
                }
                Action::Drip(pause) => {
                    max = max.min(1);
                    if !self.waited {
                        tokio::time::sleep(*pause).await;
                        self.waited = true;
                    }
                }
                _ => {}
            }
        }
        let out = out.get_mut(..max).unwrap_or_default();
        let n = self.inner.read(out).await?;
        self.waited = false;
        for action in &self.actions {
            let Some(new) = out.get_mut(..n) else {
                continue;
            };
            match action {
                Action::FlipBit(place, bit) => {
                    let index = place.checked_sub(self.at).map(usize::try_from);
                    if let Some(Ok(index)) = index
                        && let Some(byte) = new.get_mut(index)
                    {
                        *byte ^= 1 << (bit & 7);
                    }
                }
                Action::Garbage => {
                    for (i, byte) in (self.at..).zip(new) {
                        // Never the byte that was there.
                        *byte ^= (i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8 | 1;
                    }
                }
                Action::Zeros => new.fill(0),
                _ => {}
            }
        }
        self.at += n as u64;
        self.delivered += n as u64;
        lock(&self.shared).count(&self.path).bytes_read += n as u64;
        Ok(n)
    }
}
