//! A signed artifact whose chunks lie in two packs, some stored against others, a client that has seen its ref, and what
//! reading it must give.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use safetensors::Dtype;
use tenpak::store::{ArtifactGraph, Store};
use tenpak::transport::dir::DirBackend;

use crate::model::{Fill, Model, Tensor, read_tree};
use crate::run::{Run, command, done, fresh_folder, text};

/// A command that reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    Load,
    Unpack,
    Verify,
}

pub const READERS: [Reader; 3] = [Reader::Load, Reader::Unpack, Reader::Verify];

/// A chunk of the artifact, where it lies, and to whom it belongs.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub object: String,
    pub start: u64,
    pub end: u64,
    /// The tensor's name, or the file's path.
    pub owner: String,
    pub is_tensor: bool,
}

pub struct World {
    pub store: PathBuf,
    pub key: PathBuf,
    pub home: PathBuf,
    pub id: String,
    pub table: String,
    /// The ref as it was before the artifact was packed anew.
    pub old_ref: Vec<u8>,
    pub chunks: Vec<Chunk>,
    files: BTreeMap<String, (blake3::Hash, u64, bool)>,
    digests: BTreeMap<String, String>,
}

pub const REF: &str = "refs/org/model/@latest";

fn model(changed: bool) -> Model {
    let mut tensors = Vec::new();
    for i in 0..6_u64 {
        let seed = if changed && i >= 4 { i + 100 } else { i };
        let fill = if i % 3 == 2 { Fill::Sparse } else { Fill::Random };
        let name = format!("model.layers.{i}.mlp.down_proj.weight");
        let mut tensor = Tensor::new(&name, Dtype::BF16, &[320, 1024], seed, fill);
        if changed && i == 3 {
            // Stored against what it was.
            tensor.data.iter_mut().step_by(2).for_each(|byte| *byte ^= 1);
        }
        tensors.push(tensor);
        let name = format!("model.layers.{i}.norm.weight");
        tensors.push(Tensor::new(&name, Dtype::F32, &[64], seed + 50, Fill::Random));
    }
    let wide = Tensor::new("lm_head.weight", Dtype::F32, &[513, 1031], 7, Fill::Random);
    let mut model = Model::of(tensors);
    model.shards.push(vec![wide]);
    let readme = if changed { "# Tuned\n" } else { "# Base\n" };
    model
        .with("README.md", readme.as_bytes())
        .with("folder/tokenizer.bin", &crate::model::bytes(700_000, 3, Fill::Random))
        .with("empty", b"")
}

