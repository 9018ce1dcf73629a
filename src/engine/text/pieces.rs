//! The bytes that each token stands for, whatever stands around it.
//!
//! Byte-level vocabularies write bytes as characters; others write a space as U+2581 and single bytes as
//! `<0x0A>`. Decoders of other kinds are asked once for each token, after one that stands in front.

use std::collections::HashMap;

use serde_json::Value;

/// How a vocabulary writes bytes.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Writing {
    /// Each character is a byte.
    ByteLevel,
    /// This mark is a space, and `<0x0A>` is a byte if `bytes`; of a whole text, the first `strip` spaces fall.
    Spaces { mark: String, bytes: bool, strip: usize },
    /// Only the decoder knows.
    Other,
}

impl Writing {
    /// By the `decoder` of a `tokenizer.json`.
    pub(super) fn of(decoder: &Value) -> Self {
        let one = [decoder];
        let steps: Vec<&Value> = match decoder["decoders"].as_array() {
            Some(steps) if decoder["type"] == "Sequence" => steps.iter().collect(),
            _ => one.to_vec(),
        };
        let (mut mark, mut bytes, mut strip) = (None, false, 0);
        for step in steps {
            match step["type"].as_str() {
                Some("ByteLevel") => return Self::ByteLevel,
                Some("Metaspace") => {
                    mark = step["replacement"].as_str().map(str::to_owned);
                    strip = usize::from(step["prepend_scheme"] != "never");
                }
                Some("Replace") if step["content"] == " " => {
                    mark = step["pattern"]["String"].as_str().map(str::to_owned);
                }
                Some("ByteFallback") => bytes = true,
                Some("Fuse") => {}
                Some("Strip") if step["content"] == " " && step["stop"] == 0 => {
                    strip = step["start"]
                        .as_u64()
                        .and_then(|start| usize::try_from(start).ok())
                        .unwrap_or(0);
                }
                _ => return Self::Other,
            }
        }
        mark.map_or(Self::Other, |mark| Self::Spaces { mark, bytes, strip })
    }

    /// The bytes of a token as the vocabulary writes it.
    pub(super) fn bytes(&self, token: &str, alphabet: &HashMap<char, u8>) -> Vec<u8> {
        match self {
            Self::ByteLevel => {
                let bytes: Option<Vec<u8>> =
                    token.chars().map(|letter| alphabet.get(&letter).copied()).collect();
                bytes.unwrap_or_else(|| token.as_bytes().to_vec())
            }
            Self::Spaces { mark, bytes, .. } => {
                if let Some(byte) = single_byte(token).filter(|_| *bytes) {
                    return vec![byte];
                }
                token.replace(mark.as_str(), " ").into_bytes()
            }
            Self::Other => token.as_bytes().to_vec(),
        }
    }
}

/// The byte that `<0x0A>` writes.
fn single_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let hex = digits.len() == 2 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if hex { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// GPT-2's characters for bytes: those that can be printed stand for themselves, the others follow U+0100.
pub(super) fn byte_alphabet() -> HashMap<char, u8> {
    let printed = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let own = (0..=255u8).filter(printed).map(|byte| (char::from(byte), byte));
    let others = ('\u{100}'..).zip((0..=255u8).filter(|byte| !printed(byte)));
    own.chain(others).collect()
}

/// Byte strings one after another.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Pieces {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.bytes.extend_from_slice(piece);
        self.ends.push(self.bytes.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Nothing for what is not there.
    pub(super) fn get(&self, at: u32) -> &[u8] {
        let at = at as usize;
        let start =
            at.checked_sub(1).and_then(|before| self.ends.get(before)).copied().unwrap_or(0);
        self.ends.get(at).and_then(|end| self.bytes.get(start..*end)).unwrap_or_default()
    }
}
