//! What a client does: submit, watch, take the result.

use serde_json::{Value, json};

use super::run::{done, fresh_folder, text};
use super::world::World;

#[test]
fn a_model_is_compressed_and_its_result_loads() {
    let world = World::with_models("flow");
    let studio = world.serve(&[]);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/small"});
    let id = studio.submit("/compress", &wanted);
    let job = studio.end(&id);
    assert_eq!(
        (&job["status"], &job["kind"], &job["attempts"]),
        (&json!("succeeded"), &json!("compress"), &json!(1))
    );
    for time in ["created_at", "started_at", "finished_at"] {
        assert!(job[time].as_str().unwrap().ends_with('Z'), "{job}");
    }
    // The result is an artifact like any other: every byte verified, and loaded.
    let store = text(&world.store);
    done(&["verify", "org/small", "--store", store]);
    let loaded = done(&["load", "org/small", "--store", store, "--digest"]);
    assert!(loaded.number("tensors") > 29);
    let artifact = studio.get(&format!("/artifact/{id}")).json();
    assert_eq!(
        (&artifact["manifest"], &artifact["current"]),
        (&job["result"]["manifest"], &json!(true))
    );
    assert_eq!(artifact["lineage"]["quantization"]["method"], "nf4");
    // Its files come from the same address, byte for byte.
    let folder = fresh_folder("flow-unpacked");
    done(&["unpack", "org/small", "--out", text(&folder.join("m")), "--store", store]);
    for file in artifact["files"].as_array().unwrap() {
        let answer = studio.get(file["url"].as_str().unwrap());
        assert_eq!(answer.status, 200);
        let path = folder.join("m").join(file["path"].as_str().unwrap());
        assert_eq!(answer.body, std::fs::read(path).unwrap());
    }
    // The same again is answered from what there is.
    let answer = studio.post("/compress", &wanted, &[]);
    assert_eq!(
        (answer.status, &answer.json()["cached"], &answer.json()["id"]),
        (200, &json!(true), &json!(id))
    );
    // Not so once the name means something else.
    done(&["tag", "org/base", "org/small", "--store", store]);
    let answer = studio.post("/compress", &wanted, &["Prefer: wait=60"]);
    assert_eq!((answer.status, &answer.json()["status"]), (200, &json!("succeeded")));
    assert_eq!(answer.json()["result"]["tensors_computed"], 0, "nothing is made twice");

    let events = studio.get(&format!("/jobs/{id}/events"));
    let events = String::from_utf8(events.body).unwrap();
    assert!(events.contains("id: 1\nevent: state\ndata: {\"state\":\"queued\"}\n\n"), "{events}");
    assert!(
        events.contains("event: progress\n") && events.ends_with("event: end\ndata: {}\n\n"),
        "{events}"
    );
    let rest = studio.ask(&["-H", "Last-Event-ID: 1"], &format!("/jobs/{id}/events")).body;
    assert!(!String::from_utf8(rest).unwrap().contains("id: 1\n"));
    let log = studio.get(&format!("/jobs/{id}/log"));
    assert!(String::from_utf8(log.body).unwrap().contains("succeeded"));

    let status = studio.get(&format!("/jobs/{id}"));
    let tag = format!("If-None-Match: {}", status.header("etag").unwrap());
    assert_eq!(studio.ask(&["-H", &tag], &format!("/status/{id}")).status, 304);
}

#[test]
fn a_fine_tune_becomes_a_delta() {
    let world = World::with_models("delta");
    let studio = world.serve(&[]);
    let wanted = json!({"finetuned_model": "org/tuned", "base_model": "org/base", "name": "org/tuned-delta"});
    let job = studio.end(&studio.submit("/delta/compress", &wanted));
    assert_eq!(job["status"], "succeeded", "{job}");
    done(&["verify", "org/tuned-delta", "--store", text(&world.store)]);
    let artifact = studio.get(&format!("/artifact/{}", job["id"].as_str().unwrap())).json();
    assert_eq!(artifact["lineage"]["delta"]["base_model_id"], "org/base:latest", "{artifact}");
}

