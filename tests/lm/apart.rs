//! Experts that are stacked and weights that are stored by columns: quantized by the command layer by layer, under the
//! names that engines have for single layers, and run again.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use tenpak::quantize::lm::{Context, Model, NoTap};
use tenpak::quantize::source::ModelSource;

use super::families::{tokens, write};
use super::run::{done, fresh_folder, pack, text};

/// A tokenizer of words `w0`, `w1`, ... and a text of them, for models that know none.
fn with_words(folder: &Path, vocabulary: usize) -> PathBuf {
    let words: serde_json::Map<String, Value> =
        (0..vocabulary).map(|at| (format!("w{at}"), json!(at))).collect();
    let tokenizer = json!({"version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"}});
    std::fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let text: Vec<String> =
        (0..2400_usize).map(|at| format!("w{}", (at * at % 1009 + at * 7) % vocabulary)).collect();
    let path = folder.with_extension("txt");
    std::fs::write(&path, text.join(" ")).unwrap();
    path
}

fn states(model: &Model, tokens: &[u32]) -> Tensor {
    let context = Context::new(model.config(), tokens.len()).unwrap();
    let mut state = model.embed(&[tokens]).unwrap().remove(0);
    for index in 0..model.config().layers {
        state = model.block(index).unwrap().forward(&state, &context, &mut NoTap).unwrap();
    }
    state
}

/// How far the states of the token in the middle are apart, relative to their length: those that a rounded router's
/// input sends elsewhere are far off.
fn apart(one: &Tensor, other: &Tensor) -> f32 {
    let rows = |x: &Tensor| x.sqr().unwrap().sum(1).unwrap().to_vec1::<f32>().unwrap();
    let (off, whole) = (rows(&(one - other).unwrap()), rows(other));
    let mut apart: Vec<f32> = off.iter().zip(&whole).map(|(a, b)| (a / b).sqrt()).collect();
    apart.sort_by(f32::total_cmp);
    apart[apart.len() / 2]
}

fn open(folder: &Path) -> Model {
    Model::open(ModelSource::folder(folder).unwrap())
        .unwrap_or_else(|e| panic!("{}: {e}", folder.display()))
}

fn names(folder: &Path) -> Vec<String> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    SafeTensors::deserialize(&bytes).unwrap().names().into_iter().map(str::to_owned).collect()
}

fn shape(folder: &Path, name: &str) -> Vec<usize> {
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    SafeTensors::deserialize(&bytes).unwrap().tensor(name).unwrap().shape().to_vec()
}

/// Quantizes, unpacks, and gives the folder.
fn quantized(store: &Path, source: &str, name: &str, more: &[&str]) -> PathBuf {
    let all = ["quantize", source, "--store", text(store), "--name", name];
    done(&[&all[..], more].concat());
    let out = store.with_extension(name.replace(':', "-"));
    done(&["unpack", name, "--store", text(store), "--out", text(&out)]);
    out
}

const EIGHT: [&str; 6] = ["--format", "compressed-tensors", "--bits", "8", "--group-size", "8"];

#[test]
fn what_is_stacked_or_transposed_is_quantized_layer_by_layer() {
    let all = super::json("families.json");
    for (family, layer, stored) in [
        ("gpt_oss", "model.layers.1.mlp.experts.2.gate_proj", "experts.gate_up_proj"),
        ("llama4_text", "model.layers.1.feed_forward.experts.2.up_proj", "experts.down_proj"),
        ("granitemoe", "model.layers.2.block_sparse_moe.experts.4.down_proj", "input_linear"),
        ("gpt2", "transformer.h.1.attn.c_attn", "-"),
    ] {
        let folder = fresh_folder(&format!("apart-{family}"));
        let (model, store) = (folder.join("model"), folder.join("store"));
        std::fs::create_dir(&model).unwrap();
        write(&all[family], &model);
        let plain = open(&model);
        let words = with_words(&model, plain.config().vocabulary);
        pack(&store, &model, "model", &[]);
        let tokens = tokens(&all[family]);
        let expected = states(&plain, &tokens);
        let calibration =
            ["--calibration", text(&words), "--samples", "24", "--sample-length", "40"];
        let gptq = [&["--method", "gptq"][..], &EIGHT, &calibration].concat();
        let rtn = [&["--method", "rtn"][..], &EIGHT].concat();
        for (name, more, end) in [
            ("rtn", &rtn[..], "weight_packed"),
            ("gptq", &gptq, "weight_packed"),
            ("int8", &["--preset", "bnb_int8"], "SCB"),
            ("nf4", &["--preset", "bnb_nf4"], "weight.absmax"),
        ] {
            let out = quantized(&store, "model", name, more);
            let names = names(&out);
            assert!(names.contains(&format!("{layer}.{end}")), "{family}, {name}: {names:?}");
            assert!(!names.iter().any(|name| name.contains(stored)), "{family}: {names:?}");
            let off = apart(&states(&open(&out), &tokens), &expected);
            let most = if name == "nf4" { 1.0 } else { 0.1 };
            assert!(off < most, "{family}, {name}: {off}");
            println!("{family} {name} {off}");
        }
        // A result is a source again, as a folder and in the store.
        let again = quantized(&store, "int8", "again", &rtn);
        let off = apart(&states(&open(&again), &tokens), &expected);
        assert!(off < 0.1, "{family}, again: {off}");
    }
}

