//! What the engine is asked, and what it answers.

use tokio::sync::mpsc::UnboundedReceiver;

use super::sample::{Constraint, Sampling};

/// One text to go on with.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its tokens; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen.
    pub sampling: Sampling,
    /// The grammar that the text keeps to.
    pub constraint: Option<Constraint>,
    /// The most tokens that are made.
    pub max_tokens: usize,
    /// Whether, and with how many of the likeliest tokens at each place, the prompt's own tokens are scored.
    pub prompt_logprobs: Option<usize>,
    /// The adapter that is applied; none for the model itself.
    pub adapter: Option<String>,
}

/// A token with the logarithm of its probability, before sampling changed any.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Likely {
    /// The token.
    pub token: u32,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// A token of a text, and what else could have stood in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Scored {
    /// The token.
    pub own: Likely,
    /// The likeliest tokens there, the likeliest first; as many as were asked for.
    pub top: Vec<Likely>,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// A token that ends texts, or one of those to stop at.
    Stop,
    /// As many tokens as were allowed, or as the model takes.
    Length,
}

/// What comes of a request, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The prompt's tokens after the first, scored; if it was asked.
    Prompt(Vec<Scored>),
    /// One more token.
    Token(Scored),
    /// The end.
    End(Finish),
    /// The end, by an error: what, where, and what to do.
    Failed(String),
}

/// What comes of a request. Dropping it ends the request: its place is free within one step.
pub type Events = UnboundedReceiver<Event>;

/// Why a request is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// It has no tokens.
    #[error("the prompt is empty: give at least one token")]
    Empty,
    /// It is longer than there is room for.
    #[error("{tokens} tokens, and there is room for {most}: shorten the prompt")]
    TooLong {
        /// What it has.
        tokens: usize,
        /// What there is room for.
        most: usize,
    },
    /// A token that the model does not have.
    #[error("token {token}: the model has {vocabulary}")]
    Token {
        /// Which.
        token: u32,
        /// How many there are.
        vocabulary: usize,
    },
    /// A number that makes no sense.
    #[error("{0}")]
    Parameter(String),
    /// No such adapter.
    #[error("no adapter {0}")]
    Adapter(String),
    /// The engine has ended, or ends.
    #[error("the engine has stopped: {0}")]
    Stopped(String),
    /// The model makes no text, or no embeddings.
    #[error("{0}")]
    Unable(&'static str),
    /// More wait already than are let wait.
    #[error("{0} requests wait already: try again later")]
    Busy(usize),
}

/// What a server says of a model.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// Tokens of the longest text, prompt included.
    pub max_context: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Tokens that end texts.
    pub ends: Vec<u32>,
    /// Whether it makes text; otherwise it makes embeddings.
    pub generates: bool,
    /// How its weights are quantized, in a word or two.
    pub quantization: String,
    /// Names of the adapters.
    pub adapters: Vec<String>,
}

/// What an engine is doing, and has done since it began.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[non_exhaustive]
pub struct EngineLoad {
    /// Texts that run.
    pub running: u64,
    /// Texts that wait.
    pub waiting: u64,
    /// The part of the room for keys and values that is used, 0 to 1.
    pub cache_used: f64,
    /// Tokens of prompts that were run.
    pub prompt_tokens: u64,
    /// Tokens of prompts whose keys and values were there already.
    pub found_tokens: u64,
    /// Tokens that were made.
    pub tokens: u64,
    /// Texts that had to start over because there was no room.
    pub preemptions: u64,
}

/// Whatever runs a model; tests put others in.
pub trait Engine: Send + Sync {
    /// What it runs.
    fn info(&self) -> ModelInfo;

    /// Takes a request.
    ///
    /// # Errors
    /// If it can never be answered, or not now.
    fn submit(&self, request: Request) -> Result<Events, Refused>;

    /// The embeddings of texts, each normalized; `None` where the model makes text. It may take long: call it
    /// where blocking is allowed.
    ///
    /// # Errors
    /// If a text is too long, or the model cannot be run.
    fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, Refused>;

    /// Whether its weights are there. Requests are taken before, and answered as weights arrive.
    fn is_ready(&self) -> bool {
        true
    }

    /// What it is doing.
    fn load(&self) -> EngineLoad {
        EngineLoad::default()
    }
}
