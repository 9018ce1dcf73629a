//! gpt-oss's experts and DeepSeek's blocks of FP8, read as a checkpoint's: what transformers and torch made of the same
//! bytes was recorded by `fp4.py` of tests/judges.

use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tenpak::dequant::Float;
use tenpak::quantize::source::ModelSource;

use super::run::fresh_folder;

fn case(method: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/fp4/vectors.json");
    let all: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    all.as_array().unwrap().iter().find(|case| case["method"] == method).unwrap().clone()
}

fn bytes(case: &Value, key: &str) -> Vec<u8> {
    let text = case[key].as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// The digest and the shape of a tensor of a checkpoint of these tensors, in bf16.
fn read(
    name: &str,
    config: &Value,
    tensors: &[(&str, Dtype, Vec<usize>, Vec<u8>)],
    wanted: &str,
) -> (String, Vec<u64>) {
    let folder = fresh_folder(name);
    let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
        ((*name).to_owned(), TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize_to_file(views, None, &folder.join("model.safetensors")).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let source = Arc::new(ModelSource::folder(&folder).unwrap()).plain(Some(Float::BF16)).unwrap();
    let tensor = source.tensor(wanted).unwrap();
    let values = source.read_tensor(tensor).unwrap();
    let digest = Sha256::digest(&values).iter().map(|byte| format!("{byte:02x}")).collect();
    (digest, tensor.shape.dims().to_vec())
}

#[test]
fn experts_of_gpt_oss_are_what_transformers_makes_of_them() {
    let case = case("gpt_oss");
    let name = "model.layers.0.mlp.experts.gate_up_proj";
    let (blocks, scales) = (format!("{name}_blocks"), format!("{name}_scales"));
    let config = json!({"model_type": "gpt_oss", "quantization_config": {"quant_method": "mxfp4"}});
    let tensors = [
        (&*blocks, Dtype::U8, vec![2, 6, 3, 16], bytes(&case, "blocks")),
        (&*scales, Dtype::U8, vec![2, 6, 3], bytes(&case, "scales")),
    ];
    let (digest, shape) = read("vectors-gpt-oss", &config, &tensors, name);
    assert_eq!(json!(shape), case["shape"]);
    assert_eq!(digest, case["values"].as_str().unwrap());
}

#[test]
fn blocks_of_fp8_are_what_torch_makes_of_them() {
    let case = case("fp8_blocks");
    let number = |key: &str| case[key].as_u64().unwrap() as usize;
    let shape = vec![number("rows"), number("columns")];
    let name = "model.layers.0.mlp.down_proj.weight";
    let scales = format!("{name}_scale_inv");
    let config = json!({"model_type": "deepseek_v3",
        "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}});
    let tensors = [
        (name, Dtype::F8_E4M3, shape.clone(), bytes(&case, "bytes")),
        (&*scales, Dtype::F32, vec![2, 2], bytes(&case, "scales")),
    ];
    let (digest, read) = read("vectors-fp8", &config, &tensors, name);
    assert_eq!(read, [shape[0] as u64, shape[1] as u64]);
    assert_eq!(digest, case["values"].as_str().unwrap());
}