impl World {
    pub fn get() -> &'static Self {
        static WORLD: OnceLock<World> = OnceLock::new();
        WORLD.get_or_init(Self::make)
    }

    fn make() -> Self {
        let folder = fresh_folder("world");
        let (store, home) = (folder.join("store"), folder.join("home"));
        let (base, tuned) = (folder.join("base"), folder.join("tuned"));
        let key = folder.join("key");
        done(&["keygen", text(&key)]);
        model(false).write(&base);
        model(true).write(&tuned);
        let pack = |input: &Path, name: &str, more: &[&str]| {
            let sign = ["--sign", text(&key), "--codec", "auto"];
            crate::run::pack(&store, input, name, &[&sign, more].concat())
        };
        pack(&base, "org/base", &[]);
        pack(&base, "org/model", &[]);
        let old_ref = std::fs::read(store.join(REF)).unwrap();
        let id = pack(&tuned, "org/model", &["--base", "org/base"]).text("manifest");
        let opened = Store::new(Arc::new(DirBackend::new(store.clone())));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let whole = runtime.block_on(ArtifactGraph::read(&opened, id.parse().unwrap())).unwrap();
        let mut chunks = Vec::new();
        let mut push = |chunk: &tenpak::store::Placed, owner: &str, is_tensor| {
            let start = u64::from(chunk.place.offset);
            let end = start + u64::from(chunk.record.stored_len);
            let object = format!("packs/{}", chunk.place.pack);
            let owner = owner.to_owned();
            chunks.push(Chunk { object, start, end, owner, is_tensor });
        };
        for (i, (tensor, _)) in whole.tensors.iter().enumerate() {
            whole.tensor_chunks(i).iter().for_each(|chunk| push(chunk, &tensor.name, true));
            let first = whole.tensors[i].1;
            for chunk in first..first + whole.tensor_chunks(i).len() {
                let bases = whole.bases_of(chunk).map(|base| &whole.chunks[base]);
                bases.for_each(|base| push(base, &tensor.name, true));
            }
        }
        assert!(whole.has_bases());
        for (i, (file, first)) in whole.files.iter().enumerate() {
            let end = whole.files.get(i + 1).map_or(whole.chunks.len(), |(_, next)| *next);
            whole.chunks[*first..end].iter().for_each(|chunk| push(chunk, &file.path, false));
        }
        let mut packs: Vec<_> = chunks.iter().map(|chunk| &chunk.object).collect();
        packs.sort();
        packs.dedup();
        assert!(packs.len() >= 2, "the artifact must lie in two packs");
        let tensors = model(true).shards.into_iter().flatten();
        let digest = |t: Tensor| (t.name, blake3::hash(&t.data).to_hex().to_string());
        let world = Self {
            table: format!("tables/{}", whole.manifest.table().table),
            files: read_tree(&tuned),
            digests: tensors.map(digest).collect(),
            key: folder.join("key.pub"),
            store,
            home,
            id,
            old_ref,
            chunks,
        };
        // The client sees the ref of today, and everything is right before anything is wrong.
        for reader in READERS {
            let run = world.read(reader, text(&world.store), &[]);
            assert_eq!(run.status, Some(0), "{reader:?}: {}", run.error);
        }
        world
    }

    /// Runs a reader to its end, which must come soon (it is killed after a minute), and checks what it delivered.
    pub fn read(&self, reader: Reader, store: &str, more: &[&str]) -> Run {
        let out = tempfile::tempdir_in(self.store.parent().unwrap()).unwrap();
        let out = out.path().join("out");
        let key = text(&self.key);
        let common = ["--json", "--store", store, "--trust", key];
        let own: &[&str] = match reader {
            Reader::Load => &["load", "org/model", "--digest"],
            Reader::Unpack => &["unpack", "org/model", "--out", text(&out)],
            Reader::Verify => &["verify", "org/model"],
        };
        let run = self.bounded(&[&common[..], own, more].concat());
        let what = || format!("{reader:?}: {}", run.error);
        match (reader, run.status) {
            (Reader::Load, Some(0)) => {
                let delivered: BTreeMap<String, String> =
                    serde_json::from_value(run.json["digests"].clone()).unwrap();
                assert_eq!(delivered, self.digests, "wrong bytes");
            }
            (Reader::Unpack, Some(0)) => assert_eq!(read_tree(&out), self.files, "wrong bytes"),
            (Reader::Unpack, _) if out.exists() => {
                // What is there is whole and right.
                for (path, found) in read_tree(&out) {
                    assert_eq!(self.files.get(&path), Some(&found), "{path}: {}", what());
                }
            }
            _ => {}
        }
        if run.status != Some(0) {
            assert!(
                matches!(run.status, None | Some(1 | 3 | 4 | 5)),
                "{:?} {}",
                run.status,
                what()
            );
            assert!(!run.error.trim().is_empty(), "no word about what is wrong: {:?}", run.status);
        }
        run
    }

    fn bounded(&self, arguments: &[&str]) -> Run {
        let mut child = command(arguments)
            .env("HOME", &self.home)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = Instant::now();
        // Results are a few kilobytes, which the pipes hold.
        while child.try_wait().unwrap().is_none() {
            if start.elapsed() > Duration::from_secs(60) {
                child.kill().unwrap();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Run::of(child.wait_with_output().unwrap())
    }
}
