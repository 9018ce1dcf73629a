//! Publishes, opens and lists beside many other names, and says what each costs:
//! `many_names COUNT FOLDER MODEL`. The store in FOLDER must not be there; its index is written at once,
//! as if COUNT names had been published.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenpak::format::id::ManifestId;
use tenpak::format::name::{ArtifactSpec, NamePattern, Tag};
use tenpak::format::names;
use tenpak::format::refs::{IndexEntry, RootBody};
use tenpak::format::store as paths;
use tenpak::pack::{PackOptions, pack};
use tenpak::store::artifact::{Artifact, OpenOptions};
use tenpak::store::{Store, unix_now};
use tenpak::transport::dir::DirBackend;
use tenpak::transport::fault::FaultBackend;
use tenpak::trust::{Envelope, TrustSet};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Times that each piece of work is done.
const TIMES: usize = 40;
/// Names in the folder that is listed.
const LISTED: usize = 40;

fn entry(name: &str, manifest: ManifestId) -> Result<IndexEntry> {
    Ok(IndexEntry { manifest, name: name.parse()?, tag: Tag::default(), version: 1 })
}

/// Writes the index without waiting for the disk: this is not what is measured.
fn write_index(folder: &Path, entries: Vec<IndexEntry>) -> Result<usize> {
    let built = names::build(entries)?;
    std::fs::create_dir_all(folder.join("names"))?;
    std::fs::create_dir_all(folder.join("refs"))?;
    for node in &built.new {
        std::fs::write(folder.join(paths::node(node.id).as_str()), &node.bytes)?;
    }
    let root = Envelope::new(RootBody::new(built.top, 1, unix_now() + 1_000_000))?;
    std::fs::write(folder.join(paths::index().as_str()), root.to_bytes()?)?;
    Ok(built.new.len())
}

/// Does the work [`TIMES`] times and prints the median time, and requests and bytes of one.
fn measure(
    what: &str,
    counted: &FaultBackend,
    mut work: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    counted.reset_stats();
    let mut times = Vec::new();
    for i in 0..TIMES {
        let start = Instant::now();
        work(i)?;
        times.push(start.elapsed());
    }
    times.sort();
    let stats = counted.stats();
    let total = stats.total();
    let each = |sum: u64| sum as f64 / TIMES as f64;
    println!(
        "{what:10} {:8.2} ms  {:5.1} requests  {:9.0} bytes read  {:9.0} written",
        times.get(TIMES / 2).map_or(0.0, Duration::as_secs_f64) * 1000.0,
        each(total.reads + total.heads + total.writes + stats.lists),
        each(total.bytes_read),
        each(total.bytes_written),
    );
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(count), Some(folder), Some(model)) =
        (arguments.next(), arguments.next(), arguments.next())
    else {
        return Err("usage: many_names COUNT FOLDER MODEL".into());
    };
    let (count, folder, model): (usize, PathBuf, PathBuf) =
        (count.parse()?, folder.into(), model.into());
    if folder.exists() {
        return Err(format!("{} is there already", folder.display()).into());
    }
    let runtime = tokio::runtime::Runtime::new()?;
    let counted = Arc::new(FaultBackend::counting(Arc::new(DirBackend::new(folder.clone()))));
    let store = Store::new(counted.clone());
    let pack = |model: &Path, name: &str| -> Result<ManifestId> {
        let name = (&name.parse()?, &Tag::default());
        Ok(pack(model, &store, name, PackOptions::default(), runtime.handle(), &())?.manifest)
    };
    let manifest = pack(&model, "first")?;
    let others = (0..count).map(|i| entry(&format!("org{}/model-{i:07}", i % 1000), manifest));
    let own = (0..LISTED).map(|i| entry(&format!("own/model-{i}"), manifest));
    let start = Instant::now();
    let nodes = write_index(&folder, others.chain(own).collect::<Result<_>>()?)?;
    println!("{count} names in {nodes} nodes, made in {:.1} s", start.elapsed().as_secs_f64());

    // Each a model of its own: one file differs.
    let changed = folder.with_extension("model");
    std::fs::create_dir_all(&changed)?;
    for found in std::fs::read_dir(&model)? {
        let found = found?;
        std::fs::copy(found.path(), changed.join(found.file_name()))?;
    }
    measure("new model", &counted, |i| {
        std::fs::write(changed.join("own.txt"), i.to_string().repeat(100_000))?;
        pack(&changed, &format!("org{}/new-{i}", i * 97 % 1000)).map(drop)
    })?;
    measure("again", &counted, |i| {
        pack(&model, &format!("org{}/again-{i}", i * 89 % 1000)).map(drop)
    })?;
    measure("open", &counted, |i| {
        let spec: ArtifactSpec = format!("org{}/again-{i}", i * 89 % 1000).parse()?;
        runtime.block_on(Artifact::open(store.clone(), &spec, &OpenOptions::default()))?;
        Ok(())
    })?;
    let wanted: NamePattern = "own/".parse()?;
    measure("list", &counted, |_| {
        let listed = runtime.block_on(store.listed(&wanted, &TrustSet::default(), None))?;
        match listed.is_some_and(|listed| listed.entries.len() == LISTED) {
            true => Ok(()),
            false => Err("the listing is wrong".into()),
        }
    })?;
    std::fs::remove_dir_all(&changed)?;
    Ok(())
}
