//! Model directories made from a seed: the same seed gives the same bytes everywhere.
//!
//! A [`Model`] says what lies in the directory; `write` puts it there, and `snapshot` does so the
//! way that a Hub cache does, as links into a folder of blobs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use proptest::prelude::*;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use safetensors::{Dtype, tensor::TensorView};

/// Every element type that safetensors has.
pub const DTYPES: [Dtype; 22] = [
    Dtype::BOOL,
    Dtype::F4,
    Dtype::F6_E2M3,
    Dtype::F6_E3M2,
    Dtype::U8,
    Dtype::I8,
    Dtype::F8_E5M2,
    Dtype::F8_E4M3,
    Dtype::F8_E8M0,
    Dtype::F8_E4M3FNUZ,
    Dtype::F8_E5M2FNUZ,
    Dtype::I16,
    Dtype::U16,
    Dtype::F16,
    Dtype::BF16,
    Dtype::I32,
    Dtype::U32,
    Dtype::F32,
    Dtype::C64,
    Dtype::F64,
    Dtype::I64,
    Dtype::U64,
];

/// What a tensor's bytes look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// As good as random: no codec makes it smaller.
    Random,
    /// Few different values: every codec makes it smaller.
    Sparse,
    /// The same byte everywhere: chunks repeat.
    Same,
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct Tensor {
    pub name: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub data: Vec<u8>,
}

impl Tensor {
    /// A tensor whose bytes follow from `seed`. The last dimension is rounded up until the whole
    /// takes whole bytes.
    pub fn new(name: &str, dtype: Dtype, shape: &[usize], seed: u64, fill: Fill) -> Self {
        let mut shape = shape.to_vec();
        while !(shape.iter().product::<usize>() * dtype.bitsize()).is_multiple_of(8) {
            match shape.last_mut() {
                Some(last) => *last += 1,
                None => shape.push(8),
            }
        }
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        Self { name: name.to_owned(), dtype, shape, data: bytes(len, seed, fill) }
    }
}

/// `len` bytes that follow from `seed`.
pub fn bytes(len: usize, seed: u64, fill: Fill) -> Vec<u8> {
    let mut data = vec![seed as u8; len];
    if fill != Fill::Same {
        StdRng::seed_from_u64(seed).fill_bytes(&mut data);
    }
    if fill == Fill::Sparse {
        data.iter_mut().for_each(|byte| *byte &= 3);
    }
    data
}

/// A file that is not safetensors.
#[derive(Debug, Clone)]
pub struct Plain {
    pub data: Vec<u8>,
    pub executable: bool,
}

/// What lies in a model directory.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// Shards; with more than one there is an index as well.
    pub shards: Vec<Vec<Tensor>>,
    /// Everything else, by path.
    pub files: BTreeMap<String, Plain>,
}

impl Model {
    /// A model of these tensors in one file, with a configuration and a README.
    pub fn of(tensors: Vec<Tensor>) -> Self {
        Self { shards: vec![tensors], ..Self::default() }
            .with("config.json", br#"{"architectures":["Test"],"hidden_size":64}"#)
            .with("README.md", b"# A model\n\nMade from a seed.\n")
    }

    /// The model with one more file.
    pub fn with(mut self, path: &str, data: &[u8]) -> Self {
        self.files.insert(path.to_owned(), Plain { data: data.to_vec(), executable: false });
        self
    }

    /// `count` matrices of `rows` x 1024 bf16, one after the other, that no codec makes smaller.
    pub fn layers(count: usize, rows: usize, seed: u64) -> Self {
        let tensor = |i: usize| {
            let name = format!("model.layers.{i:02}.mlp.up_proj.weight");
            Tensor::new(&name, Dtype::BF16, &[rows, 1024], seed + i as u64, Fill::Random)
        };
        Self::of((0..count).map(tensor).collect())
    }

    /// The names of the shards' files.
    fn shard_name(&self, i: usize) -> String {
        match self.shards.len() {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        }
    }

    /// Every file of the model: its bytes and whether it is executable.
    pub fn contents(&self) -> BTreeMap<String, Plain> {
        let mut all = self.files.clone();
        let mut weight_map = BTreeMap::new();
        for (i, tensors) in self.shards.iter().enumerate() {
            let name = self.shard_name(i);
            let views = tensors.iter().map(|t| {
                weight_map.insert(t.name.clone(), name.clone());
                let view = TensorView::new(t.dtype, t.shape.clone(), &t.data);
                (t.name.as_str(), view.expect("a tensor that fits its shape"))
            });
            let data = safetensors::serialize(views.collect::<Vec<_>>(), None);
            let data = data.expect("a safetensors file");
            all.insert(name, Plain { data, executable: false });
        }
        if self.shards.len() > 1 {
            let index = serde_json::json!({"metadata": {}, "weight_map": weight_map});
            let data = index.to_string().into_bytes();
            let path = "model.safetensors.index.json".to_owned();
            all.insert(path, Plain { data, executable: false });
        }
        all
    }

    /// Writes the model into `folder`.
    pub fn write(&self, folder: &Path) {
        for (path, plain) in self.contents() {
            write_file(&folder.join(path), &plain);
        }
    }

    /// Writes the model below `cache` as the Hub's client does, and returns the snapshot's folder.
    pub fn snapshot(&self, cache: &Path) -> std::path::PathBuf {
        let snapshot = cache.join("models--org--model/snapshots/0123abcd");
        for (path, plain) in self.contents() {
            let blob = blake3::hash(path.as_bytes()).to_hex();
            write_file(&cache.join("models--org--model/blobs").join(blob.as_str()), &plain);
            let link = snapshot.join(&path);
            fs::create_dir_all(link.parent().expect("a folder")).expect("a folder");
            let up = "../".repeat(path.matches('/').count() + 2);
            symlink(format!("{up}blobs/{blob}"), link).expect("a link");
        }
        snapshot
    }
}

fn write_file(path: &Path, plain: &Plain) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, &plain.data).expect("a file");
    let mode = if plain.executable { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Every file below `folder`, links followed, as [`Model::contents`] gives them.
pub fn read_tree(folder: &Path) -> BTreeMap<String, (blake3::Hash, u64, bool)> {
    fn walk(folder: &Path, prefix: &str, out: &mut BTreeMap<String, (blake3::Hash, u64, bool)>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            let name = format!("{prefix}{name}");
            if path.is_dir() {
                walk(&path, &format!("{name}/"), out);
            } else {
                let data = fs::read(&path).expect("a file");
                let mode = fs::metadata(&path).expect("a file").permissions().mode();
                out.insert(name, (blake3::hash(&data), data.len() as u64, mode & 0o100 != 0));
            }
        }
    }
    let mut out = BTreeMap::new();
    walk(folder, "", &mut out);
    out
}

