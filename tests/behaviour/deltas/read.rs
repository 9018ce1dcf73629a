//! A fine-tune through the command: packed, inspected, compared, unpacked, and read by the independent
//! reader.

use std::path::Path;

use super::super::model::{Model, read_tree};
use super::super::run::{done, fresh_folder, pack, reader_agrees, tenpak, text};
use super::*;

fn models(folder: &Path) -> (Model, Model) {
    let base = Model::of(many());
    let mut tensors = tune(&many(), 3, 5);
    tensors[0] = many().swap_remove(0);
    let tuned = Model::of(tensors);
    base.write(&folder.join("base"));
    tuned.write(&folder.join("tuned"));
    (base, tuned)
}

#[test]
fn the_command_packs_against_a_base_and_tells_what_it_saved() {
    let folder = fresh_folder("deltas");
    let store = folder.join("store");
    let (_, tuned) = models(&folder);
    let base = pack(&store, &folder.join("base"), "org/base", &[]);
    let run = pack(&store, &folder.join("tuned"), "org/tuned", &["--base", "org/base"]);
    assert_eq!(run.text("base"), base.text("manifest"));
    assert!(run.number("deltas") > 0);
    assert!(run.number("new_bytes") < run.number("raw_bytes") / 2, "{}", run.json);
    assert!(run.number("stored_bytes") > run.number("new_bytes"), "bases included");
    assert!(base.json["base"].is_null() && base.number("deltas") == 0);
    let at = ["--store", text(&store)];

    let seen = done(&[&["inspect", "org/tuned"], &at[..]].concat());
    let tensor = |name: &str| {
        let tensors = seen.json["tensors"].as_array().unwrap();
        tensors.iter().find(|t| t["name"] == name).unwrap().clone()
    };
    let changed = tensor("model.layers.0.mlp.up_proj.weight");
    assert!(changed["base_bytes"].as_u64() > changed["stored_bytes"].as_u64(), "{changed}");
    assert!(changed["bits_per_weight"].as_f64().unwrap() < 8.0, "{changed}");
    let same = tensor("model.embed_tokens.weight");
    assert_eq!(same["base_chunks"], 0, "{same}");
    assert!(seen.number("base_bytes") > 0);

    let usage = done(&[&["du", "org/tuned"], &at[..]].concat());
    assert_eq!(usage.number("base_bytes"), seen.number("base_bytes"));
    let found = done(&[&["diff", "org/base", "org/tuned"], &at[..]].concat());
    assert!(found.number("second_against_first_bytes") > 0);
    assert_eq!(done(&[&["verify", "org/tuned"], &at[..]].concat()).json["ok"], true);

    let out = folder.join("out");
    done(&[&["unpack", "org/tuned", "--out", text(&out)], &at[..]].concat());
    assert_eq!(read_tree(&out), read_tree(&folder.join("tuned")));
    let loaded = done(&[&["load", "org/tuned", "--digest", "--keep"], &at[..]].concat());
    for tensor in tuned.shards.iter().flatten() {
        let digest = blake3::hash(&tensor.data).to_hex();
        assert_eq!(loaded.json["digests"][&tensor.name], digest.as_str(), "{}", tensor.name);
    }
    // A base that is not there.
    let none = ["pack", text(&out), "--name", "x", "--base", "org/none"];
    assert_eq!(tenpak(&[&none[..], &at].concat()).status, Some(3));
}

/// Whoever trusts a key gets the fine-tune by its signature alone: its manifest commits to bases too.
#[test]
fn a_signature_of_the_fine_tune_covers_its_bases() {
    let folder = fresh_folder("deltas-signed");
    let (store, key) = (folder.join("store"), folder.join("key"));
    models(&folder);
    done(&["keygen", text(&key)]);
    // The base is signed by nobody.
    pack(&store, &folder.join("base"), "org/base", &[]);
    let more = ["--base", "org/base", "--sign", text(&key)];
    assert!(pack(&store, &folder.join("tuned"), "org/tuned", &more).number("deltas") > 0);
    let public = folder.join("key.pub");
    let trusting = ["--store", text(&store), "--trust", text(&public)];
    let out = folder.join("out");
    done(&[&["unpack", "org/tuned", "--out", text(&out)], &trusting[..]].concat());
    assert_eq!(read_tree(&out), read_tree(&folder.join("tuned")));
    assert_eq!(tenpak(&[&["load", "org/base"], &trusting[..]].concat()).status, Some(4));
}

#[test]
fn the_independent_reader_agrees() {
    let folder = fresh_folder("deltas-reader");
    let store = folder.join("store");
    let mut tensors = many();
    // It is as slow as it is simple.
    tensors.retain(|tensor| tensor.data.len() < 300 << 10);
    Model::of(tensors.clone()).write(&folder.join("v0"));
    pack(&store, &folder.join("v0"), "v0", &[]);
    for version in 1..3_u64 {
        tensors = tune(&tensors, 2, version + 10);
        let (input, name) = (folder.join(format!("v{version}")), format!("v{version}"));
        Model::of(tensors.clone()).write(&input);
        pack(&store, &input, &name, &["--base", &format!("v{}", version - 1)]);
        let out = folder.join(format!("out{version}"));
        reader_agrees(&store, &name, &out);
        assert_eq!(read_tree(&out), read_tree(&input));
    }
}
