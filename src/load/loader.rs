//! A load in progress, and what it does when the layout that it was planned with proves wrong: another
//! mirror's may be right, for nothing commits to layouts.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::bases::KnownBases;
use super::buffer::{Feedback, lock};
use super::driver::{Delivered, Driver, Work};
use super::error::LoadError;
use super::options::LoadOptions;
use super::pace::{CONNECTIONS, connections, enough, on_the_way, reads_block};
use super::tensor::{LoadStats, Tensor};
use crate::format::id::{ManifestId, PackId};
use crate::memory::buffers::Buffers;
use crate::memory::pool::cores;
use crate::memory::slot::SlotProvider;
use crate::schedule::plan::{
    DeliveryIndex, Form, ListIndex, Plan, PlanOptions, TensorIndex, TensorRequest,
};
use crate::schedule::scheduler::{Limits, MAX_MIRRORS};
use crate::store::Store;

/// The most that is kept of buffers that nobody uses.
const POOL: usize = 64 << 20;
/// Bytes that a tensor which is on its way takes beside its own: its place, its name, who waits for it.
const BESIDE: u64 = 1 << 10;
/// Connections that are made ahead to a store that is far; twice as many as requests begin, where that is more.
const AHEAD: usize = 64;
/// Chunks per second that one load hands out: where they are small, no more requests bring more of them.
const CHUNKS: u64 = 100_000;
/// Chunks of this many bytes on average cost more to hand out than to fetch from near: however many requests go on,
/// each is for some thousands of them.
const SMALL: u64 = 8 << 10;
const THOUSANDS: u64 = 4096;

/// A load in progress: a stream of tensors. Dropping it ends the load.
#[derive(Debug)]
pub struct Loader {
    ready: UnboundedReceiver<Vec<Delivered>>,
    /// Of the last message, what was not taken yet.
    next: VecDeque<Delivered>,
    stats: Arc<Mutex<LoadStats>>,
    /// Whether what is taken counts no longer.
    hand_over: bool,
}

impl Loader {
    /// Begins to load `tensors` from a store and its mirrors, for an artifact if it is one. Must be called
    /// within a tokio runtime with I/O and time; one thread is enough.
    ///
    /// `pack_ends` says where the known chunks of a pack end, for packs that may be asked for whole;
    /// see [`PlanOptions::pack_ends`].
    pub fn start(
        store: Store,
        artifact: Option<ManifestId>,
        tensors: Vec<Arc<TensorRequest>>,
        pack_ends: HashMap<PackId, u64>,
        options: &LoadOptions,
    ) -> Self {
        let (deliver, ready) = unbounded_channel();
        let stats = Arc::<Mutex<LoadStats>>::default();
        let load = Load {
            store,
            artifact,
            tensors,
            pack_ends,
            options: options.clone(),
            deliver,
            stats: stats.clone(),
        };
        tokio::spawn(load.run());
        Self { ready, next: VecDeque::new(), stats, hand_over: options.hand_over }
    }

    /// The next tensor; `None` after the last one, or after an error. A load that is tolerant goes on after
    /// errors.
    ///
    /// # Errors
    ///
    /// If a chunk cannot be had, is damaged wherever it was asked for, or does not decode.
    pub async fn next(&mut self) -> Option<Result<Tensor, LoadError>> {
        std::future::poll_fn(|cx| self.poll_tensor(cx)).await
    }

    /// What the load has done so far.
    pub fn stats(&self) -> LoadStats {
        *lock(&self.stats)
    }

    fn poll_tensor(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Tensor, LoadError>>> {
        let Delivered { taken, tensor } = loop {
            if let Some(next) = self.next.pop_front() {
                break next;
            }
            match std::task::ready!(self.ready.poll_recv(cx)) {
                Some(more) => self.next.extend(more),
                None => return Poll::Ready(None),
            }
        };
        if let Some((index, feedback)) = taken {
            // The driver may have ended: it has nothing left to admit then.
            drop(feedback.send(Feedback::Taken(index)));
            if self.hand_over {
                drop(feedback.send(Feedback::Released(index)));
            }
        }
        Poll::Ready(Some(tensor))
    }
}

impl Stream for Loader {
    type Item = Result<Tensor, LoadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_tensor(cx)
    }
}

/// What is to be loaded.
struct Load {
    store: Store,
    artifact: Option<ManifestId>,
    tensors: Vec<Arc<TensorRequest>>,
    pack_ends: HashMap<PackId, u64>,
    options: LoadOptions,
    deliver: UnboundedSender<Vec<Delivered>>,
    stats: Arc<Mutex<LoadStats>>,
}

impl Load {
    async fn run(mut self) {
        let known = Arc::new(KnownBases::of(&self.tensors, self.options.bases.clone()));
        let memory = self.options.memory.clone().unwrap_or_else(|| {
            // A consumer that keeps everything leaves nothing to use again.
            let kept = if self.options.budget == u64::MAX { 0 } else { POOL };
            Arc::new(Buffers::new(kept))
        });
        let (mut begun, mut mirror) = (None, 0);
        loop {
            let plan = Arc::new(Plan::new(self.tensors.clone(), &self.plan_options(&known)));
            let place = match &self.options.line {
                Some(line) if self.options.connections.is_none() => {
                    Some(line.place(&self.store).await)
                }
                _ => None,
            };
            let work = self.work(plan.clone(), known.clone(), memory.clone(), begun);
            let driver = Driver::new(Work { place, ..work });
            let Err(failed) = driver.run().await else { return };
            let left = Left::of(&plan, failed.delivered, begun)
                .filter(|_| failed.error.is_misplaced() && self.store.transports().len() > 1);
            let moved = match left {
                Some(left) => self.relocate(left, &mut mirror).await,
                None => None,
            };
            if let Some(left) = moved {
                (self.tensors, begun) = (left.tensors, left.begun);
                self.pack_ends.clear();
                continue;
            }
            let tensor = Err(*failed.error);
            // Nobody listening is no reason to go on either.
            drop(self.deliver.send(vec![Delivered { taken: None, tensor }]));
            return;
        }
    }

