//! Models elsewhere, and what no request may make the server read.

use serde_json::json;

use super::run::{done, pack, python_command, text};
use super::s3::S3Server;
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

/// Nothing is asked for over a network: the model lies in the program, and any token may read it.
#[test]
fn the_sample_model_is_at_hand() {
    let mut world = World::new("sample");
    let dead = "http://127.0.0.1:9";
    world.environment = vec![("HF_ENDPOINT", dead.to_owned()), ("ALL_PROXY", dead.to_owned())];
    let studio = world.serve(&[]);
    let wanted = json!({"model": "sample://austen", "preset": "bnb_nf4"});
    let estimate = studio.post("/estimate", &wanted, &[]).json();
    let bytes = estimate["source_bytes"].as_u64().unwrap();
    assert!((300_000..1_000_000).contains(&bytes), "{estimate}");
    for (field, wrong) in [("priority", json!(true)), ("priority", json!(10)), ("kind", json!(5))] {
        let mut wanted = wanted.clone();
        wanted[field] = wrong;
        assert_eq!(studio.post("/estimate", &wanted, &[]).status, 422, "{wanted}");
    }
    let job = studio.end(&studio.submit("/compress", &wanted));
    assert_eq!(job["status"], "succeeded", "{job}");
    assert_eq!(job["result"]["name"], "sample/austen-bnb_nf4");
    let store = text(&world.store);
    done(&["verify", "sample/austen-bnb_nf4", "--store", store]);
    assert_eq!(studio.post("/compress", &wanted, &[]).json()["cached"], json!(true));
    for other in ["sample://other", "sample://", "sample://austen/x"] {
        let wanted = json!({"model": other, "preset": "bnb_nf4", "name": "org/x"});
        assert_eq!(studio.post("/compress", &wanted, &[]).status, 422, "{other}");
    }
    drop(studio);
    let mut studio = super::access::with_tokens(&world);
    studio.token = Some("alice".to_owned());
    let wanted = |model: &str| json!({"model": model, "preset": "bnb_nf4", "name": "one/s"});
    studio.submit("/compress", &wanted("sample://austen"));
    assert_eq!(studio.post("/compress", &wanted("s3://bucket/m"), &[]).status, 403);
    // By hand it is the same model.
    let quantize = ["quantize", "sample://austen", "--method", "nf4", "--name", "by/hand"];
    let sources = text(&world.folder.join("sources")).to_owned();
    let run = super::run::command(&[&quantize[..], &["--store", store]].concat())
        .env("TENPAK_SOURCES", &sources)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let id = |name: &str| done(&["inspect", name, "--store", store]).text("manifest");
    assert_eq!(id("by/hand"), id("sample/austen-bnb_nf4"));
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

/// Puts files under a prefix of a bucket.
fn put(server: &S3Server, prefix: &str, folder: &std::path::Path) {
    let script = "import boto3, os, sys
client = boto3.client('s3', endpoint_url=sys.argv[1], aws_access_key_id='test', aws_secret_access_key='test', \
region_name='us-east-1')
for name in os.listdir(sys.argv[3]):
    client.upload_file(os.path.join(sys.argv[3], name), 'models', f'{sys.argv[2]}/{name}')";
    let mut put = python_command();
    put.args(["-c", script, &server.endpoint, prefix, text(folder)]);
    let output = put.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A real S3 server: a folder of a bucket, its change, and who may not read it.
#[test]
fn a_folder_of_a_bucket_is_compressed() {
    let server = S3Server::start();
    server.create_bucket("models");
    put(&server, "org/base", &fixture());
    let mut world = World::new("bucket");
    world.environment = server.environment().map(|(name, value)| (name, value.to_owned())).to_vec();
    let studio = world.serve(&[]);
    let wanted = json!({"model": "s3://models/org/base", "preset": "bnb_nf4", "name": "org/b"});
    let job = studio.end(&studio.submit("/compress", &wanted));
    assert_eq!(job["status"], "succeeded", "{job}");
    done(&["verify", "org/b", "--store", text(&world.store)]);
    // The very weights: the same from the folder give the same artifact's tensors.
    let again = studio.post("/compress", &wanted, &[]);
    assert_eq!((again.status, &again.json()["cached"]), (200, &json!(true)));
    let estimate = studio.post("/estimate", &wanted, &[]).json();
    assert!(estimate["source_bytes"].as_u64() > Some(4_000_000), "{estimate}");
    // Other weights at the same place are another source.
    put(&server, "org/base", &fixture().with_file_name("tuned"));
    let changed = studio.post("/compress", &wanted, &["Prefer: wait=60"]).json();
    assert_eq!((&changed["status"], changed.get("cached")), (&json!("succeeded"), None));
    assert_ne!(changed["result"]["manifest"], job["result"]["manifest"]);
    for (model, status) in [
        ("s3://models/org/none", 404),
        ("s3://none/org/base", 422),
        ("s3://models/../x", 422),
        ("s3://key:secret@models/org/base", 422),
    ] {
        let wanted = json!({"model": model, "preset": "bnb_nf4", "name": "org/x"});
        let answer = studio.post("/compress", &wanted, &[]);
        assert_eq!(answer.status, status, "{model}: {}", answer.json());
        assert!(!answer.json().to_string().contains("test"), "{}", answer.json());
    }
    // With tokens, buckets are read only where a token's line says so.
    world.database = text(&world.folder.join("two.db")).to_owned();
    let mut studio = super::access::with_tokens(&world);
    studio.token = Some("alice".to_owned());
    let wanted = json!({"model": "s3://models/org/base", "preset": "bnb_nf4", "name": "one/b"});
    assert_eq!(studio.post("/compress", &wanted, &[]).status, 403);
}

/// A name that leads inside is refused where it is connected to: for models, for webhooks, and behind a redirect.
#[test]
fn a_name_that_leads_inside_is_refused_at_the_connection() {
    let world = World::new("names-inside");
    let studio = world.serve(&["--workers", "0"]);
    for host in ["localhost", "LOCALHOST"] {
        let model = format!("https://{host}:1/m");
        let wanted = json!({"model": model, "preset": "bnb_nf4", "name": "org/x"});
        let answer = studio.post("/compress", &wanted, &[]);
        let detail = answer.json()["detail"].to_string();
        // Not that nobody listens there: nobody was asked.
        assert!(answer.status == 422 && detail.contains("private network"), "{host}: {detail}");
    }
}
