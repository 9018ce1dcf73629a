//! The test vectors: golden objects are read and written again byte for byte, hostile ones are
//! refused with the named error, and both are what `examples/make_vectors` writes.

#![cfg(feature = "cli")]

#[path = "../examples/make_vectors/codecs.rs"]
mod codecs;
#[path = "../examples/make_vectors/deltas.rs"]
mod deltas;
#[path = "../examples/make_vectors/golden.rs"]
mod golden;
#[path = "../examples/make_vectors/hostile.rs"]
mod hostile;
#[path = "../examples/make_vectors/tree.rs"]
mod tree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use ed25519_dalek::VerifyingKey;
use serde::Deserialize;
use serde_json::Value;
use tenpak::chunk::codec;
use tenpak::chunk::verified::VerifiedChunk;
use tenpak::format::id::{ManifestId, NodeId, PackId, PageDigest, TableId, from_hex};
use tenpak::format::json;
use tenpak::format::layout::{Layout, Place};
use tenpak::format::manifest::{Incomplete, Manifest};
use tenpak::format::names::{self, Item, Node};
use tenpak::format::pack::{PackIndex, Trailer};
use tenpak::format::page::{Entries as PageEntries, Page, PageKind};
use tenpak::format::record::ChunkRecord;
use tenpak::format::refs::{IndexBody, RefBody, RootBody};
use tenpak::format::store::{self as paths, ByTensor, Descriptor, Lease, Tombstone};
use tenpak::format::table::Entries;
use tenpak::store::{ArtifactGraph, Store};
use tenpak::trust::Envelope;

type Failure = Box<dyn std::error::Error>;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn read_all(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut out = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                out.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    out
}

/// The objects of the golden store below `folder`, with their names.
fn stored(folder: &str) -> Vec<(String, Vec<u8>)> {
    let root = fixtures().join("v1/store").join(folder);
    let found: Vec<_> = read_all(&root).into_iter().collect();
    assert!(!found.is_empty(), "no golden object in {folder}");
    found
}

#[test]
fn generating_again_gives_the_committed_files() {
    let mut files = golden::objects().unwrap();
    codecs::golden(&mut files).unwrap();
    deltas::golden(&mut files);
    tree::golden(&mut files).unwrap();
    hostile::objects(&mut files).unwrap();
    let folder = tempfile::tempdir().unwrap();
    golden::write(folder.path(), &files).unwrap();
    let (made, committed) = (read_all(folder.path()), read_all(&fixtures()));
    let changed: Vec<_> =
        made.iter().filter(|(path, bytes)| committed.get(*path) != Some(bytes)).collect();
    let names = |list: &[(&String, &Vec<u8>)]| list.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert!(changed.is_empty(), "differ or not committed: {:?}", names(&changed));
    let extra: Vec<_> = committed
        .iter()
        .filter(|(path, _)| path.starts_with("v1/") || path.starts_with("hostile/"))
        .filter(|(path, _)| !made.contains_key(*path))
        .collect();
    assert!(extra.is_empty(), "committed, but not generated: {:?}", names(&extra));
}

/// Adds a page to `entries` and returns its records.
fn gather(page: Page, entries: &mut Entries) -> Vec<ChunkRecord> {
    let records = page.records().copied().collect();
    entries.bases.extend(page.bases.iter().map(|base| (base.decoded, *base)));
    match page.entries {
        PageEntries::Tensors(list) => {
            entries.tensors.extend(list.into_iter().map(|l| (l.entry, l.records)));
        }
        PageEntries::Files(list) => {
            entries.files.extend(list.into_iter().map(|l| (l.entry, l.records)));
        }
    }
    records
}

#[test]
fn manifests_tables_and_layouts_are_written_as_read() {
    for (id, bytes) in stored("manifests") {
        let manifest_id: ManifestId = id.parse().unwrap();
        let manifest = Manifest::parse(&bytes, manifest_id).unwrap();
        assert_eq!(manifest.to_bytes().unwrap(), bytes);
        let path = format!("v1/store/tables/{}", manifest.table().table);
        let table = std::fs::read(fixtures().join(path)).unwrap();
        assert_eq!(TableId::of(&table), manifest.table().table);
        let (mut entries, mut records) = (Entries::default(), Vec::new());
        for place in manifest.table().places() {
            let bytes = &table[place.bytes.start as usize..place.bytes.end as usize];
            let page = Page::parse(bytes, place.page.kind, place.page.blake3).unwrap();
            records.extend(gather(page, &mut entries));
        }
        let again = entries.into_table().unwrap();
        assert_eq!(again.bytes, table);
        assert_eq!(&again.reference, manifest.table());
        assert_eq!(again.totals, manifest.totals);
        assert_eq!(again.records, records);
        let bytes = std::fs::read(fixtures().join(format!("v1/store/layouts/{id}"))).unwrap();
        let layout = Layout::parse(&bytes, manifest_id).unwrap();
        assert_eq!(layout.places.len(), records.len());
        assert_eq!(layout.to_bytes(), bytes);
        for (place, record) in layout.places.iter().zip(records) {
            let pack = std::fs::read(fixtures().join(format!("v1/store/packs/{}", place.pack)));
            let start = place.offset as usize;
            let stored = pack.unwrap()[start..start + record.stored_len as usize].to_vec();
            let chunk = VerifiedChunk::verify(record, BytesMut::from(&stored[..])).unwrap();
            let decoded = codec::into_decoded(chunk, None).unwrap();
            assert_eq!(record.decoded.as_bytes(), blake3::hash(&decoded).as_bytes());
        }
    }
}

