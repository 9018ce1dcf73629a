//! Whoever can write to the bucket must not choose what is signed next: chunks are linked only
//! from what a trusted key signed, or after they were decoded and compared.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tempfile::TempDir;
use tenpak::chunk::codec::CodecChoice;
use tenpak::format::dtype::Dtype;
use tenpak::format::id::{ManifestId, PackId, StoredDigest};
use tenpak::format::layout::{Layout, Place};
use tenpak::format::manifest::Manifest;
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::record::{ChunkRecord, CodecId};
use tenpak::format::store::{self as paths, ByTensor, Lease};
use tenpak::format::table::Entries;
use tenpak::pack::{PackOptions, PackReport};
use tenpak::store::{Store, unix_now};
use tenpak::transport::ObjectPath;
use tenpak::trust::{Signer, TrustSet, keygen, signature_path};

use super::library::{Counted, check_store, packed, runtime, whole};
use super::model::{Fill, Model, Tensor};

fn put(store: &Store, path: &ObjectPath, bytes: impl Into<Bytes>) {
    runtime().block_on(store.transport().put(path, vec![bytes.into()])).unwrap();
}

/// A pack whose records say `claims` of other stored bytes, and where each of them lies.
fn evil_pack(store: &Store, claims: &[(ChunkRecord, Bytes)]) -> (PackId, Vec<u32>) {
    let mut index = PackIndex::new(0);
    let offsets = claims.iter().map(|(record, _)| index.push(*record).unwrap()).collect();
    let bytes = index.to_bytes();
    let id = PackId::of(&bytes);
    let mut object: Vec<u8> = claims.iter().flat_map(|(_, stored)| stored.to_vec()).collect();
    let trailer = Trailer { index_len: bytes.len() as u32 };
    object.extend(bytes);
    object.extend(trailer.to_bytes());
    put(store, &paths::pack(id), object);
    (id, offsets)
}

/// Other bytes than those of `honest`, as long as they are when compressed: a run too short would
/// never be linked.
fn others(honest: &ChunkRecord) -> Vec<u8> {
    let seed = u64::from_le_bytes(*honest.decoded.as_bytes().first_chunk().unwrap());
    let fill = if honest.decoded_len < 4096 { Fill::Same } else { Fill::Sparse };
    super::model::bytes(honest.decoded_len as usize, seed, fill)
}

/// A record that claims the decoded bytes of `honest`, and stored bytes that decode to others.
fn lie(honest: &ChunkRecord) -> (ChunkRecord, Bytes) {
    let evil = others(honest);
    let stored = Bytes::from(zstd::bulk::compress(&evil, 3).unwrap());
    let record = ChunkRecord {
        codec: CodecId::ZSTD,
        parameters: [0; 20],
        stored_len: stored.len() as u32,
        stored: StoredDigest::of(&stored),
        ..*honest
    };
    (record, stored)
}

struct Bench {
    folder: TempDir,
    input: PathBuf,
    counted: Counted,
    /// The honest artifact, packed elsewhere: its graph is what the attacker imitates.
    honest: Counted,
    report: PackReport,
}

