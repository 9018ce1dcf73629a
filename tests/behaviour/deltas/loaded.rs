//! Loading what is stored against bases: both through one plan, each base once, none that is held.

use std::sync::Arc;
use std::time::Duration;

use tenpak::format::store as paths;
use tenpak::load::delta_base_cache::DeltaBaseCache;
use tenpak::load::{ErrorKind, LoadError};
use tenpak::schedule::plan::ListIndex;
use tenpak::schedule::shard::Shard;
use tenpak::transport::TransportErrorKind;
use tenpak::transport::fault::Action;

use super::super::library::whole;
use super::*;

const MIB: u64 = 1 << 20;

fn options() -> LoadOptions {
    let mut options = LoadOptions::default();
    options.stall = Duration::from_millis(250);
    options.first_pause = Duration::from_millis(2);
    // Bytes are counted: what is read over must not depend on the machine.
    options.gap = Some(64 << 10);
    options
}

fn cached(cache: &Arc<DeltaBaseCache>) -> LoadOptions {
    let mut options = options();
    options.bases = Some(cache.clone());
    options
}

#[test]
fn every_type_and_shape_arrives_whole() {
    let pair = Pair::of(many());
    pair.bench.load_all(pair.tuned.1, &pair.tuned.0, &options());
    pair.bench.load_all(pair.base.1, &pair.base.0, &options());
}

/// In pieces, through little memory, over one connection.
#[test]
fn pieces_arrive_whole_in_little_memory() {
    let pair = Pair::of(many());
    for (piece, budget, connections) in
        [(Some(60 << 10), 1, 1), (Some(MIB / 4), MIB, 3), (None, 1, 1)]
    {
        let mut options = options();
        (options.piece, options.budget, options.connections) = (piece, budget, Some(connections));
        pair.bench.load_all(pair.tuned.1, &pair.tuned.0, &options);
    }
}

/// Whole packs, as hosts behind caches are asked for, and ranges alike: every stored byte once, in
/// few requests.
#[test]
fn bases_and_differences_are_fetched_once_in_few_requests() {
    let pair = Pair::of(matrices(6, 512));
    let source = pair.bench.with(vec![]);
    // As many as at first, so that none is divided.
    let mut options = options();
    options.connections = Some(4);
    let (loaded, stats) = pair
        .bench
        .load(pair.tuned.1, std::slice::from_ref(&source), (&[], None), &options)
        .unwrap();
    check(&loaded, &pair.tuned.0);
    let tensors: u64 = stored(
        (0..6).flat_map(|i| pair.whole().tensor_chunks(i).to_vec()).collect::<Vec<_>>().iter(),
    );
    let all = tensors + stored(&bases(&pair.whole()));
    let read = source.stats().below("packs/").bytes_read;
    assert!((all..all + (64 << 10)).contains(&read), "{read} bytes read of {all}");
    assert_eq!(stats.fetched_bytes, read);
    let packs = pair.bench.inner.list("packs/");
    let packs = runtime().block_on(packs).unwrap().len() as u64;
    assert!(stats.requests <= 3 * packs, "{} requests for {packs} packs", stats.requests);
}

/// One tensor costs its own chunks and their bases.
#[test]
fn one_tensor_costs_its_own_bases() {
    let pair = Pair::of(matrices(6, 512));
    let name = "model.layers.05.mlp.up_proj.weight";
    let tuned = pair.whole();
    let at = tuned.tensors.iter().position(|(tensor, _)| tensor.name == name).unwrap();
    let source = pair.bench.with(vec![]);
    let (loaded, _) = pair
        .bench
        .load(pair.tuned.1, std::slice::from_ref(&source), (&[name], None), &options())
        .unwrap();
    assert_eq!(loaded.len(), 1);
    let (_, first) = tuned.tensors[at];
    let own = tuned.tensor_chunks(at);
    let below = (first..first + own.len()).flat_map(|chunk| tuned.bases_of(chunk));
    let below: Vec<_> = below.map(|base| tuned.chunks[base]).collect();
    let count = source.stats().below("packs/");
    assert_eq!(count.bytes_read, stored(own) + stored(&below));
    assert!(count.reads <= 4, "{} requests", count.reads);
}

