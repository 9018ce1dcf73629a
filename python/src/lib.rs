//! What `import tenpak` is built on: opened artifacts, loads and memory, for the Python beside it.
//!
//! Everything that waits lets other Python threads run, and ends with Ctrl-C. Whatever is written is the
//! command's work, which the package carries too.

#![warn(clippy::indexing_slicing)]

mod artifact;
mod buffer;
mod dlpack;
mod errors;
mod file;
mod runtime;
mod slice;
mod stream;

use pyo3::prelude::*;

/// The native half of `tenpak`. Its names are the package's own: import them from there.
#[pymodule]
mod _tenpak {
    #[pymodule_export]
    use super::artifact::{Opened, open};
    #[pymodule_export]
    use super::buffer::Buffer;
    #[pymodule_export]
    use super::stream::Stream;

    /// The version of the library.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
