//! What an edge cannot be made of, and why it ends.

use std::io;
use std::path::PathBuf;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EdgeError {
    /// The system gives no more connections.
    #[error("cannot accept connections")]
    Accept(#[source] io::Error),
    /// Traces cannot be sent.
    #[error("cannot set up the client of the collector of traces")]
    Traces(#[source] io::Error),
    /// The folder of the cache cannot be used.
    #[error("{}: {source}; name another --cache-dir", folder.display())]
    Cache {
        /// The folder.
        folder: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}
