//! The driver: one task that turns the state's actions into fetches, memory and deliveries, and
//! what comes back into the state's events.
//!
//! One file: every step changes the same state, between two events of one task.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::bases::KnownBases;
use super::buffer::{self, Feedback, Filling, Kept, Scatter, Target, lock};
use super::error::{ChunkSite, LoadError};
use super::fetch::{ChunkJob, Fetch, Finisher, Report, Shared};
use super::in_order::InOrder;
use super::links::Links;
use super::tensor::{LoadStats, StoredChunk, Tensor};
use crate::chunk::verified::{DigestMismatch, VerifiedChunk};
use crate::format::id::{ManifestId, PackId};
use crate::format::store;
use crate::memory::buffers::Buffers;
use crate::memory::slot::{Slot, SlotProvider};
use crate::schedule::plan::{
    ChunkIndex, ChunkUse, Delivery, DeliveryIndex, ListIndex, Plan, SlotIndex, TensorIndex,
    TensorRequest,
};
use crate::schedule::scheduler::{
    Action, Event, Failure, FetchId, GaveUp, Limit, Limits, MirrorIndex, Place, Scheduler,
};
use crate::transport::{ReadRange, Transport, TransportError, TransportErrorKind};

/// The most that is kept of scratch memory that nobody uses.
const SCRATCH: usize = 16 << 20;
/// Events that the state is told of at a time.
const AT_ONCE: usize = 256;
/// How long the ends of requests are waited for when everything is delivered.
const GRACE: Duration = Duration::from_secs(1);

/// A fetch in flight.
struct Active {
    mirror: MirrorIndex,
    chunks: Vec<ChunkIndex>,
    granted: usize,
    jobs: UnboundedSender<Vec<ChunkJob>>,
    shared: Arc<Shared>,
    /// Bytes that the state knows of.
    seen: u64,
}

/// What is delivered, and to whom is told that it was taken.
#[derive(Debug)]
pub(super) struct Delivered {
    /// `None` of what is no delivery: the end of a load that failed.
    pub(super) taken: Option<(DeliveryIndex, UnboundedSender<Feedback>)>,
    pub(super) tensor: Result<Tensor, LoadError>,
}

/// Why a load did not end well.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Box<LoadError>,
    /// The first delivery that was not made.
    pub(super) delivered: DeliveryIndex,
}

/// What a driver works with.
pub(super) struct Work {
    pub(super) artifact: Option<ManifestId>,
    pub(super) transports: Vec<Arc<dyn Transport>>,
    pub(super) plan: Arc<Plan>,
    pub(super) limits: Limits,
    /// If it shares its level with others.
    pub(super) place: Option<Place>,
    pub(super) memory: Arc<dyn SlotProvider>,
    pub(super) known: Arc<KnownBases>,
    pub(super) deliver: UnboundedSender<Vec<Delivered>>,
    pub(super) stats: Arc<Mutex<LoadStats>>,
    /// Of the first tensor, if pieces of it were delivered before: where they end.
    pub(super) begun: Option<u64>,
}

