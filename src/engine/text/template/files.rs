//! Where a checkpoint keeps its chat templates: `chat_template.jinja`, `chat_template.json`, or
//! `tokenizer_config.json`; and the special tokens that templates name.

use serde_json::{Map, Value};

use crate::engine::text::error::TemplateError;

/// Bytes of one template; the longest in use have 30 KiB.
const MAX_SOURCE: usize = 1 << 20;

/// The files of a checkpoint that may hold templates; those that it lacks are left out.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateFiles<'a> {
    /// `tokenizer_config.json`.
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`.
    pub special_tokens_map: Option<&'a [u8]>,
    /// `chat_template.jinja`.
    pub jinja: Option<&'a [u8]>,
    /// `chat_template.json`.
    pub json: Option<&'a [u8]>,
}

pub(super) struct Found {
    pub(super) templates: Vec<(String, String)>,
    pub(super) special: Map<String, Value>,
}

pub(super) fn read(files: &TemplateFiles<'_>) -> Result<Found, TemplateError> {
    let config = object("tokenizer_config.json", files.tokenizer_config)?;
    let map = object("special_tokens_map.json", files.special_tokens_map)?;
    let mut special = special_tokens(&map);
    special.extend(special_tokens(&config));
    let own = match (files.jinja, files.json) {
        (Some(source), _) => {
            let text = std::str::from_utf8(source)
                .map_err(|error| wrong("chat_template.jinja", &error.to_string()))?;
            listed("chat_template.jinja", Some(&Value::from(text)))?
        }
        (None, json) => {
            let file = "chat_template.json";
            listed(file, object(file, json)?.get("chat_template"))?
        }
    };
    let mut templates = listed("tokenizer_config.json", config.get("chat_template"))?;
    templates.retain(|(name, _)| own.iter().all(|(other, _)| other != name));
    templates.extend(own);
    if let Some((name, _)) = templates.iter().find(|(_, source)| source.len() > MAX_SOURCE) {
        return Err(TemplateError::Syntax(format!("{name} is longer than {MAX_SOURCE} bytes")));
    }
    Ok(Found { templates, special })
}

fn wrong(file: &'static str, told: &str) -> TemplateError {
    TemplateError::File { file, told: told.to_owned() }
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<Map<String, Value>, TemplateError> {
    let Some(bytes) = bytes else { return Ok(Map::new()) };
    serde_json::from_slice(bytes).map_err(|error| wrong(file, &error.to_string()))
}

/// One template, or several with names.
fn listed(
    file: &'static str,
    value: Option<&Value>,
) -> Result<Vec<(String, String)>, TemplateError> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(source)) => Ok(vec![("default".to_owned(), source.clone())]),
        Some(Value::Array(list)) => {
            let each = list.iter().map(|entry| {
                let (name, source) = (entry["name"].as_str()?, entry["template"].as_str()?);
                Some((name.to_owned(), source.to_owned()))
            });
            let all: Option<Vec<_>> = each.collect();
            all.ok_or_else(|| wrong(file, "a template of chat_template has no name or no text"))
        }
        Some(_) => Err(wrong(file, "chat_template is neither a text nor a list")),
    }
}

/// `bos_token` and its like; each a text, or an object that holds it.
fn special_tokens(config: &Map<String, Value>) -> Map<String, Value> {
    let named = config.iter().filter(|(name, _)| name.ends_with("_token"));
    let texts = named.filter_map(|(name, value)| {
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        Some((name.clone(), Value::from(text)))
    });
    texts.collect()
}

/// A template whose marks of what the model itself wrote (`{% generation %}`) are blocks that do nothing.
pub(super) fn without_generation(source: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(source.len()), source);
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let body = tag[2..tag.len() - 2].trim_matches(['-', '+']).trim();
        match body {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
