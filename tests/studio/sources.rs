//! Models elsewhere, and what no request may make the server read.

use serde_json::json;

use super::run::{done, pack, text};
use super::world::World;

fn fixture() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base")
}

/// Our own edge is the Hub: the model comes from there, pinned to what its name meant when the job was submitted.
#[test]
fn a_model_of_a_hub_is_compressed() {
    let mut world = World::new("hub");
    let elsewhere = world.folder.join("elsewhere");
    pack(&elsewhere, &fixture(), "org/base", &[]);
    let (_hub, url) = world.hub(&elsewhere);
    world.environment = vec![("HF_ENDPOINT", url)];
    let studio = world.serve(&[]);
    let wanted = json!({"model": "hf://org/base", "preset": "bnb_nf4"});
    let job = studio.end(&studio.submit("/compress", &wanted));
    assert_eq!(
        (&job["status"], &job["result"]["name"]),
        (&json!("succeeded"), &json!("org/base-bnb_nf4")),
        "{job}"
    );
    assert!(job["request"].get("source").is_none(), "{job}");
    done(&["verify", "org/base-bnb_nf4", "--store", text(&world.store)]);
    // The same again is there; what is not there is said at once.
    let again = studio.post("/compress", &wanted, &[]);
    assert_eq!((again.status, &again.json()["cached"]), (200, &json!(true)));
    let none = json!({"model": "hf://org/none", "preset": "bnb_nf4"});
    assert_eq!(studio.post("/compress", &none, &[]).status, 404);
    let estimate = studio.post("/estimate", &wanted, &[]).json();
    assert!(
        estimate["seconds"]["likely"].as_f64() > Some(0.0) && estimate["similar_jobs"] == 1,
        "{estimate}"
    );
    assert!(estimate["source_bytes"].as_u64() > Some(4_000_000), "{estimate}");
}

/// The server is not asked to be asked: `--allow-private` names it.
#[test]
fn a_folder_of_a_web_server_is_compressed_if_it_is_allowed() {
    let world = World::new("web");
    let elsewhere = world.folder.join("elsewhere");
    pack(&elsewhere, &fixture(), "org/base", &[]);
    let (_hub, url) = world.hub(&elsewhere);
    let address = format!("{url}/org/base/resolve/latest");
    let wanted = json!({"model": address, "preset": "bnb_nf4", "name": "org/web"});
    let studio = world.serve(&[]);
    let refused = studio.post("/compress", &wanted, &[]);
    assert_eq!(refused.status, 422);
    drop(studio);
    let server = url.trim_start_matches("http://");
    let studio = world.serve(&["--allow-private", server]);
    let job = studio.end(&studio.submit("/compress", &wanted));
    assert_eq!(job["status"], "succeeded", "{job}");
    done(&["verify", "org/web", "--store", text(&world.store)]);
}

#[test]
fn no_request_leads_inside() {
    let world = World::with_models("inside");
    let secret = world.folder.join("secret");
    std::fs::create_dir_all(&secret).unwrap();
    std::fs::write(secret.join("model.safetensors"), "secret").unwrap();
    let allowed = world.folder.join("allowed");
    std::fs::create_dir_all(&allowed).unwrap();
    std::os::unix::fs::symlink(&secret, allowed.join("link")).unwrap();
    let studio = world.serve(&["--workers", "0", "--allow-path", text(&allowed)]);
    let link = allowed.join("link");
    let up = format!("{}/../secret", text(&allowed));
    for inside in [
        "https://127.0.0.1/m",
        "https://localhost/m",
        "https://10.0.0.1/m",
        "https://169.254.169.254/latest",
        "https://[::1]/m",
        "https://[::ffff:127.0.0.1]/m",
        "https://0x7f.1/m",
        "https://2130706433/m",
        "http://example.com/m",
        "file:///etc",
        "file:/etc",
        "ftp://example.com/m",
        "data:,x",
        "https://user:pass@example.com/m",
        "hf://../x",
        "hf://a/b/c/d",
        "s3://",
        "memory://x",
        text(&link),
        &up,
        "/etc",
        "/proc/self",
        "~/x",
        "./x",
    ] {
        let wanted = json!({"model": inside, "preset": "bnb_nf4", "name": "org/x"});
        let answer = studio.post("/compress", &wanted, &[]);
        let problem = answer.json();
        assert!([404, 422].contains(&answer.status), "{inside}: {problem}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        // What is refused is not told from what is not there, and nothing of it is shown.
        assert!(!problem.to_string().contains("pass@"), "{problem}");
    }
    assert_eq!(studio.get("/jobs").json()["jobs"], json!([]));
    // A folder where the server runs is no artifact.
    let wanted = json!({"model": "fixtures/lm", "preset": "bnb_nf4", "name": "org/x"});
    assert_eq!(studio.post("/compress", &wanted, &[]).status, 404);
}