impl Bench {
    fn new(codec: CodecChoice) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("model");
        let tensor = |i: u64| {
            let shape = [3 * 1024, 1024];
            let name = format!("model.layers.{i}.mlp.up_proj.weight");
            Tensor::new(&name, safetensors::Dtype::U8, &shape, i, Fill::Sparse)
        };
        Model::of((0..3).map(tensor).collect()).write(&input);
        let honest = Counted::memory();
        let mut options = PackOptions::default();
        options.codec = codec;
        let report = packed(&honest.store, &input, "org/model", options);
        let counted = Counted::memory();
        runtime().block_on(counted.store.create()).unwrap();
        Self { folder, input, counted, honest, report }
    }

    fn key(&self, name: &str) -> Signer {
        let path = self.folder.path().join(name);
        if !Path::new(&path).exists() {
            keygen(&path).unwrap();
        }
        Signer::load(&path, None).unwrap()
    }

    fn trusting(&self, name: &str) -> TrustSet {
        let mut trust = TrustSet::default();
        trust.add_ed25519(self.key(name).verifying_key().unwrap(), None).unwrap();
        trust
    }

    /// Plants an artifact like the honest one, all of whose tensors decode to something else, with
    /// hints for all its content, signed by `signer`.
    fn poison(&self, signer: Option<Signer>) -> Vec<StoredDigest> {
        self.poisoned(signer).1
    }

    /// The same, and which artifact it is.
    fn poisoned(&self, signer: Option<Signer>) -> (ManifestId, Vec<StoredDigest>) {
        let (store, honest) =
            (&self.counted.store, whole(&self.honest.store, self.report.manifest));
        // In load order, as an honest pack would be: only long runs are ever linked.
        let tensors = (0..honest.tensors.len()).flat_map(|i| honest.tensor_chunks(i));
        let mut lies = HashMap::new();
        let mut claims = Vec::new();
        for chunk in tensors.chain(&honest.chunks) {
            lies.entry(chunk.record.stored).or_insert_with(|| {
                claims.push(lie(&chunk.record));
                lie(&chunk.record)
            });
        }
        let (pack, offsets) = evil_pack(store, &claims);
        let evil = |record: &ChunkRecord| lies[&record.stored].0;
        let mut entries = Entries::default();
        for (i, (tensor, _)) in honest.tensors.iter().enumerate() {
            let records = honest.tensor_chunks(i).iter().map(|c| evil(&c.record)).collect();
            entries.tensors.push((tensor.clone(), records));
        }
        for (i, (file, first)) in honest.files.iter().enumerate() {
            let end = honest.files.get(i + 1).map_or(honest.chunks.len(), |(_, next)| *next);
            let own = &honest.chunks[*first..end];
            entries.files.push((file.clone(), own.iter().map(|c| evil(&c.record)).collect()));
        }
        let table = entries.into_table().unwrap();
        let at = |record: &ChunkRecord| {
            let i = claims.iter().position(|(c, _)| c.stored == record.stored).unwrap();
            Place { pack, offset: offsets[i] }
        };
        let places = table.records.iter().map(at).collect();
        put(store, &paths::table(table.reference.table), table.bytes);
        let manifest = Manifest::new(table.reference, table.totals).to_bytes().unwrap();
        let id = ManifestId::of(&manifest);
        put(store, &paths::manifest(id), manifest.clone());
        put(store, &paths::layout(id), Layout { manifest: id, places }.to_bytes());
        if let Some(signer) = signer {
            let signature = signer.sign_manifest(id, &manifest, unix_now()).unwrap();
            let path = signature_path(id, &signer.key_id(), signer.method());
            put(store, &ObjectPath::new(path).unwrap(), signature);
        }
        let hint = ByTensor::new(id).to_bytes().unwrap();
        let extents = honest.files.iter().flat_map(|(file, _)| &file.extents);
        let content = extents.filter_map(|extent| match extent {
            tenpak::format::page::Extent::Content { digest, .. } => Some(*digest),
            tenpak::format::page::Extent::Tensor { .. } => None,
        });
        for digest in honest.tensors.iter().map(|(tensor, _)| tensor.digest).chain(content) {
            put(store, &paths::by_tensor(digest), hint.clone());
        }
        (id, claims.iter().map(|(record, _)| record.stored).collect())
    }

    /// Packs, and makes sure that nothing of `evil` is in what was packed.
    fn pack_unharmed(&self, options: PackOptions, evil: &[StoredDigest]) -> PackReport {
        let store = &self.counted.store;
        let report = packed(store, &self.input, "org/model", options);
        let result = whole(store, report.manifest);
        assert!(result.chunks.iter().all(|c| !evil.contains(&c.record.stored)), "evil was linked");
        assert_eq!(report.manifest, self.report.manifest, "another artifact than undisturbed");
        // Each chunk of it decodes to what its record claims.
        for chunk in &result.chunks {
            let decoded = runtime().block_on(super::library::decoded(store, *chunk, &[]));
            assert_eq!(decoded.len(), chunk.record.decoded_len as usize);
        }
        report
    }
}

#[test]
fn poisoned_hints_are_not_followed() {
    for codec in [CodecChoice::Zstd, CodecChoice::Auto, CodecChoice::Raw] {
        for signed in [false, true] {
            let bench = Bench::new(codec);
            let evil = bench.poison(signed.then(|| bench.key("attacker")));
            let mut plain = PackOptions::default();
            plain.codec = codec;
            bench.pack_unharmed(plain, &evil);
            let trust = bench.trusting("own");
            let mut options = PackOptions::default();
            options.codec = codec;
            options.trust = trust;
            bench.pack_unharmed(options, &evil);
        }
    }
}

