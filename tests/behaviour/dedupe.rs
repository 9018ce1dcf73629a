//! What the store has already is not written again, and an unchanged tensor is not even encoded.
//! Requests and bytes are counted at the transport.

use std::fs;
use std::path::Path;

use tempfile::TempDir;
use tenpak::chunk::codec::CodecChoice;
use tenpak::pack::{PackOptions, PackReport};
use tenpak::trust::{Signer, TrustSet, keygen};

use super::library::{Counted, check_store, packed, whole};
use super::model::{Fill, Model, Tensor};

struct Bench {
    folder: TempDir,
    counted: Counted,
    key: std::path::PathBuf,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("key");
        keygen(&key).unwrap();
        Self { folder, counted: Counted::memory(), key }
    }

    /// Options that sign, and trust what is signed so.
    fn options(&self) -> PackOptions {
        let signer = Signer::load(&self.key, None).unwrap();
        let mut trust = TrustSet::default();
        trust.add_ed25519(signer.verifying_key().unwrap(), None).unwrap();
        let mut options = PackOptions::default();
        options.signers = vec![signer];
        options.trust = trust;
        options.codec = CodecChoice::Zstd;
        options
    }

    /// Packs the model; only what this did is counted afterwards.
    fn pack(&self, model: &Model, artifact: &str) -> PackReport {
        let input = tempfile::tempdir_in(self.folder.path()).unwrap();
        model.write(input.path());
        self.pack_folder(input.path(), artifact)
    }

    fn pack_folder(&self, input: &Path, artifact: &str) -> PackReport {
        self.counted.transport.reset_stats();
        packed(&self.counted.store, input, artifact, self.options())
    }

    fn bytes_written(&self, prefix: &str) -> u64 {
        self.counted.transport.stats().below(prefix).bytes_written
    }

    fn bytes_read(&self, prefix: &str) -> u64 {
        self.counted.transport.stats().below(prefix).bytes_read
    }
}

/// Matrices of `mib` MiB each, compressible, so that linking by trust is seen to fetch nothing.
fn matrices(count: usize, mib: usize, seed: u64) -> Vec<Tensor> {
    let tensor = |i: usize| {
        let name = format!("model.layers.{i:02}.mlp.up_proj.weight");
        let shape = [mib * 1024, 1024];
        let dtype = safetensors::Dtype::U8;
        Tensor::new(&name, dtype, &shape, seed + i as u64, Fill::Sparse)
    };
    (0..count).map(tensor).collect()
}

fn change(tensor: &mut Tensor) {
    let seed = u64::from_le_bytes(*blake3::hash(&tensor.data).as_bytes().first_chunk().unwrap());
    tensor.data = super::model::bytes(tensor.data.len(), seed, Fill::Sparse);
}

#[test]
fn packing_twice_writes_nothing_new() {
    let bench = Bench::new();
    let model = Model::of(matrices(6, 2, 1))
        .with("big.bin", &super::model::bytes(3 << 20, 9, Fill::Random));
    let first = bench.pack(&model, "org/model");
    assert!(first.new_bytes >= first.totals.stored_bytes, "{first:?}");
    let second = bench.pack(&model, "org/model");
    assert_eq!((second.manifest, second.new_bytes), (first.manifest, 0));
    assert!(second.published.version > first.published.version);
    assert_eq!(bench.bytes_written("packs/"), 0);
    assert_eq!(bench.bytes_read("packs/"), 0, "trusted chunks are linked without a look at them");
    // Under another name, too.
    let third = bench.pack(&model, "other:v2");
    assert_eq!((third.manifest, third.new_bytes), (first.manifest, 0));
    assert_eq!(check_store(&bench.counted.store), 2);
}

/// Small models are below the length of a run that is worth a link; still nothing is stored twice.
#[test]
fn small_models_packed_twice_write_nothing_new() {
    let bench = Bench::new();
    let model = Model::layers(2, 10, 1);
    let first = bench.pack(&model, "org/model");
    let second = bench.pack(&model, "org/model");
    assert_eq!((second.manifest, second.new_bytes), (first.manifest, 0));
    assert_eq!(bench.bytes_written("packs/"), 0);
}

/// The same tensor many times costs one, in the first pack and in the next.
#[test]
fn repeated_tensors_are_stored_once() {
    let bench = Bench::new();
    let mut tensors = matrices(8, 1, 1);
    for i in [2, 4, 6] {
        tensors[i].data = tensors[0].data.clone();
    }
    let model = Model::of(tensors);
    let first = bench.pack(&model, "org/model");
    assert_eq!(first.totals.raw_bytes >> 20, 8);
    let per_tensor = first.totals.stored_bytes / 5;
    assert!(bench.bytes_written("packs/") < 5 * per_tensor + (64 << 10));
    let second = bench.pack(&model, "org/model");
    assert_eq!((second.manifest, second.new_bytes), (first.manifest, 0));
}

#[test]
fn an_edited_readme_costs_little() {
    let bench = Bench::new();
    let readme = "All about this model.\n".repeat(2000);
    let model = Model::of(matrices(6, 2, 1)).with("README.md", readme.as_bytes());
    let first = bench.pack(&model, "org/model");
    let edited = model.with("README.md", format!("Edited. {readme}").as_bytes());
    let second = bench.pack(&edited, "org/model");
    assert_ne!(second.manifest, first.manifest);
    assert_eq!(second.published.replaced, Some(first.manifest));
    let small = 64 << 10;
    assert!(second.new_bytes < small, "{} bytes for a README", second.new_bytes);
    assert!(bench.counted.transport.stats().total().bytes_written < 2 * small);
    assert_eq!(bench.bytes_read("packs/"), 0);
    assert_eq!(check_store(&bench.counted.store), 1);
}

