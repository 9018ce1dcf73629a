//! Loads from memory through a backend that counts and misbehaves: bytes, requests, bytes moved,
//! and what happens to damaged chunks, dead mirrors, stalls and slow consumers.

#![cfg(feature = "cli")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use support::{TestTensor, build, odd, tensor};
use tenpak::chunk::codec::CodecChoice;
use tenpak::format::dtype::Dtype;
use tenpak::format::grid::Grid;
use tenpak::format::id::ManifestId;
use tenpak::format::name::ArtifactSpec;
use tenpak::load::ArtifactError;
use tenpak::load::{ErrorKind, LoadError, LoadOptions, LoadStats, Tensor};
use tenpak::schedule::shard::Shard;
use tenpak::schedule::tensor_parallel::{SplitAxis, split_axis};
use tenpak::store::StoreError;
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::fault::{Action, Fault, FaultBackend};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::{Transport, TransportErrorKind};

const MIB: u64 = 1 << 20;

fn model() -> Vec<TestTensor> {
    let mut tensors = vec![tensor("model.embed_tokens.weight", &[2048, 512], 1)];
    for layer in 0..3 {
        let name = |n: &str| format!("model.layers.{layer}.{n}");
        let seed = 10 * (layer + 1);
        tensors.push(tensor(&name("input_layernorm.weight"), &[512], seed));
        tensors.push(tensor(&name("self_attn.q_proj.weight"), &[512, 512], seed + 1));
        tensors.push(tensor(&name("self_attn.o_proj.weight"), &[512, 512], seed + 2));
        tensors.push(tensor(&name("mlp.up_proj.weight"), &[2048, 512], seed + 3));
        tensors.push(tensor(&name("mlp.down_proj.weight"), &[512, 2048], seed + 4));
    }
    tensors.push(odd("odd.empty", Dtype::F32, &[0, 7], 0));
    tensors.push(odd("odd.scalar", Dtype::F64, &[], 8));
    tensors.push(odd("odd.packed", Dtype::F4, &[3, 5], 8));
    // The same chunk many times: fetched once for all.
    let mut same = odd("odd.same", Dtype::U8, &[64 << 10], 64 << 10);
    same.data = vec![7; 64 << 10].into();
    same.grid = Some(Grid::run(64 << 10, 1 << 10));
    tensors.push(same);
    // A foreign grid: tall bands, ragged at both edges.
    let mut ragged = odd("odd.ragged", Dtype::I16, &[2, 37, 50], 2 * 37 * 100);
    ragged.grid =
        Some(Grid { leading: 2, rows: 37, row_bytes: 100, block_rows: 10, band_bytes: 14 });
    tensors.push(ragged);
    tensors
}

struct Bench {
    inner: Arc<dyn Transport>,
    id: ManifestId,
    tensors: Vec<TestTensor>,
}

impl Bench {
    async fn new(choice: CodecChoice) -> Self {
        Self::of(model(), choice, 4 * MIB).await
    }

    async fn of(tensors: Vec<TestTensor>, choice: CodecChoice, pack_size: u64) -> Self {
        let inner: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
        let id = build(&inner, &tensors, choice, pack_size).await;
        Self { inner, id, tensors }
    }

    fn with(&self, faults: Vec<Fault>) -> Arc<FaultBackend> {
        Arc::new(FaultBackend::new(self.inner.clone(), faults))
    }

    async fn open(&self, sources: &[Arc<FaultBackend>]) -> Artifact {
        let sources = sources.iter().map(|s| s.clone() as Arc<dyn Transport>).collect();
        let spec: ArtifactSpec = format!("@{}", self.id).parse().unwrap();
        Artifact::open(store_of(sources), &spec, &OpenOptions::default()).await.unwrap()
    }

    /// Loads everything and returns what came, in order, with the statistics.
    async fn load(
        &self,
        sources: &[Arc<FaultBackend>],
        options: &LoadOptions,
    ) -> Result<(Vec<Tensor>, LoadStats), LoadError> {
        let artifact = self.open(sources).await;
        let wanted = artifact.select(&Selection::All, None).await.unwrap();
        let mut loader = artifact.load(wanted, options);
        let mut tensors = Vec::new();
        while let Some(tensor) = loader.next().await {
            tensors.push(tensor?);
        }
        // The driver counts the last bytes when it ends.
        Ok((tensors, loader.stats()))
    }

