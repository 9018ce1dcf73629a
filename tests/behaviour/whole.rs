//! A model that nobody could load is not packed without a word; told to, it is, and the manifest says so.
//!
//! One file: a list of damaged folders, and what is said of each.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use safetensors::Dtype;
use serde_json::{Value, json};

use super::model::{Fill, Model, Tensor, bytes, read_tree};
use super::run::{Run, command, done, reader_agrees, tenpak, text};

pub fn tensor(name: &str, seed: u64) -> Tensor {
    Tensor::new(name, Dtype::BF16, &[8, 16], seed, Fill::Random)
}

/// Two shards with their index.
pub fn sharded() -> Model {
    let mut model = Model::of(vec![tensor("a", 1), tensor("b", 2)]);
    model.shards.push(vec![tensor("c", 3)]);
    model
}

const INDEX: &str = "model.safetensors.index.json";
const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";

/// A safetensors file of these bytes after its header.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

/// A file of bf16 tensors.
fn file(tensors: &[(&str, u64)]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, seed) in tensors {
        let own = bytes(64, *seed, Fill::Random);
        let offsets = [data.len(), data.len() + own.len()];
        header.insert(
            (*name).to_owned(),
            json!({"dtype": "BF16", "shape": [32], "data_offsets": offsets}),
        );
        data.extend(own);
    }
    raw(&Value::Object(header).to_string(), &data)
}

fn index(map: &[(&str, &str)]) -> Vec<u8> {
    let map: serde_json::Map<_, _> =
        map.iter().map(|(tensor, shard)| ((*tensor).to_owned(), json!(shard))).collect();
    json!({"metadata": {}, "weight_map": map}).to_string().into_bytes()
}

/// A GGUF file of one tensor, whole.
fn gguf(name: u8) -> Vec<u8> {
    let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes()].concat();
    bytes.extend([1_u64.to_le_bytes(), 0_u64.to_le_bytes()].concat());
    bytes.extend([&1_u64.to_le_bytes()[..], &[name], &1_u32.to_le_bytes()].concat());
    bytes.extend([&64_u64.to_le_bytes()[..], &0_u32.to_le_bytes(), &0_u64.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32) + 256, 1);
    bytes
}

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\n\
oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";

