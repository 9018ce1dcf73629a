//! A large disk cache after a restart: its index is made from names and lengths alone, no file is read.

use std::fs::File;
use std::time::{Duration, Instant};

use super::command::Served;
use super::run::{fresh_folder, text};

/// Chunks of 1 MiB that are 100 GiB together.
const CHUNKS: u64 = 100 << 10;

/// What a process has read: bytes, and calls.
fn read_by(pid: u32) -> (u64, u64) {
    let told = std::fs::read_to_string(format!("/proc/{pid}/io")).expect("its counts");
    let count = |name: &str| -> u64 {
        let line = told.lines().find_map(|line| line.strip_prefix(name)).expect("a count");
        line.trim().parse().expect("a number")
    };
    (count("rchar:"), count("syscr:"))
}

#[test]
fn the_index_of_100_gib_is_soon_there() {
    let cache = fresh_folder("index");
    for shard in 0..256 {
        std::fs::create_dir(cache.join(format!("{shard:02x}"))).expect("a folder");
    }
    for number in 0..CHUNKS {
        let shard = number % 256;
        let name = format!("{shard:02x}/{shard:02x}{number:062x}");
        // A file with a length and no bytes: it takes no room.
        let file = File::create(cache.join(name)).expect("a file");
        file.set_len(1 << 20).expect("a length");
    }
    let mut served = Served::new("index-edge");
    served.process.kill().expect("a kill");
    served.process.wait().expect("an end");
    let (_, idle_calls) = {
        served.restart(&[]);
        read_by(served.process.id())
    };
    served.process.kill().expect("a kill");
    served.process.wait().expect("an end");

    let began = Instant::now();
    served.restart(&["--cache-dir", text(&cache), "--cache-disk", "200G"]);
    let took = began.elapsed();
    let (bytes, calls) = read_by(served.process.id());
    println!("{CHUNKS} chunks: listening after {:.2} s, {bytes} bytes read", took.as_secs_f64());
    // The program, its libraries and a small artifact: fewer calls than a hundredth of the files.
    assert!(bytes < 128 << 20 && calls < idle_calls + CHUNKS / 100, "{bytes} bytes, {calls} calls");
    let held = served.metric("tenpak_edge_disk_bytes");
    assert!(held >= CHUNKS << 20, "{held}");
    // A bound for a busy machine and a build without optimization; alone it takes a fraction of 2 s.
    assert!(took < Duration::from_secs(20), "{took:?}");
    drop(served);
    std::fs::remove_dir_all(&cache).expect("a folder");
}
