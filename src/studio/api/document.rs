//! The description of the interface (OpenAPI 3.1), for programs.

use axum::Json;
use serde_json::{Map, Value, json};

use super::links::{id_of, links};
use super::schemas::{reference, schemas};

/// Bytes of a file that an upload may have.
const MAX_UPLOAD: u64 = crate::studio::uploads::MAX_BYTES;

/// A route: method, path, what it does, the schema of its body, and of its answer.
type Route =
    (&'static str, &'static str, &'static str, Option<&'static str>, (&'static str, &'static str));

const ROUTES: &[Route] = &[
    ("post", "/compress", "Quantize a model", Some("Compress"), ("202", "Job")),
    (
        "post",
        "/optimize",
        "Find the cheapest form of a model that meets limits",
        Some("Optimize"),
        ("202", "Job"),
    ),
    (
        "post",
        "/delta/compress",
        "Write a fine-tune as its difference from a base",
        Some("Delta"),
        ("202", "Job"),
    ),
    ("get", "/status/{id}", "A job; the same as /jobs/{id}", None, ("200", "Job")),
    (
        "get",
        "/artifact/{id}",
        "What a job made: files with where they are, tensors, lineage",
        None,
        ("200", "Object"),
    ),
    ("get", "/jobs", "Jobs, the newest first", None, ("200", "Jobs")),
    ("get", "/jobs/{id}", "A job", None, ("200", "Job")),
    ("post", "/jobs/{id}/cancel", "Ask for a job's end", None, ("200", "Job")),
    ("post", "/jobs/{id}/retry", "Submit again what failed or was cancelled", None, ("202", "Job")),
    (
        "get",
        "/jobs/{id}/events",
        "A job's events, server-sent; Last-Event-ID resumes",
        None,
        ("200", "Events"),
    ),
    ("get", "/jobs/{id}/log", "A job's log", None, ("200", "Text")),
    ("get", "/artifacts", "The store's artifacts", None, ("200", "Object")),
    ("get", "/artifacts/{name}", "An artifact", None, ("200", "Object")),
    (
        "get",
        "/artifacts/{name}/diff/{other}",
        "What another artifact has other than it",
        None,
        ("200", "Object"),
    ),
    (
        "get",
        "/lineage/{name}",
        "What an artifact was made from, as a drawing",
        None,
        ("200", "Drawing"),
    ),
    ("post", "/uploads", "Begin an upload", None, ("201", "Object")),
    ("get", "/uploads/{id}", "An upload that is complete", None, ("200", "Object")),
    ("delete", "/uploads/{id}", "Forget an upload", None, ("204", "")),
    ("post", "/uploads/{id}/{file}", "Begin a file (tus: Upload-Length)", None, ("201", "")),
    ("head", "/uploads/{id}/{file}", "How much of a file is there", None, ("200", "")),
    (
        "patch",
        "/uploads/{id}/{file}",
        "Append to a file (tus: Upload-Offset)",
        Some("Bytes"),
        ("204", ""),
    ),
    (
        "post",
        "/estimate",
        "Size, time and cost of a request, from what similar jobs took",
        Some("Estimate"),
        ("200", "Object"),
    ),
    ("get", "/presets", "Recipes with names", None, ("200", "Object")),
    ("get", "/hardware", "What models may be optimized for", None, ("200", "Object")),
    ("get", "/webhooks", "Who is told of the tenant's jobs", None, ("200", "Object")),
    (
        "post",
        "/webhooks",
        "Be told of jobs, signed as Standard Webhooks has it; the secret is shown this once",
        Some("Webhook"),
        ("201", "Object"),
    ),
    ("get", "/webhooks/{id}", "A webhook", None, ("200", "Object")),
    ("delete", "/webhooks/{id}", "Be told no more", None, ("204", "")),
    (
        "get",
        "/webhooks/{id}/deliveries",
        "What it was told, and how that went",
        None,
        ("200", "Object"),
    ),
    (
        "post",
        "/webhooks/{id}/test",
        "Send it a message that is about no job",
        None,
        ("202", "Object"),
    ),
    ("get", "/workers", "Workers, for operators", None, ("200", "Object")),
    ("get", "/tenants", "Tenants, their jobs and tokens, for operators", None, ("200", "Object")),
    ("get", "/audit", "Who did what, for operators", None, ("200", "Object")),
    ("get", "/me", "Whose token this is", None, ("200", "Object")),
    ("get", "/health", "Whether this server runs", None, ("200", "Object")),
    ("get", "/healthz", "Whether this server runs", None, ("200", "Object")),
    ("get", "/readyz", "Whether the database answers", None, ("200", "Object")),
    ("get", "/metrics", "Figures for Prometheus", None, ("200", "Text")),
    ("get", "/openapi.json", "This document", None, ("200", "Object")),
    ("get", "/docs", "This document for people", None, ("200", "Page")),
];

