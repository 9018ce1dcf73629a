//! What clients ask, in OpenAI's fields and vLLM's. Fields that are not named here are ignored.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// One text, several, or their tokens.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Input {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// The tokens of a text.
    Tokens(Vec<u32>),
    /// The tokens of texts.
    TokenLists(Vec<Vec<u32>>),
}

/// One or several strings.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
#[serde(untagged)]
pub(crate) enum Strings {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Strings {
    pub(crate) fn list(&self) -> Vec<String> {
        match self {
            Self::One(text) => vec![text.clone()],
            Self::Many(texts) => texts.clone(),
        }
    }
}

/// How a stream is told.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct StreamOptions {
    /// Whether the last event counts the tokens.
    pub(crate) include_usage: Option<bool>,
}

/// What the answer is made of.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(crate) struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub(crate) kind: String,
    /// The schema, for `json_schema`.
    pub(crate) json_schema: Option<JsonSchema>,
}

/// A schema with its name.
#[derive(Debug, Clone, Deserialize, Serialize, ToSchema)]
pub(crate) struct JsonSchema {
    /// The schema.
    pub(crate) schema: Option<Value>,
}

/// A grammar that the answer keeps to; at most one of these.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct StructuredOutputs {
    /// A JSON schema, as an object or as text.
    pub(crate) json: Option<Value>,
    /// A regular expression that the whole answer matches.
    pub(crate) regex: Option<String>,
    /// Texts of which the answer is one.
    pub(crate) choice: Option<Vec<String>>,
    /// A grammar in Lark's form.
    pub(crate) grammar: Option<String>,
    /// Whether the answer is any JSON object.
    pub(crate) json_object: Option<bool>,
}

/// What completions and chats share.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Choosing {
    /// A name that this server serves; its first, if left out.
    pub(crate) model: Option<String>,
    /// Whether the answer comes as server-sent events.
    pub(crate) stream: Option<bool>,
    /// How it comes.
    pub(crate) stream_options: Option<StreamOptions>,
    /// How many answers are made.
    #[schema(minimum = 1, maximum = 128)]
    pub(crate) n: Option<u32>,
    /// Not supported beyond `n`.
    pub(crate) best_of: Option<u32>,
    /// Not supported.
    pub(crate) use_beam_search: Option<bool>,
    /// The most tokens that are made.
    pub(crate) max_tokens: Option<u32>,
    /// The same, in its newer name.
    pub(crate) max_completion_tokens: Option<u32>,
    /// The fewest tokens before the answer may end.
    pub(crate) min_tokens: Option<u32>,
    /// 0 takes the likeliest token.
    #[schema(minimum = 0)]
    pub(crate) temperature: Option<f32>,
    /// The likeliest tokens whose probabilities together reach it are kept.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f32>,
    /// So many of the likeliest tokens are kept; 0 or -1: all.
    #[schema(minimum = -1)]
    pub(crate) top_k: Option<i64>,
    /// Tokens less likely than this part of the likeliest are dropped.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_p: Option<f32>,
    /// Tokens of typical surprise are kept, until they reach it.
    #[schema(exclusive_minimum = 0, maximum = 1)]
    pub(crate) typical_p: Option<f32>,
    /// Divides the logits of tokens that the prompt or the answer has.
    #[schema(exclusive_minimum = 0)]
    pub(crate) repetition_penalty: Option<f32>,
    /// Taken from the logits of tokens that the answer has.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) presence_penalty: Option<f32>,
    /// Taken from the logits of tokens for each time that the answer has them.
    #[schema(minimum = -2, maximum = 2)]
    pub(crate) frequency_penalty: Option<f32>,
    /// The same seed makes the same answer.
    pub(crate) seed: Option<i64>,
    /// Added to the logits of tokens, -100 to 100.
    pub(crate) logit_bias: Option<BTreeMap<String, f32>>,
    /// Texts that end the answer.
    pub(crate) stop: Option<Strings>,
    /// Tokens that end the answer.
    pub(crate) stop_token_ids: Option<Vec<u32>>,
    /// Whether the text that ended the answer is part of it.
    pub(crate) include_stop_str_in_output: Option<bool>,
    /// Whether the model's own ends do not end the answer.
    pub(crate) ignore_eos: Option<bool>,
    /// Whether special tokens are left out of the answer; they are, unless this is false.
    pub(crate) skip_special_tokens: Option<bool>,
    /// What the answer is made of.
    pub(crate) response_format: Option<ResponseFormat>,
    /// A grammar that the answer keeps to.
    pub(crate) structured_outputs: Option<StructuredOutputs>,
    /// A JSON schema, as an object or as text.
    pub(crate) guided_json: Option<Value>,
    /// A regular expression that the whole answer matches.
    pub(crate) guided_regex: Option<String>,
    /// Texts of which the answer is one.
    pub(crate) guided_choice: Option<Vec<String>>,
    /// A grammar in Lark's form.
    pub(crate) guided_grammar: Option<String>,
    /// What would change the answer, and is not supported.
    #[serde(flatten)]
    pub(crate) unsupported: Unsupported,
}

