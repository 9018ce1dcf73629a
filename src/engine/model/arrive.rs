//! Weights on their way: whoever runs a layer waits for it, and only for it.

use std::ops::Range;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Handle;

use super::build::{Built, Known};
use super::error::ModelError;
use super::layer::Layer;
use super::outline::{Group, Outline};
use super::place::Part;
use crate::dequant::config::Method;
use crate::engine::compute::Matrix;
use crate::load::LoadOptions;
use crate::store::artifact::{Artifact, SelectedTensors};

/// Bytes that are on their way at a time where what arrives is put in another order.
const BUDGET: u64 = 96 << 20;

/// Where weights come from.
pub(super) struct Source {
    pub(super) artifact: Artifact,
    pub(super) outline: Outline,
    pub(super) method: Option<Method>,
    pub(super) options: LoadOptions,
    /// Weights that are in memory already.
    pub(super) known: Arc<Known>,
}

/// The last norm, and the head unless it is the embedding.
type End = (Vec<f32>, Option<Arc<Matrix>>);
/// A layer that passes, and which.
type Passed = Result<(usize, Layer), ModelError>;

/// What has arrived.
#[derive(Debug, Default)]
struct Arrived {
    embedding: Option<Arc<Matrix>>,
    layers: Vec<Option<Arc<Layer>>>,
    end: Option<Arc<End>>,
    failed: Option<ModelError>,
}

impl Arrived {
    fn is_whole(&self) -> bool {
        let layers = self.layers.iter().all(Option::is_some);
        layers && self.embedding.is_some() && self.end.is_some()
    }
}