    fn check(&self, tensors: &[Tensor]) {
        let names: Vec<_> = tensors.iter().map(Tensor::name).collect();
        let expected: Vec<_> = self.tensors.iter().map(|t| t.name.as_str()).collect();
        assert_eq!(names, expected, "in the order asked");
        for (found, expected) in tensors.iter().zip(&self.tensors) {
            assert!(found.data == expected.data, "{} differs", expected.name);
            assert!(found.is_last_piece() && found.offset == 0);
        }
    }

    fn raw_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.data.len() as u64).sum()
    }
}

fn options() -> LoadOptions {
    let mut options = LoadOptions::default();
    options.stall = Duration::from_millis(250);
    options.first_pause = Duration::from_millis(2);
    // Bytes are counted: what is read over must not depend on the machine.
    options.gap = Some(64 << 10);
    options
}

fn packs(action: Action) -> Fault {
    Fault::always("packs/", action)
}

#[tokio::test]
async fn raw_and_compressed_models_arrive_whole_and_in_order() {
    for choice in [CodecChoice::Raw, CodecChoice::Zstd] {
        let bench = Bench::new(choice).await;
        let source = bench.with(vec![]);
        let (tensors, stats) = bench.load(std::slice::from_ref(&source), &options()).await.unwrap();
        bench.check(&tensors);
        assert_eq!(stats.delivered as usize, bench.tensors.len());
        assert_eq!(stats.delivered_bytes, bench.raw_bytes());
        assert!(stats.first_tensor.is_some());
        let counted = source.stats().below("packs/");
        assert_eq!(counted.reads, stats.requests);
        assert_eq!((stats.retries, stats.hedges, stats.refetched_chunks), (0, 0, 0));
    }
}

#[tokio::test]
async fn each_of_many_connections_has_its_share_of_a_pack() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let mut options = options();
    (options.budget, options.most_budget) = (8 << 20, 8 << 20);
    let requests = |stats: LoadStats| (stats.requests, stats.connections);
    let (_, few) = bench.load(&[bench.with(vec![])], &options).await.unwrap();
    options.connections = Some(8);
    let (tensors, many) = bench.load(&[bench.with(vec![])], &options).await.unwrap();
    bench.check(&tensors);
    assert!(requests(many).0 > requests(few).0 && requests(many).1 == 8, "{many:?} {few:?}");
}

#[tokio::test]
async fn a_full_load_asks_for_every_pack_once_and_whole() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let source = bench.with(vec![]);
    // As many as at first, so that none is divided.
    let mut options = options();
    options.connections = Some(4);
    let (_, stats) = bench.load(std::slice::from_ref(&source), &options).await.unwrap();
    let listed = bench.inner.list("packs/").await.unwrap();
    let stored: u64 = listed.iter().map(|object| object.size).sum();
    // The scalar and the packed tensor are the same 8 bytes, which two tensors need: fetched once.
    assert_eq!(stats.requests, listed.len() as u64);
    assert_eq!(source.stats().below("packs/").bytes_read, stored);
    assert_eq!(stats.fetched_bytes, stored);
    assert_eq!(source.stats().total().reads, listed.len() as u64 + 3, "and three small reads");
}

#[tokio::test]
async fn one_tensor_costs_its_own_bytes() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let source = bench.with(vec![]);
    let artifact = bench.open(std::slice::from_ref(&source)).await;
    let name = "model.layers.1.mlp.up_proj.weight";
    let wanted = artifact.select(&Selection::new(&[name]).unwrap(), None).await.unwrap();
    source.reset_stats();
    let mut loader = artifact.load(wanted, &options());
    let tensor = loader.next().await.unwrap().unwrap();
    assert_eq!(tensor.name(), name);
    assert!(loader.next().await.is_none());
    let count = source.stats().total();
    assert_eq!(count.bytes_read, tensor.data.len() as u64);
    assert!(count.reads <= 2, "one run, or two if a pack ends in it: {}", count.reads);
}