    fn plan_options(&self, known: &KnownBases) -> PlanOptions {
        // A local file has no cache between that would like whole objects.
        let pack_ends =
            if reads_block(&self.store) { HashMap::new() } else { self.pack_ends.clone() };
        let default = PlanOptions::default();
        // A local file is as near as memory: what opening it took tells of the disk.
        let measured = if reads_block(&self.store) { None } else { self.store.way().round_trip() };
        PlanOptions {
            held: known.contents().copied().collect(),
            gap: self.options.gap.or(measured).unwrap_or(default.gap),
            // What is lost for one delivery must not be missing in others.
            kept: if self.options.tolerant { 0 } else { default.kept },
            segment: self.options.segment,
            piece: self.options.piece,
            pack_ends,
        }
    }

    fn work(
        &self,
        plan: Arc<Plan>,
        known: Arc<KnownBases>,
        memory: Arc<dyn SlotProvider>,
        begun: Option<u64>,
    ) -> Work {
        let (options, transports) = (&self.options, self.store.transports().to_vec());
        let connections = match options.connections {
            Some(fixed) => (fixed.max(1), fixed.max(1)),
            None => connections(&self.store),
        };
        let bytes: u64 = plan.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
        let average = (bytes / (plan.chunks.len() as u64).max(1)).max(1);
        // Where answers take long, each connection has its pace, which costs more than that.
        let is_near = self.store.way().requests().is_none();
        let few = if average <= SMALL && is_near { average * THOUSANDS } else { 0 };
        let least = Limits::default().least_fetch;
        if connections.0 > CONNECTIONS && !reads_block(&self.store) {
            // When it is known that there should be more than at first, their connections are there.
            let ahead = (connections.0 * 2).max(AHEAD).min(connections.1);
            let requests = usize::try_from(bytes.div_ceil(least)).unwrap_or(ahead);
            self.store.expect(requests.min(ahead));
        }
        let limits = Limits {
            budget: options.budget,
            most_budget: options.most_budget,
            beside: BESIDE,
            connections: connections.0,
            most_connections: connections.1,
            as_planned: if reads_block(&self.store) { cores() } else { CONNECTIONS },
            enough: enough().min(CHUNKS * average),
            least_fetch: least.max(few.min(options.segment)),
            on_the_way: on_the_way(&self.store),
            mirrors: transports.len().min(MAX_MIRRORS),
            stall: options.stall,
            bad_chunks: options.bad_chunks,
            failures: options.failures,
            first_pause: options.first_pause,
            hedge_after: options.hedge_after,
            tolerant: options.tolerant,
            seed: options.seed,
            ..Limits::default()
        };
        let (deliver, stats) = (self.deliver.clone(), self.stats.clone());
        let artifact = self.artifact;
        let place = None;
        Work { artifact, transports, plan, limits, place, memory, known, deliver, stats, begun }
    }

    /// What is left of the plan, where the layout of another mirror has it. `None` if no mirror knows other
    /// places. `mirror` is the next whose layout is looked at.
    async fn relocate(&self, left: Left, mirror: &mut usize) -> Option<Left> {
        let artifact = self.artifact?;
        while *mirror < self.store.transports().len() {
            let at = *mirror;
            *mirror += 1;
            let Ok(places) = self.store.places_at(at, artifact).await else { continue };
            let moved = left.tensors.iter().map(|request| {
                let own = request.records.iter().zip(&request.places);
                let own = own.map(|(record, old)| *places.get(&record.stored).unwrap_or(old));
                Arc::new(TensorRequest { places: own.collect(), ..(**request).clone() })
            });
            let moved: Vec<_> = moved.collect();
            if moved.iter().zip(&left.tensors).any(|(new, old)| new.places != old.places) {
                return Some(Left { tensors: moved, ..left });
            }
        }
        None
    }
}

/// What a driver has left when it fails.
struct Left {
    tensors: Vec<Arc<TensorRequest>>,
    /// Of the first tensor, if pieces of it were delivered: where they end.
    begun: Option<u64>,
}

impl Left {
    /// What is left of a plan whose first tensor had `begun` before it.
    fn of(plan: &Plan, delivered: DeliveryIndex, begun: Option<u64>) -> Option<Self> {
        let next = plan.deliveries.get(delivered)?;
        let mut tensors: Vec<_> = plan.tensors.iter().skip(next.tensor.get()).cloned().collect();
        let mut begun = begun.filter(|_| next.tensor == TensorIndex::FIRST);
        let before = plan.deliveries.iter().take(delivered.get()).rev();
        let own: Vec<_> = before.take_while(|delivery| delivery.tensor == next.tensor).collect();
        let first = tensors.first_mut()?;
        if let Form::Stored(order) = &first.form {
            let form = Form::Stored(order.get(own.len()..)?.to_vec());
            *first = Arc::new(TensorRequest { form, ..(**first).clone() });
            begun = begun.max((!own.is_empty()).then_some(0));
        } else {
            begun = begun.max(own.iter().map(|delivery| delivery.range.end).max());
        }
        Some(Self { tensors, begun })
    }
}
