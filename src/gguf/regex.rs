//! How tokenizers of byte pairs cut a text before they merge: GGUF's name of each way, and the expressions, after
//! llama.cpp's `llama-vocab.cpp` and the tokenizers themselves. Pure data.

use serde_json::Value as Json;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const PUNCTUATION: &str = r"[\p{P}\$\+<=>\^~\|]+";
const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;

/// GGUF's names, the one that is written first, and the expressions, one after the other.
const WAYS: &[(&[&str], &[&str])] = &[
    (
        &[
            "gpt-2",
            "phi-2",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "gigachat",
            "roberta-bpe",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v2-code",
        ],
        &[GPT2],
    ),
    (
        &[
            "llama-bpe",
            "llama3",
            "llama-v3",
            "falcon3",
            "falcon-h1",
            "pixtral",
            "smaug-bpe",
            "dbrx",
            "chatglm-bpe",
            "glm4",
            "lfm2",
            "midm-2.0",
        ],
        &[LLAMA3],
    ),
    (&["qwen2", "stablelm2", "hunyuan", "deepseek-r1-qwen", "megrez", "kormo"], &[QWEN2]),
    (&["qwen35"], &[QWEN35]),
    (&["gpt-4o", "llama4", "kanana2"], &[GPT4O]),
    (&["tekken"], &[TEKKEN]),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        &[r"\p{N}", GPT2],
    ),
    (&["falcon"], &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"]),
    (&["deepseek-v3", "hunyuan-dense"], &[r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+", DEEPSEEK]),
    (&["deepseek-coder"], &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"]),
    (&["default"], &[PUNCTUATION, GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
];

/// The expressions of the way that GGUF calls so.
pub fn of(pre: &str) -> Option<&'static [&'static str]> {
    WAYS.iter().find(|(names, _)| names.contains(&pre)).map(|(_, own)| *own)
}

/// What GGUF calls the way of `tokenizer.json`'s pre-tokenizer of bytes; `None` if it has no name that is known here.
pub fn named(pre_tokenizer: &Json) -> Option<&'static str> {
    let steps = match pre_tokenizer.get("pretokenizers").and_then(Json::as_array) {
        Some(steps) => steps.iter().collect(),
        None => vec![pre_tokenizer],
    };
    let (mut found, mut bytes) = (Vec::new(), false);
    for step in steps {
        let flag = |key: &str, absent| step.get(key).and_then(Json::as_bool).unwrap_or(absent);
        match step.get("type").and_then(Json::as_str)? {
            "ByteLevel" => {
                bytes = true;
                if flag("add_prefix_space", true) {
                    return None;
                }
                found.extend(flag("use_regex", true).then_some(GPT2));
            }
            "Split" => found.push(step.get("pattern")?.get("Regex")?.as_str()?),
            "Digits" => {
                found.push(if flag("individual_digits", false) { r"\p{N}" } else { r"\p{N}+" })
            }
            _ => return None,
        }
    }
    let way = WAYS.iter().find(|(_, own)| **own == *found).filter(|_| bytes);
    way.and_then(|(names, _)| names.first().copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ways_have_names() {
        let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": true});
        assert_eq!(named(&bytes), Some("gpt-2"));
        let prefixed = json!({"type": "ByteLevel", "add_prefix_space": true});
        assert_eq!(named(&prefixed), None);
        for (names, own) in WAYS {
            let split = |own: &&str| json!({"type": "Split", "pattern": {"Regex": own}, "behavior": "Isolated"});
            let mut steps: Vec<Json> = own.iter().map(split).collect();
            steps.push(json!({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}));
            assert_eq!(
                named(&json!({"type": "Sequence", "pretokenizers": steps})),
                names.first().copied()
            );
            assert!(names.iter().all(|name| of(name) == Some(own)));
        }
        assert_eq!(named(&json!({"type": "Metaspace"})), None);
        assert_eq!(of("nothing"), None);
    }
}
