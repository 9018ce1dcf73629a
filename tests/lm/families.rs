//! Every described family beside what transformers says of one random model, whose weights follow from the names of
//! its tensors: `families.py --record` of tests/judges made the file.

use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::proptest;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;
use tenpak::quantize::lm::{Context, LmConfig, Model, NoTap, families};
use tenpak::quantize::source::ModelSource;

use super::{json, run::fresh_folder};

/// As `drawn` of families.py.
fn drawn(name: &str, count: usize) -> Vec<f32> {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x100_0000_01B3)
    });
    let one = |at: u64| {
        let z = seed.wrapping_add(at.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((((z ^ (z >> 31)) >> 40) as f32 / (1 << 24) as f32) - 0.5) * 0.8
    };
    (1..=count as u64).map(one).collect()
}

/// Writes a recorded model.
pub(super) fn write(recorded: &Value, folder: &Path) {
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    for entry in recorded["tensors"].as_array().unwrap() {
        let template = entry[0].as_str().unwrap();
        let shape: Vec<usize> =
            entry[1].as_array().unwrap().iter().map(|dim| dim.as_u64().unwrap() as usize).collect();
        let all = entry[3].as_array().unwrap();
        let none = vec![Value::Array(Vec::new())];
        for numbers in if all.is_empty() { &none } else { all } {
            let mut name = template.to_owned();
            for number in numbers.as_array().unwrap() {
                name = name.replacen("{}", &number.to_string(), 1);
            }
            let values = drawn(&name, shape.iter().product());
            let added = entry[2].as_f64().unwrap() as f32;
            let bytes = values.iter().flat_map(|value| (value + added).to_le_bytes()).collect();
            tensors.push((name, shape.clone(), bytes));
        }
    }
    let views = tensors.iter().map(|(name, shape, bytes)| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), recorded["config"].to_string()).unwrap();
}

/// A recorded model, opened.
pub(super) fn open(family: &str) -> Model {
    let folder = fresh_folder(&format!("family-{family}"));
    write(&json("families.json")[family], &folder);
    Model::open(ModelSource::folder(&folder).unwrap()).unwrap_or_else(|e| panic!("{family}: {e}"))
}

pub(super) fn tokens(recorded: &Value) -> Vec<u32> {
    recorded["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn every_family_computes_what_transformers_does() {
    let all = json("families.json");
    let all = all.as_object().unwrap();
    let mut left: Vec<&str> = families().filter(|name| !all.contains_key(*name)).collect();
    // The text of models with pictures differs by no piece from that of others.
    left.retain(|name| !name.contains("_vl"));
    assert!(left.is_empty(), "no record of {left:?}");
    for (family, recorded) in all {
        let model = open(family);
        let tokens = tokens(recorded);
        let context = Context::new(model.config(), tokens.len()).unwrap();
        let mut state = model.embed(&[&tokens]).unwrap().remove(0);
        for index in 0..model.config().layers {
            let block = model.block(index).unwrap_or_else(|e| panic!("{family}: {e}"));
            state = block.forward(&state, &context, &mut NoTap).unwrap();
        }
        let numbers = |key: &str| -> Vec<f64> {
            recorded[key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        let (got, expected): (Vec<f64>, _) = match model.config().is_causal() {
            true => {
                let state = state.narrow(0, 0, tokens.len() - 1).unwrap();
                let losses = model.head().unwrap().losses(&state, &tokens[1..]).unwrap();
                (losses.into_iter().map(|loss| -loss).collect(), numbers("logs"))
            }
            false => {
                let row: Vec<f32> = state.get(7).unwrap().to_vec1().unwrap();
                (row.into_iter().map(f64::from).collect(), numbers("states"))
            }
        };
        assert_eq!(got.len(), expected.len(), "{family}");
        let worst = got.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst < 2e-4, "{family}: {worst} apart");
    }
}

#[test]
fn the_document_names_every_family() {
    let text = include_str!("../../docs/families.md");
    let missing: Vec<&str> =
        families().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/families.md lacks {missing:?}");
}

#[test]
fn an_unknown_family_is_told_what_it_lacks() {
    let said = |config: Value| LmConfig::parse(&config).unwrap_err().to_string();
    let error = said(serde_json::json!({"model_type": "jamba", "mamba_d_state": 16}));
    assert!(
        error.contains("\"jamba\" is not supported; a state space (Mamba) is not described"),
        "{error}"
    );
    let mut config = json("families.json")["qwen3"]["config"].clone();
    config["layer_types"] = serde_json::json!(vec!["linear_attention"; 3]);
    let error = said(config.clone());
    assert!(error.contains("a layer of type \"linear_attention\" is not described"), "{error}");
    config["layer_types"] = Value::Null;
    config["rope_parameters"]["rope_type"] = "axial".into();
    assert!(said(config).contains("rope scaling \"axial\" is not described"));
}

/// The part about text of a model of several media is run.
#[test]
fn text_of_a_model_with_pictures_is_run() {
    let all = json("families.json");
    let recorded = &all["gemma2"];
    let folder = fresh_folder("family-pictures");
    write(recorded, &folder);
    let bytes = std::fs::read(folder.join("model.safetensors")).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let renamed = file.iter().map(|(name, view)| (format!("language_model.{name}"), view));
    let all: Vec<_> = renamed.collect();
    serialize_to_file(all, None, &folder.join("model.safetensors")).unwrap();
    let config = serde_json::json!({"model_type": "pictures", "text_config": recorded["config"],
        "vision_config": {"model_type": "siglip_vision_model"}});
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let model = Model::open(ModelSource::folder(&folder).unwrap()).unwrap();
    assert_eq!(model.config().family, "gemma2");
    let plain = open("gemma2");
    let tokens = tokens(recorded);
    let first = |model: &Model| {
        let context = Context::new(model.config(), tokens.len()).unwrap();
        let state = model.embed(&[&tokens]).unwrap().remove(0);
        let state = model.block(0).unwrap().forward(&state, &context, &mut NoTap).unwrap();
        state.to_vec2::<f32>().unwrap()
    };
    assert_eq!(first(&model), first(&plain));
}

/// Configurations of all families.
static RECORDED: LazyLock<Vec<Value>> = LazyLock::new(|| {
    let all = json("families.json");
    all.as_object().unwrap().values().map(|one| one["config"].clone()).collect()
});

proptest! {
    /// Whatever a configuration says, there is an error, or a model of the shape that it says.
    #[test]
    fn no_configuration_makes_it_panic(
        which in 0_usize..1000,
        changes in vec((0_usize..1000, 0_usize..16), 1..4),
    ) {
        let mut config = RECORDED[which % RECORDED.len()].clone();
        let object = config.as_object_mut().unwrap();
        let values = serde_json::json!([null, 0, 1, 3, -1, 1e300, 0.3, true, false, "x", [], [1, 0],
            ["full_attention"], {}, {"factor": 0}, 1 << 23]);
        for (key, value) in changes {
            let key = object.keys().nth(key % object.len()).unwrap().clone();
            object.insert(key, values[value].clone());
        }
        if let Ok(found) = LmConfig::parse(&config) {
            assert!(found.heads.is_multiple_of(found.kv_heads) && found.positions > 0);
            assert_eq!(found.windows.len(), found.layers);
            let _ = found.beyond_llama();
            if found.head_dim < 4096 {
                assert!(found.frequencies().len() <= found.head_dim.div_ceil(2));
            }
        }
    }
}