/// 6 of 20 tensors are other ones: these are written, the rest is linked without being read or
/// encoded.
#[test]
fn a_fine_tune_costs_its_changed_tensors() {
    let bench = Bench::new();
    let mut tensors = matrices(20, 2, 1);
    let first = bench.pack(&Model::of(tensors.clone()), "base");
    for i in [0, 3, 4, 11, 15, 19] {
        change(&mut tensors[i]);
    }
    let second = bench.pack(&Model::of(tensors), "tuned");
    let changed = first.totals.stored_bytes * 6 / 20;
    let written = bench.bytes_written("packs/");
    assert!((changed * 95 / 100..changed + (128 << 10)).contains(&written), "{written}/{changed}");
    assert!(second.new_bytes < changed + (256 << 10), "{}", second.new_bytes);
    assert_eq!(bench.bytes_read("packs/"), 0);
    assert!(second.linked >= 14, "{} of 14 tensors were linked", second.linked);
    // The graphs really share chunks.
    let store = &bench.counted.store;
    let (a, b) = (whole(store, first.manifest), whole(store, second.manifest));
    for i in 0..20 {
        let same = a.tensor_chunks(i) == b.tensor_chunks(i);
        assert_eq!(same, ![0, 3, 4, 11, 15, 19].contains(&i), "tensor {i}");
    }
    assert_eq!(check_store(store), 2);
}

#[test]
fn renamed_tensors_are_found_by_their_content() {
    let bench = Bench::new();
    let mut tensors = matrices(8, 2, 1);
    let first = bench.pack(&Model::of(tensors.clone()), "base");
    tensors.iter_mut().for_each(|t| t.name = format!("transformer.{}", t.name));
    tensors.reverse();
    // Another order and another place in the file, too.
    let zero = Tensor::new("a", safetensors::Dtype::U8, &[100_000], 1, Fill::Random);
    tensors.push(zero);
    let second = bench.pack(&Model::of(tensors), "renamed");
    assert!(second.linked >= 8, "{second:?}");
    assert!(bench.bytes_written("packs/") < 256 << 10);
    assert!(second.new_bytes < first.new_bytes / 10, "{}", second.new_bytes);
    assert_eq!(check_store(&bench.counted.store), 2);
}

/// Every other tensor of 300 KiB is new: runs of one old tensor are too short to be linked, and a
/// load of the new artifact asks for the new pack alone.
#[test]
fn short_runs_are_written_again() {
    let bench = Bench::new();
    let tensor = |i: u64| {
        let shape = [300 << 10];
        Tensor::new(&format!("t{i:02}"), safetensors::Dtype::U8, &shape, i, Fill::Random)
    };
    let mut tensors: Vec<_> = (0..16).map(tensor).collect();
    bench.pack(&Model::of(tensors.clone()), "base");
    tensors.iter_mut().step_by(2).for_each(change);
    let second = bench.pack(&Model::of(tensors), "tuned");
    let store = &bench.counted.store;
    let tuned = whole(store, second.manifest);
    let first = tuned.tensor_chunks(0)[0].place.pack;
    assert!(tuned.chunks.iter().all(|chunk| chunk.place.pack == first), "fragmented");
    assert_eq!(second.linked, 0);
    check_store(store);
}

/// Content that moved within a file is found again by where it is cut.
#[test]
fn an_insertion_into_a_big_file_costs_its_neighbourhood() {
    let bench = Bench::new();
    let mut data = super::model::bytes(40 << 20, 1, Fill::Random);
    bench.pack(&Model::default().with("pytorch_model.bin", &data), "pickle");
    data.splice(9 << 20..9 << 20, *b"inserted");
    let second = bench.pack(&Model::default().with("pytorch_model.bin", &data), "pickle");
    // Two extents of about 8 MiB at most, some of whose chunks are written again.
    assert!(second.new_bytes < 28 << 20, "{}", second.new_bytes);
    assert_eq!(check_store(&bench.counted.store), 1);
}

/// Nobody is trusted: what is compressed is fetched and compared; what is raw has its content as
/// its name.
#[test]
fn without_trust_chunks_are_compared_before_they_are_linked() {
    let bench = Bench::new();
    let model = Model::of(matrices(4, 2, 1));
    let input = bench.folder.path().join("input");
    fs::create_dir(&input).unwrap();
    model.write(&input);
    let store = &bench.counted.store;
    let options = || {
        let mut options = PackOptions::default();
        options.codec = CodecChoice::Zstd;
        options
    };
    let first = packed(store, &input, "org/model", options());
    bench.counted.transport.reset_stats();
    let second = packed(store, &input, "org/model", options());
    assert_eq!((second.manifest, second.new_bytes), (first.manifest, 0));
    let read = bench.bytes_read("packs/");
    // All but the few bytes of what no codec makes smaller.
    assert!(read + 4096 >= first.totals.stored_bytes, "{read} of {}", first.totals.stored_bytes);
}

/// With a base, chunks are found one by one, also where their tensor is not the same.
#[test]
fn a_base_is_searched_chunk_by_chunk() {
    let bench = Bench::new();
    let mut tensors = matrices(1, 32, 1);
    let first = bench.pack(&Model::of(tensors.clone()), "base");
    tensors[0].data[0] ^= 1;
    let input = bench.folder.path().join("input");
    fs::create_dir(&input).unwrap();
    Model::of(tensors).write(&input);
    bench.counted.transport.reset_stats();
    let mut options = bench.options();
    options.base = Some(first.manifest);
    let second = packed(&bench.counted.store, &input, "tuned", options);
    let written = bench.bytes_written("packs/");
    assert!(written < 4 << 20, "{written} bytes for one changed chunk");
    assert_ne!(second.manifest, first.manifest);
    check_store(&bench.counted.store);
}
