//! How little is fetched for whatever is read, and that many who read at a time never wait for each other.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::command::Place;
use super::model::{Fill, Model, Tensor};
use super::world::{World, eventually, one};
use memmap2::{Advice, Mmap, MmapOptions};
use rand::{Rng, SeedableRng, rngs::StdRng};
use safetensors::Dtype;
use tenpak::format::page::{Extent, TensorEntry};
use tenpak::mount::Mount;
use tenpak::store::ArtifactGraph;

const PAGE: u64 = 4096;

/// Row blocks and column bands, of which no codec makes anything smaller.
fn model() -> Model {
    let names = ["q_proj", "down_proj", "up_proj"];
    let tensor = |at: usize| {
        let name = format!("model.layers.{}.mlp.{}.weight", at / 3, names[at % 3]);
        Tensor::new(&name, Dtype::BF16, &[1024, 2048], at as u64, Fill::Random)
    };
    Model::of((0..36).map(tensor).collect())
}

fn map(path: &Path) -> Mmap {
    let file = File::open(path).expect("a file");
    // SAFETY: nobody can write to the file.
    unsafe { MmapOptions::new().map_copy_read_only(&file) }.expect("a map")
}

/// Stored bytes of the chunks that hold any of these pages of a file.
fn touched(whole: &ArtifactGraph, file: usize, pages: &[u64]) -> u64 {
    let (entry, first) = &whole.files[file];
    let (mut start, mut content, mut hit) = (0, *first, std::collections::BTreeSet::new());
    for extent in &entry.extents {
        match *extent {
            Extent::Content { len, chunks, .. } => {
                hit.extend(content..content + chunks as usize);
                content += chunks as usize;
                start += len;
            }
            Extent::Tensor { ordinal } => {
                let (tensor, first) = &whole.tensors[ordinal as usize];
                for (number, rect) in (*first..).zip(tensor.grid.rects()) {
                    let is_hit = pages.iter().any(|page| {
                        let (from, to) = (page * PAGE, (page + 1) * PAGE);
                        (0..rect.rows).any(|row| {
                            let at = start + rect.start + row * rect.stride;
                            at < to && from < at + rect.width
                        })
                    });
                    if is_hit {
                        hit.insert(number);
                    }
                }
                start += tensor.byte_len();
            }
        }
    }
    hit.into_iter().map(|chunk| u64::from(whole.chunks[chunk].record.stored_len)).sum()
}

#[test]
fn a_page_here_and_there_fetches_its_chunks_and_little_more() {
    let world = World::new("random");
    let (folder, whole) = world.pack("org/m", &large());
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a file");
    let file =
        whole.files.iter().position(|(file, _)| file.path == "model.safetensors").expect("a file");
    // Few enough that most chunks are not touched, and so many that most are.
    for (seed, count) in [(7, 24), (8, 120), (9, 500)] {
        let mount = world.mount(one("org/m"));
        let path = mount.folder().join("model.safetensors");
        let (mapped, opened) = (map(&path), File::open(&path).expect("a file"));
        let mut random = StdRng::seed_from_u64(seed);
        let pages: Vec<u64> =
            (0..count).map(|_| random.gen_range(0..bytes.len() as u64 / PAGE)).collect();
        for (turn, page) in pages.iter().enumerate() {
            let at = (page * PAGE) as usize;
            let right = &bytes[at..at + PAGE as usize];
            if turn % 4 == 3 {
                let mut read = [0; PAGE as usize];
                opened.read_exact_at(&mut read, at as u64).expect("bytes");
                assert!(read == right);
            } else {
                assert!(mapped[at..at + PAGE as usize] == *right);
            }
        }
        let (read, need) = (world.packs_read(), touched(&whole, file, &pages));
        assert!(read * 10 <= need * 13, "{count} pages: {read} bytes for chunks of {need}");
        assert_eq!(mount.stats().fetched_bytes, read);
    }
}

#[test]
fn whoever_reads_on_finds_what_follows_and_each_chunk_comes_once() {
    let world = World::new("sequence");
    let (folder, whole) = world.pack("org/m", &model());
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a file");
    let stored = whole.manifest.totals.stored_bytes;
    for by_map in [true, false] {
        let mount = world.mount(one("org/m"));
        let path = mount.folder().join("model.safetensors");
        if by_map {
            assert!(map(&path)[..] == bytes[..]);
        } else {
            assert!(std::fs::read(&path).expect("a file") == bytes);
        }
        let stats = mount.stats();
        assert!(world.packs_read() <= stored, "{} of {stored}", world.packs_read());
        let pages = bytes.len() as u64 / PAGE;
        assert!(stats.reads < pages / 4, "{} reads of {pages} pages", stats.reads);
        assert!(stats.ahead_bytes > bytes.len() as u64 / 2, "{stats:?}");
        // The second reader asks for nothing.
        assert!(map(&path)[..] == bytes[..]);
        assert!(mount.stats().reads - stats.reads < pages / 50, "{:?}", mount.stats());
    }
}