/// What is skipped stays as the model has it.
#[test]
fn skipped_layers_are_stored_as_they_were() {
    let all = super::json("families.json");
    let folder = fresh_folder("apart-skipped");
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir(&model).unwrap();
    write(&all["gpt2"], &model);
    pack(&store, &model, "model", &[]);
    let tokens = tokens(&all["gpt2"]);
    let expected = states(&open(&model), &tokens);
    let skip = ["--method", "rtn", "--skip", "*mlp*"];
    let out = quantized(&store, "model", "some", &[&skip[..], &EIGHT].concat());
    assert_eq!(shape(&out, "transformer.h.0.mlp.c_fc.weight"), [40, 160]);
    assert!(apart(&states(&open(&out), &tokens), &expected) < 0.1);
    // Of a layer that was quantized before, too.
    let whole = [&["--method", "rtn"][..], &EIGHT].concat();
    quantized(&store, "model", "whole", &whole);
    let out = quantized(&store, "whole", "less", &[&skip[..], &EIGHT].concat());
    assert_eq!(shape(&out, "transformer.h.0.mlp.c_fc.weight"), [40, 160]);
    assert!(apart(&states(&open(&out), &tokens), &expected) < 0.1);
    // Experts that are all skipped stay stacked; if some are, all are apart.
    let folder = fresh_folder("apart-skipped-experts");
    let (model, store) = (folder.join("model"), folder.join("store"));
    std::fs::create_dir(&model).unwrap();
    write(&all["gpt_oss"], &model);
    pack(&store, &model, "model", &[]);
    let of = |name: &str, skip: &str| {
        names(&quantized(&store, "model", name, &[&whole[..], &["--skip", skip]].concat()))
    };
    let none = of("none", "*experts*");
    assert!(none.iter().any(|name| name == "model.layers.0.mlp.experts.gate_up_proj"), "{none:?}");
    let some = of("some", "*experts.1.*");
    assert!(some.iter().any(|name| name == "model.layers.0.mlp.experts.1.up_proj.weight"));
    assert!(some.iter().any(|name| name == "model.layers.0.mlp.experts.2.up_proj.weight_packed"));
}

/// Mixtral as transformers 5 holds it, with its experts in stacks.
#[test]
fn stacks_of_transformers_5_are_read() {
    let all = super::json("families.json");
    let recorded = &all["mixtral"];
    let folder = fresh_folder("apart-mixtral");
    write(recorded, &folder);
    let tokens = tokens(recorded);
    let expected = states(&open(&folder), &tokens);
    let path = folder.join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut made: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for (name, view) in file.iter() {
        if name.contains("experts") {
            continue;
        }
        let name = name.replace("block_sparse_moe.gate", "mlp.gate");
        made.push((name, view.shape().to_vec(), view.data().to_vec()));
    }
    for layer in 0..3 {
        let of = |expert: usize, which: &str| {
            let name =
                format!("model.layers.{layer}.block_sparse_moe.experts.{expert}.{which}.weight");
            file.tensor(&name).unwrap().data().to_vec()
        };
        let ups = (0..4).flat_map(|expert| [of(expert, "w1"), of(expert, "w3")].concat());
        let path = format!("model.layers.{layer}.mlp.experts");
        made.push((format!("{path}.gate_up_proj"), vec![4, 112, 48], ups.collect()));
        let downs = (0..4).flat_map(|expert| of(expert, "w2")).collect();
        made.push((format!("{path}.down_proj"), vec![4, 48, 56], downs));
    }
    let views = made.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &path).unwrap();
    assert_eq!(apart(&states(&open(&folder), &tokens), &expected), 0.0);
    let store = folder.with_extension("store");
    let _ = std::fs::remove_dir_all(&store);
    pack(&store, &folder, "model", &[]);
    let out = quantized(&store, "model", "rtn", &[&["--method", "rtn"][..], &EIGHT].concat());
    let names = names(&out);
    for wanted in ["experts.3.w1.weight_packed", "experts.0.w2.weight_packed", "gate.weight"] {
        let wanted = format!("model.layers.0.block_sparse_moe.{wanted}");
        assert!(names.contains(&wanted), "{wanted}: {names:?}");
    }
    assert!(apart(&states(&open(&out), &tokens), &expected) < 0.1);
}
