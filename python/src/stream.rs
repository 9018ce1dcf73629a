//! Tensors one after the other, as they are verified, in bounded memory.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::Arc;
use std::task::Poll;

use pyo3::prelude::*;
use tenpak::load::{ArtifactError, LoadError, LoadOptions, LoadStats, Loader, Tensor};
use tenpak::store::artifact::{Artifact, Selection, Window};
use tenpak::{Shard, StoreError};
use tokio::sync::Mutex;

use crate::buffer::{Buffer, Memory};
use crate::errors::Told;
use crate::runtime::wait;

/// The most that is handed to Python at a time beside a first tensor: bytes, and tensors.
const BATCH: (usize, usize) = (8 << 20, 64);

struct State {
    artifact: Arc<Artifact>,
    selection: Selection,
    shard: Option<Shard>,
    file: Option<u32>,
    options: LoadOptions,
    /// What is to be loaded after the present load; `None`: not yet known.
    windows: Option<VecDeque<Window>>,
    loader: Option<Loader>,
    /// What came behind tensors that were handed out.
    failed: Option<LoadError>,
    stats: LoadStats,
    ended: bool,
}

/// A load in progress: what `tenpak.stream` iterates over.
#[pyclass(frozen, module = "tenpak._tenpak")]
pub(crate) struct Stream {
    process: u32,
    state: Arc<Mutex<State>>,
}

impl Stream {
    pub(crate) fn new(
        artifact: Arc<Artifact>,
        selection: Selection,
        shard: Option<Shard>,
        file: Option<u32>,
        options: LoadOptions,
    ) -> Self {
        let state = State {
            artifact,
            selection,
            shard,
            file,
            options,
            windows: None,
            loader: None,
            failed: None,
            stats: LoadStats::default(),
            ended: false,
        };
        Self { process: std::process::id(), state: Arc::new(Mutex::new(state)) }
    }
}

impl State {
    /// The next tensor, and those that are ready too.
    async fn batch(&mut self) -> Result<Vec<Tensor>, ArtifactError> {
        if self.ended {
            return Ok(Vec::new());
        }
        let batch = self.more().await;
        if !matches!(&batch, Ok(more) if !more.is_empty()) {
            self.end();
        }
        batch
    }

    async fn more(&mut self) -> Result<Vec<Tensor>, ArtifactError> {
        if let Some(failed) = self.failed.take() {
            return Err(failed.into());
        }
        loop {
            if let Some(loader) = &mut self.loader {
                if let Some(first) = loader.next().await {
                    let (batch, failed) = with_ready(first?, loader);
                    self.failed = failed;
                    return Ok(batch);
                }
                self.stats += loader.stats();
                self.loader = None;
            }
            if !self.begin().await? {
                return Ok(Vec::new());
            }
        }
    }

    /// Begins the next load; false if there is none.
    async fn begin(&mut self) -> Result<bool, StoreError> {
        if self.windows.is_none() {
            let windows = self.artifact.windows(&self.selection, self.shard).await?.windows;
            self.windows = Some(windows.into());
        }
        let Some(window) = self.windows.as_mut().and_then(VecDeque::pop_front) else {
            return Ok(false);
        };
        let mut wanted = self.artifact.want_window(&window, &self.selection, self.shard).await?;
        if let Some(file) = self.file {
            wanted.tensors.retain(|request| request.entry.file == file);
        }
        self.loader = Some(self.artifact.load(wanted, &self.options));
        Ok(true)
    }

    fn end(&mut self) {
        self.ended = true;
        if let Some(loader) = self.loader.take() {
            self.stats += loader.stats();
        }
        self.windows = Some(VecDeque::new());
    }
}

/// A tensor, those behind it that have arrived, and the error behind these if there is one.
fn with_ready(first: Tensor, loader: &mut Loader) -> (Vec<Tensor>, Option<LoadError>) {
    let mut bytes = first.data.len();
    let mut batch = vec![first];
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    while bytes < BATCH.0 && batch.len() < BATCH.1 {
        let mut next = std::pin::pin!(loader.next());
        match next.as_mut().poll(&mut context) {
            Poll::Ready(Some(Ok(tensor))) => {
                bytes += tensor.data.len();
                batch.push(tensor);
            }
            Poll::Ready(Some(Err(error))) => return (batch, Some(error)),
            Poll::Ready(None) | Poll::Pending => break,
        }
    }
    (batch, None)
}

#[pymethods]
impl Stream {
    /// The next tensors with their names and files; none at the end.
    fn next_batch(&self, py: Python<'_>) -> PyResult<Vec<(String, u32, Buffer)>> {
        if self.process != std::process::id() {
            let text = "a stream goes on only in the process that began it: begin another here";
            return Err(Told::new("TenpakError", text).raise(py));
        }
        let state = self.state.clone();
        let next = async move { state.lock().await.batch().await };
        let batch = wait(py, next)?.map_err(|error| Told::from(error).raise(py))?;
        let buffer = |tensor: Tensor| {
            let request = &tensor.request;
            let (dims, dtype) = (request.shape.dims().to_vec(), request.entry.dtype.name());
            let (name, file) = (request.entry.name.clone(), request.entry.file);
            (name, file, Buffer::new(Memory::loaded(tensor.data), dims, dtype))
        };
        Ok(batch.into_iter().map(buffer).collect())
    }

    /// Ends the load.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        if self.process != std::process::id() {
            return Ok(());
        }
        let state = self.state.clone();
        wait(py, async move { state.lock().await.end() })
    }

    /// What was fetched: requests, bytes, and bytes delivered.
    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let state = self.state.clone();
        let stats = wait(py, async move {
            let state = state.lock().await;
            let mut stats = state.stats;
            if let Some(loader) = &state.loader {
                stats += loader.stats();
            }
            stats
        })?;
        Ok((stats.requests, stats.fetched_bytes, stats.delivered_bytes))
    }
}
