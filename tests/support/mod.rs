//! Hand-built artifacts: packs, table, layout and manifest from tensors in memory.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use tenpak::chunk::codec::{CodecChoice, Encoder};
use tenpak::format::dtype::{Dtype, Shape};
use tenpak::format::grid::Grid;
use tenpak::format::id::{ContentDigest, ManifestId, PackId, StoredDigest};
use tenpak::format::layout::{Layout, Place};
use tenpak::format::manifest::Manifest;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::page::{Extent, FileEntry, TensorEntry};
use tenpak::format::record::ChunkRecord;
use tenpak::format::{store, table};
use tenpak::schedule::tensor_parallel::choose_grid;
use tenpak::transport::Transport;

pub struct TestTensor {
    pub name: String,
    pub dtype: Dtype,
    pub dims: Vec<u64>,
    pub data: Bytes,
    pub grid: Option<Grid>,
}

/// Pseudo-random bytes that do not compress.
pub fn noise(seed: u64, len: usize) -> Bytes {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut out);
    out.into()
}

pub fn tensor(name: &str, dims: &[u64], seed: u64) -> TestTensor {
    let len = dims.iter().product::<u64>() as usize * 2;
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TestTensor { name, dtype: Dtype::BF16, dims, data: noise(seed, len), grid: None }
}

/// A tensor of any type, of `len` bytes.
#[allow(dead_code, reason = "not every user of this module needs it")]
pub fn odd(name: &str, dtype: Dtype, dims: &[u64], len: usize) -> TestTensor {
    let (name, dims) = (name.to_owned(), dims.to_vec());
    TestTensor { name, dtype, dims, data: noise(99, len), grid: None }
}

/// Writes an artifact whose packs hold about `pack_size` bytes of chunks.
pub async fn build(
    transport: &Arc<dyn Transport>,
    tensors: &[TestTensor],
    choice: CodecChoice,
    pack_size: u64,
) -> ManifestId {
    let mut encoder = Encoder::default();
    let mut packs = Packs {
        transport,
        index: PackIndex::new(0),
        data: Vec::new(),
        places: HashMap::new(),
        pack_size,
    };
    let mut entries = table::Entries::default();
    let mut extents = Vec::new();
    let mut size = 0;
    for (ordinal, tensor) in (0..).zip(tensors) {
        let shape = Shape::new(tensor.dims.clone()).unwrap();
        let grid =
            tensor.grid.unwrap_or_else(|| choose_grid(&tensor.name, tensor.dtype, &shape).unwrap());
        let mut records = Vec::new();
        for rect in grid.rects() {
            let chunk: Vec<u8> = (0..rect.rows)
                .flat_map(|row| {
                    let at = (rect.start + row * rect.stride) as usize;
                    &tensor.data[at..at + rect.width as usize]
                })
                .copied()
                .collect();
            let encoded = encoder.encode(choice, tensor.dtype, chunk.into(), None);
            packs.add(encoded.record, encoded.stored).await;
            records.push(encoded.record);
        }
        size += tensor.data.len() as u64;
        extents.push(Extent::Tensor { ordinal });
        let entry = TensorEntry {
            ordinal,
            file: 0,
            name: tensor.name.clone(),
            dtype: tensor.dtype,
            shape,
            digest: ContentDigest::of(&tensor.data),
            grid,
        };
        entries.tensors.push((entry, records));
    }
    packs.flush().await;
    let file = FileEntry {
        path: "model.safetensors".into(),
        executable: false,
        size,
        sha256: [0; 32],
        git_sha1: None,
        extents,
    };
    entries.files.push((file, Vec::new()));
    let table = entries.into_table().unwrap();
    transport
        .put(&store::table(table.reference.table), vec![table.bytes.clone().into()])
        .await
        .unwrap();
    let manifest = Manifest::new(table.reference.clone(), table.totals);
    let bytes = manifest.to_bytes().unwrap();
    let id = ManifestId::of(&bytes);
    let places = table.records.iter().map(|record| packs.places[&record.stored]).collect();
    let layout = Layout { manifest: id, places };
    transport.put(&store::layout(id), vec![layout.to_bytes().into()]).await.unwrap();
    transport.put(&store::manifest(id), vec![bytes.into()]).await.unwrap();
    id
}

struct Packs<'a> {
    transport: &'a Arc<dyn Transport>,
    index: PackIndex,
    data: Vec<Bytes>,
    places: HashMap<StoredDigest, Place>,
    pack_size: u64,
}

impl Packs<'_> {
    async fn add(&mut self, record: ChunkRecord, stored: Bytes) {
        if self.places.contains_key(&record.stored) {
            return;
        }
        if self.index.data_len() + stored.len() as u64 > self.pack_size
            || !self.index.has_room(record.stored_len)
        {
            self.flush().await;
        }
        let offset = self.index.push(record).unwrap();
        // The pack is not known before it is full.
        self.places.insert(record.stored, Place { pack: PackId::from_bytes([0; 32]), offset });
        self.data.push(stored);
    }

    async fn flush(&mut self) {
        let index = std::mem::replace(&mut self.index, PackIndex::new(0));
        if index.chunks().is_empty() {
            return;
        }
        let bytes = index.to_bytes();
        let pack = PackId::of(&bytes);
        for record in index.chunks() {
            self.places.get_mut(&record.stored).unwrap().pack = pack;
        }
        let trailer = Trailer { index_len: bytes.len() as u32 };
        self.data.push(bytes.into());
        self.data.push(trailer.to_bytes().to_vec().into());
        self.transport.put(&store::pack(pack), std::mem::take(&mut self.data)).await.unwrap();
    }
}
