//! Many readers that take their bytes slowly: the edge's memory does not grow with them. TENPAK_SOAK=N
//! reads with N readers instead of 100.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::command::Served;
use super::serving::Edge;
use super::world::{World, soak};
use tenpak::edge::EdgeOptions;
use tenpak::transport::Transport;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The value of a metric in what `/metrics` tells.
fn metric(text: &[u8], name: &str) -> u64 {
    let text = std::str::from_utf8(text).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect(name).parse().expect("a number")
}

#[test]
fn answers_begin_only_while_there_is_memory_for_them() {
    const LIMIT: u64 = 8 << 20;
    let world = World::new();
    let packs = world.packs();
    let largest = packs.iter().max_by_key(|path| {
        world.read(&*world.memory, path, tenpak::transport::ReadRange::Full).len()
    });
    let pack = format!("/{}", largest.expect("a pack"));
    world.runtime.block_on(async {
        let mut options = EdgeOptions::default();
        options.memory = 1;
        options.answer_memory = LIMIT;
        let edge = Edge::with(vec![world.memory.clone()], options).await;
        let mut slow = Vec::new();
        let mut refused = 0;
        for target in ["/org/m/resolve/main/model.safetensors", &pack].into_iter().cycle().take(200)
        {
            let mut stream = tokio::net::TcpStream::connect(&edge.address).await.expect("the edge");
            let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            stream.write_all(request.as_bytes()).await.expect("a request");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("an answer"));
            }
            let head = String::from_utf8_lossy(&head).to_lowercase();
            match &head[9..12] {
                "200" => slow.push(stream),
                "503" => {
                    assert!(head.contains("retry-after: 1"), "{head}");
                    refused += 1;
                }
                _ => panic!("{head}"),
            }
        }
        assert!(slow.len() >= 8 && refused >= 32, "{} answered, {refused} not", slow.len());
        let (_, metrics) = edge.ask("GET /metrics", "").await;
        assert_eq!(metric(&metrics, "tenpak_edge_requests_saturated_total"), refused);
        let held = metric(&metrics, "tenpak_edge_answer_bytes");
        // Each that began may hold a chunk on its way in, and a few frames on its way out.
        assert!((LIMIT..LIMIT * 3).contains(&held), "{held} bytes are held");
        // They who wait get what they asked for, and whoever comes then, too.
        for mut stream in slow {
            let mut whole = vec![0; 1 << 20];
            stream.read_exact(&mut whole).await.expect("a body");
        }
        let end = Instant::now() + Duration::from_secs(20);
        while edge.ask(&format!("HEAD {pack}"), "").await.0.starts_with("http/1.1 503") {
            assert!(Instant::now() < end, "nothing is given back");
        }
        let (head, body) = edge.ask(&format!("GET {pack}"), "").await;
        let path = tenpak::transport::ObjectPath::new(&pack[1..]).expect("a path");
        let right = world.memory.open(&path, tenpak::transport::ReadRange::Full).await;
        assert_eq!(right.expect("a pack").size, Some(body.len() as u64), "{head}");
        let end = Instant::now() + Duration::from_secs(20);
        while metric(&edge.ask("GET /metrics", "").await.1, "tenpak_edge_answer_bytes") > 0 {
            assert!(Instant::now() < end, "some bytes are counted for ever");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        edge.end().await;
    });
}

/// The memory that a process itself has, in KiB. The pages of its program are the system's cache, and as many as
/// the program is large.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("RssAnon");
    line.trim().trim_end_matches("kB").trim().parse().expect("a number")
}

/// Turns in which each reader takes a few bytes: 1 MiB in all, as much as a chunk has.
const TURNS: usize = 256;

#[test]
fn slow_readers_hold_no_growing_memory() {
    let Resident { before, most, .. } = read_slowly("slow", soak(100), &[]);
    assert!(most <= before + before / 20, "{before} KiB, then {most} KiB");
    // What all of them hold is bounded, however many they are; the rest is the cache and the program.
    assert!(most < (512 << 10) + (200 << 10), "{most} KiB");
}

#[test]
fn slow_readers_share_what_memory_there_is() {
    // Much less than what they would hold if each had a chunk.
    let little = ["--cache-memory", "4M", "--answer-memory", "40M"];
    let Resident { idle, most, held, .. } = read_slowly("slow-little", 100, &little);
    // Who began before the budget was used may still take a chunk. Without the budget it is 240 MB.
    assert!(held < 64 << 20, "{held} bytes are held");
    assert!(most < idle + (60 << 10), "{idle} KiB, then {most} KiB");
}

