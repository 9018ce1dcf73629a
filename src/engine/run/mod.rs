//! The engine: one thread that runs the model, and what it is asked through.

mod embed;
mod shared;
mod work;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::oneshot;

pub use embed::Embedder;

use super::batch::{Batch, BatchLimits};
use super::compute::BLOCK;
use super::model::{Adapter, Arrival, Kept, Model, ModelError};
use super::request::{Engine, EngineLoad, Events, ModelInfo, Refused, Request};
use super::sample::Sampler;
use crate::quantize::lm::LmConfig;
use shared::Shared;
use work::{Asked, Command, Work};

/// How the engine runs.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Tokens of the longest text; without, as many as the model and the memory for keys and values allow.
    pub max_context: Option<usize>,
    /// Texts that run at a time.
    pub max_concurrent: usize,
    /// Texts that may wait beyond those.
    pub max_waiting: usize,
    /// Bytes for keys and values.
    pub cache: u64,
    /// Tokens of a step: more make prompts faster, and the tokens of others come later.
    pub step: usize,
    /// Tokens that end texts.
    pub ends: Vec<u32>,
    /// From which the seeds of requests follow that name none; by default another at each start.
    pub seed: u64,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            max_context: None,
            max_concurrent: 32,
            max_waiting: 1024,
            cache: 1 << 30,
            step: 256,
            ends: Vec::new(),
            seed: RandomState::new().build_hasher().finish(),
        }
    }
}

/// A model that makes text.
#[derive(Debug)]
pub struct Generator {
    asked: Mutex<Sender<Command>>,
    shared: Arc<Shared>,
    info: Mutex<ModelInfo>,
    adapters: Vec<(String, Arc<Adapter>)>,
    options: EngineOptions,
    next: AtomicU64,
    thread: Mutex<Option<JoinHandle<()>>>,
    arrival: Arrival,
    config: LmConfig,
    streamed: bool,
}

impl Generator {
    /// Starts the thread. The model's weights may still be on their way: texts that are asked for run through
    /// each layer as it arrives.
    ///
    /// # Errors
    /// If there is no room for one text.
    pub fn start(
        model: Model,
        adapters: Vec<(String, Arc<Adapter>)>,
        quantization: String,
        options: EngineOptions,
    ) -> Result<Arc<Self>, ModelError> {
        let config = model.config();
        let block = model.block_bytes() as u64;
        let positions = options.max_context.unwrap_or(config.positions).min(config.positions);
        let room = usize::try_from(options.cache / block.max(1)).unwrap_or(usize::MAX) * BLOCK;
        let most = match options.max_context {
            Some(_) if room < positions => {
                return Err(ModelError::Memory {
                    what: "keys and values of one text of --max-context tokens",
                    need: ((positions.div_ceil(BLOCK) as u64 * block) >> 20) as usize + 1,
                    have: (options.cache >> 20) as usize,
                });
            }
            _ => positions.min(room),
        };
        if most < 2 {
            return Err(ModelError::Memory {
                what: "keys and values of one text",
                need: (block >> 20) as usize + 1,
                have: (options.cache >> 20) as usize,
            });
        }
        // No more than all texts could fill.
        let blocks = (room / BLOCK).min((most.div_ceil(BLOCK) + 1) * options.max_concurrent);
        let info = ModelInfo {
            max_context: most,
            vocabulary: config.vocabulary,
            ends: options.ends.clone(),
            generates: true,
            quantization,
            adapters: adapters.iter().map(|(name, _)| name.clone()).collect(),
        };
        let shared = Arc::<Shared>::default();
        let limits = BatchLimits {
            running: options.max_concurrent.max(1),
            step: options.step.max(options.max_concurrent).max(1),
        };
        let (ask, asked) = channel();
        let (arrival, config, streamed) =
            (model.arrival(), model.config().clone(), model.is_streamed());
        let work = Work::new(model, Batch::new(blocks, limits), asked, shared.clone());
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(move || work.run()).map_err(|_| ModelError::Ended)?;
        Ok(Arc::new(Self {
            asked: Mutex::new(ask),
            shared,
            info: Mutex::new(info),
            adapters,
            options,
            next: AtomicU64::new(0),
            thread: Mutex::new(Some(thread)),
            arrival,
            config,
            streamed,
        }))
    }

    /// Waits until every weight that stays in memory is there.
    ///
    /// # Errors
    /// If one cannot be had, or is not what was signed.
    pub fn wait(&self) -> Result<(), ModelError> {
        self.arrival.wait()
    }

    /// Whoever waits for weights that have not arrived waits no longer.
    pub fn stop(&self) {
        self.arrival.stop();
    }

