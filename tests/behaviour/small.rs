//! Checkpoints of many small tensors, half of them scalars that repeat: a load asks for packs and not for
//! tensors, whether its store was written so or links each scalar to its first copy. Requests are counted
//! by the web server.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;

use safetensors::Dtype;
use tempfile::TempDir;
use tenpak::chunk::codec::CodecChoice;
use tenpak::format::id::{ManifestId, PackId, StoredDigest};
use tenpak::format::layout::{Layout, Place};
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::store as paths;
use tenpak::load::sink::host::Host;
use tenpak::load::sink::stream::{DeviceSink, StreamOptions};
use tenpak::load::sink::take;
use tenpak::load::sink::upload::Device;
use tenpak::load::{LoadOptions, LoadStats};
use tenpak::maintain::{RepackOptions, artifact_usage, repack};
use tenpak::pack::unpack::{UnpackOptions, unpack};
use tenpak::pack::{PackOptions, PackReport};
use tenpak::store::Store;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::trust::{Signer, TrustSet, keygen};

use super::library::{check_store, packed, runtime, whole};
use super::model::{Fill, Model, Tensor, bytes};
use super::web::{Step, WebServer, answer, correct};

/// Linear layers, of four tensors each.
const LINEARS: usize = 500;
const VALUES: u64 = 16;

/// Weights, scales of blocks, and two scalars for each linear layer, which lie between them.
fn tensors() -> Vec<Tensor> {
    let linear = |n: usize| {
        let seed = n as u64;
        let name = |part: &str| format!("layers.{n:04}.{part}");
        let scalar = |part: &str, value: u64| {
            let data = bytes(4, 1_000_000 + value % VALUES, Fill::Random);
            Tensor { data, ..Tensor::new(&name(part), Dtype::U8, &[4], 0, Fill::Same) }
        };
        [
            scalar("input_scale", seed * 7),
            Tensor::new(&name("weight"), Dtype::U8, &[2048], seed, Fill::Random),
            Tensor::new(&name("weight_scale"), Dtype::U8, &[256], seed + 500_000, Fill::Random),
            scalar("weight_scale_2", seed * 5 + 3),
        ]
    };
    (0..LINEARS).flat_map(linear).collect()
}

struct Bench {
    folder: TempDir,
    key: std::path::PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        keygen(&key).unwrap();
        Self { folder, key }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.path().join("store")
    }

    fn store(&self) -> Store {
        Store::open(self.path().to_str().unwrap()).unwrap()
    }

    fn pack(&self, tensors: Vec<Tensor>, name: &str, base: Option<ManifestId>) -> PackReport {
        let input = tempfile::tempdir_in(self.folder.path()).unwrap();
        Model::of(tensors).write(input.path());
        let signer = Signer::load(&self.key, None).unwrap();
        let mut options = PackOptions::default();
        options.trust = TrustSet::default();
        options.trust.add_ed25519(signer.verifying_key().unwrap(), None).unwrap();
        options.signers = vec![signer];
        options.codec = CodecChoice::Raw;
        options.base = base;
        packed(&self.store(), input.path(), name, options)
    }

    /// A web server in front of the store.
    async fn serve(&self) -> WebServer {
        let root = self.path();
        WebServer::start(move |_, head| {
            let path = head.split(' ').nth(1).unwrap_or_default().trim_start_matches('/');
            let found = fs::read(root.join(path.split('?').next().unwrap_or_default()));
            let sent = match found {
                Ok(object) => correct(head, &object),
                Err(_) => answer("404 Not Found", &["Content-Length: 0"], b""),
            };
            vec![Step::Send(sent)]
        })
        .await
    }
}

/// Loads what matches through the web; gives the requests for packs and for everything, and counts.
fn over_http(
    bench: &Bench,
    id: ManifestId,
    patterns: &[&str],
    expected: &[Tensor],
) -> (usize, usize, LoadStats) {
    runtime().block_on(async {
        let server = bench.serve().await;
        let artifact = opened(Store::open(&server.url).unwrap(), id).await;
        let selection = Selection::new(patterns).unwrap();
        let selected = artifact.select(&selection, None).await.unwrap();
        let mut loader = artifact.load(selected, &LoadOptions::default());
        let mut expected = expected.iter();
        while let Some(tensor) = loader.next().await {
            let (tensor, expected) = (tensor.unwrap(), expected.next().unwrap());
            assert!(tensor.name() == expected.name && tensor.data == expected.data);
        }
        assert!(expected.next().is_none());
        let requests = server.requests();
        let packs = requests.iter().filter(|head| head.contains(" /packs/")).count();
        (packs, requests.len(), loader.stats())
    })
}

async fn opened(store: Store, id: ManifestId) -> Artifact {
    Artifact::open(store, &format!("@{id}").parse().unwrap(), &OpenOptions::default())
        .await
        .unwrap()
}

