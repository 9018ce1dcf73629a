//! How an engine and its server end: each with the other, whatever ends first.

use std::net::TcpListener;

use serde_json::json;

use super::world::{World, is_empty, lives, until};

const VLLM: [&str; 3] = ["org/m", "--engine", "vllm"];

#[test]
fn nothing_outlives_a_server_that_is_killed() {
    let world = World::new("killed");
    let mut served = world.serve(json!({"worker": true, "stubborn": true}), &VLLM);
    let noted = world.noted();
    assert!(lives(&noted["pid"]) && lives(&noted["worker"]));
    served.process.kill().unwrap();
    served.process.wait().unwrap();
    until("the engine is gone", || !lives(&noted["pid"]));
    until("a process that left its session is gone", || !lives(&noted["worker"]));
    until("its folder is gone", || is_empty(&world.temporary()));
}

#[test]
fn nothing_outlives_a_supervisor_that_is_killed() {
    let world = World::new("supervisor");
    let served = world.serve(json!({"stubborn": true}), &VLLM);
    let noted = world.noted();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", noted["pid"])).unwrap();
    let parent: u32 =
        stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert_ne!(parent, served.process.id());
    super::world::signal(parent, "KILL");
    until("the engine is gone", || !lives(&noted["pid"]));
    let (status, said) = served.end();
    assert_eq!(status, Some(1), "{said}");
}

#[test]
fn what_an_engine_leaves_behind_is_ended_with_it() {
    let world = World::new("left");
    let served = world.serve(json!({"worker": true, "status": 9}), &VLLM);
    let noted = world.noted();
    served.signal("TERM");
    let (status, said) = served.end();
    assert_eq!(status, Some(9), "its status is ours: {said}");
    assert!(said.contains("status 9 after it was told to stop"), "{said}");
    assert!(!lives(&noted["worker"]));
}

#[test]
fn an_engine_that_ends_too_early_is_told() {
    let world = World::new("early");
    for (status, is) in [(3, 3), (0, 1)] {
        let run =
            world.run(json!({"exit": status}), &[&VLLM[..], &["--listen", "127.0.0.1:0"]].concat());
        assert_eq!(run.status, Some(is), "{}", run.error);
        assert!(
            run.error.contains("It said last:") && run.error.contains("giving up"),
            "{}",
            run.error
        );
        assert_eq!(run.json["status"], is);
    }
    assert!(is_empty(&world.temporary()));
}

#[test]
fn an_engine_that_dies_while_it_serves_is_told() {
    let world = World::new("dies");
    let served = world.serve(json!({"worker": true}), &VLLM);
    let noted = world.noted();
    served.ask("/die/7");
    let (status, said) = served.end();
    assert_eq!(status, Some(7), "{said}");
    assert!(said.contains("vLLM ended with status 7"), "{said}");
    assert!(!lives(&noted["worker"]));
    // By a signal.
    let served = world.serve(json!({}), &VLLM);
    super::world::signal(u32::try_from(world.noted()["pid"].as_u64().unwrap()).unwrap(), "KILL");
    let (status, said) = served.end();
    assert_eq!(status, Some(128 + 9), "{said}");
    assert!(said.contains("ended by signal 9"), "{said}");
}

#[test]
fn an_engine_that_is_never_ready_is_given_up() {
    let world = World::new("late");
    let all = [&VLLM[..], &["--start-timeout", "2", "--listen", "127.0.0.1:0"]].concat();
    let run = world.run(json!({"silent": true}), &all);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("not ready after 2 s; --start-timeout"), "{}", run.error);
    assert!(!lives(&world.noted()["pid"]));
}

#[test]
fn a_server_that_is_stopped_while_it_starts_stops() {
    let world = World::new("starting");
    let process = world.start(json!({"silent": true}), &VLLM);
    until("the engine has begun", || world.record().exists());
    super::world::signal(process.id(), "TERM");
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!lives(&world.noted()["pid"]), "{said}");
    assert_eq!(world.noted()["signal"], 15, "{said}");
    assert!(said.contains("was stopped before it was ready"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
}

#[test]
fn a_port_that_is_taken_is_told_before_anything_starts() {
    let world = World::new("port");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let run = world.run(json!({}), &[&VLLM[..], &["--listen", &address]].concat());
    assert_eq!(run.status, Some(1));
    assert!(
        run.error.contains(&format!("{address} is taken")) && run.error.contains("--listen"),
        "{}",
        run.error
    );
    assert!(!world.record().exists());
}

/// An engine never gets what is not what was packed, and the status says so.
#[test]
fn damaged_weights_do_not_reach_an_engine() {
    let world = World::new("damaged");
    for pack in std::fs::read_dir(world.store.join("packs")).unwrap().flatten() {
        let path = pack.path();
        let (path, mut bytes) = match path.is_dir() {
            true => continue,
            false => (path.clone(), std::fs::read(&path).unwrap()),
        };
        bytes[1000] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let run = world.run(json!({}), &[&VLLM[..], &["--listen", "127.0.0.1:0"]].concat());
    assert_eq!(run.status, Some(4), "{}", run.error);
    assert!(run.error.contains("tenpak verify"), "{}", run.error);
    assert!(!world.record().exists(), "it did not get all files");
}
