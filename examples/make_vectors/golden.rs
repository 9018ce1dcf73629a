//! One object of every kind, from inputs that are fixed here: a tiny signed store and the files it
//! unpacks to. Zstandard frames are written by hand, so that no release of the library changes them.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::path::Path;

use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tenpak::format::dtype::{Dtype, Shape};
use tenpak::format::grid::Grid;
use tenpak::format::id::{ContentDigest, DecodedDigest, ManifestId, PackId, StoredDigest, to_hex};
use tenpak::format::json;
use tenpak::format::layout::{Layout, Place};
use tenpak::format::manifest::Manifest;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::page::{Extent, FileEntry, TensorEntry};
use tenpak::format::record::{Base, ChunkRecord, CodecId};
use tenpak::format::store::{ByTensor, Descriptor, Lease, Tombstone};
use tenpak::format::table::Entries;

/// Files by their path below `fixtures/`.
pub type Objects = BTreeMap<String, Vec<u8>>;
type Result<T> = std::result::Result<T, Box<dyn Error>>;

const NAME: &str = "demo/tiny";
/// 1 January 2100 and 1 January 2026.
const EXPIRES: u64 = 4_102_444_800;
const WRITTEN: u64 = 1_767_225_600;
const SECRET: [u8; 32] = [0x42; 32];
const HMAC_SECRET: &[u8] = b"a shared secret";
const CONFIG: &[u8] = b"{\"model_type\":\"tiny\"}\n";
const SCRIPT: &[u8] = b"#!/bin/sh\necho tiny\n";
/// The first 40 lines of [`lines`], compressed once by zstd 1.5 at level 3.
const FRAME: &str = "\
    28b52ffd6070072d0500b245151b606ddaaf72c003e937b650c02708820683486477777e8041\
    ae2d2b0935af269e6542cdab89679850f36ae2d925d4bc9a788a61112e990418473dd61b0bc5\
    83786415de4096237862b03c8cab83e30033bb6a16262920f035039ba2f374329da2f374329d\
    a2f374329d2d4fd1793a994ed1793a994ed1793a99ce9653f43c9d4ca7e83c9d4ca7e83c9d4c\
    67cb293a4f4fa653749e4ea653749ef6b09c4e4208490f";

/// Writes `files` below `out`; what is there already under other names stays.
pub fn write(out: &Path, files: &Objects) -> Result<()> {
    for (path, bytes) in files {
        let path = out.join(path);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, bytes)?;
        #[cfg(unix)]
        if path.ends_with("files/bin/run.sh") {
            use std::os::unix::fs::PermissionsExt;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// A Zstandard frame of one run: a window descriptor instead of "single segment" if `window` is
/// given, and the content size only if `size` is.
pub fn run_frame(byte: u8, len: u32, size: Option<u32>, window: Option<u8>) -> Vec<u8> {
    let mut out = vec![0x28, 0xB5, 0x2F, 0xFD];
    let size_flag = if size.is_some() { 0x80 } else { 0 };
    out.push(size_flag | if window.is_none() { 0x20 } else { 0 });
    out.extend(window);
    match size {
        Some(size) => out.extend(size.to_le_bytes()),
        None if window.is_none() => out.push(len as u8),
        None => {}
    }
    let block = 1 | 1 << 1 | len << 3;
    out.extend(&block.to_le_bytes()[..3]);
    out.push(byte);
    out
}

fn pattern(seed: usize, len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 37 + seed * 101 + i / 13) % 251) as u8).collect()
}

fn lines(range: std::ops::Range<usize>) -> Vec<u8> {
    let line = |i| format!("line {i:03}: the quick brown fox jumps over the lazy dog\n");
    range.map(line).collect::<String>().into_bytes()
}

/// Canonical bytes.
pub fn canonical(value: &Value) -> Result<Vec<u8>> {
    Ok(json::to_bytes(value)?)
}

fn key_id(context: &str, key: &[u8]) -> String {
    let digest = blake3::Hasher::new_derive_key(context).update(key).finalize();
    to_hex(&digest.as_bytes()[..16])
}

/// The id of the fixture's Ed25519 key.
pub fn ed25519_key_id() -> String {
    let public = SigningKey::from_bytes(&SECRET).verifying_key();
    key_id("tenpak/v1/key-id ed25519", public.as_bytes())
}