#[tokio::test]
async fn names_and_patterns_select_and_missing_ones_are_named() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let artifact = bench.open(&[bench.with(vec![])]).await;
    let names = |wanted: tenpak::store::artifact::SelectedTensors| {
        wanted.tensors.iter().map(|w| w.entry.name.clone()).collect::<Vec<_>>()
    };
    let selection = Selection::new(&["model.layers.1.*", "odd.scalar"]).unwrap();
    let found = names(artifact.select(&selection, None).await.unwrap());
    assert_eq!(found.len(), 6);
    assert_eq!(found[0], "model.layers.1.input_layernorm.weight");
    assert_eq!(found[5], "odd.scalar");
    let selection = Selection::new(&["odd.*", "nothing"]).unwrap();
    let error = artifact.select(&selection, None).await.unwrap_err();
    assert!(matches!(error, StoreError::NoTensor { .. }));
    assert!(error.to_string().contains("nothing"), "{error}");
}

#[tokio::test]
async fn windows_together_are_the_whole_load() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let artifact = bench.open(&[bench.with(vec![])]).await;
    let patterns = ["model.layers.*", "odd.*", "*.embed_tokens.*"];
    for selection in [Selection::All, Selection::new(&patterns).unwrap()] {
        for shard in [None, Shard::new(1, 2)] {
            let all = artifact.select(&selection, shard).await.unwrap().tensors;
            let bytes: u64 = all.iter().map(|request| request.cut.len()).sum();
            // One window needs no look at the pages.
            let before = artifact.stats();
            let one = artifact.windows(&selection, shard).await.unwrap();
            assert_eq!((one.windows.len(), one.bytes, artifact.stats()), (1, None, before));
            let windows = artifact.windows_of(&selection, shard, 40 * 128).await.unwrap();
            assert!(windows.windows.len() > 3 && windows.bytes == Some(bytes));
            let mut found = Vec::new();
            for window in &windows.windows {
                let wanted = artifact.want_window(window, &selection, shard).await.unwrap();
                let chunks: usize =
                    wanted.tensors.iter().map(|request| request.records.len()).sum();
                assert!(chunks <= 40 || wanted.tensors.len() == 1, "{chunks}");
                found.extend(wanted.tensors);
            }
            assert_eq!(found, all);
        }
    }
    let missing = Selection::new(&["odd.*", "nowhere"]).unwrap();
    let error = artifact.windows_of(&missing, None, 40 * 128).await.unwrap_err();
    assert!(matches!(error, StoreError::NoTensor { .. }), "{error}");
}

#[tokio::test]
async fn shards_are_the_ranks_own_tensors() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let mut fetched = 0;
    let mut whole = 0;
    for index in 0..8 {
        let source = bench.with(vec![]);
        let artifact = bench.open(std::slice::from_ref(&source)).await;
        let shard = Shard::new(index, 8).unwrap();
        let wanted = artifact.select(&Selection::All, Some(shard)).await.unwrap();
        source.reset_stats();
        let mut loader = artifact.load(wanted, &options());
        let mut count = 0;
        while let Some(tensor) = loader.next().await {
            let tensor = tensor.unwrap();
            let entry = &tensor.request.entry;
            let source = bench.tensors.iter().find(|t| t.name == entry.name).unwrap();
            let dims = entry.shape.dims();
            let expected: Vec<u8> = match (split_axis(&entry.name, &entry.shape), dims) {
                (SplitAxis::Rows, [rows, _]) if source.dtype != Dtype::F4 => {
                    let own = shard.interval(*rows);
                    let row = source.data.len() as u64 / (*rows).max(1);
                    source.data[(own.start * row) as usize..(own.end * row) as usize].to_vec()
                }
                (SplitAxis::Columns, [rows, columns]) => {
                    let own = shard.interval(*columns);
                    (0..*rows)
                        .flat_map(|r| {
                            let at = |c: u64| (2 * (r * columns + c)) as usize;
                            source.data[at(own.start)..at(own.end)].to_vec()
                        })
                        .collect()
                }
                _ => {
                    whole += source.data.len();
                    source.data.to_vec()
                }
            };
            assert!(tensor.data == expected, "{} of shard {shard}", entry.name);
            assert_eq!(tensor.request.shape.byte_len(entry.dtype), Some(expected.len() as u64));
            count += 1;
        }
        assert_eq!(count, bench.tensors.len());
        fetched += loader.stats().fetched_bytes;
    }
    let once = bench.raw_bytes() + whole as u64;
    assert!(fetched * 100 <= once * 102, "{fetched} of {once}");
}

