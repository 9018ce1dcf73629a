//! Text to tokens, by the model's own `tokenizer.json`.

use std::path::Path;

use tokenizers::Tokenizer;

use super::LmError;

/// A tokenizer.
#[derive(Debug)]
pub struct Text(Box<Tokenizer>);

impl Text {
    /// Reads `tokenizer.json`. Truncation and padding that it asks for are left out: they serve batches.
    ///
    /// # Errors
    /// If it is no tokenizer.
    pub fn parse(json: &[u8]) -> Result<Self, LmError> {
        let wrong = |error: tokenizers::Error| LmError::Tokenizer(error.to_string());
        let mut tokenizer = Tokenizer::from_bytes(json).map_err(wrong)?;
        tokenizer.with_truncation(None).map_err(wrong)?;
        tokenizer.with_padding(None);
        Ok(Self(Box::new(tokenizer)))
    }

    /// The tokens of a text, with those that the model wants at its ends.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, LmError> {
        let encoding = self.0.encode_fast(text, true);
        let encoding = encoding.map_err(|error| LmError::Tokenizer(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Reads a file of text, which must be UTF-8 and not empty.
    ///
    /// # Errors
    /// If it cannot be read, or is not UTF-8.
    pub fn read(path: &Path) -> Result<String, LmError> {
        let wrong = |why: String| LmError::Text { path: path.to_owned(), why };
        let bytes = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            wrong(format!("not UTF-8 at byte {at}; convert it, or give another text"))
        })?;
        if text.trim().is_empty() {
            return Err(wrong("it is empty; give a file with text".to_owned()));
        }
        Ok(text)
    }
}