/// Where each tensor of the one file begins, and how long it is.
fn places(whole: &ArtifactGraph, size: usize) -> Vec<(String, usize, usize)> {
    let len = |tensor: &TensorEntry| tensor.byte_len() as usize;
    let mut at = size - whole.tensors.iter().map(|(tensor, _)| len(tensor)).sum::<usize>();
    let place = |(tensor, _): &(TensorEntry, _)| {
        at += len(tensor);
        (tensor.name.clone(), at - len(tensor), len(tensor))
    };
    whole.tensors.iter().map(place).collect()
}

#[test]
fn whoever_looks_at_each_tensor_before_reading_all_fetches_more_than_memory_holds_once() {
    let world = World::new("looks");
    let (folder, whole) = world.pack("org/m", &model());
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a file");
    let (stored, places) = (whole.manifest.totals.stored_bytes, places(&whole, bytes.len()));
    let mut options = world.options();
    options.memory = 40 << 20;
    assert!(stored > 3 * options.memory);
    let mount = world.mount_with(options, one("org/m"));
    let path = mount.folder().join("model.safetensors");
    // As a loader of safetensors does that is asked for all of a file, in eight threads at a time.
    let read = || {
        let mapped = map(&path);
        assert!(mapped[..PAGE as usize * 2] == bytes[..PAGE as usize * 2]);
        for (name, start, _) in &places {
            assert!(mapped[*start] == bytes[*start], "{name}");
        }
        for (name, start, len) in &places {
            assert!(mapped[*start..start + len] == bytes[*start..start + len], "{name}");
        }
    };
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(read))));
    assert_fetched_once(&world, &mount, stored);
    let stats = mount.stats();
    assert!(stats.reads < bytes.len() as u64 / PAGE / 4, "{stats:?}");
}

#[test]
fn a_reader_in_the_order_of_names_is_followed() {
    let world = World::new("order");
    // As they lie in the file: 0, 1, 10, 11, 2, ...; as they are read: 0, 1, 2, ...
    let (folder, whole) = world.pack("org/m", &Model::layers(12, 1024, 5));
    let bytes = std::fs::read(folder.join("model.safetensors")).expect("a file");
    let mount = world.mount(one("org/m"));
    let mapped = map(&mount.folder().join("model.safetensors"));
    let mut starts = places(&whole, bytes.len());
    // Backwards every second one: an order that nobody knows costs no bytes twice either.
    starts.reverse();
    for (name, start, len) in &starts {
        assert!(mapped[*start..start + len] == bytes[*start..start + len], "{name}");
    }
    assert!(world.packs_read() <= whole.manifest.totals.stored_bytes);
}

/// Half a gibibyte.
fn large() -> Model {
    let tensor = |layer: usize| {
        let name = format!("model.layers.{layer:02}.mlp.up_proj.weight");
        Tensor::new(&name, Dtype::BF16, &[4096, 2048], layer as u64, Fill::Random)
    };
    Model::of((0..32).map(tensor).collect())
}

#[test]
fn eight_processes_that_map_everything_at_once_fetch_it_once() {
    let world = World::new("eight");
    let (folder, whole) = world.pack("org/m", &large());
    let by_map = "import mmap, sys, zlib\n\
        file = open(sys.argv[1], 'rb')\n\
        print(zlib.crc32(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))";
    let start = |path: &Path| {
        let mut command = Command::new("python3");
        command.args(["-c", by_map]).arg(path.join("model.safetensors")).stdout(Stdio::piped());
        command.spawn().expect("python3")
    };
    let right = start(&folder).wait_with_output().expect("a sum").stdout;
    let mount = world.mount(one("org/m"));
    let all: Vec<_> = (0..8).map(|_| start(mount.folder())).collect();
    for one in all {
        assert_eq!(one.wait_with_output().expect("a sum").stdout, right);
    }
    let stored = whole.manifest.totals.stored_bytes;
    assert!(stored > 500 << 20 && right.len() > 1, "{stored} bytes");
    assert_fetched_once(&world, &mount, stored);
}

