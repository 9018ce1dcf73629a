//! A model of which only a part is on the device at a time: a tensor that is touched streams in,
//! verified, and when the budget is full, the least recently used leaves.
//!
//! Memory belongs to whoever holds it: a [`Handle`] keeps its tensor alive, and its bytes count against
//! the budget, until it is dropped. What is held or pinned is therefore not evicted on its own; if
//! nothing else is left, the touch fails and says so.

mod error;
mod set;
mod stats;

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

use super::Sink;
use super::device::DeviceError;
use super::stream::{DeviceSink, DeviceTensor};
use super::upload::Device;
use crate::load::Loader;
use crate::schedule::plan::TensorRequest;
pub use error::ResidentError;
use set::{Held, Lease, NoRoom, Set};
pub use stats::{ResidentOptions, ResidentStats};

/// A tensor in device memory, which stays there at least until this is dropped.
#[derive(Debug)]
pub struct Handle<M>(Arc<Held<DeviceTensor<M>>>);

impl<M> Clone for Handle<M> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<M> Deref for Handle<M> {
    type Target = DeviceTensor<M>;

    fn deref(&self) -> &DeviceTensor<M> {
        &self.0.value
    }
}

/// Keeps a tensor resident until dropped.
pub struct Pin<D: Device> {
    shared: Arc<Shared<D>>,
    name: String,
    handle: Handle<D::Memory>,
}

impl<D: Device> Deref for Pin<D> {
    type Target = Handle<D::Memory>;

    fn deref(&self) -> &Handle<D::Memory> {
        &self.handle
    }
}

impl<D: Device> Drop for Pin<D> {
    fn drop(&mut self) {
        self.shared.lock().set.unpin(&self.name);
        self.shared.changed.notify_waiters();
    }
}

type Outcome<M> = Result<Handle<M>, Arc<DeviceError>>;
/// Begins the load of these tensors, in this order.
type Fetch = Box<dyn Fn(Vec<Arc<TensorRequest>>) -> Loader + Send + Sync>;

struct State<M> {
    set: Set<DeviceTensor<M>>,
    /// Tensors on their way.
    loading: HashMap<String, watch::Receiver<Option<Outcome<M>>>>,
    stats: ResidentStats,
}

struct Shared<D: Device> {
    device: D,
    options: ResidentOptions,
    wants: HashMap<String, Arc<TensorRequest>>,
    fetch: Fetch,
    state: Mutex<State<D::Memory>>,
    /// Sinks, with their rings, that nobody uses.
    sinks: Mutex<Vec<DeviceSink<D>>>,
    /// Told when a load ends or a pin goes.
    changed: Notify,
}

