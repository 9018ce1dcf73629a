//! Embeddings, and what the tokenizer is asked directly.

use super::error::ApiError;
use super::request::{DetokenizeRequest, EmbeddingRequest, TokenizeRequest};
use super::response::{Detokenized, Embedding, Embeddings, Tokenized, Usage, Vector};
use super::state::State;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn embed(state: &State, of: &EmbeddingRequest) -> Result<Embeddings, ApiError> {
    let (model, _) = state.model(of.model.as_deref())?;
    let base64 = match of.encoding_format.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::wrong("encoding_format", "encoding_format is float or base64"));
        }
    };
    let input = of.input.as_ref().ok_or_else(|| ApiError::wrong("input", "input is required"))?;
    let prompts = state.prompts("input", input, true)?;
    let read = prompts.iter().map(|prompt| prompt.tokens.len()).sum();
    let most = prompts.iter().map(|prompt| prompt.tokens.len()).max().unwrap_or(0);
    if most > state.info.max_context {
        let told = format!("input has {most} tokens: the model takes {}", state.info.max_context);
        return Err(ApiError::wrong("input", told).coded("context_length_exceeded"));
    }
    let texts: Vec<Vec<u32>> = prompts.into_iter().map(|prompt| prompt.tokens).collect();
    let vectors = state.server.engine.embed(&texts)?;
    let length = vectors.first().map_or(0, Vec::len);
    if let Some(asked) = of.dimensions.filter(|asked| *asked as usize != length) {
        let told = format!("dimensions is {asked}: this model's embeddings have {length}");
        return Err(ApiError::wrong("dimensions", told));
    }
    let data = vectors.into_iter().enumerate().map(|(index, numbers)| {
        let embedding = if base64 {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
            Vector::Base64(encode(&bytes))
        } else {
            Vector::Floats(numbers)
        };
        Embedding { object: "embedding", index, embedding }
    });
    Ok(Embeddings { object: "list", data: data.collect(), model, usage: Usage::new(read, 0) })
}

pub(crate) fn tokenize(state: &State, of: &TokenizeRequest) -> Result<Tokenized, ApiError> {
    state.model(of.model.as_deref())?;
    let tokenizer = &state.server.tokenizer;
    let tokens = match (&of.prompt, &of.conversation.messages) {
        (Some(text), None) => tokenizer.encode(text, of.add_special_tokens.unwrap_or(true))?,
        (None, Some(_)) => state.conversation(&of.conversation)?,
        _ => return Err(ApiError::wrong("prompt", "prompt or messages is required, and not both")),
    };
    let strings = of
        .return_token_strs
        .unwrap_or(false)
        .then(|| tokens.iter().map(|token| tokenizer.name(*token).unwrap_or_default()).collect());
    Ok(Tokenized {
        count: tokens.len(),
        max_model_len: state.info.max_context,
        tokens,
        token_strs: strings,
    })
}

pub(crate) fn detokenize(state: &State, of: &DetokenizeRequest) -> Result<Detokenized, ApiError> {
    state.model(of.model.as_deref())?;
    let tokens =
        of.tokens.as_ref().ok_or_else(|| ApiError::wrong("tokens", "tokens is required"))?;
    if let Some(token) = tokens.iter().find(|token| **token as usize >= state.info.vocabulary) {
        let told = format!("tokens has {token}: the model has {}", state.info.vocabulary);
        return Err(ApiError::wrong("tokens", told));
    }
    Ok(Detokenized { prompt: state.server.tokenizer.decode(tokens)? })
}

fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let word = group.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let letter = ALPHABET[(word >> (18 - 6 * place)) as usize & 63];
            out.push(if place <= group.len() { char::from(letter) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::encode;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let pairs =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (bytes, text) in pairs {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(encode(&[0xff, 0xfe, 0xfd, 0xfb]), "//79+w==");
    }
}
