//! The edge's cache: what comes out is right whatever origins do, comes from them once, and counts
//! only if a trusted key signed for it.

use std::sync::Arc;
use std::time::Duration;

use super::model::write;
use super::world::World;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tenpak::edge::{EdgeOptions, Validity};
use tenpak::pack::{PackOptions, pack};
use tenpak::store::{ArtifactGraph, Store};
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ObjectPath, ReadRange, Transport, TransportErrorKind};
use tenpak::trust::{Signer, TrustSet};

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
    match world.try_read(&*alone.client, &path, ReadRange::Full) {
        Ok(_) => panic!("damaged bytes were served"),
        Err(error) => assert_ne!(error.kind, TransportErrorKind::NotFound, "{error}"),
    }
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
        let mut trust = TrustSet::default();
        trust.add_ed25519(public, None).expect("a key");
        EdgeOptions { trust, ..EdgeOptions::default() }
    };
    let options = PackOptions { signers: vec![Signer::Ed25519(key)], ..PackOptions::default() };
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
        let options = EdgeOptions { disk, memory, ..EdgeOptions::default() };
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

/// One GET; the status.
fn status(world: &World, address: &str, target: &str) -> u16 {
    let answer = world.runtime.block_on(super::serving::raw(
        address,
        format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
    ));
    answer[9..12].parse().expect("a status")
}

#[test]
fn what_was_resolved_is_served_while_the_origin_is_away() {
    let world = World::new();
    let origin = Arc::new(FaultBackend::new(world.memory.clone(), Vec::new()));
    let names = Validity { fresh: Duration::from_millis(100), stale: Duration::from_secs(3) };
    let options = EdgeOptions { names, ..EdgeOptions::default() };
    let served = world.serve(vec![origin.clone()], options);
    let file = "/org/m/resolve/main/config.json";
    let of_ref = "/refs/org/m/@latest";
    for target in [file, of_ref] {
        assert_eq!(status(&world, &served.address, target), 200, "{target}");
    }
    origin.script(vec![Fault::always("", Action::Fail(TransportErrorKind::Transient))]);
    // Names are taken to mean what they meant for a while; then the origin is asked, and is away.
    let began = std::time::Instant::now();
    std::thread::sleep(Duration::from_millis(200));
    for target in [file, of_ref] {
        assert_eq!(status(&world, &served.address, target), 200, "{target}");
    }
    assert_eq!(status(&world, &served.address, "/org/other/resolve/main/config.json"), 503);
    let asked = origin.stats().below("refs/org/m/").reads;
    assert!(asked > 2, "the origin was asked again: {asked}");
    // Not for ever.
    for target in [file, of_ref] {
        while status(&world, &served.address, target) != 503 {
            assert!(began.elapsed() < Duration::from_secs(30), "{target} is stale for too long");
            std::thread::sleep(Duration::from_millis(100));
        }
        assert!(began.elapsed() > Duration::from_secs(2), "{target} is given up too soon");
    }
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
