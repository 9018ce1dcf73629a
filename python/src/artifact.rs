//! An opened artifact: its files and tensors, and tensors or slices one at a time.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::{PyIndexError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tenpak::format::dtype::Shape;
use tenpak::format::id::to_hex;
use tenpak::load::{Line, LoadOptions, LoadStats};
use tenpak::store::artifact::{
    Artifact, ListedFile, OpenOptions, Pattern, SelectedTensors, Selection,
};
use tenpak::transport::url::{self, WebOptions};
use tenpak::trust::SeenRefs;
use tenpak::{ArtifactError, ArtifactSpec, Shard, Store, StoreError, TensorRequest, TrustSet};

use crate::buffer::{Buffer, Memory};
use crate::errors::Told;
use crate::file;
use crate::runtime::wait;
use crate::slice::{self, Step};
use crate::stream::Stream;

/// How an artifact is opened, again in a process that was forked.
#[derive(Debug, Clone)]
struct How {
    spec: String,
    store: String,
    mirrors: Vec<String>,
    trust: Option<Vec<String>>,
    headers: Vec<String>,
    ca: Option<PathBuf>,
}

impl How {
    fn source(&self) -> Result<Store, Told> {
        let mut web = WebOptions::from_env()?;
        for header in &self.headers {
            web.add_header(header)?;
        }
        if let Some(path) = &self.ca {
            let wrong = |why| Told::new("TenpakError", format!("{}: {why}", path.display()));
            let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
            if !pem.windows(27).any(|line| line == b"-----BEGIN CERTIFICATE-----") {
                return Err(wrong("it holds no certificate in PEM".to_owned()));
            }
            web.certificates.push(pem);
        }
        let mirrors = self.mirrors.iter().map(|mirror| url::open_with(mirror, &web));
        let mirrors = mirrors.collect::<Result<Vec<_>, _>>()?;
        Ok(Store::open_with(&self.store, &web)?.with_mirrors(mirrors))
    }

    async fn open(self) -> Result<Artifact, Told> {
        let spec: ArtifactSpec = self
            .spec
            .parse()
            .map_err(|error| Told::new("InvalidError", format!("{}: {error}", self.spec)))?;
        let mut options = OpenOptions::default();
        options.trust = match &self.trust {
            Some(nobody) if nobody.is_empty() => TrustSet::default(),
            keys => TrustSet::load(keys.as_deref().unwrap_or_default())?,
        };
        options.seen = Some(SeenRefs::of_user());
        let store = self.source()?;
        Ok(Artifact::open(store, &spec, &options).await?)
    }
}

/// What is known of an artifact in this process.
struct Known {
    process: u32,
    artifact: Arc<Artifact>,
    line: Arc<Line>,
    /// Tensors by name, in the order of their files.
    tensors: HashMap<String, Vec<Arc<TensorRequest>>>,
    /// All tensors in load order, once they were asked for.
    all: Option<Arc<Vec<Arc<TensorRequest>>>>,
    files: Option<Arc<Vec<ListedFile>>>,
    stats: LoadStats,
}

