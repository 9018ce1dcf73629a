//! Packing small models into stores.

use std::path::Path;
use std::sync::Arc;

use tenpak::pack::{PackOptions, PackReport, pack};
use tenpak::store::Store;
use tenpak::transport::dir::DirBackend;

/// The store in a directory.
pub fn store(dir: &Path) -> Store {
    Store::new(Arc::new(DirBackend::new(dir.to_path_buf())))
}

/// A runtime to wait on from a test's own thread.
pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Packs a model folder as `name`.
pub fn pack_as(
    store: &Store,
    runtime: &tokio::runtime::Runtime,
    model: &Path,
    name: &str,
) -> PackReport {
    let (name, tag) = (name.parse().expect("a name"), "latest".parse().expect("a tag"));
    let mut options = PackOptions::default();
    options.threads = 2;
    pack(model, store, (&name, &tag), options, runtime.handle(), &()).expect("packed")
}
