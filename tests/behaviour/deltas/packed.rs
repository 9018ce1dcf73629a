//! What packing against a base writes, links, and leaves alone.

use tenpak::chunk::codec::CodecChoice;
use tenpak::format::store as paths;
use tenpak::pack::PackOptions;
use tenpak::transport::fault::{Action, Fault};

use super::super::library::{check_store, try_pack, whole};
use super::*;

#[test]
fn a_fine_tune_costs_its_differences() {
    let bench = Bench::new();
    let tensors = many();
    let base = bench.pack(&Model::of(tensors.clone()), "org/base", None);
    let model = Model::of(tune(&tensors, 3, 5));
    let report = bench.pack(&model, "org/tuned", Some(base.manifest));
    let tuned = whole(bench.store(), report.manifest);
    assert!(report.deltas > 0);
    for (ordinal, (tensor, _)) in tuned.tensors.iter().enumerate() {
        let chunks = tuned.tensor_chunks(ordinal);
        let deltas = chunks.iter().filter(|chunk| chunk.record.depth() == 1).count();
        // A handful of bytes is as small as it is.
        let expected = if tensor.byte_len() > 1000 { chunks.len() } else { deltas };
        assert_eq!(deltas, expected, "{}", tensor.name);
    }
    let totals = report.totals;
    assert!(report.new_bytes < totals.raw_bytes / 2, "{report:?}");
    assert_eq!(totals.stored_bytes, stored(&tuned.chunks), "bases included");
    assert_eq!(totals.chunks, tuned.distinct().len() as u64);
    assert!(stored(&bases(&tuned)) > 0);
    bench.load_all(report.manifest, &model, &LoadOptions::default());
    assert_eq!(check_store(bench.store()), 2);
}

/// 3 of 10 tensors are as they were: they are neither read nor written, however small they are.
#[test]
fn unchanged_tensors_cost_nothing() {
    let bench = Bench::new();
    let mut tensors = matrices(8, 256);
    tensors[3] = Tensor::new("a.small", Dtype::F32, &[30_000], 3, Fill::Random);
    tensors[5] = Tensor::new("z.tiny", Dtype::BF16, &[1000], 3, Fill::Random);
    let base = bench.pack(&Model::of(tensors.clone()), "org/base", None);
    let unchanged = [1, 3, 5];
    for (i, tensor) in tensors.iter_mut().enumerate() {
        if !unchanged.contains(&i) {
            *tensor = tuned(tensor, 2, 1);
        }
    }
    let model = Model::of(tensors.clone());
    let report = bench.pack(&model, "org/tuned", Some(base.manifest));
    let read = bench.bytes_read();
    let written = bench.counted.transport.stats().below("packs/").bytes_written;
    let (first, second) =
        (whole(bench.store(), base.manifest), whole(bench.store(), report.manifest));
    let mut deltas = Vec::new();
    for (ordinal, (tensor, _)) in second.tensors.iter().enumerate() {
        let at = tensors.iter().position(|t| t.name == tensor.name).unwrap();
        let before = first.tensors.iter().position(|(t, _)| t.name == tensor.name).unwrap();
        let chunks = second.tensor_chunks(ordinal);
        assert_eq!(
            chunks == first.tensor_chunks(before),
            unchanged.contains(&at),
            "{}",
            tensor.name
        );
        if !unchanged.contains(&at) {
            deltas.extend(chunks);
        }
    }
    let own = stored(deltas);
    // The safetensors header is the same; indexes and the pack's end come on top.
    assert!((own..own + (8 << 10)).contains(&written), "{written} bytes written for {own}");
    assert!(report.new_bytes < own + (64 << 10), "{}", report.new_bytes);
    assert_eq!(read, stored(&bases(&second)), "each base once, and nothing else");
    assert!(report.linked >= 3, "{report:?}");
    bench.load_all(report.manifest, &model, &LoadOptions::default());
}

#[test]
fn partners_are_found_by_name_type_and_shape() {
    let bench = Bench::new();
    let base = many();
    let first = bench.pack(&Model::of(base.clone()), "org/base", None).manifest;
    let named = |name: &str| base.iter().find(|t| t.name == name).unwrap().clone();
    let mut renamed = named("model.embed_tokens.weight");
    renamed.name = "transformer.wte.weight".into();
    let mut renamed_and_tuned = tuned(&named("model.layers.0.ids"), 3, 1);
    renamed_and_tuned.name = "new.ids".into();
    let mut reshaped = tuned(&named("model.layers.0.mlp.up_proj.weight"), 3, 1);
    reshaped.shape = vec![160, 1024];
    let mut retyped = tuned(&named("model.layers.0.mlp.down_proj.weight"), 3, 1);
    retyped.dtype = Dtype::F16;
    let same_kind = tuned(&named("model.layers.0.self_attn.o_proj.weight"), 3, 1);
    let new = Tensor::new("only.here", Dtype::BF16, &[300, 300], 77, Fill::Random);
    let tensors = vec![renamed, renamed_and_tuned, reshaped, retyped, same_kind, new];
    let model = Model::of(tensors);
    let report = bench.pack(&model, "org/tuned", Some(first));
    let (first, second) = (whole(bench.store(), first), whole(bench.store(), report.manifest));
    let depths = |name| records(&second, name).iter().map(|r| r.depth()).collect::<Vec<_>>();
    for (name, depth) in [
        ("transformer.wte.weight", 0),
        ("new.ids", 0),
        ("model.layers.0.mlp.up_proj.weight", 0),
        ("model.layers.0.mlp.down_proj.weight", 0),
        ("model.layers.0.self_attn.o_proj.weight", 1),
        ("only.here", 0),
    ] {
        assert!(depths(name).iter().all(|d| *d == depth), "{name}: {:?}", depths(name));
    }
    let linked = records(&second, "transformer.wte.weight");
    assert_eq!(linked, records(&first, "model.embed_tokens.weight"), "by its digest");
    bench.load_all(report.manifest, &model, &LoadOptions::default());
    check_store(bench.store());
}

