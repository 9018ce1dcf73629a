//! Loaders that map files and read them in many threads at a time, as `from_pretrained` does: none ever hangs.
//! `TENPAK_SOAK=N` is how often each is begun.

use std::path::Path;
use std::process::Command;

use super::model::{Fill, Model, Tensor};
use super::reads::assert_fetched_once;
use super::run::fresh_folder;
use super::world::{World, one};
use safetensors::Dtype;

/// Eight threads that load four files, whole and in parts; prints a sum of each file.
const LOADER: &str = r#"
import faulthandler, hashlib, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
faulthandler.dump_traceback_later(50, exit=True)
from safetensors import safe_open
from safetensors.numpy import load_file

def whole(path):
    sums = hashlib.sha256()
    for _, tensor in sorted(load_file(path).items()):
        sums.update(tensor)
    return sums.hexdigest()

def parts(path):
    sums = hashlib.sha256()
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            part = file.get_slice(name)
            rows = part.get_shape()[0]
            for at in range(0, rows, 100):
                sums.update(part[at : min(at + 100, rows)])
    return sums.hexdigest()

paths = sorted(Path(sys.argv[1]).glob("*.safetensors"))
with ThreadPoolExecutor(8) as pool:
    one, other = pool.map(whole, paths), pool.map(parts, paths)
    one, other = list(one), list(other)
assert one == other and len(one) == 4, (one, other)
print(*one)
"#;

fn model() -> Model {
    let shard = |shard: usize| {
        let tensor = |layer: usize| {
            let name = format!("model.layers.{}.mlp.up_proj.weight", shard * 3 + layer);
            Tensor::new(&name, Dtype::F16, &[700, 1024], (shard * 3 + layer) as u64, Fill::Random)
        };
        (0..3).map(tensor).collect()
    };
    let mut model = Model::of(Vec::new());
    model.shards = (0..4).map(shard).collect();
    model
}

fn load(folder: &Path) -> String {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/python");
    let output = Command::new("timeout")
        .args(["-k", "1", "60"])
        .arg(&python)
        .args(["-c", LOADER])
        .arg(folder)
        .output()
        .expect("a process");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "this needs tests/setup.sh, or it hung: {error}");
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn loaders_in_parallel_threads_never_hang() {
    let soak = std::env::var("TENPAK_SOAK");
    let runs = soak.map_or(5, |n| n.parse().expect("TENPAK_SOAK is a number"));
    let world = World::new("loaders");
    let (folder, whole) = world.pack("org/m", &model());
    let right = load(&folder);
    let stored = whole.manifest.totals.stored_bytes;
    for run in 0..runs {
        let mut options = world.options();
        // Now with less memory than is asked for at a time, now with enough, now with a cache on disk.
        options.memory = if run % 3 == 0 { 2 << 20 } else { 64 << 20 };
        options.disk = (run % 3 == 2).then(|| (fresh_folder("loaders-cache"), 1 << 30));
        let mount = world.mount_with(options, one("org/m"));
        assert_eq!(load(mount.folder()), right, "run {run}");
        if run % 3 != 0 {
            assert_fetched_once(&world, &mount, stored);
        }
        assert_eq!(mount.stats().errors, 0, "run {run}: {:?}", world.told);
        assert!(!mount.unmount().expect("unmounted"), "run {run}: nobody uses it");
    }
}