/// `{"signatures": [...], "signed": ...}` in canonical bytes.
pub fn signed(domain: &str, body: Value) -> Result<Vec<u8>> {
    let mut message = format!("tenpak/v1/{domain}\0").into_bytes();
    message.extend(canonical(&body)?);
    let signature = SigningKey::from_bytes(&SECRET).sign(&message).to_bytes();
    let entry =
        json!({"key": ed25519_key_id(), "method": "ed25519", "signature": to_hex(&signature)});
    canonical(&json!({"signatures": [entry], "signed": body}))
}

/// Chunks on their way into two packs.
struct Packs {
    packs: [(PackIndex, Vec<u8>); 2],
    places: HashMap<StoredDigest, (usize, u32)>,
}

impl Packs {
    fn add(&mut self, pack: usize, record: ChunkRecord, stored: &[u8]) -> Result<ChunkRecord> {
        if !self.places.contains_key(&record.stored) {
            let (index, data) = &mut self.packs[pack];
            let offset = index.push(record).ok_or("the pack is full")?;
            data.extend(stored);
            self.places.insert(record.stored, (pack, offset));
        }
        Ok(record)
    }

    fn raw(&mut self, pack: usize, element: Dtype, bytes: &[u8]) -> Result<ChunkRecord> {
        let record = ChunkRecord::raw(element, bytes.len() as u32, blake3::hash(bytes));
        self.add(pack, record, bytes)
    }

    fn zstd(&mut self, pack: usize, of: Dtype, bytes: &[u8], frame: &[u8]) -> Result<ChunkRecord> {
        let record = ChunkRecord {
            codec: CodecId::ZSTD,
            stored_len: frame.len() as u32,
            stored: StoredDigest::of(frame),
            ..ChunkRecord::raw(of, bytes.len() as u32, blake3::hash(bytes))
        };
        self.add(pack, record, frame)
    }

    /// A tensor's entry and records; a chunk of 100 equal bytes or more goes through zstd.
    fn tensor(&mut self, entry: &TensorEntry, bytes: &[u8]) -> Result<Vec<ChunkRecord>> {
        let mut records = Vec::new();
        for rect in entry.grid.rects() {
            let mut chunk = Vec::new();
            for row in 0..rect.rows {
                let start = (rect.start + row * rect.stride) as usize;
                chunk.extend(&bytes[start..start + rect.width as usize]);
            }
            let len = chunk.len() as u32;
            let run = len >= 100 && chunk.iter().all(|&b| b == chunk[0]);
            records.push(if run {
                let frame = run_frame(chunk[0], len, Some(len), None);
                self.zstd(1, entry.dtype, &chunk, &frame)?
            } else {
                self.raw(1, entry.dtype, &chunk)?
            });
        }
        Ok(records)
    }
}

fn content(bytes: &[u8], chunks: u32) -> Extent {
    Extent::Content { len: bytes.len() as u64, digest: ContentDigest::of(bytes), chunks }
}

fn file(path: &str, bytes: &[u8], extents: Vec<Extent>) -> FileEntry {
    let mut blob = format!("blob {}\0", bytes.len()).into_bytes();
    blob.extend(bytes);
    FileEntry {
        path: path.to_owned(),
        executable: path.ends_with(".sh"),
        size: bytes.len() as u64,
        sha256: Sha256::digest(bytes).into(),
        git_sha1: Some(Sha1::digest(&blob).into()),
        extents,
    }
}