/// A tensor that was renamed keeps the cut of its first name, and so does what is stored against it.
#[test]
fn chunk_stands_against_chunk_whatever_the_cut() {
    let bench = Bench::new();
    let named = |name: &str, tensor: &Tensor| {
        let name = name.to_owned();
        Model::of(vec![Tensor { name, ..tensor.clone() }])
    };
    let tensor = Tensor::new("", Dtype::BF16, &[512, 512], 1, Fill::Random);
    let (by_rows, by_columns) = ("x.q_proj.weight", "x.o_proj.weight");
    let first = bench.pack(&named(by_rows, &tensor), "v0", None).manifest;
    let second = bench.pack(&named(by_columns, &tensor), "v1", Some(first)).manifest;
    let model = named(by_columns, &tuned(&tensor, 2, 1));
    let third = bench.pack(&model, "v2", Some(second)).manifest;
    let grid = |id| whole(bench.store(), id).tensors[0].0.grid;
    assert_eq!((grid(second), grid(third)), (grid(first), grid(first)));
    let alone = Bench::new();
    let other = alone.pack(&model, "v2", None).manifest;
    assert_ne!(whole(alone.store(), other).tensors[0].0.grid, grid(first), "by its own name");
    let records = whole(bench.store(), third);
    assert!(records.tensor_chunks(0).iter().all(|chunk| chunk.record.depth() == 1));
    bench.load_all(third, &model, &LoadOptions::default());
}

/// A tensor that several files have is stored against that of the same file.
#[test]
fn of_several_partners_that_of_the_same_file_is_taken() {
    let bench = Bench::new();
    let shard =
        |seed| vec![Tensor::new("same.weight", Dtype::BF16, &[400, 400], seed, Fill::Random)];
    let mut model = Model::of(shard(1));
    model.shards.push(shard(2));
    let base = bench.pack(&model, "org/base", None).manifest;
    for shard in &mut model.shards {
        *shard = tune(shard, 5, 9);
    }
    let report = bench.pack(&model, "org/tuned", Some(base));
    let tuned = whole(bench.store(), report.manifest);
    assert_eq!(tuned.tensors.len(), 2);
    assert!((0..2).all(|i| tuned.tensor_chunks(i).iter().all(|c| c.record.depth() == 1)));
    assert!(report.new_bytes < report.totals.raw_bytes / 3, "{report:?}");
    check_store(bench.store());
}

/// In a tensor of which a chunk changed, the others are linked.
#[test]
fn unchanged_chunks_of_a_changed_tensor_are_linked() {
    let bench = Bench::new();
    let mut tensors = matrices(1, 1024);
    let base = bench.pack(&Model::of(tensors.clone()), "org/base", None).manifest;
    tensors[0].data[0] ^= 1;
    let model = Model::of(tensors);
    let report = bench.pack(&model, "org/tuned", Some(base));
    assert_eq!(report.deltas, 1);
    assert!(report.new_bytes < 64 << 10, "{}", report.new_bytes);
    bench.load_all(report.manifest, &model, &LoadOptions::default());
}

/// Only `auto` stores chunks against others.
#[test]
fn other_codecs_than_auto_store_chunks_alone() {
    for codec in [CodecChoice::Raw, CodecChoice::Zstd, CodecChoice::Float] {
        let bench = Bench::new();
        let tensors = matrices(2, 256);
        let base = bench.pack(&Model::of(tensors.clone()), "org/base", None).manifest;
        let model = Model::of(tune(&tensors, 3, 5));
        let mut options = bench.options(Some(base));
        options.codec = codec;
        let report = bench.pack_with(&model, "org/tuned", options);
        assert_eq!(report.deltas, 0, "{codec:?}");
        bench.load_all(report.manifest, &model, &LoadOptions::default());
    }
}