/// Files that are written over a whole model of two shards; nothing removes one.
type Files = Vec<(&'static str, Option<Vec<u8>>)>;

struct Case {
    files: Files,
    /// What is said, and the word and path of the manifest.
    said: &'static str,
    listed: (&'static str, &'static str),
}

fn case(files: Files, said: &'static str, listed: (&'static str, &'static str)) -> Case {
    Case { files, said, listed }
}

fn cases() -> Vec<Case> {
    let some = |text: &str| Some(text.as_bytes().to_vec());
    let page = "<!DOCTYPE html><html><body>Entry not found</body></html>";
    vec![
        // Those of the issue.
        case(
            vec![(SECOND, None)],
            "model-00002-of-00002.safetensors is missing, which model.safetensors.index.json asks for",
            ("shard_missing", SECOND),
        ),
        case(
            vec![(INDEX, Some(index(&[("a", FIRST), ("b", FIRST), ("c", SECOND), ("d", SECOND)])))],
            "model.safetensors.index.json: tensor \"d\" is not in \
             model-00002-of-00002.safetensors, nor in another shard",
            ("tensor_missing", INDEX),
        ),
        case(
            vec![(INDEX, Some(index(&[("a", FIRST), ("b", SECOND), ("c", SECOND)])))],
            "model.safetensors.index.json: tensor \"b\" is in model-00001-of-00002.safetensors, \
             and not in model-00002-of-00002.safetensors",
            ("tensor_elsewhere", INDEX),
        ),
        case(
            vec![(SECOND, Some(file(&[("b", 9), ("c", 3)])))],
            "model-00002-of-00002.safetensors: tensor \"b\" is in \
             model-00001-of-00002.safetensors too",
            ("tensor_twice", SECOND),
        ),
        case(
            vec![(SECOND, Some(LFS.to_vec()))],
            "model-00002-of-00002.safetensors is only a pointer of Git LFS",
            ("pointer", SECOND),
        ),
        case(
            vec![("config.json", some("{\"hidden_size\": 64,}"))],
            "config.json is no JSON object: key must be a string at line 1 column 20",
            ("no_json", "config.json"),
        ),
        // Others.
        case(
            vec![("tokenizer.json", Some(LFS.to_vec()))],
            "tokenizer.json is only a pointer of Git LFS",
            ("pointer", "tokenizer.json"),
        ),
        case(
            vec![("extra.bin", some("/annex/objects/SHA256E-s5--ab.bin\n"))],
            "extra.bin is only a pointer of git-annex",
            ("pointer", "extra.bin"),
        ),
        case(
            vec![("tokenizer_config.json", some(page))],
            "tokenizer_config.json is no JSON object: it does not begin with {",
            ("no_json", "tokenizer_config.json"),
        ),
        case(
            vec![("text_encoder/config.json", some(""))],
            "text_encoder/config.json is no JSON object: it is empty",
            ("no_json", "text_encoder/config.json"),
        ),
        case(
            vec![("config.json", some("\u{feff}{}"))],
            "config.json is no JSON object: it begins with a byte order mark",
            ("no_json", "config.json"),
        ),
        case(
            vec![("tokenizer.json", Some([b"{\"x\":\"", &vec![b'x'; 2 << 20][..]].concat()))],
            "tokenizer.json is no JSON object: it does not end with }",
            ("no_json", "tokenizer.json"),
        ),
        case(
            vec![(INDEX, some("{\"metadata\":{}}"))],
            "model.safetensors.index.json is no JSON object: missing field `weight_map` at line 1 \
             column 15",
            ("no_json", INDEX),
        ),
        case(
            vec![("unet/x.safetensors.index.fp16.json", Some(index(&[("a", "../../etc/passwd")])))],
            "unet/../../etc/passwd is missing, which unet/x.safetensors.index.fp16.json asks for",
            ("shard_missing", "unet/../../etc/passwd"),
        ),
        case(
            vec![
                (
                    "pytorch_model.bin.index.json",
                    Some(index(&[("a", "p-1.bin"), ("b", "p-2.bin")])),
                ),
                ("p-1.bin", some("pickled")),
            ],
            "p-2.bin is missing, which pytorch_model.bin.index.json asks for",
            ("shard_missing", "p-2.bin"),
        ),
        case(
            vec![
                ("q-00001-of-00003.gguf", Some(gguf(b'a'))),
                ("q-00003-of-00003.gguf", Some(gguf(b'b'))),
            ],
            "q-00002-of-00003.gguf is missing, which the name of q-00001-of-00003.gguf asks for",
            ("shard_missing", "q-00002-of-00003.gguf"),
        ),
        case(
            vec![(INDEX, None), (SECOND, None)],
            "model-00002-of-00002.safetensors is missing, which the name of \
             model-00001-of-00002.safetensors asks for",
            ("shard_missing", SECOND),
        ),
        case(
            vec![("q.gguf", Some(gguf(b'c')[..300].to_vec()))],
            "q.gguf: it ends before its last tensor",
            ("cut_short", "q.gguf"),
        ),
        case(
            vec![("q.gguf", some(page))],
            "q.gguf: it does not begin as GGUF does",
            ("cut_short", "q.gguf"),
        ),
        case(
            vec![("pytorch_model.bin", Some([b"PK\x03\x04", &[7; 100_000][..]].concat()))],
            "pytorch_model.bin: it ends before the directory of its archive",
            ("cut_short", "pytorch_model.bin"),
        ),
        case(
            vec![("tokenizer.model", some("# xet version 0\nfilesize = 3\nhash = 'a'\n"))],
            "tokenizer.model is only a pointer of git-xet",
            ("pointer", "tokenizer.model"),
        ),
        case(
            vec![("tokenizer.model", some(""))],
            "tokenizer.model: it is empty",
            ("cut_short", "tokenizer.model"),
        ),
        case(
            vec![("pytorch_model.bin", some(page))],
            "pytorch_model.bin: it is a page of the web",
            ("cut_short", "pytorch_model.bin"),
        ),
        case(
            vec![("merges.txt", some("Entry not found"))],
            "merges.txt: it holds the answer of a server that did not give the file",
            ("cut_short", "merges.txt"),
        ),
        case(
            vec![(INDEX, Some(index(&[])))],
            "model.safetensors.index.json is no JSON object: weight_map names no tensor",
            ("no_json", INDEX),
        ),
        case(
            vec![("lora/adapter_config.json", some("{\"r\":8}"))],
            "lora/adapter_model.safetensors is missing, which lora/adapter_config.json asks for",
            ("shard_missing", "lora/adapter_model.safetensors"),
        ),
        case(
            vec![
                (
                    "model_index.json",
                    some(
                        "{\"_class_name\":\"P\",\"vae\":[\"diffusers\",\"V\"],\"unet\":[\"diffusers\",\"U\"],\"safety_checker\":[null,null]}",
                    ),
                ),
                ("unet/config.json", some("{}")),
            ],
            "vae/ is missing, which model_index.json asks for",
            ("shard_missing", "vae/"),
        ),
        case(
            vec![("model.safetensors.aria2", Some(vec![0, 1]))],
            "model.safetensors.aria2 is of a download that did not end",
            ("unfinished", "model.safetensors.aria2"),
        ),
    ]
}

pub struct World {
    pub folder: tempfile::TempDir,
    pub store: PathBuf,
}

impl World {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store");
        Self { folder, store }
    }

    pub fn model(&self, name: &str, model: &Model, files: &[(&str, Option<Vec<u8>>)]) -> PathBuf {
        let path = self.folder.path().join(name);
        model.write(&path);
        for (file, data) in files {
            let file = path.join(file);
            match data {
                Some(data) => {
                    fs::create_dir_all(file.parent().unwrap()).unwrap();
                    fs::write(file, data).unwrap();
                }
                None => fs::remove_file(file).unwrap(),
            }
        }
        path
    }

    pub fn pack(&self, model: &Path, name: &str, more: &[&str]) -> Run {
        let all = ["pack", text(model), "--store", text(&self.store), "--name", name];
        tenpak(&[&all[..], more].concat())
    }

    pub fn unpacked(&self, name: &str) -> PathBuf {
        let out = self.folder.path().join(format!("{name}-out"));
        done(&["unpack", name, "--store", text(&self.store), "--out", text(&out)]);
        out
    }
}