/// Nothing came from the origin twice, but for what was asked for again because an answer was late.
#[track_caller]
pub fn assert_fetched_once(world: &World, mount: &Mount, stored: u64) {
    let (read, stats) = (world.packs_read(), mount.stats());
    assert!(stats.fetched_bytes <= stored, "{stats:?} of {stored}");
    assert!(read <= stored || stats.hedges > 0, "{read} bytes of {stored}: {stats:?}");
}

/// What the kernel may be told of a map.
const ADVICE: [i32; 14] = [
    libc::MADV_NORMAL,
    libc::MADV_RANDOM,
    libc::MADV_SEQUENTIAL,
    libc::MADV_WILLNEED,
    libc::MADV_POPULATE_READ,
    libc::MADV_COLD,
    libc::MADV_PAGEOUT,
    libc::MADV_DONTNEED,
    libc::MADV_DONTFORK,
    libc::MADV_DOFORK,
    libc::MADV_DONTDUMP,
    libc::MADV_DODUMP,
    // A kernel may do without these.
    libc::MADV_HUGEPAGE,
    libc::MADV_NOHUGEPAGE,
];

fn advise(map: &[u8], advice: i32) -> std::io::Result<()> {
    // SAFETY: a map of that length; what is let go of it is read again.
    match unsafe { libc::madvise(map.as_ptr().cast_mut().cast(), map.len(), advice) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// The mount is another process, as it always is: a fault may hold what the process that faults needs for memory.
#[test]
fn a_map_may_be_private_and_advised_in_any_way() {
    let place = Place::of("advised", &Model::layers(6, 2048, 9));
    let bytes = &place.right;
    for advice in ADVICE {
        let mount = place.mount(&[]);
        let file = File::open(place.weights()).expect("a file");
        // SAFETY: nobody can write to the file.
        let (shared, mut private) = unsafe {
            let shared = MmapOptions::new().map(&file).expect("a shared map");
            (shared, MmapOptions::new().map_copy(&file).expect("a private map"))
        };
        let may_fail = matches!(advice, libc::MADV_HUGEPAGE | libc::MADV_NOHUGEPAGE);
        for advised in [advise(&shared, advice), advise(&private, advice)] {
            assert!(advised.is_ok() || may_fail, "{advice}: {advised:?}");
        }
        assert!(shared[..] == bytes[..] && private[..] == bytes[..], "{advice}");
        // What is written to a private map is its own.
        private[5_000_000..5_000_100].fill(77);
        assert!(shared[..] == bytes[..] && private[5_000_099] == 77, "{advice}");
        // Pages that the kernel lets go are read again.
        advise(&shared, libc::MADV_DONTNEED).expect("advised");
        drop(private);
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
        assert!(shared[..] == bytes[..], "{advice}");
        drop((shared, file));
        mount.signal(libc::SIGTERM);
        assert_eq!(mount.end(), (Some(0), String::new()), "{advice}");
    }
}

/// Likewise.
#[test]
fn threads_that_fault_at_random_never_wait_for_each_other() {
    let place = Place::of("threads", &model());
    let bytes: Arc<[u8]> = place.right.as_slice().into();
    // Far less than is asked for at a time.
    let mount = place.mount(&["--memory", "8M"]);
    let path = place.weights();
    let advices = [Advice::Normal, Advice::Random, Advice::Sequential, Advice::WillNeed];
    let done = Arc::new(AtomicUsize::new(0));
    for number in 0..256 {
        let (path, bytes, done) = (path.clone(), bytes.clone(), done.clone());
        std::thread::spawn(move || {
            let mapped = map(&path);
            mapped.advise(advices[number % 4]).expect("advice");
            let file = File::open(&path).expect("a file");
            let mut random = StdRng::seed_from_u64(number as u64);
            for turn in 0..12 {
                let at = random.gen_range(0..bytes.len() - 70_000);
                match turn % 3 {
                    0 => assert_eq!(mapped[at..at + 9], bytes[at..at + 9]),
                    1 => assert!(mapped[at..at + 20_000] == bytes[at..at + 20_000]),
                    _ => {
                        let mut read = vec![0; 70_000];
                        file.read_exact_at(&mut read, at as u64).expect("bytes");
                        assert!(read == bytes[at..at + 70_000]);
                    }
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        });
    }
    eventually("all threads end", || done.load(Ordering::Relaxed) == 256);
    mount.signal(libc::SIGTERM);
    assert_eq!(mount.end(), (Some(0), String::new()), "nothing failed");
}
