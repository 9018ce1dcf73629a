//! A model's own tokenizer, with the bytes that each of its tokens stands for.

use std::collections::HashSet;

use tokenizers::Tokenizer as Inner;

use super::error::TokenizerError;
use super::pieces::{Pieces, Writing, byte_alphabet};

/// More tokens than any model has.
const MAX_TOKENS: u32 = 1 << 22;

/// Text to tokens and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: Box<Inner>,
    pieces: Pieces,
    special: HashSet<u32>,
    /// Spaces at the beginning of a whole text that are not its own.
    strip: usize,
}

impl Tokenizer {
    /// Reads `tokenizer.json`. Truncation and padding that it asks for are left out: they serve batches.
    ///
    /// # Errors
    /// If it is no tokenizer.
    pub fn parse(json: &[u8]) -> Result<Self, TokenizerError> {
        let unread = |error: tokenizers::Error| TokenizerError::Unread(error.to_string());
        let mut inner = Inner::from_bytes(json).map_err(unread)?;
        inner.with_truncation(None).map_err(unread)?;
        inner.with_padding(None);
        let decoder = serde_json::to_value(inner.get_decoder())
            .map_err(|error| TokenizerError::Unread(error.to_string()))?;
        let writing = Writing::of(&decoder);
        let added = inner.get_added_tokens_decoder();
        let special = added.iter().filter(|(_, token)| token.special).map(|(id, _)| *id).collect();
        let highest = inner.get_vocab(true).into_values().max().unwrap_or(0);
        if highest >= MAX_TOKENS {
            return Err(TokenizerError::TooMany { token: highest, most: MAX_TOKENS });
        }
        let (alphabet, mut pieces) = (byte_alphabet(), Pieces::default());
        let front = (writing == Writing::Other).then(|| Front::of(&inner, highest));
        for id in 0..=highest {
            match (inner.id_to_token(id), &front) {
                (None, _) => pieces.push(&[]),
                (Some(token), None) => pieces.push(&writing.bytes(&token, &alphabet)),
                (Some(token), Some(front)) => {
                    pieces.push(front.piece(&inner, id, &token).as_bytes())
                }
            }
        }
        let strip = match writing {
            Writing::ByteLevel => 0,
            Writing::Spaces { strip, .. } => strip,
            Writing::Other => 1,
        };
        Ok(Self { inner: Box::new(inner), pieces, special, strip })
    }

    /// The tokens of a text; with those that the model wants at its ends, if `special`.
    ///
    /// # Errors
    /// If the tokenizer cannot encode it.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, special);
        let encoding = encoding.map_err(|error| TokenizerError::Failed(error.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The text of tokens, those included that stand for no text of their own.
    ///
    /// # Errors
    /// If the tokenizer cannot decode them.
    pub fn decode(&self, tokens: &[u32]) -> Result<String, TokenizerError> {
        self.inner.decode(tokens, false).map_err(|error| TokenizerError::Failed(error.to_string()))
    }

    /// How many ids there are, holes included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.pieces.len()
    }

    /// The bytes of a token within a text; none if there is no such token.
    #[must_use]
    pub fn bytes(&self, token: u32) -> &[u8] {
        self.pieces.get(token)
    }

    /// Whether a token stands for no text, but for a place in it.
    #[must_use]
    pub fn is_special(&self, token: u32) -> bool {
        self.special.contains(&token)
    }

    /// The token written exactly so.
    #[must_use]
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// A token as its vocabulary writes it.
    #[must_use]
    pub fn name(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    /// The bytes of every token, for grammars: nothing for those that stand for no text.
    #[must_use]
    pub fn words(&self) -> Vec<Vec<u8>> {
        let ids = 0..u32::try_from(self.count()).unwrap_or(u32::MAX);
        ids.map(|id| if self.is_special(id) { Vec::new() } else { self.bytes(id).to_vec() })
            .collect()
    }

    pub(super) fn strip(&self) -> usize {
        self.strip
    }
}

/// A token to stand in front of others, so that a decoder shows what each adds.
struct Front {
    id: u32,
    text: String,
}

impl Front {
    fn of(inner: &Inner, highest: u32) -> Self {
        let found = (0..=highest).find_map(|id| {
            let text = inner.decode(&[id], true).ok()?;
            let letters = !text.is_empty() && text.chars().all(char::is_alphanumeric);
            letters.then_some(Self { id, text })
        });
        found.unwrap_or(Self { id: 0, text: String::new() })
    }

    fn piece(&self, inner: &Inner, id: u32, token: &str) -> String {
        let both = inner.decode(&[self.id, id], false).unwrap_or_default();
        both.strip_prefix(self.text.as_str()).unwrap_or(token).to_owned()
    }
}
