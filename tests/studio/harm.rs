//! What goes wrong around a studio: disks that are full, databases and stores that are away, clients that vanish,
//! processes that crash.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::postgres::Postgres;
use super::run::{done, text};
use super::world::{Served, World};

/// Begins an upload of one file; gives the file's address.
fn begin(studio: &Served, name: &str, length: usize) -> (String, String) {
    let begun = studio.ask(&["-X", "POST"], "/uploads").json();
    let path = format!("/uploads/{}/{name}", begun["id"].as_str().unwrap());
    let length = format!("Upload-Length: {length}");
    assert_eq!(studio.ask(&["-X", "POST", "-H", &length], &path).status, 201);
    (path, begun["source"].as_str().unwrap().to_owned())
}

fn offset(studio: &Served, path: &str) -> usize {
    studio.ask(&["-I"], path).header("upload-offset").unwrap().parse().unwrap()
}

/// Sends the head of a piece and some of its bytes.
fn send_some(studio: &Served, path: &str, length: usize, bytes: &[u8]) -> TcpStream {
    let address = studio.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "PATCH {path} HTTP/1.1\r\nHost: {address}\r\nUpload-Offset: 0\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

fn send_rest(world: &World, studio: &Served, path: &str, at: usize, data: &[u8]) -> u16 {
    let piece = world.folder.join("piece");
    std::fs::write(&piece, &data[at..]).unwrap();
    let (offset, file) = (format!("Upload-Offset: {at}"), format!("@{}", text(&piece)));
    studio.ask(&["-X", "PATCH", "-H", &offset, "--data-binary", &file], path).status
}

#[track_caller]
fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Clients that vanish or fall silent, and a server that is killed: what arrived stays, and the rest follows.
#[test]
fn uploads_go_on_from_where_they_were() {
    let world = World::new("cut-off");
    let studio = world.serve(&["--workers", "0"]);
    let data: Vec<u8> = (0..300_000_u32).map(|at| (at % 251) as u8).collect();
    // The client is gone.
    let (path, _) = begin(&studio, "a.bin", data.len());
    drop(send_some(&studio, &path, data.len(), &data[..100_000]));
    until("its bytes", || (offset(&studio, &path) == 100_000).then_some(()));
    until("the rest", || match send_rest(&world, &studio, &path, 100_000, &data) {
        204 => Some(()),
        409 => None,
        other => panic!("{other}"),
    });
    // Who sends what is there already is told so, although it goes on sending when the answer could be there.
    let mut refused = send_some(&studio, &path, data.len(), &data[..1000]);
    std::thread::sleep(Duration::from_millis(500));
    refused.write_all(&data[1000..]).unwrap();
    let mut status = [0; 12];
    refused.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 409");
    // It says nothing more: others are answered meanwhile, and after a while it holds nothing.
    let (path, source) = begin(&studio, "b.bin", data.len());
    let mut silent = send_some(&studio, &path, data.len(), &data[..1000]);
    until("its bytes", || (offset(&studio, &path) == 1000).then_some(()));
    assert_eq!(send_rest(&world, &studio, &path, 1000, &data), 409);
    until("its place", || (send_rest(&world, &studio, &path, 1000, &data) == 204).then_some(()));
    silent.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answer = String::new();
    silent.read_to_string(&mut answer).unwrap_or_default();
    assert!(!answer.contains(" 500 "), "{answer}");
    let whole = world.folder.join("uploads/local").join(source.trim_start_matches("upload:"));
    if let Ok(read) = std::fs::read(whole.join("b.bin")) {
        assert!(read == data);
    }
    // The server is killed.
    let (path, _) = begin(&studio, "c.bin", data.len());
    let _open = send_some(&studio, &path, data.len(), &data[..50_000]);
    until("its bytes", || (offset(&studio, &path) == 50_000).then_some(()));
    studio.process.signal("-KILL");
    drop(studio);
    let studio = world.serve(&["--workers", "0"]);
    let there = offset(&studio, &path);
    assert_eq!(there, 50_000);
    assert_eq!(send_rest(&world, &studio, &path, there, &data), 204);
}

/// No file may grow beyond 2 MiB: uploads, the store, fetched models. Each says so, and goes on where there is room.
#[test]
fn a_full_disk_fails_what_needs_it_and_no_more() {
    let mut world = World::with_models("full");
    let model = world.slow_model();
    world.limit = Some(2048);
    let allow = ["--allow-path", text(&world.folder)];
    let studio = world.serve(&allow);
    let data = vec![7; 5 << 20];
    let (path, _) = begin(&studio, "big.bin", data.len());
    let piece = world.folder.join("whole");
    std::fs::write(&piece, &data).unwrap();
    let file = format!("@{}", text(&piece));
    let refused =
        studio.ask(&["-X", "PATCH", "-H", "Upload-Offset: 0", "--data-binary", &file], &path);
    assert_eq!((refused.status, refused.header("retry-after")), (507, Some("60")));
    let there = offset(&studio, &path);
    assert!(there <= 2 << 20, "{there}");
    let wanted = json!({"model": text(&model), "preset": "bnb_nf4", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    let job = studio.end(&id);
    assert_eq!(job["status"], "failed", "{job}");
    let error = job["error"].as_str().unwrap();
    assert!(error.contains("too large") || error.contains("space"), "{error}");
    // What fits is done.
    let small = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/small"});
    assert_eq!(studio.end(&studio.submit("/compress", &small))["status"], "succeeded");
    drop(studio);
    world.limit = None;
    let studio = world.serve(&allow);
    assert_eq!(send_rest(&world, &studio, &path, there, &data), 204);
    let again = studio.ask(&["-X", "POST"], &format!("/jobs/{id}/retry")).json();
    let job = studio.end(again["id"].as_str().unwrap());
    assert_eq!(job["status"], "succeeded", "{job}");
    done(&["verify", "org/slow", "--store", text(&world.store)]);
}

/// The database cannot grow: what was accepted is there, what was not was said not to be, and reading goes on.
#[test]
fn a_full_database_loses_nothing_that_it_accepted() {
    let mut world = World::with_models("full-database");
    world.limit = Some(600);
    let studio = world.serve(&["--workers", "0"]);
    let mut accepted = 0;
    let refused = (0..400)
        .find_map(|number| {
            let wanted =
                json!({"model": "org/base", "preset": "bnb_nf4", "name": format!("org/x{number}")});
            let answer = studio.post("/compress", &wanted, &[]);
            if answer.status == 202 {
                accepted += 1;
                return None;
            }
            Some(answer)
        })
        .expect("it is never full");
    assert!(accepted > 3, "{accepted}");
    assert_eq!(refused.status, 503, "{}", refused.json());
    assert!(refused.header("retry-after").is_some());
    assert_eq!(studio.get("/jobs?limit=1").status, 200);
    assert_eq!(studio.get("/health").status, 200);
    drop(studio);
    world.limit = None;
    let studio = world.serve(&["--workers", "0"]);
    let metrics = String::from_utf8(studio.get("/metrics").body).unwrap();
    let queued = format!("tenpak_studio_jobs{{state=\"queued\"}} {accepted}\n");
    assert!(metrics.contains(&queued), "{accepted}: {metrics}");
}

/// The database is away for longer than a look: readers are told when to come back, and the work goes on.
#[test]
fn a_database_that_is_away_is_waited_for() {
    let mut server = Postgres::start();
    let mut world = World::new("away");
    let model = world.large_model();
    world.database = server.database();
    let studio = world.serve(&["--allow-path", text(&world.folder)]);
    let wanted = json!({"model": text(&model), "preset": "bnb_int8", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    studio.begun(&id);
    server.without(|| {
        for path in [
            "/jobs".to_owned(),
            format!("/status/{id}"),
            "/readyz".to_owned(),
            "/workers".to_owned(),
        ] {
            let answer = studio.get(&path);
            assert_eq!(answer.status, 503, "{path}");
            assert!(answer.header("retry-after").is_some(), "{path}");
            // Where it lies is nobody's matter.
            let told = answer.json()["detail"].to_string();
            assert!(!told.contains("127.0.0.1") && !told.contains("postgres"), "{told}");
        }
        assert_eq!(studio.post("/compress", &wanted, &[]).status, 503);
        assert_eq!(studio.get("/healthz").status, 200);
        assert_eq!(studio.get("/artifacts").status, 200);
    });
    let job = studio.end(&id);
    // Work that came to its end meanwhile is done once more, by what it left.
    assert_eq!(job["status"], json!("succeeded"), "{job}");
    assert!(job["attempts"].as_u64().is_some_and(|attempts| attempts <= 2), "{job}");
    let ready = studio.get("/readyz");
    assert_eq!(ready.status, 200, "{}", ready.json());
}

#[test]
fn a_store_that_is_away_is_told_and_comes_back() {
    let world = World::with_models("store-away");
    let studio = world.serve(&["--workers", "0"]);
    let wanted = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/x"});
    let aside = world.folder.join("aside");
    std::fs::rename(&world.store, &aside).unwrap();
    for answer in [
        studio.get("/artifacts/org/base"),
        studio.get("/lineage/org/base"),
        studio.post("/compress", &wanted, &[]),
        studio.get("/artifacts"),
    ] {
        assert!([200, 404, 502, 503].contains(&answer.status), "{}", answer.json());
    }
    assert_eq!(studio.get("/jobs").json()["jobs"], json!([]));
    drop(std::fs::remove_dir_all(&world.store));
    std::fs::rename(&aside, &world.store).unwrap();
    assert_eq!(studio.get("/artifacts/org/base").status, 200);
    studio.submit("/compress", &wanted);
}

/// The process of a job, by its worker's.
fn child_of(parent: u32) -> Option<u32> {
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let id: u32 = entry.file_name().to_str()?.parse().ok()?;
        let about = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let fields: Vec<&str> = about.rsplit_once(')')?.1.split_whitespace().collect();
        (fields.get(1)?.parse::<u32>().ok()? == parent).then_some(id)
    })
}

/// A quantizer that crashes ends its job alone: it is tried again, as often as it may be.
#[test]
fn a_process_that_crashes_ends_its_job_alone() {
    let world = World::with_models("crash");
    let model = world.large_model();
    let studio = world.serve(&["--allow-path", text(&world.folder), "--attempts", "2"]);
    let wanted = json!({"model": text(&model), "preset": "bnb_int8", "name": "org/slow"});
    let id = studio.submit("/compress", &wanted);
    for attempt in 1..=2 {
        studio.until(&id, |job: &Value| job["status"] == "running" && job["attempts"] == attempt);
        let child = until("a process", || child_of(studio.process.0.id()));
        let sent = std::process::Command::new("kill").args(["-ABRT", &child.to_string()]).status();
        assert!(sent.unwrap().success());
        studio.until(&id, |job| job["status"] != "running");
    }
    let job = studio.end(&id);
    assert_eq!((&job["status"], &job["attempts"]), (&json!("failed"), &json!(2)), "{job}");
    assert!(job["error"].as_str().unwrap().contains("signal 6"), "{job}");
    let other = json!({"model": "org/base", "preset": "bnb_nf4", "name": "org/other"});
    assert_eq!(studio.end(&studio.submit("/compress", &other))["status"], "succeeded");
}
