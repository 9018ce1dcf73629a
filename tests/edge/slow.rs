//! Many readers that take their bytes slowly: the edge's memory does not grow with them. TENPAK_SOAK=N
//! reads with N readers instead of 100.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::command::Served;
use super::world::soak;

/// The resident memory of a process, in KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

#[test]
fn slow_readers_hold_no_growing_memory() {
    let served = Served::new("slow");
    let (head, weights) = served.ask("GET /org/m/resolve/main/model.safetensors", "", "");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let pack = {
        let store = served.folder.join("store");
        let names = super::run::names(&store, "packs/");
        let size = |name: &&String| store.join(name).metadata().expect("a pack").len();
        names.iter().max_by_key(size).expect("a pack").clone()
    };
    let readers = soak(100);
    let targets = [format!("/{pack}"), "/org/m/resolve/main/model.safetensors".to_owned()];
    let mut streams: Vec<TcpStream> = (0..readers)
        .map(|number| {
            let mut stream = TcpStream::connect(&served.address).expect("the edge");
            let target = &targets[number % 2];
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("a request");
            stream
        })
        .collect();
    let mut piece = vec![0; 4 << 10];
    let mut turn = |streams: &mut Vec<TcpStream>| {
        for stream in streams {
            assert!(stream.read(&mut piece).expect("bytes") > 0);
        }
    };
    // All are answered and have what is read ahead of them.
    for _ in 0..3 {
        turn(&mut streams);
    }
    let settle = Instant::now() + Duration::from_secs(3);
    while Instant::now() < settle {
        turn(&mut streams);
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = served.process.id();
    let before = resident(pid);
    let end = Instant::now() + Duration::from_secs(if readers > 100 { 60 } else { 3 });
    let mut most = before;
    while Instant::now() < end {
        turn(&mut streams);
        most = most.max(resident(pid));
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("{readers} readers: {before} KiB resident, at most {most} KiB later");
    assert!(most <= before + before / 20, "{readers} readers: {before} KiB, then {most} KiB");
    // What each holds is bounded, whatever it reads.
    let each = 4 << 10;
    let bound = (300 << 10) + readers as u64 * each;
    assert!(most < bound, "{readers} readers: {most} KiB, where {bound} are the bound");
    assert!(weights.len() > 10 << 20);
}