/// Whoever packs against an artifact that lies, signed by a stranger or by nobody, links nothing of it
/// and stores nothing against it.
#[test]
fn a_base_that_lies_is_of_no_use() {
    for signed in [false, true] {
        let bench = Bench::new(CodecChoice::Auto);
        let (base, evil) = bench.poisoned(signed.then(|| bench.key("attacker")));
        let options = || {
            let mut options = PackOptions::default();
            options.base = Some(base);
            options
        };
        bench.pack_unharmed(options(), &evil);
        let mut trusting = options();
        trusting.trust = bench.trusting("own");
        bench.pack_unharmed(trusting, &evil);
        // Nor where what its chunks really decode to is nearly what is packed: whoever holds what they
        // claim to decode to would get other bytes.
        let honest = whole(&bench.honest.store, bench.report.manifest);
        let tensor = |i: usize| {
            let (entry, _) = &honest.tensors[i];
            let mut data: Vec<u8> =
                honest.tensor_chunks(i).iter().flat_map(|chunk| others(&chunk.record)).collect();
            data.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
            let shape = entry.shape.dims().iter().map(|&n| n as usize).collect();
            Tensor { name: entry.name.clone(), dtype: safetensors::Dtype::U8, shape, data }
        };
        Model::of((0..3).map(tensor).collect()).write(&bench.input);
        let elsewhere = Counted::memory();
        let alone = packed(&elsewhere.store, &bench.input, "tuned", PackOptions::default());
        bench.counted.transport.reset_stats();
        let tuned = packed(&bench.counted.store, &bench.input, "tuned", options());
        assert_eq!((tuned.manifest, tuned.deltas), (alone.manifest, 0));
    }
}

/// Of an honest one, each chunk is stored against its counterpart, whoever signed it.
#[test]
fn an_honest_base_is_of_use_without_trust() {
    let bench = Bench::new(CodecChoice::Auto);
    let tensor = |i: u64| {
        let name = format!("model.layers.{i}.mlp.up_proj.weight");
        let shape = [3 * 1024, 1024];
        let mut tensor = Tensor::new(&name, safetensors::Dtype::U8, &shape, i, Fill::Sparse);
        tensor.data.iter_mut().step_by(1000).for_each(|byte| *byte ^= 1);
        tensor
    };
    Model::of((0..3).map(tensor).collect()).write(&bench.input);
    let base = Some(bench.report.manifest);
    let mut options = PackOptions::default();
    options.base = base;
    options.trust = bench.trusting("own");
    let tuned = packed(&bench.honest.store, &bench.input, "tuned", options);
    assert!(tuned.deltas >= 9, "{tuned:?}");
    assert_eq!(check_store(&bench.honest.store), 2);
}

/// [`poisoned_hints_are_not_followed`] can fail: what a trusted key signed is linked, lies included.
#[test]
fn whom_one_trusts_one_believes() {
    let bench = Bench::new(CodecChoice::Zstd);
    let evil = bench.poison(Some(bench.key("friend")));
    let trust = bench.trusting("friend");
    let mut options = PackOptions::default();
    options.codec = CodecChoice::Zstd;
    options.trust = trust;
    let report = packed(&bench.counted.store, &bench.input, "org/model", options);
    let result = whole(&bench.counted.store, report.manifest);
    assert!(result.chunks.iter().any(|c| evil.contains(&c.record.stored)));
}

/// An attacker's lease names a pack whose records lie, as if an interrupted run had left it.
#[test]
fn poisoned_leftovers_are_not_taken_over() {
    for codec in [CodecChoice::Zstd, CodecChoice::Auto] {
        let bench = Bench::new(codec);
        let store = &bench.counted.store;
        let honest = whole(&bench.honest.store, bench.report.manifest);
        let claims: Vec<_> = honest.distinct().iter().map(|c| lie(&c.record)).collect();
        let (pack, _) = evil_pack(store, &claims);
        let objects = vec![paths::pack(pack).to_string()];
        let lease = Lease::new(unix_now() + 3600, objects, unix_now()).to_bytes().unwrap();
        put(store, &paths::lease(&[7; 16]), lease);
        let evil: Vec<_> = claims.iter().map(|(record, _)| record.stored).collect();
        bench.counted.transport.reset_stats();
        let mut options = PackOptions::default();
        options.codec = codec;
        bench.pack_unharmed(options, &evil);
        // They were looked at, and turned down.
        assert!(bench.counted.transport.stats().below(paths::pack(pack).as_str()).reads > 0);
        let trust = bench.trusting("own");
        let mut options = PackOptions::default();
        options.codec = codec;
        options.trust = trust;
        bench.pack_unharmed(options, &evil);
    }
}