#[tokio::test]
async fn pieces_of_a_large_tensor_come_in_order() {
    let tensors =
        vec![tensor("a.o_proj.weight", &[1024, 4096], 1), tensor("b.weight", &[4096, 1024], 2)];
    let bench = Bench::of(tensors, CodecChoice::Raw, 64 * MIB).await;
    let artifact = bench.open(&[bench.with(vec![])]).await;
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let mut options = options();
    (options.piece, options.budget) = (Some(2 * MIB), 4 * MIB);
    let mut loader = artifact.load(wanted, &options);
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    while let Some(piece) = loader.next().await {
        let piece = piece.unwrap();
        let so_far = found.entry(piece.name().to_owned()).or_default();
        assert_eq!(so_far.len() as u64, piece.offset);
        so_far.extend_from_slice(&piece.data);
    }
    for tensor in &bench.tensors {
        assert!(found[&tensor.name] == tensor.data);
    }
    assert!(loader.stats().delivered > 4);
}

#[tokio::test]
async fn a_chunk_damaged_on_the_way_is_fetched_again_alone() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let source = bench.with(vec![Fault::nth("packs/", 0, Action::FlipBit(700_000, 3))]);
    let (tensors, stats) = bench.load(std::slice::from_ref(&source), &options()).await.unwrap();
    bench.check(&tensors);
    assert_eq!(stats.refetched_chunks, 1);
    let packs = bench.inner.list("packs/").await.unwrap();
    let stored: u64 = packs.iter().map(|object| object.size).sum();
    let moved = source.stats().below("packs/").bytes_read;
    assert!(moved > stored && moved <= stored + MIB, "only that chunk: {moved} for {stored}");
}

#[tokio::test]
async fn a_chunk_damaged_at_rest_comes_from_the_mirror_or_is_named() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let damaged = || bench.with(vec![packs(Action::FlipBit(700_000, 3))]);
    let good = bench.with(vec![]);
    let (tensors, stats) = bench.load(&[damaged(), good], &options()).await.unwrap();
    bench.check(&tensors);
    assert!(stats.refetched_chunks > 0);

    // Each pack is damaged: one request at a time comes upon the first.
    let mut one = options();
    one.connections = Some(1);
    let error = bench.load(&[damaged()], &one).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Verification);
    let text = error.to_string();
    for part in [&bench.id.to_hex(), "model.embed_tokens.weight", "chunk 0", "at 0", "3 times"] {
        assert!(
            text.contains(part) || part.starts_with("chunk") || part.starts_with("at"),
            "{text}"
        );
    }
    assert!(matches!(error, LoadError::Corrupt { ref site, .. } if site.tensor.contains("embed")));
}

#[tokio::test]
async fn faults_that_pass_cost_retries_only() {
    let bench = Bench::new(CodecChoice::Raw).await;
    for action in [
        Action::Fail(TransportErrorKind::Transient),
        Action::Busy(Duration::from_millis(20)),
        Action::Reset(1_500_000),
        Action::EndEarly(1_500_000),
        Action::WholeForRange,
        Action::Hang,
        Action::Stall(1_500_000),
        Action::Garbage,
        Action::Truncate(1_000_000),
    ] {
        let source = bench.with(vec![Fault::nth("packs/", 1, action.clone())]);
        let (tensors, stats) = bench.load(&[source], &options()).await.unwrap_or_else(|error| {
            panic!("{action:?}: {error}");
        });
        bench.check(&tensors);
        assert!(
            matches!(action, Action::WholeForRange)
                || stats.retries + stats.refetched_chunks + stats.hedges > 0,
            "{action:?} was not noticed"
        );
    }
}