#[derive(Debug, Default)]
struct Shared {
    arrived: Mutex<Arrived>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn wait<T>(&self, what: impl Fn(&Arrived) -> Option<T>) -> Result<T, ModelError> {
        let mut arrived = self.lock();
        loop {
            if let Some(found) = what(&arrived) {
                return Ok(found);
            }
            if let Some(failed) = &arrived.failed {
                return Err(failed.clone());
            }
            arrived = self.changed.wait(arrived).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Weights that are waited for.
#[derive(Debug, Clone)]
pub struct Arrival(Arc<Shared>);

impl Arrival {
    /// Waits until all that stays is there.
    ///
    /// # Errors
    /// If something of it cannot be had, or is not what was signed.
    pub fn wait(&self) -> Result<(), ModelError> {
        self.0.wait(|arrived| arrived.is_whole().then_some(()))
    }

    /// Bytes that it takes in memory, as far as it has arrived.
    pub fn bytes(&self) -> usize {
        let arrived = self.0.lock();
        let layers: usize = arrived.layers.iter().flatten().map(|layer| layer.bytes()).sum();
        let head = arrived.end.as_ref().and_then(|end| end.1.as_ref()).map_or(0, |own| own.bytes());
        layers + head + arrived.embedding.as_ref().map_or(0, |own| own.bytes())
    }

    /// Whoever waits for something that has not arrived waits no longer: it is taken not to come.
    pub fn stop(&self) {
        self.0.change(|arrived| {
            if !arrived.is_whole() {
                arrived.failed.get_or_insert(ModelError::Stopped);
            }
        });
    }

    /// Whether it is there, or will never be.
    pub fn is_over(&self) -> bool {
        let arrived = self.0.lock();
        arrived.is_whole() || arrived.failed.is_some()
    }
}

/// The weights of a model.
pub(super) struct Weights {
    shared: Arc<Shared>,
    /// Layers that stay; those behind come again for each step.
    kept: usize,
    passing: Option<Mutex<Receiver<Passed>>>,
}

impl Weights {
    /// Begins to load them: all groups in the order of use, the first `kept` layers to stay. Those behind are
    /// loaded again for each step, one ahead of its use.
    pub(super) fn start(source: Source, kept: usize, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared::default());
        let layers = source.outline.layers.len();
        let kept = kept.min(layers);
        shared.lock().layers.resize(kept, None);
        let source = Arc::new(source);
        let (told, own) = (shared.clone(), source.clone());
        let load = async move {
            // What fails here is told to whoever waits.
            if let Err(error) = own.load_kept(kept, &told).await {
                told.change(|arrived| arrived.failed = Some(error));
            }
        };
        let loading = runtime.spawn(load);
        let told = shared.clone();
        runtime.spawn(async move {
            if loading.await.is_err() {
                told.change(|arrived| {
                    arrived.failed.get_or_insert(ModelError::Ended);
                });
            }
        });
        let passing = (kept < layers).then(|| {
            let (send, receive) = sync_channel(0);
            let (handle, told) = (runtime.clone(), shared.clone());
            // It ends when the model is dropped: nobody receives then.
            std::thread::spawn(move || source.pass(kept..layers, &handle, &told, &send));
            Mutex::new(receive)
        });
        Self { shared, kept, passing }
    }

    /// The embedding.
    pub(super) fn embedding(&self) -> Result<Arc<Matrix>, ModelError> {
        self.shared.wait(|arrived| arrived.embedding.clone())
    }

    /// The last norm, and the head.
    pub(super) fn end(&self) -> Result<Arc<End>, ModelError> {
        self.shared.wait(|arrived| arrived.end.clone())
    }

    /// Layer `index`. Those that do not stay must be asked for in order, step after step.
    pub(super) fn layer(&self, index: usize) -> Result<Arc<Layer>, ModelError> {
        if index < self.kept {
            return self.shared.wait(|arrived| arrived.layers.get(index)?.clone());
        }
        let passing = self.passing.as_ref().ok_or(ModelError::Ended)?;
        let next = passing.lock().unwrap_or_else(PoisonError::into_inner).recv();
        match next.map_err(|_| ModelError::Ended)?? {
            (own, layer) if own == index => Ok(Arc::new(layer)),
            _ => Err(ModelError::Ended),
        }
    }

    /// To wait for all that stays.
    pub(super) fn arrival(&self) -> Arrival {
        Arrival(self.shared.clone())
    }

    /// All that stays, by what it is made of.
    pub(super) fn known(&self, outline: &Outline) -> Known {
        let arrived = self.shared.lock();
        let mut known = Known::new();
        let mut add = |group: &Group, end: &str, weight: &Arc<Matrix>| {
            if let Some(plan) = group.0.iter().find(|plan| plan.name.ends_with(end)) {
                known.insert(plan.key(), weight.clone());
            }
        };
        if let Some(embedding) = &arrived.embedding {
            add(&outline.embedding, "embed_tokens.weight", embedding);
        }
        if let Some(head) = arrived.end.as_ref().and_then(|end| end.1.as_ref()) {
            add(&outline.end, "lm_head.weight", head);
        }
        for (layer, group) in arrived.layers.iter().zip(&outline.layers) {
            for (linear, part) in layer.iter().flat_map(|layer| layer.linears.iter().zip(Part::ALL))
            {
                add(group, &format!("{}.weight", part.name()), &linear.weight);
            }
        }
        known
    }
}

impl Source {
    /// Loads the embedding, the layers that stay, and the end.
    async fn load_kept(&self, kept: usize, shared: &Arc<Shared>) -> Result<(), ModelError> {
        let outline = &self.outline;
        let first = [&outline.embedding].into_iter();
        let groups: Vec<&Group> =
            first.chain(outline.layers.iter().take(kept)).chain([&outline.end]).collect();
        let last = groups.len() - 1;
        self.load(&groups, |at, built| {
            match at {
                0 => {
                    let embedding = built.embedding()?;
                    shared.change(|arrived| arrived.embedding = Some(embedding));
                }
                at if at == last => {
                    let end = Arc::new(built.end()?);
                    shared.change(|arrived| arrived.end = Some(end));
                }
                at => {
                    let layer = Arc::new(built.layer(at - 1)?);
                    shared.change(|arrived| {
                        if let Some(slot) = arrived.layers.get_mut(at - 1) {
                            *slot = Some(layer);
                        }
                    });
                }
            }
            Ok(())
        })
        .await
    }

    /// Loads these layers again and again, each time in order.
    fn pass(
        &self,
        layers: Range<usize>,
        runtime: &Handle,
        shared: &Shared,
        to: &SyncSender<Passed>,
    ) {
        // What stays comes first: it has the memory then that it was counted with.
        let begun = shared.wait(|arrived| arrived.end.is_some().then_some(()));
        if begun.is_err() {
            return;
        }
        loop {
            for index in layers.clone() {
                let Some(group) = self.outline.layers.get(index) else { return };
                let mut layer = None;
                let loaded = runtime.block_on(self.load(&[group], |_, built| {
                    layer = Some(built.layer(index)?);
                    Ok(())
                }));
                let next = loaded.and_then(|()| layer.ok_or(ModelError::Ended));
                let failed = next.is_err();
                if to.send(next.map(|layer| (index, layer))).is_err() || failed {
                    return;
                }
            }
        }
    }

    /// Loads groups in order, and gives each to `take` once it is complete.
    async fn load(
        &self,
        groups: &[&Group],
        mut take: impl FnMut(usize, Built) -> Result<(), ModelError>,
    ) -> Result<(), ModelError> {
        let wanted = |group: &Group| {
            let unknown = group.0.iter().filter(|plan| !self.known.contains_key(&plan.key()));
            unknown
                .flat_map(|plan| &plan.tensors)
                .map(|(request, _)| request.clone())
                .collect::<Vec<_>>()
        };
        let tensors = groups.iter().flat_map(|group| wanted(group)).collect();
        let mut options = self.options.clone();
        // What is kept as it arrives is never given back; the rest is, once it stands in its order.
        options.budget = if self.method.is_none() { u64::MAX } else { BUDGET };
        options.most_budget = options.most_budget.max(options.budget);
        let selected = SelectedTensors { tensors, ..SelectedTensors::default() };
        let mut loader = self.artifact.load(selected, &options);
        for (at, group) in groups.iter().enumerate() {
            let mut own: Vec<Bytes> = Vec::new();
            for _ in wanted(group) {
                let tensor = loader.next().await.ok_or(ModelError::Ended)??;
                own.push(tensor.data);
            }
            let (group, method, known) =
                ((*group).clone(), self.method.clone(), self.known.clone());
            let making = tokio::task::spawn_blocking(move || {
                Built::new(&group, method.as_ref(), own.into_iter(), &known)
            });
            let built = making.await.map_err(|_| ModelError::Ended)??;
            take(at, built)?;
        }
        Ok(())
    }
}
