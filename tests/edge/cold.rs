//! Many clients at once on an artifact that the edge does not have: the origin gives each byte once,
//! whatever happens meanwhile. TENPAK_SOAK=N asks with N clients instead of 60.

use std::sync::Arc;
use std::time::Duration;

use super::world::{World, soak};
use bytes::BytesMut;
use tenpak::edge::EdgeOptions;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ReadRange, Transport, TransportErrorKind};

/// Has all clients read all packs at once and compares every byte; those that `leave` do so after a
/// little. Gives the bytes of packs that the origin sent.
fn rush(world: &World, faults: Vec<Fault>, leave: usize) -> u64 {
    let origin = Arc::new(FaultBackend::new(world.memory.clone(), faults));
    let served = world.serve(vec![origin.clone()], EdgeOptions::default());
    let packs: Vec<_> = world
        .packs()
        .into_iter()
        .map(|path| {
            let right = world.read(&*world.memory, &path, ReadRange::Full);
            (path, right)
        })
        .collect();
    let packs = Arc::new(packs);
    world.runtime.block_on(async {
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..soak(60) {
            let (packs, url) = (packs.clone(), format!("http://{}", served.address));
            clients.spawn(async move {
                // Each has connections of its own.
                let client = HttpBackend::new(&url, HttpOptions::default()).expect("a client");
                for (path, right) in packs.iter() {
                    if number < leave {
                        let open = client.open(path, ReadRange::Full);
                        let mut reader = open.await.expect("an answer");
                        reader.body.append(&mut BytesMut::new(), 1).await.expect("a byte");
                        return;
                    }
                    // A client whose answer breaks asks again, as loaders do.
                    let policy = RetryPolicy::default();
                    let read = read_all(&client, path, ReadRange::Full, 1 << 30, &policy).await;
                    assert!(read.expect("bytes").0 == *right, "{path}");
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.expect("no panic");
        }
    });
    origin.stats().below("packs/").bytes_read
}

/// The chunks once; the index and trailer of each pack, which are read as a suffix of 16 KiB at most.
fn once(world: &World) -> std::ops::RangeInclusive<u64> {
    world.stored()..=world.stored() + world.packs().len() as u64 * (16 << 10)
}

#[test]
fn the_origin_gives_each_byte_once() {
    let world = World::new();
    let read = rush(&world, Vec::new(), 0);
    assert!(once(&world).contains(&read), "{read} bytes of {:?}", once(&world));
}

#[test]
fn also_when_those_who_came_first_leave() {
    let world = World::new();
    let read = rush(&world, Vec::new(), soak(60) / 2);
    assert!(once(&world).contains(&read), "{read} bytes of {:?}", once(&world));
}

#[test]
fn also_when_the_origin_fails_once_or_answers_late() {
    let world = World::new();
    for action in
        [Action::Fail(TransportErrorKind::Transient), Action::Delay(Duration::from_secs(3))]
    {
        // The first request is for an index, the second for chunks.
        let read = rush(&world, vec![Fault::nth("packs/", 1, action.clone())], 0);
        assert!(once(&world).contains(&read), "{action:?}: {read} bytes of {:?}", once(&world));
    }
}

#[test]
fn an_origin_that_stalls_repeats_less_than_a_chunk() {
    let world = World::new();
    let stall = Action::Stall(1_000_001);
    let read = rush(&world, vec![Fault::nth("packs/", 1, stall)], 0);
    let chunk = u64::from(tenpak::format::limits::MAX_CHUNK);
    let (least, most) = (*once(&world).start(), *once(&world).end() + chunk);
    assert!((least..=most).contains(&read), "{read} bytes of {least}..={most}");
}
