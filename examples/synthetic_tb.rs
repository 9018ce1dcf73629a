//! Makes a store with an artifact of one terabyte of which only one tensor's packs exist: a real
//! manifest, table and layout of a million chunks, to see what opening one tensor costs.
//! `synthetic_tb STORE_DIR`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use tenpak::format::dtype::{Dtype, Shape};
use tenpak::format::grid::Grid;
use tenpak::format::id::{ContentDigest, ManifestId, PackId, StoredDigest};
use tenpak::format::layout::{Layout, Place};
use tenpak::format::manifest::Manifest;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::page::{Extent, FileEntry, TensorEntry};
use tenpak::format::record::ChunkRecord;
use tenpak::format::store as paths;
use tenpak::format::table::Entries;
use tenpak::store::{Lifetime, Store};
use tenpak::transport::dir::DirBackend;

const LAYERS: u32 = 128;
/// 8,192 chunks of 1 MiB a layer, 2^20 in all.
const TENSORS: [(&str, u64, u64); 9] = [
    ("mlp.down_proj.weight", 16384, 71680),
    ("mlp.gate_proj.weight", 71680, 16384),
    ("mlp.up_proj.weight", 71680, 16384),
    ("self_attn.k_proj.weight", 1024, 16384),
    ("self_attn.o_proj.weight", 16384, 16384),
    ("self_attn.q_proj.weight", 16384, 16384),
    ("self_attn.v_proj.weight", 1024, 16384),
    ("input_layernorm.weight", 1, 16384),
    ("post_attention_layernorm.weight", 1, 16384),
];
/// The one that is really there: 32 MiB.
const REAL: &str = "model.layers.77.self_attn.k_proj.weight";
const PACK_CHUNKS: usize = 31;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::args().nth(1).ok_or("usage: synthetic_tb STORE_DIR")?);
    let runtime = tokio::runtime::Runtime::new()?;
    let store = Store::new(Arc::new(DirBackend::new(root)));
    runtime.block_on(make(&store))
}

async fn make(store: &Store) -> Result<(), Box<dyn std::error::Error>> {
    store.create().await?;
    let mut entries = Entries::default();
    let mut extents = Vec::new();
    let mut places = HashMap::<StoredDigest, Place>::new();
    let (mut size, mut ordinal, mut stored_bytes) = (0, 0, 0);
    for layer in 0..LAYERS {
        for (name, rows, columns) in TENSORS {
            let name = format!("model.layers.{layer}.{name}");
            let shape = Shape::new(if rows == 1 { vec![columns] } else { vec![rows, columns] });
            let shape = shape.ok_or("shape")?;
            let len = shape.byte_len(Dtype::BF16).ok_or("length")?;
            let grid = Grid::run(len, 1 << 20);
            let mut chunks = Vec::new();
            for (i, rect) in grid.rects().enumerate() {
                let seed = format!("{name} {i}");
                let data = (name == REAL).then(|| random(&seed, rect.len() as usize));
                let hash = match &data {
                    Some(data) => blake3::hash(data),
                    None => blake3::hash(seed.as_bytes()),
                };
                let record = ChunkRecord::raw(Dtype::BF16, rect.len() as u32, hash);
                chunks.push((record, data));
            }
            for run in chunks.chunks(PACK_CHUNKS) {
                place(store, run, &mut places).await?;
            }
            if name == REAL {
                stored_bytes = len;
            }
            let records = chunks.into_iter().map(|(record, _)| record).collect();
            extents.push(Extent::Tensor { ordinal });
            size += len;
            let digest = ContentDigest::of(name.as_bytes());
            let entry =
                TensorEntry { ordinal, file: 0, name, dtype: Dtype::BF16, shape, digest, grid };
            entries.tensors.push((entry, records));
            ordinal += 1;
        }
    }
    let file = FileEntry {
        path: "model.safetensors".to_owned(),
        executable: false,
        size,
        sha256: [0; 32],
        git_sha1: None,
        extents,
    };
    entries.files.push((file, Vec::new()));
    let table = entries.into_table()?;
    let manifest = Manifest::new(table.reference, table.totals);
    let bytes = manifest.to_bytes()?;
    let id = ManifestId::of(&bytes);
    let places = table.records.iter().map(|record| places[&record.stored]).collect();
    let layout = Layout { manifest: id, places };
    let transport = store.transport();
    transport.put(&paths::table(manifest.table().table), vec![table.bytes.into()]).await?;
    transport.put(&paths::layout(id), vec![layout.to_bytes().into()]).await?;
    transport.put(&paths::manifest(id), vec![bytes.into()]).await?;
    store
        .publish(&"bench/terabyte".parse()?, &"latest".parse()?, id, &[], Lifetime::default())
        .await?;
    let object = serde_json::json!({
        "name": "bench/terabyte", "tensor": REAL, "stored_bytes": stored_bytes,
        "chunks": table.totals.records, "raw_bytes": table.totals.raw_bytes,
    });
    println!("{object}");
    Ok(())
}

/// Puts the chunks of one pack where they belong; the pack itself is written if its bytes are real.
async fn place(
    store: &Store,
    chunks: &[(ChunkRecord, Option<Bytes>)],
    places: &mut HashMap<StoredDigest, Place>,
) -> Result<(), Box<dyn std::error::Error>> {
    let mut index = PackIndex::new(0);
    let mut offsets = Vec::new();
    for (record, _) in chunks {
        offsets.push(index.push(*record).ok_or("a pack overflows")?);
    }
    let bytes = index.to_bytes();
    let pack = PackId::of(&bytes);
    for ((record, _), offset) in chunks.iter().zip(offsets) {
        places.insert(record.stored, Place { pack, offset });
    }
    let mut parts: Vec<_> = chunks.iter().filter_map(|(_, data)| data.clone()).collect();
    if !parts.is_empty() {
        let trailer = Trailer { index_len: bytes.len() as u32 };
        parts.push(bytes.into());
        parts.push(Bytes::copy_from_slice(&trailer.to_bytes()));
        store.transport().put(&paths::pack(pack), parts).await?;
    }
    Ok(())
}

fn random(seed: &str, len: usize) -> Bytes {
    let mut data = vec![0; len];
    blake3::Hasher::new().update(seed.as_bytes()).finalize_xof().fill(&mut data);
    data.into()
}
