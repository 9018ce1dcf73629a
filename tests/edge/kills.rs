//! Kill -9 while the cache is filled: what is on disk afterwards is right or gone. TENPAK_SOAK=N kills N
//! times instead of 8.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::command::Served;
use super::run::{fresh_folder, text};
use super::world::soak;
use rand::{Rng, SeedableRng, rngs::StdRng};

#[test]
fn after_a_kill_nothing_on_disk_is_wrong() {
    let folder = fresh_folder("killed");
    let cache = folder.join("cache");
    let arguments = ["--cache-dir", text(&cache), "--cache-memory", "1M"];
    let mut served = Served::with("killed-edge", &arguments);
    let right = std::fs::read(served.model.join("model.safetensors")).expect("the weights");
    let mut rng = StdRng::seed_from_u64(13);
    for number in 0..soak(8) {
        let mut stream = TcpStream::connect(&served.address).expect("the edge");
        let request = "GET /org/m/resolve/main/model.safetensors HTTP/1.1\r\nHost: x\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        // It dies while it fills, somewhere.
        stream.read_exact(&mut [0]).expect("an answer");
        std::thread::sleep(Duration::from_micros(rng.gen_range(0..30_000)));
        served.process.kill().expect("a kill");
        served.process.wait().expect("an end");
        if rng.gen_bool(0.2) {
            std::fs::remove_dir_all(&cache).expect("a cold cache");
        }
        served.restart(&arguments);
        let (head, body) = served.ask("GET /org/m/resolve/main/model.safetensors", "", "");
        assert!(head.starts_with("http/1.1 200") && body == right, "kill {number}: {head}");
        let (_, metrics) = served.ask("GET /metrics", "", "");
        let metrics = String::from_utf8(metrics).expect("text");
        let damaged = metrics.lines().find(|line| line.starts_with("tenpak_edge_verify_failures"));
        assert_eq!(damaged, Some("tenpak_edge_verify_failures_total 0"), "kill {number}");
    }
}
