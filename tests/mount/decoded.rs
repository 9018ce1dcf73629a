//! Files that were read whole, which the kernel reads itself where the disk is trusted.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::model::{Fill, Model, Tensor};
use super::world::{World, eventually, one};
use safetensors::Dtype;
use tenpak::mount::{Mount, MountOptions};

const FILE: &str = "model.safetensors";

fn model() -> Model {
    let tensor = |n: u64| Tensor::new(&format!("t{n}"), Dtype::BF16, &[512, 1024], n, Fill::Sparse);
    Model::of((0..6).map(tensor).collect())
}

fn options(world: &World, trust_disk: bool) -> MountOptions {
    let mut options = world.options();
    options.disk = Some((world.folder.join("cache"), 1 << 30));
    options.trust_disk = trust_disk;
    options
}

fn read(mount: &Mount) -> Vec<u8> {
    std::fs::read(mount.folder().join(FILE)).expect("a file")
}

/// The file of the cache that is decoded.
fn kept(world: &World) -> Vec<std::path::PathBuf> {
    let folder = world.folder.join("cache/files");
    let all = std::fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    all.filter(|path| path.metadata().is_ok_and(|about| about.len() > 1 << 20)).collect()
}

fn map(path: &Path) -> memmap2::Mmap {
    let file = File::open(path).expect("a file");
    // SAFETY: nobody writes to the file.
    unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) }.expect("a map")
}

#[test]
fn what_was_read_whole_the_kernel_reads_itself() {
    let world = World::new("decoded");
    let (folder, _) = world.pack("org/m", &model());
    let bytes = std::fs::read(folder.join(FILE)).expect("a file");
    let mount = world.mount_with(options(&world, true), one("org/m"));
    let path = mount.folder().join(FILE);

    // Who opened it before reads on as before, and so does whoever opens it meanwhile.
    let mut first = File::open(&path).expect("a file");
    assert!(read(&mount) == bytes);
    let mut begin = vec![0; 1000];
    first.read_exact(&mut begin).expect("bytes");
    assert!(begin == bytes[..1000] && mount.stats().passed == 0);
    drop(first);
    eventually("it is kept", || mount.stats().decoded_files == 1);

    let before = mount.stats();
    let held = map(&path);
    assert!(read(&mount) == bytes && held[..] == bytes[..]);
    // Two at a time, one after the other, and one that is mapped: nobody asks us.
    let (mut own, mut other) =
        (File::open(&path).expect("a file"), File::open(&path).expect("a file"));
    for file in [&mut own, &mut other] {
        let mut all = Vec::new();
        file.read_to_end(&mut all).expect("bytes");
        assert!(all == bytes);
    }
    let after = mount.stats();
    assert_eq!((after.reads, after.passed), (before.reads, before.passed + 4));
    assert_eq!(after.fetched_bytes, before.fetched_bytes);
    drop((held, own, other));
    mount.unmount().expect("unmounted");

    // The next mount hashes it first.
    let mount = world.mount_with(options(&world, true), one("org/m"));
    assert!(read(&mount) == bytes && mount.stats().passed == 0);
    eventually("it is hashed", || read(&mount) == bytes && mount.stats().passed > 0);
    assert_eq!((mount.stats().decoded_files, mount.stats().fetched_bytes), (0, 0));
    mount.unmount().expect("unmounted");

    // One that was damaged meanwhile is none.
    let own = kept(&world);
    let [own] = own.as_slice() else { panic!("{own:?}") };
    let mut damaged = std::fs::read(own).expect("a file");
    damaged[5000] ^= 1;
    std::fs::write(own, damaged).expect("written");
    let mount = world.mount_with(options(&world, true), one("org/m"));
    assert!(read(&mount) == bytes);
    eventually("it is made anew", || read(&mount) == bytes && mount.stats().decoded_files == 1);
    assert!(read(&mount) == bytes);
    assert!(world.told.lock().expect("lines").is_empty());
}

#[test]
fn a_disk_that_is_not_trusted_has_no_decoded_files() {
    let world = World::new("not-trusted");
    let (folder, _) = world.pack("org/m", &model());
    let bytes = std::fs::read(folder.join(FILE)).expect("a file");
    let mount = world.mount_with(options(&world, false), one("org/m"));
    for _ in 0..3 {
        assert!(read(&mount) == bytes);
    }
    assert_eq!((mount.stats().decoded_files, mount.stats().passed), (0, 0));
    assert!(!world.folder.join("cache/files").exists());
}