pub(super) struct Driver {
    artifact: Option<ManifestId>,
    transports: Vec<Arc<dyn Transport>>,
    plan: Arc<Plan>,
    state: Scheduler,
    started: Instant,
    memory: Arc<dyn SlotProvider>,
    scratch: Buffers,
    filling: InOrder<Filling>,
    /// Chunks that are delivered as they are stored.
    stored: BTreeMap<DeliveryIndex, VerifiedChunk<Slot>>,
    /// Deliveries that lack something.
    lost: BTreeMap<DeliveryIndex, LoadError>,
    begun: Option<u64>,
    delivered: DeliveryIndex,
    /// The chunks of deliveries being filled that wait for each other.
    links: BTreeMap<DeliveryIndex, Arc<Links>>,
    known: Arc<KnownBases>,
    /// Chunks that later deliveries hold too.
    kept: Arc<Kept>,
    active: BTreeMap<FetchId, Active>,
    reports: UnboundedSender<Report>,
    incoming: UnboundedReceiver<Report>,
    deliver: UnboundedSender<Vec<Delivered>>,
    /// What is delivered with the next message: a wake-up for each would cost more than small tensors do.
    ready: Vec<Delivered>,
    /// What the state is still to be told.
    events: Vec<Event>,
    /// Whether the last of it is a fault: what follows from that is done before the next one comes, whose error
    /// is another.
    fault: bool,
    feedback: UnboundedSender<Feedback>,
    told: UnboundedReceiver<Feedback>,
    stats: Arc<Mutex<LoadStats>>,
    /// What drivers before this one counted.
    before: LoadStats,
    /// The latest faults, for the message when the load fails.
    last_error: Option<TransportError>,
    last_mismatch: Option<(DigestMismatch, MirrorIndex)>,
}

impl Driver {
    pub(super) fn new(work: Work) -> Self {
        let (reports, incoming) = unbounded_channel();
        let (feedback, told) = unbounded_channel();
        let before = *lock(&work.stats);
        Self {
            artifact: work.artifact,
            transports: work.transports,
            state: match work.place {
                Some(place) => Scheduler::sharing(&work.plan, work.limits, place),
                None => Scheduler::new(&work.plan, work.limits),
            },
            plan: work.plan,
            started: Instant::now(),
            memory: work.memory,
            scratch: Buffers::new(SCRATCH),
            filling: InOrder::default(),
            stored: BTreeMap::new(),
            lost: BTreeMap::new(),
            begun: work.begun,
            delivered: DeliveryIndex::FIRST,
            links: BTreeMap::new(),
            known: work.known,
            kept: Arc::default(),
            active: BTreeMap::new(),
            reports,
            incoming,
            deliver: work.deliver,
            ready: Vec::new(),
            events: Vec::new(),
            fault: false,
            feedback,
            told,
            stats: work.stats,
            before,
            last_error: None,
            last_mismatch: None,
        }
    }

    /// Runs until all is delivered, nobody listens any more, or it fails.
    pub(super) async fn run(mut self) -> Result<(), Failed> {
        let ended = self.drive().await;
        for active in self.active.values() {
            active.shared.cancel();
        }
        self.count();
        ended.map_err(|error| Failed { error, delivered: self.delivered })
    }