#[test]
fn what_no_loader_would_take_is_named_and_refused() {
    let world = World::new();
    assert_eq!(world.pack(&world.model("whole", &sharded(), &[]), "whole", &[]).status, Some(0));
    for (number, Case { files, said, listed: (word, path) }) in cases().into_iter().enumerate() {
        let name = format!("m{number}");
        let model = world.model(&name, &sharded(), &files);
        let run = world.pack(&model, &name, &[]);
        assert_eq!(run.status, Some(1), "{said}: {}", run.error);
        let expected = format!(
            "{}: {said}; complete the model, or `tenpak pack --allow-incomplete` packs it as it is",
            model.display()
        );
        assert_eq!(run.text("error"), expected);
        let run = world.pack(&model, &name, &["--allow-incomplete"]);
        assert_eq!(run.status, Some(0), "{said}: {}", run.error);
        assert_eq!((run.number("faults"), run.error), (1, format!("tenpak: {said}\n")));
        let store = ["--store", text(&world.store)];
        let shown = done(&[&["inspect", name.as_str()], &store[..]].concat());
        assert_eq!(shown.json["incomplete"], json!([{"fault": word, "path": path}]));
        let warning = format!(
            "tenpak: {name}:latest was packed as no whole model: {path} ({})\n",
            word.replace('_', " ")
        );
        assert_eq!(shown.error, warning);
        assert_eq!(read_tree(&world.unpacked(&name)), read_tree(&model), "{said}");
        reader_agrees(&world.store, &name, &world.folder.path().join(format!("{name}-reader")));
    }
    let shown = command(&["inspect", "m0", "--store", text(&world.store), "-q"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("\nincomplete {SECOND} (shard missing)\n")), "{shown}");
}

/// What a model is long enough for is read to its end; that is a small part of packing it.
#[test]
fn long_json_of_a_large_model_is_parsed() {
    let world = World::new();
    let broken = [b"{\"x\":\"", &vec![b'x'; 200 << 10][..], b"\"} {}"].concat();
    let large = Tensor::new("a", Dtype::BF16, &[30 << 10, 1 << 10], 1, Fill::Same);
    let files = [("tokenizer.json", Some(broken))];
    let model = world.model("m", &Model::of(vec![large]), &files);
    let run = world.pack(&model, "m", &[]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("tokenizer.json is no JSON object: trailing"), "{}", run.error);
}

