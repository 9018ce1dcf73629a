//! The edge's cache: what comes out is right whatever origins do, comes from them once, and counts
//! only if a trusted key signed for it.

use std::sync::Arc;
use std::time::Duration;

use super::model::write;
use super::world::World;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tenpak::edge::{Clock, EdgeOptions, Validity};
use tenpak::pack::{PackOptions, pack};
use tenpak::store::{ArtifactGraph, Store};
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ObjectPath, ReadRange, Transport, TransportErrorKind};
use tenpak::trust::Signer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[test]
fn however_many_ask_the_origin_gives_each_chunk_once() {
    let world = World::new();
    let origin = Arc::new(FaultBackend::counting(world.memory.clone()));
    let served = world.serve(vec![origin.clone()], EdgeOptions::default());
    let packs = world.packs();
    world.runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..40 {
            for path in packs.clone() {
                let (client, memory) = (served.client.clone(), world.memory.clone());
                clients.spawn(async move {
                    let policy = RetryPolicy::default();
                    let full = ReadRange::Full;
                    let got = read_all(&*client, &path, full.clone(), 1 << 30, &policy).await;
                    let right = read_all(&*memory, &path, full, 1 << 30, &policy).await;
                    assert!(got.expect("bytes").0 == right.expect("bytes").0, "{path}");
                });
            }
        }
        while let Some(ended) = clients.join_next().await {
            ended.expect("no panic");
        }
    });
    let read = origin.stats().below("packs/");
    // The chunks once, and the index and trailer of each pack, which are read as a suffix.
    let indexes = packs.len() as u64 * (16 << 10);
    assert!(read.bytes_read >= world.stored(), "{read:?}");
    assert!(read.bytes_read <= world.stored() + indexes, "{} of {read:?}", world.stored());
}

#[test]
fn every_range_is_the_packs_own() {
    let world = World::new();
    let served = world.serve(vec![world.memory.clone()], EdgeOptions::default());
    let mut rng = StdRng::seed_from_u64(7);
    for path in world.packs() {
        let whole = world.read(&*world.memory, &path, ReadRange::Full);
        let size = whole.len() as u64;
        for _ in 0..40 {
            let start = rng.gen_range(0..size);
            let end = rng.gen_range(start + 1..=size.min(start + (3 << 20)));
            let got = world.read(&*served.client, &path, ReadRange::Bounded(start..end));
            assert!(got == whole[start as usize..end as usize], "{path} {start}..{end}");
        }
        for last in [1, 16, 17, 5000, size, size + 1] {
            let got = world.read(&*served.client, &path, ReadRange::Suffix(last));
            assert!(got == whole[(size - last.min(size)) as usize..], "{path} -{last}");
        }
    }
}

