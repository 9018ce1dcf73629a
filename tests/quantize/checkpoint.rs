//! The result is a whole checkpoint, in the layout of its format, with signed lineage.

use std::path::Path;

use safetensors::SafeTensors;
use serde_json::Value;

use super::model::{llama, write, write_shards};
use super::quantized;
use super::run::{done, fresh_folder, objects, reader_agrees, text};

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Every format: the second reader verifies and unpacks it, the files are safetensors with aligned
/// tensors and the format's names, and TenPak reads its weights back within the format's error.
#[test]
fn every_format_is_a_whole_checkpoint() {
    let folder = fresh_folder("every_format");
    let (model, store) = (write(&folder.join("model"), &llama(2, 64)), folder.join("store"));
    let formats: [(&str, &[&str], &[&str], &str); 9] = [
        (
            "nf4",
            &["--preset", "bnb_nf4"],
            &["weight", "weight.absmax", "weight.quant_map"],
            "bitsandbytes",
        ),
        ("double", &["--preset", "nf4_double"], &["weight.nested_absmax"], "bitsandbytes"),
        ("int8", &["--preset", "bnb_int8"], &["weight", "SCB", "weight_format"], "bitsandbytes"),
        (
            "gptq",
            &["--method", "rtn", "--format", "gptq", "--group-size", "32"],
            &["qweight", "qzeros", "scales", "g_idx"],
            "gptq",
        ),
        (
            "gptq3",
            &[
                "--method",
                "rtn",
                "--format",
                "gptq_v2",
                "--bits",
                "3",
                "--asymmetric",
                "--group-size",
                "-1",
            ],
            &["qweight"],
            "gptq",
        ),
        (
            "awq",
            &["--method", "rtn", "--format", "awq", "--group-size", "64"],
            &["qweight", "qzeros", "scales"],
            "awq",
        ),
        (
            "packed",
            &["--method", "rtn", "--group-size", "32"],
            &["weight_packed", "weight_scale", "weight_shape"],
            "compressed-tensors",
        ),
        (
            "bytes",
            &["--method", "rtn", "--bits", "8", "--group-size", "-1"],
            &["weight", "weight_scale"],
            "compressed-tensors",
        ),
        ("fp8", &["--method", "fp8"], &["weight", "weight_scale"], "compressed-tensors"),
    ];
    for (name, arguments, ends, method) in formats {
        let run = quantized(&store, text(&model), name, arguments);
        assert_eq!(
            (run.number("tensors_computed"), run.number("tensors_linked")),
            (12, 0),
            "{name}"
        );
        let out = folder.join(name);
        reader_agrees(&store, name, &out);
        assert_eq!(json(&out.join("config.json"))["quantization_config"]["quant_method"], method);
        let companion = out.join("quantize_config.json").exists();
        assert_eq!(companion, method == "gptq", "{name}");
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        for end in ends {
            tensors.tensor(&format!("model.layers.1.mlp.down_proj.{end}")).unwrap();
        }
        for (tensor, view) in tensors.tensors() {
            // In the file: the map that readers make of it begins at a page.
            let at = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
            let width = (view.dtype().bitsize() / 8).max(1);
            assert!(at.is_multiple_of(width), "{name}: {tensor} begins at {at}");
        }
        let all = ["load", name, "--store", text(&store), "--dtype", "bf16", "--digest"];
        let run = done(&all);
        assert_eq!(run.number("dequantized"), 12, "{name}");
    }
}

/// What the manifest says, and what is shared with the model that it was made from.
#[test]
fn lineage_is_in_the_manifest_and_what_is_the_same_is_shared() {
    let folder = fresh_folder("lineage");
    let mut tensors = llama(1, 64);
    // An embedding long enough to be linked.
    tensors[0] =
        ("model.embed_tokens.weight".to_owned(), vec![16384, 64], super::model::values(9, 1 << 20));
    let (model, store) = (write(&folder.join("model"), &tensors), folder.join("store"));
    let store = text(&store);
    let base =
        done(&["pack", text(&model), "--store", store, "--name", "base", "--model-id", "org/base"]);
    let run =
        done(&["quantize", "base", "--store", store, "--name", "small", "--preset", "bnb_nf4"]);
    let stored = run.number("stored_bytes");
    assert!(run.number("new_bytes") + (1 << 20) < stored, "{}", run.json);
    let path = Path::new(store).join("manifests").join(run.text("manifest"));
    let manifest = json(&path);
    assert_eq!(manifest["source"]["manifest"], base.json["manifest"]);
    assert_eq!(manifest["model_id"], "org/base");
    let said = &manifest["quantization"];
    assert_eq!(*said, run.json["quantization"]);
    for (field, value) in [
        ("method", "nf4"),
        ("format", "bitsandbytes"),
        ("tool", "tenpak"),
        ("backend", "native"),
        ("tool_version", env!("CARGO_PKG_VERSION")),
        ("products", "tenpak.products.json"),
    ] {
        assert_eq!(said[field], value);
    }
    assert_eq!((&said["bits"], &said["group_size"]), (&4.into(), &64.into()));
    assert_eq!(said["recipe"].as_str().unwrap().len(), 64);
    done(&["verify", "small", "--store", store]);
}

