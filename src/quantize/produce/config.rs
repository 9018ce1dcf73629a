//! What `config.json` and its companions say of a quantized checkpoint. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::method::is_bytes;
use super::outline::Layers;
use super::recipe::{Format, Method, Recipe};
use super::{TOOL, VERSION};
use crate::format::json::in_order;

/// `quantization_config`. `dtype` is the model's type as torch calls it.
pub(super) fn quantization_config(recipe: &Recipe, layers: &Layers, dtype: &str) -> Value {
    let kept = &layers.kept;
    let group = recipe.group_size.map_or(-1, i64::from);
    match recipe.format {
        Format::Bitsandbytes => {
            let eight = recipe.method == Method::Int8;
            json!({
                "_load_in_4bit": !eight,
                "_load_in_8bit": eight,
                "bnb_4bit_compute_dtype": dtype,
                "bnb_4bit_quant_storage": "uint8",
                "bnb_4bit_quant_type": if eight { "fp4" } else { "nf4" },
                "bnb_4bit_use_double_quant": recipe.double_quant,
                "llm_int8_enable_fp32_cpu_offload": false,
                "llm_int8_has_fp16_weight": false,
                "llm_int8_skip_modules": kept,
                "llm_int8_threshold": 6.0,
                "load_in_4bit": !eight,
                "load_in_8bit": eight,
                "quant_method": "bitsandbytes",
            })
        }
        Format::Gptq | Format::GptqV2 => gptq(recipe, layers, group),
        Format::Awq => json!({
            "bits": recipe.bits,
            "group_size": group,
            "modules_to_not_convert": kept,
            "quant_method": "awq",
            "version": "gemm",
            "zero_point": true,
        }),
        // Nothing asks a config about a GGUF file.
        Format::Gguf => Value::Null,
        Format::CompressedTensors => compressed(recipe, layers),
    }
}

fn gptq(recipe: &Recipe, layers: &Layers, group: i64) -> Value {
    // Layers of blocks that are left as they are must be named; the head is by `lm_head`.
    let in_block = |name: &&String| name.split('.').any(|p| p.bytes().all(|c| c.is_ascii_digit()));
    let rule = |sign: char, name: &str| format!("{sign}:^{}$", name.replace('.', "\\."));
    let kept = layers.kept.iter().filter(in_block).map(|name| (rule('-', name), json!({})));
    let other = layers.quantized.iter().filter(|own| own.bits != recipe.bits);
    let other = other.map(|own| (rule('+', &own.layer), json!({"bits": own.bits})));
    let dynamic: Map<String, Value> = kept.chain(other).collect();
    let mut config = json!({
        "bits": recipe.bits,
        "checkpoint_format": recipe.format.name(),
        "desc_act": recipe.has_index(),
        "group_size": group,
        "lm_head": false,
        "meta": {"quantizer": [format!("{TOOL}:{VERSION}")]},
        "quant_method": "gptq",
        "sym": recipe.symmetric,
    });
    if let Some(config) = config.as_object_mut().filter(|_| !dynamic.is_empty()) {
        config.insert("dynamic".to_owned(), dynamic.into());
    }
    config
}

fn compressed(recipe: &Recipe, layers: &Layers) -> Value {
    let four = match recipe.method {
        Method::Mxfp4 => Some(("mxfp4-pack-quantized", "group", "torch.uint8")),
        Method::Nvfp4 => Some(("nvfp4-pack-quantized", "tensor_group", "torch.float8_e4m3fn")),
        _ => None,
    };
    let float = recipe.method == Method::Fp8 || four.is_some();
    let kind = if float { "float" } else { "int" };
    let (format, activations) = match (float, is_bytes(recipe)) {
        _ if four.is_some() => (four.map_or("", |(format, ..)| format), false),
        (true, _) => ("float-quantized", true),
        (false, true) => ("int-quantized", true),
        (false, false) => ("pack-quantized", false),
    };
    let arguments =
        |bits: u32, strategy: &str, group: Option<u32>, symmetric: bool, dynamic: bool| {
            json!({
                "actorder": null,
                "block_structure": null,
                "dynamic": dynamic,
                "group_size": group,
                "num_bits": bits,
                "observer": if dynamic { Value::Null } else { "minmax".into() },
                "observer_kwargs": {},
                "strategy": strategy,
                "symmetric": symmetric,
                "type": kind,
            })
        };
    let strategy = if let Some((_, strategy, _)) = four {
        strategy
    } else if recipe.group_size.is_some() {
        "group"
    } else {
        "channel"
    };
    // Weights of 8 bits in bytes are multiplied with activations of 8 bits, a scale per token.
    let inputs = activations.then(|| arguments(recipe.bits, "token", None, true, true));
    // Where all have the same bits, a class of layers says which are meant; else their names do.
    let mut targets: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    match recipe.average_bits {
        None => drop(targets.insert(recipe.bits, vec!["Linear"])),
        Some(_) => {
            for own in &layers.quantized {
                targets.entry(own.bits).or_default().push(&own.layer);
            }
        }
    }
    let group = |(number, (bits, targets)): (usize, (u32, Vec<&str>))| {
        let group = json!({
            "input_activations": inputs,
            "output_activations": null,
            "targets": targets,
            "weights": arguments(bits, strategy, recipe.group_size, recipe.symmetric, false),
        });
        let mut group = group;
        if let (Some((_, _, scale)), Some(weights)) =
            (four, group.get_mut("weights").and_then(Value::as_object_mut))
        {
            weights.insert("scale_dtype".to_owned(), scale.into());
            weights.insert("zp_dtype".to_owned(), scale.into());
        }
        (format!("group_{number}"), group)
    };
    let groups: Map<String, Value> = targets.into_iter().enumerate().map(group).collect();
    json!({
        "config_groups": groups,
        "format": format,
        "global_compression_ratio": null,
        "ignore": layers.kept,
        "kv_cache_scheme": null,
        "quant_method": "compressed-tensors",
        "quantization_status": "compressed",
    })
}

/// A file beside `config.json` that some engines read the same from.
pub(super) fn companion(recipe: &Recipe) -> Option<&'static str> {
    matches!(recipe.format, Format::Gptq | Format::GptqV2).then_some("quantize_config.json")
}

/// JSON as Hugging Face's tools write it.
pub(super) fn pretty(value: &Value) -> Vec<u8> {
    format!("{:#}\n", in_order(value)).into_bytes()
}
