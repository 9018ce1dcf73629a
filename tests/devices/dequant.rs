//! A quantized checkpoint streamed into a device, its weights as bf16.

use std::sync::Arc;

use serde_json::json;
use tenpak::chunk::codec::CodecChoice;
use tenpak::dequant::config::Method;
use tenpak::dequant::{Float, Layout, Nested, QuantError, Weight, dequantize, sample};
use tenpak::format::dtype::Dtype;
use tenpak::load::LoadOptions;
use tenpak::load::sink::dequant::{Delivered, DequantSink, Made};
use tenpak::load::sink::device::DeviceError;
use tenpak::load::sink::drain;
use tenpak::load::sink::stream::StreamOptions;
use tenpak::load::sink::upload::Device;
use tenpak::load::sink::wgpu::{Gpu, GpuMemory, GpuOptions};
use tenpak::store::artifact::{Artifact, OpenOptions, Selection};
use tenpak::transport::Transport;
use tenpak::transport::object::ObjectBackend;

use super::compare::assert_same;
use super::support::{TestTensor, build, tensor};

fn stored(name: &str, dtype: Dtype, dims: &[u64], bytes: &[u8]) -> TestTensor {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TestTensor { name, dtype, dims, data: bytes.to_vec().into(), grid: None }
}

async fn load(
    tensors: &[TestTensor],
    method: Method,
) -> Result<(Gpu, Vec<Delivered<GpuMemory>>), DeviceError> {
    let store: Arc<dyn Transport> = Arc::new(ObjectBackend::memory());
    let id = build(&store, tensors, CodecChoice::Raw, 4 << 20).await;
    let spec = format!("@{id}").parse().unwrap();
    let artifact = Artifact::open(tenpak::store::Store::new(store), &spec, &OpenOptions::default())
        .await
        .unwrap();
    let wanted = artifact.select(&Selection::All, None).await.unwrap();
    let gpu = Gpu::open(&GpuOptions::default())?;
    let mut streaming = StreamOptions::default();
    (streaming.buffers, streaming.buffer_size) = (2, 50_000);
    let mut sink =
        DequantSink::new(gpu.clone(), &streaming, Some(method), Float::BF16, &wanted.tensors)?;
    let mut options = LoadOptions::default();
    options.piece = Some(128 << 10);
    let mut loader = artifact.load(wanted, &options);
    let mut delivered = Vec::new();
    drain(&mut loader, &mut sink, |one| delivered.extend(one)).await?;
    Ok((gpu, delivered))
}

fn read(gpu: &Gpu, one: &Delivered<GpuMemory>) -> Vec<u8> {
    let mut bytes = Vec::new();
    gpu.read_back(&one.memory, one.len, &mut |part| bytes.extend_from_slice(part)).unwrap();
    bytes
}

/// GPTQ with an index, and a norm between.
fn gptq() -> (Method, Vec<TestTensor>, Weight, sample::OwnedParts) {
    let layout = Layout::Gptq { bits: 4, group: 64, less_one: true };
    let weight = Weight::new(layout, 544, 512, Float::F16).unwrap().indexed().unwrap();
    let parts = sample::parts(&weight, 3);
    let [codes, scales, zeros, index, _] = &parts.0;
    let tensors = vec![
        stored("layer.q_proj.g_idx", Dtype::I32, &[512], index),
        stored("layer.q_proj.qweight", Dtype::I32, &[64, 544], codes),
        tensor("layer.norm.weight", &[511], 9),
        stored("layer.q_proj.qzeros", Dtype::I32, &[8, 68], zeros),
        stored("layer.q_proj.scales", Dtype::F16, &[8, 544], scales),
    ];
    let config =
        json!({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}});
    (Method::of_config(&config).unwrap().unwrap(), tensors, weight, parts)
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_are_dequantized_and_the_rest_is_as_stored() {
    let (method, tensors, weight, parts) = gptq();
    let (gpu, delivered) = load(&tensors, method).await.unwrap();
    let names: Vec<_> = delivered.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["layer.norm.weight", "layer.q_proj.weight"]);
    assert_eq!((delivered[0].made, delivered[1].made), (Made::Stored, Made::Dequantized));
    assert!(read(&gpu, &delivered[0]) == tensors[2].data);
    assert_eq!(delivered[1].dtype, Dtype::BF16);
    assert_eq!(delivered[1].shape.dims(), [544, 512]);
    let expected = dequantize(&weight, &parts.borrow(), Float::BF16).unwrap();
    assert_same("gptq", Float::BF16, &read(&gpu, &delivered[1]), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn nf4_with_nested_absmax_takes_its_numbers_from_its_state() {
    let nested = Some(Nested { block: 256, offset: 0.25 });
    let weight = Weight::new(Layout::Bnb4 { block: 64, nested }, 384, 514, Float::F32).unwrap();
    let parts = sample::parts(&weight, 4);
    let [codes, scales, zeros, _, table] = &parts.0;
    let state =
        json!({"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [384, 514],
        "nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.25})
        .to_string();
    let bytes = |len: usize| [len as u64];
    let of = |end: &str| format!("layer.up_proj.weight{end}");
    let tensors = [
        stored(&of(""), Dtype::U8, &[codes.len() as u64, 1], codes),
        stored(&of(".absmax"), Dtype::U8, &bytes(scales.len()), scales),
        stored(&of(".nested_absmax"), Dtype::F32, &bytes(zeros.len() / 4), zeros),
        stored(&of(".nested_quant_map"), Dtype::F32, &[256], &table[64..]),
        stored(&of(".quant_map"), Dtype::F32, &[16], &table[..64]),
        stored(
            &of(".quant_state.bitsandbytes__nf4"),
            Dtype::U8,
            &bytes(state.len()),
            state.as_bytes(),
        ),
    ];
    let (gpu, delivered) = load(&tensors, Method::Bnb4).await.unwrap();
    assert_eq!(delivered.len(), 1);
    let expected = dequantize(&weight, &parts.borrow(), Float::BF16).unwrap();
    assert_same("nf4", Float::BF16, &read(&gpu, &delivered[0]), &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_not_what_its_config_says_is_refused_by_name() {
    // Too few zero points.
    let (method, mut tensors, ..) = gptq();
    tensors[3] = stored("layer.q_proj.qzeros", Dtype::I32, &[7, 68], &[0; 7 * 68 * 4]);
    let error = load(&tensors, method).await.unwrap_err();
    let DeviceError::Weight { name, error } = error else { panic!("{error}") };
    assert!(name == "layer.q_proj.weight" && matches!(error, QuantError::Length { .. }), "{error}");
    // A group that does not exist.
    let (method, mut tensors, ..) = gptq();
    let mut index = tensors[0].data.to_vec();
    index[7] = 0x40;
    tensors[0] = stored("layer.q_proj.g_idx", Dtype::I32, &[512], &index);
    let error = load(&tensors, method).await.unwrap_err();
    let DeviceError::Weight { error, .. } = error else { panic!("{error}") };
    assert!(matches!(error, QuantError::Group { column: 1, .. }), "{error}");
    // Codes without scales.
    let (method, mut tensors, ..) = gptq();
    tensors.pop();
    let error = load(&tensors, method).await.unwrap_err();
    assert!(matches!(error, DeviceError::Weight { .. }), "{error}");
}