    /// Why it stopped, if it did.
    pub fn failed(&self) -> Option<ModelError> {
        self.shared.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts another model in the place of this one, between two steps: texts that run finish on the old
    /// weights, what comes later waits for the new. It must read the same tokens.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub async fn swap(&self, model: Model, quantization: String) -> Result<(), Refused> {
        let (told, done) = oneshot::channel();
        self.send(Command::Swap(Box::new(model), told))?;
        done.await.map_err(|_| self.stopped())?;
        self.info.lock().unwrap_or_else(PoisonError::into_inner).quantization = quantization;
        Ok(())
    }

    /// The present model's weights: the next one, opened with them, loads only what differs.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub async fn kept(&self) -> Result<Kept, Refused> {
        let (told, done) = oneshot::channel();
        self.send(Command::Kept(told))?;
        done.await.map_err(|_| self.stopped())
    }

    /// Whether another model can take this one's place: it has the same shape.
    ///
    /// # Errors
    /// If it has another.
    pub fn check_kin(&self, model: &Model) -> Result<(), Refused> {
        let shape = |config: &LmConfig| {
            let sizes = [config.vocabulary, config.layers, config.kv_heads, config.head_dim];
            (config.family.clone(), sizes)
        };
        let (own, other) = (shape(&self.config), shape(model.config()));
        match own == other {
            true => Ok(()),
            false => Err(Refused::Parameter(format!(
                "a model of another shape: {other:?}, and {own:?} is served; start another server for it"
            ))),
        }
    }

    /// Whether its weights do not stay in memory.
    pub fn is_streamed(&self) -> bool {
        self.streamed
    }

    /// Bytes that the weights take in memory, as far as they have arrived.
    pub fn weights_bytes(&self) -> usize {
        self.arrival.bytes()
    }

    fn send(&self, command: Command) -> Result<(), Refused> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.send(command).map_err(|_| self.stopped())
    }

    fn stopped(&self) -> Refused {
        let why = self.failed().map_or_else(|| "it was told to".to_owned(), |why| why.to_string());
        Refused::Stopped(why)
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // Nobody asks any more: the thread ends, wherever it waits.
        self.arrival.stop();
        let (nobody, _) = channel();
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = nobody;
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of it was told to whoever waited.
            thread.join().unwrap_or_default();
        }
    }
}

impl Engine for Generator {
    fn info(&self) -> ModelInfo {
        self.info.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn submit(&self, request: Request) -> Result<Events, Refused> {
        let info = self.info();
        if request.prompt.is_empty() {
            return Err(Refused::Empty);
        }
        let (tokens, vocabulary) = (request.prompt.len(), info.vocabulary);
        if let Some(token) = request.prompt.iter().find(|token| **token as usize >= vocabulary) {
            return Err(Refused::Token { token: *token, vocabulary });
        }
        // Room for one more token, if one is wanted.
        let most = info.max_context - usize::from(request.max_tokens > 0);
        if tokens > most {
            return Err(Refused::TooLong { tokens, most });
        }
        let adapter = match &request.adapter {
            None => None,
            Some(name) => {
                let found = self.adapters.iter().find(|(own, _)| own == name);
                Some(found.ok_or_else(|| Refused::Adapter(name.clone()))?.1.clone())
            }
        };
        if self.failed().is_some() {
            return Err(self.stopped());
        }
        let waiting = self.shared.waiting.load(Ordering::Relaxed) as usize;
        if waiting >= self.options.max_waiting {
            return Err(Refused::Busy(waiting));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let seed = self.options.seed.wrapping_add(id);
        let wrong = |error: super::sample::SampleError| Refused::Parameter(error.to_string());
        let sampler =
            Sampler::new(&request.sampling, &request.prompt, vocabulary, &info.ends, seed)
                .map_err(wrong)?
                .with_constraint(request.constraint.clone());
        let (events, given) = unbounded_channel();
        let left = request.max_tokens.min(info.max_context - tokens);
        self.shared.waiting.fetch_add(1, Ordering::Relaxed);
        self.send(Command::Text(Box::new(Asked { id, request, sampler, adapter, events, left })))?;
        Ok(given)
    }

    fn embed(&self, _texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused> {
        Err(Refused::Unable("this model makes text, and no embeddings"))
    }

    fn is_ready(&self) -> bool {
        self.arrival.is_over() && self.failed().is_none()
    }

    fn load(&self) -> EngineLoad {
        let of = |value: &AtomicU64| value.load(Ordering::Relaxed);
        EngineLoad {
            running: of(&self.shared.running),
            waiting: of(&self.shared.waiting),
            cache_used: of(&self.shared.used) as f64 / 1000.0,
            prompt_tokens: of(&self.shared.prompt_tokens),
            found_tokens: of(&self.shared.found_tokens),
            tokens: of(&self.shared.tokens),
            preemptions: of(&self.shared.again),
        }
    }
}
