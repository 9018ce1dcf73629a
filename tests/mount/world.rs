//! Mounts in this process, over stores in memory that count what is read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::model::Model;
use super::packing::runtime;
use super::run::fresh_folder;
use tenpak::mount::{Mount, MountError, MountLog, MountOptions, Shown};
use tenpak::pack::{PackOptions, pack};
use tenpak::store::{ArtifactGraph, Store};
use tenpak::transport::fault::FaultBackend;
use tenpak::transport::object::ObjectBackend;
use tokio::runtime::Runtime;

/// A store in memory.
pub struct World {
    pub runtime: Runtime,
    pub store: Store,
    pub origin: Arc<FaultBackend>,
    pub folder: PathBuf,
    /// What the mount told.
    pub told: Arc<Mutex<Vec<String>>>,
}

impl World {
    pub fn new(name: &str) -> Self {
        let memory = Arc::new(ObjectBackend::memory());
        let (runtime, store) = (runtime(), Store::new(memory.clone()));
        let origin = Arc::new(FaultBackend::counting(memory));
        Self { runtime, store, origin, folder: fresh_folder(name), told: Arc::default() }
    }

    /// Packs a model as `name`; its files stay in the folder that is given back.
    pub fn pack(&self, name: &str, model: &Model) -> (PathBuf, ArtifactGraph) {
        let folder = self.folder.join("models").join(name);
        model.write(&folder);
        let (own, tag) = (name.parse().expect("a name"), "latest".parse().expect("a tag"));
        let mut options = PackOptions::default();
        (options.threads, options.allow_incomplete) = (2, true);
        let packed = pack(&folder, &self.store, (&own, &tag), options, self.runtime.handle(), &());
        let id = packed.expect("packed").manifest;
        let whole = self.runtime.block_on(ArtifactGraph::read(&self.store, id)).expect("a graph");
        (folder, whole)
    }

    pub fn options(&self) -> MountOptions {
        let mut options = MountOptions::default();
        let told = self.told.clone();
        options.log = MountLog::new(move |line| told.lock().expect("lines").push(line.to_owned()));
        options.retry.retries = 1;
        options.retry.first_pause = Duration::from_millis(10);
        options
    }

    /// The folder of a mount.
    pub fn at(&self, name: &str) -> PathBuf {
        let at = self.folder.join(name);
        std::fs::create_dir_all(&at).expect("a folder");
        at
    }

    pub fn try_mount(
        &self,
        options: MountOptions,
        shown: Shown,
        at: &Path,
    ) -> Result<Mount, MountError> {
        self.origin.reset_stats();
        self.runtime.block_on(Mount::start(vec![self.origin.clone()], options, shown, at))
    }

    pub fn mount(&self, shown: Shown) -> Mount {
        self.mount_with(self.options(), shown)
    }

    #[track_caller]
    pub fn mount_with(&self, options: MountOptions, shown: Shown) -> Mount {
        let at = self.at("mnt");
        let mounted = self.try_mount(options, shown, &at);
        mounted.unwrap_or_else(|error| {
            panic!("this needs /dev/fuse, and root or fusermount3: {error}")
        })
    }

    /// Bytes of packs that were read.
    pub fn packs_read(&self) -> u64 {
        self.origin.stats().below("packs/").bytes_read
    }
}

/// One artifact's files.
pub fn one(name: &str) -> Shown {
    Shown::Artifact(name.parse().expect("an artifact"))
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
