//! Grammars that mean harm: each ends in an error, or runs within its bounds.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tenpak::engine::sample::{Grammar, Grammars, Sampler, Sampling};

use crate::support::{END, tokenizer};

fn grammars() -> (Grammars, usize) {
    let tokenizer = tokenizer();
    (Grammars::new(&tokenizer.words(), &[END]).unwrap(), tokenizer.count())
}

#[test]
fn hostile_grammars_end_within_their_bounds() {
    let (grammars, vocabulary) = grammars();
    let nested = (0..200)
        .fold(json!({"type": "string"}), |inner, _| json!({"type": "array", "items": inner}));
    let wide: serde_json::Map<String, Value> = (0..2000)
        .map(|at| (format!("p{at}"), json!({"type": ["string", "null"], "maxLength": 9000})))
        .collect();
    let any_of: Vec<Value> =
        (0..500).map(|at| json!({"type": "object", "properties": {"a": {"const": at}}})).collect();
    let repeated = |count: usize| (0..count).map(|at| format!("(a?){{{at}}}")).collect::<String>();
    let hostile = [
        Grammar::Regex("(((a{1000}){1000}){1000}){1000}".to_owned()),
        Grammar::Regex("(a|aa|aaa|aaaa)*{99999}".to_owned()),
        Grammar::Regex(format!("{}{}", "(a|".repeat(5000), ")".repeat(5000))),
        Grammar::Regex(".*a.{200}b.{200}c.{200}".to_owned()),
        Grammar::Regex("(.*a){50}".to_owned()),
        Grammar::Regex("(?:[^a]*a[^b]*b){300}&~(.*x.{30})".to_owned()),
        Grammar::Regex(repeated(300)),
        Grammar::Regex("\\p{L}{1000}".to_owned()),
        Grammar::Regex("a".repeat(100_000)),
        Grammar::JsonSchema(nested),
        Grammar::JsonSchema(json!({"type": "object", "properties": wide})),
        Grammar::JsonSchema(
            json!({"allOf": [{"anyOf": any_of.clone()}, {"anyOf": any_of.clone()}]}),
        ),
        Grammar::JsonSchema(json!({"oneOf": any_of})),
        Grammar::JsonSchema(json!({"$ref": "#"})),
        Grammar::JsonSchema(json!({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"})),
        Grammar::JsonSchema(json!({"$ref": "https://example.com/x"})),
        Grammar::JsonSchema(
            json!({"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"}),
        ),
        Grammar::JsonSchema(json!({"type": "array", "minItems": 4_000_000_000u64})),
        Grammar::JsonSchema(
            json!({"type": "array", "minItems": 9000, "items": {"type": "array", "minItems": 9000}}),
        ),
        Grammar::JsonSchema(json!({"type": "string", "pattern": "(((a{100}){100}){100}){100}"})),
        Grammar::JsonSchema(json!({"type": "integer", "multipleOf": 982_451_653, "minimum": 1})),
        Grammar::JsonSchema(json!({"type": "string", "format": "uri"})),
        Grammar::JsonSchema(json!(3)),
        Grammar::Lark("start: start start | \"a\" | \"\"".to_owned()),
        Grammar::Lark("start: a{1000000}\na: b{1000000}\nb: \"x\"".to_owned()),
        Grammar::Lark("start: x\nx: y\ny: x".to_owned()),
        Grammar::Lark(format!("start: {}", "\"a\" | ".repeat(7000))),
        Grammar::Lark(format!("start: {}\"a\"{}", "(".repeat(20_000), ")".repeat(20_000))),
        Grammar::Lark("%import common.ALL\nstart: ALL".to_owned()),
        Grammar::Lark("start: %json {\"type\": \"object\"}".repeat(500)),
        Grammar::Choice((0..5000).map(|at| format!("{at}")).collect()),
    ];
    for grammar in hostile {
        let shown: String = format!("{grammar:?}").chars().take(90).collect();
        let begin = Instant::now();
        let told = match grammars.compile(&grammar) {
            Err(error) => error.to_string(),
            Ok(constraint) => {
                let mut of = Sampling::default();
                of.ignore_eos = true;
                let sampler = Sampler::new(&of, &[], vocabulary, &[END], 1).unwrap();
                let mut sampler = sampler.with_constraint(Some(constraint));
                let logits: Vec<f32> = (0..vocabulary).map(|at| (at % 13) as f32 / 4.0).collect();
                let steps = (0..60)
                    .map(|_| sampler.next(&logits))
                    .take_while(|step| step.as_ref().is_ok_and(|own| own.1.is_none()));
                format!("{} steps", steps.count())
            }
        };
        assert!(told.len() < 600, "{shown}: {}", told.len());
        assert!(begin.elapsed() < Duration::from_secs(20), "{shown}: {:?}", begin.elapsed());
    }
}
