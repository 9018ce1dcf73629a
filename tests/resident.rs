//! A model that is resident in part, in host memory as the device: what is fetched, what leaves, what
//! stays, and what is refused.

#![cfg(feature = "cli")]

mod support;

use std::sync::Arc;

use tenpak::chunk::codec::CodecChoice;
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::host::Host;
use tenpak::load::sink::resident::{Resident, ResidentError, ResidentOptions};
use tenpak::load::{LoadError, LoadOptions};
use tenpak::store::artifact::{Artifact, OpenOptions, SelectedTensors, Selection};
use tenpak::transport::Transport;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;

use support::{TestTensor, build, tensor};

/// Bytes of a tensor of the model.
const EACH: u64 = 256 * 512 * 2;

struct World {
    tensors: Vec<TestTensor>,
    transport: Arc<FaultBackend>,
    resident: Resident<Host>,
}

/// Eight layers of one tensor each, of which `budget` bytes may be resident.
async fn world(budget: u64) -> World {
    let tensors: Vec<_> = (0..8).map(|layer| tensor(&name(layer), &[256, 512], layer)).collect();
    let inner: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let id = build(&inner, &tensors, CodecChoice::Raw, 4 << 20).await;
    let transport = Arc::new(FaultBackend::counting(inner));
    let spec = format!("@{id}").parse().unwrap();
    let artifact = Artifact::open(
        tenpak::store::Store::new(transport.clone()),
        &spec,
        &OpenOptions::default(),
    )
    .await
    .unwrap();
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let fetch = move |tensors| {
        let mut options = LoadOptions::default();
        options.failures = 2;
        options.bad_chunks = 1;
        artifact.load(SelectedTensors { tensors, ..SelectedTensors::default() }, &options)
    };
    let options = ResidentOptions::new(budget);
    let resident = Resident::new(Host, options, &wanted.tensors, fetch);
    World { tensors, transport, resident }
}

fn name(layer: u64) -> String {
    format!("model.layers.{layer}.up_proj.weight")
}

impl World {
    fn packs(&self) -> u64 {
        self.transport.stats().below("packs/").reads
    }

    /// Touches a layer and compares what is there.
    async fn check(&self, layer: u64) {
        let handle = self.resident.touch(&name(layer)).await.unwrap();
        assert!(handle.memory == self.tensors[layer as usize].data, "layer {layer}");
    }

    fn resident(&self) -> Vec<u64> {
        (0..8).filter(|layer| self.resident.is_resident(&name(*layer))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_touched_streams_in_and_the_least_recently_used_leaves() {
    let world = world(3 * EACH + 10).await;
    for layer in [0, 1, 2, 0, 3, 0, 1] {
        world.check(layer).await;
    }
    assert_eq!(world.resident(), [0, 1, 3]);
    let stats = world.resident.stats();
    assert_eq!((stats.fetches, stats.hits, stats.evictions), (5, 2, 2));
    assert_eq!((stats.resident, stats.alive, stats.peak), (3, 3 * EACH, 3 * EACH));
    assert_eq!(world.packs(), 5, "one request for each fetch, none for what is there");
    for layer in (0..8).chain(0..8) {
        world.check(layer).await;
    }
    assert!(world.resident.stats().peak <= 3 * EACH + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_who_touch_one_tensor_fetch_it_once() {
    let world = Arc::new(world(8 * EACH).await);
    let tasks: Vec<_> = (0..40)
        .map(|task| {
            let world = world.clone();
            tokio::spawn(async move { world.check(task % 2).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let stats = world.resident.stats();
    assert_eq!((stats.fetches, stats.hits + stats.waits), (2, 38));
    assert_eq!(world.packs(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_pinned_or_held_stays_and_a_touch_without_room_says_so() {
    let world = world(3 * EACH).await;
    let pin = world.resident.pin(&name(0)).await.unwrap();
    let again = world.resident.pin(&name(0)).await.unwrap();
    let held = world.resident.touch(&name(1)).await.unwrap();
    for layer in 2..8 {
        world.check(layer).await;
    }
    assert_eq!(world.resident(), [0, 1, 7]);
    let last = world.resident.touch(&name(7)).await.unwrap();
    let error = world.resident.touch(&name(2)).await.unwrap_err();
    let ResidentError::Full { pinned, used, alive, .. } = &error else { panic!("{error}") };
    assert_eq!((*pinned, *used, *alive), (1, 2, 3 * EACH));
    assert!(error.to_string().contains("1 pinned tensors and 2 that are held"), "{error}");
    drop((pin, last));
    world.check(2).await;
    assert_eq!(world.resident(), [0, 1, 2], "pinned twice, unpinned once");
    assert!(!world.resident.evict(&name(0)));
    drop(again);
    assert!(world.resident.evict(&name(0)));
    // Evicted in use: the memory is the holder's, and counts until it is dropped.
    assert!(world.resident.evict(&name(1)));
    assert!(!world.resident.is_resident(&name(1)));
    assert!(held.memory == world.tensors[1].data);
    assert_eq!(world.resident.stats().alive, 2 * EACH);
    drop(held);
    assert_eq!(world.resident.stats().alive, EACH);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_layers_come_in_the_background_and_push_out_nothing_that_is_pinned() {
    let world = world(4 * EACH).await;
    let pin = world.resident.pin(&name(0)).await.unwrap();
    world.check(1).await;
    // Of these one is there, one is on its way at most once, and for the last there is no room.
    assert_eq!(world.resident.prefetch([name(1), name(2), name(3), name(4)]).unwrap(), 2);
    assert_eq!(world.resident.prefetch([name(2), name(3)]).unwrap(), 0);
    for layer in [2, 3] {
        world.check(layer).await;
    }
    assert_eq!(world.resident(), [0, 1, 2, 3]);
    let stats = world.resident.stats();
    assert_eq!((stats.fetches, stats.prefetches, stats.skipped), (2, 2, 1));
    assert!(pin.memory == world.tensors[0].data);
    // There is room when what arrives may leave again: nobody is told that it is full meanwhile.
    world.resident.prefetch([name(4), name(5), name(6)]).unwrap();
    world.check(7).await;
    assert!(world.resident().contains(&0) && world.resident.stats().peak <= 4 * EACH);
    assert!(matches!(world.resident.prefetch(["no"]), Err(ResidentError::Unknown(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resident_is_refused_and_what_failed_can_be_touched_again() {
    let small = world(EACH - 1).await;
    let error = small.resident.touch(&name(0)).await.unwrap_err();
    assert!(matches!(error, ResidentError::TooLarge { budget, .. } if budget == EACH - 1));
    let error = small.resident.touch("model.norm").await.unwrap_err();
    assert!(error.to_string().contains("model.norm"), "{error}");

    let world = world(4 * EACH).await;
    world.transport.script(vec![Fault::always("packs/", Action::FlipBit(1000, 3))]);
    let error = world.resident.touch(&name(0)).await.unwrap_err();
    let ResidentError::Device { error, .. } = error else { panic!("{error}") };
    assert!(matches!(*error, DeviceError::Load(LoadError::Corrupt { .. })), "{error}");
    assert_eq!((world.resident.stats().alive, world.resident.stats().resident), (0, 0));
    world.transport.script(Vec::new());
    world.check(0).await;
}