/// Objects of nonsense in every place that packing looks into only cost what they would have saved.
#[test]
fn garbage_where_help_was_hoped_for_costs_nothing_but_time() {
    let bench = Bench::new(CodecChoice::Auto);
    let (store, good) = (&bench.counted.store, &bench.honest.store);
    let honest = whole(good, bench.report.manifest);
    for info in runtime().block_on(good.list("by-tensor/")).unwrap() {
        put(store, &info.path, &b"garbage"[..]);
    }
    put(store, &paths::lease(&[1; 16]), &b"{}"[..]);
    let nowhere = PackId::of(b"nowhere");
    let garbage = PackId::of(b"garbage");
    put(store, &paths::pack(garbage), vec![7; 5000]);
    let listed = [nowhere, garbage].map(|id| paths::pack(id).to_string());
    let objects = [&listed[..], &["packs/zz".to_owned(), "../../etc".to_owned()]].concat();
    let lease = Lease::new(1, objects, 0).to_bytes().unwrap();
    put(store, &paths::lease(&[2; 16]), lease);
    bench.pack_unharmed(PackOptions::default(), &[]);
    // Hints to artifacts that are damaged or gone.
    let id = ManifestId::of(b"gone");
    for (tensor, _) in &honest.tensors {
        let hint = ByTensor::new(id).to_bytes().unwrap();
        put(store, &paths::by_tensor(tensor.digest), hint);
    }
    bench.pack_unharmed(PackOptions::default(), &[]);
    put(store, &paths::manifest(id), &b"no manifest"[..]);
    bench.pack_unharmed(PackOptions::default(), &[]);
}

/// A pack of a trusted artifact is gone: its chunks are written again, not linked to nowhere.
#[test]
fn packs_that_are_gone_are_written_again() {
    let bench = Bench::new(CodecChoice::Zstd);
    let store = &bench.honest.store;
    for info in runtime().block_on(store.list("packs/")).unwrap() {
        runtime().block_on(store.transport().delete(&info.path)).unwrap();
    }
    let mut options = PackOptions::default();
    options.codec = CodecChoice::Zstd;
    let report = packed(store, &bench.input, "org/model", options);
    assert_eq!(report.manifest, bench.report.manifest);
    assert!(report.new_bytes >= report.totals.stored_bytes);
    assert_eq!(check_store(store), 1);
}

/// A pack that is marked for deletion is not linked; its chunks go into one of another name.
#[test]
fn packs_that_are_marked_are_not_linked() {
    let bench = Bench::new(CodecChoice::Zstd);
    let store = &bench.honest.store;
    let marked = runtime().block_on(store.list("packs/")).unwrap();
    for info in &marked {
        let tombstone = paths::Tombstone::new(unix_now()).to_bytes().unwrap();
        put(store, &paths::tombstone(&info.path), tombstone);
    }
    let mut options = PackOptions::default();
    options.codec = CodecChoice::Zstd;
    let report = packed(store, &bench.input, "org/model", options);
    assert_eq!(report.manifest, bench.report.manifest, "places are no part of an artifact");
    let result = whole(store, report.manifest);
    for chunk in &result.chunks {
        let path = paths::pack(chunk.place.pack);
        assert!(!marked.iter().any(|info| info.path == path), "{path} may be deleted any time");
    }
    assert_eq!(check_store(store), 1);
}

#[test]
fn the_lies_are_well_formed() {
    let record = ChunkRecord::raw(Dtype::U8, 1000, blake3::hash(b"x"));
    let (lie, stored) = lie(&record);
    assert_eq!(ChunkRecord::parse(&lie.to_bytes()).unwrap(), lie);
    assert_eq!(zstd::bulk::decompress(&stored, 1000).unwrap().len(), 1000);
}