/// As in a Hub cache of which a blob was deleted.
#[test]
fn a_link_to_what_is_not_there_is_a_missing_file() {
    let world = World::new();
    let model = world.model("m", &sharded(), &[(SECOND, None)]);
    symlink("../../blobs/12ab", model.join(SECOND)).unwrap();
    let run = world.pack(&model, "m", &[]);
    assert_eq!(run.status, Some(1), "{}", run.error);
    let said = format!("{}: {SECOND} is a link to a file that is not there; ", model.display());
    assert!(run.text("error").starts_with(&said), "{}", run.error);
    let run = world.pack(&model, "m", &["--allow-incomplete"]);
    assert_eq!(
        (run.status, run.number("faults"), run.number("files")),
        (Some(0), 1, 4),
        "{}",
        run.error
    );
    let shown = done(&["inspect", "m", "--store", text(&world.store)]);
    assert_eq!(shown.json["incomplete"], json!([{"fault": "shard_missing", "path": SECOND}]));
}

/// Many faults are all counted, and the first of them told.
#[test]
fn many_faults_fit_into_a_message_and_a_manifest() {
    let world = World::new();
    let map: Vec<_> =
        (0..300).map(|i| (format!("t{i:03}"), format!("s{i:03}.safetensors"))).collect();
    let map: Vec<_> = map.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    let files = [("x.safetensors.index.json", Some(index(&map)))];
    let model = world.model("m", &Model::of(Vec::new()), &files);
    let run = world.pack(&model, "m", &[]);
    assert_eq!(run.status, Some(1));
    let error = run.text("error");
    assert!(error.contains("s007.safetensors is missing") && !error.contains("s008"), "{error}");
    assert!(error.contains("; and 292 more faults; complete"), "{error}");
    assert_eq!(world.pack(&model, "m", &["--allow-incomplete"]).number("faults"), 300);
    let shown = done(&["inspect", "m", "--store", text(&world.store)]);
    assert_eq!(shown.json["incomplete"].as_array().map(Vec::len), Some(64));
    let loaded = tenpak(&["load", "m", "--store", text(&world.store)]);
    assert!(loaded.error.contains("s000.safetensors (shard missing), and 63 more faults"));
}

/// What loaders take is packed, however odd it looks.
#[test]
fn what_loaders_take_is_no_fault() {
    let world = World::new();
    let some = |text: &str| Some(text.as_bytes().to_vec());
    let taken: Vec<(&str, Files)> = vec![
        // Python reads and writes these, and Mamba's configurations have them.
        (
            "nan",
            vec![("config.json", some("{\"limit\":[0.0,Infinity],\"a\":-Infinity,\"b\":NaN}"))],
        ),
        ("surrogate", vec![("tokenizer_config.json", some("{\"bos\":\"\\ud83d\"}"))]),
        (
            "huge number",
            vec![("config.json", some("{\"x\":1e999,\"y\":123456789012345678901234567890}"))],
        ),
        // The index of weights that were not fetched.
        (
            "torch index",
            vec![("pytorch_model.bin.index.json", Some(index(&[("a", "p-1-of-2.bin")])))],
        ),
        (
            "flax index",
            vec![("flax_model.msgpack.index.json", Some(index(&[("a", "f-1.msgpack")])))],
        ),
        // Two sets of the same names are two models.
        ("variant", vec![("model.fp16.safetensors", Some(file(&[("a", 1), ("b", 2), ("c", 3)])))]),
        // What an earlier upload left, which no index lists.
        ("stale set", vec![("model-00003-of-00005.safetensors", Some(file(&[("a", 1)])))]),
        // Numbered from zero, and with more digits.
        (
            "from zero",
            vec![
                ("z-00000-of-00002.gguf", Some(gguf(b'd'))),
                ("z-00001-of-00002.gguf", Some(gguf(b'e'))),
            ],
        ),
        (
            "names of its own",
            vec![
                ("n/model.safetensors-00001-of-00002.safetensors", Some(file(&[("a", 1)]))),
                ("n/model.safetensors-00002-of-00002.safetensors", Some(file(&[("b", 1)]))),
                (
                    "n/model.safetensors.index.json",
                    Some(index(&[
                        ("a", "model.safetensors-00001-of-00002.safetensors"),
                        ("b", "model.safetensors-00002-of-00002.safetensors"),
                    ])),
                ),
            ],
        ),
        ("digits", vec![("d-1-of-000001.gguf", Some(gguf(b'f')))]),
        // A name that is data, and a text that only speaks of pointers.
        ("data", vec![("data/train.json", some("{}\n{}\n")), ("vocab.txt", some("x"))]),
        (
            "readme",
            vec![("LFS.md", some("A pointer begins: version https://git-lfs.github.com/spec/v1"))],
        ),
        ("not torch", vec![("tokens.bin", some("PK")), ("empty.bin", some(""))]),
        (
            "later gguf",
            vec![("later.gguf", Some([&b"GGUF"[..], &9_u32.to_le_bytes(), &[0; 99]].concat()))],
        ),
    ];
    for (number, (what, files)) in taken.iter().enumerate() {
        let name = format!("m{number}");
        let model = world.model(&name, &sharded(), files);
        let run = world.pack(&model, &name, &[]);
        assert_eq!(
            (run.status, run.error.contains("incomplete")),
            (Some(0), false),
            "{what}: {}",
            run.error
        );
        assert_eq!(run.number("faults"), 0, "{what}");
    }
    // A single file is no model, and is none that is not whole.
    let file = world.folder.path().join(FIRST);
    fs::write(&file, self::file(&[("a", 1)])).unwrap();
    let run = world.pack(&file, "single", &[]);
    assert_eq!(run.status, Some(1), "one of a set of two is: {}", run.error);
}

