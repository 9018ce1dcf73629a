//! Kills, ends and restarts: no job is lost, none is done twice.

use std::time::Duration;

use serde_json::json;

use super::run::{Run, command, done, text};
use super::world::World;

/// Leases that are short, so that tests are.
const LEASE: [&str; 2] = ["--lease", "2"];

#[test]
fn a_worker_is_killed_and_another_goes_on_from_there() {
    let world = World::new("killed");
    let model = world.large_model();
    let studio =
        world.serve(&["--workers", "0", "--allow-path", text(&world.folder), LEASE[0], LEASE[1]]);
    let first = world.worker(&LEASE);
    let wanted = json!({"model": text(&model), "preset": "bnb_int8", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    world.wrote(&studio, &id);
    first.signal("-KILL");
    let _second = world.worker(&LEASE);
    let job = studio.end(&id);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(2)), "{job}");
    let (computed, linked) = (&job["result"]["tensors_computed"], &job["result"]["tensors_linked"]);
    assert!(linked.as_u64() > Some(0), "{computed} computed, {linked} linked");
    done(&["verify", "org/slow", "--store", text(&world.store)]);
}

#[test]
fn a_job_is_cancelled_while_it_runs() {
    let world = World::new("cancelled");
    let model = world.slow_model();
    let studio = world.serve(&["--allow-path", text(&world.folder)]);
    let wanted = json!({"model": text(&model), "preset": "bnb_nf4", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    studio.begun(&id);
    let asked = studio.ask(&["-X", "POST"], &format!("/jobs/{id}/cancel")).json();
    assert_eq!(asked["status"], "cancelling");
    assert_eq!(studio.end(&id)["status"], "cancelled");
    let ls = done(&["ls", "--store", text(&world.store)]);
    assert!(!ls.json.to_string().contains("org/slow"), "nothing was published: {}", ls.json);
    // The worker goes on with others.
    let wanted = json!({"model": text(&model), "preset": "bnb_int8", "name": "org/other"});
    assert_eq!(studio.end(&studio.submit("/compress", &wanted))["status"], "succeeded");
}

/// SIGTERM to a server: its job goes back to the queue, and the next server finishes it.
#[test]
fn a_server_is_restarted_and_its_job_goes_on() {
    let world = World::new("restarted");
    let model = world.large_model();
    let allow = ["--allow-path", text(&world.folder)];
    let mut studio = world.serve(&allow);
    let wanted = json!({"model": text(&model), "preset": "bnb_int8", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    world.wrote(&studio, &id);
    studio.process.signal("-TERM");
    assert_eq!(studio.process.end(), Some(0));
    let studio = world.serve(&allow);
    let job = studio.end(&id);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(1)), "{job}");
    assert!(job["result"]["tensors_linked"].as_u64() > Some(0), "{job}");
}

#[test]
fn two_workers_take_one_job_once() {
    let world = World::with_models("two");
    let studio = world.serve(&["--workers", "0"]);
    let id = studio.submit("/compress", &json!({"model": "org/base", "preset": "bnb_nf4"}));
    let _workers = [world.worker(&[]), world.worker(&[])];
    let job = studio.end(&id);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(1)), "{job}");
    let events = String::from_utf8(studio.get(&format!("/jobs/{id}/log")).body).unwrap();
    assert_eq!(events.matches("\"running\"").count(), 1, "{events}");
    let workers = studio.get("/workers").json();
    assert_eq!(workers["workers"].as_array().unwrap().len(), 2, "{workers}");
}

/// A worker for one job ends with it, and at once where none waits.
#[test]
fn a_worker_takes_one_job_and_exits() {
    let world = World::with_models("single");
    let studio = world.serve(&["--workers", "0"]);
    let once = || {
        let all = [
            "studio",
            "worker",
            "--once",
            "--json",
            "--store",
            text(&world.store),
            "--database",
            &world.database,
        ];
        let output = command(&all).env("HOME", world.folder.join("home")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        Run::of(output).json
    };
    assert_eq!(once(), json!({"took": false}));
    let ids = ["bnb_nf4", "bnb_int8"]
        .map(|preset| studio.submit("/compress", &json!({"model": "org/base", "preset": preset})));
    assert_eq!(once(), json!({"took": true}));
    assert_eq!(studio.job(&ids[0])["status"], "succeeded");
    assert_eq!(studio.job(&ids[1])["status"], "queued");
}

/// A worker that is stopped for longer than its lease comes back to find its job another's: it publishes nothing.
#[test]
fn a_worker_that_lost_its_lease_moves_no_ref() {
    let world = World::new("fenced");
    let model = world.slow_model();
    let studio =
        world.serve(&["--workers", "0", "--allow-path", text(&world.folder), LEASE[0], LEASE[1]]);
    let first = world.worker(&LEASE);
    let wanted = json!({"model": text(&model), "preset": "bnb_nf4", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    studio.begun(&id);
    // The worker alone: its child goes on, and asks at the gate.
    first.signal("-STOP");
    let _second = world.worker(&LEASE);
    let job = studio.end(&id);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("succeeded"), &json!(2)), "{job}");
    let version = || done(&["ls", "--store", text(&world.store)]).json.to_string();
    let before = version();
    first.signal("-CONT");
    // It says that it is there once it has seen that its lease is lost.
    let start = std::time::Instant::now();
    while studio.get("/workers").json()["workers"].to_string().matches("\"job\":null").count() < 2 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(version(), before);
    let log = String::from_utf8(studio.get(&format!("/jobs/{id}/log")).body).unwrap();
    assert_eq!(log.matches("\"succeeded\"").count(), 1, "{log}");
}

/// A job that fails for good is tried once, with the command's own words; what follows it runs.
#[test]
fn what_cannot_be_done_fails_alone() {
    let world = World::with_models("fails");
    let folder = world.folder.join("broken");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("config.json"), "{}").unwrap();
    std::fs::write(folder.join("model.safetensors"), [0xff; 64]).unwrap();
    let studio = world.serve(&["--allow-path", text(&world.folder)]);
    let broken = json!({"model": text(&folder), "preset": "bnb_nf4", "name": "org/broken"});
    let job = studio.end(&studio.submit("/compress", &broken));
    assert_eq!((&job["status"], &job["attempts"]), (&json!("failed"), &json!(1)), "{job}");
    assert!(job["error"].as_str().unwrap().contains("model.safetensors"), "{job}");
    let right = json!({"model": "org/base", "preset": "bnb_nf4"});
    assert_eq!(studio.end(&studio.submit("/compress", &right))["status"], "succeeded");
}