    async fn drive(&mut self) -> Result<(), Box<LoadError>> {
        let mut grace = None;
        let deliver = self.deliver.clone();
        loop {
            self.act()?;
            let mut deadline = self.state.deadline().map(|at| self.started + at);
            if self.state.is_complete() {
                if self.active.is_empty() {
                    return Ok(());
                }
                deadline = Some(*grace.get_or_insert_with(|| Instant::now() + GRACE));
            }
            let sleep = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                report = self.incoming.recv() => {
                    if let Some(report) = report {
                        self.report(report)?;
                    }
                }
                feedback = self.told.recv() => match feedback {
                    Some(feedback) => self.events.push(feedback.into()),
                    None => return Ok(()),
                },
                // The loader was dropped, whoever still holds tensors of it.
                () = deliver.closed() => return Ok(()),
                () = sleep => {
                    if self.state.is_complete() {
                        return Ok(());
                    }
                    self.events.push(Event::Tick);
                }
            }
            self.hear()?;
        }
    }

    /// Hears what else has come, and tells the state of all.
    fn hear(&mut self) -> Result<(), Box<LoadError>> {
        self.count_bytes();
        while !self.fault
            && self.events.len() < AT_ONCE
            && let Ok(report) = self.incoming.try_recv()
        {
            self.report(report)?;
        }
        while self.events.len() < AT_ONCE
            && let Ok(feedback) = self.told.try_recv()
        {
            self.events.push(feedback.into());
        }
        self.fault = false;
        let now = self.started.elapsed();
        self.state.handle_all(now, self.events.drain(..));
        Ok(())
    }

    fn count(&mut self) {
        let mut state = self.state.stats();
        let of_net = matches!(state.limit, Limit::Connections | Limit::Link);
        if of_net && self.transports.iter().all(|t| t.reads_block()) {
            state.limit = Limit::Disk;
        }
        lock(&self.stats).take_state(&self.before, state);
    }

    /// Tells the state which bytes have come since.
    fn count_bytes(&mut self) {
        let now = self.started.elapsed();
        let mut new = 0;
        for (&fetch, active) in &mut self.active {
            let bytes = active.shared.bytes.load(Ordering::Relaxed);
            let count = bytes - active.seen;
            if count > 0 {
                active.seen = bytes;
                new += count;
                self.state.handle(now, Event::Bytes { fetch, count });
            }
        }
        if new > 0 {
            lock(&self.stats).fetched_bytes += new;
        }
    }

    fn report(&mut self, report: Report) -> Result<(), Box<LoadError>> {
        match report {
            Report::Answered { fetch } => self.events.push(Event::Answered { fetch }),
            Report::Verified { fetch, chunk, target } => {
                if let Some(target) = target {
                    self.restore(chunk, target);
                }
                self.events.push(Event::Verified { fetch, chunk });
            }
            Report::Stored { fetch, chunk, stored } => {
                if let Some(planned) = self.plan.chunks.get(chunk) {
                    self.stored.insert(planned.delivery, stored);
                }
                self.events.push(Event::Verified { fetch, chunk });
            }
            Report::Decoded { chunk, target } => self.restore(chunk, target),
            Report::Bad { fetch, chunk, target, error } => {
                if let Some(target) = target {
                    self.restore(chunk, target);
                }
                let mirror = self.active.get(&fetch).map_or(MirrorIndex::FIRST, |f| f.mirror);
                tracing::warn!(artifact = self.artifact.map(tracing::field::display), %error, "chunk failed verification");
                self.last_mismatch = Some((error, mirror));
                self.fault = true;
                self.events.push(Event::Bad { fetch, chunk });
            }
            Report::Undecodable { chunk, error } => {
                let (Some(error), Some(site)) = (error, self.site(chunk)) else {
                    return Err(Box::new(LoadError::Internal("a chunk does not fit its slot")));
                };
                return Err(Box::new(LoadError::Decode { site, error }));
            }
            Report::Ended { fetch, error, unfinished } => {
                for job in unfinished {
                    self.take_back(job);
                }
                let failure = error.as_ref().map(|error| match () {
                    () if error.is_transient() => Failure::Transient(error.retry_after),
                    () if error.is_absent() => Failure::Absent,
                    () => Failure::Permanent,
                });
                if let Some(error) = error {
                    self.last_error = Some(error);
                    self.fault = true;
                }
                self.count_bytes();
                self.events.push(Event::Ended { fetch, failure });
                self.active.remove(&fetch);
            }
        }
        Ok(())
    }

    fn restore(&mut self, chunk: ChunkIndex, target: Target) {
        let Some(planned) = self.plan.chunks.get(chunk) else { return };
        let (slot, memory) = match target {
            Target::Direct { slot, piece } => (slot, piece),
            Target::Stored(memory) => (SlotIndex::FIRST, memory),
            Target::Scatter(_) => return,
        };
        if let Some(filling) = self.filling.get_mut(planned.delivery) {
            filling.restore(slot, memory);
        }
    }

    fn take_back(&mut self, job: ChunkJob) {
        if let Some(target) = job.target {
            self.restore(job.chunk, target);
        }
    }

    fn act(&mut self) -> Result<(), Box<LoadError>> {
        let acted = self.take_actions();
        self.send();
        acted
    }

    /// Hands out what is ready.
    fn send(&mut self) {
        if !self.ready.is_empty() {
            // A loader that was dropped is noticed.
            drop(self.deliver.send(std::mem::take(&mut self.ready)));
        }
    }

    fn take_actions(&mut self) -> Result<(), Box<LoadError>> {
        while let Some(action) = self.state.poll_action() {
            match action {
                Action::Admit { delivery } => self.admit(delivery)?,
                Action::Start { fetch, mirror, pack, whole, chunks } => {
                    self.start(fetch, mirror, pack, whole, chunks)?;
                }
                Action::Grant { fetch, count } => self.grant(fetch, count)?,
                Action::Cancel { fetch } => {
                    if let Some(active) = self.active.get(&fetch) {
                        active.shared.cancel();
                    }
                }
                Action::Deliver { delivery } => self.deliver(delivery)?,
                Action::Lost { chunk, why } => {
                    let error = self.failure(why);
                    if let Some(planned) = self.plan.chunks.get(chunk) {
                        self.lost.insert(planned.delivery, error);
                    }
                }
                Action::Fail(why) => return Err(Box::new(self.failure(why))),
            }
        }
        Ok(())
    }

    fn admit(&mut self, index: DeliveryIndex) -> Result<(), Box<LoadError>> {
        let Some(delivery) = self.plan.deliveries.get(index) else { return Ok(()) };
        if let Some(links) = Links::new(&self.plan, &delivery.linked) {
            self.links.insert(index, links);
        }
        let len = delivery.len() as usize;
        let memory = self.memory.lend(len).map_err(LoadError::from)?;
        if memory.len() != len {
            return Err(Box::new(LoadError::Internal(
                "a destination lent other memory than asked",
            )));
        }
        let filling = Filling::new(memory, &delivery.slots);
        let admitted = self.filling.push(index, filling);
        admitted
            .ok_or_else(|| Box::new(LoadError::Internal("deliveries are admitted out of order")))
    }

    fn start(
        &mut self,
        id: FetchId,
        mirror: MirrorIndex,
        pack: PackId,
        whole: bool,
        chunks: Vec<ChunkIndex>,
    ) -> Result<(), Box<LoadError>> {
        let Some(transport) = self.transports.get(mirror.get()).cloned() else {
            return Err(Box::new(LoadError::Internal("no such source")));
        };
        let (jobs, receiver) = unbounded_channel();
        let shared = Arc::<Shared>::default();
        let blocking = transport.reads_block();
        let range = match whole {
            true => ReadRange::Full,
            false => ReadRange::Bounded(self.plan.range_of(&chunks)),
        };
        let finisher = Finisher {
            fetch: id,
            reports: self.reports.clone(),
            scratch: self.scratch.clone(),
            known: self.known.clone(),
        };
        let fetch = Fetch {
            transport,
            path: store::pack(pack),
            range,
            count: chunks.len(),
            jobs: receiver,
            shared: shared.clone(),
            finisher,
        };
        let active = Active { mirror, chunks, granted: 0, jobs, shared, seen: 0 };
        self.active.insert(id, active);
        self.count();
        if blocking {
            let runtime = tokio::runtime::Handle::current();
            tokio::task::spawn_blocking(move || runtime.block_on(fetch.run()));
        } else {
            tokio::spawn(fetch.run());
        }
        Ok(())
    }

    fn grant(&mut self, id: FetchId, count: usize) -> Result<(), Box<LoadError>> {
        let contradiction = || Box::new(LoadError::Internal("a slot has two owners"));
        let Some(active) = self.active.get_mut(&id) else { return Ok(()) };
        let mut jobs = Vec::with_capacity(count);
        let granted = active.granted..active.granted + count;
        for &chunk in active.chunks.get(granted).ok_or_else(contradiction)? {
            let planned = self.plan.chunks.get(chunk).ok_or_else(contradiction)?;
            let delivery = self.plan.deliveries.get(planned.delivery).ok_or_else(contradiction)?;
            let request = self.plan.tensors.get(delivery.tensor).ok_or_else(contradiction)?;
            let filling = self.filling.get_mut(planned.delivery).ok_or_else(contradiction)?;
            let (&record, _) = request.record(planned.first.record).ok_or_else(contradiction)?;
            let target = match planned.first.slot {
                None => None,
                Some(slot) if delivery.stored.is_some() => {
                    Some(Target::Stored(filling.lend(slot).ok_or_else(contradiction)?))
                }
                Some(_) => {
                    let target = target(filling, delivery, request, planned.uses());
                    Some(target.ok_or_else(contradiction)?)
                }
            };
            let is_linked = delivery.linked.binary_search(&chunk).is_ok();
            let links = self.links.get(&planned.delivery).filter(|_| is_linked).cloned();
            if links.is_none() && target.is_none() {
                return Err(contradiction());
            }
            let offset = u64::from(planned.offset);
            let kept = planned.kept.then(|| self.kept.clone());
            jobs.push(ChunkJob { chunk, record, offset, links, kept, target });
        }
        active.granted += count;
        if let Err(refused) = active.jobs.send(jobs) {
            // The fetch is ending: its places come back here instead.
            for job in refused.0 {
                self.take_back(job);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, index: DeliveryIndex) -> Result<(), Box<LoadError>> {
        let contradiction = || Box::new(LoadError::Internal("a delivery is incomplete"));
        let delivery = self.plan.deliveries.get(index).ok_or_else(contradiction)?;
        let request = self.plan.tensors.get(delivery.tensor).ok_or_else(contradiction)?;
        let (offset, len) = (delivery.range.start, delivery.len());
        let begun = self.begun.filter(|_| delivery.tensor == TensorIndex::FIRST);
        let skipped = begun.is_some_and(|end| delivery.range.end <= end && len > 0);
        self.links.remove(&index);
        self.delivered = index.next();
        let filling = self.filling.pop(index).ok_or_else(contradiction)?;
        let lost = self.lost.remove(&index);
        if skipped || lost.is_some() {
            // Nobody holds anything of it.
            drop(filling);
            self.stored.remove(&index);
            drop(self.feedback.send(Feedback::Released(index)));
            match lost {
                Some(error) => self.hand_out(index, Err(error)),
                None => drop(self.feedback.send(Feedback::Taken(index))),
            }
            return Ok(());
        }
        let filling = self.repeat(filling, delivery, request).ok_or_else(contradiction)?;
        let feedback = self.feedback.clone();
        let (data, stored) = match delivery.stored {
            None => {
                let memory = filling.join().ok_or_else(contradiction)?;
                if memory.len() as u64 != len {
                    return Err(contradiction());
                }
                (buffer::hold(index, memory, feedback), None)
            }
            Some(record) => {
                let chunk = self.stored.remove(&index).ok_or_else(contradiction)?;
                let chunk = chunk.hand_on(|memory| buffer::hold(index, memory, feedback));
                let chunk = chunk.ok_or_else(contradiction)?;
                (chunk.bytes(), Some(StoredChunk { record, chunk }))
            }
        };
        let other = |neighbour| {
            let neighbour = self.plan.deliveries.get(neighbour);
            neighbour.is_none_or(|next| next.tensor != delivery.tensor)
        };
        let is_first = begun.is_none() && index.previous().is_none_or(other);
        let is_last = other(index.next());
        let request = request.clone();
        let tensor = Tensor { request, offset, data, stored, is_first, is_last };
        {
            let mut stats = lock(&self.stats);
            stats.delivered += 1;
            stats.delivered_bytes += len;
            stats.first_tensor.get_or_insert_with(|| self.started.elapsed());
        }
        self.hand_out(index, Ok(tensor));
        Ok(())
    }

    /// Fills in what earlier deliveries have fetched: they were complete before this one.
    fn repeat(
        &self,
        mut filling: Filling,
        delivery: &Delivery,
        request: &TensorRequest,
    ) -> Option<Filling> {
        for echo in &delivery.echoes {
            let decoded = self.kept.get(echo.of)?;
            let uses = std::iter::once(&echo.chunk_use);
            let mut target = target(&mut filling, delivery, request, uses)?;
            if !target.repeat(&decoded) {
                return None;
            }
            if let Target::Direct { slot, piece } = target {
                filling.restore(slot, piece);
            }
        }
        Some(filling)
    }

    fn hand_out(&mut self, index: DeliveryIndex, tensor: Result<Tensor, LoadError>) {
        let taken = Some((index, self.feedback.clone()));
        self.ready.push(Delivered { taken, tensor });
    }

    /// Where a chunk of the plan was to come from and go to.
    fn site(&self, chunk: ChunkIndex) -> Option<Box<ChunkSite>> {
        let planned = self.plan.chunks.get(chunk)?;
        let delivery = self.plan.deliveries.get(planned.delivery)?;
        let request = self.plan.tensors.get(delivery.tensor)?;
        let (_, place) = request.record(planned.first.record)?;
        // A base is told by what needs it.
        let is_base = planned.level > 0;
        let links = self.links.get(&planned.delivery).filter(|_| is_base);
        let top = links.and_then(|links| links.needs(chunk)).unwrap_or(chunk);
        Some(Box::new(ChunkSite {
            artifact: self.artifact,
            tensor: request.entry.name.clone(),
            chunk: self.plan.chunks.get(top)?.first.record,
            is_base,
            pack: place.pack,
            offset: place.offset,
        }))
    }

    fn location(&self, mirror: MirrorIndex) -> String {
        self.transports.get(mirror.get()).map_or_else(String::new, |s| s.location().to_owned())
    }

    fn failure(&mut self, why: GaveUp) -> LoadError {
        let (GaveUp::BadChunk { chunk, .. }
        | GaveUp::Fetch { chunk, .. }
        | GaveUp::Hung { chunk, .. }) = why;
        let Some(site) = self.site(chunk) else {
            return LoadError::Internal("a chunk that is not of the plan failed");
        };
        match why {
            GaveUp::BadChunk { tries, .. } => match self.last_mismatch.take() {
                Some((error, mirror)) => LoadError::Corrupt {
                    site,
                    tries,
                    location: self.location(mirror),
                    error: Box::new(error),
                },
                None => LoadError::Internal("a damaged chunk without a report"),
            },
            GaveUp::Fetch { mirror, .. } => {
                let location = self.location(mirror);
                let error = self.last_error.take().unwrap_or_else(|| {
                    let object = store::pack(site.pack);
                    TransportError::new(
                        TransportErrorKind::Stalled,
                        location,
                        object,
                        "no byte came",
                    )
                });
                LoadError::Transport { site, error }
            }
            GaveUp::Hung { mirror, .. } => {
                LoadError::Hung { site, location: self.location(mirror) }
            }
        }
    }
}

/// Where a chunk goes that fills `uses`; `None` if the plan contradicts itself.
fn target<'a>(
    filling: &mut Filling,
    delivery: &Delivery,
    request: &TensorRequest,
    uses: impl Iterator<Item = &'a ChunkUse>,
) -> Option<Target> {
    let mut scatter = Vec::new();
    for &ChunkUse { record, slot } in uses {
        let Some(slot) = slot else { continue };
        let planned = delivery.slots.get(slot)?;
        // It has no other use.
        if planned.direct {
            return Some(Target::Direct { slot, piece: filling.lend(slot)? });
        }
        scatter.push(Scatter {
            slot: filling.share(slot)?,
            start: delivery.range.start + planned.range.start,
            cut: request.cut,
            rect: request.rect(record)?,
        });
    }
    Some(Target::Scatter(scatter))
}
