//! Where an answer leads: which operations take what it names.

use serde_json::{Map, Value, json};

/// What operations of a job take, by their ids.
const OF_A_JOB: [&str; 5] = [
    "get-jobs-id",
    "get-jobs-id-log",
    "post-jobs-id-cancel",
    "post-jobs-id-retry",
    "get-artifact-id",
];
const OF_A_WEBHOOK: [&str; 4] = [
    "get-webhooks-id",
    "get-webhooks-id-deliveries",
    "post-webhooks-id-test",
    "delete-webhooks-id",
];
const OF_AN_UPLOAD: [&str; 3] = ["post-uploads-id-file", "get-uploads-id", "delete-uploads-id"];
const OF_A_FILE: [&str; 2] = ["head-uploads-id-file", "patch-uploads-id-file"];

/// The id of an operation.
pub(super) fn id_of(method: &str, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method).chain(words).collect::<Vec<_>>().join("-")
}

/// The links of an operation's answer.
pub(super) fn links(method: &str, path: &str, schema: &str) -> Option<Value> {
    let all = |operations: &[&str], parameters: Value| {
        let each = operations.iter().map(|operation| {
            ((*operation).to_owned(), json!({"operationId": operation, "parameters": parameters}))
        });
        Value::Object(each.collect::<Map<String, Value>>())
    };
    let id = || json!({"id": "$response.body#/id"});
    Some(match (method, path) {
        _ if schema == "Job" => all(&OF_A_JOB, id()),
        ("get", "/jobs") => all(&OF_A_JOB, json!({"id": "$response.body#/jobs/0/id"})),
        ("get", "/artifacts") => {
            let name = "$response.body#/artifacts/0/name";
            let mut found = all(&["get-artifacts-name", "get-lineage-name"], json!({"name": name}));
            let both = json!({"name": name, "other": "$response.body#/artifacts/1/name"});
            if let (Value::Object(found), Value::Object(more)) =
                (&mut found, all(&["get-artifacts-name-diff-other"], both))
            {
                found.extend(more);
            }
            found
        }
        ("post", "/uploads") => all(&OF_AN_UPLOAD, id()),
        ("post", "/uploads/{id}/{file}") => {
            let file = json!({"id": "$request.path.id", "file": "$request.path.file"});
            all(&OF_A_FILE, file)
        }
        ("post", "/webhooks") => all(&OF_A_WEBHOOK, id()),
        _ => return None,
    })
}