/// (file, name, type, shape, grid, bytes) in load order.
type Sample = (u32, &'static str, Dtype, Vec<u64>, Grid, Vec<u8>);

fn samples() -> Vec<Sample> {
    let bands = Grid { leading: 2, rows: 6, row_bytes: 16, block_rows: 4, band_bytes: 6 };
    let rows = Grid { leading: 1, rows: 32, row_bytes: 128, block_rows: 8, band_bytes: 128 };
    let scalar = 1.5_f32.to_le_bytes().to_vec();
    vec![
        (3, "experts.down_proj.weight", Dtype::BF16, vec![2, 6, 8], bands, pattern(1, 192)),
        (3, "zeros.weight", Dtype::F32, vec![32, 32], rows, vec![0; 4096]),
        (3, "scale", Dtype::F32, vec![], Grid::run(4, 4), scalar.clone()),
        (3, "none", Dtype::I64, vec![3, 0], Grid::EMPTY, vec![]),
        (3, "nibbles", Dtype::F4, vec![3, 3], Grid::run(5, 3), pattern(2, 5)),
        (4, "scale", Dtype::F32, vec![], Grid::run(4, 4), scalar),
    ]
}

/// The golden objects: a store, its keys, the files it unpacks to, and objects that the store lacks.
pub fn objects() -> Result<Objects> {
    let mut out = Objects::new();
    let mut packs =
        Packs { packs: [0, 7].map(|n| (PackIndex::new(n), vec![])), places: HashMap::new() };
    let mut entries = Entries::default();
    let header = b"\x08\0\0\0\0\0\0\0{}      ";
    let mut bodies = [header.to_vec(), header[..8].to_vec()];
    let mut extents = [vec![content(header, 1)], vec![content(&header[..8], 1)]];
    for (ordinal, (of, name, dtype, shape, grid, bytes)) in (0..).zip(samples()) {
        let shape = Shape::new(shape).ok_or("too many dimensions")?;
        let digest = ContentDigest::of(&bytes);
        let entry =
            TensorEntry { ordinal, file: of, name: name.into(), dtype, shape, digest, grid };
        let records = packs.tensor(&entry, &bytes)?;
        entries.tensors.push((entry, records));
        bodies[of as usize - 3].extend(&bytes);
        extents[of as usize - 3].push(Extent::Tensor { ordinal });
    }
    let [long, short] = [lines(0..40), lines(40..50)];
    let frame: Vec<u8> = FRAME
        .as_bytes()
        .chunks(2)
        .map(|pair| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?))
        .collect::<Result<_>>()?;
    let text = [&long[..], &short].concat();
    let [model_extents, part_extents] = extents;
    let files = [
        ("bin/run.sh", SCRIPT, vec![content(SCRIPT, 1)], vec![SCRIPT]),
        ("config.json", CONFIG, vec![content(CONFIG, 1)], vec![CONFIG]),
        ("empty.txt", b"", vec![], vec![]),
        ("model.safetensors", &bodies[0], model_extents, vec![&header[..]]),
        ("shards/part.safetensors", &bodies[1], part_extents, vec![&header[..8]]),
        ("text/lines.txt", &text, vec![content(&text, 2)], vec![&long, &short]),
    ];
    for (path, bytes, extents, chunks) in files {
        let mut records = Vec::new();
        for chunk in chunks {
            records.push(if chunk == long {
                packs.zstd(0, Dtype::Bytes, chunk, &frame)?
            } else {
                packs.raw(0, Dtype::Bytes, chunk)?
            });
        }
        entries.files.push((file(path, bytes, extents), records));
        out.insert(format!("v1/files/{path}"), bytes.to_vec());
    }
    let digests: Vec<_> = entries.tensors.iter().map(|(t, _)| t.digest).collect();
    let table = entries.into_table()?;
    let mut manifest = Manifest::new(table.reference.clone(), table.totals);
    manifest.model_id = Some("tiny".to_owned());
    let bytes = manifest.to_bytes()?;
    let id = ManifestId::of(&bytes);
    let mut store = |path: String, bytes: Vec<u8>| out.insert(format!("v1/store/{path}"), bytes);
    store(format!("manifests/{id}"), bytes.clone());
    store(format!("tables/{}", table.reference.table), table.bytes);
    let mut ids = Vec::new();
    for (index, mut data) in packs.packs {
        let bytes = index.to_bytes();
        let pack = PackId::of(&bytes);
        data.extend(&bytes);
        data.extend(Trailer { index_len: bytes.len() as u32 }.to_bytes());
        store(format!("packs/{pack}"), data);
        ids.push(pack);
    }
    let place = |r: &ChunkRecord| {
        let (pack, offset) = packs.places[&r.stored];
        Place { pack: ids[pack], offset }
    };
    let layout = Layout { manifest: id, places: table.records.iter().map(place).collect() };
    store(format!("layouts/{id}"), layout.to_bytes());
    for digest in digests {
        store(format!("by-tensor/{digest}"), ByTensor::new(id).to_bytes()?);
    }
    let lease = Lease::new(WRITTEN + 900, vec![format!("packs/{}", ids[0])], WRITTEN);
    store(format!("leases/{}", "0f".repeat(16)), lease.to_bytes()?);
    let dead = PackId::of(b"a pack that was deleted");
    store(format!("tombstones/packs/{dead}"), Tombstone::new(WRITTEN).to_bytes()?);
    store("tenpak.json".into(), Descriptor::new("5e".repeat(16), 1).to_bytes()?);

    let key = SigningKey::from_bytes(&SECRET);
    let message = [b"tenpak/v1/manifest\0", &id.as_bytes()[..]].concat();
    let signatures = format!("signatures/{id}");
    store(
        format!("{signatures}/{}.ed25519", ed25519_key_id()),
        key.sign(&message).to_bytes().to_vec(),
    );
    let mut mac = Hmac::<Sha256>::new_from_slice(HMAC_SECRET)?;
    mac.update(&message);
    let hmac_id = key_id("tenpak/v1/key-id hmac", HMAC_SECRET);
    store(format!("{signatures}/{hmac_id}.hmac"), mac.finalize().into_bytes().to_vec());
    let version = WRITTEN * 1000;
    let entry = json!({"manifest": id, "name": NAME, "tag": "latest", "version": version});
    let mut body = entry.clone();
    body["expires"] = json!(EXPIRES);
    body["format"] = json!("tenpak-ref");
    store(format!("refs/{NAME}/@latest"), signed("ref", body.clone())?);
    body["tag"] = json!("unsigned");
    store(format!("refs/{NAME}/@unsigned"), canonical(&json!({"signatures": [], "signed": body}))?);
    let index = json!({"expires": EXPIRES, "format": "tenpak-refs-index", "refs": [entry],
        "version": version});
    store("refs/index".into(), signed("refs-index", index)?);

    let public = to_hex(key.verifying_key().as_bytes());
    out.insert("v1/key.pub".into(), format!("tenpak-ed25519-public {public} fixture\n").into());
    let secret = to_hex(&SECRET);
    out.insert("v1/key".into(), format!("tenpak-ed25519-secret {secret} fixture\n").into());
    out.insert("v1/hmac.key".into(), HMAC_SECRET.to_vec());
    out.insert("v1/objects/page-with-bases".into(), with_bases()?);
    out.insert("v1/objects/pack-with-a-repetition".into(), with_a_repetition()?);
    manifest.source = json!({"tool": "none"}).as_object().cloned();
    manifest.delta =
        json!({"base_model_id": "tiny", "changed_layers": [1, 2]}).as_object().cloned();
    out.insert("v1/objects/manifest-lineage".into(), manifest.to_bytes()?);
    let mut incomplete: Value = serde_json::from_slice(&bytes)?;
    incomplete["incomplete"] = json!([
        {"fault": "no_json", "path": "config.json"},
        {"fault": "a_word_of_later", "path": "model-00002-of-00002.safetensors"},
        {"fault": "shard_missing", "path": "model-00002-of-00002.safetensors"},
    ]);
    out.insert("v1/objects/manifest-incomplete".into(), canonical(&incomplete)?);
    let mut later: Value = serde_json::from_slice(&bytes)?;
    later["version"] = json!("1.7");
    later["unheard_of"] = json!({"é": [null, true, -1]});
    out.insert("v1/objects/manifest-later".into(), canonical(&later)?);
    Ok(out)
}