/// Makes the store what it was before small chunks were written again: each chunk lies in one place, in load
/// order, and every record of it is linked there.
fn link_all(bench: &Bench, id: ManifestId) {
    let store = bench.store();
    let graph = whole(&store, id);
    let mut index = PackIndex::new(0);
    let (mut data, mut offsets) = (Vec::new(), HashMap::<StoredDigest, u32>::new());
    let firsts = graph.files.iter().map(|(_, first)| *first..*first + 1);
    let tensors = graph.tensors.iter().map(|(_, first)| *first..*first + 1);
    let rest = 0..graph.chunks.len();
    for chunk in firsts.chain(tensors).chain([rest]).flatten() {
        let Some(chunk) = graph.chunks.get(chunk) else { continue };
        if offsets.contains_key(&chunk.record.stored) {
            continue;
        }
        let path = paths::pack(chunk.place.pack);
        let stored = runtime().block_on(store.read_range(&path, chunk.range())).unwrap();
        data.extend_from_slice(&stored);
        offsets.insert(chunk.record.stored, index.push(chunk.record).unwrap());
    }
    let end = index.to_bytes();
    let pack = PackId::of(&end);
    data.extend(&end);
    data.extend(Trailer { index_len: end.len() as u32 }.to_bytes());
    let write = |path: &str, bytes: &[u8]| fs::write(bench.path().join(path), bytes).unwrap();
    write(paths::pack(pack).as_str(), &data);
    let place =
        |chunk: &tenpak::store::Placed| Place { pack, offset: offsets[&chunk.record.stored] };
    let places = graph.chunks.iter().map(place).collect();
    write(paths::layout(id).as_str(), &Layout { manifest: id, places }.to_bytes());
}

/// The digests whose records lie in more than one place.
fn repeated(store: &Store, id: ManifestId) -> usize {
    let mut places = HashMap::<StoredDigest, HashSet<Place>>::new();
    for chunk in whole(store, id).chunks {
        places.entry(chunk.record.stored).or_default().insert(chunk.place);
    }
    places.values().filter(|places| places.len() > 1).count()
}

#[test]
fn scalars_are_written_again_and_one_request_brings_them_all() {
    let bench = Bench::new();
    let all = tensors();
    let report = bench.pack(all.clone(), "new", None);
    assert_eq!(report.totals.tensors, 4 * LINEARS as u64);
    let distinct = 2 * LINEARS as u64 + VALUES;
    assert!((distinct..distinct + 8).contains(&report.totals.chunks), "{:?}", report.totals);
    assert_eq!(repeated(&bench.store(), report.manifest), VALUES as usize);
    let (packs, requests, stats) = over_http(&bench, report.manifest, &[], &all);
    assert_eq!(packs, 1, "{stats:?}");
    assert!(requests <= 8, "{requests} requests");
    let bytes: usize = all.iter().map(|tensor| tensor.data.len()).sum();
    let read = stats.fetched_bytes;
    assert!(
        (bytes as u64 - 4 * 2 * LINEARS as u64..bytes as u64 + (64 << 10)).contains(&read),
        "{read} of {bytes}"
    );
    assert_eq!(check_store(&bench.store()), 1);
}

/// A part of it asks for no more than the whole: the scalars that it holds lie in it.
#[test]
fn a_few_layers_come_with_one_request() {
    let bench = Bench::new();
    let all = tensors();
    let report = bench.pack(all.clone(), "new", None);
    let (packs, _, stats) = over_http(&bench, report.manifest, &["layers.03*"], &all[1200..1600]);
    assert_eq!(packs, 1);
    let wanted: usize = all[1200..1600].iter().map(|tensor| tensor.data.len()).sum();
    assert!(stats.fetched_bytes <= wanted as u64, "{} of {wanted}", stats.fetched_bytes);
}

#[test]
fn a_store_that_links_each_scalar_loads_as_well() {
    let bench = Bench::new();
    let all = tensors();
    let id = bench.pack(all.clone(), "old", None).manifest;
    link_all(&bench, id);
    let store = bench.store();
    assert_eq!(repeated(&store, id), 0);
    let usage = runtime().block_on(artifact_usage(&store, id)).unwrap();
    assert!(usage.runs > LINEARS as u64, "{usage:?}");
    let (packs, requests, stats) = over_http(&bench, id, &[], &all);
    assert_eq!(packs, 1, "{stats:?}");
    assert!(requests <= 8, "{requests} requests");

    // Repacked, it is what is written today.
    let repacked = runtime().block_on(repack(&store, id, RepackOptions::default(), &())).unwrap();
    assert!(repacked.rewritten && repacked.runs_after <= 2, "{repacked:?}");
    assert_eq!(repeated(&store, id), VALUES as usize);
    let (packs, ..) = over_http(&bench, id, &["layers.03*"], &all[1200..1600]);
    assert_eq!(packs, 1);
    let again = runtime().block_on(repack(&store, id, RepackOptions::default(), &())).unwrap();
    assert!(!again.rewritten, "{again:?}");
    assert_eq!(check_store(&store), 1);
}