#[test]
fn the_same_input_gives_the_same_artifact_at_any_thread_count() {
    let mut first = None;
    for threads in [1, 2, 7] {
        let bench = Bench::new();
        let tensors = many();
        let base = bench.pack(&Model::of(tensors.clone()), "org/base", None).manifest;
        let mut changed = tune(&tensors, 3, 5);
        changed[4] = tensors[4].clone();
        let mut options = bench.options(Some(base));
        options.threads = threads;
        let report = bench.pack_with(&Model::of(changed), "org/tuned", options);
        let packs = runtime().block_on(bench.store().list("packs/")).unwrap();
        let packs: Vec<_> = packs.into_iter().map(|info| info.path).collect();
        let found = (report.manifest, packs);
        assert_eq!(*first.get_or_insert_with(|| found.clone()), found, "{threads} threads");
    }
}

/// Nobody is trusted: bases are what their records say, because they were decoded and compared.
#[test]
fn bases_that_nobody_trusted_signed_are_compared() {
    let bench = Bench::new();
    let mut tensors = matrices(3, 512);
    let plain = |base| {
        let mut options = PackOptions::default();
        options.base = base;
        options.threads = 2;
        options
    };
    let base = bench.pack_with(&Model::of(tensors.clone()), "org/base", plain(None)).manifest;
    tensors[1..].iter_mut().for_each(|tensor| *tensor = tuned(tensor, 3, 1));
    let model = Model::of(tensors);
    let report = bench.pack_with(&model, "org/tuned", plain(Some(base)));
    assert!(report.deltas > 0 && report.linked > 0, "{report:?}");
    let tuned = whole(bench.store(), report.manifest);
    let linked: Vec<_> = bases(&tuned);
    assert!(bench.bytes_read() >= stored(&linked), "{} read", bench.bytes_read());
    bench.load_all(report.manifest, &model, &LoadOptions::default());
    check_store(bench.store());
}

/// A base chunk that is not what its record says is not used, and the rest is.
#[test]
fn a_damaged_base_chunk_is_not_used() {
    let bench = Bench::new();
    let tensors = matrices(2, 512);
    let base = bench.pack(&Model::of(tensors.clone()), "org/base", None).manifest;
    let model = Model::of(tune(&tensors, 3, 1));
    let damaged = whole(bench.store(), base).tensor_chunks(0)[2];
    let flip = Action::FlipBit(u64::from(damaged.place.offset) + 9, 3);
    let path = paths::pack(damaged.place.pack);
    bench.counted.transport.script(vec![Fault::always(path.as_str(), flip)]);
    let report = bench.pack(&model, "org/tuned", Some(base));
    bench.counted.transport.script(Vec::new());
    let tuned = whole(bench.store(), report.manifest);
    let depths: Vec<_> = tuned.tensor_chunks(0).iter().map(|chunk| chunk.record.depth()).collect();
    assert_eq!(depths[2], 0, "stored alone: {depths:?}");
    assert!(depths.iter().filter(|depth| **depth == 1).count() >= 4, "{depths:?}");
    bench.load_all(report.manifest, &model, &LoadOptions::default());
    check_store(bench.store());
}

/// What an interrupted run left is used by the next: no pack is written twice, and the artifact is
/// the one of an undisturbed run.
#[test]
fn an_interrupted_run_is_resumed() {
    let tensors = matrices(3, 512);
    let model = Model::of(tune(&tensors, 1, 1));
    let undisturbed = Bench::new();
    let base = undisturbed.pack(&Model::of(tensors.clone()), "org/base", None).manifest;
    let expected = undisturbed.pack(&model, "org/tuned", Some(base));
    let bench = Bench::new();
    assert_eq!(bench.pack(&Model::of(tensors), "org/base", None).manifest, base);
    let input = tempfile::tempdir_in(bench.folder.path()).unwrap();
    model.write(input.path());
    // The new table cannot be written, which may pass; the base's can be read.
    let new = whole(undisturbed.store(), expected.manifest).manifest.table().table;
    let fail = Action::Fail(tenpak::transport::TransportErrorKind::Transient);
    bench.counted.transport.script(vec![Fault::always(format!("tables/{new}"), fail)]);
    assert!(try_pack(bench.store(), input.path(), "org/tuned", bench.options(Some(base))).is_err());
    bench.counted.transport.script(Vec::new());
    let report = bench.pack(&model, "org/tuned", Some(base));
    assert_eq!((report.manifest, report.deltas), (expected.manifest, expected.deltas));
    assert_eq!(bench.counted.transport.stats().below("packs/").bytes_written, 0);
    bench.load_all(report.manifest, &model, &LoadOptions::default());
    check_store(bench.store());
}

/// Packing the fine-tune again, with or without its base, links all of it.
#[test]
fn packing_again_writes_nothing() {
    let pair = Pair::of(matrices(3, 256));
    let bench = &pair.bench;
    for base in [Some(pair.base.1), Some(pair.tuned.1), None] {
        let again = bench.pack(&pair.tuned.0, "org/tuned", base);
        assert_eq!((again.manifest, again.new_bytes), (pair.tuned.1, 0), "{base:?}");
    }
    check_store(bench.store());
}
