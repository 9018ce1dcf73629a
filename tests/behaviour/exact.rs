//! Whatever is packed is given back byte for byte by the independent reader; what cannot be packed
//! leaves the store as it was.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use safetensors::Dtype;

use super::model::{Fill, Model, Plain, Tensor, models, read_tree};
use super::run::{objects, pack, reader_agrees, tenpak, text};

/// Packs the model and compares what comes back with what went in.
fn round_trip(model: &Model, codec: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (input, store, out) =
        (folder.path().join("model"), folder.path().join("store"), folder.path().join("out"));
    fs::create_dir(&input).unwrap();
    model.write(&input);
    let packed = pack(&store, &input, "org/model", &["--codec", codec]);
    let expected = read_tree(&input);
    assert_eq!(packed.number("files"), expected.len() as u64);
    let tensors: usize = model.shards.iter().map(Vec::len).sum();
    assert_eq!(packed.number("tensors"), tensors as u64);
    assert_eq!(packed.number("raw_bytes"), expected.values().map(|(_, size, _)| size).sum::<u64>());
    reader_agrees(&store, "org/model", &out);
    assert_eq!(read_tree(&out), expected);
}

#[test]
fn models_of_all_shapes_come_back_exactly() {
    let config = Config { cases: 12, max_shrink_iters: 20, ..Config::default() };
    let codecs = prop::sample::select(vec!["raw", "zstd", "float", "auto"]);
    let cases = (models(), codecs);
    // The cases are the same in every run.
    let mut runner = TestRunner::new_with_rng(
        config,
        proptest::test_runner::TestRng::deterministic_rng(
            proptest::test_runner::RngAlgorithm::ChaCha,
        ),
    );
    let result = runner.run(&cases, |(model, codec)| {
        round_trip(&model, codec);
        Ok(())
    });
    result.unwrap();
}

/// The odd ones, all at once: every element type, scalars, nothing at all, deep shapes.
#[test]
fn odd_models_come_back_exactly_through_every_codec() {
    let mut tensors = Vec::new();
    for (i, dtype) in super::model::DTYPES.into_iter().enumerate() {
        let seed = i as u64;
        let mut add = |what: &str, shape: &[usize], fill| {
            tensors.push(Tensor::new(&format!("{what}.{dtype}"), dtype, shape, seed, fill));
        };
        add("scalar", &[], Fill::Random);
        add("none", &[3, 0, 5], Fill::Random);
        add("vector", &[777], Fill::Sparse);
        add("deep", &[1; 16], Fill::Random);
    }
    let wide = [
        ("model.layers.0.self_attn.q_proj.weight", Dtype::F32, vec![1025, 1027]),
        ("model.layers.0.mlp.down_proj.weight", Dtype::BF16, vec![1537, 2049]),
        ("model.layers.0.mlp.experts.w1", Dtype::F16, vec![3, 1100, 900]),
        ("odd.bits", Dtype::F6_E2M3, vec![1024, 6144]),
        ("one.row", Dtype::U8, vec![1, 9_000_001]),
    ];
    for (i, (name, dtype, shape)) in wide.into_iter().enumerate() {
        let fill = [Fill::Random, Fill::Sparse, Fill::Same][i % 3];
        tensors.push(Tensor::new(name, dtype, &shape, 99, fill));
    }
    let rest = tensors.split_off(tensors.len() / 2);
    let mut model = Model::of(Vec::new());
    model.shards = vec![tensors, Vec::new(), rest];
    let mut model = model
        .with("empty.txt", b"")
        .with("a/deep/er/folder/file.json", b"{}")
        .with(".gitattributes", b"*.safetensors filter=lfs\n")
        .with("pytorch_model.bin", &super::model::bytes(5 << 20, 3, Fill::Random));
    let script = Plain { data: b"#!/bin/sh\n".to_vec(), executable: true };
    model.files.insert("bin/run me.sh".to_owned(), script);
    for codec in ["raw", "zstd", "float", "auto"] {
        round_trip(&model, codec);
    }
}

#[test]
fn a_single_file_and_an_empty_folder_are_models() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weights.safetensors");
    let data = &Model::layers(2, 100, 1).contents()["model.safetensors"].data;
    fs::write(&file, data).unwrap();
    let store = folder.path().join("store");
    pack(&store, &file, "one", &[]);
    let out = folder.path().join("out");
    reader_agrees(&store, "one", &out);
    assert_eq!(&fs::read(out.join("weights.safetensors")).unwrap(), data);
    let empty = folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    assert_eq!(pack(&store, &empty, "none", &[]).number("files"), 0);
    reader_agrees(&store, "none", &folder.path().join("nothing"));
}

fn safetensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