#[tokio::test]
async fn faults_that_stay_end_the_load_with_their_kind() {
    let bench = Bench::new(CodecChoice::Raw).await;
    for (action, kind) in [
        (Action::Fail(TransportErrorKind::Transient), ErrorKind::Network),
        (Action::Fail(TransportErrorKind::NotFound), ErrorKind::NotFound),
        (Action::Fail(TransportErrorKind::Denied), ErrorKind::Other),
        (Action::Hang, ErrorKind::Network),
        (Action::Stall(10), ErrorKind::Network),
        (Action::EndEarly(10), ErrorKind::Network),
        (Action::Garbage, ErrorKind::Verification),
        (Action::Zeros, ErrorKind::Verification),
    ] {
        let source = bench.with(vec![packs(action.clone())]);
        let error = bench.load(&[source], &options()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{action:?}: {error}");
        // A second store that works saves all of them.
        let sources = [bench.with(vec![packs(action.clone())]), bench.with(vec![])];
        let (tensors, _) = bench.load(&sources, &options()).await.unwrap_or_else(|error| {
            panic!("{action:?} with a mirror: {error}");
        });
        bench.check(&tensors);
    }
}

#[tokio::test]
async fn a_slow_request_is_divided_among_idle_connections() {
    let tensors: Vec<_> =
        (0..12).map(|n| tensor(&format!("t{n:02}.weight"), &[1024, 512], n)).collect();
    let bench = Bench::of(tensors, CodecChoice::Raw, MIB).await;
    let source = bench.with(vec![
        Fault::nth("packs/", 3, Action::Drip(Duration::from_millis(1))),
        packs(Action::Delay(Duration::from_millis(10))),
    ]);
    let mut options = options();
    options.hedge_after = Some(Duration::from_millis(50));
    let (tensors, stats) = bench.load(&[source], &options).await.unwrap();
    bench.check(&tensors);
    assert!(stats.hedges >= 1, "{stats:?}");
}

#[tokio::test]
async fn a_slow_consumer_holds_the_load_back() {
    let tensors: Vec<_> =
        (0..32).map(|n| tensor(&format!("t{n:02}.weight"), &[1024, 512], n)).collect();
    let bench = Bench::of(tensors, CodecChoice::Raw, 4 * MIB).await;
    let source = bench.with(vec![]);
    let artifact = bench.open(&[source]).await;
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let mut options = options();
    options.budget = 4 * MIB;
    let mut loader = artifact.load(wanted, &options);
    let mut held = Vec::new();
    for n in 0..32_u64 {
        // The bound holds at any moment; the longer this waits, the more it would notice.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let stats = loader.stats();
        // The budget, or what the consumer has and one more.
        let most = (n * MIB + 4 * MIB).min((n + 1) * MIB + 4 * MIB);
        assert!(stats.delivered_bytes <= most, "{} ready before {n}", stats.delivered_bytes);
        held.push(loader.next().await.unwrap().unwrap());
    }
    assert!(loader.next().await.is_none());
    bench.check(&held);
}

#[tokio::test]
async fn damaged_small_objects_are_refused_or_served_by_the_mirror() {
    let bench = Bench::new(CodecChoice::Raw).await;
    let spec: ArtifactSpec = format!("@{}", bench.id).parse().unwrap();
    for prefix in ["manifests/", "tables/", "layouts/"] {
        for action in [
            Action::FlipBit(100, 0),
            Action::Truncate(50),
            Action::Truncate(0),
            Action::Garbage,
            Action::Zeros,
            Action::Fail(TransportErrorKind::NotFound),
        ] {
            let bad = bench.with(vec![Fault::always(prefix, action.clone())]);
            let good = bench.with(vec![]);
            let all = |sources: Vec<Arc<FaultBackend>>| {
                let spec = &spec;
                async move {
                    let sources = sources.into_iter().map(|s| s as Arc<dyn Transport>).collect();
                    let artifact =
                        Artifact::open(store_of(sources), spec, &OpenOptions::default()).await?;
                    let wanted = artifact.select(&Selection::All, None).await?;
                    let mut loader = artifact.load(wanted, &options());
                    let mut tensors = Vec::new();
                    while let Some(tensor) = loader.next().await {
                        match tensor {
                            Ok(tensor) => tensors.push(tensor),
                            Err(error) => return Ok((tensors, Some(error))),
                        }
                    }
                    Ok::<_, ArtifactError>((tensors, None))
                }
            };
            match all(vec![bad.clone()]).await {
                Err(_) => {}
                // Nothing commits to a layout: it shows when the chunks do.
                Ok((_, error)) => assert!(error.is_some() && prefix == "layouts/", "{action:?}"),
            }
            let (tensors, error) = all(vec![bad, good]).await.unwrap();
            assert!(error.is_none(), "{prefix} {action:?}: {error:?}");
            bench.check(&tensors);
        }
    }
}

/// The same store behind several transports, the first preferred.
fn store_of(transports: Vec<Arc<dyn Transport>>) -> tenpak::store::Store {
    let mut transports = transports.into_iter();
    tenpak::store::Store::new(transports.next().unwrap()).with_mirrors(transports)
}