#[test]
fn packs_are_written_as_read() {
    let packs = stored("packs");
    assert_eq!(packs.len(), 2);
    for (id, bytes) in packs {
        check_pack(&bytes, Some(id.parse().unwrap()));
    }
}

/// The index of a whole pack.
fn pack_index(bytes: &[u8], id: PackId) -> PackIndex {
    let (rest, trailer) = bytes.split_at(bytes.len() - Trailer::LEN as usize);
    let index_len = Trailer::parse(trailer).unwrap().index_len as usize;
    PackIndex::parse(&rest[rest.len() - index_len..], id).unwrap()
}

/// The pack verifies itself, and is written as it was read. Returns its name.
fn check_pack(bytes: &[u8], name: Option<PackId>) -> PackId {
    let (rest, trailer) = bytes.split_at(bytes.len() - Trailer::LEN as usize);
    let trailer = Trailer::parse(trailer).unwrap();
    let (data, index) = rest.split_at(rest.len() - trailer.index_len as usize);
    let id = PackId::of(index);
    assert_eq!(name.unwrap_or(id), id);
    let parsed = PackIndex::parse(index, id).unwrap();
    assert_eq!(parsed.data_len(), data.len() as u64);
    let mut again = PackIndex::new(parsed.nonce());
    for placed in parsed.placed(id) {
        let (record, range) = (placed.record, placed.range());
        let chunk = &data[range.start as usize..range.end as usize];
        assert!(VerifiedChunk::verify(record, BytesMut::from(chunk)).is_ok());
        assert_eq!(again.push(record).map(u64::from), Some(range.start));
        assert_eq!(ChunkRecord::parse(&record.to_bytes()).unwrap(), record);
    }
    let trailer = Trailer { index_len: again.to_bytes().len() as u32 };
    assert_eq!([data, &again.to_bytes(), &trailer.to_bytes()].concat(), bytes);
    id
}

#[test]
fn documents_are_written_as_read() {
    macro_rules! check {
        ($kind:ty, $bytes:expr) => {
            assert_eq!(<$kind>::parse(&$bytes).unwrap().to_bytes().unwrap(), $bytes)
        };
    }
    let descriptor = std::fs::read(fixtures().join("v1/store/tenpak.json")).unwrap();
    check!(Descriptor, descriptor);
    assert!(Descriptor::parse(&descriptor).unwrap().check().is_ok());
    stored("by-tensor").iter().for_each(|(_, bytes)| check!(ByTensor, *bytes));
    stored("leases").iter().for_each(|(_, bytes)| check!(Lease, *bytes));
    stored("tombstones").iter().for_each(|(_, bytes)| check!(Tombstone, *bytes));
    let index = std::fs::read(fixtures().join("v1/store/refs/index")).unwrap();
    check!(Envelope<IndexBody>, index);
    let public = std::fs::read_to_string(fixtures().join("v1/key.pub")).unwrap();
    let public = from_hex(public.split(' ').nth(1).unwrap()).unwrap();
    let public = VerifyingKey::from_bytes(&public).unwrap();
    for (name, bytes) in stored("refs/demo") {
        check!(Envelope<RefBody>, bytes);
        let signed_by = Envelope::<RefBody>::parse(&bytes).unwrap().verify([&public]).len();
        assert_eq!(signed_by, usize::from(!name.ends_with("unsigned")), "{name}");
    }
    assert_eq!(Envelope::<IndexBody>::parse(&index).unwrap().verify([&public]).len(), 1);
}