/// Into the memory of a device, which the host stands for, and into files.
#[test]
fn devices_and_files_get_every_byte_of_an_old_store() {
    let bench = Bench::new();
    let all = tensors();
    let id = bench.pack(all.clone(), "old", None).manifest;
    link_all(&bench, id);
    runtime().block_on(async {
        let server = bench.serve().await;
        let artifact = opened(Store::open(&server.url).unwrap(), id).await;
        let selected = artifact.select(&Selection::All, None).await.unwrap();
        let mut sink = DeviceSink::new(Host, &StreamOptions::default());
        let mut loader = artifact.load(selected, &LoadOptions::default());
        let mut count = 0;
        while let Some(piece) = loader.next().await {
            let Some(held) = take(&mut sink, piece.unwrap()).await.unwrap() else { continue };
            let mut data = Vec::new();
            let len = held.request.cut.len();
            let mut add = |part: &[u8]| data.extend_from_slice(part);
            Host.read_back(&held.memory, len, &mut add).unwrap();
            assert!(data == all[count].data, "{}", all[count].name);
            count += 1;
        }
        assert_eq!((count, loader.stats().requests), (all.len(), 1));
    });
    let out = bench.folder.path().join("out");
    let (store, graph) = (bench.store(), whole(&bench.store(), id));
    let options = UnpackOptions::default();
    let stats = unpack(&graph, &store, &out, options, runtime().handle(), &|_| {}).unwrap().stats;
    assert!(stats.requests < 10, "{stats:?}");
    let read = |path: &Path| fs::read(path.join("model.safetensors")).unwrap();
    let again = bench.folder.path().join("again");
    Model::of(all).write(&again);
    assert!(read(&out) == read(&again));
}

/// One layer in a hundred is another: the others are linked, small as they are, and a load reads over what the
/// old pack has in place of it.
#[test]
fn a_fine_tune_of_small_tensors_shares_them() {
    let bench = Bench::new();
    // Long enough that its runs are worth a link.
    let mut all = tensors();
    all.iter_mut().filter(|tensor| tensor.shape == [2048]).for_each(|tensor| {
        let seed =
            tensor.name.len() as u64 + u64::from(tensor.data[0]) + u64::from(tensor.data[1]) * 256;
        *tensor = Tensor::new(&tensor.name, Dtype::U8, &[8192], seed, Fill::Random);
    });
    let base = bench.pack(all.clone(), "base", None);
    for n in (0..LINEARS).step_by(100) {
        all[4 * n + 1].data[0] ^= 1;
    }
    for against in [None, Some(base.manifest)] {
        let name = if against.is_some() { "against" } else { "tuned" };
        let tuned = bench.pack(all.clone(), name, against);
        let stored =
            packs_of(&bench, tuned.manifest).difference(&packs_of(&bench, base.manifest)).count();
        assert_eq!(stored, 1, "one new pack");
        let linked = whole(&bench.store(), tuned.manifest);
        let old = packs_of(&bench, base.manifest);
        let again: u64 = linked
            .chunks
            .iter()
            .filter(|chunk| !old.contains(&chunk.place.pack))
            .map(|chunk| u64::from(chunk.record.stored_len))
            .sum();
        assert!(
            again < 5 * 8192 + (256 << 10),
            "{again} bytes of {} are new",
            tuned.totals.stored_bytes
        );
        assert!(tuned.linked > 1900, "{tuned:?}");
        let (packs, ..) = over_http(&bench, tuned.manifest, &[], &all);
        assert!(packs <= 4, "{packs} requests");
    }
    // The same once more costs nothing.
    let again = bench.pack(all, "tuned", None);
    assert_eq!(again.new_bytes, 0, "{again:?}");
    assert_eq!(check_store(&bench.store()), 3);
}

fn packs_of(bench: &Bench, id: ManifestId) -> HashSet<PackId> {
    whole(&bench.store(), id).chunks.iter().map(|chunk| chunk.place.pack).collect()
}

/// A copy keeps the places of what it copies whole, and a second one copies nothing.
#[test]
fn copies_are_as_good_and_cost_nothing_twice() {
    let bench = Bench::new();
    let all = tensors();
    let id = bench.pack(all.clone(), "new", None).manifest;
    for linked in [false, true] {
        if linked {
            link_all(&bench, id);
        }
        let other = Bench::new();
        let copy = || {
            runtime().block_on(async {
                let artifact = opened(bench.store(), id).await;
                let trust = TrustSet::default();
                let options = tenpak::maintain::CopyOptions::default();
                tenpak::maintain::copy(&artifact, &other.store(), &trust, &options, &())
                    .await
                    .unwrap()
            })
        };
        assert!(copy().copied_bytes > 1 << 20);
        assert_eq!(copy().copied_bytes, 0);
        let (packs, ..) = over_http(&other, id, &[], &all);
        assert_eq!(packs, 1);
    }
}