/// Fields of vLLM and OpenAI that would change the answer: refused, never ignored.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct Unsupported {
    /// Not supported.
    bad_words: Option<Value>,
    /// Not supported.
    allowed_token_ids: Option<Value>,
    /// Not supported.
    truncate_prompt_tokens: Option<Value>,
    /// Not supported: ask for echo and logprobs.
    prompt_logprobs: Option<Value>,
    /// Not supported.
    prompt_embeds: Option<Value>,
    /// Not supported.
    logits_processors: Option<Value>,
    /// Not supported: use tools.
    functions: Option<Value>,
    /// Not supported.
    audio: Option<Value>,
    /// Not supported: the checkpoint's own template is used.
    chat_template: Option<Value>,
    /// Not supported.
    guided_whitespace_pattern: Option<Value>,
}

impl Unsupported {
    /// The name of a field that asks for something.
    pub(crate) fn asked(&self) -> Option<&'static str> {
        let named = [
            ("bad_words", &self.bad_words),
            ("allowed_token_ids", &self.allowed_token_ids),
            ("truncate_prompt_tokens", &self.truncate_prompt_tokens),
            ("prompt_logprobs", &self.prompt_logprobs),
            ("prompt_embeds", &self.prompt_embeds),
            ("logits_processors", &self.logits_processors),
            ("functions", &self.functions),
            ("audio", &self.audio),
            ("chat_template", &self.chat_template),
            ("guided_whitespace_pattern", &self.guided_whitespace_pattern),
        ];
        let nothing = |value: &Value| match value {
            Value::Array(list) => list.is_empty(),
            other => other.is_null(),
        };
        let found = named
            .into_iter()
            .find(|(_, value)| value.as_ref().is_some_and(|value| !nothing(value)));
        found.map(|(name, _)| name)
    }
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct CompletionRequest {
    /// The text to go on with; required.
    #[schema(value_type = Input, required = true)]
    pub(crate) prompt: Option<Input>,
    /// Whether the answer begins with the prompt.
    pub(crate) echo: Option<bool>,
    /// How many of the likeliest tokens are told at each place.
    #[schema(maximum = 20)]
    pub(crate) logprobs: Option<u32>,
    /// Not supported.
    pub(crate) suffix: Option<String>,
    /// Whether the model's own tokens are added around the prompt; they are, unless this is false.
    pub(crate) add_special_tokens: Option<bool>,
    /// What chats have too.
    #[serde(flatten)]
    pub(crate) choosing: Choosing,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct ChatRequest {
    /// What completions have too.
    #[serde(flatten)]
    pub(crate) choosing: Choosing,
    /// How the conversation is written.
    #[serde(flatten)]
    pub(crate) conversation: ConversationRequest,
    /// Whether the probabilities of tokens are told.
    pub(crate) logprobs: Option<bool>,
    /// How many of the likeliest tokens are told at each place.
    #[schema(maximum = 20)]
    pub(crate) top_logprobs: Option<u32>,
    /// `auto` or `none`: calls are not forced.
    pub(crate) tool_choice: Option<Value>,
}

/// A conversation.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct ConversationRequest {
    /// The messages so far; required.
    #[schema(value_type = Option<Vec<Object>>, min_items = 1)]
    pub(crate) messages: Option<Vec<Map<String, Value>>>,
    /// The tools that the model may call.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) tools: Option<Vec<Map<String, Value>>>,
    /// Documents, for templates that write them.
    #[schema(value_type = Option<Vec<Object>>)]
    pub(crate) documents: Option<Vec<Map<String, Value>>>,
    /// Whether the beginning of an answer is written; it is, unless this is false.
    pub(crate) add_generation_prompt: Option<bool>,
    /// Whether the last message is left open, to be continued.
    pub(crate) continue_final_message: Option<bool>,
    /// What else the chat template is given.
    #[schema(value_type = Option<Object>)]
    pub(crate) chat_template_kwargs: Option<Map<String, Value>>,
}

/// `POST /v1/embeddings`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct EmbeddingRequest {
    /// A name that this server serves.
    pub(crate) model: Option<String>,
    /// The texts; required.
    #[schema(value_type = Input, required = true)]
    pub(crate) input: Option<Input>,
    /// `float` or `base64`.
    pub(crate) encoding_format: Option<String>,
    /// The model's own, if given.
    pub(crate) dimensions: Option<u32>,
}

/// `POST /tokenize`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct TokenizeRequest {
    /// A name that this server serves.
    pub(crate) model: Option<String>,
    /// The text; this or messages are required.
    pub(crate) prompt: Option<String>,
    /// Whether the model's own tokens are added around it.
    pub(crate) add_special_tokens: Option<bool>,
    /// Whether the tokens are told as text too.
    pub(crate) return_token_strs: Option<bool>,
    /// A conversation in place of a text.
    #[serde(flatten)]
    pub(crate) conversation: ConversationRequest,
}

/// `POST /detokenize`.
#[derive(Debug, Clone, Default, Deserialize, Serialize, ToSchema)]
pub(crate) struct DetokenizeRequest {
    /// A name that this server serves.
    pub(crate) model: Option<String>,
    /// The tokens; required.
    #[schema(value_type = Vec<u32>, required = true)]
    pub(crate) tokens: Option<Vec<u32>>,
}
