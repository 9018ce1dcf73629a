//! The page, in a browser without a window.

use std::process::Command;

use serde_json::json;

use super::run::{fresh_folder, text};
use super::world::{Served, World};

/// What the page shows after a while; none of it may fail.
fn shown(studio: &Served, name: &str, view: &str) -> String {
    let profile = fresh_folder(name);
    let output = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=4000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", text(&profile)))
        .arg(format!("{}/#/{view}", studio.url))
        .output()
        .unwrap_or_else(|error| panic!("chromium: {error}; tests/setup.sh installs it"));
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    assert!(!error.contains("CONSOLE"), "the page has errors: {error}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn every_view_is_drawn_in_a_browser() {
    let world = World::with_models("page");
    let studio = world.serve(&[]);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/small"});
    let id = studio.submit("/compress", &wanted);
    assert_eq!(studio.end(&id)["status"], "succeeded");
    let page = shown(&studio, "page-new", "new");
    for part in
        ["<title>Submit a job", "bnb_nf4: ", "<option value=\"org/base\">", "aria-current=\"page\""]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = shown(&studio, "page-jobs", "jobs");
    assert!(page.contains(&format!("href=\"#/job/{id}\">org/small</a>")), "{page}");
    let page = shown(&studio, "page-job", &format!("job/{id}"));
    for part in
        ["succeeded</strong>", "Lineage", "nf4, 4 bits", "model.safetensors", "Tensors by layer"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    let page = shown(&studio, "page-artifacts", "artifacts");
    assert!(page.contains("#/artifact/org%2Fbase%3Alatest"), "{page}");
    let page = shown(&studio, "page-artifact", "artifact/org%2Fbase%3Alatest");
    assert!(page.contains("<h2>org/base:latest</h2>") && page.contains("tokenizer.json"), "{page}");
    let page = shown(&studio, "page-diff", "diff/org%2Fbase%3Alatest/org%2Ftuned%3Alatest");
    assert!(page.contains("Tensors that differ") && page.contains("Only in the second"), "{page}");
    let page = shown(&studio, "page-tenants", "tenants");
    assert!(page.contains("1 succeeded") && page.contains("Who did what"), "{page}");
    let page = shown(&studio, "page-workers", "workers");
    assert!(page.contains("<caption>Workers</caption>"), "{page}");
}

/// Submit, watch, cancel, retry, compare, download; in the dark, on a narrow screen, with keys alone, with a token.
/// Nothing of it is a barrier by axe-core's lights, runs out of the window, or makes the browser complain.
#[test]
fn a_person_walks_through_every_view() {
    let mut world = World::with_models("walk");
    let model = world.slow_model();
    // A model whose author means harm to whoever looks at it.
    let evil = "<img src=x onerror=alert(1)>";
    let mut tensors = super::model::llama(1, 64);
    tensors[1].0 = format!("{evil}.weight");
    let folder = super::model::write(&world.folder.join("evil"), &tensors);
    std::fs::write(folder.join(format!("{evil}.json")), "{}").unwrap();
    super::run::pack(&world.store, &folder, "org/evil", &["--allow-incomplete"]);
    let studio = world.serve(&["--allow-path", text(&world.folder)]);
    world.database = text(&world.folder.join("two.db")).to_owned();
    let guarded = super::access::with_tokens(&world);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/studio/walk.py");
    let output = super::run::python_command()
        .arg(script)
        .args([&studio.url, text(&model), &guarded.url, "alice"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{told}");
    let seen = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(seen.ends_with(" views\n"), "{seen}");
}

#[test]
fn the_page_is_complete_in_itself() {
    let world = World::new("whole");
    let studio = world.serve(&["--workers", "0"]);
    let page = studio.get("/");
    let policy = page.header("content-security-policy").unwrap();
    assert!(
        policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"),
        "{policy}"
    );
    for path in ["/", "/docs", "/studio/app.js", "/studio/docs.js", "/studio/style.css"] {
        let answer = studio.get(path);
        let own = String::from_utf8_lossy(&answer.body).replace("http://www.w3.org/2000/svg", "");
        for outside in ["http://", "https://", "@import", "url(", "innerHTML", "style=", "eval("] {
            assert!(!own.contains(outside), "{outside} in {path}");
        }
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}
