//! Chunks that are stored against bases, loaded to be decoded by the device: their bases come first, and
//! what the device holds is what the host makes of them.

use half::bf16;
use tenpak::chunk::codec::DeltaProgram;
use tenpak::format::dtype::Dtype;
use tenpak::format::record::{ChunkRecord, CodecId};
use tenpak::load::sink::device::DeviceError;

use super::decode::{streamed, weights};
use super::delta::{Chunk, fixtures, on_the_host};
use super::model::{Model, Tensor};
use super::run::{Run, done, fresh_folder, pack, text};

/// A load of a chunk and of its base, which is stored as it is.
async fn loaded((_, record, base, stored): &Chunk) -> Result<Vec<u8>, DeviceError> {
    let below = ChunkRecord::raw(Dtype::Bytes, base.len() as u32, blake3::hash(base));
    streamed(vec![(*record, stored.clone()), (below, base.clone())]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tensor_is_delivered_only_if_each_of_its_deltas_decodes() {
    for chunk in fixtures("v1/chunks") {
        let (name, record, base, stored) = &chunk;
        let expected = on_the_host(*record, base, stored).unwrap();
        assert!(loaded(&chunk).await.unwrap() == expected, "{name}");
    }
    let mut noticed_by_the_device = 0;
    for chunk in fixtures("hostile/chunk") {
        let (name, record, base, stored) = &chunk;
        if base.len() != record.decoded_len as usize {
            continue;
        }
        let heads = DeltaProgram::of(record, stored).is_ok();
        let error = loaded(&chunk).await.expect_err(name);
        assert!(matches!(error, DeviceError::Decode { .. }), "{name}: {error}");
        assert!(error.to_string().contains("packed so"), "{name}: {error}");
        noticed_by_the_device += usize::from(heads && record.codec == CodecId::DELTA);
    }
    assert!(noticed_by_the_device > 0);
}

/// Version so many of a model: all of a tensor moved a little, or some elements of it replaced.
fn version(number: usize) -> Model {
    let of = |name: &str, shape: &[usize], few: bool, seed| {
        let count = shape.iter().product::<usize>();
        let moved = |at: usize, x: f32| match number {
            0 => x,
            _ if few && !at.is_multiple_of(5000) => x,
            _ if few => x * 1.5,
            _ => x * (1.0 + number as f32 * (at % 7) as f32 * 1e-3),
        };
        let numbers = (0..).zip(weights(count, seed)).map(|(at, x)| moved(at, x));
        let data = numbers.flat_map(|x| bf16::from_f32(x).to_le_bytes()).collect();
        Tensor {
            name: name.to_owned(),
            dtype: safetensors::Dtype::BF16,
            shape: shape.to_vec(),
            data,
        }
    };
    // Chunks that are equal until they are moved: a base that several need.
    let mut equal = of("model.layers.1.mlp.up_proj.weight", &[1024, 1024], false, 5);
    if number == 0 {
        equal.data = equal.data[..128 << 10].repeat(16);
    } else {
        let before = version(0).shards.concat().swap_remove(4).data;
        let moved = |(at, half): (usize, &[u8])| {
            let x = bf16::from_le_bytes([half[0], half[1]]).to_f32();
            bf16::from_f32(x * (1.0 + number as f32 * (at % 7) as f32 * 1e-3)).to_le_bytes()
        };
        equal.data = before.chunks(2).enumerate().flat_map(moved).collect();
    }
    Model::of(vec![
        of("model.layers.0.mlp.up_proj.weight", &[1400, 1024], false, 1),
        // Bands, and few changes.
        of("model.layers.0.mlp.down_proj.weight", &[512, 2048], false, 2),
        of("model.layers.0.self_attn.o_proj.weight", &[512, 1024], true, 3),
        // No whole number of words.
        of("model.norm.weight", &[70_001], false, 4),
        equal,
    ])
}

#[test]
fn the_command_decodes_versions_of_versions_on_the_device() {
    let folder = fresh_folder("decode_based");
    let store = folder.join("store");
    for number in 0..3 {
        let (input, name) = (folder.join(format!("v{number}")), format!("v{number}"));
        version(number).with("config.json", b"{}").write(&input);
        let before = format!("v{}", number - number.min(1));
        let more = if number > 0 { ["--base", &before] } else { ["--codec", "float"] };
        let run = pack(&store, &input, &name, &more);
        assert_eq!(run.number("deltas") > 0, number > 0, "{}", run.json);
        let load = |more: &[&str]| {
            done(&[&["load", &name, "--store", text(&store), "--digest"], more].concat())
        };
        let (host, device) = (load(&[]), load(&["--device", "wgpu", "--decode", "device"]));
        assert_eq!(device.json["digests"], host.json["digests"], "{name}");
        let by_host = u64::from(number > 0);
        assert_eq!(device.number("decoded_by_host"), by_host, "{}", device.json);
        assert_eq!(device.number("decoded_by_device"), 5 - by_host, "{}", device.json);
        // No base twice. (Chunks that are equal, as in the first version, come once each.)
        let fetched = |run: &Run| run.number("fetched_bytes");
        assert!(number == 0 || fetched(&device) <= fetched(&host) * 11 / 10);
    }
}