#[test]
fn shards_cost_their_part_of_both() {
    let pair = Pair::of(many());
    let whole_bytes: usize = pair.tuned.0.shards.iter().flatten().map(|t| t.data.len()).sum();
    let mut parts = 0;
    for index in 0..4 {
        let source = pair.bench.with(vec![]);
        let shard = Shard::new(index, 4).unwrap();
        let (loaded, stats) = pair
            .bench
            .load(pair.tuned.1, std::slice::from_ref(&source), (&[], Some(shard)), &options())
            .unwrap();
        // The same rank's part of the fine-tune packed alone is the oracle.
        let alone = Bench::new();
        let id = alone.pack(&pair.tuned.0, "alone", None).manifest;
        let (expected, _) =
            alone.load(id, &[alone.with(vec![])], (&[], Some(shard)), &options()).unwrap();
        assert_eq!(loaded.len(), expected.len());
        for (found, expected) in loaded.iter().zip(&expected) {
            assert_eq!(
                (found.name(), &found.request.shape),
                (expected.name(), &expected.request.shape)
            );
            assert!(found.data == expected.data, "{} of rank {index}", found.name());
        }
        parts += stats.delivered_bytes;
    }
    assert!(parts as usize > whole_bytes && (parts as usize) < 2 * whole_bytes);
}

/// Loading the base and then its fine-tune with one cache fetches no base chunk again; without, each
/// once.
#[test]
fn held_bases_are_not_fetched_again() {
    let pair = Pair::of(many());
    let bench = &pair.bench;
    let base_bytes = stored(&bases(&pair.whole()));
    let load = |id, model: &Model, options: &LoadOptions| {
        let source = bench.with(vec![]);
        let (loaded, _) =
            bench.load(id, std::slice::from_ref(&source), (&[], None), options).unwrap();
        check(&loaded, model);
        source.stats()
    };
    let cache = Arc::new(DeltaBaseCache::new(64 * MIB));
    let without = load(pair.tuned.1, &pair.tuned.0, &options());
    load(pair.base.1, &pair.base.0, &cached(&cache));
    assert!(cache.bytes() > 0);
    let with = load(pair.tuned.1, &pair.tuned.0, &cached(&cache));
    let base_packs: Vec<_> =
        bases(&pair.whole()).iter().map(|c| paths::pack(c.place.pack)).collect();
    for pack in &base_packs {
        assert!(with.below(pack.as_str()).reads <= 1, "{pack} was asked: {:?}", with.by_path);
    }
    let (with, without) = (with.below("packs/"), without.below("packs/"));
    assert!(
        with.bytes_read + base_bytes <= without.bytes_read + 4096,
        "{with:?} {without:?} {base_bytes}"
    );
    // A second fine-tune's bases are there as well, whoever decoded them.
    let fresh = Arc::new(DeltaBaseCache::new(64 * MIB));
    load(pair.tuned.1, &pair.tuned.0, &cached(&fresh));
    let again = load(pair.tuned.1, &pair.tuned.0, &cached(&fresh)).below("packs/");
    assert_eq!(again.bytes_read, with.bytes_read);
}

/// A cache too small for all bases never exceeds its budget, and the load is right.
#[test]
fn a_small_cache_stays_small() {
    let pair = Pair::of(matrices(3, 512));
    let cache = Arc::new(DeltaBaseCache::new(MIB));
    for (id, model) in [(pair.base.1, &pair.base.0), (pair.tuned.1, &pair.tuned.0)] {
        pair.bench.load_all(id, model, &cached(&cache));
        assert!(cache.bytes() <= MIB);
    }
}