impl<D: Device> Shared<D> {
    /// A lock under which nothing is called that could panic.
    fn lock(&self) -> MutexGuard<'_, State<D::Memory>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A tensor that is to be loaded, with the room made for it.
struct Pending<M> {
    name: String,
    request: Arc<TensorRequest>,
    lease: Lease,
    tell: watch::Sender<Option<Outcome<M>>>,
}

/// The tensors of a model, as many on the device as a budget holds.
pub struct Resident<D: Device>(Arc<Shared<D>>);

impl<D: Device> Clone for Resident<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D> Resident<D>
where
    D: Device + Clone + 'static,
    D::Memory: Sync + 'static,
{
    /// A set of the tensors `wanted`, none of which is there yet. `fetch` begins to load some of them
    /// ([`Artifact::load`](../../artifact/struct.Artifact.html#method.load)); it is called within a tokio
    /// runtime. A name that several files have is, but for the first, followed by `@` and the file's
    /// number.
    pub fn new(
        device: D,
        options: ResidentOptions,
        wanted: &[Arc<TensorRequest>],
        fetch: impl Fn(Vec<Arc<TensorRequest>>) -> Loader + Send + Sync + 'static,
    ) -> Self {
        let mut wants = HashMap::new();
        for request in wanted {
            let mut name = request.entry.name.clone();
            if wants.contains_key(&name) {
                name = format!("{name}@{}", request.entry.file);
            }
            wants.insert(name, request.clone());
        }
        let state = State {
            set: Set::new(options.budget),
            loading: HashMap::new(),
            stats: ResidentStats::default(),
        };
        Self(Arc::new(Shared {
            device,
            options,
            wants,
            fetch: Box::new(fetch),
            state: Mutex::new(state),
            sinks: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// The device.
    pub fn device(&self) -> &D {
        &self.0.device
    }

    /// What was done so far.
    pub fn stats(&self) -> ResidentStats {
        let state = self.0.lock();
        let (evictions, resident) = (state.set.evictions, state.set.len());
        ResidentStats { evictions, resident, alive: state.set.alive(), ..state.stats }
    }

    /// The tensor: at once if it is resident, else when it has streamed in. Whoever asks for one that
    /// is on its way waits for the same load.
    ///
    /// # Errors
    /// If there is no such tensor, or it cannot be loaded or held.
    pub async fn touch(&self, name: &str) -> Result<Handle<D::Memory>, ResidentError> {
        let request = self.select(name)?;
        let mut waited = false;
        loop {
            // Before the look, so that nothing is missed between it and the wait.
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let coming = match self.look(name, request, &mut waited)? {
                Look::There(handle) => return Ok(handle),
                Look::Coming(coming) => coming,
                Look::Crowded => {
                    changed.await;
                    continue;
                }
            };
            if let Some(outcome) = arrival(coming).await {
                let told = |error| ResidentError::Device { name: name.to_owned(), error };
                return outcome.map_err(told);
            }
            // Whoever loaded it was ended halfway: look again.
        }
    }

    /// Touches a tensor and keeps it from leaving until the guard is dropped.
    ///
    /// # Errors
    /// As for [`touch`](Self::touch).
    pub async fn pin(&self, name: &str) -> Result<Pin<D>, ResidentError> {
        let handle = self.touch(name).await?;
        self.0.lock().set.pin(name, &handle.0);
        Ok(Pin { shared: self.0.clone(), name: name.to_owned(), handle })
    }

    /// Begins to load what of `names` is not there, in this order and in the background; as much of it
    /// as there is room for once the least recently used has left. How many tensors are on their way.
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If there is no such tensor.
    pub fn prefetch<S: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = S>,
    ) -> Result<usize, ResidentError> {
        let mut named = Vec::new();
        for name in names {
            let name = name.as_ref();
            named.push((name.to_owned(), self.select(name)?.clone()));
        }
        let mut state = self.0.lock();
        // What is there already is used soon: held meanwhile, it is not what leaves.
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for (name, request) in named {
            match state.set.get(&name) {
                Some(held) => there.push(held),
                None if state.loading.contains_key(&name) => {}
                None => absent.push((name, request)),
            }
        }
        let mut pending = Vec::with_capacity(absent.len());
        let mut absent = absent.into_iter();
        for (name, request) in absent.by_ref() {
            let Ok(lease) = state.set.reserve(request.cut.len()) else {
                state.stats.skipped += 1 + absent.len() as u64;
                break;
            };
            state.stats.prefetches += 1;
            pending.push(state.expect(name, request, lease));
        }
        drop(there);
        drop(state);
        let count = pending.len();
        if count > 0 {
            tokio::spawn(self.clone().load(pending));
        }
        Ok(count)
    }

    /// Lets a tensor go, whether it is held or not, unless it is pinned. Its memory is free when the
    /// last handle is dropped. Whether it went.
    pub fn evict(&self, name: &str) -> bool {
        self.0.lock().set.evict(name)
    }

    /// Whether a tensor is resident; does not count as a use.
    pub fn is_resident(&self, name: &str) -> bool {
        self.0.lock().set.contains(name)
    }

    fn select(&self, name: &str) -> Result<&Arc<TensorRequest>, ResidentError> {
        self.0.wants.get(name).ok_or_else(|| ResidentError::Unknown(name.to_owned()))
    }

    /// Finds a tensor, or begins to load it.
    fn look(
        &self,
        name: &str,
        request: &Arc<TensorRequest>,
        waited: &mut bool,
    ) -> Result<Look<D::Memory>, ResidentError> {
        let mut state = self.0.lock();
        let state = &mut *state;
        if let Some(held) = state.set.get(name) {
            state.stats.hits += u64::from(!*waited);
            return Ok(Look::There(Handle(held)));
        }
        // What nobody will tell of, because its task was ended, is not on its way.
        state.loading.retain(|_, coming| coming.has_changed().is_ok());
        if let Some(coming) = state.loading.get(name) {
            state.stats.waits += u64::from(!*waited);
            *waited = true;
            return Ok(Look::Coming(coming.clone()));
        }
        let (need, budget) = (request.cut.len(), self.0.options.budget);
        if need > budget {
            return Err(ResidentError::TooLarge { name: name.to_owned(), need, budget });
        }
        let lease = match state.set.reserve(need) {
            Ok(lease) => lease,
            // What is on its way can leave when it is there.
            Err(_) if !state.loading.is_empty() => return Ok(Look::Crowded),
            Err(NoRoom { pinned, used }) => {
                let (name, alive) = (name.to_owned(), state.set.alive());
                return Err(ResidentError::Full { name, need, budget, alive, pinned, used });
            }
        };
        state.stats.fetches += 1;
        let pending = state.expect(name.to_owned(), request.clone(), lease);
        let coming = pending.tell.subscribe();
        *waited = true;
        // On its own: whoever asked may lose interest, others may have gained it.
        tokio::spawn(self.clone().load(vec![pending]));
        Ok(Look::Coming(coming))
    }

    /// Loads tensors, one after another, and tells of each.
    async fn load(self, pending: Vec<Pending<D::Memory>>) {
        let idle = self.0.sinks.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut sink = idle
            .unwrap_or_else(|| DeviceSink::new(self.0.device.clone(), &self.0.options.streaming));
        let wants = pending.iter().map(|one| one.request.clone()).collect();
        let mut loader = (self.0.fetch)(wants);
        let mut pending = pending.into_iter();
        while let Some(one) = pending.next() {
            match next(&mut loader, &mut sink).await {
                Ok(tensor) => self.arrived(one, tensor),
                Err(error) => {
                    // A sink that failed may lack buffers: it goes.
                    let error = Arc::new(error);
                    let mut state = self.0.lock();
                    for one in std::iter::once(one).chain(pending) {
                        state.loading.remove(&one.name);
                        one.tell.send_replace(Some(Err(error.clone())));
                    }
                    drop(state);
                    self.0.changed.notify_waiters();
                    return;
                }
            }
        }
        self.0.sinks.lock().unwrap_or_else(PoisonError::into_inner).push(sink);
    }

    fn arrived(&self, one: Pending<D::Memory>, tensor: DeviceTensor<D::Memory>) {
        let Pending { name, lease, tell, .. } = one;
        let held = Held::new(tensor, lease);
        let mut state = self.0.lock();
        state.set.put(&name, held.clone());
        state.loading.remove(&name);
        // Who waits holds it from here on: it cannot leave before they have seen it. Nobody else does,
        // by the time that the set is looked at again.
        tell.send_replace(Some(Ok(Handle(held))));
        drop(tell);
        drop(state);
        self.0.changed.notify_waiters();
    }
}

/// What a look finds.
enum Look<M> {
    There(Handle<M>),
    Coming(watch::Receiver<Option<Outcome<M>>>),
    /// There is no room before something else has arrived.
    Crowded,
}

impl<M> State<M> {
    /// Notes a tensor as on its way.
    fn expect(&mut self, name: String, request: Arc<TensorRequest>, lease: Lease) -> Pending<M> {
        self.stats.peak = self.stats.peak.max(self.set.alive());
        let (tell, coming) = watch::channel(None);
        self.loading.insert(name.clone(), coming);
        Pending { name, request, lease, tell }
    }
}

/// Waits for what is on its way; `None` if it never comes.
async fn arrival<M>(mut coming: watch::Receiver<Option<Outcome<M>>>) -> Option<Outcome<M>> {
    let told = coming.wait_for(Option::is_some).await.ok()?;
    match &*told {
        Some(Ok(handle)) => Some(Ok(handle.clone())),
        Some(Err(error)) => Some(Err(error.clone())),
        None => None,
    }
}

/// The next tensor of a load, in device memory.
async fn next<D: Device>(
    loader: &mut Loader,
    sink: &mut DeviceSink<D>,
) -> Result<DeviceTensor<D::Memory>, DeviceError> {
    while let Some(piece) = loader.next().await {
        let piece = piece?;
        let (request, last) = (piece.request.clone(), piece.is_last_piece());
        if piece.offset == 0 {
            sink.begin(&request).await?;
        }
        sink.piece(piece).await?;
        if last {
            return sink.finish(&request).await;
        }
    }
    Err(DeviceError::Internal("a load that ends early".to_owned()))
}
