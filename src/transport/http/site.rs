//! Which object of which server a request is about.

use std::sync::Arc;

use crate::transport::{TransportError, TransportErrorKind};

/// What an error has to name.
#[derive(Clone)]
pub(super) struct Site {
    pub location: Arc<str>,
    pub object: Arc<str>,
}

impl Site {
    pub(super) fn error(
        &self,
        kind: TransportErrorKind,
        message: impl Into<String>,
    ) -> TransportError {
        TransportError::new(kind, &*self.location, &self.object, message)
    }
}
