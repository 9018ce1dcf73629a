//! Which token comes next: from logits, by what a request asks. Pure.

mod constraint;
mod error;
mod filter;
mod numbers;
mod sampler;

pub use constraint::{Constraint, Grammar, Grammars};
pub use error::SampleError;
pub use sampler::Sampler;
pub(crate) use sampler::score;

/// The most of the likeliest tokens that are told at a place.
pub const MAX_LOGPROBS: usize = 20;
/// The most biased, and the most stop tokens of a request.
const MAX_TOKENS_NAMED: usize = 4096;
/// Below it a temperature takes the likeliest token, as in vLLM.
const COLDEST: f32 = 1e-5;

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

impl Sampling {
    /// Whether the likeliest token is always taken.
    #[must_use]
    pub fn is_greedy(&self) -> bool {
        self.temperature < COLDEST
    }

    /// Holds every number against its range.
    ///
    /// # Errors
    /// If one is outside, named in words.
    pub fn check(&self, vocabulary: usize) -> Result<(), SampleError> {
        within("temperature", self.temperature, 0.0, f32::MAX)?;
        positive("top_p", self.top_p, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        positive("typical_p", self.typical_p, 1.0)?;
        positive("repetition_penalty", self.repetition_penalty, f32::MAX)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        if self.logprobs > MAX_LOGPROBS {
            let told = format!("logprobs is {}: at most {MAX_LOGPROBS} are told", self.logprobs);
            return Err(SampleError::Parameter(told));
        }
        let named =
            [("logit_bias", self.logit_bias.len()), ("stop_token_ids", self.stop_tokens.len())];
        for (name, count) in named {
            if count > MAX_TOKENS_NAMED {
                let told =
                    format!("{name} names {count} tokens: at most {MAX_TOKENS_NAMED} are taken");
                return Err(SampleError::Parameter(told));
            }
        }
        for (token, bias) in &self.logit_bias {
            within("logit_bias", *bias, -100.0, 100.0)?;
            known("logit_bias", *token, vocabulary)?;
        }
        self.stop_tokens.iter().try_for_each(|token| known("stop_token_ids", *token, vocabulary))
    }
}

fn within(name: &str, value: f32, least: f32, most: f32) -> Result<(), SampleError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    let range = if most == f32::MAX {
        format!("at least {least} and finite")
    } else {
        format!("from {least} to {most}")
    };
    Err(SampleError::Parameter(format!("{name} is {value}: it must be {range}")))
}

fn positive(name: &str, value: f32, most: f32) -> Result<(), SampleError> {
    if value > 0.0 && value <= most {
        return Ok(());
    }
    let range =
        if most == f32::MAX { "and finite".to_owned() } else { format!("and at most {most}") };
    Err(SampleError::Parameter(format!("{name} is {value}: it must be above 0 {range}")))
}

fn known(name: &str, token: u32, vocabulary: usize) -> Result<(), SampleError> {
    if (token as usize) < vocabulary {
        return Ok(());
    }
    let told = format!("{name} names token {token}: the model has {vocabulary}, counted from 0");
    Err(SampleError::Parameter(told))
}