/// A pack that holds one of its chunks three times.
fn with_a_repetition() -> Result<Vec<u8>> {
    let mut index = PackIndex::new(0);
    let mut data = Vec::new();
    for bytes in
        [&pattern(1, 12)[..], &[0, 0, 192, 63], &pattern(2, 12), &[0, 0, 192, 63], &[0, 0, 192, 63]]
    {
        let record = ChunkRecord::raw(Dtype::F32, bytes.len() as u32, blake3::hash(bytes));
        index.push(record).ok_or("the pack is full")?;
        data.extend(bytes);
    }
    let bytes = index.to_bytes();
    data.extend(&bytes);
    data.extend(Trailer { index_len: bytes.len() as u32 }.to_bytes());
    Ok(data)
}

/// A tensor page whose second chunk is stored against a base, which has one itself, with parameters
/// that no version knows: the page stays readable.
fn with_bases() -> Result<Vec<u8>> {
    let bottom = ChunkRecord::raw(Dtype::U8, 10, blake3::hash(b"bottom"));
    let above = |base: &ChunkRecord, text: &[u8]| ChunkRecord {
        codec: CodecId(32),
        parameters: [3; 20],
        base: Some(Base { decoded: base.decoded, depth: base.depth() + 1 }),
        stored_len: 4,
        stored: StoredDigest::of(text),
        decoded: DecodedDigest::of(text),
        ..bottom
    };
    let middle = above(&bottom, b"middle");
    let records = vec![bottom, above(&middle, b"top")];
    let entry = TensorEntry {
        ordinal: 0,
        file: 0,
        name: "delta.weight".into(),
        dtype: Dtype::U8,
        shape: Shape::new(vec![20]).ok_or("too many dimensions")?,
        digest: ContentDigest::of(b"twenty bytes"),
        grid: Grid::run(20, 10),
    };
    let mut entries = Entries { tensors: vec![(entry, records)], ..Entries::default() };
    entries.bases = [bottom, middle].map(|r| (r.decoded, r)).into();
    Ok(entries.into_table()?.bytes)
}
