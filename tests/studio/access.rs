//! Who may do what, and requests that mean harm.

use serde_json::json;

use super::run::text;
use super::world::{Served, World};

/// `printf TOKEN | sha256sum`.
fn digest(token: &str) -> String {
    use sha2::{Digest as _, Sha256};
    Sha256::digest(token).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn with_tokens(world: &World) -> Served {
    let line = |token: &str, rest: &str| format!("{token} sha256:{} {rest}\n", digest(token));
    let file = line("alice", "tenant=one role=submitter names=one/* active=2")
        + &line("bob", "tenant=two role=submitter repos=two/*")
        + &line("eve", "tenant=one role=viewer")
        + &line("root", "tenant=ops role=operator");
    let path = world.folder.join("tokens");
    std::fs::write(&path, file).unwrap();
    world.serve(&["--workers", "0", "--tokens", text(&path)])
}

fn as_user(studio: &mut Served, token: &str) {
    studio.token = Some(token.to_owned());
}

#[test]
fn tokens_are_of_tenants_who_do_not_see_each_other() {
    let world = World::with_models("tenants");
    let mut studio = with_tokens(&world);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "one/small"});
    for wrong in [None, Some("mallory"), Some("")] {
        studio.token = wrong.map(str::to_owned);
        for path in ["/jobs", "/me", "/artifacts", "/workers", "/jobs/x", "/artifacts/org/base"] {
            let answer = studio.get(path);
            assert_eq!(answer.status, 401, "{path}");
            assert_eq!(answer.header("www-authenticate"), Some("bearer realm=\"tenpak\""));
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        }
        assert_eq!(studio.post("/compress", &wanted, &[]).status, 401);
        // The edge at the same address asks for the same tokens.
        assert_eq!(studio.get("/org/base/resolve/main/config.json").status, 401);
        assert_eq!(studio.get("/health").status, 200);
    }
    as_user(&mut studio, "alice");
    assert_eq!(studio.get("/org/base/resolve/main/config.json").status, 200);
    let id = studio.submit("/compress", &wanted);
    let elsewhere = json!({"model": "org/base", "preset": "bnb_nf4", "name": "two/small"});
    assert_eq!(studio.post("/compress", &elsewhere, &[]).status, 403);
    assert_eq!(studio.get("/workers").status, 403);
    // Quotas, and what to do about them.
    let more = |name: &str| json!({"model": "org/base", "preset": "bnb_nf4", "name": name});
    studio.submit("/compress", &more("one/b"));
    let refused = studio.post("/compress", &more("one/c"), &[]);
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("30")));

    as_user(&mut studio, "bob");
    assert_eq!(studio.get("/jobs").json()["jobs"], json!([]));
    // Another tenant's job is not there, whatever is asked of it.
    let nothing = studio.get(&format!("/status/{}", "0".repeat(32)));
    for path in [
        format!("/status/{id}"),
        format!("/jobs/{id}/events"),
        format!("/jobs/{id}/log"),
        format!("/artifact/{id}"),
    ] {
        assert_eq!((studio.get(&path).status, nothing.status), (404, 404), "{path}");
    }
    for act in ["cancel", "retry"] {
        assert_eq!(studio.ask(&["-X", "POST"], &format!("/jobs/{id}/{act}")).status, 404);
    }
    // Nor is an artifact that it may not read, by its name or its id, or as a source.
    assert_eq!(studio.get("/artifacts/org/base").status, 404);
    assert_eq!(studio.get("/org/base/resolve/main/config.json").status, 403);
    assert_eq!(studio.get("/artifacts").json()["artifacts"], json!([]));
    assert_eq!(studio.post("/compress", &more("two/x"), &[]).status, 404);

    as_user(&mut studio, "eve");
    assert_eq!(studio.get(&format!("/status/{id}")).status, 200);
    assert_eq!(studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel")).status, 403);
    assert_eq!(studio.post("/compress", &wanted, &[]).status, 403);

    as_user(&mut studio, "root");
    assert_eq!(studio.get("/workers").status, 200);
    let cancelled = studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel"));
    assert_eq!(cancelled.json()["status"], "cancelled");
}

#[test]
fn what_others_can_reach_needs_tokens() {
    let world = World::new("reach");
    let all = [
        "studio",
        "--listen",
        "0.0.0.0:0",
        "--store",
        text(&world.store),
        "--database",
        &world.database,
    ];
    let run = super::run::tenpak(&all);
    assert_eq!(run.status, Some(2));
    assert!(run.error.contains("--tokens"), "{}", run.error);
    let tokens = world.folder.join("tokens");
    std::fs::write(&tokens, "alice sha256:00 tenant=one role=king\n").unwrap();
    let run = super::run::tenpak(&[&all[..], &["--tokens", text(&tokens)]].concat());
    assert_eq!(run.status, Some(2));
    assert!(run.error.contains("line 1"), "{}", run.error);
}

