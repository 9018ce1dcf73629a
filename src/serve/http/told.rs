//! How tokens and their probabilities are told, in OpenAI's two forms.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::choice::Told;
use super::plan::{Form, Plan};
use super::response::{ChatToken, CompletionLogprobs, Logprobs, TokenAnswer};
use super::state::now;
use crate::engine::Likely;
use crate::engine::text::Tokenizer;

/// JSON has no infinity: less likely is told so, as in vLLM.
const LEAST: f32 = -9999.0;

/// Tells the parts of one answer.
pub(crate) struct Teller {
    tokenizer: Arc<Tokenizer>,
    pub(crate) form: Form,
    pub(crate) model: String,
    pub(crate) id: String,
    pub(crate) created: u64,
    logprobs: bool,
}

impl Teller {
    pub(crate) fn new(tokenizer: Arc<Tokenizer>, plan: &Plan) -> Self {
        let (id, created) = identity(plan.form);
        let (model, logprobs) = (plan.model.clone(), plan.logprobs.is_some());
        Self { tokenizer, form: plan.form, model, id, created, logprobs }
    }

    /// A token's text; bytes that are no text are told as OpenAI does, so that two tokens never read the same.
    fn token(&self, token: u32) -> String {
        let bytes = self.tokenizer.bytes(token);
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => {
                let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                format!("bytes:{escaped}")
            }
        }
    }

    fn likely(&self, of: Likely) -> TokenAnswer {
        TokenAnswer {
            token: self.token(of.token),
            logprob: of.logprob.max(LEAST),
            bytes: self.tokenizer.bytes(of.token).to_vec(),
        }
    }

    /// None where probabilities were not asked for.
    pub(crate) fn logprobs(&self, tokens: &[Told]) -> Option<Logprobs> {
        if !self.logprobs {
            return None;
        }
        Some(match self.form {
            Form::Chat => {
                let content = tokens.iter().map(|told| ChatToken {
                    own: self.likely(Likely {
                        token: told.token,
                        logprob: told.logprob.unwrap_or(LEAST),
                    }),
                    top_logprobs: told.top.iter().map(|likely| self.likely(*likely)).collect(),
                });
                Logprobs::Chat { content: content.collect() }
            }
            Form::Completion => {
                let mut own = CompletionLogprobs::default();
                for told in tokens {
                    own.tokens.push(self.token(told.token));
                    own.token_logprobs.push(told.logprob.map(|logprob| logprob.max(LEAST)));
                    own.top_logprobs.push(told.logprob.map(|_| self.top(&told.top)));
                    own.text_offset.push(told.offset);
                }
                Logprobs::Completion(own)
            }
        })
    }

    fn top(&self, top: &[Likely]) -> BTreeMap<String, f32> {
        top.iter().map(|likely| (self.token(likely.token), likely.logprob.max(LEAST))).collect()
    }
}

/// The name of an answer, and when it began.
fn identity(form: Form) -> (String, u64) {
    let mut bytes = [0; 16];
    // Names need not be secret: the clock's part keeps them apart even where the system gives no bytes.
    getrandom::fill(&mut bytes).unwrap_or_default();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let kind = if form == Form::Chat { "chatcmpl" } else { "cmpl" };
    (format!("{kind}-{hex}"), now())
}
