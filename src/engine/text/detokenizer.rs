//! Text that comes token by token.
//!
//! A character whose bytes lie in several tokens is held back until the last of them. What comes in parts is,
//! put together, what the whole decodes to; bytes that are no UTF-8 become U+FFFD, as in a whole.

use std::sync::Arc;

use super::tokenizer::Tokenizer;

/// The tokens before a text that may hold the beginning of its first character.
const LOOK_BACK: usize = 8;

/// Turns the tokens of one text into pieces of text, each of whole characters.
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    /// The beginning of a character: at most three bytes.
    pending: Vec<u8>,
    /// Spaces that still fall, at the beginning of a text.
    strip: usize,
}

impl Detokenizer {
    /// Of a text that begins with its first token. Special tokens are left out if `skip_special`.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, skip_special: bool) -> Self {
        let strip = tokenizer.strip();
        Self { tokenizer, skip_special, pending: Vec::new(), strip }
    }

    /// Of a text that goes on from `prompt`.
    #[must_use]
    pub fn after(tokenizer: Arc<Tokenizer>, skip_special: bool, prompt: &[u32]) -> Self {
        let mut own = Self::new(tokenizer, skip_special);
        let begun = prompt.iter().any(|token| !own.skips(*token));
        if begun {
            own.strip = 0;
        }
        for token in &prompt[prompt.len().saturating_sub(LOOK_BACK)..] {
            own.push(*token);
        }
        own
    }

    fn skips(&self, token: u32) -> bool {
        self.skip_special && self.tokenizer.is_special(token)
    }

    /// The text that is certain with one more token; it may be empty.
    pub fn push(&mut self, token: u32) -> String {
        let mut text = String::new();
        if self.skips(token) {
            return text;
        }
        let mut piece = self.tokenizer.bytes(token);
        while self.strip > 0 && !piece.is_empty() {
            match piece.strip_prefix(b" ") {
                Some(rest) => (piece, self.strip) = (rest, self.strip - 1),
                None => self.strip = 0,
            }
        }
        self.pending.extend_from_slice(piece);
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(whole) => {
                    text.push_str(whole);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(wrong) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[wrong..];
                }
            }
        }
        let kept = rest.len();
        self.pending.drain(..self.pending.len() - kept);
        text
    }

    /// What is left when no token follows.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}