/// An optimization runs the command of that name; where nothing fits, that job alone fails.
#[test]
fn an_optimization_is_a_job_too() {
    let world = World::with_models("optimize");
    let studio = world.serve(&[]);
    let wanted = json!({"model": "org/base", "name": "org/best", "min_compression": 50, "hardware_type": "a10g"});
    let id = studio.submit("/optimize", &wanted);
    let job = studio.end(&id);
    // It cannot fare better: one attempt, with the command's own words of what would have to give.
    assert_eq!((&job["status"], &job["attempts"]), (&json!("failed"), &json!(1)), "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(error.contains("nothing fits") && error.contains("min-compression"), "{error}");
    // Why each candidate was dropped is kept.
    assert!(job["result"]["candidates"].as_array().is_some_and(|all| !all.is_empty()), "{job}");
    let refused = studio.get(&format!("/artifact/{id}"));
    let detail = refused.json()["detail"].to_string();
    assert!(refused.status == 409 && detail.contains("min-compression"), "{detail}");
    assert_eq!(studio.get("/health").status, 200);
}

#[test]
fn an_upload_is_sent_in_pieces_and_compressed() {
    let world = World::new("upload");
    let studio = world.serve(&[]);
    let begun = studio.ask(&["-X", "POST"], "/uploads").json();
    let (id, source) = (begun["id"].as_str().unwrap(), begun["source"].as_str().unwrap());
    let wanted = json!({"model": source, "preset": "bnb_nf4", "name": "org/up"});
    assert_eq!(studio.post("/compress", &wanted, &[]).status, 409, "nothing is there");
    let model = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lm/base");
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        let data = std::fs::read(model.join(name)).unwrap();
        let path = format!("/uploads/{id}/{name}");
        let length = format!("Upload-Length: {}", data.len());
        assert_eq!(studio.ask(&["-X", "POST", "-H", &length], &path).status, 201);
        // The first half, and the rest from where the server says.
        let piece = world.folder.join("piece");
        let send = |at: usize, data: &[u8]| {
            std::fs::write(&piece, data).unwrap();
            let offset = format!("Upload-Offset: {at}");
            let file = format!("@{}", text(&piece));
            studio.ask(
                &[
                    "-X",
                    "PATCH",
                    "-H",
                    &offset,
                    "-H",
                    "Content-Type: application/offset+octet-stream",
                    "--data-binary",
                    &file,
                ],
                &path,
            )
        };
        let half = data.len() / 2;
        assert_eq!(send(0, &data[..half]).status, 204);
        assert_eq!(send(0, &data[..half]).status, 409);
        let there = studio.ask(&["-I"], &path);
        assert_eq!(there.header("upload-offset"), Some(&*half.to_string()));
        assert_eq!(studio.post("/compress", &wanted, &[]).status, 409, "it is not complete");
        assert_eq!(
            send(half, &data[half..]).header("upload-offset"),
            Some(&*data.len().to_string())
        );
    }
    let job = studio.end(&studio.submit("/compress", &wanted));
    assert_eq!(job["status"], "succeeded", "{job}");
    assert!(
        !job.to_string().contains(text(&world.folder)),
        "paths of the server are its own: {job}"
    );
    assert_eq!(studio.ask(&["-X", "DELETE"], &format!("/uploads/{id}")).status, 204);
}

#[test]
fn a_submission_is_sent_twice_and_is_one_job() {
    let world = World::with_models("once");
    let studio = world.serve(&["--workers", "0"]);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4"});
    let key = ["Idempotency-Key: 7"];
    let first = studio.post("/compress", &wanted, &key).json();
    assert_eq!(first["request"]["name"], "org/base-bnb_nf4");
    assert_eq!(studio.post("/compress", &wanted, &key).json()["id"], first["id"]);
    assert_eq!(
        studio.post("/compress", &json!({"model": "org/tuned", "preset": "bnb_nf4"}), &key).status,
        422
    );
    let joined = studio.post("/compress", &wanted, &[]).json();
    assert_eq!((&joined["joined"], &joined["id"]), (&json!(true), &first["id"]));
    // What waits is cancelled at once, and tried again as another job.
    let id = first["id"].as_str().unwrap();
    assert_eq!(studio.ask(&["-X", "POST"], &format!("/jobs/{id}/retry")).status, 409);
    assert_eq!(
        studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel")).json()["status"],
        "cancelled"
    );
    let again = studio.ask(&["-X", "POST"], &format!("/jobs/{id}/retry"));
    assert_eq!((again.status, &again.json()["retry_of"]), (202, &first["id"]));
    assert_eq!(studio.get(&format!("/artifact/{id}")).status, 409);
    // Lists: filters and pages.
    let list = |query: &str| studio.get(&format!("/jobs?{query}")).json();
    assert_eq!(list("status=cancelled")["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(list("kind=delta")["jobs"], json!([]));
    let page = list("limit=1");
    let next = list(&format!("limit=1&cursor={}", page["next_cursor"].as_str().unwrap()));
    assert_eq!((&next["jobs"][0]["id"], &next["next_cursor"]), (&first["id"], &Value::Null));
    let metrics = String::from_utf8(studio.get("/metrics").body).unwrap();
    assert!(metrics.contains("tenpak_studio_jobs{state=\"queued\"} 1\n"), "{metrics}");
}
