//! What clients are answered, in OpenAI's fields.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

/// Tokens that were read and made.
#[derive(Debug, Clone, Copy, Default, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Of the prompts.
    pub(crate) prompt_tokens: usize,
    /// Made.
    pub(crate) completion_tokens: usize,
    /// Both.
    pub(crate) total_tokens: usize,
}

impl Usage {
    pub(crate) fn new(prompt: usize, made: usize) -> Self {
        Self { prompt_tokens: prompt, completion_tokens: made, total_tokens: prompt + made }
    }
}

/// An answer, or a part of one that is streamed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Answer {
    /// Its own.
    pub(crate) id: String,
    /// What it is.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// The model's name, as it was asked.
    pub(crate) model: String,
    /// The texts.
    pub(crate) choices: Vec<ChoiceAnswer>,
    /// The tokens, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Usage>,
}

/// One text, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChoiceAnswer {
    /// Which.
    pub(crate) index: usize,
    /// Of a completion.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) text: Option<String>,
    /// Of a chat.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) message: Option<Message>,
    /// Of a chat that is streamed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) delta: Option<Message>,
    /// Probabilities, if they were asked for.
    pub(crate) logprobs: Option<Logprobs>,
    /// Why the text ended: `stop` or `length`.
    pub(crate) finish_reason: Option<&'static str>,
    /// The text or the token that ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) stop_reason: Option<StopReason>,
}

/// What ended a text.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum StopReason {
    /// A stop string.
    Text(String),
    /// A stop token.
    Token(u32),
}

/// The model's message, or a part of it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Message {
    /// Always `assistant`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) role: Option<&'static str>,
    /// Its text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<String>,
}

/// Probabilities of a text's tokens.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Logprobs {
    /// Of a completion.
    Completion(CompletionLogprobs),
    /// Of a chat.
    Chat {
        /// Token by token.
        content: Vec<ChatToken>,
    },
}

/// Probabilities of a completion's tokens, in lists of the same length.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(crate) struct CompletionLogprobs {
    /// The tokens.
    pub(crate) tokens: Vec<String>,
    /// Their logprobs; null for a prompt's first.
    pub(crate) token_logprobs: Vec<Option<f32>>,
    /// The likeliest at each place.
    pub(crate) top_logprobs: Vec<Option<BTreeMap<String, f32>>>,
    /// Characters of the text before each.
    pub(crate) text_offset: Vec<usize>,
}

/// A token of a chat.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ChatToken {
    /// It.
    #[serde(flatten)]
    pub(crate) own: TokenAnswer,
    /// The likeliest in its place.
    pub(crate) top_logprobs: Vec<TokenAnswer>,
}

/// A token with its probability.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TokenAnswer {
    /// Its text.
    pub(crate) token: String,
    /// Natural logarithm of its probability.
    pub(crate) logprob: f32,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// `GET /v1/models`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Models {
    /// Always `list`.
    pub(crate) object: &'static str,
    /// The names that are served.
    pub(crate) data: Vec<Model>,
}

/// A name that is served.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Model {
    /// The name.
    pub(crate) id: String,
    /// Always `model`.
    pub(crate) object: &'static str,
    /// Seconds since 1970.
    pub(crate) created: u64,
    /// Always `tenpak`.
    pub(crate) owned_by: &'static str,
    /// The model's first name.
    pub(crate) root: String,
    /// For an adapter, the model's name.
    pub(crate) parent: Option<String>,
    /// Tokens of the longest text.
    pub(crate) max_model_len: usize,
}

/// Embeddings.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embeddings {
    /// Always `list`.
    pub(crate) object: &'static str,
    /// One for each text.
    pub(crate) data: Vec<Embedding>,
    /// The model's name, as it was asked.
    pub(crate) model: String,
    /// The tokens.
    pub(crate) usage: Usage,
}

/// An embedding.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Embedding {
    /// Always `embedding`.
    pub(crate) object: &'static str,
    /// Which.
    pub(crate) index: usize,
    /// Numbers, or their bytes (f32, little-endian) in base64.
    pub(crate) embedding: Vector,
}

/// Numbers of an embedding.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Vector {
    /// As they are.
    Floats(Vec<f32>),
    /// In base64.
    Base64(String),
}

/// `POST /tokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Tokenized {
    /// How many.
    pub(crate) count: usize,
    /// Tokens of the longest text.
    pub(crate) max_model_len: usize,
    /// They.
    pub(crate) tokens: Vec<u32>,
    /// As the vocabulary writes them, if that was asked.
    pub(crate) token_strs: Option<Vec<String>>,
}

/// `POST /detokenize`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Detokenized {
    /// The text.
    pub(crate) prompt: String,
}