pub(super) async fn document() -> Json<Value> {
    let mut paths = Map::new();
    for (method, path, summary, body, answer) in ROUTES {
        let entry = paths.entry((*path).to_owned()).or_insert_with(|| json!({}));
        entry[*method] = operation(path, method, summary, *body, *answer);
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {"title": "TenPak Studio", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "security": [{}, {"token": []}],
        "components": {"schemas": schemas(), "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
    }))
}

fn operation(
    path: &str,
    method: &str,
    summary: &str,
    body: Option<&str>,
    (status, schema): (&str, &str),
) -> Value {
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| {
            let schema = match name {
                "file" => json!({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"}),
                _ => json!({"type": "string"}),
            };
            json!({"name": name, "in": "path", "required": true, "schema": schema})
        })
        .collect();
    let mut header = |name: &str, required: bool, schema: Value| {
        parameters
            .push(json!({"name": name, "in": "header", "required": required, "schema": schema}));
    };
    if matches!(body, Some("Compress" | "Optimize" | "Delta" | "Webhook"))
        || (method == "post" && matches!(path, "/uploads" | "/jobs/{id}/retry"))
    {
        header(
            "Idempotency-Key",
            false,
            json!({"type": "string", "minLength": 1, "maxLength": 255}),
        );
    }
    if matches!(body, Some("Compress" | "Optimize" | "Delta"))
        || matches!(path, "/jobs/{id}" | "/status/{id}" | "/jobs/{id}/retry")
    {
        header("Prefer", false, json!({"type": "string", "examples": ["respond-async"]}));
    }
    if matches!(path, "/jobs/{id}" | "/status/{id}") {
        header("If-None-Match", false, json!({"type": "string"}));
    }
    let bytes = json!({"type": "integer", "minimum": 0, "maximum": MAX_UPLOAD});
    match (method, path) {
        ("get", "/jobs/{id}/events") => header("Last-Event-ID", false, json!({"type": "integer"})),
        ("post", "/uploads/{id}/{file}") => header("Upload-Length", true, bytes.clone()),
        ("patch", "/uploads/{id}/{file}") => header("Upload-Offset", true, bytes.clone()),
        _ => {}
    }
    if path == "/audit" {
        let schema = json!({"type": "string", "pattern": "^[0-9a-f]{32}$"});
        parameters
            .push(json!({"name": "cursor", "in": "query", "required": false, "schema": schema}));
    }
    if path == "/jobs" {
        let mut query = |name: &str, schema: Value| {
            parameters
                .push(json!({"name": name, "in": "query", "required": false, "schema": schema}));
        };
        query("status", reference("Status"));
        query("kind", json!({"enum": crate::studio::request::KINDS}));
        query("cursor", json!({"type": "string", "pattern": "^[0-9a-f]{32}$"}));
        query("limit", json!({"type": "integer", "minimum": 1, "maximum": 200}));
    }
    let mut answer = content(schema, summary);
    if let Some(links) = links(method, path, schema) {
        answer["links"] = links;
    }
    let mut responses = json!({"default": {
        "description": "Why it is not so (RFC 9457)",
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    }});
    responses[status] = answer.clone();
    if schema == "Job" {
        responses["200"] = answer;
    }
    if matches!(path, "/jobs/{id}" | "/status/{id}") {
        responses["304"] = json!({"description": "It is as it was"});
    }
    let mut operation = json!({"operationId": id_of(method, path), "summary": summary, "parameters": parameters, "responses": responses});
    match body {
        // No bytes are a piece, too.
        Some("Bytes") => {
            operation["requestBody"] =
                json!({"required": false, "content": {"application/octet-stream": {}}});
        }
        Some(body) => {
            operation["requestBody"] = json!({"required": true, "content": {"application/json": {"schema": reference(body)}}});
        }
        None => {}
    }
    operation
}

fn content(schema: &str, summary: &str) -> Value {
    let kind = match schema {
        "" => return json!({"description": summary}),
        "Text" => "text/plain",
        "Page" => "text/html",
        "Drawing" => "image/svg+xml",
        "Events" => "text/event-stream",
        _ => "application/json",
    };
    let schema = match schema {
        "Text" | "Events" | "Page" | "Drawing" => json!({"type": "string"}),
        "Object" => json!({"type": "object"}),
        schema => reference(schema),
    };
    json!({"description": summary, "content": {kind: {"schema": schema}}})
}
