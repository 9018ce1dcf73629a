//! The tokenizer and the chat template of a model as a GGUF header has them.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ProduceError;
use super::gguf_values::Values;
use crate::gguf::regex;
use crate::quantize::source::ModelSource;

/// The longest chat template.
const MAX_TEMPLATE: u64 = 4 << 20;

/// The tokenizer, if it is one of byte pairs; another is left to the files that lie beside.
pub(super) fn tokenizer(
    checkpoint: &ModelSource,
    config: &Value,
    values: &mut Values,
) -> Result<(), ProduceError> {
    let Some(tokenizer) = checkpoint.json("tokenizer.json")? else { return Ok(()) };
    let model = tokenizer.get("model");
    let part = |key: &str| model.and_then(|model| model.get(key));
    let kind = part("type").and_then(Value::as_str);
    let bytes =
        tokenizer.get("pre_tokenizer").is_some_and(|pre| pre.to_string().contains("ByteLevel"));
    let vocab = part("vocab").and_then(Value::as_object);
    let (Some("BPE"), true, Some(vocab)) = (kind, bytes, vocab) else { return Ok(()) };
    let mut tokens = BTreeMap::new();
    for (token, id) in vocab {
        tokens.extend(id.as_u64().map(|id| (id, (token.clone(), 1))));
    }
    let added = tokenizer.get("added_tokens").and_then(Value::as_array);
    for token in added.into_iter().flatten() {
        let special = token.get("special").and_then(Value::as_bool).unwrap_or(false);
        let content = token.get("content").and_then(Value::as_str).unwrap_or_default();
        let id = token.get("id").and_then(Value::as_u64);
        tokens.extend(id.map(|id| (id, (content.to_owned(), if special { 3 } else { 4 }))));
    }
    // As many tokens as there are rows of the embedding.
    let last = tokens.last_key_value().map_or(0, |(id, _)| id + 1);
    let size = config.get("vocab_size").and_then(Value::as_u64).unwrap_or(0).max(last);
    let size = size.min(1 << 24);
    let token = |id| tokens.get(&id).cloned().unwrap_or_else(|| (format!("[PAD{id}]"), 5));
    let (texts, kinds): (Vec<String>, Vec<i32>) = (0..size).map(token).unzip();
    let merges = part("merges").and_then(Value::as_array);
    let merge = |merge: &Value| match merge {
        Value::String(merge) => Some(merge.clone()),
        Value::Array(pair) => {
            let pair: Vec<&str> = pair.iter().filter_map(Value::as_str).collect();
            Some(pair.join(" "))
        }
        _ => None,
    };
    let merges: Vec<String> = merges.into_iter().flatten().filter_map(merge).collect();
    let way = tokenizer.get("pre_tokenizer").and_then(regex::named).unwrap_or("default");
    values.text("tokenizer.ggml.model", "gpt2");
    values.text("tokenizer.ggml.pre", way);
    values.texts("tokenizer.ggml.tokens", &texts);
    values.i32s("tokenizer.ggml.token_type", &kinds);
    values.texts("tokenizer.ggml.merges", &merges);
    for (key, name) in
        [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
    {
        let id = config.get(key).map(|id| id.get(0).unwrap_or(id));
        if let Some(id) = id.and_then(Value::as_u64) {
            values.u32(&format!("tokenizer.ggml.{name}_token_id"), id);
        }
    }
    // Several ends: what is not the end of a text ends a turn.
    let more = checkpoint.json("generation_config.json")?;
    let ends = |json: &Value| json.get("eos_token_id").and_then(Value::as_array).cloned();
    let ends = more.as_ref().and_then(ends).or_else(|| ends(config)).unwrap_or_default();
    let first =
        config.get("eos_token_id").map(|id| id.get(0).unwrap_or(id)).and_then(Value::as_u64);
    if let Some(turn) = ends.iter().filter_map(Value::as_u64).find(|id| Some(*id) != first) {
        values.u32("tokenizer.ggml.eot_token_id", turn);
    }
    let begins = |added: &Value| {
        let text = added.to_string();
        text.contains("TemplateProcessing")
            && config
                .get("bos_token_id")
                .and_then(Value::as_u64)
                .and_then(|id| tokens.get(&id))
                .is_some_and(|(bos, _)| text.contains(&Value::from(bos.as_str()).to_string()))
    };
    let begins = tokenizer.get("post_processor").is_some_and(begins);
    values.flag("tokenizer.ggml.add_bos_token", begins);
    if let Some(template) = template(checkpoint)? {
        values.text("tokenizer.chat_template", &template);
    }
    Ok(())
}

/// The chat template, wherever it lies.
fn template(checkpoint: &ModelSource) -> Result<Option<String>, ProduceError> {
    if let Some(own) = checkpoint.file("chat_template.jinja", MAX_TEMPLATE)? {
        return Ok(String::from_utf8(own.to_vec()).ok());
    }
    for path in ["chat_template.json", "tokenizer_config.json"] {
        let own = checkpoint.json(path)?;
        let own = own.as_ref().and_then(|own| own.get("chat_template"));
        let named = |own: &Value| {
            // Of several, the one that is for chats.
            let all = own.as_array()?.iter();
            let mut all =
                all.filter(|one| one.get("name").and_then(Value::as_str) == Some("default"));
            all.next()?.get("template")?.as_str().map(str::to_owned)
        };
        let text = own.and_then(|own| own.as_str().map(str::to_owned).or_else(|| named(own)));
        if text.is_some() {
            return Ok(text);
        }
    }
    Ok(None)
}
