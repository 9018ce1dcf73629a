//! What operators do: settings, backups, figures, what else there is to look at.

use serde_json::json;

use super::run::{Run, command, done, text};
use super::world::World;

#[test]
fn a_studio_is_restored_from_its_backup() {
    let world = World::with_models("backup");
    let studio = world.serve(&[]);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/small"});
    let id = studio.submit("/compress", &wanted);
    assert_eq!(studio.end(&id)["status"], "succeeded");
    let folder = world.folder.join("backup");
    let store = text(&world.store).to_owned();
    let store = store.as_str();
    // While it runs.
    let made = done(&[
        "studio",
        "backup",
        "--out",
        text(&folder),
        "--store",
        store,
        "--database",
        &world.database,
    ]);
    assert!(made.number("rows") > 3 && made.number("refs") >= 3, "{}", made.json);
    drop(studio);
    // A ref that was lost comes back; one that moved on stays where it is.
    done(&["rm", "org/small", "--store", store]);
    done(&["tag", "org/tuned", "org/base", "--store", store]);
    let database = text(&world.folder.join("restored.db")).to_owned();
    let restore = |database: &str| {
        let all = [
            "studio",
            "restore",
            "--from",
            text(&folder),
            "--store",
            store,
            "--database",
            database,
            "--json",
        ];
        Run::of(command(&all).output().unwrap())
    };
    let restored = restore(&database);
    assert_eq!(restored.status, Some(0), "{}", restored.error);
    assert!(restored.json["kept"].to_string().contains("org/base"), "{}", restored.json);
    let world = World { database: database.clone(), ..world };
    let studio = world.serve(&[]);
    assert_eq!(studio.job(&id)["status"], "succeeded");
    let again = studio.post("/compress", &wanted, &["Prefer: wait=60"]);
    assert_eq!(again.json()["status"], "succeeded", "{}", again.json());
    done(&["verify", "org/small", "--store", store]);
    assert_ne!(restore(&database).status, Some(0), "it holds jobs");
    std::fs::remove_file(folder.join("complete")).unwrap();
    assert_ne!(restore(text(&world.folder.join("third.db"))).status, Some(0), "it is not whole");
}

#[test]
fn settings_come_from_flags_then_the_environment_then_a_file() {
    let world = World::new("settings");
    let path = world.folder.join("studio.toml");
    let check = |file: &str, more: &[&str]| {
        std::fs::write(&path, file).unwrap();
        let all = [&["studio", "--check", "--json", "--config", text(&path)][..], more].concat();
        Run::of(command(&all).env("HOME", &world.folder).output().unwrap())
    };
    let right = format!("store = '{}'\nworkers = 2\n", text(&world.store));
    assert_eq!(check(&right, &[]).status, Some(0));
    for wrong in [
        "workers = 1000",
        "nothing = 1",
        "listen = 'x'",
        "listen = '0.0.0.0:1'",
        "tokens = '/nowhere'",
        "hub-tokens = '/nowhere'",
    ] {
        let run =
            check(&format!("{right}\n{wrong}").replace("workers = 2\n\nworkers", "workers"), &[]);
        assert_eq!(run.status, Some(2), "{wrong}: {}", run.error);
    }
    // A flag comes before the file.
    assert_eq!(
        check(&format!("{right}listen = '0.0.0.0:1'"), &["--listen", "127.0.0.1:0"]).status,
        Some(0)
    );
    assert_eq!(check(&right, &["--allow-private", "no-port"]).status, Some(2));
}

#[test]
fn figures_and_what_there_is_are_told() {
    let world = World::with_models("figures");
    let studio = world.serve(&["--workers", "0"]);
    // One page has the edge's figures and the studio's.
    let figures = String::from_utf8(studio.get("/metrics").body).unwrap();
    for name in [
        "tenpak_edge_cache_hits_total",
        "tenpak_studio_jobs{state=\"queued\"} 0",
        "tenpak_studio_workers 0",
    ] {
        assert!(figures.contains(name), "{name}: {figures}");
    }
    let hardware = studio.get("/hardware").json();
    assert!(hardware["hardware"].to_string().contains("\"h100\""), "{hardware}");
    let diff = studio.get("/artifacts/org/base/diff/org/tuned").json();
    assert!(diff["same"] == json!(false) && diff["changed_tensors"].as_u64() > Some(0), "{diff}");
    let same = studio.get("/artifacts/org/base/diff/org/base:latest").json();
    assert_eq!((&same["same"], &same["changed_files"]), (&json!(true), &json!(0)));
    assert_eq!(studio.get("/artifacts/org/base/diff/org/none").status, 404);
    let estimate =
        studio.post("/estimate", &json!({"model": "org/base", "preset": "bnb_nf4"}), &[]).json();
    assert!(
        estimate["size"]["ratio"].as_f64() > Some(2.0) && estimate["similar_jobs"] == 0,
        "{estimate}"
    );
    let docs = studio.get("/docs");
    assert!(docs.status == 200 && docs.header("content-type").unwrap().starts_with("text/html"));
    // What was done is noted.
    let id = studio.submit("/compress", &json!({"model": "org/base", "preset": "bnb_nf4"}));
    studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel"));
    let audit = studio.get("/audit").json();
    assert_eq!(
        (&audit["entries"][0]["did"], &audit["entries"][0]["what"]),
        (&json!("cancel"), &json!(id))
    );
    let tenants = studio.get("/tenants").json();
    assert_eq!(tenants["tenants"][0]["jobs"]["cancelled"], 1, "{tenants}");
    // Waiting for a job's end, on its own address, too.
    let waited = studio.ask(&["-H", "Prefer: wait=1"], &format!("/jobs/{id}"));
    assert_eq!(waited.json()["status"], "cancelled");
    // What is no text is refused in the same form.
    let wrong = studio.get("/jobs/%FF%FE");
    assert_eq!(
        (wrong.status, wrong.header("content-type")),
        (404, Some("application/problem+json"))
    );
}