#[test]
fn a_flipped_bit_at_the_origin_reaches_nobody() {
    let world = World::new();
    let bad = || {
        Arc::new(FaultBackend::new(
            world.memory.clone(),
            vec![Fault::always("packs/", Action::FlipBit(300_000, 3))],
        ))
    };
    let path = world.packs().remove(0);
    let right = world.read(&*world.memory, &path, ReadRange::Full);
    let alone = world.serve(vec![bad()], EdgeOptions::default());
    // The head is right, and the body ends before the damaged chunk.
    let (head, body) = get(&world, &alone.address, &format!("/{path}"));
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert!(head.contains(&format!("content-length: {}\r\n", right.len())), "{head}");
    assert!(body.len() <= 300_000 && right.starts_with(&body), "{} bytes came", body.len());
    let (_, metrics) = get(&world, &alone.address, "/metrics");
    let metrics = String::from_utf8(metrics).expect("text");
    let refused = metrics.lines().find(|l| l.starts_with("tenpak_edge_verify_failures_total "));
    assert!(refused.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
    let two: Vec<Arc<dyn Transport>> = vec![bad(), world.memory.clone()];
    let mended = world.serve(two, EdgeOptions::default());
    assert!(world.read(&*mended.client, &path, ReadRange::Full) == right);
}

#[test]
fn with_anybody_trusted_only_what_they_signed_is_served() {
    let world = World::new();
    let store = Store::new(world.memory.clone());
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let signed = write(
        &world.dir.path().join("signed"),
        &[("model.embed_tokens.weight", &[2000, 1024], 11), ("model.norm.weight", &[512], 12)],
    );
    let name = ("org/signed".parse().expect("a name"), "latest".parse().expect("a tag"));
    let public = key.verifying_key();
    let closed = || {
        let mut options = EdgeOptions::default();
        options.trust.add_ed25519(public, None).expect("a key");
        options
    };
    let mut options = PackOptions::default();
    options.signers = vec![Signer::Ed25519(key)];
    let handle = world.runtime.handle();
    let report = pack(&signed, &store, (&name.0, &name.1), options, handle, &()).expect("packed");
    let own =
        world.runtime.block_on(ArtifactGraph::read(&store, report.manifest)).expect("a graph");
    let both = || vec![world.memory.clone() as Arc<dyn Transport>];
    let served = world.serve(both(), closed());
    let path = |text: String| ObjectPath::new(text).expect("a path");
    let ask = |text: String| world.try_read(&*served.client, &path(text), ReadRange::Full);

    let pack_of = |whole: &ArtifactGraph| format!("packs/{}", whole.chunks[0].place.pack);
    // Before anybody named its manifest, and after.
    assert_eq!(ask(pack_of(&own)).expect_err("unknown").kind, TransportErrorKind::Denied);
    for object in ["refs/org/signed/@latest".to_owned(), format!("manifests/{}", own.id)] {
        ask(object).expect("served");
    }
    ask(pack_of(&own)).expect("served");
    ask(format!("tables/{}", own.manifest.table().table)).expect("served");
    for object in [
        "refs/org/m/@latest".to_owned(),
        format!("manifests/{}", world.whole.id),
        format!("layouts/{}", world.whole.id),
        pack_of(&world.whole),
    ] {
        assert_eq!(ask(object.clone()).expect_err(&object).kind, TransportErrorKind::Denied);
    }
    let table = format!("tables/{}", world.whole.manifest.table().table);
    assert_eq!(ask(table).expect_err("untrusted").kind, TransportErrorKind::NotFound);

    // An edge that nobody has asked for the manifest learns of it from the loader's own word, and a
    // word about what nobody signed teaches it nothing.
    let fresh = world.serve(both(), closed());
    let told = |artifact: String| fresh.client.for_artifact(&artifact).expect("a client");
    let packs = path(pack_of(&own));
    for wrong in [format!("@{}", world.whole.id), "org/signed@".to_owned(), "@x".to_owned()] {
        let refused = world.try_read(&*told(wrong), &packs, ReadRange::Full);
        assert_eq!(refused.expect_err("unknown").kind, TransportErrorKind::Denied);
    }
    world.read(&*told(format!("org/signed@{}", own.id)), &packs, ReadRange::Full);
}

#[test]
fn what_lies_on_disk_is_not_asked_of_the_origin_again() {
    let world = World::new();
    let folder = world.dir.path().join("cache");
    let serve = |origin: &Arc<FaultBackend>, memory| {
        let disk = Some((folder.clone(), 1 << 30));
        let mut options = EdgeOptions::default();
        options.disk = disk;
        options.memory = memory;
        world.serve(vec![origin.clone()], options)
    };
    let origin = Arc::new(FaultBackend::counting(world.memory.clone()));
    let packs = world.packs();
    let files = |folder: &std::path::Path| -> Vec<std::path::PathBuf> {
        let list = |dir: &std::path::Path| -> Vec<std::path::PathBuf> {
            let entries = std::fs::read_dir(dir).expect("a folder");
            entries.map(|entry| entry.expect("an entry").path()).collect()
        };
        list(folder).iter().flat_map(|shard| list(shard)).collect()
    };
    let chunks = world.whole.manifest.totals.chunks as usize;
    {
        let served = serve(&origin, 1 << 30);
        for path in &packs {
            world.read(&*served.client, path, ReadRange::Full);
        }
        // They are written behind the answers.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        let written = |file: &&std::path::PathBuf| !file.to_string_lossy().contains(".part");
        while files(&folder).iter().filter(written).count() < chunks {
            assert!(std::time::Instant::now() < deadline, "{chunks} chunks are not on disk");
            std::thread::yield_now();
        }
    }
    // The system forgets them: first they are waited for, then they are in its memory.
    for file in files(&folder) {
        let file = std::fs::File::open(file).expect("a chunk");
        file.sync_all().expect("on disk");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advice");
    }
    origin.reset_stats();
    // Almost no memory: what is read again is read from disk again.
    let served = serve(&origin, 1);
    for path in packs.iter().chain(&packs) {
        let right = world.read(&*world.memory, path, ReadRange::Full);
        assert!(world.read(&*served.client, path, ReadRange::Full) == right, "{path}");
    }
    let read = origin.stats().below("packs/");
    assert!(read.bytes_read <= packs.len() as u64 * (16 << 10), "{read:?}");

    // A flipped bit on disk is noticed, and that chunk alone is fetched again.
    let damaged = files(&folder).into_iter().max_by_key(|f| f.metadata().expect("a file").len());
    let damaged = damaged.expect("a chunk");
    let mut bytes = std::fs::read(&damaged).expect("a chunk");
    bytes[1234] ^= 4;
    std::fs::write(&damaged, &bytes).expect("written");
    origin.reset_stats();
    for path in &packs {
        let right = world.read(&*world.memory, path, ReadRange::Full);
        assert!(world.read(&*served.client, path, ReadRange::Full) == right, "{path}");
    }
    assert_eq!(origin.stats().below("packs/").bytes_read, bytes.len() as u64);
}

/// One GET; the head in lower case, and the body as far as it comes.
fn get(world: &World, address: &str, target: &str) -> (String, Vec<u8>) {
    world.runtime.block_on(async {
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("the edge");
        let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut answer = Vec::new();
        // A body that cannot be finished ends its connection.
        drop(stream.read_to_end(&mut answer).await);
        let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
        let body = answer.split_off(end);
        (String::from_utf8_lossy(&answer).to_lowercase(), body)
    })
}

/// One GET; the status.
fn status(world: &World, address: &str, target: &str) -> u16 {
    get(world, address, target).0[9..12].parse().expect("a status")
}

#[test]
fn what_was_resolved_is_served_while_the_origin_is_away() {
    let world = World::new();
    let origin = Arc::new(FaultBackend::new(world.memory.clone(), Vec::new()));
    let hour = Duration::from_secs(60 * 60);
    let (names, clock) = (Validity { fresh: hour, stale: 2 * hour }, Clock::default());
    let mut options = EdgeOptions::default();
    options.names = names;
    options.clock = clock.clone();
    options.retry.first_pause = Duration::from_millis(1);
    let served = world.serve(vec![origin.clone()], options);
    let targets = ["/org/m/resolve/main/config.json", "/refs/org/m/@latest"];
    let all_are = |expected: u16| {
        for target in targets {
            assert_eq!(status(&world, &served.address, target), expected, "{target}");
        }
    };
    all_are(200);
    origin.script(vec![Fault::always("", Action::Fail(TransportErrorKind::Transient))]);
    origin.reset_stats();
    let asked = || origin.stats().below("refs/org/m/").reads;
    // Names are taken to mean what they meant for a while; then the origin is asked, and is away.
    clock.advance(hour / 2);
    all_are(200);
    assert_eq!(asked(), 0, "what is fresh was asked for");
    clock.advance(hour / 2);
    all_are(200);
    assert_eq!(status(&world, &served.address, "/org/other/resolve/main/config.json"), 503);
    let once = asked();
    assert!(once >= 2, "the origin was asked again: {once}");
    // To be asked for does not make it younger.
    for _ in 0..3 {
        clock.advance(hour / 2);
        all_are(200);
        all_are(200);
    }
    assert!(asked() > once, "the origin is asked now and then");
    // Not for ever.
    clock.advance(hour);
    all_are(503);
    // And as soon as it is back.
    origin.script(Vec::new());
    all_are(200);
}

#[test]
fn what_is_not_there_is_not_asked_for_again_and_again() {
    let world = World::new();
    let origin = Arc::new(FaultBackend::counting(world.memory.clone()));
    let served = world.serve(vec![origin.clone()], EdgeOptions::default());
    let pack = format!("/packs/{}", "0".repeat(64));
    let missing = ["/refs/org/none/@latest", "/org/none/resolve/main/x", &pack, "/s3/org/none/x"];
    for target in missing {
        assert_eq!(status(&world, &served.address, target), 404, "{target}");
    }
    let before = origin.stats().total();
    for target in missing.iter().cycle().take(40) {
        assert_eq!(status(&world, &served.address, target), 404, "{target}");
    }
    let after = origin.stats().total();
    assert_eq!((before.reads, before.heads), (after.reads, after.heads));
}