/// Chains: every base of every depth through one plan, held ones wherever they stand in a chain.
#[test]
fn chains_are_loaded_from_wherever_they_are_held() {
    let bench = Bench::new();
    let mut versions = vec![many()];
    let mut ids = vec![bench.pack(&Model::of(many()), "org/v0", None).manifest];
    for version in 1..4_u64 {
        versions.push(tune(versions.last().unwrap(), 3, version));
        let model = Model::of(versions.last().unwrap().clone());
        let base = ids.last().copied();
        ids.push(bench.pack(&model, &format!("org/v{version}"), base).manifest);
    }
    let last = Model::of(versions[3].clone());
    let alone = bench.load_all(ids[3], &last, &options());
    for held in 0..3 {
        let cache = Arc::new(DeltaBaseCache::new(64 * MIB));
        bench.load_all(ids[held], &Model::of(versions[held].clone()), &cached(&cache));
        let stats = bench.load_all(ids[3], &last, &cached(&cache));
        assert!(stats.fetched_bytes < alone.fetched_bytes, "version {held} is held");
    }
}

/// A base chunk that several chunks of a tensor are stored against, and which the tensor holds
/// itself, is fetched once.
#[test]
fn a_base_of_several_chunks_is_fetched_once() {
    let bench = Bench::new();
    let mut tensor = Tensor::new("a.up_proj.weight", Dtype::BF16, &[1024, 512], 1, Fill::Random);
    let chunk = tensor.data.len() / 8;
    let (first, rest) = tensor.data.split_at_mut(chunk);
    rest.chunks_mut(chunk).for_each(|other| other.copy_from_slice(first));
    let base = bench.pack(&Model::of(vec![tensor.clone()]), "base", None);
    assert_eq!(base.totals.chunks, 4, "one of the tensor, one each of its header and two files");
    // The first chunk stays; each of the others changes its own way.
    for (n, other) in tensor.data[chunk..].chunks_mut(chunk).enumerate() {
        other.iter_mut().step_by(2 * (n + 3)).for_each(|byte| *byte ^= 1);
    }
    let model = Model::of(vec![tensor]);
    let report = bench.pack(&model, "tuned", Some(base.manifest));
    assert_eq!(report.deltas, 7);
    let source = bench.with(vec![]);
    let (loaded, _) = bench
        .load(report.manifest, std::slice::from_ref(&source), (&[], None), &options())
        .unwrap();
    check(&loaded, &model);
    let tuned = whole(bench.store(), report.manifest);
    // A pack that is asked for whole comes with its index.
    let (all, read) = (stored(tuned.tensor_chunks(0)), source.stats().below("packs/").bytes_read);
    assert!((all..all + (8 << 10)).contains(&read), "{read} bytes read of {all}");
}

/// The same change to different chunks is stored once, and each comes out as itself.
#[test]
fn equal_differences_of_different_bases_are_told_apart() {
    let bench = Bench::new();
    let mut tensor = Tensor::new("a.up_proj.weight", Dtype::BF16, &[1024, 512], 1, Fill::Random);
    let base = bench.pack(&Model::of(vec![tensor.clone()]), "base", None).manifest;
    let chunk = tensor.data.len() / 8;
    for own in tensor.data.chunks_mut(chunk) {
        own[..2].copy_from_slice(&[7, 7]);
    }
    let model = Model::of(vec![tensor]);
    let report = bench.pack(&model, "tuned", Some(base));
    assert_eq!(report.deltas, 8);
    let tuned = whole(bench.store(), report.manifest);
    let distinct: std::collections::HashSet<_> =
        tuned.tensor_chunks(0).iter().map(|chunk| chunk.record.stored).collect();
    assert_eq!(distinct.len(), 1, "all of them replace one element by the same value");
    bench.load_all(report.manifest, &model, &options());
    super::super::library::check_store(bench.store());
}

