//! Models packed into stores of their own, engines over them, and the reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenpak::engine::sample::Sampling;
use tenpak::engine::{
    Engine, EngineOptions, Event, Events, Generator, Model, ModelError, ModelOptions, Request,
    Scored,
};
use tenpak::quantize::lm::{Context, Model as Reference, NoTap};
use tenpak::quantize::source::ModelSource;
use tenpak::{Artifact, OpenOptions, Store};

use super::library::runtime;
use super::run::{done, fresh_folder, text};

pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm").join(name)
}

/// A store with the model `m`.
pub fn packed(name: &str, model: &Path) -> PathBuf {
    let store = fresh_folder(name);
    done(&["--store", text(&store), "pack", text(model), "--name", "m", "--json"]);
    store
}

pub fn artifact(store: &str, name: &str) -> Artifact {
    let store = Store::open(store).unwrap();
    let spec = name.parse().unwrap();
    runtime().block_on(Artifact::open(store, &spec, &OpenOptions::default())).unwrap()
}

pub fn model(store: &Path, name: &str, options: &ModelOptions) -> Result<Model, ModelError> {
    let artifact = artifact(text(store), name);
    runtime().block_on(Model::open(artifact, options, None, runtime().handle()))
}

/// Weights that take at most so many bytes.
pub fn within(memory: u64) -> ModelOptions {
    let mut options = ModelOptions::default();
    options.memory = Some(memory);
    options
}

pub fn engine_of(model: Model, options: EngineOptions) -> Arc<Generator> {
    Generator::start(model, Vec::new(), String::new(), options).unwrap()
}

pub fn engine(store: &Path, name: &str) -> Arc<Generator> {
    engine_of(model(store, name, &ModelOptions::default()).unwrap(), EngineOptions::default())
}

pub fn request(prompt: Vec<u32>, max_tokens: usize) -> Request {
    let mut sampling = Sampling::default();
    sampling.temperature = 0.0;
    Request { prompt, sampling, constraint: None, max_tokens, prompt_logprobs: None, adapter: None }
}

/// All that comes of a request.
pub fn all(mut events: Events) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(event) = events.blocking_recv() {
        all.push(event);
    }
    all
}

/// The tokens of a text that ended well.
pub fn tokens(events: Events) -> Vec<Scored> {
    let mut found = Vec::new();
    for event in all(events) {
        match event {
            Event::Token(scored) => found.push(scored),
            Event::End(_) => return found,
            Event::Prompt(_) => {}
            Event::Failed(why) => panic!("{why}"),
        }
    }
    panic!("no end");
}

/// The logarithm of the probability of each token after the first, by the engine.
pub fn scored(engine: &dyn Engine, prompt: &[u32]) -> Vec<f32> {
    let mut asked = request(prompt.to_vec(), 0);
    asked.prompt_logprobs = Some(0);
    match all(engine.submit(asked).unwrap()).into_iter().next() {
        Some(Event::Prompt(scored)) => scored.iter().map(|one| one.own.logprob).collect(),
        other => panic!("{other:?}"),
    }
}

/// The same by the reference: blocks on candle, weights dequantized to f32.
pub fn expected(store: &Path, name: &str, prompt: &[u32]) -> Vec<f32> {
    let source = ModelSource::artifact(artifact(text(store), name), runtime().handle()).unwrap();
    let model = Reference::open(source).unwrap();
    let context = Context::new(model.config(), prompt.len()).unwrap();
    let mut states = model.embed(&[prompt]).unwrap().pop().unwrap();
    for index in 0..model.config().layers {
        states = model.block(index).unwrap().forward(&states, &context, &mut NoTap).unwrap();
    }
    let states = states.narrow(0, 0, prompt.len() - 1).unwrap();
    let losses = model.head().unwrap().losses(&states, &prompt[1..]).unwrap();
    losses.into_iter().map(|loss| -loss as f32).collect()
}

/// Tokens of the fixture's text.
pub fn test_tokens(model: &str, count: usize) -> Vec<u32> {
    let json = std::fs::read(fixture(model).join("tokenizer.json")).unwrap();
    let text = std::fs::read_to_string(fixture("test.txt")).unwrap();
    let tokenizer = tenpak::quantize::lm::Text::parse(&json).unwrap();
    tokenizer.encode(&text).unwrap().into_iter().take(count).collect()
}
