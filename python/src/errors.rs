//! Errors of the library as exceptions of `tenpak`, with the fields that tell where.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use tenpak::format::with_causes;
use tenpak::load::{ArtifactError, ChunkSite, ErrorKind, LoadError};
use tenpak::schedule::plan::ListIndex;
use tenpak::transport::{TransportError, TransportErrorKind};
use tenpak::{StoreError, TrustError};

/// What an exception says.
#[derive(Debug)]
pub(crate) struct Told {
    class: &'static str,
    message: String,
    place: Box<Place>,
}

/// Where it happened, as far as that is known.
#[derive(Debug, Default)]
struct Place {
    artifact: Option<String>,
    tensor: Option<String>,
    chunk: Option<u64>,
    pack: Option<String>,
    offset: Option<u64>,
    location: Option<String>,
}

impl Told {
    pub(crate) fn new(class: &'static str, message: impl ToString) -> Self {
        Self { class, message: message.to_string(), place: Box::default() }
    }

    /// The same, of this tensor if it names none.
    pub(crate) fn of(mut self, tensor: &str) -> Self {
        self.place.tensor.get_or_insert_with(|| tensor.to_owned());
        self
    }

    /// The same, from this store.
    fn located(mut self, location: &str) -> Self {
        self.place.location = Some(location.to_owned());
        self
    }

    /// The same, of this chunk.
    fn at(mut self, site: &ChunkSite) -> Self {
        let place = &mut self.place;
        place.artifact = site.artifact.map(|id| id.to_hex());
        place.tensor = Some(site.tensor.clone()).filter(|name| !name.is_empty());
        place.chunk = Some(site.chunk.get() as u64);
        place.pack = Some(site.pack.to_hex());
        place.offset = Some(u64::from(site.offset));
        self
    }

    pub(crate) fn raise(self, py: Python<'_>) -> PyErr {
        match self.exception(py) {
            Ok(exception) => PyErr::from_value(exception),
            Err(error) => error,
        }
    }

    fn exception<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let class = py.import("tenpak._errors")?.getattr(self.class)?;
        let (place, fields) = (&self.place, PyDict::new(py));
        fields.set_item("artifact", &place.artifact)?;
        fields.set_item("tensor", &place.tensor)?;
        fields.set_item("chunk", place.chunk)?;
        fields.set_item("pack", &place.pack)?;
        fields.set_item("offset", place.offset)?;
        fields.set_item("location", &place.location)?;
        class.call((&self.message,), Some(&fields))
    }
}

fn of_transport(error: &TransportError) -> &'static str {
    match error.kind {
        TransportErrorKind::NotFound => "NotFoundError",
        TransportErrorKind::OutOfRange => "DamagedError",
        TransportErrorKind::Denied => "DeniedError",
        TransportErrorKind::Protocol
        | TransportErrorKind::Stalled
        | TransportErrorKind::Transient => "NetworkError",
        _ => "TenpakError",
    }
}

impl From<TransportError> for Told {
    fn from(error: TransportError) -> Self {
        Self::new(of_transport(&error), with_causes(&error)).located(&error.location)
    }
}

impl From<TrustError> for Told {
    fn from(error: TrustError) -> Self {
        let class = match &error {
            TrustError::Malformed { .. } => "DamagedError",
            error if error.is_refusal() => "UntrustedError",
            _ => "TenpakError",
        };
        Self::new(class, with_causes(&error))
    }
}

impl From<StoreError> for Told {
    fn from(error: StoreError) -> Self {
        let message = with_causes(&error);
        match error {
            StoreError::Damaged { location, .. } | StoreError::Incomplete { location, .. } => {
                Self::new("DamagedError", message).located(&location)
            }
            StoreError::Chunk { location, pack, offset, .. }
            | StoreError::Decode { location, pack, offset, .. } => {
                let mut told = Self::new("DamagedError", message).located(&location);
                told.place.pack = Some(pack);
                told.place.offset = Some(u64::from(offset));
                told
            }
            StoreError::NoStore { location } | StoreError::NoArtifact { location, .. } => {
                Self::new("NotFoundError", message).located(&location)
            }
            StoreError::NoTensor { location, artifact, pattern, .. } => {
                let mut told = Self::new("NotFoundError", message).located(&location).of(&pattern);
                told.place.artifact = Some(artifact.to_hex());
                told
            }
            StoreError::Trust(own) => own.into(),
            StoreError::Transport(own) => own.into(),
            _ => Self::new("TenpakError", message),
        }
    }
}

impl From<LoadError> for Told {
    fn from(error: LoadError) -> Self {
        let class = match error.kind() {
            // A pack that a layout names is missing: the store is damaged.
            ErrorKind::NotFound | ErrorKind::Verification => "DamagedError",
            ErrorKind::Network => "NetworkError",
            _ => "TenpakError",
        };
        let told = Self::new(class, with_causes(&error));
        match &error {
            LoadError::Corrupt { site, location, .. } => {
                let message = format!("{}; verify the store, or name a mirror", told.message);
                Self { message, ..told }.at(site).located(location)
            }
            LoadError::Hung { site, location } => told.at(site).located(location),
            LoadError::Transport { site, error } => told.at(site).located(&error.location),
            LoadError::Decode { site, .. } => told.at(site),
            _ => told,
        }
    }
}

impl From<ArtifactError> for Told {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Store(error) => error.into(),
            ArtifactError::Load(error) => error.into(),
            error => Self::new("TenpakError", error),
        }
    }
}