/// A damaged base chunk is fetched again, alone, from the other mirror; without one it is named.
#[test]
fn a_damaged_base_chunk_comes_from_the_mirror_or_is_named() {
    let pair = Pair::of(matrices(3, 512));
    let tuned = pair.whole();
    let base = bases(&tuned)[3];
    let flip = |times: bool| {
        let action = Action::FlipBit(u64::from(base.place.offset) + 70, 2);
        let pack = paths::pack(base.place.pack);
        match times {
            true => Fault::always(pack.as_str(), action),
            false => Fault::nth(pack.as_str(), 0, action),
        }
    };
    for sources in [
        vec![pair.bench.with(vec![flip(false)])],
        vec![pair.bench.with(vec![flip(true)]), pair.bench.with(vec![])],
    ] {
        let (loaded, stats) =
            pair.bench.load(pair.tuned.1, &sources, (&[], None), &options()).unwrap();
        check(&loaded, &pair.tuned.0);
        assert!(stats.refetched_chunks <= 1, "{stats:?}");
    }
    let damaged = [pair.bench.with(vec![flip(true)])];
    let error = pair.bench.load(pair.tuned.1, &damaged, (&[], None), &options()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Verification);
    let LoadError::Corrupt { site, .. } = &error else { panic!("{error}") };
    assert!(site.is_base && (site.pack, site.offset) == (base.place.pack, base.place.offset));
    let at = tuned.tensors.iter().position(|(t, _)| t.name == site.tensor).unwrap();
    let first = tuned.tensors[at].1;
    let needs = tuned.base_of(first + site.chunk.get()).unwrap();
    assert_eq!(tuned.chunks[needs].record.decoded, base.record.decoded);
    let text = error.to_string();
    let id = pair.tuned.1.to_hex();
    for part in [&id[..], &site.tensor, &format!("base of chunk {}", site.chunk.get()), "3 times"] {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

/// Whatever happens on the way, the load goes on from there or says why not.
#[test]
fn faults_on_the_way_cost_retries_only() {
    let pair = Pair::of(matrices(3, 256));
    for nth in 0..3 {
        for action in [
            Action::Fail(TransportErrorKind::Transient),
            Action::Reset(150_000),
            Action::EndEarly(100_000),
            Action::WholeForRange,
            Action::Hang,
            Action::Stall(70_000),
            Action::Garbage,
            Action::Drip(Duration::from_millis(1)),
        ] {
            let source = pair.bench.with(vec![Fault::nth("packs/", nth, action.clone())]);
            let mut options = options();
            // What decodes slowly is no dead read.
            options.stall = Duration::from_secs(1);
            options.hedge_after = Some(Duration::from_millis(200));
            options.piece = (nth % 2 == 0).then_some(MIB / 4);
            let loaded = pair.bench.load(pair.tuned.1, &[source], (&[], None), &options);
            let (loaded, _) = loaded.unwrap_or_else(|error| panic!("{action:?}: {error}"));
            check(&loaded, &pair.tuned.0);
        }
    }
}

/// A load that is dropped in the middle ends, and what it kept is free.
#[test]
fn a_load_that_is_dropped_ends() {
    let pair = Pair::of(matrices(6, 512));
    let source = pair.bench.with(vec![]);
    runtime().block_on(async {
        let spec: ArtifactSpec = format!("@{}", pair.tuned.1).parse().unwrap();
        let sources = vec![source.clone() as Arc<dyn Transport>];
        let artifact =
            Artifact::open(store_of(sources), &spec, &OpenOptions::default()).await.unwrap();
        let all = tenpak::store::artifact::Selection::All;
        let wanted = artifact.select(&all, None).await.unwrap();
        let mut options = options();
        (options.budget, options.most_budget) = (MIB, MIB);
        let idle = Arc::strong_count(&source);
        let mut loader = artifact.load(wanted, &options);
        let first = loader.next().await.unwrap().unwrap();
        assert!(Arc::strong_count(&source) > idle, "a load holds on to what it reads from");
        drop(loader);
        assert_eq!(first.data.len() as u64, MIB);
        let ended = async {
            while Arc::strong_count(&source) > idle {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await.expect("its tasks have ended");
    });
    let read = source.stats().below("packs/").bytes_read;
    let all = pair.whole().manifest.totals.stored_bytes;
    assert!(read < all / 2, "{read} of {all}");
}
