//! What fails in a directory.

use std::io;

use crate::transport::TransportErrorKind;

/// What failed, before it is known for which object.
pub(super) struct Failure {
    pub kind: TransportErrorKind,
    pub message: String,
    pub cause: Option<io::Error>,
}

impl Failure {
    pub(super) fn new(kind: TransportErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), cause: None }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let (kind, message) = match error.kind() {
            io::ErrorKind::NotFound => (TransportErrorKind::NotFound, "no such object"),
            io::ErrorKind::PermissionDenied => (TransportErrorKind::Denied, "access denied"),
            io::ErrorKind::ReadOnlyFilesystem => {
                (TransportErrorKind::ReadOnly, "the file system takes no writes")
            }
            _ => (TransportErrorKind::Io, "the file system failed"),
        };
        Self { kind, message: message.to_owned(), cause: Some(error) }
    }
}

impl From<rustix::io::Errno> for Failure {
    fn from(error: rustix::io::Errno) -> Self {
        io::Error::from(error).into()
    }
}