#[test]
fn requests_that_mean_harm_are_refused_in_one_form() {
    let world = World::with_models("harm");
    let studio = world.serve(&["--workers", "0"]);
    let right = json!({"model": "org/base", "preset": "bnb_nf4"});
    let long = "x".repeat(100_000);
    let deep = "[".repeat(20_000);
    let json_of = ["-H", "Content-Type: application/json", "-d"];
    let cases: [(&[&str], u16); 10] = [
        (&[json_of[0], json_of[1], json_of[2], &long], 413),
        (&[json_of[0], json_of[1], json_of[2], &deep], 400),
        (&[json_of[0], json_of[1], json_of[2], "{"], 400),
        (&["-d", "model=org/base"], 415),
        (&["-H", "Content-Type: text/plain", "-d", "{}"], 415),
        (&["-X", "PUT"], 405),
        (&["-H", "Origin: http://evil.example", json_of[0], json_of[1], json_of[2], "{}"], 403),
        (&["-H", "Sec-Fetch-Site: cross-site", json_of[0], json_of[1], json_of[2], "{}"], 403),
        (&["-H", "Host: evil.example", json_of[0], json_of[1], json_of[2], "{}"], 421),
        (&[json_of[0], json_of[1], "-H", "Transfer-Encoding: chunked", json_of[2], "{}"], 411),
    ];
    for (arguments, status) in cases {
        let answer = studio.ask(arguments, "/compress");
        assert_eq!(answer.status, status, "{arguments:.60?}");
        if status != 411 {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"));
            assert_eq!(answer.json()["status"], status);
        }
    }
    // Sources that are none: the server reads nothing that it was not told to.
    for (model, status) in [
        ("/etc/passwd", 404),
        ("../../etc", 404),
        (text(&world.folder), 404),
        ("file:///etc/passwd", 422),
        ("http://169.254.169.254/latest", 422),
        ("s3://bucket/../x", 422),
        ("hf://org/model/x", 422),
        ("upload:../../x", 422),
        ("upload:00000000000000000000000000000000", 404),
        ("--store=/tmp", 422),
        ("org/none", 404),
        ("a\r\nb", 422),
    ] {
        let wanted = json!({"model": model, "preset": "bnb_nf4", "name": "x/y"});
        let answer = studio.post("/compress", &wanted, &[]);
        assert_eq!(answer.status, status, "{model}: {}", String::from_utf8_lossy(&answer.body));
    }
    for (path, status) in [
        ("/jobs?limit=0", 400),
        ("/jobs?status=x", 400),
        ("/jobs?cursor=x", 400),
        ("/jobs?x=1", 400),
        ("/jobs/../../etc/passwd", 404),
        ("/status/%00", 404),
        ("/artifacts/%2e%2e", 404),
        ("/studio/none", 404),
        ("/uploads/../../x", 404),
    ] {
        assert_eq!(studio.get(path).status, status, "{path}");
    }
    for key in ["", &"k".repeat(256)] {
        let header = format!("Idempotency-Key;{key}");
        let header = if key.is_empty() { header } else { format!("Idempotency-Key: {key}") };
        assert_eq!(studio.post("/compress", &right, &[&header]).status, 400);
    }
    assert_eq!(studio.get("/jobs").json()["jobs"], json!([]), "none of it is a job");
}

#[test]
fn the_document_lists_what_there_is() {
    let world = World::new("document");
    let studio = world.serve(&["--workers", "0"]);
    let document = studio.get("/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/studio/api/router.rs");
    let source = std::fs::read_to_string(source).unwrap();
    let mut seen = 0;
    for rest in source.split(".route(").skip(1) {
        let rest = rest.split(".fallback(").next().unwrap();
        let path = rest.split('"').nth(1).unwrap().replace("{*name}", "{name}");
        if path == "/" || path.starts_with("/studio/") {
            continue;
        }
        seen += 1;
        assert!(document["paths"][&path].is_object(), "{path}");
        for method in ["get", "post", "patch", "delete", "head"] {
            let is_there = rest.contains(&format!("{method}("));
            assert_eq!(document["paths"][&path][method].is_object(), is_there, "{method} {path}");
        }
    }
    // A diff lies below the route of artifacts, and the figures are answered by the edge.
    for path in ["/artifacts/{name}/diff/{other}", "/metrics"] {
        seen += 1;
        assert!(document["paths"][path].is_object(), "{path}");
    }
    assert_eq!(seen, document["paths"].as_object().unwrap().len());
}

/// A token that is taken out of the file counts no more at SIGHUP: not at the studio, not at the edge beside it, and
/// not for a stream that was open.
#[test]
fn a_token_is_revoked_during_a_stream() {
    use std::io::{Read, Write};
    let world = World::with_models("revoked");
    let mut studio = with_tokens(&world);
    as_user(&mut studio, "alice");
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "one/small"});
    let id = studio.submit("/compress", &wanted);
    let address = studio.url.trim_start_matches("http://").to_owned();
    let mut stream = std::net::TcpStream::connect(&address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let head = format!(
        "GET /jobs/{id}/events HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer alice\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut seen = vec![0; 1];
    while !String::from_utf8_lossy(&seen).contains("queued") {
        let mut piece = [0; 1024];
        let read = stream.read(&mut piece).unwrap();
        assert!(read > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend(&piece[..read]);
    }
    let path = world.folder.join("tokens");
    let before = std::fs::read_to_string(&path).unwrap();
    // A file that is wrong changes nothing.
    std::fs::write(&path, "alice sha256:00 tenant=one role=king\n").unwrap();
    studio.process.signal("-HUP");
    assert_eq!(studio.get("/me").status, 200);
    let rest: Vec<&str> = before.lines().filter(|line| !line.starts_with("alice")).collect();
    std::fs::write(&path, rest.join("\n")).unwrap();
    studio.process.signal("-HUP");
    // The stream ends, and it was not the job that did.
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(!rest.contains("event: end"), "{rest}");
    assert_eq!(studio.get("/me").status, 401);
    assert_eq!(studio.get("/org/base/resolve/main/config.json").status, 401);
    as_user(&mut studio, "eve");
    assert_eq!(studio.get("/me").status, 200);
    assert_eq!(studio.get("/org/base/resolve/main/config.json").status, 200);
}
