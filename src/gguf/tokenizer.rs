//! `tokenizer.json` and what lies beside it, out of a GGUF file's metadata. Pure.
//!
//! Tokenizers of byte pairs (`gpt2`) and those of SentencePiece whose pieces have scores (`llama`): those of a score
//! merge in its order, as transformers makes merges of them.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value as Json, json};

use super::{GgufError, Header, regex};

/// Kinds of tokens.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER: i64 = 4;
const UNUSED: i64 = 5;
/// The most tokens.
const MAX_TOKENS: u64 = 1 << 22;
/// The longest piece that merges are made of, in characters.
const MAX_PIECE: usize = 256;

/// The tokens of a file.
struct Tokens<'a> {
    texts: Vec<&'a str>,
    kinds: Vec<i64>,
}

impl<'a> Tokens<'a> {
    fn of(header: &Header<'a>) -> Result<Self, GgufError> {
        let missing = || GgufError::Missing("tokenizer.ggml.tokens".to_owned());
        let array = header.array("tokenizer.ggml.tokens").ok_or_else(missing)?;
        if array.len() > MAX_TOKENS {
            let (count, most) = (array.len(), MAX_TOKENS);
            return Err(GgufError::Count { what: "tokens", count, most });
        }
        let texts: Vec<&str> = array.texts().collect();
        if texts.len() as u64 != array.len() {
            return Err(missing());
        }
        let kinds = header.array("tokenizer.ggml.token_type");
        let kinds = kinds.into_iter().flat_map(|kinds| kinds.values());
        let kinds = kinds.map(|kind| kind.float().unwrap_or(1.0) as i64);
        let kinds = kinds.chain(std::iter::repeat(NORMAL)).take(texts.len()).collect();
        Ok(Self { texts, kinds })
    }

    fn all(&self) -> impl Iterator<Item = (usize, &'a str, i64)> {
        let both = self.texts.iter().copied().zip(self.kinds.iter().copied());
        both.enumerate().map(|(id, (text, kind))| (id, text, kind))
    }

    /// Those that a model has: none for the rows of an embedding that stand for nothing.
    fn vocab(&self) -> Map<String, Json> {
        let own = self.all().filter(|(_, _, kind)| *kind != UNUSED);
        own.map(|(id, text, _)| (text.to_owned(), json!(id))).collect()
    }

    /// Those that are found in a text before it is cut.
    fn added(&self) -> Vec<Json> {
        let own = self.all().filter(|(_, text, kind)| {
            matches!(*kind, CONTROL | USER | UNKNOWN) && !text.is_empty()
        });
        let one = |(id, text, kind)| {
            json!({"id": id, "content": text, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind != USER})
        };
        own.map(one).collect()
    }
}

/// What a special token is called.
fn special(header: &Header<'_>, tokens: &Tokens<'_>, name: &str) -> Option<(u64, String)> {
    let id = header.unsigned(&format!("tokenizer.ggml.{name}_token_id"))?;
    let text = tokens.texts.get(usize::try_from(id).ok()?)?;
    Some((id, (*text).to_owned()))
}

/// The files that say how text becomes tokens: `tokenizer.json`, `tokenizer_config.json` and
/// `generation_config.json`.
///
/// # Errors
/// If there is no tokenizer, or it is not known here.
pub fn files(header: &Header<'_>) -> Result<Vec<(&'static str, Json)>, GgufError> {
    let tokens = Tokens::of(header)?;
    let named = |name: &str| special(header, &tokens, name);
    let kind = header.text("tokenizer.ggml.model").unwrap_or_default();
    let pre = header.text("tokenizer.ggml.pre").unwrap_or("default");
    // As llama.cpp: pieces of SentencePiece begin with a mark, and Llama 3's byte pairs.
    let begins = kind == "llama" || matches!(pre, "llama-bpe" | "llama3" | "llama-v3");
    let begins = header.flag("tokenizer.ggml.add_bos_token").unwrap_or(begins);
    let ends = header.flag("tokenizer.ggml.add_eos_token").unwrap_or(false);
    let (bos, eos) = (named("bos"), named("eos"));
    let template = template(bos.as_ref().filter(|_| begins), eos.as_ref().filter(|_| ends));
    let mut tokenizer = match kind {
        "gpt2" => pairs(header, &tokens, pre)?,
        "llama" => pieces(header, &tokens)?,
        other => return Err(GgufError::Tokenizer(format!("tokenizer.ggml.model {other:?}"))),
    };
    if let Some(own) = tokenizer.as_object_mut() {
        own.insert("version".to_owned(), json!("1.0"));
        own.insert("truncation".to_owned(), Json::Null);
        own.insert("padding".to_owned(), Json::Null);
        own.insert("added_tokens".to_owned(), json!(tokens.added()));
        own.insert("post_processor".to_owned(), template);
    }
    let mut config = json!({
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": false,
        "add_bos_token": begins,
        "add_eos_token": ends,
    });
    if let Some(config) = config.as_object_mut() {
        for (key, name) in [
            ("bos_token", "bos"),
            ("eos_token", "eos"),
            ("unk_token", "unknown"),
            ("pad_token", "padding"),
            ("mask_token", "mask"),
        ] {
            config.extend(named(name).map(|(_, text)| (key.to_owned(), json!(text))));
        }
        if let Some(template) = header.text("tokenizer.chat_template") {
            config.insert("chat_template".to_owned(), json!(template));
        }
    }
    let mut ends: Vec<u64> =
        ["eos", "eot", "eom"].iter().filter_map(|own| Some(named(own)?.0)).collect();
    ends.dedup();
    let generation = json!({"bos_token_id": bos.map(|(id, _)| id), "eos_token_id": ends});
    Ok(vec![
        ("tokenizer.json", tokenizer),
        ("tokenizer_config.json", config),
        ("generation_config.json", generation),
    ])
}

