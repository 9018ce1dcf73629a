//! The same files give the same artifact and the same packs, whatever the threads, the place and
//! the name; nothing of these is in the manifest.

use std::fs;
use std::path::Path;

use safetensors::Dtype;

use super::model::{Fill, Model, Plain, Tensor};
use super::run::{names, pack};

fn model() -> Model {
    let mut model = Model::layers(9, 1111, 5);
    for i in 0..40 {
        let fill = if i % 2 == 0 { Fill::Sparse } else { Fill::Random };
        let name = format!("model.layers.{i:02}.norm.weight");
        model.shards[0].push(Tensor::new(&name, Dtype::F32, &[50 * i + 1], i as u64, fill));
    }
    let second = Model::layers(3, 2500, 77).shards.remove(0).into_iter();
    model.shards.push(second.map(|t| Tensor { name: format!("b.{}", t.name), ..t }).collect());
    let script = Plain { data: b"#!/bin/sh\n".to_vec(), executable: true };
    model.files.insert("run.sh".to_owned(), script);
    model.with("big.bin", &super::model::bytes(30 << 20, 3, Fill::Sparse))
}

/// What a store holds of an artifact: the manifest, all packs, and the rest but refs.
fn packed(folder: &Path, input: &Path, name: &str, more: &[&str]) -> (String, Vec<String>) {
    let store = tempfile::tempdir_in(folder).unwrap();
    let run = pack(store.path(), input, name, more);
    let mut all = Vec::new();
    for prefix in ["packs/", "tables/", "layouts/", "manifests/", "by-tensor/"] {
        all.extend(names(store.path(), prefix));
    }
    let id = run.text("manifest");
    let manifest = fs::read_to_string(store.path().join("manifests").join(&id)).unwrap();
    assert!(!manifest.contains("secret"), "{manifest}");
    let value: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    let fields: Vec<_> = value.as_object().unwrap().keys().collect();
    assert_eq!(fields, ["chunks", "format", "totals", "version"]);
    (id, all)
}

#[test]
fn the_same_files_give_the_same_objects() {
    let folder = tempfile::tempdir().unwrap();
    let model = model();
    let plain = folder.path().join("secret-folder");
    model.write(&plain);
    let snapshot = model.snapshot(&folder.path().join("cache"));
    let name = "secret-name/model:secret-tag";
    let expected = packed(folder.path(), &plain, name, &["--threads", "1"]);
    assert!(expected.1.iter().filter(|path| path.starts_with("packs/")).count() > 1);
    for (input, name, threads) in [
        (&plain, name, "2"),
        (&plain, "other", "7"),
        (&snapshot, name, "1"),
        (&snapshot, "third:v3", "7"),
    ] {
        let again = packed(folder.path(), input, name, &["--threads", threads]);
        assert_eq!(again, expected, "{} with {threads} threads", input.display());
    }
    // Signed or not, today or later: the same artifact.
    let key = folder.path().join("key");
    super::run::done(&["keygen", super::run::text(&key)]);
    let signed = ["--sign", super::run::text(&key), "--expires", "7"];
    assert_eq!(packed(folder.path(), &plain, name, &signed), expected);
    // Whatever does change the files changes the artifact.
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(plain.join("run.sh"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_ne!(packed(folder.path(), &plain, name, &[]).0, expected.0);
}
