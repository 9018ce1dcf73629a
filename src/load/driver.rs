//! The driver: one task that turns the state's actions into fetches, memory and deliveries, and
//! what comes back into the state's events.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::mpsc::{
    UnboundedReceiver, UnboundedSender, WeakUnboundedSender, unbounded_channel,
};
use tokio::time::Instant;

use super::buffer::{self, Feedback, Filling, Scatter, Scratch, Target, lock};
use super::error::{ChunkSite, LoadError};
use super::fetch::{Fetch, Job, Report, Shared};
use super::links::{Kept, Links};
use super::{LoadStats, Tensor};
use crate::chunk::verified::DigestMismatch;
use crate::format::id::{ManifestId, PackId};
use crate::format::store;
use crate::memory::buffers::Buffers;
use crate::schedule::plan::Plan;
use crate::schedule::scheduler::{
    Action, Event, Failure, FetchId, GaveUp, Limits, MirrorIndex, Scheduler,
};
use crate::transport::{ReadRange, Transport, TransportError, TransportErrorKind};

/// The most that is kept of buffers that nobody uses.
const POOL: usize = 64 << 20;
/// How long the ends of requests are waited for when everything is delivered.
const GRACE: Duration = Duration::from_secs(1);

/// A fetch in flight.
struct Active {
    mirror: MirrorIndex,
    chunks: Vec<u32>,
    granted: usize,
    jobs: UnboundedSender<Vec<Job>>,
    shared: Arc<Shared>,
    /// Bytes that the state knows of.
    seen: u64,
}

/// Where deliveries go.
type Deliver = UnboundedSender<(u32, Result<Tensor, LoadError>)>;

pub(super) struct Driver {
    artifact: ManifestId,
    sources: Vec<Arc<dyn Transport>>,
    plan: Arc<Plan>,
    state: Scheduler,
    started: Instant,
    pool: Buffers,
    scratch: Scratch,
    filling: BTreeMap<u32, Filling>,
    /// The chunks of deliveries being filled that wait for each other.
    links: BTreeMap<u32, Arc<Links>>,
    kept: Arc<Kept>,
    active: BTreeMap<FetchId, Active>,
    reports: UnboundedSender<Report>,
    incoming: UnboundedReceiver<Report>,
    deliver: Deliver,
    feedback: WeakUnboundedSender<Feedback>,
    stats: Arc<Mutex<LoadStats>>,
    /// The latest faults, for the message when the load fails.
    last_error: Option<TransportError>,
    last_mismatch: Option<(DigestMismatch, MirrorIndex)>,
}

impl Driver {
    pub(super) fn new(
        artifact: ManifestId,
        sources: Vec<Arc<dyn Transport>>,
        plan: Arc<Plan>,
        limits: Limits,
        kept: Arc<Kept>,
        (deliver, feedback): (Deliver, WeakUnboundedSender<Feedback>),
        stats: Arc<Mutex<LoadStats>>,
    ) -> Self {
        let (reports, incoming) = unbounded_channel();
        // A consumer that keeps everything leaves nothing to use again.
        let pool = Buffers::new(if limits.budget == u64::MAX { 0 } else { POOL });
        Self {
            artifact,
            sources,
            state: Scheduler::new(&plan, limits),
            plan,
            started: Instant::now(),
            pool,
            scratch: Scratch::default(),
            filling: BTreeMap::new(),
            links: BTreeMap::new(),
            kept,
            active: BTreeMap::new(),
            reports,
            incoming,
            deliver,
            feedback,
            stats,
            last_error: None,
            last_mismatch: None,
        }
    }

    pub(super) async fn run(mut self, mut told: UnboundedReceiver<Feedback>) {
        let mut grace = None;
        let deliver = self.deliver.clone();
        loop {
            if let Err(error) = self.act() {
                // Nobody listening is no reason to go on either.
                drop(self.deliver.send((u32::MAX, Err(*error))));
                break;
            }
            let mut deadline = self.state.deadline().map(|at| self.started + at);
            if self.state.is_complete() {
                if self.active.is_empty() {
                    break;
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
                    if let Some(report) = report
                        && let Err(error) = self.report(report)
                    {
                        drop(self.deliver.send((u32::MAX, Err(*error))));
                        break;
                    }
                }
                feedback = told.recv() => match feedback {
                    Some(Feedback::Taken(delivery)) => self.tell(Event::Taken { delivery }),
                    Some(Feedback::Released(delivery)) => self.tell(Event::Released { delivery }),
                    None => break,
                },
                // The loader was dropped, whoever still holds tensors of it.
                () = deliver.closed() => break,
                () = sleep => {
                    if self.state.is_complete() {
                        break;
                    }
                    self.tell(Event::Tick);
                }
            }
        }
        for active in self.active.values() {
            active.shared.cancel();
        }
        self.count();
    }