/// An edge's resident memory, in KiB.
struct Resident {
    /// Before anybody reads.
    idle: u64,
    /// Once all of them have some bytes.
    before: u64,
    /// The most that it is later.
    most: u64,
    /// The most bytes that the edge itself counts as held by answers.
    held: u64,
}

/// Many readers who take their bytes slowly.
fn read_slowly(name: &str, readers: usize, more: &[&str]) -> Resident {
    // Longer by far than what is read ahead of anybody, who would else be at its end.
    let names: Vec<String> =
        (0..10).map(|layer| format!("model.layers.{layer}.mlp.gate_proj.weight")).collect();
    let tensors: Vec<_> = names
        .iter()
        .zip(1..)
        .map(|(name, seed)| (name.as_str(), &[2048, 2048][..], seed))
        .collect();
    let served = Served::of(name, &tensors, &[], more);
    let (head, weights) = served.ask("GET /org/m/resolve/main/model.safetensors", "", "");
    assert!(head.starts_with("http/1.1 200"), "{head}");
    let pack = {
        let store = served.folder.join("store");
        let names = super::run::names(&store, "packs/");
        let size = |name: &&String| store.join(name).metadata().expect("a pack").len();
        names.iter().max_by_key(size).expect("a pack").clone()
    };
    let targets = [
        (
            format!("/{pack}"),
            served.folder.join("store").join(&pack).metadata().expect("a pack").len(),
        ),
        ("/org/m/resolve/main/model.safetensors".to_owned(), weights.len() as u64),
    ];
    let pid = served.process.id();
    let idle = resident(pid);
    let ask = |(target, size): &(String, u64), first: u64| {
        let mut stream = TcpStream::connect(&served.address).expect("the edge");
        let range = format!("Range: bytes={first}-");
        let request =
            format!("GET {target} HTTP/1.1\r\nHost: x\r\n{range}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        (stream, size - first)
    };
    // Whether it is answered, and not told to come back.
    let answered = |stream: &mut TcpStream| {
        let mut status = [0; 12];
        stream.read_exact(&mut status).expect("an answer");
        let status = String::from_utf8_lossy(&status).into_owned();
        assert!(["HTTP/1.1 206", "HTTP/1.1 503"].contains(&status.as_str()), "{status}");
        status.ends_with("206")
    };
    let ask_until_answered = |target: &(String, u64), first: u64| {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let mut asked = ask(target, first);
            if answered(&mut asked.0) {
                return asked;
            }
            assert!(Instant::now() < end, "there is never room for it");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    // Each is somewhere else in its file: all at the same place would come to what takes more memory together.
    let mut streams: Vec<(TcpStream, u64)> = (0..readers)
        .map(|number| {
            let target = &targets[number % 2];
            ask(target, target.1 * number as u64 / readers as u64)
        })
        .collect();
    // Who has all of it, and not before, begins anew.
    let turn = |streams: &mut Vec<(TcpStream, u64)>, size: usize| {
        let mut piece = vec![0; size];
        for (number, (stream, left)) in streams.iter_mut().enumerate() {
            let count = stream.read(&mut piece).expect("bytes") as u64;
            if count > 0 {
                // The head comes before what was asked for, and is not counted.
                *left = left.saturating_sub(count);
                continue;
            }
            assert_eq!(*left, 0, "an answer ends early");
            (*stream, *left) = ask_until_answered(&targets[number % 2], 0);
        }
    };
    // All are answered and have what is read ahead of them.
    for (number, asked) in streams.iter_mut().enumerate() {
        if !answered(&mut asked.0) {
            let target = &targets[number % 2];
            *asked = ask_until_answered(target, target.1 * number as u64 / readers as u64);
        }
    }
    // What the system itself holds of each is taken: from here on the edge has to send.
    for _ in 0..80 {
        turn(&mut streams, 64 << 10);
    }
    // A turn ends when each has its bytes: so many turns are so many bytes of each, however long they take.
    for _ in 0..TURNS {
        turn(&mut streams, 4 << 10);
    }
    let before = resident(pid);
    let (mut most, mut held) = (before, 0);
    for _ in 0..TURNS {
        turn(&mut streams, 4 << 10);
        most = most.max(resident(pid));
        held = held.max(served.metric("tenpak_edge_answer_bytes"));
    }
    println!(
        "{readers} readers: {idle} KiB, then {before} KiB, at most {most} KiB, {held} bytes held"
    );
    assert!(weights.len() > 10 << 20);
    Resident { idle, before, most, held }
}