/// The root and every node are written as read, and the library cuts the entries as the vectors are cut.
#[test]
fn the_index_is_written_as_read() {
    let folder = fixtures().join("v1/tree");
    let root = std::fs::read(folder.join("refs/index")).unwrap();
    let envelope = Envelope::<RootBody>::parse(&root).unwrap();
    assert_eq!(envelope.to_bytes().unwrap(), root);
    let public = std::fs::read_to_string(fixtures().join("v1/key.pub")).unwrap();
    let public = from_hex(public.split(' ').nth(1).unwrap()).unwrap();
    assert_eq!(envelope.verify([&VerifyingKey::from_bytes(&public).unwrap()]).len(), 1);
    let nodes = read_all(&folder.join("names"));
    let mut entries = Vec::new();
    for (id, bytes) in &nodes {
        let node = Node::parse(bytes, id.parse().unwrap()).unwrap();
        assert_eq!(node.to_bytes().unwrap(), *bytes);
        entries.extend(node.items().iter().filter_map(|item| match item {
            Item::Ref(entry) => Some(entry.clone()),
            Item::Node(_) => None,
        }));
    }
    assert!(entries.len() > 130);
    let built = names::build(entries).unwrap();
    assert_eq!(built.top, envelope.body().node);
    let made: BTreeMap<_, _> = built.new.into_iter().map(|n| (n.id.to_hex(), n.bytes)).collect();
    assert!(made == nodes, "the library cuts the tree elsewhere");
    let empty = std::fs::read(fixtures().join("v1/objects/refs-node-empty")).unwrap();
    let built = names::build(Vec::new()).unwrap();
    assert_eq!(built.new.first().map(|node| &node.bytes), Some(&empty));
}

#[test]
fn objects_beyond_the_store_are_written_as_read() {
    let read = |name: &str| std::fs::read(fixtures().join("v1/objects").join(name)).unwrap();
    let bytes = read("page-with-bases");
    let page = Page::parse(&bytes, PageKind::Tensors, PageDigest::of(&bytes)).unwrap();
    assert_eq!(page.bases.len(), 2);
    let mut entries = Entries::default();
    gather(page, &mut entries);
    assert_eq!(entries.into_table().unwrap().bytes, bytes);
    let bytes = read("pack-with-a-repetition");
    let id = check_pack(&bytes, None);
    let index = pack_index(&bytes, id);
    let same = index.placed(id).filter(|chunk| chunk.record.stored == index.chunks()[1].stored);
    let offsets: Vec<_> = same.map(|chunk| chunk.place.offset).collect();
    assert_eq!(offsets, [12, 28, 32]);
    let bytes = read("manifest-lineage");
    let manifest = Manifest::parse(&bytes, ManifestId::of(&bytes)).unwrap();
    assert!(manifest.delta.is_some() && manifest.source.is_some());
    assert_eq!(manifest.to_bytes().unwrap(), bytes);
    let bytes = read("manifest-incomplete");
    let manifest = Manifest::parse(&bytes, ManifestId::of(&bytes)).unwrap();
    assert_eq!(manifest.incomplete.len(), 3);
    let listed = manifest.incomplete.iter().map(|own| (own.fault.as_str(), own.path.as_str()));
    assert_eq!(
        Incomplete::list(listed.rev()),
        manifest.incomplete,
        "sorted, and any word is taken"
    );
    assert_eq!(manifest.to_bytes().unwrap(), bytes);
    let bytes = read("manifest-later");
    assert!(Manifest::parse(&bytes, ManifestId::of(&bytes)).is_ok(), "unknown fields are ignored");
}

/// A record, then the length of what its base decodes to, if it has one, and that, of which nothing
/// stands for a base that is not at hand; then the stored bytes.
fn decode_chunk(bytes: &[u8]) -> Result<(ChunkRecord, bytes::Bytes), Failure> {
    let (record, mut stored) = bytes.split_at(ChunkRecord::LEN);
    let record = ChunkRecord::parse(record.try_into()?)?;
    let mut base = None;
    if record.base.is_some() {
        let (len, rest) = stored.split_at(4);
        let (decoded, rest) = rest.split_at(u32::from_le_bytes(len.try_into()?) as usize);
        (base, stored) = (Some(decoded).filter(|decoded| !decoded.is_empty()), rest);
    }
    let chunk = VerifiedChunk::verify(record, BytesMut::from(stored));
    Ok((record, codec::into_decoded(chunk.map_err(|unverified| unverified.error)?, base)?))
}

