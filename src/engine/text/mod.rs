//! Between text and tokens: a model's tokenizer, text that comes token by token, strings that end it, and
//! conversations written as the model learned them. Pure.

mod detokenizer;
mod error;
mod pieces;
mod stop;
mod template;
mod tokenizer;

pub use detokenizer::Detokenizer;
pub use error::{TemplateError, TokenizerError};
pub use stop::{Passed, StopStrings};
pub use template::{ChatTemplate, Conversation, TemplateFiles};
pub use tokenizer::Tokenizer;