    fn count(&mut self) {
        let mut stats = lock(&self.stats);
        stats.take_state(self.state.stats());
    }

    /// Tells the state what happened, and first which bytes have come since.
    fn tell(&mut self, event: Event) {
        let now = self.started.elapsed();
        self.count_bytes(now);
        self.state.handle(now, event);
    }

    fn count_bytes(&mut self, now: Duration) {
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
            Report::Verified { fetch, chunk, target } => {
                if let Some(target) = target {
                    self.restore(chunk, target);
                }
                self.tell(Event::Verified { fetch, chunk });
            }
            Report::Decoded { chunk, target } => self.restore(chunk, target),
            Report::Bad { fetch, chunk, target, error } => {
                self.restore(chunk, target);
                let mirror = self.active.get(&fetch).map_or(MirrorIndex::FIRST, |f| f.mirror);
                self.last_mismatch = Some((error, mirror));
                self.tell(Event::Bad { fetch, chunk });
            }
            Report::Undecodable { chunk, error } => {
                let Some(error) = error else {
                    return Err(Box::new(LoadError::Internal("a chunk does not fit its slot")));
                };
                let site = self.site(chunk);
                return Err(Box::new(LoadError::Decode { site, error }));
            }
            Report::Ended { fetch, error, unfinished } => {
                for job in unfinished {
                    self.restore(job.chunk, job.target);
                }
                let failure = error.as_ref().map(|error| match error.is_transient() {
                    true => Failure::Transient(error.retry_after),
                    false => Failure::Permanent,
                });
                if let Some(error) = error {
                    self.last_error = Some(error);
                }
                self.tell(Event::Ended { fetch, failure });
                self.active.remove(&fetch);
            }
        }
        Ok(())
    }

    fn restore(&mut self, chunk: u32, target: Target) {
        let Some(planned) = self.plan.chunks.get(chunk as usize) else { return };
        match target {
            Target::Direct { slot, piece } => {
                if let Some(filling) = self.filling.get_mut(&planned.delivery) {
                    filling.restore(slot, piece);
                }
            }
            Target::Linked { fills: Some(fills), .. } => self.restore(chunk, *fills),
            Target::Linked { fills: None, .. } | Target::Scatter(_) => {}
        }
    }

    fn act(&mut self) -> Result<(), Box<LoadError>> {
        while let Some(action) = self.state.poll_action() {
            match action {
                Action::Admit { delivery } => self.admit(delivery),
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
                Action::Fail(why) => return Err(Box::new(self.failure(why))),
            }
        }
        Ok(())
    }

    fn admit(&mut self, index: u32) {
        let Some(delivery) = self.plan.deliveries.get(index as usize) else { return };
        if let Some(links) = Links::new(&self.plan, &delivery.linked) {
            self.links.insert(index, links);
        }
        let buffer = self.pool.take(delivery.len() as usize);
        self.filling.insert(index, Filling::new(buffer, &delivery.slots, self.pool.are_reused()));
    }

    fn start(
        &mut self,
        id: FetchId,
        mirror: MirrorIndex,
        pack: PackId,
        whole: bool,
        chunks: Vec<u32>,
    ) -> Result<(), Box<LoadError>> {
        let Some(transport) = self.sources.get(mirror.get()).cloned() else {
            return Err(Box::new(LoadError::Internal("no such source")));
        };
        let (jobs, receiver) = unbounded_channel();
        let shared = Arc::<Shared>::default();
        let blocking = transport.reads_block();
        let range = match whole {
            true => ReadRange::Full,
            false => ReadRange::Bounded(self.plan.range_of(&chunks)),
        };
        let fetch = Fetch {
            id,
            transport,
            path: store::pack(pack),
            range,
            count: chunks.len(),
            jobs: receiver,
            shared: shared.clone(),
            reports: self.reports.clone(),
            scratch: self.scratch.clone(),
            warm: self.pool.are_reused(),
            kept: self.kept.clone(),
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
        let chunks = active.chunks.get(active.granted..active.granted + count).unwrap_or_default();
        for &chunk in chunks {
            let planned = self.plan.chunks.get(chunk as usize).ok_or_else(contradiction)?;
            let delivery =
                self.plan.deliveries.get(planned.delivery as usize).ok_or_else(contradiction)?;
            let request =
                self.plan.tensors.get(delivery.tensor as usize).ok_or_else(contradiction)?;
            let filling = self.filling.get_mut(&planned.delivery).ok_or_else(contradiction)?;
            let record =
                *request.records.get(planned.first.chunk as usize).ok_or_else(contradiction)?;
            let slot_of = |slot: u32| delivery.slots.get(slot as usize).ok_or_else(contradiction);
            let fills = match planned.first.slot {
                None => None,
                Some(slot) if slot_of(slot)?.direct => Some(Target::Direct {
                    slot,
                    piece: filling.lend(slot).ok_or_else(contradiction)?,
                }),
                Some(_) => {
                    let uses = planned.uses().filter_map(|u| Some((u.chunk, u.slot?)));
                    let scatter = uses.map(|(chunk, slot)| {
                        Ok(Scatter {
                            slot: filling.share(slot).ok_or_else(contradiction)?,
                            start: delivery.range.start + slot_of(slot)?.range.start,
                            cut: request.cut,
                            rect: request.entry.grid.rect(u64::from(chunk)),
                        })
                    });
                    Some(Target::Scatter(scatter.collect::<Result<_, Box<LoadError>>>()?))
                }
            };
            let target = match (self.links.get(&planned.delivery), fills) {
                (Some(links), fills) if delivery.linked.binary_search(&chunk).is_ok() => {
                    Target::Linked { links: links.clone(), fills: fills.map(Box::new) }
                }
                (_, Some(fills)) => fills,
                (_, None) => return Err(contradiction()),
            };
            jobs.push(Job { chunk, record, offset: u64::from(planned.offset), target });
        }
        active.granted += count;
        if let Err(refused) = active.jobs.send(jobs) {
            // The fetch is ending: its places come back here instead.
            for job in refused.0 {
                self.restore(job.chunk, job.target);
            }
        }
        Ok(())
    }

    fn deliver(&mut self, index: u32) -> Result<(), Box<LoadError>> {
        let contradiction = || Box::new(LoadError::Internal("a delivery is incomplete"));
        let delivery = self.plan.deliveries.get(index as usize).ok_or_else(contradiction)?;
        let request = self.plan.tensors.get(delivery.tensor as usize).ok_or_else(contradiction)?;
        self.links.remove(&index);
        let filling = self.filling.remove(&index).ok_or_else(contradiction)?;
        let buffer = filling.join().ok_or_else(contradiction)?;
        let len = delivery.len() as usize;
        if buffer.len() < len {
            return Err(contradiction());
        }
        let Some(feedback) = self.feedback.upgrade() else { return Ok(()) };
        {
            let mut stats = lock(&self.stats);
            stats.delivered += 1;
            stats.delivered_bytes += delivery.len();
            stats.first_tensor.get_or_insert_with(|| self.started.elapsed());
        }
        let data = buffer::hold(index, self.pool.share(buffer, len), feedback);
        let tensor = Tensor { request: request.clone(), offset: delivery.range.start, data };
        // A loader that was dropped shows in the feedback.
        drop(self.deliver.send((index, Ok(tensor))));
        Ok(())
    }

    fn site(&self, chunk: u32) -> Box<ChunkSite> {
        let planned = self.plan.chunks.get(chunk as usize);
        let delivery = planned.and_then(|p| self.plan.deliveries.get(p.delivery as usize));
        let request = delivery.and_then(|d| self.plan.tensors.get(d.tensor as usize));
        let record = planned.map_or(chunk, |planned| planned.first.chunk);
        let place = request.and_then(|request| request.places.get(record as usize));
        // A base is told by what needs it.
        let is_base = planned.is_some_and(|planned| planned.level > 0);
        let top = self.links.get(&planned.map_or(0, |planned| planned.delivery));
        let top = top.filter(|_| is_base).and_then(|links| links.needs(chunk));
        let top = top.and_then(|top| self.plan.chunks.get(top as usize));
        Box::new(ChunkSite {
            artifact: self.artifact,
            tensor: request.map_or_else(String::new, |request| request.entry.name.clone()),
            chunk: top.map_or(record, |top| top.first.chunk),
            is_base,
            pack: place.map_or(PackId::from_bytes([0; 32]), |place| place.pack),
            offset: place.map_or(0, |place| place.offset),
        })
    }

    fn location(&self, mirror: MirrorIndex) -> String {
        self.sources.get(mirror.get()).map_or_else(String::new, |s| s.location().to_owned())
    }

    fn failure(&mut self, why: GaveUp) -> LoadError {
        match why {
            GaveUp::BadChunk { chunk, tries } => match self.last_mismatch.take() {
                Some((error, mirror)) => LoadError::Corrupt {
                    site: self.site(chunk),
                    tries,
                    location: self.location(mirror),
                    error: Box::new(error),
                },
                None => LoadError::Internal("a damaged chunk without a report"),
            },
            GaveUp::Fetch { chunk, mirror } => {
                let site = self.site(chunk);
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
            GaveUp::Hung { chunk, mirror } => {
                LoadError::Hung { site: self.site(chunk), location: self.location(mirror) }
            }
        }
    }
}