#[test]
fn chunks_of_every_codec_decode_to_what_they_name() {
    let chunks = read_all(&fixtures().join("v1/chunks"));
    assert!(chunks.len() >= 22);
    for (name, bytes) in chunks {
        let (record, decoded) = decode_chunk(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(record.decoded.as_bytes(), blake3::hash(&decoded).as_bytes(), "{name}");
    }
}

#[derive(Deserialize)]
struct Repeat {
    at: usize,
    length: usize,
    times: usize,
}

#[derive(Deserialize)]
struct Case {
    error: String,
    file: String,
    kind: String,
    repeat: Option<Repeat>,
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let bytes = std::fs::read(fixtures().join("hostile").join(&self.file)).unwrap();
        let Some(Repeat { at, length, times }) = self.repeat else { return bytes };
        let (head, rest) = bytes.split_at(at);
        let (part, tail) = rest.split_at(length);
        [head, &part.repeat(times), tail].concat()
    }
}

/// A manifest's length, the manifest, and its table: read as an artifact of a store that holds them.
fn graph(bytes: &[u8]) -> Result<(), Failure> {
    let (len, rest) = bytes.split_at(4);
    let (manifest, table) = rest.split_at(u32::from_le_bytes(len.try_into()?) as usize);
    let id = ManifestId::of(manifest);
    let parsed = Manifest::parse(manifest, id)?;
    let places = vec![Place { pack: PackId::of(b""), offset: 0 }; parsed.totals.records as usize];
    let layout = Layout { manifest: id, places }.to_bytes();
    let folder = tempfile::tempdir()?;
    for (path, bytes) in [
        (paths::manifest(id), manifest),
        (paths::table(parsed.table().table), table),
        (paths::layout(id), &layout),
    ] {
        let path = folder.path().join(path.as_str());
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        std::fs::write(path, bytes)?;
    }
    let store = Store::new(tenpak::transport::url::open(folder.path().to_str().ok_or("a path")?)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // The innermost error is the rule that is broken; the outer ones say where.
    runtime.block_on(ArtifactGraph::read(&store, id)).map(|_| ()).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        text.into()
    })
}

/// What the library says of one object.
fn read(kind: &str, bytes: &[u8]) -> Result<(), Failure> {
    let page = |kind| Page::parse(bytes, kind, PageDigest::of(bytes)).map(|_| ());
    match kind {
        "json" => json::parse::<Value>(bytes, 1 << 20).map(|_| ())?,
        "record" => ChunkRecord::parse(bytes.try_into()?).map(|_| ())?,
        "chunk" => decode_chunk(bytes).map(|_| ())?,
        "pack-index" => PackIndex::parse(bytes, PackId::of(bytes)).map(|_| ())?,
        "pack-trailer" => Trailer::parse(bytes).map(|_| ())?,
        "tensor-page" => page(PageKind::Tensors)?,
        "file-page" => page(PageKind::Files)?,
        "layout" => {
            let id = bytes.get(16..48).map_or(Ok([0; 32]), <[u8; 32]>::try_from)?;
            Layout::parse(bytes, ManifestId::from_bytes(id)).map(|_| ())?;
        }
        "manifest" => Manifest::parse(bytes, ManifestId::of(bytes)).map(|_| ())?,
        "descriptor" => Descriptor::parse(bytes)?.check()?,
        "by-tensor" => ByTensor::parse(bytes).map(|_| ())?,
        "lease" => Lease::parse(bytes).map(|_| ())?,
        "tombstone" => Tombstone::parse(bytes).map(|_| ())?,
        "ref" => Envelope::<RefBody>::parse(bytes).map(|_| ())?,
        "refs-index" => Envelope::<IndexBody>::parse(bytes).map(|_| ())?,
        "refs-root" => Envelope::<RootBody>::parse(bytes).map(|_| ())?,
        "refs-node" => Node::parse(bytes, NodeId::of(bytes)).map(|_| ())?,
        "graph" => graph(bytes)?,
        other => panic!("no reader for {other}"),
    }
    Ok(())
}

#[test]
fn hostile_objects_are_refused_with_the_named_error() {
    let list = std::fs::read(fixtures().join("hostile/cases.json")).unwrap();
    let cases: Vec<Case> = serde_json::from_slice(&list).unwrap();
    assert!(cases.len() > 150);
    let mut wrong = Vec::new();
    for case in &cases {
        match read(&case.kind, &case.bytes()) {
            Ok(()) => wrong.push(format!("{}: accepted", case.file)),
            Err(error) if !error.to_string().contains(&case.error) => {
                wrong.push(format!("{}: {error}, not {:?}", case.file, case.error));
            }
            Err(error) if case.error.is_empty() => wrong.push(format!("{}: {error}", case.file)),
            Err(_) => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The deepest nesting allowed, beside the hostile case one level deeper.
#[test]
fn json_may_be_nested_127_deep() {
    let deep = ["[".repeat(127), "]".repeat(127)].concat();
    assert!(read("json", deep.as_bytes()).is_ok());
}