/// Every way in which a safetensors file can be broken is told, with the file's name, and nothing
/// of the store changes.
#[test]
fn broken_models_are_refused_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good"), folder.path().join("bad"));
    Model::layers(2, 100, 1).write(&good);
    let store = folder.path().join("store");
    pack(&store, &good, "org/model", &[]);
    let before = objects(&store);
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |second: &str, offsets: &str| {
        format!(
            r#"{{"a":{{"dtype":"U8","shape":[2],"data_offsets":[0,2]}},
            "{second}":{{"dtype":"U8","shape":[2],"data_offsets":{offsets}}}}}"#
        )
    };
    let many = format!("[{}]", ["1"; 17].join(","));
    let cases = [
        ("overlap", safetensors(&two("b", "[1,3]"), 3)),
        ("hole", safetensors(&two("b", "[3,5]"), 5)),
        ("duplicate", safetensors(&two("a", "[2,4]"), 4)),
        ("huge header", [&(1_u64 << 60).to_le_bytes()[..], b"{}"].concat()),
        ("header beyond the end", [&100_u64.to_le_bytes()[..], b"{}"].concat()),
        ("unknown dtype", safetensors(&one("Q9", "[4]", "[0,4]"), 4)),
        ("unaligned", safetensors(&one("F6_E2M3", "[3]", "[0,3]"), 3)),
        ("wrong size", safetensors(&one("F32", "[4]", "[0,4]"), 4)),
        ("overflow", safetensors(&one("F32", "[4611686018427387904,8]", "[0,4]"), 4)),
        ("backwards", safetensors(&one("U8", "[4]", "[4,0]"), 4)),
        ("negative", safetensors(&one("U8", "[-4]", "[0,4]"), 4)),
        ("too many dimensions", safetensors(&one("U8", &many, "[0,1]"), 1)),
        ("data missing", safetensors(&one("U8", "[4]", "[0,4]"), 3)),
        ("data left over", safetensors(&one("U8", "[4]", "[0,4]"), 5)),
        ("not json", safetensors("{", 0)),
        ("no object", safetensors("[]", 0)),
        ("not utf-8", [&2_u64.to_le_bytes()[..], b"\xff\xff"].concat()),
        ("empty", Vec::new()),
        ("short", b"\x02\0".to_vec()),
    ];
    for (what, bytes) in cases {
        fs::remove_dir_all(&bad).ok();
        Model::default().with("config.json", b"{}").with("x/model.safetensors", &bytes).write(&bad);
        refused(&bad, &store, &["model.safetensors", "safetensors"], what);
        assert_eq!(objects(&store), before, "{what}: the store changed");
    }
    // Names that no artifact can hold, and links that lead in circles.
    fs::remove_dir_all(&bad).unwrap();
    Model::default().with("back\\slash", b"x").write(&bad);
    refused(&bad, &store, &["backslash"], "backslash");
    fs::remove_dir_all(&bad).unwrap();
    fs::create_dir(&bad).unwrap();
    std::os::unix::fs::symlink(".", bad.join("again")).unwrap();
    refused(&bad, &store, &["again", "link"], "circle");
    assert_eq!(objects(&store), before);
    let missing = tenpak(&["pack", "/nowhere/at/all", "--store", text(&store), "--name", "x"]);
    assert_eq!((missing.status, missing.error.contains("/nowhere/at/all")), (Some(3), true));
    reader_agrees(&store, "org/model", &folder.path().join("out"));
}

fn refused(model: &Path, store: &Path, words: &[&str], what: &str) {
    let run = tenpak(&["pack", text(model), "--store", text(store), "--name", "bad"]);
    assert_eq!(run.status, Some(1), "{what}: {}", run.error);
    assert!(words.iter().all(|word| run.error.contains(word)), "{what}: {}", run.error);
    assert_eq!(run.number("status"), 1, "{what}");
}

/// Links that someone planted in the folder lead no file out of it.
#[test]
fn planted_links_lead_nothing_out_of_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let (input, store, out, outside) = (path("model"), path("store"), path("out"), path("outside"));
    Model::default().with("config.json", b"{}").with("sub/deep/file", b"data").write(&input);
    pack(&store, &input, "x", &[]);
    let arguments = ["unpack", "x", "--store", text(&store), "--out", text(&out)];
    let unpack = || tenpak(&[&arguments[..], &["--force"]].concat());
    let plant = |at: &str, to: &Path| {
        fs::remove_dir_all(&out).ok();
        fs::remove_dir_all(&outside).ok();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), b"kept").unwrap();
        fs::create_dir_all(out.join(at).parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, out.join(at)).unwrap();
    };
    for (at, to) in [("sub", outside.clone()), ("sub/deep", outside.clone()), ("sub", "..".into())]
    {
        plant(at, &to);
        let run = tenpak(&arguments);
        assert_eq!(run.status, Some(1), "{at}: {}", run.error);
        let said = format!("{at} is not of this artifact");
        assert!(run.error.contains(&said), "{}", run.error);
        let run = unpack();
        assert_eq!(run.status, Some(1), "{at}: {}", run.error);
        assert!(
            run.error.contains(at) && run.error.contains("links are not followed"),
            "{}",
            run.error
        );
    }
    // A link in the place of a file is replaced, not written through.
    plant("config.json", &outside.join("kept"));
    assert_eq!(unpack().status, Some(0));
    assert_eq!(fs::read(out.join("config.json")).unwrap(), b"{}");
    assert_eq!(fs::read(outside.join("kept")).unwrap(), b"kept");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "nothing else appeared");
    assert!(!path("deep").exists());
}

/// A store that is none is said to be none, before anything is written to it.
#[test]
fn a_store_of_another_version_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (input, store) = (folder.path().join("model"), folder.path().join("store"));
    Model::layers(1, 10, 1).write(&input);
    fs::create_dir(&store).unwrap();
    for descriptor in [
        r#"{"format":"tenpak-store","store_id":"00000000000000000000000000000000","version":2}"#,
        r#"{"format":"other","store_id":"00000000000000000000000000000000","version":1}"#,
        "garbage",
        "",
    ] {
        fs::write(store.join("tenpak.json"), descriptor).unwrap();
        let run = tenpak(&["pack", text(&input), "--store", text(&store), "--name", "x"]);
        assert!(matches!(run.status, Some(1 | 4)), "{descriptor}: {:?} {}", run.status, run.error);
        assert!(run.error.contains("tenpak.json"), "{}", run.error);
        assert_eq!(objects(&store).len(), 1, "{descriptor}");
    }
}