/// The same holds for whoever reads a folder to make another model of it.
#[test]
fn no_other_model_is_made_of_such_a_folder() {
    let world = World::new();
    let model = world.model("m", &sharded(), &[(SECOND, None)]);
    let store = ["--store", text(&world.store), "--name", "q"];
    let run = tenpak(&[&["quantize", text(&model), "--method", "nf4"], &store[..]].concat());
    assert_eq!(run.status, Some(1), "{}", run.error);
    assert!(run.error.contains("model-00002-of-00002.safetensors is missing"), "{}", run.error);
    assert!(!world.store.exists());
    // Of an artifact that was packed so, it is: and says so in its turn.
    let whole = world.model("whole", &sharded(), &[]);
    assert_eq!(world.pack(&whole, "whole", &[]).status, Some(0));
    let broken = world.model("broken", &sharded(), &[("tokenizer.json", Some(LFS.to_vec()))]);
    assert_eq!(world.pack(&broken, "broken", &["--allow-incomplete"]).status, Some(0));
    let store = ["--store", text(&world.store)];
    let delta = ["delta", "broken", "--base", "whole", "--name", "d"];
    done(&[&delta[..], &store].concat());
    let shown = done(&[&["inspect", "d"], &store[..]].concat());
    let expected = json!([{"fault": "pointer", "path": "tokenizer.json"}]);
    assert_eq!(shown.json["incomplete"], expected);
}

#[test]
fn what_is_left_out_is_counted_and_named() {
    let world = World::new();
    let model = world.model("m", &sharded(), &[]);
    for folder in [".git/objects", ".cache/huggingface/download", "logs/empty", "sub"] {
        fs::create_dir_all(model.join(folder)).unwrap();
    }
    fs::write(model.join(".git/config"), "[core]").unwrap();
    fs::write(model.join("sub/.git"), "gitdir: /home/me/secret").unwrap();
    fs::write(model.join("sub/notes.txt"), "x").unwrap();
    symlink("logs", model.join("also")).unwrap();
    let run = world.pack(&model, "m", &["-v"]);
    assert_eq!((run.status, run.number("left_out")), (Some(0), 5), "{}", run.error);
    let named = [".cache/", ".git/", "also/empty/", "logs/empty/", "sub/.git"];
    let named: String = named.map(|path| format!("tenpak: {path} is left out\n")).concat();
    assert_eq!(run.error.split_once("it was made\n").unwrap().1, named);
    let run = world.pack(&model, "m", &[]);
    assert_eq!((run.number("left_out"), run.error.as_str()), (5, ""));
    let all = ["pack", text(&model), "--store", text(&world.store), "--name", "m"];
    let shown = command(&all).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert_eq!(shown.lines().nth(2), Some("5 left out (-v names them)"), "{shown}");
    assert!(!world.unpacked("m").join("sub/.git").exists());
    let plain = world.model("plain", &sharded(), &[]);
    assert_eq!(world.pack(&plain, "plain", &[]).number("left_out"), 0);
}
