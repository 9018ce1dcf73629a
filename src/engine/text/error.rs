//! Why text does not become tokens, or a conversation text.

/// Why a tokenizer cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// It is no `tokenizer.json`.
    #[error("tokenizer.json: {0}")]
    Unread(String),
    /// An id beyond what any model has.
    #[error("tokenizer.json names token {token}: at most {most} are taken")]
    TooMany {
        /// The highest id.
        token: u32,
        /// The bound.
        most: u32,
    },
    /// It cannot encode a text, or decode tokens.
    #[error("the tokenizer failed: {0}")]
    Failed(String),
}

/// Why a conversation cannot be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// A file is no JSON, or has no template where one belongs.
    #[error("{file}: {told}")]
    File {
        /// Which.
        file: &'static str,
        /// What is wrong.
        told: String,
    },
    /// The template cannot be parsed.
    #[error("the chat template cannot be parsed: {0}")]
    Syntax(String),
    /// The model comes without this template.
    #[error("no chat template {0:?}")]
    Missing(String),
    /// There are no messages.
    #[error("a conversation of no messages: give at least one")]
    Empty,
    /// The template itself refuses the conversation, in its own words.
    #[error("the chat template refuses these messages: {0}")]
    Refused(String),
    /// It fails on this conversation.
    #[error("the chat template fails on these messages: {0}")]
    Failed(String),
    /// It works too long, or writes too much.
    #[error("the chat template works without end or writes more than {0} bytes")]
    TooLarge(usize),
    /// The last message cannot be continued.
    #[error("the last message cannot be continued: {0}")]
    NotContinued(&'static str),
}
