//! Chains of artifacts, each packed against the one before, and where they end.

use tenpak::format::limits::MAX_DEPTH;

use super::super::library::{check_store, whole};
use super::*;

/// Eight deep is allowed; the ninth is stored alone, and the tenth against that.
#[test]
fn chains_end_at_the_limit_and_begin_anew() {
    let bench = Bench::new();
    let mut tensors = matrices(1, 160);
    tensors.push(Tensor::new("mlp.down_proj.weight", Dtype::F32, &[128, 512], 9, Fill::Random));
    let mut last = bench.pack(&Model::of(tensors.clone()), "org/v0", None).manifest;
    for version in 1..=MAX_DEPTH + 2 {
        tensors = tune(&tensors, 7, u64::from(version));
        let model = Model::of(tensors.clone());
        let report = bench.pack(&model, &format!("org/v{version}"), Some(last));
        last = report.manifest;
        let whole = whole(bench.store(), last);
        let expected = if version <= MAX_DEPTH { version } else { version - MAX_DEPTH - 1 };
        for (ordinal, (tensor, _)) in whole.tensors.iter().enumerate() {
            for chunk in whole.tensor_chunks(ordinal) {
                assert_eq!(chunk.record.depth(), expected, "{} of version {version}", tensor.name);
            }
        }
        bench.load_all(last, &model, &LoadOptions::default());
        let mut small = LoadOptions::default();
        (small.budget, small.piece, small.connections) = (100 << 10, Some(64 << 10), Some(1));
        bench.load_all(last, &model, &small);
    }
    assert_eq!(check_store(bench.store()), usize::from(MAX_DEPTH) + 3);
}

/// A tensor that comes back to an older content is linked where that lies.
#[test]
fn depths_agree_where_contents_return() {
    let bench = Bench::new();
    let original = matrices(3, 160);
    let mut last = bench.pack(&Model::of(original.clone()), "org/v0", None).manifest;
    let mut tensors = original.clone();
    for version in 1..6_u64 {
        tensors = tune(&tensors, 5, version);
        // One goes back, and one takes the content of another.
        tensors[version as usize % 3].data = original[version as usize % 3].data.clone();
        tensors[(version as usize + 1) % 3].data = tensors[(version as usize + 2) % 3].data.clone();
        let model = Model::of(tensors.clone());
        last = bench.pack(&model, &format!("org/v{version}"), Some(last)).manifest;
        bench.load_all(last, &model, &LoadOptions::default());
    }
    check_store(bench.store());
}
