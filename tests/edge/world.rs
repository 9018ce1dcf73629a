//! Edges in this process over a store with one model.

use std::sync::Arc;

use super::model::{Tensor, write};
use super::packing::{pack_as, runtime};
use bytes::Bytes;
use tenpak::edge::{self, Edge, EdgeOptions};
use tenpak::store::{ArtifactGraph, Store};
use tenpak::transport::http::{HttpBackend, HttpOptions};
use tenpak::transport::object::ObjectBackend;
use tenpak::transport::small::{RetryPolicy, read_all};
use tenpak::transport::{ObjectPath, ReadRange, Transport};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

/// What a long run sets: so many cases or clients.
pub fn soak(few: usize) -> usize {
    std::env::var("TENPAK_SOAK").map_or(few, |n| n.parse().expect("TENPAK_SOAK is a number"))
}

const TENSORS: &[Tensor<'_>] = &[
    ("model.embed_tokens.weight", &[2000, 2048], 1),
    ("model.layers.0.mlp.down_proj.weight", &[1024, 4096], 2),
    ("model.norm.weight", &[512], 3),
];

/// A store in memory with one model.
pub struct World {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
    pub memory: Arc<ObjectBackend>,
    pub whole: ArtifactGraph,
}

/// An edge that serves until it is dropped.
pub struct Served {
    pub client: Arc<HttpBackend>,
    pub address: String,
    _stop: oneshot::Sender<()>,
}

impl World {
    pub fn new() -> Self {
        Self::of(TENSORS)
    }

    pub fn of(tensors: &[Tensor<'_>]) -> Self {
        let (dir, runtime) = (tempfile::tempdir().expect("a folder"), runtime());
        let memory = Arc::new(ObjectBackend::memory());
        let store = Store::new(memory.clone());
        let model = write(&dir.path().join("m"), tensors);
        let id = pack_as(&store, &runtime, &model, "org/m").manifest;
        let whole = runtime.block_on(ArtifactGraph::read(&store, id)).expect("a graph");
        Self { dir, runtime, memory, whole }
    }

    pub fn serve(&self, origins: Vec<Arc<dyn Transport>>, options: EdgeOptions) -> Served {
        let edge = Edge::new(origins, options).expect("an edge");
        let (stop, stopped) = oneshot::channel::<()>();
        let address = self.runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("an address");
            tokio::spawn(edge::serve(edge, listener, async move {
                stopped.await.unwrap_or_default();
            }));
            address
        });
        let url = format!("http://{address}");
        let client = HttpBackend::new(&url, HttpOptions::default()).expect("a client");
        Served { client: Arc::new(client), address: address.to_string(), _stop: stop }
    }

    pub fn packs(&self) -> Vec<ObjectPath> {
        let listed = self.runtime.block_on(self.memory.list("packs/")).expect("a listing");
        listed.into_iter().map(|info| info.path).collect()
    }

    pub fn read(&self, from: &dyn Transport, path: &ObjectPath, range: ReadRange) -> Bytes {
        self.try_read(from, path, range).expect("bytes")
    }

    pub fn try_read(
        &self,
        from: &dyn Transport,
        path: &ObjectPath,
        range: ReadRange,
    ) -> Result<Bytes, tenpak::transport::TransportError> {
        let mut policy = RetryPolicy::default();
        policy.retries = 0;
        let read = read_all(from, path, range, 1 << 30, &policy);
        self.runtime.block_on(read).map(|(bytes, _)| bytes)
    }

    pub fn stored(&self) -> u64 {
        self.whole.manifest.totals.stored_bytes
    }
}
