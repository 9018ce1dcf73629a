//! One object per broken rule or limit, and `cases.json`, which says of each what it is, which
//! section it breaks, and what the refusal says.
//!
//! One file: a list, of which every entry is a few lines.
//!
//! A case with `repeat` stands for a larger file: the `length` bytes at `at` are there `times` times.

use std::error::Error;

use serde_json::{Value, json};
use tenpak::format::dtype::Dtype;
use tenpak::format::json::in_order;
use tenpak::format::record::ChunkRecord;

use super::codecs;
use super::deltas;
use super::golden::{Objects, canonical, ed25519_key_id, run_frame, signed};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A case's name, its error, and what is written where.
type Change<'a> = (&'a str, &'a str, &'a [(usize, &'a [u8])]);

struct Cases {
    files: Objects,
    list: Vec<Value>,
    kind: &'static str,
    section: &'static str,
}

impl Cases {
    fn group(&mut self, kind: &'static str, section: &'static str) {
        (self.kind, self.section) = (kind, section);
    }

    fn add(&mut self, name: &str, error: &str, bytes: impl AsRef<[u8]>) {
        let file = format!("{}/{name}", self.kind);
        let before = self.files.insert(format!("hostile/{file}"), bytes.as_ref().to_vec());
        assert!(before.is_none(), "two cases are called {file}");
        self.list.push(
            json!({"error": error, "file": file, "kind": self.kind, "section": self.section}),
        );
    }

    /// The last case, with `part` of its file `times` times.
    fn repeat(&mut self, part: &str, times: u64) {
        let Some(case) = self.list.last_mut() else { return };
        let file = format!("hostile/{}", case["file"].as_str().unwrap_or_default());
        let bytes = &self.files[&file];
        let at = bytes.windows(part.len()).position(|w| w == part.as_bytes()).unwrap_or_default();
        case["repeat"] = json!({"at": at, "length": part.len(), "times": times});
    }

    /// `good` with each change of `list`, named, with its error.
    fn changes(&mut self, good: &[u8], list: &[Change<'_>]) {
        for (name, error, changes) in list {
            let mut bytes = good.to_vec();
            for (at, with) in *changes {
                bytes[*at..*at + with.len()].copy_from_slice(with);
            }
            self.add(name, error, bytes);
        }
    }
}

/// Adds the hostile objects to the golden ones.
pub fn objects(files: &mut Objects) -> Result<()> {
    let golden = |prefix: &str| {
        let found = files.iter().find(|(path, _)| path.starts_with(prefix));
        found.map(|(_, bytes)| bytes.clone()).ok_or_else(|| format!("no {prefix}"))
    };
    let packs = golden("v1/store/packs/")?;
    let layout = golden("v1/store/layouts/")?;
    let manifest: Value = serde_json::from_slice(&golden("v1/store/manifests/")?)?;
    let mut cases = Cases { files: Objects::new(), list: vec![], kind: "", section: "" };
    records(&mut cases);
    chunks(&mut cases);
    pack(&mut cases, &packs);
    pages(&mut cases);
    tensors(&mut cases);
    file_pages(&mut cases);
    self::layout(&mut cases, &layout);
    self::manifest(&mut cases, &manifest)?;
    refs(&mut cases)?;
    documents(&mut cases)?;
    graphs(&mut cases)?;
    json_texts(&mut cases);
    files.append(&mut cases.files);
    let mut list = serde_json::to_string_pretty(&in_order(&Value::Array(cases.list)))?;
    list.push('\n');
    files.insert("hostile/cases.json".into(), list.into_bytes());
    Ok(())
}

fn raw(bytes: &[u8]) -> [u8; 128] {
    ChunkRecord::raw(Dtype::U8, bytes.len() as u32, blake3::hash(bytes)).to_bytes()
}

fn zstd(decoded_len: u32, frame: &[u8]) -> [u8; 128] {
    let mut record = raw(frame);
    record[0] = 1;
    record[8..12].copy_from_slice(&decoded_len.to_le_bytes());
    record[64..96].copy_from_slice(blake3::hash(&vec![7; decoded_len as usize]).as_bytes());
    record
}

/// A record of an unknown codec with parameters, and with a base if `depth` is not 0.
fn based(content: &[u8], depth: u8, base: &[u8]) -> [u8; 128] {
    let mut record = raw(content);
    (record[0], record[2], record[12]) = (40, depth, 9);
    if depth > 0 {
        record[96..].copy_from_slice(blake3::hash(base).as_bytes());
    }
    record
}

fn records(cases: &mut Cases) {
    cases.group("record", "3");
    let over = &((4_u32 << 20) + 1).to_le_bytes();
    cases.changes(
        &zstd(1000, &run_frame(7, 1000, Some(1000), None)),
        &[
            ("reserved", "reserved", &[(3, &[1])]),
            ("stored-0", "0 bytes stored", &[(4, &[0; 4])]),
            ("decoded-0", "0 decoded", &[(8, &[0; 4])]),
            ("stored-above-4-mib", "limit", &[(4, over), (8, over)]),
            ("decoded-above-4-mib", "limit", &[(8, over)]),
            ("stored-above-decoded", "stored for", &[(8, &[1, 0])]),
            ("depth-9", "base depth", &[(0, &[40]), (2, &[9]), (96, &[1])]),
            ("depth-without-base", "depth and base", &[(0, &[40]), (2, &[1])]),
            ("base-without-depth", "depth and base", &[(0, &[40]), (96, &[1])]),
            ("element-unknown", "unknown element type", &[(1, &[15])]),
            ("zstd-parameters", "fit codec zstd", &[(31, &[1])]),
            ("zstd-with-base", "fit codec zstd", &[(2, &[1]), (96, &[1])]),
            ("planes-with-base", "fit codec planes", &[(0, &[16]), (2, &[1]), (96, &[1])]),
            ("palette-with-base", "fit codec palette", &[(0, &[17]), (2, &[1]), (96, &[1])]),
            ("delta-without-base", "fit codec delta", &[(0, &[32])]),
            ("patch-without-base", "fit codec patch", &[(0, &[33])]),
        ],
    );
    cases.changes(
        &raw(b"raw"),
        &[
            ("raw-parameters", "fit codec raw", &[(12, &[1])]),
            ("raw-with-base", "fit codec raw", &[(2, &[1]), (96, &[1])]),
            ("raw-digests-differ", "fit codec raw", &[(64, &[0, 0])]),
            ("raw-lengths-differ", "fit codec raw", &[(8, &[4])]),
        ],
    );
    cases.add("truncated", "could not convert", &raw(b"raw")[..127]);
}

fn chunks(cases: &mut Cases) {
    cases.group("chunk", "3");
    let chunk = |record: [u8; 128], stored: &[u8]| [&record[..], stored].concat();
    cases.add("flipped", "stored bytes with digest", chunk(raw(b"raw"), b"rav"));
    cases.add("short", "stored bytes with digest", chunk(raw(b"raw"), b"ra"));
    cases.add("long", "stored bytes with digest", chunk(raw(b"raw"), b"raww"));
    let wrong = |name: &str, error: &str, frame: &[u8], cases: &mut Cases| {
        cases.add(name, error, chunk(zstd(1000, frame), frame));
    };
    let good = run_frame(7, 1000, Some(1000), None);
    wrong("zstd-decodes-to-less", "decoded to 999", &run_frame(7, 999, Some(999), None), cases);
    wrong("zstd-decodes-to-more", "decoded to 1001", &run_frame(7, 1001, Some(1001), None), cases);
    wrong("zstd-size-lies", "zstd does not decode", &run_frame(7, 999, Some(1000), None), cases);
    cases.group("chunk", "12");
    wrong("zstd-no-content-size", "zstd", &run_frame(7, 1000, None, Some(0)), cases);
    wrong("zstd-no-frame", "not a frame", b"not a frame of zstd", cases);
    wrong("zstd-truncated", "cut short", &good[..good.len() - 1], cases);
    wrong("zstd-two-frames", "follows the frame", &[&good[..], &good].concat(), cases);
    wrong("zstd-trailing", "follows the frame", &[&good[..], b"x"].concat(), cases);
    let skippable = [&[0x50, 0x2A, 0x4D, 0x18, 1, 0, 0, 0, 9][..], &good].concat();
    wrong("zstd-skippable-first", "zstd", &skippable, cases);
    let window = run_frame(7, 1000, Some(1000), Some(14 << 3));
    wrong("zstd-window-16-mib", "zstd", &window, cases);
    let mut dictionary = run_frame(7, 1000, Some(1000), None);
    dictionary[4] |= 1;
    dictionary.insert(5, 9);
    wrong("zstd-dictionary", "zstd does not decode", &dictionary, cases);
    cases.add("unknown-codec", "codec 40", chunk(based(b"?", 0, b""), b"?"));
    if let Some(case) = cases.list.last_mut() {
        case["status"] = json!(1); // not damage: a newer reader knows it
    }
    for (section, name, error, bytes) in codecs::hostile().into_iter().chain(deltas::hostile()) {
        cases.group("chunk", section);
        cases.add(name, error, bytes);
    }
}

fn pack(cases: &mut Cases, pack: &[u8]) {
    let trailer = &pack[pack.len() - 16..];
    let length = u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]) as usize;
    let index = &pack[pack.len() - 16 - length..pack.len() - 16];
    let n = (length - 32) / 128;
    cases.group("pack-index", "4");
    cases.changes(
        index,
        &[
            ("magic", "magic", &[(0, b"TPIY")]),
            ("version-2", "version 2", &[(4, &[2])]),
            ("reserved-5", "reserved", &[(5, &[1])]),
            ("reserved-24", "reserved", &[(31, &[1])]),
            ("count", "announced", &[(8, &[n as u8 + 1])]),
            ("length", "announced", &[(12, &[0])]),
            ("record", "reserved bytes at 3", &[(32 + 3, &[1])]),
        ],
    );
    let mut empty = index[..32].to_vec();
    empty[8..16].fill(0);
    cases.add("empty", "0 are announced", &empty);
    cases.add("truncated", "are needed", &index[..index.len() - 1]);
    cases.add("trailing", "are needed", [index, b"x"].concat());
    let mut large = empty;
    large[8] = 17;
    large[12..16].copy_from_slice(&(17_u32 << 22).to_le_bytes());
    for i in 0..17_u8 {
        let mut record = raw(&[i]);
        record[4..12].copy_from_slice(&[0, 0, 64, 0, 0, 0, 64, 0]);
        large.extend(record);
    }
    cases.add("above-64-mib", "pack: 71305", large);
    cases.group("pack-trailer", "4");
    cases.changes(
        trailer,
        &[
            ("magic", "magic", &[(8, b"TENPAK02")]),
            ("reserved", "reserved", &[(4, &[1])]),
            ("length", "limit", &[(0, &[255; 4])]),
        ],
    );
    cases.add("truncated", "are needed", &trailer[..15]);
}

/// The parts of a page, as numbers that may lie.
fn page(kind: u8, entries: &[Vec<u8>], records: &[[u8; 128]]) -> Vec<u8> {
    let body = entries.concat();
    let mut out = b"TPPG\x01".to_vec();
    out.extend([kind, 0, 0]);
    for n in [entries.len(), body.len(), records.len()] {
        out.extend((n as u32).to_le_bytes());
    }
    out.extend([0; 12]);
    out.extend(body);
    out.extend(records.concat());
    out
}

/// The fields of a tensor entry, as numbers that may lie.
#[derive(Clone)]
struct Tensor {
    ordinal: u32,
    file: u32,
    name: Vec<u8>,
    dtype: u8,
    shape: Vec<u64>,
    grid: [u64; 5],
    records: u32,
}

impl Tensor {
    fn bytes(&self) -> Vec<u8> {
        let mut out = self.ordinal.to_le_bytes().to_vec();
        out.extend(self.file.to_le_bytes());
        out.extend((self.name.len() as u16).to_le_bytes());
        out.extend([self.dtype, self.shape.len() as u8]);
        out.extend(&self.name);
        self.shape.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend([1; 32]);
        self.grid.iter().for_each(|n| out.extend(n.to_le_bytes()));
        out.extend(self.records.to_le_bytes());
        out
    }
}

/// 4 x 2 of F16 (24) in two chunks of 2 rows.
fn tensor() -> Tensor {
    let (name, shape) = (b"t".to_vec(), vec![4, 2]);
    Tensor { ordinal: 0, file: 0, name, dtype: 24, shape, grid: [1, 4, 4, 2, 4], records: 2 }
}

fn two() -> [[u8; 128]; 2] {
    [raw(b"8 bytes."), raw(b"8 more..")]
}

fn pages(cases: &mut Cases) {
    cases.group("tensor-page", "5.1");
    let good = page(1, &[tensor().bytes()], &two());
    cases.changes(
        &good,
        &[
            ("magic", "magic", &[(0, b"TPPH")]),
            ("version-2", "version 2", &[(4, &[2])]),
            ("kind-3", "kind", &[(5, &[3])]),
            ("reserved-6", "reserved", &[(7, &[1])]),
            ("reserved-20", "reserved", &[(31, &[1])]),
            ("entries-0", "no entry", &[(8, &[0])]),
            ("entries-2", "are needed", &[(8, &[2])]),
            ("entries-length", "are needed", &[(12, &[1])]),
            ("records-3", "are needed", &[(16, &[3])]),
            ("records-2-pow-32", "are needed", &[(16, &[255; 4])]),
        ],
    );
    cases.add("no-entry", "no entry", page(1, &[], &[]));
    cases.add("truncated", "are needed", &good[..good.len() - 1]);
    cases.add("trailing", "are needed", [&good[..], b"x"].concat());
    cases.add("header-only", "are needed", &good[..32]);
    cases.add("empty", "are needed", b"");
    let [a, b] = two();
    cases.add("record-of-nothing", "claimed by nothing", page(1, &[tensor().bytes()], &[a, b, a]));
    let with = |list: &[[u8; 128]]| page(1, &[tensor().bytes()], list);
    let top = based(b"8 above.", 2, b"middle");
    let middle = based(b"middle", 1, b"bottom");
    let bottom = based(b"bottom", 0, b"");
    cases.add("base-missing", "is missing", with(&[a, top, middle]));
    cases.add("base-twice", "twice", with(&[a, top, middle, bottom, bottom]));
    let flat = based(b"middle", 0, b"");
    cases.add("base-of-another-depth", "fall by one", with(&[a, top, flat]));
    let own = based(b"8 above.", 1, b"8 above.");
    cases.add("base-of-itself", "is missing", with(&[a, own]));
    cases.add("base-of-itself-again", "fall by one", with(&[a, own, own]));
    let nine = based(b"9 bottom.", 0, b"");
    let against = based(b"8 above.", 1, b"9 bottom.");
    cases.add("base-of-another-length", "8 bytes against 9", with(&[a, against, nine]));
}

fn tensors(cases: &mut Cases) {
    let mut one = |name: &str, error: &str, change: &dyn Fn(&mut Tensor)| {
        let mut entry = tensor();
        change(&mut entry);
        cases.group("tensor-page", "5.2");
        cases.add(name, error, page(1, &[entry.bytes()], &two()));
    };
    one("name-empty", "name is empty", &|t| t.name.clear());
    one("name-1025", "limit of 1024", &|t| t.name = vec![b'n'; 1025]);
    one("name-control", "control character", &|t| t.name = b"a\x1fb".to_vec());
    one("name-delete", "control character", &|t| t.name = b"a\x7fb".to_vec());
    one("name-c1-control", "control character", &|t| t.name = "a\u{85}b".into());
    one("name-not-utf-8", "not UTF-8", &|t| t.name = vec![0xC0, 0x80]);
    one("dtype-0", "unknown element type", &|t| t.dtype = 0);
    one("dtype-unknown", "unknown element type", &|t| t.dtype = 200);
    one("rank-17", "limit of 16", &|t| t.shape = vec![1; 17]);
    one("shape-overflow", "too large", &|t| t.shape = vec![u64::MAX, 2]);
    one("above-2-pow-53", "too large", &|t| t.shape = vec![1 << 52]);
    one("grid-short", "does not cover", &|t| t.grid = [1, 3, 4, 2, 4]);
    one("grid-overflow", "does not cover", &|t| t.grid = [1 << 63, 2, 16, 2, 4]);
    one("grid-empty", "emptiness", &|t| t.grid = [0; 5]);
    one("grid-of-nothing", "emptiness", &|t| t.shape = vec![0]);
    one("block-rows-0", "block does not fit", &|t| t.grid[3] = 0);
    one("block-rows-5", "block does not fit", &|t| t.grid[3] = 5);
    one("band-0", "block does not fit", &|t| t.grid[4] = 0);
    one("band-8", "block does not fit", &|t| t.grid[4] = 8);
    one("band-cuts-element", "element is cut", &|t| (t.grid[3], t.grid[4]) = (4, 3));
    one("row-cuts-element", "element is cut", &|t| t.grid = [1, 16, 1, 8, 1]);
    one("f4-in-rows", "element is cut", &|t| (t.dtype, t.shape) = (16, vec![32]));
    one("chunk-above-4-mib", "too large", &|t| {
        (t.shape, t.grid) = (vec![4 << 20], [1, 1, 8 << 20, 1, 8 << 20]);
    });
    one("records-1", "records for", &|t| t.records = 1);
    one("own-records-2-pow-32", "records for", &|t| t.records = u32::MAX);
    one("rectangle", "chunk 0 has", &|t| t.grid[3] = 3);
    cases.group("tensor-page", "5.2");
    let [a, b] = two();
    let named = |name: &[u8], file| Tensor { file, name: name.into(), ..tensor() }.bytes();
    let pair = |x: Vec<u8>, y: Vec<u8>| page(1, &[x, y], &[a, b, a, b]);
    cases.add("unsorted", "out of order", pair(named(b"b", 0), named(b"a", 1)));
    cases.add("unsorted-file", "out of order", pair(named(b"a", 1), named(b"a", 0)));
    cases.add("twice", "out of order", pair(named(b"a", 0), named(b"a", 0)));
    let cut = named(b"a", 0);
    cases.add("truncated-entry", "are needed", page(1, &[cut[..60].to_vec()], &[a, b]));
    cases.add("too-few-records", "records of an entry", page(1, &[named(b"a", 0)], &[a]));
    cases.add("entry-trailing", "are needed", page(1, &[[cut, vec![0]].concat()], &[a, b]));
}

/// A file entry; an extent is given as its bytes.
fn file(path: &[u8], flags: [u8; 2], size: u64, sha1: u8, extents: &[Vec<u8>]) -> Vec<u8> {
    let mut out = (path.len() as u16).to_le_bytes().to_vec();
    out.extend(flags);
    out.extend(path);
    out.extend(size.to_le_bytes());
    out.extend([5; 32]);
    out.extend([sha1; 20]);
    out.extend((extents.len() as u32).to_le_bytes());
    out.extend(extents.concat());
    out
}

fn content(len: u64, records: u32) -> Vec<u8> {
    [&[1][..], &len.to_le_bytes(), &[6; 32], &records.to_le_bytes()].concat()
}

fn file_pages(cases: &mut Cases) {
    cases.group("file-page", "5.4");
    let record = raw(b"8 bytes.");
    let paths: [(&str, &str, &[u8]); 14] = [
        ("path-empty", "not allowed", b""),
        ("path-4097", "limit of 4096", &[b'p'; 4097]),
        ("path-absolute", "not allowed", b"/etc/passwd"),
        ("path-up", "not allowed", b"../up"),
        ("path-up-inside", "not allowed", b"a/../../up"),
        ("path-up-last", "not allowed", b"a/.."),
        ("path-dot", "not allowed", b"./a"),
        ("path-empty-segment", "not allowed", b"a//b"),
        ("path-trailing-slash", "not allowed", b"a/"),
        ("path-backslash", "not allowed", b"..\\up"),
        ("path-nul", "control character", b"a\0b"),
        ("path-newline", "control character", b"a\nb"),
        ("path-c1-control", "control character", "a\u{9b}b".as_bytes()),
        ("path-not-utf-8", "not UTF-8", b"a\xff"),
    ];
    for (name, error, path) in paths {
        let entry = file(path, [0, 0], 8, 0, &[content(8, 1)]);
        cases.add(name, error, page(2, &[entry], &[record]));
    }
    let mut one = |name: &str, error: &str, entry: Vec<u8>| {
        cases.add(name, error, page(2, &[entry], &[record]));
    };
    let good = [content(8, 1)];
    one("flags", "unknown flags", file(b"a", [4, 0], 8, 0, &good));
    one("reserved", "reserved", file(b"a", [0, 1], 8, 0, &good));
    one("sha1-without-flag", "without its flag", file(b"a", [0, 0], 8, 1, &good));
    one("size-2-pow-53", "limit", file(b"a", [0, 0], 1 << 53, 0, &good));
    one("extent-kind-3", "unknown extent kind", file(b"a", [0, 0], 8, 0, &[vec![3, 0, 0, 0, 0]]));
    one("extent-empty", "empty extent", file(b"a", [0, 0], 8, 0, &[content(0, 1)]));
    one("extent-without-record", "empty extent", file(b"a", [0, 0], 8, 0, &[content(8, 0)]));
    one("extent-length", "chunks of 8 bytes in 9", file(b"a", [0, 0], 9, 0, &[content(9, 1)]));
    one("extents-short", "in a file of 9", file(b"a", [0, 0], 9, 0, &good));
    one("extents-long", "in a file of 7", file(b"a", [0, 0], 7, 0, &good));
    one("extents-2-pow-63", "limit", file(b"a", [0, 0], 8, 0, &[content(1 << 63, 1)]));
    one("too-few-records", "records of an entry", file(b"a", [0, 0], 8, 0, &[content(8, 2)]));
    let mut many = file(b"a", [0, 0], 8, 0, &good);
    let at = many.len() - 49;
    many[at..at + 4].fill(255);
    one("extents-2-pow-32", "are needed", many);
    let whole = |path: &[u8]| file(path, [0, 0], 8, 0, &good);
    let pair = |x: &[u8], y: &[u8]| page(2, &[whole(x), whole(y)], &[record; 2]);
    cases.add("unsorted", "out of order", pair(b"b", b"a"));
    cases.add("twice", "out of order", pair(b"a", b"a"));
}

/// A manifest's length, the manifest, and its table, from pages of (kind, first key, records, bytes).
fn graph(pages: &[(&str, &str, usize, Vec<u8>)], totals: Value) -> Result<Vec<u8>> {
    let table: Vec<u8> = pages.iter().flat_map(|page| page.3.clone()).collect();
    let list: Vec<_> = pages
        .iter()
        .map(|(kind, first, records, bytes)| {
            json!({"blake3": blake3::hash(bytes).to_hex().as_str(), "chunks": records,
                "first": first, "kind": kind, "length": bytes.len()})
        })
        .collect();
    let reference = json!({"length": table.len(), "pages": list,
        "table": blake3::hash(&table).to_hex().as_str()});
    let manifest = canonical(&json!({"chunks": [reference], "format": "tenpak-manifest",
        "totals": totals, "version": "1.0"}))?;
    Ok([&(manifest.len() as u32).to_le_bytes()[..], &manifest, &table].concat())
}

/// Rules that hold between objects: each page is right on its own.
fn graphs(cases: &mut Cases) -> Result<()> {
    let whole = |ordinal: u32| [&[2][..], &ordinal.to_le_bytes()].concat();
    let totals = |files: u64, raw: u64| {
        json!({"chunks": 2, "files": files, "raw_bytes": raw, "records": 2, "stored_bytes": 16,
            "tensors": 1})
    };
    let tensors = |tensor: Tensor| ("tensors", "t", 2, page(1, &[tensor.bytes()], &two()));
    let files = |first, list: &[Vec<u8>]| ("files", first, 0, page(2, list, &[]));
    let m = |size, extents: &[Vec<u8>]| files("m", &[file(b"m", [0, 0], size, 0, extents)]);
    let good = || (tensors(tensor()), m(16, &[whole(0)]));
    cases.group("graph", "5.4");
    let mut one = |name: &str, error: &str, pages: &[(&str, &str, usize, Vec<u8>)], totals| {
        cases.add(name, error, graph(pages, totals)?);
        Result::Ok(())
    };
    let with = |change: &dyn Fn(&mut Tensor)| {
        let mut changed = tensor();
        change(&mut changed);
        [tensors(changed), m(16, &[whole(0)])]
    };
    one("ordinal-gap", "no tensor before it", &with(&|t| t.ordinal = 1), totals(1, 16))?;
    one("tensor-of-another-file", "misplaced", &with(&|t| t.file = 1), totals(1, 16))?;
    let (t, _) = good();
    one("file-size", "in a file of 17", &[t.clone(), m(17, &[whole(0)])], totals(1, 17))?;
    one("tensor-twice", "misplaced", &[t.clone(), m(32, &[whole(0), whole(0)])], totals(1, 32))?;
    one("tensor-unknown", "misplaced", &[t.clone(), m(16, &[whole(7)])], totals(1, 16))?;
    one("tensor-in-no-file", "in no file", &[t.clone(), m(0, &[])], totals(1, 0))?;
    let empty = |path: &[u8]| file(path, [0, 0], 0, 0, &[]);
    let none = || {
        json!({"chunks": 0, "files": 2, "raw_bytes": 0, "records": 0, "stored_bytes": 0,
        "tensors": 0})
    };
    let folder = files("a", &[empty(b"a"), empty(b"a/b")]);
    one("file-and-folder", "a file and a folder", &[folder], none())?;
    // Not neighbours in the order of bytes.
    let folder = files("a", &[empty(b"a"), empty(b"a-b"), empty(b"a/b")]);
    one("file-and-folder-apart", "a file and a folder", &[folder], none())?;
    let (x, y) = (files("a", &[empty(b"a"), empty(b"c")]), files("b", &[empty(b"b")]));
    one("files-across-pages", "out of order", &[x, y], none())?;
    cases.group("graph", "6");
    let (t, f) = good();
    let (mut fewer, mut more) = (t.clone(), f.clone());
    (fewer.2, more.2) = (1, 1);
    cases.add("page-records", "number of records", graph(&[fewer, more], totals(1, 16))?);
    let mut kind = f.clone();
    (kind.0, kind.1) = ("tensors", "z");
    cases.add("page-kind", "kind is not", graph(&[t.clone(), kind], totals(1, 16))?);
    let good = graph(&[t, f], totals(1, 16))?;
    let mut table = good.clone();
    if let Some(last) = table.last_mut() {
        *last ^= 1;
    }
    cases.add("table-digest", "table: the digest", table);
    cases.add("table-short", "table: the digest", &good[..good.len() - 1]);
    cases.add("table-long", "exceeds the limit", [&good[..], b"x"].concat());
    Ok(())
}

fn layout(cases: &mut Cases, layout: &[u8]) {
    cases.group("layout", "7");
    cases.changes(
        layout,
        &[
            ("magic", "magic", &[(0, b"TPLX")]),
            ("version-2", "version 2", &[(4, &[2])]),
            ("reserved-5", "reserved", &[(5, &[1])]),
            ("reserved-48", "reserved", &[(63, &[1])]),
            ("count", "are needed", &[(8, &[1])]),
            ("count-above-2-pow-28", "limit", &[(8, &[1, 0, 0, 16])]),
            ("count-2-pow-64", "limit", &[(8, &[255; 8])]),
            ("entry-reserved", "reserved", &[(64 + 36, &[1])]),
            ("offset-beyond-a-pack", "limit", &[(64 + 32, &[255; 4])]),
        ],
    );
    cases.add("truncated", "are needed", &layout[..layout.len() - 1]);
    cases.add("trailing", "are needed", [layout, b"x"].concat());
    cases.add("header-cut", "are needed", &layout[..63]);
}

fn manifest(cases: &mut Cases, good: &Value) -> Result<()> {
    cases.group("manifest", "6");
    let mut one = |name: &str, error: &str, change: &dyn Fn(&mut Value)| -> Result<()> {
        let mut value = good.clone();
        change(&mut value);
        cases.add(name, error, canonical(&value)?);
        Ok(())
    };
    one("format", "magic", &|m| m["format"] = json!("tenpak-layout"))?;
    one("version-2", "version 2", &|m| m["version"] = json!("2.0"))?;
    one("version-10", "version 10", &|m| m["version"] = json!("10.0"))?;
    one("no-table", "0 tables", &|m| m["chunks"] = json!([]))?;
    one("two-tables", "2 tables", &|m| m["chunks"] = json!([m["chunks"][0], m["chunks"][0]]))?;
    one("no-totals", "missing field", &|m| m["totals"] = json!({}))?;
    one("negative", "expected u64", &|m| m["totals"]["files"] = json!(-1))?;
    one("records", "are announced", &|m| m["totals"]["records"] = json!(1))?;
    one("length", "are announced", &|m| m["chunks"][0]["length"] = json!(1))?;
    one("page-above-64-mib", "limit", &|m| {
        m["chunks"][0]["pages"][0]["length"] = json!((64 << 20) + 1);
    })?;
    one("records-above-2-pow-28", "limit", &|m| {
        m["chunks"][0]["pages"][0]["chunks"] = json!((1 << 28) + 1);
    })?;
    one("pages-unsorted", "not in order", &|m| {
        let page = m["chunks"][0]["pages"][0].clone();
        m["chunks"][0]["pages"][0] = m["chunks"][0]["pages"][1].clone();
        m["chunks"][0]["pages"][1] = page;
    })?;
    one("page-kind", "unknown variant", &|m| m["chunks"][0]["pages"][0]["kind"] = json!("chunks"))?;
    one("page-digest", "hexadecimal", &|m| m["chunks"][0]["pages"][0]["blake3"] = json!("00"))?;
    one("page-digest-uppercase", "hexadecimal", &|m| {
        m["chunks"][0]["pages"][0]["blake3"] = json!("AB".repeat(32));
    })?;
    one("table-id", "hexadecimal", &|m| m["chunks"][0]["table"] = json!("../../etc/passwd"))?;
    one("no-object", "expected struct Manifest", &|m| *m = json!([]))?;
    one("incomplete-no-list", "expected a sequence", &|m| m["incomplete"] = json!({"path": "a"}))?;
    one("incomplete-without-a-word", "missing field", &|m| {
        m["incomplete"] = json!([{"path": "config.json"}]);
    })?;
    one("pages-4097", "4097", &|m| {
        let page = json!({"blake3": "0".repeat(64), "chunks": 0, "first": "a", "kind": "tensors",
            "length": 1});
        m["chunks"][0]["pages"] = json!([page, page]);
        m["chunks"][0]["length"] = json!(4097);
        m["totals"]["records"] = json!(0);
    })?;
    let zeros = "0".repeat(64);
    let page = format!(
        "{{\"blake3\":\"{zeros}\",\"chunks\":0,\"first\":\"a\",\"kind\":\"tensors\",\"length\":1}},"
    );
    cases.repeat(&page, 4096);
    let mut long = good.clone();
    long["model_id"] = json!("x##########x");
    cases.add("above-1-mib", "limit", canonical(&long)?);
    cases.repeat("##########", 105_000);
    Ok(())
}

fn refs(cases: &mut Cases) -> Result<()> {
    cases.group("ref", "8.1");
    let id = "ab".repeat(32);
    let good = json!({"expires": 5, "format": "tenpak-ref", "manifest": id, "name": "a/b",
        "tag": "latest", "version": 3});
    for (name, error, field, value) in [
        ("format", "unknown variant", "format", json!("tenpak-refs-index")),
        ("name-up", "no artifact name", "name", json!("../b")),
        ("name-three-segments", "no artifact name", "name", json!("a/b/c")),
        ("name-empty", "no artifact name", "name", json!("")),
        ("name-long", "no artifact name", "name", json!("a".repeat(97))),
        ("name-newline", "no artifact name", "name", json!("a\n")),
        ("name-index", "reserved", "name", json!("index")),
        ("name-index-first", "reserved", "name", json!("Index/a")),
        ("tag-main", "must be written", "tag", json!("main")),
        ("tag-up", "no tag", "tag", json!("..")),
        ("tag-long", "no tag", "tag", json!("a".repeat(129))),
        ("manifest", "no identifier", "manifest", json!("00")),
        ("version-negative", "expected u64", "version", json!(-1)),
        ("expires-text", "expected u64", "expires", json!("never")),
    ] {
        let mut body = good.clone();
        body[field] = value;
        cases.add(name, error, signed("ref", body)?);
    }
    let entry = |n: u8| {
        json!({"key": format!("{n:02x}").repeat(16), "method": "ed25519",
        "signature": "00".repeat(64)})
    };
    let with = |list: Vec<Value>| canonical(&json!({"signatures": list, "signed": good}));
    cases.add("signatures-17", "more than 16", with((0..17).map(entry).collect())?);
    cases.add("signatures-unsorted", "out of order", with(vec![entry(2), entry(1)])?);
    cases.add("signature-twice", "listed twice", with(vec![entry(1), entry(1)])?);
    let mut hmac = entry(1);
    hmac["method"] = json!("hmac");
    cases.add("method-hmac", "unknown variant", with(vec![hmac])?);
    let mut short = entry(1);
    short["signature"] = json!("00");
    cases.add("signature-short", "not 128", with(vec![short])?);
    let mut long = good.clone();
    long["name"] = json!("x##########x");
    cases.add("above-64-kib", "limit", signed("ref", long)?);
    cases.repeat("##########", 7000);
    cases.group("refs-index", "8.2");
    let line = |name: &str| json!({"manifest": id, "name": name, "tag": "latest", "version": 3});
    let list = |refs: Vec<Value>| {
        let body = json!({"expires": 5, "format": "tenpak-refs-index", "refs": refs, "version": 1});
        signed("refs-index", body)
    };
    cases.add("unsorted", "out of order", list(vec![line("b"), line("a")])?);
    cases.add("twice", "listed twice", list(vec![line("a"), line("a")])?);
    cases.add("name", "no artifact name", list(vec![line("a/../b")])?);
    cases.add("format", "unknown variant", signed("refs-index", good)?);
    cases.add(
        "no-signature-list",
        "expected `",
        canonical(&json!({"signed": {"key": ed25519_key_id()}}))?,
    );
    index(cases, &id)
}

fn index(cases: &mut Cases, id: &str) -> Result<()> {
    cases.group("refs-root", "8.2");
    let good = json!({"expires": 5, "format": "tenpak-refs-root", "node": id, "version": 3});
    for (name, error, field, value) in [
        ("format", "unknown variant", "format", json!("tenpak-refs-index")),
        ("node", "no identifier", "node", json!("00")),
        ("version-negative", "expected u64", "version", json!(-1)),
        ("expires-text", "expected u64", "expires", json!("never")),
        ("field-unknown", "unknown field", "refs", json!([])),
    ] {
        let mut body = good.clone();
        body[field] = value;
        cases.add(name, error, signed("refs-root", body)?);
    }
    let mut long = good;
    long["node"] = json!("x##########x");
    cases.add("above-64-kib", "limit", signed("refs-root", long)?);
    cases.repeat("##########", 7000);

    cases.group("refs-node", "8.3");
    let entry = |name: &str| json!({"manifest": id, "name": name, "tag": "latest", "version": 3});
    let child = |name: &str| json!({"name": name, "node": id, "tag": "latest"});
    let node = |height: Value, kind: &str, items: Vec<Value>| {
        canonical(&json!({"format": "tenpak-refs-node", "height": height, kind: items}))
    };
    let refs = |items: Vec<Value>| node(json!(0), "refs", items);
    let nodes = |items: Vec<Value>| node(json!(1), "nodes", items);
    let many = |count: usize| (0..count).map(|i| format!("m{i:03}"));
    cases.add("unsorted", "out of order", refs(vec![entry("b"), entry("a")])?);
    cases.add("twice", "listed twice", refs(vec![entry("a"), entry("a")])?);
    cases.add("name", "no artifact name", refs(vec![entry("a/../b")])?);
    cases.add("name-index", "reserved", refs(vec![entry("index/a")])?);
    cases.add("refs-65", "items of a node", refs(many(65).map(|name| entry(&name)).collect())?);
    cases.add("nodes-unsorted", "out of order", nodes(vec![child("b"), child("a")])?);
    cases.add("nodes-none", "lists no node", nodes(Vec::new())?);
    cases.add("nodes-65", "items of a node", nodes(many(65).map(|name| child(&name)).collect())?);
    cases.add("node-id", "no identifier", {
        let mut short = child("a");
        short["node"] = json!("ab");
        nodes(vec![short])?
    });
    cases.add("height-16", "height of a node", node(json!(16), "nodes", vec![child("a")])?);
    cases.add("height-256", "expected u8", node(json!(256), "nodes", vec![child("a")])?);
    cases.add("height-0-of-nodes", "kind of items", node(json!(0), "nodes", vec![child("a")])?);
    cases.add("height-1-of-refs", "kind of items", node(json!(1), "refs", vec![entry("a")])?);
    let both = json!({"format": "tenpak-refs-node", "height": 0, "nodes": [], "refs": []});
    cases.add("refs-and-nodes", "kind of items", canonical(&both)?);
    let mut extra = entry("a");
    extra["expires"] = json!(5);
    cases.add("field-unknown", "unknown field", refs(vec![extra])?);
    let format = json!({"format": "tenpak-refs-index", "height": 0, "refs": []});
    cases.add("format", "unknown variant", canonical(&format)?);
    cases.add("spaced", "not canonical", {
        let text = String::from_utf8(refs(vec![entry("a")])?)?;
        text.replace("\"height\":", "\"height\": ")
    });
    let mut long = entry("a");
    long["tag"] = json!("x##########x");
    cases.add("above-32-kib", "limit", refs(vec![long])?);
    cases.repeat("##########", 3500);
    Ok(())
}

fn documents(cases: &mut Cases) -> Result<()> {
    let pad = "##########";
    cases.group("descriptor", "2.1");
    let id = "5e".repeat(16);
    let good = json!({"format": "tenpak-store", "store_id": id, "version": 1, "x": pad});
    let with = |field: &str, value: Value| {
        let mut changed = good.clone();
        changed[field] = value;
        canonical(&changed)
    };
    cases.add("version-2", "version 2", with("version", json!(2))?);
    cases.add("format", "magic", with("format", json!("tenpak-lease"))?);
    cases.add("no-store-id", "expected a string", with("store_id", json!(null))?);
    cases.add("above-4-kib", "limit", canonical(&good)?);
    cases.repeat(pad, 500);
    cases.group("by-tensor", "9");
    let manifest = "ab".repeat(32);
    let good = json!({"format": "tenpak-by-tensor", "manifest": manifest, "x": pad});
    cases.add("above-4-kib", "limit", canonical(&good)?);
    cases.repeat(pad, 500);
    let up = json!({"format": "tenpak-by-tensor", "manifest": "../../secret"});
    cases.add("manifest", "hexadecimal", canonical(&up)?);
    let other = json!({"format": "tenpak-ref", "manifest": manifest});
    cases.add("format", "magic", canonical(&other)?);
    cases.group("lease", "9");
    let lease = |objects: Value, started: Value| {
        canonical(
            &json!({"expires": 9, "format": "tenpak-lease", "objects": objects, "started": started}),
        )
    };
    cases.add("negative", "expected u64", lease(json!([]), json!(-1))?);
    cases.add("objects", "expected a string", lease(json!([1]), json!(1))?);
    cases.add("above-4-mib", "limit", lease(json!([pad]), json!(1))?);
    cases.repeat(pad, 420_000);
    cases.group("tombstone", "9");
    let good = json!({"format": "tenpak-tombstone", "marked": 1, "x": pad});
    cases.add("above-4-kib", "limit", canonical(&good)?);
    cases.repeat(pad, 500);
    let text = json!({"format": "tenpak-tombstone", "marked": "1"});
    cases.add("marked-text", "expected u64", canonical(&text)?);
    cases.add("format", "magic", canonical(&json!({"format": "tenpak", "marked": 1}))?);
    Ok(())
}

fn json_texts(cases: &mut Cases) {
    cases.group("json", "11");
    let texts: [(&str, &str, &[u8]); 27] = [
        ("empty", "EOF", b""),
        ("space", "not canonical", b"{ }"),
        ("newline-at-end", "not canonical", b"{}\n"),
        ("space-after-colon", "not canonical", b"{\"a\": 1}"),
        ("keys-unsorted", "not canonical", b"{\"b\":1,\"a\":2}"),
        ("keys-sorted-as-utf-16", "not canonical", b"{\"\xF0\x90\x80\x80\":1,\"\xEF\xBF\xBD\":2}"),
        ("key-twice", "not canonical", b"{\"a\":1,\"a\":1}"),
        ("fraction", "is not an integer", b"1.5"),
        ("fraction-zero", "is not an integer", b"1.0"),
        ("exponent", "is not an integer", b"1e3"),
        ("minus-zero", "is not an integer", b"-0"),
        ("plus", "expected value", b"+1"),
        ("leading-zero", "invalid number", b"01"),
        ("number-2-pow-53", "is not an integer", b"9007199254740992"),
        ("number-minus-2-pow-53", "is not an integer", b"-9007199254740992"),
        ("number-huge", "is not an integer", b"100000000000000000000000000000000000000000"),
        ("nan", "expected value", b"NaN"),
        ("escaped-letter", "not canonical", b"\"\\u0041\""),
        ("escaped-slash", "not canonical", b"\"\\/\""),
        ("escaped-uppercase", "not canonical", b"\"\\u001F\""),
        ("escaped-newline-long", "not canonical", b"\"\\u000a\""),
        ("escaped-surrogate", "hex escape", b"\"\\ud800\""),
        ("control-raw", "control character", b"\"\x01\""),
        ("byte-order-mark", "expected value", b"\xEF\xBB\xBF{}"),
        ("trailing-comma", "trailing comma", b"[1,]"),
        ("not-utf-8", "invalid unicode", b"\"\xC0\x80\""),
        ("two-values", "trailing characters", b"{}{}"),
    ];
    for (name, error, text) in texts {
        cases.add(name, error, text);
    }
    cases.add("nested-128", "recursion", ["[".repeat(128), "]".repeat(128)].concat());
}
