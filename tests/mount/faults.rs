//! Damage is an error and never data; an origin that is gone is an error after retries, and none once it is back; the
//! cache on disk is checked again.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::model::{Fill, Model, Tensor};
use super::world::{World, eventually, one};
use safetensors::Dtype;
use tenpak::mount::MountOptions;
use tenpak::transport::TransportErrorKind;
use tenpak::transport::fault::{Action, Fault};

fn model() -> Model {
    let tensor = |seed: u64| {
        let name = format!("model.layers.{seed}.mlp.up_proj.weight");
        Tensor::new(&name, Dtype::BF16, &[2048, 1024], seed, Fill::Random)
    };
    Model::of((0..3).map(tensor).collect())
}

/// Reads a file in pieces from where it begins; what failed is `None`.
fn pieces(path: &Path) -> Vec<Option<Vec<u8>>> {
    let file = fs::File::open(path).expect("a file");
    let size = file.metadata().expect("a file").len();
    let piece = |at: u64| {
        let mut bytes = vec![0; (size - at).min(64 << 10) as usize];
        match file.read_exact_at(&mut bytes, at) {
            Ok(()) => Some(bytes),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EIO), "{error}");
                None
            }
        }
    };
    (0..size).step_by(64 << 10).map(piece).collect()
}

#[test]
fn damage_is_an_error_and_a_line_and_never_data() {
    let world = World::new("damage");
    let (folder, _) = world.pack("org/m", &model());
    let right = fs::read(folder.join("model.safetensors")).expect("a file");
    let mount = world.mount(one("org/m"));
    world.origin.script(vec![Fault::always("packs/", Action::FlipBit(5_000_000, 3))]);
    let read = pieces(&mount.folder().join("model.safetensors"));
    let failed = read.iter().filter(|piece| piece.is_none()).count();
    assert!((1..=33).contains(&failed), "{failed} of {} pieces", read.len());
    for (piece, right) in read.iter().zip(right.chunks(64 << 10)) {
        assert!(piece.as_ref().is_none_or(|piece| piece == right));
    }
    let told = world.told.lock().expect("lines").clone();
    assert!(
        told.iter()
            .any(|line| line.contains("org/m:latest/model.safetensors") && line.contains("digest")),
        "{told:?}"
    );
    assert!(told.len() < 5 && mount.stats().errors > 0, "{told:?}");
    // Whoever mended the store need not mount again.
    world.origin.script(Vec::new());
    assert!(fs::read(mount.folder().join("model.safetensors")).expect("a file") == right);
}

#[test]
fn an_origin_that_is_gone_is_an_error_and_no_hang() {
    let world = World::new("gone");
    let (folder, _) = world.pack("org/m", &model());
    let mut options = world.options();
    options.retry.stall = Duration::from_millis(300);
    let mount = world.mount_with(options, one("org/m"));
    let path = mount.folder().join("model.safetensors");
    let actions = [
        Action::Fail(TransportErrorKind::Transient),
        Action::Fail(TransportErrorKind::NotFound),
        Action::Hang,
        Action::Stall(100_000),
    ];
    for (at, action) in (1_u64..).zip(actions) {
        world.origin.script(vec![Fault::always("packs/", action.clone())]);
        let begun = Instant::now();
        let file = fs::File::open(&path).expect("it is known");
        let error = file.read_at(&mut [0; 8], at * 2_500_000).expect_err("gone");
        assert_eq!(error.raw_os_error(), Some(libc::EIO), "{action:?}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{action:?}: {:?}", begun.elapsed());
    }
    assert!(!world.told.lock().expect("lines").is_empty());
    world.origin.script(Vec::new());
    let right = fs::read(folder.join("model.safetensors")).expect("a file");
    assert!(fs::read(&path).expect("it is back") == right);
}

fn with_disk(world: &World, budget: u64) -> (MountOptions, PathBuf) {
    let mut options = world.options();
    let disk = world.folder.join("cache");
    options.disk = Some((disk.clone(), budget));
    (options, disk)
}

fn cached(disk: &Path) -> Vec<PathBuf> {
    let shards = fs::read_dir(disk).expect("a folder").map(|shard| shard.expect("a folder").path());
    let files = shards.flat_map(|shard| fs::read_dir(shard).expect("a folder"));
    files.map(|file| file.expect("a file").path()).collect()
}

#[test]
fn the_cache_on_disk_serves_the_next_mount_and_is_checked_again() {
    let world = World::new("disk");
    let (folder, whole) = world.pack("org/m", &model());
    let right = fs::read(folder.join("model.safetensors")).expect("a file");
    let (options, disk) = with_disk(&world, 1 << 30);
    let mount = world.mount_with(options, one("org/m"));
    assert!(fs::read(mount.folder().join("model.safetensors")).expect("a file") == right);
    // No codec makes these smaller.
    let tensors: u64 = whole.tensors.iter().map(|(tensor, _)| tensor.byte_len()).sum();
    eventually("what was read lies on disk", || {
        let bytes: u64 =
            cached(&disk).iter().map(|path| fs::metadata(path).expect("a file").len()).sum();
        bytes >= tensors
    });
    mount.unmount().expect("unmounted");

    let (options, _) = with_disk(&world, 1 << 30);
    let mount = world.mount_with(options, one("org/m"));
    assert!(fs::read(mount.folder().join("model.safetensors")).expect("a file") == right);
    assert_eq!(world.packs_read(), 0, "nothing is fetched again");
    mount.unmount().expect("unmounted");

    // Bits flip, and files are cut.
    let mut damaged = 0;
    for (number, path) in cached(&disk).into_iter().enumerate() {
        let mut bytes = fs::read(&path).expect("a file");
        if bytes.len() < 100_000 {
            continue;
        }
        damaged += bytes.len() as u64;
        match number % 2 {
            0 => bytes[99_999] ^= 4,
            _ => bytes.truncate(50_000),
        }
        fs::write(&path, bytes).expect("a file");
    }
    let (options, _) = with_disk(&world, 1 << 30);
    let mount = world.mount_with(options, one("org/m"));
    assert!(fs::read(mount.folder().join("model.safetensors")).expect("a file") == right);
    assert!(world.packs_read() >= damaged, "{} of {damaged}", world.packs_read());
    assert_eq!(mount.stats().errors, 0);
}

#[test]
fn the_cache_on_disk_keeps_to_its_size() {
    let world = World::new("budget");
    let (folder, _) = world.pack("org/m", &model());
    let budget = 3 << 20;
    let (options, disk) = with_disk(&world, budget);
    let mount = world.mount_with(options, one("org/m"));
    let right = fs::read(folder.join("model.safetensors")).expect("a file");
    assert!(fs::read(mount.folder().join("model.safetensors")).expect("a file") == right);
    mount.unmount().expect("unmounted");
    let used = || {
        cached(&disk)
            .iter()
            .filter_map(|path| fs::metadata(path).ok())
            .map(|f| f.len())
            .sum::<u64>()
    };
    eventually("it keeps to its size", || used() <= budget && used() > 0);
}