fn shape() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![
        1 => Just(vec![]),
        1 => prop::collection::vec(0_usize..4, 0..5),
        4 => prop::collection::vec(1_usize..70, 1..4),
        1 => prop::collection::vec(1_usize..3, 5..12),
        // Large enough for a grid of its own: bands, blocks, leading dimensions, odd borders.
        2 => (1_usize..3, 900_usize..1500, 900_usize..1500).prop_map(|(e, r, c)| vec![e, r, c]),
        1 => (2000_usize..3000, 1001_usize..1400).prop_map(|(r, c)| vec![r, c]),
    ]
}

fn tensor_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "model\\.layers\\.[0-9]\\.(self_attn\\.[qkvo]_proj|mlp\\.(up|down|gate)_proj)\\.weight",
        "model\\.layers\\.[0-9]\\.mlp\\.experts\\.[0-9]\\.w[123]\\.weight",
        "[a-zA-Z0-9._/ äß漢-]{1,40}",
        Just("lm_head.weight".to_owned()),
    ]
}

/// Models of all shapes: odd element types, scalars, nothing at all, shards, folders, big files.
pub fn models() -> impl Strategy<Value = Model> {
    let fill = prop_oneof![Just(Fill::Random), Just(Fill::Sparse), Just(Fill::Same)];
    let dtype = prop::sample::select(DTYPES.to_vec());
    let tensor = (shape(), dtype, any::<u64>(), fill.clone());
    let shard = prop::collection::btree_map(tensor_name(), tensor, 0..7);
    let path =
        "([a-z.]{0,3}[a-zA-Z0-9ö -]{1,9}/){0,3}[a-zA-Z0-9 _é-]{1,20}(\\.json|\\.txt|\\.bin|)";
    let size = prop_oneof![Just(0_usize), 1_usize..3000, 100_000_usize..3_000_000];
    let plain = (size, any::<u64>(), fill, any::<bool>());
    let files = prop::collection::btree_map(path, plain, 0..6);
    (prop::collection::vec(shard, 0..4), files).prop_map(|(shards, files)| {
        let tensor = |(name, (shape, dtype, seed, fill)): (String, (Vec<usize>, _, _, _))| {
            Tensor::new(&name, dtype, &shape, seed, fill)
        };
        let shards = shards.into_iter().map(|s| s.into_iter().map(tensor).collect()).collect();
        let mut model = Model { shards, files: BTreeMap::new() };
        for (path, (size, seed, fill, executable)) in files {
            let data = bytes(size, seed, fill);
            // The case of a file where another one's folder is cannot be written.
            let clashes = |other: &String| {
                other.starts_with(&format!("{path}/")) || path.starts_with(&format!("{other}/"))
            };
            let ignored =
                path.split('/').any(|s| s == ".git" || s == ".cache" || s == "." || s == "..");
            if !model.files.keys().any(clashes) && !ignored {
                model.files.insert(path, Plain { data, executable });
            }
        }
        model
    })
}