/// The same bytes whatever the number of threads, from a folder or an artifact, sharded or not; shards
/// keep their names and get an index of their own.
#[test]
fn the_same_input_gives_the_same_bytes() {
    let folder = fresh_folder("same");
    let tensors = llama(2, 64);
    let (first, second) = tensors.split_at(7);
    let shards =
        [("model-00001-of-00002.safetensors", first), ("model-00002-of-00002.safetensors", second)];
    let model = write_shards(&folder.join("model"), &shards);
    std::fs::write(model.join("pytorch_model.bin"), b"other weights").unwrap();
    let mut ids = Vec::new();
    for threads in ["1", "3"] {
        let store = folder.join(threads);
        let more = ["--preset", "nf4_double", "--threads", threads];
        let run = quantized(&store, text(&model), "q", &more);
        assert_eq!(run.json["left_out"], serde_json::json!(["pytorch_model.bin"]));
        ids.push(run.text("manifest"));
    }
    assert_eq!(ids[0], ids[1]);
    let (store, out) = (folder.join("1"), folder.join("out"));
    done(&["unpack", "q", "--store", text(&store), "--out", text(&out)]);
    assert!(!out.join("pytorch_model.bin").exists());
    let index = json(&out.join("model.safetensors.index.json"));
    let map = index["weight_map"].as_object().unwrap();
    let mut total = 0;
    for (path, _) in shards {
        let bytes = std::fs::read(out.join(path)).unwrap();
        for (name, view) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            assert_eq!(map[&name], path);
            total += view.data().len() as u64;
        }
    }
    assert_eq!(index["metadata"]["total_size"].as_u64(), Some(total));

    std::fs::remove_file(model.join("pytorch_model.bin")).unwrap();
    done(&["pack", text(&model), "--store", text(&store), "--name", "whole"]);
    let other = quantized(&store, "whole", "q2", &["--preset", "nf4_double"]);
    let again = folder.join("again");
    done(&["unpack", "q2", "--store", text(&store), "--out", text(&again)]);
    assert_eq!(objects(&again), objects(&out));
    assert_eq!(other.number("tensors_computed"), 0, "the folder's products are the artifact's");
}

/// Layers that are skipped stay, and engines are told.
#[test]
fn skipped_layers_stay() {
    let folder = fresh_folder("skipped");
    let (model, store) = (write(&folder.join("model"), &llama(1, 64)), folder.join("store"));
    for (name, arguments, list) in [
        ("nf4", &["--preset", "bnb_nf4"][..], "llm_int8_skip_modules"),
        ("ct", &["--method", "rtn", "--group-size", "32"], "ignore"),
        (
            "awq",
            &["--method", "rtn", "--format", "awq", "--group-size", "32"],
            "modules_to_not_convert",
        ),
        ("gptq", &["--method", "rtn", "--format", "gptq", "--group-size", "32"], "dynamic"),
    ] {
        let more = [&["--skip", "*.o_proj"][..], arguments].concat();
        let run = quantized(&store, text(&model), name, &more);
        assert_eq!(run.number("tensors_computed"), 5);
        let out = folder.join(name);
        done(&["unpack", name, "--store", text(&store), "--out", text(&out)]);
        let config = json(&out.join("config.json"));
        let listed = config["quantization_config"][list].to_string();
        assert!(listed.contains("self_attn") && listed.contains("o_proj"), "{name}: {listed}");
        let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
        let tensors = SafeTensors::deserialize(&bytes).unwrap();
        let kept = tensors.tensor("model.layers.0.self_attn.o_proj.weight").unwrap();
        assert_eq!(kept.dtype(), safetensors::Dtype::BF16);
    }
}
