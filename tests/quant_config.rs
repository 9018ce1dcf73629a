//! Quantized checkpoints are recognised from their config and their tensors' names and shapes.

#![cfg(feature = "cli")]

use serde_json::{Value, json};
use tenpak::dequant::config::{Facts, Method, Module, Role, Stored};
use tenpak::dequant::{Float, Layout, Nested, Part, QuantError, Weight};
use tenpak::format::dtype::Dtype;

fn method(config: Value) -> Method {
    let whole = json!({"model_type": "llama", "quantization_config": config});
    Method::of_config(&whole).unwrap().unwrap()
}

/// A module's tensors, with the bytes of those that are read.
type Tensors<'a> = &'a [(&'a str, Dtype, &'a [u64], &'a [u8])];

fn modules(method: &Method, tensors: Tensors<'_>) -> Vec<Module> {
    let stored: Vec<_> =
        tensors.iter().map(|(name, dtype, dims, _)| Stored { name, dtype: *dtype, dims }).collect();
    method.modules(&stored)
}

fn facts(module: &Module, tensors: Tensors<'_>) -> Facts {
    let mut facts = Facts::default();
    for (at, role) in &module.tensors {
        let (_, dtype, dims, bytes) = tensors[*at];
        facts.add(*role, dtype, dims, bytes.to_vec());
    }
    facts
}

/// The one module of the tensors.
fn weight(method: &Method, tensors: Tensors<'_>) -> Result<(Weight, Vec<u8>, Vec<u8>), QuantError> {
    let found = modules(method, tensors);
    let [module] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(module.name, "model.q_proj.weight");
    method.weight(&facts(module, tensors))
}

fn counting(cols: u32, group: u32) -> Vec<u8> {
    (0..cols).flat_map(|col| (col / group).to_le_bytes()).collect()
}

#[test]
fn gptq() {
    let config = json!({"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": true});
    let gptq = method(config);
    assert_eq!(gptq, Method::Gptq { bits: 4, group: Some(32), less_one: true });
    let of = |index: &[u8], words: u64| {
        weight(
            &gptq,
            &[
                ("model.q_proj.qweight", Dtype::I32, &[words, 96], &[]),
                ("model.q_proj.qzeros", Dtype::I32, &[3, 12], &[]),
                ("model.q_proj.scales", Dtype::F16, &[3, 96], &[]),
                ("model.q_proj.g_idx", Dtype::I32, &[96], index),
                ("model.norm.weight", Dtype::F16, &[96], &[]),
            ],
        )
    };
    let layout = |bits| Layout::Gptq { bits, group: 32, less_one: true };
    let expected = Weight::new(layout(4), 96, 96, Float::F16).unwrap();
    let (found, _, index) = of(&counting(96, 32), 12).unwrap();
    assert_eq!((found, index.len()), (expected, 0), "an index that counts up is none");
    let mut shuffled = counting(96, 32);
    shuffled.swap(0, 4 * 95);
    let (found, _, index) = of(&shuffled, 12).unwrap();
    assert_eq!((found, index), (expected.indexed().unwrap(), shuffled));
    // A module of other bits, as `dynamic` has them: from its shape.
    let (found, ..) = of(&counting(96, 32), 24).unwrap();
    assert_eq!(found.layout(), layout(8));
    let mut wild = counting(96, 32);
    wild[3] = 0x7f;
    assert!(matches!(of(&wild, 12), Err(QuantError::Group { column: 0, .. })));

    let v2 = json!({"quant_method": "gptq", "bits": 2, "group_size": -1, "checkpoint_format": "gptq_v2"});
    assert_eq!(method(v2), Method::Gptq { bits: 2, group: None, less_one: false });
    let alone = json!({"bits": 4, "group_size": 128, "desc_act": false});
    let alone = Method::of_config(&alone).unwrap();
    assert_eq!(alone, Some(Method::Gptq { bits: 4, group: Some(128), less_one: true }));
}

#[test]
fn awq() {
    let awq =
        method(json!({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}));
    let (found, ..) = weight(
        &awq,
        &[
            ("model.q_proj.qweight", Dtype::I32, &[128, 12], &[]),
            ("model.q_proj.qzeros", Dtype::I32, &[2, 12], &[]),
            ("model.q_proj.scales", Dtype::F16, &[2, 96], &[]),
        ],
    )
    .unwrap();
    assert_eq!(found, Weight::new(Layout::Awq { group: 64 }, 96, 128, Float::F16).unwrap());
}

#[test]
fn bitsandbytes() {
    let nf4 = method(json!({"quant_method": "bitsandbytes", "load_in_4bit": true}));
    let state = br#"{"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [96, 128],
        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25}"#;
    let tensors = [
        ("model.q_proj.weight", Dtype::U8, &[6144, 1][..], &[][..]),
        ("model.q_proj.weight.absmax", Dtype::U8, &[192], &[]),
        ("model.q_proj.weight.nested_absmax", Dtype::F32, &[1], &[]),
        ("model.q_proj.weight.quant_map", Dtype::F32, &[16], &[1; 64]),
        ("model.q_proj.weight.nested_quant_map", Dtype::F32, &[256], &[2; 1024]),
        ("model.q_proj.weight.quant_state.bitsandbytes__nf4", Dtype::U8, &[150], state),
        ("model.norm.weight", Dtype::BF16, &[96], &[]),
    ];
    let (found, table, _) = weight(&nf4, &tensors).unwrap();
    let nested = Some(Nested { block: 256, offset: 0.25 });
    let expected = Weight::new(Layout::Bnb4 { block: 64, nested }, 96, 128, Float::F32).unwrap();
    assert_eq!(found, expected);
    assert_eq!(table, [&[1; 64][..], &[2; 1024]].concat());
    assert_eq!(table.len() as u64, found.part_len(Part::Table));
    for broken in [&b"{}"[..], b"nonsense", br#"{"blocksize": 64, "shape": [96]}"#] {
        let mut tensors = tensors;
        tensors[5].3 = broken;
        assert!(matches!(weight(&nf4, &tensors), Err(QuantError::Unsupported(_))));
    }

    let int8 = method(json!({"quant_method": "bitsandbytes", "load_in_8bit": true}));
    let (found, ..) = weight(
        &int8,
        &[
            ("model.q_proj.weight", Dtype::I8, &[96, 128], &[]),
            ("model.q_proj.SCB", Dtype::F32, &[96], &[]),
            ("model.q_proj.weight_format", Dtype::U8, &[], &[]),
            ("model.norm.weight", Dtype::F16, &[96], &[]),
        ],
    )
    .unwrap();
    assert_eq!(found, Weight::new(Layout::Int8, 96, 128, Float::F32).unwrap());
}

#[test]
fn compressed_tensors() {
    let weights = json!({"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 32});
    let groups = json!({"group_0": {"targets": ["Linear"], "weights": weights}});
    let config = json!({"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups});
    let packed = method(config);
    let shape = [96_u64, 100].map(u64::to_le_bytes).concat();
    let tensors = [
        ("model.q_proj.weight_packed", Dtype::I32, &[96, 13][..], &[][..]),
        ("model.q_proj.weight_scale", Dtype::BF16, &[96, 4], &[]),
        ("model.q_proj.weight_shape", Dtype::I64, &[2], &shape[..]),
        ("model.q_proj.weight_zero_point", Dtype::I32, &[12, 4], &[]),
    ];
    // 100 columns in 4 groups: 25 or 32 fit the shape, and the config says 32.
    let (found, ..) = weight(&packed, &tensors).unwrap();
    assert_eq!(found.layout(), Layout::Packed { bits: 4, group: 32, symmetric: false });
    let (found, ..) = weight(&packed, &tensors[..3]).unwrap();
    assert!(matches!(found.layout(), Layout::Packed { symmetric: true, .. }));

    let config = json!({"quant_method": "compressed-tensors", "format": "float-quantized", "config_groups": {}});
    let fp8 = method(config);
    for (scales, block) in [(&[1_u64][..], [96, 128]), (&[96, 1], [1, 128])] {
        let (found, ..) = weight(
            &fp8,
            &[
                ("model.q_proj.weight", Dtype::F8_E4M3, &[96, 128], &[]),
                ("model.q_proj.weight_scale", Dtype::BF16, scales, &[]),
            ],
        )
        .unwrap();
        assert_eq!(found, Weight::new(Layout::Fp8 { block }, 96, 128, Float::BF16).unwrap());
    }
    let groups = json!({"group_0": {"weights": {"num_bits": 8, "group_size": null}}});
    let bytes = method(
        json!({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}),
    );
    let tensors = [
        ("model.q_proj.weight", Dtype::I8, &[96, 128][..], &[][..]),
        ("model.q_proj.weight_scale", Dtype::BF16, &[96, 1], &[]),
        ("model.q_proj.weight_zero_point", Dtype::I8, &[96, 1], &[]),
    ];
    let (found, ..) = weight(&bytes, &tensors[..2]).unwrap();
    assert_eq!(found.layout(), Layout::Bytes { block: [1, 128] });
    assert!(weight(&bytes, &tensors).is_err(), "zero points are not subtracted");
    let groups = json!({"group_0": {"weights": {"num_bits": 8, "group_size": 32}}});
    let grouped = method(
        json!({"quant_method": "compressed-tensors", "format": "int-quantized", "config_groups": groups}),
    );
    let tensors = [
        ("model.q_proj.weight", Dtype::I8, &[96, 100][..], &[][..]),
        ("model.q_proj.weight_scale", Dtype::BF16, &[96, 4], &[]),
    ];
    // 25 would fit the shape as well.
    let (found, ..) = weight(&grouped, &tensors).unwrap();
    assert_eq!(found.layout(), Layout::Bytes { block: [1, 32] });
    let blocks = method(json!({"quant_method": "fp8", "weight_block_size": [128, 128]}));
    let (found, ..) = weight(
        &blocks,
        &[
            ("model.q_proj.weight", Dtype::F8_E4M3, &[256, 384], &[]),
            ("model.q_proj.weight_scale_inv", Dtype::F32, &[2, 3], &[]),
        ],
    )
    .unwrap();
    assert_eq!(found.layout(), Layout::Fp8 { block: [128, 128] });
}

#[test]
fn what_is_not_quantized_or_not_known() {
    assert_eq!(Method::of_config(&json!({"model_type": "llama"})), Ok(None));
    for config in [
        json!({"quant_method": "exl2"}),
        json!({"quant_method": "gptq"}),
        json!({"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}),
        json!({"quant_method": "awq", "bits": 4, "version": "gemv"}),
        json!({"quant_method": "awq", "bits": 8}),
        json!({"quant_method": "compressed-tensors", "format": "int-quantized"}),
        json!({"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    ] {
        let whole = json!({"quantization_config": config});
        assert!(matches!(Method::of_config(&whole), Err(QuantError::Unsupported(_))), "{whole}");
    }
    // A plain weight beside quantized ones is none of theirs; codes without scales are an error.
    let gptq = method(json!({"quant_method": "gptq", "bits": 4, "group_size": 32}));
    let alone: Tensors<'_> = &[
        ("model.q_proj.qweight", Dtype::I32, &[12, 96], &[]),
        ("lm_head.weight", Dtype::F16, &[96, 96], &[]),
    ];
    assert!(matches!(weight(&gptq, alone), Err(QuantError::Unsupported(_))));
    assert!(Role::State.is_read() && !Role::Part(Part::Codes).is_read());
}

#[test]
fn fp4() {
    let oss = method(json!({"quant_method": "mxfp4"}));
    let tensors: Tensors<'_> = &[
        ("model.experts.gate_up_proj_blocks", Dtype::U8, &[2, 6, 3, 16], &[]),
        ("model.experts.gate_up_proj_scales", Dtype::U8, &[2, 6, 3], &[]),
        ("model.experts.gate_up_proj_bias", Dtype::BF16, &[2, 6], &[]),
    ];
    let found = modules(&oss, tensors);
    assert_eq!((found.len(), &*found[0].name), (1, "model.experts.gate_up_proj"));
    let (stacked, ..) = oss.weight(&facts(&found[0], tensors)).unwrap();
    assert_eq!((stacked.layout(), stacked.rows(), stacked.cols()), (Layout::Mxfp4, 12, 96));
    let packed =
        |format: &str| method(json!({"quant_method": "compressed-tensors", "format": format}));
    let mx = packed("mxfp4-pack-quantized");
    let tensors: Tensors<'_> = &[
        ("model.q_proj.weight_packed", Dtype::U8, &[8, 32], &[]),
        ("model.q_proj.weight_scale", Dtype::U8, &[8, 2], &[]),
    ];
    assert_eq!(weight(&mx, tensors).unwrap().0.layout(), Layout::Mxfp4);
    let nv = packed("nvfp4-pack-quantized");
    let global = 64_f32.to_le_bytes();
    let tensors: Tensors<'_> = &[
        ("model.q_proj.weight_packed", Dtype::U8, &[8, 32], &[]),
        ("model.q_proj.weight_scale", Dtype::F8_E4M3, &[8, 4], &[]),
        ("model.q_proj.weight_global_scale", Dtype::F32, &[1], &global),
    ];
    let (found, table, _) = weight(&nv, tensors).unwrap();
    assert_eq!((found.layout(), table), (Layout::Nvfp4 { divides: true }, global.to_vec()));
    let opt = method(json!({"quant_method": "modelopt", "quant_algo": "NVFP4"}));
    let tensors: Tensors<'_> = &[
        ("model.q_proj.weight", Dtype::U8, &[8, 32], &[]),
        ("model.q_proj.weight_scale", Dtype::F8_E4M3, &[8, 4], &[]),
        ("model.q_proj.weight_scale_2", Dtype::F32, &[], &global),
        ("model.norm.weight", Dtype::BF16, &[64], &[]),
    ];
    assert_eq!(weight(&opt, tensors).unwrap().0.layout(), Layout::Nvfp4 { divides: false });
    // A scale for other than its group is an error.
    let odd: Tensors<'_> = &[
        ("model.q_proj.weight_packed", Dtype::U8, &[8, 32], &[]),
        ("model.q_proj.weight_scale", Dtype::U8, &[8, 3], &[]),
    ];
    assert!(matches!(weight(&mx, odd), Err(QuantError::Unsupported(_))));
}
