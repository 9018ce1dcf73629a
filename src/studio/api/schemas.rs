//! What requests and answers hold, in the words of JSON Schema.

use serde_json::{Value, json};

use crate::quantize::produce::PRESETS;
use crate::studio::request::KINDS;

/// The methods of quantization that take no more than their own settings.
const METHODS: [&str; 20] = [
    "nf4", "int8", "fp8", "mxfp4", "nvfp4", "rtn", "gptq", "awq", "hqq", "q4_0", "q5_0", "q5_1",
    "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl", "iq4_xs",
];
/// Names of the public, with a path; what is looked up later may still be refused.
const WEBHOOK: &str =
    "^https://([a-z0-9]+(-[a-z0-9]+)*[.]){1,4}[a-z]{2,16}(:[1-9][0-9]{0,3})?(/[A-Za-z0-9._/-]*)?$";

pub(super) fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn pattern(pattern: &str) -> Value {
    json!({"type": "string", "pattern": pattern})
}

/// An object of these fields alone.
fn object(required: &[&str], properties: Value) -> Value {
    json!({"type": "object", "required": required, "additionalProperties": false, "properties": properties})
}

/// A submission's schema and the same for an estimate, whose kind is said in its body.
fn estimated(kind: &str, mut schema: Value) -> Value {
    schema["properties"]["kind"] = json!({"const": kind});
    if let (Value::Array(required), true) = (&mut schema["required"], kind != "compress") {
        required.push("kind".into());
    }
    schema
}

pub(super) fn schemas() -> Value {
    let segment = "[A-Za-z0-9][A-Za-z0-9_-]{0,60}";
    let artifact = format!("{segment}(/{segment})?(:{segment})?");
    let text = json!({"type": "string", "minLength": 1, "maxLength": 512});
    let name = pattern(&format!("^{segment}(/{segment})?$"));
    let number = json!({"type": "number", "minimum": 0, "maximum": 1e6});
    let priority = json!({"type": "integer", "minimum": -9, "maximum": 9});
    let presets: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let maybe = |kind: &str| json!({"type": [kind, "null"]});
    let model = reference("Model");
    let mut compress = object(
        &["model"],
        json!({
            "model": model, "name": name, "preset": {"enum": presets}, "method": {"enum": METHODS},
            "bits": {"type": "integer"}, "group_size": {"type": "integer"}, "format": text,
            "skip": {"type": "array", "items": text}, "priority": priority,
        }),
    );
    compress["oneOf"] = json!([{"required": ["preset"]}, {"required": ["method"]}]);
    let optimize = object(
        &["model"],
        json!({
            "model": model, "name": name, "max_ppl_delta": number, "max_latency_ms": number,
            "min_compression": number, "hardware": text, "priority": priority,
        }),
    );
    let delta = object(
        &["model", "base"],
        json!({
            "model": model, "base": reference("Artifact"), "name": name,
            "method": {"enum": ["lossless", "sparse_int8", "uniform"]}, "priority": priority,
        }),
    );
    let estimate = json!({"oneOf": [
        estimated("compress", compress.clone()), estimated("optimize", optimize.clone()),
        estimated("delta", delta.clone()),
    ]});
    json!({
        "Compress": compress,
        "Optimize": optimize,
        "Delta": delta,
        "Estimate": estimate,
        "Artifact": pattern(&format!("^({artifact}|@[0-9a-f]{{6,64}})$")),
        "Elsewhere": {
            "type": "string", "maxLength": 512, "pattern": "^(hf|s3|gs|az|https)://[A-Za-z0-9][!-~]*$",
            "description": "hf://org/model, hf://org/model@revision, or the address of a folder",
        },
        "Model": {"anyOf": [
            reference("Artifact"), pattern("^upload:[0-9a-f]{32}$"), pattern("^/[A-Za-z0-9._/-]{1,200}$"),
            reference("Elsewhere"), pattern("^sample://austen$"),
        ]},
        "Webhook": object(&["url"], json!({
            "url": {"type": "string", "maxLength": 2048, "pattern": WEBHOOK},
            "events": {"type": "array", "minItems": 1, "maxItems": 3, "items": {"enum": ["job.succeeded", "job.failed", "job.cancelled"]}},
        })),
        "Status": {"enum": crate::jobs::State::ALL},
        "Job": {"type": "object", "required": ["id", "kind", "status", "created_at", "urls"], "properties": {
            "id": {"type": "string"}, "kind": {"enum": KINDS}, "status": reference("Status"),
            "tenant": {"type": "string"}, "request": {"type": "object"}, "priority": {"type": "integer"},
            "created_at": {"type": "string"}, "started_at": maybe("string"), "finished_at": maybe("string"),
            "estimated_finish": maybe("string"), "progress": maybe("object"), "attempts": {"type": "integer"},
            "max_attempts": {"type": "integer"}, "worker": maybe("string"), "result": maybe("object"),
            "error": maybe("string"), "retry_of": maybe("string"), "events": {"type": "integer"},
            "parts": {"type": "array", "items": {"type": "object"}}, "urls": {"type": "object"},
        }},
        "Jobs": {"type": "object", "required": ["jobs", "next_cursor"], "properties": {
            "jobs": {"type": "array", "items": reference("Job")}, "next_cursor": maybe("string"),
        }},
        "Problem": {"type": "object", "required": ["type", "title", "status", "detail"], "properties": {
            "type": {"type": "string"}, "title": {"type": "string"}, "status": {"type": "integer"},
            "detail": {"type": "string"},
        }},
    })
}
