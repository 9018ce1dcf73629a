//! What the document says is so: schemathesis asks everything that it lists, by its own lights and by ours.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::json;

use super::run::text;
use super::world::{Served, World};

/// Statuses that say what no schema does: which bits and groups a method takes, that a result needs a name, that a key
/// was used for another request, or that a file is larger than an upload may be.
const SETTINGS: &str = r#"
[warnings]
enabled = false
[checks.negative_data_rejection]
expected-statuses = [400, 401, 403, 404, 405, 406, 409, 411, 413, 415, 422, 428, 429]
[[operations]]
include-path = ["/compress", "/optimize", "/delta/compress", "/estimate", "/webhooks", "/uploads", "/jobs/{id}/retry"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 422, 429]
[[operations]]
include-path = ["/uploads/{id}/{file}"]
[operations.checks.positive_data_acceptance]
expected-statuses = ["2xx", "3xx", 401, 403, 404, 409, 413, 429]
"#;

/// Starts schemathesis on a studio's own document, less what leads outside: no test asks anybody there.
fn ask(world: &World, studio: &Served, name: &str) -> Child {
    let folder = world.folder.join(name);
    std::fs::create_dir_all(&folder).unwrap();
    let mut document = studio.get("/openapi.json").json();
    let kinds = document["components"]["schemas"]["Model"]["anyOf"].as_array_mut().unwrap();
    let before = kinds.len();
    kinds.retain(|kind| kind["$ref"] != "#/components/schemas/Elsewhere");
    assert_eq!(kinds.len(), before - 1);
    // Models that are there, so that some of what is asked becomes a job.
    document["components"]["schemas"]["Artifact"]["examples"] = json!(["org/base", "org/tuned"]);
    let path = folder.join("openapi.json");
    std::fs::write(&path, document.to_string()).unwrap();
    std::fs::write(folder.join("schemathesis.toml"), SETTINGS).unwrap();
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/schemathesis");
    let mut command = Command::new(&program);
    command.args(["run", text(&path), "--url", &studio.url, "--max-examples", "8", "--seed", "1"]);
    command.args(["--no-color", "--exclude-path", "/jobs/{id}/events"]);
    command.args(["--request-timeout", "20"]);
    if let Some(token) = &studio.token {
        command.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"];
    for name in proxies {
        command.env_remove(name);
    }
    let spawned =
        command.current_dir(&folder).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    spawned.unwrap_or_else(|error| panic!("{}: {error}; run tests/setup.sh", program.display()))
}

#[track_caller]
fn nothing_found(child: Child) {
    let output = child.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("Tested: 39"), "{told}");
}

/// With every right, with a tenant's token, and without one where one is needed.
#[test]
fn schemathesis_finds_nothing() {
    let world = World::with_models("described");
    let all = world.serve(&["--workers", "0"]);
    let first = ask(&world, &all, "all");
    let tenants = World { database: text(&world.folder.join("two.db")).to_owned(), ..world };
    let mut studio = super::access::with_tokens(&tenants);
    let without = ask(&tenants, &studio, "none");
    studio.token = Some("alice".to_owned());
    let with = ask(&tenants, &studio, "alice");
    [first, without, with].into_iter().for_each(nothing_found);
    // Not one of its requests was logged as a failure of the server.
    assert_eq!(all.get("/health").status, 200);
}
