//! Requests that are sent twice under one Idempotency-Key: a webhook, the beginning of an upload, a retry.

use serde_json::{Value, json};

use super::world::{Answer, Served, World};

/// The same request six times at a time.
fn at_once(studio: &Served, path: &str, body: &Value, key: &str) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let ask = || scope.spawn(|| studio.post(path, body, &[key]));
        let all: Vec<_> = (0..6).map(|_| ask()).collect();
        all.into_iter().map(|one| one.join().unwrap()).collect()
    })
}

/// All answers are of this status and tell of one thing; gives it.
#[track_caller]
fn one(answers: &[Answer], status: u16, fields: &[&str]) -> Value {
    let first = answers[0].json();
    for answer in answers {
        let body = answer.json();
        assert_eq!(answer.status, status, "{body}");
        for field in fields {
            assert!(body[field].is_string() && body[field] == first[field], "{first} {body}");
        }
        assert_eq!(answer.header("location"), answers[0].header("location"));
    }
    first
}

#[test]
fn a_key_makes_one_thing_of_what_is_sent_twice() {
    let world = World::with_models("twice");
    let studio = world.serve(&["--workers", "0", "--allow-private", "127.0.0.1:9"]);
    let count = |path: &str, what: &str| studio.get(path).json()[what].as_array().unwrap().len();

    // A webhook: who sends it again learns the secret that the first answer may have lost.
    let (hooks, hook_key) = ("/webhooks", "Idempotency-Key: hook");
    let wanted = json!({"url": "http://127.0.0.1:9/hook"});
    let hook = one(&at_once(&studio, hooks, &wanted, hook_key), 201, &["id", "secret", "url"]);
    let other = json!({"url": "http://127.0.0.1:9/other"});
    assert_eq!(studio.post(hooks, &other, &[hook_key]).status, 422);
    assert_eq!(count(hooks, "webhooks"), 1);
    let second = studio.post(hooks, &wanted, &["Idempotency-Key: hook2"]).json();
    assert!(second["id"] != hook["id"] && second["secret"] != hook["secret"]);
    assert_eq!(count(hooks, "webhooks"), 2);
    // One that was removed is not given again.
    let path = format!("{hooks}/{}", hook["id"].as_str().unwrap());
    assert_eq!(studio.ask(&["-X", "DELETE"], &path).status, 204);
    let again = studio.post(hooks, &wanted, &[hook_key]);
    assert!(again.status == 201 && again.json()["id"] != hook["id"], "{}", again.json());

    // An upload: what was sent into it stays.
    let upload_key = "Idempotency-Key: upload";
    let upload = one(&at_once(&studio, "/uploads", &json!({}), upload_key), 201, &["id", "source"]);
    let file = format!("/uploads/{}/config.json", upload["id"].as_str().unwrap());
    assert_eq!(studio.ask(&["-X", "POST", "-H", "Upload-Length: 0"], &file).status, 201);
    let again = studio.post("/uploads", &json!({}), &[upload_key]);
    assert_eq!((again.status, &again.json()["id"]), (201, &upload["id"]));
    assert_eq!(studio.ask(&["-I"], &file).status, 200);
    let second = studio.post("/uploads", &json!({}), &["Idempotency-Key: upload2"]);
    assert_ne!(second.json()["id"], upload["id"]);
    assert_eq!(std::fs::read_dir(world.folder.join("uploads/local")).unwrap().count(), 2);

    // A retry: one job, whatever becomes of it meanwhile.
    let cancelled = |name: &str| {
        let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": name});
        let id = studio.submit("/compress", &wanted);
        assert_eq!(studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel")).status, 200);
        id
    };
    let (first, other) = (cancelled("org/a"), cancelled("org/b"));
    let retry = |id: &str| format!("/jobs/{id}/retry");
    let retry_key = "Idempotency-Key: retry";
    let job = one(&at_once(&studio, &retry(&first), &json!({}), retry_key), 202, &["id"]);
    assert_eq!(job["retry_of"], json!(first));
    let path = format!("/jobs/{}/cancel", job["id"].as_str().unwrap());
    assert_eq!(studio.ask(&["-X", "POST"], &path).json()["status"], "cancelled");
    let again = studio.post(&retry(&first), &json!({}), &[retry_key]);
    assert_eq!((again.status, &again.json()["id"]), (200, &job["id"]));
    assert_eq!(studio.post(&retry(&other), &json!({}), &[retry_key]).status, 422);
    assert_eq!(count("/jobs", "jobs"), 3);
    let second = studio.post(&retry(&first), &json!({}), &["Idempotency-Key: retry2"]).json();
    assert!(second["id"] != job["id"] && second["retry_of"] == json!(first), "{second}");

    // A key is of one kind of request.
    for (path, body) in [("/uploads", json!({})), (hooks, wanted), (&retry(&other), json!({}))] {
        for key in [hook_key, upload_key, retry_key] {
            let own =
                (path == hooks && key == hook_key) || (path == "/uploads" && key == upload_key);
            let status = studio.post(path, &body, &[key]).status;
            assert_eq!(status == 422, !own, "{path} {key}: {status}");
        }
        for key in ["Idempotency-Key;", &format!("Idempotency-Key: {}", "k".repeat(256))] {
            assert_eq!(studio.post(path, &body, &[key]).status, 400, "{path}");
        }
    }
}

/// Keys are of a tenant: the same one of another tells nothing.
#[test]
fn a_key_is_of_its_tenant() {
    let world = World::with_models("twice-tenants");
    let mut studio = super::access::with_tokens(&world);
    let mut begin = |token: &str| {
        studio.token = Some(token.to_owned());
        studio.post("/uploads", &json!({}), &["Idempotency-Key: 1"]).json()["id"].clone()
    };
    let (alice, bob) = (begin("alice"), begin("bob"));
    assert!(alice.is_string() && bob.is_string() && alice != bob);
    assert_eq!(begin("alice"), alice);
}