/// A tensor as the table lists it: name, type, shape, bytes, file, digest.
type Row = (String, &'static str, Vec<u64>, u64, String, String);
/// A file: path, bytes, SHA-256, whether it may be run, whether it holds tensors.
type FileRow = (String, u64, String, bool, bool);

/// An opened artifact, as `tenpak.Artifact` has it.
#[pyclass(frozen, module = "tenpak._tenpak")]
pub(crate) struct Opened {
    how: How,
    id: String,
    known: Mutex<Known>,
}

/// Opens an artifact; see `tenpak.Artifact`.
#[pyfunction]
#[pyo3(signature = (spec, store, mirrors, trust, headers, ca))]
pub(crate) fn open(
    py: Python<'_>,
    spec: String,
    store: String,
    mirrors: Vec<String>,
    trust: Option<Vec<String>>,
    headers: Vec<String>,
    ca: Option<PathBuf>,
) -> PyResult<Opened> {
    let how = How { spec, store, mirrors, trust, headers, ca };
    let artifact = wait(py, how.clone().open())?.map_err(|told| told.raise(py))?;
    let id = artifact.id().to_hex();
    Ok(Opened { how, id, known: Mutex::new(Known::new(artifact)) })
}

impl Known {
    fn new(artifact: Artifact) -> Self {
        Self {
            process: std::process::id(),
            artifact: Arc::new(artifact),
            line: Arc::default(),
            tensors: HashMap::new(),
            all: None,
            files: None,
            stats: LoadStats::default(),
        }
    }
}

impl Opened {
    /// What is known; in a process that was forked the artifact is opened anew.
    fn known(&self, py: Python<'_>) -> PyResult<MutexGuard<'_, Known>> {
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if lock().process != std::process::id() {
            let artifact = wait(py, self.how.clone().open())?.map_err(|told| told.raise(py))?;
            if artifact.id().to_hex() != self.id {
                let text =
                    format!("{} means another artifact since this one was opened", self.how.spec);
                return Err(Told::new("TenpakError", text).raise(py));
            }
            let known = Known::new(artifact);
            // What the parent had may hold connections of threads that are not here.
            std::mem::forget(std::mem::replace(&mut *lock(), known));
        }
        Ok(lock())
    }

    fn handle(&self, py: Python<'_>) -> PyResult<(Arc<Artifact>, Arc<Line>)> {
        let known = self.known(py)?;
        Ok((known.artifact.clone(), known.line.clone()))
    }

    fn files_of(&self, py: Python<'_>) -> PyResult<Arc<Vec<ListedFile>>> {
        let artifact = {
            let known = self.known(py)?;
            if let Some(files) = &known.files {
                return Ok(files.clone());
            }
            known.artifact.clone()
        };
        let read = async move { artifact.files().await.map_err(Told::from) };
        let files = Arc::new(wait(py, read)?.map_err(|told| told.raise(py))?);
        self.known(py)?.files = Some(files.clone());
        Ok(files)
    }

    fn all(&self, py: Python<'_>) -> PyResult<Arc<Vec<Arc<TensorRequest>>>> {
        let artifact = {
            let known = self.known(py)?;
            if let Some(all) = &known.all {
                return Ok(all.clone());
            }
            known.artifact.clone()
        };
        let read = async move { artifact.select(&Selection::All, None).await.map_err(Told::from) };
        let SelectedTensors { tensors, .. } = wait(py, read)?.map_err(|told| told.raise(py))?;
        let all = Arc::new(tensors);
        let mut known = self.known(py)?;
        known.tensors.clear();
        for request in all.iter() {
            known.tensors.entry(request.entry.name.clone()).or_default().push(request.clone());
        }
        known.all = Some(all.clone());
        Ok(all)
    }

    /// The tensor of that name; where several files have one, that of the file.
    fn request(
        &self,
        py: Python<'_>,
        name: &str,
        file: Option<&str>,
    ) -> PyResult<Arc<TensorRequest>> {
        let (artifact, complete) = {
            let known = self.known(py)?;
            if let Some(found) = known.tensors.get(name) {
                let found = found.clone();
                drop(known);
                return self.one_of(py, name, file, &found);
            }
            (known.artifact.clone(), known.all.is_some())
        };
        let missing = |artifact: &Artifact| StoreError::NoTensor {
            location: artifact.store().location().to_owned(),
            what: "tensor",
            artifact: artifact.id(),
            pattern: name.to_owned(),
        };
        if complete {
            return Err(Told::from(missing(&artifact)).raise(py));
        }
        let selection = Selection::Patterns(vec![Pattern::exact(name)]);
        let read = async move { artifact.select(&selection, None).await.map_err(Told::from) };
        let found = wait(py, read)?.map_err(|told| told.of(name).raise(py))?.tensors;
        self.known(py)?.tensors.insert(name.to_owned(), found.clone());
        self.one_of(py, name, file, &found)
    }

    fn one_of(
        &self,
        py: Python<'_>,
        name: &str,
        file: Option<&str>,
        found: &[Arc<TensorRequest>],
    ) -> PyResult<Arc<TensorRequest>> {
        if let (None, [first, rest @ ..]) = (file, found) {
            if rest.iter().all(|other| other.entry.digest == first.entry.digest) {
                return Ok(first.clone());
            }
            let text =
                format!("{name:?} is in several files, not the same in each: say of which file");
            return Err(Told::new("TenpakError", text).of(name).raise(py));
        }
        let files = self.files_of(py)?;
        let path = |request: &TensorRequest| {
            files.get(request.entry.file as usize).map(|file| file.entry.path.as_str())
        };
        let own = found.iter().find(|request| path(request) == file);
        own.cloned().ok_or_else(|| {
            let text = format!("{name:?} is not in {}", file.unwrap_or("any file"));
            Told::new("NotFoundError", text).of(name).raise(py)
        })
    }

    /// Loads what is requested, which is one tensor or part of one.
    fn load_one(&self, py: Python<'_>, request: TensorRequest) -> PyResult<bytes::Bytes> {
        let (artifact, line) = self.handle(py)?;
        let name = request.entry.name.clone();
        let options = options(Some(line), u64::MAX);
        let load = async move {
            let tensors = vec![Arc::new(request)];
            let selected = SelectedTensors { tensors, ..SelectedTensors::default() };
            let mut loader = artifact.load(selected, &options);
            let loaded = loader.next().await;
            (loaded, loader.stats())
        };
        let (loaded, stats) = wait(py, load)?;
        self.known(py)?.stats += stats;
        match loaded {
            Some(Ok(tensor)) => Ok(tensor.data),
            Some(Err(error)) => Err(Told::from(error).of(&name).raise(py)),
            None => Err(Told::new("TenpakError", "the load ended early").of(&name).raise(py)),
        }
    }
}

/// How tensors are loaded for Python: whoever takes one may keep it.
pub(crate) fn options(line: Option<Arc<Line>>, budget: u64) -> LoadOptions {
    let mut options = LoadOptions::default();
    options.line = line;
    options.hand_over = true;
    options.budget = budget;
    options.most_budget = options.most_budget.max(budget);
    options
}

#[pymethods]
impl Opened {
    #[getter]
    fn id(&self) -> &str {
        &self.id
    }

    #[getter]
    fn name(&self, py: Python<'_>) -> PyResult<Option<(String, String)>> {
        let known = self.known(py)?;
        Ok(known.artifact.name().map(|(name, tag)| (name.to_string(), tag.to_string())))
    }

    /// The keys that were trusted and signed it.
    #[getter]
    fn signed_by(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        let known = self.known(py)?;
        Ok(known.artifact.signed_by().iter().map(|key| key.as_str().to_owned()).collect())
    }

    #[getter]
    fn warnings(&self, py: Python<'_>) -> PyResult<Vec<String>> {
        Ok(self.known(py)?.artifact.warnings().to_vec())
    }

    #[getter]
    fn location(&self, py: Python<'_>) -> PyResult<String> {
        Ok(self.known(py)?.artifact.store().location().to_owned())
    }

    /// The exact bytes of the manifest.
    #[getter]
    fn manifest<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = self.known(py)?.artifact.manifest_bytes().clone();
        Ok(PyBytes::new(py, &bytes))
    }

    /// What was fetched: requests, bytes, and bytes delivered of tensors that were asked for one by one.
    #[getter]
    fn stats(&self, py: Python<'_>) -> PyResult<(u64, u64, u64)> {
        let known = self.known(py)?;
        let (read, load) = (known.artifact.stats(), known.stats);
        Ok((read.requests + load.requests, read.bytes + load.fetched_bytes, load.delivered_bytes))
    }

    /// Every tensor, in load order.
    fn tensors(&self, py: Python<'_>) -> PyResult<Vec<Row>> {
        let (files, all) = (self.files_of(py)?, self.all(py)?);
        let row = |request: &Arc<TensorRequest>| {
            let entry = &request.entry;
            let file = files.get(entry.file as usize).map_or("", |file| file.entry.path.as_str());
            let dims = entry.shape.dims().to_vec();
            let digest = entry.digest.to_hex();
            (
                entry.name.clone(),
                entry.dtype.name(),
                dims,
                entry.byte_len(),
                file.to_owned(),
                digest,
            )
        };
        Ok(all.iter().map(row).collect())
    }

    /// Type and shape of one tensor.
    #[pyo3(signature = (name, file=None))]
    fn describe(
        &self,
        py: Python<'_>,
        name: &str,
        file: Option<&str>,
    ) -> PyResult<(&'static str, Vec<u64>)> {
        let request = self.request(py, name, file)?;
        Ok((request.entry.dtype.name(), request.entry.shape.dims().to_vec()))
    }

    /// Every file, in the order of their paths.
    fn files(&self, py: Python<'_>) -> PyResult<Vec<FileRow>> {
        let files = self.files_of(py)?;
        let row = |file: &ListedFile| {
            let entry = &file.entry;
            (
                entry.path.clone(),
                entry.size,
                to_hex(&entry.sha256),
                entry.executable,
                file::has_tensors(entry),
            )
        };
        Ok(files.iter().map(row).collect())
    }

    /// One tensor, whole.
    #[pyo3(signature = (name, file=None))]
    fn get(&self, py: Python<'_>, name: &str, file: Option<&str>) -> PyResult<Buffer> {
        let request = self.request(py, name, file)?;
        let (dims, dtype) = (request.entry.shape.dims().to_vec(), request.entry.dtype.name());
        let data = self.load_one(py, (*request).clone())?;
        Ok(Buffer::new(Memory::loaded(data), dims, dtype))
    }

    /// A slice of one tensor: along each dimension from, up to, and in steps of. Only chunks under it are
    /// fetched.
    #[pyo3(signature = (name, steps, file=None))]
    fn get_slice(
        &self,
        py: Python<'_>,
        name: &str,
        steps: Vec<(u64, u64, u64)>,
        file: Option<&str>,
    ) -> PyResult<Buffer> {
        let request = self.request(py, name, file)?;
        let entry = &request.entry;
        let steps: Vec<Step> =
            steps.into_iter().map(|(start, stop, step)| Step { start, stop, step }).collect();
        let planned = slice::plan(entry.shape.dims(), entry.dtype.bits(), &steps);
        let planned = planned.ok_or_else(|| {
            PyIndexError::new_err(format!(
                "{name}: no slice of {} elements of shape {}",
                entry.dtype, entry.shape
            ))
        })?;
        let mut part = (*request).clone();
        part.cut = planned.cut;
        let dims = planned.shape.clone();
        part.shape =
            Shape::new(dims.clone()).ok_or_else(|| PyValueError::new_err("too many dimensions"))?;
        if planned.cut.is_empty() {
            return Ok(Buffer::new(Memory::made(Vec::new()), dims, entry.dtype.name()));
        }
        let data = self.load_one(py, part)?;
        let memory = match planned.is_fetched() {
            true => Memory::loaded(data),
            false => {
                let made = py.detach(|| planned.gather(&data));
                let contradiction =
                    || Told::new("TenpakError", "a slice that was not planned").of(name);
                Memory::made(made.ok_or_else(|| contradiction().raise(py))?)
            }
        };
        Ok(Buffer::new(memory, dims, entry.dtype.name()))
    }

    /// Tensors as they are verified: those named, in this order, or all in load order.
    #[pyo3(signature = (names=None, file=None, shard=None, budget=None))]
    fn stream(
        &self,
        py: Python<'_>,
        names: Option<Vec<String>>,
        file: Option<&str>,
        shard: Option<(u32, u32)>,
        budget: Option<u64>,
    ) -> PyResult<Stream> {
        let selection = match names {
            None => Selection::All,
            Some(names) => {
                Selection::Patterns(names.iter().map(|name| Pattern::exact(name)).collect())
            }
        };
        let shard = match shard {
            None => None,
            Some((index, count)) => Some(
                Shard::new(index, count)
                    .ok_or_else(|| PyValueError::new_err(format!("no rank {index} of {count}")))?,
            ),
        };
        let file = match file {
            None => None,
            Some(path) => {
                let files = self.files_of(py)?;
                let at = files.iter().position(|file| file.entry.path == path);
                let missing = || Told::new("NotFoundError", format!("no file {path}")).raise(py);
                Some(u32::try_from(at.ok_or_else(missing)?).unwrap_or(u32::MAX))
            }
        };
        let (artifact, line) = self.handle(py)?;
        let default = LoadOptions::default().budget;
        let options = options(Some(line), budget.unwrap_or(default));
        Ok(Stream::new(artifact, selection, shard, file, options))
    }

    /// The bytes of a file from `start` up to `stop`.
    fn read_file<'py>(
        &self,
        py: Python<'py>,
        path: &str,
        start: u64,
        stop: u64,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let files = self.files_of(py)?;
        let Some(listed) = files.iter().find(|file| file.entry.path == path) else {
            return Err(Told::new("NotFoundError", format!("no file {path}")).raise(py));
        };
        let all = match file::has_tensors(&listed.entry) {
            true => self.all(py)?,
            false => Arc::default(),
        };
        let wanted = file::requests(listed, &all, start..stop.min(listed.entry.size));
        let wanted = wanted.ok_or_else(|| {
            Told::new("DamagedError", format!("{path} names what is not there")).raise(py)
        })?;
        let (artifact, line) = self.handle(py)?;
        let options = options(Some(line), LoadOptions::default().budget);
        let read = async move {
            let mut bytes = Vec::new();
            let selected = SelectedTensors { tensors: wanted, ..SelectedTensors::default() };
            let mut loader = artifact.load(selected, &options);
            while let Some(piece) = loader.next().await {
                bytes.extend_from_slice(&piece.map_err(ArtifactError::from)?.data);
            }
            Ok((bytes, loader.stats()))
        };
        let read: Result<_, ArtifactError> = wait(py, read)?;
        let (bytes, stats) = read.map_err(|error| Told::from(error).raise(py))?;
        self.known(py)?.stats += stats;
        Ok(PyBytes::new(py, &bytes))
    }
}
