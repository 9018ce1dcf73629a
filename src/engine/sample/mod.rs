//! Which token comes next: from logits, by what a request asks. Pure.

/// How tokens are chosen, in the names of vLLM.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Sampling {
    /// Logits are divided by it; 0: the likeliest token is taken.
    pub temperature: f32,
    /// The likeliest tokens whose probabilities together reach it are kept.
    pub top_p: f32,
    /// So many of the likeliest tokens are kept; 0: all.
    pub top_k: usize,
    /// Tokens less likely than this part of the likeliest are dropped.
    pub min_p: f32,
    /// Tokens whose surprise is nearest to the expected one are kept, until their probabilities reach it.
    pub typical_p: f32,
    /// Divides (or, below 0, multiplies) the logits of tokens that the prompt or the text has.
    pub repetition_penalty: f32,
    /// Taken from the logits of tokens that the text has.
    pub presence_penalty: f32,
    /// Taken from the logits of tokens, for each time that the text has them.
    pub frequency_penalty: f32,
    /// The same seed makes the same text.
    pub seed: Option<u64>,
    /// Added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Tokens that end the text beside the model's own.
    pub stop_tokens: Vec<u32>,
    /// Whether the model's own ends do not end the text.
    pub ignore_eos: bool,
    /// The fewest tokens before an end may come.
    pub min_tokens: usize,
    /// How many of the likeliest tokens are told at each place.
    pub logprobs: usize,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            typical_p: 1.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: None,
            logit_bias: Vec::new(),
            stop_tokens: Vec::new(),
            ignore_eos: false,
            min_tokens: 0,
            logprobs: 0,
        }
    }
}
