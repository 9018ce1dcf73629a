//! Text to tokens, by the model's own `tokenizer.json`.

use std::path::Path;

use tokenizers::Tokenizer;

use super::{LmError, TextError};

/// A tokenizer.
#[derive(Debug)]
pub struct Text(Box<Tokenizer>);

impl Text {
    /// Reads `tokenizer.json`. Truncation and padding that it asks for are left out: they serve batches.
    ///
    /// # Errors
    /// If it is no tokenizer.
    pub fn parse(json: &[u8]) -> Result<Self, LmError> {
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(LmError::Tokenizer)?;
        tokenizer.with_truncation(None).map_err(LmError::Tokenizer)?;
        tokenizer.with_padding(None);
        Ok(Self(Box::new(tokenizer)))
    }

    /// The tokens of a text, with those that the model wants at its ends.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let encoding = self.0.encode_fast(text, true).map_err(LmError::Tokenizer)?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Reads a file of text, which must be UTF-8 and not empty.
    ///
    /// # Errors
    /// If it cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<String, LmError> {
        let wrong = |error| LmError::Text { path: path.to_owned(), error };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.into()))?;
        let text = String::from_utf8(bytes)
            .map_err(|error| wrong(TextError::NotUtf8(error.utf8_error().valid_up_to())))?;
        if text.trim().is_empty() {
            return Err(wrong(TextError::Empty));
        }
        Ok(text)
    }
}
