//! A flipped bit anywhere, at the origin for good, once on the wire, or on the edge's disk: nobody gets
//! a wrong byte. TENPAK_SOAK=N flips N bits of each instead of 128 and 300.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::model::Tensor;
use super::world::{World, soak};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tenpak::edge::EdgeOptions;
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ObjectPath, ReadRange, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TENSORS: &[Tensor<'_>] =
    &[("model.embed_tokens.weight", &[100, 64], 1), ("model.norm.weight", &[512], 3)];
const FILES: [&str; 3] = ["model.safetensors", "config.json", "tokenizer.bin"];

/// An edge whose retries follow at once.
fn impatient() -> EdgeOptions {
    let mut options = EdgeOptions::default();
    options.retry.first_pause = Duration::from_millis(1);
    options
}

/// A GET that need not succeed: the status and the body as far as it came, and whether all of it did.
async fn get(address: &str, target: &str) -> (u16, Vec<u8>, bool) {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("the edge");
    let request = format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let body = answer.split_off(end);
    let head = String::from_utf8_lossy(&answer).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: Option<usize> = length.and_then(|length| length.parse().ok());
    (head[9..12].parse().expect("a status"), body.clone(), length == Some(body.len()))
}

/// What clients may see of the store: each pack and manifest, and each file.
struct Right {
    packs: Vec<(ObjectPath, Vec<u8>)>,
    files: Vec<(String, Vec<u8>)>,
}

impl Right {
    fn of(world: &World) -> Self {
        let mut packs = world.packs();
        packs.push(ObjectPath::new(format!("manifests/{}", world.whole.id)).expect("a path"));
        let packs = packs.into_iter().map(|path| {
            let right = world.read(&*world.memory, &path, ReadRange::Full).to_vec();
            (path, right)
        });
        let file = |name: &&str| {
            let right = std::fs::read(world.dir.path().join("m").join(name)).expect("a file");
            (format!("/org/m/resolve/main/{name}"), right)
        };
        Self { packs: packs.collect(), files: FILES.iter().map(file).collect() }
    }

    /// Asks for everything; gives how many answers were whole. None of them is wrong.
    async fn ask(&self, address: &str, what: &str) -> usize {
        let mut whole = 0;
        let packs = self.packs.iter().map(|(path, right)| (format!("/{path}"), right));
        let files = self.files.iter().map(|(target, right)| (target.clone(), right));
        for (target, right) in packs.chain(files) {
            let (status, body, complete) = get(address, &target).await;
            if status == 200 {
                assert!(right.starts_with(&body), "{what}: wrong bytes of {target}");
                whole += usize::from(complete && body.len() == right.len());
            } else {
                assert!([404, 500, 502, 503, 504].contains(&status), "{what}: {target}: {status}");
            }
        }
        whole
    }

    fn len(&self) -> usize {
        self.packs.len() + self.files.len()
    }
}

#[test]
fn a_bit_flipped_at_the_origin_or_on_the_wire_reaches_nobody() {
    let world = World::of(TENSORS);
    let right = Right::of(&world);
    let listed =
        |prefix: &str| world.runtime.block_on(world.memory.list(prefix)).expect("a listing");
    let objects: Vec<_> = ["packs/", "tables/", "layouts/", "manifests/", "refs/"]
        .into_iter()
        .flat_map(listed)
        .collect();
    let mut rng = StdRng::seed_from_u64(11);
    let cases = (0..soak(128)).map(|number| {
        let object = objects.choose(&mut rng).expect("an object");
        let action = Action::FlipBit(rng.gen_range(0..object.size), rng.gen_range(0..8));
        let path = object.path.to_string();
        let on_wire = rng.gen_bool(0.5);
        let what = format!("case {number}: {action:?} of {path}, on the wire: {on_wire}");
        let fault = match on_wire {
            true => Fault::nth(&path, rng.gen_range(0..3), action),
            false => Fault::always(&path, action),
        };
        (what, fault)
    });
    let (mut refused, mut mended) = (0, 0);
    // Most of the time of each goes by between tries.
    let cases: Vec<_> = cases.collect();
    for some in cases.chunks(128) {
        let served: Vec<_> = some
            .iter()
            .map(|(_, fault)| {
                let origin = FaultBackend::new(world.memory.clone(), vec![fault.clone()]);
                world.serve(vec![Arc::new(origin)], impatient())
            })
            .collect();
        let asked = some.iter().zip(&served).map(|((what, _), served)| {
            let right = &right;
            async move { right.ask(&served.address, what).await }
        });
        for whole in world.runtime.block_on(futures_util::future::join_all(asked)) {
            match whole == right.len() {
                true => mended += 1,
                false => refused += 1,
            }
        }
    }
    assert!(refused > 0 && mended > 0, "{refused} refused, {mended} mended");
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.flat_map(|entry| match entry.path() {
        path if path.is_dir() => files(&path),
        path => vec![path],
    });
    paths.collect()
}

#[test]
fn a_bit_flipped_on_disk_reaches_nobody() {
    let world = World::of(TENSORS);
    let right = Right::of(&world);
    let folder = world.dir.path().join("cache");
    let options = || {
        let mut options = EdgeOptions::default();
        options.disk = Some((folder.clone(), 1 << 30));
        options.memory = 1;
        options
    };
    let used = || -> u64 {
        let metadata = |file: &PathBuf| file.metadata().map_or(0, |metadata| metadata.len());
        files(&folder).iter().map(metadata).sum()
    };
    let mut rng = StdRng::seed_from_u64(12);
    let origin = Arc::new(FaultBackend::counting(world.memory.clone()));
    for number in 0..soak(300) {
        let served = world.serve(vec![origin.clone()], options());
        let what = format!("case {number}");
        let whole = world.runtime.block_on(right.ask(&served.address, &what));
        assert_eq!(whole, right.len(), "{what}");
        // Chunks are written behind the answers.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while used() < world.stored() {
            assert!(std::time::Instant::now() < deadline, "{what}: nothing is written");
        }
        drop(served);
        let Some(file) = files(&folder).choose(&mut rng).cloned() else { continue };
        let Ok(mut bytes) = std::fs::read(&file) else { continue };
        if bytes.is_empty() {
            continue;
        }
        let at = rng.gen_range(0..bytes.len());
        bytes[at] ^= 1 << rng.gen_range(0..8);
        std::fs::write(&file, bytes).expect("a file");
    }
    // What was damaged was fetched again, and nothing else.
    let read = origin.stats().below("packs/").bytes_read;
    let most = world.stored() + soak(300) as u64 * (world.stored() + (64 << 10));
    assert!(read > world.stored() && read <= most, "{read}");
}

#[test]
fn a_client_that_is_cut_off_has_no_whole_answer() {
    let world = World::of(TENSORS);
    let path = world.packs().remove(0);
    let size = world.read(&*world.memory, &path, ReadRange::Full).len() as u64;
    let faults = vec![Fault::always("packs/", Action::FlipBit(size / 3, 1))];
    let origin = Arc::new(FaultBackend::new(world.memory.clone(), faults));
    let served = world.serve(vec![origin], EdgeOptions::default());
    let mut policy = RetryPolicy::default();
    policy.retries = 0;
    let read = read_all(&*served.client, &path, ReadRange::Full, 1 << 30, &policy);
    assert!(world.runtime.block_on(read).is_err());
}