/// What is put around a text.
fn template(begin: Option<&(u64, String)>, end: Option<&(u64, String)>) -> Json {
    if begin.is_none() && end.is_none() {
        return Json::Null;
    }
    let part = |own: Option<&(u64, String)>, of: u32| {
        own.map(|(_, text)| json!({"SpecialToken": {"id": text, "type_id": of}}))
    };
    let around = |name: &str, of: u32| {
        let text = json!({"Sequence": {"id": name, "type_id": of}});
        [part(begin, of), Some(text), part(end, of)].into_iter().flatten().collect::<Vec<_>>()
    };
    let own = |(id, text): &(u64, String)| {
        (text.clone(), json!({"id": text, "ids": [id], "tokens": [text]}))
    };
    let known: Map<String, Json> = [begin, end].into_iter().flatten().map(own).collect();
    let (single, pair) = (around("A", 0), [around("A", 0), around("B", 1)].concat());
    json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known})
}

/// A tokenizer of byte pairs.
fn pairs(header: &Header<'_>, tokens: &Tokens<'_>, pre: &str) -> Result<Json, GgufError> {
    let unknown = || GgufError::Tokenizer(format!("tokenizer.ggml.pre {pre:?}"));
    let ways = regex::of(pre).ok_or_else(unknown)?;
    let mut steps: Vec<Json> = Vec::new();
    for way in ways {
        steps.push(json!({"type": "Split", "pattern": {"Regex": way}, "behavior": "Isolated",
            "invert": false}));
    }
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false});
    steps.push(bytes.clone());
    let merges = header.array("tokenizer.ggml.merges");
    let merges = merges.ok_or_else(|| GgufError::Missing("tokenizer.ggml.merges".to_owned()))?;
    // A pair is two pieces with a space between; the first may begin with one.
    let pair = |text: &'_ str| {
        let from = text.chars().next().map_or(0, char::len_utf8);
        let at = from + text.get(from..)?.find(' ')?;
        Some(json!([text.get(..at)?, text.get(at + 1..)?]))
    };
    let merges: Vec<Json> = merges.texts().filter_map(pair).collect();
    let whole = matches!(pre, "llama-bpe" | "llama3" | "llama-v3" | "tekken" | "pixtral");
    let composed = matches!(pre, "qwen2" | "deepseek-r1-qwen" | "qwen35");
    Ok(json!({
        "normalizer": if composed { json!({"type": "NFC"}) } else { Json::Null },
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "decoder": bytes,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": whole, "vocab": tokens.vocab(), "merges": merges},
    }))
}

/// A tokenizer of SentencePiece.
fn pieces(header: &Header<'_>, tokens: &Tokens<'_>) -> Result<Json, GgufError> {
    let missing = || GgufError::Missing("tokenizer.ggml.scores".to_owned());
    let scores = header.array("tokenizer.ggml.scores").ok_or_else(missing)?;
    let scores: Vec<f64> = scores.values().filter_map(|score| score.float()).collect();
    if scores.len() != tokens.texts.len() || scores.iter().any(|score| score.is_nan()) {
        return Err(missing());
    }
    let ids: HashMap<&str, usize> = tokens.all().map(|(id, text, _)| (text, id)).collect();
    let mut merges: Vec<(f64, &str, &str)> = Vec::new();
    let normal = tokens.all().filter(|(_, text, kind)| *kind == NORMAL && text.len() <= MAX_PIECE);
    for ((_, text, _), score) in normal.map(|own| (own, scores.get(own.0).copied().unwrap_or(0.0)))
    {
        let splits = text.char_indices().skip(1).filter_map(|(at, _)| text.split_at_checked(at));
        let known = splits
            .filter_map(|(left, right)| Some(((*ids.get(left)?, *ids.get(right)?), (left, right))));
        let mut known: Vec<_> = known.collect();
        known.sort_by_key(|own| std::cmp::Reverse(own.0));
        merges.extend(known.into_iter().map(|(_, (left, right))| (score, left, right)));
    }
    merges.sort_by(|one, other| other.0.total_cmp(&one.0));
    let mut seen = HashSet::new();
    merges.retain(|(_, left, right)| seen.insert((*left, *right)));
    let merges: Vec<Json> =
        merges.into_iter().map(|(_, left, right)| json!([left, right])).collect();
    let prefix = header.flag("tokenizer.ggml.add_space_prefix").unwrap_or(true);
    let spaces = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix {
        true => {
            json!({"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]})
        }
        false => spaces,
    };
    let mut decoders = vec![
        json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "}),
        json!({"type": "ByteFallback"}),
        json!({"type": "Fuse"}),
    ];
    if prefix {
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    let unknown = special(header, tokens, "unknown").map(|(_, text)| text);
    let unknown = unknown.or_else(|| {
        tokens.all().find(|(_, _, kind)| *kind == UNKNOWN).map(|(_, text, _)| text.to_owned())
    });
    Ok(json!({
        "normalizer": normalizer,
        "pre_tokenizer": null,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {"type": "BPE", "dropout": null, "unk_token": unknown,
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": tokens.vocab(), "merges": merges},
    }))
}
