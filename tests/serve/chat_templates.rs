//! The chat templates of models people run, held against what transformers makes of them, and templates that
//! mean harm.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tenpak::engine::text::{ChatTemplate, Conversation, TemplateError, TemplateFiles};

#[derive(Deserialize)]
struct Recorded {
    unix: u64,
    special: Map<String, Value>,
    cases: BTreeMap<String, Case>,
    rendered: BTreeMap<String, BTreeMap<String, Outcome>>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Case {
    messages: Vec<Map<String, Value>>,
    tools: Option<Vec<Value>>,
    documents: Option<Vec<Value>>,
    add_generation_prompt: bool,
    continue_final_message: bool,
    extra: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Text(String),
    Error(String),
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/serve/templates")
}

fn template(source: &str, config: &Value) -> Result<ChatTemplate, TemplateError> {
    let (config, jinja) = (config.to_string(), source.as_bytes());
    let files = TemplateFiles {
        tokenizer_config: Some(config.as_bytes()),
        jinja: Some(jinja),
        ..TemplateFiles::default()
    };
    Ok(ChatTemplate::load(&files)?.unwrap())
}

fn one_message() -> Conversation {
    let message = json!({"role": "user", "content": "hi"});
    Conversation {
        messages: vec![message.as_object().unwrap().clone()],
        add_generation_prompt: true,
        ..Conversation::default()
    }
}

#[test]
fn templates_write_what_transformers_writes() {
    let recorded: Recorded =
        serde_json::from_slice(&fs::read(folder().join("recorded.json")).unwrap()).unwrap();
    assert!(recorded.rendered.len() >= 12 && recorded.cases.len() >= 12);
    let now = UNIX_EPOCH + Duration::from_secs(recorded.unix);
    let mut wrong = String::new();
    for (name, outcomes) in &recorded.rendered {
        let source = fs::read_to_string(folder().join(format!("{name}.jinja"))).unwrap();
        let template = template(&source, &Value::Object(recorded.special.clone()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        for (case, outcome) in outcomes {
            let of = &recorded.cases[case];
            let conversation = Conversation {
                messages: of.messages.clone(),
                tools: of.tools.clone(),
                documents: of.documents.clone(),
                add_generation_prompt: of.add_generation_prompt,
                continue_final_message: of.continue_final_message,
                extra: of.extra.clone(),
            };
            match (template.render(&conversation, now), outcome) {
                (Ok(own), Outcome::Text(text)) if own == *text => {}
                (Err(TemplateError::Refused(own)), Outcome::Error(text))
                    if text.contains(&own) || !text.starts_with("TemplateError") => {}
                (Err(_), Outcome::Error(text)) if !text.starts_with("TemplateError") => {}
                (own, Outcome::Text(text)) => {
                    wrong += &format!("{name}/{case}:\n  ours {own:?}\n  theirs {text:?}\n");
                }
                (own, Outcome::Error(text)) => {
                    wrong += &format!("{name}/{case}:\n  ours {own:?}\n  theirs error {text:?}\n");
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn templates_are_found_where_checkpoints_keep_them() {
    let render = |files: &TemplateFiles<'_>, tools: bool| {
        let mut of = one_message();
        of.tools = tools.then(Vec::new);
        ChatTemplate::load(files).unwrap().unwrap().render(&of, SystemTime::now()).unwrap()
    };
    let named = json!({"bos_token": {"content": "<b>"}, "chat_template": [
        {"name": "default", "template": "{{ bos_token }}default"}, {"name": "tool_use", "template": "tools"}]});
    let named = named.to_string();
    let mut files =
        TemplateFiles { tokenizer_config: Some(named.as_bytes()), ..Default::default() };
    assert_eq!(render(&files, false), "<b>default");
    assert_eq!(render(&files, true), "tools");
    files.json = Some(br#"{"chat_template": "json {{ eos_token }}"}"#);
    files.special_tokens_map = Some(br#"{"eos_token": "</s>"}"#);
    assert_eq!(render(&files, false), "json </s>");
    files.jinja = Some(b"jinja");
    assert_eq!(render(&files, false), "jinja");
    assert!(ChatTemplate::load(&TemplateFiles::default()).unwrap().is_none());
    for damaged in
        [&b"{"[..], b"[]", br#"{"chat_template": 3}"#, br#"{"chat_template": [{"name": "x"}]}"#]
    {
        let files = TemplateFiles { tokenizer_config: Some(damaged), ..Default::default() };
        assert!(matches!(ChatTemplate::load(&files), Err(TemplateError::File { .. })));
    }
}

#[test]
fn hostile_templates_end_in_an_error() {
    let doubling = "{% for _ in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    let shared = "{% for _ in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    let hostile = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}".to_owned(),
        "{% for a in range(99999) %}{% for b in range(999) %}xxxxxxxxxxxxxxxxxxxxxxxxx{% endfor %}{% endfor %}".to_owned(),
        "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        "{% macro f(x) %}{{ f(x) }}{{ f(x) }}{% endmacro %}{{ f(1) }}".to_owned(),
        format!("{{% set ns = namespace(x='aa') %}}{doubling}{{{{ ns.x }}}}"),
        format!("{{% set ns = namespace(x=[1]) %}}{shared}{{{{ ns.x }}}}"),
        format!("{{% set ns = namespace(x=[1]) %}}{shared}{{{{ ns.x | tojson }}}}"),
        format!("{{% set ns = namespace(x=[1]) %}}{shared}{{{{ ns.x | string | length }}}}"),
        format!("{{% set ns = namespace(x=[1]) %}}{shared}{{{{ [ns.x]|join('a') }}}}"),
        "{{ 'x' * 99999999999 }}".to_owned(),
        "{{ ('x' * 50000000) ~ ('x' * 50000000) }}".to_owned(),
        "{{ 'x' | center(9999999999) }}".to_owned(),
        "{{ '%999999999d' | format(1) }}".to_owned(),
        "{{ '{:999999999}'.format(1) }}".to_owned(),
        "{{ 9999 ** 9999999 }}".to_owned(),
        "{% include 'default' %}".to_owned(),
        "{{ messages.__class__.__mro__ }}{{ messages.x.y.z }}".to_owned(),
        format!("{}1{}", "{{ (".to_owned() + &"(".repeat(5000), ")".repeat(5000) + ") }}"),
        format!("{}{}", "{% if true %}".repeat(5000), "{% endif %}".repeat(5000)),
        "{{ 'a'.replace('', 'b' * 100000).replace('', 'b' * 100000) }}".to_owned(),
        "{{ ('a' * 1000000).split('').__len__() }}".to_owned(),
        "{% for x in range(100000) %}{{ range(100000) | sort | list | length }}{% endfor %}".to_owned(),
        "{{ raise_exception('no ' ~ 'system') }}".to_owned(),
        "{{ strftime_now('%Y' * 9999999) }}".to_owned(),
        "{{ 1".to_owned(),
    ];
    for source in &hostile {
        let begin = Instant::now();
        let shown: String = source.chars().take(100).collect();
        let outcome = template(source, &json!({}))
            .and_then(|own| own.render(&one_message(), SystemTime::now()));
        assert!(outcome.is_err(), "{shown}");
        let told = outcome.unwrap_err().to_string();
        assert!(told.len() < 500, "{shown}: {} bytes", told.len());
        assert!(begin.elapsed() < Duration::from_secs(10), "{shown} took {:?}", begin.elapsed());
    }
}
